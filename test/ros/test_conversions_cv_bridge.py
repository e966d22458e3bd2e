"""Our decoder against the compiled cv_bridge, which runs in the interpreter it was built for."""

from __future__ import annotations

from pathlib import Path
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('sensor_msgs', reason='needs the ROS message packages')

from sharp_ros.ros import conversions

pytestmark = pytest.mark.ros

WIDTH, HEIGHT = 22, 18
# The venv's packages must not reach the system interpreter (-E), but a ROS installation lives in
# PYTHONPATH: try both.
INTERPRETERS = (('/usr/bin/python3', '-E'), ('/usr/bin/python3',))
SCRIPT = """
import sys
from types import SimpleNamespace
import numpy as np
from cv_bridge import CvBridge, CvBridgeError
from cv_bridge.boost.cv_bridge_boost import cvtColor2

bridge, images = CvBridge(), {}
messages = np.load(sys.argv[1])
for key in messages.files:
    encoding, width, height, step, big_endian = key.split(',')
    msg = SimpleNamespace(
        encoding=encoding, width=int(width), height=int(height), step=int(step),
        is_bigendian=int(big_endian), data=messages[key].tobytes(),
    )
    try:
        images[key] = bridge.imgmsg_to_cv2(msg, 'rgb8')
    except CvBridgeError as error:
        print(encoding, 'is unknown to cv_bridge:', error)
np.savez(sys.argv[2], **images)
"""


@pytest.fixture(scope='module')
def messages() -> dict[str, SimpleNamespace]:
    """Noise in every packed encoding without padding, which cv_bridge's Python half ignores."""
    rng = np.random.default_rng(0)
    result = {}
    for encoding, (item_size, channels, _) in conversions._PACKED.items():
        step = WIDTH * item_size * channels
        for big_endian in range(item_size):
            result[f'{encoding},{WIDTH},{HEIGHT},{step},{big_endian}'] = SimpleNamespace(
                encoding=encoding,
                width=WIDTH,
                height=HEIGHT,
                step=step,
                is_bigendian=big_endian,
                data=rng.integers(0, 256, HEIGHT * step, np.uint8),
            )
    return result


@pytest.fixture(scope='module')
def decoded(
    messages: dict[str, SimpleNamespace], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """What cv_bridge makes of the messages it knows."""
    folder: Path = tmp_path_factory.mktemp('cv_bridge')
    given, taken = folder / 'messages.npz', folder / 'images.npz'
    np.savez(given, **{key: msg.data for key, msg in messages.items()})
    errors = ''
    for interpreter in INTERPRETERS:
        run = subprocess.run(
            [*interpreter, '-c', SCRIPT, given, taken], capture_output=True, text=True, check=False
        )
        if run.returncode == 0:
            return dict(np.load(taken))
        errors += run.stderr
    if 'No module named' in errors:
        pytest.skip('compiled cv_bridge is not installed: apt install python3-cv-bridge')
    pytest.fail(f'cv_bridge does not run: {errors}')


def test_cv_bridge_knows_the_encodings_ros_had_from_the_start(
    decoded: dict[str, np.ndarray],
) -> None:
    bayer = {f'bayer_{p}{bits}' for p in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)}
    plain = {f'{c}{bits}' for c in ('rgb', 'bgr', 'rgba', 'bgra', 'mono') for bits in (8, 16)}
    assert {key.split(',')[0] for key in decoded} >= bayer | plain | {'yuv422'}


def test_decoder_agrees_with_cv_bridge(
    messages: dict[str, SimpleNamespace], decoded: dict[str, np.ndarray]
) -> None:
    for key, expected in decoded.items():
        image = conversions.image_from_msg(messages[key])
        # One level: OpenCV's versions round 16-bit and YUV values differently.
        deep = messages[key].encoding.endswith('16') or 'yu' in messages[key].encoding
        assert image.shape == expected.shape, key
        assert np.abs(image.astype(int) - expected).max() <= int(deep), key
