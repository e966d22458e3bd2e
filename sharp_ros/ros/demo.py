"""A camera source in this process, the node in another, DDS between them: `sharp-ros demo`.

This process publishes the source as a robot's camera driver would, configures and activates the
node through its lifecycle services, listens to everything it publishes, and compares depth with
the truth where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
import json
import math
from pathlib import Path
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from lifecycle_msgs.msg import Transition
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Group

from sharp_ros.config import WebConfig
from sharp_ros.errors import SharpError
from sharp_ros.ros.camera_driver import CAMERA, CameraDriver
from sharp_ros.ros.ending import limited
from sharp_ros.ros.lifecycle import Manager, TransitionTimeoutError
from sharp_ros.ros.monitor import Monitor, NODE
from sharp_ros.sources import Looped, open_source

# A demo that is killed must not leave its node behind: PR_SET_PDEATHSIG, which is 1 on Linux.
_NODE_PROGRAM = """
import ctypes, faulthandler, signal
faulthandler.register(signal.SIGUSR1)
ctypes.CDLL(None).prctl(1, signal.SIGINT)
from sharp_ros.ros.programs import sharp_node
sharp_node()
"""
_SHOW_EVERY = 0.5  # seconds
# The drive through the room comes back to its start, and pictures are too few for a demo. Other
# recordings end: a camera does not jump from their end to their start, and a map would show it.
_ENDLESS = ('simulation', 'images')
_LAST = 2.0  # seconds for what the last images become
_TRUTH_EVERY = 6  # images of a recording whose depth is compared; leaves the cores to the node
Show = Callable[[Group], object]
START_TIMEOUT = 240.0  # a first run compiles kernels and reads weights from a cold disk


@contextmanager
def demo(
    interrupted: threading.Event, say: Callable[[str], object], show: Show | None = None
) -> Iterator[Demo]:
    """A demo that is ready to run; all of it in this process ends with the block.

    Args:
        interrupted: ends the stream when it is set, and once more what follows it.
        say: called with a line about what is going on.
        show: called with a table of what has come back, twice a second.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    peer = Node('sharp_demo')
    executor = SingleThreadedExecutor()
    executor.add_node(peer)
    code = 1
    try:
        yield Demo(peer, executor, interrupted, say, show)
        code = 0
    finally:
        with limited(code):
            executor.shutdown()
            peer.destroy_node()
            rclpy.try_shutdown()


class Demo:
    """Drives a node in a process of its own from a source, and watches it; made by `demo`.

    Attributes:
        monitor: what has come back.
    """

    def __init__(
        self,
        peer: Node,
        executor: SingleThreadedExecutor,
        interrupted: threading.Event,
        say: Callable[[str], object],
        show: Show | None,
    ) -> None:
        self._peer, self._executor, self._interrupted = peer, executor, interrupted
        self._say, self._show = say, show
        self._sent = 0
        self.monitor = Monitor(peer)

    def run(
        self,
        source_name: str,
        model: str,
        duration: float,
        hfov: float | None,
        log: Path,
        mask: str = '',
        up: str | None = None,
    ) -> dict[str, Any]:
        """Start the node, stream to it and end it.

        Args:
            source_name: for `open_source`.
            model: for `model.name` of the node; `sensor` is given the depth of the source.
            duration: of the stream, seconds; 0: until interrupted.
            hfov: horizontal field of view of an uncalibrated source, radians.
            log: file for the output of the node.
            mask: for `camera.mask` of the node.
            up: axis of the world of recorded poses that is up, see `open_source`.

        Returns:
            What was run, with the counts, ages and errors of `Monitor.report`.

        Raises:
            SharpError: if the node fails.
        """
        monitor, executor, interrupted = self.monitor, self._executor, self._interrupted
        port = free_port() if find_spec('viser') else None
        with node_process(model, log, mask, port) as process:
            # while the node starts
            every = 1 if model == 'sensor' else _TRUTH_EVERY
            source = open_source(source_name, hfov=hfov, depth_every=every, up=up)
            self._say(f'source: {source.name}, {source.rate_hz:g} Hz. {source.note}')
            if model == 'sensor':
                source.stock.require_depth(model)
                monitor.truth = 'the depth of the sensor'
            if source.stock.what in _ENDLESS:
                source = Looped(source)
            self._say('starting the node; its first start on a machine compiles kernels')
            manager = manager_of(process, self._peer, executor, interrupted, self._say)
            manager.start()
            self._say('streaming; Ctrl-C ends')
            if port is not None and is_served(port):
                self._say(f'live view: http://localhost:{port}/')
            sensor = model == 'sensor'
            camera = CameraDriver(self._peer, source, monitor, with_depth=sensor, say=self._say)
            try:
                _watch(
                    executor,
                    process,
                    camera,
                    monitor,
                    duration,
                    interrupted,
                    self._say,
                    self._show,
                )
            finally:
                camera.stop()
            interrupted.clear()  # one Ctrl-C ends the stream, the next one the rest
            manager.change(Transition.TRANSITION_DEACTIVATE)
            monitor.wait_for_final_counts(executor)
        self._sent = camera.sent
        return {
            'source': source.name,
            'stock': source.stock.as_dict(),
            'model': model,
            'duration': duration,
            **monitor.report(camera.sent),
        }

    def table(self) -> Group:
        """What came back in all, for the terminal."""
        return self.monitor.table(self._sent)


