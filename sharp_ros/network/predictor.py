"""What turns one image into Gaussians: the role every model plays, and the models that do."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.network.composer import gaussians_from_depth, unproject
from sharp_ros.network.nano import NanoNetwork
from sharp_ros.network.sharp import SharpNetwork


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


class NanoPredictor:
    """The nano network around a fixed pixel budget: resize, predict, compose.

    Args:
        network: in evaluation mode, on the device it shall run on.
        pixels: of the image the network sees; the aspect ratio of the camera is kept to within
            half a stride and the rest is handled exactly by the intrinsics.
    """

    def __init__(self, network: NanoNetwork, pixels: int = 256 * 192) -> None:
        self._network = network
        self._pixels = pixels
        self._device = next(network.parameters()).device

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`; sensor depth is ignored."""
        columns, rows = self._size(intrinsics)
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        rgb = torch.from_numpy(small).to(self._device).permute(2, 0, 1).float() / 255
        k = intrinsics.resized(columns, rows)
        # the network counts pixels from the image corner, `Intrinsics` from pixel centres
        corner = torch.tensor([[k.fx, k.fy, k.cx + 0.5, k.cy + 0.5]], device=self._device)
        with torch.inference_mode():
            out = self._network(rgb[None].contiguous(memory_format=torch.channels_last), corner)
            depth_layers = out[0, :2].exp()
            # a Laplace distribution of scale b has standard deviation sqrt(2) b
            log_depth_std = out[0, 2].exp() * 2**0.5
            return gaussians_from_depth(depth_layers, rgb, k, log_depth_std)

    def _size(self, intrinsics: Intrinsics) -> tuple[int, int]:
        aspect = intrinsics.width / intrinsics.height
        columns = max(1, round((self._pixels * aspect) ** 0.5 / 32)) * 32
        rows = max(1, round((self._pixels / aspect) ** 0.5 / 32)) * 32
        return columns, rows


class SharpPredictor:
    """SHARP around its fixed square: squeeze, predict, place in front of the true camera.

    Args:
        network: in evaluation mode, on the device it shall run on.
        patch_batch: how many windows of the image its transformer encodes at a time; fewer need
            less memory. None is all 35.
    """

    def __init__(self, network: SharpNetwork, patch_batch: int | None = None) -> None:
        self._network = network
        self._patch_batch = patch_batch
        self._device = next(network.parameters()).device

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`; sensor depth is ignored."""
        pixels = torch.from_numpy(image.copy()).to(self._device)
        with torch.inference_mode():
            square = square_image(pixels, self._network.config.image_size)
            # the network knows the horizontal focal length only; `unproject` uses both
            factor = torch.tensor([intrinsics.fx / intrinsics.width], device=self._device)
            ndc = self._network(square, factor, patch_batch=self._patch_batch)
            return unproject(ndc, intrinsics)


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
        columns, rows = intrinsics.width // self._stride, intrinsics.height // self._stride
        columns, rows = max(columns, 1), max(rows, 1)
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        # nearest: a mean over a depth edge is a surface that does not exist
        z = cv2.resize(depth, (columns, rows), interpolation=cv2.INTER_NEAREST)
        rgb = torch.from_numpy(small).permute(2, 0, 1).float() / 255
        return gaussians_from_depth(
            torch.from_numpy(z)[None], rgb, intrinsics.resized(columns, rows)
        )
