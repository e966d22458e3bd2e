from __future__ import annotations

from dataclasses import replace
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from sharp_ros.errors import InputError
from sharp_ros.localization.imu_gravity import ImuGravity, ImuSample
from sharp_ros.se3 import matrix_from_quat, quat_from_matrix

BENCH = Path(__file__).parents[1] / 'bench' / 'imu_level.py'
STEP = 10_000_000  # ns, 100 Hz
START = 1_700_000_000 * 10**9
TIPPED = matrix_from_quat(np.array([0.9, 0.3, -0.2, 0.1]))  # R_world_imu of a mounting


@pytest.fixture(scope='module')
def bench():
    """Simulated motions, of which the numbers in docs/benchmark.md come, too."""
    import sys

    spec = importlib.util.spec_from_file_location('imu_level', BENCH)
    module = sys.modules['imu_level'] = importlib.util.module_from_spec(spec)
    first = sys.path[0]
    spec.loader.exec_module(module)
    sys.path[0] = first
    return module


def at_rest(i, R_world_imu=TIPPED, **changes):
    sample = ImuSample(
        START + i * STEP,
        'imu',
        angular_velocity=(0.0, 0.0, 0.0),
        acceleration=tuple(R_world_imu.T @ [0, 0, 9.81]),
    )
    return replace(sample, **changes)


def fed(*samples):
    gravity = ImuGravity()
    for sample in samples:
        gravity.add(sample)
    return gravity


