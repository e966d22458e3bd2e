"""Topics of the node, and where users read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from sharp_ros.config import SharpConfig
from sharp_ros.ros.outputs import _topics

pytestmark = pytest.mark.ros

README = (Path(__file__).parents[2] / 'README.md').read_text()


@pytest.mark.parametrize('metric', [True, False])
def test_the_table_of_topics_names_every_output(metric):
    rows = [line for line in README.splitlines() if line.startswith('| `~/')]
    topics = _topics(SharpConfig(), metric=metric)
    assert len(topics) >= 3
    for topic in topics:
        folder, _, last = topic.rpartition('/')
        if topic.startswith('view/'):
            folder = 'view/<name>'
        beside = [row for row in rows if folder and f'`~/{folder}/' in row]
        assert any(f'`~/{topic}`' in row for row in rows) or any(
            f'/{last}`' in row or f'`{last}`' in row for row in beside
        ), topic
