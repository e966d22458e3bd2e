"""`sharp-ros bench`: what every stage of a frame costs on this machine, next to its target."""

from __future__ import annotations

import argparse
from itertools import islice
import json
import os
from pathlib import Path
from typing import Any

from sharp_ros.apps.outputs import check_outputs
from sharp_ros.config import ModelConfig, SharpConfig
from sharp_ros.errors import ConfigError
from sharp_ros.files import write_atomically
from sharp_ros.parameter_text import number

MAX_RSS_MB = 1536.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros bench`."""
    from sharp_ros.apps.predict import add_model_arguments

    parser.add_argument(
        'part',
        nargs='?',
        choices=['ros'],
        help='ros: overhead of the node per frame, latency of messages, start-up time; default: '
        'stages of the pipeline',
    )
    add_model_arguments(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='report file')
    parser.add_argument(
        '--quick', action='store_true', help='few runs on a synthetic picture instead of a room'
    )
    parser.add_argument(
        '--minutes',
        type=number,
        default=0.0,
        metavar='N',
        help='duration of an endurance run with all outputs, which reports memory drift',
    )
    parser.add_argument(
        '--seconds',
        type=number,
        default=20.0,
        metavar='N',
        help='ros: duration of the measurement per frame (default: %(default)g)',
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write the report. Missed targets are reported, not punished.

    Raises:
        ConfigError: if the model or the device does not exist.
        CheckpointError: if the weights cannot be loaded.
    """
    if args.part == 'ros':
        from sharp_ros.apps import bench_ros

        return bench_ros.run(args)

    from sharp_ros.evaluation.circumstances import circumstances, rss_mb
    from sharp_ros.evaluation.speed import endurance, HEIGHT, measure, plain_frames, stages, WIDTH
    from sharp_ros.pipeline import Pipeline
    from sharp_ros.sources import open_source

    if not 0 <= args.minutes < 1e5:
        raise ConfigError(f'--minutes must not be negative, got {args.minutes:g}')
    check_outputs(args.json)
    config = SharpConfig(model=ModelConfig(name=args.model, device=args.device))
    pipeline = Pipeline.from_config(config)
    make_frames = plain_frames if args.quick else open_source('synthetic').frames
    frames = list(islice(make_frames(), 3 if args.quick else 20))
    measured = {
        name: measure(stage, 5 if args.quick else 50)
        for name, stage in stages(pipeline, frames).items()
    }
    engine = pipeline.engine
    measured['network'] |= {'execution': engine.execution, 'precision': engine.precision}
    rss = rss_mb()
    report = {
        'stages': measured,
        'memory': {
            'rss_mb': round(rss, 1),
            'target_mb': MAX_RSS_MB,
            'met': rss <= MAX_RSS_MB,
        },
        'endurance': endurance(pipeline, make_frames, args.minutes) if args.minutes else None,
        'input': f'{WIDTH}x{HEIGHT} {"plain picture" if args.quick else "simulated room"}',
        'model': pipeline.info.name,
        'device': pipeline.device,
        'engine': {
            'precision': engine.precision,
            'execution': engine.execution,
            'self_check': engine.check_error,
            'last_frame_ms': {k: round(ms, 3) for k, ms in engine.timings_ms.items()},
        },
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    _print(report)
    return 0


def _print(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('stage', 'median ms', 'p95 ms', 'target ms', 'met'):
        table.add_column(heading, justify='left' if heading == 'stage' else 'right')
    for name, stage in report['stages'].items():
        if 'not_measured' in stage:
            table.add_row(name, f'not measured: {stage["not_measured"]}')
            continue
        target = '' if stage['target_ms'] is None else f'{stage["target_ms"]:g}'
        times = [f'{stage[key]:.2f}' for key in ('median_ms', 'p95_ms')]
        table.add_row(name, *times, target, _MARKS[stage['met']])
    console = Console()
    console.print(table)
    memory, endured, machine = report['memory'], report['endurance'], report['machine']
    lines = [f'memory {memory["rss_mb"]:.0f} MB of {memory["target_mb"]:.0f} MB']
    if endured:
        lines.append(
            f'{endured["minutes"]:g} min: {endured["frames"]} frames at {endured["rate_hz"]} Hz, '
            f'{endured["rss_start_mb"]:.0f} -> {endured["rss_end_mb"]:.0f} MB '
            f'({endured["drift_mb_per_minute"]:+.2f} MB/min)'
        )
    engine = report['engine']
    lines.append(
        f'{report["model"]} on {report["device"]} in {engine["execution"]}, '
        f'{engine["precision"]}, {machine["cores"]} cores of {machine["cpu"]}, '
        f'load {machine["load_average"]}, {report["input"]}, commit {report["commit"]}'
    )
    for line in lines:
        console.print(line, highlight=False, markup=False)
    if machine['load_average'] > os.cpu_count():
        console.print('machine under load: times are overestimated', style='yellow')


_MARKS = {True: 'yes', False: 'no', None: ''}
