"""Fine-tuning on a recording of a user's camera: its shards, written once, and the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
import hashlib
from itertools import chain, islice
from pathlib import Path

from sharp_ros.camera import Frame
from sharp_ros.errors import ConfigError
from sharp_ros.files import write_atomically
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.training.recordings import (
    is_stereo,
    knows_depth,
    posed_pairs,
    RecordedImage,
    stereo_views,
    with_depth,
    write_recording,
)
from sharp_ros.training.settings import TrainingConfig

FINE_TUNING = 0.1  # times the learning rates
_INTERVAL_NS = 200_000_000  # between images of a recording; nearer ones are almost the same
_HEAD = 1 << 14  # bytes of each file of a recording that is to be known again
_FIRST = 20  # images that are asked whether a recording has depth


def fine_tuning_config(
    config: TrainingConfig,
    recording: Path,
    frames_of: Callable[[Path], Iterable[Frame]],
    say: Callable[[str], object],
) -> TrainingConfig:
    """Settings to fine-tune with a recording, whose shards are made unless they are there.

    Args:
        config: of the run; the shards come into its folder.
        recording: stereo pairs (see `stereo_views`), or what `frames_of` can open.
        frames_of: opens a recording; called only if there are shards to be made.
        say: called with a line about what was made.

    Raises:
        ConfigError: if the shards are of another recording, or it has changed since.
        InputError: if the recording cannot be used.
    """
    shards = Path(config.out) / 'recording'
    note, source = shards.with_suffix('.txt'), str(recording.resolve())
    mark = _mark(recording, Path(config.out))
    if not any(shards.glob('*.npz')):
        images = stereo_views(recording) if is_stereo(recording) else _chosen(frames_of(recording))
        count = write_recording(images, shards)
        what = 'with depth' if knows_depth(shards) else 'in pairs, without depth'
        write_atomically(note, f'{source}\n{mark}')
        say(f'{count} images of {recording} {what}')
    elif note.exists():
        made, _, known = note.read_text(encoding='utf-8').partition('\n')
        # by the path alone where it was written without a mark, or the recording is gone
        if (known != mark) if known and mark else (made != source):
            why = 'which has changed since' if made == source else f'not {source}'
            raise ConfigError(
                f'the shards in {shards} were made from {made}, {why}; give another --out'
            )
    # without depth, the other view of each pair is all there is to learn from
    second_view = config.second_view or float(not knows_depth(shards))
    return replace(
        config,
        recording=str(shards),
        init=str(WEIGHTS_FOLDER / 'nano.safetensors')
        if config.init == 'imagenet'
        else config.init,
        learning_rate=config.learning_rate * FINE_TUNING,
        encoder_learning_rate=config.encoder_learning_rate * FINE_TUNING,
        low_resolution=0.0,
        second_view=second_view,
    )


def _mark(recording: Path, out: Path) -> str:
    """Tells a recording from others wherever it lies, without reading all; empty if it is gone.

    It is made of names below it, sizes and beginnings of its files, but for those of the run.
    """
    files = [recording] if recording.is_file() else sorted(recording.rglob('[!.]*'))
    whole, run = recording.resolve(), out.resolve()
    if whole in (run, *run.parents):
        files = [file for file in files if run not in file.resolve().parents]
    files = [file for file in files if file.is_file()]
    told = hashlib.sha256()
    for file in files:
        with file.open('rb') as opened:
            head = opened.read(_HEAD)
        known = file.relative_to(recording).as_posix(), file.stat().st_size, head
        told.update(repr(known).encode())
    return told.hexdigest() if files else ''


def _chosen(frames: Iterable[Frame]) -> Iterator[RecordedImage]:
    """What there is to learn from in a recording: images with depth, or else pairs of views."""
    frames = _thinned(frames)
    first = list(islice(frames, _FIRST))
    choose = with_depth if any(frame.depth is not None for frame in first) else posed_pairs
    return choose(chain(first, frames))


def _thinned(frames: Iterable[Frame]) -> Iterator[Frame]:
    """At most five frames a second."""
    last = None
    for frame in frames:
        if last is None or abs(frame.stamp_ns - last) >= _INTERVAL_NS:  # a clock may be set back
            last = frame.stamp_ns
            yield frame
