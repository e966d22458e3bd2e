from __future__ import annotations

from contextlib import suppress
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros import parents, transforms
from sharp_ros.ros.conversions import matrix_from_transform
from sharp_ros.ros.transforms import Transforms
from sharp_ros.se3 import matrix_from_quat, transform

pytestmark = pytest.mark.ros

T = transform(matrix_from_quat(np.array([0.8, 0.1, -0.5, 0.3])), [1.0, 2.0, 3.0])
NOW = 1_700_000_000_123_456_789
MS = 1_000_000


def fake_node(warnings=None):
    def warning(text, **how):
        if warnings is not None:
            warnings.append((text, how))

    def publishers(topic):
        return [SimpleNamespace(node_namespace='/robot', node_name=f'who_tells{topic[3:]}')]

    return SimpleNamespace(
        get_logger=lambda: SimpleNamespace(warning=warning),
        get_publishers_info_by_topic=publishers,
        destroy_publisher=lambda publisher: publisher.destroy(),
    )


def listening():
    source = Transforms(fake_node())
    source.listen()
    return source


def at(x):
    return transform(np.eye(3), [x, 0.0, 0.0])


def reason(source, target, frame, stamp_ns=NOW, wait=0.0, tolerance=0.0):
    with pytest.raises(PoseUnavailableError) as error:
        source.lookup(target, frame, stamp_ns, wait, tolerance)
    return error.value.reason


def test_a_transform_is_looked_up_at_the_stamp_and_waited_for(tf2):
    tf2.place(T, 'camera', 'gripper')
    found = Transforms(fake_node()).lookup('camera', 'gripper', NOW, 0.25)
    np.testing.assert_allclose(found, T, atol=1e-12)
    assert tf2.asked == [('camera', 'gripper', NOW, 250_000_000)]


def test_an_unknown_frame_is_reported_with_the_words_of_tf(tf2):
    tf2.place(T, 'camera', 'gripper')
    with pytest.raises(PoseUnavailableError, match=r'"griper" .* does not exist') as error:
        Transforms(fake_node()).lookup('camera', 'griper', 0, 0.0)
    assert error.value.reason == 'no_transform'


# --- images beside the transforms --------------------------------------------------------------


@pytest.mark.parametrize('history', [1, 3])
@pytest.mark.parametrize(
    ('off_ms', 'tolerance', 'known'),
    [(8, 0.02, True), (-8, 0.02, True), (8, 0.0, False), (21, 0.02, False), (-21, 0.02, False)],
)
def test_an_image_beside_the_transforms_takes_the_nearest_within_the_tolerance(
    tf2, history, off_ms, tolerance, known
):
    source = listening()
    tf2.place(np.eye(4), 'base', 'camera')
    for i in range(history):
        tf2.move(at(1.0 + i), 'odom', 'base', NOW + i * 33 * MS)
    newest = off_ms > 0
    stamp_ns = NOW + off_ms * MS + newest * (history - 1) * 33 * MS
    if not known:
        assert reason(source, 'odom', 'camera', stamp_ns, 0.0, tolerance) == 'no_transform'
        return
    x = source.lookup('odom', 'camera', stamp_ns, 0.0, tolerance)[0, 3]
    if newest:
        assert x == history
    else:  # no farther from the image than the tolerance: (20 - 8) / 33 of the first step
        assert x in (1.0, pytest.approx(1.0 + 12 / 33))


def test_an_image_between_two_transforms_is_interpolated_once_the_later_one_is_there(tf2):
    source = listening()
    tf2.move(at(0.0), 'odom', 'camera', NOW)
    later = threading.Timer(0.06, tf2.move, (at(1.0), 'odom', 'camera', NOW + 32 * MS))
    later.start()
    begun = time.monotonic()
    found = source.lookup('odom', 'camera', NOW + 8 * MS, 20.0, 0.02)
    later.join()
    assert found[0, 3] == pytest.approx(0.25)
    assert 0.05 < time.monotonic() - begun < 10  # of the 20 s that it would have waited


def test_what_holds_is_the_newest_that_all_frames_on_the_way_have(tf2):
    source = listening()
    for ms in (0, 10, 20):
        tf2.move(at(ms), 'odom', 'base', NOW + ms * MS)
    for ms in (0, 12):
        tf2.move(at(ms / 1000), 'base', 'camera', NOW + ms * MS)
    found = source.lookup('odom', 'camera', NOW + 25 * MS, 0.0, 0.02)
    assert found[0, 3] == pytest.approx(12.012)
    assert reason(source, 'odom', 'camera', NOW + 33 * MS, 0.0, 0.02) == 'no_transform'


# --- two parents -------------------------------------------------------------------------------


@pytest.fixture
def source(tf2, monkeypatch):
    """World, base and camera, and a moment of silence that ends a conflict."""
    monkeypatch.setattr(parents, 'QUIET', 0.2)
    monkeypatch.setattr(transforms, 'QUIET', 0.2)
    source = listening()
    tf2.place(np.eye(4), 'base', 'camera')
    return source


def test_a_frame_of_two_parents_is_named_and_everything_below_it_is_refused(tf2, source):
    tf2.move(at(1.0), 'odom', 'base', NOW)
    source.lookup('odom', 'camera', NOW, 0.0)
    tf2.move(at(2.0), 'other_odom', 'base', NOW)
    for frame in ('base', 'camera'):
        with pytest.raises(PoseUnavailableError) as error:
            source.lookup('odom', frame, NOW, 0.0, 0.02)
        assert error.value.reason == 'tf_two_parents'
        text = str(error.value)
        assert text.startswith('base has 2 parents in tf, odom (moving) and other_odom (moving);')
        assert '/tf: /robot/who_tells' in text
        assert 'static' not in text


