"""The former `sharp-ros eval SOURCE [--views | --map]`, with advice; now `eval depth|views|maps`.

It takes the flags of all three evaluations and refuses those that do not fit together.
"""

from __future__ import annotations

import argparse
import sys

from sharp_ros.apps import evaluate, evaluation_arguments
from sharp_ros.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of all evaluations."""
    evaluation_arguments.add_common_arguments(
        parser, 'motorcycle, synthetic, an RGB-D folder in TUM layout, or a bag with true depth'
    )
    evaluation_arguments.add_picture_argument(parser, 'views or maps')
    evaluation_arguments.add_mask_argument(parser)
    evaluation_arguments.add_map_arguments(parser)
    parser.set_defaults(against=None)
    parser.add_argument('--views', action='store_true', help='as eval views')
    parser.add_argument('--map', action='store_true', help='as eval maps')


def run(args: argparse.Namespace) -> int:
    """As `evaluate.run`.

    Raises:
        ConfigError: for flags that do not fit together, too.
    """
    if args.views and args.map:
        raise ConfigError('--views and --map are two evaluations; choose one')
    if args.pictures is not None and not (args.views or args.map):
        raise ConfigError('--pictures shows views or maps; add --views or --map')
    of_maps = (args.poses, args.depth, args.camera_height, args.seeds)
    if not args.map and of_maps != ('visual', 'model', 0.0, None):
        raise ConfigError('--poses, --depth, --camera-height and --seeds are of maps; add --map')
    args.kind = 'maps' if args.map else 'views' if args.views else 'depth'
    sources = ' '.join(args.source)
    print(f'advice: this is now `sharp-ros eval {args.kind} {sources}`', file=sys.stderr)
    return evaluate.run(args)
