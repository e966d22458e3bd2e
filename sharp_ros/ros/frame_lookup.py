"""A decoded frame gets its pose and the transforms it needs, at the stamp of its image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import time

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.diagnostics import Health
from sharp_ros.ros.imu_source import ImuSource
from sharp_ros.ros.pose_sources import PoseSource
from sharp_ros.ros.range_source import RangeSource
from sharp_ros.ros.transforms import Transforms, TWO_PARENTS
from sharp_ros.viewpoints import CAMERA, WORLD
from sharp_ros.views import VIEW


class FrameLookup:
    """Looks up what belongs to a frame at its stamp; what is missing is counted and logged.

    Args:
        config: how long to wait, the tolerance, and the frames on the robot.
        poses: of the camera in the world.
        transforms: of tf.
        pipeline: knows the frames that views are placed in.
        health: is given what is missing.
        imu: of the robot, if there is one.
        ranger: likewise.
    """

    def __init__(
        self,
        config: SharpConfig,
        poses: PoseSource,
        transforms: Transforms,
        pipeline: Pipeline,
        health: Health,
        imu: ImuSource | None = None,
        ranger: RangeSource | None = None,
    ) -> None:
        self._imu, self._ranger = imu, ranger
        self._wait, self._tolerance = config.pose.wait, config.pose.tolerance
        self._on_robot = {config.pose.base_frame, config.scale.floor_frame}
        self._poses, self._transforms = poses, transforms
        self._pipeline, self._health = pipeline, health
        self.reconfigure(config)
        frames = {*pipeline.view_frames.values(), *self._on_robot}
        if frames - {CAMERA, WORLD, ''} or config.pose.publish_tf:
            transforms.listen()

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only."""
        self._offset_ns = round(config.pose.time_offset * 1e9)

    def complete(self, frame: Frame, wanted: Iterable[str], *, maps: bool) -> Frame:
        """The frame with its pose, and the transforms of frames on the robot and of views.

        Args:
            frame: as decoded.
            wanted: outputs, named as in `frame_result`.
            maps: whether a pose is expected, so that a missing one is logged.
        """
        end = time.monotonic() + self._wait  # of all lookups together
        try:
            moment_ns = frame.stamp_ns + self._offset_ns
            T_world_camera, world_frame = self._poses.lookup(moment_ns, frame.frame_id)
            frame = frame.placed(T_world_camera, world_frame)
        except PoseUnavailableError as error:
            self._health.not_mapped(error.reason, str(error), log=maps)
        needed = {f for n, f in self._pipeline.view_frames.items() if VIEW + n in wanted}
        odometry = self._poses.odometry
        mounting = None if odometry is None else odometry.mounting
        if mounting is not None:  # by the parameter, so it need not be in tf
            frame = replace(frame, transforms=dict([mounting]))
        frame = self._looked_up(frame, self._on_robot, 'Mapping', end)
        frame = self._with_range(self._with_up(frame, end), end)
        return self._looked_up(frame, needed - self._on_robot, 'Views', end)

    def _with_up(self, frame: Frame, end: float) -> Frame:
        if self._imu is None:
            return frame
        try:
            up = self._imu.up(frame, end)
        except InputError as error:
            self._health.report('Mapping', error.reason, f'no gravity from the IMU: {error}')
            return frame
        self._health.gravity(up.std)
        return replace(frame, up=up)

    def _with_range(self, frame: Frame, end: float) -> Frame:
        if self._ranger is None:
            return frame
        try:
            return replace(frame, range_reading=self._ranger.reading(frame, end))
        except InputError as error:
            self._health.report('Mapping', error.reason, f'no distance for the scale: {error}')
            return frame

    def with_parent(self, frame: Frame, parent: str) -> Frame:
        """The frame with the transform to the parent frame of a requested view."""
        return self._looked_up(frame, {parent}, 'Views', time.monotonic() + self._wait)

    def _looked_up(self, frame: Frame, names: set[str], component: str, end: float) -> Frame:
        found = dict(frame.transforms)
        for name in names - found.keys() - {'', CAMERA, WORLD, frame.frame_id, frame.world_frame}:
            try:
                wait = max(0.0, end - time.monotonic())
                found[name] = self._transforms.lookup(
                    frame.frame_id, name, frame.stamp_ns, wait, self._tolerance
                )
            except PoseUnavailableError as error:  # the views that need it are counted later
                if error.reason == TWO_PARENTS and component == 'Mapping' and frame.world_frame:
                    frame = frame.placed(None, '')  # where it stands on the robot is in doubt
                    self._health.not_mapped(error.reason, str(error))
                else:
                    self._health.warn(component, f'{error.reason}.{name}', str(error))
        return replace(frame, transforms=found) if found else frame
