"""Compressed images: what image_transport's plugins would write, and only for those who listen."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from ros_helpers import start
from sensor_msgs.msg import CompressedImage, Image

from sharp_ros.ros import outputs
from sharp_ros.ros.conversions import (
    compressed_depth_to_msg,
    compressed_from_msg,
    depth_from_msg,
    image_from_msg,
    jpeg_to_msg,
    stamp_ns_from_msg,
)

pytestmark = pytest.mark.ros


def reading_of_image_transport(msg):
    """Depth as the plugin's subscriber computes it from the header, by OpenCV's PNG decoder."""
    data = bytes(msg.data)
    kind, a, b = struct.unpack('<iff', data[:12])
    assert kind == 0  # inverse depth
    steps = cv2.imdecode(np.frombuffer(data[12:], np.uint8), cv2.IMREAD_UNCHANGED)
    assert steps.dtype == np.uint16
    a, b = np.float32(a), np.float32(b)
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(steps > 0, a / (steps.astype(np.float32) - b), np.nan)


@pytest.mark.parametrize(
    ('near', 'far'), [(0.1, 20.0), (0.5, 5.0), (2.0, 2.0), (1.0, 1.001), (0.05, 1000.0)]
)
def test_depth_comes_back_within_a_step_of_its_inverse(near, far):
    depth = np.linspace(near, far, 120 * 160, dtype=np.float32).reshape(120, 160)
    msg = compressed_depth_to_msg(depth, 5, 'camera')
    assert msg.format == '32FC1; compressedDepth png'
    allowed = 1.02 * (1 / near - 1 / max(far, 2 * near)) / 131068 + 1e-6 / depth  # 1/m
    for read in (depth_from_msg(msg), reading_of_image_transport(msg)):
        assert (np.abs(1 / read - 1 / depth) <= allowed).all()


def test_what_is_no_measurement_comes_back_as_none():
    depth = np.full((4, 8), 2.0, np.float32)
    depth[0, :5] = np.nan, np.inf, -np.inf, 0.0, -1.0
    msg = compressed_depth_to_msg(depth, 5, 'camera')
    assert np.isnan(reading_of_image_transport(msg)[0, :5]).all()
    assert (depth_from_msg(msg)[0, :5] == 0).all()
    nothing = compressed_depth_to_msg(np.full((4, 8), np.nan, np.float32), 5, 'camera')
    assert not depth_from_msg(nothing).any()
    assert np.isnan(reading_of_image_transport(nothing)).all()


def test_a_jpeg_has_the_colours_of_the_image():
    rows, columns = np.mgrid[:48, :64]
    rgb = np.stack([4 * columns, 5 * rows, 255 - 4 * columns], -1).clip(0, 255).astype(np.uint8)
    msg = jpeg_to_msg(rgb, 1_500_000_007, 'camera')
    assert msg.format == 'rgb8; jpeg compressed bgr8'  # OpenCV's decoder gives BGR
    assert stamp_ns_from_msg(msg.header) == 1_500_000_007
    assert np.abs(compressed_from_msg(msg).astype(int) - rgb).max() < 24
    by_opencv = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(by_opencv.astype(int) - rgb).mean() < 2


def test_compressed_images_say_the_same_as_the_plain_ones(make_node, peer):
    plain, packed = {}, {}
    for topic, suffix in (
        ('depth/image', '/compressedDepth'),
        ('image_rect', '/compressed'),
        ('view/over_shoulder/image', '/compressed'),
        ('view/over_shoulder/depth', '/compressedDepth'),
    ):
        for kind, got, name in ((Image, plain, topic), (CompressedImage, packed, topic + suffix)):
            peer.node.create_subscription(
                kind,
                f'/sharp/{name}',
                lambda m, g=got, t=topic: g.setdefault(t, {}).update(
                    {stamp_ns_from_msg(m.header): m}
                ),
                5,
            )
    start(make_node(views__over_shoulder__rate_hz=100.0))

    def both():
        complete = len(plain) == len(packed) == 4
        return complete and all(set(plain[t]) & set(packed[t]) for t in plain)

    peer.spin_until(both, each=peer.send)
    for topic, messages in plain.items():
        stamp = min(set(messages) & set(packed[topic]))
        one, other = messages[stamp], packed[topic][stamp]
        assert one.header == other.header
        if one.encoding == 'rgb8':
            images = (image_from_msg(one), compressed_from_msg(other))
            assert images[0].shape == images[1].shape
            # the image is of noise: compare patches of it
            small, same = (cv2.resize(i, (20, 15), interpolation=cv2.INTER_AREA) for i in images)
            assert np.abs(small.astype(int) - same).mean() < 3
        else:
            depth, read = depth_from_msg(one), depth_from_msg(other)
            known = np.isfinite(depth)
            assert ((read > 0) == known).all()
            np.testing.assert_allclose(read[known], depth[known], rtol=1e-3)


def test_a_view_is_rendered_for_who_listens_to_its_compressed_image_alone(make_node, peer):
    got = []
    peer.node.create_subscription(
        CompressedImage, '/sharp/view/over_shoulder/depth/compressedDepth', got.append, 5
    )
    start(make_node(views__over_shoulder__rate_hz=100.0))
    peer.spin_until(lambda: got, each=peer.send)
    assert depth_from_msg(got[0]).shape == (240, 320)


def test_nothing_is_compressed_while_nobody_listens(make_node, peer, monkeypatch):
    def never(*_):
        raise AssertionError('compressed for nobody')

    monkeypatch.setattr(outputs, 'jpeg_to_msg', never)
    monkeypatch.setattr(outputs, 'compressed_depth_to_msg', never)
    topics = ('/sharp/depth/image', '/sharp/image_rect', '/sharp/view/over_shoulder/image')
    peer.listen(*topics, '/diagnostics')
    node = start(make_node())
    peer.spin_until(lambda: all(peer.received[t] for t in topics), each=peer.send)
    peer.diagnose(node)
    assert 'dropped.internal_error' not in peer.status('Input')[2]
