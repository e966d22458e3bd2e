"""Starts and ends the launch files again and again, and says how well that goes.

    python bench/endings.py --times 30 [--cold] [--json out/endings.json]

With the real `ros2 launch`, where it is installed, or with a stand-in that starts node and camera
as it does (`--stand-in`). The ways are Ctrl-C in the terminal (SIGINT to all processes), once and
twice, SIGTERM to the launch alone, and SIGTERM to all processes, as systemd does. Clean is an end
within 5 s, with exit code 0 of every process of ours, without a line of the level ERROR, and with
exit code 0 of the launch itself after Ctrl-C; it has no handler for SIGTERM, in humble, jazzy and
rolling, and dies of it, as it may of a second Ctrl-C that comes when all that it started has ended
and Python is leaving. Told of a start are its time until all nodes are active and how often it
had to ask again; with `--cold` each compiles the kernels, as the first start on a machine does.
Ends with 1 if any start or end was not clean.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
from dataclasses import dataclass
import json
import os
from pathlib import Path
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

LIMIT = 5.0  # seconds
START = 240.0
_LAUNCH = ['ros2', 'launch', 'sharp_ros']
LAUNCHES = {  # commands, and how many nodes each has
    'demo': ([*_LAUNCH, 'demo.launch.py', 'rviz:=false'], 1),
    'single': ([*_LAUNCH, 'sharp.launch.py'], 1),
    'two cameras': ([*_LAUNCH, 'multi_camera.launch.py', 'cameras:=front,rear'], 2),
}
# as launch does: ignores Ctrl-C until its processes have ended, has no handler for SIGTERM, and
# its processes are told when it dies
_STAND_IN = """
import signal, subprocess, sys
program = 'from sharp_ros.ros.programs import {0}; {0}()'
topics = ('image', 'camera_info', 'odometry')
remap = [part for t in topics for part in ('-r', f'{t}:=/camera/{t}')]
commands = {
    'sharp_node': ['--ros-args', *remap], 'sharp_camera': [], 'sharp_autostart': ['/sharp'],
}
processes = [
    subprocess.Popen(
        ['setpriv', '--pdeathsig', 'INT', sys.executable, '-c', program.format(name), *arguments]
    )
    for name, arguments in commands.items()
]
signal.signal(signal.SIGINT, lambda *_: None)
sys.exit(max(abs(process.wait()) for process in processes))
"""
STAND_IN = ([sys.executable, '-c', _STAND_IN], 1)
PROGRAMS = ('sharp_node', 'sharp_camera', 'sharp_autostart')


def _twice(launch):
    os.killpg(launch, signal.SIGINT)
    time.sleep(0.3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(launch, signal.SIGINT)


WAYS = {
    'Ctrl-C': lambda launch: os.killpg(launch, signal.SIGINT),
    'Ctrl-C twice': _twice,
    'SIGTERM to the launch': lambda launch: os.kill(launch, signal.SIGTERM),
    'SIGTERM to all': lambda launch: os.killpg(launch, signal.SIGTERM),
}
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Outcome:
    """What became of one start and one end; times in seconds, `fault` empty if all was clean."""

    fault: str
    start: float
    asked_again: int = 0
    end: float = 0.0


def main(argv: list[str] | None = None) -> int:
    """Run as described above."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--times', type=int, default=30, help='ends of each launch in each way')
    parser.add_argument('--only', default='', help='names of launches or ways, by comma')
    parser.add_argument('--cold', action='store_true', help='compile kernels at each start')
    parser.add_argument('--stand-in', action='store_true', help='a stand-in for ros2 launch')
    parser.add_argument('--json', type=Path, help='file for the report')
    args = parser.parse_args(argv)
    launches = {'stand-in': STAND_IN} if args.stand_in else LAUNCHES
    if not args.stand_in and shutil.which('ros2') is None:
        sys.exit('ros2 is not there: source the set-up file of your distribution, or --stand-in')
    only = set(filter(None, args.only.split(',')))
    if unknown := only - {*launches, *WAYS}:
        sys.exit(f'{", ".join(sorted(unknown))}: none of {", ".join([*launches, *WAYS])}')
    chosen, ways = only & {*launches} or {*launches}, only & {*WAYS} or {*WAYS}
    columns = ('clean', 'start median s', 'longest', 'asked again', 'end median s', 'longest')
    table = Table('launch', 'way', *columns, 'load', title='starts and ends')
    report, bad = {}, 0
    for name, (command, nodes) in launches.items():
        for way, end in WAYS.items():
            if name not in chosen or way not in ways:
                continue
            with orphans_adopted():
                outcomes = [ending(command, nodes, end, args.cold) for _ in range(args.times)]
            faults = [outcome.fault for outcome in outcomes if outcome.fault]
            starts, ends = ([getattr(o, which) for o in outcomes] for which in ('start', 'end'))
            row = report[f'{name}, {way}'] = {
                'times': args.times, 'clean': args.times - len(faults), 'faults': faults,
                'start_median_s': round(statistics.median(starts), 1),
                'start_longest_s': round(max(starts), 1),
                'asked_again': sum(outcome.asked_again for outcome in outcomes),
                'end_median_s': round(statistics.median(ends), 2),
                'end_longest_s': round(max(ends), 2), 'load': round(os.getloadavg()[0], 1),
            }  # fmt: skip
            bad += len(faults)
            shown = [str(value) for key, value in row.items() if key not in ('times', 'faults')]
            table.add_row(name, way, f'{shown[0]} of {args.times}', *shown[1:])
            for fault in faults:
                print(f'{name}, {way}: {fault}', flush=True)
            if args.json is not None:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps(report, indent=2) + '\n')
    Console(width=120).print(table)
    return 1 if bad else 0


