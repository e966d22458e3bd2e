"""Compiled inner loop of the parallax between two views; `parallax.py` says what it is for."""

from __future__ import annotations

import math

import numba
import numpy as np

SMALLEST_INVERSE, LARGEST_INVERSE = 0.1, 20.0  # of the scale by which shapes err


@numba.njit(cache=True, fastmath=False)
def normal_equations(
    rays: np.ndarray,
    seen: np.ndarray,
    shapes: np.ndarray,
    translation: np.ndarray,
    x: np.ndarray,
    noise: float,
    spread: float,
    cauchy: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal equations of one step of Gauss-Newton.

    Args:
        rays: [N, 3] where the points are seen in the keyframe, z = 1.
        seen: [N, 3] points as predicted, turned into the axes of the keyframe.
        shapes: [N, 3] patterns by which log depth may be wrong.
        translation: [3] from the keyframe to the camera.
        x: [10] inverse scale, rotation, correction of the translation, amounts of the patterns.
        noise: variance of a ray.
        spread: standard deviation of the log depth of a point.
        cauchy: squared deviation at which a point counts half.

    Returns:
        Matrix [10, 10], right side [10], and the squared deviation of each point [N]: infinite for
        those behind the keyframe, which do not count.
    """
    count = len(rays)
    normal, gradient = np.zeros((10, 10)), np.zeros(10)
    deviations = np.full(count, np.inf)
    J = np.zeros((2, 10))
    moved = translation + x[4:7]
    limited = min(max(x[0], SMALLEST_INVERSE), LARGEST_INVERSE)
    for n in range(count):
        bend = math.exp(shapes[n, 0] * x[7] + shapes[n, 1] * x[8] + shapes[n, 2] * x[9])
        a, b, c = seen[n, 0] * bend, seen[n, 1] * bend, seen[n, 2] * bend
        X = a + x[2] * c - x[3] * b + x[0] * moved[0]
        Y = b + x[3] * a - x[1] * c + x[0] * moved[1]
        Z = c + x[1] * b - x[2] * a + x[0] * moved[2]
        if not Z > 1e-3:
            continue
        u, v = X / Z, Y / Z
        along_u, along_v = (moved[0] - u * moved[2]) / Z, (moved[1] - v * moved[2]) / Z
        J[0, 0], J[1, 0] = along_u, along_v
        # unit rotations about x, y and z move the point by (0, -c, b), (c, 0, -a), (-b, a, 0)
        J[0, 1], J[1, 1] = -u * b / Z, (-c - v * b) / Z
        J[0, 2], J[1, 2] = (c + u * a) / Z, v * a / Z
        J[0, 3], J[1, 3] = -b / Z, a / Z
        J[0, 4], J[1, 4] = x[0] / Z, 0.0
        J[0, 5], J[1, 5] = 0.0, x[0] / Z
        J[0, 6], J[1, 6] = -u * x[0] / Z, -v * x[0] / Z
        for k in range(3):
            J[0, 7 + k] = -x[0] * along_u * shapes[n, k]
            J[1, 7 + k] = -x[0] * along_v * shapes[n, k]
        # inverse of noise I + s s^T (Sherman and Morrison 1950), s along the epipolar line
        su, sv = spread * limited * along_u, spread * limited * along_v
        down = noise + su * su + sv * sv
        w00, w01, w11 = (
            (1 - su * su / down) / noise,
            -su * sv / down / noise,
            (1 - sv * sv / down) / noise,
        )
        ru, rv = rays[n, 0] - u, rays[n, 1] - v
        deviation = w00 * ru * ru + 2 * w01 * ru * rv + w11 * rv * rv
        deviations[n] = deviation
        robust = 1 / (1 + deviation / cauchy)
        for i in range(10):
            p = robust * (w00 * J[0, i] + w01 * J[1, i])
            q = robust * (w01 * J[0, i] + w11 * J[1, i])
            gradient[i] += p * ru + q * rv
            for j in range(10):
                normal[i, j] += p * J[0, j] + q * J[1, j]
    return normal, gradient, deviations
