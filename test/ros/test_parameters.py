"""Parameters: described, checked, and changed between two frames or refused with a reason."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import start, WALL

from sharp_ros.config import flatten, options
from sharp_ros.ros.conversions import depth_from_msg, stamp_ns_from_msg
from sharp_ros.ros.diagnostics import WARN
from sharp_ros.ros.parameters import PARAMETERS_IN_A_ROW

pytestmark = pytest.mark.ros

SUCCESS = TransitionCallbackReturn.SUCCESS
DEPTH, GRID, VIEW = (
    '/sharp/depth/image',
    '/sharp/occupancy_grid',
    '/sharp/view/over_shoulder/image',
)


def change(node, **values):
    """Set parameters together; the reason where that is refused, else nothing."""
    parameters = [Parameter(k.replace('__', '.'), value=v) for k, v in values.items()]
    return node.set_parameters_atomically(parameters).reason


def test_every_setting_is_a_parameter_with_text_default_and_range(make_node):
    node = make_node()
    for entry in options():
        value = node.get_parameter(entry.key).value
        given = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        assert (list(value) if isinstance(given, list) else value) == given, entry.key
        descriptor = node.describe_parameter(entry.key)
        assert entry.help in descriptor.description, entry.key
        assert bool(descriptor.additional_constraints) != entry.live, entry.key


def test_before_configure_anything_valid_may_change_and_the_rest_is_refused(make_node):
    node = make_node()
    assert 'raw, compressed' in change(node, camera__transport='pigeon')
    assert not change(node, occupancy__size=12)
    assert node.trigger_configure() == SUCCESS
    assert node._session.config.occupancy.size == 12.0


def test_unknown_parameter_is_refused(make_node):
    with pytest.raises(ParameterNotDeclaredException):
        make_node().set_parameters([Parameter('occupancy.sise', value=1.0)])


def test_what_needs_a_new_configure_is_refused_by_name_while_the_rest_goes_on(make_node):
    node = make_node()
    assert node.trigger_configure() == SUCCESS
    reason = change(node, occupancy__size=10.0, occupancy__min_range=0.5)
    assert 'occupancy.size' in reason
    assert 'occupancy.min_range' not in reason  # that one might have changed
    assert 'clean up' in reason
    assert node._session.config.occupancy.min_range != 0.5  # all or nothing
    assert node.get_parameter('occupancy.min_range').value != 0.5


def test_what_is_unsafe_is_refused_while_the_node_runs(make_node):
    node = make_node()
    assert node.trigger_configure() == SUCCESS
    for key, value, reason in (
        ('occupancy.free_log_odds', 0.0, 'free_log_odds'),
        ('occupancy.occupied_log_odds', 4.0, 'clamp_log_odds'),
        ('occupancy.min_range', 6.0, 'below occupancy.max_range'),
        ('point_cloud.min_range', 30.0, 'below point_cloud.max_range'),
        ('point_cloud.max_range', 3.0, 'clear through walls'),
        ('pose.world_frame', '', 'world_frame must name'),
        ('views.over_shoulder.period', 1e300, 'at most'),
        ('camera.depth_tolerance', 1e300, 'at most'),
        ('snapshot.timeout', 1e10, 'timeout'),
        ('output.directory', '', 'name a folder'),
        ('output.load', None, 'cannot be unset'),
        ('occupancy.voxel_size', None, 'cannot be unset'),
    ):
        before = node.get_parameter(key).value
        assert reason in change(node, **{key.replace('.', '__'): value}), key
        assert node.get_parameter(key).value == before


@pytest.mark.parametrize(
    ('key', 'value', 'reason'),
    [
        ('output.load', None, 'cannot be unset'),
        ('occupancy.clamp_log_odds', 100.0, 'must be at most 20'),
        ('views.over_shoulder.width', 8, 'must be at least 16'),
    ],
)
def test_what_rclpy_would_not_declare_is_refused_at_configure(
    make_node, capfd, key, value, reason
):
    node = make_node(**{key.replace('.', '__'): value})
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert f'{key} {reason}' in ''.join(capfd.readouterr())


def test_range_changes_between_two_frames(make_node, peer):
    peer.listen(DEPTH)
    node = start(make_node())
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)
    assert (depth_from_msg(peer.received[DEPTH][-1]) > WALL - 0.1).all()
    assert not change(node, point_cloud__min_range=WALL + 0.5)
    changed = peer.now()
    peer.spin_until(
        lambda: stamp_ns_from_msg(peer.received[DEPTH][-1].header) > changed, each=peer.send
    )
    assert (depth_from_msg(peer.received[DEPTH][-1]) == -np.inf).all()  # too near, REP-117


def test_virtual_camera_moves_and_grows_while_running(make_node, peer):
    peer.listen(VIEW)
    node = start(make_node(views__over_shoulder__rate_hz=50.0))
    peer.spin_until(lambda: peer.received[VIEW], each=peer.send)
    width = 2 * peer.received[VIEW][-1].width
    assert not change(node, views__over_shoulder__width=width)
    peer.spin_until(lambda: peer.received[VIEW][-1].width == width, each=peer.send)
    looks_nowhere = {
        'views__over_shoulder__target': list(node._session.config.views['over_shoulder'].position)
    }
    assert 'target' in change(node, **looks_nowhere)
    before = len(peer.received[VIEW])
    peer.spin_until(lambda: len(peer.received[VIEW]) > before, each=peer.send)


def test_every_live_setting_changes_in_a_running_node_without_harm(make_node, peer):
    """A storm: each to its bound or a little off, one after the other, frames all the while."""
    peer.listen(DEPTH, GRID, VIEW)
    no_other = {  # of whose values few are valid
        'camera.mask': '0,0 9,0 9,9',
        'camera.robot_box': [0.0, 0.0, 0.0, 0.01, 0.01, 0.01],
        'output.formats': '.xyz',
    }
    node = start(make_node(pose__base_to_camera=[0.0] * 6 + [1.0]))
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)
    for entry in options(node._session.config):
        if not entry.live:
            continue
        value = entry.default
        if entry.key in no_other:
            new = no_other[entry.key]
        elif entry.type in ('int', 'float'):
            new = (
                value + 1 if entry.maximum is None or value + 1 <= entry.maximum else entry.minimum
            )
        elif entry.type == 'bool':
            new = not value
        elif entry.type == 'floats':
            new = [x + 0.01 for x in value]
        elif entry.choices:
            new = next(choice for choice in entry.choices if choice != value)
        else:
            new = value + '_'
        assert not change(node, **{entry.key.replace('.', '__'): new}), entry.key
        peer.send()
        peer.spin(0.01)
        peer.spin_until(lambda key=entry.key, new=new: flat_value(node, key) == new)
    changed = peer.now()
    peer.spin_until(
        lambda: stamp_ns_from_msg(peer.received[DEPTH][-1].header) > changed, each=peer.send
    )
    assert 'internal_error' not in node._worker.counts().reasons


def flat_value(node, key):
    value = flatten(node._session.config)[key]
    return list(value) if isinstance(value, tuple) else value


def test_the_mask_of_the_robot_changes_between_two_frames_or_is_refused_with_its_reason(
    make_node, peer, tmp_path
):
    def masked():
        return np.isnan(depth_from_msg(peer.received[DEPTH][-1])).all(1)  # rows

    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node())
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)
    assert not masked().any()
    assert not change(node, camera__mask='0,90 160,90 160,120 0,120')
    peer.spin_until(lambda: all(masked()[91:]), each=peer.send)
    assert not masked()[:90].any()
    missing = str(tmp_path / 'none.png')
    for text, why in ((missing, missing), ('0,700 90,700 90,719', 'outside of the 160x120 image')):
        assert why in change(node, camera__mask=text)
    peer.diagnose(node)
    assert peer.status('Inference')[2]['masked_share'] == '0.250'
    assert not change(node, camera__mask='')
    peer.spin_until(lambda: not any(masked()), each=peer.send)
    assert not node._worker.counts().reasons.get('bad_mask')


def test_a_mask_that_is_no_image_is_refused_by_name_at_configure(make_node, tmp_path):
    node = make_node(camera__mask=str(tmp_path / 'none.png'))
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.set_parameters([Parameter('camera.mask', value='')])
    assert node.trigger_configure() == SUCCESS


def test_a_mask_that_does_not_fit_costs_frames_that_are_counted_and_says_why(make_node, peer):
    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node(camera__mask='0,700 1280,700 1280,719'))
    peer.spin_until(lambda: node._worker.counts().reasons.get('bad_mask'), each=peer.send)
    peer.diagnose(node)
    level, message, _ = peer.status('Input')
    assert level == WARN
    assert 'camera.mask: the point 0,700 lies outside of the 160x120 image' in message
    assert not peer.received[DEPTH]
    assert not change(node, camera__mask='')
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)


# a dump, as `ros2 param dump` writes it ----------------------------------------------------------


def dump(node):
    """All parameters of a node, as others see them."""
    return [node.get_parameter(name) for name in node.list_parameters([], 0).names]


@pytest.mark.parametrize('state', ['unconfigured', 'inactive', 'active'])
def test_a_dump_of_a_running_node_can_be_loaded_back(make_node, state):
    node = start(make_node())
    parameters = dump(node)
    assert any(p.name.startswith('qos_overrides./sharp/points') for p in parameters)
    node.trigger_deactivate()
    if state == 'active':
        node.trigger_activate()
    elif state == 'unconfigured':
        node.trigger_cleanup()
    for given in (parameters, *([p] for p in parameters)):  # as from kilted on, and before
        result = node.set_parameters_atomically(given)
        assert result.successful, result.reason


def test_a_dump_can_be_loaded_into_another_node_and_counts_there(make_node):
    parameters = dump(start(make_node(point_cloud__min_range=0.3)))
    points = 'qos_overrides./sharp/points.publisher.depth'
    parameters = [Parameter(points, value=7) if p.name == points else p for p in parameters]
    other = make_node()
    result = other.set_parameters_atomically(parameters)
    assert result.successful, result.reason
    start(other)
    assert other._session.config.point_cloud.min_range == 0.3
    assert other.get_parameter(points).value == 7


def test_a_dump_can_be_given_at_the_start(make_node):
    values = {p.name: p.value for p in dump(start(make_node()))}
    del values['use_sim_time']  # rclpy wants it once
    node = start(make_node(**values))
    assert dump(node)


def test_a_change_of_what_is_read_only_is_refused_with_its_name(make_node):
    node = start(make_node())
    name = 'qos_overrides./sharp/points.publisher.depth'
    reason = node.set_parameters_atomically([Parameter(name, value=5)]).reason
    assert reason


def test_a_parameter_that_does_not_exist_is_refused_by_name_and_nothing_is_set(make_node):
    node = make_node()
    both = [Parameter('occupancy.size', value=12.0), Parameter('occupancy.sise', value=1.0)]
    result = node.set_parameters_atomically(both)
    assert not result.successful
    assert result.reason == 'unknown parameter(s) occupancy.sise; config/sharp.yaml lists all'
    assert node.get_parameter('occupancy.size').value != 12.0


# --- many at once ------------------------------------------------------------------------------

MANY = 200


def many_changes():
    """Messages of parameters, each of which changes something."""
    values = [1.0 + i % 7 for i in range(MANY)]
    return [Parameter('occupancy.rate_hz', value=v).to_parameter_msg() for v in values]


def ask_to_set(peer, *requests):
    client = peer.node.create_client(SetParameters, '/sharp/set_parameters')
    assert client.wait_for_service(5.0)
    answers = [client.call_async(SetParameters.Request(parameters=r)) for r in requests]
    return client, answers


@pytest.mark.parametrize('size', [1, MANY], ids=['of one each', 'in one request'])
def test_many_parameters_let_images_in_between(make_node, peer, monkeypatch, size):
    node = start(make_node())
    happened = []
    arrived, reconfigure = node._health.image_arrived, node._on_parameters

    def image_arrived(*args):
        happened.append('image')
        return arrived(*args)

    def changed(changes):
        happened.append(changes[0].value)
        return reconfigure(changes)

    monkeypatch.setattr(node._health, 'image_arrived', image_arrived)
    node.remove_on_set_parameters_callback(node._on_parameters)
    node.add_on_set_parameters_callback(changed)
    messages = many_changes()
    requests = [messages[i : i + size] for i in range(0, MANY, size)]
    # an image is ready whenever the executor looks for one
    timer = peer.node.create_timer(0.0, peer.send)
    client, answers = ask_to_set(peer, *requests)
    peer.spin_until(lambda: all(a.done() for a in answers), timeout=60.0)
    peer.node.destroy_timer(timer)
    results = [result for a in answers for result in a.result().results]
    assert [r.successful for r in results] == [True] * MANY
    order = [h for h in happened if h != 'image']
    assert order == [m.value.double_value for m in messages]
    between = ''.join('i' if h == 'image' else 'p' for h in happened).strip('i')
    # an image may come a little later
    assert max(map(len, between.split('i'))) <= 3 * PARAMETERS_IN_A_ROW, between
    peer.node.destroy_client(client)


def test_of_many_changes_during_a_frame_the_last_one_is_applied_once(make_node, peer, monkeypatch):
    node = start(make_node())
    applied, gate = [], threading.Event()
    reconfigure = node._session.reconfigure
    monkeypatch.setattr(
        node._session, 'reconfigure', lambda c: (applied.append(c), reconfigure(c))
    )
    node._worker.post(lambda: gate.wait(10))  # a frame is at work
    client, (answer,) = ask_to_set(peer, many_changes())
    try:
        peer.spin_until(answer.done, timeout=60.0)
        assert all(result.successful for result in answer.result().results)
        assert not applied
    finally:
        gate.set()
        peer.node.destroy_client(client)
    node._worker.call(lambda: None)
    (config,) = applied
    assert config.occupancy.rate_hz == 1.0 + (MANY - 1) % 7


@pytest.mark.parametrize('kind', [SetParameters, SetParametersAtomically])
def test_a_value_of_an_unknown_kind_is_refused_and_the_node_lives(make_node, peer, kind):
    node = start(make_node())
    name = 'set_parameters' + ('' if kind is SetParameters else '_atomically')
    client = peer.node.create_client(kind, f'/sharp/{name}')
    assert client.wait_for_service(5.0)
    odd = ParameterMsg(name='occupancy.rate_hz', value=ParameterValue(type=77))
    answer = client.call_async(kind.Request(parameters=[odd]))
    peer.spin_until(answer.done)
    response = answer.result()
    result = response.results[0] if kind is SetParameters else response.result
    assert not result.successful
    assert '77' in result.reason
    assert not change(node, occupancy__rate_hz=3.0)
    peer.node.destroy_client(client)
