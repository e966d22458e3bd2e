"""How a command ends: what it raises becomes one line and an exit code."""

from __future__ import annotations

from collections.abc import Callable
import sys

from sharp_ros.apps.interruption import EXIT_INTERRUPTED
from sharp_ros.errors import SharpError

EXIT_FAILED = 1


def outcome(command: Callable[[], int]) -> int:
    """Run a command; returns the exit code."""
    try:
        return command()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith('sharp_ros'):
            raise
        return _fail(f'{error.name} is not installed; `sharp-ros doctor` says what is missing')
    except (SharpError, OSError) as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    print(f'error: {" ".join(message.split())}', file=sys.stderr)
    return EXIT_FAILED
