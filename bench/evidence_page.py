"""The page of `bench/evidence.py`: every report as tables, in one HTML file without scripts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import html
from pathlib import Path
from typing import Any

from sharp_ros.evaluation.optimised import curve_of_run
from sharp_ros.pictures.drawing import encode_picture

Report = Mapping[str, Any]
Row = Sequence[str | None]  # None: does not apply

STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #c22; --good: #2a7; }
body { font: 16px/1.5 system-ui, sans-serif }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right }
th { font-weight: 600 } td:first-child, th:first-child { text-align: left }
pre, code { font: 13px/1.4 ui-monospace, monospace } pre { overflow-x: auto }
pre, .how { opacity: .8 } img { max-width: 100% }
.ok { color: var(--good) } .failed { color: var(--bad); font-weight: 600 } .not { opacity: .7 }
nav a { margin-right: 1rem; white-space: nowrap }
"""


# --- cells ---------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return html.escape(str(value), quote=False)


def _number(value: float | None, form: str = '{:.3f}') -> str | None:
    return None if value is None else form.format(value)


def _met(row: Report) -> str | None:
    return {True: 'met', False: 'MISSED', None: None}[row.get('met')]


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """Text, escaped; nothing where there are no rows."""
    body = [
        ''.join(f'<td>{_text("-" if cell is None else cell)}</td>' for cell in row) for row in rows
    ]
    if not body:
        return '<p>None.</p>'
    top = ''.join(f'<th>{_text(cell)}</th>' for cell in head)
    lines = '\n'.join(f'<tr>{row}</tr>' for row in body)
    return f'<table>\n<tr>{top}</tr>\n{lines}\n</table>\n'


def _note(text: str) -> str:
    return f'<p>{_text(text)}</p>\n'


# --- one report each -----------------------------------------------------------------------------


def _demo(report: Report) -> Iterator[str]:
    yield _note(
        f'A {report["source"]} camera, the node with {report["model"]} and a listener in '
        f'processes of their own, over DDS: {report["frames_sent"]} images sent, '
        f'{report["processed"]} processed, {report["dropped"]} dropped and counted. Ages run from '
        'the stamp of the image to the arrival at the listener.'
    )
    keys = ('rate_hz', 'age_ms_p50', 'age_ms_p95', 'age_ms_p99')
    yield _table(
        ('topic', 'Hz', 'age p50 ms', 'p95', 'p99', 'missing'),
        (
            (
                f'~/{topic}',
                *(_number(row[key], '{:.1f}') for key in keys),
                _number(row['drops'], '{}'),
            )
            for topic, row in report['topics'].items()
        ),
    )
    depth = report.get('depth')
    if depth:
        yield _note(
            f'Depth against the truth: AbsRel {depth["abs_rel"]:.3f}, δ1 {depth["delta1"]:.3f}, '
            f'true over published scale {depth["scale_median"]:.3f}, spread '
            f'{depth["scale_std"]:.3f}.'
        )


def _stages(report: Report) -> Iterator[str]:
    yield _table(
        ('stage', 'median ms', 'p95 ms', 'target ms', ''),
        (
            (
                name,
                *(_number(row[key], '{:.1f}') for key in ('median_ms', 'p95_ms', 'target_ms')),
                _met(row),
            )
            for name, row in report['stages'].items()
        ),
    )


def _memory(report: Report) -> Iterator[str]:
    memory, endured = report['memory'], report['endurance']
    rows = [('resident, all stages', f'{memory["rss_mb"]:.0f} MB', _met(memory))]
    if endured:
        rows += [
            (
                f'all outputs for {endured["minutes"]:g} min, {endured["rate_hz"]:.1f} Hz: most',
                f'{endured["rss_peak_mb"]:.0f} MB',
                None,
            ),
            ('change from begin to end', f'{endured["drift_mb"]:+.1f} MB', _met(endured)),
        ]
    yield _table(('memory', '', ''), rows)


def _ros(report: Report) -> Iterator[str]:
    layer, start = report['ros_layer'], report['start']
    yield _table(
        ('what ROS adds', '', 'target', ''),
        (
            (
                f'to a frame of {layer["pipeline_ms"]:.1f} ms (median)',
                f'{layer["added_ms"]:.1f} ms',
                f'{layer["target_ms"]:g} ms',
                _met(layer),
            ),
            (
                'process start to first depth',
                f'{start["median_s"]:.1f} s',
                f'{start["target_s"]:g} s',
                _met(start),
            ),
        ),
    )
    yield _table(
        ('from publish to a listener', 'median ms', 'p95 ms', 'sent', 'replaced before'),
        (
            (
                topic,
                *(_number(row[key], '{:.1f}') for key in ('median_ms', 'p95_ms')),
                str(row['sent']),
                str(row['lost']),
            )
            for topic, row in report['latency'].items()
        ),
    )


