"""One frame from image to map: the steps of a frame in order, here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
import time

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import SharpConfig, ViewConfig
from sharp_ros.engine import Engine, Pending, choose_device
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.mapping.occupancy import OccupancyGrid2D, OccupancyMap
from sharp_ros.models import ModelInfo, load_predictor
from sharp_ros.point_cloud import clean_depth, depth_from_gaussians, organised_cloud
from sharp_ros.rasterizer import rasterize
from sharp_ros.se3 import inverse, look_at

POINTS = 'points'
GAUSSIANS = 'gaussians'
OCCUPANCY = 'occupancy_grid'
VIEW = 'view/'


@dataclass(frozen=True)
class View:
    """What a virtual camera saw.

    Attributes:
        image: [H, W, 3] uint8 sRGB.
        intrinsics: of that image.
        T_camera_view: [4, 4] pose of the virtual camera in the optical frame of the real one.
        coverage: share of the image that is backed by Gaussians, 0..1.
    """

    image: np.ndarray
    intrinsics: Intrinsics
    T_camera_view: np.ndarray
    coverage: float


@dataclass(frozen=True)
class FrameResult:
    """All that one frame gave; what nobody asked for is None or absent.

    Attributes:
        frame: what went in, rectified.
        gaussians: in the optical frame of the camera, metres; points only where neither they nor
            a view were asked for.
        depth: [H, W] float32 z-depth of the visible surface, metres; NaN where there is none.
        cloud: [H, W, 4] float32 x, y, z and packed RGB in the optical frame.
        views: by name.
        grid: when it was due and a pose is known.
        mapped: whether the frame was integrated into the map.
        timings_ms: duration of each step; those of the engine, `network.*`, are part of `network`,
            which also holds what was done for the next frame meanwhile.
    """

    frame: Frame
    gaussians: Gaussians
    depth: np.ndarray
    cloud: np.ndarray | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    grid: OccupancyGrid2D | None = None
    mapped: bool = False
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BegunFrame:
    """A frame whose network runs or is about to.

    Attributes:
        frame: what went in.
        wanted: outputs somebody listens to.
        pending: its Gaussians to be.
        clock: of its steps, running.
    """

    frame: Frame
    wanted: frozenset[str]
    pending: Pending
    clock: Stopwatch


class Pipeline:
    """Owns the engine and the map; only one thread may touch it.

    Args:
        engine: ready to predict.
        info: what the engine runs.
        config: all settings.
        device: where the engine runs, for reports.
    """

    def __init__(
        self, engine: Engine, info: ModelInfo, config: SharpConfig, device: str = 'cpu'
    ) -> None:
        self.info = info
        self.device = device
        self.engine = engine
        self.config = config
        self._map = OccupancyMap(config.occupancy)
        self._world_frame = ''
        self._viewpoints = {name: _viewpoint(view) for name, view in config.views.items()}
        self._due_ns: dict[str, int] = {}
        self._last_stamp_ns = 0

    @classmethod
    def from_config(cls, config: SharpConfig) -> Pipeline:
        """Build every part, loading the weights.

        Raises:
            ConfigError: if the model or the device does not exist.
            CheckpointError: if the weights cannot be loaded.
        """
        device = choose_device(config.model.device)
        model = config.model
        predictor, info = load_predictor(model.name, device, model.patch_batch)
        return cls(Engine(predictor, model), info, config, device)

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Run every step once on a grey image, so that the first real frame is not the slow one.

        Kernels are compiled here, the first time on a machine; later they come from a cache on
        disk.
        """
        size = (intrinsics.height, intrinsics.width)
        pose = look_at(np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]), np.array([0.0, 0, 1]))
        frame = Frame(
            image=np.full((*size, 3), 127, np.uint8),
            intrinsics=intrinsics,
            stamp_ns=0,
            frame_id='camera',
            T_world_camera=pose,
            world_frame='world',
            depth=np.full(size, 2.0, np.float32),
        )
        views = (VIEW + name for name in self.config.views)
        self.process(frame, {POINTS, GAUSSIANS, OCCUPANCY, *views})
        self.reset()

    def reset(self) -> None:
        """Forget the map and every schedule."""
        self._map.reset()
        self._due_ns.clear()
        self._world_frame = ''
        self._last_stamp_ns = 0

    def process(self, frame: Frame, wanted: Collection[str]) -> FrameResult:
        """Run all steps of one frame: `begin`, then `finish`.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        return self.finish(self.begin(frame, wanted))

    def begin(self, frame: Frame, wanted: Collection[str]) -> BegunFrame:
        """Hand a frame to the device; frames are finished in the order they were begun.

        Args:
            frame: with pose if it shall be integrated into the map.
            wanted: outputs somebody listens to: `points`, `gaussians`, `occupancy_grid`,
                `view/<name>`. Depth is always there, since the rest is made from it.

        Raises:
            EngineError: if the network cannot be run.
        """
        clock = Stopwatch()
        pending = self.engine.submit(frame.image, frame.intrinsics, frame.depth)
        return BegunFrame(frame, frozenset(wanted), pending, clock)

    def finish(self, begun: BegunFrame) -> FrameResult:
        """Run all steps that follow the network.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        frame, wanted, clock = begun.frame, begun.wanted, begun.clock
        # all that is booked is booked here, where frames come one after the other
        if frame.stamp_ns < self._last_stamp_ns:
            self._due_ns.clear()  # a bag started over; schedules of the future would never run
        self._last_stamp_ns = frame.stamp_ns
        due_views = [
            name
            for name, view in self.config.views.items()
            if VIEW + name in wanted and self._due(VIEW + name, frame.stamp_ns, view.rate_hz)
        ]
        shapes = bool(due_views) or GAUSSIANS in wanted
        gaussians = begun.pending.result(covariances=shapes)
        clock.lap('network')
        size = frame.intrinsics
        depth = depth_from_gaussians(gaussians, size.width, size.height)
        depth = clean_depth(depth, self.config.point_cloud)
        clock.lap('depth')
        cloud = organised_cloud(depth, frame.image, size) if POINTS in wanted else None
        clock.lap('points')
        views = {name: self._render(name, gaussians) for name in due_views}
        clock.lap('views')
        mapped = frame.T_world_camera is not None
        if mapped:
            self._integrate(frame, depth)
        clock.lap('map')
        grid = None
        rate_hz = self.config.occupancy.rate_hz
        if mapped and OCCUPANCY in wanted and self._due(OCCUPANCY, frame.stamp_ns, rate_hz):
            grid = self._map.grid()
        clock.lap('grid')
        stages = {f'network.{name}': ms for name, ms in self.engine.timings_ms.items()}
        timings_ms = {**clock.laps, **stages}
        return FrameResult(frame, gaussians, depth, cloud, views, grid, mapped, timings_ms)

    def _integrate(self, frame: Frame, depth: np.ndarray) -> None:
        if self._world_frame and frame.world_frame != self._world_frame:
            raise InputError(
                f'the pose is in {frame.world_frame!r} but the map is in {self._world_frame!r}; '
                'reset the map after changing the odometry source',
                'world_frame_changed',
            )
        assert frame.T_world_camera is not None
        self._map.integrate(depth, frame.intrinsics, frame.T_world_camera)
        self._world_frame = frame.world_frame

    def _render(self, name: str, gaussians: Gaussians) -> View:
        intrinsics, T_camera_view = self._viewpoints[name]
        rendering = rasterize(gaussians, intrinsics, inverse(T_camera_view))
        image = (rendering.color * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()
        return View(image, intrinsics, T_camera_view, float(rendering.alpha.mean()))

    def _due(self, output: str, stamp_ns: int, rate_hz: float) -> bool:
        """Whether an output with a rate limit is due at this stamp; books the next time."""
        period_ns = int(1e9 / rate_hz)
        due_ns = self._due_ns.get(output, stamp_ns)
        if stamp_ns < due_ns - period_ns // 20:  # stamps jitter; 5 % early is on time
            return False
        self._due_ns[output] = max(due_ns + period_ns, stamp_ns)
        return True


def _viewpoint(view: ViewConfig) -> tuple[Intrinsics, np.ndarray]:
    """Intrinsics and `T_camera_view` of a virtual camera; -y of the real camera is up."""
    intrinsics = Intrinsics.from_hfov(view.hfov, view.width, view.height)
    up = np.array([0.0, -1.0, 0.0])
    return intrinsics, look_at(np.array(view.position), np.array(view.target), up)


class Stopwatch:
    """Laps of one frame in milliseconds, the first one from construction on."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the time since the last lap under a name."""
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now