def refused(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    return error.value.reason


def off(up, R_world_imu):
    """Degrees between a direction and what is up."""
    return math.degrees(math.acos(min(float(up @ R_world_imu[2]), 1.0)))


def quat(R_world_imu):
    return tuple(quat_from_matrix(R_world_imu))


@pytest.mark.parametrize(
    ('name', 'worst'), [('still', 2.0), ('robot', 5.0), ('handheld', 5.0), ('shaken', 6.0)]
)
@pytest.mark.parametrize('seed', [300, 301])
def test_the_level_is_found_in_motion_with_a_deviation_that_is_true(bench, name, worst, seed):
    """Random mountings; biases as of units sold. Errors in degrees."""
    rng = np.random.default_rng(seed)
    missed, stated, _ = bench.errors(
        *bench.samples(rng, name, bench.drawn_unit(rng, 100.0)), every=5
    )
    assert np.degrees(missed.max()) < worst
    assert np.mean(missed < 2 * stated) > 0.86  # of a Rayleigh law
    assert (missed < 3 * stated).mean() > 0.98
    assert np.degrees(np.median(stated)) < 4.0  # and says something


def test_a_robot_that_gathers_speed_evenly_is_not_taken_to_be_tilted():
    """1.5 m/s² for two seconds look like a tilt of 8.7 degrees."""
    gravity = fed(*(at_rest(i, np.eye(3)) for i in range(300)))
    worst = 0.0
    for i in range(300, 500):
        gravity.add(at_rest(i, np.eye(3), acceleration=(1.5, 0.0, 9.81)))
        up = gravity.up(START + i * STEP)
        worst = max(worst, off(up.direction, np.eye(3)))
        assert off(up.direction, np.eye(3)) < 3 * math.degrees(up.std)
    assert worst < 4.0


def test_slow_turning_on_the_spot_is_not_taken_for_a_bias_of_the_gyroscope():
    """It would tilt what is up by 3 degrees a second, once the unit is tipped over."""
    gravity = fed(*(at_rest(i, np.eye(3), angular_velocity=(0.0, 0.0, 0.045)) for i in range(500)))
    tipped = matrix_from_quat(np.array([math.cos(0.6), math.sin(0.6), 0, 0]))
    for i in range(500, 620):  # by 1.2 rad in 1.2 s
        part = matrix_from_quat(
            np.array([math.cos((i - 500) / 200), math.sin((i - 500) / 200), 0, 0])
        )
        gravity.add(at_rest(i, part, angular_velocity=(1.0, 0.0, 0.0)))
    rng = np.random.default_rng(0)
    for i in range(620, 920):
        shaken = tipped.T @ (np.array([0, 0, 9.81]) + rng.normal(0, 2, 3))
        gravity.add(at_rest(i, acceleration=tuple(shaken)))
    assert off(gravity.up(START + 919 * STEP).direction, tipped) < 3.0


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_a_bias_of_the_gyroscope_is_learnt_at_rest(axis):
    """Then 1 degree a second does no harm while the unit is shaken for 10 s."""
    drift, rng = np.eye(3)[axis] * 0.0175, np.random.default_rng(0)
    gravity = fed(*(at_rest(i, np.eye(3), angular_velocity=tuple(drift)) for i in range(500)))
    for i in range(500, 1500):
        shaken = np.array([0, 0, 9.81]) + rng.normal(0, 2, 3)
        gravity.add(at_rest(i, acceleration=tuple(shaken), angular_velocity=tuple(drift)))
    up = gravity.up(START + 1499 * STEP)
    assert off(up.direction, np.eye(3)) < 2.0  # 4 degrees without
    assert math.degrees(up.std) < 2.5


def test_without_a_gyroscope_a_tilted_unit_at_rest_is_level_and_a_turning_one_unsure():
    gravity = fed(*(at_rest(i, angular_velocity=None) for i in range(300)))
    resting = gravity.up(START + 299 * STEP)
    assert off(resting.direction, TIPPED) < 0.1
    assert math.degrees(resting.std) < 4.0
    rng = np.random.default_rng(0)
    for i in range(300, 600):
        shaken = TIPPED.T @ (np.array([0, 0, 9.81]) + rng.normal(0, 2, 3))
        gravity.add(at_rest(i, angular_velocity=None, acceleration=tuple(shaken)))
    assert gravity.up(START + 599 * STEP).std > 2 * resting.std


@pytest.mark.parametrize('R', [np.eye(3), np.diag([1.0, -1.0, -1.0]), TIPPED])
def test_a_unit_in_any_position_measures_plus_g_upwards(R):
    up = fed(*(at_rest(i, R) for i in range(200))).up(START + 199 * STEP)
    assert off(up.direction, R) < 0.1
    assert math.degrees(up.std) < 2.0


def test_a_first_sample_is_not_trusted():
    assert math.degrees(fed(at_rest(0)).up(START).std) > 20


def test_an_orientation_is_taken_with_its_deviation_and_interpolated():
    def turned(angle):
        return matrix_from_quat(np.array([math.cos(angle / 2), math.sin(angle / 2), 0, 0]))

    gravity = ImuGravity()
    for i in range(100):  # rolls by 0.5 rad/s
        gravity.add(ImuSample(START + i * STEP, 'imu', quat(turned(i * 0.005)), 0.02, (0.5, 0, 0)))
    up = gravity.up(START + 50 * STEP + STEP // 2)
    assert off(up.direction, turned(50.5 * 0.005)) < 0.01
    assert up.std == pytest.approx(0.02)
    late = gravity.up(START + 99 * STEP + 50_000_000)  # 50 ms after the last
    assert off(late.direction, turned(99 * 0.005 + 0.025)) < 0.01
    assert late.std > 0.02


def test_an_orientation_that_is_marked_as_absent_is_not_looked_at():
    gravity = fed(*(at_rest(i) for i in range(200)))
    assert off(gravity.up(START + 199 * STEP).direction, TIPPED) < 0.1


@pytest.mark.parametrize(
    'orientation', [(0.0,) * 4, (math.nan, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (math.inf,) * 4]
)
def test_an_orientation_that_is_none_is_named_and_the_accelerometer_serves(orientation):
    gravity = ImuGravity()
    for i in range(200):
        reason = refused(gravity.add, at_rest(i, orientation=orientation))
        assert reason == 'bad_imu_orientation'
    assert off(gravity.up(START + 199 * STEP).direction, TIPPED) < 0.1


@pytest.mark.parametrize(
    'changes',
    [
        {'acceleration': (math.nan, 0.0, 9.81)},
        {'acceleration': (math.inf, 0.0, 0.0)},
        {'acceleration': (0.0, 0.0, 1e5)},
        {'angular_velocity': (0.0, math.nan, 0.0)},
        {'angular_velocity': (0.0, 1e3, 0.0)},
        {'acceleration': None},
        {'orientation_std': math.nan},
    ],
)
def test_impossible_samples_are_refused_and_change_nothing(changes):
    gravity = fed(*(at_rest(i) for i in range(100)))
    before = gravity.up(START + 99 * STEP).direction
    assert refused(gravity.add, at_rest(100, **changes)) == 'bad_imu'
    assert gravity.newest_ns == START + 99 * STEP
    np.testing.assert_array_equal(gravity.up(START + 99 * STEP).direction, before)


def test_a_wrong_orientation_is_named_by_the_accelerometer():
    """Identity of a unit that estimates none, but does not say so."""
    gravity = fed(*(at_rest(i, orientation=(1.0, 0.0, 0.0, 0.0)) for i in range(400)))
    assert refused(gravity.up, START + 399 * STEP) == 'imu_contradicts_itself'
    agreeing = fed(*(at_rest(i, orientation=quat(TIPPED)) for i in range(400)))
    assert off(agreeing.up(START + 399 * STEP).direction, TIPPED) < 0.01


@pytest.mark.parametrize('force', [(0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.1, -0.1, 0.05)])
def test_accelerations_in_g_or_without_gravity_are_named(force):
    gravity = fed(*(at_rest(i, acceleration=force) for i in range(300)))
    assert refused(gravity.up, START + 299 * STEP) == 'imu_not_gravity'


def test_stamps_that_no_sample_answers_are_named():
    gravity = ImuGravity()
    assert refused(gravity.up, START) == 'no_imu_yet'
    gravity.add(at_rest(0))
    assert refused(gravity.up, START - 1) == 'no_imu_yet'
    gravity.up(START + 99_000_000)
    assert refused(gravity.up, START + 101_000_000) == 'imu_too_old'


def test_ten_seconds_are_remembered_and_no_more():
    gravity = fed(*(at_rest(i) for i in range(3000)))
    gravity.up(START + 2000 * STEP)
    assert refused(gravity.up, START + 900 * STEP) == 'no_imu_yet'
    assert len(gravity._stamps) < 2100


def test_time_that_goes_back_is_named_and_a_jump_starts_anew():
    gravity = fed(*(at_rest(i) for i in range(200)))
    assert refused(gravity.add, at_rest(150)) == 'imu_went_back'
    assert gravity.newest_ns == START + 199 * STEP
    gravity.add(at_rest(199))  # the same once more
    assert refused(gravity.add, at_rest(0)) == 'imu_went_back'
    assert math.degrees(gravity.up(START).std) > 20  # nothing is known of what it turned
    gravity.add(at_rest(300))  # nor after a gap
    assert refused(gravity.up, START) == 'no_imu_yet'


def test_samples_of_two_frames_are_named_and_never_mixed():
    gravity = fed(*(at_rest(i) for i in range(200)))
    other = at_rest(200, np.eye(3), frame_id='other')
    assert refused(gravity.add, other) == 'imu_frame_changed'
    assert off(gravity.up(START + 200 * STEP).direction, np.eye(3)) < 0.1
