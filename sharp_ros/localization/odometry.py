"""Visual odometry of one camera whose images come with predicted depth.

Features of a keyframe get their structure from its depth. Later images are tracked against that
keyframe with optical flow, which yields the pose by PnP; when the view has moved on, the image at
hand becomes the next keyframe. Two things keep the noise of predicted depth out of the path:
parallax refines the depth of every feature, and a new keyframe's depth is brought to the scale
that the features have already, while the scale as a whole follows the mean of the depth of many
places.

One module, since all of it reads and writes one state: which keyframe, its structure, the scale
and the motion. Finding features in images is in `tracks`, the pose from them in `pnp`, what is
saved in `odometry_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import logging
from typing import Literal

import numpy as np

from sharp_ros.camera import check_rgbd_size, Intrinsics
from sharp_ros.config import OdometryConfig
from sharp_ros.localization.gravity import level_from_depth
from sharp_ros.localization.odometry_state import (
    Keyframe,
    keyframes_from,
    state_of,
    WOBBLE_FRAMES,
)
from sharp_ros.localization.pnp import cross, image_jacobian, project, ransac, refined
from sharp_ros.mapping.stored import stored_array
from sharp_ros.se3 import angle_of_trace, interpolate, inverse, transform
from sharp_ros.tracks import (
    corners,
    depth_at,
    Descriptors,
    followed,
    rescaled,
    shown,
    shrunk,
    to_gray,
    Tracks,
)

_log = logging.getLogger(__name__)

_TRIANGULATION_PX = 1.0  # with the error of the pose, which all features share
_RANSAC_PX = 4.0  # twice what noise of the depth does at the parallax of a new keyframe
_MAX_SPREAD = 0.1  # relative, of that depth; beyond, the feature lies on an edge
_SURVIVORS = 0.6  # with fewer of its features left, a keyframe is replaced
_SCALE_SIGMA = 0.2  # relative, of one depth image, until more are seen
_OWN_SIGMA = 0.05  # likewise without what others of its place get wrong alike
_SCALE_DRIFT = 0.006  # relative, of the structure from keyframe to keyframe
_A_PLACE = 4  # keyframes, after which depth images are wrong in another way
_MAX_EXTRAPOLATION = 3.0  # steps; after a longer gap the motion is unknown
_RELOCALISE_PX = 6.0  # ORB finds places on a coarser grid
_KEYFRAMES_A_FRAME = 2  # that are searched while lost, to stay within the time of a frame
_OPTICAL_IN_LEVEL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


@dataclass(frozen=True)
class Motion:
    """What one image says about the camera.

    Attributes:
        T_odom_camera: [4, 4] pose, or None while starting or lost. `odom` is z up and x ahead,
            with its origin on the floor below the first camera as far as its depth shows a floor,
            else the first camera is taken to be level and at the origin; `move_world` corrects
            that guess.
        covariance: [6, 6] of x y z and of the rotation about the axes of odom, m² and rad²; it
            grows from keyframe to keyframe.
        state: `starting` before the first image with texture and depth, `recovered` for the first
            pose after `lost`.
        inliers: features that agree with the pose.
        tracked: features found in the image.
        keyframe: whether the image became a keyframe.
        tracks: the inliers, or None without a pose.
    """

    T_odom_camera: np.ndarray | None
    covariance: np.ndarray | None
    state: Literal['starting', 'tracking', 'lost', 'recovered']
    inliers: int = 0
    tracked: int = 0
    keyframe: bool = False
    tracks: Tracks | None = None


@dataclass(frozen=True)
class _Image:
    """The image at hand, in the size that features are tracked in.

    Attributes:
        stamp_ns: acquisition time, nanoseconds.
        gray: [h, w] uint8.
        intrinsics: of that; keyframes of the same camera share them.
        depth: [H, W] metres, as given.
        given: intrinsics of the image as given.
        unseen: [H, W] bool, pixels as given in which no feature may lie; None: none.
    """

    stamp_ns: int
    gray: np.ndarray
    intrinsics: Intrinsics
    depth: np.ndarray
    given: Intrinsics
    unseen: np.ndarray | None = None

    def points(self, px: np.ndarray, rho: np.ndarray) -> np.ndarray:  # [N, 2], [N] -> [N, 3]
        """Features in the optical frame, metres."""
        return self.intrinsics.unprojected(px) / rho[:, None]

    def project(
        self, T_camera_keyframe: np.ndarray, px: np.ndarray, rho: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `pnp.project`."""
        return project(T_camera_keyframe, px, rho, self.intrinsics)

    def as_given(self, px: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 2]
        """Pixels of the image as given."""
        return rescaled(px, self.intrinsics, self.given)

    def shows(self, px: np.ndarray) -> np.ndarray:  # [N, 2] -> [N] bool
        """Whether places of the image show anything but what is to be overlooked."""
        return shown(self.unseen, self.as_given(px))

    def depth_at(self, px: np.ndarray, **reach: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth of features [N] and its spread, see `depth_at`."""
        return depth_at(self.depth, self.as_given(px), **reach)


@dataclass(frozen=True)
class _Fit:
    """Pose of the image at hand in a keyframe, and the features that say so."""

    key: Keyframe
    T_camera_keyframe: np.ndarray
    covariance: np.ndarray  # [6, 6] of the camera's position and rotation, in keyframe axes
    index: np.ndarray  # [n] into the keyframe's features
    px: np.ndarray  # [n, 2]
    tracked: int


@dataclass
class _Place:
    """By what factor all depth images of one place are wrong alike, and what is known of it.

    Attributes:
        variance: of its log.
        shared: covariance with the log scale of the structure. At first they are one: the
            structure is as wrong as the depth that it was made from.
        bias: log of it.
    """

    variance: float
    shared: float = field(init=False)
    bias: float = 0.0

    def __post_init__(self) -> None:
        self.shared = self.variance

    def measured(self, of_scale: float, ratio: float, noise: float) -> tuple[float, float]:
        """Learn from a depth image.

        Args:
            of_scale: variance of the log scale of the structure.
            ratio: log of depth over structure, less `bias`.
            noise: variance of what the image gets wrong for itself.

        Returns:
            By what share of `ratio` the structure is to be drawn, and what the variance of its log
            scale grows by, beside what remains of it: (1 - share)^2.
        """
        total = of_scale - 2 * self.shared + self.variance + noise
        gain, learnt = (of_scale - self.shared) / total, (self.variance - self.shared) / total
        added = gain**2 * (self.variance + noise) + 2 * gain * (1 - gain) * self.shared
        self.bias += learnt * ratio
        self.shared += gain * learnt * total
        self.variance -= learnt**2 * total
        return gain, added

    def move_on(self, variance: float) -> None:
        """A keyframe later this is partly another place; `variance` is that of any."""
        kept = np.exp(-1 / _A_PLACE)
        self.bias *= kept
        self.shared *= kept
        self.variance = kept**2 * self.variance + (1 - kept**2) * variance


class VisualOdometry:
    """Where the camera is, image by image.

    The same images give the same poses. Images may be skipped; what counts is that the next one
    still shows half of the keyframe. While lost, keyframes are searched for the image at hand, and
    the first that fits continues the path in the same odom frame.

    Args:
        config: see `OdometryConfig`.
        place_std: of the log of the factor by which all depth images of one place are wrong alike,
            as those that are predicted; 0: they are not.
    """

    def __init__(self, config: OdometryConfig, place_std: float = 0.0) -> None:
        self._config, self._place_variance = config, place_std**2
        self._descriptors = Descriptors()
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next good image is the origin of a new odom frame."""
        self._camera: Intrinsics | None = None  # of the images as they come
        self._stored: list[Keyframe] = []
        self._keyframe: Keyframe | None = None
        self._motion = Motion(None, None, 'starting')
        self._stamp_ns: int | None = None
        self._pose, self._pose_stamp_ns = np.eye(4), 0
        self._step, self._step_ns = np.eye(4), 1
        self._wobble, self._wobble_seen = _SCALE_SIGMA**2, 1
        self._place = _Place(self._place_variance)
        self._search_from = 0

    def state(self) -> dict[str, np.ndarray]:
        """The stored keyframes, copied; `restore` takes them back."""
        return state_of(self._stored, self._camera, (self._wobble, self._wobble_seen))

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back the keyframes that `state` gave, and look for the camera in them.

        The odometry is lost until an image shows one of those places.

        Raises:
            InputError: `bad_map` if they are damaged; nothing is then changed.
        """
        stamps = stored_array(state, 'stamp_ns', np.int64, (None,))
        if not len(stamps):
            self.reset()
            return
        given, wobble, keyframes = keyframes_from(state, stamps)
        self.reset()
        self._camera = given
        self._wobble, self._wobble_seen = float(wobble[0]), round(wobble[1])
        self._stored = keyframes
        while len(self._stored) > self._config.keyframes:
            del self._stored[_most_redundant([key.T_odom_camera for key in self._stored])]
        self._keyframe = self._stored[-1]
        self._motion = Motion(None, None, 'lost')

    def move_world(self, T_new_odom: np.ndarray) -> Motion:  # [4, 4]
        """Go on in another odom frame, as if it had been that from the start.

        Returns:
            That of the newest image, in the new frame.
        """
        turn = np.eye(7)
        turn[:6, :6] = np.kron(np.eye(2), T_new_odom[:3, :3])
        for key in self._stored:  # of which the one at hand is one
            key.T_odom_camera = T_new_odom @ key.T_odom_camera
            key.covariance = turn @ key.covariance @ turn.T
        self._pose = T_new_odom @ self._pose
        motion, turn = self._motion, turn[:6, :6]
        if motion.T_odom_camera is not None and motion.covariance is not None:
            pose, covariance = T_new_odom @ motion.T_odom_camera, turn @ motion.covariance @ turn.T
            self._motion = replace(motion, T_odom_camera=pose, covariance=covariance)
        return self._motion

    @property
    def camera(self) -> Intrinsics | None:
        """Of the images so far, or of the keyframes that were taken back."""
        return self._camera

    @property
    def stamp_ns(self) -> int | None:
        """Of the newest image, or None before the first."""
        return self._stamp_ns

    def register_frame(
        self,
        image: np.ndarray,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        stamp_ns: int,
        T_level_camera: np.ndarray | None = None,
        unseen: np.ndarray | None = None,
        gray: np.ndarray | None = None,
    ) -> Motion:
        """Pose of the camera at an image.

        An image of the same stamp as the last is ignored; an earlier stamp or another camera
        starts over. Depth is only needed for keyframes: without it tracking ends when the view has
        moved on.

        Args:
            image: [H, W, 3] uint8 RGB, rectified.
            depth: [H, W] z-depth in metres; 0 and non-finite mean no measurement.
            intrinsics: of that image.
            stamp_ns: acquisition time, nanoseconds.
            T_level_camera: [4, 4] in a level frame, of which the first one becomes odom; None:
                a guess, by the depth of the first image.
            unseen: [H, W] bool, pixels in which no feature may lie; None: none.
            gray: [H, W] uint8, the image in gray, where it was made before.

        Raises:
            InputError: `size_mismatch` if image, depth and intrinsics do not fit together.
        """
        check_rgbd_size(image, depth, intrinsics)
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            back = (self._stamp_ns - stamp_ns) / 1e9
            _log.warning('time went back by %.3f s; visual odometry starts over', back)
            self.reset()
        if self._camera is not None and intrinsics != self._camera:
            _log.warning('the camera changed to %s; visual odometry starts over', intrinsics)
            self.reset()
        if stamp_ns == self._stamp_ns:
            return self._motion
        self._stamp_ns, self._camera = stamp_ns, intrinsics
        small = shrunk(intrinsics)
        gray = to_gray(image if gray is None else gray, small)
        at_hand = _Image(stamp_ns, gray, small, depth, intrinsics, unseen)
        self._motion = self._advance(at_hand, T_level_camera)
        return self._motion

    def _advance(self, image: _Image, level: np.ndarray | None) -> Motion:
        """One step of the state machine: start, track, or find back."""
        if self._keyframe is None:
            return self._start(image, level)
        fit = None
        lost = self._motion.state == 'lost'
        if not lost:
            fit = self._track(self._keyframe, image, self._predicted(self._keyframe, image))
            if fit is not None and self._too_fast(fit, image):
                fit = None
        if fit is None:
            self._search_from = self._search_from if lost else 0
            fit = self._relocalise(image)
            if fit is None:
                return Motion(None, None, 'lost')
            lost = True
        return self._accept(fit, image, 'recovered' if lost else 'tracking')

    def _start(self, image: _Image, level: np.ndarray | None) -> Motion:
        if level is None:
            level = level_from_depth(image.depth, image.given)
        if level is None:
            level = transform(_OPTICAL_IN_LEVEL, np.zeros(3))
        covariance = np.zeros((7, 7))
        own = _OWN_SIGMA if self._place_variance else _SCALE_SIGMA
        covariance[6, 6] = self._place_variance + own**2
        key = self._add_keyframe(image, level, covariance)
        if key is None:
            return Motion(None, None, 'starting')
        self._pose, self._pose_stamp_ns = level, image.stamp_ns
        count = len(key.px)
        return Motion(level, covariance[:6, :6], 'tracking', count, count, keyframe=True)

    def _accept(self, fit: _Fit, image: _Image, state: Literal['tracking', 'recovered']) -> Motion:
        """Take over a pose, and what it says about scale; make a keyframe where one is due."""
        if state == 'recovered':  # with the structure of another place
            self._place = _Place(min(self._place_variance, fit.key.covariance[6, 6]))
        fit = self._scaled(fit, image)
        key = self._keyframe = fit.key
        T_keyframe_camera = inverse(fit.T_camera_keyframe)
        pose = key.T_odom_camera @ T_keyframe_camera
        covariance = _chained(key, T_keyframe_camera, fit.covariance)
        tracks = Tracks(
            key.stamp_ns,
            image.as_given(key.px[fit.index]),
            image.as_given(fit.px),
            T_keyframe_camera,
        )
        if state == 'tracking':
            self._step = inverse(self._pose) @ pose
            self._step_ns = image.stamp_ns - self._pose_stamp_ns
        else:
            self._step, self._step_ns = np.eye(4), 1
        self._pose, self._pose_stamp_ns = pose, image.stamp_ns
        keyframe = None
        if self._moved_on(fit, image):
            keyframe = self._add_keyframe(image, pose, covariance, fit)
        agreed, added = len(fit.index), keyframe is not None
        return Motion(pose, covariance[:6, :6], state, agreed, fit.tracked, added, tracks)

    def _predicted(self, key: Keyframe, image: _Image) -> np.ndarray:  # -> T_camera_keyframe
        """Constant velocity."""
        steps = (image.stamp_ns - self._pose_stamp_ns) / self._step_ns
        step = interpolate(np.eye(4), self._step, steps if steps <= _MAX_EXTRAPOLATION else 0.0)
        return inverse(self._pose @ step) @ key.T_odom_camera

    def _too_fast(self, fit: _Fit, image: _Image) -> bool:
        """Whether a pose asks for more than `max_speed` since the last one."""
        pose = fit.key.T_odom_camera @ inverse(fit.T_camera_keyframe)
        duration = (image.stamp_ns - self._pose_stamp_ns) / 1e9
        moved = np.linalg.norm(pose[:3, 3] - self._pose[:3, 3])
        return bool(moved > self._config.max_speed * duration)

    def _moved_on(self, fit: _Fit, image: _Image) -> bool:
        """Whether too few features are left, or parallax blurs what the depth is good for."""
        key = fit.key
        if len(fit.index) < _SURVIVORS * len(key.px):
            return True
        turned = fit.T_camera_keyframe.copy()
        turned[:3, 3] = 0
        rotated = image.project(turned, key.px[fit.index], key.rho[fit.index])[0]
        parallax = np.median(np.linalg.norm(fit.px - rotated, axis=1))
        return bool(parallax > self._config.keyframe_parallax * image.intrinsics.width)

    def _track(self, key: Keyframe, image: _Image, guess: np.ndarray) -> _Fit | None:
        """Find a keyframe's features in an image, and the camera from them.

        Args:
            key: whose features are looked for.
            image: in which.
            guess: `T_camera_keyframe` [4, 4], good to some 40 pixels.
        """
        expected, q = image.project(guess, key.px, key.rho)
        start = np.where(q[:, 2:] > 0, expected, key.px).astype(np.float32)
        px, found = followed(key.gray, image.gray, key.px, start)
        found &= image.shows(px)
        index, enough = np.flatnonzero(found), self._config.min_inliers
        if len(index) < enough:
            return None
        source, rho, px = key.px[index], key.rho[index], px[index]
        coarse = ransac(image.points(source, rho), px, image.intrinsics, _RANSAC_PX, enough)
        if coarse is None:
            return None
        features = (source, rho, key.variance[index])
        fit = refined(coarse, features, px, image.intrinsics, enough)
        if fit is None:
            return None
        T, covariance, good = fit
        return _Fit(key, T, covariance, index[good], px[good], len(index))

    def _scaled(self, fit: _Fit, image: _Image) -> _Fit:
        """Draw keyframe and fit towards the mean scale of the depth images, around the camera.

        A Kalman filter over two logs: of the structure's scale, to which each keyframe adds a
        little drift, and of what depth images get wrong in this place (`_Place`). Each depth image
        measures the difference with its own wobble, whose variance is estimated alongside. So only
        many places tell metres; as many images of one as you like tell what they agree on.
        """
        key = fit.key
        _, q = image.project(fit.T_camera_keyframe, key.px[fit.index], key.rho[fit.index])
        given, _ = image.depth_at(fit.px, reach=0)
        ratio = np.log(given * key.rho[fit.index] / q[:, 2])
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) < self._config.min_inliers:
            return fit
        ratio = float(np.median(ratio)) - self._place.bias
        self._wobble_seen = min(self._wobble_seen + 1, WOBBLE_FRAMES)
        self._wobble += (ratio**2 - self._wobble) / self._wobble_seen
        gain, added = self._place.measured(key.covariance[6, 6], ratio, self._wobble)
        factor = np.exp(gain * ratio)
        key.rho = key.rho / factor
        key.variance = key.variance / factor**2
        offset = key.T_odom_camera[:3, :3] @ inverse(fit.T_camera_keyframe)[:3, 3]
        key.T_odom_camera = key.T_odom_camera.copy()
        key.T_odom_camera[:3, 3] -= (factor - 1) * offset
        change, noise = np.eye(7), np.zeros(7)
        change[:3, 6], change[6, 6] = gain * offset, 1 - gain
        noise[:3], noise[6] = -offset, 1
        key.covariance = change @ key.covariance @ change.T
        key.covariance += added * np.outer(noise, noise)
        T_camera_keyframe = fit.T_camera_keyframe.copy()
        T_camera_keyframe[:3, 3] *= factor
        return replace(fit, T_camera_keyframe=T_camera_keyframe)

    def _add_keyframe(
        self,
        image: _Image,
        pose: np.ndarray,
        covariance: np.ndarray,
        fit: _Fit | None = None,
    ) -> Keyframe | None:
        """Make the image a keyframe, keeping the features in `fit`; None if it is not fit."""
        px, rho, variance, log_scale = np.empty((0, 2)), np.empty(0), np.empty(0), 0.0
        if fit is not None:
            px = fit.px
            rho, variance = _carried(fit, image)
            given, spread = image.depth_at(px)
            known = spread < _MAX_SPREAD
            if known.sum() < self._config.min_inliers:
                return None
            log_scale = float(np.median(np.log(given[known] * rho[known])))
        new = corners(image.gray, px, self._config.features)
        new_depth, spread = image.depth_at(new)
        usable = (spread < _MAX_SPREAD) & image.shows(new)
        new_rho = np.exp(log_scale) / new_depth[usable]
        new_variance = new_rho**2 * (self._config.depth_sigma**2 + spread[usable] ** 2)
        px = np.concatenate([px, new[usable]]).astype(np.float32)
        if len(px) < self._config.min_inliers:
            return None
        covariance = covariance + np.diag([0.0] * 6 + [_SCALE_DRIFT**2])
        if fit is not None:
            self._place.move_on(self._place_variance)
        orb_px, descriptors = self._descriptors.of(image.gray)
        orb_depth, spread = image.depth_at(orb_px)
        known = (spread < _MAX_SPREAD) & image.shows(orb_px)
        self._keyframe = key = Keyframe(
            stamp_ns=image.stamp_ns,
            gray=image.gray,
            T_odom_camera=pose,
            covariance=covariance,
            px=px,
            rho=np.concatenate([rho, new_rho]),
            variance=np.concatenate([variance, new_variance]),
            orb=(
                image.points(orb_px[known], np.exp(log_scale) / orb_depth[known]),
                descriptors[known],
            ),
        )
        self._stored.append(key)
        if len(self._stored) > self._config.keyframes:
            del self._stored[_most_redundant([key.T_odom_camera for key in self._stored])]
        return key

    def _relocalise(self, image: _Image) -> _Fit | None:
        """Look for the image in some of the stored keyframes.

        Binary descriptors give a rough pose, which optical flow from the keyframe must confirm.
        """
        px, descriptors = self._descriptors.of(image.gray)
        shows = image.shows(px)
        px, descriptors = px[shows], descriptors[shows]
        for _ in range(min(_KEYFRAMES_A_FRAME, len(self._stored))):
            self._search_from = (self._search_from - 1) % len(self._stored)
            key = self._stored[self._search_from]
            points, known = key.orb
            if min(len(descriptors), len(known)) < self._config.min_inliers:
                continue
            pairs = self._descriptors.matched(known, descriptors)
            if len(pairs) < self._config.min_inliers:
                continue
            ours, theirs = pairs.T
            guess = ransac(
                points[ours],
                px[theirs],
                image.intrinsics,
                _RELOCALISE_PX,
                self._config.min_inliers,
            )
            fit = None if guess is None else self._track(key, image, guess)
            if fit is not None:
                return fit
        return None


def _carried(fit: _Fit, image: _Image) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth [n] of the features in the current camera, and its variance.

    What the features' images say along their epipolar lines is joined with what was known.
    """
    key, T = fit.key, fit.T_camera_keyframe
    rho, variance = key.rho[fit.index], key.variance[fit.index]
    expected, q = image.project(T, key.px[fit.index], rho)
    g = image_jacobian(q, image.intrinsics) @ T[:3, 3]
    information = (g * g).sum(1) / _TRIANGULATION_PX**2
    variance = 1 / (1 / variance + information)
    rho = rho + variance * (g * (fit.px - expected)).sum(1) / _TRIANGULATION_PX**2
    _, q = image.project(T, key.px[fit.index], rho)
    # rho_camera = rho / q_z with q_z = c + rho t_z, hence d rho_camera / d rho = c / q_z^2
    slope = (q[:, 2] - rho * T[2, 3]) / q[:, 2] ** 2
    rho = rho / q[:, 2]
    return rho, variance * slope**2


def _chained(key: Keyframe, T_keyframe_camera: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """[7, 7] covariance of the camera in odom from the keyframe's and that of their difference.

    An error of the keyframe's rotation swings the camera around the keyframe, one of the scale
    moves it along the line between them.
    """
    rotation = key.T_odom_camera[:3, :3]
    offset = rotation @ T_keyframe_camera[:3, 3]
    lever = np.eye(7)
    lever[:3, 3:6], lever[:3, 6] = -cross(offset), offset
    covariance = lever @ key.covariance @ lever.T
    turn = np.kron(np.eye(2), rotation)
    covariance[:6, :6] += turn @ relative @ turn.T
    return covariance


def _most_redundant(poses: list[np.ndarray]) -> int:
    """Index of the pose, the newest excepted, that is nearest to another; 1 rad counts as 2 m."""
    T = np.stack(poses)
    apart = np.linalg.norm(T[:, None, :3, 3] - T[:, :3, 3], axis=-1)
    trace = np.einsum('aij,bij->ab', T[:, :3, :3], T[:, :3, :3])  # of R_a^T R_b, all at once
    apart += 2 * angle_of_trace(trace)
    np.fill_diagonal(apart, np.inf)
    return int(apart[:-1].min(1).argmin())
