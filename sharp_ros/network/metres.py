"""What the whole of an image says of its metres: a second opinion on a network that stays frozen.

    tokens ──────────── means over 3x4 cells ──┐
    surfaces, rays ──── means over 3x4 cells ──┼── MLP ──┬ log factors of the depth, 3x4
    zoom, geometry ────────────────────────────┘         └ log of their standard deviation

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

from sharp_ros.network.cells import cell_means

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
        self, tokens: Tensor, cells: Tensor, zoom: Tensor, geometry: Tensor | None
    ) -> Tensor:
        """What the head looks at.

        Args:
            tokens: [B, C, h, w] coarsest features after the attention.
            cells: [B, S + P, 6, 8], twice `GRID`, means of the prediction of the canonical camera,
                and of the planes that show the network where it looks.
            zoom: [B, 1, 1] log of the focal length over the canonical one.
            geometry: see `NanoNetwork.forward`.

        Returns:
            [B, `features`].
        """
        given = zoom.new_zeros(len(zoom), 5) if geometry is None else geometry
        means = (cell_means(tokens.float(), GRID), F.avg_pool2d(cells, 2))
        return torch.cat([*(mean.flatten(1) for mean in means), zoom[:, 0], given], 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Log factors [B, 1, *GRID] and the log of their standard deviation [B] from `gather`.

        Both are float32, whatever the precision of the weights.
        """
        x = features.to(self.hidden.weight.dtype)
        out = self.out(F.gelu(self.mixed(F.gelu(self.hidden(x))))).float()
        low, high = STD_RANGE
        log_std = out[:, -1].clamp(math.log(low), math.log(high))
        return out[:, :-1].reshape(-1, 1, *GRID), log_std
