"""Whether a network still gives its own results after it was made fast: compared once, remembered.

A precision, a compiler or a library can silently change what a network says. The first time that
weights meet a machine in some precision, one image goes through them in plain float32 and through
what was made of them; the result is kept in the user's cache until anything of that changes.

A network that left torch brings along what float32 gave there, a few values of each tensor
(`stored`); it is compared with those whenever it is loaded.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
import hashlib
import json
import logging
import math
import platform
from typing import Any, TYPE_CHECKING
import zlib

import cv2
import numpy as np

from sharp_ros import __version__
from sharp_ros.camera import Intrinsics
from sharp_ros.files import CACHE_FOLDER, write_atomically
from sharp_ros.process import processor
from sharp_ros.tensors import array_of

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 0.05  # of `difference`: 10 cm in a scene 2 m away
_QUANTILE = 0.95
_FILE = 'self_check.json'
_STORED = 1021  # values of an output, which is enough for a quantile of their errors
_log = logging.getLogger(__name__)


def check_image() -> tuple[np.ndarray, Intrinsics]:
    """The image to compare on: soft colours and noise, the same on every machine.

    It need not be a photograph. Every weight takes part whatever is seen.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    soft = cv2.resize(rng.random((12, 16, 3), np.float32), (640, 480))
    image = 200 * soft.clip(0, 1) + 55 * rng.random((480, 640, 3), np.float32)
    return image.astype(np.uint8), Intrinsics.from_hfov(1.1, 640, 480)


def key(network: nn.Module, precision: str, execution: str, *more: str) -> str:
    """A digest of all that a result depends on: weights, device, versions, way, and more."""
    import torch

    checksum = 0
    for parameter in network.parameters():
        data = parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(data.data, checksum)
    device = next(network.parameters()).device
    facts = [
        checksum,
        device.type,
        torch.cuda.get_device_name() if device.type == 'cuda' else _processor(),
        torch.__version__,
        torch.version.cuda,
        torch.backends.cudnn.version(),
        __version__,
        precision,
        execution,
        *more,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def file_key(*facts: str) -> str:
    """A digest for a network in a file, which is not in torch: processor, version, and facts."""
    return hashlib.sha256(json.dumps([processor(), __version__, *facts]).encode()).hexdigest()


def difference(outputs: Sequence[Any], expected: Sequence[Any]) -> float:
    """How far outputs lie from the expected ones.

    Args:
        outputs: arrays or tensors of any shapes, any device.
        expected: of the same shapes.

    Returns:
        The largest over the outputs of the 95 % quantile of |output - expected| over the mean
        magnitude of the expected ones; infinite if an output is not finite.
    """
    worst = 0.0
    for output, truth in zip(outputs, expected, strict=True):
        found, wanted = _floats(output), _floats(truth)
        with np.errstate(invalid='ignore'):  # inf - inf, which is told below
            error = np.abs(found - wanted)
        if not np.isfinite(error).all():
            return math.inf
        rank = max(1, math.ceil(_QUANTILE * error.size)) - 1
        size = max(float(np.abs(wanted).mean()), 1e-12)
        worst = max(worst, float(np.partition(error, rank)[rank]) / size)
    return worst


def stored(outputs: Sequence[Any]) -> str:
    """Values spread over the outputs for `check_image`, as text to keep with a network."""
    values = [_spread(output).astype('<f4').tobytes() for output in outputs]
    return json.dumps([base64.b64encode(value).decode() for value in values])


def difference_from_stored(outputs: Sequence[Any], text: str) -> float:
    """See `difference`; infinite too if the text is not of such outputs."""
    try:
        expected = [np.frombuffer(base64.b64decode(part), '<f4') for part in json.loads(text)]
        found = [_spread(output) for output in outputs]
        if [v.shape for v in found] != [v.shape for v in expected]:
            return math.inf
    except (ValueError, TypeError):
        return math.inf
    return difference(found, expected)


def _floats(values: Any) -> np.ndarray:  # -> [N] float32
    half = values if isinstance(values, np.ndarray) else values.detach().float()
    return array_of(half).astype(np.float32, copy=False).reshape(-1)


def _spread(output: Any) -> np.ndarray:
    """At most `_STORED` values, evenly over all of them."""
    flat = _floats(output)
    count = min(_STORED, len(flat))
    # in float32, as the files have it
    return flat[np.linspace(0, len(flat) - 1, count, dtype=np.float32).astype(np.int64)]


def remembered(key: str) -> float | None:
    """The difference found earlier under a key; None if there was none."""
    return _read().get(key)


def remember(key: str, difference: float) -> None:
    """Keep a difference for the next start; where that is impossible the next start measures."""
    path = CACHE_FOLDER.expanduser() / _FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**_read(), key: difference}, indent=1).encode())
    except OSError as error:
        _log.warning('cannot keep the result of the self-check: %s', error)


def _processor() -> str:
    import torch

    return f'{platform.machine()} {torch.backends.cpu.get_cpu_capability()}'


def _read() -> dict[str, float]:
    try:
        found = json.loads((CACHE_FOLDER.expanduser() / _FILE).read_text(encoding='utf-8'))
        return {str(k): float(v) for k, v in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
