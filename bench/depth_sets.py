"""How good a depth model is over many small sets, real and rendered, by one command.

    python bench/depth_sets.py FOLDER [--model FILE] [--left-out SET=FILE...] [--json FILE]
    python bench/depth_sets.py FOLDER --update-docs

The sets: every folder within FOLDER that holds recorded images with depth, the motorcycle, and two
that are rendered: simulated rooms, and scenes of the training generator that no training draws.
The headline is the geometric mean over the real sets and the worst of them. `SPLIT` was fixed
before any training that it judges: some sets choose between weights, the others only report what
came of it. A set that weights were trained on counts with weights trained without it:
`--left-out`. Images themselves are never written.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
from pathlib import Path
import re
import shlex
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from bench.nano_report import (  # noqa: E402
    drawn_scenes,
    has_sky,
    room_views,
    rounded,
    table,
    weights_of,
)
from sharp_ros.camera import Frame  # noqa: E402
from sharp_ros.errors import ConfigError, InputError, SharpError  # noqa: E402
from sharp_ros.evaluation.depth_sets import BASELINES, judge_set, Look, over_sets  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.process import prepare_process  # noqa: E402

RESULTS = ROOT / 'docs' / 'results' / 'depth_sets.json'
PAGE = ROOT / 'docs' / 'models.md'

# Either half has rooms seen from afar and near things; a and b of a kind stay in one half.
# Folders that are not named only report.
SPLIT = {
    'kinect_room_dev': 'chooses',
    'aims_lab_d435': 'chooses',
    'ycbv_tabletop': 'chooses',
    'arc_tote_a': 'chooses',
    'arc_tote_b': 'chooses',
    'arc_tote_c': 'chooses',
    'tum_fr3_cabinet': 'reports',
    'motorcycle': 'reports',
    'cleargrasp_d435': 'reports',
    'apc_shelf_f200': 'reports',
}
RENDERED = ('rendered scenes, held out', 'simulated rooms')
SCENES = (30, 0)  # images indoors, outdoors
ROOMS = (8, 4)  # rooms, places in each
QUICK = 2  # images of each set, to see that it works


def real_sets(folder: Path) -> dict[str, Iterable[Frame]]:
    """Sets by name: the folders within one, and the motorcycle.

    Raises:
        ConfigError: if there is none.
    """
    from sharp_ros.evaluation.depth import motorcycle_frames
    from sharp_ros.sources import open_source

    folders = sorted(path.parent for path in folder.glob('*/rgb.txt'))
    if not folders:
        raise ConfigError(f'no folder within {folder} holds images in TUM layout (rgb.txt)')
    opened = {path.name: open_source(str(path), level=False).frames() for path in folders}
    return {**opened, 'motorcycle': motorcycle_frames()}


def rendered_sets(quick: bool) -> dict[str, Iterable[Frame]]:
    """Sets by name of `RENDERED`."""
    scenes, rooms = ((QUICK, 0), (1, QUICK)) if quick else (SCENES, ROOMS)
    views = (first for first, *_ in room_views(*rooms))
    indoors = (frame for frame in drawn_scenes(*scenes) if not has_sky(frame))
    return dict(zip(RENDERED, (indoors, views), strict=True))


def report_on(
    sets: Mapping[str, Iterable[Frame]], look: Look, others: Mapping[str, Look]
) -> dict[str, Any]:
    """What `judge_set` finds of every set with its `role`, and `over_sets` of the real ones.

    Args:
        sets: by name; those of `RENDERED` count in no mean.
        look: the model.
        others: by name of a set, models that were trained without it and judge it in its place.

    Raises:
        ConfigError: if a set of `others` is not there.
    """
    unknown = sorted(set(others) - set(sets))
    if unknown:
        raise ConfigError(f'--left-out: no set is named {unknown[0]}; known are {sorted(sets)}')
    judged: dict[str, dict[str, Any]] = {}
    for name, frames in sets.items():
        try:
            row = judge_set(frames, others.get(name, look))
        except InputError as error:
            raise InputError(f'{name}: {error}', error.reason) from error
        role = 'guards' if name in RENDERED else SPLIT.get(name, 'reports')
        judged[name] = {'role': role, 'left_out': name in others, **row}
    real = {name: row for name, row in judged.items() if name not in RENDERED}
    groups = {
        'all real sets': real,
        'sets that choose': {n: row for n, row in real.items() if row['role'] == 'chooses'},
        'sets that report': {n: row for n, row in real.items() if row['role'] == 'reports'},
    }
    return {'sets': judged, 'over': {key: over_sets(part) for key, part in groups.items() if part}}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    from itertools import islice

    from sharp_ros.config import ModelConfig
    from sharp_ros.engine import Engine
    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.evaluation.depth_sets import looking, second_look
    from sharp_ros.models import load_predictor, WEIGHTS_FOLDER

    def look_of(model: str) -> Look:
        look = looking(Engine(load_predictor(model)[0], ModelConfig()))
        return second_look(look) if args.second_look else look

    file = Path(args.model) if args.model != 'nano' else WEIGHTS_FOLDER / 'nano.safetensors'
    sets = {**real_sets(args.sets), **rendered_sets(args.quick)}
    if args.quick:
        sets = {name: islice(frames, QUICK) for name, frames in sets.items()}
    shown = {name: _counted(name, frames) for name, frames in sets.items()}
    others = {name: look_of(model) for name, model in args.left_out}
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return rounded(
        {
            'model': file.stem,
            'weights': {'file': file.name, 'bytes': file.stat().st_size, **weights_of(file)},
            'quick': args.quick,
            **report_on(shown, look_of(args.model), others),
            **circumstances(),
            'command': shlex.join(['python', 'bench/depth_sets.py', *words]),
        }
    )


def _counted(name: str, frames: Iterable[Frame]) -> Iterator[Frame]:
    for i, frame in enumerate(frames, 1):
        sys.stderr.write(f'\r{name}: {i} ')
        yield frame
    sys.stderr.write('\n')


# --- the page ------------------------------------------------------------------------------------

_SECTION = re.compile(r'(<!-- depth_sets -->\n).*?(<!-- /depth_sets -->)', re.DOTALL)


def tables(report: Mapping[str, Any]) -> str:
    """Markdown: the headline, and every set."""
    means = table(
        ('', 'sets', 'AbsRel', 'scaled', 'worst', 'scale spread', 'least within 2 std'),
        [
            (f'{group}: {text}', str(over['sets']), *_mean_cells(row))
            for group, over in report['over'].items()
            for text, row in {
                f'**{report["model"]}**': over,
                **{baseline.replace('_', ' '): over[baseline] for baseline in BASELINES},
            }.items()
        ],
    )
    return f'{means}\n\n{_sets_table(report)}'


def _mean_cells(row: Mapping[str, Any]) -> Sequence[str]:
    least = row.get('within_2std')
    return (
        f'{row["abs_rel"]:.3f}',
        f'{row["abs_rel_median_scaled"]:.3f}',
        f'{row["worst"]:.2f} ({row["worst_set"]})',
        f'{row["scale_std"]:.2f}',
        '' if least is None else f'{least:.0%} ({row["within_2std_set"]})',
    )


def _sets_table(report: Mapping[str, Any]) -> str:
    head = ('set', 'role', 'frames', 'AbsRel', 'scaled', 'scale', 'spread')
    rows = [
        (
            f'{name} (left out)' if row['left_out'] else name,
            row['role'],
            str(row['frames']),
            *(f'{row[key]:.3f}' for key in ('abs_rel', 'abs_rel_median_scaled')),
            f'{row["scale_median"]:.2f}',
            f'{row["scale_std"]:.2f}' if row['frames'] > 1 else '-',
            *(f'{row[k]:.0%}' if k in row else '-' for k in ('within_1std', 'within_2std')),
            *(
                f'{row[base]["abs_rel"]:.2f} / {row[base]["abs_rel_median_scaled"]:.2f}'
                for base in BASELINES
            ),
        )
        for name, row in report['sets'].items()
    ]
    return table((*head, 'within 1 std', 'within 2 std', 'constant', 'training mean'), rows)


def updated(page: str, report: Mapping[str, Any]) -> str:
    """The page with the section between its markers made from a report.

    Raises:
        ConfigError: if it has not one such section.
    """
    page, count = _SECTION.subn(lambda m: f'{m[1]}\n{tables(report)}\n\n{m[2]}', page)
    if count != 1:
        raise ConfigError('the page needs one "<!-- depth_sets -->" and "<!-- /depth_sets -->"')
    return page


def _left_out(text: str) -> tuple[str, str]:
    name, sign, file = text.partition('=')
    if not (name and sign and file):
        raise argparse.ArgumentTypeError(f'expected SET=FILE, got {text!r}')
    return name, file


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    prepare_process()
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    add = parser.add_argument
    add('sets', type=Path, metavar='FOLDER', help='folder of RGB-D folders in TUM layout')
    add('--model', default='nano', help='nano (default), or the path of weights of it')
    add(
        '--left-out',
        type=_left_out,
        nargs='+',
        default=(),
        metavar='SET=FILE',
        help='weights trained without a set, which judge it',
    )
    add('--second-look', action='store_true', help='metres of the softened image, see the page')
    add('--quick', action='store_true', help=f'{QUICK} images of each set, to see that it works')
    add('--json', type=Path, metavar='FILE', help='report file')
    add('--update-docs', action='store_true', help='results and page of the documentation')
    args = parser.parse_args(arguments)
    try:
        if (args.quick or args.second_look) and args.update_docs:
            raise ConfigError(
                'the page shows all images of the model alone; leave --quick, '
                '--second-look or --update-docs out'
            )
        report = measure(args)
        text = json.dumps(report, indent=2, ensure_ascii=False) + '\n'
        for file in (args.json, RESULTS if args.update_docs else None):
            if file is not None:
                write_atomically(file, text)
        sys.stdout.write(tables(report) + '\n')
        if args.update_docs:
            write_atomically(PAGE, updated(PAGE.read_text(), report))
    except SharpError as error:
        sys.stderr.write(f'{error}\n')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
