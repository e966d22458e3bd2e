"""How true is the direction up that an IMU gives: simulated motions, mountings and units.

    python bench/imu_level.py [--seeds 20] [--first 100] [--rate 200] [--no-gyro]
        [--json FILE]

For each motion: the worst and the 95th percentile of the error in degrees, once the unit has had
two seconds; the median of the stated deviation; the share of stamps whose error lies within two
and three stated deviations (by a Rayleigh law 0.865 and 0.989); the time that a sample takes.
Mountings are random, biases up to 0.28 m/s² and 0.9 degrees a second.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import json
import math
from pathlib import Path
import shlex
import sys
import time

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from sharp_ros.evaluation.circumstances import commit, machine  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.localization.imu_gravity import ImuGravity, ImuSample  # noqa: E402
from sharp_ros.se3 import matrix_from_quat  # noqa: E402

GRAVITY = np.array([0.0, 0.0, 9.81])
SECONDS, SETTLED = 20.0, 2.0


@dataclass(frozen=True)
class Unit:
    """Errors of an IMU, standard deviations and biases."""

    rate: float  # Hz
    bias: np.ndarray  # [3] m/s²
    drift: np.ndarray  # [3] rad/s
    noise: float = 0.05  # m/s²
    gyro_noise: float = 0.005  # rad/s
    vibration: float = 0.0  # m/s², while it moves


MOTIONS = ('still', 'robot', 'handheld', 'shaken', 'drone', 'car')


def motion(rng: np.random.Generator, name: str, t: np.ndarray):
    """Velocity [N, 3] in the world and roll, pitch, yaw [N, 3] of the body."""
    velocity, turn = np.zeros((len(t), 3)), np.zeros((len(t), 3))

    def waves(size, low, high, count=4):
        return sum(
            rng.uniform(0.3, 1) * size / count * np.sin(
                2 * math.pi * rng.uniform(low, high) * t + rng.uniform(0, 6.28)
            )
            for _ in range(count)
        )  # fmt: skip

    if name in ('robot', 'car'):
        top, ramp = (1.5, 1.0) if name == 'robot' else (12.0, 4.0)
        speed = np.zeros(len(t))
        for _ in range(6):  # starts and stops
            at, goal = rng.uniform(0, SECONDS), rng.choice([0.0, rng.uniform(0.3, 1) * top])
            part = np.clip((t - at) / ramp, 0, 1)
            part = part * part * (3 - 2 * part)
            speed = speed + part * (goal - speed)
        turn[:, 2] = np.cumsum(waves(1.2 if name == 'robot' else 0.3, 0.02, 0.2)) * (t[1] - t[0])
        velocity[:, 0], velocity[:, 1] = speed * np.cos(turn[:, 2]), speed * np.sin(turn[:, 2])
        turn[:, 0], turn[:, 1] = waves(0.03, 0.1, 2), waves(0.05, 0.05, 1)
    elif name == 'handheld':
        velocity = np.stack([waves(1.0, 0.1, 1.0) for _ in range(3)], 1)
        turn = np.stack([waves(0.4, 0.1, 0.8) for _ in range(3)], 1)
    elif name == 'shaken':
        velocity = np.stack([waves(1.2, 2, 5) for _ in range(3)], 1)
        turn = np.stack([waves(0.3, 1, 4) for _ in range(3)], 1)
    elif name == 'drone':
        velocity = np.stack([waves(3.0, 0.05, 0.3) for _ in range(3)], 1)
        turn = np.stack([waves(0.4, 0.2, 0.6), waves(0.4, 0.2, 0.6), waves(2, 0.02, 0.1)], 1)
    return velocity, turn


def rotations(turn: np.ndarray) -> np.ndarray:  # [N, 3] -> [N, 3, 3]
    """Roll, pitch, yaw to `R_world_body`."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(turn).T, np.sin(turn).T
    one, nil = np.ones(len(turn)), np.zeros(len(turn))

    def matrix(*rows):
        return np.stack([np.stack(row, -1) for row in rows], -2)

    z = matrix((cy, -sy, nil), (sy, cy, nil), (nil, nil, one))
    y = matrix((cp, nil, sp), (nil, one, nil), (-sp, nil, cp))
    x = matrix((one, nil, nil), (nil, cr, -sr), (nil, sr, cr))
    return z @ y @ x


