"""What many tests share: exact little worlds and predictors that know the truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
import sys

import pytest

from sharp_ros.process import prepare_process, TRANSPORTS, TRANSPORTS_FOR_IMAGES

sys.path.append(str(Path(__file__).parents[1] / 'bench'))  # last: plain names, such as answers.py
prepare_process()  # as our programs do, before torch is imported
# A virtual environment with ROS wheels is a ROS prefix; rclpy looks for its middleware there.
if 'AMENT_PREFIX_PATH' not in os.environ:
    os.environ['AMENT_PREFIX_PATH'] = sys.prefix
# Tests of two checkouts on one machine must not hear each other.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 50)
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault(TRANSPORTS, TRANSPORTS_FOR_IMAGES)


def pytest_terminal_summary(terminalreporter):
    """Leave in a file, if `make test` asks for it, what was not run and why."""
    path = os.environ.get('SHARP_TALLY')
    if not path:
        return
    stats = terminalreporter.stats
    skips = [
        (report.nodeid.partition('::')[0], report.longrepr[2].removeprefix('Skipped: '))
        for report in stats.get('skipped', [])
    ]
    with Path(path).open('a') as file:
        print(json.dumps({'passed': len(stats.get('passed', [])), 'skipped': skips}), file=file)


@pytest.fixture(scope='module')
def one_thread():
    """Small convolutions on shared cores are fastest on one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """The graph of a copy of the shipped nano, with its weights beside it, to be tampered with."""
    from sharp_ros import models

    for name in ('nano.onnx', 'nano.safetensors'):
        (tmp_path / name).write_bytes((models.WEIGHTS_FOLDER / name).read_bytes())
    monkeypatch.setattr(models, 'WEIGHTS_FOLDER', tmp_path)
    return tmp_path / 'nano.onnx'
