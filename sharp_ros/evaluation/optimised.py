"""Views of a scene over time: one image at once, the fused map, minutes of optimisation.

Every eighth image of a posed sequence is held out, and rendered from Gaussians of the others: of
one image, the held-out one's neighbour; of all images fused into a map; of that map fitted to the
images it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import math
import time
from typing import Any, TYPE_CHECKING

import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import GaussianMapConfig, PointCloudConfig
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.evaluation.circumstances import rss_mb
from sharp_ros.evaluation.metrics import filled, image_metrics, unit_range
from sharp_ros.evaluation.views import COVERED, feature_distance, Features, imagenet_features
from sharp_ros.gaussians import Gaussians
from sharp_ros.mapping.gaussian_map import GaussianMap
from sharp_ros.optimise import Optimiser, View
from sharp_ros.pictures.curves import draw_curves
from sharp_ros.point_cloud import clean_depth, depth_from_gaussians
from sharp_ros.rasterizer import rasterize, reference, Rendering

if TYPE_CHECKING:
    from sharp_ros.engine import Engine

_HOLD_OUT = 8  # every so many-th image
_LEAST = 2 * _HOLD_OUT  # images of a sequence
_METRICS = ('psnr', 'ssim')
_MARKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the time of an optimisation
_ROUNDS, _STEPS = 3, 5  # of the comparison of speed; steps of the fast loop in a round
_SPEED_WIDTH = 320  # pixels, at most, of images for that


def views_of_frames(frames: Iterable[Frame]) -> Iterator[View]:
    """Images whose pose is known."""
    for frame in frames:
        if frame.T_world_camera is not None:
            yield View(frame.image, frame.intrinsics, frame.T_world_camera, frame.unseen)


def held_out(count: int, every: int = _HOLD_OUT) -> np.ndarray:  # -> [count] bool
    """Which of so many images are held out."""
    return np.arange(count) % every == every // 2


def rendered_metrics(gaussians: Gaussians, views: Sequence[View]) -> dict[str, Any]:
    """Means of `psnr` and `ssim` over views, at least one, and over all they show."""
    rows = []
    for view in views:
        seen = _seen(view)
        rows.append(image_metrics(_rendered(gaussians, view).arrays.color, view.image, seen))
    return _means(rows)


def _rendered(gaussians: Gaussians, view: View) -> Rendering:
    return rasterize(gaussians, view.intrinsics, se3.inverse(view.T_world_camera))


def _seen(view: View) -> np.ndarray:  # -> [H, W] bool
    return np.ones(view.image.shape[:2], bool) if view.unseen is None else ~view.unseen


def _means(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    names = [name for name in (*_METRICS, 'feature_distance') if name in rows[0]]
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}


def _features() -> tuple[Callable[[np.ndarray], Features] | None, str]:
    try:
        return imagenet_features(), 'EfficientNet-Lite0, ImageNet; not LPIPS'
    except CheckpointError as error:
        return None, f'not measured: {error}'


class _Judge:
    """Renders held-out views and compares them, on all pixels and on those that all cover.

    The latter are those that both the instant Gaussians and the final map cover.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._extract, self.note = _features()
        self._true = [self._extract(unit_range(v.image)) for v in views] if self._extract else []
        self._common = [_seen(view) for view in views]

    def limit(self, gaussians: Sequence[Gaussians]) -> None:
        """Leave out of `common` what these do not cover; one for all views, or one for each."""
        each = gaussians if len(gaussians) > 1 else list(gaussians) * len(self._views)
        for i, (of_view, view) in enumerate(zip(each, self._views, strict=True)):
            self._common[i] &= _rendered(of_view, view).arrays.alpha >= COVERED

    def point(
        self, gaussians: Sequence[Gaussians], seconds: float, **about: Any
    ) -> dict[str, Any]:
        """One point of a curve; Gaussians as for `limit`."""
        each = gaussians if len(gaussians) > 1 else list(gaussians) * len(self._views)
        rows: dict[str, list[dict[str, float]]] = {'all': [], 'common': []}
        for i, (of_view, view) in enumerate(zip(each, self._views, strict=True)):
            color = _rendered(of_view, view).arrays.color
            for name, mask in (('all', _seen(view)), ('common', self._common[i])):
                row = image_metrics(color, view.image, mask)
                if self._extract is not None:
                    seen = self._extract(filled(color, view.image, mask))
                    row['feature_distance'] = feature_distance(seen, self._true[i], mask)
                rows[name].append(row)
        count = round(float(np.mean([len(g) for g in gaussians])))
        return {
            'seconds': round(seconds, 4),
            **about,
            'gaussians': count,
            'rss_mb': round(rss_mb()),
            **{name: _means(each_row) for name, each_row in rows.items()},
        }


