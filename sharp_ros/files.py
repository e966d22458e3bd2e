"""Files: where ours are kept, and writing so that nobody ever meets half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
from typing import BinaryIO

# Of the user: weights whose licence does not let us ship them, and results of self-checks.
CACHE_FOLDER = Path('~/.cache/sharp_ros')


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path`, as a whole, when the block ends well.

    It is written beside the target, forced to disk and renamed; after an error the target is as it
    was and nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.partial')
    try:
        with temporary.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Replace a file by these contents, text as UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
