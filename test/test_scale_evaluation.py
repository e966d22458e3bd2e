from __future__ import annotations

from dataclasses import replace
from functools import cache
import json

import numpy as np
import pytest

from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ScaleConfig, SharpConfig
from sharp_ros.errors import InputError
from sharp_ros.evaluation import hand_held, scale
from sharp_ros.evaluation.hand_held import Conditions, HandHeld, Shown, THINNED
from sharp_ros.evaluation.metrics import scale_metrics
from sharp_ros.evaluation.scale import NodeSteps, recorded_runs, scale_run, summary
from sharp_ros.localization.scale_filter import ScaleEstimate
from sharp_ros.synthetic import Room

K = Intrinsics.from_hfov(1.2, 160, 120)


@cache
def room():
    return Room(0)


class Bare:
    """A room of which only the drive is real: light and textures take seconds."""

    loop_duration = 20.0

    def __init__(self):
        self.pose = room().pose
        self._noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)

    def render(self, intrinsics, T_world_camera):
        rise = np.linspace(1, 3, intrinsics.height, dtype=np.float32)[::-1, None]
        return self._noise, rise + np.zeros((1, intrinsics.width), np.float32)


@pytest.fixture(scope='module')
def bare():
    return Bare()


class Told:
    """Stands for the steps of a node: says what it is told, frame by frame."""

    def __init__(self, scales, std=0.05, sources=()):
        self._scales, self._std = iter(scales), std
        self._sources = iter(sources)

    def find(self, shown, clock):
        clock.lap('scale')
        sources = next(self._sources, {})
        return ScaleEstimate(next(self._scales), self._std**2, sources), shown.predicted


def sequence(true, rate_hz=10):
    """Flat walls at 2 m, seen by a network that is wrong by these factors."""
    for i, factor in enumerate(true):
        image = np.zeros((K.height, K.width, 3), np.uint8)
        frame = Frame(image, K, round(i / rate_hz * 1e9), 'camera', np.eye(4), 'odom')
        wall = np.full(image.shape[:2], 2.0, np.float32)
        yield Shown(frame, wall / np.float32(factor), wall[THINNED])


# --- hand-held sequences -------------------------------------------------------------------------


def assert_same(one, other):
    assert len(one) == len(other) > 3
    for a, b in zip(one, other, strict=True):
        assert a.frame.stamp_ns == b.frame.stamp_ns
        for name in ('image', 'T_world_camera'):
            np.testing.assert_array_equal(getattr(a.frame, name), getattr(b.frame, name))
        np.testing.assert_array_equal(a.predicted, b.predicted)
        np.testing.assert_array_equal(a.truth, b.truth)


def test_same_seed_is_the_same_sequence_with_and_without_a_cache(bare, monkeypatch, tmp_path):
    monkeypatch.setattr(hand_held, '_room', lambda seed: bare)
    first = list(HandHeld(3, 1.5).frames())
    assert_same(first, list(HandHeld(3, 1.5).frames()))
    assert_same(first, list(HandHeld(3, 1.5).cached_frames(tmp_path)))
    monkeypatch.setattr(hand_held, '_room', lambda seed: pytest.fail('rendered again'))
    assert_same(first, list(HandHeld(3, 1.5).cached_frames(tmp_path)))
    other = next(HandHeld(4, 1.5).frames(bare))
    assert not np.array_equal(first[0].predicted, other.predicted)


def test_conditions_are_as_wide_as_promised():
    drawn = [HandHeld(seed).conditions for seed in range(200)]
    assert {c.start for c in drawn} == {'turn', 'sway', 'stop', 'walk'}
    assert {c.rate_hz for c in drawn} == {15, 30}
    assert {c.pose_noise for c in drawn} == {0.01, 0.03}
    delays = np.abs([c.pose_delay for c in drawn])
    assert 0.3 < np.mean(delays == 0) < 0.7
    assert np.all((delays == 0) | ((delays >= 0.01) & (delays <= 0.05)))
    biases = [c.bias for c in drawn]
    assert 0.6 <= min(biases) < 0.65
    assert 1.5 < max(biases) <= 1.6


