"""`sharp-ros demo`: a camera source in this process, the node in another, DDS between them."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
import signal
import sys
import threading
from typing import TYPE_CHECKING

from sharp_ros.apps.inspect import add_up_argument, EXIT_INCOMPLETE
from sharp_ros.errors import SharpError
from sharp_ros.files import write_atomically
from sharp_ros.models import model_names
from sharp_ros.parameter_text import number
from sharp_ros.process import prepare_for_ros

if TYPE_CHECKING:
    from rich.console import RenderableType


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros demo`."""
    parser.add_argument(
        '--source',
        default='synthetic',
        help='image source: synthetic, webcam index or /dev/video*, video, folder of images, '
        'RGB-D folder in TUM layout, or ROS bag (default: %(default)s)',
    )
    parser.add_argument(
        '--model',
        default='nano',
        help=f'model: {", ".join(model_names())} or the path of weights (default: %(default)s)',
    )
    parser.add_argument(
        '--duration',
        type=number,
        default=30.0,
        help='duration, seconds; 0: until Ctrl-C (default: 30); videos, bags and RGB-D folders '
        'that are shorter end before',
    )
    parser.add_argument(
        '--hfov', type=number, help='horizontal field of view of an uncalibrated source, deg'
    )
    add_up_argument(parser)
    parser.add_argument(
        '--mask',
        default='',
        help='image file or polygons of what shows the robot itself, as camera.mask',
    )
    parser.add_argument(
        '--output', type=Path, default=Path('out/demo'), help='folder for the results'
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo, show what comes back, and leave a report and a picture.

    Raises:
        SharpError: if the node fails, or no depth comes back from it.
    """
    from rich.console import Console
    from rich.live import Live

    prepare_for_ros()
    from sharp_ros.pictures.drawing import encode_picture
    from sharp_ros.ros.demo import demo

    console = Console()
    hfov = None if args.hfov is None else math.radians(args.hfov)
    up = None if args.up == 'auto' else args.up
    args.output.mkdir(parents=True, exist_ok=True)
    # Ctrl-C is ours to handle: the report comes after it, over a context that must live on. It
    # sets a flag, since an exception raised amid a callback of the middleware can get lost.
    interrupted = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: interrupted.set())
    live = Live(console=console, auto_refresh=False, transient=True)

    def show(table: RenderableType) -> None:
        live.start()  # which does nothing the second time
        live.update(table, refresh=True)

    log = args.output / 'node.log'
    interactive = console.is_terminal and not os.environ.get('CI')
    with demo(interrupted, console.print, show if interactive else None) as running:
        try:
            report = running.run(args.source, args.model, args.duration, hfov, log, args.mask, up)
        finally:
            live.stop()
        paths = args.output / 'report.json', args.output / 'overview.png'
        write_atomically(paths[0], json.dumps(report, indent=2) + '\n')
        write_atomically(paths[1], encode_picture(running.monitor.overview()))
        console.print(running.table())
        console.print(f'wrote {paths[0]} and {paths[1]}')
        if not report['topics']['depth/image']['count']:
            raise SharpError(f'no depth came back from the node; see {log}')
    for line in report['stock']['losses']:
        print(f'warning: not used: {line}', file=sys.stderr)
    return EXIT_INCOMPLETE if report['stock']['losses'] else 0
