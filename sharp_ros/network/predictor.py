"""Predictors in torch, one image to Gaussians; see `roles`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from sharp_ros.camera import FloorGeometry, Intrinsics, SAME_SURFACE_RATIO
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.network.composer import gaussians_from_depth, NdcGaussians
from sharp_ros.network.nano import gaussians_from_prediction, NanoNetwork, NONE
from sharp_ros.network.nano_arrays import nano_inputs, PIXELS
from sharp_ros.network.roles import NetworkPredictor
from sharp_ros.network.sharp import SharpNetwork
from sharp_ros.network.unprojection import unproject

_PLAUSIBLE = 1e-3, 1e5  # metres between which a number in a depth image is one
_CPU_BATCH = 5  # windows whose activations stay in the caches


class NanoPredictor(NetworkPredictor[NanoNetwork]):
    """The nano network around a fixed pixel budget: resize, predict, compose.

    Args:
        network: in evaluation mode, on the device it shall run on.
        pixels: of the image the network sees; the aspect ratio of the camera is kept to within
            half a stride and the rest is handled exactly by the intrinsics.
    """

    def __init__(self, network: NanoNetwork, pixels: int = PIXELS) -> None:
        super().__init__(network)
        self._pixels = pixels

    @property
    def uses_geometry(self) -> bool:
        """See `NetworkPredictor`."""
        return self.network.layout.planes > 2

    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[Tensor, ...]:
        """The small image [rows, columns, 3] uint8 and its intrinsics [1, 4].

        For networks that use it also the geometry [1, 5] of `NanoNetwork.forward`, zero where it
        is not known.
        """
        arrays = nano_inputs(image, intrinsics, geometry, self._pixels)
        return tuple(map(torch.from_numpy, arrays[: 3 if self.uses_geometry else 2]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The prediction [C, rows, columns] of the network, and the image as floats."""
        small, corner, *geometry = inputs
        rgb = small.permute(2, 0, 1).float() / 255
        dtype = next(self.network.parameters()).dtype
        batch = rgb[None].to(dtype).contiguous(memory_format=torch.channels_last)
        return self.network(batch, corner, *geometry)[0].float(), rgb

    def gaussians(
        self, outputs: Sequence[Tensor], intrinsics: Intrinsics, *, covariances: bool = True
    ) -> Gaussians:
        """See `NetworkPredictor`."""
        out, rgb = outputs
        k = intrinsics.resized(rgb.shape[2], rgb.shape[1])
        return gaussians_from_prediction(out, rgb, k, covariances=covariances)

    def comparable(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Depths, spread, how likely something is there, and factors of correction."""
        prediction, _ = outputs
        logs, none, corrections = prediction.split((NONE, 1, len(prediction) - NONE - 1))
        factors = [corrections.exp()] if len(corrections) else []
        return [*logs.exp(), torch.sigmoid(-none), *factors]


class SharpPredictor(NetworkPredictor[SharpNetwork]):
    """SHARP around its fixed square: squeeze, predict, place in front of the true camera.

    Args:
        network: in evaluation mode, on the device it shall run on.
        patch_batch: how many windows of the image its transformer encodes at a time; fewer need
            less memory. 0 is all of them, on a CPU what its caches hold.
    """

    large = True

    def __init__(self, network: SharpNetwork, patch_batch: int = 0) -> None:
        super().__init__(network)
        chosen = _CPU_BATCH if self.device.type == 'cpu' else network.config.windows
        self.patch_batch = patch_batch or chosen

    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[Tensor, ...]:
        """The image [H, W, 3] uint8, and horizontal focal length over width [1]."""
        # the network knows the horizontal focal length only; `unproject` uses both
        factor = torch.tensor([intrinsics.fx / intrinsics.width])
        return torch.from_numpy(np.require(image, requirements=['C', 'W'])), factor

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors of `NdcGaussians`."""
        pixels, factor = inputs
        square = square_image(pixels, self.network.config.image_size)
        ndc = self.network(square, factor, patch_batch=self.patch_batch)
        return ndc.means, ndc.scales, ndc.quats, ndc.colors, ndc.opacities

    def gaussians(
        self, outputs: Sequence[Tensor], intrinsics: Intrinsics, *, covariances: bool = True
    ) -> Gaussians:
        """See `NetworkPredictor`."""
        ndc = NdcGaussians(*outputs, grid=self.network.config.grid)
        return unproject(ndc, intrinsics, covariances=covariances)

    def cast(self, dtype: torch.dtype) -> None:
        """Bring to a precision what multiplies matrices, in place.

        The transformers add up their tokens in float32: 24 blocks of roundings to eight bits would
        show in the depth.
        """
        for module in self.network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm)):
                module.to(dtype)
        for parameter in self.network.parameters():
            if parameter.dtype != dtype:  # else the few that stay hold on to the mapped checkpoint
                parameter.data = parameter.data.clone()

    def shrink(self) -> bool:
        """Halve the number of windows that are encoded at a time."""
        if self.patch_batch == 1:
            return False
        self.patch_batch = (self.patch_batch + 1) // 2
        return True


def square_image(pixels: Tensor, size: int) -> Tensor:  # [H, W, 3] uint8 -> [1, 3, size, size]
    """The image in 0..1, each axis stretched for itself, as SHARP expects it.

    Centres of corner pixels stay in the corners (`align_corners`), so the image lies up to half a
    pixel off the edge-to-edge grid of the Gaussians. The released weights come with it so.
    """
    image = pixels.permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, size=(size, size), mode='bilinear', align_corners=True)


class SensorPredictor:
    """Lifts a registered depth image to Gaussians: the truthful source of RGB-D robots.

    Args:
        stride: every how many pixels of the depth image a Gaussian is placed.
    """

    def __init__(self, stride: int = 2) -> None:
        self._stride = stride

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`.

        Raises:
            InputError: if the frame came without depth.
        """
        if depth is None:
            raise InputError(
                'model "sensor" needs a registered depth image with every frame; remap the topic '
                '"depth" or choose model.name: nano',
                'no_depth',
            )
        stride = min(self._stride, *depth.shape)
        rows, columns = depth.shape[0] // stride, depth.shape[1] // stride
        used = intrinsics.cropped(0, 0, columns * stride, rows * stride)
        image = image[: used.height, : used.width]
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        z = _block_depth(depth[: used.height, : used.width], stride)
        rgb = torch.from_numpy(small).permute(2, 0, 1).float() / 255
        return gaussians_from_depth(torch.from_numpy(z)[None], rgb, used.resized(columns, rows))


def _block_depth(depth: np.ndarray, stride: int) -> np.ndarray:
    """Depth at the centre of every block of pixels; 0 where it has none.

    Inverse depth is averaged, which is exact on planes, over the nearest surface of the block: a
    mean over an edge would be a surface that does not exist.
    """
    usable = (depth > _PLAUSIBLE[0]) & (depth < _PLAUSIBLE[1])
    with np.errstate(all='ignore'):
        inverse = np.where(usable, 1 / depth, 0).astype(np.float32)
    parts = [inverse[v::stride, u::stride] for v in range(stride) for u in range(stride)]
    least = np.maximum.reduce(parts) * np.float32(1 / SAME_SURFACE_RATIO)
    total, count = np.zeros_like(least), np.zeros_like(least)
    for part in parts:
        same = (part > 0) & (part >= least)
        total += part * same
        count += same
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(count > 0, count / total, np.float32(0))
