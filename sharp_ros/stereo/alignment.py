"""Poses of recent images relative to the one at hand, corrected by what both show.

Poses of robots are wrong by a quarter of a degree and a centimetre, which over a short baseline is
as much parallax as the whole scene has. So they are estimated again, in one bundle adjustment
(Triggs et al., 1999) of corners found in several images: given poses are a prior, and so is the
predicted depth, which may be wrong by smooth shapes and by an error of each point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics, project
from sharp_ros.se3 import apply, transform
from sharp_ros.stereo.alignment_kernels import normal_equations
from sharp_ros.tracks import followed, shown

_PIXEL_STD = 0.5  # of a tracked corner
_POINT_STD = 0.2  # of predicted log depth, point by point
_CAUCHY = 6.0  # squared deviation at which a track counts half
_TURN_STD = 0.02  # rad, of a given relative pose
_SHIFT_STD = (0.005, 0.1)  # metres, and share of the baseline
_SCALE_STD, _CONTRAST_STD, _HAT_STD = 0.15, 0.12, 0.1  # of the shapes
_HATS = (4, 3)  # columns and rows
_LEAST_TRACKS = 20
_OFF_LINE_PX = 1.5  # from its epipolar line, up to which a track agrees
_ALONG = 0.5  # log depth by which it may differ along that line
_AGREEING = 0.5  # share of tracks that must, or the image is not used
_WORST = 0.35  # mean correction of log depth, likewise
_SURPRISING = 3.0  # standard deviations by which a pose may be corrected, likewise
_OUTLYING = 25.0  # squared deviation of what does not stand still
_TELLING = 0.6  # share of its variance before that is left of a scale that tracks show
_STEP = 1.1  # of depth along an epipolar line
_ITERATIONS = 5
_SMALL = 3e-4


@dataclass(frozen=True)
class Aligned:
    """What the tracks of corners say.

    Attributes:
        used: numbers of the images that agree, in rising order.
        T: [R, 4, 4] pose of the camera at hand in each of those.
        px: [N, 2] corners that were found in one of those at least.
        outlying: [N] bool, which of them do not fit a scene that stands still.
        log_scale: of the depth as a whole, likewise a correction of its logarithm.
        log_scale_std: of that; the errors of the poses given are in it. Infinite where tracks tell
            no more than was known before: then they would suit any scale.
    """

    used: tuple[int, ...]
    T: np.ndarray
    px: np.ndarray
    outlying: np.ndarray
    log_scale: float
    log_scale_std: float


def align(
    gray: np.ndarray,
    others: Sequence[np.ndarray],
    T_others: np.ndarray,
    px: np.ndarray,
    depth: np.ndarray,
    intrinsics: Intrinsics,
    unseen: Sequence[np.ndarray | None] = (),
) -> Aligned | None:
    """Correct relative poses by what images show.

    Args:
        gray: [H, W] uint8, the image at hand.
        others: images of the same camera.
        T_others: [R, 4, 4] pose of the camera at hand in each of those, as given.
        px: [N, 2] corners of the image at hand.
        depth: [N] of those, metres, as well as it is known.
        intrinsics: of all images.
        unseen: [H, W] bool of the others, pixels in which no corner is looked for; None: none.

    Returns:
        None if no image agrees with its pose, or too few corners are found.
    """
    rays, log_depth = intrinsics.unprojected(px), np.log(depth)
    shapes = error_shapes(px, log_depth - np.median(log_depth), intrinsics)
    seen, found = _tracked(gray, others, T_others, px, rays * depth[:, None], intrinsics)
    for n, mask in enumerate(unseen):
        found[n] &= shown(mask, seen[n])
    kept = np.flatnonzero(found.sum(1) >= _LEAST_TRACKS)
    if not len(kept):
        return None
    seen, found = seen[kept], found[kept]
    T, amounts, covariance, surprise, deviation = _solved(
        rays, log_depth, shapes, seen, found, T_others[kept], intrinsics
    )
    correction = shapes @ amounts
    if np.abs(correction).mean() > _WORST:
        return None
    points = rays * np.exp(log_depth + correction)[:, None]
    agree = [
        surprise[n] < _SURPRISING
        and _agreeing(T[n], points[found[n]], seen[n, found[n]], intrinsics) > _AGREEING
        for n in range(len(kept))
    ]
    if not any(agree):
        return None
    # an image whose pose is wrong says of no corner that it moves
    used = found[agree].any(0)
    worst = np.where(found, deviation, 0)[agree].max(0)[used]
    # of the whole, to which all shapes add; their prior is no observation
    whole = shapes[used].mean(0)
    known = float(whole @ covariance @ whole)
    before = float(whole @ (_shape_std(len(whole)) ** 2 * whole))
    variance = 1 / (1 / known - 1 / before) if known < _TELLING * before else math.inf
    return Aligned(
        tuple(int(k) for k in kept[agree]),
        T[agree],
        px[used],
        worst > _OUTLYING,
        float(whole @ amounts) * (variance / known if math.isfinite(variance) else 1.0),
        math.sqrt(variance),
    )


def error_shapes(
    px: np.ndarray, log_depth: np.ndarray, intrinsics: Intrinsics
) -> np.ndarray:  # -> [N, 14]
    """Smooth ways in which predicted log depth errs: as a whole, with depth, and by 4x3 hats.

    Args:
        px: [N, 2] places in the image.
        log_depth: [N] less its median.
        intrinsics: of the image.
    """
    size = np.array([intrinsics.width, intrinsics.height])
    across, down = ((px + 0.5) / size * (np.array(_HATS) - 1)).T
    hats = [
        np.maximum(0, 1 - np.abs(across - column)) * np.maximum(0, 1 - np.abs(down - row))
        for column in range(_HATS[0])
        for row in range(_HATS[1])
    ]
    return np.stack([np.ones(len(px)), log_depth, *hats], 1)


def _shape_std(count: int) -> np.ndarray:  # -> [count]
    """Standard deviations of the amounts of `error_shapes`."""
    return np.array([_SCALE_STD, _CONTRAST_STD] + [_HAT_STD] * (count - 2))


def _tracked(
    gray: np.ndarray,
    others: Sequence[np.ndarray],
    T_others: np.ndarray,
    px: np.ndarray,
    points: np.ndarray,
    intrinsics: Intrinsics,
) -> tuple[np.ndarray, np.ndarray]:  # [R, N, 2], [R, N] bool
    """Where corners are in other images, looked for where pose and depth have them."""
    seen, found = np.zeros((len(others), len(px), 2)), np.zeros((len(others), len(px)), bool)
    start = px.astype(np.float32)
    for n, other in enumerate(others):
        guess = project(apply(T_others[n], points), intrinsics).astype(np.float32)
        ahead = np.isfinite(guess).all(1)
        seen[n, ahead], found[n, ahead] = followed(gray, other, start[ahead], guess[ahead])
    return seen, found


def _solved(
    rays: np.ndarray,
    log_depth: np.ndarray,
    shapes: np.ndarray,
    seen: np.ndarray,
    found: np.ndarray,
    T_given: np.ndarray,
    intrinsics: Intrinsics,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Newton with Cauchy weights over poses and amounts of the shapes together.

    Returns:
        Poses [R, 4, 4], amounts [14], their covariance, by how many standard deviations poses
        were corrected at most [R], and the squared deviation of each track [R, N].
    """
    first = 6 * len(T_given)
    std = np.empty(first + shapes.shape[1])
    for n, T in enumerate(T_given):
        shift = _SHIFT_STD[0] + _SHIFT_STD[1] * float(np.linalg.norm(T[:3, 3]))
        std[6 * n : 6 * n + 6] = [_TURN_STD] * 3 + [shift] * 3
    std[first:] = _shape_std(shapes.shape[1])
    information = 1 / std**2
    x, T = np.zeros(len(std)), T_given.copy()
    normal, deviation = np.diag(information), np.full(found.shape, np.inf)
    for _ in range(_ITERATIONS):
        normal, gradient, deviation = normal_equations(
            rays,
            log_depth + shapes @ x[first:],
            shapes,
            seen,
            found,
            T,
            intrinsics.parameters,
            _PIXEL_STD**2,
            _POINT_STD,
            _CAUCHY,
        )
        normal += np.diag(information)
        step = np.linalg.solve(normal, gradient - information * x)
        x += step
        for n in range(len(T)):
            turn, shift = step[6 * n : 6 * n + 3], step[6 * n + 3 : 6 * n + 6]
            T[n] = transform(cv2.Rodrigues(turn)[0] @ T[n, :3, :3], T[n, :3, 3] + shift)
        if np.abs(step).max() < _SMALL:
            break
    covariance = np.linalg.inv(normal)[first:, first:]
    surprise = np.abs(x[:first] / std[:first]).reshape(-1, 6).max(1)
    return T, x[first:], covariance, surprise, deviation


def _agreeing(
    T: np.ndarray, points: np.ndarray, seen: np.ndarray, intrinsics: Intrinsics
) -> float:
    """Share of tracks that lie on their epipolar lines, about where their depth has them."""
    here = project(apply(T, points), intrinsics)
    line = project(apply(T, points * _STEP), intrinsics) - here
    length = np.linalg.norm(line, axis=1) + 1e-9
    error = seen - here
    off = np.abs(error[:, 0] * line[:, 1] - error[:, 1] * line[:, 0]) / length
    along = np.abs((error * line).sum(1)) / length**2 * math.log(_STEP)
    return float(np.mean((off < _OFF_LINE_PX) & (along < _ALONG)))
