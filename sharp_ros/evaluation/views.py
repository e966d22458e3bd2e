"""How good views from elsewhere are, against images taken there.

The Gaussians of one image are rendered where a second camera stood, and compared with what that
camera saw. Next to the model stand what costs nothing (the image unchanged), what needs no
Gaussians (its pixels moved by the depth), and what true depth would give (the upper bound).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharp_ros import se3
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.evaluation.metrics import depth_metrics, filled, image_metrics, unit_range
from sharp_ros.evaluation.view_pairs import ViewPair
from sharp_ros.files import write_atomically
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.pictures.drawing import encode_picture, tile_pictures
from sharp_ros.point_cloud import depth_from_gaussians
from sharp_ros.rasterizer import rasterize

if TYPE_CHECKING:
    from sharp_ros.engine import Engine
    from sharp_ros.gaussians import Gaussians

COVERED = 0.5  # alpha from which a pixel counts as rendered
METRICS = ('psnr', 'ssim', 'feature_distance', 'abs_rel')
ROWS = {  # keys of the report, and their titles where {} is the model
    'model': '{}',
    'model_true_scale': '{}, true scale',
    'model_warped': '{} depth, warped',
    'unchanged': 'image unchanged',
    'true_depth_warped': 'true depth, warped',
    'true_depth': 'true depth',
}
_ERROR_GAIN = 3  # of errors in pictures
_NOT_COVERED = (40, 0, 60)  # RGB in pictures of errors

Features = list[Tensor]


@dataclass(frozen=True)
class PredictedView:
    """What one method says the second camera saw.

    Attributes:
        color: [H, W, 3] float sRGB in 0..1.
        covered: [H, W] bool, where it says anything.
        depth: [H, W] z-depth in metres, or None if it knows none.
    """

    color: np.ndarray
    covered: np.ndarray
    depth: np.ndarray | None = None


# --- views ---------------------------------------------------------------------------------------


def warp(depth: np.ndarray, pair: ViewPair) -> PredictedView:
    """Every pixel of the image of a pair moved to where the second camera sees it.

    It lands on the nearest pixel, the nearest surface wins, and holes stay holes.

    Args:
        depth: [H, W] z-depth of the image in metres; not positive or not finite: nothing to move.
        pair: whose depth and second image are not used.
    """
    k = pair.target_intrinsics
    known = np.isfinite(depth) & (depth > 0)
    z, rays = depth[known].astype(np.float64), pair.intrinsics.rays()[known]
    points = np.concatenate([rays * z[:, None], z[:, None]], -1)
    points = se3.apply(pair.T_target_source, points)
    ahead = points[:, 2] > 0
    points, colors = points[ahead], pair.image[known][ahead]
    z = points[:, 2]
    u, v = np.rint(k.pixels(points)).astype(int).T
    inside = np.flatnonzero(k.contains(u, v))
    order = inside[np.argsort(-z[inside], kind='stable')]  # near pixels are written last
    color = np.zeros((k.height, k.width, 3))
    moved = np.zeros((k.height, k.width), np.float32)
    color[v[order], u[order]] = unit_range(colors[order])
    moved[v[order], u[order]] = z[order]
    return PredictedView(color, moved > 0, moved)


def render(gaussians: Gaussians, pair: ViewPair) -> PredictedView:
    """Gaussians of the first camera of a pair as the second one sees them."""
    rendering = rasterize(gaussians, pair.target_intrinsics, pair.T_target_source)
    color, depth, alpha = (
        t.cpu().numpy() for t in (rendering.color, rendering.depth, rendering.alpha)
    )
    return PredictedView(color, alpha >= COVERED, depth)


def views_of(pair: ViewPair, engine: Engine) -> tuple[dict[str, PredictedView], float]:
    """What each of `ROWS` says the second camera saw, and the scale the model should have had.

    Raises:
        InputError: `no_truth` if the predicted depth cannot be compared with the true one.
    """
    k = pair.intrinsics
    gaussians = engine.predict(pair.image, k, pair.depth)
    depth = depth_from_gaussians(gaussians, k.width, k.height)
    scale = depth_metrics(depth, pair.depth)['scale']
    everywhere = np.ones(pair.target.shape[:2], bool)
    views = {
        'model': render(gaussians, pair),
        'model_true_scale': render(gaussians.scaled(scale), pair),
        'model_warped': warp(depth, pair),
        'unchanged': PredictedView(unit_range(pair.image), everywhere),
        'true_depth_warped': warp(pair.depth, pair),
        'true_depth': render(SensorPredictor(stride=1)(pair.image, k, pair.depth), pair),
    }
    return views, scale


# --- comparison ----------------------------------------------------------------------------------


def imagenet_features() -> Callable[[np.ndarray], Features]:
    """A function from images [H, W, 3] in 0..1 to features at five strides.

    Raises:
        CheckpointError: if the ImageNet weights are not installed.
    """
    from sharp_ros.network.nano import Lite0Encoder
    from sharp_ros.training.trainer import imagenet_weights

    encoder = Lite0Encoder(frozen_blocks=0)
    encoder.load_imagenet(imagenet_weights())

    def features(image: np.ndarray) -> Features:
        rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            taps = encoder(rgb.contiguous(memory_format=torch.channels_last))
        return [F.normalize(tap, dim=1) for tap in taps]

    return features


def feature_distance(a: Features, b: Features, mask: np.ndarray) -> float:
    """How different two images look to a network: 0 for equal ones, 2 for unrelated features.

    The squared distance of unit features of EfficientNet-Lite0, averaged over the mask and then
    over strides 2 to 32: what Zhang et al. (2018) measure, before they learn weights for the
    channels. It is not LPIPS and not to be compared with numbers of LPIPS.

    Args:
        a: of `imagenet_features`.
        b: likewise, of an image of the same size.
        mask: [H, W] bool, the pixels to judge; a feature counts by its share of them.
    """
    weight = torch.from_numpy(mask)[None, None].float()
    distances = []
    for p, q in zip(a, b, strict=True):
        share = F.interpolate(weight, size=p.shape[2:], mode='area')
        squared = (p - q).square().sum(1, keepdim=True)
        distances.append(float((squared * share).sum() / share.sum()))
    return sum(distances) / len(distances)


def evaluate_views(
    pairs: Iterable[ViewPair], engine: Engine, model: str, pictures: Path | None = None
) -> dict[str, Any]:
    """Compare all views of all pairs with what the second cameras saw.

    Args:
        pairs: with depth.
        engine: ready to predict; sensor models are given the true depth as their measurement.
        model: its name, for pictures.
        pictures: folder to save one picture per pair to, or None.

    Returns:
        `feature_distance`: what that is, or why it was `not measured`; and `views` with one entry
        per baseline: `baseline` in metres, `pairs`, `pairs_without_overlap`, `coverage` (mean
        share of the image that all of `ROWS` cover), `scale` (median over pairs of what
        `model_true_scale` is multiplied with) and `rows`. Each row holds `coverage`, and means of
        `METRICS` over the pixels that all rows cover (`common`) and over those that it covers
        itself (`own`); None where something could not be measured.

    Raises:
        InputError: `no_truth` if no pair could be compared.
    """
    try:
        features, note = imagenet_features(), 'EfficientNet-Lite0, ImageNet; not LPIPS'
    except CheckpointError as error:
        features, note = None, f'not measured: {error}'
    judged: dict[float, list[dict[str, Any]]] = {}
    missed: dict[float, int] = {}
    for pair in pairs:
        try:
            views, scale = views_of(pair, engine)
            judgement = {'scale': scale, **_judge(views, pair, features)}
        except InputError as error:
            if error.reason != 'no_truth':
                raise
            missed[pair.baseline] = missed.get(pair.baseline, 0) + 1
            continue
        judged.setdefault(pair.baseline, []).append(judgement)
        if pictures is not None:
            _save_picture(pictures / f'{pair.name}.png', pair, views, judgement, model)
    if not judged:
        raise InputError(
            'no pair has pixels that all methods cover; check the scale of the model', 'no_truth'
        )
    return {
        'feature_distance': note,
        'views': [
            {
                'baseline': baseline,
                'pairs': len(judgements),
                'pairs_without_overlap': missed.get(baseline, 0),
                'coverage': _mean(j['coverage'] for j in judgements),
                'scale': round(float(np.median([j['scale'] for j in judgements])), 4),
                'rows': {key: _summary([j['rows'][key] for j in judgements]) for key in ROWS},
            }
            for baseline, judgements in sorted(judged.items())
        ],
    }


def _judge(
    views: Mapping[str, PredictedView],
    pair: ViewPair,
    features: Callable[[np.ndarray], Features] | None,
) -> dict[str, Any]:
    """`coverage` and `rows` of one pair, as `evaluate_views` returns their means."""
    common = np.logical_and.reduce([view.covered for view in views.values()])
    true_features = features(unit_range(pair.target)) if features else None

    def measured(view: PredictedView, mask: np.ndarray) -> dict[str, float | None]:
        row: dict[str, float | None] = dict.fromkeys(METRICS)
        row.update(image_metrics(view.color, pair.target, mask))
        if features is not None and true_features is not None:
            seen = features(filled(view.color, pair.target, mask))
            row['feature_distance'] = feature_distance(seen, true_features, mask)
        if view.depth is not None and pair.target_depth is not None:
            depth = np.where(mask, view.depth, np.nan)
            row['abs_rel'] = depth_metrics(depth, pair.target_depth)['abs_rel']
        return row

    rows = {
        key: {
            'coverage': float(view.covered.mean()),
            'common': measured(view, common),
            'own': measured(view, view.covered),
        }
        for key, view in views.items()
    }
    return {'coverage': float(common.mean()), 'rows': rows}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row over all pairs."""
    return {
        'coverage': _mean(row['coverage'] for row in rows),
        **{
            pixels: {name: _mean(row[pixels][name] for row in rows) for name in METRICS}
            for pixels in ('common', 'own')
        },
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Rounded; None if one of them is, or is infinite, which JSON cannot say."""
    known = [math.nan if value is None else value for value in values]
    mean = float(np.mean(known))
    return round(mean, 4) if math.isfinite(mean) else None


# --- pictures ------------------------------------------------------------------------------------


def _save_picture(
    path: Path,
    pair: ViewPair,
    views: Mapping[str, PredictedView],
    judgement: Mapping[str, Any],
    model: str,
) -> None:
    """Every view beside its absolute error, after the image and the truth."""
    tiles = {'image': pair.image, f'truth: {pair.name}': pair.target}
    for key, title in ROWS.items():
        view, psnr = views[key], judgement['rows'][key]['common']['psnr']
        error = _bytes(np.abs(view.color - unit_range(pair.target)) * _ERROR_GAIN)
        error[~view.covered] = _NOT_COVERED
        tiles[title.format(model)] = _bytes(view.color)
        tiles[f'{title.format(model)}: error x{_ERROR_GAIN}, {psnr:.1f} dB'] = error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_picture(tile_pictures(tiles, columns=4)))


def _bytes(color: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)
