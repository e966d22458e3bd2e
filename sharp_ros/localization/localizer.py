"""Given a frame and its depth: where is the camera, and what is metric scale?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sharp_ros.camera import FloorGeometry, Frame, JITTER_NS, MIN_HEIGHT
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.localization.external_poses import ExternalPoses
from sharp_ros.localization.gravity_check import contradiction, no_height, sure_up
from sharp_ros.localization.localized import Localized, Tracked
from sharp_ros.localization.odometry import Motion, Tracks, VisualOdometry
from sharp_ros.localization.scale_anchors import floor_below, known_up
from sharp_ros.localization.scale_filter import ScaleEstimate, ScaleFilter
from sharp_ros.localization.world_level import Start, WorldLevel
from sharp_ros.stereo import MeasuredScale
from sharp_ros.stopwatch import Stopwatch

_SETTLING_NS, _SETTLED_STD = 1_000_000_000, 0.05  # see `Localizer._is_settling`
_LEVELLING_NS = 3_000_000_000  # likewise
# Of the logarithm of the scale of own odometry that has none but that of its network, which no
# frame can tell: what averaging over places leaves. In 20 simulated rooms the depth of nano was
# off by 3 % in the mean (root mean square 4), and by 8 at most, by that.
_OWN_METRE_STD = 0.1
# Likewise of what it gets wrong in one place and not in the next. In simulated rooms the depth of
# nano differs so much from image to image.
_PLACE_STD = 0.1


class Localizer:
    """Own odometry, its level, and the scale of predicted depth, which need each other.

    Args:
        config: all settings.
        estimates_scale: whether depth is predicted, so that its scale is to be found.

    Attributes:
        level: of the world of visual odometry.
    """

    def __init__(self, config: SharpConfig, *, estimates_scale: bool) -> None:
        self._config = config
        self._filter = ScaleFilter(config.scale) if estimates_scale else None
        self._odometry = VisualOdometry(config.odometry, _PLACE_STD if estimates_scale else 0.0)
        self._external = ExternalPoses()
        self.level = WorldLevel(config)
        self.reset()

    def reset(self) -> None:
        """Forget the path and the scale."""
        if self._filter is not None:
            self._filter.reset()
        for part in (self._odometry, self._external, self.level):
            part.reset()
        self._stamp_ns: int | None = None  # of the newest frame
        self._estimate: ScaleEstimate | None = None  # of that frame
        self._waiting_ns: int | None = None  # stamp of the first frame that waited for the scale
        self._world_is_set = False  # by any frame with a pose
        self._worlds = 0  # in which there were poses, without the present one

    @property
    def stamp_ns(self) -> int:
        """Of the newest frame, nanoseconds; 0 before the first."""
        return self._stamp_ns or 0

    @property
    def factor(self) -> float:
        """That depth as predicted is to be multiplied by, as far as frames before show it."""
        constant = self._config.scale.constant
        return constant or (1.0 if self._estimate is None else self._estimate.bias)

    def reconfigure(self, config: SharpConfig) -> None:
        """Go on with other settings, which differ in live ones only."""
        self._config = config
        if self._filter is not None:
            self._filter.config = config.scale
        self.level.reconfigure(config)

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
        self._world_is_set = self.level.is_known = True  # that world is level

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
        confirm itself. Where this comes and goes the scale of the network steps; to `ScaleFilter`
        that is an error of the frame, which with poses what was seen before corrects.
        """
        if self.gravity_objection(frame) is not None:
            return None
        height = self._config.scale.camera_height
        floor = floor_below(frame, self._config.scale.floor_frame)
        if floor is None and height > 0:
            up = known_up(frame)
            floor = None if up is None else FloorGeometry(up, height)
        return floor if floor is not None and floor.height >= MIN_HEIGHT else None

    def gravity_objection(self, frame: Frame) -> InputError | None:
        """Why a frame may not be mapped whose z is not up, or an IMU says so of its transforms.

        To be asked before visual odometry places the frame, whose level drifts.
        """
        frames = {self._config.scale.floor_frame: 'scale.floor_frame'}
        if frame.T_world_camera is None and frame.world_frame and not self._world_is_set:
            frames[self._config.pose.base_frame] = 'pose.base_frame'
        return no_height(frame) or contradiction(frame, frames)

    def update(self, frame: Frame, depth: np.ndarray, clock: Stopwatch) -> Localized:
        """Both steps in one: `track`, then `observe`, by the same depth."""
        return self.observe(self.track(frame, depth, clock), depth, clock)

    def track(
        self,
        frame: Frame,
        depth: np.ndarray,
        clock: Stopwatch,
        objection: InputError | None = None,
    ) -> Tracked:
        """Where is the camera?

        A frame that is older than the newest is left as it is: what goes by time has gone on.

        Args:
            frame: with its pose, or with the name of the world frame it is to be placed in.
            depth: [H, W] z-depth as predicted, or as measured, metres.
            clock: of its steps; the lap is `odometry`.
            objection: why nothing may be learnt from the frame; then nothing is.

        Raises:
            InputError: if pose or depth cannot be used.
        """
        visual = frame.T_world_camera is None
        late = self._stamp_ns is not None and frame.stamp_ns < self._stamp_ns
        motion, unmappable = None, objection
        if objection is None:
            try:
                if visual and frame.world_frame:
                    self._check_readiness(frame, late=late)
                    frame, motion = self._find_pose(frame, depth)
                elif not visual and not late:
                    motion = self._follow_pose(frame, depth)
            except PoseUnavailableError as error:
                unmappable = error
        clock.lap('odometry')
        learns = objection is None
        return Tracked(frame, motion, visual, late, learns, unmappable, self._worlds)

    def observe(
        self,
        tracked: Tracked,
        depth: np.ndarray,
        clock: Stopwatch,
        scale_seen: MeasuredScale | None = None,
        pose_holds: bool = True,
        network_std: float | None = None,
    ) -> Localized:
        """What is metric scale, and where is the floor?

        Args:
            tracked: the frame.
            depth: [H, W] z-depth of it as for `track`, or better.
            clock: of its steps; the laps are `scale` and `level`.
            scale_seen: scale of that depth as recent images show it.
            pose_holds: whether these do not contradict the pose; else it teaches no scale.
            network_std: see `ScaleFilter.update`.

        Raises:
            InputError: if pose or depth cannot be used.
        """
        frame, motion, unmappable = tracked.frame, tracked.motion, tracked.unmappable
        scale = self._scale(tracked, depth, scale_seen, pose_holds, network_std)
        clock.lap('scale')
        if tracked.visual and motion is not None:
            try:
                frame, motion = self._levelled(frame, motion, depth)
            except PoseUnavailableError as error:
                unmappable = error
        clock.lap('level')
        self._world_is_set |= tracked.learns and frame.T_world_camera is not None
        return Localized(
            frame,
            scale,
            motion if tracked.visual else None,
            tracked.visual,
            unmappable,
            metre_std=self._metre_std(frame) if tracked.visual and tracked.learns else 0.0,
            level_doubt=self.level.doubt if tracked.visual else '',
        )

    # where the camera is -----------------------------------------------------------------------

    def _check_readiness(self, frame: Frame, *, late: bool) -> None:
        """Whether visual odometry can place a frame.

        Raises:
            PoseUnavailableError: `late_frame`; `repeated_stamp` for a frame that has the stamp of
                the one before: where the camera has moved since, nobody knows;
                `waiting_for_base_frame` or `waiting_for_scale` before the first one is placed.
        """
        base = self._config.pose.base_frame
        if late:
            raise PoseUnavailableError(
                'the image is older than one that visual odometry has placed', 'late_frame'
            )
        if self._odometry.stamp_ns == frame.stamp_ns:
            raise PoseUnavailableError(
                'the image has the stamp of the one before; make the driver stamp each image by '
                'the time it was taken, or let /clock go on',
                'repeated_stamp',
            )
        if base and base not in frame.transforms and not self._world_is_set:
            raise PoseUnavailableError(
                f'visual odometry waits for {base} in tf, by which its world shall be level; '
                'publish it, or correct pose.base_frame',
                'waiting_for_base_frame',
            )
        if not self._world_is_set and self._is_settling(frame):
            raise PoseUnavailableError(
                'visual odometry waits until the scale of the depth, or gravity, is known',
                'waiting_for_scale',
            )

    def _find_pose(self, frame: Frame, depth: np.ndarray) -> tuple[Frame, Motion]:
        """The frame with the pose that visual odometry finds, if it finds one."""
        factor = self._config.scale.constant or 1.0
        if self._estimate is not None and self._knows_metres(frame):
            factor = self._estimate.bias
        T_camera_base = frame.transforms.get(self._config.pose.base_frame)
        start, motion = self._registered(frame, depth * np.float32(factor), T_camera_base)
        if start.is_level and motion.T_odom_camera is not None:
            self.level.is_known = True
        return frame.placed(motion.T_odom_camera, frame.world_frame), motion

    def _follow_pose(self, frame: Frame, depth: np.ndarray) -> Motion | None:
        """What visual odometry makes of a frame whose pose comes from elsewhere and counts more.

        Then only the tracks of features are of use, since their parallax over poses in metres
        tells the scale of the depth; None where nobody asks for that.
        """
        if self._filter is None or self._config.scale.constant:
            return None
        if self._external.add(frame, self._config.odometry.max_speed):
            self._forget_places()
        if not self._asks_tracks:
            return None
        _, motion = self._registered(frame, depth * np.float32(self.factor), None)
        if motion.state == 'lost':
            self._odometry.reset()  # its keyframes lie behind, and only tracks are asked for
        if motion.keyframe:
            self._external.note_keyframe(frame)
        return motion

    def _registered(
        self, frame: Frame, depth: np.ndarray, T_camera_base: np.ndarray | None
    ) -> tuple[Start, Motion]:
        """Where odometry began, if with this frame, and what it makes of it."""
        start = Start(None)
        if not self._world_is_set:
            start = self.level.start(frame, depth, T_camera_base)
        motion = self._odometry.register_frame(
            frame.image,
            depth,
            frame.intrinsics,
            frame.stamp_ns,
            start.T_level_camera,
            frame.unseen,
            frame.gray,
        )
        return start, motion

    def _levelled(
        self, frame: Frame, motion: Motion, depth: np.ndarray
    ) -> tuple[Frame, Motion]:  # [H, W]
        """The same in a level world.

        Raises:
            PoseUnavailableError: `floor_not_found` while there is none.
        """
        pose = motion.T_odom_camera
        if self.level.is_known or pose is None:
            return frame, motion
        factor = 1.0 if self._estimate is None else self._estimate.value
        T_level_odom = self.level.correction(frame, depth * np.float32(factor), pose)
        motion = self._odometry.move_world(T_level_odom)
        self._forget_places()
        return frame.placed(motion.T_odom_camera, frame.world_frame), motion

    def _forget_places(self) -> None:
        """Poses from now on cannot be compared with earlier ones."""
        self._worlds += 1
        if self._filter is not None:
            self._filter.forget_places()

    # metric scale ------------------------------------------------------------------------------

    def _scale(
        self,
        tracked: Tracked,
        depth: np.ndarray,
        seen: MeasuredScale | None,
        pose_holds: bool,
        network_std: float | None,
    ) -> ScaleEstimate | None:
        """Factor of the depth of a frame, from which that is learnt if it may be."""
        frame = tracked.frame
        if not tracked.learns:
            self._stamp_ns = max(self._stamp_ns or 0, frame.stamp_ns)
            return None if self._filter is None else self._usual_scale()
        if not tracked.late:
            if self._filter is not None:
                self._estimate = self._filter.update(
                    frame if pose_holds else frame.placed(None, frame.world_frame),
                    depth,
                    self._tracks(tracked) if self._asks_tracks else seen,
                    pose_is_metric=not (tracked.visual and self._knows_metres(frame)),
                    network_std=network_std,
                )
            self._stamp_ns = frame.stamp_ns
        return self._estimate

    def _usual_scale(self) -> ScaleEstimate:
        """The factor that the network needs lately, for a frame of which nothing is known."""
        config = self._config.scale
        if config.constant > 0:
            return ScaleEstimate(config.constant, 0.0, {}, config.constant)
        known = self._estimate or ScaleEstimate(1.0, 0.0, {}, 1.0, config.prior_std**2)
        variance = known.bias_variance + config.frame_std**2
        return replace(known, value=known.bias, log_variance=variance)

    @property
    def _asks_tracks(self) -> bool:
        """Whether tracks of features tell the scale; recent images as a whole tell more."""
        return self._config.refinement.enabled == 'off'

    def _tracks(self, tracked: Tracked) -> Tracks | None:
        """Tracks of a frame; with a pose from elsewhere only those over two such poses."""
        tracks = None if tracked.motion is None else tracked.motion.tracks
        if tracked.visual or tracks is None:
            return tracks
        return self._external.tracks(tracked.frame, tracks)

    def _knows_metres(self, frame: Frame) -> bool:
        """Whether something else than predicted depth tells metric scale.

        If nothing does, visual odometry takes the depth as predicted, averages its scale over many
        images better than anything, and is to the scale of the depth what metric poses are.
        """
        if self._filter is None or self._config.scale.constant > 0:
            return True
        # between two readings of a range finder its scale holds
        return self._config.range.enabled or self._filter.knows_metres(frame)

    def _metre_std(self, frame: Frame) -> float:
        """Standard deviation of the logarithm of the scale of visual odometry."""
        if self._knows_metres(frame):
            return 0.0
        return min(_OWN_METRE_STD, self._config.scale.prior_std)

    def _is_settling(self, frame: Frame) -> bool:
        """Whether odometry shall wait for the scale it will have, a second at most.

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
