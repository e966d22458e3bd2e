"""What motion makes of predicted depth, with poses that are given, found, or wrong.

    python bench/refinement.py SOURCE... [--every 3] [--faults] [--network-rate 0] [--picture FILE]
        [--json FILE]

A source is a folder in TUM layout with poses, or `room:SEED`, a drive through a simulated room.
Each line is the mean over all images: AbsRel as it is and scaled by the median, of the network
alone, of its depth times the scale that the pipeline finds, and of that corrected by motion; then
which share of the pixels lies within one and two stated standard deviations. `--faults` adds poses
that are wrong, own odometry, images whose exposure jumps, and, of rooms, images of a rolling
shutter; no case should be worse than without, scaled, by more than 0.002. `--network-rate` is
`refinement.network_rate_hz`: below the rate of the images, the network's depth is carried in
between, and stands in the first column.
`--picture` shows, of four images of the first source: the image, the true depth, the depth before
and after, and the error before and after (red: too far). That in docs/images is of room:21:
recorded images are not ours to publish.
Parameters of `sharp_ros/stereo` were chosen on kinect_room_dev, tum_fr3_cabinet and the drives of
rooms 3 and 5.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
import json
from pathlib import Path
import sys
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from sharp_ros.camera import Frame, Intrinsics  # noqa: E402
from sharp_ros.config import (  # noqa: E402
    ModelConfig,
    PointCloudConfig,
    RefinementConfig,
    SharpConfig,
)
from sharp_ros.engine import Engine  # noqa: E402
from sharp_ros.evaluation.metrics import depth_metrics, MIN_TRUTH  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.frame_result import FrameResult  # noqa: E402
from sharp_ros.loading import load_engine  # noqa: E402
from sharp_ros.models import ModelInfo  # noqa: E402
from sharp_ros.pipeline import Pipeline  # noqa: E402
from sharp_ros.process import prepare_process  # noqa: E402
from sharp_ros.se3 import inverse, transform  # noqa: E402
from sharp_ros.sources import open_source  # noqa: E402
from sharp_ros.synthetic import Room  # noqa: E402

CAMERA = Intrinsics.from_hfov(1.1, 640, 480)
RATE_HZ, DURATION = 10.0, 6.0  # of a drive
SHUTTER, BANDS = 0.03, 12  # seconds of a rolling shutter, and strips that are rendered for it
SHOWN = (0.3, 0.5, 0.7, 0.95)  # of a sequence, in the picture
AS_PREDICTED = PointCloudConfig(min_range=0.0, max_range=1e6, edge_ratio=0.0)
Poses = list[np.ndarray]


def frames_of(source: str, every: int) -> list[Frame]:
    """Frames with poses and true depth."""
    if source.startswith('room:'):
        return list(drive(int(source[5:])))
    return [
        frame
        for frame in list(open_source(source).frames())[::every]
        if frame.depth is not None and frame.T_world_camera is not None
    ]


def drive(seed: int, shutter: float = 0.0) -> Iterator[Frame]:
    """Through a simulated room, with a camera that reads an image within so many seconds."""
    room = Room(seed)
    for i in range(round(DURATION * RATE_HZ)):
        t = 3.0 + i / RATE_HZ
        pose = room.pose(t)
        image, depth = room.render(CAMERA, pose)
        for band in np.array_split(np.arange(CAMERA.height), BANDS) if shutter else ():
            late = (band.mean() / CAMERA.height - 0.5) * shutter
            image[band], depth[band] = (p[band] for p in room.render(CAMERA, room.pose(t + late)))
        yield Frame(image, CAMERA, round(i / RATE_HZ * 1e9), 'camera', pose, 'world', depth)


def jumping(frames: list[Frame]) -> list[Frame]:
    """The same with an exposure that is another one for each image."""
    gains = np.random.default_rng(0).uniform(0.5, 1.5, len(frames))
    return [
        replace(frame, image=np.clip(frame.image * gain, 0, 255).astype(np.uint8))
        for frame, gain in zip(frames, gains, strict=True)
    ]


def disturbed(poses: Poses, shift: float, turn: float) -> Poses:
    """Noise of each pose, metres and rad."""
    rng = np.random.default_rng(0)
    return [
        pose
        @ transform(
            cv2.Rodrigues(turn * rng.standard_normal(3))[0], shift * rng.standard_normal(3)
        )
        for pose in poses
    ]


def slipping(poses: Poses, factor: float) -> Poses:
    """Steps that are too long by a factor."""
    out = [poses[0]]
    for before, after in pairwise(poses):
        step = inverse(before) @ after
        step[:3, 3] *= factor
        out.append(out[-1] @ step)
    return out


FAULTS: dict[str, Callable[[Poses], Poses]] = {
    'frozen': lambda poses: [poses[0]] * len(poses),
    'reversed': lambda poses: poses[::-1],
    'random, 30 cm and 17°': lambda poses: disturbed(poses, 0.3, 0.3),
    'one image late': lambda poses: [poses[0], *poses[:-1]],
    'jitter, 3 mm and 0.1°': lambda poses: disturbed(poses, 0.003, 0.0017),
    'jitter, 10 mm and 0.3°': lambda poses: disturbed(poses, 0.01, 0.005),
    'slip x1.3': lambda poses: slipping(poses, 1.3),
    'slip x2': lambda poses: slipping(poses, 2.0),
}


def run(
    engine: Engine, info: ModelInfo, frames: list[Frame], poses: Poses | None, rate_hz: float
) -> Iterator[FrameResult]:
    """Results of the pipeline, without a pose by visual odometry."""
    refinement = RefinementConfig(network_rate_hz=rate_hz)
    config = SharpConfig(point_cloud=AS_PREDICTED, views={}, refinement=refinement)
    pipeline = Pipeline(engine, info, config)
    pipeline.take_any_image()
    for i, frame in enumerate(frames):
        blind = replace(frame, depth=None, unseen=None, world_frame='world')
        pose = None if poses is None else poses[i]
        yield pipeline.process(replace(blind, T_world_camera=pose, up=None), set())


def steps_of(result: FrameResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth of the network alone, times its scale, and corrected by motion."""
    scale = 1.0 if result.scale is None else result.scale.value
    before = result.depth
    if result.refinement is not None:
        before = before / result.refinement.factors(before.shape)
    return before / np.float32(scale), before, result.depth


