"""Conversions of messages beside other ways of doing the same, in the same run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial
import json
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured
from sensor_msgs.msg import Image, PointCloud2, PointField

from sharp_ros.camera import Intrinsics
from sharp_ros.evaluation.speed import HEIGHT, WIDTH
from sharp_ros.point_cloud import organised_cloud
from sharp_ros.ros.conversions import cloud_to_msg, header_to_msg, image_from_msg, image_to_msg

FRAME_ID = 'camera_optical_frame'
INTRINSICS = Intrinsics.from_hfov(1.2, WIDTH, HEIGHT)
# cv_bridge is built for the interpreter of the system, where ours has to do without ROS
_DECODE_PROGRAM = """
import json, sys, time
from types import SimpleNamespace
sys.path.append(sys.argv[1])
import numpy as np
from cv_bridge import CvBridge
import cv_bridge.boost.cv_bridge_boost
from sharp_ros.ros.conversions import image_from_msg

width, height, runs = map(int, sys.argv[2:])
bridge, times = CvBridge(), {}
for encoding, size in {'bgr8': 3, 'bayer_rggb8': 1, 'yuv422': 2}.items():
    noise = np.random.default_rng(0).integers(0, 256, width * height * size, np.uint8)
    msg = SimpleNamespace(
        width=width, height=height, encoding=encoding, step=width * size, is_bigendian=0,
        data=noise.tobytes(),
    )
    times[encoding] = []
    for _ in range(runs):
        start = time.perf_counter()
        image_from_msg(msg)
        middle = time.perf_counter()
        bridge.imgmsg_to_cv2(msg, 'rgb8')
        times[encoding].append((middle - start, time.perf_counter() - middle))
print(json.dumps(times))
"""


def decode_comparison(runs: int) -> dict[str, Any]:
    """Our decoder, the plain way in NumPy, and cv_bridge where an interpreter has the real one."""
    msg = picture_msg()
    ours, plain = partial(image_from_msg, msg), partial(_decoded_by_numpy, msg)
    report: dict[str, Any] = {'numpy': {'bgr8': _compared(ours, plain, runs)}}
    root = str(Path(__file__).parents[2])
    for interpreter in ([sys.executable], ['/usr/bin/python3', '-E'], ['/usr/bin/python3']):
        command = [*interpreter, '-c', _DECODE_PROGRAM, root, *map(str, (WIDTH, HEIGHT, runs))]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        times = {name: 1e3 * np.array(pairs) for name, pairs in json.loads(output).items()}
        return {**report, 'cv_bridge': {name: _ratio(pairs) for name, pairs in times.items()}}
    return {**report, 'cv_bridge': 'not installed (the compiled one)'}


def _decoded_by_numpy(msg: Image) -> np.ndarray:  # -> [H, W, 3]
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
    return rows[:, : 3 * msg.width].reshape(msg.height, msg.width, 3)[..., ::-1].copy()


def cloud_comparison(runs: int) -> dict[str, Any]:
    """Our cloud message, and two ways by structured records."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cloud = organised_cloud(np.full((HEIGHT, WIDTH), 2, np.float32), image, INTRINSICS)
    ours = partial(cloud_to_msg, cloud, 0, FRAME_ID)
    return {
        'points': HEIGHT * WIDTH,
        'create_cloud': _compared(ours, partial(_create_cloud, cloud, as_bytes=False), runs),
        'tobytes': _compared(ours, partial(_create_cloud, cloud, as_bytes=True), min(runs, 20)),
    }


def _create_cloud(cloud: np.ndarray, *, as_bytes: bool) -> PointCloud2:
    """A cloud in the manner of `sensor_msgs_py.point_cloud2.create_cloud`: records, then bytes."""
    names = ('x', 'y', 'z', 'rgb')
    records = unstructured_to_structured(
        cloud.reshape(-1, 4),
        np.dtype(
            {
                'names': names,
                'formats': ['f4'] * 4,
                'offsets': [0, 4, 8, 12],
                'itemsize': 16,
            }
        ),
    )
    msg = PointCloud2(
        header=header_to_msg(0, FRAME_ID),
        height=1,
        width=len(records),
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(names)
        ],
        point_step=records.itemsize,
        row_step=records.nbytes,
    )
    if as_bytes:
        msg.data = records.tobytes()
    else:
        packed = array('B')
        packed.frombytes(records.data.cast('B'))
        msg.data = packed
    return msg


def picture_msg() -> Image:
    """Coloured blobs of all sizes, as images of a scene have, 8-bit BGR."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(5):
        coarse = rng.uniform(0, 51, (12 << octave, 16 << octave, 3)).astype(np.float32)
        pixels += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    msg = image_to_msg(pixels.astype(np.uint8), 0, FRAME_ID)
    msg.encoding = 'bgr8'
    return msg


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds that pass, and that this thread computes."""
    start, cpu = time.perf_counter(), time.thread_time()
    work()
    return (time.perf_counter() - start) * 1e3, (time.thread_time() - cpu) * 1e3


def rounded_median(values: Sequence[float] | np.ndarray) -> float:
    """To microseconds, if values are milliseconds."""
    return round(float(np.median(values)), 3)


def _compared(ours: Callable[[], Any], other: Callable[[], Any], runs: int) -> dict[str, float]:
    """In turns, so that both meet the same load."""
    return _ratio(np.array([(timed(ours)[0], timed(other)[0]) for _ in range(runs)]))


def _ratio(pairs: np.ndarray) -> dict[str, float]:  # [N, 2]: milliseconds of ours and the other
    ours, other = np.median(pairs, axis=0).tolist()
    return {
        'ours_ms': round(ours, 3),
        'other_ms': round(other, 3),
        'other_takes_times': round(float(np.median(pairs[:, 1] / pairs[:, 0])), 2),
    }
