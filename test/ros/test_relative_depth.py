"""A model without metres publishes `~/relative_depth` over DDS, and nothing made of metres."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.parameter import Parameter
from ros_helpers import CAMERA, IMAGE, INTRINSICS, Peer, start
from sensor_msgs.msg import CameraInfo, Image
import yaml

from sharp_ros.ros.conversions import depth_from_msg, image_to_msg, stamp_ns_from_msg
from sharp_ros.ros.node import SharpNode

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from onnx import helper, TensorProto  # noqa: E402

OURS = {'/sharp/relative_depth/image': Image, '/sharp/relative_depth/camera_info': CameraInfo}


@pytest.fixture
def description(tmp_path):
    """A network that takes brightness for inverse depth up to scale and shift."""
    nodes = [
        helper.make_node('Cast', ['image'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['float', 'axes'], ['depth'], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        'tiny',
        [helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, 'h', 'w'])],
        [helper.make_tensor_value_info('depth', TensorProto.FLOAT, None)],
        [helper.make_tensor('axes', TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    (tmp_path / 'tiny.onnx').write_bytes(model.SerializeToString())
    entries = {
        'description': 'dark is far',
        'licence': 'CC0-1.0',
        'file': 'tiny.onnx',
        'input': {'name': 'image', 'size': 60},
        'output': {'name': 'depth', 'kind': 'relative', 'larger_is': 'nearer'},
    }
    (tmp_path / 'tiny.yaml').write_text(yaml.safe_dump(entries))
    return tmp_path / 'tiny.yaml'


@pytest.fixture
def node(context, executor, description):
    values = {'model.name': str(description), 'model.device': 'cpu', 'pose.source': 'odometry'}
    node = SharpNode(
        context=context, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()]
    )
    executor.add_node(node)
    yield start(node)
    executor.remove_node(node)
    node.destroy_node()


def test_a_relative_model_never_publishes_what_is_in_metres(node, peer):
    metric = set(Peer.TOPICS) - {'/sharp/image_rect', '/diagnostics'}
    peer.listen()
    got = {topic: [] for topic in OURS}
    for topic, kind in OURS.items():
        peer.node.create_subscription(kind, topic, got[topic].append, 10)
    image = np.zeros_like(IMAGE)
    image[:, : image.shape[1] // 2] = 200

    def send():
        stamp_ns = peer.now()
        peer.send(image=image_to_msg(image, stamp_ns, CAMERA), stamp_ns=stamp_ns)

    peer.spin_until(
        lambda: (
            all(len(messages) > 3 for messages in got.values())
            and peer.received['/sharp/image_rect']
            and peer.received['/diagnostics']
        ),
        each=send,
    )
    assert not {topic for topic in metric if peer.received[topic]}
    # it does not even offer them
    offered = {publisher.topic_name for publisher in node.publishers}
    assert {*OURS, '/sharp/image_rect'} <= offered
    assert not offered & metric
    assert not {name for name in offered if 'view' in name}
    depth, info = (messages[-1] for messages in got.values())
    assert (depth.encoding, depth.header.frame_id) == ('32FC1', CAMERA)
    assert stamp_ns_from_msg(depth.header) in peer.stamps_sent
    assert (info.width, info.height) == (INTRINSICS.width, INTRINSICS.height)
    values = depth_from_msg(depth)
    near, far = values[:, : image.shape[1] // 2 - 4], values[:, image.shape[1] // 2 + 4 :]
    np.testing.assert_allclose(near, 1.0, atol=1e-3)
    np.testing.assert_allclose(far, 2.0, atol=1e-3)
    _, _, entries = peer.status('Inference')
    assert entries['depth'] == 'relative'
    assert entries['licence'] == 'CC0-1.0'


def test_what_needs_metres_is_answered_with_the_reason(node):
    with pytest.raises(Exception, match='relative depth'):
        node._requests._snapshot()