def evaluate_optimised(
    frames: Iterable[Frame],
    engine: Engine,
    seconds: float,
    device: str,
    watched: Callable[[Iterable[int]], Iterable[int]] = iter,
    *,
    compare_speed: bool = True,
) -> dict[str, Any]:
    """The three ways to views over one posed sequence.

    Args:
        frames: those without pose are left out; with depth where the model wants it.
        engine: ready to predict.
        seconds: of the optimisation.
        device: of torch, for the optimisation.
        watched: applied to the percent of it, to show them.
        compare_speed: whether to run the loop with the reference renderer, too, which is slow.

    Returns:
        `images` and `held_out`, how many; `feature_distance`, what that is; `first_view`, seconds
        from an image to a view of it; `instant`, a point; `fused`, points after 1, 2, 4, ...
        images; `optimised`, points; and `speed`. A point holds `seconds` of work so far (of
        optimised ones, with that of the map), `gaussians`, `rss_mb` of this process, and means
        over views held out in `all` and `common` pixels.

    Raises:
        InputError: `no_views` for fewer images with poses than 16.
    """
    posed = [frame for frame in frames if frame.T_world_camera is not None]
    if len(posed) < _LEAST:
        raise InputError(
            f'only {len(posed)} images have a pose, {_LEAST} are needed; give a longer recording '
            'with poses',
            'no_views',
        )
    out = held_out(len(posed))
    views = list(views_of_frames(posed))
    judge = _Judge([view for view, held in zip(views, out, strict=True) if held])
    fitted = [view for view, held in zip(views, out, strict=True) if not held]
    engine.warm_up(posed[0].intrinsics)
    # what is compiled on first use
    _integrate(GaussianMap(GaussianMapConfig(enabled=True)), engine, posed[0])
    rasterize(_predicted(engine, posed[0]), views[0].intrinsics)

    times, instant = [], []
    for i in np.flatnonzero(out):
        begin = time.perf_counter()
        near = posed[i - 1]
        T = near.T_world_camera
        assert T is not None
        instant.append(_predicted(engine, near).transformed(T))
        _rendered(instant[-1], views[i])
        times.append(time.perf_counter() - begin)
    fused, points, spent = GaussianMap(GaussianMapConfig(enabled=True)), [], 0.0
    marks = []
    for n, frame in enumerate((f for f, held in zip(posed, out, strict=True) if not held), 1):
        begin = time.perf_counter()
        _integrate(fused, engine, frame)
        spent += time.perf_counter() - begin
        if n.bit_count() == 1 or n == len(fitted):
            marks.append((n, spent, fused.gaussians()))
    whole = marks[-1][2]
    judge.limit(instant)
    judge.limit([whole])
    report = {
        'images': len(posed),
        'held_out': int(out.sum()),
        'size': [posed[0].intrinsics.width, posed[0].intrinsics.height],
        'feature_distance': judge.note,
        'first_view': round(float(np.median(times)), 4),
        'instant': judge.point(instant, float(np.median(times)), images=1),
        'fused': [judge.point([g], t, images=n) for n, t, g in marks],
    }
    Optimiser(whole, fitted[:1], device=device).step(0.0)  # likewise, the way back
    optimiser = Optimiser(whole, fitted, device=device)
    for share in watched(_stages(optimiser, seconds)):
        at = spent + seconds * share / 100
        points.append(judge.point([optimiser.gaussians], at, iterations=optimiser.iterations))
    report['optimised'] = points
    if compare_speed:
        report['speed'] = _speed(whole, fitted, device)
    return report


