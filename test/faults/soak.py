"""The node with nano on the simulated room at full rate, for minutes: is anything growing?

    python test/faults/soak.py --minutes 30 --output out/soak

Writes soak.json and soak.png: memory, threads, files, rate and ages over time. Ends with 1 if,
after a tenth of the time or 20 s for warming up, memory left ±5 %, threads changed, or the rate of
the second half is below 90 % of that of the first.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import sys
import time

import cv2
from lifecycle_msgs.msg import Transition
import numpy as np
import psutil

MEMORY, RATE = 0.05, 0.9
WINDOW = 15  # samples that a rate is taken over, since counts come once a second themselves
_CHARTS = {
    'memory_mb': 'memory, MB',
    'threads': 'threads',
    'files': 'open files',
    'rate_hz': 'frames per second',
    'age_ms_p50': 'age p50, ms',
    'age_ms_p95': 'age p95, ms',
}


def soak(minutes, output):
    """Samples once a second; the report that is also written."""
    import threading

    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    from sharp_ros.files import write_atomically
    from sharp_ros.ros.camera_driver import CameraDriver
    from sharp_ros.ros.demo import manager_of, node_process
    from sharp_ros.ros.monitor import Monitor
    from sharp_ros.sources import open_source

    output.mkdir(parents=True, exist_ok=True)
    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    peer = Node('soak', context=context)
    executor.add_node(peer)
    samples = []
    try:
        with node_process('nano', output / 'node.log') as process:
            source, monitor = open_source('synthetic', loop=True), Monitor(peer)
            manager = manager_of(process, peer, executor, threading.Event(), print)
            manager.start()
            camera = CameraDriver(peer, source, monitor, with_depth=False)
            try:
                node, begun = psutil.Process(process.pid), time.monotonic()
                while time.monotonic() - begun < 60 * minutes:
                    due = time.monotonic() + 1
                    while time.monotonic() < due:
                        executor.spin_once(timeout_sec=0.05)
                    assert process.poll() is None, (output / 'node.log').read_text()
                    now = time.monotonic() - begun
                    values = {k: v for part in monitor._values.values() for k, v in part.items()}
                    processed = int(values.get('processed', 0))
                    first = samples[-WINDOW:][0] if samples else {'seconds': 0.0, 'processed': 0}
                    rate_hz = (processed - first['processed']) / (now - first['seconds'])
                    samples.append(
                        {
                            'seconds': now,
                            'memory_mb': node.memory_info().rss / 2**20,
                            'threads': node.num_threads(),
                            'files': node.num_fds(),
                            'processed': processed,
                            'rate_hz': rate_hz,
                            'age_ms_p50': float(values.get('age_ms_p50', 'nan')),
                            'age_ms_p95': float(values.get('age_ms_p95', 'nan')),
                        }
                    )
            finally:
                camera.stop()
            manager.change(Transition.TRANSITION_DEACTIVATE)
            monitor.wait_for_final_counts(executor)
        report = monitor.report(camera.sent)
        code = process.returncode
    finally:
        executor.shutdown()
        peer.destroy_node()
        rclpy.try_shutdown(context=context)
    summary = {
        'machine': f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores',
        'load': round(os.getloadavg()[0], 1),
        'minutes': minutes,
        'exit_code': code,
        **{k: report[k] for k in ('frames_sent', 'frames_in', 'processed', 'dropped', 'depth')},
        **judged(samples),
        'samples': samples,
    }
    write_atomically(output / 'soak.json', json.dumps(summary, indent=1) + '\n')
    write_atomically(output / 'soak.png', cv2.imencode('.png', drawn(samples))[1].tobytes())
    return summary


def judged(samples):
    """What the samples after warming up say."""
    warm = max(20.0, samples[-1]['seconds'] / 10)
    steady = [s for s in samples if s['seconds'] > warm] or samples
    column = {name: np.array([s[name] for s in steady]) for name in _CHARTS}
    memory, half = column['memory_mb'], len(steady) // 2
    middle = float(np.median(memory))
    rates = [float(np.mean(r)) for r in (column['rate_hz'][:half], column['rate_hz'][half:])]
    return {
        'memory_mb': {
            'median': round(middle, 1),
            'lowest': round(float(memory.min() / middle - 1), 4),
            'highest': round(float(memory.max() / middle - 1), 4),
            'mb_per_hour': round(slope(steady, memory) * 3600, 2),
        },
        'memory_is_flat': bool(np.abs(memory / middle - 1).max() <= MEMORY),
        'threads': sorted({int(n) for n in column['threads']}),
        'threads_are_constant': bool(np.ptp(column['threads']) == 0),
        'files': sorted({int(n) for n in column['files']}),
        'rate_hz': [round(rate, 2) for rate in rates],
        'rate_is_constant': half > 0 and rates[1] >= RATE * rates[0],
        'age_ms_p95': round(float(np.nanmedian(column['age_ms_p95'])), 1),
    }


def slope(samples, values):  # -> per second
    """Of a straight line through the values."""
    return float(np.polyfit([s['seconds'] for s in samples], values, 1)[0])


def drawn(samples, width=900, height=150):  # -> [H, W, 3] BGR
    """A chart below the other for each column, from zero to a little over its maximum."""
    left, right, top, bottom = 70, 20, 26, 18
    seconds = np.array([s['seconds'] for s in samples])
    picture = np.full((height * len(_CHARTS), width, 3), 255, np.uint8)

    def write(text, x, y, scale=0.45):
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, text, (x, y), font, scale, (60, 60, 60), 1, cv2.LINE_AA)

    for row, (name, title) in enumerate(_CHARTS.items()):
        values = np.array([s[name] for s in samples])
        largest = 1.15 * max(float(np.nanmax(values, initial=0)), 1e-9)
        y0, y1 = row * height + top, (row + 1) * height - bottom
        write(title, left, y0 - 8, 0.5)
        for share in (0.0, 0.5, 1.0):
            y = int(y1 - share * (y1 - y0))
            cv2.line(picture, (left, y), (width - right, y), (225, 225, 225), 1)
            write(f'{share * largest:.4g}', 8, y + 4, 0.4)
        x = left + seconds / seconds[-1] * (width - right - left)
        points = np.stack([x, y1 - values / largest * (y1 - y0)], -1)[np.isfinite(values)]
        line = np.rint(points).astype(np.int32)
        cv2.polylines(picture, [line], False, (160, 90, 20), 2, cv2.LINE_AA)
        for share in (0.0, 0.5, 1.0):
            at = int(left + share * (width - right - left))
            write(f'{share * seconds[-1] / 60:.3g} min', min(at, width - 60), y1 + 14, 0.4)
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--output', type=Path, default=Path('out/soak'))
    args = parser.parse_args()
    summary = soak(args.minutes, args.output)
    print(json.dumps({k: v for k, v in summary.items() if k != 'samples'}, indent=1))
    print(f'wrote {args.output}/soak.json and soak.png')
    claims = ('memory_is_flat', 'threads_are_constant', 'rate_is_constant')
    return 0 if all(summary[claim] for claim in claims) and summary['exit_code'] == 0 else 1


if __name__ == '__main__':
    sys.exit(main())
