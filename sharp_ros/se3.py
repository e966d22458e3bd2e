"""Rigid transforms, wxyz quaternions and a time-stamped pose buffer; float64.

`T_a_b` is a [..., 4, 4] matrix that takes points from frame `b` to frame `a`. Quaternions are
unit, ordered w, x, y, z. Every function broadcasts over leading batch axes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import numpy as np

from sharp_ros.errors import InputError, PoseUnavailableError

# Of a pose that a map can be built on.
ROTATION_TOLERANCE = 1e-3  # largest deviation of R^T R from the identity
MAX_DISTANCE = 1e8  # metres from the origin; beyond, float64 no longer resolves a voxel
_ROW_TOLERANCE = 1e-6  # largest deviation of the last row from 0 0 0 1


def matrix_from_quat(quat: np.ndarray) -> np.ndarray:  # [..., 4] -> [..., 3, 3]
    """Rotation matrices of wxyz quaternions, which need not be normalised.

    Raises:
        InputError: if a quaternion is zero or not finite.
    """
    quat = np.asarray(quat, np.float64)
    norm = np.linalg.norm(quat, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norm)) or np.any(norm < 1e-9):
        raise InputError('quaternion is zero or not finite; give a unit one', 'bad_pose')
    w, x, y, z = np.moveaxis(quat / norm, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quat_from_matrix(rotation: np.ndarray) -> np.ndarray:  # [..., 3, 3] -> [..., 4]
    """Unit wxyz quaternions with w >= 0 (largest eigenvector, Bar-Itzhack 2000)."""
    r = np.asarray(rotation, np.float64)
    k = np.empty((*r.shape[:-2], 4, 4))
    k[..., 0, 0] = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    k[..., 1, 1] = r[..., 0, 0] - r[..., 1, 1] - r[..., 2, 2]
    k[..., 2, 2] = r[..., 1, 1] - r[..., 0, 0] - r[..., 2, 2]
    k[..., 3, 3] = r[..., 2, 2] - r[..., 0, 0] - r[..., 1, 1]
    k[..., 1, 0] = r[..., 2, 1] - r[..., 1, 2]
    k[..., 2, 0] = r[..., 0, 2] - r[..., 2, 0]
    k[..., 3, 0] = r[..., 1, 0] - r[..., 0, 1]
    k[..., 2, 1] = r[..., 1, 0] + r[..., 0, 1]
    k[..., 3, 1] = r[..., 0, 2] + r[..., 2, 0]
    k[..., 3, 2] = r[..., 2, 1] + r[..., 1, 2]
    quat = np.linalg.eigh(k)[1][..., -1]  # eigh reads the lower triangle only
    return np.where(quat[..., :1] < 0, -quat, quat)


def transform(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """[..., 3, 3] and [..., 3] -> [..., 4, 4]."""
    rotation, translation = np.asarray(rotation, np.float64), np.asarray(translation, np.float64)
    batch = np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    out = np.zeros((*batch, 4, 4))
    out[..., :3, :3] = rotation
    out[..., :3, 3] = translation
    out[..., 3, 3] = 1
    return out


def inverse(T_a_b: np.ndarray) -> np.ndarray:  # [..., 4, 4] -> [..., 4, 4]
    """`T_b_a` of `T_a_b`, using that the rotation is orthonormal."""
    rotation = np.swapaxes(T_a_b[..., :3, :3], -1, -2)
    return transform(rotation, -(rotation @ T_a_b[..., :3, 3:])[..., 0])


def apply(T_a_b: np.ndarray, points: np.ndarray) -> np.ndarray:  # [4, 4], [..., 3] -> [..., 3]
    """Points of frame `b` expressed in frame `a`."""
    return points @ T_a_b[:3, :3].T + T_a_b[:3, 3]


def angle(T: np.ndarray) -> np.ndarray:  # [..., 3, 3] or [..., 4, 4] -> [...]
    """By how much transforms or rotations turn, radians in 0..pi."""
    return angle_of_trace(np.trace(T[..., :3, :3], axis1=-2, axis2=-1))


def angle_of_trace(trace: np.ndarray) -> np.ndarray:  # [...] -> [...]
    """By how much rotations of these traces turn, radians in 0..pi."""
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def is_rotation(matrix: np.ndarray) -> np.ndarray:  # [..., 3, 3] -> [...] bool
    """Whether matrices are orthonormal within `ROTATION_TOLERANCE` and no reflections."""
    with np.errstate(over='ignore', invalid='ignore'):
        off = np.abs(np.swapaxes(matrix, -1, -2) @ matrix - np.eye(3))
        return (off <= ROTATION_TOLERANCE).all((-2, -1)) & (np.linalg.det(matrix) > 0)


def is_near(position: np.ndarray) -> np.bool_ | np.ndarray:  # [..., 3] -> [...] bool
    """Whether positions are within `MAX_DISTANCE` of the origin along every axis."""
    return (np.abs(position) <= MAX_DISTANCE).all(-1)


def is_pose(matrix: np.ndarray) -> np.bool_ | np.ndarray:  # [..., 4, 4] -> [...] bool
    """Whether matrices are rigid transforms: `is_rotation`, `is_near`, and 0 0 0 1 below."""
    row = (np.abs(matrix[..., 3, :] - np.array([0, 0, 0, 1])) <= _ROW_TOLERANCE).all(-1)
    return is_rotation(matrix[..., :3, :3]) & is_near(matrix[..., :3, 3]) & row


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:  # -> [4, 4]
    """Pose of an optical frame (+z forward, +y down) at `eye` that sees `target` in its centre.

    Args:
        eye: [3] position in the parent frame, metres.
        target: [3] point to look at.
        up: [3] direction that appears upwards in the image.

    Raises:
        InputError: if `target` equals `eye`, or `up` is parallel to the line of sight.
    """
    forward = np.asarray(target, np.float64) - np.asarray(eye, np.float64)
    right = np.cross(forward, np.asarray(up, np.float64))
    if np.linalg.norm(forward) < 1e-9 or np.linalg.norm(right) < 1e-9:
        raise InputError('look_at needs target != eye and an up direction off the line of sight')
    forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    return transform(np.stack([right, np.cross(forward, right), forward], -1), eye)


def checked_pose(T_world_camera: np.ndarray) -> np.ndarray:  # [4, 4] -> [4, 4] float64
    """A pose from outside that a map can be built on.

    Raises:
        InputError: `bad_pose` if it is not finite, not rigid, or farther off than float64 can
            resolve a voxel.
    """
    pose = np.asarray(T_world_camera, np.float64)
    if pose.shape != (4, 4) or not np.all(np.isfinite(pose)):
        raise InputError(
            'the camera pose must be a finite 4x4 matrix; check the odometry source', 'bad_pose'
        )
    if not is_rotation(pose[:3, :3]):
        raise InputError(
            'the rotation of the camera pose is not orthonormal; normalise quaternions', 'bad_pose'
        )
    if not is_near(pose[:3, 3]):
        raise InputError('the camera pose is unreasonably far from its origin', 'bad_pose')
    return pose


def moved_pose(
    T_world_a: np.ndarray, covariance: np.ndarray, T_a_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # [4, 4], [6, 6], [4, 4] -> [4, 4], [6, 6]
    """Pose of `b`, which is fixed to `a`, and its covariance.

    Args:
        T_world_a: pose of `a`.
        covariance: of its position and of the rotation about the axes of the world.
        T_a_b: exact.
    """
    T_world_b = T_world_a @ T_a_b
    x, y, z = T_world_b[:3, 3] - T_world_a[:3, 3]
    jacobian = np.eye(6)  # a turn of the lever moves its end: d p_b = d p_a + d theta x lever
    jacobian[:3, 3:] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    return T_world_b, jacobian @ covariance @ jacobian.T


def rotation_vector(rotation: np.ndarray) -> np.ndarray:  # [3, 3] -> [3]
    """Axis times angle, radians (Rodrigues)."""
    import cv2  # late, since help texts need this module, too

    return cv2.Rodrigues(rotation)[0][:, 0]


def interpolate(T_0: np.ndarray, T_1: np.ndarray, alpha: float) -> np.ndarray:
    """Pose between two [4, 4] poses, or beyond: even on a line, and about one axis (Rodrigues).

    That is linear in translation and slerp in rotation (Shoemake, 1985); turns of less than 1e-5
    rad count as none. Its rotation is orthonormal also where theirs are only nearly so.
    """
    import cv2

    left, _, right = np.linalg.svd(T_0[:3, :3])
    start = left @ right
    turn = rotation_vector(start.T @ T_1[:3, :3])
    rotation = start @ cv2.Rodrigues(alpha * turn)[0]
    return transform(rotation, T_0[:3, 3] + alpha * (T_1[:3, 3] - T_0[:3, 3]))


class PoseBuffer:
    """The last few stamped poses of one frame in another, looked up by time.

    Args:
        duration: how much history is kept, seconds.
        max_gap: longest interval that is interpolated over, seconds.
        tolerance: how far before the first or after the last sample a stamp may lie, seconds.
    """

    def __init__(self, duration: float, max_gap: float, tolerance: float) -> None:
        self._duration_ns = int(duration * 1e9)
        self._max_gap_ns = int(max_gap * 1e9)
        self._tolerance_ns = int(tolerance * 1e9)
        self._stamps: deque[int] = deque()
        self._poses: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        return len(self._stamps)

    def clear(self) -> None:
        """Forget everything, for example when time jumped back."""
        self._stamps.clear()
        self._poses.clear()

    def add(self, stamp_ns: int, T_a_b: np.ndarray) -> bool:
        """Append a pose, or replace the newest by one of the same stamp.

        Returns:
            False when time went back, which empties the buffer first.
        """
        forward = not self._stamps or stamp_ns >= self._stamps[-1]
        if not forward:
            self.clear()
        elif stamp_ns == self.newest_ns:
            self._stamps.pop()
            self._poses.pop()
        self._stamps.append(stamp_ns)
        self._poses.append(T_a_b)
        while self._stamps[-1] - self._stamps[0] > self._duration_ns:
            self._stamps.popleft()
            self._poses.popleft()
        return forward

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest pose, or None if there is none."""
        return self._stamps[-1] if self._stamps else None

    def lookup(self, stamp_ns: int) -> np.ndarray:  # -> [4, 4]
        """Pose at a stamp.

        Raises:
            PoseUnavailableError: with reason `no_pose_yet`, `pose_too_old`, `pose_too_new` or
                `pose_gap`.
        """
        if not self._stamps:
            raise PoseUnavailableError('no pose received yet', 'no_pose_yet')
        i = bisect_left(self._stamps, stamp_ns)
        if i == len(self._stamps):
            age = stamp_ns - self._stamps[-1]
            if age > self._tolerance_ns:
                raise PoseUnavailableError(
                    f'newest pose is {age / 1e9:.3f} s older than the image', 'pose_too_old'
                )
            return self._poses[-1]
        if self._stamps[i] == stamp_ns:
            return self._poses[i]
        if i == 0:
            early = self._stamps[0] - stamp_ns
            if early > self._tolerance_ns:
                raise PoseUnavailableError(
                    f'oldest pose is {early / 1e9:.3f} s newer than the image', 'pose_too_new'
                )
            return self._poses[0]
        gap = self._stamps[i] - self._stamps[i - 1]
        if gap > self._max_gap_ns:
            raise PoseUnavailableError(
                f'image lies in a gap of {gap / 1e9:.3f} s between poses', 'pose_gap'
            )
        alpha = (stamp_ns - self._stamps[i - 1]) / gap
        return interpolate(self._poses[i - 1], self._poses[i], alpha)
