"""A stand-in for tf2_ros, which no wheel carries: the parts of its API that the node uses.

It answers, refuses and forgets as the real one does; `test_tf2_real.py` compares the two where
tf2_ros is installed, and the tests that use the fixture then run with the real buffer too.
"""

from __future__ import annotations

from copy import deepcopy
import time
from types import SimpleNamespace

import numpy as np
import pytest
from rclpy.duration import Duration

from sharp_ros.ros import transforms
from sharp_ros.ros.conversions import matrix_from_transform, transform_to_msg
from sharp_ros.se3 import interpolate, inverse

try:
    import tf2_ros as real
except ImportError:
    real = None

_CACHE_NS = 10 * 10**9


class TransformException(Exception):
    pass


class LookupException(TransformException):
    pass


class ConnectivityException(TransformException):
    pass


class ExtrapolationException(TransformException):
    pass


class InvalidArgumentException(TransformException):
    pass


class Samples(list):
    """(stamp, parent, pose) of one frame, oldest first; a fixed one has a single sample."""

    def __init__(self, fixed):
        self.fixed = fixed

    def insert_data(self, stamp, parent, pose):
        """False for data too old to be of use, as tf2 is by 10 s."""
        if self.fixed:
            self[:] = [(0, parent, pose)]
            return True
        newest = self[-1][0] if self else stamp
        self[:] = [sample for sample in self if sample[0] >= newest - _CACHE_NS]
        if stamp < newest - _CACHE_NS:
            return False
        same = (s for s in self if s[:2] == (stamp, parent) and np.array_equal(s[2], pose))
        if next(same, None) is None:
            self.append((stamp, parent, pose))
            self.sort(key=lambda sample: sample[0])  # of the same stamp, the newest is last
        return True

    def at(self, stamp):
        """Parent and pose at a stamp, 0 being the newest; never outside of what was received."""
        if self.fixed or (self and stamp in (0, self[-1][0])):
            return self[-1][1:]
        if not self or not self[0][0] <= stamp <= self[-1][0]:
            raise ExtrapolationException(f'Lookup would require extrapolation at time {stamp}')
        if stamp == self[0][0]:
            return self[0][1:]
        newer = next(i for i, sample in enumerate(self) if sample[0] > stamp)
        (t0, parent, one), (t1, other, two) = self[newer - 1], self[newer]
        if parent != other:
            return parent, one
        return parent, interpolate(one, two, (stamp - t0) / (t1 - t0))


class Buffer:
    def __init__(self):
        self._frames: dict[str, Samples | None] = {}  # None: only named as a parent

    def set_transform(self, msg, authority):
        self._set(msg, False)

    def set_transform_static(self, msg, authority):
        self._set(msg, True)

    def _set(self, msg, fixed):
        child, parent = (
            name[1:] if name.startswith('/') else name
            for name in (msg.child_frame_id, msg.header.frame_id)
        )
        p, q = msg.transform.translation, msg.transform.rotation
        values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])
        if child == parent or not child or not parent or np.isnan(values).any():
            return
        if not values[3:].any():  # others are normalised, however long they are
            return
        stamp = msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec
        samples = self._frames.get(child)
        if samples is None or samples.fixed != fixed:
            samples = self._frames[child] = Samples(fixed)
        self._frames.setdefault(parent, None)
        samples.insert_data(stamp, parent, matrix_from_transform(msg.transform))

    def clear(self):
        for samples in self._frames.values():
            if samples is not None and not samples.fixed:
                samples.clear()

    def lookup_transform(self, target_frame, source_frame, time, timeout=None):
        end = _now() + (timeout or Duration()).nanoseconds
        while True:
            try:
                return self._lookup(target_frame, source_frame, time.nanoseconds)
            except TransformException:
                if _now() >= end:
                    raise
            _sleep()

    def _lookup(self, target, source, stamp):
        if target != source:
            for name in (target, source):
                if not name or name.startswith('/'):
                    raise InvalidArgumentException(f'Invalid argument "{name}"')
                if name not in self._frames:
                    raise LookupException(f'"{name}" passed to lookupTransform does not exist. ')
        if stamp == 0:
            stamp = self._latest_common(target, source)
        ups, downs = self._chain(source, stamp, target), self._chain(target, stamp, source)
        names = [name for name, _ in downs]
        meet = next((i for i, (name, _) in enumerate(ups) if name in names), None)
        if meet is None:
            for name in (ups[-1][0], downs[-1][0]):
                samples = self._frames.get(name)
                if samples is not None:
                    samples.at(stamp)  # says why it ends here
            raise ConnectivityException(
                f"Could not find a connection between '{target}' and '{source}' because they are "
                'not part of the same tree. Tf has two or more unconnected trees.'
            )
        T = inverse(downs[names.index(ups[meet][0])][1]) @ ups[meet][1]
        return transform_to_msg(T, stamp, target, source)

    def _chain(self, frame, stamp, until):
        """Every frame above one with `T_above_frame`, as far as is known at the stamp."""
        chain, T = [(frame, np.eye(4))], np.eye(4)
        while frame != until and self._frames.get(frame) is not None:
            try:
                frame, pose = self._frames[frame].at(stamp)
            except ExtrapolationException:
                break
            T = pose @ T
            chain.append((frame, T))
            if len(chain) > 1000:
                raise LookupException('The tf tree is invalid because it contains a loop.')
        return chain

    def _latest_common(self, target, source):
        """Stamp of the newest data all along the way; 0 where nothing moves."""

        def above(frame):
            chain = [(frame, 0)]
            while self._frames.get(frame) and len(chain) < 1000:
                stamp, parent, _ = self._frames[frame][-1]
                frame = parent
                chain.append((frame, stamp))
            return chain

        ups, downs = above(source), above(target)
        names = {name for name, _ in ups} & {name for name, _ in downs}
        if not names:
            raise ConnectivityException(f"'{target}' and '{source}' are not connected")
        stamps = []
        for chain in (ups, downs):
            for name, stamp in chain:
                stamps.append(stamp)
                if name in names:
                    break
        return min((s for s in stamps if s), default=0)


