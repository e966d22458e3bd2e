"""The node as a real process, told to end at the worst moments: quickly, cleanly, leaving nothing.

Names say when the signal comes. The log must hold no trace of an error: who ends a node with
Ctrl-C did nothing wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from node_process import (
    abandoned,
    ACTIVATE,
    CONFIGURE,
    mapped,
    NodeProcess,
    PROGRAM,
    START,
)
import psutil
import pytest
from std_srvs.srv import Trigger

from sharp_ros.mapping.map_files import load_map
from sharp_ros.ros.ending import PATIENCE

pytestmark = pytest.mark.ros

DEPTH = '/sharp/depth/image'
SEGMENT = re.compile(r'fast(dds|rtps)_[0-9a-f]{16}')  # of one participant
SIGNALS = {'SIGINT': signal.SIGINT, 'SIGTERM': signal.SIGTERM}
# a card that takes a second for every file, as those of small computers do when they are busy
SLOW_DISK = """
import os, time
def slow(descriptor, fsync=os.fsync):
    time.sleep(1)
    fsync(descriptor)
os.fsync = slow
"""
# as a large network on a small computer: the signal comes for sure while a frame is at work
SLOW_NETWORK = """
import time
from sharp_ros.engine import Pending
def slow(pending, *, covariances=True, result=Pending.result):
    time.sleep(0.5)
    return result(pending, covariances=covariances)
Pending.result = slow
"""

# the services, which are made last, take their time
SLOW_START = """
import time
from sharp_ros.ros.services import Services
def slow(self, *arguments, init=Services.__init__):
    print('services are made', flush=True)
    time.sleep(2)
    init(self, *arguments)
