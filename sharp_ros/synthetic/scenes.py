"""Little scenes whose depth follows from one formula."""

from __future__ import annotations

import numpy as np

from sharp_ros.camera import Intrinsics


def plane_depth(
    intrinsics: Intrinsics, distance: float, normal: tuple[float, float, float] = (0, 0, -1)
) -> np.ndarray:  # -> [H, W] float32
    """Exact z-depth of an endless plane through (0, 0, `distance`) of the optical frame.

    Args:
        intrinsics: of the image.
        distance: where the optical axis meets the plane, metres.
        normal: of the plane, any length; by default it faces the camera.

    Returns:
        Metres; 0 where a ray does not meet the plane in front of the camera.
    """
    n = np.asarray(normal, np.float64)
    inverse = (intrinsics.rays().astype(np.float64) @ n[:2] + n[2]) / (n[2] * distance)
    depth = np.zeros_like(inverse)
    np.divide(1, inverse, out=depth, where=inverse > 1e-9)
    return depth.astype(np.float32)


def step_edge_depth(intrinsics: Intrinsics, near: float, far: float, column: int) -> np.ndarray:
    """Z-depth [H, W] float32 of a near wall left of `column` and a far wall from there on."""
    depth = plane_depth(intrinsics, far)
    depth[:, :column] = near
    return depth
