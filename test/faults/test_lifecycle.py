"""Storms: parameters, lifecycle transitions and services all at once, while images flow."""

from __future__ import annotations

from collections import Counter
import gc
import random
import threading

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import psutil
import pytest
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import WALL
from std_srvs.srv import SetBool, Trigger

from sharp_ros.config import options, SharpConfig
from sharp_ros.mapping.map_files import load_map
from sharp_ros.ros.conversions import depth_from_msg, stamp_ns_from_msg
from sharp_ros.ros.parameters import read_config

pytestmark = pytest.mark.ros

SUCCESS = TransitionCallbackReturn.SUCCESS
DEPTH = '/sharp/depth/image'
UNCONFIGURED, INACTIVE, ACTIVE = (
    State.PRIMARY_STATE_UNCONFIGURED,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_ACTIVE,
)
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
)
LEADS_TO = {
    (UNCONFIGURED, CONFIGURE): INACTIVE,
    (INACTIVE, CLEANUP): UNCONFIGURED,
    (INACTIVE, ACTIVATE): ACTIVE,
    (ACTIVE, DEACTIVATE): INACTIVE,
}
LIVE = [entry for entry in options(SharpConfig()) if entry.live]
INVALID = [  # name, value; all of them wrong in another way
    ('occupancy.max_range', -1.0),
    ('occupancy.max_range', float('nan')),
    ('occupancy.rate_hz', 0.0),
    ('occupancy.rate_hz', 'fast'),
    ('occupancy.voxel_size', 0.1),  # frozen while the node is configured
    ('model.name', 'sensor'),
    ('no.such.setting', 1),
    ('views.over_shoulder.position', [0.0, 1.0]),
    ('views.over_shoulder.target', [0.4, -0.4, -0.4]),  # where it stands: it looks nowhere
    ('views.over_shoulder.width', 100_000),
    ('snapshot.frames', 0),
    ('point_cloud.min_range', [1.0]),
]


def flows(peer):
    """Depth of an image that is sent from now on, metres."""
    now = peer.now()

    def arrived():
        return [m for m in peer.received[DEPTH] if stamp_ns_from_msg(m.header) >= now]

    peer.spin_until(arrived, 30, each=peer.send)
    return np.nanmedian(depth_from_msg(arrived()[-1]))


def valid_change(draw):
    """A live number, anywhere in its range."""
    entry = draw.choice([e for e in LIVE if e.type in ('int', 'float', 'bool')])
    if entry.type == 'bool':
        return entry.key, draw.random() < 0.5
    low = entry.minimum or 0.0
    high = entry.maximum if entry.maximum is not None else low + draw.choice([1.0, 1e3])
    if entry.key.endswith(('width', 'height')):
        high = 64
    value = low + draw.random() * (high - low)
    return entry.key, int(value) if entry.type == 'int' else value


def test_a_storm_of_parameters_is_refused_or_applied_whole_while_images_flow(
    make_node, peer, long_form, tally
):
    peer.listen()
    node = make_node(pose__source='odometry')
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    flows(peer)
    defaults = [
        Parameter(e.key, value=list(e.default) if isinstance(e.default, tuple) else e.default)
        for e in LIVE
    ]

    def values(changes):
        names = [c.name for c in changes if node.has_parameter(c.name)]
        return [parameter.value for parameter in node.get_parameters(names)]

    draw, fates = random.Random(0), Counter()
    for step in range(3000 if long_form else 300):
        good = [Parameter(key, value=value) for key, value in [valid_change(draw)]]
        bad = [Parameter(key, value=value) for key, value in draw.sample(INVALID, 1)]
        changes = draw.choice([good, bad, [*good, *bad]])
        before = values(changes)
        try:
            result = node.set_parameters_atomically(changes)
        except ParameterNotDeclaredException:  # rclpy knows it before we are asked
            result = SetParametersResult(successful=False, reason='not declared')
        if any(change in changes for change in bad):
            assert not result.successful, changes
            assert result.reason
            assert values(changes) == before
        fates['applied' if result.successful else 'refused'] += 1
        if step % 5 == 0:
            peer.send()
        peer.executor.spin_once(timeout_sec=0.002)
    node._worker.call(lambda: None, 30)
    assert node._session.config == read_config(node) == node._session.pipeline.config
    assert fates['applied'] > 50
    assert fates['refused'] > 100
    assert node.set_parameters_atomically(defaults).successful
    assert flows(peer) == pytest.approx(WALL, rel=0.02)
    assert 'internal_error' not in node._worker.counts().reasons
    assert 'Inference' not in node._health._problems
    tally['parameters'] = dict(fates)


