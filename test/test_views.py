from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
import torch

from sharp_ros.camera import Intrinsics, project, unproject
from sharp_ros.config import ViewConfig
from sharp_ros.gaussians import linear_from_srgb, srgb_from_linear
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.se3 import apply, look_at
from sharp_ros.synthetic import step_edge_depth
from sharp_ros.views import Placement, render_view

CAMERA = Intrinsics.from_hfov(1.0, 160, 120)
ORIGIN = np.zeros((1, 3))
UP = np.array([0.0, -1.0, 0.0])
BOUNDS = ViewConfig(max_angle=0.7, max_distance=2.0, min_coverage=0.5)


def scene(depth, colour=None):
    rgb = torch.full((3, *depth.shape), 0.6) if colour is None else colour
    return gaussians_from_depth(torch.from_numpy(depth)[None], rgb, CAMERA)


def wall(distance=2.0):
    return scene(np.full((120, 160), distance, np.float32))


def view(gaussians, T_scene_view, config=BOUNDS, observers=ORIGIN, intrinsics=CAMERA):
    placement = Placement('camera', T_scene_view, True, T_scene_view)
    return render_view(gaussians, intrinsics, placement, observers, config, with_depth=True)


def test_what_the_camera_itself_saw_is_trusted_entirely():
    seen = view(wall(), np.eye(4))
    assert seen.doubt == ''
    assert not seen.withheld
    assert seen.coverage > 0.95
    assert seen.angle == pytest.approx(0, abs=1e-3)
    assert seen.distance == 0
    assert np.abs(seen.image[8:-8, 8:-8].astype(int) - 153).max() <= 6  # 0.6 in sRGB
    np.testing.assert_allclose(seen.depth[8:-8, 8:-8], 2.0, atol=1e-3)


def test_angle_is_the_parallax_at_the_surface_and_distance_that_of_the_eyes():
    eye = np.array([1.0, 0.0, 0.0])
    narrow = Intrinsics.from_hfov(0.05, 32, 24)
    seen = view(wall(), look_at(eye, np.array([0.0, 0.0, 2.0]), UP), intrinsics=narrow)
    assert seen.angle == pytest.approx(math.atan2(1, 2), abs=0.02)  # 1 degree
    assert seen.distance == pytest.approx(1.0)
    nearer = np.array([[0.0, 0, 0], [0.9, 0, 0]])  # the nearest of several observers counts
    seen = view(wall(), look_at(eye, np.array([0.0, 0, 2]), UP), BOUNDS, nearer, narrow)
    assert seen.angle == pytest.approx(math.atan2(1, 2) - math.atan2(0.9, 2), abs=0.02)
    assert seen.distance == pytest.approx(0.1)


@pytest.mark.parametrize(
    ('eye', 'target', 'words'),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, -1.0), 'sees no Gaussians'),
        ((0.0, 0.0, 0.0), (3.0, 0.0, 2.0), 'min_coverage'),
        ((2.0, 0.0, 0.4), (0.0, 0.0, 2.0), 'max_angle'),
        ((0.0, 0.0, -2.5), (0.0, 0.0, 2.0), 'max_distance'),
    ],
)
def test_a_view_beyond_its_bounds_is_marked_says_why_and_can_be_withheld(eye, target, words):
    pose = look_at(np.array(eye), np.array(target), UP)
    bounds = replace(BOUNDS, min_coverage=0.05 if 'dist' in words or 'angle' in words else 0.5)
    seen = view(wall(), pose, bounds)
    assert words in seen.doubt
    assert not seen.withheld
    for edge in (seen.image[0], seen.image[-1], seen.image[:, 0], seen.image[:, -1]):
        assert (edge == (220, 30, 30)).all()
    assert view(wall(), pose, replace(bounds, withhold=True)).withheld


def test_depth_of_the_view_belongs_to_one_surface_and_is_unknown_where_nothing_is():
    near, far = 1.0, 3.0
    depth = step_edge_depth(CAMERA, near, far, 80)
    depth[:40] = 0.0  # not measured
    seen = view(scene(depth), np.eye(4))
    known = seen.depth[np.isfinite(seen.depth)]
    assert np.isnan(seen.depth[:36]).all()
    assert len(known) > 0.6 * depth.size
    assert (np.minimum(abs(known - near), abs(known - far)) < 0.01).all()  # 1 cm


def test_points_seen_by_camera_and_view_agree_within_a_pixel():
    """What lies at a pixel of the view, by its depth, is where the camera saw that colour."""
    y, x = np.mgrid[:120, :160]
    depth = (2 + 0.002 * x + 0.3 * np.sin(y / 25)).astype(np.float32)
    ramp = np.stack([x / 160, y / 120, 0 * x + 0.5]).astype(np.float32)
    pose = look_at(np.array([0.15, -0.1, 0.1]), np.array([0.0, 0.0, 2.0]), UP)
    seen = view(scene(depth, torch.from_numpy(ramp)), pose)
    points = apply(pose, unproject(seen.depth, CAMERA).astype(np.float64))
    where = project(points, CAMERA)  # in the picture of the camera
    linear = linear_from_srgb(torch.from_numpy(seen.image / 255))
    linear *= linear_from_srgb(torch.tensor(0.5)) / linear[..., 2:]  # without what shines through
    colour = srgb_from_linear(linear).numpy()
    inner = np.s_[15:-15, 15:-15]
    off_x = (where[..., 0] - colour[..., 0] * 160)[inner]
    off_y = (where[..., 1] - colour[..., 1] * 120)[inner]
    known = np.isfinite(off_x)
    assert known.mean() > 0.9
    assert np.hypot(off_x, off_y)[known].mean() < 1.0  # px, the 8 bits of the ramp included


def test_gaussians_that_cannot_be_drawn_are_counted_and_harm_nothing():
    gaussians = wall()
    gaussians.means[7] = float('nan')
    gaussians.scales[9] = 0.0
    seen = view(gaussians, np.eye(4))
    assert seen.skipped == 2
    assert seen.doubt == ''
