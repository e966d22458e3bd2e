"""Which way of running a network is the fastest here: measured once, remembered.

A way is a runtime and a precision. Which one is fastest depends on the processor and on versions,
so nobody can say it beforehand. What was measured is kept in the user's cache under all that it
depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
import hashlib
from importlib import metadata
import json
import logging
import math
from pathlib import Path
import statistics
import time
from typing import Any

from sharp_ros import __version__
from sharp_ros.files import CACHE_FOLDER, sha256_of, write_atomically
from sharp_ros.process import processor

_FILE = 'execution.json'
_KEPT = 20  # choices, of the latest models and versions
_WARM_UP, _ROUNDS = 2, 9
_HALF_PRECISION_GAIN = 0.9  # of the time of float32, at least, or its rounding is for nothing
_PACKAGES = {'openvino': ('openvino',), 'onnx': ('onnxruntime', 'onnxruntime-gpu')}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was found on one machine for one model.

    Attributes:
        chosen: the fastest way that passed its self-check, as `name_of` writes it.
        median_ms: of each way that passed.
        refused: why others did not.
        model: name or path.
        processor: as the system names it.
        versions: of the packages, by name.
    """

    chosen: str
    median_ms: dict[str, float]
    refused: dict[str, str] = field(default_factory=dict)
    model: str = ''
    processor: str = ''
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        times = sorted(self.median_ms.items(), key=lambda item: item[1])
        parts = [f'{name} {ms:.1f} ms' for name, ms in times]
        parts += [f'{name} refused' for name in self.refused]
        return f'{self.chosen} of {", ".join(parts)}'


def name_of(execution: str, precision: str) -> str:
    """A way as people read it."""
    return f'{execution} {precision}'


def choose(
    model: str, runs: Mapping[str, Callable[[], object]], refused: Mapping[str, str]
) -> Choice:
    """Measure the ways that passed and take the fastest.

    Args:
        model: its name or path.
        runs: the network once, by the name of the way.
        refused: why other ways did not pass.
    """
    times = median_ms(runs)
    return Choice(fastest(times), times, dict(refused), model, processor(), versions())


def median_ms(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median duration of each run, one after the other in turn, so that load hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(_WARM_UP + _ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i >= _WARM_UP:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def fastest(median_ms: Mapping[str, float]) -> str:
    """The fastest way; one in bf16 only if it is clearly faster than every one in float32."""
    full = {name: ms for name, ms in median_ms.items() if not name.endswith('bf16')}
    bound = _HALF_PRECISION_GAIN * min(full.values(), default=math.inf)
    worth = {name: ms for name, ms in median_ms.items() if name in full or ms <= bound}
    return min(worth, key=worth.__getitem__)


def key(files: list[Path], threads: int, ways: list[str]) -> str:
    """A digest of all that a choice depends on: processor, versions, threads, model, ways."""
    facts = [processor(), versions(), threads, [sha256_of(path) for path in files], ways]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of this package, and of those that run networks in ONNX as far as they are installed."""
    found = {'sharp_ros': __version__}
    for name in (name for names in _PACKAGES.values() for name in names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def installed(execution: str) -> bool:
    """Whether the package of a runtime is there, be it able to start or not."""
    return any(name in versions() for name in _PACKAGES[execution])


def remembered(key: str) -> Choice | None:
    """What was found earlier under a key; None if nothing was."""
    return _read().get(key)


def remember(key: str, choice: Choice) -> None:
    """Keep a choice for the next start; where that is impossible the next start measures."""
    kept = {k: asdict(v) for k, v in _read().items() if k != key}
    kept = dict(list(kept.items())[1 - _KEPT :])
    path = CACHE_FOLDER.expanduser() / _FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**kept, key: asdict(choice)}, indent=1))
    except OSError as error:
        _log.warning('cannot keep which way of running is fastest: %s', error)


def here() -> list[Choice]:
    """All choices that hold on this machine with the packages as they are."""
    now = (processor(), versions())
    return [c for c in _read().values() if (c.processor, c.versions) == now]


def forget() -> None:
    """Remove all choices, so that the next start measures again."""
    (CACHE_FOLDER.expanduser() / _FILE).unlink(missing_ok=True)


def _read() -> dict[str, Choice]:
    """Of the file; none if it is missing or damaged."""
    try:
        found = json.loads((CACHE_FOLDER.expanduser() / _FILE).read_text(encoding='utf-8'))
        return {str(k): _choice(v) for k, v in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def _choice(values: dict[str, Any]) -> Choice:
    """What `asdict` made of a choice.

    Raises:
        ValueError, TypeError, AttributeError, KeyError: if it is none.
    """
    times = {str(name): float(ms) for name, ms in values['median_ms'].items()}
    if values['chosen'] not in times:
        raise ValueError(f'{values["chosen"]} was not measured')
    texts = {
        name: {str(k): str(v) for k, v in values[name].items()} for name in ('refused', 'versions')
    }
    return Choice(
        values['chosen'],
        times,
        model=str(values['model']),
        processor=str(values['processor']),
        **texts,
    )