class Client:
    """Asks for something over DDS and waits for the answer while images flow."""

    def __init__(self, peer):
        self.peer, self.clients = peer, {}

    def ask(self, kind, name, **request):
        if name not in self.clients:
            self.clients[name] = self.peer.node.create_client(kind, f'/sharp/{name}')
            assert self.clients[name].wait_for_service(10)
        return self.clients[name].call_async(kind.Request(**request))

    def answer(self, kind, name, **request):
        future = self.ask(kind, name, **request)
        self.peer.spin_until(future.done, 60, each=self.peer.send)
        return future.result()


def test_a_storm_of_transitions_and_services_ends_where_the_rules_say(
    make_node, peer, tmp_path, long_form, tally
):
    """Of any order, valid or not; every service is answered, and nothing is left behind."""
    peer.listen(DEPTH)
    maps = tmp_path / 'maps'
    node = make_node(output__directory=str(maps), snapshot__timeout=0.2, occupancy__size=4.0)
    client, draw, fates, asked = Client(peer), random.Random(1), Counter(), []
    services = ['reset', 'save_map', 'snapshot', 'timings', 'load_map']
    state, resources = UNCONFIGURED, None
    process = psutil.Process()
    number = 1000 if long_form else 60
    for step in range(number):
        transition = draw.choice([CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE])
        if draw.random() < 0.4:  # else it would hardly ever be active
            transition = next(t for s, t in draw.sample(list(LEADS_TO), 4) if s == state)
        if draw.random() < 0.3:
            asked.append(client.ask(Trigger, draw.choice(services)))
        if draw.random() < 0.1:
            asked.append(client.ask(SetBool, 'set_enabled', data=draw.random() < 0.7))
        request = Transition(id=transition)
        answer = client.answer(ChangeState, 'change_state', transition=request)
        goal = LEADS_TO.get((state, transition))
        assert answer.success == (goal is not None), (step, state, transition)
        state = goal or state
        fates['made' if goal else 'refused'] += 1
        if state == ACTIVE:
            peer.spin(0.02)
            if node._session is not None:
                assert 'internal_error' not in node._worker.counts().reasons
        if step == number // 3:
            resources = process.num_threads(), process.num_fds()
    assert client.answer(GetState, 'get_state').current_state.id == state
    peer.spin_until(lambda: all(future.done() for future in asked), 60)
    told = [future.result().message for future in asked]
    assert not [text for text in told if 'internal error' in text]
    for _ in range(3):  # to active, from wherever it is
        for transition in (CONFIGURE, ACTIVATE):
            if (state, transition) in LEADS_TO:
                request = Transition(id=transition)
                assert client.answer(ChangeState, 'change_state', transition=request).success
                state = LEADS_TO[state, transition]
    assert client.answer(SetBool, 'set_enabled', data=True).success
    assert flows(peer) == pytest.approx(WALL, rel=0.02)
    for transition in (DEACTIVATE, CLEANUP):
        request = Transition(id=transition)
        assert client.answer(ChangeState, 'change_state', transition=request).success
    gc.collect()
    assert not [t.name for t in threading.enumerate() if t.name == 'sharp_worker']
    threads, files = resources
    assert process.num_threads() <= threads + 1
    assert process.num_fds() <= files + 2
    for folder in maps.glob('map_*') if maps.exists() else ():
        load_map(folder)
    tally['lifecycle'] = {**fates, 'services': len(told)}
    tally['services'] = dict(
        Counter(text.partition(';')[0][:60] for text in told if '/' not in text)
    )
