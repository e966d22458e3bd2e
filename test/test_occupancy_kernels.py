"""Compiled kernels of the occupancy map beside slow twins, voxel by voxel and ray by ray."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharp_ros.mapping.occupancy_kernels import (
    FLOOR,
    GAP,
    HIT,
    MARK,
    mark_ground,
    NEWS,
    NEWS_AT,
    note_news,
    PASSED,
)
from sharp_ros.se3 import look_at

SIDE, LAYERS, OCCUPIED_AT = 24, 10, 400
UP = np.array([0.0, 0.0, 1.0])


def window(rng):
    """Storage index of window columns and rows, as after some rolling."""
    return (np.arange(SIDE) + rng.integers(SIDE)) % SIDE, (np.arange(SIDE) + 5) % SIDE


def explained(log_odds, voxel, eye, reach):
    """Whether a surface stands on the ray within `reach`; log-odds [y, x, z] by window cell."""
    centre = np.array(voxel) + 0.5
    ray = centre - eye
    away = np.linalg.norm(ray)
    steps = min(int(reach * away + 1.5), 40)
    for sign in (1, -1):
        for n in range(1, steps + 1):
            x, y, z = np.floor(centre + sign * n * ray / away).astype(int)
            if not (1 <= x < SIDE - 1 and 1 <= y < SIDE - 1 and 0 <= z < LAYERS):
                break
            beside = (
                log_odds[y + b, x + a, z] for a in (-1, 0, 1) for b in (-1, 0, 1) if a * b == 0
            )
            if any(value >= OCCUPIED_AT for value in beside):
                return True
    return False


@pytest.mark.parametrize('seed', range(4))
def test_news_are_hits_of_what_was_free_and_is_explained_by_nothing(seed):
    rng = np.random.default_rng(seed)
    columns, rows = window(rng)
    log_odds = rng.integers(-300, 100, (SIDE, SIDE, LAYERS)).astype(np.int16)
    log_odds[rng.random(log_odds.shape) < 0.01] = 500
    marks = rng.choice(np.array([0, PASSED, HIT], np.uint8), log_odds.shape)
    marks |= (rng.integers(0, NEWS + 1, log_odds.shape) << NEWS_AT).astype(np.uint8)
    eye, own, std, scale_std = np.array([11.3, 2.2, 7.7]), 0.05, 0.02, 0.03
    camera, sides = np.array([20.0, 20, 10, 10]), np.zeros((4, 3))
    view = (eye, np.eye(3), camera, sides, (20, 20), 30.0)
    limits = (0.3, 5.0, 0.0, std, scale_std)
    fast, count = marks.copy(), 1 + seed % 2
    stated = np.full((1, 1), own, np.float32)
    note_news(log_odds, fast, columns, rows, view, limits, stated, count, OCCUPIED_AT)
    of_window = log_odds[np.ix_(rows, columns)]
    expected, told = marks.copy(), {1: 0, 2: 0}
    unsure = 2 * math.hypot(scale_std, own)
    for j, i, k in np.ndindex(of_window.shape):
        at = rows[j], columns[i], k
        if marks[at] & MARK != HIT or log_odds[at] >= 0:
            continue
        below = eye[2] - (k + 0.5)
        floor = below > 0 and k + 0.5 - unsure * below < 0
        known = explained(of_window, (i, j, k), eye, math.hypot(unsure, 2 * std))
        news = 1 if floor or known else min((int(marks[at]) >> NEWS_AT & NEWS) + count, NEWS)
        told[1 if floor or known else 2] += 1
        expected[at] = (int(marks[at]) & ~(NEWS << NEWS_AT)) | news << NEWS_AT
    np.testing.assert_array_equal(fast, expected)
    assert min(told.values()) > 50


def ground_of(depth, camera, rotation, eye, limits, own, heights, strides):
    """Marks [y, x] of the floor by window cell: a gap beats floor, whatever comes first."""
    floor, fall, within = heights
    near, far, _, std, scale_std = limits
    marks = np.zeros((SIDE, SIDE), np.uint8)
    std = math.sqrt(std**2 + scale_std**2 + own**2)
    lines = list(range(0, depth.shape[0], strides[1]))
    for u in range(0, depth.shape[1], strides[0]):
        missing = False
        for v in lines[::-1] if rotation[2, 1] < 0 else lines:
            ray = np.array([(u - camera[2]) / camera[0], (v - camera[3]) / camera[1], 1.0])
            away, along = np.linalg.norm(ray), rotation @ ray
            if not depth[v, u] * away >= near or along[2] >= 0:
                continue
            z = eye[2] + along[2] * depth[v, u]
            slack = 2 * std * (eye[2] - max(z, 2 * floor - eye[2]))
            if z < floor - fall - slack or (
                missing and -within - slack < z - floor < -0.3 * within - 0.5 * slack
            ):
                end, mark = (floor - eye[2]) / along[2], GAP
            elif abs(z - floor) <= within + slack and depth[v, u] * away <= far:
                end, mark, missing = float(depth[v, u]), FLOOR, False
            else:
                continue
            if end * away > far:
                continue
            missing = missing or mark == GAP
            flat = np.hypot(*along[:2])
            apart = strides[1] / camera[1] * (along @ along) * end**2 / (eye[2] - floor)
            half = min(apart / 2, 8.0)
            steps = int(2 * half) + 1
            for t in end + half / flat * np.arange(-steps, steps + 1) / steps:
                x, y = np.floor(eye[:2] + along[:2] * t).astype(int)
                if 0 <= x < SIDE and 0 <= y < SIDE:
                    marks[y, x] = max(marks[y, x], mark)
    return marks


@pytest.mark.parametrize('upside_down', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_ground_is_floor_or_gap_where_rays_end_or_go_through(seed, upside_down):
    rng = np.random.default_rng(seed)
    columns, rows = window(rng)
    voxel, eye, floor = 0.1, np.array([2.3, 11.6, 8.4]), -1.0
    forward = np.array([1.0, rng.uniform(-0.3, 0.3), rng.uniform(-0.8, -0.3)])
    pose = look_at(np.zeros(3), forward, UP)
    rotation = np.ascontiguousarray(pose[:3, :3] / voxel)
    if upside_down:
        rotation[:, :2] *= -1
    camera, size = np.array([30.0, 30, 20, 15]), (30, 40)
    v, u = np.mgrid[: size[0], : size[1]]
    rays = np.stack([(u - 20) / 30, (v - 15) / 30, np.ones(size)], -1) @ rotation.T
    with np.errstate(divide='ignore'):
        depth = np.where(rays[..., 2] < 0, (floor - eye[2]) / rays[..., 2], 9.0)
    depth *= rng.choice([1.0, 1.01, 1.15, 1.4, 0.6], size, p=[0.5, 0.1, 0.1, 0.2, 0.1])
    depth = depth.astype(np.float32)
    depth[rng.random(size) < 0.05] = np.nan
    limits, own, heights = (0.3, 2.5, 0.0, 0.01, 0.02), 0.01, (floor, 1.0, 0.6)
    ground, stated = np.zeros((SIDE, SIDE), np.uint8), np.full((1, 1), own, np.float32)
    given = (depth, camera, rotation, eye, limits, stated, columns, rows, ground)
    mark_ground(*given, (2, 1), heights)
    slow = ground_of(depth, camera, rotation, eye, limits, own, heights, (2, 1))
    fast = ground[np.ix_(rows, columns)]
    unequal = np.count_nonzero(fast != slow)  # where a last bit decides of a cell
    assert unequal <= 1
    assert min(np.count_nonzero(slow == FLOOR), np.count_nonzero(slow == GAP)) > 10
