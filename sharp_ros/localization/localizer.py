"""Given a frame and its depth: where is the camera, and how long is a metre?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import logging
import math

import numpy as np

from sharp_ros.camera import FloorGeometry, Frame, JITTER_NS
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.gravity import level_from_up, levelled
from sharp_ros.localization.gravity_check import contradiction, sure_up
from sharp_ros.localization.level import floor_not_found, Level, LevelEstimator
from sharp_ros.localization.odometry import Motion, Tracks, VisualOdometry
from sharp_ros.localization.scale_anchors import floor_below, known_up
from sharp_ros.localization.scale_filter import ScaleEstimate, ScaleFilter
from sharp_ros.mapping.revision import DepthScale
from sharp_ros.network.nano import MIN_HEIGHT
from sharp_ros.se3 import inverse
from sharp_ros.stopwatch import Stopwatch

_SETTLING_NS, _SETTLED_STD = 1_000_000_000, 0.05  # see `Localizer._is_settling`
_LEVELLING_NS = 3_000_000_000  # likewise
# Of the logarithm of the metre of own odometry that has none but that of its network, which no
# frame can tell: what averaging over many images leaves. In three simulated rooms and a recorded
# one the depth of nano was 3 to 7 % off by that.
_OWN_METRE_STD = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Localized:
    """A frame with its place and its metre.

    Attributes:
        frame: with the pose of visual odometry, where that was asked for it.
        scale: factor that predicted depth is to be multiplied by; None for measured depth.
        motion: of visual odometry, where it was asked for the pose.
        visual: whether the pose, if there is one, is that of visual odometry.
        unplaced: why visual odometry did not place the frame, where `motion` does not say it, or
            why the frame, wherever it is, may not be mapped.
        metre_std: standard deviation of the logarithm of the metre that poses and depth share;
            `scale` does not hold it, since no frame can tell.
    """

    frame: Frame
    scale: ScaleEstimate | None
    motion: Motion | None
    visual: bool
    unplaced: PoseUnavailableError | InputError | None = None
    metre_std: float = 0.0

    @property
    def depth_scale(self) -> DepthScale | None:
        """How well the scale of the depth in metres is known; None for measured depth."""
        scale = self.scale
        if scale is None:
            return None
        bias_std = math.sqrt(scale.bias_variance)
        std = math.sqrt(scale.log_variance + self.metre_std**2)
        return DepthScale(std, math.log(scale.bias), bias_std)

    def to_metres(
        self, gaussians: Gaussians, depth: np.ndarray
    ) -> tuple[Gaussians, np.ndarray]:  # [H, W] -> [H, W]
        """Gaussians and depth of the frame, as predicted, in metres."""
        if self.scale is None:
            return gaussians, depth
        return gaussians.scaled(self.scale.value), depth * np.float32(self.scale.value)


class Localizer:
    """Own odometry and the scale of predicted depth, which need each other.

    Args:
        config: all settings.
        estimates_scale: whether depth is predicted, so that its scale is to be found.

    Attributes:
        surveys: whether it goes on looking for the floor, however well that is known.
    """

    def __init__(self, config: SharpConfig, *, estimates_scale: bool) -> None:
        self._config = config
        self._filter = ScaleFilter(config.scale) if estimates_scale else None
        self._odometry = VisualOdometry(config.odometry)
        self.surveys = False
        self.reset()

    def reset(self) -> None:
        """Forget the path and the scale."""
        if self._filter is not None:
            self._filter.reset()
        self._odometry.reset()
        self._stamp_ns: int | None = None  # of the newest frame
        self._estimate: ScaleEstimate | None = None  # of that frame
        self._waiting_ns: int | None = None  # stamp of the first frame that waited for the scale
        self._placed_any = False
        # While the level of the world of visual odometry is not known: what is known of it.
        self._level: LevelEstimator | None = LevelEstimator(self._config.scale.camera_height)
        # stamp and pose of the first frame that it placed, and its pose as a survey found it
        self._first: tuple[int, np.ndarray] | None = None
        self._surveyed: tuple[int, np.ndarray] | None = None
        # stamps and poses [4, 4] that come from elsewhere: the newest, and that of the tracks
        self._given: tuple[int, np.ndarray] | None = None
        self._keyframe: tuple[int, np.ndarray] | None = None

    @property
    def stamp_ns(self) -> int:
        """Of the newest frame, nanoseconds; 0 before the first."""
        return self._stamp_ns or 0

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only."""
        self._config = config
        if self._filter is not None:
            self._filter.config = config.scale
        if self._level is not None:
            self._level.know_height(config.scale.camera_height)

    def odometry_state(self) -> dict[str, np.ndarray]:
        """What `restore` goes on from, copied."""
        return self._odometry.state()

    def restore(self, odometry: Mapping[str, np.ndarray] | None) -> None:
        """Start over in the world of a saved map, in whose keyframes the camera is looked for.

        Args:
            odometry: as `odometry_state` gave it; None for poses from elsewhere.

        Raises:
            InputError: `bad_map` if it is damaged; everything is then forgotten.
        """
        self.reset()
        if odometry is not None:
            self._odometry.restore(odometry)
        self._placed_any = True
        self._level = None  # that world is level

    def surveyed_level(self) -> tuple[int, np.ndarray] | None:
        """Stamp of the first frame that was placed, and `T_level_camera` [4, 4] of it.

        Returns:
            None where the level is given by tf, or nothing was to be placed.

        Raises:
            PoseUnavailableError: `floor_not_found`.
        """
        if self._level is None or self._first is None:
            return None
        if self._level.level.doubt:
            raise self._floor_not_found(self._level.level)
        stamp_ns, T_odom_camera = self._first
        return stamp_ns, self._level.level.pose(T_odom_camera)

    def start_at(self, surveyed: tuple[int, np.ndarray] | None) -> None:
        """Take the level that `surveyed_level` gave, if the first frame is the same again."""
        self._surveyed = surveyed

    def why_start_over(self, frame: Frame) -> str:
        """Why all that is known is of no use for this frame; empty if it is of use."""
        if self._stamp_ns is None:
            return ''
        back_ns = self._stamp_ns - frame.stamp_ns
        if back_ns > JITTER_NS:  # maps of what is yet to come would be lies
            return f'time went back by {back_ns * 1e-9:.1f} s: the maps start over'
        visual = frame.T_world_camera is None and bool(frame.world_frame)
        if visual and back_ns <= 0 and self._odometry.camera not in (None, frame.intrinsics):
            return 'the camera changed: odometry, and with it the maps, start over'
        return ''

    def floor(self, frame: Frame) -> FloorGeometry | None:
        """Gravity and height that the network is given, or None where they are not known.

        To be asked before visual odometry places the frame: what stems from predicted depth would
        confirm itself. Where this comes and goes the metres of the network step; to `ScaleFilter`
        that is an error of the frame, which with poses what was seen before corrects.
        """
        if self.gravity_doubt(frame) is not None:
            return None
        height = self._config.scale.camera_height
        floor = floor_below(frame, self._config.scale.floor_frame)
        if floor is None and height > 0:
            up = known_up(frame)
            floor = None if up is None else FloorGeometry(up, height)
        return floor if floor is not None and floor.height >= MIN_HEIGHT else None

    def gravity_doubt(self, frame: Frame) -> InputError | None:
        """Why a frame may not be mapped whose pose or transforms an IMU contradicts.

        To be asked before visual odometry places the frame, whose level drifts.
        """
        frames = {self._config.scale.floor_frame: 'scale.floor_frame'}
        if frame.T_world_camera is None and frame.world_frame and not self._placed_any:
            frames[self._config.pose.base_frame] = 'pose.base_frame'
        return contradiction(frame, frames)

    def update(self, frame: Frame, depth: np.ndarray, clock: Stopwatch) -> Localized:
        """Place a frame, and find the factor of its depth.

        A frame that is older than the newest is left as it is: what goes by time has gone on.

        Args:
            frame: with its pose, or with the name of the world frame it is to be placed in.
            depth: [H, W] z-depth as predicted, or as measured, metres.
            clock: of its steps; the laps are `odometry`, `scale` and `level`.

        Raises:
            InputError: if pose or depth cannot be used.
        """
        visual = frame.T_world_camera is None
        motion = unplaced = None
        late = self._stamp_ns is not None and frame.stamp_ns < self._stamp_ns
        if late and visual and frame.world_frame:
            unplaced = PoseUnavailableError(
                'the image is older than one that visual odometry has placed', 'late_frame'
            )
        if not late:
            try:
                frame, motion = self._place(frame, depth)
            except PoseUnavailableError as error:
                unplaced = error
        clock.lap('odometry')
        if not late:
            if self._filter is not None:
                self._estimate = self._filter.update(
                    frame,
                    depth,
                    self._tracks(frame, motion, visual=visual),
                    pose_is_metric=not (visual and self._knows_metres(frame)),
                )
            self._stamp_ns = frame.stamp_ns  # it was not lost on the way
        clock.lap('scale')
        if visual and motion is not None and unplaced is None:
            frame, motion, unplaced = self._levelled(frame, motion, depth)
        clock.lap('level')
        self._placed_any |= frame.T_world_camera is not None
        return Localized(
            frame,
            self._estimate,
            motion if visual else None,
            visual,
            unplaced,
            metre_std=self._metre_std(frame) if visual else 0.0,
        )

    def pass_over(self, frame: Frame, doubt: InputError) -> Localized:
        """Learn nothing from a frame; its depth gets the factor that the network needs lately.

        Args:
            frame: as for `update`.
            doubt: why.
        """
        self._stamp_ns = max(self.stamp_ns, frame.stamp_ns)
        visual, config = frame.T_world_camera is None, self._config.scale
        if self._filter is None:
            return Localized(frame, None, None, visual, doubt)
        if config.constant > 0:
            scale = ScaleEstimate(config.constant, 0.0, {}, config.constant)
        else:
            known = self._estimate or ScaleEstimate(1.0, 0.0, {}, 1.0, config.prior_std**2)
            variance = known.bias_variance + config.frame_std**2
            scale = replace(known, value=known.bias, log_variance=variance)
        return Localized(frame, scale, None, visual, doubt)

    def _place(self, frame: Frame, depth: np.ndarray) -> tuple[Frame, Motion | None]:
        """What visual odometry makes of a frame, and the frame where that is the one to place it.

        A pose from elsewhere counts more: then only the tracks of features are of use, since their
        parallax over poses in metres tells the scale of the depth.

        Raises:
            PoseUnavailableError: `repeated_stamp` for a frame to place that has the stamp of the
                one before: where the camera has moved since, nobody knows;
                `waiting_for_base_frame` or `waiting_for_scale` before the first one is placed.
        """
        config = self._config
        visual = frame.T_world_camera is None and bool(frame.world_frame)
        if visual and self._odometry.stamp_ns == frame.stamp_ns:
            raise PoseUnavailableError(
                'the image has the stamp of the one before; make the driver stamp each image by '
                'the time it was taken, or let /clock go on',
                'repeated_stamp',
            )
        estimates = self._filter is not None and not config.scale.constant
        if not (visual or (frame.T_world_camera is not None and estimates)):
            return frame, None
        base = config.pose.base_frame if visual else ''
        T_camera_base = frame.transforms.get(base)
        if base and T_camera_base is None and not self._placed_any:
            raise PoseUnavailableError(
                f'visual odometry waits for {base} in tf, by which its world shall be level; '
                'publish it, or correct pose.base_frame',
                'waiting_for_base_frame',
            )
        if visual and not self._placed_any and self._is_settling(frame):
            raise PoseUnavailableError(
                'visual odometry waits until the scale of the depth, or gravity, is known',
                'waiting_for_scale',
            )
        factor = config.scale.constant or 1.0
        if self._estimate is not None and (not visual or self._knows_metres(frame)):
            factor = self._estimate.bias
        depth = depth * np.float32(factor)
        level = self._start_level(frame, depth, T_camera_base) if not self._placed_any else None
        motion = self._odometry.register_frame(
            frame.image, depth, frame.intrinsics, frame.stamp_ns, level
        )
        if visual:
            return frame.placed(motion.T_odom_camera, frame.world_frame), motion
        assert frame.T_world_camera is not None
        if motion.state == 'lost':
            self._odometry.reset()  # its keyframes lie behind, and only tracks are asked for
        self._watch_jumps(frame.stamp_ns, frame.T_world_camera)
        if motion.keyframe:
            self._keyframe = (frame.stamp_ns, frame.T_world_camera)
        return frame, motion

    def _start_level(
        self, frame: Frame, depth: np.ndarray, T_camera_base: np.ndarray | None
    ) -> np.ndarray | None:  # -> [4, 4]
        """Pose of the camera in the frame that visual odometry shall start in, where known.

        Origin and heading are those of the robot's frame; an IMU knows better what is up.
        """
        up = sure_up(frame)
        if T_camera_base is not None:
            self._level = None  # the floor is that of the robot
            level = inverse(T_camera_base)
            return level if up is None else levelled(level, up)
        if self._surveyed is not None and self._surveyed[0] == frame.stamp_ns:
            self._level = None
            return self._surveyed[1]
        return None if up is None else level_from_up(up, depth, frame.intrinsics)

    def _levelled(
        self, frame: Frame, motion: Motion, depth: np.ndarray
    ) -> tuple[Frame, Motion, PoseUnavailableError | None]:
        """The same in a level world, or why there is none yet.

        The world of visual odometry is put right once, when its level can be relied on, and before
        anything is mapped; from then on it is fixed, since no planner can follow a moving map.
        What is seen before is not mapped later: to catch up would hold up the frames to come.
        """
        estimator, pose = self._level, motion.T_odom_camera
        if estimator is None or pose is None:
            return frame, motion, None
        if self._first is None:
            self._first = (frame.stamp_ns, pose)
        factor = 1.0 if self._estimate is None else self._estimate.value
        estimator.observe(depth * np.float32(factor), frame.intrinsics, pose)
        if frame.up is not None:
            estimator.observe_up(frame.up.direction, frame.up.std, pose)
        level = estimator.level
        if level.doubt or self.surveys:
            return frame, motion, self._floor_not_found(level)
        first = self._first[1]
        motion = self._odometry.move_world(level.pose(first) @ inverse(first))
        if self._filter is not None:
            self._filter.forget_places()
        self._level = None
        _log.info('the floor was found, %.1f m² of it; the map begins', level.extent)
        return frame.placed(motion.T_odom_camera, frame.world_frame), motion, None

    def _floor_not_found(self, level: Level) -> PoseUnavailableError:
        config = self._config
        settings = {
            'pose.base_frame': config.pose.base_frame,
            'scale.camera_height': config.scale.camera_height,
            'imu.enabled': config.imu.enabled,
        }
        return floor_not_found(level, [key for key, value in settings.items() if not value])

    def _tracks(self, frame: Frame, motion: Motion | None, *, visual: bool) -> Tracks | None:
        """Tracks of a frame; with a pose from elsewhere only those over two such poses."""
        tracks = None if motion is None else motion.tracks
        if visual or tracks is None:
            return tracks
        if self._keyframe is None or self._keyframe[0] != tracks.keyframe_stamp_ns:
            return None
        assert frame.T_world_camera is not None
        T_keyframe_camera = inverse(self._keyframe[1]) @ frame.T_world_camera
        return replace(tracks, T_keyframe_camera=T_keyframe_camera)

    def _watch_jumps(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """After a jump, as of a localisation that corrects itself, the past tells no scale.

        Neither do tracks before the next keyframe.
        """
        if self._given is not None:
            before_ns, before = self._given
            moved = float(np.linalg.norm(T_world_camera[:3, 3] - before[:3, 3]))
            if moved > self._config.odometry.max_speed * (stamp_ns - before_ns) * 1e-9:
                _log.warning('the pose jumped by %.2f m; the map goes on from there', moved)
                self._keyframe = None
                if self._filter is not None:
                    self._filter.forget_places()
        self._given = (stamp_ns, T_world_camera)

    def _knows_metres(self, frame: Frame) -> bool:
        """Whether something else than predicted depth says how long a metre is.

        If nothing does, visual odometry takes the depth as predicted, averages its scale over many
        images better than anything, and is to the scale of the depth what metric poses are.
        """
        if self._filter is None or self._config.scale.constant > 0:
            return True
        # between two readings of a range finder its metre holds
        return self._config.range.enabled or self._filter.knows_metres(frame)

    def _metre_std(self, frame: Frame) -> float:
        """Of the metre of visual odometry, as a logarithm."""
        if self._knows_metres(frame):
            return 0.0
        return min(_OWN_METRE_STD, self._config.scale.prior_std)

    def _is_settling(self, frame: Frame) -> bool:
        """Whether odometry shall wait for the metres it will be in, a second at most.

        Likewise for an IMU that does not yet know what is up, for three seconds.
        """
        if self._waiting_ns is None:
            self._waiting_ns = frame.stamp_ns
        waited_ns = frame.stamp_ns - self._waiting_ns
        if self._config.imu.enabled and sure_up(frame) is None and waited_ns < _LEVELLING_NS:
            return True
        if self._filter is None or self._config.scale.constant or not self._knows_metres(frame):
            return False
        sure = self._estimate is not None and self._estimate.bias_variance < _SETTLED_STD**2
        return not sure and waited_ns < _SETTLING_NS
