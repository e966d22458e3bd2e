"""Values of the cells of a coarse grid over an image: from pixels, and back between them."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_means(planes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over the cells of a grid, weighted by area where borders cut pixels.

    `F.adaptive_avg_pool2d` would count such pixels whole, and has no ONNX for sides that vary.

    Args:
        planes: [B, C, h, w].
        grid: rows and columns.

    Returns:
        [B, C, rows, columns].
    """
    rows, columns = (
        _shares(side, count, planes) for side, count in zip(planes.shape[2:], grid, strict=True)
    )
    return rows @ planes @ columns.T


def between_cells(cells: Tensor, like: Tensor) -> Tensor:
    """Values of cells at every pixel: bilinear between their centres, constant beyond them.

    What `F.interpolate` gives, by two products of small matrices: inference engines take an order
    of magnitude longer to enlarge a few cells of one channel to an image.

    Args:
        cells: [B, C, rows, columns].
        like: of the height and width that the result shall have.

    Returns:
        [B, C, h, w].
    """
    rows, columns = (
        _nearness(side, count, cells)
        for side, count in zip(like.shape[2:], cells.shape[2:], strict=True)
    )
    # products, unlike interpolation, would be of bfloat16: 1 % of the depth
    with torch.autocast(cells.device.type, enabled=False):
        return rows @ cells @ columns.T


def _nearness(side: int, count: int, like: Tensor) -> Tensor:  # -> [side, count]
    """How much each of `count` cells has a say at each of `side` pixels."""
    pixels = torch.arange(side, device=like.device, dtype=torch.float32)[:, None]
    centers = torch.arange(count, device=like.device, dtype=torch.float32)[None]
    at = ((pixels + 0.5) * (count / side) - 0.5).clamp(0, count - 1)
    return (1 - (at - centers).abs()).clamp(min=0).to(like.dtype)


def _shares(side: int, count: int, like: Tensor) -> Tensor:  # -> [count, side]
    """How much of each of `count` equal cells each of `side` pixels covers."""
    pixels = torch.arange(side, device=like.device, dtype=like.dtype)[None] * count
    start = torch.arange(count, device=like.device, dtype=like.dtype)[:, None] * side
    # in units in which a pixel is `count` long and a cell `side`, all edges are whole numbers
    overlap = torch.minimum(pixels + count, start + side) - torch.maximum(pixels, start)
    return overlap.clamp(min=0) / side