def judged(frames: list[Frame], results: Iterator[FrameResult]) -> dict[str, float]:
    """Means over all images."""
    rows = []
    for frame, result in zip(frames, results, strict=True):
        truth = frame.depth
        assert truth is not None
        row: dict[str, float] = {}
        for name, depth in zip(('network', 'scaled', 'refined'), steps_of(result), strict=True):
            metrics = depth_metrics(depth, truth)
            row[name] = metrics['abs_rel']
            row[f'{name}_median_scaled'] = metrics['abs_rel_median_scaled']
        std = result.log_std_image()
        known = np.isfinite(truth) & (truth >= MIN_TRUTH) & np.isfinite(result.depth)
        if std is not None:
            deviation = np.abs(np.log(result.depth[known] / truth[known])) / std[known]
            row |= {f'within_{n}_std': float(np.mean(deviation < n)) for n in (1, 2)}
        rows.append(row)
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def picture(frames: list[Frame], results: list[FrameResult]) -> np.ndarray:  # -> [H, W, 3] BGR
    """Rows of images; see the top of this module."""
    rows = []
    for share in SHOWN:
        i = int(share * (len(frames) - 1))
        frame, (_, before, after) = frames[i], steps_of(results[i])
        truth = frame.depth
        assert truth is not None
        known = np.isfinite(truth) & (truth >= MIN_TRUTH)
        low, high = np.log(np.percentile(truth[known], (2, 98)))
        tiles = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)]
        for depth in (truth, before, after):
            shade = (np.log(np.maximum(depth, 1e-3)) - low) / max(high - low, 1e-3)
            tiles.append(_coloured(1 - shade, cv2.COLORMAP_TURBO, known))
        for depth in (before, after):
            error = np.log(np.maximum(depth, 1e-3) / np.where(known, truth, 1))
            tiles.append(_coloured(error / 0.6 + 0.5, cv2.COLORMAP_TWILIGHT_SHIFTED, known))
        small = [cv2.resize(tile, (240, 180), interpolation=cv2.INTER_AREA) for tile in tiles]
        rows.append(np.hstack(small))
    return np.vstack(rows)


def _coloured(value: np.ndarray, colours: int, known: np.ndarray) -> np.ndarray:
    out = cv2.applyColorMap((255 * np.clip(value, 0, 1)).astype(np.uint8), colours)
    out[~known] = 60
    return out


def main() -> None:
    """Print a table, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('sources', nargs='+')
    parser.add_argument('--every', type=int, default=1, help='of recordings, every so many images')
    parser.add_argument('--faults', action='store_true')
    parser.add_argument('--network-rate', type=float, default=RefinementConfig().network_rate_hz)
    parser.add_argument('--picture', type=Path)
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    prepare_process()
    engine, info = load_engine(ModelConfig(name='nano', device='cpu'), 'cpu')
    report: dict[str, Any] = {'every': options.every, 'sources': {}}
    print('AbsRel / scaled by the median: network, times scale, refined; within 1 and 2 std')
    for source in options.sources:
        frames = frames_of(source, options.every)
        true = [frame.T_world_camera for frame in frames if frame.T_world_camera is not None]
        cases: dict[str, tuple[list[Frame], Poses | None]] = {'poses given': (frames, true)}
        if options.faults:
            cases |= {name: (frames, fault(true)) for name, fault in FAULTS.items()}
            cases |= {'own odometry': (frames, None), 'exposure jumps': (jumping(frames), true)}
            if source.startswith('room:'):
                cases['rolling shutter, 30 ms'] = (list(drive(int(source[5:]), SHUTTER)), true)
        found = report['sources'][Path(source).name] = {'frames': len(frames)}
        print(f'{Path(source).name}, {len(frames)} images')
        for name, (shown, poses) in cases.items():
            results = list(run(engine, info, shown, poses, options.network_rate))
            found[name] = row = judged(shown, iter(results))
            steps = ('network', 'scaled', 'refined')
            numbers = '  '.join(f'{row[s]:.3f} / {row[s + "_median_scaled"]:.3f}' for s in steps)
            within = [row.get(f'within_{n}_std', float('nan')) for n in (1, 2)]
            print(f'  {name:24} {numbers}   {within[0]:.0%} {within[1]:.0%}', flush=True)
            if options.picture is not None:
                cv2.imwrite(str(options.picture), picture(frames, results))
                options.picture = None
    if options.json is not None:
        write_atomically(options.json, json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
