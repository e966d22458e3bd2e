"""Structural similarity with gradients, as 3DGS trains with it: a Gaussian window of 11 pixels."""

from __future__ import annotations

from functools import cache
import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_RADIUS, _SIGMA = 5, 1.5  # pixels
_C1, _C2 = 0.01**2, 0.03**2  # of values in 0..1 (Wang et al. 2004)


@cache
def _window() -> np.ndarray:  # -> [11]
    weights = [math.exp(-0.5 * (i / _SIGMA) ** 2) for i in range(-_RADIUS, _RADIUS + 1)]
    return (np.array(weights) / sum(weights)).astype(np.float32)


def blur_reference(images: Tensor) -> Tensor:  # [H, W, C] -> [H, W, C]
    """What `blur` computes, in plain torch: the mean under the window, zeros beyond the edge."""
    kernel = torch.from_numpy(_window()).to(images)
    planes = images.permute(2, 0, 1)[:, None]
    planes = F.conv2d(planes, kernel.view(1, 1, 1, -1), padding=(0, _RADIUS))
    planes = F.conv2d(planes, kernel.view(1, 1, -1, 1), padding=(_RADIUS, 0))
    return planes[:, 0].permute(1, 2, 0)


class _Blur(torch.autograd.Function):
    """By OpenCV on the CPU, ten times as fast as a convolution of torch.

    The window is even and what lies beyond the edge is 0: the operator is its own adjoint.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        del ctx
        return _blurred(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return _blurred(gradients[0])


def _blurred(images: Tensor) -> Tensor:
    array = np.ascontiguousarray(images.detach().numpy())
    out = cv2.sepFilter2D(array, -1, _window(), _window(), borderType=cv2.BORDER_CONSTANT)
    return torch.from_numpy(out.reshape(array.shape))


def blur(images: Tensor) -> Tensor:  # [H, W, C] -> [H, W, C]
    """Images under a Gaussian window; differentiable."""
    if images.device.type == 'cpu' and images.dtype == torch.float32:
        return _Blur.apply(images)  # pyright: ignore[reportReturnType]
    return blur_reference(images)


def ssim(image: Tensor, target: Tensor) -> Tensor:  # [H, W, 3], [H, W, 3] -> []
    """Mean structural similarity of two images in 0..1 (Wang et al. 2004); 1 of equal ones."""
    x, y = image, target
    means = blur(torch.cat((x, y, x * x, y * y, x * y), -1))
    mu_x, mu_y, xx, yy, xy = means.split(x.shape[-1], -1)
    var_x, var_y, covariance = xx - mu_x * mu_x, yy - mu_y * mu_y, xy - mu_x * mu_y
    likeness = (2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)
    return (likeness / ((mu_x**2 + mu_y**2 + _C1) * (var_x + var_y + _C2))).mean()
