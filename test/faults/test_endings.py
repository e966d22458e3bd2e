"""Node and camera of one launch, ended together; `bench/endings.py` does so for long."""

from __future__ import annotations

from pathlib import Path
import shutil

import endings
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.ros


@pytest.mark.skipif(shutil.which('setpriv') is None, reason='needs setpriv, of util-linux')
@pytest.mark.parametrize('way', endings.WAYS)
def test_node_and_camera_end_cleanly_together(way, monkeypatch):
    # the transports in which Fast DDS may wait for ever; the range LOCALHOST overrules them
    monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    with endings.orphans_adopted():
        outcome = endings.ending(*endings.STAND_IN, endings.WAYS[way])
    assert not outcome.fault, outcome.fault
    assert outcome.end < endings.LIMIT
