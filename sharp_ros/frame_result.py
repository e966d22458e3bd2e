"""What goes from step to step of one frame: when it has begun, and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.engine import Pending
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.localized import Localized
from sharp_ros.localization.odometry import Motion
from sharp_ros.localization.scale_filter import ScaleEstimate
from sharp_ros.localization.scanner import PlacedScan
from sharp_ros.mapping.local_origin import LocalOrigin, OF_WORLD
from sharp_ros.mapping.map_fit import MapFit
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.mapping.verdict import Verdict
from sharp_ros.point_cloud import resize_depth, surface_depth
from sharp_ros.stereo import PredictedDepth, Refinement
from sharp_ros.stopwatch import Stopwatch
from sharp_ros.views import View

# outputs that somebody may want, beside the views
POINTS = 'points'
GAUSSIANS = 'gaussians'
OCCUPANCY = 'occupancy_grid'
MAP_POINTS = 'map_points'
CLEARING = 'clearing_points'
SCAN = 'scan'


@dataclass(frozen=True)
class FrameResult:
    """All that one frame gave; what nobody asked for is None or absent.

    Attributes:
        frame: what went in, rectified.
        gaussians: in the optical frame of the camera, metres; points only where neither they nor
            a view were asked for; None where depth was carried over from the image before.
        depth: [H, W] float32 z-depth of the visible surface, metres; NaN where there is none, and
            everywhere if the model is a relative one.
        log_std: [m, n] float32 standard deviation of the logarithm of `depth`, that of its scale
            included, edge to edge in the resolution in which it is known; None for measured depth
            and where the network states none.
        cloud: [H, W, 4] float32 x, y, z and packed RGB in the optical frame.
        views: by name, those too that their configuration withholds.
        unplaced: views that could not be rendered, and why.
        grid: when it was due and a pose is known.
        verdict: on the map, when the grid is there.
        mapped: whether the frame was integrated into the map.
        unmapped: why it was not: `repeated_stamp`, `late_frame`, `world_frame_changed`,
            `floor_not_found`, `waiting_for_base_frame`, `waiting_for_scale`, `image_featureless`,
            `gravity_contradicts_pose`, `gravity_contradicts_tf`, `pose_not_z_up`; None also for a
            frame whose pose was not asked for, and where `motion` says why.
        map_points: [N, 3] centres of occupied voxels from `origin`, when due.
        origin: of the coordinates of the map in the world frame.
        clearing_points: [M, 3] in the optical frame, where rays end that met nothing in range.
        scale: factor that predicted depth was multiplied by; None for measured depth.
        refinement: what motion said about the depth, which has its correction; None where it was
            not asked.
        motion: of visual odometry, where it was asked for the pose.
        restarted: whether the maps started over with this frame, or one before it that failed.
        loaded: when a map that was loaded has been checked, with this frame or one before it that
            failed, how it fits, or why it cannot be used.
        timings_ms: duration of each step; those of the engine, `network.*`, are part of `network`,
            which also holds what was done for the next frame meanwhile.
        scan: of the depth, in a level frame.
        unscanned: why there is none although it was asked for: `floor_unknown`, `no_base_frame`,
            or as of `unmapped`.
        relative_depth: [H, W] float32 of a relative model, see `RelativePipeline`.
    """

    frame: Frame
    gaussians: Gaussians | None
    depth: np.ndarray
    log_std: np.ndarray | None = None
    cloud: np.ndarray | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    unplaced: Mapping[str, PoseUnavailableError] = field(default_factory=dict)
    grid: OccupancyGrid2D | None = None
    verdict: Verdict | None = None
    mapped: bool = False
    unmapped: PoseUnavailableError | InputError | None = None
    map_points: np.ndarray | None = None
    origin: LocalOrigin = OF_WORLD
    clearing_points: np.ndarray | None = None
    scale: ScaleEstimate | None = None
    refinement: Refinement | None = None
    motion: Motion | None = None
    restarted: bool = False
    loaded: MapFit | PoseUnavailableError | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    scan: PlacedScan | None = None
    unscanned: PoseUnavailableError | InputError | None = None
    relative_depth: np.ndarray | None = None

    def log_std_image(self) -> np.ndarray | None:  # -> [H, W]
        """`log_std` at the resolution of the image."""
        if self.log_std is None:
            return None
        high, wide = self.depth.shape
        return cv2.resize(self.log_std, (wide, high), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class SeenFrame:
    """A frame whose depth is known, and which is not in the map yet.

    Attributes:
        result: all that it gave so far: neither map nor views.
        begun: as it began.
        localized: its pose and scale; None of a relative model.
        due: names of the views that are to be rendered.
        shape_std: [m, n] standard deviation of the logarithm of the depth, that of its scale left
            out; None: not known.
    """

    result: FrameResult
    begun: BegunFrame
    localized: Localized | None = None
    due: Sequence[str] = ()
    shape_std: np.ndarray | None = None


@dataclass(frozen=True)
class BegunFrame:
    """A frame whose network runs or is about to, or need not run.

    Attributes:
        frame: what went in.
        wanted: outputs somebody listens to.
        pending: its Gaussians to be, or its depth where motion tells that.
        clock: of its steps, running.
        objection: why nothing may be learnt from it, see `ContentCheck` and `contradiction`.
        runs_beside: see `Engine`: then it may be begun before the one before it is seen.
    """

    frame: Frame
    wanted: frozenset[str]
    pending: Pending | PredictedDepth
    clock: Stopwatch
    objection: InputError | None = None
    runs_beside: bool = False

    @property
    def asks_network(self) -> bool:
        """Whether its depth comes from the network, with Gaussians."""
        return isinstance(self.pending, Pending)

    @property
    def wait(self) -> Callable[[], None] | None:
        """See `Pending.wait`; where another frame may be under way, all wait for their turn."""
        if isinstance(self.pending, Pending):
            return self.pending.wait
        return _nothing if self.runs_beside else None

    def predicted(
        self, covariances: bool, *, measured: bool
    ) -> tuple[Gaussians | None, PredictedDepth]:
        """Gaussians and depth of the visible surface, in the unit of the network; waits for both.

        There are no Gaussians where motion tells the depth.

        Args:
            covariances: whether anybody needs the shape of the Gaussians.
            measured: whether they come from the depth of a sensor, which sees what the image does
                not show, and whose full resolution is kept.

        Raises:
            EngineError: if the network cannot be run.
        """
        frame, pending = self.frame, self.pending
        if isinstance(pending, PredictedDepth):
            return None, pending
        gaussians = pending.result(covariances=covariances)
        if frame.unseen is not None and not measured:
            gaussians = gaussians.hidden(frame.unseen)
        self.clock.lap('network')
        log_std = gaussians.front_log_std
        if measured and frame.depth is not None:
            return gaussians, PredictedDepth(frame.depth, log_std)
        cells = surface_depth(gaussians)
        depth = resize_depth(cells, frame.intrinsics.width, frame.intrinsics.height)
        if frame.unseen is not None:
            depth = np.where(frame.unseen, np.float32(np.nan), depth)
        return gaussians, PredictedDepth(depth, log_std, cells, gaussians.log_scale_std)


def _nothing() -> None:
    """Waits for nothing."""
