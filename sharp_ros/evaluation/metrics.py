"""How far depth, views and paths are from the truth: the metrics of the field, in one place.

Depth counts where there is truth between `MIN_TRUTH` and `MAX_TRUTH` (0, NaN and infinity are no
truth) and a prediction; `coverage` is the share of the true pixels that have one. Views count
where a mask says so. Reports give the mean over frames (and the median of the scale), so that each
frame weighs the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.se3 import angle

MIN_TRUTH, MAX_TRUTH = 0.15, 24.0  # metres
MIN_PIXELS = 100  # with truth and prediction, for a frame to count
_LEAST_STD = 1e-3  # of a log scale; the truth itself is known no better
_SSIM_WINDOW = 7  # pixels, of scikit-image
METRICS = ('abs_rel', 'delta1', 'rmse')


def depth_metrics(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare one depth image with the truth; see the top of this module for the pixels.

    `abs_rel` is the mean of |p - t| / t, `delta1` the share of pixels with max(p / t, t / p) below
    1.25, `rmse` the root of the mean squared difference in metres (Eigen et al., 2014). The same
    names with `_median_scaled` hold after the prediction is multiplied by `scale`, the median of
    t / p.

    Args:
        prediction: [H, W] z-depth in metres; what is not positive and finite is no prediction.
        truth: [H, W] z-depth in metres.

    Returns:
        The six metrics, `scale`, `coverage` and `pixels`.

    Raises:
        InputError: `size_mismatch`, or `no_truth` if fewer than `MIN_PIXELS` can be compared.
    """
    if prediction.shape != truth.shape:
        raise InputError(
            f'prediction {prediction.shape} and truth {truth.shape} differ in size',
            'size_mismatch',
        )
    true = (truth >= MIN_TRUTH) & (truth <= MAX_TRUTH)  # False for NaN
    both = true & np.isfinite(prediction) & (prediction > 0)
    pixels = int(np.count_nonzero(both))
    if pixels < MIN_PIXELS:
        raise InputError(
            f'only {pixels} pixels have true depth of {MIN_TRUTH:g} to {MAX_TRUTH:g} m and a '
            'prediction; check the unit of the truth',
            'no_truth',
        )
    p, t = prediction[both].astype(np.float64), truth[both].astype(np.float64)
    scale = float(np.median(t / p))
    scaled = {f'{name}_median_scaled': value for name, value in _errors(p * scale, t).items()}
    coverage = pixels / int(np.count_nonzero(true))
    return {**_errors(p, t), **scaled, 'scale': scale, 'coverage': coverage, 'pixels': pixels}


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over frames of `depth_metrics`, and the median and spread of the scale.

    Args:
        rows: one result of `depth_metrics` per frame, at least one.

    Returns:
        The six metrics, `coverage`, `scale_median`, and `scale_std`, the standard deviation of
        the logarithm of the scale.
    """
    names = (*METRICS, *(f'{name}_median_scaled' for name in METRICS), 'coverage')
    scales = [row['scale'] for row in rows]
    return {
        **{name: float(np.mean([row[name] for row in rows])) for name in names},
        'scale_median': float(np.median(scales)),
        'scale_std': float(np.std(np.log(scales))),
    }


def scale_metrics(true: np.ndarray, published: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """Whether the stated deviation of the scale of predicted depth is true.

    Args:
        true: [N] scale of each frame, the median of true over predicted depth.
        published: [N] what depth was multiplied by.
        std: [N] stated standard deviation of its logarithm.

    Returns:
        `scale_coverage_2std`, the share of frames whose true scale lies within two stated standard
        deviations, and `scale_worst_std`, the farthest that any lies, in such deviations.
    """
    deviations = scale_deviations(true, published, std)
    return {
        'scale_coverage_2std': float(np.mean(deviations <= 2)),
        'scale_worst_std': float(deviations.max()),
    }


def scale_deviations(true: np.ndarray, published: np.ndarray, std: np.ndarray) -> np.ndarray:
    """How far each true scale is from the published one, in stated deviations; [N] as given."""
    return np.abs(np.log(published / true)) / np.maximum(std, _LEAST_STD)


def uncertainty_metrics(error: np.ndarray, std: np.ndarray) -> dict[str, float | list[float]]:
    """Whether predicted uncertainty says how large errors are, and where.

    A Laplace distribution of standard deviation s has the mean absolute value s / sqrt(2), and
    holds 76 % of its values within s, 94 % within 2 s.

    Args:
        error: [N] logarithm of prediction over truth.
        std: [N] predicted standard deviation of it.

    Returns:
        `expected` and `measured` mean absolute errors, and the same `by_decile` of the
        uncertainty, from the surest tenth on (`expected_by_decile`, `measured_by_decile`);
        `within_1` and `within_2`, the shares of pixels within so many standard deviations;
        `surest_half`, the AbsRel of the surer half of the pixels over that of all (1: it says
        nothing), NaN where there is no error.
    """
    order = np.argsort(std, kind='stable')
    size, expected = np.abs(error[order]), std[order] / math.sqrt(2)
    relative = np.abs(np.expm1(error[order]))
    total = float(relative.mean())
    tenths = np.array_split(np.arange(len(size)), 10)
    return {
        'expected': float(expected.mean()),
        'measured': float(size.mean()),
        'expected_by_decile': [float(expected[tenth].mean()) for tenth in tenths],
        'measured_by_decile': [float(size[tenth].mean()) for tenth in tenths],
        'within_1': float(np.mean(size <= std[order])),
        'within_2': float(np.mean(size <= 2 * std[order])),
        'surest_half': float(relative[: len(relative) // 2].mean()) / total if total else math.nan,
    }


def trajectory_metrics(
    stamps_ns: np.ndarray, estimate: np.ndarray, truth: np.ndarray
) -> dict[str, float | None]:
    """Compare a path of the camera with the truth; their worlds may differ.

    The absolute error is what remains of the positions after the rigid motion that fits the
    estimate to the truth best, `_scaled` after the similarity that does (Umeyama, 1991). The
    relative error compares how the camera moved and turned in one second (Sturm et al., 2012).

    Args:
        stamps_ns: [N] rising.
        estimate: [N, 4, 4] poses of the camera in some world, metres.
        truth: [N, 4, 4] poses in another.

    Returns:
        `path_length_m` of the truth; `ate_rmse_m`, `ate_percent` of the path and
        `ate_rmse_scaled_m`; `rpe_m_per_s` and `rpe_deg_per_s`, root mean squares. None where the
        camera did not move, or no two poses are a second apart.

    Raises:
        InputError: `size_mismatch`, or `no_truth` if there are fewer than three poses.
    """
    if not estimate.shape == truth.shape == (len(stamps_ns), 4, 4):
        raise InputError(
            f'paths {estimate.shape} and {truth.shape} do not fit {len(stamps_ns)} stamps',
            'size_mismatch',
        )
    if len(truth) < 3:
        raise InputError(
            f'only {len(truth)} images have a true and an estimated pose; give a longer recording '
            'with groundtruth.txt',
            'no_truth',
        )
    positions = truth[:, :3, 3]
    length = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    rigid, scaled = (
        _root_mean_square(fitted(estimate[:, :3, 3], positions, scale=scale) - positions)
        for scale in (False, True)
    )
    # stamps jitter, and frames may be missing
    later = np.searchsorted(stamps_ns, stamps_ns + 950_000_000)
    first = np.flatnonzero(later < len(stamps_ns))
    first = first[stamps_ns[later[first]] - stamps_ns[first] <= 1_250_000_000]
    second = later[first]
    seconds = (stamps_ns[second] - stamps_ns[first])[:, None] * 1e-9
    moved, moved_truly = (np.linalg.inv(p[first]) @ p[second] for p in (estimate, truth))
    error = np.linalg.inv(moved_truly) @ moved
    turned = np.degrees(angle(error))[:, None]
    return {
        'path_length_m': length,
        'ate_rmse_m': rigid,
        'ate_percent': 100 * rigid / length if length > 0 else None,
        'ate_rmse_scaled_m': scaled,
        'rpe_m_per_s': _root_mean_square(error[:, :3, 3] / seconds) if len(first) else None,
        'rpe_deg_per_s': _root_mean_square(turned / seconds) if len(first) else None,
    }


def fitted(points: np.ndarray, target: np.ndarray, *, scale: bool = False) -> np.ndarray:
    """Points [N, 3] moved as a whole to where they lie closest to the target [N, 3].

    Umeyama 1991, with the scale held at 1 unless asked for. Pairs in which a number is not finite
    do not count.
    """
    known = np.isfinite(points).all(1) & np.isfinite(target).all(1)
    p_mean, q_mean = points[known].mean(0), target[known].mean(0)
    p, q = points[known] - p_mean, target[known] - q_mean
    u, d, vt = np.linalg.svd(q.T @ p)
    handed = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])  # no reflection
    rotation = (u * handed) @ vt
    spread = float(np.sum(p**2))
    factor = float(d @ handed) / spread if scale and spread > 0 else 1.0
    return factor * (points - p_mean) @ rotation.T + q_mean


def _root_mean_square(errors: np.ndarray) -> float:
    """Of vectors [N, D]."""
    return math.sqrt(float(np.mean(np.sum(errors**2, -1))))


def image_metrics(rendered: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Compare a view with the image a camera took there.

    Outside of the mask the view is replaced by the truth first (`filled`), so that windows that
    reach across its edge see nothing of what is not judged.

    Args:
        rendered: [H, W, 3] sRGB, uint8 or float in 0..1.
        truth: [H, W, 3] sRGB, uint8 or float in 0..1.
        mask: [H, W] bool, the pixels to judge.

    Returns:
        `psnr` in dB over the values of those pixels, infinite if all agree; `ssim`, the mean over
        them of the structural similarity (Wang et al., 2004; windows of 7x7 pixels); `pixels`.

    Raises:
        InputError: `size_mismatch`, or `no_truth` if fewer than `MIN_PIXELS` are to be judged.
        ModuleNotFoundError: if scikit-image is not installed.
    """
    from skimage.metrics import structural_similarity

    if rendered.shape != truth.shape or (*mask.shape, 3) != truth.shape:
        raise InputError(
            f'view {rendered.shape}, truth {truth.shape} and mask {mask.shape} differ in size',
            'size_mismatch',
        )
    pixels = int(np.count_nonzero(mask))
    if pixels < MIN_PIXELS or min(mask.shape) < _SSIM_WINDOW:
        raise InputError(
            f'only {pixels} pixels of {mask.shape[1]}x{mask.shape[0]} can be judged; check scale '
            'and pose of the view',
            'no_truth',
        )
    view, true = filled(rendered, truth, mask), unit_range(truth)
    squared = float(np.mean((view[mask] - true[mask]) ** 2))
    similarity = structural_similarity(
        view, true, win_size=_SSIM_WINDOW, channel_axis=-1, data_range=1, full=True
    )[1]
    return {
        'psnr': -10 * math.log10(squared) if squared > 0 else math.inf,
        'ssim': float(similarity[mask].mean()),
        'pixels': pixels,
    }


def filled(rendered: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The view [H, W, 3] as float64 in 0..1, with the truth wherever the mask is False."""
    return np.where(mask[..., None], unit_range(rendered), unit_range(truth))


def unit_range(image: np.ndarray) -> np.ndarray:
    """An image, uint8 or float in 0..1, as float64 in 0..1."""
    return image / 255 if image.dtype == np.uint8 else image.astype(np.float64)


def _errors(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    return {
        'abs_rel': float(np.mean(np.abs(p - t) / t)),
        'delta1': float(np.mean(np.maximum(p / t, t / p) < 1.25)),
        'rmse': math.sqrt(float(np.mean((p - t) ** 2))),
    }