def free_port() -> int:
    """The usual port of the live view, or, if that is in use, one that was free just now."""
    for port in (WebConfig.port, 0):
        with suppress(OSError), socket.create_server(('localhost', port)) as taken:
            return taken.getsockname()[1]
    raise SharpError('no port of this computer is free')


def is_served(port: int) -> bool:
    """Whether the node listens there; if not, its log says why."""
    with suppress(OSError), socket.create_connection(('localhost', port), 1.0):
        return True
    return False


@contextmanager
def node_process(
    model: str, log: Path, mask: str = '', web_port: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The node as a process of its own, with this environment; ended when the block ends.

    Args:
        model: for `model.name`.
        log: file for its output.
        mask: for `camera.mask`.
        web_port: of its live view; None: it serves none.
    """
    topics = ('image', 'camera_info', 'odometry', 'depth')
    remappings = [part for t in topics for part in ('-r', f'{t}:={CAMERA}/{t}')]
    command = [sys.executable, '-c', _NODE_PROGRAM, '--ros-args', *remappings]
    if web_port is not None:
        command += ['-p', 'web.enabled:=true', '-p', f'web.port:={web_port}']
    with log.open('wb') as output:
        process = subprocess.Popen(
            [*command, '-p', f'model.name:={model}', '-p', f'camera.mask:={json.dumps(mask)}'],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C meant for the demo must not end the node first
        )
        try:
            yield process
        except TransitionTimeoutError:
            process.send_signal(signal.SIGUSR1)  # has it write where it is into its log
            time.sleep(1)
            raise
        finally:
            end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for one process; it is killed if it takes no notice for five seconds."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def manager_of(
    process: subprocess.Popen[bytes],
    peer: Node,
    executor: SingleThreadedExecutor,
    interrupted: threading.Event,
    say: Callable[[str], object],
) -> Manager:
    """Leads the node of a process through its states.

    Args:
        process: of the node, watched so that its death ends the waiting.
        peer: node that owns the clients.
        executor: that spins the peer.
        interrupted: ends the waiting, too.
        say: called with a line about what is waited for.
    """

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        if process.poll() is not None:
            raise SharpError(f'the node ended with code {process.returncode}; see node.log')

    log = 'node.log in the output folder'
    return Manager(peer, NODE, executor, check, say, START_TIMEOUT, log)


def _watch(
    executor: SingleThreadedExecutor,
    process: subprocess.Popen[bytes],
    camera: CameraDriver,
    monitor: Monitor,
    duration: float,
    interrupted: threading.Event,
    say: Callable[[str], object],
    show: Show | None,
) -> None:
    """Spin and show the table until time is up, Ctrl-C, or something ended."""
    begun, complete, over = time.monotonic(), False, False
    end, shown = begun + (duration or math.inf), begun
    while time.monotonic() < end and not interrupted.is_set():
        executor.spin_once(timeout_sec=0.05)
        if process.poll() is not None:
            raise SharpError(f'the node ended with code {process.returncode}; see node.log')
        if camera.error is not None:
            raise camera.error
        if camera.over and not over:
            over, end = True, min(end, time.monotonic() + _LAST)
            say(f'the recording is over after {time.monotonic() - begun:.1f} s')
        if not complete and all(topic.count for topic in monitor.topics.values()):
            complete = True
            say(f'every topic came back within {time.monotonic() - begun:.1f} s')
        if show is not None and time.monotonic() - shown > _SHOW_EVERY:
            shown = time.monotonic()
            show(monitor.table(camera.sent))
