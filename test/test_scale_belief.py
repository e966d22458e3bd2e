"""The histogram filter, beside what normal distributions give in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharp_ros.localization.scale_belief import Belief


def normal(values, mean, std):
    return np.exp(-0.5 * ((values - mean) / std) ** 2) / std


def test_normal_evidence_is_weighed_as_a_kalman_filter_does():
    belief, mean, variance = Belief(0.5), 0.0, 0.25
    for value, std in [(0.4, 0.3), (0.2, 0.1), (0.25, 0.2)]:
        belief.learn(normal(belief.values, value, std))
        gain = variance / (variance + std**2)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    assert belief.median == pytest.approx(mean, abs=0.005)
    assert math.sqrt(belief.variance) == pytest.approx(math.sqrt(variance), rel=0.05)
    belief.widen(0.1**2)
    assert belief.variance == pytest.approx(variance + 0.1**2, rel=0.05)
    belief.shift(-1.5)
    assert belief.median == pytest.approx(mean - 1.5, abs=0.005)
    belief.stretch(2.0, -1.0)
    assert belief.median == pytest.approx(2 * (mean - 0.5) - 1, abs=0.01)
    assert belief.variance == pytest.approx(4 * (variance + 0.1**2), rel=0.05)
    belief.add(Belief(0.3))
    assert belief.variance == pytest.approx(4 * (variance + 0.1**2) + 0.09, rel=0.2)


def test_small_errors_add_up_before_the_bins_show_them():
    belief = Belief(0.2)
    for _ in range(1000):
        belief.widen(1e-5)
    assert belief.variance == pytest.approx(0.05, rel=0.05)


def test_what_contradicts_is_kept_apart_and_wide():
    belief = Belief(1.0)
    two = 0.5 * normal(belief.values, -1, 0.05) + 0.5 * normal(belief.values, 1, 0.05)
    belief.learn(two)
    assert math.sqrt(belief.variance) > 0.9
    belief.learn(normal(belief.values, 0.9, 0.2))
    assert belief.median == pytest.approx(0.99, abs=0.03)
    assert math.sqrt(belief.variance) < 0.1


def test_nothing_is_ruled_out_for_good():
    belief = Belief(0.3)
    for _ in range(100):
        belief.learn(normal(belief.values, 0.0, 0.05))
    assert math.sqrt(belief.variance) < 0.02  # and what is kept does not show
    for _ in range(3):
        belief.learn(normal(belief.values, 1.5, 0.05) + 0.1)
    assert belief.median == pytest.approx(1.5, abs=0.05)


def test_single_images_err_by_more_than_a_normal_distribution_has_it():
    error = Belief.of_frame_error(0.1)
    assert error.median == pytest.approx(0.0, abs=1e-9)
    assert 0.1 < math.sqrt(error.variance) < 0.25
    assert error.likelihood(np.array([0.4]))[0] > 10 * Belief(0.1).likelihood(np.array([0.4]))[0]


def test_a_copy_goes_its_own_way():
    belief = Belief(0.3)
    other = belief.copy()
    other.shift(1.0)
    other.learn(normal(other.values, 1.2, 0.05))
    assert belief.median == pytest.approx(0.0, abs=1e-9)
    assert belief.variance == pytest.approx(0.09, rel=0.05)


def test_doubt_lets_one_who_was_sure_change_with_the_next_evidence():
    sure = Belief(0.5)
    sure.learn(normal(sure.values, 0.8, 0.05))
    doubtful = sure.copy()
    doubtful.doubt(0.1, 0.5)
    assert doubtful.median == pytest.approx(sure.median, abs=0.02)
    for belief in (sure, doubtful):
        belief.learn(normal(belief.values, 0.0, 0.1) + 0.25)
    assert sure.median == pytest.approx(0.8, abs=0.05)
    assert 0.2 < doubtful.median < 0.6  # one or the other
    assert doubtful.variance > 2 * sure.variance
