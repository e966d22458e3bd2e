"""Pose of a camera from features whose depth is known more or less, and what becomes of errors."""

from __future__ import annotations

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.se3 import transform

_SIGMA_PX = 0.5  # of a tracked feature
_ALIKE = 3.0  # so many neighbouring features err alike and count as one in the covariance
_AGREEING = 0.4  # share of the tracked features that must support a pose
_STEPS = 6  # at most, of Gauss-Newton
_OUTLIER_CHI2 = 9.2  # 99 % of two degrees of freedom


def ransac(
    points: np.ndarray, px: np.ndarray, intrinsics: Intrinsics, gate: float, min_inliers: int
) -> np.ndarray | None:
    """Pose that most of the points and their images agree on.

    Args:
        points: [N, 3] metres.
        px: [N, 2] where the camera sees them.
        intrinsics: of that image.
        gate: distance from its image up to which a point agrees, pixels.
        min_inliers: so many must agree.

    Returns:
        `T_camera_points` [4, 4], or None.
    """
    cv2.setRNGSeed(0)
    ok, rvec, tvec, inliers = cv2.solvePnPRansac(
        points,
        px.astype(np.float64),
        intrinsics.matrix,
        None,
        iterationsCount=200,
        reprojectionError=gate,
        confidence=0.999,
        flags=cv2.SOLVEPNP_AP3P,
    )
    if not ok or inliers is None or len(inliers) < min_inliers:
        return None
    agreeing = inliers[:, 0].astype(np.intp)
    rvec, tvec = cv2.solvePnPRefineLM(
        points[agreeing],
        px[agreeing].astype(np.float64),
        intrinsics.matrix,
        None,
        rvec,
        tvec,
    )
    return transform(cv2.Rodrigues(rvec)[0], tvec[:, 0])


def refined(
    T: np.ndarray,
    features: tuple[np.ndarray, np.ndarray, np.ndarray],
    px: np.ndarray,
    intrinsics: Intrinsics,
    min_inliers: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Most likely pose, given how uncertain each feature's depth is.

    Depth moves a feature along its epipolar line g only, so its image has the covariance
    S = sigma² I + var g g'; S is inverted by Sherman and Morrison's formula. Gauss-Newton
    with Cauchy weights.

    Args:
        T: `T_camera_keyframe` [4, 4] to begin with.
        features: of the keyframe: places [N, 2], inverse depth [N] in 1/m and its variance [N].
        px: [N, 2] where the camera sees them.
        intrinsics: of both images.
        min_inliers: so many must agree.

    Returns:
        `T_camera_keyframe` [4, 4], the covariance [6, 6] of the camera's position and rotation in
        keyframe axes, m² and rad², and which features agree [N]; or None.
    """
    source, rho, variance = features
    steps = 0
    while True:
        steps += 1
        expected, q = project(T, source, rho, intrinsics)
        D = image_jacobian(q, intrinsics)
        J = np.concatenate([D * rho[:, None, None], -D @ cross(q)], 2)  # [n, 2, 6]
        residual = px - expected
        g = D @ T[:3, 3]
        k = variance / (_SIGMA_PX**2 + variance * (g * g).sum(1))
        along = (g * residual).sum(1)
        chi2 = ((residual**2).sum(1) - k * along**2) / _SIGMA_PX**2
        weight = 1 / (1 + chi2 / _OUTLIER_CHI2) / _SIGMA_PX**2
        Jg = np.einsum('nij,ni->nj', J, g)
        H = np.einsum('n,nij,nik->jk', weight, J, J) - (Jg.T * (weight * k)) @ Jg
        b = np.einsum('n,nij,ni->j', weight, J, residual) - Jg.T @ (weight * k * along)
        step = np.linalg.solve(H + 1e-9 * np.diag(np.diag(H)), b)
        T = transform(cv2.Rodrigues(step[3:])[0], step[:3]) @ T
        if steps == _STEPS or np.abs(step).max() < 1e-6:
            break
    good = chi2 < _OUTLIER_CHI2
    count = int(good.sum())
    if count < max(min_inliers, _AGREEING * len(good)):
        return None
    # The more the residuals exceed the model, and the fewer features, the less it is trusted.
    excess = max(1.0, float(chi2[good].mean()) / 2) * (1 + min_inliers / count)
    excess *= _ALIKE
    turn = np.kron(np.eye(2), -T[:3, :3].T)  # a step of the world, as one of the camera
    covariance = turn @ np.linalg.inv(H) @ turn.T * excess
    return T, covariance, good


def project(
    T_camera_keyframe: np.ndarray, px: np.ndarray, rho: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Where features of a keyframe appear: pixels [N, 2], and the points times rho [N, 3].

    Their places `px` [N, 2] and inverse depth `rho` [N] are those in the keyframe.
    """
    T = T_camera_keyframe
    q = intrinsics.unprojected(px) @ T[:3, :3].T + rho[:, None] * T[:3, 3]
    return intrinsics.pixels(q), q


def image_jacobian(q: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # [N, 3] -> [N, 2, 3]
    """How the image of q moves with q, pixels."""
    k = intrinsics
    jacobian = np.zeros((len(q), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 1, 1] = k.fx / q[:, 2], k.fy / q[:, 2]
    jacobian[:, :, 2] = -q[:, :2] / q[:, 2:] ** 2 * (k.fx, k.fy)
    return jacobian


def cross(v: np.ndarray) -> np.ndarray:  # [..., 3] -> [..., 3, 3]
    """Matrices whose product with w is v x w."""
    out = np.zeros((*v.shape[:-1], 3, 3))
    out[..., 2, 1], out[..., 0, 2], out[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    return out - np.swapaxes(out, -1, -2)
