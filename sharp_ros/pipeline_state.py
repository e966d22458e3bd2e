"""What a pipeline holds from frame to frame, and what is asked of it, or changed, between two."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
import logging

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.image_content import ContentCheck
from sharp_ros.localization.localizer import Localizer
from sharp_ros.mapper import Mapper
from sharp_ros.mapping.local_origin import LocalOrigin
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.mapping.verdict import Verdict
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.models import ModelInfo
from sharp_ros.rasterizer import backend
from sharp_ros.refinement import MotionRefinement
from sharp_ros.robot_body import RobotBody, settings_of
from sharp_ros.snapshot import Snapshot, Snapshots
from sharp_ros.viewpoints import viewpoints
from sharp_ros.views import View, VirtualCameras

_log = logging.getLogger(__name__)


class PipelineState:
    """Owns the engine, the localizer, the map, the views and the snapshot.

    Args:
        engine: ready to predict.
        info: what the engine runs, in metres; see `relative_pipeline` for other models.
        config: all settings.
        device: where the engine runs, for reports.

    Raises:
        ConfigError: if the mask of the robot cannot be used.
    """

    def __init__(
        self, engine: Engine, info: ModelInfo, config: SharpConfig, device: str = 'cpu'
    ) -> None:
        self.engine, self.info, self.config, self.device = engine, info, config, device
        self._body = self._next_body = RobotBody(config)
        self._newest: Frame | None = None  # as it came
        self._check: ContentCheck | None = ContentCheck(measured=info.needs_depth)
        self._localizer = Localizer(config, estimates_scale=not info.needs_depth)
        self._refinement = MotionRefinement(config.refinement, predicts=not info.needs_depth)
        self._mapper = Mapper(config)
        self._views = VirtualCameras(config.views)
        self._snapshots = Snapshots()

    def take_any_image(self) -> None:
        """Predict whatever an image shows, as of a photograph that somebody chose."""
        self._check = None

    def reset(self) -> None:
        """Forget the maps, the path, the scale and every schedule."""
        self._mapper.reset()
        self._forget()

    def _forget(self) -> None:
        """Forget all but the map."""
        if self._check is not None:
            self._check.reset()
        self._localizer.reset()
        self._refinement.reset()
        self._views.reset()

    @property
    def masked_share(self) -> float | None:
        """What `camera.mask` hides of the newest image, 0 to 1; None before it, or without one."""
        return self._body.share

    @contextmanager
    def _bodiless(self) -> Iterator[None]:
        """For an image that is none of the camera, and may be of another size."""
        body, self._body = self._body, RobotBody(SharpConfig())
        try:
            yield
        finally:
            self._body, self._newest = body, None

    def check(self, config: SharpConfig) -> None:
        """Refuse settings that `reconfigure` could not go on with; any thread may.

        Raises:
            ConfigError: if a virtual camera looks nowhere, or the mask of the robot cannot be
                used.
            InputError: `bad_mask` if that does not fit the newest image.
        """
        viewpoints(config.views)
        if settings_of(config) == self._next_body.settings:
            return
        body, newest = RobotBody(config), self._newest
        if newest is not None:
            body.hidden(newest)
        self._next_body = body

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only (`config.frozen_changes`).

        Raises:
            ConfigError: as of `check`; then nothing has changed.
        """
        self.check(config)
        self._body = self._next_body
        self._views.reconfigure(config.views)
        self._localizer.reconfigure(config)
        self._refinement.reconfigure(config.refinement)
        self._mapper.reconfigure(config)
        self.config = config

    def _start_over_if_needed(self, frame: Frame) -> None:
        why = self._localizer.why_start_over(frame)
        if why:
            _log.warning('%s', why)
            self._mapper.start_over()
            self._forget()

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
        """Centres of occupied voxels from `map_origin` as they are now, metres."""
        return self._mapper.world.points()

    @property
    def map_origin(self) -> LocalOrigin:
        """Of the coordinates of the map in its world."""
        return self._mapper.world.origin

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
