"""One frame from image to map and views: the steps in their order, here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
import logging

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.engine import choose_device, Engine
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.frame_result import (
    BegunFrame,
    CLEARING,
    FrameResult,
    GAUSSIANS,
    MAP_POINTS,
    OCCUPANCY,
    POINTS,
)
from sharp_ros.image_content import ContentCheck
from sharp_ros.loading import load_engine
from sharp_ros.localization.localized import Localized
from sharp_ros.localization.localizer import Localizer
from sharp_ros.mapper import Mapper
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.map_fit import MapFit
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.mapping.verdict import Verdict
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.models import ModelInfo
from sharp_ros.point_cloud import clean_depth, organised_cloud
from sharp_ros.rasterizer import backend
from sharp_ros.se3 import checked_pose
from sharp_ros.snapshot import Snapshot, Snapshots
from sharp_ros.stopwatch import Stopwatch
from sharp_ros.views import Seen, VIEW, View, VirtualCameras
from sharp_ros.warm_up import warm_up_frame

_log = logging.getLogger(__name__)


class Pipeline:
    """Owns the engine and the map; only one thread may touch it.

    Args:
        engine: ready to predict.
        info: what the engine runs, in metres; see `relative_pipeline` for other models.
        config: all settings.
        device: where the engine runs, for reports.
    """

    def __init__(
        self, engine: Engine, info: ModelInfo, config: SharpConfig, device: str = 'cpu'
    ) -> None:
        self.engine, self.info, self.config, self.device = engine, info, config, device
        self._check: ContentCheck | None = ContentCheck(measured=info.needs_depth)
        self._localizer = Localizer(config, estimates_scale=not info.needs_depth)
        self._mapper = Mapper(config)
        self._views = VirtualCameras(config.views)
        self._snapshots = Snapshots()

    @classmethod
    def from_config(cls, config: SharpConfig) -> Pipeline:
        """Build every part, loading the weights; `load_any_pipeline` does for any model.

        Raises:
            ConfigError: if the model or the device does not exist, or has no metres.
            CheckpointError: if the weights cannot be loaded.
        """
        device = choose_device(config.model.device)
        return cls(*load_engine(config.model, device), config, device)

    def take_any_image(self) -> None:
        """Predict whatever an image shows, as of a photograph that somebody chose."""
        self._check = None

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Run every step once on a pattern, so that the first real frame is not the slow one.

        Kernels are compiled here, the first time on a machine; later they come from a cache on
        disk.
        """
        views = (VIEW + name for name in self.config.views)
        self.begin_snapshot()
        frame = warm_up_frame(intrinsics)
        self.process(frame, {POINTS, GAUSSIANS, OCCUPANCY, MAP_POINTS, CLEARING, *views})
        with suppress(InputError):  # a network may see nothing in it
            self.take_snapshot().cloud()
        self.reset()

    def reset(self) -> None:
        """Forget the maps, the path, the scale and every schedule."""
        self._mapper.reset()
        self._forget()

    def _forget(self) -> None:
        """Forget all but the map."""
        if self._check is not None:
            self._check.reset()
        self._localizer.reset()
        self._views.reset()

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only (`config.frozen_changes`).

        Raises:
            ConfigError: if a virtual camera looks nowhere; then nothing has changed.
        """
        self._views.reconfigure(config.views)
        self._localizer.reconfigure(config)
        self._mapper.reconfigure(config)
        self.config = config

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
            wanted: outputs with subscribers: `points`, `gaussians`, `occupancy_grid`,
                `map_points`, `clearing_points`, `view/<name>`, `view/<name>/depth`. The depth of
                the image is always there, since the rest is made from it.

        Raises:
            InputError: `bad_pose` if the pose is not finite or not rigid; one of `ContentCheck` if
                the image shows nothing, or nothing new.
            EngineError: if the network cannot be run.
        """
        clock = Stopwatch()
        if frame.T_world_camera is not None:
            checked_pose(frame.T_world_camera)  # nothing shall be learnt from such a frame
        # Does the image show anything, and does its pose agree with gravity?
        objection = self._objection(frame)
        clock.lap('content')
        # What is known of gravity and height makes the network's metres better.
        floor = self._localizer.floor(frame)
        pending = self.engine.submit(frame.image, frame.intrinsics, frame.depth, floor)
        return BegunFrame(frame, frozenset(wanted), pending, clock, objection)

    def _objection(self, frame: Frame) -> InputError | None:
        """Why nothing may be learnt from a frame; see `ContentCheck` and `contradiction`."""
        try:
            objection = None if self._check is None else self._check(frame)
        except InputError as error:
            self._mapper.pass_over(frame.stamp_ns, error.reason)
            raise
        return objection or self._localizer.gravity_objection(frame)

    def finish(self, begun: BegunFrame) -> FrameResult:
        """Run all steps that follow the network.

        Raises:
            InputError: if the frame cannot be used.
            EngineError: if the network cannot be run.
        """
        frame, wanted, clock = begun.frame, begun.wanted, begun.clock
        # What is known is of no use after a jump in time, or for another camera.
        self._start_over_if_needed(frame)
        # What the network, or the depth sensor, says. Few need the covariances of the network.
        due = self._views.take_due(frame.stamp_ns, wanted)
        covariances = bool(due) or self._needs_covariances(frame, wanted)
        gaussians, depth = begun.predicted(covariances, measured=self.info.needs_depth)
        # Where is the camera? An image that shows nothing does not say.
        tracked = self._localizer.track(frame, depth, clock, begun.objection)
        # How long is a metre?
        localized = self._localizer.observe(tracked, depth, clock)
        frame, gaussians, depth = localized.frame, *localized.to_metres(gaussians, depth)
        # What of the depth can be believed.
        depth = clean_depth(depth, self.config.point_cloud)
        clock.lap('depth')
        cloud = organised_cloud(depth, frame.image, frame.intrinsics) if POINTS in wanted else None
        clock.lap('points')
        # A map that was loaded takes its place if it fits what is seen.
        loaded = self._check_loaded(localized, depth)
        clock.lap('check')
        # The map, where the pose is known, and the snapshot, while one is under way.
        unmapped = self._mapper.integrate(localized, depth, gaussians, clock)
        if begun.objection is None:
            self._snapshots.add(frame, depth)
        # What virtual cameras see.
        seen = Seen(frame, gaussians, frame.T_world_camera is not None and unmapped is None)
        views, unplaced = self._views.render(due, seen, self._mapper.world, wanted)
        clock.lap('views')
        # What the map looks like now.
        map_outputs = self._mapper.outputs(localized, depth, wanted, mapped=seen.mapped)
        clock.lap('grid')
        return FrameResult(
            frame=frame,
            gaussians=gaussians,
            depth=depth,
            cloud=cloud,
            views=views,
            unplaced=unplaced,
            mapped=seen.mapped,
            unmapped=unmapped,
            scale=localized.scale,
            motion=localized.motion,
            loaded=loaded,
            timings_ms=self._timings(clock),
            **map_outputs,
        )

    def survey(self, frames: Iterable[Frame]) -> None:
        """Look at a whole recording for its level and floor, so that all of it can be mapped.

        Then the pipeline is as new, but knows the level of the world of visual odometry, if the
        same frames come again.

        Args:
            frames: with poses where these come from elsewhere; then there is nothing to be found.

        Raises:
            PoseUnavailableError: `floor_not_found`, with what would help.
        """
        self.reset()
        self._localizer.level.surveys = True
        try:
            for frame in frames:
                with suppress(InputError):  # which is told of when it is to be mapped
                    self.process(frame, ())
            level = self._localizer.level.surveyed()
        finally:
            self._localizer.level.surveys = False
            self.reset()
        self._localizer.level.start_at(level)

    def _start_over_if_needed(self, frame: Frame) -> None:
        why = self._localizer.why_start_over(frame)
        if why:
            _log.warning('%s', why)
            self._mapper.start_over()
            self._forget()

    def _needs_covariances(self, frame: Frame, wanted: Collection[str]) -> bool:
        """Whether anybody but the views that are due needs the shape of the Gaussians."""
        asked = GAUSSIANS in wanted or bool(self._views.on_request(wanted))
        return asked or self._mapper.world.may_fuse(frame)

    def _check_loaded(
        self, localized: Localized, depth: np.ndarray
    ) -> MapFit | PoseUnavailableError | None:
        """See `Mapper.check_loaded`; of a map that is taken all views are due."""
        before = self._mapper.world
        loaded = self._mapper.check_loaded(localized, depth)
        if self._mapper.world is not before:
            self._views.reset()
        return loaded

    def _timings(self, clock: Stopwatch) -> dict[str, float]:
        stages = {f'network.{name}': ms for name, ms in self.engine.timings_ms.items()}
        return {**clock.laps, **stages}

    @property
    def rasterizer(self) -> str:
        """What renders the views; see `rasterizer.backend`."""
        return backend(self.device)

    @property
    def view_frames(self) -> dict[str, str]:
        """The frame each view is placed in, as configured; those of requests come with them."""
        return self._views.frames

    @property
    def latest(self) -> Frame:
        """The frame that a requested view would show.

        Raises:
            InputError: `no_frame_yet`.
        """
        return self._views.latest

    def render_request(
        self, parent: str, T_parent_view: np.ndarray, frame: Frame, wanted: Collection[str]
    ) -> tuple[dict[str, View], dict[str, PoseUnavailableError]]:
        """Render the views of placement `request`; see `VirtualCameras.render_request`."""
        world = self._mapper.world
        return self._views.render_request(parent, T_parent_view, frame, world, wanted)

    @property
    def world_frame(self) -> str:
        """Frame of the maps; empty while they are."""
        return self._mapper.world.frame

    def grid(self) -> OccupancyGrid2D:
        """The 2-D projection of the map as it is now."""
        return self._mapper.world.grid()

    def map_points(self) -> np.ndarray:  # -> [N, 3]
        """Centres of occupied voxels in the world frame as they are now, metres."""
        return self._mapper.world.points()

    def map_state(self) -> MapState:
        """All that the maps hold, copied, so that any thread may save it.

        Raises:
            InputError: `map_empty` if no frame has been mapped.
        """
        info = self.info
        about = {'model': info.name, 'description': info.description, 'licence': info.licence}
        localizer = self._localizer
        return self._mapper.state(localizer.stamp_ns, localizer.odometry_state(), about)

    def verdict(self) -> Verdict:
        """How far the map can be believed as it is now."""
        return self._mapper.verdict()

    def pass_over(self, stamp_ns: int, reason: str) -> None:
        """Note an image that was not worth processing, which leaves a hole in the map.

        Args:
            stamp_ns: of the image.
            reason: short snake_case key.
        """
        self._mapper.pass_over(stamp_ns, reason)

    def restore(self, state: MapState) -> None:
        """Go on with a saved map in place of the present one.

        Visual odometry looks for the camera in the images of the map before it goes on. Poses from
        elsewhere must be those of the same world, from the same source, in the same frame; so then
        the map is first held against what is seen (`checks_loaded_map`), and the present one goes
        on until it is found to fit (`FrameResult.loaded`).

        Raises:
            InputError: `bad_map` if the map does not fit the configuration; then nothing changed.
                `relative_model` if this model makes no maps.
        """
        world = WorldMap.restored(self.config, state)
        if not state.visual:
            self._mapper.load(world)
            return
        localizer = Localizer(self.config, estimates_scale=not self.info.needs_depth)
        localizer.restore(state.odometry)
        self.reset()
        self._localizer = localizer
        self._mapper.replace(world)

    @property
    def checks_loaded_map(self) -> bool:
        """Whether a map was loaded of which it is not known yet whether it fits."""
        return self._mapper.checks_loaded

    def begin_snapshot(self) -> None:
        """Collect the next frames for a snapshot, in place of one under way.

        Raises:
            InputError: `relative_model` if this model sees no metres.
        """
        self._snapshots.begin(self.config.snapshot)

    @property
    def snapshot_is_complete(self) -> bool:
        """Whether `take_snapshot` would gain nothing from waiting."""
        return self._snapshots.complete

    def take_snapshot(self) -> Snapshot:
        """Hand over the frames since `begin_snapshot`, which any thread may join."""
        return self._snapshots.take()