def curve_of_run(run: Mapping[str, Any]) -> np.ndarray:  # -> [H, W, 3] uint8 RGB
    """PSNR of the pixels that all cover over seconds of work, of what `evaluate_optimised` gives.

    One image is drawn from its time to the end, since more time makes it no better.
    """
    fused, optimised = (
        [(point['seconds'], point['common']['psnr']) for point in run[name]]
        for name in ('fused', 'optimised')
    )
    psnr = run['instant']['common']['psnr']
    curves = {
        'one image': [(run['first_view'], psnr), (optimised[-1][0], psnr)],
        'fused map': fused,
        'optimised': [fused[-1], *optimised],
    }
    axes = ('seconds of work', 'PSNR of held-out views, dB')
    return draw_curves(curves, axes, logarithmic=(True, False))


def _stages(optimiser: Optimiser, seconds: float) -> Iterator[int]:
    """Optimise from mark to mark; what is done in between does not count. Percent of the time."""
    spent, left = 0.0, list(_MARKS)
    while left:
        begin = time.perf_counter()
        optimiser.step(min(spent / seconds, 1.0))
        spent += time.perf_counter() - begin
        while left and spent >= left[0] * seconds:
            yield round(100 * left.pop(0))


def _predicted(engine: Engine, frame: Frame) -> Gaussians:
    return engine.predict(frame.image, frame.intrinsics, frame.depth)


def _integrate(fused: GaussianMap, engine: Engine, frame: Frame) -> None:
    gaussians, k = _predicted(engine, frame), frame.intrinsics
    depth = clean_depth(depth_from_gaussians(gaussians, k.width, k.height), PointCloudConfig())
    if frame.unseen is not None:
        gaussians, depth = gaussians.hidden(frame.unseen), depth.copy()
        depth[frame.unseen] = math.nan
    assert frame.T_world_camera is not None
    fused.integrate(gaussians, depth, k, frame.T_world_camera)


def _by_reference(gaussians: Gaussians, intrinsics: Intrinsics, T: np.ndarray) -> Rendering:
    return reference.rasterize(gaussians, intrinsics, T, (0.0, 0.0, 0.0), 0.05)


def _speed(gaussians: Gaussians, views: Sequence[View], device: str) -> dict[str, Any]:
    """Iterations a second of the loop with our renderer and with the reference, in turn."""
    small = list(views)
    while small[0].intrinsics.width > _SPEED_WIDTH and small[0].half is not small[0]:
        small = [view.half for view in small]
    fast = Optimiser(gaussians, small, device=device)
    slow = Optimiser(gaussians, small, device=device, render=_by_reference)
    fast.step(0.9)
    rates: dict[str, list[float]] = {'ours': [], 'reference': []}
    for _ in range(_ROUNDS):
        for name, loop, steps in (('ours', fast, _STEPS), ('reference', slow, 1)):
            begin = time.perf_counter()
            for _ in range(steps):
                loop.step(0.9)
            rates[name].append(steps / (time.perf_counter() - begin))
    ours, theirs = (float(np.median(rates[name])) for name in ('ours', 'reference'))
    return {
        'size': [small[0].intrinsics.width, small[0].intrinsics.height],
        'iterations_per_s': round(ours, 3),
        'reference_iterations_per_s': round(theirs, 4),
        'ratio': round(ours / theirs, 1),
    }
