"""Malformed messages of every kind: none ends the node, each is counted, good ones come after.

Most go straight into the callbacks of a node whose worker is waited for, hundreds over DDS.
"""

from __future__ import annotations

import array
from collections import Counter
from itertools import count
import time
from types import SimpleNamespace

import cv2
from hypothesis import given, HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import CAMERA, POSE, WALL
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, Range

from sharp_ros.camera import Intrinsics
from sharp_ros.image_content import content_of
from sharp_ros.models import load_predictor
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    depth_from_msg,
    depth_to_msg,
    header_to_msg,
    image_to_msg,
    odometry_to_msg,
    pose_to_msg,
    stamp_ns_from_msg,
    SUPPORTED_ENCODINGS,
)

pytestmark = pytest.mark.ros

DEPTH = '/sharp/depth/image'
SUCCESS = TransitionCallbackReturn.SUCCESS
K = Intrinsics.from_hfov(1.2, 32, 24)
RGB = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
STAMP = 1_700_000_000 * 10**9
SMALL = {
    'pose__source': 'odometry',
    'pose__wait': 0.0,  # nobody sends the pose that it would wait for
    'scale__constant': 1.0,  # poses are lies here, and no scale shall be learnt from them
    'occupancy__size': 4.0,
    'views__over_shoulder__width': 32,
    'views__over_shoulder__height': 24,
    'views__requested__width': 32,
    'views__requested__height': 24,
}
BAD_IMAGE = {'bad_image_size', 'bad_data_length', 'unknown_encoding', 'size_mismatch'}
SHOWS_NOTHING = {'image_dark', 'image_overexposed', 'image_uniform'}
BAD_INFO = {'bad_camera_info', 'bad_intrinsics', 'uncalibrated', 'size_mismatch', 'not_finite'}

# --- what is wrong with them -------------------------------------------------------------------