def _answers(report: Report) -> Iterator[str]:
    yield _table(
        ('service', 'calls', 'answered', 'p50 s', 'p95 s', 'longest s'),
        (
            (
                f'~/{name}',
                *(str(row[key]) for key in ('calls', 'answered')),
                *(_number(s, '{:.2f}') for s in row['answer_s']),
            )
            for name, row in report['services'].items()
        ),
    )


_DEPTH = ('abs_rel', 'delta1', 'rmse', 'abs_rel_median_scaled', 'scale_median', 'scale_std')
_DEPTH_HEAD = ('AbsRel', 'δ1', 'RMSE m', 'AbsRel scaled', 'scale', 'spread')


def _accuracy(report: Report) -> Iterator[str]:
    rows = []
    for part in report['sets'].values():
        models = {
            report['model']: part,
            'times the scale of the node': part.get('published'),
            'and refined by motion': part.get('refined'),
            'constant depth': part['baselines']['constant'],
        }
        title = f'{part["title"]} ({part["frames"]})'
        for name, row in models.items():
            if row is not None:
                rows.append((title, name, *(_number(row[key]) for key in _DEPTH)))
                title = ''
    yield _table(('set (images)', 'depth', *_DEPTH_HEAD), rows)


def _accuracy_sets(report: Report) -> Iterator[str]:
    yield _table(
        ('set (images)', *_DEPTH_HEAD, 'within 2 std'),
        (
            (
                f'{name} ({row["frames"]})',
                *(_number(row[key]) for key in _DEPTH),
                _number(row.get('within_2std'), '{:.0%}'),
            )
            for name, row in report['sets'].items()
        ),
    )


def _refinement(report: Report) -> Iterator[str]:
    keys = ('network', 'scaled', 'refined', 'refined_median_scaled')
    yield _table(
        ('AbsRel', 'network', 'times scale', 'refined by motion', 'that scaled', 'within 2 std'),
        (
            (
                f'{name}, {kind}',
                *(_number(row[key]) for key in keys),
                _number(row.get('within_2_std'), '{:.0%}'),
            )
            for name, part in report['sources'].items()
            for kind, row in part.items()
            if kind != 'frames'
        ),
    )


def _scale(report: Report) -> Iterator[str]:
    whole = report['summary']
    yield _table(
        ('runs', 'frames', 'within 2 std', 'worst, std', 'worst error after 2 s', 'AbsRel lost'),
        [
            (
                str(whole['runs']),
                str(whole['frames']),
                _number(whole['scale_coverage_2std'], '{:.1%}'),
                _number(whole['scale_worst_std'], '{:.1f}'),
                _number(whole['worst_error'], '{:.0%}'),
                _number(whole['worst_abs_rel_loss'], '{:+.3f}'),
            )
        ],
    )


_MAP = {
    'ate_percent': ('path (ATE), % of its length', '{:.2f}'),
    'ate_rmse_m': ('path (ATE), m', '{:.3f}'),
    'ate_rmse_scaled_m': ('path, scaled, m', '{:.3f}'),
    'rpe_m_per_s': ('motion (RPE), m/s', '{:.3f}'),
    'rpe_deg_per_s': ('turn (RPE), °/s', '{:.2f}'),
    'lost_frames': ('frames without a pose', '{:g}'),
    'scale_median': ('true over published scale', '{:.3f}'),
    'scale_std': ('its spread (drift)', '{:.3f}'),
    'abs_rel': ('AbsRel of the depth', '{:.3f}'),
    'level_error_deg': ('level off, °', '{:.1f}'),
    'floor_error_m': ('floor off, m', '{:.2f}'),
    'occupancy_iou': ('IoU of occupied cells', '{:.2f}'),
    'free_behind_walls': ('free cells behind walls', '{:g}'),
}


