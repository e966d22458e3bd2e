"""How the world of visual odometry gets level: by the robot, an IMU, a survey, or the floor."""

from __future__ import annotations

from dataclasses import dataclass
import logging

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.localization.gravity import level_from_up, levelled
from sharp_ros.localization.gravity_check import sure_up
from sharp_ros.localization.level import floor_not_found, Level, LevelEstimator
from sharp_ros.se3 import inverse

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where visual odometry begins.

    Attributes:
        T_level_camera: [4, 4] pose of the camera in the frame that it shall start in; None where
            odometry has to guess it.
        is_level: whether that makes its world level for good, floor included.
    """

    T_level_camera: np.ndarray | None
    is_level: bool = False


@dataclass(frozen=True)
class Survey:
    """The level of a recording that was looked through.

    Attributes:
        stamp_ns: of the first frame that odometry placed, nanoseconds.
        T_level_camera: [4, 4] pose of that frame in a level world.
        doubt: why that is a rough one; empty if it is not.
    """

    stamp_ns: int
    T_level_camera: np.ndarray
    doubt: str = ''


class WorldLevel:
    """Looks for level and floor until they are known; from then on that world is fixed.

    It is put right once, when its level can be relied on, and before anything is mapped, since no
    planner can follow a moving map. What is seen before is not mapped later: to catch up would
    hold up the frames to come.

    Attributes:
        config: all settings, which may be replaced between two frames by `reconfigure`.
        is_known: whether the world of visual odometry is level.
        surveys: whether it goes on looking for the floor, however well that is known.
        doubt: why the level that a survey found is a rough one; empty if it is not.
    """

    def __init__(self, config: SharpConfig) -> None:
        self.config, self.surveys = config, False
        self.reset()

    def reset(self) -> None:
        """Know nothing."""
        self.is_known = False
        self._estimator = LevelEstimator(self.config.scale.camera_height)
        self._first: tuple[int, np.ndarray] | None = None  # frame of odometry: stamp and pose
        self._surveyed: Survey | None = None
        self.doubt = ''

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only."""
        self.config = config
        self._estimator.know_height(config.scale.camera_height)

    def start(self, frame: Frame, depth: np.ndarray, T_camera_base: np.ndarray | None) -> Start:
        """Where visual odometry shall begin, as far as that is known.

        Origin and heading are those of the robot's frame; an IMU knows better what is up.

        Args:
            frame: the first one.
            depth: [H, W] z-depth of it, metres.
            T_camera_base: [4, 4] of the robot's frame, where that makes the world level.
        """
        up = sure_up(frame)
        if T_camera_base is not None:  # the floor is that of the robot
            pose = inverse(T_camera_base)
            return Start(pose if up is None else levelled(pose, up), is_level=True)
        if self._surveyed is not None and self._surveyed.stamp_ns == frame.stamp_ns:
            return Start(self._surveyed.T_level_camera, is_level=True)
        return Start(None if up is None else level_from_up(up, depth, frame.intrinsics))

    def correction(
        self, frame: Frame, depth: np.ndarray, T_odom_camera: np.ndarray
    ) -> np.ndarray:  # [H, W], [4, 4] -> [4, 4]
        """`T_level_odom`, which makes the world level, once that can be relied on.

        Args:
            frame: that odometry has placed.
            depth: of it, metres.
            T_odom_camera: its pose.

        Raises:
            PoseUnavailableError: `floor_not_found`, with what would help.
        """
        if self._first is None:
            self._first = (frame.stamp_ns, T_odom_camera)
        self._estimator.observe(depth, frame.intrinsics, T_odom_camera)
        if frame.up is not None:
            self._estimator.observe_up(frame.up.direction, frame.up.std, T_odom_camera)
        level = self._estimator.level
        if level.doubt or self.surveys:
            raise self._not_found(level)
        self.is_known = True
        _log.info('the floor was found, %.1f m² of it; the map begins', level.extent)
        first = self._first[1]
        return level.pose(first) @ inverse(first)

    def surveyed(self) -> Survey | None:
        """What a survey found; a rough level will do, since there is no more to see.

        Returns:
            None where the level is known from elsewhere, or nothing was to be placed.

        Raises:
            PoseUnavailableError: `floor_not_found`.
        """
        if self.is_known or self._first is None:
            return None
        level = self._estimator.level
        if level.doubt and not level.is_rough:
            raise self._not_found(level)
        stamp_ns, T_odom_camera = self._first
        return Survey(stamp_ns, level.pose(T_odom_camera), level.doubt)

    def start_at(self, surveyed: Survey | None) -> None:
        """Take the level that `surveyed` gave, if the first frame is the same again."""
        self._surveyed = surveyed
        self.doubt = '' if surveyed is None else surveyed.doubt

    def _not_found(self, level: Level) -> PoseUnavailableError:
        settings = {
            'pose.base_frame': self.config.pose.base_frame,
            'scale.camera_height': self.config.scale.camera_height,
            'imu.enabled': self.config.imu.enabled,
        }
        return floor_not_found(level, [key for key, value in settings.items() if not value])
