"""Metric scale, from points seen from two poses with a known baseline.

Poses of robots are wrong by a quarter of a degree and a centimetre, which over a short baseline is
as much parallax as the whole scene has. So the relative pose is estimated again, together with the
scale, from where the points are seen (a bundle adjustment of two views, Triggs et al. 1999, whose
points are those of the predicted depth): an error of the rotation shifts near and far points
alike, one of the scale those that are near. What cannot be told apart stays in the variance.
"""

from __future__ import annotations

import math

import numpy as np

from sharp_ros.localization.parallax_kernels import normal_equations

_PIXEL_ERROR = 0.5  # of a tracked point, pixels, per image
_POINT_SPREAD = 0.1  # of the predicted log depth of single points around the whole
_ROTATION_STD = 0.005  # rad, of the relative pose of two images
_TRANSLATION_STD = (0.006, 0.02)  # metres, and share of the baseline
_ITERATIONS = 6
_CAUCHY = 4.0  # squared deviation at which a point counts half
_WILD = 16.0  # squared deviation from which it is no point of the scene that stands still
_MIN_BASELINE = 1e-4  # metres
# what a network gets wrong over a whole image: log depth that tilts from edge to edge, sideways
# and upwards, and is too flat or too deep
_TILT_STD, _CONTRAST_STD = 0.1, 0.25
_INDEPENDENT = 30  # so many points at most: neighbouring depths of a network err alike
_LARGEST = 20.0  # inverse scale


def fit_inverse_scale(
    keyframe_rays: np.ndarray, points: np.ndarray, T_keyframe_camera: np.ndarray, pixel: float
) -> tuple[float, float, np.ndarray] | None:
    """Inverse of the factor of predicted depth, estimated together with the relative pose.

    With predicted points `p` in the current camera and the factor `s`, a point is seen from the
    keyframe in the direction of `R s p + t`, which is that of `R p + t / s`: linear in `1 / s`,
    which is why that is estimated, and why its errors are centred.

    Args:
        keyframe_rays: [N, 3] where the points are seen in the keyframe, z = 1.
        points: [N, 3] predicted, in the optical frame of the current camera.
        T_keyframe_camera: [4, 4] as given, metres.
        pixel: size of one in these rays.

    Returns:
        The inverse scale, its standard deviation, and which points agree with it [N]; None if the
        two poses are one and the same, or most points do not fit any.
    """
    baseline = float(np.linalg.norm(T_keyframe_camera[:3, 3]))
    if baseline < _MIN_BASELINE:
        return None
    prior = np.zeros(10)
    prior[1:4], prior[4:7] = _ROTATION_STD, _TRANSLATION_STD[0] + _TRANSLATION_STD[1] * baseline
    prior[7:9], prior[9] = _TILT_STD, _CONTRAST_STD
    fitted = _fit(keyframe_rays, points, T_keyframe_camera, pixel, prior)
    if fitted is None:
        return None
    # a given pose that is worse than usual shows: then all of it is trusted less
    surprise = np.sum((fitted[0][1:7] / prior[1:7]) ** 2) / 6
    if surprise > 1:
        prior[1:7] *= math.sqrt(surprise)
        fitted = _fit(keyframe_rays, points, T_keyframe_camera, pixel, prior)
        if fitted is None:
            return None
    estimate, covariance, deviation = fitted
    agree = deviation < _WILD
    if np.count_nonzero(agree) < 0.5 * len(points):
        return None
    # larger residuals than supposed are errors of which nothing more is known
    wide = max(1.0, float(np.median(deviation)) / 1.39)
    return float(estimate[0]), math.sqrt(wide * covariance[0, 0]), agree


def _fit(
    rays: np.ndarray,
    points: np.ndarray,
    T_keyframe_camera: np.ndarray,
    pixel: float,
    prior: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Gauss-Newton with Cauchy weights over inverse scale, rotation, translation and shape.

    Returns:
        Corrections [10], their covariance [10, 10], and the squared deviation of each point [N].
    """
    seen = points @ T_keyframe_camera[:3, :3].T
    log_z = np.log(points[:, 2])
    across = points[:, :2] / points[:, 2:]
    across = across / max(float(np.abs(across).max()), 1e-6)
    shapes = np.concatenate([across, (log_z - log_z.mean())[:, None]], 1)  # [N, 3]
    information = np.zeros(10)
    information[1:] = 1 / prior[1:] ** 2
    noise = 2 * (_PIXEL_ERROR * pixel) ** 2
    translation = np.ascontiguousarray(T_keyframe_camera[:3, 3])
    x = np.zeros(10)
    x[0] = 1.0
    normal, deviation = np.diag(information), np.zeros(len(points))
    for _ in range(_ITERATIONS):
        normal, gradient, deviation = normal_equations(
            rays, seen, shapes, translation, x, noise, _POINT_SPREAD, _CAUCHY
        )
        if np.count_nonzero(np.isfinite(deviation)) < 0.5 * len(points):
            return None
        # many points know no more than some that are independent
        share = min(1.0, _INDEPENDENT / max(float(np.sum(1 / (1 + deviation / _CAUCHY))), 1e-9))
        normal = share * normal + np.diag(information)
        try:
            step = np.linalg.solve(normal, share * gradient - information * x)
        except np.linalg.LinAlgError:
            return None
        x += step
        x[0] = min(max(x[0], -_LARGEST), _LARGEST)
        if abs(step[0]) < 1e-3 * abs(x[0]) + 1e-4:
            break
    return x, np.linalg.inv(normal), deviation
