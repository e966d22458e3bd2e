"""Which frames are fused."""

from __future__ import annotations

import numpy as np
import pytest

from sharp_ros.config import KeyframeConfig
from sharp_ros.errors import InputError
from sharp_ros.mapping.fusion_schedule import FusionSchedule
from sharp_ros.se3 import matrix_from_quat, transform


def test_frames_are_due_after_distance_turn_or_time():
    schedule = FusionSchedule(KeyframeConfig())
    assert schedule.is_due(0, np.eye(4))
    schedule.note(5_000_000_000, np.eye(4))
    turned = transform(matrix_from_quat(np.array([1, 0.08, 0, 0])), np.zeros(3))  # 0.16 rad
    moved = transform(np.eye(3), np.array([0, 0, 0.11]))
    assert not schedule.is_due(5_900_000_000, np.eye(4))
    assert schedule.is_due(6_000_000_000, np.eye(4))
    assert schedule.is_due(5_000_000_000, turned)
    assert schedule.is_due(5_000_000_000, moved)
    assert schedule.is_due(1_000_000_000, np.eye(4))  # time went back


def test_first_frame_after_a_reset_is_due():
    schedule = FusionSchedule(KeyframeConfig())
    schedule.note(0, np.eye(4))
    assert not schedule.is_due(0, np.eye(4))
    schedule.reset()
    assert schedule.is_due(0, np.eye(4))


def test_pose_that_is_not_rigid_is_refused():
    with pytest.raises(InputError, match='pose'):
        FusionSchedule(KeyframeConfig()).is_due(0, np.diag([2.0, 1, 1, 1]))
