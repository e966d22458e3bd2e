"""The flag `-v` of SHARP's own commands: what is logged, on stderr."""

from __future__ import annotations

import argparse
import logging


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """The flag."""
    parser.add_argument(
        '-v', '--verbose', action='store_true', help='log of everything that is done, on stderr'
    )


def obey(args: argparse.Namespace) -> None:
    """Log as much as the flag asks for, where a command has it."""
    if getattr(args, 'verbose', False):
        logging.basicConfig(format='%(name)s: %(message)s')
        logging.getLogger('sharp_ros').setLevel(logging.DEBUG)
