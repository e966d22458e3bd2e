"""What tests do to a copy of the shipped nano, see `graph`, and how they compare its output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sharp_ros.gaussians import Gaussians, rotations_from_quats


def corrupt(graph: Path) -> None:
    """Weights of another training under the same graph, a tenth less of each: they still load."""
    weights = graph.with_name('nano.safetensors')
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], 'little')
    values = np.frombuffer(data, '<f2', offset=start)
    values *= np.float16(0.9)
    weights.write_bytes(data)


def assert_same_shapes(a: Gaussians, b: Gaussians, rtol: float) -> None:
    """Widths within `rtol`; covariances as multiples of them, with more room.

    A millionth of the depth is a thousandth of a slope between cells.
    """
    widths = (gaussians.shapes[0][:, 1] for gaussians in (a, b))
    torch.testing.assert_close(*widths, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(_unit_covariances(a), _unit_covariances(b), rtol=1e-2, atol=0.01)


def _unit_covariances(gaussians: Gaussians) -> torch.Tensor:  # -> [N, 3, 3]
    scales, quats = (values.double() for values in gaussians.shapes)
    rotations = rotations_from_quats(torch.nn.functional.normalize(quats, dim=1))
    axes = rotations * (scales / scales[:, 1:2])[:, None]
    return axes @ axes.mT