Services.__init__ = slow
"""


def allowed():
    """The time that an end may take, longer the more programs share a core.

    A first start that compiles cannot be interrupted: it takes all of it.
    """
    return (PATIENCE + 0.5) * max(1.0, os.getloadavg()[0] / os.cpu_count())


@pytest.fixture
def start(peer, tmp_path):
    started = []

    def start(parameters=(), **kwargs):
        parameters = {'output.directory': tmp_path / 'maps', **dict(parameters)}
        started.append(NodeProcess(peer, tmp_path / 'node.log', parameters, **kwargs))
        return started[-1]

    yield start
    for node in started:
        node.kill()


@pytest.fixture
def ends_well(tally, request):
    def check(node, number):
        seconds = node.end(number)
        tally[f'signals.{request.node.name}'] = {
            'seconds': round(seconds, 2),
            'code': node.process.returncode,
            'load': round(os.getloadavg()[0], 1),
        }
        log = node.log.read_text()
        # rclpy tells so of a transition that the end came upon
        log = re.sub(r'\[ERROR\].*Failed to complete transition 1, .*', '', log)
        assert node.process.returncode == 0, log
        assert seconds < allowed(), log
        assert not re.search(r'Traceback|rror\b|ERROR|Fatal', log), log

    return check


def maps_are_whole(directory):
    """Whatever stands there under its own name can be loaded."""
    for folder in directory.glob('map_*'):
        load_map(folder)
    if (directory / 'latest').is_symlink():
        load_map(directory / 'latest')


def run(node, peer):
    node.change(CONFIGURE, ACTIVATE)
    peer.listen(DEPTH)
    node.wait_for(lambda: len(peer.received[DEPTH]) >= 2, each=peer.send)


def test_only_files_that_nobody_uses_are_abandoned(peer, tmp_path):
    """The mutexes of ports in use are, which are mapped for moments only."""
    ports = {p for p, _ in mapped(os.getpid()) if '_port' in p.name}
    mutexes = {p.with_name(f'sem.{p.name}_mutex') for p in ports}
    assert mutexes
    assert not abandoned({(p, p.stat().st_ino) for p in mutexes | ports})
    (left := tmp_path / 'fastdds_left').touch()
    file = (left, left.stat().st_ino)
    assert abandoned({file, (left, file[1] + 1), (tmp_path / 'gone', 1)}) == {file}


def test_ctrl_c_while_the_node_is_made(start, ends_well):
    node = start(before=SLOW_START, whole=False)
    node.wait_for(lambda: 'services are made' in node.log.read_text())
    ends_well(node, signal.SIGINT)


@pytest.mark.parametrize('name', SIGNALS)
@pytest.mark.parametrize('delay', [0.1, 0.5, 1.0])
def test_signal_while_the_network_is_loaded(start, peer, ends_well, long_form, name, delay):
    if not long_form and (name, delay) not in {('SIGINT', 0.1), ('SIGTERM', 0.5)}:
        pytest.skip('part of the long form, make soak')
    node = start()
    node.ask(CONFIGURE)
    peer.spin(delay)
    ends_well(node, SIGNALS[name])


@pytest.mark.parametrize('name', SIGNALS)
def test_signal_during_inference(start, peer, ends_well, name):
    node = start(before=SLOW_NETWORK)
    run(node, peer)
    depths = len(peer.received[DEPTH])
    node.wait_for(lambda: len(peer.received[DEPTH]) > depths, each=peer.send)  # the next one began
    peer.spin(0.1)
    ends_well(node, SIGNALS[name])


@pytest.mark.parametrize('name', SIGNALS)
def test_signal_while_a_map_is_saved_on_a_slow_disk(
    start, peer, ends_well, tmp_path, long_form, name
):
    if not long_form and name == 'SIGTERM':
        pytest.skip('part of the long form, make soak')
    node = start(before=SLOW_DISK)
    run(node, peer)
    client = peer.node.create_client(Trigger, '/sharp/save_map')
    node.wait_for(client.service_is_ready)
    client.call_async(Trigger.Request())
    maps = tmp_path / 'maps'
    node.wait_for(lambda: any(maps.glob('.map_*.partial')))
    try:
        ends_well(node, SIGNALS[name])
    finally:
        peer.node.destroy_client(client)
        maps_are_whole(maps)


@pytest.mark.parametrize('name', SIGNALS)
def test_signal_while_the_surface_of_a_map_is_extracted(
    start, peer, ends_well, tmp_path, long_form, name
):
    """By another process, which ends with the node; the map of before stands."""
    if not long_form and name == 'SIGINT':
        pytest.skip('part of the long form, make soak')
    node = start({'surface_map.enabled': True})
    run(node, peer)
    client = peer.node.create_client(Trigger, '/sharp/save_map')
    node.wait_for(client.service_is_ready)
    maps, extractor = tmp_path / 'maps', psutil.Process(node.process.pid).children
    try:
        first = client.call_async(Trigger.Request())
        node.wait_for(first.done)
        assert first.result().success, first.result().message
        client.call_async(Trigger.Request())
        node.wait_for(extractor)
        ends_well(node, SIGNALS[name])
        assert (maps / 'latest').resolve() == Path(first.result().message)
    finally:
        peer.node.destroy_client(client)
        maps_are_whole(maps)


def test_a_node_that_nobody_hears_leaves_no_shared_memory(tmp_path):
    """A peer would have it in use, and hide what is left."""
    with (tmp_path / 'node.log').open('wb') as log:
        node = subprocess.Popen(
            [sys.executable, '-c', PROGRAM], stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, 'ROS_DOMAIN_ID': str(51 + os.getpid() % 50)},
        )  # fmt: skip
    try:
        end = time.monotonic() + START
        while not (segments := [p for p, _ in mapped(node.pid) if SEGMENT.fullmatch(p.name)]):
            assert time.monotonic() < end
            assert node.poll() is None
            time.sleep(0.1)
        time.sleep(1.0)  # so that the node itself is made, too
        node.send_signal(signal.SIGINT)
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()
    assert not [path for path in segments if path.exists()]
