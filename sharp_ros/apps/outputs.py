"""Files that a command is told to write: what cannot be is said before anything slow is done."""

from __future__ import annotations

import os
from pathlib import Path

from sharp_ros.errors import ConfigError


def check_outputs(*files: Path | None) -> None:
    """Refuse files that could not be written at the end; None is no file.

    Raises:
        ConfigError: if one is a folder, or lies in none that exists and can be written.
    """
    for file in filter(None, files):
        folder = file.absolute().parent
        if file.is_dir():
            raise ConfigError(f'{file} is a folder; choose another file')
        if not folder.is_dir():
            raise ConfigError(f'the folder {file.parent} does not exist; make it first')
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f'{file.parent} is not writable; choose another file')