def conditions(**changes):
    quiet = Conditions('walk', 15.0, 1.2, 0.002, 0.01, 0.0, 1.0, 0.0, 0.0)
    return replace(quiet, **changes)


def path(seed=0, duration=1.5, **changes):
    rng = np.random.default_rng(seed)
    return hand_held._Path(room(), conditions(**changes), duration, rng)


def test_network_is_wrong_by_bias_frame_and_place(bare):
    held = HandHeld(5, 1.5)
    held.conditions = conditions(bias=1.4)
    true = [np.median(s.truth / s.predicted[THINNED]) for s in held.frames(bare)]
    logs = np.log(np.array(true) * 1.4)  # what remains is the error of each frame
    assert np.all(np.abs(logs) < 0.12 + 0.005)
    assert logs.std() > 0.04
    held.conditions = conditions(field=0.08)
    spread = [np.log(s.truth / s.predicted[THINNED]).std() for s in held.frames(bare)]
    assert 0.02 < np.median(spread) < 0.2


def test_turns_at_the_start_move_the_camera_by_centimetres_only():
    turning = [path(seed, start='turn') for seed in range(5)]
    moved = [np.linalg.norm(p.pose(1.1)[:3, 3] - p.pose(0.1)[:3, 3]) for p in turning]
    assert 0.01 < np.median(moved) < 0.25
    walking = [path(seed, start='walk') for seed in range(5)]
    assert np.median([np.linalg.norm(p.pose(1.1) - p.pose(0.1)) for p in walking]) > 0.25


def test_noise_of_poses_is_a_share_of_the_way():
    shares = []
    for seed in range(6):
        walk = path(seed, pose_noise=0.03)
        true = np.linalg.norm(walk.pose(1.1)[:3, 3] - walk.pose(0.1)[:3, 3])
        said = np.linalg.norm(walk.odometry(1.1)[:3, 3] - walk.odometry(0.1)[:3, 3])
        shares.append(said / true - 1)
    assert 0.003 < np.sqrt(np.mean(np.square(shares))) < 0.09
    exact = path(0, pose_noise=0.0)
    np.testing.assert_allclose(exact.odometry(1.0), exact.pose(1.0), atol=1e-12)


def test_hand_goes_through_nothing():
    for seed in range(4):
        walk = path(seed, duration=7.0)
        points = np.array([walk.pose(t)[:3, 3] for t in np.arange(0, 7, 0.2)])
        assert room().distance(points).min() > 0.1


# --- what is said of a scale ---------------------------------------------------------------------


def test_true_scale_covers_everything():
    true = np.linspace(0.7, 1.5, 40)
    numbers = scale_run('oracle', sequence(true), Told(true)).numbers()
    assert numbers['scale_coverage_2std'] == 1
    assert numbers['scale_worst_std'] < 0.01
    assert numbers['worst_error'] < 1e-3
    assert numbers['abs_rel'] < 1e-3 < numbers['network_abs_rel']
    assert numbers['abs_rel_loss'] < 0


def test_filter_that_is_stuck_is_reported_as_bad():
    true = np.full(40, 0.74)
    numbers = scale_run('stuck', sequence(true), Told([0.30] * 40)).numbers()
    assert numbers['scale_coverage_2std'] == 0
    assert numbers['scale_worst_std'] == pytest.approx(np.log(0.74 / 0.30) / 0.05, rel=1e-3)
    assert numbers['worst_error'] == pytest.approx(1 - 0.30 / 0.74, rel=1e-3)
    assert numbers['abs_rel_loss'] == pytest.approx((1 - 0.3 / 0.74) - (1 / 0.74 - 1), rel=1e-3)
    constant = NodeSteps(SharpConfig(scale=ScaleConfig(constant=1.0)))
    claimed = scale_run('claims to be exact', sequence(true), constant).numbers()
    assert 100 < claimed['scale_worst_std'] < np.inf


def test_only_errors_after_the_start_count_as_such():
    published = np.where(np.arange(40) < 20, 2.0, 1.0)
    published[30] = 1.3
    run = scale_run('late', sequence(np.ones(40)), Told(published, std=1.0))
    numbers = run.numbers()
    assert numbers['worst_error'] == pytest.approx(0.3, rel=1e-3)
    assert numbers['worst_error_at'] == pytest.approx(3.0)
    short = scale_run('short', sequence(np.ones(10)), Told([1.0] * 10)).numbers()
    assert short['worst_error'] is None
    assert summary([run, scale_run('s', sequence([1.0] * 5), Told([1.0] * 5))])['worst_error']


