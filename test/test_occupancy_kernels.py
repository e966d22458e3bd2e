"""Compiled kernels of the occupancy map beside slow twins, voxel by voxel and ray by ray."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sharp_ros.mapping.occupancy_kernels import (
    apply_marks,
    DOUBTED,
    FLOOR,
    FREE,
    FULL_SCALE,
    GAP,
    HIT,
    MARK,
    mark_ground,
    mark_hits,
    mark_rays,
    may_be_floor,
    NEWS,
    NEWS_AT,
    note_news,
    OCCUPIED,
    PASSED,
    STREAK,
    STREAK_AT,
    UNKNOWN,
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


def voxels_along(eye, ray, first, last):
    """Voxels (x, y, z) that a part of a ray is in: one between any two crossings of planes."""
    crossings = [first, last]
    for start, step in zip(eye, ray, strict=True):
        low, high = sorted((start + step * first, start + step * last))
        planes = np.arange(math.ceil(low), math.floor(high) + 1)
        crossings += [(plane - start) / step for plane in planes if abs(step) > 1e-12]
    crossings = sorted(t for t in crossings if first <= t <= last)
    for t0, t1 in itertools.pairwise(crossings):
        if t1 - t0 > 1e-12:
            x, y, z = np.floor(eye + ray * (t0 + t1) / 2).astype(int)
            if 0 <= x < SIDE and 0 <= y < SIDE and 0 <= z < LAYERS:
                yield y, x, z


def seen_room(rng):
    """Depth of a tilted, rolled camera in a box of noise, with holes and endless rays."""
    size, camera = (30, 40), np.array([30.0, 31.0, 19.0, 15.5])
    forward = np.array([1.0, rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.2)])
    pose = look_at(np.zeros(3), forward, np.array([0.1, 0.2, 1.0]))
    rotation = np.ascontiguousarray(pose[:3, :3] / 0.1)
    eye = np.array([1.3, 11.6, 5.4])
    depth = (1.5 * rng.uniform(0.7, 1.3, size)).astype(np.float32)
    depth[rng.random(size) < 0.05] = np.nan
    depth[rng.random(size) < 0.05] = np.inf
    return depth, camera, rotation, eye


def rays_of(depth, camera, rotation, eye, limits, strides):
    """Each ray: its place in the lattice, pixel, direction, length per depth, end, hit or not."""
    near, far, nudge = limits[:3]
    for i, v in enumerate(range(0, depth.shape[0], strides[1])):
        for j, u in enumerate(range(0, depth.shape[1], strides[0])):
            ray = np.array([(u - camera[2]) / camera[0], (v - camera[3]) / camera[1], 1.0])
            away, d = np.linalg.norm(ray), float(depth[v, u])
            if d > 0 and d * away >= near:
                hit = d * away <= far
                yield i | j, (v, u), rotation @ ray, away, d + nudge if hit else far / away, hit


@pytest.mark.parametrize('seed', range(3))
def test_hits_are_marked_where_pixels_end_and_as_far_back_as_they_may(seed):
    rng = np.random.default_rng(seed)
    columns, rows = window(rng)
    scene, limits, strides = seen_room(rng), (0.3, 1.9, 1e-4, 0.06, 0.0), (4, 3)
    marks = rng.integers(0, 256, (SIDE, SIDE, LAYERS)).astype(np.uint8) & ~np.uint8(MARK)
    expected = marks[np.ix_(rows, columns)]
    depth, _, _, eye = scene
    for _, _, ray, _, end, hit in rays_of(*scene, limits, (1, 1)):
        x, y, z = np.floor(eye + ray * end).astype(int)
        if hit and 0 <= x < SIDE and 0 <= y < SIDE and 0 <= z < LAYERS:
            expected[y, x, z] |= HIT
    own = np.count_nonzero(expected & MARK)
    for _, _, ray, _, end, hit in rays_of(*scene, limits, strides):
        for at in voxels_along(eye, ray, end, end * (1 + 2 * limits[3]) if hit else end):
            expected[at] |= HIT
    farthest = mark_hits(*scene, limits, columns, rows, marks, strides)
    np.testing.assert_array_equal(marks[np.ix_(rows, columns)], expected)
    assert farthest == np.inf == np.nanmax(depth)
    assert np.count_nonzero(expected & MARK) > own + 10 > 60


@pytest.mark.parametrize('seed', range(3))
def test_rays_are_marked_up_to_where_they_are_surely_free_and_beyond(seed):
    rng = np.random.default_rng(seed)
    columns, rows = window(rng)
    scene, limits, strides = seen_room(rng), (0.3, 1.9, 1e-4, 0.02, 0.05), (2, 1)
    depth, camera, rotation, eye = scene
    stated = rng.uniform(0.02, 0.1, (6, 8)).astype(np.float32)
    marks = rng.integers(0, 256, (SIDE, SIDE, LAYERS)).astype(np.uint8)
    marks &= np.where(rng.random(marks.shape) < 0.05, 0xFF, ~MARK & 0xFF).astype(np.uint8)
    expected = marks[np.ix_(rows, columns)]
    for mark in (PASSED, DOUBTED):
        for place, (v, u), ray, away, end, hit in rays_of(*scene, limits, strides):
            first = next((p for p, odd in ((0.5, 1), (0.25, 2), (0.125, 4)) if place & odd), 0.0)
            first *= limits[1] / away
            unsure = 2 * math.hypot(limits[4], stated[v // 5, u // 5])
            before = end * (1 - limits[3]) if hit else end
            sure = before / (1 + unsure) if hit else min(end, depth[v, u] / (1 + unsure))
            if hit and may_be_floor(eye[2] + ray[2] * end, eye[2], unsure):
                sure = before
            part = (first, sure) if mark == PASSED else (max(first, sure), before)
            for at in voxels_along(eye, ray, *part) if part[0] < part[1] else ():
                if expected[at] & MARK == 0:
                    expected[at] |= mark
        mark_rays(
            depth, camera, rotation, eye, limits, stated, columns, rows, marks, strides, mark
        )
        np.testing.assert_array_equal(marks[np.ix_(rows, columns)], expected)
        assert np.count_nonzero(expected & MARK == mark) > 50


@pytest.mark.parametrize('seed', range(4))
def test_marks_change_log_odds_and_memory_as_the_model_says(seed):
    rng = np.random.default_rng(seed)
    columns, rows = window(rng)
    shape = (SIDE, SIDE, LAYERS)
    log_odds = rng.choice(np.array([-FULL_SCALE, FULL_SCALE, -900, 300, 0], np.int16), shape)
    log_odds += rng.integers(0, 9, shape).astype(np.int16) * np.sign(-log_odds)
    low = rng.random(shape[:2]) < 0.5  # columns where nothing but free space was seen
    log_odds[low] = np.minimum(log_odds[low], -900)
    kinds = np.where(low[..., None], PASSED, rng.choice([0, PASSED, HIT, DOUBTED], shape))
    kinds *= rng.random((SIDE, SIDE, 1)) < 0.8  # others are not touched
    news, streak = rng.integers(0, NEWS + 1, shape), rng.integers(0, STREAK + 1, shape)
    news[low] *= rng.random((low.sum(), LAYERS)) < 0.1
    marks = (kinds | news << NEWS_AT | streak << STREAK_AT).astype(np.uint8)
    ground = rng.choice([0, FLOOR, GAP], shape[:2]) | rng.integers(0, 4, shape[:2]) << NEWS_AT
    told, gaps = ground & MARK, ground >> NEWS_AT
    ground, tops = ground.astype(np.uint8), np.full(shape[:2], LAYERS, np.uint8)
    cells = np.full(shape[:2], 77, np.int8)
    eye, own, std, scale_std = np.array([11.3, 2.2, 7.7]), 0.05, 0.02, 0.03
    view = (eye, np.eye(3), np.array([20.0, 20, 10, 10]), np.zeros((4, 3)), (20, 20), 30.0)
    hit, miss, count = 7000, 3000, 1 + seed % 2
    expected = log_odds.astype(int)
    projected = np.full(shape[:2], 77)
    for j, i, k in np.ndindex(shape):
        at = rows[j], columns[i], k
        value, kind = expected[at], kinds[at]
        if kind == PASSED:
            streak[at], news[at] = min(streak[at] + count, STREAK), news[at] // 2
            value -= miss
            if streak[at] >= 4:
                value, news[at] = min(value, -500), 0
        elif kind == DOUBTED:
            value -= min(miss, max(value, 0))
            news[at] = min(news[at], 1)
        elif kind == HIT:
            streak[at] = 0
            away = math.dist((i + 0.5, j + 0.5, k + 0.5), eye)
            change = int(hit / (1 + 2 * std * away))
            if may_be_floor(k + 0.5, eye[2], 2 * math.hypot(scale_std, own)):
                change = min(change // 4, max(OCCUPIED_AT - 1 - value, 0))
            value += change
        expected[at] = min(max(value, -FULL_SCALE), FULL_SCALE)
    for at in np.ndindex(shape[:2]):
        if told[at]:
            gaps[at] = min(gaps[at] + 1, NEWS) if told[at] == GAP else gaps[at] // 2
        if kinds[at].any():
            occupied = (expected[at] >= OCCUPIED_AT).any() or (news[at] >= 2).sum() >= 3
            free = (expected[at][:6] <= -500).all() and (expected[at][6:8] < 0).all()
            free &= not news[at].any()
            projected[at] = OCCUPIED if occupied else FREE if free else UNKNOWN
    stated, bounds = np.full((1, 1), own, np.float32), (OCCUPIED_AT, -500, 8, 6)
    limits = (0.3, 5.0, 0.0, std, scale_std)
    apply_marks(
        log_odds,
        marks,
        ground,
        tops,
        cells,
        columns,
        rows,
        view,
        limits,
        stated,
        (hit, miss, count),
        bounds,
    )
    np.testing.assert_array_equal(log_odds, expected)
    np.testing.assert_array_equal(marks >> NEWS_AT, (news | streak << (STREAK_AT - NEWS_AT)))
    assert not (marks & MARK).any()
    np.testing.assert_array_equal(ground, gaps << NEWS_AT)
    np.testing.assert_array_equal(cells, projected)
    assert min(np.count_nonzero(cells == kind) for kind in (FREE, OCCUPIED, UNKNOWN)) > 10