def drawn_unit(rng: np.random.Generator, rate: float) -> Unit:
    """A unit as sold: 20 mg and 0.5 degrees a second at most once calibrated."""
    return Unit(
        rate,
        rng.uniform(-0.2, 0.2, 3) / math.sqrt(1.5),
        rng.uniform(-0.009, 0.009, 3),
        noise=rng.uniform(0.01, 0.08),
        gyro_noise=rng.uniform(0.001, 0.01),
        vibration=rng.choice([0.0, 0.3, 2.0]),
    )


def samples(rng: np.random.Generator, name: str, unit: Unit, *, gyro: bool = True):
    """Samples of a random mounting, and [N, 3] what is up in the frame of the unit."""
    t = np.arange(0, SECONDS, 1 / unit.rate)
    fine = 1e-4
    velocity, turn = motion(np.random.default_rng(seed := rng.integers(1 << 30)), name, t)
    later, turned = motion(np.random.default_rng(seed), name, t + fine)
    R, R_later = rotations(turn), rotations(turned)
    if name in ('robot', 'car'):  # what is summed up is not shifted by `fine`
        R_later = rotations(turn + np.gradient(turn, t, axis=0) * fine)
        acceleration = np.gradient(velocity, t, axis=0)
    else:
        acceleration = (later - velocity) / fine
    skew = (np.swapaxes(R, 1, 2) @ R_later - np.eye(3)) / fine
    rate = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1)
    mounting = matrix_from_quat(rng.normal(size=4))  # R_unit_body
    moves = np.linalg.norm(velocity, axis=1, keepdims=True) > 0.05
    force = (np.swapaxes(R, 1, 2) @ (acceleration + GRAVITY)[..., None])[..., 0]
    force = force + rng.normal(0, 1, force.shape) * unit.vibration * moves
    force = force @ mounting.T + unit.bias + rng.normal(0, unit.noise, force.shape)
    rate = rate @ mounting.T + unit.drift + rng.normal(0, unit.gyro_noise, force.shape)
    up = R[:, 2] @ mounting.T
    found = [
        ImuSample(
            round(s * 1e9) + 1,
            'imu',
            angular_velocity=tuple(map(float, w)) if gyro else None,
            acceleration=tuple(map(float, f)),
        )
        for s, w, f in zip(t, rate, force, strict=True)
    ]
    return found, up


def errors(found, up, every=1):
    """Errors and stated deviations, radians, once settled; seconds a sample takes."""
    gravity, missed, stated, begun = ImuGravity(), [], [], time.thread_time()
    for i, sample in enumerate(found):
        gravity.add(sample)
        if sample.stamp_ns > SETTLED * 1e9 and i % every == 0:
            now = gravity.up(sample.stamp_ns)
            missed.append(math.acos(min(float(now.direction @ up[i]), 1.0)))
            stated.append(now.std)
    return np.array(missed), np.array(stated), (time.thread_time() - begun) / len(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=20)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--rate', type=float, default=200.0)
    parser.add_argument('--no-gyro', action='store_true')
    parser.add_argument('--json', type=Path)
    given = parser.parse_args()
    report = {}
    print('motion     worst   p95  stated  <2std  <3std  us/sample')
    for name in MOTIONS:
        missed, stated, seconds = [], [], []
        for seed in range(given.first, given.first + given.seeds):
            rng = np.random.default_rng(seed)
            unit = drawn_unit(rng, given.rate)
            e, s, dt = errors(*samples(rng, name, unit, gyro=not given.no_gyro), every=10)
            missed, stated, seconds = [*missed, e], [*stated, s], [*seconds, dt]
        e, s = np.degrees(np.concatenate(missed)), np.degrees(np.concatenate(stated))
        report[name] = row = {
            'worst_deg': round(float(e.max()), 3),
            'p95_deg': round(float(np.percentile(e, 95)), 3),
            'stated_deg': round(float(np.median(s)), 3),
            'within_2_std': round(float(np.mean(e < 2 * s)), 4),
            'within_3_std': round(float(np.mean(e < 3 * s)), 4),
            'sample_us': round(float(1e6 * np.median(seconds)), 1),
        }
        worst, p95, stated, two, three, us = row.values()
        print(f'{name:9} {worst:6.2f} {p95:5.2f} {stated:7.2f} {two:6.3f} {three:6.3f} {us:6.1f}')
    if given.json is not None:
        facts = {'motions': report, 'machine': machine(), 'commit': commit()}
        facts['command'] = shlex.join(['python', *sys.argv])
        write_atomically(given.json, json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    main()