def test_observations_are_what_tells_a_metre():
    sources = [{}, {'consistency': 1}, {'consistency': 2, 'parallax': 1}, {'parallax_refused': 1}]
    # the last one: one was believed, then started over and one was refused
    sources[3] = {'consistency': 3, 'parallax': 1, 'parallax_refused': 1}
    told = Told([1.0] * 4, sources=sources)
    run = scale_run('told', sequence([1.0] * 4), told)
    assert run.observed.tolist() == [False, False, True, True]


def test_frames_without_truth_are_seen_but_not_judged():
    shown = list(sequence(np.ones(6)))
    shown[2] = replace(shown[2], truth=np.zeros_like(shown[2].truth))
    run = scale_run('gap', shown, Told([1.0, 1.0, 9.0, 1.0, 1.0, 1.0]))
    assert len(run.true) == 5
    assert run.errors.max() < 1e-3
    with pytest.raises(InputError, match='no frame'):
        scale_run('none', shown[2:3], Told([1.0]))


def test_every_start_is_a_run_of_its_own_but_for_the_last_seconds():
    runs = list(recorded_runs(list(sequence(np.full(60, 0.8))), stride=10))
    assert [more['start'] for _, more in runs] == [0, 10, 20, 30]
    assert [len(run.true) for run, _ in runs] == [60, 50, 40, 30]
    # from start to start everything is forgotten
    np.testing.assert_allclose(runs[1][0].published, runs[0][0].published[:50])


def test_summary_names_the_worst():
    good = scale_run('good', sequence([1.0] * 30), Told([1.0] * 30))
    bad = scale_run('bad', sequence([1.0] * 30), Told([1.0] * 29 + [1.5]))
    found = summary([good, bad, good])
    assert found['runs'] == 3
    assert found['frames'] == 90
    assert found['scale_coverage_2std'] == pytest.approx(89 / 90, abs=1e-4)
    assert found['worst_error'] == pytest.approx(0.5, abs=1e-3)
    assert found['runs_beyond_loss'] == 1
    assert {names[0]['name'] for names in found['worst'].values()} == {'bad'}
    assert found['worst']['worst_error'][0]['at'] == pytest.approx(2.9)


def test_deviations_are_those_of_the_logarithm():
    true, std = np.array([1.0, 1.0, 2.0]), np.array([0.1, 0.1, 0.1])
    found = scale_metrics(true, np.array([np.exp(0.19), np.exp(-0.21), 2.0]), std)
    assert found['scale_coverage_2std'] == pytest.approx(2 / 3)
    assert found['scale_worst_std'] == pytest.approx(2.1)


# --- the command ---------------------------------------------------------------------------------


def test_command_reports_hand_held_sequences(bare, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hand_held, '_room', lambda seed: bare)
    monkeypatch.setattr(scale, 'HandHeld', lambda seed, duration: HandHeld(seed, 1.5))
    report = tmp_path / 'scale.json'
    arguments = ['eval', 'scale', 'synthetic', '--seeds', '2', '--first-seed', '7']
    assert main([*arguments, '--json', str(report), '--cache', str(tmp_path / 'cache')]) == 0
    found = json.loads(report.read_text())
    assert [run['name'] for run in found['runs']] == ['seed 7', 'seed 8']
    assert found['summary']['runs'] == 2
    assert found['runs'][0]['bias'] == pytest.approx(HandHeld(7).conditions.bias, abs=1e-4)
    assert len(list((tmp_path / 'cache').iterdir())) == 2
    assert 'worst, std' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['synthetic', '--seeds', '0'], '--seeds 0'),
        (['somewhere', '--seeds', '3'], 'recordings have starts'),
        (['synthetic', '--first-seed', '-1'], 'must not be negative'),
        (['synthetic', '--stride', '0'], '--stride must be at least 1'),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, message, capsys):
    assert main(['eval', 'scale', *arguments]) == 1
    assert message in capsys.readouterr().err
