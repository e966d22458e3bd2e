"""`sharp-ros bench ros`: what the node costs beyond its pipeline, and how soon it answers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import json
import os
from typing import Any

from sharp_ros.apps.outputs import check_outputs
from sharp_ros.files import write_atomically
from sharp_ros.process import prepare_for_ros, TRANSPORTS


def run(args: argparse.Namespace) -> int:
    """Measure, print, write the report. Missed targets are reported, not punished.

    Raises:
        SharpError: if the node does not start, or nothing of it arrives.
    """
    prepare_for_ros()
    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.evaluation.speed import HEIGHT, WIDTH
    from sharp_ros.ros.bench_conversions import cloud_comparison, decode_comparison
    from sharp_ros.ros.bench_layer import measure_layer
    from sharp_ros.ros.bench_parameters import measure_parameters
    from sharp_ros.ros.bench_start import measure_start

    check_outputs(args.json)
    runs = 5 if args.quick else 50
    layer, latency = measure_layer(0.0 if args.quick else args.seconds, at_least=runs)
    report = {
        'ros_layer': layer,
        'latency': latency,
        'decode': decode_comparison(runs),
        'cloud': cloud_comparison(runs),
        'parameters': measure_parameters(*((100, 1) if args.quick else (5000, 3))),
        'start': measure_start(args.model, args.quick),
        'input': f'{WIDTH}x{HEIGHT} bgr8',
        'transport': os.environ[TRANSPORTS],
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    _print(report)
    return 0


def _print(report: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    layer, start = report['ros_layer'], report['start']
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('', 'median', 'target', 'met'):
        table.add_column(heading, justify='right' if heading else 'left')
    table.add_row('frame through the pipeline alone', f'{layer["pipeline_ms"]:.2f} ms')
    table.add_row('through the node', f'{layer["node_ms"]:.2f} ms')
    marks = {True: 'yes', False: 'no'}
    target = f'{layer["target_ms"]:g} ms'
    table.add_row(
        'added by the ROS layer', f'{layer["added_ms"]:.2f} ms', target, marks[layer['met']]
    )
    for name, ms in layer['parts_ms'].items():
        table.add_row(f'  {name}', f'{ms:.2f} ms')
    for topic, ms in layer['outputs'].items():
        times = f'{ms["build_ms"]:.2f} + {ms["publish_ms"]:.2f} ms'
        table.add_row(f'    {topic}', times)
    for topic, times in report['latency'].items():
        lost = f', {times["lost"]} of {times["sent"]} lost' if times['lost'] else ''
        table.add_row(f'arrival of {topic}{lost}', f'{times["median_ms"]:.2f} ms')
    many = report['parameters']
    table.add_row(
        f'longest without an image, {many["changes"]} parameters in one request',
        f'{many["node_silence_ms"]:.0f} ms',
    )
    table.add_row('  by rclpy alone', f'{many["rclpy_silence_ms"]:.0f} ms')
    target = f'{start["target_s"]:g} s'
    table.add_row(
        f'start to first depth, {start["model"]}',
        f'{start["median_s"]:.2f} s', target, marks[start['met']],
    )  # fmt: skip
    others = {f'decode by {kind}': ways for kind, ways in report['decode'].items()}
    others['cloud as'] = {k: v for k, v in report['cloud'].items() if k != 'points'}
    for kind, ways in others.items():
        if isinstance(ways, str):
            table.add_row(kind, ways)
            continue
        for name, times in ways.items():
            text = f'{times["other_takes_times"]:g} times ours'
            table.add_row(f'{kind} {name}', text)
    console, computer = Console(), report['machine']
    console.print(table)
    console.print(
        f'{layer["pairs"]} frames, {report["input"]}, {report["transport"]}, '
        f'{computer["cores"]} cores of {computer["cpu"]}, load {computer["load_average"]}, '
        f'commit {report["commit"]}',
        highlight=False,
        markup=False,
    )
    if computer['load_average'] > computer['cores']:
        console.print('machine under load: times are overestimated', style='yellow')
