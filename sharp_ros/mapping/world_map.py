"""The map of one world frame: occupancy, Gaussians, surface, path; integrate, state, restore.

All but the path is in coordinates from a local origin (`local_origin`): poses are taken to it in
`integrate`, `fuse`, `check_of_fit` and `local`, and what is returned says in which frame it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.gaussians import GaussianBlocks, Gaussians
from sharp_ros.mapping.fusion_schedule import FusionSchedule
from sharp_ros.mapping.gaussian_map import GaussianMap
from sharp_ros.mapping.keyframes import KeyframeStore
from sharp_ros.mapping.local_origin import LocalOrigin, OF_WORLD
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.map_fit import MapCheck
from sharp_ros.mapping.occupancy import OccupancyGrid2D, OccupancyMap
from sharp_ros.mapping.path import CameraPath
from sharp_ros.mapping.revision import DepthScale, Revision
from sharp_ros.mapping.surface_map import SurfaceMap

_ORIGIN = {True: 'visual odometry', False: 'elsewhere'}


class WorldMap:
    """Everything that is remembered of the world, in one frame and from one source of poses.

    Args:
        config: all settings.

    Attributes:
        frame: name of the world frame; empty while nothing is mapped.
        origin: of the coordinates of points and Gaussians; decided by the first frame.
    """

    def __init__(self, config: SharpConfig) -> None:
        self._config = config
        self._occupancy = OccupancyMap(config.occupancy)
        self._revision = Revision(self._occupancy, config.keyframe, config.scale.drift_std)
        self._gaussians = GaussianMap(config.gaussian_map) if config.gaussian_map.enabled else None
        self._surface = SurfaceMap(config.surface_map) if config.surface_map.enabled else None
        self._fusion = FusionSchedule(config.keyframe)
        self._keyframes = KeyframeStore(config.keyframe.keep_images)
        self._path = CameraPath()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        for part in (
            self._occupancy,
            self._revision,
            self._gaussians,
            self._surface,
            self._fusion,
            self._keyframes,
            self._path,
        ):
            if part is not None:
                part.reset()
        self.frame, self.origin = '', OF_WORLD
        self._visual = False  # whether own odometry placed its frames

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only."""
        self._config = config
        self._occupancy.config, self._fusion.config = config.occupancy, config.keyframe
        self._revision.spacing = config.keyframe

    def may_fuse(self, frame: Frame) -> bool:
        """Whether a frame is due for fused Gaussians; what odometry has yet to place may be."""
        if self._gaussians is None:
            return False
        if frame.T_world_camera is None:
            return bool(frame.world_frame)
        return self._fusion.is_due(frame.stamp_ns, frame.T_world_camera)

    def integrate(
        self,
        frame: Frame,
        depth: np.ndarray,
        *,
        visual: bool,
        scale: DepthScale | None = None,
        log_std: np.ndarray | None = None,
    ) -> None:
        """Take what is free and what is occupied from a frame; it may be fused, too, by `fuse`.

        Args:
            frame: with its pose.
            depth: [H, W] z-depth in metres; NaN where there is none.
            visual: whether the pose is that of visual odometry.
            scale: how well that of the depth is known; None: exactly, as of measured depth.
            log_std: as for `OccupancyMap.integrate`, of depth whose scale is given.

        Raises:
            PoseUnavailableError: `world_frame_changed` if its pose is not one in that map; then
                nothing has changed.
        """
        pose = frame.T_world_camera
        assert pose is not None
        self.check_source(frame, visual=visual)
        if not self.frame and self._config.pose.local_origin == 'auto':
            self.origin = LocalOrigin.near(pose[:3, 3])
        stamp_ns, local = frame.stamp_ns, self.origin.local(pose)
        given = (depth, frame.intrinsics, local, stamp_ns, self._base(frame, local))
        if scale is None:
            self._occupancy.integrate(*given)
        else:
            self._revision.integrate(*given, scale, log_std)
        self._path.add(stamp_ns, pose)
        self.frame, self._visual = frame.world_frame, visual

    def check_source(self, frame: Frame, *, visual: bool) -> None:
        """Refuse a pose that is not one in this map; see `integrate`."""
        if self.frame and (frame.world_frame, visual) != (self.frame, self._visual):
            raise PoseUnavailableError(
                f'the pose is in {frame.world_frame!r} and comes from {_ORIGIN[visual]}, but '
                f'those of the map are in {self.frame!r} and from {_ORIGIN[self._visual]}; reset '
                'the map after changing the source of poses',
                'world_frame_changed',
            )

    def check_of_fit(self) -> MapCheck:
        """What tells whether this map fits what is seen from poses that are `local`."""
        return MapCheck(self._occupancy)

    def local(self, frame: Frame) -> np.ndarray:  # -> [4, 4]
        """`T_local_camera` of a frame with a pose."""
        assert frame.T_world_camera is not None
        return self.origin.local(frame.T_world_camera)

    def fuse(self, frame: Frame, depth: np.ndarray, gaussians: Gaussians) -> None:
        """Take surface and Gaussians from a frame that was integrated, if that is due.

        Args:
            frame: with its pose.
            depth: as for `integrate`.
            gaussians: of the frame, in its optical frame; with covariances if `may_fuse`.
        """
        pose = frame.T_world_camera
        assert pose is not None
        if self._gaussians is None and self._surface is None:
            return
        if not self._fusion.is_due(frame.stamp_ns, pose):
            return
        local = self.local(frame)
        if self._gaussians is not None:
            self._gaussians.integrate(gaussians, depth, frame.intrinsics, local)
        if self._surface is not None:
            self._surface.integrate(frame.image, depth, frame.intrinsics, local)
        self._keyframes.add(frame, local)
        self._fusion.note(frame.stamp_ns, pose)

    def grid(self) -> OccupancyGrid2D:
        """The 2-D projection of the occupancy as it is now, in the world frame."""
        grid = self._occupancy.grid()
        return replace(grid, origin=self.origin.in_world(grid.origin))

    def points(self) -> np.ndarray:  # -> [N, 3]
        """Centres of occupied voxels from `origin`, float32, metres."""
        return self._occupancy.occupied_points()

    def clearing_points(
        self, frame: Frame, depth: np.ndarray, scale: DepthScale | None = None
    ) -> np.ndarray:  # [H, W] -> [M, 3]
        """Where rays end that met nothing in range, in the optical frame, metres.

        Args:
            frame: with its pose, if that is known.
            depth: as for `integrate`.
            scale: as for `integrate`.
        """
        std = 0.0 if scale is None else scale.std
        return self._occupancy.clearing_points(depth, frame.intrinsics, frame.T_world_camera, std)

    @property
    def fused_count(self) -> int | None:
        """Number of fused Gaussians; None if none shall be."""
        return None if self._gaussians is None else len(self._gaussians)

    def surface(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """As `SurfaceMap.point_cloud`, with points in the world frame; None if none shall be."""
        if self._surface is None:
            return None
        points, colors, normals = self._surface.point_cloud()
        return points + self.origin.position, colors, normals

    def fused(self) -> tuple[Gaussians, np.ndarray]:
        """Gaussians from `origin`, and [K, 3] positions there that they were observed from.

        Raises:
            PoseUnavailableError: `map_empty`.
        """
        fused = self._fused()
        return fused.gaussians(), fused.viewpoints

    def fused_blocks(self) -> tuple[GaussianBlocks, np.ndarray]:
        """As `fused`, but in blocks that are to be read before the next frame."""
        fused = self._fused()
        return fused.blocks(), fused.viewpoints

    def _fused(self) -> GaussianMap:
        assert self._gaussians is not None
        if not len(self._gaussians):
            raise PoseUnavailableError('no Gaussians are fused yet', 'map_empty')
        return self._gaussians

    def state(
        self, stamp_ns: int, odometry: Mapping[str, np.ndarray], about: Mapping[str, str]
    ) -> MapState:
        """All that the map holds, copied, so that any thread may save it.

        Args:
            stamp_ns: of the newest frame.
            odometry: state of visual odometry, kept where that has placed the frames.
            about: what else is worth knowing.

        Raises:
            InputError: `map_empty` if no frame has been mapped.
        """
        if not self.frame:
            raise InputError(
                'nothing is mapped yet: there was no image with a known pose; see pose.source',
                'map_empty',
            )
        self._revision.finish()
        stamps_ns, poses = self._path.arrays()
        return MapState(
            config=self._config,
            world_frame=self.frame,
            stamp_ns=stamp_ns,
            visual=self._visual,
            occupancy=self._occupancy.state(),
            gaussians=None if self._gaussians is None else self._gaussians.state(),
            surface=None if self._surface is None else self._surface.state(),
            odometry=odometry if self._visual else None,
            path_stamps_ns=stamps_ns,
            path=poses,
            about=about,
            origin=self.origin,
            keyframes=self._keyframes.kept,
        )

    @classmethod
    def restored(cls, config: SharpConfig, state: MapState) -> WorldMap:
        """The map that a state was taken from.

        Raises:
            InputError: `bad_map` if it does not fit the configuration.
        """
        world = cls(config)
        world._occupancy.restore(state.occupancy)
        if world._gaussians is not None and state.gaussians is not None:
            world._gaussians.restore(state.gaussians)
        if world._surface is not None and state.surface is not None:
            world._surface.restore(state.surface)
        for stamp_ns, pose in zip(state.path_stamps_ns, state.path, strict=True):
            world._path.add(int(stamp_ns), pose)
        world.frame, world._visual = state.world_frame, state.visual
        world.origin = state.origin
        return world

    def _base(self, frame: Frame, T_local_camera: np.ndarray) -> np.ndarray | None:
        """Position [3] of the robot from `origin`, or None where that is not known."""
        name = self._config.pose.base_frame
        if not name:
            return T_local_camera[:3, 3]
        T_camera_base = frame.transforms.get(name)
        return None if T_camera_base is None else (T_local_camera @ T_camera_base)[:3, 3]
