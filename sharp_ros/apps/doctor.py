"""`sharp-ros doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
import json

from sharp_ros import execution_choice
from sharp_ros.evaluation.installation import Check, diagnose
from sharp_ros.network import compiled_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros doctor`."""
    parser.add_argument('--json', action='store_true', help='print a JSON list instead of text')
    parser.add_argument(
        '--forget-execution',
        action='store_true',
        help='discard of the measured choices of model.execution and of the networks compiled for '
        'them, which the next start makes anew',
    )


def run(args: argparse.Namespace) -> int:
    """Print every check; 1 if one failed."""
    if args.forget_execution:
        execution_choice.forget()
        compiled_files.forget()
    checks = list(diagnose())
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print(_text(checks))
    return 1 if any(check.status == 'fail' for check in checks) else 0


def _text(checks: list[Check]) -> str:
    """One line a check, its advice below; no table, so that commands can be copied whole."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f'{check.status:4}  {check.name:{width}}  {check.value}')
        if check.advice:
            lines.append(f'{"":4}  {"":{width}}  -> {check.advice}')
    return '\n'.join(lines)
