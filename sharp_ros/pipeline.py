"""One frame from image to map: the steps of a frame in order, here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
import logging
import math
import time

import numpy as np

from sharp_ros.camera import FloorGeometry, Frame, Intrinsics, JITTER_NS
from sharp_ros.config import ModelConfig, SharpConfig
from sharp_ros.engine import choose_device, Engine, Pending
from sharp_ros.errors import ConfigError, InputError, PoseUnavailableError, SharpError
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.odometry import Motion, VisualOdometry
from sharp_ros.localization.scale_anchors import up_from_pose
from sharp_ros.localization.scale_filter import ScaleEstimate, ScaleFilter
from sharp_ros.mapping.gaussian_map import GaussianMap
from sharp_ros.mapping.keyframes import Keyframes
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.occupancy import OccupancyGrid2D, OccupancyMap
from sharp_ros.mapping.path import CameraPath
from sharp_ros.mapping.surface_map import SurfaceMap
from sharp_ros.models import load_predictor, ModelInfo
from sharp_ros.network.nano import MIN_HEIGHT
from sharp_ros.point_cloud import clean_depth, depth_from_gaussians, organised_cloud
from sharp_ros.rasterizer import backend
from sharp_ros.se3 import checked_pose, inverse, look_at
from sharp_ros.snapshot import Snapshot
from sharp_ros.viewpoints import locate, viewpoints
from sharp_ros.views import Placement, render_view, View

POINTS = 'points'
GAUSSIANS = 'gaussians'
OCCUPANCY = 'occupancy_grid'
MAP_POINTS = 'map_points'
CLEARING = 'clearing_points'
VIEW = 'view/'
VIEW_DEPTH = '/depth'
_SETTLING_NS, _SETTLED_STD = 1_000_000_000, 0.05  # see `_scale_is_settling`
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameResult:
    """All that one frame gave; what nobody asked for is None or absent.

    Attributes:
        frame: what went in, rectified.
        gaussians: in the optical frame of the camera, metres; points only where neither they nor
            a view were asked for.
        depth: [H, W] float32 z-depth of the visible surface, metres; NaN where there is none, and
            everywhere if the model is a relative one.
        cloud: [H, W, 4] float32 x, y, z and packed RGB in the optical frame.
        views: by name, those too that their configuration withholds.
        unplaced: views that could not be rendered, and why.
        grid: when it was due and a pose is known.
        mapped: whether the frame was integrated into the map.
        unmapped: why it was not: `repeated_stamp`, `world_frame_changed`; None also for a frame
            whose pose was never known, and where `motion` says why.
        map_points: [N, 3] centres of occupied voxels in the world frame, when due.
        clearing_points: [M, 3] in the optical frame, where rays end that met nothing in range.
        scale: factor that predicted depth was multiplied by; None for measured depth.
        motion: of visual odometry, where it was asked for the pose.
        restarted: whether the maps started over with this frame, or one before it that failed.
        timings_ms: duration of each step; those of the engine, `network.*`, are part of `network`,
            which also holds what was done for the next frame meanwhile.
        relative_depth: [H, W] float32 of a relative model, see `OnnxDepthPredictor`.
    """

    frame: Frame
    gaussians: Gaussians
    depth: np.ndarray
    cloud: np.ndarray | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    unplaced: Mapping[str, PoseUnavailableError] = field(default_factory=dict)
    grid: OccupancyGrid2D | None = None
    mapped: bool = False
    unmapped: PoseUnavailableError | None = None
    map_points: np.ndarray | None = None
    clearing_points: np.ndarray | None = None
    scale: ScaleEstimate | None = None
    motion: Motion | None = None
    restarted: bool = False
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    relative_depth: np.ndarray | None = None


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
        self._scale = None if info.needs_depth else ScaleFilter(config.scale)
        self._odometry = VisualOdometry(config.odometry)
        self._map = OccupancyMap(config.occupancy)
        self._world_frame, self._visual = '', False  # of the map; whether own odometry placed it
        self._keyframes = Keyframes(config.keyframe)
        self._fused = GaussianMap(config.gaussian_map) if config.gaussian_map.enabled else None
        self._surface = SurfaceMap(config.surface_map) if config.surface_map.enabled else None
        self._path = CameraPath()
        self._viewpoints = viewpoints(config.views)
        self._latest: tuple[Frame, Gaussians, bool] | None = None  # and whether it is mapped
        self._due_ns: dict[str, int] = {}
        self._last_stamp_ns = 0
        self._restarted = False  # since the newest result
        self._snapshot, self._snapshot_complete = Snapshot(config.snapshot), True  # none under way
        self._estimate: ScaleEstimate | None = None  # of the newest frame
        self._settling_ns = 0  # stamp of the first frame that waited for the scale
        self._keyframe = (-1, np.eye(4))  # of the odometry: stamp, and its pose from elsewhere
        self._placed = (-(1 << 62), np.eye(4))  # the newest pose from elsewhere, and its stamp

    @classmethod
    def from_config(cls, config: SharpConfig, *, relative: bool = False) -> Pipeline:
        """Build every part, loading the weights.

        Args:
            config: all settings.
            relative: whether a model without metres will do.

        Raises:
            ConfigError: if the model or the device does not exist, or has no metres.
            CheckpointError: if the weights cannot be loaded.
        """
        device = choose_device(config.model.device)
        engine, info = load_engine(config.model, device, relative=relative)
        return cls(engine, info, config, device)

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
        if self.info.metric:
            self.begin_snapshot()
        self.process(frame, {POINTS, GAUSSIANS, OCCUPANCY, MAP_POINTS, CLEARING, *views})
        if self.info.metric:
            with suppress(InputError):  # a network may see nothing in grey
                self.take_snapshot().cloud()
            self._snapshot = Snapshot(self.config.snapshot)
        self.reset()

    def reset(self) -> None:
        """Forget the maps, the path, the scale and every schedule."""
        if self._scale is not None:
            self._scale.reset()
        self._odometry.reset()
        self._keyframe, self._placed = (-1, np.eye(4)), (-(1 << 62), np.eye(4))
        self._estimate, self._settling_ns = None, 0
        for part in (self._map, self._keyframes, self._path, self._fused, self._surface):
            if part is not None:
                part.reset()
        self._latest = None
        self._due_ns.clear()
        self._world_frame, self._visual = '', False
        self._last_stamp_ns = 0

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only (`config.frozen_changes`).

        Raises:
            ConfigError: if a virtual camera looks nowhere; then nothing has changed.
        """
        self._viewpoints = viewpoints(config.views)
        self.config = config
        self._map.config, self._keyframes.config = config.occupancy, config.keyframe
        if self._scale is not None:
            self._scale.config = config.scale

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
                `map_points`, `clearing_points`, `view/<name>`, `view/<name>/depth`. The depth of
                the image is always there, since the rest is made from it.

        Raises:
            InputError: `bad_pose` if the pose is not finite or not rigid.
            EngineError: if the network cannot be run.
        """
        clock = Stopwatch()
        if frame.T_world_camera is not None:
            checked_pose(frame.T_world_camera)  # nothing shall be learnt from such a frame
        geometry = self._geometry(frame)
        pending = self.engine.submit(frame.image, frame.intrinsics, frame.depth, geometry)
        return BegunFrame(frame, frozenset(wanted), pending, clock)

    def finish(self, begun: BegunFrame) -> FrameResult:
        """Run all steps that follow the network.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        frame, wanted, clock = begun.frame, begun.wanted, begun.clock
        # all that is booked is booked here, where frames come one after the other
        back_ns = self._last_stamp_ns - frame.stamp_ns
        if back_ns > JITTER_NS:  # maps of what is yet to come would be lies
            _log.warning('time went back by %.1f s: the maps start over', back_ns * 1e-9)
            self._start_over()
            back_ns = 0
        late = back_ns > 0  # out of order: what goes by time has gone on without this frame
        views = {name: view for name, view in self.config.views.items() if VIEW + name in wanted}
        due_views = [
            name
            for name, view in views.items()
            if view.placement != 'request' and self._due(VIEW + name, frame.stamp_ns, view.rate_hz)
        ]
        requested = any(view.placement == 'request' for view in views.values())
        shapes = bool(due_views) or requested or GAUSSIANS in wanted or self._may_fuse(frame)
        gaussians = begun.pending.result(covariances=shapes)
        if frame.unseen is not None and not self.info.needs_depth:
            gaussians = gaussians.hidden(frame.unseen)
        clock.lap('network')
        size = frame.intrinsics
        if not self.info.metric:  # all that follows is made of metres
            none = np.full((size.height, size.width), np.nan, np.float32)
            relative = _predicted_depth(frame, gaussians)
            points = replace(gaussians, quats=None, scales=None)
            laps = clock.laps
            return FrameResult(frame, points, none, timings_ms=laps, relative_depth=relative)
        if self.info.needs_depth and frame.depth is not None:
            depth = frame.depth  # as measured, at full resolution
        else:
            depth = _predicted_depth(frame, gaussians)
        metric = frame.T_world_camera is not None
        motion = unmapped = None
        if not late:
            try:
                frame, motion = self._tracked(frame, depth)
            except PoseUnavailableError as error:
                unmapped = error
        clock.lap('odometry')
        if not late:
            self._estimate_scale(frame, depth, motion, metric=metric)
            self._last_stamp_ns = frame.stamp_ns  # it was not lost on the way
        scale = self._estimate
        if scale is not None:
            gaussians, depth = gaussians.scaled(scale.value), depth * np.float32(scale.value)
        clock.lap('scale')
        depth = clean_depth(depth, self.config.point_cloud)
        clock.lap('depth')
        cloud = organised_cloud(depth, frame.image, size) if POINTS in wanted else None
        clock.lap('points')
        mapped = frame.T_world_camera is not None
        if mapped:
            try:
                self._integrate(frame, depth, visual=not metric)
            except PoseUnavailableError as error:
                mapped, unmapped = False, error
        clock.lap('map')
        if mapped:
            self._fuse(frame, gaussians, depth)
        clock.lap('fuse')
        if not self._snapshot_complete:
            self._snapshot_complete = self._snapshot.add(frame, depth)
        latest = frame, gaussians, mapped
        self._latest = latest if requested else None
        seen, unplaced = self._render(due_views, latest, wanted)
        clock.lap('views')
        grid = None
        rate_hz = self.config.occupancy.rate_hz
        if mapped and OCCUPANCY in wanted and self._due(OCCUPANCY, frame.stamp_ns, rate_hz):
            grid = self._map.grid()
        obstacles = None
        if mapped and MAP_POINTS in wanted and self._due(MAP_POINTS, frame.stamp_ns, rate_hz):
            obstacles = self._map.occupied_points()
        clearing = None
        if CLEARING in wanted:
            clearing = self._map.clearing_points(depth, size, frame.T_world_camera)
        clock.lap('grid')
        stages = {f'network.{name}': ms for name, ms in self.engine.timings_ms.items()}
        timings_ms = {**clock.laps, **stages}
        restarted, self._restarted = self._restarted, False
        return FrameResult(
            frame,
            gaussians,
            depth,
            cloud,
            seen,
            unplaced,
            grid,
            mapped,
            unmapped,
            obstacles,
            clearing,
            scale,
            None if metric else motion,
            restarted,
            timings_ms,
        )

    @property
    def rasterizer(self) -> str:
        """What renders the views; see `rasterizer.backend`."""
        return backend(self.device)

    @property
    def view_frames(self) -> dict[str, str]:
        """The frame each view is placed in, as configured; those of requests come with them."""
        return {
            name: self._viewpoints[name].frame
            for name, view in self.config.views.items()
            if view.placement != 'request'
        }

    @property
    def latest(self) -> Frame:
        """The frame that a requested view would show.

        Raises:
            InputError: `no_frame_yet`.
        """
        if self._latest is None:
            raise InputError(
                'no image has come since somebody listens to the requested view', 'no_frame_yet'
            )
        return self._latest[0]

    def render_request(
        self, parent: str, T_parent_view: np.ndarray, frame: Frame, wanted: Collection[str]
    ) -> tuple[dict[str, View], dict[str, PoseUnavailableError]]:
        """Render the views of placement `request` from the newest Gaussians.

        Args:
            parent: frame the pose is given in.
            T_parent_view: [4, 4] pose of the optical frame.
            frame: `latest`, with the transform of the parent if that is a frame of tf.
            wanted: as for `begin`.

        Returns:
            Views by name, and why others could not be rendered.

        Raises:
            InputError: if the Gaussians cannot be rendered.
        """
        assert self._latest is not None
        names = [n for n, v in self.config.views.items() if v.placement == 'request']
        names = [name for name in names if VIEW + name in wanted]
        latest = frame, *self._latest[1:]
        return self._render(names, latest, wanted, (parent, T_parent_view))

    @property
    def world_frame(self) -> str:
        """Frame of the maps; empty while they are."""
        return self._world_frame

    def grid(self) -> OccupancyGrid2D:
        """The 2-D projection of the map as it is now."""
        return self._map.grid()

    def map_points(self) -> np.ndarray:  # -> [N, 3]
        """Centres of occupied voxels in the world frame as they are now, metres."""
        return self._map.occupied_points()

    def map_state(self) -> MapState:
        """All that the maps hold, copied, so that any thread may save it.

        Raises:
            InputError: `map_empty` if no frame has been mapped.
        """
        if not self._world_frame:
            raise InputError(
                'nothing is mapped yet: there was no image with a known pose; see pose.source',
                'map_empty',
            )
        stamps_ns, poses = self._path.arrays()
        return MapState(
            config=self.config,
            world_frame=self._world_frame,
            stamp_ns=self._last_stamp_ns,
            visual=self._visual,
            occupancy=self._map.state(),
            gaussians=None if self._fused is None else self._fused.state(),
            surface=None if self._surface is None else self._surface.state(),
            odometry=self._odometry.state() if self._visual else None,
            path_stamps_ns=stamps_ns,
            path=poses,
            about={
                'model': self.info.name,
                'description': self.info.description,
                'licence': self.info.licence,
            },
        )

    def restore(self, state: MapState) -> None:
        """Go on with a saved map in place of the present one.

        Poses must be those of the same world: from the same source, in the same frame. Visual
        odometry looks for the camera in the images of the map before it goes on.

        Raises:
            InputError: `bad_map` if the map does not fit the configuration; then nothing changed.
                `relative_model` if this model makes no maps.
        """
        self._require_metres()
        config = self.config
        occupancy, odometry = OccupancyMap(config.occupancy), VisualOdometry(config.odometry)
        occupancy.restore(state.occupancy)
        fused = None if self._fused is None else GaussianMap(config.gaussian_map)
        if fused is not None and state.gaussians is not None:
            fused.restore(state.gaussians)
        surface = None if self._surface is None else SurfaceMap(config.surface_map)
        if surface is not None and state.surface is not None:
            surface.restore(state.surface)
        if state.odometry is not None:
            odometry.restore(state.odometry)
        self.reset()
        self._map, self._odometry, self._fused, self._surface = (
            occupancy,
            odometry,
            fused,
            surface,
        )
        for stamp_ns, pose in zip(state.path_stamps_ns, state.path, strict=True):
            self._path.add(int(stamp_ns), pose)
        self._world_frame, self._visual = state.world_frame, state.visual

    def begin_snapshot(self) -> None:
        """Collect the next frames for a snapshot, in place of one under way.

        Raises:
            InputError: `relative_model` if this model sees no metres.
        """
        self._require_metres()
        self._snapshot, self._snapshot_complete = Snapshot(self.config.snapshot), False

    @property
    def snapshot_is_complete(self) -> bool:
        """Whether `take_snapshot` would gain nothing from waiting."""
        return self._snapshot_complete

    def take_snapshot(self) -> Snapshot:
        """The frames since `begin_snapshot`; no more are added, so any thread may join them."""
        self._snapshot_complete = True
        return self._snapshot

    def _require_metres(self) -> None:
        if not self.info.metric:
            raise InputError(
                f'{self.info.name} gives relative depth, of which nothing can be made but '
                '~/relative_depth/image; choose a metric model',
                'relative_model',
            )

    def _start_over(self) -> None:
        """Forget the maps of their own accord, of which the next result tells."""
        self.reset()
        self._restarted = True

    def _integrate(self, frame: Frame, depth: np.ndarray, *, visual: bool) -> None:
        """Take a frame into the map.

        Raises:
            PoseUnavailableError: `world_frame_changed` if its pose is not one in that map.
        """
        if self._world_frame and (frame.world_frame, visual) != (self._world_frame, self._visual):
            origin = {True: 'visual odometry', False: 'elsewhere'}
            raise PoseUnavailableError(
                f'the pose is in {frame.world_frame!r} and comes from {origin[visual]}, but those '
                f'of the map are in {self._world_frame!r} and from {origin[self._visual]}; reset '
                'the map after changing the source of poses',
                'world_frame_changed',
            )
        assert frame.T_world_camera is not None
        pose = frame.T_world_camera
        self._map.integrate(depth, frame.intrinsics, pose, frame.stamp_ns, self._base(frame))
        self._path.add(frame.stamp_ns, pose)
        self._world_frame, self._visual = frame.world_frame, visual

    def _base(self, frame: Frame) -> np.ndarray | None:
        """Position [3] of the robot in the world frame, or None where that is not known."""
        assert frame.T_world_camera is not None
        name = self.config.pose.base_frame
        if not name:
            return frame.T_world_camera[:3, 3]
        T_camera_base = frame.transforms.get(name)
        return None if T_camera_base is None else (frame.T_world_camera @ T_camera_base)[:3, 3]

    def _tracked(self, frame: Frame, depth: np.ndarray) -> tuple[Frame, Motion | None]:
        """What visual odometry makes of a frame, and the frame where that is the one to place it.

        A pose from elsewhere counts more: then only the tracks of features are of use, since their
        parallax over poses in metres tells the scale of the depth.

        Raises:
            PoseUnavailableError: `repeated_stamp` for a frame to place that has the stamp of the
                one before: where the camera has moved since, nobody knows.
        """
        visual = frame.T_world_camera is None and bool(frame.world_frame)
        if visual and self._odometry.camera not in (None, frame.intrinsics):
            _log.warning('the camera changed: odometry, and with it the maps, start over')
            self._start_over()
        if visual and self._odometry.stamp_ns == frame.stamp_ns:
            raise PoseUnavailableError(
                'the image has the stamp of the one before; make the driver stamp each image by '
                'the time it was taken, or let /clock go on',
                'repeated_stamp',
            )
        estimated = self._scale is not None and not self.config.scale.constant
        measures = frame.T_world_camera is not None and estimated
        if not (visual or measures):
            return frame, None
        base = self.config.pose.base_frame if visual else ''
        T_camera_base = frame.transforms.get(base)
        if base and T_camera_base is None and not self._world_frame:
            return frame, None  # the world shall be level by it
        if visual and not self._world_frame and self._scale_is_settling(frame):
            return frame, None
        factor = self.config.scale.constant or 1.0
        if self._estimate is not None and (not visual or self._knows_metres(frame)):
            factor = self._estimate.bias
        level = None if T_camera_base is None else inverse(T_camera_base)
        motion = self._odometry.register_frame(
            frame.image, depth * np.float32(factor), frame.intrinsics, frame.stamp_ns, level
        )
        if not visual and motion.state == 'lost':
            self._odometry.reset()  # its keyframes lie behind, and only tracks are asked for
        if visual:
            frame = frame.placed(motion.T_odom_camera, frame.world_frame)
        else:
            assert frame.T_world_camera is not None
            self._watch_jumps(frame.stamp_ns, frame.T_world_camera)
            if motion.keyframe:
                self._keyframe = (frame.stamp_ns, frame.T_world_camera)
        return frame, motion

    def _watch_jumps(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """After a jump, as of a localisation that corrects itself, the past tells no scale.

        Neither do tracks before the next keyframe.
        """
        before_ns, before = self._placed
        moved = float(np.linalg.norm(T_world_camera[:3, 3] - before[:3, 3]))
        if moved > self.config.odometry.max_speed * (stamp_ns - before_ns) * 1e-9:
            _log.warning('the pose jumped by %.2f m; the map is continued where it says', moved)
            self._keyframe = (-1, np.eye(4))
            if self._scale is not None:
                self._scale.forget_places()
        self._placed = (stamp_ns, T_world_camera)

    def _knows_metres(self, frame: Frame) -> bool:
        """Whether something else than predicted depth says how long a metre is.

        If nothing does, visual odometry takes the depth as predicted, averages its scale over many
        images better than anything, and is to the scale of the depth what metric poses are.
        """
        config = self.config.scale
        known = config.camera_height > 0 or config.constant > 0
        return known or config.floor_frame in frame.transforms or frame.depth is not None

    def _scale_is_settling(self, frame: Frame) -> bool:
        """Whether odometry shall wait for the metres it will be in, a second at most."""
        if self._scale is None or self.config.scale.constant > 0 or not self._knows_metres(frame):
            return False
        self._settling_ns = self._settling_ns or frame.stamp_ns
        waited = frame.stamp_ns - self._settling_ns
        sure = self._estimate is not None and self._estimate.bias_variance < _SETTLED_STD**2
        return not sure and waited < _SETTLING_NS

    def _estimate_scale(
        self, frame: Frame, depth: np.ndarray, motion: Motion | None, *, metric: bool
    ) -> None:
        """Factor of the depth of a frame; `metric` says that its pose does not stem from depth."""
        if self._scale is None:
            return
        tracks = None if motion is None else motion.tracks
        if metric and tracks is not None:
            assert frame.T_world_camera is not None
            stamp_ns, T_world_keyframe = self._keyframe
            T_keyframe_camera = inverse(T_world_keyframe) @ frame.T_world_camera
            known = tracks.keyframe_stamp_ns == stamp_ns
            tracks = replace(tracks, T_keyframe_camera=T_keyframe_camera) if known else None
        floor = self._floor(frame)
        self._estimate = self._scale.update(
            frame.stamp_ns,
            depth,
            frame.intrinsics,
            T_world_camera=frame.T_world_camera,
            pose_is_metric=metric or not self._knows_metres(frame),
            tracks=tracks,
            sensor_depth=frame.depth,
            height=None if floor is None else floor.height,
            up=None if floor is None else floor.up,
        )

    def _floor(self, frame: Frame) -> FloorGeometry | None:
        """What `scale.floor_frame` says, if it lies below the camera."""
        T_camera_floor = frame.transforms.get(self.config.scale.floor_frame)
        if T_camera_floor is None:
            return None
        height = float(inverse(T_camera_floor)[2, 3])
        return FloorGeometry(T_camera_floor[:3, 2], height) if 0 < height < math.inf else None

    def _geometry(self, frame: Frame) -> FloorGeometry | None:
        """What the network is told: gravity and height, or nothing.

        To be asked before visual odometry places the frame: what stems from predicted depth would
        confirm itself. Where this comes and goes the metres of the network step; to `ScaleFilter`
        that is an error of the frame, which with poses what was seen before corrects.
        """
        height, pose = self.config.scale.camera_height, frame.T_world_camera
        floor = self._floor(frame)
        if floor is None and height > 0 and pose is not None:
            up = up_from_pose(pose)
            floor = None if up is None else FloorGeometry(up, height)
        return floor if floor is not None and floor.height >= MIN_HEIGHT else None

    def _may_fuse(self, frame: Frame) -> bool:
        """Whether a frame is due for fused Gaussians; what odometry has yet to place may be."""
        if self._fused is None:
            return False
        if frame.T_world_camera is None:
            return bool(frame.world_frame)
        return self._keyframes.is_due(frame.stamp_ns, frame.T_world_camera)

    def _fuse(self, frame: Frame, gaussians: Gaussians, depth: np.ndarray) -> None:
        """Take a keyframe into the fused maps."""
        pose = frame.T_world_camera
        assert pose is not None
        fused, surface = self._fused, self._surface
        if (fused is None and surface is None) or not self._keyframes.is_due(frame.stamp_ns, pose):
            return
        if fused is not None:
            fused.integrate(gaussians, depth, frame.intrinsics, pose)
        if surface is not None:
            surface.integrate(frame.image, depth, frame.intrinsics, pose)
        self._keyframes.note(frame.stamp_ns, pose)

    def _render(
        self,
        names: Iterable[str],
        latest: tuple[Frame, Gaussians, bool],
        wanted: Collection[str],
        request: tuple[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, View], dict[str, PoseUnavailableError]]:
        """Views by name, and why others cannot be placed."""
        frame = latest[0]
        views: dict[str, View] = {}
        unplaced: dict[str, PoseUnavailableError] = {}
        for name in names:
            config, viewpoint = self.config.views[name], self._viewpoints[name]
            parent, pose = request or (viewpoint.frame, viewpoint.pose(frame.stamp_ns))
            try:
                T_camera_parent, parent = locate(frame, parent)
                scene, T_scene_camera, observers = self._scene(config.source, *latest)
            except PoseUnavailableError as error:
                unplaced[name] = error
                continue
            T_scene_view = T_scene_camera @ T_camera_parent @ pose
            views[name] = render_view(
                scene,
                viewpoint.intrinsics,
                Placement(parent, pose, viewpoint.fixed, T_scene_view),
                observers,
                config,
                with_depth=VIEW + name + VIEW_DEPTH in wanted,
            )
        return views, unplaced

    def _scene(
        self, source: str, frame: Frame, gaussians: Gaussians, mapped: bool
    ) -> tuple[Gaussians, np.ndarray, np.ndarray]:
        """Gaussians to look at, `T_scene_camera`, and [K, 3] where they were observed from."""
        if source == 'frame':
            return gaussians, np.eye(4), np.zeros((1, 3))
        assert self._fused is not None
        if frame.T_world_camera is None or not mapped:
            raise PoseUnavailableError('the pose of the camera in the map is not known', 'no_pose')
        if not len(self._fused):
            raise PoseUnavailableError('no Gaussians are fused yet', 'map_empty')
        return self._fused.gaussians(), frame.T_world_camera, self._fused.viewpoints

    def _due(self, output: str, stamp_ns: int, rate_hz: float) -> bool:
        """Whether an output with a rate limit is due at this stamp; books the next time."""
        period_ns = int(1e9 / rate_hz)
        due_ns = self._due_ns.get(output, stamp_ns)
        if stamp_ns < due_ns - period_ns // 20:  # stamps jitter; 5 % early is on time
            return False
        self._due_ns[output] = max(due_ns + period_ns, stamp_ns)
        return True


def load_engine(
    model: ModelConfig, device: str, *, relative: bool = False
) -> tuple[Engine, ModelInfo]:
    """The model of a configuration, ready to run in the fastest way that passes the self-check.

    On a CPU ONNX Runtime runs nano, unless it is not installed or something else is asked for.

    Args:
        model: what is wanted.
        device: from `choose_device`.
        relative: whether a model without metres will do.

    Raises:
        ConfigError: if there is no such model, or it cannot run as configured.
        CheckpointError: if its weights cannot be loaded.
    """

    def load(*, onnx: bool) -> tuple[Engine, ModelInfo]:
        predictor, info = load_predictor(
            model.name,
            device,
            model.patch_batch,
            threads=model.threads,
            onnx=onnx,
            relative=relative,
        )
        return Engine(predictor, model), info

    free = model.execution == 'auto' and model.precision in ('auto', 'fp32') and device == 'cpu'
    if free and model.name == 'nano':
        try:
            engine, info = load(onnx=True)
            engine.prepare()
        except SharpError as error:
            level = logging.INFO if isinstance(error, ConfigError) else logging.WARNING
            _log.log(level, 'torch runs nano, which is slower: %s', error)
        else:
            return engine, info
    return load(onnx=model.execution == 'onnx')


def _predicted_depth(frame: Frame, gaussians: Gaussians) -> np.ndarray:  # -> [H, W]
    """Depth image of the visible surface, unknown where the image shows nothing."""
    depth = depth_from_gaussians(gaussians, frame.intrinsics.width, frame.intrinsics.height)
    return depth if frame.unseen is None else np.where(frame.unseen, np.float32(np.nan), depth)


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
