"""SHARP's decoders: features to disparity, and features to corrections of Gaussians.

Attribute names are the names of the tensors in SHARP's checkpoint; numbers among them are places
in `nn.Sequential`. Sources: Ranftl et al., DPT (2021) for the fusion block; He et al., Identity
Mappings (2016) for the residual ones; Ronneberger et al., U-Net (2015) for the alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn, Tensor

GAUSSIAN_LAYERS = 2
GEOMETRY_ATTRIBUTES = 3  # x, y, inverse depth
TEXTURE_ATTRIBUTES = 11  # scales, quaternion, colour, opacity
_GROUPS, _ALIGNMENT_GROUPS = 8, 4
_HEAD_WIDTH = 32
_DISPARITY_MIN = 1e-4


class Residual(nn.Module):
    """The input, projected where the width changes, plus what some layers make of it."""

    def __init__(self, *layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.residual = nn.Sequential(*layers)
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, a, h, w] -> [B, b, h, w]."""
        return self.residual(x).add_(self.shortcut(x))


class FusionBlock(nn.Module):
    """Add finer features to coarser ones, mix, and double the resolution if asked."""

    def __init__(self, width: int, out_width: int, *, double: bool) -> None:
        super().__init__()
        self.resnet1 = _relu_residual(width)
        self.resnet2 = _relu_residual(width)
        self.deconv = (
            nn.ConvTranspose2d(width, width, 2, 2, bias=False) if double else nn.Identity()
        )
        self.out_conv = nn.Conv2d(width, out_width, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """[B, width, h, w] twice -> [B, out_width, h, w], or twice as high and wide."""
        if skip is not None:
            x = self.resnet1(skip).add_(x)
        return self.out_conv(self.deconv(self.resnet2(x)))


class MultiresDecoder(nn.Module):
    """Five resolutions into the finest of them, coarse to fine.

    Args:
        encoder_widths: channels of the inputs, finest first.
        width: channels inside and of the output.
    """

    def __init__(self, encoder_widths: Sequence[int], width: int) -> None:
        super().__init__()
        finest, *others = encoder_widths
        same = finest == width
        convs: list[nn.Module] = [
            nn.Identity() if same else nn.Conv2d(finest, width, 1, bias=False)
        ]
        convs += [nn.Conv2d(w, width, 3, padding=1, bias=False) for w in others]
        self.convs = nn.ModuleList(convs)
        # The skip branch of the coarsest block never runs; the checkpoint has its weights.
        self.fusions = nn.ModuleList(
            [FusionBlock(width, width, double=i > 0) for i in range(len(convs))]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of falling resolution -> [B, width, h, w] at that of the first."""
        x = self.fusions[-1](self.convs[-1](features[-1]))
        for i in reversed(range(len(features) - 1)):
            x = self.fusions[i](x, self.convs[i](features[i]))
        return x


class DisparityHead(nn.Sequential):
    """Two disparities per pixel at twice the resolution of the features, never negative."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.ConvTranspose2d(width // 2, width // 2, 2, 2),
            nn.Conv2d(width // 2, _HEAD_WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_HEAD_WIDTH, GAUSSIAN_LAYERS, 1),
            nn.ReLU(inplace=True),
        )


class GaussianDecoder(nn.Module):
    """Features from which the corrections of the base Gaussians are read.

    Args:
        encoder_widths: channels of the encoder's features, finest first.
        width: channels inside.
        out_width: channels of both outputs.
    """

    def __init__(self, encoder_widths: Sequence[int], width: int, out_width: int) -> None:
        super().__init__()
        self.decoder = MultiresDecoder(encoder_widths, width)
        self.image_encoder = nn.ModuleDict(
            {'conv': nn.Conv2d(3 + GAUSSIAN_LAYERS, width, 2, 2)}  # colour and disparities
        )
        self.fusion = FusionBlock(width, width, double=False)
        self.texture_head = _feature_head(width, out_width)
        self.geometry_head = _feature_head(width, out_width)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            features: of the encoder, the first at half the resolution of `image`.
            image: [B, 5, S, S], see `composer.BaseGaussians.features`.

        Returns:
            Texture and geometry features, [B, out_width, S / 2, S / 2] each.
        """
        encode = cast('nn.Conv2d', self.image_encoder['conv'])  # made above
        x = self.fusion(self.decoder(features), encode(image.to(encode.weight.dtype)))
        return self.texture_head(x), self.geometry_head(x)


class PredictionHead(nn.Module):
    """Corrections of the base Gaussians; none before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.geometry_prediction_head = nn.Conv2d(width, GEOMETRY_ATTRIBUTES * GAUSSIAN_LAYERS, 1)
        self.texture_prediction_head = nn.Conv2d(width, TEXTURE_ATTRIBUTES * GAUSSIAN_LAYERS, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, texture: Tensor, geometry: Tensor) -> Tensor:
        """[B, width, h, w] twice -> [B, 14, layers, h, w], see `composer.compose`."""
        geometry = self.geometry_prediction_head(geometry).unflatten(1, (-1, GAUSSIAN_LAYERS))
        texture = self.texture_prediction_head(texture).unflatten(1, (-1, GAUSSIAN_LAYERS))
        return torch.cat([geometry, texture], 1)


class DepthAlignment(nn.Module):
    """Scales predicted depth to known depth while training; its weights travel with the network.

    A photograph does not say all about depth. Training with depth in hand takes away what cannot
    be known, so that the losses do not blur it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_map_estimator = ScaleMap(width)

    def forward(self, depth: Tensor, known: Tensor) -> Tensor:
        """[B, layers, S, S] and [B, 1, S, S] in metres -> depth multiplied by one map."""
        disparities = 1 / torch.cat([depth[:, :1], known], 1).clamp(min=_DISPARITY_MIN)
        return depth * self.scale_map_estimator(disparities)


class ScaleMap(nn.Module):
    """U-Net from two disparities to a positive factor per pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [min(width * 2**i, 1024) for i in range(5)]
        self.encoder = _AlignmentEncoder(widths)
        self.decoder = _AlignmentDecoder(widths)
        self.conv_out = nn.Conv2d(width, 1, 1)

    def forward(self, disparities: Tensor) -> Tensor:
        """[B, 2, S, S] -> [B, 1, S, S]; S is a multiple of 16."""
        return self.conv_out(self.decoder(self.encoder(disparities))).exp()


class _AlignmentEncoder(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.convs_down = nn.ModuleList(
            [nn.Sequential(nn.AvgPool2d(2), *_two_residuals(a, b)) for a, b in pairwise(widths)]
        )
        self.conv_in = nn.Sequential(
            nn.Conv2d(2, widths[0], 3, padding=1),
            nn.GroupNorm(_ALIGNMENT_GROUPS, widths[0]),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.conv_in(x)]
        for down in self.convs_down:
            features.append(down(features[-1]))
        return features


class _AlignmentDecoder(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        rising = widths[::-1]
        self.convs_up = nn.ModuleList(
            [
                # beside the features of the encoder, all but the coarsest come twice as wide
                nn.Sequential(nn.Upsample(scale_factor=2), *_two_residuals(a * (1 + (i > 0)), b))
                for i, (a, b) in enumerate(pairwise(rising))
            ]
        )
        self.conv_out = nn.Sequential(
            nn.GroupNorm(_ALIGNMENT_GROUPS, 2 * rising[-1]),
            nn.ReLU(),
            nn.Conv2d(2 * rising[-1], rising[-1], 1),
            nn.GroupNorm(_ALIGNMENT_GROUPS, rising[-1]),
            nn.ReLU(),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[-1]
        for up, skip in zip(self.convs_up, features[-2::-1], strict=True):
            x = torch.cat([up(x), skip], 1)
        return self.conv_out(x)


def _relu_residual(width: int) -> Residual:
    return Residual(
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
    )


def _norm_residual(width: int, out_width: int, groups: int) -> Residual:
    hidden = out_width // 2
    return Residual(
        nn.GroupNorm(groups, width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, hidden, 3, padding=1),
        nn.GroupNorm(groups, hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, out_width, 3, padding=1),
        shortcut=None if width == out_width else nn.Conv2d(width, out_width, 1),
    )


def _two_residuals(width: int, out_width: int) -> tuple[Residual, Residual]:
    groups = _ALIGNMENT_GROUPS
    return _norm_residual(width, out_width, groups), _norm_residual(out_width, out_width, groups)


def _feature_head(width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(
        _norm_residual(width, width, _GROUPS),
        _norm_residual(width, width, _GROUPS),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, out_width, 1),
        nn.ReLU(inplace=True),
    )