def _maps(report: Report) -> Iterator[str]:
    yield _note(f'{len(report["runs"])} runs; truth: {report["truth"]}.')
    whole = report['summary']
    yield _table(
        ('', 'mean', 'median', 'worst'),
        (
            (title, *(_number(whole[key][part], form) for part in ('mean', 'median', 'worst')))
            for key, (title, form) in _MAP.items()
            if key in whole
        ),
    )


def _hazards(report: Report) -> Iterator[str]:
    yield _note(
        f'{sum(row["runs"] for row in report["hazards"].values())} runs; the worst of each.'
    )
    columns = {
        'shown': ('frames that show it', '{:.0%}'),
        'marked_after': ('marked after s', '{:.1f}'),
        'cleared_after': ('cleared after s', '{:.1f}'),
        'free_on_solid': ('free on it', '{:.1%}'),
        'behind': ('free behind walls', '{:g}'),
        'floor': ('seen floor that is free', '{:.0%}'),
    }
    yield _table(
        ('hazard', *(title for title, _ in columns.values())),
        (
            (
                name,
                *(
                    _number(row.get(key, {}).get('worst'), form)
                    for key, (_, form) in columns.items()
                ),
            )
            for name, row in report['hazards'].items()
        ),
    )


def _views(report: Report) -> Iterator[str]:
    yield _note(f'Feature distance: {report["feature_distance"]}. On the pixels all rows cover.')
    yield _table(
        ('baseline', 'picture', 'PSNR dB', 'SSIM', 'feature distance', 'coverage'),
        (
            (
                f'{part["baseline"]:.2f} m',
                kind.replace('_', ' '),
                _number(row['common']['psnr'], '{:.1f}'),
                _number(row['common']['ssim'], '{:.2f}'),
                _number(row['common']['feature_distance'], '{:.2f}'),
                _number(row['coverage'], '{:.0%}'),
            )
            for part in report['views']
            for kind, row in part['rows'].items()
        ),
    )


def _optimised(report: Report) -> Iterator[str]:
    for run in report['runs']:
        speed = run['speed']
        yield _note(
            f'{run["name"]}: {run["held_out"]} of {run["images"]} images held out; first view in '
            f'{run["first_view"]:.2f} s; {speed["iterations_per_s"]:.2f} iterations/s at '
            f'{speed["size"][0]}x{speed["size"][1]}, {speed["ratio"]:.0f} times the reference.'
        )
        yield _inline_png(encode_picture(curve_of_run(run)), 'PSNR over seconds of work')
        points = (
            ('one image', run['instant']),
            *((f'map of {point["images"]}', point) for point in run['fused']),
            *((f'{point["iterations"]} iterations', point) for point in run['optimised']),
        )
        yield _table(
            ('Gaussians of', 's', 'number', 'MB', 'PSNR dB', 'on common pixels', 'SSIM'),
            (
                (
                    kind,
                    _number(point['seconds'], '{:.1f}'),
                    str(point['gaussians']),
                    str(point['rss_mb']),
                    _number(point['all']['psnr'], '{:.1f}'),
                    _number(point['common']['psnr'], '{:.1f}'),
                    _number(point['common']['ssim'], '{:.2f}'),
                )
                for kind, point in points
            ),
        )


