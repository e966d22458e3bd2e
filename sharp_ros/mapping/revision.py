"""What was integrated lately, so that it can be integrated again under a better scale.

Depth of a network is wrong by a factor, and what it makes free or occupied is wrong with it, until
the factor is known. Log-odds are sums, but clamped ones: what a frame has added to a cell can not
be subtracted later, since a cell at its bound has swallowed a part of it, and another cell the
whole. So the cells themselves are kept, as they were before the last few dozen views, and these
views, at the resolution of the map. When the scale turns out to be another, the map goes back to
the former and the latter are added again, each with the factor that was then true. That is what a
map would hold which had known the scale from there on; what the clamp does is the same.

What was true then follows from what is known now as in the smoother of Rauch, Tung and Striebel
(1965) for a random walk, the model of the scale's own filter: a bias with variance P, of a frame
t seconds ago, moves by the share `P / (P + Q t)` to the bias of now. If little was known (P is
large) that is all of it; if much, a bias that is another by now need not have been so then.

All is bounded: the views by their number, since where the camera stands still the newest one takes
the place of those before; the time by adding a few views per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import KeyframeConfig
from sharp_ros.mapping.occupancy import Checkpoint, DepthView, OccupancyMap
from sharp_ros.se3 import angle

_MOST = 64  # views
_AT_ONCE = 4  # views that are added again with a frame
_WIDE = 0.15  # deviation of a log scale above which it counts as unknown
_KNOWN = 0.5  # share of such a deviation at which it counts as known
# Deviations by which a known scale must move to have been wrong: from room to room a network needs
# another, and both are right. (With 1 or 2 the map of a room lost 0.1 of its IoU to that.)
_PROOF = 3.0
_LEAST = 0.02  # change of a log scale that moves nothing by more than two voxels


@dataclass(frozen=True)
class DepthScale:
    """How well the factor is known that depth in metres was made with.

    Attributes:
        std: standard deviation of the logarithm of the factor of this frame.
        log_bias: logarithm of the factor that the network needs in this place.
        bias_std: standard deviation of that.
    """

    std: float
    log_bias: float
    bias_std: float


@dataclass
class _Told:
    """Views from one place that were integrated."""

    stamp_ns: int
    view: DepthView
    written: DepthScale  # with which its depth was made
    correction: float  # of the logarithm of its depth, as it was integrated last
    std: float  # likewise, deviation of the logarithm of its factor
    bias_std: float  # likewise, of that part of it which its bias is
    count: int = 1  # of frames


class Revision:
    """Integrates again what was integrated under a scale that proved wrong.

    Args:
        occupancy: the map.
        spacing: how far views are apart.
        drift_std: standard deviation of the random walk of the bias after 1 s.

    Attributes:
        spacing: as given; may be replaced between two frames.
        times: how often the map went back.
    """

    def __init__(self, occupancy: OccupancyMap, spacing: KeyframeConfig, drift_std: float) -> None:
        self._occupancy, self._drift_std = occupancy, drift_std
        self.spacing = spacing
        self.reset()

    def reset(self) -> None:
        """Nothing was integrated yet that could be again."""
        self._base: Checkpoint | None = None  # before the first of the views
        self._later: Checkpoint | None = None  # before that of number `_later_at`
        self._later_at = 0
        self._told: list[_Told] = []
        self._pending = range(0)  # numbers of views that are still to be integrated again
        self.times = 0

    def integrate(
        self,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        T_world_camera: np.ndarray,
        stamp_ns: int,
        base_position: np.ndarray | None,
        scale: DepthScale,
        log_std: np.ndarray | None = None,
    ) -> None:
        """`OccupancyMap.integrate`, after what is known by now of earlier frames is set right."""
        if self._is_wrong(stamp_ns, scale):
            self._go_back(stamp_ns, scale)
        self._tell_again(_AT_ONCE)
        is_new = self._is_new_place(T_world_camera)
        if is_new:
            self._keep_checkpoints()
        view = self._occupancy.integrate(
            depth, intrinsics, T_world_camera, stamp_ns, base_position, scale.std, log_std
        )
        if is_new:
            self._told.append(
                _Told(stamp_ns, view.thinned(), scale, 0.0, scale.std, scale.bias_std)
            )
            return
        last = self._told[-1]
        last.count += 1
        stands = view.clears and not last.view.clears  # the last one turned
        if stands or stamp_ns - last.stamp_ns >= self.spacing.interval * 1e9:
            # What is seen by now counts, if something has moved, and not what was seen first.
            last.view, last.stamp_ns, last.written = view.thinned(), stamp_ns, scale
            last.correction, last.std, last.bias_std = 0.0, scale.std, scale.bias_std

    def finish(self) -> None:
        """Integrate all that is still to be integrated again."""
        self._tell_again(len(self._pending))

    def _is_new_place(self, T_world_camera: np.ndarray) -> bool:
        """Whether a view is to be kept beside the last one, instead of it."""
        if not self._told or self._pending:
            return True
        last = self._told[-1].view.T_world_camera
        moved = float(np.linalg.norm(T_world_camera[:3, 3] - last[:3, 3]))
        turned = float(angle(last[:3, :3].T @ T_world_camera[:3, :3]))
        return moved >= self.spacing.distance or turned >= self.spacing.angle

    def _keep_checkpoints(self) -> None:
        """Have one before the first view, and another one to go on from when there are many."""
        if self._base is None:
            self._base = self._occupancy.checkpoint()
        if len(self._told) >= _MOST:
            self.finish()
            if self._later is not None:
                del self._told[: self._later_at]
                self._base, self._later = self._later, None
            else:
                self._told.clear()
                self._base = self._occupancy.checkpoint()
        if self._later is None and len(self._told) >= _MOST // 2 and not self._pending:
            self._later, self._later_at = self._occupancy.checkpoint(), len(self._told)

    def _smoothed(
        self, stamp_ns: int, scale: DepthScale
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # -> [N] each
        """Corrections of the log depth of the views, deviations left to factor and bias."""
        rows = [
            (told.stamp_ns, told.written.std, told.written.log_bias, told.written.bias_std)
            for told in self._told
        ]
        stamps, std, bias, bias_std = np.array(rows, np.float64).T
        variance = bias_std**2
        drifted = variance + self._drift_std**2 * np.abs(stamp_ns - stamps) * 1e-9
        learnt = np.maximum(drifted - scale.bias_std**2, 0.0)
        # Who knows less now than then, as after a jump, cannot tell the past.
        learnt[scale.bias_std > bias_std] = 0.0
        gain = np.where(learnt > 0, variance / np.maximum(drifted, 1e-12), 0.0)
        correction = gain * (scale.log_bias - bias)
        left = np.maximum(variance - gain**2 * learnt, 0.0)
        own = np.maximum(std**2 - variance, 0.0)  # of the frame, which nothing corrects
        return correction, np.minimum(np.sqrt(own + left), std), np.sqrt(left)

    def _is_wrong(self, stamp_ns: int, scale: DepthScale) -> bool:
        """Whether views were integrated under a scale that is another by now, or known by now."""
        if not self._told:
            return False
        correction, _, bias_std = self._smoothed(stamp_ns, scale)
        as_told = np.array([(told.correction, told.std, told.bias_std) for told in self._told])
        told_correction, told_std, told_bias_std = as_told.T
        wide = told_std > _WIDE
        proof = np.where(wide, told_std, _PROOF * np.maximum(told_std, _LEAST))
        moved = np.abs(correction - told_correction) > proof
        known = (told_bias_std > _WIDE) & (bias_std < _KNOWN * told_bias_std)
        return bool((moved | known).any())

    def _go_back(self, stamp_ns: int, scale: DepthScale) -> None:
        """Take back all views, to integrate them again."""
        assert self._base is not None
        smoothed = np.stack(self._smoothed(stamp_ns, scale), -1).tolist()
        for told, (correction, std, bias_std) in zip(self._told, smoothed, strict=True):
            told.correction, told.std, told.bias_std = correction, std, bias_std
        self._occupancy.go_back(self._base)
        self._later = None  # that holds some of the views as they were before
        self._pending = range(len(self._told))
        self.times += 1

    def _tell_again(self, count: int) -> None:
        for number in self._pending[:count]:
            told = self._told[number]
            self._occupancy.add_again(
                told.view, math.exp(told.correction), told.std, told.count, told.stamp_ns
            )
        self._pending = self._pending[count:]
