"""Calls every service of the node from fresh processes while clouds flow, and counts the answers.

    python bench/answers.py [--calls N] [--transports T] [--client-transports T] [--killed] [--cli]

The node maps the simulated room of sharp_camera, and a process of its own listens to every cloud.
Each call is made by a process that has just begun, as `ros2 service call` is, and that tells how
long it looked for the service, and how long for the answer. Exit code 1 if an answer is missing.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
import json
import multiprocessing
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from nav_msgs.msg import OccupancyGrid  # noqa: E402
import numpy as np  # noqa: E402
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from sharp_ros.errors import SharpError  # noqa: E402
from sharp_ros.evaluation.circumstances import commit, machine  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.process import TRANSPORTS  # noqa: E402
from sharp_ros.ros.demo import end_process, manager_of  # noqa: E402

SERVICES = ('reset', 'save_map', 'load_map', 'snapshot', 'timings', 'set_enabled')
CLOUDS = {
    'points': PointCloud2,
    'gaussians': PointCloud2,
    'depth/image': Image,
    'occupancy_grid': OccupancyGrid,
    'map_points': PointCloud2,
}
_KEPT = ('occupancy_grid', 'map_points')
_READY, _ANSWER = 20.0, 30.0  # seconds that a client waits for the service, and the answer
_WARM_UP = 60.0  # seconds within which clouds must flow
_NODE = 'from sharp_ros.ros.programs import sharp_node; sharp_node()'
_CAMERA = 'from sharp_ros.ros.programs import sharp_camera; sharp_camera()'


@dataclass(frozen=True)
class Call:
    """What a client saw; seconds, None where it waited in vain."""

    service: str
    ready: float | None = None
    answer: float | None = None
    success: bool = False


# --- processes of their own -------------------------------------------------------------------


def call(service: str, connection: Any, transports: str, killed: bool) -> None:
    """A client: look for the service, ask once, send the `Call` home and end, or be killed."""
    os.environ[TRANSPORTS] = transports
    kind = SetBool if service == 'set_enabled' else Trigger
    request = SetBool.Request(data=True) if kind is SetBool else Trigger.Request()
    rclpy.init()
    node = rclpy.create_node('client')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    client = node.create_client(kind, f'/sharp/{service}')
    begun = time.monotonic()
    result = Call(service)
    if client.wait_for_service(_READY):
        asked = time.monotonic()
        future = client.call_async(request)
        executor.spin_until_future_complete(future, _ANSWER)
        answer = time.monotonic() - asked if future.done() else None
        success = future.done() and future.result().success
        result = Call(service, asked - begun, answer, success)
    connection.send(result)
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    node.destroy_node()
    rclpy.try_shutdown()


def listen(counts: Any) -> None:
    """Take every cloud there is and count them, until killed."""
    rclpy.init()
    node = rclpy.create_node('listener')
    for i, (topic, kind) in enumerate(CLOUDS.items()):
        kept = topic in _KEPT
        durability = DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE

        def count(_: bytes, i: int = i) -> None:
            counts[i] += 1

        qos = QoSProfile(depth=1, durability=durability)
        node.create_subscription(kind, f'/sharp/{topic}', count, qos, raw=True)
    rclpy.spin(node)


# --- this process ------------------------------------------------------------------------------


@contextmanager
def program(text: str, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that runs until the block ends."""
    with log.open('wb') as output:
        command = [sys.executable, '-c', text, '--ros-args', *arguments]
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    finally:
        end_process(process)