def _inline_png(data: bytes, shows: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<p><img alt="{_text(shows)}" src="data:image/png;base64,{encoded}"></p>\n'


def _exchanged(report: Sequence[Report]) -> Iterator[str]:
    def outcome(row: Report) -> str:
        if row['failed']:
            return f'FAILED ({row["failed"]})'
        return 'passed' if row['passed'] else f'not run here: {row["reason"] or "no test ran"}'

    yield _table(
        ('what', 'with', 'tests passed', 'outcome'),
        ((row['what'], row['peer'], str(row['passed']), outcome(row)) for row in report),
    )


# A heading, and the measurements under it with how each is shown.
SECTIONS: dict[str, dict[str, tuple[str, Callable[[Any], Iterator[str]]]]] = {
    'Latency and rates': {
        'demo': ('End to end', _demo),
        'stages': ('Stage by stage', _stages),
        'ros': ('What ROS adds', _ros),
        'answers': ('Answers of services, asked by fresh processes', _answers),
    },
    'Memory': {'stages': ('One process, all stages', _memory)},
    'Accuracy of depth': {
        'accuracy': ('The shipped network', _accuracy),
        'accuracy_sets': ('Sets of real images', _accuracy_sets),
        'refinement': ('Refined by motion, simulated room', _refinement),
        'refinement_recording': ('Refined by motion, recording', _refinement),
    },
    'Drift of the scale': {
        'scale': ('Simulated, hand-held', _scale),
        'scale_recording': ('Recording, from many starts', _scale),
    },
    'Visual odometry and maps': {
        'map_true': ('Rooms, true depth, own odometry', _maps),
        'map_nano': ('Rooms, nano, own odometry', _maps),
        'map_nano_poses_given': ('Rooms, nano, poses given', _maps),
        'map_recording': ('Recording, nano, poses given', _maps),
    },
    'Hazards': {'hazards': ('What a robot must not run into', _hazards)},
    'Views from elsewhere': {
        'views': ('Photograph, 0.19 m to the side', _views),
        'views_rooms': ('Simulated rooms', _views),
        'optimised': ('At once against minutes of optimisation, simulated room', _optimised),
        'optimised_recording': ('At once against minutes of optimisation, recording', _optimised),
    },
    'Files read and written by others': {'exchanged': ('By test', _exchanged)},
}


# --- the page ------------------------------------------------------------------------------------


def page(evidence: Report, picture: Path) -> str:
    """The whole page; `picture`, where it is a file, is shown below the first heading."""
    parts: Report = evidence['measurements']
    body = [*_head(evidence, parts)]
    for title, rows in SECTIONS.items():
        chosen = {name: row for name, row in rows.items() if name in parts}
        if not chosen:
            continue
        body.append(f'<h2 id="{_anchor(title)}">{_text(title)}</h2>\n')
        for name, (subtitle, shown) in chosen.items():
            body += [f'<h3>{_text(subtitle)}</h3>\n', *_part(parts[name], shown)]
        if 'demo' in chosen and picture.is_file():
            shows = 'Input, depth, truth, cloud, grid and a virtual view of the run'
            body.append(_inline_png(picture.read_bytes(), shows))
    body += _foot(evidence)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="icon" href="data:,">\n'
        f'<title>sharp_ros: measured</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'{"".join(body)}</body>\n</html>\n'
    )


def _anchor(title: str) -> str:
    return title.lower().replace(' ', '-')


def _head(evidence: Report, parts: Report) -> Iterator[str]:
    states = [part['state'] for part in parts.values()]
    counts = ', '.join(
        f'{states.count(state)} {word}'
        for state, word in (('ok', 'measured'), ('failed', 'FAILED'), ('not run here',) * 2)
        if state in states
    )
    yield '<h1>sharp_ros: measured</h1>\n'
    kind = 'few runs of each' if evidence['quick'] else 'thorough'
    yield _note(
        f'{evidence["begun"]}, commit {evidence["commit"]}, {evidence["seconds"]:.0f} s, {kind}: '
        f'{counts}.'
    )
    links = (
        f'<a href="#{_anchor(title)}">{_text(title)}</a>'
        for title, rows in SECTIONS.items()
        if parts.keys() & rows.keys()
    )
    machine = '<a href="#machine">Machine and versions</a>'
    yield f'<nav>{" ".join(links)} {machine}</nav>\n'
    load, cores = (evidence['machine'][key] for key in ('load_average', 'cores'))
    if load > cores / 2:
        yield _note(
            f'When this began, other programs kept the machine busy (load average {load} on '
            f'{cores} cores): times are too long and rates too low.'
        )


def _foot(evidence: Report) -> Iterator[str]:
    yield '<h2 id="machine">Machine and versions</h2>\n'
    yield _table(('machine', ''), ((k, str(v)) for k, v in evidence['machine'].items()))
    yield _table(('package', 'version'), evidence['versions'].items())
    yield f'<pre>{_text(evidence["command"])}</pre>\n'


def _part(part: Report, shown: Callable[[Any], Iterator[str]]) -> Iterator[str]:
    state = part['state']
    if state == 'failed':
        yield f'<p class="failed">Failed</p><pre>{_text(part["reason"])}</pre>\n'
    elif state != 'ok':
        yield f'<p class="not">Not run here: {_text(part["reason"])}</p>\n'
    if 'report' in part:
        try:
            yield ''.join(shown(part['report']))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # the measurements to come shall not be lost for a number that this one lacks
            said = f'Its report, beside this page, lacks what is shown here: {error!r}'
            yield f'<p class="failed">{_text(said)}</p>\n'
    took = f' ({part["seconds"]:.0f} s)' if 'seconds' in part else ''
    yield f'<p class="how"><code>{_text(part["command"])}</code>{took}</p>\n'
