"""Numbers of the documentation are those of the measured reports in docs/results.

Every function here makes, from one report, the words and rows that its page must contain. Pages
that are written by a program (`bench/nano_report.py`, `bench/depth_sets.py`) are held against
their reports in the tests of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / 'docs'
RESULTS = DOCS / 'results'
ELSEWHERE = {'nano.json', 'depth_sets.json'}  # test_model_report.py, test_depth_sets.py

Report = dict
Claims = Callable[[Report], Iterator[str]]
CLAIMED: dict[str, tuple[str, Claims]] = {}


def of(name: str, page: str) -> Callable[[Claims], Claims]:
    def note(claims: Claims) -> Claims:
        assert name not in CLAIMED
        CLAIMED[name] = page, claims
        return claims

    return note


# --- speed ---------------------------------------------------------------------------------------


@of('bench_cpu.json', 'benchmark.md')
def bench_cpu(report: Report) -> Iterator[str]:
    stages = report['stages']
    decoded = [row for name, row in stages.items() if name.startswith('decode_rectify')]
    medians = [row['median_ms'] for row in decoded]
    worst = max(row['p95_ms'] for row in decoded)
    yield f'| {min(medians):.1f} to {max(medians):.1f} | {worst:.1f} | 3 |'
    for name, title, target in (
        ('network', 'nano, image to Gaussians', '60'),
        ('depth', 'depth image, flying pixels removed', ''),
        ('cloud_message', 'organised cloud message, 307,200 points', '8'),
        ('scan', 'laser scan', '2'),
        ('occupancy', 'occupancy update, 20 x 20 m at 5 cm', '10'),
        ('visual_odometry', 'visual odometry', '25'),
        ('fuse_keyframe', 'a keyframe of 98,304 Gaussians into the fused map', '40'),
        ('fuse_surface_keyframe', 'a keyframe into the fused surface', '40'),
        ('view_320x240', 'virtual view, 320x240 from 98,304 Gaussians', ''),
        ('view_640x480', '640x480', '67 (15 Hz)'),
        ('view_320x240_1.18M', '320x240 from 1,179,648 Gaussians', ''),
        ('view_640x480_1.18M', '640x480', '500 (2 Hz)'),
        ('carried_depth', 'depth carried from the image before', '4'),
        ('refinement', 'refinement by three images', '20'),
        ('whole_frame', 'whole frame: scale, refinement, depth, cloud, grid', '125'),
    ):
        row = stages[name]
        yield f'| {title} | {row["median_ms"]:.1f} | {row["p95_ms"]:.1f} | {target} |'.replace(
            '|  |', '| |'
        )
    yield f'Resident memory {report["memory"]["rss_mb"]:.0f} MB'


@of('fused_map.json', 'benchmark.md')
def fused_map(report: Report) -> Iterator[str]:
    before, now = (report['memory'][key] for key in ('before', 'now'))
    ms, ratio = report['cpu_ms'], report['now_over_before']
    for title, key in (
        ('fused, no view yet', 'fused'),
        ('between two views', 'viewed'),
        ('at most, with what a view needs', 'peak'),
    ):
        cells = f'{before[key]:.0f} | {now[key]:.0f} | {ratio[f"bytes_{key}"]:.2f}'
        yield f'| bytes a Gaussian, {title} | {cells} |'
    for title, key in (
        ('a keyframe fused', 'fuse'),
        ('all Gaussians as arrays after it', 'export'),
        ('a view of 640x480 after it', 'view'),
        ('a view with nothing changed', 'view_unchanged'),
        ('a copy to be saved', 'copy'),
        ('that copy to Gaussians', 'restore'),
    ):
        cells = f'{ms["before"][key]:.0f} | {ms["now"][key]:.0f} | {ratio[key]:.2f}'
        yield f'| ms of {title} | {cells} |'
    assert ratio['bytes_viewed'] <= 0.6


def optimised(title: str) -> Claims:
    def claims(report: Report) -> Iterator[str]:
        (run,) = report['runs']
        one, fused, last = run['instant'], run['fused'][-1], run['optimised'][-1]
        cells = (
            f'{run["first_view"]:.3f} s: {one["common"]["psnr"]:.1f}',
            *(
                f'{point["seconds"]:.1f} s: {point["common"]["psnr"]:.1f} / '
                f'{point["all"]["psnr"]:.1f}'
                for point in (fused, last)
            ),
            f'{fused["gaussians"]:,} → {last["gaussians"]:,}',
            f'{run["speed"]["iterations_per_s"]:.1f}, {run["speed"]["ratio"]:.0f} x',
        )
        yield f'| {title} | {run["held_out"]} of {run["images"]} | {" | ".join(cells)} |'

    return claims


of('optimised_room_true.json', 'views.md')(optimised('simulated room 0, exact depth'))
of('optimised_room_nano.json', 'views.md')(optimised('simulated room 0, nano'))
of('optimised_kinect.json', 'views.md')(optimised('kinect_room_dev, nano'))
of('optimised_tum.json', 'views.md')(optimised('tum_fr3_cabinet, nano'))


@of('bench_sharp_cpu.json', 'benchmark.md')
def bench_sharp_cpu(report: Report) -> Iterator[str]:
    seconds = report['stages']['network']['median_ms'] / 1e3
    yield f'| image to 1,179,648 Gaussians, bf16 | {seconds:.1f} s | 70 s |'


@of('sharp_cpu.json', 'benchmark.md')
def sharp_cpu(report: Report) -> Iterator[str]:
    made, tokens = report['gaussians'], report['transformer']
    blocks, kept = report['decoder_block'], report['decoder_block_memory_kept']
    yield f'| {made["shapes_ms"]:.0f} ms, points only {made["points_ms"]:.0f} ms |'
    write, read = (made[key] / 1e3 for key in ('ply_write_ms', 'ply_read_ms'))
    yield f'| {write:.2f} s / {read:.2f} s |'
    fp32 = report['forward_fp32']
    yield f'| {fp32["seconds"]:.1f} s, {fp32["peak_gb"]:.1f} GB at most |'
    for precision, title in (('fp32', 'convolution with one tap, fp32'), ('bf16', 'in bf16')):
        row = tokens[precision]
        yield f'{title} | {row["product_before_ms"]:.0f} | {row["product_ms"]:.0f} |'
    row = tokens['bf16']
    yield f'at a time, bf16 | {row["attention_before_ms"]:.0f} | {row["attention_ms"]:.0f} |'
    yield f'in one step | {tokens["residual_before_ms"]:.1f} | {tokens["residual_ms"]:.1f} |'
    yield f'memory kept, fp32 | {blocks["fp32_ms"]:.0f} | {kept["fp32_ms"]:.0f} |'
    yield f'| the same in bf16 | {blocks["bf16_ms"]:.0f} | {kept["bf16_ms"]:.0f} |'


@of('bench_ros.json', 'benchmark.md')
def bench_ros(report: Report) -> Iterator[str]:
    layer, latency = report['ros_layer'], report['latency']
    yield f'Medians of {layer["pairs"]} pairs'
    yield f'to a frame of {layer["pipeline_ms"]:.1f} ms | **{layer["added_ms"]:.1f} ms** | 5 ms |'
    yield '| {receive:.1f}, {decode:.1f}, {pose:.1f}, {publish:.1f} ms |'.format(
        **layer['parts_ms']
    )
    for name, topic in (('cloud', 'points'), ('depth', 'depth/image')):
        row = layer['outputs'][topic]
        yield f'| {name}, built + published | {row["build_ms"]:.1f} + {row["publish_ms"]:.1f} ms |'
    depth, cloud = (latency[topic]['median_ms'] for topic in ('depth/image', 'points'))
    yield f'of a subscriber: depth, cloud | {depth:.1f}, {cloud:.1f} ms |'
    yield f'| {latency["points"]["lost"]} of {latency["points"]["sent"]} '
    yield f'| {report["start"]["median_s"]:.1f} s | 6 s |'
    times = report['decode']['numpy']['bgr8']['other_takes_times']
    yield f'| plain NumPy decode of bgr8, times as long | {times:.0f} |'
    cloud = report['cloud']
    yield f'then an `array`), times as long | {cloud["create_cloud"]["other_takes_times"]:.1f} |'
    yield f'assigned to `data`, times as long | {cloud["tobytes"]["other_takes_times"]:.1f} |'


@of('demo_synthetic_nano.json', 'benchmark.md')
def demo_synthetic(report: Report) -> Iterator[str]:
    for topic, row in report['topics'].items():
        if topic.endswith(('camera_info', '/depth')):
            continue  # as the image beside it
        limited = ' (limited to 2 Hz)' if row['drops'] is None else ''
        ages = f'{row["age_ms_p50"]:.0f} | {row["age_ms_p95"]:.0f}'
        yield f'| `~/{topic}`{limited} | {row["rate_hz"]:.1f} | {ages} |'
    depth = report['depth']
    yield f'AbsRel {depth["abs_rel"]:.3f}, scale {depth["scale_median"]:.2f}.'


@of('demo_kinect_sensor.json', 'benchmark.md')
def demo_kinect(report: Report) -> Iterator[str]:
    row = report['topics']['depth/image']
    yield (
        f'depth {row["rate_hz"]:.1f} Hz, age p50 {row["age_ms_p50"]:.0f} ms, '
        f'p95 {row["age_ms_p95"]:.0f} ms.'
    )


@of('rasterizer_cpu.json', 'benchmark.md')
def rasterizer_cpu(report: Report) -> Iterator[str]:
    few, many = report['scenes'].values()

    def row(title: str, few: str, many: str) -> str:
        return f'| {title} | {few} | {many} |'

    def rate(part: Report, digits: int) -> str:
        ours = part['numba']
        ms = f'{ours["median_ms"]:.{digits}f} ms'
        hz = f'{ours["fps"]:.{0 if digits else 1}f} Hz (asked {ours["target_fps"]:.0f})'
        return f'{ms}, {hz}'

    yield row('numba', rate(few, 1), rate(many, 0))
    depths = [part['with_median_depth']['median_ms'] for part in (few, many)]
    yield row('numba with median depth', f'{depths[0]:.1f} ms', f'{depths[1]:.0f} ms')
    for title, key in (
        ('our reference, times as long', 'reference_times_numba'),
        ('gsplat in plain torch, times as long (asked 20)', 'gsplat_torch_times_numba'),
    ):
        yield row(title, *(f'{part["share"][key]:.0f}' for part in (few, many)))
    psnrs = [f'{part["share"]["psnr_db"]:.0f} dB' for part in (few, many)]
    yield row("gsplat's picture against ours", *psnrs)


@of('nano_floor.json', 'benchmark.md')
def nano_floor(report: Report) -> Iterator[str]:
    work, ways = report['multiply_adds'], report['ways']
    total = sum(work.values())
    depthwise = sum(n for name, n in work.items() if name.startswith('GroupConvolution'))
    yield f'{total / 1e9:.2f} billion multiply-adds'
    yield (
        f'{work["Convolution 3x3"] / 1e6:.0f} million in 3x3 convolutions, '
        f'{work["Convolution 1x1"] / 1e6:.0f} in 1x1, {work["MatMul"] / 1e6:.0f} in attention, '
        f'{depthwise / 1e6:.0f} in depthwise filters'
    )
    peaks = {kind: ways[f'product {kind}']['gmac_per_cpu_s'] for kind in ('fp32', 'bf16')}
    yield f'| the peak, float32 / bf16 | {peaks["fp32"]:.1f} / {peaks["bf16"]:.1f} |'
    for title, name in (
        ('ONNX Runtime, float32', 'onnx fp32'),
        ('OpenVINO, float32', 'openvino fp32'),
        ('OpenVINO, bf16', 'openvino bf16'),
    ):
        row, peak = ways[name], peaks[name[-4:]]
        floor = total / 1e6 / peak
        share = row['gmac_per_cpu_s'] / peak
        yield (
            f'| {title} | {row["gmac_per_cpu_s"]:.1f} | {share:.0%} | {floor:.1f}, takes '
            f'{row["cpu_ms_median"]:.1f} |'
        )


@of('onnx_cpu.json', 'onnx.md')
def onnx_cpu(report: Report) -> Iterator[str]:
    ways = report['ways']
    onnx, torch = (ways[name]['ms_median'] for name in ('onnx fp32', 'torch fp32'))
    yield f'({onnx:.1f} and {torch:.1f} ms, `python bench/onnx_speed.py'
    static, dynamic = ways['onnx static'], ways['onnx dynamic']
    yield (
        f'static takes {static["ms_median"]:.1f} ms and costs '
        f'{static["log_depth_error_mean"]:.1%} of depth, dynamic {dynamic["ms_median"]:.0f} ms '
        f'and {dynamic["log_depth_error_mean"]:.1%}.'
    ).replace('%', ' %')


@of('answers.json', 'benchmark.md')
def answers(report: Report) -> Iterator[str]:
    before, after = (report[key]['services'] for key in ('before', 'after'))
    for name, was in before.items():
        now = after[name]
        cells = [
            f'{row["answered"]} of {row["calls"]} ({row["not_found"]}) | '
            f'{row["answer_s"][0]:.2f}, {row["answer_s"][2]:.1f} s'
            for row in (was, now)
        ]
        yield f'| `~/{name}` | {cells[0]} | {cells[1]} |'


@of('soak_cpu.json', 'faults.md')
def soak(report: Report) -> Iterator[str]:
    memory = report['memory_mb']
    yield (
        (
            f'{report["frames_in"]:,} images at 10 Hz,\n{report["processed"]:,} processed, '
            f'{report["dropped"]} dropped and counted; memory {memory["median"]:.0f} MB, '
            f'{memory["lowest"]:+.1%} to {memory["highest"]:+.1%}; {report["threads"][0]} threads '
            f'and {report["files"][0]} open files throughout; exit code {report["exit_code"]}.'
        )
        .replace('%', ' %')
        .replace(' % to', ' to')
    )


# --- accuracy ------------------------------------------------------------------------------------


def _within(report: Report) -> Iterator[str]:
    """Rows of the table of hazards."""

    def worst(row: Report, key: str, form: str) -> str:
        value = row.get(key, {}).get('worst')
        return '' if value is None else form.format(value)

    for name, row in report['hazards'].items():
        cells = [
            worst(row, 'shown', '{:.0%}'),
            worst(row, 'marked_after', '{:.1f} s'),
            worst(row, 'cleared_after', '{:.1f} s'),
            worst(row, 'free_on_solid', '{:.0%}'),
            worst(row, 'deep', '{:.0%}'),
            worst(row, 'floor', '{:.0%}'),
        ]
        yield f'| {name} | {" | ".join(cells)} |'
        assert row['behind']['worst'] == 0  # "no cell behind a wall is free in any"


@of('hazards.json', 'safety.md')
def hazards(report: Report) -> Iterator[str]:
    yield f'{sum(row["runs"] for row in report["hazards"].values())} runs at 5 and 10 Hz'
    yield from _within(report)


@of('hazards_turns.json', 'safety.md')
def hazards_turns(report: Report) -> Iterator[str]:
    yield f'and {sum(row["runs"] for row in report["hazards"].values())} of `--hazards turns`'
    yield from _within(report)


VIEWS = {
    'model': '**nano**',
    'model_true_scale': 'nano times its true scale',
    'model_warped': "pixels moved by nano's depth, holes open",
    'unchanged': 'image unchanged',
    'true_depth_warped': 'pixels moved by true depth',
    'true_depth': 'Gaussians of true depth, one a pixel',
}


def _view(row: Report) -> str:
    row = row['common']
    return f'{row["psnr"]:.1f} / {row["ssim"]:.2f} / {row["feature_distance"]:.2f}'


@of('views_motorcycle.json', 'models.md')
def views_motorcycle(report: Report) -> Iterator[str]:
    (part,) = report['views']
    yield f'({part["coverage"]:.0%} of the motorcycle)'.replace('%', ' %')
    yield from (f'| {title} | {_view(part["rows"][key])} |' for key, title in VIEWS.items())


@of('views_synthetic.json', 'models.md')
def views_synthetic(report: Report) -> Iterator[str]:
    for key in VIEWS:
        yield f'| {" | ".join(_view(part["rows"][key]) for part in report["views"])} |'


@of('refinement.json', 'models.md')
def refinement(report: Report) -> Iterator[str]:
    sources = report['sources']

    def pair(row: Report, step: str) -> str:
        return f'{row[step]:.3f} / {row[f"{step}_median_scaled"]:.3f}'

    for name, parts in sources.items():
        row = parts['poses given']
        within = ' | '.join(f'{row[f"within_{n}_std"]:.0%}' for n in (1, 2))
        yield (
            f'| {pair(row, "network")} | {pair(row, "scaled")} | **{pair(row, "refined")}** | '
            f'{within} |'
        )
        assert name.startswith('room:') or name in PAGES['models.md']
    rooms = [part for name, part in sources.items() if name.startswith('room:')]
    for kind, row in sources['kinect_room_dev'].items():
        if kind == 'frames':
            continue
        worst = [
            max(room[kind][f'refined{end}'] - room[kind][f'network{end}'] for room in rooms)
            for end in ('', '_median_scaled')
        ]
        steps = ' | '.join(pair(row, step) for step in ('network', 'scaled', 'refined'))
        yield f'| {kind} | {steps} | {worst[0]:+.3f} / {worst[1]:+.3f} |'


MAPS = (
    *('rooms_true', 'rooms_true_poses_given', 'rooms_disturbed', 'rooms_disturbed_poses_given'),
    *('rooms_nano', 'rooms_nano_height', 'rooms_nano_poses_given', 'kinect_sensor'),
    'kinect_nano_poses_given',
)


def maps(report: Report) -> Iterator[str]:
    whole, several = report['summary'], len(report['runs']) > 1

    def cell(key: str, form: str, factor: float = 1) -> str:
        if key not in whole:
            return '-'
        mean, worst = (form.format(factor * whole[key][k]) for k in ('mean', 'worst'))
        return f'{mean} ({worst})' if several else mean

    scale = f'{whole["scale_median"]["mean"]:.2f}'
    yield f'| {len(report["runs"])} | {cell("ate_percent", "{:.2f} %")} | '
    yield f'| {cell("ate_rmse_scaled_m", "{:.1f} cm", 100)} | '
    motion, turn = (whole.get(key, {}).get('mean') for key in ('rpe_m_per_s', 'rpe_deg_per_s'))
    if motion is not None and report['model'] != 'sensor':  # else the path is too short to say
        yield f'| {motion:.3f}, {turn:.2f} | '
    yield f'| {cell("abs_rel", "{:.3f}")} | {scale} | {cell("scale_std", "{:.3f}")} | '
    yield f' {cell("level_error_deg", "{:.1f}°")} | {cell("floor_error_m", "{:.0f} cm", 100)} | '
    yield f'| {cell("occupancy_iou", "{:.2f}")} |'


for _name in MAPS:
    of(f'map_{_name}.json', 'models.md')(maps)


@of('imu_level.json', 'benchmark.md')
def imu_level(report: Report) -> Iterator[str]:
    titles = {
        'still': 'still',
        'robot': 'robot, stops and goes at up to 1.5 m/s',
        'handheld': 'held in a hand',
        'shaken': 'shaken, 2 to 5 Hz',
        'drone': 'drone, up to 3 m/s',
        'car': 'car, up to 12 m/s in 4 s',
    }
    for name, row in report['motions'].items():
        within = ' | '.join(f'{row[f"within_{n}_std"]:.0%}' for n in (2, 3)).replace('%', ' %')
        degrees = f'{row["worst_deg"]:.1f} | {row["p95_deg"]:.1f} | {row["stated_deg"]:.2f}'
        yield f'| {titles[name]} | {degrees} | {within} |'
    took = [row['sample_us'] for row in report['motions'].values()]
    yield f'A sample takes {min(took):.0f} to {max(took):.0f} µs.'


@of('scale_causes.json', 'models.md')
def scale_causes(report: Report) -> Iterator[str]:
    for name, row in report['factors'].items():
        pairs = ', '.join(
            f'{value:g}: {mean:+.2f}'
            for value, mean in zip(row['values'], row['true_over_predicted'], strict=True)
        )
        response = '-' if row['response'] is None else f'{row["response"]:.2f}'
        yield f'| {name} | {row["scenes"]} | {pairs} | {row["span"]:.2f} | {response} |'


@of('scale_causes_real.json', 'models.md')
def scale_causes_real(report: Report) -> Iterator[str]:
    real = report['real']
    near = {}
    for name, title in (('real', 'real sets'), ('drawn', 'generator')):
        share, detail = real[name]['share'], real[name]['detail']
        near[name] = share[0] + share[1]
        yield f'| {title}: share of pixels | {" | ".join(f"{part:.0%}" for part in share)} |'
        yield f'| {title}: log of fine detail | {" | ".join(f"{d:.2f}" for d in detail)} |'
    yield (
        f'{near["real"]:.0%} of the pixels of the real sets lie within 0.6 m (for 160 px), '
        f'{near["drawn"]:.0%} of those of the generator.'
    )


@of('depth_sets_second_look.json', 'models.md')
def second_look(report: Report) -> Iterator[str]:
    over, sets = report['over'], report['sets']
    means = [f'**{over[key]["abs_rel"]:.3f}**' for key in over]
    worst = over['all real sets']['worst']
    kinect = sets['kinect_room_dev']['abs_rel']
    yield f'| {" | ".join(means)} | **{worst:.2f}** | **{kinect:.3f}** |'
    yield f'The shape stays ({over["all real sets"]["abs_rel_median_scaled"]:.3f} scaled)'
    yield f'from 0.713 to {sets["motorcycle"]["abs_rel"]:.3f}'
    yield f'from 3.40 to {sets["apc_shelf_f200"]["abs_rel"]:.2f}'
    yield f'`aims_lab_d435` 0.292 to {sets["aims_lab_d435"]["abs_rel"]:.3f}'
    for name in ('tum_fr3_cabinet', 'ycbv_tabletop', 'cleargrasp_d435', 'apc_shelf_f200'):
        yield f'{sets[name]["within_2std"]:.0%} (`{name}`)'


# --- the tests -----------------------------------------------------------------------------------

PAGES = {page: (DOCS / page).read_text() for page, _ in CLAIMED.values()}


@pytest.mark.parametrize('name', CLAIMED)
def test_page_says_what_was_measured(name: str):
    page, claims = CLAIMED[name]
    report = json.loads((RESULTS / name).read_text())
    text = PAGES[page]
    if claims is maps:
        (text,) = [line for line in text.splitlines() if f'(results/{name}) |' in line]
    missing = [claim for claim in claims(report) if claim not in text]
    assert not missing, f'docs/{page} does not say, of docs/results/{name}:\n' + '\n'.join(missing)


def test_every_report_is_held_against_a_page():
    assert {file.name for file in RESULTS.iterdir()} == {*CLAIMED, *ELSEWHERE}
