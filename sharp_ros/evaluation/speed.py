"""Speed and memory: every stage of a frame by itself, and a long run of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle
import time
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.evaluation.circumstances import rss_mb
from sharp_ros.frame_result import FrameResult, GAUSSIANS, OCCUPANCY, POINTS, SCAN
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.odometry import VisualOdometry
from sharp_ros.mapping.gaussian_map import GaussianMap
from sharp_ros.mapping.occupancy import OccupancyMap
from sharp_ros.mapping.surface_map import SurfaceMap
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import Pipeline
from sharp_ros.point_cloud import (
    clean_depth,
    depth_from_gaussians,
    organised_cloud,
    surface_depth,
)
from sharp_ros.rasterizer import rasterize
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.ros.conversions import cloud_to_msg, image_from_msg
from sharp_ros.scan import scan_from_depth
from sharp_ros.se3 import inverse, look_at
from sharp_ros.sources.base import CAMERA, WORLD
from sharp_ros.stereo import DepthCarrier, DepthRefiner, PredictedDepth
from sharp_ros.views import VIEW

WIDTH, HEIGHT = 640, 480
MAX_DRIFT_MB = 32.0  # between the warmed up and the last state of an endurance run
# A mild barrel of a webcam, plumb_bob: k1 k2 p1 p2 k3
_DISTORTION = (-0.28, 0.07, 0.0002, -0.0003, 0.0)
_WARM_UP = 3
_STAGE_BUDGET = 60.0  # seconds after which a stage has been run often enough
_FRAME_INTERVAL_NS = 100_000_000
_VIEW_TARGET, _MANY_TARGET = 1000 / 15, 1000 / 2  # ms: 15 Hz from the Gaussians of nano, 2 Hz


@dataclass(frozen=True)
class Stage:
    """One thing that is timed.

    Attributes:
        run: the work; called again and again with nothing kept.
        target_ms: what its median may cost on two cores; None where nothing was promised.
    """

    run: Callable[[], Any]
    target_ms: float | None = None


def measure(stage: Stage, runs: int) -> dict[str, Any]:
    """Median and 95th percentile over runs, after a warm-up, or why it could not be measured.

    A slow stage is run less often, at least once. A stage that needs a package which is not
    installed is reported with the reason.
    """
    times: list[float] = []
    end = time.perf_counter() + _STAGE_BUDGET
    try:
        for i in range(_WARM_UP + runs):
            late = time.perf_counter() > end
            if late and times:
                break
            start = time.perf_counter()
            stage.run()
            if i >= _WARM_UP or late:
                times.append((time.perf_counter() - start) * 1e3)
    except ModuleNotFoundError as error:
        return {'not_measured': f'{error.name} is not installed', 'target_ms': stage.target_ms}
    median = float(np.median(times))
    return {
        'median_ms': round(median, 3),
        'p95_ms': round(float(np.percentile(times, 95)), 3),
        'runs': len(times),
        'target_ms': stage.target_ms,
        'met': None if stage.target_ms is None else median <= stage.target_ms,
    }


def endurance(
    pipeline: Pipeline, make_frames: Callable[[], Iterator[Frame]], minutes: float
) -> dict[str, Any]:
    """Run every output of the pipeline on a moving camera and watch the resident memory.

    Args:
        pipeline: set up with its views.
        make_frames: gives a finite run of frames; it is started again at its end.
        minutes: how long; the first tenth is warm-up and not judged.

    Returns:
        Frames and their rate, memory after warm-up and at the end (MB), `drift_mb` between them,
        `drift_mb_per_minute` as the slope of a line through all samples, `met` if the drift is
        below `MAX_DRIFT_MB`.
    """
    wanted = _all_outputs(pipeline.config)
    frames = (frame for _ in count() for frame in make_frames())
    stamps = count(step=_FRAME_INTERVAL_NS)
    start = time.monotonic()
    samples: list[tuple[float, float]] = []  # minutes, MB
    processed = 0
    while (passed := (time.monotonic() - start) / 60) < minutes or len(samples) < 2:
        pipeline.process(replace(next(frames), stamp_ns=next(stamps)), wanted)
        processed += 1
        if passed >= minutes / 10:
            samples.append((passed, rss_mb()))
    at, rss = np.array(samples).T
    ends = max(1, len(rss) // 20)  # the median of a twentieth, since the allocator breathes
    first, last = float(np.median(rss[:ends])), float(np.median(rss[-ends:]))
    slope = float(np.polyfit(at, rss, 1)[0])
    return {
        'minutes': round(minutes, 3),
        'frames': processed,
        'rate_hz': round(processed / (time.monotonic() - start), 2),
        'rss_start_mb': round(first, 1),
        'rss_end_mb': round(last, 1),
        'rss_peak_mb': round(float(rss.max()), 1),
        'drift_mb': round(last - first, 1),
        'drift_mb_per_minute': round(slope, 3),
        'met': last - first <= MAX_DRIFT_MB,
    }


def stages(pipeline: Pipeline, frames: Sequence[Frame]) -> dict[str, Stage]:
    """The stages of a frame, each with its input made beforehand.

    What needs depth or pose takes the frames that have both.
    """
    config = pipeline.config
    first = frames[0]
    k = first.intrinsics
    raw_camera = CameraModel(
        k.width,
        k.height,
        K=tuple(k.matrix.ravel()),
        D=_DISTORTION,
        distortion_model='plumb_bob',
    )
    rectifier = Rectifier(raw_camera, False, 0.0, (k.width, k.height))
    drive = [
        (frame, frame.depth, frame.T_world_camera)
        for frame in (*frames, *reversed(frames))  # to and fro: a jump would lose the camera
        if frame.depth is not None and frame.T_world_camera is not None
    ]
    source, stamps = cycle(drive), count(step=_FRAME_INTERVAL_NS)
    sample = pipeline.process(replace(first, stamp_ns=next(stamps)), _all_outputs(config))
    seen = sample.gaussians
    assert seen is not None  # of the first frame
    occupancy = OccupancyMap(config.occupancy)
    fused = GaussianMap(config.gaussian_map)
    surface = SurfaceMap(config.surface_map)
    odometry = VisualOdometry(config.odometry)
    refiner, carrier = DepthRefiner(), DepthCarrier()
    carrier.remember(first, PredictedDepth(sample.depth, None, surface_depth(seen)), 1.0)
    following = replace(first, stamp_ns=first.stamp_ns + 1)

    def decode(encoding: str) -> Callable[[], Any]:
        msg = _image_msg(first.image, encoding)
        return lambda: rectifier.rectify(image_from_msg(msg))

    def predict() -> Any:
        return pipeline.engine.predict(first.image, k, first.depth)

    def make_depth() -> Any:
        raw = depth_from_gaussians(seen, k.width, k.height)
        return clean_depth(raw, config.point_cloud)

    def make_cloud() -> Any:
        return cloud_to_msg(organised_cloud(sample.depth, first.image, k), 0, 'camera')

    def make_scan() -> Any:
        _, _, T_world_camera = next(source)
        below = T_world_camera.copy()
        below[:2, 3] = 0.0  # a scan begins at its camera
        return scan_from_depth(sample.depth, k, below, config, sample.log_std)

    def map_frame() -> Any:
        # the depth of one frame along all poses: the window has to follow, as when driving
        _, _, T_world_camera = next(source)
        occupancy.integrate(sample.depth, k, T_world_camera)
        return occupancy.grid()

    def fuse() -> Any:
        _, _, T_world_camera = next(source)
        fused.integrate(seen, sample.depth, k, T_world_camera)

    def fuse_surface() -> Any:
        _, _, T_world_camera = next(source)
        surface.integrate(first.image, sample.depth, k, T_world_camera)

    def track() -> Any:
        frame, depth, _ = next(source)
        return odometry.register_frame(frame.image, depth, k, next(stamps))

    def refine() -> Any:
        frame, depth, T_world_camera = next(source)
        gray, std = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), np.full((2, 2), 0.2, np.float32)
        motion = refiner.refine(gray, k, next(stamps), T_world_camera, depth, std)
        return motion.applied(depth)

    def carry() -> Any:
        return carrier.carried(following, 1.0)

    def process() -> Any:
        frame, _, _ = next(source)
        return pipeline.process(replace(frame, stamp_ns=next(stamps)), {POINTS, OCCUPANCY})

    timed = {
        f'decode_rectify_{encoding}': Stage(decode(encoding), 3.0)
        for encoding in ('rgb8', 'bgr8', 'bayer_rggb8', 'yuv422_yuy2', 'nv12')
    }
    promised = pipeline.info.name != 'sharp'  # which has targets on a GPU only, see bench/gpu.sh
    timed['network'] = Stage(predict, 60.0 if promised else None)
    timed['depth'] = Stage(make_depth)
    timed['cloud_message'] = Stage(make_cloud, 8.0)
    timed['scan'] = Stage(make_scan, 2.0)
    timed['occupancy'] = Stage(map_frame, 10.0 if promised else None)
    timed['visual_odometry'] = Stage(track, 25.0 if promised else None)
    timed['fuse_keyframe'] = Stage(fuse, 40.0 if promised else None)
    timed['fuse_surface_keyframe'] = Stage(fuse_surface, 40.0 if promised else None)
    T_view_camera = inverse(next(iter(sample.views.values())).placement.T_parent_view)
    scenes = (('', seen, _VIEW_TARGET), ('_1.18M', _many(sample), _MANY_TARGET))
    for name, gaussians, target in scenes:
        for size in ((320, 240), (WIDTH, HEIGHT)):
            view = partial(rasterize, gaussians, k.resized(*size), T_view_camera)
            timed[f'view_{size[0]}x{size[1]}{name}'] = Stage(
                view, target if promised and size[0] == WIDTH else None
            )
    timed['carried_depth'] = Stage(carry, 4.0 if promised else None)
    timed['refinement'] = Stage(refine, 20.0 if promised else None)
    timed['whole_frame'] = Stage(process, 125.0 if promised else None)  # 8 Hz
    return timed


def _many(result: FrameResult) -> Gaussians:
    """As many Gaussians as SHARP makes, in its two layers, of the depth and image of a frame."""
    size = (768, 768)
    known = np.where(np.isfinite(result.depth), result.depth, np.nanmedian(result.depth))
    depth = torch.from_numpy(cv2.resize(known, size))
    image = torch.from_numpy(cv2.resize(result.frame.image, size)).permute(2, 0, 1) / 255
    layers = torch.stack([depth, 1.5 * depth])
    return gaussians_from_depth(layers, image, result.frame.intrinsics.resized(*size))


def _image_msg(rgb: np.ndarray, encoding: str) -> SimpleNamespace:
    """What the decoder reads of a `sensor_msgs/Image`, without needing ROS to be installed.

    The content of mosaics and chroma planes is arbitrary: decoding takes as long for any.
    """
    height, width = rgb.shape[:2]
    rows, row_bytes = {
        'bayer_rggb8': (height, width),
        'yuv422_yuy2': (height, 2 * width),
        'nv12': (height * 3 // 2, width),
    }.get(encoding, (height, 3 * width))
    data = np.resize(rgb, rows * row_bytes).tobytes()
    return SimpleNamespace(
        width=width, height=height, encoding=encoding, step=row_bytes, is_bigendian=0, data=data
    )


def _all_outputs(config: SharpConfig) -> set[str]:
    return {GAUSSIANS, OCCUPANCY, POINTS, SCAN, *(VIEW + name for name in config.views)}


def plain_frames() -> Iterator[Frame]:
    """Coloured blobs seen by a camera that moves ahead: nothing to build, nothing to install."""
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    intrinsics = Intrinsics.from_hfov(1.2, WIDTH, HEIGHT)
    depth = np.full((HEIGHT, WIDTH), 2, np.float32)
    for i in range(50):
        eye = np.array([0.05 * i, 0.0, 1.0])
        pose = look_at(eye, eye + np.array([1.0, 0.0, -0.1]), np.array([0.0, 0.0, 1.0]))
        yield Frame(image, intrinsics, i * _FRAME_INTERVAL_NS, CAMERA, pose, WORLD, depth)
