"""SHARP's image encoder: a vision transformer slid over an image pyramid.

    image 4P x 4P ── 1/1 ── 5 x 5 windows ─┐                    ┌ blocks ── e0, e1  strides 2, 4
             ├────── 1/2 ── 3 x 3 windows ─┼─ patch encoder ────┼ merged ── e2, e3  strides 8, 16
             └────── 1/4 ── 1 window ──────┘                    └ coarse ─┐
                      └──────────────────────── image encoder ────────────┴ e4       stride 32

P is the side of the transformer's input. The windows of one level overlap; where they do, each
keeps its own half. Attribute names are the names of the tensors in SHARP's checkpoint. Sources:
Dosovitskiy et al., ViT (2021); Oquab et al., DINOv2 (2023); Bochkovskii et al., Depth Pro (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
import math
from typing import cast

import torch
from torch import nn, Tensor
from torch.nn import functional as F

TOKEN_PX = 16  # side of the square of pixels a token stands for
_LAYER_NORM_EPS = 1e-6
_HEADS_AT_ONCE = 4
_LAYER_SCALE = 1e-5  # residual branches start almost closed


class VisionTransformer(nn.Module):
    """Pre-norm transformer with a class token, learned positions and layer scale.

    Args:
        size: side of the square input, pixels.
        dim: width of a token.
        depth: number of blocks.
        heads: of the attention.
        classes: outputs of the classifier, which is part of the checkpoint and never runs.
        taps: blocks, from 0, whose output is returned beside the last.
    """

    def __init__(
        self, size: int, dim: int, depth: int, heads: int, classes: int, taps: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.grid = size // TOKEN_PX
        self.taps = tuple(taps)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2 + 1, dim).normal_(std=0.02))
        self.patch_embed = nn.ModuleDict({'proj': nn.Conv2d(3, dim, TOKEN_PX, TOKEN_PX)})
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            images: [N, 3, size, size] in -1..1.

        Returns:
            The normalised last features and, as they left their block, the tapped ones: all
            [N, dim, grid, grid].
        """
        project = self._projection
        x = project(images.to(project.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        tapped = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                tapped.append(self._map(x))
        return self._map(self.norm(x)), tapped

    def _map(self, tokens: Tensor) -> Tensor:  # [N, 1 + grid^2, dim] -> [N, dim, grid, grid]
        maps = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return maps.to(self._projection.weight.dtype)

    @property
    def _projection(self) -> nn.Conv2d:
        return cast('nn.Conv2d', self.patch_embed['proj'])  # made above


class Block(nn.Module):
    """Attention, then a perceptron, each on a scaled residual branch."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS)
        self.mlp = Perceptron(dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, dim] -> the same."""
        x = self.ls1(x, self.attn(self.norm1(x)))
        return self.ls2(x, self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Every token looks at every other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, dim] -> the same, in the precision of the weights."""
        qkv = self.qkv(x.to(self.qkv.weight.dtype)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(_attend(q, k, v).transpose(1, 2).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # [N, heads, tokens, width] each
    """Scaled dot-product attention.

    In half precision on a CPU as the formula reads, a few heads at a time so that their weights
    stay in the caches: in two thirds of the time of torch's own kernel.
    """
    if q.device.type != 'cpu' or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    heads = zip(*(x.flatten(0, 1).split(_HEADS_AT_ONCE) for x in (q, k, v)), strict=True)
    mixed = [
        torch.baddbmm(x.new_empty(()), x, y.mT, beta=0, alpha=x.shape[-1] ** -0.5).softmax(-1) @ z
        for x, y, z in heads
    ]
    return torch.cat(mixed).unflatten(0, q.shape[:2])


class Perceptron(nn.Module):
    """Four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, dim] -> the same, in the precision of the weights."""
        return self.fc2(self.act(self.fc1(x.to(self.fc1.weight.dtype))))


class Linear(nn.Linear):
    """A linear map of tokens.

    On a CPU it is computed as a convolution with a single tap: that is the same sum, and torch
    hands it to oneDNN, which on an AMD EPYC takes a fifth to a third less time than what torch
    multiplies float32 matrices with, and a little less in bfloat16 (docs/benchmark.md).
    """

    # torch names the argument after a builtin
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[..., in] -> [..., out]."""
        if x.device.type != 'cpu':
            return super().forward(x)
        row = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(row, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class LayerScale(nn.Module):
    """A residual branch is added times one factor per channel (Touvron et al., CaiT, 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), _LAYER_SCALE))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """[..., dim] twice -> the same, in the precision of `x`."""
        return torch.addcmul(x, branch, self.gamma)


class PyramidEncoder(nn.Module):
    """Features at strides 2 to 32 from a transformer that sees a quarter of the side at a time.

    Args:
        patch_encoder: with two taps, for windows of all levels.
        image_encoder: of the same size, for the whole image.
        dim: width of their tokens.
        widths: channels of the five outputs, finest first.
        overlaps: share of a window that the next one repeats, for the finest and middle level.
    """

    def __init__(
        self,
        patch_encoder: VisionTransformer,
        image_encoder: VisionTransformer,
        dim: int,
        widths: Sequence[int],
        overlaps: tuple[float, float],
    ) -> None:
        super().__init__()
        assert len(patch_encoder.taps) == 2
        self.overlaps = overlaps
        self.patch_encoder = patch_encoder
        self.image_encoder = image_encoder
        self.upsample_latent0 = _upsample(dim, widths[1], [widths[0]] * 3)
        self.upsample_latent1 = _upsample(dim, widths[1], [widths[1]] * 2)
        self.upsample0 = _upsample(dim, widths[2], [widths[2]])
        self.upsample1 = _upsample(dim, widths[3], [widths[3]])
        self.upsample2 = _upsample(dim, widths[4], [widths[4]])
        self.upsample_lowres = nn.ConvTranspose2d(dim, widths[4], 2, 2)
        self.fuse_lowres = nn.Conv2d(2 * widths[4], widths[4], 1)

    def forward(self, image: Tensor, patch_batch: int | None = None) -> list[Tensor]:
        """Encode an image.

        Args:
            image: [B, 3, 4P, 4P] in -1..1.
            patch_batch: how many windows are encoded at a time; fewer need less memory. None is
                all of them.

        Returns:
            [B, widths[i], 2P / 2^i, 2P / 2^i] for i = 0 to 4.
        """
        batch, window = len(image), image.shape[-1] // 4
        # no antialiasing, and both from the original: what the weights were trained with
        half, quarter = (
            F.interpolate(image, scale_factor=s, mode='bilinear', align_corners=False)
            for s in (0.5, 0.25)
        )
        fine = split(image, window, self.overlaps[0])
        middle = split(half, window, self.overlaps[1])
        windows = torch.cat([fine, middle, quarter])
        encoded, first, second = [], [], []
        for part in windows.split(patch_batch or len(windows)):
            features, taps = self.patch_encoder(part)
            encoded.append(features)
            first.append(taps[0])
            second.append(taps[1])
        levels = torch.cat(encoded).split([len(fine), len(middle), batch])
        block0, block1 = (torch.cat(parts)[: len(fine)] for parts in (first, second))
        whole, _ = self.image_encoder(quarter)
        coarse = torch.cat([self.upsample2(levels[2]), self.upsample_lowres(whole)], 1)
        return [
            self.upsample_latent0(merge(block0, batch, self.overlaps[0])),
            self.upsample_latent1(merge(block1, batch, self.overlaps[0])),
            self.upsample0(merge(levels[0], batch, self.overlaps[0])),
            self.upsample1(merge(levels[1], batch, self.overlaps[1])),
            self.fuse_lowres(coarse),
        ]


def split(image: Tensor, window: int, overlap: float) -> Tensor:
    """Square windows of a square image, row by row, the last ones flush with its edge.

    Args:
        image: [B, C, side, side].
        window: side of a window.
        overlap: share of a window that the next one repeats.

    Returns:
        [steps^2 * B, C, window, window], the images of the batch beside each other.
    """
    stride = int(window * (1 - overlap))
    steps = math.ceil((image.shape[-1] - window) / stride) + 1
    corners = [i * stride for i in range(steps)]
    rows = [image[..., y : y + window, :] for y in corners]
    return torch.cat([row[..., x : x + window] for row in rows for x in corners])


def merge(tiles: Tensor, batch: int, overlap: float) -> Tensor:
    """Put the features of windows side by side, each cut in the middle of the overlap.

    Args:
        tiles: [steps^2 * B, C, n, n] in the order of `split`.
        batch: B.
        overlap: as for `split`.

    Returns:
        [B, C, side, side].
    """
    steps, n = math.isqrt(len(tiles) // batch), tiles.shape[-1]
    crop = round(n * overlap / 2)
    kept = [slice(crop if i else 0, n - crop if i < steps - 1 else n) for i in range(steps)]
    grid = tiles.unflatten(0, (steps, steps, batch))
    rows = [
        torch.cat([grid[i, j, :, :, kept[i], kept[j]] for j in range(steps)], -1)
        for i in range(steps)
    ]
    return torch.cat(rows, -2)


def _upsample(dim: int, projected: int, widths: Sequence[int]) -> nn.Sequential:
    """Project, then double the resolution once per width."""
    layers: list[nn.Module] = [nn.Conv2d(dim, projected, 1, bias=False)]
    for before, after in pairwise([projected, *widths]):
        layers.append(nn.ConvTranspose2d(before, after, 2, 2, bias=False))
    return nn.Sequential(*layers)