def test_it_ends_when_one_of_the_two_has_been_silent(tf2, source):
    tf2.move(at(2.0), 'other_odom', 'base', NOW)
    stamps = iter(range(NOW, NOW + 1000 * MS, 10 * MS))

    def one_more():
        stamp_ns = next(stamps)
        tf2.move(at(1.0), 'odom', 'base', stamp_ns)
        return stamp_ns

    assert reason(source, 'odom', 'camera', one_more()) == 'tf_two_parents'
    end = time.monotonic() + 0.25
    while time.monotonic() < end:
        stamp_ns = one_more()
        time.sleep(0.02)
    np.testing.assert_allclose(source.lookup('odom', 'camera', stamp_ns, 0.0), at(1.0))


def test_the_second_parent_may_come_while_an_image_waits(tf2, source):
    tf2.move(at(1.0), 'odom', 'base', NOW)

    def later():
        tf2.move(at(2.0), 'other_odom', 'base', NOW + 1)
        tf2.move(at(1.0), 'odom', 'base', NOW + 10 * MS)

    timer = threading.Timer(0.05, later)
    timer.start()
    assert reason(source, 'odom', 'camera', NOW + 10 * MS, 0.5) == 'tf_two_parents'
    timer.join()


def test_only_frames_between_the_two_matter(tf2, source):
    tf2.move(at(1.0), 'odom', 'base', NOW)
    for parent in ('map', 'other_map'):  # above: two localisers, and the map grows in odom
        tf2.move(np.eye(4), parent, 'odom', NOW)
    for parent in ('base', 'table'):  # beside: a cup that was put down
        tf2.move(np.eye(4), parent, 'cup', NOW)
    np.testing.assert_allclose(source.lookup('odom', 'camera', NOW, 0.0), at(1.0))
    assert reason(source, 'map', 'camera') == 'tf_two_parents'
    assert reason(source, 'camera', 'cup') == 'tf_two_parents'


def test_a_loop_of_frames_ends(tf2, source):
    tf2.move(np.eye(4), 'odom', 'base', NOW)
    tf2.move(np.eye(4), 'camera', 'base', NOW)
    assert reason(source, 'odom', 'camera') == 'tf_two_parents'


def test_fixed_parents_stay_as_long_as_somebody_sends_them(tf2, source):
    first = tf2.place(np.eye(4), 'odom', 'base')
    second = tf2.place(np.eye(4), 'other_odom', 'base')
    for _ in range(8):
        with pytest.raises(PoseUnavailableError, match=r'fixed.* and .*fixed.*/tf_static: '):
            source.lookup('odom', 'camera', NOW, 0.0)
        time.sleep(0.1)
    assert len(tf2.listeners) == 1
    assert first in tf2.latched
    tf2.latched[:] = [messages for messages in tf2.latched if messages is not second]
    for _ in range(8):  # asked again, they are told by one alone
        with suppress(PoseUnavailableError):
            source.lookup('odom', 'camera', NOW, 0.0)
        time.sleep(0.1)
    source.lookup('odom', 'camera', NOW, 0.0)


def test_messages_that_tf_takes_no_notice_of_make_no_parent(tf2, source):
    tf2.move(at(1.0), 'odom', 'base', NOW)
    tf2.move(at(2.0), '/odom', '/base', NOW)  # the same two
    for parent in ('', 'base'):
        tf2.move(at(2.0), parent, 'base', NOW)
    source.lookup('odom', 'camera', NOW, 0.0)


# --- broadcasts --------------------------------------------------------------------------------


def test_fixed_frames_are_sent_once_and_moving_ones_with_every_image(tf2):
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


def test_late_listeners_hear_all_fixed_frames_as_they_are_now(tf2):
    source = Transforms(fake_node())
    for name, x in (('side', 1.0), ('top', 2.0), ('side', 3.0)):
        source.broadcast(at(x), 0, 'camera', name, fixed=True)
    late = listening()
    for name, x in (('side', 3.0), ('top', 2.0)):
        np.testing.assert_allclose(late.lookup('camera', name, NOW, 0.0), at(x))


def test_transforms_of_what_is_yet_to_come_are_forgotten_when_time_goes_back(tf2):
    source = Transforms(fake_node())
    source.time_went_back(60 * 10**9)  # nothing was collected yet
    source.listen()
    tf2.place(np.eye(4), 'base', 'camera')
    tf2.move(at(1.0), 'odom', 'base', NOW + 60_000 * MS)
    source.time_went_back(900_000_000)  # images out of order
    assert not tf2.cleared
    tf2.move(at(2.0), 'odom', 'base', NOW)  # too old beside the other
    assert reason(source, 'odom', 'camera') == 'no_transform'
    source.time_went_back(1_100_000_000)
    assert tf2.cleared == 1
    tf2.move(at(2.0), 'odom', 'base', NOW)
    np.testing.assert_allclose(source.lookup('odom', 'camera', NOW, 0.0), at(2.0))


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
    assert reason(source, 'camera', 'gripper') == 'no_tf'
    with pytest.raises(PoseUnavailableError, match='tf2-ros-py'):
        source.lookup('camera', 'gripper', 0, 0.0)
