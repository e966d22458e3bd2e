"""Cameras wired wrongly: named with the cure, and the camera that came first goes on."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_helpers import CAMERA, IMAGE, INTRINSICS, POSE, start
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sharp_ros.camera import Intrinsics
from sharp_ros.ros import wiring as module
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    header_to_msg,
    image_to_msg,
    odometry_to_msg,
    stamp_ns_from_msg,
)
from sharp_ros.ros.diagnostics import Health, WARN
from sharp_ros.ros.wiring import CameraWiring

pytestmark = pytest.mark.ros

DEPTH = '/sharp/depth/image'
SECOND = 10**9
SMALL = Intrinsics.from_hfov(1.2, 80, 60)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def picture(frame=CAMERA, stamp_ns=SECOND, intrinsics=INTRINSICS):
    image = IMAGE[: intrinsics.height, : intrinsics.width]
    return image_to_msg(image, stamp_ns, frame)


def info(frame=CAMERA, stamp_ns=SECOND, intrinsics=INTRINSICS):
    return camera_info_to_msg(intrinsics, stamp_ns, frame)


class Bench:
    """The wiring alone, at a time that passes as asked."""

    def __init__(self, monkeypatch):
        self.now, self.log = 100.0, []
        monkeypatch.setattr(module, 'time', SimpleNamespace(monotonic=lambda: self.now))
        self.health = Health(log=lambda kind, text: self.log.append(text))
        names = {'/image': ', published by /left, /right', '/info': ', published by /driver'}
        self.wiring = CameraWiring(self.health, names.__getitem__, '/image', '/info')

    def fates(self, *messages, step=0.1):
        """What becomes of images that come one after the other."""
        found = []
        for msg in messages:
            self.now += step
            found.append(self.wiring.refuses(msg))
        return found


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


# --- the rules ----------------------------------------------------------------------------------


def test_of_two_cameras_on_one_topic_the_first_goes_on(bench):
    bench.wiring.add_info(info(''))
    left, right = picture('left'), picture('right')
    assert bench.fates(*[left, right] * 20) == ['', 'other_camera'] * 20
    (text,) = bench.log  # once
    assert "those of 'left', 160x120 are processed, those of 'right', 160x120 are not" in text
    assert 'published by /left, /right' in text
    assert 'remap one of them' in text


def test_of_two_sizes_on_one_topic_the_first_goes_on(bench):
    large, small = picture(), picture(intrinsics=SMALL)
    assert bench.fates(*[large, small] * 5) == ['', 'size_mismatch'] * 5
    assert '160x120 are processed' in bench.log[0]
    assert '80x60 are not' in bench.log[0]


def test_the_camera_that_fits_camera_info_takes_the_place_of_one_that_came_first(bench):
    left, right = picture('left'), picture('right')
    assert bench.fates(left, right) == ['', 'other_camera']
    bench.wiring.add_info(info('right'))
    assert bench.fates(left, right, left, right) == [
        'foreign_camera_info',
        '',
        'other_camera',
        '',
    ]
    large, small = picture(), picture(intrinsics=SMALL)
    bench.wiring.forget_camera()
    bench.wiring.add_info(info(intrinsics=SMALL))
    assert bench.fates(large, small, large) == ['', '', 'size_mismatch']


def test_a_size_that_camera_info_excludes_never_takes_over(bench):
    bench.wiring.add_info(info())
    assert bench.fates(picture(), step=0.1) == ['']
    bench.now += 10  # the one that fits is silent; the decoder will refuse the other
    small = picture(intrinsics=SMALL)
    assert bench.fates(small, picture(), small) == ['', '', 'size_mismatch']


@pytest.mark.parametrize('gap', [2.5, 30.0])
def test_a_camera_that_is_silent_makes_room(bench, gap):
    """A driver that is started again with another resolution, or another name."""
    assert bench.fates(picture('left'), picture('right')) == ['', 'other_camera']
    bench.now += gap
    assert bench.fates(picture('right'), picture('left')) == ['', 'other_camera']


def test_a_slow_camera_is_not_given_up_between_two_images(bench):
    left, right = picture('left'), picture('right')
    bench.fates(left, left, step=4.0)
    assert bench.fates(right, left, right, step=2.0) == ['other_camera', '', 'other_camera']


@pytest.mark.parametrize(
    ('of_image', 'of_info'),
    [('cam', 'cam'), ('cam', ''), ('', 'cam'), ('/cam', 'cam'), ('cam', '/cam'), ('', '')],
)
def test_frame_ids_that_may_be_of_one_camera_are_harmless(bench, of_image, of_info):
    bench.wiring.add_info(info(of_info, stamp_ns=0))  # latched, or sent once at the start
    image = picture(of_image)
    assert bench.fates(image, image) == ['', '']
    assert stamp_ns_from_msg(bench.wiring.info_of(image).header) == 0
    assert not bench.log


def test_the_calibration_of_a_neighbour_is_not_taken(bench):
    bench.wiring.add_info(info('neighbour'))
    assert bench.fates(picture()) == ['foreign_camera_info']
    assert bench.wiring.info_of(picture()) is None
    (text,) = bench.log
    assert text.startswith("/info carries the calibration of 'neighbour', published by /driver, ")
    assert f"but /image images of '{CAMERA}'" in text
    assert 'remap camera_info to that of the image' in text
    bench.wiring.add_info(info(CAMERA))
    assert bench.fates(picture()) == ['']
    bench.wiring.add_info(info('neighbour', intrinsics=SMALL))  # which goes on
    assert bench.wiring.info_of(picture()).width == INTRINSICS.width
    assert bench.health._events['foreign_camera_info'] == 1


def test_two_calibrations_in_turn_are_told_and_the_first_counts_but_for_its_own_stamp(bench):
    wide, narrow = INTRINSICS, Intrinsics.from_hfov(0.6, 160, 120)
    for k in range(6):
        bench.now += 0.03
        given = narrow if k % 2 else wide
        bench.wiring.add_info(info(stamp_ns=k * SECOND, intrinsics=given))
    assert len(bench.log) == 1
    assert '/info carries two calibrations in turn, of 160x120 and 160x120' in bench.log[0]
    assert bench.wiring.info_of(picture(stamp_ns=9 * SECOND)).k[0] == pytest.approx(wide.fx)
    assert bench.wiring.info_of(picture(stamp_ns=5 * SECOND)).k[0] == pytest.approx(narrow.fx)
    assert bench.health._events['camera_info_alternates'] == 3


def test_a_calibration_that_changes_counts_at_once(bench):
    """A zoom lens, or another resolution."""
    for k in range(20):
        bench.now += 0.03
        lens = Intrinsics.from_hfov(1.2 - 0.02 * k, 160, 120)
        bench.wiring.add_info(info(stamp_ns=k, intrinsics=lens))
        assert bench.wiring.info_of(picture(stamp_ns=99)).k[0] == pytest.approx(lens.fx)
    for size in (SMALL, INTRINSICS):
        bench.wiring.add_info(info(intrinsics=size))
        bench.now += 3.0
        assert bench.fates(picture(intrinsics=size)) == ['']
    assert not bench.log


def test_compressed_images_are_told_apart_by_their_frames(bench):
    left, right = (CompressedImage(header=header_to_msg(1, frame)) for frame in 'lr')
    assert bench.fates(left, right, left) == ['', 'other_camera', '']


def test_complaints_stay_bounded(bench):
    bench.fates(picture('cam'), *(picture('x' * 5000 + str(k)) for k in range(100)), step=0.001)
    assert len(bench.wiring._said) <= 20
    assert max(map(len, bench.log)) < 500


# --- live ---------------------------------------------------------------------------------------


@pytest.fixture
def second(context, executor):
    """The node of another camera."""
    node = Node('second_camera', context=context)
    node.images = node.create_publisher(Image, 'image', 1)
    executor.add_node(node)
    yield node
    executor.remove_node(node)
    node.destroy_node()


@pytest.mark.parametrize(
    ('other', 'reason'),
    [({'frame': 'rear'}, 'other_camera'), ({'intrinsics': SMALL}, 'size_mismatch')],
    ids=['frame', 'size'],
)
def test_a_second_camera_on_the_topic_is_named_counted_and_does_no_harm(
    make_node, peer, second, other, reason
):
    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node())
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)

    turn = itertools.count()

    def both():  # not at one moment: the subscription keeps the newest only
        if next(turn) % 2:
            peer.send()
        else:
            second.images.publish(picture(stamp_ns=peer.now(), **other))

    def enough():
        counts = node._worker.counts()
        return counts.reasons.get(reason, 0) >= 10 and len(peer.received[DEPTH]) > 10

    peer.spin_until(enough, each=both)
    assert {m.header.frame_id for m in peer.received[DEPTH]} == {CAMERA}
    assert {(m.width, m.height) for m in peer.received[DEPTH]} == {(160, 120)}
    peer.diagnose(node)
    level, message, values = peer.status('Input')
    assert level == WARN
    assert 'published by /peer, /second_camera' in message
    assert int(values[f'dropped.{reason}']) >= 10
    total = node._worker.counts()
    assert total.frames_in == total.processed + total.dropped + total.pending


def test_the_camera_stays_the_same_while_images_are_ignored(make_node, peer, second, monkeypatch):
    """Else whose image comes first afterwards would go on with the map of the other."""
    monkeypatch.setattr(module, '_ALIVE', 0.5)
    node = start(make_node())
    peer.spin_until(lambda: node._worker.counts().processed >= 2, each=peer.send)
    node.set_enabled(False)
    for _ in range(16):  # 0.8 s
        peer.send()
        peer.spin(0.05)
    node.set_enabled(True)
    reasons = lambda: node._worker.counts().reasons  # noqa: E731
    assert reasons()['disabled'] >= 10
    second.images.publish(picture('rear', stamp_ns=peer.now()))
    peer.spin_until(lambda: reasons().get('other_camera'))


def test_camera_info_of_another_camera_is_refused_until_it_is_wired_right(make_node, peer):
    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node())

    def wrong():
        stamp_ns = peer.now()
        peer.info.publish(info('rear', stamp_ns, SMALL))
        peer.send(info=None, stamp_ns=stamp_ns)

    counts = node._worker.counts
    peer.spin_until(lambda: counts().reasons.get('foreign_camera_info', 0) >= 3, each=wrong)
    peer.diagnose(node)
    level, message, values = peer.status('Input')
    assert level == WARN
    assert "/camera_info carries the calibration of 'rear', published by /peer" in message
    assert int(values['dropped.foreign_camera_info']) >= 3
    assert not peer.received[DEPTH]
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)


def test_the_image_just_before_its_first_camera_info_is_processed(make_node, peer):
    peer.listen(DEPTH)
    node = start(make_node())
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)  # all have found each other
    node._session.wiring._infos.clear()
    peer.received[DEPTH].clear()
    stamp_ns = peer.now()
    node._on_odometry(odometry_to_msg(POSE, stamp_ns, 'odom', CAMERA))
    node._on_image(picture(stamp_ns=stamp_ns))
    node._on_info(info(stamp_ns=stamp_ns))
    peer.spin_until(lambda: peer.received[DEPTH])
    assert stamp_ns_from_msg(peer.received[DEPTH][0].header) == stamp_ns
    assert not node._worker.counts().reasons.get('no_camera_info')


def test_of_images_before_any_camera_info_all_but_the_newest_are_missed(make_node, peer):
    node = start(make_node())
    counts = node._worker.counts
    peer.spin_until(
        lambda: counts().reasons.get('no_camera_info', 0) >= 2, each=lambda: peer.send(info=None)
    )
    total = counts()
    assert total.frames_in == total.processed + total.dropped + total.pending


@pytest.mark.parametrize('with_volatile', [False, True])
def test_camera_info_that_was_latched_before_the_node_came_is_heard(
    make_node, peer, with_volatile
):
    """Beside a publisher on the same topic that keeps nothing, and sends nothing now."""
    if not with_volatile:
        peer.node.destroy_publisher(peer.info)
    latched = peer.node.create_publisher(CameraInfo, 'camera_info', LATCHED)
    latched.publish(info(stamp_ns=1))
    peer.spin(0.5)
    peer.listen(DEPTH)
    node = start(make_node())
    peer.spin_until(lambda: peer.received[DEPTH], each=lambda: peer.send(info=None))
    assert 'incompatible_qos' not in node._health._events
    if with_volatile:  # which is heard, too
        other = Intrinsics.from_hfov(0.8, 160, 120)
        peer.spin_until(
            lambda: node._session.wiring.info_of(picture()).k[0] == pytest.approx(other.fx),
            each=lambda: peer.send(info=other),
        )


def test_who_latches_camera_info_later_is_heard_once_he_is_there(make_node, peer):
    peer.listen(DEPTH)
    node = start(make_node())
    assert len(node._subscribers) == len({s.topic_name for s in node._subscribers})
    peer.node.destroy_publisher(peer.info)
    latched = peer.node.create_publisher(CameraInfo, 'camera_info', LATCHED)
    latched.publish(info(stamp_ns=1))  # maybe before both have found each other
    peer.spin_until(lambda: peer.received[DEPTH], each=lambda: peer.send(info=None))


@pytest.mark.parametrize('slashed', ['image', 'info', 'odometry', 'all'])
def test_leading_slashes_of_frame_ids_make_no_difference(make_node, peer, slashed):
    def named(what, frame):
        return '/' + frame if slashed in (what, 'all') else frame

    def send():
        stamp_ns = peer.now()
        peer.info.publish(info(named('info', CAMERA), stamp_ns))
        world, child = named('odometry', 'odom'), named('odometry', CAMERA)
        peer.odometry.publish(odometry_to_msg(POSE, stamp_ns, world, child))
        peer.image.publish(picture(named('image', CAMERA), stamp_ns))

    topics = (DEPTH, '/sharp/points', '/sharp/occupancy_grid')
    peer.listen(*topics)
    start(make_node())
    peer.spin_until(lambda: all(peer.received[t] for t in topics), each=send)
    frames = [peer.received[topic][0].header.frame_id for topic in topics]
    assert frames == [CAMERA, CAMERA, 'odom']


# --- quality of service of inputs ---------------------------------------------------------------


def test_overrides_of_an_input_have_effect(make_node, peer):
    given = {
        'reliability': 'reliable', 'depth': 7, 'history': 'keep_last',
        'durability': 'transient_local',
    }  # fmt: skip
    for topic in ('/image', '/camera_info', '/odometry'):
        overrides = {f'qos_overrides.{topic}.subscription.{k}': v for k, v in given.items()}
        node = start(make_node(**overrides))
        (found,) = (s.qos_profile for s in node._subscribers if s.topic_name == topic)
        assert found.reliability == ReliabilityPolicy.RELIABLE
        assert found.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert found.depth == 7
        assert 'qos_override_without_effect' not in node._health._events
        node.trigger_deactivate()


@pytest.mark.parametrize(('policy', 'value'), [('reliability', 'perhaps'), ('depth', 'deep')])
def test_an_override_that_means_nothing_is_refused_by_name(make_node, capfd, policy, value):
    name = f'qos_overrides./image.subscription.{policy}'
    node = make_node(**{name: value})
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    said = ''.join(capfd.readouterr())
    assert 'qos_overrides./image.subscription' in said
    assert value in said or policy in said


@pytest.mark.parametrize(
    'name',
    [
        'qos_overrides./imagee.subscription.reliability',
        'qos_overrides./image.subscription.lifespan',
        'qos_overrides.image.subscription.depth',
    ],
)
def test_an_override_without_effect_is_named(make_node, peer, name):
    peer.listen('/diagnostics')
    node = start(make_node(**{name: 1 if name.endswith('depth') else 'reliable'}))
    peer.diagnose(node)
    assert f'{name} has no effect' in node._health._problems['Input'][1]
    assert peer.status('Input')[2]['event.qos_override_without_effect'] == '1'
