"""Visual odometry of one camera whose images come with predicted depth.

Features of a keyframe get their structure from its depth. Later images are tracked against that
keyframe with optical flow, which yields the pose by PnP; when the view has moved on, the image at
hand becomes the next keyframe. Two things keep the noise of predicted depth out of the path:
parallax refines the depth of every feature, and a new keyframe's depth is brought to the scale
that the features have already, while the scale as a whole follows the mean of many depth images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import logging
from typing import Literal

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import OdometryConfig
from sharp_ros.errors import InputError
from sharp_ros.localization.gravity import level_from_depth
from sharp_ros.mapping.stored import bad_map, stored_array, stored_poses
from sharp_ros.se3 import interpolate, inverse, transform

_log = logging.getLogger(__name__)

_WIDTH = 640  # pixels; more would only cost time
_WINDOW, _LEVELS = 11, 3  # of the optical flow: it finds features up to 40 pixels off
_RETURN_LEVELS = 1  # the way back begins where it ought to end
_RETURN_PX = 0.7  # a feature tracked forth and back ends at most so far from where it began
_SIGMA_PX = 0.5  # of a tracked feature
_ALIKE = 3.0  # so many neighbouring features err alike and count as one in the covariance
_TRIANGULATION_PX = 1.0  # with the error of the pose, which all features share
_AGREEING = 0.4  # share of the tracked features that must support a pose
_RANSAC_PX = 4.0  # twice what noise of the depth does at the parallax of a new keyframe
_OUTLIER_CHI2 = 9.2  # 99 % of two degrees of freedom
_TEXTURE = 3e-5  # smallest eigenvalue of a corner; noise of one grey level stays below
_DEPTH_REACH = 4  # pixels; depth of a feature is the median of 9 x 9 around it
_MAX_SPREAD = 0.1  # relative, of that depth; beyond, the feature lies on an edge
_SURVIVORS = 0.6  # with fewer of its features left, a keyframe is replaced
_SCALE_SIGMA = 0.2  # relative, of one depth image, until more are seen
_SCALE_DRIFT = 0.006  # relative, of the structure from keyframe to keyframe
_WOBBLE_FRAMES = 30  # over which the variance of the depth's scale is averaged
_MAX_EXTRAPOLATION = 3.0  # steps; after a longer gap nobody knows how the camera moved
_ORB_FEATURES = 500
_ORB_DISTANCE = 64  # of 256 bits
_RELOCALISE_PX = 6.0  # ORB finds places on a coarser grid
_KEYFRAMES_A_FRAME = 2  # that are searched while lost, to stay within the time of a frame
_OPTICAL_IN_LEVEL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


@dataclass(frozen=True)
class Tracks:
    """What parallax tells about scale: features of the last keyframe that are still tracked.

    Attributes:
        keyframe_stamp_ns: of the keyframe.
        keyframe_px: [N, 2] places in the keyframe, pixels of the image as given.
        now_px: [N, 2] places in the current image.
        keyframe_depth: [N] z-depth at the keyframe as given, metres; NaN where there was none.
        T_keyframe_camera: [4, 4] as estimated, in the scale of the odometry.
    """

    keyframe_stamp_ns: int
    keyframe_px: np.ndarray
    now_px: np.ndarray
    keyframe_depth: np.ndarray
    T_keyframe_camera: np.ndarray


@dataclass(frozen=True)
class Motion:
    """What one image told about the camera.

    Attributes:
        T_odom_camera: [4, 4] pose, or None while starting or lost. `odom` is z up and x ahead,
            with its origin on the floor below the first camera as far as depth shows a floor; else
            the first camera is taken to be level and at the origin.
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


@dataclass
class _Keyframe:
    """An image, where it was taken, and features with a Gaussian over inverse depth."""

    stamp_ns: int
    gray: np.ndarray  # [H, W]
    T_odom_camera: np.ndarray
    covariance: np.ndarray  # [7, 7] as in Motion, and of the log of the structure's scale
    px: np.ndarray  # [N, 2] float32
    rho: np.ndarray  # [N] 1/m
    variance: np.ndarray  # [N] of rho
    given: np.ndarray  # [N] metres, as the depth image had it
    orb: tuple[np.ndarray, np.ndarray]  # points [M, 3] in its camera, descriptors [M, 32]


