"""Text that people and tools write beside images: lists of stamps, files and poses.

Stamps are whole nanoseconds from the digits themselves; a float64 of seconds since 1970 is off by
a hundred of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
import re
import statistics

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.files import regular_file
from sharp_ros.se3 import matrix_from_quat, transform
from sharp_ros.sources.stock import Part

_UNITS = {'s': 10**9, 'ms': 10**6, 'us': 10**3, 'ns': 1}  # nanoseconds of each
_EPOCH = (9.5e8, 4.2e9)  # seconds since 1970 that are plausible: the years 2000 to 2103
_LONGEST_STEP = 3600.0  # seconds between images, on average
_COMMENT = re.compile(r'(^|\s)#.*')
_LEAST_STEP = 0.005  # seconds between images, of stamps that are whole numbers of a small unit


@dataclass
class StampedList:
    """Rows of a list by rising stamp.

    Attributes:
        rows: stamp in nanoseconds, words behind it, and number of the line.
        unit: of the stamps in the file.
    """

    rows: list[tuple[int, list[str], int]] = field(default_factory=list)
    unit: str = 's'

    @property
    def stamps(self) -> list[int]:
        """Of all rows, nanoseconds."""
        return [row[0] for row in self.rows]


def read_text(path: Path) -> str:
    """A text file as UTF-8, UTF-16 with a byte order mark, or else Latin-1, which fits always."""
    data = regular_file(path).read_bytes()
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
        return data.decode('utf-16', 'replace')
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError:
        return data.decode('latin-1')


def read_list(path: Path, columns: int, part: Part, near: Sequence[int] = ()) -> StampedList:
    """Rows "stamp word word ..." of a file; empty if there is none.

    Bad lines are counted at the part. The unit of the stamps is what makes them plausible: years
    since 1970, or steps between images; of several, the one that overlaps with `near`.

    Args:
        path: of the list.
        columns: words that must follow the stamp.
        part: where to keep account.
        near: stamps of the images, nanoseconds, which these belong to.

    Raises:
        InputError: `bad_tum_list` if it has lines, but not one good one.
    """
    if not path.is_file():
        return StampedList()
    rows: list[tuple[Decimal, list[str], int]] = []
    wrong = ''
    for number, whole in enumerate(read_text(path).splitlines(), 1):
        line = _COMMENT.sub('', whole).strip()
        if not line:
            continue
        words = _words(line, columns)
        try:
            stamp = Decimal(words[0])
            if len(words) <= columns or not stamp.is_finite():
                raise InvalidOperation
        except (InvalidOperation, IndexError):
            wrong = wrong or (
                f'{path}:{number}: expected a time in seconds and {columns} more words, got '
                f'{line!r}; correct the line'
            )
            part.skip('bad_line', f'{path.name}:{number}')
            continue
        rows.append((stamp, words[1:], number))
    if wrong and not rows:
        raise InputError(wrong, 'bad_tum_list')
    unit = _unit([row[0] for row in rows], near)
    scaled = [(int((stamp * _UNITS[unit]).to_integral_value()), w, n) for stamp, w, n in rows]
    scaled.sort(key=lambda row: row[0])
    part.count = len(scaled)
    part.clock = 'list'
    part.timed([row[0] for row in scaled])
    return StampedList(scaled, unit)


def _words(line: str, columns: int) -> list[str]:
    """Split at blanks, where a comma is that of a decimal number, or else at commas."""
    words = [word.rstrip(',;') for word in line.split()]
    if len(words) > columns:
        return [word.replace(',', '.') if _is_number(word) else word for word in words]
    return line.replace(',', ' ').replace(';', ' ').split()


def _is_number(word: str) -> bool:
    return word.strip('+-').replace(',', '', 1).isdigit()


def _unit(stamps: Sequence[Decimal], near: Sequence[int]) -> str:
    """The unit in which stamps are plausible; seconds where several are."""
    if not stamps:
        return 's'
    ordered = sorted(stamps)
    if near:
        best = max(_UNITS, key=lambda unit: _overlap(ordered, _UNITS[unit], near))
        if _overlap(ordered, _UNITS[best], near) > 0:
            return best
    steps = [float(b - a) for a, b in pairwise(ordered) if b > a]
    step = statistics.median(steps) if steps else 0.0
    for unit, factor in _UNITS.items():
        since_1970 = float(ordered[len(ordered) // 2]) * factor / 1e9
        if _EPOCH[0] <= since_1970 < _EPOCH[1] and step * factor / 1e9 <= _LONGEST_STEP:
            return unit
    if all(stamp == stamp.to_integral_value() for stamp in stamps):
        for unit in ('ns', 'us', 'ms'):
            if step * _UNITS[unit] / 1e9 >= _LEAST_STEP:
                return unit
    return 's'


def _overlap(ordered: Sequence[Decimal], factor: int, near: Sequence[int]) -> float:
    """Share of the time from the first to the last stamp of two lists, in which both have some."""
    begin, end = float(ordered[0]) * factor, float(ordered[-1]) * factor
    first, last = float(min(near)), float(max(near))
    common, whole = min(end, last) - max(begin, first), max(end, last) - min(begin, first)
    return common / whole if whole > 0 else float(common >= 0)


def read_poses(path: Path, part: Part, near: Sequence[int] = ()) -> list[tuple[int, np.ndarray]]:
    """`T_world_camera` by stamp, of rows "stamp tx ty tz qx qy qz qw"; bad rows are counted.

    Raises:
        InputError: `bad_tum_list` if it has rows, but no pose.
    """
    listed = read_list(path, 7, part, near)
    poses: list[tuple[int, np.ndarray]] = []
    wrong: InputError | None = None
    for stamp, words, number in listed.rows:
        try:
            poses.append((stamp, pose_of_words(words)))
        except (ValueError, InputError) as error:
            part.skip('bad_pose', f'{path.name}:{number}')
            wrong = wrong or InputError(
                f'{path}: {" ".join(words)!r} is no pose "tx ty tz qx qy qz qw" ({error}); '
                'correct the line',
                'bad_tum_list',
            )
    if wrong is not None and not poses:
        raise wrong
    if listed.unit != 's':
        part.detail = f'its stamps are in {listed.unit}'
    return poses


def pose_of_words(words: Sequence[str]) -> np.ndarray:  # -> [4, 4]
    """Of the words "tx ty tz qx qy qz qw".

    Raises:
        ValueError: if a word is no number.
        InputError: `bad_pose` if a number is not finite or the quaternion zero.
    """
    x, y, z, qx, qy, qz, qw = map(float, words[:7])
    if not np.isfinite([x, y, z]).all():
        raise InputError('it is not finite', 'bad_pose')
    return transform(matrix_from_quat(np.array([qw, qx, qy, qz])), np.array([x, y, z]))
