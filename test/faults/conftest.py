"""Fixtures of the ROS tests, and how much is sent: a little, or with SHARP_SOAK=1 a lot."""

from __future__ import annotations

import json
import os
from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'test' / 'ros'))
pytest.importorskip('rclpy', reason='needs rclpy')

from fake_tf2 import tf2  # noqa: E402
from ros_helpers import context, executor, make_node, peer  # noqa: E402

__all__ = ['context', 'executor', 'make_node', 'peer', 'tf2']


@pytest.fixture(scope='session')
def long_form():
    return bool(os.environ.get('SHARP_SOAK'))


@pytest.fixture(scope='session')
def tally(long_form):
    """What was sent and what became of it, by name; the long form leaves it as a file."""
    numbers = {}
    yield numbers
    if long_form and numbers:
        path = ROOT / 'out' / 'soak' / 'faults.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(numbers, indent=2, sort_keys=True) + '\n')