def _now():
    return time.monotonic_ns()


def _sleep():
    time.sleep(0.02)  # as the real one


@pytest.fixture(params=['stand-in', *(['real buffer'] if real else [])])
def tf2(request, monkeypatch):
    """`place` puts a frame somewhere for good, `move` tells where one is at a stamp.

    `sent` is what the node broadcast, (fixed, msg), `asked` what it looked up, and `cleared` how
    often it was to forget. `latched` are the messages that late listeners get.
    """
    fake = SimpleNamespace(sent=[], asked=[], cleared=0, latched=[], listeners=[])
    kind = Buffer if request.param == 'stand-in' else real.Buffer
    errors = globals() if request.param == 'stand-in' else vars(real)

    class Watched(kind):
        def lookup_transform(self, target_frame, source_frame, time, timeout):
            fake.asked.append((target_frame, source_frame, time.nanoseconds, timeout.nanoseconds))
            return super().lookup_transform(target_frame, source_frame, time, timeout)

        def clear(self):
            fake.cleared += 1
            super().clear()

    class Listener:
        def __init__(self, buffer, node):
            self.buffer = buffer
            fake.listeners.append(self)
            for messages in fake.latched:
                self.hear(True, messages)

        def hear(self, fixed, messages):
            take = self.buffer.set_transform_static if fixed else self.buffer.set_transform
            for msg in messages:
                take(deepcopy(msg), 'default_authority')

        def unregister(self):
            if self in fake.listeners:
                fake.listeners.remove(self)

    def tell(fixed, messages):
        for listener in fake.listeners:
            listener.hear(fixed, messages)

    class Broadcaster:
        fixed = False

        def __init__(self, node):
            self.pub_tf = self
            self.latched = []

        def sendTransform(self, messages):
            messages = [*messages] if isinstance(messages, list) else [messages]
            fake.sent += [(self.fixed, deepcopy(msg)) for msg in messages]
            tell(self.fixed, messages)

    class StaticBroadcaster(Broadcaster):
        """Late listeners get the last message alone (humble); no frame is moved (jazzy on)."""

        fixed = True

        def __init__(self, node):
            super().__init__(node)
            self.first = {}
            self.latched = []
            fake.latched.append(self.latched)

        def sendTransform(self, messages):
            messages = [*messages] if isinstance(messages, list) else [messages]
            said = [self.first.setdefault(m.child_frame_id, deepcopy(m)) for m in messages]
            self.latched[:] = said
            super().sendTransform(said)

        def destroy(self):
            fake.latched[:] = [one for one in fake.latched if one is not self.latched]

    def place(T_parent_child, parent, child):
        messages = [transform_to_msg(T_parent_child, 0, parent, child)]
        fake.latched.append(messages)
        tell(True, messages)
        return messages

    def move(T_parent_child, parent, child, stamp_ns):
        tell(False, [transform_to_msg(T_parent_child, stamp_ns, parent, child)])

    fake.place, fake.move = place, move
    fake.Buffer, fake.TransformListener = Watched, Listener
    fake.TransformBroadcaster, fake.StaticTransformBroadcaster = Broadcaster, StaticBroadcaster
    fake.TransformException = errors['TransformException']
    monkeypatch.setattr(transforms, 'tf2_ros', fake)
    return fake
