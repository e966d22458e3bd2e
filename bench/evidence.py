"""Everything that is claimed of this package, measured anew by one command, on one page.

    python bench/evidence.py [--quick] [--recordings FOLDER] [--only PATTERN...] [FOLDER]

calls the measurements that there are, one after the other, and writes FOLDER/index.html, which
needs no other file, and FOLDER/evidence.json with every number; reports and logs of the single
measurements lie beside. What fails is named on the page with the end of its log, and what this
machine lacks as "not run here"; the others are measured all the same.

Exit code: 0; 1 where a measurement failed, or a test with files of others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from importlib import metadata, util
import json
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time
from typing import Any
import xml.etree.ElementTree as ET

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evidence_page import page

from sharp_ros.evaluation.circumstances import commit, machine
from sharp_ros.files import write_atomically

Report = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RECORDING = 'kinect_room_dev'  # of the folder of recordings: depth and poses at 30 Hz
LONGEST = 3600.0  # seconds of one measurement; --quick: a third
PICTURE = 'overview.png'  # of the demo
LOG_LINES = 12  # of a log, on the page
# Packages whose versions decide what is measured; those not installed are left out.
PACKAGES = (
    *('numpy', 'numba', 'torch', 'onnxruntime', 'openvino', 'opencv-python-headless', 'open3d'),
    *('rosbags', 'ros-rclpy', 'ros-rmw-fastrtps-cpp', 'gsplat'),
)


@dataclass(frozen=True)
class Measurement:
    """One command that leaves a report.

    Attributes:
        name: of its files, and on the page.
        command: `sharp-ros` and its arguments, or a Python program below the checkout and its
            arguments; {json} is the file of the report, {folder} a folder, {recording} one
            recording, {recordings} the folder of all.
        full: further arguments of a thorough run.
        quick: those of --quick instead.
        ros: whether rclpy is needed.
    """

    name: str
    command: tuple[str, ...]
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    ros: bool = False

    def arguments(self, *, quick: bool) -> tuple[str, ...]:
        """The command in full."""
        return (*self.command, *(self.quick if quick else self.full))


def _eval(name: str, kind: str, source: str, *rest: str, **runs: tuple[str, ...]) -> Measurement:
    command = ('sharp-ros', 'eval', kind, source, '--json', '{json}', *rest)
    return Measurement(name, command, **runs)


_SEEDS = {'full': ('--seeds', '20'), 'quick': ('--seeds', '1')}
_MINUTES = {'full': ('--minutes', '5'), 'quick': ('--minutes', '0.2', '--max-frames', '40')}
_ROOMS = {'full': ('--seeds', '3'), 'quick': ('--seeds', '1')}

# Files of this package in the hands of others, and theirs in its own: what, with whom, the test.
EXCHANGED = (
    ('outputs over DDS', 'Cyclone DDS', 'ros/test_interoperability.py::test_another_dds_vendor'),
    ('a camera over DDS', 'Cyclone DDS', 'ros/test_interoperability.py::test_a_camera_of_another'),
    ('bags read and outputs recorded', 'rosbags', 'ros/test_interoperability.py::test_a_bag_of'),
    ('image, depth and camera_info', 'Open3D', 'ros/test_interoperability.py::test_open3d_makes'),
    ('results as a bag', 'rclpy', 'ros/test_result_bag.py::test_every_message_is_read_by_ros'),
    ('encodings of images', 'cv_bridge', 'ros/test_conversions_cv_bridge.py::'),
    ('clouds and mesh of a map', 'Open3D', 'test_map_files.py::test_clouds_and_mesh_are_read'),
    ('Gaussians as PLY', 'reference file of SHARP', 'test_gaussians.py::test_file_of_sharp'),
    ('Gaussians of 3DGS tools', 'PLY of other writers', 'test_gaussians.py::test_file_of_a_3dgs'),
    ('rendered Gaussians', 'gsplat', 'test_rasterizer_gsplat.py::test_reference_draws_what'),
    ('networks as ONNX', 'ONNX Runtime', 'test_export.py::test_an_exported_nano_gives'),
)

MEASUREMENTS = (
    Measurement(
        'stages',
        ('sharp-ros', 'bench', '--json', '{json}'),
        full=('--minutes', '5'),
        quick=('--quick', '--minutes', '0.2'),
    ),
    Measurement(
        'ros',
        ('sharp-ros', 'bench', 'ros', '--json', '{json}'),
        quick=('--seconds', '4'),
        ros=True,
    ),
    Measurement(
        'demo',
        ('sharp-ros', 'demo', '--output', '{folder}'),
        full=('--duration', '30'),
        quick=('--duration', '8'),
        ros=True,
    ),
    Measurement(
        'answers',
        ('bench/answers.py', '--json', '{json}'),
        full=('--calls', '20'),
        quick=('--calls', '2'),
        ros=True,
    ),
    Measurement('accuracy', ('bench/nano_report.py', '--json', '{json}'), quick=('--quick',)),
    Measurement(
        'accuracy_sets',
        ('bench/depth_sets.py', '{recordings}', '--json', '{json}'),
        quick=('--quick',),
    ),
    Measurement(
        'refinement',
        ('bench/refinement.py', 'room:0', '--json', '{json}'),
        quick=('--every', '4'),
    ),
    Measurement(
        'refinement_recording',
        ('bench/refinement.py', '{recording}', '--json', '{json}'),
        quick=('--every', '4'),
    ),
    _eval('scale', 'scale', 'synthetic', **_SEEDS),
    _eval(
        *('scale_recording', 'scale', '{recording}'),
        full=('--stride', '10'),
        quick=('--stride', '60'),
    ),
    _eval('map_true', 'maps', 'synthetic', '--depth', 'true', **_SEEDS),
    _eval('map_nano', 'maps', 'synthetic', **_ROOMS),
    _eval('map_nano_poses_given', 'maps', 'synthetic', '--poses', 'source', **_ROOMS),
    _eval('map_recording', 'maps', '{recording}', '--poses', 'source'),
    _eval(
        *('hazards', 'maps', 'synthetic', '--first-seed', '100', '--seeds', '1'),
        full=('--hazards',),
        quick=('--hazards', '1.4 m/s at 1.5 m'),
    ),
    _eval('views', 'views', 'motorcycle'),
    _eval('views_rooms', 'views', 'synthetic', quick=('--max-frames', '2')),
    _eval('optimised', 'views', 'synthetic', '--against', 'optimiser', **_MINUTES),
    _eval('optimised_recording', 'views', '{recording}', '--against', 'optimiser', **_MINUTES),
    Measurement(
        'exchanged',
        ('-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--junitxml', '{folder}.xml'),
    ),
)


# --- one measurement ----------------------------------------------------------------------------


def measured(what: Measurement, folder: Path, recordings: Path | None, *, quick: bool) -> Report:
    """Run a command and read what it left.

    Returns:
        `state` (`ok`, `failed` or `not run here`), `command`, `seconds`, and `report` where there
        is one, a `reason` where it is not `ok`.
    """
    arguments = what.arguments(quick=quick)
    missing = _missing(what, arguments, recordings)
    if missing:
        return {'state': 'not run here', 'reason': missing, 'command': _shown(arguments)}
    json_file = folder / f'{what.name}.json'
    places = {
        'json': json_file,
        'folder': folder / what.name,
        'recordings': recordings,
        'recording': recordings and recordings / RECORDING,
    }
    arguments = tuple(part.format(**places) for part in arguments)
    if what.name == 'exchanged':
        arguments += tuple(sorted({f'test/{test.partition("::")[0]}' for *_, test in EXCHANGED}))
        arguments += ('-k', ' or '.join(_chosen()))
    # of an earlier run, which would pass for what this one has found
    left = (f'{what.name}.xml', f'{what.name}/report.json', f'{what.name}/{PICTURE}')
    for old in (json_file, *(folder / name for name in left)):
        old.unlink(missing_ok=True)
    start = time.monotonic()
    code = _run(arguments, folder / f'{what.name}.log', LONGEST / (3 if quick else 1))
    found: Report = {'command': _shown(arguments), 'seconds': time.monotonic() - start}
    try:
        report = _report(what, json_file, folder)
    except (OSError, ValueError, ET.ParseError):
        said = _end_of(folder / f'{what.name}.log')
        return {**found, 'state': 'failed', 'reason': f'exit code {code} and no report\n{said}'}
    found |= {'state': 'ok', 'exit_code': code, 'report': report}
    # a report is evidence also where it says that something is missed, as an exit code does;
    # but tests that failed, or could not be collected, have shown nothing
    if what.name == 'exchanged' and code:
        said = _end_of(folder / f'{what.name}.log')
        found |= {'state': 'failed', 'reason': f'exit code {code}\n{said}'}
    return found


def _end_of(log: Path) -> str:
    return '\n'.join(log.read_text(errors='replace').splitlines()[-LOG_LINES:])


def _shown(arguments: Sequence[str]) -> str:
    """As people would call it."""
    return shlex.join(arguments if arguments[0] == 'sharp-ros' else ('python', *arguments))


def _missing(what: Measurement, arguments: Sequence[str], recordings: Path | None) -> str | None:
    """What this machine lacks, if anything."""
    if what.ros and util.find_spec('rclpy') is None:
        return 'rclpy is not installed'
    if any('{recording' in part for part in arguments):
        if recordings is None:
            return 'no recordings: make evidence RECORDINGS=FOLDER'
        if '{recording}' in arguments and not (recordings / RECORDING).is_dir():
            return f'no {RECORDING} in {recordings}'
    return None


def _chosen() -> list[str]:
    """Expressions for pytest -k, one a test or, where a whole file is meant, its name."""
    parts = [test.rpartition('::') for *_, test in EXCHANGED]
    return [test or Path(file).stem for file, _, test in parts]


def _run(arguments: Sequence[str], log: Path, seconds: float) -> int:
    """The exit code; all output goes into the log."""
    command = [sys.executable, *arguments]
    if arguments[0] == 'sharp-ros':
        command = [str(Path(sys.executable).with_name('sharp-ros')), *arguments[1:]]
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep)
    with log.open('wb') as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': path},
            start_new_session=True,  # so that what it started ends with it
        )
        try:
            return process.wait(seconds)
        except BaseException as ending:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(ending, subprocess.TimeoutExpired):
                raise
            output.write(f'\nended after {seconds:.0f} s\n'.encode())
            return 124


def _report(what: Measurement, json_file: Path, folder: Path) -> Any:
    if what.name == 'exchanged':
        return list(exchanged(folder / 'exchanged.xml'))
    file = folder / 'demo' / 'report.json' if what.name == 'demo' else json_file
    return json.loads(file.read_text())


def exchanged(file: Path) -> Iterator[Report]:
    """What of `EXCHANGED` passed, failed or was skipped, from the report of pytest (JUnit)."""
    cases = list(ET.parse(file).iter('testcase'))
    for what, peer, test in EXCHANGED:
        path, _, name = test.partition('::')
        module = 'test.' + path.removesuffix('.py').replace('/', '.')
        own = [
            case
            for case in cases
            if case.get('classname') == module and case.get('name', '').startswith(name or 'test')
        ]
        skips = [skip.get('message', '') for case in own for skip in case.iter('skipped')]
        failed = sum(
            case.find('failure') is not None or case.find('error') is not None for case in own
        )
        yield {
            'what': what,
            'peer': peer,
            'tests': len(own),
            'passed': len(own) - failed - len(skips),
            'failed': failed,
            'not_run': len(skips),
            'reason': skips[0] if skips else '',
        }


# --- all of them --------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    found = {'python': sys.version.partition(' ')[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; see the top of this file for the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    add = parser.add_argument
    add('folder', type=Path, nargs='?', default=Path('out/evidence'), help='folder for the page')
    add('--quick', action='store_true', help='few runs of each, to see that all of it works')
    add('--recordings', type=Path, help=f'folder of RGB-D folders in TUM layout, one {RECORDING}')
    add('--only', nargs='+', default=['*'], metavar='PATTERN', help='names, as in a shell')
    args = parser.parse_args(arguments)
    folder: Path = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    recordings = args.recordings and args.recordings.resolve()
    parts: Report = {}
    evidence: Report = {
        'machine': machine(),
        'versions': versions(),
        'commit': commit(),
        'begun': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'quick': args.quick,
        'command': shlex.join(['python', 'bench/evidence.py', *(arguments or sys.argv[1:])]),
        'measurements': parts,
    }
    start = time.monotonic()
    for what in MEASUREMENTS:
        if not any(fnmatch(what.name, pattern) for pattern in args.only):
            continue
        print(f'{what.name} ...', end=' ', flush=True)
        parts[what.name] = found = measured(what, folder, recordings, quick=args.quick)
        print(found['state'], f'{found.get("seconds", 0):.0f} s', found.get('reason', ''))
        evidence['seconds'] = time.monotonic() - start
        # after each, so that whatever ends the run, what was measured is there
        write_atomically(folder / 'evidence.json', json.dumps(evidence, indent=1) + '\n')
        write_atomically(folder / 'index.html', page(evidence, folder / 'demo' / PICTURE))
    print(folder / 'index.html')
    return int(any(part['state'] == 'failed' for part in parts.values()))


if __name__ == '__main__':
    sys.exit(main())