UINT32 = st.one_of(st.integers(0, 70), st.integers(0, 2**32 - 1))
FLOAT = st.one_of(st.floats(), st.floats(-3, 3), st.sampled_from([0.0, np.nan, np.inf, 1e300]))
NAME = st.one_of(
    st.sampled_from(['', CAMERA, 'a\0b', '/', 'odom', 'world', ' ', 'x' * 5000]),
    st.text(st.characters(exclude_categories=['Cs']), max_size=20),
)
STAMPS = st.tuples(
    st.one_of(st.sampled_from([STAMP // 10**9, -(2**31), -1, 2**31 - 1]), st.integers(-9, 9)),
    st.one_of(st.sampled_from([0, 10**9 - 1, 10**9, 2**32 - 1]), st.integers(0, 2**32 - 1)),
)
ENCODING = st.one_of(
    st.sampled_from([*SUPPORTED_ENCODINGS, '32FC1', '16UC1', '64FC1', 'jpeg']), NAME
)


def spoil_header(draw, msg):
    if draw(st.booleans()):
        msg.header.stamp.sec, msg.header.stamp.nanosec = draw(STAMPS)
    else:
        msg.header.frame_id = draw(NAME)


def spoil_size(draw, msg):
    setattr(msg, draw(st.sampled_from(['width', 'height', 'step'])), draw(UINT32))


def spoil_data(draw, msg):
    data = bytes(msg.data)
    at = draw(st.integers(0, len(data)))
    kept = draw(st.sampled_from([data[:at], data[at:], data + data[:at], b'', data]))
    msg.data = array.array('B', kept + draw(st.binary(max_size=20)))


def spoil_encoding(draw, msg):
    msg.encoding, msg.is_bigendian = draw(ENCODING), draw(st.integers(0, 255))


def fitting(draw, msg):
    """Right lengths for whatever is claimed, so that decoders see rubbish of every encoding."""
    msg.encoding = draw(ENCODING)
    msg.step = msg.width * draw(st.integers(1, 16))
    rows = msg.height * draw(st.sampled_from([1, 1, 1, 3])) * draw(st.sampled_from([2, 3])) // 2
    rows = draw(st.sampled_from([rows, msg.height]))
    if msg.step * rows < 1 << 20:
        msg.data = array.array('B', draw(st.randoms()).randbytes(msg.step * rows))


def spoiled(msg, *ways):
    """The good message, with one to three things wrong with it."""

    @st.composite
    def strategy(draw):
        copy = msg()
        for spoil in draw(st.lists(st.sampled_from(ways), min_size=1, max_size=3)):
            spoil(draw, copy)
        return copy

    return strategy()


def good_image(stamp_ns=STAMP, turned=0):
    return image_to_msg(np.roll(RGB, turned, 1), stamp_ns, CAMERA)


def good_depth(stamp_ns=STAMP):
    return depth_to_msg(np.full((24, 32), WALL, np.float32), stamp_ns, CAMERA)


def good_compressed(stamp_ns=STAMP, form='.jpg'):
    data = array.array('B', cv2.imencode(form, RGB)[1].tobytes())
    header = header_to_msg(stamp_ns, CAMERA)
    return CompressedImage(header=header, format='jpeg' if form == '.jpg' else 'png', data=data)


def good_odometry(stamp_ns=STAMP):
    return odometry_to_msg(POSE, stamp_ns, 'odom', CAMERA)


def good_imu(stamp_ns=STAMP):
    """Of a camera that holds its head up, 1 nanosecond before its image."""
    msg = Imu(header=header_to_msg(stamp_ns - 1, CAMERA))
    msg.orientation.w, msg.orientation.x = float(np.sqrt(0.5)), -float(np.sqrt(0.5))
    msg.linear_acceleration.y = -9.81
    return msg


def good_range(stamp_ns=STAMP):
    msg = Range(header=header_to_msg(stamp_ns, 'sonar'), field_of_view=0.05)
    msg.min_range, msg.max_range, msg.range = 0.1, 8.0, WALL
    return msg


def spoil_range(draw, msg):
    names = ['field_of_view', 'min_range', 'max_range', 'range']
    names += ['variance'] if hasattr(msg, 'variance') else []  # which humble lacks
    small = st.one_of(st.floats(width=32), st.floats(-3, 10, width=32))
    setattr(msg, draw(st.sampled_from(names)), draw(small))


def spoil_format(draw, msg):
    msg.format = draw(
        st.one_of(NAME, st.sampled_from(['bayer_rggb8; png compressed ', ';;', 'bayer_']))
    )


def spoil_byte(draw, msg):
    at = draw(st.integers(0, len(msg.data)))
    msg.data[at : at + 1] = array.array('B', draw(st.binary(min_size=1, max_size=2)))


def spoil_place(draw, msg):
    pose = msg.pose.pose if hasattr(msg.pose, 'pose') else msg.pose
    part = draw(st.sampled_from([pose.position, pose.orientation]))
    setattr(part, draw(st.sampled_from('xyz')), draw(FLOAT))


def spoil_turn(draw, msg):
    pose = msg.pose.pose if hasattr(msg.pose, 'pose') else msg.pose
    for axis in 'xyzw':
        setattr(pose.orientation, axis, draw(st.sampled_from([0.0, 1e-300, 1e200, np.nan, 0.5])))


def spoil_rotation(draw, msg):
    for axis in 'xyzw':
        setattr(msg.orientation, axis, draw(st.sampled_from([0.0, 1e-300, 1e200, np.nan, 0.5])))


def spoil_vector(draw, msg):
    part = draw(st.sampled_from([msg.angular_velocity, msg.linear_acceleration]))
    setattr(part, draw(st.sampled_from('xyz')), draw(FLOAT))


def spoil_covariance(draw, msg):
    part = draw(st.sampled_from(['orientation', 'angular_velocity', 'linear_acceleration']))
    values = getattr(msg, f'{part}_covariance')
    values[draw(st.sampled_from([0, 0, 4, 1, 8]))] = draw(st.one_of(st.just(-1.0), FLOAT))


def spoil_child(draw, msg):
    msg.child_frame_id = draw(NAME)


def spoil_matrix(draw, msg):
    name = draw(st.sampled_from(['k', 'p', 'r']))
    values = np.array(getattr(msg, name))
    values[draw(st.integers(0, len(values) - 1))] = draw(FLOAT)
    setattr(msg, name, values)


def spoil_distortion(draw, msg):
    names = st.sampled_from(['plumb_bob', 'rational_polynomial', 'equidistant', ''])
    msg.distortion_model = draw(st.one_of(names, NAME))
    msg.d = array.array('d', draw(st.lists(FLOAT, max_size=15)))


def spoil_window(draw, msg):
    msg.binning_x, msg.binning_y = draw(UINT32), draw(UINT32)
    for name in ('x_offset', 'y_offset', 'width', 'height'):
        setattr(msg.roi, name, draw(UINT32))


def spoil_info_size(draw, msg):
    setattr(msg, draw(st.sampled_from(['width', 'height'])), draw(UINT32))


@st.composite
def odd_infos(draw):
    """Of another middleware or a bag of ROS 1, where no type fixes the lengths of K, R and P."""
    good = camera_info_to_msg(K, STAMP, CAMERA)
    values = {n: list(getattr(good, n)) for n in 'kdrp'}
    values[draw(st.sampled_from('krp'))] = draw(st.lists(FLOAT, max_size=13))
    fields = ('width', 'height', 'distortion_model', 'binning_x', 'binning_y', 'roi', 'header')
    upper = draw(st.booleans())
    values = {n.upper() if upper else n: v for n, v in values.items()}
    return SimpleNamespace(**values, **{name: getattr(good, name) for name in fields})


OTHER = {'other_camera'}  # whose frame_id is another
WIRE_REASONS = {'replaced', 'bad_pose', *OTHER, *BAD_IMAGE, *BAD_INFO, *SHOWS_NOTHING}
IMAGES = spoiled(good_image, spoil_header, spoil_size, spoil_data, spoil_encoding, fitting)
DEPTHS = spoiled(good_depth, spoil_header, spoil_size, spoil_data, spoil_encoding, fitting)
COMPRESSED = st.one_of(
    *(
        spoiled(
            lambda f=form: good_compressed(form=f),
            spoil_header,
            spoil_data,
            spoil_format,
            spoil_byte,
        )
        for form in ('.jpg', '.png')
    )
)
INFOS = st.one_of(
    spoiled(
        lambda: camera_info_to_msg(K, STAMP, CAMERA),
        spoil_header, spoil_matrix, spoil_distortion, spoil_window, spoil_info_size,
    ),
    odd_infos(),
)  # fmt: skip
ODOMETRIES = spoiled(good_odometry, spoil_header, spoil_place, spoil_turn, spoil_child)
IMUS = spoiled(good_imu, spoil_header, spoil_rotation, spoil_vector, spoil_covariance)
RANGES = spoiled(good_range, spoil_header, spoil_range)
REQUESTS = spoiled(
    lambda: pose_to_msg(np.eye(4), STAMP, 'odom'), spoil_header, spoil_place, spoil_turn
)

# --- the node they are sent to -----------------------------------------------------------------


def settled(node):
    """The counts once all that was sent is done."""
    node._worker.call(lambda: None, 30)
    end = time.monotonic() + 30
    while node._worker.counts().pending:
        assert time.monotonic() < end, 'the worker hangs'
        time.sleep(1e-4)
    return node._worker.counts()


class Bench:
    """A node that is told messages directly, and the newest result of its pipeline."""

    def __init__(self, node):
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        self.node, self.result = node, None
        publish = node._publish

        def published(result):
            self.result = result
            publish(result)

        node._publish = published
        begin = node._session.pipeline.begin

        def begun(frame, wanted):
            self.frame = frame
            return begin(frame, wanted)

        node._session.pipeline.begin = begun
        node._on_info(camera_info_to_msg(K, STAMP, CAMERA))

    def counts(self):
        return settled(self.node)

    def fate(self, send):
        """What becomes of the one frame that `send` gives: a reason, or '' if it was processed."""
        before, self.result = self.counts(), None
        send()
        after = self.counts()
        assert after.frames_in == after.processed + after.dropped
        assert (after.frames_in, after.pending) == (before.frames_in + 1, 0)
        lost = Counter(after.reasons) - Counter(before.reasons)
        assert len(lost) + (after.processed - before.processed) == 1
        assert 'internal_error' not in lost, self.node._health._problems
        return next(iter(lost), '')

    def is_due(self, fate, others):
        """Whether a fate is one of the others, or that of an image which truly shows nothing."""
        if fate in SHOWS_NOTHING:
            return not content_of(self.frame.image, self.frame.unseen).enough
        return fate in others

    def events(self):
        return Counter(self.node._health._events)

    def send_good(self):
        """Whatever came before: this frame is processed, mapped, and its depth is right."""
        node = self.node
        self.counts()
        node._session.pipeline.reset()
        mapped = node._health._mapped
        node._on_info(camera_info_to_msg(K, STAMP, CAMERA))
        if node._session.poses.odometry is not None:
            node._on_odometry(good_odometry(STAMP - 1))  # in case that stamps were far ahead
            node._on_odometry(good_odometry())
        assert self.fate(lambda: node._on_image(good_image())) == ''
        np.testing.assert_allclose(self.result.depth[4:-4, 4:-4], WALL, rtol=0.02)
        assert node._health._mapped == mapped + 1


@pytest.fixture
def bench(make_node, peer):
    peer.listen()  # so that everything is made, although nobody takes it
    peer.node.create_subscription(Image, '/sharp/view/requested/image', lambda m: None, 1)

    def make(oracle=None, info=None, **parameters):
        node = make_node(oracle, info, **{**SMALL, **parameters})
        bench = Bench(node)
        peer.spin_until(lambda: len(node._session.outputs.wanted()) >= 9)
        return bench

    return make


@pytest.fixture
def for_each(long_form, tally):
    """Runs a law on every message of a strategy; the short form takes one of fifty."""

    def run(kind, strategy, law):
        number, fates = (100_000 // 6 + 1) if long_form else 300, Counter()

        @seed(0)
        @settings(
            max_examples=number,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(msg=strategy)
        def check(msg):
            fates[law(msg) or 'processed'] += 1

        check()
        tally[f'messages.{kind}'] = {'sent': fates.total(), **fates}
        assert fates.total() >= number, 'fewer messages than asked for'
        return fates

    return run


# --- laws --------------------------------------------------------------------------------------


def test_no_image_is_lost_track_of_and_none_ends_the_node(bench, for_each):
    bench = bench()

    def law(msg):
        bench.node._on_odometry(good_odometry())
        fate = bench.fate(lambda: bench.node._on_image(msg))
        assert bench.is_due(fate, {'', *BAD_IMAGE, *OTHER})
        if not fate:
            assert bench.result.depth.shape == (msg.height, msg.width) == (24, 32)
            assert bench.result.frame.stamp_ns == stamp_ns_from_msg(msg.header)
        return fate

    fates = for_each('image', IMAGES, law)
    assert {'processed', *BAD_IMAGE} <= set(fates)
    bench.send_good()


def test_no_compressed_image_is_lost_track_of_and_none_ends_the_node(bench, for_each, peer):
    peer.node.destroy_publisher(peer.image)  # a topic has one type
    bench = bench(camera__transport='compressed')

    def law(msg):
        fate = bench.fate(lambda: bench.node._on_image(msg))
        assert bench.is_due(fate, {'', 'bad_compressed', 'size_mismatch', *OTHER})
        return fate

    fates = for_each('compressed', COMPRESSED, law)
    assert {'processed', 'bad_compressed'} <= set(fates)
    assert bench.fate(lambda: bench.node._on_image(good_compressed())) == ''
    np.testing.assert_allclose(bench.result.depth[4:-4, 4:-4], WALL, rtol=0.02)


@pytest.mark.parametrize('rectified', [False, True])
def test_no_camera_info_ends_the_node(bench, for_each, rectified):
    bench = bench(camera__rectified=rectified)

    def law(msg):
        bench.node._on_info(msg)
        bench.node._on_odometry(good_odometry())
        fate = bench.fate(lambda: bench.node._on_image(good_image()))
        assert bench.is_due(fate, {'', *BAD_INFO})
        return fate

    fates = for_each(f'camera_info.rectified={rectified}', INFOS, law)
    assert {'processed', 'bad_camera_info', 'uncalibrated', 'size_mismatch'} <= set(fates)
    bench.send_good()


def test_no_odometry_ends_the_node_and_impossible_ones_are_counted(bench, for_each):
    bench, turned = bench(), count(1)

    def law(msg):
        before = bench.events()
        bench.node._on_odometry(msg)
        refused = bench.events()['bad_pose'] - before['bad_pose']
        p, q = msg.pose.pose.position, msg.pose.pose.orientation
        norm = np.linalg.norm([q.x, q.y, q.z, q.w])
        impossible = not np.isfinite([p.x, p.y, p.z, norm]).all() or norm < 1e-9
        assert refused == impossible
        image = good_image(turned=next(turned))  # elsewhere it looks different
        image.header.stamp = msg.header.stamp
        fate = bench.fate(lambda: bench.node._on_image(image))
        assert fate in {'', 'bad_pose'}
        return 'bad_pose' if refused else fate

    fates = for_each('odometry', ODOMETRIES, law)
    assert {'processed', 'bad_pose'} <= set(fates)
    bench.send_good()


def test_no_imu_ends_the_node_each_is_used_or_counted_and_none_levels_the_map_wrongly(
    bench, for_each
):
    bench = bench(imu__enabled=True)
    bench.send_good()
    imu = bench.node._session.imu

    def law(msg):
        imu._gravity.__init__()
        bench.node._on_imu(good_imu(STAMP - 10**8))
        before = bench.events()
        bench.node._on_imu(msg)
        new = bench.events() - before
        bench.node._on_odometry(good_odometry())
        fate = bench.fate(lambda: bench.node._on_image(good_image()))
        assert fate == ''
        up = bench.result.frame.up
        q = msg.orientation
        numbers = np.array([q.x, q.y, q.z, q.w])
        used = imu._gravity.newest_ns == stamp_ns_from_msg(msg.header)
        usable = bool(np.isfinite(numbers).all() and 0.9 < np.linalg.norm(numbers) < 1.1)
        absent = msg.orientation_covariance[0] < 0
        assert used or new, 'neither used nor counted'
        assert new['bad_imu_orientation'] == (used and not usable and not absent)
        if up is not None:
            assert np.isfinite(up.direction).all()
            assert up.std > 0
        if bench.result.unmapped is not None:
            assert bench.result.unmapped.reason == 'gravity_contradicts_pose'
        elif up is not None:
            off = np.arccos(np.clip(up.direction @ POSE[2, :3], -1, 1))
            assert off <= np.radians(5) + 3 * up.std + 1e-6
        return next(iter(new), '')

    fates = for_each('imu', IMUS, law)
    assert {'processed', 'bad_imu', 'bad_imu_orientation', 'imu_went_back'} <= set(fates)


def test_no_range_ends_the_node_each_is_used_or_counted(bench, for_each, tf2):
    tf2.place(
        np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]), CAMERA, 'sonar'
    )
    bench = bench(range__enabled=True)
    ranger = bench.node._session.ranger

    def law(msg):
        ranger._kept.clear()
        before = bench.events()
        bench.node._on_range(msg)
        bench.node._on_odometry(good_odometry())
        fate = bench.fate(lambda: bench.node._on_image(good_image()))
        assert fate == ''
        new = {k: n for k, n in (bench.events() - before).items() if 'range' in k}
        reading = bench.result.frame.range_reading
        within = msg.min_range <= msg.range <= msg.max_range
        if reading is None:
            assert new or not (np.isfinite(msg.range) and within and msg.range > 0), new
        else:
            assert not new
            assert within
            assert reading.distance == pytest.approx(msg.range)
            assert reading.is_in(bench.result.frame.intrinsics)
        return next(iter(new), '')

    fates = for_each('range', RANGES, law)
    assert {'processed', 'bad_range', 'range_too_old', 'range_unplaced'} <= set(fates)


def test_no_view_request_ends_the_node_and_each_is_served_or_counted(bench, for_each):
    bench = bench()
    bench.send_good()
    node = bench.node

    def tried():
        events = {k: n for k, n in bench.events().items() if not k.startswith('odometry')}
        return Counter({**events, **node._health._unplaced})

    def law(msg):
        before, seen = tried(), node._health._views.pop('requested', None)
        node._on_view_request(msg)
        assert 'internal_error' not in bench.counts().reasons
        assert 'Inference' not in node._health._problems, node._health._problems
        served = 'requested' in node._health._views
        new = tried() - before
        assert served + new.total() == 1, (seen, new)
        return next(iter(new), '')

    fates = for_each('view_request', REQUESTS, law)
    assert {'processed', 'bad_pose'} <= set(fates)
    bench.send_good()


def test_no_depth_image_is_lost_track_of_and_none_ends_the_node(bench, for_each):
    bench = bench(*load_predictor('sensor'))

    def law(msg):
        image = good_image()
        image.header.stamp = msg.header.stamp
        bench.node._on_odometry(good_odometry())
        bench.node._on_image(image)
        fate = bench.fate(lambda: bench.node._on_depth(msg))
        assert fate in {'', *BAD_IMAGE}
        return fate

    fates = for_each('depth', DEPTHS, law)
    assert {'processed', *BAD_IMAGE} <= set(fates)
    bench.node._on_depth(good_depth())
    bench.send_good()


def test_stamps_out_of_range_do_not_confuse_tf(bench, for_each, tf2):
    bench = bench(pose__source='tf')
    stamps = spoiled(good_image, spoil_header)
    for_each('stamps with tf', stamps, lambda m: bench.fate(lambda: bench.node._on_image(m)))


def test_what_is_malformed_on_the_wire_is_counted_and_the_stream_goes_on(
    make_node, peer, long_form, tally
):
    node = make_node(**SMALL)
    Bench(node)
    peer.listen(DEPTH)
    peer.spin_until(lambda: 'depth/image' in node._session.outputs.wanted())
    number, sent, turned = 1000 if long_form else 200, Counter(), count(1)

    def publish(stamp_ns, **spoiled):
        world = node._session.pipeline.world_frame or 'odom'
        good = {
            'info': camera_info_to_msg(K, stamp_ns, CAMERA),
            'odometry': odometry_to_msg(POSE, stamp_ns, world, CAMERA),
            'image': good_image(stamp_ns, next(turned)),
        }
        for name, msg in {**good, **spoiled}.items():
            getattr(peer, name).publish(msg)

    @seed(1)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(
        spoiled=st.one_of(
            st.fixed_dictionaries({'image': IMAGES}),
            st.fixed_dictionaries({'info': INFOS.filter(lambda m: isinstance(m, CameraInfo))}),
            st.fixed_dictionaries({'odometry': ODOMETRIES}),
        )
    )
    def check(spoiled):
        before = node._worker.counts().frames_in
        peer.spin_until(
            lambda: node._worker.counts().frames_in > before,
            each=lambda: publish(STAMP, **spoiled),  # best effort: may get lost
            period=1.0,
        )
        sent.update(list(spoiled))

    check()
    total = settled(node)
    assert total.frames_in == total.processed + total.dropped >= number
    assert set(total.reasons) <= WIRE_REASONS
    tally['messages.wire'] = {'sent': sent.total(), 'processed': total.processed, **total.reasons}
    peer.received.clear()
    stamp_ns = peer.now()
    peer.spin_until(lambda: peer.received[DEPTH], each=lambda: publish(stamp_ns))
    depth = depth_from_msg(peer.received[DEPTH][-1])
    np.testing.assert_allclose(depth[4:-4, 4:-4], WALL, rtol=0.02)
