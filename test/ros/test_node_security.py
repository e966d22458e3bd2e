"""What a peer on the network can make the node do: lose its own frames, and nothing else."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
import struct
import time
from types import SimpleNamespace
import xml.etree.ElementTree as ET
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger
from test_conventions import ends, start

from sharp_ros.errors import InputError
from sharp_ros.rectification import Rectifier
from sharp_ros.ros.conversions import (
    camera_model_from_msg,
    compressed_from_msg,
    depth_from_msg,
    gaussians_from_msg,
    image_from_msg,
    SUPPORTED_ENCODINGS,
)

pytestmark = pytest.mark.ros

GRID = '/sharp/occupancy_grid'
SIDE = 16_000  # pixels; 768 MB as RGB


def growth(read, msg) -> tuple[float, str]:
    """Peak memory that reading a message takes, MB, and the reason it is refused for, if it is."""
    Path('/proc/self/clear_refs').write_text('5')  # peak := now
    before, reason = resident('VmRSS'), ''
    try:
        read(msg)
    except InputError as error:
        reason = error.reason
    return resident('VmHWM') - before, reason


def resident(what: str) -> float:
    status = Path('/proc/self/status').read_text()
    return int(status.partition(f'{what}:')[2].split()[0]) / 1024


@pytest.mark.parametrize('step', [0, 1, 100_000, 800_000, 2**32 - 1])
def test_an_image_that_claims_more_than_it_brings_takes_no_memory(step):
    for encoding in (*SUPPORTED_ENCODINGS, '32FC1', '16UC1', 'unheard_of'):
        msg = SimpleNamespace(
            encoding=encoding, width=100_000, height=100_000, step=step, data=bytes(1000),
            is_bigendian=0,
        )  # fmt: skip
        read = depth_from_msg if encoding in ('32FC1', '16UC1') else image_from_msg
        taken, reason = growth(read, msg)
        assert reason == ('unknown_encoding' if encoding == 'unheard_of' else 'bad_data_length')
        assert taken < 10, encoding


def png(width: int, height: int) -> bytes:
    """A black and white picture of any size, a byte for some thousand pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    packer, row = zlib.compressobj(9), bytes(1 + width // 8)
    rows = [packer.compress(row * 100) for _ in range(height // 100)]
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    body = chunk(b'IDAT', b''.join(rows) + packer.flush())
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + body + chunk(b'IEND', b'')


def jpeg(width: int, height: int) -> bytes:
    """A small picture that claims another size."""
    data = bytearray(cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = struct.pack('>HH', height, width)
    return bytes(data)


@pytest.mark.parametrize('make', [png, jpeg])
@pytest.mark.parametrize('form', ['jpeg', 'png', 'bayer_rggb8; png compressed '])
def test_a_small_compressed_message_does_not_become_a_huge_image(make, form):
    data = make(SIDE, SIDE)
    assert len(data) < 100_000
    taken, reason = growth(compressed_from_msg, SimpleNamespace(format=form, data=data))
    assert reason in ('image_too_large', 'bad_compressed')
    assert taken < 100


def test_the_pictures_of_this_test_are_good_ones_at_a_sensible_size():
    for make in (png, jpeg):
        image = compressed_from_msg(SimpleNamespace(format='png', data=make(800, 600)))
        assert image.shape == (600, 800, 3)


@pytest.mark.parametrize('name', ['width', 'height', 'binning_x', 'binning_y'])
def test_camera_info_that_claims_another_size_takes_no_memory(name):
    info = CameraInfo(width=160, height=120, k=[100.0, 0, 80, 0, 100, 60, 0, 0, 1], d=[0.1] * 5)
    info.distortion_model = 'plumb_bob'
    setattr(info, name, 2**32 - 1)
    taken, _ = growth(
        lambda msg: Rectifier(camera_model_from_msg(msg), False, 0.0, (160, 120)), info
    )
    assert taken < 10


@pytest.mark.parametrize('size', [(1, 2**32 - 1), (2**32 - 1, 1)])
def test_a_cloud_that_claims_more_than_it_brings_takes_no_memory(size):
    cloud = SimpleNamespace(
        fields=[], height=size[0], width=size[1], point_step=48, row_step=48, data=b'',
        is_bigendian=False,
    )  # fmt: skip
    taken, reason = growth(gaussians_from_msg, cloud)
    assert reason == 'bad_cloud'
    assert taken < 10


# Access


def test_the_example_of_a_policy_names_what_the_node_has_and_nothing_it_lacks(make_node):
    policy = ET.parse(Path(__file__).parents[2] / 'docs' / 'sros2_policy.xml').getroot()
    enclaves = {e.get('path'): e for e in policy.iter('enclave')}

    def allowed(enclave, kind, role):
        groups = [g for g in enclaves[enclave].iter(kind) if g.get(role) == 'ALLOW']
        return {t.text for g in groups for t in g}

    node = start(make_node(view_names=['ask'], views__ask__placement='request'))
    published = {t for t, _ in ends(node, 'publisher', '/sharp/snapshot/points', '/sharp/points')}
    known = allowed('/sharp', 'topics', 'publish')
    unnamed = {t for t in published if not any(fnmatchcase(t, pattern) for pattern in known)}
    assert not unnamed
    broadcast = {'/tf', '/tf_static'}  # with tf2_ros only
    assert {t for t in known if '*' not in t} - published <= broadcast
    # our remappings in the example, and what is read only if it is there
    remapped = {'/image', '/camera_info', '/odometry', '/depth'}
    subscribed = {t for t, _ in ends(node, 'subscriber', '/odometry', '/sharp/view_request')}
    assert subscribed - remapped <= allowed('/sharp', 'topics', 'subscribe')
    assert allowed('/planner', 'topics', 'subscribe') <= published | broadcast
    # only the operator changes anything
    assert not allowed('/planner', 'services', 'request')
    assert allowed('/operator', 'services', 'request') == {'/sharp/*'}


# Services


@pytest.fixture
def outside(tmp_path):
    """A map that is good, at a place that is not ours to read."""
    from test_map_files import save_map, small_state

    save_map(tmp_path / 'outside', small_state())
    return tmp_path / 'outside'


@pytest.fixture
def call(peer):
    """The answers to so many requests sent at once, with images coming in, within a time."""

    def call(name, number=1, seconds=10.0):
        client = peer.node.create_client(Trigger, f'/sharp/{name}')
        peer.spin_until(client.service_is_ready)
        answers = [client.call_async(Trigger.Request()) for _ in range(number)]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(a.done() for a in answers):
            peer.send()
            peer.spin(0.02)
        peer.node.destroy_client(client)
        return [a.result() for a in answers if a.done()]

    return call


@pytest.fixture
def mapping(make_node, peer):
    """Makes nodes that have published a map."""

    def mapping(**parameters):
        node = make_node(**parameters)
        node.trigger_configure()
        node.trigger_activate()
        peer.listen(GRID)
        peer.spin_until(lambda: peer.received[GRID], each=peer.send)
        return node

    return mapping


def test_no_name_of_a_map_leads_out_of_the_directory(mapping, call, tmp_path, outside):
    directory = tmp_path / 'maps'
    directory.mkdir()
    (directory / 'link').symlink_to(outside)
    (directory / 'loop').symlink_to('loop')
    node = mapping(output__directory=str(directory))
    names = ['../outside', str(outside), 'link', 'link/.', 'loop', '..', 'x/../../outside']
    for name in [*names, 'a\0b', '/', '~', '.', 'x' * 5000]:
        changed = node.set_parameters([Parameter('output.load', value=name)])[0]
        if not changed.successful:  # refused even earlier
            continue
        (answer,) = call('load_map')
        assert not answer.success, name
        assert str(directory) in answer.message, name
    assert sorted(p.name for p in directory.iterdir()) == ['link', 'loop']
    node.set_parameters([Parameter('output.load', value='good')])
    outside.rename(directory / 'good')  # the test can fail: inside, the same map is accepted
    (answer,) = call('load_map')
    assert str(outside) not in answer.message
    assert 'below' not in answer.message


def test_a_running_node_is_not_sent_to_another_directory(make_node, tmp_path):
    node = make_node(output__directory=str(tmp_path))
    node.trigger_configure()
    changed = node.set_parameters([Parameter('output.directory', value='/')])[0]
    assert not changed.successful
    assert 'output.directory' in changed.reason


def test_a_flood_of_requests_does_not_become_a_flood_of_maps(mapping, call, tmp_path):
    node = mapping(output__directory=str(tmp_path), occupancy__size=4.0)
    begun, before = time.monotonic(), node._worker.counts().processed
    answers = call('save_map', 40, seconds=2.0)
    seconds = time.monotonic() - begun
    maps = [p for p in tmp_path.iterdir() if p.is_dir() and not p.is_symlink()]
    assert answers  # those that the middleware did not drop, its queue being ten long
    assert sum(a.success for a in answers) <= len(maps) <= 2 + seconds  # about one a second
    assert node._worker.counts().processed > before + 5  # images went on