def start(folder: Path, stack: ExitStack, context: Any) -> Any:
    """The node at work, a camera, and a listener; returns the counts of the listener.

    Raises:
        SharpError: if no clouds come.
    """
    topics = ('image', 'camera_info', 'odometry')
    remappings = [part for t in topics for part in ('-r', f'{t}:=/camera/{t}')]
    parameters = {'output.directory': folder / 'maps', 'snapshot.frames': 2}
    settings = [part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')]
    node = stack.enter_context(program(_NODE, folder / 'node.log', *remappings, *settings))
    stack.enter_context(program(_CAMERA, folder / 'camera.log'))
    counts = context.Array('L', len(CLOUDS))
    listener = context.Process(target=listen, args=(counts,), daemon=True)
    listener.start()
    stack.callback(listener.kill)
    rclpy.init()
    peer = rclpy.create_node('manager')
    executor = SingleThreadedExecutor()
    executor.add_node(peer)
    manager_of(node, peer, executor, threading.Event(), print).start()
    executor.shutdown()
    peer.destroy_node()
    rclpy.try_shutdown()
    end = time.monotonic() + _WARM_UP
    while min(counts[:]) < 1 or counts[0] < 5:
        if time.monotonic() > end:
            log = (folder / 'node.log').read_text(errors='replace')[-1000:]
            raise SharpError(f'not all clouds flow: {counts[:]}. The log ends with: {log}')
        time.sleep(0.1)
    return counts


def ask(service: str, context: Any, transports: str, killed: bool) -> Call:
    """One call by a fresh process."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=call, args=(service, there, transports, killed))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(_READY + _ANSWER + 20) else Call(service)
    except EOFError:
        return Call(service)
    finally:
        process.join(20)  # who is killed would harm the next ones
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()


def ask_by_cli(service: str, transports: str) -> Call:
    """One call by `ros2 service call`; the time is that of the whole command."""
    kind, request = ('SetBool', '{data: true}') if service == 'set_enabled' else ('Trigger', '{}')
    command = ['ros2', 'service', 'call', f'/sharp/{service}', f'std_srvs/srv/{kind}', request]
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, TRANSPORTS: transports},
            capture_output=True,
            text=True,
            timeout=_READY + _ANSWER,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Call(service)
    if 'response:' not in done.stdout:
        return Call(service)
    return Call(service, 0.0, time.monotonic() - begun, 'success=True' in done.stdout)


def summary(calls: list[Call]) -> dict[str, Any]:
    """Counts and seconds of the calls of one service."""
    answers = [c.answer for c in calls if c.answer is not None]
    ready = [c.ready for c in calls if c.ready is not None]

    def statistics(values: list[float]) -> list[float]:
        percentiles = np.percentile(values, (50, 95, 100)) if values else []
        return [round(float(v), 3) for v in percentiles]

    return {
        'calls': len(calls),
        'answered': len(answers),
        'not_found': len(calls) - len(ready),
        'success': sum(c.success for c in calls),
        'found_s': statistics(ready),  # p50, p95, max
        'answer_s': statistics(answers),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=100, help='of each service')
    parser.add_argument('--services', nargs='+', choices=SERVICES, default=SERVICES)
    parser.add_argument('--at-once', type=int, default=2, help='clients')
    parser.add_argument('--transports', help=f'{TRANSPORTS} of all; else as the environment says')
    parser.add_argument('--client-transports', help='those of the clients, if others')
    parser.add_argument('--killed', action='store_true', help='kill each client once it is done')
    parser.add_argument('--cli', action='store_true', help='call by ros2 service call')
    parser.add_argument('--json', type=Path, help='file of results')
    args = parser.parse_args()
    if args.transports is not None:
        os.environ[TRANSPORTS] = args.transports
    transports = os.environ.get(TRANSPORTS, 'DEFAULT')
    of_clients = args.client_transports or transports
    context = multiprocessing.get_context('forkserver')  # of which ROS is not at work yet
    context.set_forkserver_preload(['__main__'])

    def answer(service: str) -> Call:
        if args.cli:
            return ask_by_cli(service, of_clients)
        return ask(service, context, of_clients, args.killed)

    report: dict[str, Any] = {}
    started = commit()  # it may be another one at the end
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        counts = start(folder, stack, context)
        begun, before = time.monotonic(), counts[:]
        clients = stack.enter_context(ThreadPoolExecutor(args.at_once))
        for service in args.services:
            report[service] = summary(list(clients.map(answer, [service] * args.calls)))
            print(service, report[service], flush=True)
        seconds = time.monotonic() - begun
        rates = {
            topic: round((after - b) / seconds, 1)
            for topic, b, after in zip(CLOUDS, before, counts[:], strict=True)
        }
    total = Counter[str]()
    for row in report.values():
        total.update({k: row[k] for k in ('calls', 'answered', 'not_found')})
    report = {
        'services': report,
        'total': dict(total),
        'rates_hz': rates,
        'transports': transports,
        'client_transports': of_clients,
        'discovery_range': os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET'),
        'killed': args.killed,
        'by': 'ros2 service call' if args.cli else 'rclpy',
        'load_average': round(os.getloadavg()[0], 1),
        'machine': machine(),
        'commit': started,
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    print(json.dumps({k: v for k, v in report.items() if k != 'services'}))
    return int(total['answered'] < total['calls'])


if __name__ == '__main__':
    sys.exit(main())
