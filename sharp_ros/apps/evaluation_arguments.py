"""The flags of `sharp-ros eval depth|views|maps|scale`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sharp_ros.apps.fleet import add_fleet_arguments, path_or_url
from sharp_ros.apps.inspect import add_source_options
from sharp_ros.parameter_text import number, whole_number

SEEDS = 20  # hand-held sequences by default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros eval`."""
    kinds = parser.add_subparsers(dest='kind', metavar='depth|views|maps|scale', required=True)
    depth = kinds.add_parser('depth', help=_DEPTH_HELP, description=_DEPTH_HELP)
    add_common_arguments(
        depth, 'motorcycle, synthetic, an RGB-D folder in TUM layout, or a bag with true depth'
    )
    add_mask_argument(depth)
    views = kinds.add_parser('views', help=_VIEWS_HELP, description=_VIEWS_HELP)
    add_common_arguments(
        views, 'motorcycle or synthetic; with --against a recording with poses or synthetic'
    )
    add_picture_argument(views, 'views')
    _add_optimiser_arguments(views)
    maps = kinds.add_parser('maps', help=_MAPS_HELP, description=_MAPS_HELP)
    add_common_arguments(maps, 'synthetic, or a recording with depth and poses')
    add_picture_argument(maps, 'maps')
    add_mask_argument(maps)
    add_map_arguments(maps)
    scale = kinds.add_parser('scale', help=_SCALE_HELP, description=_SCALE_HELP)
    add_common_arguments(scale, 'synthetic, or a recording with depth and poses')
    _add_scale_arguments(scale)
    for kind in kinds.choices.values():  # whose usage is shown where a flag is unknown
        kind.set_defaults(parser=kind)


_DEPTH_HELP = 'errors of predicted depth, compared with baselines without a network'
_VIEWS_HELP = 'rendered views from the side against images taken there'
_MAPS_HELP = 'path, scale and occupancy of the map against the truth'
_SCALE_HELP = (
    'metric scale over given poses at its worst: simulated hand-held sequences, or a recording '
    'from many starts'
)


def add_common_arguments(parser: argparse.ArgumentParser, source_help: str) -> None:
    """The source and the flags that every evaluation takes."""
    from sharp_ros.apps.predict import add_model_arguments

    parser.add_argument('source', metavar='SOURCE', nargs='+', help=source_help)
    add_model_arguments(parser)
    add_source_options(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='report file')
    parser.add_argument(
        '-o',
        '--output',
        type=path_or_url,
        metavar='FOLDER',
        help='folder or URL for the results of many recordings',
    )
    add_fleet_arguments(parser)
    parser.add_argument(
        '--max-frames', type=whole_number, metavar='N', help='maximum number of frames with depth'
    )


def add_mask_argument(parser: argparse.ArgumentParser) -> None:
    """The flag that leaves out the robot itself."""
    parser.add_argument(
        '--mask',
        default='',
        help='image file or polygons of what shows the robot itself, as camera.mask; neither '
        'predicted nor true depth counts there',
    )


def add_picture_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """The flag that saves pictures."""
    parser.add_argument(
        '--pictures', type=Path, metavar='FOLDER', help=f'folder for pictures of the {what}'
    )


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `eval maps` alone."""
    parser.add_argument(
        '--poses',
        choices=('visual', 'source'),
        default='visual',
        help='pose source: visual odometry (default) or the recorded poses',
    )
    parser.add_argument(
        '--depth',
        choices=('model', 'true', 'disturbed'),
        default='model',
        help='depth source: the model (default), the true depth, or the true depth with noise, '
        'soft edges and a scale error per image',
    )
    parser.add_argument(
        '--camera-height',
        type=number,
        default=0.0,
        metavar='METRES',
        help='camera height above the floor, as scale.camera_height; default: unknown',
    )
    _add_seeds(parser, 'simulated rooms; default: 1')
    parser.add_argument(
        '--hazards',
        nargs='?',
        const='',
        metavar='KIND',
        help='people, holes in the floor, overhangs, thin things and turns instead, with exact '
        'depth but for noise; of synthetic only; KIND: those whose name holds it',
    )
    _add_first_seed(parser, 'first seed of the hazards')


def _add_scale_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `eval scale` alone."""
    _add_seeds(parser, f'hand-held sequences, of synthetic only; default: {SEEDS}')
    _add_first_seed(parser, 'first seed')
    parser.add_argument(
        '--cache',
        type=Path,
        metavar='FOLDER',
        help='cache folder of rendered sequences, 25 MB each',
    )
    parser.add_argument(
        '--stride',
        type=whole_number,
        default=10,
        metavar='N',
        help='frames between two starts in a recording; default: 10',
    )


def _add_optimiser_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `eval views --against`."""
    parser.add_argument(
        '--against',
        choices=('optimiser',),
        help='images of a posed sequence that are held out instead: one image at once, the fused '
        'map, and minutes of optimisation, over time',
    )
    parser.add_argument(
        '--minutes',
        type=number,
        default=5.0,
        metavar='N',
        help='duration of the optimisation of a sequence (default: %(default)g)',
    )
    _add_seeds(parser, 'simulated rooms; default: 1')


def _add_seeds(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument('--seeds', type=whole_number, metavar='N', help=f'number of {what}')


def _add_first_seed(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        '--first-seed', type=whole_number, default=0, metavar='N', help=f'{what}; default: 0'
    )