@contextlib.contextmanager
def orphans_adopted():
    """Orphans of a launch that dies become children of this process, which sees how they end."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


def ending(command, nodes, end, cold=False):
    """Start a launch, let it work for a moment, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / 'launch.log'
        cache = {'NUMBA_CACHE_DIR': folder} if cold else {}
        with log.open('wb') as output:
            launch = subprocess.Popen(
                command, env={**os.environ, **cache},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        started = time.monotonic()
        while log.read_text().count(' is active') < nodes:
            if launch.poll() is not None or time.monotonic() - started > START:
                _kill(launch.pid)
                return Outcome(f'did not start:\n{log.read_text()}', START)
            time.sleep(0.1)
        start = time.monotonic() - started
        time.sleep(1.0)
        ours = {pid for pid in _group(launch.pid) if _program(pid)}
        began = time.monotonic()
        end(launch.pid)
        codes = {}
        while {launch.pid, *ours} - codes.keys() and time.monotonic() - began < 3 * LIMIT:
            codes |= _ended()
            codes |= {pid: 0 for pid in ours - codes.keys() if not Path(f'/proc/{pid}').exists()}
            time.sleep(0.02)
        seconds = time.monotonic() - began
        text = log.read_text()
        _kill(launch.pid)
    faults = [f'process {pid} did not end' for pid in ours - codes.keys()]
    faults += [f'process {pid} ended with {codes[pid]}' for pid in ours if codes.get(pid)]
    faults += ['the launch did not end'] * (launch.pid not in codes)
    ends = [0, -signal.SIGTERM]
    if text.count('process has finished cleanly') == text.count('process started with pid'):
        ends.append(-signal.SIGINT)
    if codes.get(launch.pid) not in ends:
        faults.append(f'the launch ended with {codes.get(launch.pid)}')
    faults += re.findall(r'.*(?:\[ERROR\]|Traceback|has died).*', text)
    faults += [f'it took {seconds:.1f} s'] * (seconds > LIMIT)
    fault = '; '.join([*faults, text]) if faults else ''
    return Outcome(fault, start, text.count('again\n'), seconds)


def _group(leader):
    found = subprocess.run(
        ['pgrep', '-g', str(leader)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def _program(pid):
    try:
        command = Path(f'/proc/{pid}/cmdline').read_text()
    except OSError:
        return False
    # the whole command of a stand-in names all of them
    return 'subprocess' not in command and any(program in command for program in PROGRAMS)


def _ended():
    """Exit codes of orphans that have come to this process and ended."""
    codes = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return codes
            codes[pid] = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        return codes


def _kill(leader):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    _ended()


if __name__ == '__main__':
    sys.exit(main())
