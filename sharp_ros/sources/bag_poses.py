"""Poses of the camera in a bag: every odometry, tf and stamped pose, until one fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import statistics
from typing import Any, Literal

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.ros import conversions
from sharp_ros.se3 import PoseBuffer
from sharp_ros.sources.bag_topics import Looked
from sharp_ros.sources.base import pose_at, pose_buffer
from sharp_ros.sources.recorded_tf import RecordedTree
from sharp_ros.sources.recording import Recording, Topic

_SAME_CLOCK = 0.5  # seconds; what is recorded later than it was measured by more is of another one
_MOST = 0.5  # share of the images that a candidate covers which is taken at once
_SAMPLED = 200  # images whose poses are looked for before a candidate is taken


@dataclass(frozen=True)
class Clock:
    """Which stamp an image has, and how late messages of its clock are recorded.

    Attributes:
        of_recorder: whether the stamps of headers are of no use.
        lag_ns: of the recorder behind the headers of images, nanoseconds.
    """

    of_recorder: bool
    lag_ns: int

    @classmethod
    def of(cls, looked: Looked) -> Clock:
        """As the first messages of an image topic show it."""
        if looked.standing:
            return cls(True, 0)
        pairs = zip(looked.times_ns, looked.stamps_ns, strict=True)
        return cls(False, round(statistics.median(time - stamp for time, stamp in pairs)))

    def stamp(self, header: Any, time_ns: int) -> int:
        """Of a message that was recorded at that time, nanoseconds."""
        return time_ns if self.of_recorder else conversions.stamp_ns_from_msg(header)


@dataclass
class _Series:
    """Poses of one topic: child frame, and stamps with `T_world_child`."""

    topic: Topic
    child: str = ''
    poses: list[tuple[int, np.ndarray]] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)


class BagPoses:
    """Where the camera was, from what fits best.

    Args:
        gathered: poses by topic, and when the moving transforms were recorded.
        tree: of all transforms.
        image: the camera.
        clock: of its images.
        offset: see `BagSource`.

    Attributes:
        note: what is to be said about them.
    """

    def __init__(
        self,
        gathered: _Gathered,
        tree: RecordedTree,
        image: Looked,
        clock: Clock,
        offset: float | Literal['auto'],
    ) -> None:
        self._tree, self._camera, self._clock = tree, image.frame_id, clock
        self._buffer: PoseBuffer | None = None
        self._world, self._offset_ns = '', 0
        self._wanted = offset
        times = image.topic.times_ns[:: max(1, len(image.topic.times_ns) // _SAMPLED)]
        self._samples = [time - clock.lag_ns for time in times]
        self.note = ''
        refusals: list[str] = []
        # What covers few images only is taken if nothing covers more.
        if not any(self._choose(gathered, share, refusals) for share in (_MOST, 0.0)):
            self.note = '; '.join(dict.fromkeys(refusals)) or 'no odometry, so no poses'
        elif not self._world:
            for topic in gathered.transforms:
                topic.part.used_as('transforms')

    def _choose(self, gathered: _Gathered, share: float, refusals: list[str]) -> bool:
        """Take the first candidate that covers more than this share of the images."""
        taken = False
        for series in sorted(
            gathered.series, key=lambda s: (s.topic.role != 'odometry', s.topic.name)
        ):
            if series.topic.role == 'pose' and not taken:
                taken = self._take_tf(gathered, share, refusals)
            if not taken:
                taken = self._take(series, share, refusals)
            elif not series.topic.part.reason:
                series.topic.part.unused('not_chosen', 'other poses are used')
        return taken or self._take_tf(gathered, share, refusals)

    def at(self, stamp_ns: int) -> np.ndarray | None:  # -> [4, 4]
        """`T_world_camera` at the stamp of an image, or None where the recording has a gap."""
        stamp_ns += self._offset_ns
        if self._buffer is not None:
            return pose_at(self._buffer, stamp_ns)
        return self._tree.lookup(self._world, self._camera, stamp_ns) if self._world else None

    def _take(self, series: _Series, share: float, refusals: list[str]) -> bool:
        part, child = series.topic.part, series.child
        if not series.poses:
            return False
        T_child_camera = np.eye(4)
        if series.topic.role == 'odometry':
            fixed = self._tree.lookup(child, self._camera)
            if fixed is None:
                part.unused('not_connected', f'{child} and {self._camera}')
                refusals.append(
                    f'no poses: odometry {series.topic.name} is of {child}, the camera is '
                    f'{self._camera}, and /tf_static does not connect them'
                )
                return False
            T_child_camera = fixed
        poses = series.poses
        if self._clock.of_recorder:
            poses = [(t, pose) for t, (_, pose) in zip(series.times_ns, poses, strict=True)]
        stamps = [stamp for stamp, _ in poses]
        if not self._same_clock(series.topic, stamps, series.times_ns, refusals):
            return False
        self._buffer = pose_buffer([(stamp, pose @ T_child_camera) for stamp, pose in poses])
        covered = self._covers(series.topic, share, refusals)
        if covered is None:
            self._buffer = None
            return False
        part.used_as(f'poses{covered}')
        if series.topic.role == 'pose':
            self.note = f'poses of {series.topic.name}, taken for those of the camera'
        return True

    def _take_tf(self, gathered: _Gathered, share: float, refusals: list[str]) -> bool:
        for topic in gathered.transforms:
            if not topic.part.reason:
                topic.part.used_as('transforms')
        for world in self._tree.worlds(self._camera):
            stamps = self._tree.stamps(world, self._camera)
            topic = gathered.moving
            if topic is None or not stamps:
                continue
            if not self._same_clock(topic, gathered.tf_stamps, gathered.tf_times, refusals):
                return False
            self._world = world
            covered = self._covers(topic, share, refusals)
            if covered is not None:
                topic.part.used_as(f'poses in {world}{covered}')
                self.note = f'poses of tf, {self._camera} in {world}'
                return True
            self._world = ''
        return False

    def _same_clock(
        self, topic: Topic, stamps: Sequence[int], times: Sequence[int], refusals: list[str]
    ) -> bool:
        """Whether the stamps are of the clock of the images, or ahead by what is said."""
        lag = statistics.median(t - s for t, s in zip(times, stamps, strict=True))
        ahead = 0.0 if self._clock.of_recorder else (self._clock.lag_ns - lag) / 1e9
        self._offset_ns = 0
        if isinstance(self._wanted, str):
            self._offset_ns = round(ahead * 1e9) if abs(ahead) > _SAME_CLOCK else 0
        else:
            self._offset_ns = round(self._wanted * 1e9)
        if abs(ahead - self._offset_ns / 1e9) <= _SAME_CLOCK or self._offset_ns:
            return True
        topic.part.unused('other_clock', f'ahead by {ahead:.3f} s')
        refusals.append(
            f'no poses of {topic.name}: its clock is ahead of that of the images by {ahead:.1f} s;'
            f' give --pose-offset={ahead:.3f} (pose.time_offset of the node), or auto'
        )
        return False

    def _covers(self, topic: Topic, share: float, refusals: list[str]) -> str | None:
        """How many images have a pose, in words that may follow; None if too few."""
        covered = sum(self.at(stamp) is not None for stamp in self._samples) / len(self._samples)
        if covered > share:
            return '' if covered == 1 else f' of {covered:.0%} of the images'
        topic.part.unused('not_chosen' if covered else 'never_near')
        refusals.append(f'no poses of {topic.name}: none is near the stamp of an image')
        return None

    @staticmethod
    def gather(recording: Recording) -> tuple[RecordedTree, _Gathered]:
        """Read all poses and transforms of a bag, in one pass; bad ones are counted."""
        tree, gathered = RecordedTree(), _Gathered()
        series: dict[Topic, _Series] = {}
        topics = recording.of('odometry', 'pose', 'tf')
        for topic, time, message in recording.messages(*topics) if topics else ():
            try:
                if topic.role == 'tf':
                    for link in message.transforms:
                        gathered.add_link(tree, topic, link, time)
                    continue
                entry = series.setdefault(topic, _Series(topic))
                if topic.role == 'odometry':
                    stamp, _, child, pose = conversions.pose_from_odometry(message)
                else:
                    stamp, child = conversions.stamp_ns_from_msg(message.header), ''
                    stamped = message if hasattr(message.pose, 'position') else message.pose
                    pose = conversions.matrix_from_pose(stamped.pose)
                entry.child = entry.child or child
                entry.poses.append((stamp, pose))
                entry.times_ns.append(time)
            except InputError as error:
                topic.part.skip(error.reason, f'{time / 1e9:.3f} s: {error}')
        gathered.series = list(series.values())
        gathered.transforms = [topic for topic in topics if topic.role == 'tf']
        for entry in series.values():
            entry.topic.part.clock = 'header'
            entry.topic.part.timed([stamp for stamp, _ in entry.poses])
        return tree, gathered


@dataclass
class _Gathered:
    """What was read beside the tree of transforms."""

    series: list[_Series] = field(default_factory=list)
    transforms: list[Topic] = field(default_factory=list)
    moving: Topic | None = None
    tf_stamps: list[int] = field(default_factory=list)
    tf_times: list[int] = field(default_factory=list)

    def add_link(self, tree: RecordedTree, topic: Topic, link: Any, time_ns: int) -> None:
        """Take in one transform; a bad one leaves the others of its message alone."""
        stamp: int | None = conversions.stamp_ns_from_msg(link.header)
        if 'static' in topic.name:
            stamp = None
        try:
            pose = conversions.matrix_from_transform(link.transform)
        except InputError as error:
            topic.part.skip(
                error.reason,
                f'{link.header.frame_id} to {link.child_frame_id} at {time_ns / 1e9:.3f} s',
            )
            return
        if stamp is not None:
            self.moving = topic
            self.tf_stamps.append(stamp)
            self.tf_times.append(time_ns)
        tree.add(link.header.frame_id, link.child_frame_id, pose, stamp)
