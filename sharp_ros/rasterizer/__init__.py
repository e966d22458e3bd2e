"""Rendering Gaussians from any viewpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import GaussianBlocks, Gaussians
from sharp_ros.rasterizer.rendering import Rendering
from sharp_ros.tensors import is_tensor

__all__ = ['Rendering', 'backend', 'rasterize']


@cache
def _implementation(device: str, gradients: bool) -> Callable[..., Rendering]:
    """The renderer of a kind of device; numba and gsplat are loaded with the first rendering."""
    if device == 'cpu' and gradients:
        from sharp_ros.rasterizer import gradients as differentiable

        return differentiable.rasterize
    if device == 'cpu':
        from sharp_ros.rasterizer import cpu

        return cpu.rasterize
    if device == 'cuda':
        from sharp_ros.rasterizer import cuda

        return cuda.rasterize
    from sharp_ros.rasterizer import reference

    return reference.rasterize


def backend(device: str) -> str:
    """What renders Gaussians that lie on a device, for people to read.

    Args:
        device: as torch names it. The first call for a CUDA device compiles gsplat, where that has
            not happened on this machine yet, which takes minutes.

    Returns:
        `numba`, `gsplat`, `reference`, or `numba (gsplat: CAUSE)` where gsplat does not work.
    """
    kind = device.partition(':')[0]
    if kind == 'cuda':
        from sharp_ros.rasterizer import cuda

        return cuda.backend(kind)
    return 'numba' if kind == 'cpu' else 'reference'


def asks_for_gradients(gaussians: Gaussians) -> bool:
    """Whether what is made of these Gaussians shall carry gradients; loads no torch."""
    held = [value for value in vars(gaussians).values() if is_tensor(value)]
    if not any(value.requires_grad for value in held):
        return False
    import torch

    return torch.is_grad_enabled()


def rasterize(
    gaussians: Gaussians | GaussianBlocks,
    intrinsics: Intrinsics,
    T_camera_world: np.ndarray | None = None,
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    near: float = 0.05,
    median_depth: bool = False,
) -> Rendering:
    """Render Gaussians as a pinhole camera sees them.

    Gaussians blend front to back in linear RGB and the result is encoded to sRGB, as SHARP was
    trained for. A Gaussian that cannot be drawn (NaN or infinity anywhere, a scale that is not
    positive, a zero quaternion, nearer than `near`, opacity below 1/255, thinner than a millionth
    of a pixel) is left out. Where a tensor of the Gaussians asks for gradients, the result carries
    them, to means, quats, scales, opacities and colors.

    Args:
        gaussians: in any frame, called `world` here; the device of its tensors chooses the
            implementation. Blocks are gone through once.
        intrinsics: of the image to render. Pixel centres lie at integers, as everywhere in this
            package, so the centre of an image is `(W - 1) / 2`. gsplat counts from the corner of
            the image and would be given `cx + 0.5`, `cy + 0.5`.
        T_camera_world: [4, 4] rigid transform that takes points to the optical frame (+z forward,
            +x right, +y down); None for the identity.
        background: linear RGB in 0..1 behind everything.
        near: Gaussians whose mean is less than this many metres in front of the camera are left
            out.
        median_depth: whether to add the depth at which half of the light is gone.

    Returns:
        Colour, depth and coverage, on the device of the Gaussians.

    Raises:
        InputError: if the transform is not a finite [4, 4] matrix, `near` is not positive, the
            background is not three numbers, or the Gaussians are points only.
    """
    T = np.eye(4) if T_camera_world is None else np.asarray(T_camera_world, np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise InputError(f'T_camera_world must be a finite [4, 4] matrix, got {T}', 'bad_pose')
    if not near > 0:
        raise InputError(f'near must be positive metres, got {near}', 'bad_near')
    if len(background) != 3:
        raise InputError(f'background must be linear R, G, B, got {background}', 'bad_background')
    if isinstance(gaussians, GaussianBlocks):
        render = _implementation('cpu', gradients=False)
    else:
        render = _implementation(gaussians.device, asks_for_gradients(gaussians))
    return render(gaussians, intrinsics, T, background, near, median_depth)
