"""What the prediction as a whole says of its own shape: the other head over frozen weights.

    surfaces, metres, rays ── means over 6x8 cells ── convolutions ── log factors, 6x8, mean zero

A network that learned from rendered rooms gets the shape of other places wrong in ways that its
answer shows: how it bends floors, how deep it takes a table to be. Features of the image would
tell more of the images that they learned from, and no more of others; so this head sees none.
"""

from __future__ import annotations

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from sharp_ros.network.metres import GRID as COARSE
from sharp_ros.network.metres import SURFACES

GRID = (2 * COARSE[0], 2 * COARSE[1])  # rows and columns of cells
RAYS = 2  # planes of the directions x/z and y/z, the first ones of those of the network
SIDEWAYS = SURFACES  # among what it looks at: x/z, which a mirror image has the other way round
WIDTH = 48  # features
MOST = 0.5  # bound of a log factor before its mean is taken off; twice that after it


class Shape(nn.Module):
    """Log factors of the depth of cells, without what they have in common: that is the metres.

    Args:
        dropout: share of the features that are left out in training.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.seen = nn.Conv2d(SURFACES + RAYS + 1, WIDTH, 1)
        self.around = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode='replicate')
        self.whole = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Conv2d(WIDTH, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # pyright: ignore[reportArgumentType]  # it has one

    def forward(self, cells: Tensor) -> Tensor:
        """Log factors [B, 1, *GRID] of what `looking` gives.

        Float32 whatever the precision of the weights, zero in the mean, within 2 `MOST`.
        """
        x = F.gelu(self.seen(cells.to(self.seen.weight.dtype)))
        whole = self.whole(x.mean((2, 3)))[:, :, None, None]
        x = x + F.gelu(self.around(self.dropout(x)) + whole)
        factors = MOST * torch.tanh(self.out(self.dropout(x)).float() / MOST)
        return factors - factors.mean((2, 3), keepdim=True)


def looking(cells: Tensor, metres: Tensor) -> Tensor:
    """What the head looks at.

    Args:
        cells: [B, S + P, *GRID] means of surfaces and rays, see `Sight`.
        metres: [B, 1, *GRID] log factors, by which the depth is corrected already.

    Returns:
        [B, S + RAYS + 1, *GRID]: log z1 beside its mean over the image, the rest of the
        prediction, the directions, and that mean.
    """
    depth = cells[:, :1] + metres
    mean = depth.mean((2, 3), keepdim=True)
    rest = cells[:, 1 : SURFACES + RAYS]
    return torch.cat([depth - mean, rest, mean.expand_as(depth)], 1)
