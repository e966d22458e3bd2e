"""Compiled inner loop of the alignment of images; `alignment.py` says what it is for."""

from __future__ import annotations

import math

from numba import njit
import numpy as np

NEAREST = 0.02  # metres in front of a camera, from which a point can be seen


@njit(cache=True, nogil=True)
def normal_equations(
    rays: np.ndarray,
    log_depth: np.ndarray,
    shapes: np.ndarray,
    seen: np.ndarray,
    found: np.ndarray,
    T: np.ndarray,
    intrinsics: np.ndarray,
    noise: float,
    spread: float,
    cauchy: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal equations of one step of Gauss-Newton, with the depth of each point eliminated.

    That is done by the Schur complement (Triggs et al., 1999): the depth of a point, the same in
    all images, deviates from what the shapes say by a normal error.

    Args:
        rays: [N, 3] points in the image at hand, z = 1.
        log_depth: [N] of them, metres.
        shapes: [N, m] patterns by which it may be wrong.
        seen: [R, N, 2] where other images show them, pixels.
        found: [R, N] bool, whether they do.
        T: [R, 4, 4] pose of the camera at hand in each of the others.
        intrinsics: [4] fx, fy, cx, cy of all.
        noise: variance of a place, pixels².
        spread: standard deviation of the log depth of a point around the shapes.
        cauchy: squared deviation at which a track counts half.

    Returns:
        Matrix [6R + m, 6R + m], right side [6R + m] and the squared deviation of each track
        [R, N], infinite where there is none. The unknowns are, for each image, a turn about its
        camera (rad) and a shift (metres) that are applied to `T` from the left, then the amounts
        of the shapes.
    """
    images, points = found.shape
    amount = shapes.shape[1]
    first = 6 * images
    size = first + amount
    normal, gradient = np.zeros((size, size)), np.zeros(size)
    deviations = np.full((images, points), np.inf)
    fx, fy, cx, cy = intrinsics
    J = np.zeros((2, size))
    slopes = np.zeros(size)  # J^T W s of a point
    for n in range(points):
        z = math.exp(log_depth[n])
        slopes[:] = 0
        curvature = 1 / spread**2
        pull = 0.0
        for r in range(images):
            if not found[r, n]:
                continue
            ax, ay, az = rays[n, 0] * z, rays[n, 1] * z, rays[n, 2] * z
            a = T[r, 0, 0] * ax + T[r, 0, 1] * ay + T[r, 0, 2] * az
            b = T[r, 1, 0] * ax + T[r, 1, 1] * ay + T[r, 1, 2] * az
            c = T[r, 2, 0] * ax + T[r, 2, 1] * ay + T[r, 2, 2] * az
            X, Y, Z = a + T[r, 0, 3], b + T[r, 1, 3], c + T[r, 2, 3]
            if not Z > NEAREST:
                continue
            u, v = X / Z, Y / Z
            eu, ev = seen[r, n, 0] - (fx * u + cx), seen[r, n, 1] - (fy * v + cy)
            # how the place moves with log depth
            su, sv = fx * (a - u * c) / Z, fy * (b - v * c) / Z
            length2 = su * su + sv * sv
            share = spread**2 / (noise + spread**2 * length2)
            inner = su * eu + sv * ev
            deviation = (eu * eu + ev * ev - share * inner * inner) / noise
            deviations[r, n] = deviation
            weight = 1 / (1 + deviation / cauchy) / noise
            at = 6 * r
            # turns about x, y and z move the point by (0, -c, b), (c, 0, -a), (-b, a, 0)
            J[0, at], J[1, at] = fx * (-u * b) / Z, fy * (-c - v * b) / Z
            J[0, at + 1], J[1, at + 1] = fx * (c + u * a) / Z, fy * (v * a) / Z
            J[0, at + 2], J[1, at + 2] = fx * (-b) / Z, fy * a / Z
            J[0, at + 3], J[1, at + 3] = fx / Z, 0.0
            J[0, at + 4], J[1, at + 4] = 0.0, fy / Z
            J[0, at + 5], J[1, at + 5] = -fx * u / Z, -fy * v / Z
            for k in range(amount):
                J[0, first + k], J[1, first + k] = su * shapes[n, k], sv * shapes[n, k]
            curvature += weight * length2
            pull += weight * inner
            for i in range(6 + amount):
                row = at + i if i < 6 else first + i - 6
                p, q = weight * J[0, row], weight * J[1, row]
                slopes[row] += p * su + q * sv
                gradient[row] += p * eu + q * ev
                for j in range(6 + amount):
                    column = at + j if j < 6 else first + j - 6
                    normal[row, column] += p * J[0, column] + q * J[1, column]
        for i in range(size):
            if slopes[i] != 0:
                share = slopes[i] / curvature
                gradient[i] -= share * pull
                for j in range(size):
                    normal[i, j] -= share * slopes[j]
    return normal, gradient, deviations
