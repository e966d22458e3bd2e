"""Depth of a network, corrected by what recent images of a moving camera show.

A network's depth has good edges and local shape, but is wrong by smooth factors. So all here is a
correction of its logarithm on cells of a few pixels: what was known at the last image is carried
over by the motion (recursive filters of inverse depth: Engel et al., 2014; Pizzoli et al., 2014),
a plane sweep against images that were taken from elsewhere measures it anew, and a smooth field
joins both. The correction of an image as a whole is the scale of its depth: that is measured
here, too, but another filter weighs it, so that errors of poses do not add up.

One module: the steps of one image, all of which read and write what is known of the one before.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
import math

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics, project
from sharp_ros.se3 import apply, inverse, transform
from sharp_ros.stereo.alignment import align, Aligned
from sharp_ros.stereo.field import fused_field
from sharp_ros.stereo.propagation_kernels import propagate
from sharp_ros.stereo.references import Reference, References
from sharp_ros.stereo.sweep_kernels import census, posterior, sweep
from sharp_ros.stereo.time_offset import TimeOffset
from sharp_ros.stereo.timed_poses import TimedPoses
from sharp_ros.tracks import corners, followed, shown

_WIDTH = 320  # pixels of the longer side of the image that is compared
CELL = 4  # pixels of that
_LEAST_DEPTH = 0.05  # metres
_LEAST_VARIANCE = np.float32(0.01)  # of log depth that a network states, as far as believed
_CORNERS = 200
_CORNER_STEP = 0.2  # of log depth about a corner up to which it has one depth
_FRONT = 5  # samples across, in which what stands in front is looked for at larger steps
_ENOUGH_CORNERS = 60
_LEAST_CORNERS = 20
_REACH, _LABELS = 0.5, 40  # corrections that the sweep tries, either way, and their number
_BITS = 0.8  # of mean cost that make a correction e times less likely
_SWEEP_STD = 0.25  # of corrections, before anything is seen
_MEASURED = 0.1  # std of a cell up to which it counts as measured
_POSE_PX = 0.2  # what alignment leaves wrong
_SYSTEMATIC = 0.015  # likewise, of log depth
_FRESH = 0.015  # way since the last sweep, share of the depth, from which it counts in full
_WORTHWHILE = 0.5  # share of that from which images are compared again
_AT_LEAST_NS = 90_000_000  # after which they are anyway
# What the fusion does not know of its errors: they grow with those that the network states, and
# with the step of depth that a cell lies on. Chosen on three of ten sequences.
_NETWORK_SHARE, _STEP_SHARE = 0.2, 0.2
_DRIFT = 0.063  # of what is carried over, by the square root of seconds
_SURFACE = 0.5  # difference of log depth beyond which it is another surface
_JUMP = 0.5  # share of the depth; what lies farther back is of no use
_GATE = 3.0  # std at which what is carried over is distrusted
_DISTRUST = 0.1  # share of its information that is left then
_CHECKED = 80  # corners by which a step of the poses is checked
_MISSED_PX = 6.0  # median error of that from which it cannot be true
_WITNESS_NS = 1_000_000_000  # for which one image is the one that others are checked by
_DOUBT = 0.3  # std that a first such step adds
_SPREAD_CELLS = 2.0  # of a corner that moves by itself
_TRIALS = (0.4, -0.4, 0.8, -0.8, 1.2, -1.2, 1.6, -1.6)  # logarithms, see `_searched`
_TRIAL_NS = 30_000_000  # since the image before, for each of them
_NEAR = 0.2  # log of a scale from which all corners are found
_FARTHEST = 2.0  # log of a scale beyond which poses are wrong rather than a network
_FOLLOWED = 0.3  # share of a measured scale that is taken over with each image
_LONG_NS = 2_000_000_000  # after which nothing is carried over


@dataclass(frozen=True)
class MeasuredScale:
    """The scale of predicted depth as the baselines of recent images show it.

    Attributes:
        log_scale: natural logarithm of true over predicted depth, the median of the image.
        std: standard deviation of it; that of the given poses is in it.
    """

    log_scale: float
    std: float


@dataclass(frozen=True)
class Refinement:
    """What motion says about the depth of one image.

    Attributes:
        correction: [h, w] float32, of log depth of cells, around a median of 0.
        std: [h, w] float32 standard deviation of log depth then, without that of its scale.
        measured: [h, w] bool, cells in which this image was compared with others.
        scale: of the whole, or None where there is nothing to measure it by.
        poses_hold: whether nothing speaks against the poses; if not, they tell no motion.
        time_offset: of the poses from the images, as far as these turn; None while unknown.
        obstacle: short snake_case key of what prevents a measurement: `nothing_new` shortly after
            the last, `no_baseline`, `no_texture` or `poses_disagree`; empty if nothing does.
    """

    correction: np.ndarray
    std: np.ndarray
    measured: np.ndarray
    scale: MeasuredScale | None = None
    obstacle: str = ''
    poses_hold: bool = True
    time_offset: TimeOffset | None = None

    def factors(self, shape: tuple[int, ...]) -> np.ndarray:  # -> [H, W]
        """By which depth of H x W pixels is corrected, between cells bilinearly."""
        high, wide = shape
        field = cv2.resize(self.correction, (wide, high), interpolation=cv2.INTER_LINEAR)
        return np.exp(field)

    def applied(self, depth: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W]
        """Depth with its correction; no depth stays none."""
        return depth * self.factors(depth.shape)


class DepthRefiner:
    """Image after image of one camera; poses are of the optical frame, in any one world."""

    def __init__(self) -> None:
        self._references, self._poses = References(), TimedPoses()
        self._labels = np.linspace(-_REACH, _REACH, _LABELS).astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget all images and what they showed."""
        self._references.reset()
        self._poses.reset()
        self._past: _Past | None = None
        self._camera: _Camera | None = None
        self._witness: _Past | None = None  # by which poses are checked since none was aligned
        self._implausible = 0  # steps of the poses, one after the other
        self._poses_hold = True
        self._swept_at: np.ndarray | None = None  # position at the last comparison
        self._swept_ns = 0  # and when that was
        self._failures = 0  # comparisons, one after the other, in which the poses disagreed
        self._tried = 0  # factors, see `_searched`
        self._log_factor: float | None = None  # that predicted depth needed lately
        self._measured_ns = 0  # when that was compared last

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Run every step once on a pattern seen from two places, then forget it.

        Kernels are compiled here, the first time on a machine.
        """
        coarse = np.random.default_rng(0).integers(40, 200, (12, 16), np.uint8)
        size = (intrinsics.width, intrinsics.height)
        pattern = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        plane, std = np.ones(size[::-1], np.float32), np.full((2, 2), 0.2, np.float32)
        for baseline in (0.0, 0.1):  # at a distance of 1 m
            gray = np.roll(pattern, -round(baseline * intrinsics.fx), 1)
            pose = transform(np.eye(3), np.array([baseline, 0.0, 0.0]))
            self.refine(gray, intrinsics, round(1e9 * baseline), pose, plane, std)
        self.reset()

    def refine(
        self,
        gray: np.ndarray,
        intrinsics: Intrinsics,
        stamp_ns: int,
        T_world_camera: np.ndarray,
        depth: np.ndarray,
        log_std: np.ndarray,
        factor: float = 1.0,
        unseen: np.ndarray | None = None,
    ) -> Refinement:
        """Correct the depth of the newest image.

        Everything begins anew with another camera, or when time goes back.

        Args:
            gray: [H, W] uint8.
            intrinsics: of image and depth.
            stamp_ns: acquisition time, nanoseconds.
            T_world_camera: [4, 4].
            depth: [H, W] z-depth as predicted; 0 and non-finite: none.
            log_std: [m, n] standard deviation of its logarithm, edge to edge in any resolution.
            factor: that makes metres of it, as far as others know.
            unseen: [H, W] bool, pixels that are not to be compared; None: all are.
        """
        past = self._past
        turned_back = past is not None and stamp_ns < past.stamp_ns
        if self._camera is None or self._camera.given != intrinsics or turned_back:
            self.reset()
            self._camera = _Camera(intrinsics)
        log_factor = self._believed_factor(stamp_ns, factor)
        view = _View(gray, depth, log_std, log_factor, self._camera, unseen)
        self._poses.add(stamp_ns, T_world_camera)
        carried, information = self._carried_over(view, stamp_ns)
        base = fused_field(carried, information, view.log_depth, carried)
        stereo, stereo_information, aligned, obstacle = self._compared(
            view, stamp_ns, T_world_camera, base
        )
        disagrees = obstacle == 'poses_disagree' or (self._failures and obstacle == 'no_baseline')
        if disagrees:  # which baselines are of use depends on the scale, too
            found = self._searched(view, stamp_ns, T_world_camera, base)
            if found is not None:
                view = view.times(found)
                carried = information = base = np.zeros_like(base)
                stereo, stereo_information, aligned, obstacle = self._compared(
                    view, stamp_ns, T_world_camera, base
                )
        measured = stereo_information > 0
        if measured.any():
            stereo = stereo - np.float32(np.median((stereo - base)[measured]))
            variance = 1 / np.maximum(stereo_information, 1e-6) + 1 / np.maximum(information, 1e-6)
            apart = measured & (information > 0) & ((stereo - carried) ** 2 > _GATE**2 * variance)
            information = np.where(apart, np.float32(_DISTRUST) * information, information)
        total = stereo_information + information
        joint = (stereo * stereo_information + carried * information) / np.maximum(total, 1e-9)
        field = fused_field(joint, total, view.log_depth, base)
        field -= np.float32(np.median(field))
        variance = 1 / (total + 1 / np.maximum(view.log_std**2, _LEAST_VARIANCE))
        whole, scale = self._whole(float(np.median(base)), view.log_factor, aligned, stamp_ns)
        if disagrees and aligned is None:
            self._failures, self._log_factor = self._failures + 1, None
        now = view.log_depth + field + np.float32(whole)
        agrees = aligned is not None or (
            obstacle == 'nothing_new' and past is not None and past.aligned
        )
        self._past = _Past(stamp_ns, T_world_camera, now, variance, view, agrees)
        self._poses_hold |= aligned is not None
        if not self._poses_hold:
            obstacle = 'poses_disagree'
        image = Reference(stamp_ns, T_world_camera, view.gray, view.unseen)
        self._references.add(image, view.median)
        std, offset = self._std(view, variance), self._poses.offset
        return Refinement(field, std, measured, scale, obstacle, self._poses_hold, offset)

    def _believed_factor(self, stamp_ns: int, factor: float) -> float:
        """Logarithm of the factor that brings predicted depth to the scale of the poses.

        It is that of the images before, since poses are compared with depth here, whether or not
        others believe in either.
        """
        if self._log_factor is not None and stamp_ns - self._measured_ns < _LONG_NS:
            return self._log_factor
        return math.log(factor)

    def _searched(
        self, view: _View, stamp_ns: int, T_world_camera: np.ndarray, base: np.ndarray
    ) -> float | None:
        """Logarithm of another factor by which poses and depth agree, of those that are tried.

        Where the factor is far off corners are not found. As many are tried as there is time since
        the image before, at the next image the following ones.
        """
        elapsed_ns = _LONG_NS if self._past is None else stamp_ns - self._past.stamp_ns
        count = min(max(1, elapsed_ns // _TRIAL_NS), len(_TRIALS))
        found: list[tuple[float, float]] = []
        for _ in range(count):
            trial = _TRIALS[self._tried % len(_TRIALS)]
            self._tried += 1
            there = view.times(trial)
            references = self._references.chosen(T_world_camera, there.median)
            aligned = self._aligned(there, references, stamp_ns, base)
            if not isinstance(aligned, Aligned) or math.isinf(aligned.log_scale_std):
                continue
            if abs(aligned.log_scale) < 2 * _NEAR:
                found.append((aligned.log_scale_std, trial + aligned.log_scale))
        return min(found)[1] if found else None

    def _whole(
        self, before: float, log_factor: float, aligned: Aligned | None, stamp_ns: int
    ) -> tuple[float, MeasuredScale | None]:
        """Correction of the image as a whole, by which it is carried over, and what it measures.

        Args:
            before: what the images before ask for.
            log_factor: that depth was multiplied by.
            aligned: what others show, relative to that.
            stamp_ns: of the image.
        """
        if aligned is None:
            return before, None
        self._failures, self._measured_ns = 0, stamp_ns
        measured = log_factor + before + aligned.log_scale
        if abs(aligned.log_scale) > _NEAR:
            # from so far only some corners are found, those that suit: the next image tells
            self._log_factor = measured
            return before + aligned.log_scale, None
        self._log_factor = log_factor + _FOLLOWED * (measured - log_factor)
        telling = math.isfinite(aligned.log_scale_std)
        scale = MeasuredScale(measured, aligned.log_scale_std) if telling else None
        return before + _FOLLOWED * aligned.log_scale, scale

    @staticmethod
    def _std(view: _View, variance: np.ndarray) -> np.ndarray:  # [h, w] -> [h, w]
        """Standard deviation of log depth, from the variance that the fusion states."""
        network, step = _NETWORK_SHARE * view.log_std, _STEP_SHARE * view.steps
        return np.sqrt(variance + network**2 + step**2)

    def _carried_over(self, view: _View, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Correction [h, w] that the depth known last asks for, and its information [h, w]."""
        none = np.zeros(view.log_depth.shape, np.float32)
        past = self._past
        if past is None:
            return none, none
        T_camera_past = inverse(self._poses.relative(stamp_ns, past))
        moved = float(np.linalg.norm(T_camera_past[:3, 3]))
        if moved > _JUMP * view.median or stamp_ns - past.stamp_ns > _LONG_NS:
            return none, none
        aged = past.variance + np.float32(_DRIFT**2 * (stamp_ns - past.stamp_ns) * 1e-9)
        self._check_poses(past, view, stamp_ns)
        if not self._poses_hold:
            return none, none
        if self._implausible:
            aged = aged + np.float32(_DOUBT**2)
        correction, information = propagate(
            past.log_depth,
            aged,
            past.view.known,
            T_camera_past,
            view.camera.cells.parameters,
            view.log_depth,
            _SURFACE,
        )
        return correction, information * view.known

    def _check_poses(self, past: _Past, view: _View, stamp_ns: int) -> None:
        """Hold the pose of this image against an earlier one, unless the last agreed with others.

        That stays the same for a while, so that steps which are too small add up. A first
        implausible step may be a blurred image; a second is wrong odometry, and it is believed
        again only when images agree with it, for as long or by an alignment.
        """
        if past.aligned:
            self._witness, self._implausible = None, 0
            return
        witness = self._witness or past
        plausible = self._is_plausible(witness, view, stamp_ns)
        lasted = plausible is True and stamp_ns - witness.stamp_ns > _WITNESS_NS
        self._implausible = 0 if plausible is not False else self._implausible + 1
        self._poses_hold = self._implausible < 2 and (self._poses_hold or lasted)
        renewed = plausible is None or lasted or self._implausible > 1
        self._witness = None if renewed else witness

    def _is_plausible(self, past: _Past, view: _View, stamp_ns: int) -> bool | None:
        """Whether corners of an image before are found where pose and depth put them.

        None where too few are.
        """
        T_camera_past = inverse(self._poses.relative(stamp_ns, past))
        px = corners(past.view.gray, np.empty((0, 2)), _CHECKED)
        px = px[shown(past.view.unseen, px)]
        if len(px) < _LEAST_CORNERS // 2:
            return None
        row, column = view.camera.cell_of(px)
        points = view.camera.image.unprojected(px)
        points = points * np.exp(past.log_depth[row, column].astype(np.float64))[:, None]
        guess = project(apply(T_camera_past, points), view.camera.image).astype(np.float32)
        ahead = np.isfinite(guess).all(1)
        px, guess = px[ahead].astype(np.float32), guess[ahead]
        if len(px) < _LEAST_CORNERS // 2:
            return None
        place, found = followed(past.view.gray, view.gray, px, guess)
        unmoved, also = followed(past.view.gray, view.gray, px, px)
        place = np.where(found[:, None], place, unmoved)
        found = (found | also) & shown(view.unseen, place)
        if np.count_nonzero(found) < _LEAST_CORNERS // 2:
            return None
        missed = np.linalg.norm(place - guess, axis=1)[found]
        return float(np.median(missed)) < _MISSED_PX

    def _compared(
        self, view: _View, stamp_ns: int, T_world_camera: np.ndarray, base: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Aligned | None, str]:
        """Correction [h, w] that other images ask for, and its information [h, w]."""
        none = np.zeros(base.shape, np.float32)
        newness = self._newness(T_world_camera, view)
        if newness < _WORTHWHILE and stamp_ns - self._swept_ns < _AT_LEAST_NS:
            return none, none, None, 'nothing_new'
        references = self._references.chosen(T_world_camera, view.median)
        aligned = self._aligned(view, references, stamp_ns, base)
        if not isinstance(aligned, Aligned):
            return none, none, None, aligned
        self._swept_at, self._swept_ns = T_world_camera[:3, 3], stamp_ns
        used = [references[n] for n in aligned.used]
        self._poses.learn(used, aligned.T)
        mean, variance = self._swept(view, used, aligned.T, base)
        reliable = variance < _MEASURED**2
        shifts = aligned.T[:, :2, 3] * (view.camera.image.fx, view.camera.image.fy)
        disparity = np.linalg.norm(shifts, axis=1).mean() * np.exp(-view.log_depth - base)
        variance = variance + (_POSE_PX / np.maximum(disparity, 1)) ** 2 + _SYSTEMATIC**2
        information = np.where(reliable, newness / variance, 0)
        information *= self._still(view, aligned) & view.known
        return mean + base, information.astype(np.float32), aligned, ''

    def _aligned(
        self, view: _View, references: list[Reference], stamp_ns: int, base: np.ndarray
    ) -> Aligned | str:
        """How others agree with poses and depth times `exp(base)` [h, w], or the obstacle."""
        if not references:
            return 'no_baseline'
        px = view.corners
        row, column = view.camera.cell_of(px)
        depth = view.depth_at(px) * np.exp(base[row, column].astype(np.float64))
        px, depth = px[depth > 2 * _LEAST_DEPTH], depth[depth > 2 * _LEAST_DEPTH]
        if len(px) < _LEAST_CORNERS:
            return 'no_texture'
        aligned = align(
            view.gray,
            [reference.gray for reference in references],
            np.stack([self._poses.relative(stamp_ns, reference) for reference in references]),
            px,
            depth,
            view.camera.image,
            [reference.unseen for reference in references],
        )
        if aligned is None:
            return 'poses_disagree'
        used = [references[n] for n in aligned.used]
        mistimed = self._poses.baseline_std(stamp_ns, used)
        aligned = replace(aligned, log_scale_std=math.hypot(aligned.log_scale_std, mistimed))
        log_scale = view.log_factor + float(np.median(base)) + aligned.log_scale
        return aligned if abs(log_scale) < _FARTHEST else 'poses_disagree'

    def _swept(
        self, view: _View, references: list[Reference], T: np.ndarray, base: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance [h, w] of the correction around a base [h, w], by plane sweep."""
        K = view.camera.image.matrix
        A = (K @ T[:, :3, :3] @ np.linalg.inv(K)).astype(np.float32)
        B = (T[:, :3, 3] @ K.T).astype(np.float32)
        size = view.log_samples.shape[::-1]
        around = view.log_samples + cv2.resize(base, size, interpolation=cv2.INTER_LINEAR)
        cost = sweep(
            census(view.gray),
            np.stack([self._references.census(reference) for reference in references]),
            A,
            B,
            np.exp(-around),
            np.exp(-self._labels),
        )
        return posterior(cost, self._labels, _BITS, _SWEEP_STD)

    def _newness(self, T_world_camera: np.ndarray, view: _View) -> float:
        """How much of a sweep counts: from nearly the same place it says the same again."""
        if self._swept_at is None:
            return 1.0
        return min(math.dist(T_world_camera[:3, 3], self._swept_at) / (_FRESH * view.median), 1.0)

    @staticmethod
    def _still(view: _View, aligned: Aligned) -> np.ndarray:  # -> [h, w]
        """False where most corners around a cell move by themselves."""
        row, column = view.camera.cell_of(aligned.px)
        balance = np.zeros(view.log_depth.shape, np.float32)
        np.add.at(balance, (row, column), np.where(aligned.outlying, -1, 1).astype(np.float32))
        return cv2.GaussianBlur(balance, (0, 0), _SPREAD_CELLS) > -1e-3


@dataclass(frozen=True)
class _Past:
    """What is known of the image before."""

    stamp_ns: int
    T_world_camera: np.ndarray
    log_depth: np.ndarray  # [h, w]
    variance: np.ndarray  # [h, w]
    view: _View
    aligned: bool  # whether its pose agreed with those of others: then the next one will, too


class _Camera:
    """Sizes in which images are compared."""

    def __init__(self, given: Intrinsics) -> None:
        self.given = given
        share = _WIDTH / CELL / max(given.width, given.height)
        columns, rows = (max(round(n * share), 2) for n in (given.width, given.height))
        self.cells = given.resized(columns, rows)
        self.image = given.resized(CELL * columns, CELL * rows)
        self.samples = given.resized(CELL // 2 * columns, CELL // 2 * rows)

    def cell_of(self, px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [N, 2] -> 2 x [N]
        """Row and column of the cells that places of the image lie in."""
        column, row = ((px + 0.5) / CELL).astype(int).T
        return np.clip(row, 0, self.cells.height - 1), np.clip(column, 0, self.cells.width - 1)


class _View:
    """The image at hand, in the sizes in which it is compared."""

    def __init__(
        self,
        gray: np.ndarray,
        depth: np.ndarray,
        log_std: np.ndarray,
        log_factor: float,
        camera: _Camera,
        unseen: np.ndarray | None = None,
    ) -> None:
        self.camera, self.log_factor = camera, log_factor
        size = (camera.image.width, camera.image.height)
        self.gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        self.unseen = unseen  # [H, W] bool of the image, what is not compared
        if unseen is not None:
            white = unseen.astype(np.uint8) * 255
            self.unseen = cv2.resize(white, size, interpolation=cv2.INTER_AREA) > 0
        size = (camera.samples.width, camera.samples.height)
        samples = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
        samples = samples * np.float32(math.exp(log_factor))
        known = np.isfinite(samples) & (samples > _LEAST_DEPTH)
        self.median = float(np.median(samples[known])) if known.any() else 1.0
        self.log_samples = np.log(np.where(known, samples, np.float32(self.median)))
        size = (camera.cells.width, camera.cells.height)
        # of cells without a sample of unknown depth
        self.known = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.9
        self.log_depth = cv2.resize(self.log_samples, size, interpolation=cv2.INTER_AREA)
        self.log_std = cv2.resize(log_std, size, interpolation=cv2.INTER_AREA)

    def times(self, log_factor: float) -> _View:
        """The same, of which depth is multiplied by a factor, given as its logarithm."""
        other = copy(self)
        other.log_factor += log_factor
        other.median *= math.exp(log_factor)
        other.log_samples = self.log_samples + np.float32(log_factor)
        other.log_depth = self.log_depth + np.float32(log_factor)
        return other

    @cached_property
    def steps(self) -> np.ndarray:  # -> [h, w]
        """By how much log depth differs among a cell and those around it."""
        around = np.ones((3, 3), np.uint8)
        return cv2.dilate(self.log_depth, around) - cv2.erode(self.log_depth, around)

    @cached_property
    def corners(self) -> np.ndarray:  # -> [N, 2]
        """Places of the image by which it is aligned with others.

        Without those at a step of depth, if there are enough: what is seen to move there is what
        stands in front, but the depth is often that behind, so that the scale of four rooms came
        out 1.3 % too small.
        """
        px = corners(self.gray, np.empty((0, 2)), _CORNERS)
        px = px[shown(self.unseen, px)]
        even = px[self.steps[self.camera.cell_of(px)] < _CORNER_STEP]
        return even if len(even) >= _ENOUGH_CORNERS else px

    @cached_property
    def _front(self) -> np.ndarray:
        """Least of the `log_samples` around."""
        return cv2.erode(self.log_samples, np.ones((_FRONT, _FRONT), np.uint8))

    def depth_at(self, px: np.ndarray) -> np.ndarray:  # [N, 2] -> [N]
        """Depth of corners of the image, metres; at a step that of what stands in front."""
        column, row = ((px + 0.5) / 2).astype(int).T
        high, wide = self.log_samples.shape
        place = np.clip(row, 0, high - 1), np.clip(column, 0, wide - 1)
        samples, step = self.log_samples[place], self.steps[self.camera.cell_of(px)]
        if (step >= _CORNER_STEP).any():
            samples = np.where(step < _CORNER_STEP, samples, self._front[place])
        return np.exp(samples.astype(np.float64))
