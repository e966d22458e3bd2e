"""The command `sharp-ros`: every subcommand is a module that is imported when it is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
import sys

from sharp_ros import __version__
from sharp_ros.apps.outcome import outcome
from sharp_ros.apps.verbosity import obey
from sharp_ros.process import prepare_process

# Every module offers add_arguments(parser) and run(args) -> exit code, and imports what is slow
# inside of functions, so that help appears at once.
COMMANDS = {
    'predict': ('sharp_ros.apps.predict', 'depth, preview and Gaussians of photographs'),
    'render': ('sharp_ros.apps.render', 'video or picture of Gaussians from a moving viewpoint'),
    'map': ('sharp_ros.apps.map', 'map on disk, with pictures, from a video, folder or bag'),
    'optimise': (
        'sharp_ros.apps.optimise',
        'Gaussians of a saved map fitted to its keyframes',
    ),
    'view': ('sharp_ros.apps.view', 'live view in the browser of a source, Gaussians or a map'),
    'inspect': (
        'sharp_ros.apps.inspect',
        'what a recording holds, what is used of it, and why the rest is not',
    ),
    'eval': (
        'sharp_ros.apps.evaluate',
        'accuracy of depth, views, maps and scale against the truth',
    ),
    'demo': ('sharp_ros.apps.demo', 'camera source and node over ROS 2 with a live table'),
    'bench': ('sharp_ros.apps.bench', 'speed and memory on this machine'),
    'export': (
        'sharp_ros.apps.export',
        'scenes and maps in formats of other programs, nano as ONNX',
    ),
    'train': ('sharp_ros.apps.train', 'training of nano on rendered rooms or on your recordings'),
    'fetch': ('sharp_ros.apps.fetch', 'download of weights that are not shipped'),
    'mount': ('sharp_ros.apps.mount', 'camera mounting as parameter, tf command and URDF'),
    'params': ('sharp_ros.apps.params', 'every parameter of the node with its meaning'),
    'doctor': ('sharp_ros.apps.doctor', 'diagnosis of this machine, with remedies'),
}
# The module that still takes `eval SOURCE --views`, unless one of these follows the command.
_FORMER_EVAL, _KINDS = (
    'sharp_ros.apps.former_eval',
    ('depth', 'views', 'maps', 'scale', '-h', '--help'),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    prepare_process()
    arguments = list(sys.argv[1:] if argv is None else argv)
    return outcome(lambda: _parsed(arguments))


def _parsed(arguments: Sequence[str]) -> int:
    args, unknown = _parser(arguments).parse_known_args(arguments)
    if unknown:  # with the usage of the command, where argparse shows that of all commands
        args.parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    obey(args)
    return args.run(args)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='sharp-ros', description='Metric depth, maps and views from a single camera.'
    )
    parser.add_argument('--version', action='version', version=f'sharp-ros {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    chosen = next((a for a in arguments if not a.startswith('-')), '')
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            rest = arguments[arguments.index(name) + 1 :]
            former = name == 'eval' and rest and rest[0] not in _KINDS
            module = import_module(_FORMER_EVAL if former else module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command)
    return parser


if __name__ == '__main__':
    sys.exit(main())
