"""A stand-in for tf2_ros, which no wheel carries: the parts of its API that the node uses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sharp_ros.ros import transforms


class TransformException(Exception):
    pass


@pytest.fixture
def tf2(monkeypatch):
    """`known` holds transforms by (target, source); `sent` what was broadcast, (fixed, msg).

    `parents` are those that tf knows, by frame; `cleared` counts how often it was to forget.
    """
    fake = SimpleNamespace(
        known={}, sent=[], asked=[], parents={}, cleared=0, TransformException=TransformException
    )

    class Buffer:
        def lookup_transform(self, target_frame, source_frame, time, timeout):
            fake.asked.append((target_frame, source_frame, time.nanoseconds, timeout.nanoseconds))
            if (target_frame, source_frame) not in fake.known:
                raise TransformException(f'"{source_frame}" does not exist')
            return SimpleNamespace(transform=fake.known[target_frame, source_frame])

        def all_frames_as_yaml(self):
            lines = (f"{child}:\n  parent: '{p}'\n" for child, p in fake.parents.items())
            return ''.join(lines) or '[]'

        def clear(self):
            fake.cleared += 1

    def broadcaster(fixed):
        def send(msg):
            fake.sent.append((fixed, msg))
            fake.parents[msg.child_frame_id] = msg.header.frame_id

        return lambda node: SimpleNamespace(sendTransform=send)

    fake.Buffer = Buffer
    fake.TransformListener = lambda buffer, node: object()
    fake.TransformBroadcaster = broadcaster(False)
    fake.StaticTransformBroadcaster = broadcaster(True)
    monkeypatch.setattr(transforms, 'tf2_ros', fake)
    return fake
