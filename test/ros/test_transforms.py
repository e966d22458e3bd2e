from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros import transforms
from sharp_ros.ros.conversions import matrix_from_transform, transform_to_msg
from sharp_ros.ros.transforms import Transforms
from sharp_ros.se3 import matrix_from_quat, transform

pytestmark = pytest.mark.ros

T = transform(matrix_from_quat(np.array([0.8, 0.1, -0.5, 0.3])), [1.0, 2.0, 3.0])


def fake_node(warnings=None):
    def warning(text, **how):
        if warnings is not None:
            warnings.append((text, how))

    return SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=warning))


def test_a_transform_is_looked_up_at_the_stamp_and_waited_for(tf2):
    tf2.known['camera', 'gripper'] = transform_to_msg(T, 0, 'camera', 'gripper').transform
    found = Transforms(fake_node()).lookup('camera', 'gripper', 1_700_000_000_123_456_789, 0.25)
    np.testing.assert_allclose(found, T, atol=1e-12)
    assert tf2.asked == [('camera', 'gripper', 1_700_000_000_123_456_789, 250_000_000)]


def test_an_unknown_frame_is_reported_with_the_words_of_tf(tf2):
    with pytest.raises(PoseUnavailableError, match='"griper" does not exist') as error:
        Transforms(fake_node()).lookup('camera', 'griper', 0, 0.0)
    assert error.value.reason == 'no_transform'


def test_fixed_frames_are_told_once_and_moving_ones_with_every_image(tf2):
    source = Transforms(fake_node())
    moved = transform(np.eye(3), [0.0, 0.0, 1.0])
    for stamp_ns, pose in ((1, T), (2, T), (3, moved)):
        source.broadcast(pose, stamp_ns, 'camera', 'side_optical_frame', fixed=True)
    source.broadcast(T, 4, 'odom', 'orbit_optical_frame', fixed=False)
    source.broadcast(T, 5, 'odom', 'orbit_optical_frame', fixed=False)
    assert [(fixed, m.header.stamp.nanosec) for fixed, m in tf2.sent] == [
        (True, 1),
        (True, 3),
        (False, 4),
        (False, 5),
    ]
    last = tf2.sent[-1][1]
    assert (last.header.frame_id, last.child_frame_id) == ('odom', 'orbit_optical_frame')
    np.testing.assert_allclose(matrix_from_transform(last.transform), T, atol=1e-12)


def test_transforms_of_what_is_yet_to_come_are_forgotten_when_time_goes_back(tf2):
    source = Transforms(fake_node())
    source.time_went_back(60 * 10**9)  # nothing was collected yet
    source.listen()
    source.time_went_back(900_000_000)  # images out of order
    assert not tf2.cleared
    source.time_went_back(1_100_000_000)
    assert tf2.cleared == 1


@pytest.mark.parametrize(('parent', 'child'), [('', 'side_optical_frame'), ('odom', '')])
def test_frames_without_a_name_are_not_broadcast(tf2, parent, child):
    for fixed in (False, True):
        Transforms(fake_node()).broadcast(T, 1, parent, child, fixed=fixed)
    assert not tf2.sent


def test_without_tf2_lookups_say_what_to_install_and_broadcasts_warn(monkeypatch):
    monkeypatch.setattr(transforms, 'tf2_ros', None)
    warnings = []
    source = Transforms(fake_node(warnings))
    source.listen()
    source.broadcast(T, 0, 'camera', 'side_optical_frame', fixed=True)
    assert 'not broadcast' in warnings[0][0]
    assert warnings[0][1] == {'once': True}
    with pytest.raises(PoseUnavailableError, match='tf2-ros-py') as error:
        source.lookup('camera', 'gripper', 0, 0.0)
    assert error.value.reason == 'no_tf'
