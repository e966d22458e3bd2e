"""Whether a map can be believed: what is said of good maps, and of bad ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OCCUPIED, UNKNOWN
from sharp_ros.mapping.verdict import judge, MapCourse, MapFacts

SECOND = 1_000_000_000
GOOD = MapFacts(free=8000, occupied=1500, scale_std=0.05, seconds=20.0, mapped=200)


def names(verdict):
    return [reason.name for reason in verdict.reasons]


def test_nothing_speaks_against_a_good_map():
    verdict = judge(GOOD)
    assert (verdict.level, verdict.reasons) == ('good', ())
    assert judge(replace(GOOD, scale_std=None)).level == 'good'  # measured depth


def test_a_black_map_is_bad_although_no_frame_was_lost():
    """As from a hand-held camera whose floor was not found: 10,439 occupied cells and 67 free."""
    verdict = judge(replace(GOOD, free=67, occupied=10_439))
    assert (verdict.level, names(verdict)) == ('bad', ['little_free'])
    (sentence,) = (reason.sentence('--set ') for reason in verdict.reasons)
    assert '67 of 10506' in sentence
    assert '--set scale.camera_height=METRES' in sentence
    assert '--set' not in str(verdict)


@pytest.mark.parametrize(
    ('facts', 'name', 'level'),
    [
        ({'free': 30, 'occupied': 20}, 'too_little_seen', 'doubtful'),
        ({'floor_is_credible': False}, 'no_floor', 'doubtful'),
        ({'scale_std': 0.5}, 'scale_unsure', 'doubtful'),
        ({'disputed': 50}, 'scale_disputed', 'doubtful'),
        ({'lost_seconds': 6.0, 'passed_over': {'odometry_lost': 60}}, 'lost_time', 'doubtful'),
        ({'lost_seconds': 15.0, 'passed_over': {'image_dark': 150}}, 'lost_time', 'bad'),
    ],
)
def test_each_reason_has_its_name_and_says_what_to_do(facts, name, level):
    verdict = judge(replace(GOOD, **facts))
    assert (names(verdict), verdict.level) == ([name], level)
    assert all(reason.text and reason.remedy for reason in verdict.reasons)


def test_a_map_is_as_bad_as_its_worst_reason_which_comes_first():
    verdict = judge(replace(GOOD, free=10, occupied=5000, scale_std=0.5))
    assert (verdict.level, names(verdict)) == ('bad', ['little_free', 'scale_unsure'])
    assert [reason['level'] for reason in verdict.as_dict()['reasons']] == ['bad', 'doubtful']


def test_of_a_map_that_has_only_begun_no_share_is_held_against_it():
    assert judge(replace(GOOD, free=0, occupied=50)).level == 'doubtful'


def test_the_most_frequent_reason_decides_what_is_advised_against_lost_time():
    lost = replace(GOOD, lost_seconds=15.0)
    dark = judge(replace(lost, passed_over={'odometry_lost': 3, 'image_dark': 100}))
    assert 'light' in dark.reasons[0].sentence()
    assert 'image_dark 100, odometry_lost 3' in dark.reasons[0].text
    slow = judge(replace(lost, passed_over={'odometry_lost': 100, 'image_dark': 3}))
    assert 'slowly' in slow.reasons[0].sentence()


# --- how a map came about ------------------------------------------------------------------------


def grid(free, occupied):
    cells = np.full((100, 100), UNKNOWN, np.int8)
    cells.flat[:free], cells.flat[free : free + occupied] = FREE, OCCUPIED
    return OccupancyGrid2D(cells, 0.05, (0.0, 0.0))


def test_cells_are_counted():
    facts = MapCourse().facts(grid(1000, 200))
    assert (facts.free, facts.occupied, facts.scale_std) == (1000, 200, None)


def test_time_without_a_mapped_frame_is_lost():
    course = MapCourse()
    for i in range(100):  # 10 s, of which the middle 4 are lost
        if 30 <= i < 70:
            course.passed_over(i * SECOND // 10, 'odometry_lost')
        else:
            course.mapped(i * SECOND // 10)
    facts = course.facts(grid(1000, 200))
    assert facts.seconds == pytest.approx(9.9)
    assert facts.lost_seconds == pytest.approx(4.0)
    assert (facts.mapped, facts.passed_over) == (60, {'odometry_lost': 40})


def test_time_before_the_first_mapped_frame_and_pauses_of_the_camera_are_not_lost():
    course = MapCourse()
    for i in range(10):
        course.passed_over(i * SECOND, 'no_pose')
    course.mapped(10 * SECOND)
    course.mapped(100 * SECOND)  # the camera was off meanwhile
    course.passed_over(99 * SECOND, 'no_pose')  # late, and not a second time
    facts = course.facts(grid(1000, 200))
    assert facts.lost_seconds == 0
    assert facts.seconds == pytest.approx(1.0)
    assert facts.passed_over == {'no_pose': 11}


def test_the_scale_counts_as_it_was_when_frames_were_mapped():
    course = MapCourse()
    for i in range(10):
        course.mapped(i, 0.25 if i < 8 else 0.0, disputed=i == 3)
    facts = course.facts(grid(1000, 200))
    assert facts.scale_std == pytest.approx(np.sqrt(0.2))
    assert facts.disputed == 1
    course.reset()
    assert course.facts(grid(0, 0)) == MapFacts(0, 0)