@dataclass(frozen=True)
class _Fit:
    """Pose of the current image in a keyframe, and the features that say so."""

    T_camera_keyframe: np.ndarray
    covariance: np.ndarray  # [6, 6] of the camera's position and rotation, in keyframe axes
    index: np.ndarray  # [n] into the keyframe's features
    px: np.ndarray  # [n, 2]
    tracked: int


class VisualOdometry:
    """Where the camera is, image by image.

    The same images give the same poses. Images may be skipped; what counts is that the next one
    still shows half of the keyframe. While lost, keyframes are searched for the image at hand, and
    the first that fits continues the path in the same odom frame.

    Args:
        config: see `OdometryConfig`.
    """

    def __init__(self, config: OdometryConfig) -> None:
        self._config = config
        self._orb = cv2.ORB_create(_ORB_FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next good image is the origin of a new odom frame."""
        self._given: Intrinsics | None = None  # of the images as they come
        self._stored: list[_Keyframe] = []
        self._keyframe: _Keyframe | None = None
        self._motion = Motion(None, None, 'starting')
        self._stamp_ns: int | None = None
        self._pose, self._pose_stamp_ns = np.eye(4), 0
        self._step, self._step_ns = np.eye(4), 1
        self._wobble, self._wobble_seen = _SCALE_SIGMA**2, 1
        self._search_from = 0

    def state(self) -> dict[str, np.ndarray]:
        """The stored keyframes, copied; `restore` takes them back."""
        keys, given = self._stored, self._given
        state = {'stamp_ns': np.array([key.stamp_ns for key in keys], np.int64)}
        if not keys:
            return state
        camera = [given.fx, given.fy, given.cx, given.cy, given.width, given.height]
        state['camera'] = np.array(camera, np.float64)
        state['wobble'] = np.array([self._wobble, self._wobble_seen], np.float64)
        for name in ('gray', 'T_odom_camera', 'covariance'):
            state[name] = np.stack([getattr(key, name) for key in keys])
        for name in ('px', 'rho', 'variance', 'given'):
            state[name] = np.concatenate([getattr(key, name) for key in keys])
        for name, part in zip(('orb_points', 'orb_descriptors'), (0, 1), strict=True):
            state[name] = np.concatenate([key.orb[part] for key in keys])
        state['given'] = np.nan_to_num(state['given'])
        state['features'] = np.array([len(key.px) for key in keys], np.int64)
        state['orb'] = np.array([len(key.orb[1]) for key in keys], np.int64)
        return state

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
        given, wobble, keyframes = _keyframes_from(state, stamps)
        self.reset()
        self._given, self._intrinsics = given, _shrunk(given)
        self._wobble, self._wobble_seen = float(wobble[0]), round(wobble[1])
        self._stored = keyframes
        while len(self._stored) > self._config.keyframes:
            del self._stored[_most_redundant([key.T_odom_camera for key in self._stored])]
        self._keyframe = self._stored[-1]
        self._motion = Motion(None, None, 'lost')

    @property
    def camera(self) -> Intrinsics | None:
        """Of the images so far, or of the keyframes that were taken back."""
        return self._given

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
                as the depth shows the floor.

        Raises:
            InputError: `size_mismatch` if image, depth and intrinsics do not fit together.
        """
        size = (intrinsics.height, intrinsics.width)
        if image.dtype != np.uint8 or image.shape != (*size, 3) or depth.shape != size:
            raise InputError(
                f'odometry got a {image.dtype} image {image.shape} with depth {depth.shape}; both '
                f'must be of {size} as the intrinsics say',
                'size_mismatch',
            )
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            back = (self._stamp_ns - stamp_ns) / 1e9
            _log.warning('time went back by %.3f s; visual odometry starts over', back)
            self.reset()
        if self._given is not None and intrinsics != self._given:
            _log.warning('the camera changed to %s; visual odometry starts over', intrinsics)
            self.reset()
        if stamp_ns == self._stamp_ns:
            return self._motion
        self._stamp_ns, self._given = stamp_ns, intrinsics
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        self._intrinsics = _shrunk(intrinsics)
        size = (self._intrinsics.width, self._intrinsics.height)
        if size != gray.shape[::-1]:
            gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        self._motion = self._advance(gray, depth, stamp_ns, T_level_camera)
        return self._motion

    def _advance(
        self, gray: np.ndarray, depth: np.ndarray, stamp_ns: int, level: np.ndarray | None
    ) -> Motion:
        """One step of the state machine: start, track, or find back."""
        if self._keyframe is None:
            return self._start(gray, depth, stamp_ns, level)
        fit = None
        lost = self._motion.state == 'lost'
        if not lost:
            fit = self._track(self._keyframe, gray, self._predicted(stamp_ns))
            if fit is not None and self._too_fast(fit, stamp_ns):
                fit = None
        if fit is None:
            self._search_from = self._search_from if lost else 0
            fit = self._relocalise(gray)
            if fit is None:
                return Motion(None, None, 'lost')
            lost = True
        return self._accept(fit, gray, depth, stamp_ns, 'recovered' if lost else 'tracking')

    def _start(
        self, gray: np.ndarray, depth: np.ndarray, stamp_ns: int, level: np.ndarray | None
    ) -> Motion:
        if level is None:
            level = level_from_depth(depth, self._given)
        if level is None:
            level = transform(_OPTICAL_IN_LEVEL, np.zeros(3))
        covariance = np.zeros((7, 7))
        covariance[6, 6] = _SCALE_SIGMA**2
        if not self._add_keyframe(gray, depth, stamp_ns, level, covariance):
            return Motion(None, None, 'starting')
        self._pose, self._pose_stamp_ns = level, stamp_ns
        count = len(self._keyframe.px)
        return Motion(level, covariance[:6, :6], 'tracking', count, count, keyframe=True)

    def _accept(
        self,
        fit: _Fit,
        gray: np.ndarray,
        depth: np.ndarray,
        stamp_ns: int,
        state: Literal['tracking', 'recovered'],
    ) -> Motion:
        """Take over a pose, and what it says about scale; make a keyframe where one is due."""
        fit = self._scaled(fit, depth)
        key = self._keyframe
        T_keyframe_camera = inverse(fit.T_camera_keyframe)
        pose = key.T_odom_camera @ T_keyframe_camera
        covariance = _chained(key, T_keyframe_camera, fit.covariance)
        tracks = Tracks(
            key.stamp_ns,
            self._unshrunk(key.px[fit.index]),
            self._unshrunk(fit.px),
            key.given[fit.index],
            T_keyframe_camera,
        )
        if state == 'tracking':
            self._step, self._step_ns = inverse(self._pose) @ pose, stamp_ns - self._pose_stamp_ns
        else:
            self._step, self._step_ns = np.eye(4), 1
        self._pose, self._pose_stamp_ns = pose, stamp_ns
        keyframe = False
        if self._moved_on(fit):
            keyframe = self._add_keyframe(gray, depth, stamp_ns, pose, covariance, fit)
        return Motion(
            pose, covariance[:6, :6], state, len(fit.index), fit.tracked, keyframe, tracks
        )

    def _predicted(self, stamp_ns: int) -> np.ndarray:  # -> T_camera_keyframe
        """Constant velocity."""
        steps = (stamp_ns - self._pose_stamp_ns) / self._step_ns
        step = interpolate(np.eye(4), self._step, steps if steps <= _MAX_EXTRAPOLATION else 0.0)
        return inverse(self._pose @ step) @ self._keyframe.T_odom_camera

    def _too_fast(self, fit: _Fit, stamp_ns: int) -> bool:
        pose = self._keyframe.T_odom_camera @ inverse(fit.T_camera_keyframe)
        duration = (stamp_ns - self._pose_stamp_ns) / 1e9
        moved = np.linalg.norm(pose[:3, 3] - self._pose[:3, 3])
        return bool(moved > self._config.max_speed * duration)

    def _moved_on(self, fit: _Fit) -> bool:
        """Whether too few features are left, or parallax blurs what the depth is good for."""
        key = self._keyframe
        if len(fit.index) < _SURVIVORS * len(key.px):
            return True
        turned = fit.T_camera_keyframe.copy()
        turned[:3, 3] = 0
        rotated = self._project(turned, key.px[fit.index], key.rho[fit.index])[0]
        parallax = np.median(np.linalg.norm(fit.px - rotated, axis=1))
        return bool(parallax > self._config.keyframe_parallax * self._intrinsics.width)

    def _track(self, key: _Keyframe, gray: np.ndarray, guess: np.ndarray) -> _Fit | None:
        """Find a keyframe's features in an image, and the camera from them.

        Args:
            key: whose features are looked for.
            gray: [H, W] the image.
            guess: `T_camera_keyframe` [4, 4], good to some 40 pixels.
        """
        expected, q = self._project(guess, key.px, key.rho)
        start = np.where(q[:, 2:] > 0, expected, key.px).astype(np.float32)
        px, found = _flow(key.gray, gray, key.px, start)
        back, returned = _flow(gray, key.gray, px, key.px, _RETURN_LEVELS)
        high, wide = gray.shape
        inside = ((px >= 0) & (px <= (wide - 1, high - 1))).all(1)
        ok = found & returned & inside & (np.linalg.norm(back - key.px, axis=1) < _RETURN_PX)
        index = np.flatnonzero(ok)
        if len(index) < self._config.min_inliers:
            return None
        coarse = self._ransac(self._points(key.px[index], key.rho[index]), px[index], _RANSAC_PX)
        return None if coarse is None else self._refine(key, index, px[index], coarse)

    def _ransac(self, points: np.ndarray, px: np.ndarray, gate: float) -> np.ndarray | None:
        """`T_camera_points` [4, 4] that most of points [N, 3] and their images [N, 2] agree on."""
        cv2.setRNGSeed(0)
        ok, rvec, tvec, inliers = cv2.solvePnPRansac(
            points,
            px.astype(np.float64),
            self._intrinsics.matrix,
            None,
            iterationsCount=200,
            reprojectionError=gate,
            confidence=0.999,
            flags=cv2.SOLVEPNP_AP3P,
        )
        if not ok or inliers is None or len(inliers) < self._config.min_inliers:
            return None
        inliers = inliers[:, 0]
        rvec, tvec = cv2.solvePnPRefineLM(
            points[inliers],
            px[inliers].astype(np.float64),
            self._intrinsics.matrix,
            None,
            rvec,
            tvec,
        )
        return transform(cv2.Rodrigues(rvec)[0], tvec[:, 0])

    def _refine(
        self, key: _Keyframe, index: np.ndarray, px: np.ndarray, T: np.ndarray
    ) -> _Fit | None:
        """Most likely pose, given how uncertain each feature's depth is.

        Depth moves a feature along its epipolar line g only, so its image has the covariance
        S = sigma² I + var g g'; S is inverted by Sherman and Morrison's formula. Gauss-Newton
        with Cauchy weights.
        """
        rho, variance = key.rho[index], key.variance[index]
        for _ in range(6):
            expected, q = self._project(T, key.px[index], rho)
            D = self._image_jacobian(q)
            J = np.concatenate([D * rho[:, None, None], -D @ _cross(q)], 2)  # [n, 2, 6]
            residual = px - expected
            g = D @ T[:3, 3]
            k = variance / (_SIGMA_PX**2 + variance * (g * g).sum(1))
            along = (g * residual).sum(1)
            chi2 = ((residual**2).sum(1) - k * along**2) / _SIGMA_PX**2
            weight = 1 / (1 + chi2 / _OUTLIER_CHI2) / _SIGMA_PX**2
            Jg = np.einsum('nij,ni->nj', J, g)
            H = np.einsum('n,nij,nik->jk', weight, J, J) - (Jg.T * (weight * k)) @ Jg
            b = np.einsum('n,nij,ni->j', weight, J, residual) - Jg.T @ (weight * k * along)
            step = np.linalg.solve(H + 1e-9 * np.diag(np.diag(H)), b)
            T = transform(cv2.Rodrigues(step[3:])[0], step[:3]) @ T
            if np.abs(step).max() < 1e-6:
                break
        good = chi2 < _OUTLIER_CHI2
        count = int(good.sum())
        if count < max(self._config.min_inliers, _AGREEING * len(good)):
            return None
        # The more the residuals exceed the model, and the fewer features, the less it is trusted.
        excess = max(1.0, float(chi2[good].mean()) / 2) * (1 + self._config.min_inliers / count)
        excess *= _ALIKE
        turn = np.kron(np.eye(2), -T[:3, :3].T)  # a step of the world, as one of the camera
        covariance = turn @ np.linalg.inv(H) @ turn.T * excess
        return _Fit(T, covariance, index[good], px[good], len(index))

    def _scaled(self, fit: _Fit, depth: np.ndarray) -> _Fit:
        """Draw keyframe and fit towards the mean scale of the depth images, around the camera.

        A Kalman filter over the log of the structure's scale: each keyframe adds a little drift,
        each depth image measures it with its own wobble, whose variance is estimated alongside.
        """
        key = self._keyframe
        _, q = self._project(fit.T_camera_keyframe, key.px[fit.index], key.rho[fit.index])
        given, _ = self._depth_at(depth, fit.px, reach=0)
        ratio = np.log(given * key.rho[fit.index] / q[:, 2])
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) < self._config.min_inliers:
            return fit
        ratio = float(np.median(ratio))
        self._wobble_seen = min(self._wobble_seen + 1, _WOBBLE_FRAMES)
        self._wobble += (ratio**2 - self._wobble) / self._wobble_seen
        gain = key.covariance[6, 6] / (key.covariance[6, 6] + self._wobble)
        factor = np.exp(gain * ratio)
        key.rho = key.rho / factor
        key.variance = key.variance / factor**2
        offset = key.T_odom_camera[:3, :3] @ inverse(fit.T_camera_keyframe)[:3, 3]
        key.T_odom_camera = key.T_odom_camera.copy()
        key.T_odom_camera[:3, 3] -= (factor - 1) * offset
        change, noise = np.eye(7), np.zeros(7)
        change[:3, 6], change[6, 6] = gain * offset, 1 - gain
        noise[:3], noise[6] = -gain * offset, gain
        key.covariance = change @ key.covariance @ change.T
        key.covariance += self._wobble * np.outer(noise, noise)
        T_camera_keyframe = fit.T_camera_keyframe.copy()
        T_camera_keyframe[:3, 3] *= factor
        return replace(fit, T_camera_keyframe=T_camera_keyframe)

    def _add_keyframe(
        self,
        gray: np.ndarray,
        depth: np.ndarray,
        stamp_ns: int,
        pose: np.ndarray,
        covariance: np.ndarray,
        fit: _Fit | None = None,
    ) -> bool:
        """Make the image a keyframe, keeping the features in `fit`; False if it is not fit."""
        px, rho, variance, log_scale = np.empty((0, 2)), np.empty(0), np.empty(0), 0.0
        if fit is not None:
            px = fit.px
            rho, variance = self._carried(fit)
            given, spread = self._depth_at(depth, px)
            known = spread < _MAX_SPREAD
            if known.sum() < self._config.min_inliers:
                return False
            log_scale = float(np.median(np.log(given[known] * rho[known])))
        new = _corners(gray, px, self._config.features)
        new_depth, spread = self._depth_at(depth, new)
        usable = spread < _MAX_SPREAD
        new_rho = np.exp(log_scale) / new_depth[usable]
        new_variance = new_rho**2 * (self._config.depth_sigma**2 + spread[usable] ** 2)
        px = np.concatenate([px, new[usable]]).astype(np.float32)
        if len(px) < self._config.min_inliers:
            return False
        covariance = covariance + np.diag([0.0] * 6 + [_SCALE_DRIFT**2])
        orb_px, descriptors = self._orb_features(gray)
        orb_depth, spread = self._depth_at(depth, orb_px)
        known = spread < _MAX_SPREAD
        self._keyframe = _Keyframe(
            stamp_ns=stamp_ns,
            gray=gray,
            T_odom_camera=pose,
            covariance=covariance,
            px=px,
            rho=np.concatenate([rho, new_rho]),
            variance=np.concatenate([variance, new_variance]),
            given=self._depth_at(depth, px)[0],
            orb=(
                self._points(orb_px[known], np.exp(log_scale) / orb_depth[known]),
                descriptors[known],
            ),
        )
        self._stored.append(self._keyframe)
        if len(self._stored) > self._config.keyframes:
            del self._stored[_most_redundant([key.T_odom_camera for key in self._stored])]
        return True

    def _carried(self, fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
        """Inverse depth [n] of the features in the current camera, and its variance.

        What the features' images say along their epipolar lines is joined with what was known.
        """
        key, T = self._keyframe, fit.T_camera_keyframe
        rho, variance = key.rho[fit.index], key.variance[fit.index]
        expected, q = self._project(T, key.px[fit.index], rho)
        g = self._image_jacobian(q) @ T[:3, 3]
        information = (g * g).sum(1) / _TRIANGULATION_PX**2
        variance = 1 / (1 / variance + information)
        rho = rho + variance * (g * (fit.px - expected)).sum(1) / _TRIANGULATION_PX**2
        _, q = self._project(T, key.px[fit.index], rho)
        # rho_camera = rho / q_z with q_z = c + rho t_z, hence d rho_camera / d rho = c / q_z^2
        slope = (q[:, 2] - rho * T[2, 3]) / q[:, 2] ** 2
        rho = rho / q[:, 2]
        return rho, variance * slope**2

    def _relocalise(self, gray: np.ndarray) -> _Fit | None:
        """Look for the image in some of the stored keyframes; the one that fits becomes current.

        Binary descriptors give a rough pose, which optical flow from the keyframe must confirm.
        """
        px, descriptors = self._orb_features(gray)
        for _ in range(min(_KEYFRAMES_A_FRAME, len(self._stored))):
            self._search_from = (self._search_from - 1) % len(self._stored)
            key = self._stored[self._search_from]
            points, known = key.orb
            if min(len(descriptors), len(known)) < self._config.min_inliers:
                continue
            pairs = [
                (match.queryIdx, match.trainIdx)
                for match in self._matcher.match(known, descriptors)
                if match.distance < _ORB_DISTANCE
            ]
            if len(pairs) < self._config.min_inliers:
                continue
            ours, theirs = np.array(pairs).T
            guess = self._ransac(points[ours], px[theirs], _RELOCALISE_PX)
            fit = None if guess is None else self._track(key, gray, guess)
            if fit is not None:
                self._keyframe = key
                return fit
        return None

    def _orb_features(self, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places [M, 2] and descriptors [M, 32]."""
        keypoints, descriptors = self._orb.detectAndCompute(gray, None)
        if not keypoints:
            return np.empty((0, 2)), np.empty((0, 32), np.uint8)
        return np.array([keypoint.pt for keypoint in keypoints]), descriptors

    def _points(self, px: np.ndarray, rho: np.ndarray) -> np.ndarray:  # -> [N, 3]
        return self._rays(px) / rho[:, None]

    def _rays(self, px: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 3], z = 1
        k = self._intrinsics
        return np.concatenate([(px - (k.cx, k.cy)) / (k.fx, k.fy), np.ones((len(px), 1))], 1)

    def _project(
        self, T_camera_keyframe: np.ndarray, px: np.ndarray, rho: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where features of a keyframe appear: pixels [N, 2], and the points times rho [N, 3]."""
        k = self._intrinsics
        q = self._rays(px) @ T_camera_keyframe[:3, :3].T + rho[:, None] * T_camera_keyframe[:3, 3]
        with np.errstate(divide='ignore', invalid='ignore'):
            return q[:, :2] / q[:, 2:] * (k.fx, k.fy) + (k.cx, k.cy), q

    def _image_jacobian(self, q: np.ndarray) -> np.ndarray:  # [N, 3] -> [N, 2, 3]
        """How the image of q moves with q, pixels."""
        k = self._intrinsics
        jacobian = np.zeros((len(q), 2, 3))
        jacobian[:, 0, 0], jacobian[:, 1, 1] = k.fx / q[:, 2], k.fy / q[:, 2]
        jacobian[:, :, 2] = -q[:, :2] / q[:, 2:] ** 2 * (k.fx, k.fy)
        return jacobian

    def _unshrunk(self, px: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 2]
        """Pixels of the image as given."""
        scale = (self._given.width, self._given.height)
        scale = np.divide(scale, (self._intrinsics.width, self._intrinsics.height))
        return (px + 0.5) * scale - 0.5

    def _depth_at(
        self, depth: np.ndarray, px: np.ndarray, reach: int = _DEPTH_REACH
    ) -> tuple[np.ndarray, np.ndarray]:
        """Median depth around features [N], and its relative spread: much on edges.

        NaN where half of the neighbours have none, infinity where a tenth has none.
        """
        x, y = np.rint(self._unshrunk(px)).astype(int).T
        around = np.arange(-reach, reach + 1)
        rows = np.clip(y[:, None, None] + around[:, None], 0, depth.shape[0] - 1)
        columns = np.clip(x[:, None, None] + around, 0, depth.shape[1] - 1)
        values = depth[rows, columns].reshape(len(px), len(around) ** 2).astype(np.float64)
        values[~(np.isfinite(values) & (values > 0))] = np.nan
        values.sort(1)  # NaN last
        last = values.shape[1] - 1
        low, middle, high = (values[:, int(part * last)] for part in (0.1, 0.5, 0.9))
        spread = 0.39 * (high - low) / middle  # the standard deviation of a normal distribution
        return middle, np.where(np.isnan(spread), np.inf, spread)


def _shrunk(intrinsics: Intrinsics) -> Intrinsics:
    """Of the image that is worked on."""
    if intrinsics.width <= _WIDTH:
        return intrinsics
    return intrinsics.resized(_WIDTH, max(1, round(intrinsics.height * _WIDTH / intrinsics.width)))


def _keyframes_from(
    state: Mapping[str, np.ndarray], stamps: np.ndarray
) -> tuple[Intrinsics, np.ndarray, list[_Keyframe]]:
    """Camera, wobble [2] and keyframes of a state, checked."""
    n = len(stamps)
    *focal, width, height = stored_array(state, 'camera', np.float64, (6,)).tolist()
    try:
        given = Intrinsics(*focal, int(width), int(height))
    except InputError as error:
        raise bad_map(f'the camera of its keyframes is none: {error}') from error
    small = _shrunk(given)
    wobble = stored_array(state, 'wobble', np.float64, (2,))
    gray = stored_array(state, 'gray', np.uint8, (n, small.height, small.width))
    poses = stored_poses(state, 'T_odom_camera', n)
    covariance = stored_array(state, 'covariance', np.float64, (n, 7, 7))
    px = stored_array(state, 'px', np.float32, (None, 2))
    rho, variance, depth = (
        stored_array(state, name, np.float64, (len(px),)) for name in ('rho', 'variance', 'given')
    )
    points = stored_array(state, 'orb_points', np.float64, (None, 3))
    descriptors = stored_array(state, 'orb_descriptors', np.uint8, (len(points), 32))
    if not ((rho > 0).all() and (variance > 0).all() and wobble[0] > 0):
        raise bad_map('the depth of its keyframes is not positive; save the map anew')
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    if (variances < 0).any() or not 1 <= wobble[1] <= _WOBBLE_FRAMES:
        raise bad_map('its odometry is not in a state it can be in; save the map anew')
    depth = np.where(depth > 0, depth, np.nan)
    counts = stored_array(state, 'features', np.int64, (n,))
    features = zip(*(_split(a, counts) for a in (px, rho, variance, depth)), strict=True)
    counts = stored_array(state, 'orb', np.int64, (n,))
    orb = zip(*(_split(a, counts) for a in (points, descriptors)), strict=True)
    parts = zip(stamps.tolist(), gray, poses, covariance, features, orb, strict=True)
    keyframes = [
        _Keyframe(stamp_ns, image, pose, spread, *of_features, of_orb)
        for stamp_ns, image, pose, spread, of_features, of_orb in parts
    ]
    return given, wobble, keyframes


def _split(array: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Rows of each keyframe."""
    if counts.min() < 0 or counts.max() > len(array) or counts.sum() != len(array):
        raise bad_map('its keyframes do not have the features they claim; save the map anew')
    return np.split(array, np.cumsum(counts)[:-1])


def _flow(
    source: np.ndarray,
    target: np.ndarray,
    px: np.ndarray,
    start: np.ndarray,
    levels: int = _LEVELS,
) -> tuple[np.ndarray, np.ndarray]:
    """Where places [N, 2] of one image are in another, looked for from `start`; and if found."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        px[:, None],
        start[:, None].copy(),
        winSize=(_WINDOW, _WINDOW),
        maxLevel=levels,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found[:, 0], status[:, 0] > 0


def _corners(gray: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:  # -> [N, 2]
    """The strongest corner of every cell of a grid that holds none of the places `taken`.

    Shi and Tomasi's measure; the grid has about `count` cells, so that features spread out.
    """
    strength = cv2.cornerMinEigenVal(gray, 5)
    margin = _WINDOW // 2
    cell = max(4, int(np.sqrt(gray.size / count)))
    rows, columns = ((side - 2 * margin) // cell for side in gray.shape)
    if rows < 1 or columns < 1:
        return np.empty((0, 2))
    window = strength[margin : margin + rows * cell, margin : margin + columns * cell]
    cells = window.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows * columns, -1)
    place = cells.argmax(1)
    free = cells.max(1) > _TEXTURE
    x, y = ((taken - margin) // cell).astype(int).T
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    free[y[inside] * columns + x[inside]] = False
    index = np.flatnonzero(free)
    x = margin + index % columns * cell + place[index] % cell
    y = margin + index // columns * cell + place[index] // cell
    return np.stack([x, y], 1).astype(np.float64)


def _chained(key: _Keyframe, T_keyframe_camera: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """[7, 7] covariance of the camera in odom from the keyframe's and that of their difference.

    An error of the keyframe's rotation swings the camera around the keyframe, one of the scale
    moves it along the line between them.
    """
    rotation = key.T_odom_camera[:3, :3]
    offset = rotation @ T_keyframe_camera[:3, 3]
    lever = np.eye(7)
    lever[:3, 3:6], lever[:3, 6] = -_cross(offset), offset
    covariance = lever @ key.covariance @ lever.T
    turn = np.kron(np.eye(2), rotation)
    covariance[:6, :6] += turn @ relative @ turn.T
    return covariance


def _cross(v: np.ndarray) -> np.ndarray:  # [..., 3] -> [..., 3, 3]
    """Matrices whose product with w is v x w."""
    out = np.zeros((*v.shape[:-1], 3, 3))
    out[..., 2, 1], out[..., 0, 2], out[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    return out - np.swapaxes(out, -1, -2)


def _most_redundant(poses: list[np.ndarray]) -> int:
    """Index of the pose, the newest excepted, that is nearest to another; 1 rad counts as 2 m."""
    T = np.stack(poses)
    apart = np.linalg.norm(T[:, None, :3, 3] - T[:, :3, 3], axis=-1)
    trace = np.einsum('aij,bij->ab', T[:, :3, :3], T[:, :3, :3])
    apart += 2 * np.arccos(np.clip((trace - 1) / 2, -1, 1))
    np.fill_diagonal(apart, np.inf)
    return int(apart[:-1].min(1).argmin())
