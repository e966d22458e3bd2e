"""SHARP: one image to two layers of 3D Gaussians in metres (Mescheder et al., 2025).

    image ──── encoder ──┬── depth decoder ── head ── disparity ── depth ── base Gaussians ──┐
      │                  │                                                      │            │
      │                  └──────────── Gaussian decoder ── prediction head      │         compose
      │                                       │                   └── delta ────┼────────────┤
      └──────────── with inverse depth ───────┴─────────────────────────────────┘            ↓
                                                                                     Gaussians

The focal length enters where disparity becomes depth and, exactly, in `unprojection.unproject`.
Attribute names are the names of the tensors in the released checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
import zipfile

import torch
from torch import nn, Tensor

from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.network.backbone import PyramidEncoder, split, VisionTransformer
from sharp_ros.network.checkpoint import check_layout
from sharp_ros.network.composer import (
    base_gaussians,
    compose,
    depth_from_disparity,
    NdcGaussians,
)
from sharp_ros.network.decoder import (
    DepthAlignment,
    DisparityHead,
    GAUSSIAN_LAYERS,
    GaussianDecoder,
    MultiresDecoder,
    PredictionHead,
)

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class SharpNetworkConfig:
    """Sizes of the network; the defaults are those of the released weights.

    Attributes:
        vit_size: side of the transformers' input, pixels.
        vit_dim: width of their tokens.
        vit_depth: their number of blocks.
        vit_heads: of their attention.
        vit_classes: outputs of their classifier, which never runs.
        taps: the two blocks the finest features come from.
        overlaps: share of a window that the next one repeats, on the finest and middle level.
        encoder_widths: channels at strides 2, 4, 8, 16, 32; the first is the depth decoder's too.
        gaussian_width: channels inside the Gaussian decoder.
        feature_width: channels of what it gives to the prediction head.
        alignment_width: channels of the depth alignment at full resolution.
    """

    vit_size: int = 384
    vit_dim: int = 1024
    vit_depth: int = 24
    vit_heads: int = 16
    vit_classes: int = 21841
    taps: tuple[int, int] = (5, 11)
    overlaps: tuple[float, float] = (0.25, 0.5)
    encoder_widths: tuple[int, int, int, int, int] = (256, 256, 512, 1024, 1024)
    gaussian_width: int = 128
    feature_width: int = 32
    alignment_width: int = 16

    @property
    def image_size(self) -> int:
        """Side of the image the network takes, pixels."""
        return 4 * self.vit_size

    @property
    def grid(self) -> tuple[int, int, int]:
        """(layers, rows, columns) of the Gaussians."""
        return GAUSSIAN_LAYERS, self.image_size // 2, self.image_size // 2

    @property
    def windows(self) -> int:
        """How many of them the patch encoder sees of one image, 35 as released."""
        image = torch.empty(1, 1, self.image_size, self.image_size, device='meta')
        levels = zip((image, image[..., ::2, ::2]), self.overlaps, strict=True)
        return 1 + sum(len(split(level, self.vit_size, overlap)) for level, overlap in levels)


# The same network, small enough to be compared number by number in a test: the first in a tenth
# of a second and without overlap, the second at the released resolution.
TINY = SharpNetworkConfig(
    vit_size=48,
    vit_dim=48,
    vit_depth=5,
    vit_heads=3,
    vit_classes=10,
    taps=(1, 2),
    overlaps=(0.0, 0.0),
    encoder_widths=(24, 20, 28, 36, 44),
    gaussian_width=16,
    feature_width=8,
    alignment_width=8,
)
TINY_OVERLAP = replace(TINY, vit_size=384, overlaps=(0.25, 0.5))


class SharpNetwork(nn.Module):
    """Image to Gaussians in the space of the image, 702 M parameters as released."""

    def __init__(self, config: SharpNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SharpNetworkConfig()
        widths = config.encoder_widths
        self.feature_model = GaussianDecoder(widths, config.gaussian_width, config.feature_width)
        self.monodepth_model = nn.ModuleDict({'monodepth_predictor': DepthPredictor(config)})
        self.prediction_head = PredictionHead(config.feature_width)
        self.depth_alignment = DepthAlignment(config.alignment_width)

    def forward(
        self,
        image: Tensor,
        disparity_factor: Tensor,
        depth: Tensor | None = None,
        patch_batch: int | None = None,
    ) -> NdcGaussians:
        """Predict Gaussians.

        Args:
            image: [B, 3, S, S] sRGB in 0..1, S = `config.image_size`; the whole image, squeezed
                to a square.
            disparity_factor: [B] horizontal focal length over image width, both in pixels.
            depth: [B, 1, S, S] known depth in metres, which training aligns the prediction to.
            patch_batch: how many windows go through the transformer at a time; bounds memory.

        Raises:
            InputError: if a shape is wrong.
        """
        size = self.config.image_size
        if tuple(image.shape[1:]) != (3, size, size):
            raise InputError(f'image must be [B, 3, {size}, {size}], got {tuple(image.shape)}')
        if tuple(disparity_factor.shape) != (len(image),):
            raise InputError(
                f'disparity_factor must be [{len(image)}], got {tuple(disparity_factor.shape)}'
            )
        predictor = self.monodepth_model['monodepth_predictor']
        disparity, features = predictor(image * 2 - 1, patch_batch)
        layers = depth_from_disparity(disparity.float(), disparity_factor)
        if depth is not None:
            layers = self.depth_alignment(layers, depth)
        base = base_gaussians(image, layers)
        delta = self.prediction_head(*self.feature_model(features, base.features))
        return compose(base, delta.float())


class DepthPredictor(nn.Module):
    """Image to two layers of disparity and the features they were read from."""

    def __init__(self, config: SharpNetworkConfig) -> None:
        super().__init__()
        c, widths = config, config.encoder_widths
        vit = (c.vit_size, c.vit_dim, c.vit_depth, c.vit_heads, c.vit_classes)
        self.encoder = PyramidEncoder(
            VisionTransformer(*vit, taps=c.taps),
            VisionTransformer(*vit),
            c.vit_dim,
            widths,
            c.overlaps,
        )
        self.decoder = MultiresDecoder(widths, widths[0])
        self.head = DisparityHead(widths[0])

    def forward(
        self, image: Tensor, patch_batch: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """[B, 3, S, S] in -1..1 -> disparity [B, 2, S, S] and five feature maps."""
        features = self.encoder(image, patch_batch)
        return self.head(self.decoder(features)), features


def load_checkpoint(path: str | Path, config: SharpNetworkConfig | None = None) -> SharpNetwork:
    """The network of a checkpoint, fp32, in evaluation mode, on the CPU, without gradients.

    The file stays mapped rather than read where its format allows, so that weights are in memory
    once at most.

    Raises:
        CheckpointError: if the file is missing, damaged, holds anything but tensors, or those of
            another network.
    """
    advice = '`sharp-ros fetch sharp` brings the weights'
    if not Path(path).is_file():
        raise CheckpointError(f'no weights at {path}; {advice}')
    try:
        # weights_only: unpickling in full would run whatever code a file brings along
        state = torch.load(
            path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises many types for files that are no checkpoint
        cause = str(error).partition('\n')[0].partition('. ')[0][:200] or type(error).__name__
        if isinstance(error, UnpicklingError):  # whose text advises to run what the file brings
            cause = 'not of tensors alone; nothing in it was run'
        raise CheckpointError(
            f'{path} is no checkpoint of SHARP or damaged ({cause}); {advice}'
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f'{path} holds more than the tensors of a network; {advice}')
    with torch.device('meta'):
        network = SharpNetwork(config).eval()
    shapes = {str(name): tensor.shape for name, tensor in state.items()}
    check_layout(path, shapes, network.state_dict(), 'SHARP, which `sharp-ros fetch sharp` brings')
    for name, tensor in state.items():
        if not _is_sound(tensor):
            raise CheckpointError(f'{path}: {name} holds no finite floats; {advice}')
    network.load_state_dict({n: t.float() for n, t in state.items()}, strict=True, assign=True)
    return network.requires_grad_(False)


def _is_sound(tensor: Tensor) -> bool:
    """Whether a tensor from a file is a plain array of finite floats."""
    plain = tensor.layout == torch.strided and tensor.device.type == 'cpu'
    return plain and tensor.dtype in _FLOATS and bool(torch.isfinite(tensor).all())
