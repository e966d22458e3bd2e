"""`sharp-ros params`: every parameter of the node with its meaning, as YAML or as a page."""

from __future__ import annotations

import argparse
import sys

from sharp_ros.config import to_markdown, to_yaml

_FORMATS = {'yaml': to_yaml, 'markdown': to_markdown}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros params`."""
    parser.add_argument(
        '--format',
        default='yaml',
        choices=_FORMATS,
        help='yaml: a parameter file (config/sharp.yaml); markdown: a page (docs/parameters.md)',
    )


def run(args: argparse.Namespace) -> int:
    """Print them."""
    sys.stdout.write(_FORMATS[args.format]())
    return 0
