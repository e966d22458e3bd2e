"""What `sharp-ros eval` prints of its reports: tables, and what their columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharp_ros.evaluation.metrics import METRICS


def depth_tables(report: Mapping[str, Any]) -> Iterator[Any]:
    """A table of the model and of what needs no network."""
    from rich import box
    from rich.table import Table

    title = f'{report["source"]}: {report["frames"]} frames, coverage {report["coverage"]:.1%}'
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('')
    headings = ('AbsRel', 'δ1', 'RMSE', 'AbsRel*', 'δ1*', 'RMSE*', 'scale', 'spread')
    for heading in headings:
        table.add_column(heading, justify='right', no_wrap=True)
    baselines = report['baselines']
    rows = {
        Path(report['model']).stem: report,
        **{name: report[name] for name in ('published', 'refined') if name in report},
        **({'height known': report['with_geometry']} if 'with_geometry' in report else {}),
        f'all {baselines["constant"]["depth"]:.2f} m': baselines['constant'],
        'room mean': baselines['training_mean'],
        **({'floor plane': baselines['floor_plane']} if 'floor_plane' in baselines else {}),
    }
    keys = (*METRICS, *(f'{name}_median_scaled' for name in METRICS))
    for name, row in rows.items():
        numbers = [f'{row[key]:.3f}' for key in (*keys, 'scale_median', 'scale_std')]
        table.add_row(name, *numbers)
    latency = report['latency_ms']
    table.caption = (
        'RMSE in metres; published: times the scale that the node finds over known poses; '
        'refined: corrected by motion besides, as the node publishes it; '
        'height known: given gravity and the height of the camera, scaled by the floor where it '
        'is seen; room mean: of the training rooms, pixel by pixel; floor plane: an empty floor '
        'where gravity and height put it, nothing farther than twice the constant. * every frame '
        'multiplied by its median ratio to the truth (scale: median of the ratios, spread: std '
        f'of their logarithm). Network: {latency["p50"]:.0f} ms (median), '
        f'{latency["p95"]:.0f} ms (p95). Licence of the weights: {report["licence"]}'
    )
    table.caption_justify = 'left'
    yield table
    if 'published' in report:
        yield (
            f'Published scale: the true one lies within 2 stated deviations at '
            f'{report["scale_coverage_2std"]:.1%} of the frames, at the worst '
            f'{report["scale_worst_std"]:.1f} away.'
        )
    if 'std_coverage_2std' in report:
        yield (
            f'Refined depth: {report["std_coverage_1std"]:.0%} of the pixels lie within one '
            f'stated deviation of the truth, {report["std_coverage_2std"]:.0%} within two.'
        )


def view_tables(report: Mapping[str, Any]) -> Iterator[Any]:
    """What rich prints: a table per baseline, and what its columns mean."""
    from rich import box
    from rich.table import Table

    from sharp_ros.evaluation.views import METRICS as VIEW_METRICS
    from sharp_ros.evaluation.views import ROWS

    model = Path(report['model']).stem
    for part in report['views']:
        headings = dict(zip(VIEW_METRICS, ('PSNR', 'SSIM', 'features', 'AbsRel'), strict=True))
        if part['rows']['true_depth']['common']['abs_rel'] is None:
            del headings['abs_rel']  # the depth of that view is unknown
        title = (
            f'{report["source"]}, {part["baseline"]:.2g} m to the side: {part["pairs"]} views, '
            f'judged on {part["coverage"]:.1%}'
        )
        table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column('')
        for heading in (*headings.values(), 'coverage'):
            table.add_column(heading, justify='right', no_wrap=True)
        for key, name in ROWS.items():
            row = part['rows'][key]
            numbers = [_number(row['common'][metric], metric) for metric in headings]
            table.add_row(name.format(model), *numbers, f'{row["coverage"]:.1%}')
        yield table
    yield (
        f'features: {report["feature_distance"]}. All but coverage on the pixels that all rows '
        'cover, means over the views; AbsRel: of the depth of the view. True scale: the model '
        'times its median ratio to the truth in the first image. Licence of the weights: '
        f'{report["licence"]}'
    )


def optimiser_tables(report: Mapping[str, Any]) -> Iterator[Any]:
    """What rich prints: a table per sequence, and what its columns mean."""
    from rich import box
    from rich.table import Table

    headings = ('time', 'PSNR', 'SSIM', 'features', 'common', 'Gaussians', 'memory')
    for run in report['runs']:
        title = (
            f'{run["name"]}: {run["held_out"]} of {run["images"]} images held out, '
            f'{run["size"][0]}x{run["size"][1]}'
        )
        table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column('', no_wrap=True)
        for heading in headings:
            table.add_column(heading, justify='right', no_wrap=True)
        points = [('one image', run['instant'])]
        points += [(f'{p["images"]} fused', p) for p in run['fused']]
        points += [(f'{p["iterations"]} steps', p) for p in run['optimised']]
        for name, p in points:
            every, common = p['all'], p['common']
            table.add_row(
                name,
                f'{p["seconds"]:.2f} s',
                *(_number(every.get(m), m) for m in ('psnr', 'ssim', 'feature_distance')),
                _number(common['psnr'], 'psnr'),
                f'{p["gaussians"]}',
                f'{p["rss_mb"]} MB',
            )
        yield table
        yield f'first view after {run["first_view"]:.3f} s'
        if 'speed' in run:
            s = run['speed']
            yield (
                f'optimiser at {s["size"][0]}x{s["size"][1]}: {s["iterations_per_s"]:.2f} '
                f'iterations a second, {s["ratio"]:.0f} times those with the reference renderer'
            )
    yield (
        'Means over the images held out; common: PSNR on what one image and the map cover, the '
        f'rest on all pixels. features: {report["runs"][0]["feature_distance"]}. time: of work so '
        'far. memory: of this process.'
    )


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return '-'
    return f'{value:.2f}' if metric == 'psnr' else f'{value:.3f}'


def map_tables(report: Mapping[str, Any]) -> Iterator[Any]:
    """What rich prints: all numbers over the runs, and what they mean."""
    if 'hazards' in report:
        yield from hazard_tables(report)
        return
    from rich import box
    from rich.table import Table

    from sharp_ros.evaluation.floor_plans import SEEN_WITHIN

    runs = report['runs']
    height = report['camera_height']
    title = f'{report["source"]}, {len(runs)} runs: {report["model"]}, poses {report["poses"]}' + (
        f', camera {height:g} m high' if height else ''
    )
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ('mean', 'median', 'worst') if len(runs) > 1 else ('mean',)
    table.add_column('')
    for column in columns:
        table.add_column(column if len(columns) > 1 else 'value', justify='right')
    for name, row in report['summary'].items():
        table.add_row(name, *('-' if row[c] is None else f'{row[c]:.4g}' for c in columns))
    yield table
    yield (
        f'Truth: {report["truth"]}; cells seen from within {SEEN_WITHIN:g} m. ate: after the '
        'rigid motion (scaled: the similarity) that fits best; rpe: over one second. Depth: as '
        'published, after the first second; scale: true over published, spread: std of its '
        f'logarithm. Licence of the weights: {report["licence"]}'
    )


def hazard_tables(report: Mapping[str, Any]) -> Iterator[Any]:
    """What rich prints: one row per hazard, mean and worst of every number."""
    from rich import box
    from rich.table import Table

    runs = sum(row['runs'] for row in report['hazards'].values())
    table = Table(
        title=f'{report["source"]}, {runs} runs of hazards: mean / worst',
        title_justify='left',
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column('')
    columns = {'shown': True, 'marked_after': False, 'cleared_after': False, 'free_on_solid': True}
    columns |= {'deep': True, 'behind': False, 'floor': True}
    for name in columns:
        table.add_column(name.replace('_', ' '), justify='right')
    for name, row in report['hazards'].items():
        cells = []
        for column, share in columns.items():
            found = row.get(column)
            if found is None or (found['mean'] is None and 'after' not in column):
                cells.append('')
                continue
            pair = (found['mean'], found['worst'])
            cells.append(
                ' / '.join(
                    'never' if v is None else f'{v:.0%}' if share else f'{v:.2g}' for v in pair
                )
            )
        table.add_row(name, *cells)
    yield table
    yield (
        'shown: frames in which no more than 5 % of what is measured of it is free; marked, '
        'cleared after: seconds; free on solid, deep: cells of the hazard that are free, and '
        'those 10 cm inside of it; behind: free cells behind walls; floor: seen floor that is free'
    )


def scale_tables(report: Mapping[str, Any]) -> Iterator[Any]:
    """What rich prints: the numbers over all runs, and the runs that are worst."""
    from rich import box
    from rich.table import Table

    from sharp_ros.evaluation.scale import ALLOWED_LOSS, SETTLED

    found = report['summary']
    title = f'{report["source"]}, {found["runs"]} runs, {found["frames"]} frames: ' + (
        f'{report["model"]}'
    )
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('', 'value', 'worst runs'):
        table.add_column(heading, justify='right' if heading == 'value' else 'left')
    worst = {
        key: ', '.join(
            f'{run["name"]}: {run["value"]:.3g}'
            + (f' at {run["at"]:.1f} s' if 'at' in run else '')
            for run in runs
        )
        for key, runs in found['worst'].items()
    }
    error = found['worst_error']
    rows = (
        (
            f'error after {SETTLED:g} s',
            '-' if error is None else f'{error:.1%}',
            worst['worst_error'],
        ),
        (
            'beyond 2 std',
            f'{1 - found["scale_coverage_2std"]:.1%}',
            worst['scale_coverage_2std'],
        ),
        ('worst, std', f'{found["scale_worst_std"]:.1f}', worst['scale_worst_std']),
        ('AbsRel lost', f'{found["worst_abs_rel_loss"]:.4f}', worst['abs_rel_loss']),
        (f'runs beyond {ALLOWED_LOSS:g}', str(found['runs_beyond_loss']), ''),
        ('frames observed', f'{found["observed"]:.1%}', ''),
        ('ms a frame', f'{found["ms"]:.1f}', ''),
    )
    for row in rows:
        table.add_row(*row)
    yield table
    yield (
        'True scale: median of true over predicted depth of a frame. Beyond 2 std: share of all '
        'frames whose true scale is farther than two stated deviations from the published one; '
        'of runs their share within. AbsRel lost: as published less than as predicted by the '
        'network alone. Observed: share of frames with an observation of metric scale. Time: of '
        'odometry and scale, the machine as it was.'
    )
