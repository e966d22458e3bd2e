"""What the whole of an image says of its metres: a second opinion on a network that stays frozen.

    tokens, surfaces, rays ── means over 3x4 cells ── MLP ──┬ log factors of the depth, 3x4
    zoom, geometry ─────────────────────────────────────────┴ log of their standard deviation

Weights of a network that learns the metres of new cameras anew lose the shape that they had: so
they stay as they are, and a small head learns what factor the depth needs. Heads over features
that are kept serve other images than they learned from better than features that are learnt
again (Kumar et al., "Fine-tuning can distort pretrained features", 2022).
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F

GRID = (3, 4)  # rows and columns of cells
SURFACES = 4  # channels of the prediction that are not corrections of Gaussians
HIDDEN = (256, 64)  # features
STD_RANGE = (0.02, 2.0)  # of the log factor


class Metres(nn.Module):
    """Log factors of the depth of an image, coarse, and how far they may be wrong.

    Args:
        tokens: channels of the coarsest features.
        planes: of the rays.

    Attributes:
        features: how many numbers it looks at.
        others: how many of them, the last ones, do not come from tokens.
    """

    def __init__(self, tokens: int, planes: int) -> None:
        super().__init__()
        cells = GRID[0] * GRID[1]
        self.others = (SURFACES + planes) * cells + 6
        self.features = tokens * cells + self.others
        self.hidden = nn.Linear(self.features, HIDDEN[0])
        self.mixed = nn.Linear(HIDDEN[0], HIDDEN[1])
        self.out = nn.Linear(HIDDEN[1], cells + 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def gather(
        self, tokens: Tensor, surfaces: Tensor, rays: Tensor, zoom: Tensor, geometry: Tensor | None
    ) -> Tensor:
        """What the head looks at.

        Args:
            tokens: [B, C, h, w] coarsest features after the attention.
            surfaces: [B, S, H, W] prediction of the canonical camera.
            rays: [B, P, h', w'] planes that show the network where it looks.
            zoom: [B, 1, 1] log of the focal length over the canonical one.
            geometry: see `NanoNetwork.forward`.

        Returns:
            [B, `features`].
        """
        given = zoom.new_zeros(len(zoom), 5) if geometry is None else geometry
        means = [
            cell_means(planes.float(), GRID).flatten(1) for planes in (tokens, surfaces, rays)
        ]
        return torch.cat([*means, zoom[:, 0], given], 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Log factors [B, 1, *GRID] and the log of their standard deviation [B] from `gather`.

        Both are float32, whatever the precision of the weights.
        """
        x = features.to(self.hidden.weight.dtype)
        out = self.out(F.gelu(self.mixed(F.gelu(self.hidden(x))))).float()
        low, high = STD_RANGE
        log_std = out[:, -1].clamp(math.log(low), math.log(high))
        return out[:, :-1].reshape(-1, 1, *GRID), log_std


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
    of magnitude longer to enlarge 3x4 cells of one channel to an image.

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
