"""Predictors, one image to Gaussians: the role of every model, and the models that play it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
import math
from typing import Generic, Protocol, TypeVar

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
from sharp_ros.network.sharp import SharpNetwork
from sharp_ros.network.unprojection import unproject

_PLAUSIBLE = 1e-3, 1e5  # metres between which a number in a depth image is one
_CPU_BATCH = 5  # windows whose activations stay in the caches

Network_co = TypeVar('Network_co', bound=nn.Module, covariant=True)


class Predictor(Protocol):
    """Image and intrinsics in, Gaussians in the camera's optical frame out."""

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """Predict.

        Args:
            image: [H, W, 3] uint8 RGB, rectified.
            intrinsics: of that image.
            depth: [H, W] float32 registered sensor depth in metres, for models that want it.

        Returns:
            Gaussians in metres with `grid` set, layer 0 being the visible surface.
        """
        ...


class NetworkPredictor(ABC, Generic[Network_co]):
    """A predictor in three steps, of which an engine may recast, compile or capture the second.

    Args:
        network: in evaluation mode, on the device it shall run on.

    Attributes:
        large: whether the network is so large that half precision pays.
        uses_geometry: whether gravity and the height of the camera change what it says.
    """

    large = False
    uses_geometry = False

    def __init__(self, network: Network_co) -> None:
        self.network = network
        self.device = next(network.parameters()).device

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`; sensor depth is ignored."""
        with torch.inference_mode():
            inputs = (tensor.to(self.device) for tensor in self.inputs(image, intrinsics))
            return self.gaussians(self.forward(*inputs), intrinsics)

    @abstractmethod
    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[Tensor, ...]:
        """What `forward` takes, on the CPU; of the same shapes for images of the same shape.

        Args:
            image: see `Predictor`.
            intrinsics: of that image.
            geometry: where the floor is, if that is known; most networks have no use for it.
        """

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network, from tensors to float32 tensors on its device.

        It neither reads a value back nor brings one from the CPU, so that it can be captured.
        """

    @abstractmethod
    def gaussians(
        self, outputs: Sequence[Tensor], intrinsics: Intrinsics, *, covariances: bool = True
    ) -> Gaussians:
        """Gaussians in front of the camera, from what `forward` gave.

        Args:
            outputs: of `forward`.
            intrinsics: of the image.
            covariances: False if only points are needed.
        """

    def comparable(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What of `forward` is compared with float32, each of one kind, see `self_check`."""
        return outputs

    def cast(self, dtype: torch.dtype) -> None:
        """Bring the weights to a precision, in place."""
        self.network.to(dtype)

    def move(self, device: torch.device) -> None:
        """Bring the weights to a device, in place."""
        self.network.to(device)

    def shrink(self) -> bool:
        """Need less memory from now on, at the price of time; False if that is not possible."""
        return False


class NanoPredictor(NetworkPredictor[NanoNetwork]):
    """The nano network around a fixed pixel budget: resize, predict, compose.

    Args:
        network: in evaluation mode, on the device it shall run on.
        pixels: of the image the network sees; the aspect ratio of the camera is kept to within
            half a stride and the rest is handled exactly by the intrinsics.
    """

    def __init__(self, network: NanoNetwork, pixels: int = 256 * 192) -> None:
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
        columns, rows = self._size(intrinsics)
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        k = intrinsics.resized(columns, rows)
        # the network counts pixels from the image corner, `Intrinsics` from pixel centres
        corner = torch.tensor([[k.fx, k.fy, k.cx + 0.5, k.cy + 0.5]])
        inputs = torch.from_numpy(small), corner
        return (*inputs, _geometry_tensor(geometry)) if self.uses_geometry else inputs

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
        """See `NetworkPredictor`; covariances cost nothing here."""
        out, rgb = outputs
        k = intrinsics.resized(rgb.shape[2], rgb.shape[1])
        return gaussians_from_prediction(out, rgb, k)

    def comparable(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Depths, spread, how likely something is there, and factors of correction."""
        prediction, _ = outputs
        logs, none, corrections = prediction.split((NONE, 1, len(prediction) - NONE - 1))
        factors = [corrections.exp()] if len(corrections) else []
        return [*logs.exp(), torch.sigmoid(-none), *factors]

    def _size(self, intrinsics: Intrinsics) -> tuple[int, int]:
        aspect = intrinsics.width / intrinsics.height
        columns = max(1, round((self._pixels * aspect) ** 0.5 / 32)) * 32
        rows = max(1, round((self._pixels / aspect) ** 0.5 / 32)) * 32
        return columns, rows


def _geometry_tensor(geometry: FloorGeometry | None) -> Tensor:  # -> [1, 5]
    """As `NanoNetwork.forward` wants it."""
    if geometry is None:
        return torch.zeros(1, 5)
    up = geometry.up / np.linalg.norm(geometry.up)
    return torch.tensor([[*up, math.log(geometry.height), 1.0]], dtype=torch.float32)


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
