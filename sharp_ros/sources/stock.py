"""What a recording holds, what becomes of it, and why the rest does not: the stock of a source.

Every source takes stock when it is opened and keeps it while its frames are read, so that nothing
that was recorded is left out in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
import copy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from sharp_ros.errors import InputError

Kind = Literal['file', 'image', 'depth', 'calibration', 'poses', 'transforms', 'gravity', 'other']


class Reason(NamedTuple):
    """Why something was not used, and whether that is a loss, or as it should be."""

    meaning: str
    loss: bool = True


# By key, as in reports and diagnostics. docs/recordings.md shows the same list.
REASONS: dict[str, Reason] = {
    'not_chosen': Reason('another one of its kind is used; it can be named instead', False),
    'no_use': Reason('data of this kind are of no use here', False),
    'empty': Reason('nothing was recorded', False),
    'damaged': Reason('its data cannot be decoded'),
    'truncated': Reason('the recording was cut off here; what is whole is used'),
    'missing_file': Reason('a file that is named is not there'),
    'unknown_encoding': Reason('no reader for its encoding or schema'),
    'bad_pose': Reason('a pose with a number that is not finite, or a quaternion of zero'),
    'bad_line': Reason('a line that holds no such entry'),
    'bad_camera_info': Reason('a calibration with impossible numbers or of an unknown model'),
    'uncalibrated': Reason('a camera_info that says it is uncalibrated (K[0] is 0)'),
    'size_mismatch': Reason('it is of another image size than the images'),
    'not_registered': Reason('depth in the frame of another camera, or of another size'),
    'not_connected': Reason('tf does not connect its frame with that of the camera'),
    'other_clock': Reason('its stamps are of another clock than those of the images'),
    'never_near': Reason('no stamp of it is near enough to one of an image'),
    'image_too_small': Reason('an image too small to mean anything'),
    'image_too_large': Reason('an image larger than this program reads'),
    'unreadable_image': Reason('an image file that is missing or damaged'),
    'bad_compressed': Reason('compressed data that are damaged or of another format'),
    'bad_image_size': Reason('an image whose sides its encoding does not allow'),
    'bad_data_length': Reason('an image message with too few or too many bytes'),
    'bad_intrinsics': Reason('a camera matrix that no camera has'),
    'bad_depth': Reason('a depth image that is damaged, of another size or not of 16 bits'),
    'bad_mask': Reason('a mask that is damaged or not of the size of its image'),
}
LOST_KINDS = ('file', 'image', 'depth', 'calibration', 'poses', 'transforms')
_EXAMPLES = 3  # of what was skipped, that are kept


@dataclass
class Part:
    """One topic, list or file of a recording.

    Attributes:
        name: as its owner calls it.
        kind: what it holds.
        count: of its messages, rows or images.
        use: what it is used as; empty while it is not used.
        reason: key of `REASONS`, why it is not used; empty if it is.
        detail: what else there is to say about it, such as its type or how to use it.
        span_ns: stamps of its first and its last entry.
        gap: the longest time between two entries, seconds.
        clock: whose its stamps are: `header` of the messages, `log` of the recorder, or `list`.
        skipped: how many of its entries could not be used, by key of `REASONS`.
        examples: of each of those reasons some, each with its file, number or stamp.
    """

    name: str
    kind: Kind
    count: int = 0
    use: str = ''
    reason: str = ''
    detail: str = ''
    span_ns: tuple[int, int] | None = None
    gap: float = 0.0
    clock: str = ''
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, where: str) -> None:
        """Count an entry that cannot be used, and where it is."""
        self.skipped[reason] += 1
        told = self.examples.setdefault(reason, [])
        if len(told) < _EXAMPLES:
            told.append(where)

    def used_as(self, use: str) -> None:
        """Say that it is used, whatever was said before."""
        self.use, self.reason = use, ''

    def unused(self, reason: str, detail: str = '') -> None:
        """Say why it is not used."""
        self.use, self.reason, self.detail = '', reason, detail or self.detail

    def timed(self, stamps_ns: Sequence[int] | np.ndarray) -> None:
        """Take span and longest gap from its stamps, in any order."""
        if len(stamps_ns):
            stamps = np.sort(np.asarray(stamps_ns, np.int64))
            self.span_ns = int(stamps[0]), int(stamps[-1])
            self.gap = float(np.diff(stamps).max(initial=0)) / 1e9

    @property
    def example(self) -> str:
        """The first of all examples, or nothing."""
        return next((told[0] for told in self.examples.values()), '')

    @property
    def loss(self) -> str:
        """What of it was lost that should not be, in words; empty if nothing."""
        if self.kind not in LOST_KINDS:
            return ''
        told = [self.reason] if self.reason and _is_loss(self.reason) else []
        said = [f'{REASONS[key].meaning}{self.detail and f" ({self.detail})"}' for key in told]
        for key, count in self.skipped.items():
            if _is_loss(key):
                said.append(f'{count} skipped, {meaning_of(key)}: {"; ".join(self.examples[key])}')
        return '; '.join(said)

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            'name': self.name,
            'kind': self.kind,
            'count': self.count,
            'use': self.use,
            'reason': self.reason,
            'detail': self.detail,
            'begin_ns': None if self.span_ns is None else self.span_ns[0],
            'end_ns': None if self.span_ns is None else self.span_ns[1],
            'gap_s': round(self.gap, 6),
            'clock': self.clock,
            'skipped': dict(self.skipped),
            'examples': {reason: list(told) for reason, told in self.examples.items()},
        }


@dataclass
class Stock:
    """All parts of a source, and what was said about it as a whole.

    Attributes:
        source: its name.
        what: its kind, such as `ROS bag`.
        parts: in the order in which they shall be shown.
        frames: that were delivered.
    """

    source: str
    what: str
    parts: list[Part] = field(default_factory=list)
    frames: int = 0
    _taken: list[Part] = field(default_factory=list)

    def mark(self) -> None:
        """Remember what is known before any frame is read."""
        self._taken = copy.deepcopy(self.parts)

    def restart(self) -> None:
        """Forget what was counted since `mark`, since the frames are read anew."""
        self.frames = 0
        del self.parts[len(self._taken) :]
        for part, taken in zip(self.parts, self._taken, strict=True):
            part.__dict__.update(copy.deepcopy(taken.__dict__))

    def add(self, part: Part) -> Part:
        """Append a part, and return it."""
        self.parts.append(part)
        return part

    def lacks(self, kind: Kind) -> bool:
        """Whether it is known that nothing of this kind can be used."""
        return bool(self.parts) and not any(p.use for p in self.parts if p.kind == kind)

    def require_depth(self, model: str) -> None:
        """Refuse to begin where a model is to be given depth that is not there.

        Raises:
            InputError: `no_depth`.
        """
        if self.lacks('depth'):
            raise InputError(
                f'the model {model} needs measured depth, and {self.source} has none that can be '
                'used; choose another --model',
                'no_depth',
            )

    @property
    def skipped(self) -> Counter[str]:
        """Images that were skipped, by reason."""
        total: Counter[str] = Counter()
        for part in self.parts:
            if part.kind == 'image':
                total += part.skipped
        return total

    def losses(self) -> Iterator[str]:
        """A sentence for every part that was found, and not used as it should have been."""
        for part in self.parts:
            if part.loss:
                yield f'{part.name}: {part.loss}'

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            'source': self.source,
            'kind': self.what,
            'frames': self.frames,
            'skipped': dict(self.skipped),
            'parts': [part.as_dict() for part in self.parts],
            'losses': list(self.losses()),
        }


def meaning_of(reason: str) -> str:
    """The sentence of a reason; the key itself for one that others gave."""
    return REASONS[reason].meaning if reason in REASONS else reason.replace('_', ' ')


def _is_loss(reason: str) -> bool:
    return reason not in REASONS or REASONS[reason].loss
