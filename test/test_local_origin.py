"""Maps of worlds whose origin is far off, as of UTM, are those of worlds that begin nearby."""

from __future__ import annotations

from dataclasses import replace
import json

import cv2
import numpy as np
import pytest
from test_map_command import speckled
import yaml

from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import (
    GaussianMapConfig,
    ModelConfig,
    OccupancyConfig,
    PoseConfig,
    ScaleConfig,
    SharpConfig,
    SurfaceMapConfig,
    ViewConfig,
)
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.gaussians import load_ply
from sharp_ros.localization.gravity_check import no_height
from sharp_ros.mapping.local_origin import FAR, LocalOrigin
from sharp_ros.mapping.map_files import load_map, save_map
from sharp_ros.models import load_predictor
from sharp_ros.pictures.maps import draw_trajectory, Trajectory
from sharp_ros.pipeline import MAP_POINTS, OCCUPANCY, Pipeline
from sharp_ros.se3 import look_at, quat_from_matrix
from sharp_ros.sources.lists import read_poses
from sharp_ros.sources.stock import Part
from sharp_ros.synthetic import Room
from sharp_ros.views import VIEW, VIEW_DEPTH

CAMERA = Intrinsics.from_hfov(1.2, 160, 120)
STEP_NS = 200_000_000
UTM = (500_000.0, 5_400_000.0, 0.0)
OFFSETS = {'utm': UTM, '100 km': (100_000.0, 0.0, 0.0), 'earth': (-4_200_000.0, 4_800_000.0, 0.0)}
ECEF = (4_177_000.0, 855_000.0, 4_728_000.0)  # 48 degrees north
VIEWS = ('of_map', 'of_frame')
CONFIG = SharpConfig(
    occupancy=OccupancyConfig(size=10.0),
    gaussian_map=GaussianMapConfig(enabled=True),
    surface_map=SurfaceMapConfig(enabled=True, voxel_size=0.04, max_blocks=3000),
)


@pytest.fixture(scope='module')
def drive():
    """Frames of a room, at places that float64 holds exactly also 10,000 km from the origin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, '_atlas', property(speckled))
        room = Room(seed=0)
        frames = []
        for i, (_, T) in enumerate(room.trajectory(3.0, 1e9 / STEP_NS)):
            pose = T.copy()
            pose[:3, 3] = np.round(T[:3, 3] * 2**20) / 2**20
            image, depth = room.render(CAMERA, pose)
            frames.append(Frame(image, CAMERA, i * STEP_NS, 'camera', pose, 'utm', depth))
        return frames


def moved(frames, offset):
    """The same frames in a world whose origin is elsewhere."""
    poses = [frame.T_world_camera.copy() for frame in frames]
    for pose in poses:
        pose[:3, 3] += offset
    return [frame.placed(pose, 'utm') for frame, pose in zip(frames, poses, strict=True)]


def make_pipeline(frames, **changes):
    """With views from where the last camera was, placed in the world."""
    pose = frames[-1].T_world_camera
    place = {'position': tuple(pose[:3, 3]), 'target': tuple(pose[:3, 3] + 2 * pose[:3, 2])}
    views = {
        name: ViewConfig(160, 120, frame='world', source=source, rate_hz=1000.0, **place)
        for name, source in zip(VIEWS, ('map', 'frame'), strict=True)
    }
    predictor, info = load_predictor('sensor')
    config = replace(CONFIG, views=views, **changes)
    return Pipeline(Engine(predictor, ModelConfig()), info, config)


def run(frames, **changes):
    """The pipeline after all frames, and the result of the last one."""
    pipeline, result = make_pipeline(frames, **changes), None
    wanted = {OCCUPANCY, MAP_POINTS, *(VIEW + n for n in VIEWS), VIEW + VIEWS[0] + VIEW_DEPTH}
    for frame in frames:
        result = pipeline.process(frame, wanted)
    return pipeline, result


@pytest.fixture(scope='module')
def near(drive):
    return run(drive)


@pytest.fixture(scope='module', params=OFFSETS)
def offset(request):
    return np.array(OFFSETS[request.param])


@pytest.fixture(scope='module')
def far(drive, offset):
    return run(moved(drive, offset))


def ordered(points):
    """Rows in an order of their own: Open3D gives them in any."""
    return points[np.lexsort(np.round(points, 3).T)]


# --- in memory -----------------------------------------------------------------------------------


def test_a_map_begins_near_the_robot_only_where_the_world_does_not():
    assert LocalOrigin.near(np.array([-FAR, FAR, 1e5])).is_world
    assert LocalOrigin.near(np.array([FAR + 1, 30.0, 800.0])) == LocalOrigin(10_000.0, 0.0)
    assert LocalOrigin.near(np.array([499_501.0, 5_400_499.0, 0])) == LocalOrigin(*UTM[:2])
    assert LocalOrigin().frame('map') == 'map'
    assert LocalOrigin(1000.0).frame('map') == 'map_local'


def test_far_maps_have_the_same_cells_voxels_and_gaussians(near, far, offset):
    (one, _), (other, result) = near, far
    assert one.map_origin.is_world
    np.testing.assert_array_equal(other.map_origin.position, offset)
    assert result.origin == other.map_origin
    np.testing.assert_array_equal(other.grid().cells, one.grid().cells)
    assert len(one.map_points()) > 5000
    np.testing.assert_allclose(other.grid().origin, one.grid().origin + offset[:2], atol=1e-6)
    np.testing.assert_array_equal(other.map_points(), one.map_points())
    (a, seen_from), (b, seen_from_far) = (p._mapper.world.fused() for p in (one, other))
    assert len(a) > 5000
    for name in ('means', 'quats', 'scales', 'opacities', 'colors'):
        np.testing.assert_array_equal(getattr(b.arrays, name), getattr(a.arrays, name))
    np.testing.assert_array_equal(seen_from_far, seen_from)


def test_far_surfaces_are_in_the_world_within_a_millimetre(near, far, offset):
    a, b = (pipeline._mapper.world.surface()[0] for pipeline, _ in (near, far))
    assert len(a) > 5000
    np.testing.assert_allclose(ordered(b - offset), ordered(a), atol=1e-3)


def test_far_views_have_the_same_pixels(near, far):
    for name in VIEWS:
        a, b = near[1].views[name], far[1].views[name]
        assert a.coverage > 0.7
        assert np.abs(b.image.astype(int) - a.image).max() <= 1
        assert b.angle == pytest.approx(a.angle, abs=1e-3)
        assert b.distance == pytest.approx(a.distance, abs=1e-3)
    a, b = (result.views['of_map'].depth for _, result in (near, far))
    np.testing.assert_allclose(b, a, atol=1e-3)


def test_the_path_stays_in_the_world(drive, far, offset):
    path = far[0].map_state().path
    np.testing.assert_array_equal(path, [f.T_world_camera for f in moved(drive, offset)])


def test_a_reset_begins_anew_where_the_robot_is(drive):
    pipeline = make_pipeline(drive)
    (first,), (second,) = moved(drive[:1], UTM), moved(drive[1:2], (70_000.0, 0.0, 0.0))
    pipeline.process(first, ())
    pipeline.process(moved(drive[1:2], np.add(UTM, (30_000.0, 0, 0)))[0], ())  # a long way on
    assert pipeline.map_origin == LocalOrigin(*UTM[:2])
    pipeline.reset()
    assert pipeline.map_origin.is_world
    pipeline.process(second, ())
    assert pipeline.map_origin == LocalOrigin(70_000.0, 0.0)


def test_without_local_origin_all_is_in_the_world_as_coarse_as_it_is(drive):
    pipeline, _ = run(moved(drive[:2], UTM), pose=PoseConfig(local_origin='off'))
    assert pipeline.map_origin.is_world
    y = pipeline.map_points()[:, 1]
    assert y.min() > 5_399_990.0
    assert (y % 0.5 == 0).all()  # what float32 holds there


def test_a_wall_is_where_it_is_at_any_place(drive):
    place = np.array([499_876.543, 5_413_210.987, 0.0])
    pose = look_at(np.array([0.0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))
    wall = np.full(drive[0].depth.shape, 2.0, np.float32)
    frame = replace(drive[0], T_world_camera=pose, depth=wall)
    pipeline, _ = run(moved([frame, replace(frame, stamp_ns=STEP_NS)], place))
    points = pipeline.map_points() + pipeline.map_origin.position - place
    assert len(points) > 500
    np.testing.assert_allclose(points[:, 0], 2.0, atol=0.05)  # a voxel
    gaussians, _ = pipeline._mapper.world.fused()
    at = gaussians.arrays.means + pipeline.map_origin.position - place
    np.testing.assert_allclose(at[:, 0], 2.0, atol=1e-3)


def test_the_robot_stands_where_it_is_also_far_off(drive):
    """Its footprint is free, which is all that is near it."""
    config = OccupancyConfig(size=10.0, footprint_radius=0.3)
    one, _ = run(drive[:1], occupancy=config)
    other, _ = run(moved(drive[:1], UTM), occupancy=config)
    grid = other.grid()
    row, column = np.floor(
        (drive[0].T_world_camera[:2, 3] + UTM[:2] - grid.origin) / grid.resolution
    ).astype(int)[::-1]
    assert grid.cells[row, column] == 0
    np.testing.assert_array_equal(grid.cells, one.grid().cells)


def test_a_path_is_drawn_with_the_same_lines_at_its_sides(drive, offset):
    lines = []
    for frames in (drive, moved(drive, offset)):
        path = np.stack([frame.T_world_camera for frame in frames])
        stamps = np.array([frame.stamp_ns for frame in frames])
        picture = draw_trajectory(Trajectory(stamps, path), 'path')
        side = picture[:, 100:110].reshape(len(picture), -1)  # left in the plan, beside the path
        lines.append(np.flatnonzero((side == 225).all(1)))
    assert len(lines[0]) > 3
    assert len(lines[0]) == len(lines[1])
    np.testing.assert_allclose(*lines, atol=1)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folders(near, far, tmp_path_factory):
    base = tmp_path_factory.mktemp('maps')
    for name, (pipeline, _) in (('near', near), ('far', far)):
        save_map(base / name, pipeline.map_state())
    return base / 'near', base / 'far'


def header_and_rows(path):
    header, end, rows = path.read_bytes().partition(b'end_header\n')
    assert end
    return header.decode('ascii').splitlines(), rows


def test_ply_files_count_from_the_origin_that_they_tell(folders, offset):
    x, y, z = offset.tolist()
    for name in ('occupied.ply', 'cloud.ply', 'mesh.ply', 'gaussians.ply'):
        (near, rows), (far, far_rows) = (header_and_rows(f / name) for f in folders)
        assert not any(line.startswith('comment') for line in near)
        said = [line for line in far if line.startswith('comment')]
        assert said == ['comment frame utm', f'comment origin {x!r} {y!r} {z!r}']
        assert len(far_rows) == len(rows)
        if name in ('occupied.ply', 'gaussians.ply'):  # Open3D orders the others as it likes
            assert far_rows == rows
    np.testing.assert_array_equal(
        load_ply(folders[1] / 'gaussians.ply').arrays.means,
        load_ply(folders[0] / 'gaussians.ply').arrays.means,
    )


def test_grid_and_trajectory_are_in_the_world_and_say_where_the_clouds_are(folders, drive, offset):
    near, far = folders
    assert (far / 'map.pgm').read_bytes() == (near / 'map.pgm').read_bytes()
    one, other = (yaml.safe_load((f / 'map.yaml').read_text()) for f in folders)
    np.testing.assert_allclose(other['origin'], one['origin'] + offset, atol=1e-6)
    assert other['local_origin'] == offset.tolist()
    assert json.loads((far / 'about.json').read_text())['local_origin'] == offset.tolist()
    poses = read_poses(far / 'trajectory.txt', Part('poses', 'trajectory.txt'))
    true = [frame.T_world_camera for frame in moved(drive, offset)]
    np.testing.assert_allclose([T for _, T in poses], true, atol=2e-9)
    assert f'origin {offset[0]}' in (far / 'trajectory.txt').read_text()


def test_files_of_a_map_near_its_origin_are_as_they_always_were(folders):
    near = folders[0]
    assert (near / 'trajectory.txt').read_text().count('#') == 1
    assert 'local_origin' not in yaml.safe_load((near / 'map.yaml').read_text())
    about = json.loads((near / 'about.json').read_text())
    assert about['format'] == 1
    assert 'local_origin' not in about
    with np.load(near / 'state.npz') as arrays:
        assert 'local_origin' not in arrays


def test_a_far_map_that_is_loaded_where_it_was_made_fits_and_goes_on(folders, far, drive, offset):
    state = load_map(folders[1])
    np.testing.assert_array_equal(state.origin.position, offset)
    frames = moved(drive, offset)
    pipeline = make_pipeline(frames)
    pipeline.restore(state)
    loaded = None
    for frame in frames[::2] + frames[1::2]:
        loaded = pipeline.process(replace(frame, stamp_ns=10**12 + frame.stamp_ns), ()).loaded
        if loaded is not None:
            break
    assert loaded.kind == 'fits'
    assert loaded.distance < 0.1
    assert pipeline.map_origin == far[0].map_origin
    known = [(p.grid().cells != -1).sum() for p in (pipeline, far[0])]
    assert known[0] >= known[1]


def test_former_versions_refuse_what_they_would_misplace_and_we_what_is_damaged(folders, tmp_path):
    assert json.loads((folders[1] / 'about.json').read_text())['format'] == 2
    for name in ('about.json', 'config.yaml', 'state.npz'):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    with np.load(folders[1] / 'state.npz') as arrays:
        good = dict(arrays)
    for wrong in ([np.nan, 0, 0], [1e9, 0, 0], [1e5, 0, 30.0], [1e5, 0]):
        np.savez(tmp_path / 'state.npz', **{**good, 'local_origin': np.array(wrong, np.float64)})
        with pytest.raises(InputError) as caught:
            load_map(tmp_path)
        assert caught.value.reason == 'bad_map'


def write_tum(folder, frames):
    """A recording with depth and groundtruth, as others write it."""
    rows = {'rgb': [], 'depth': [], 'groundtruth': []}
    for i, frame in enumerate(frames):
        stamp = f'{1_700_000_000 + i * STEP_NS / 1e9:.6f}'
        depth = np.round(np.nan_to_num(frame.depth) * 5000).astype(np.uint16)
        for kind, picture in (('rgb', frame.image[..., ::-1]), ('depth', depth)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / kind / f'{i}.png'), picture)
            rows[kind].append(f'{stamp} {kind}/{i}.png')
        w, x, y, z = quat_from_matrix(frame.T_world_camera[:3, :3])
        pose = ' '.join(f'{v:.9f}' for v in (*frame.T_world_camera[:3, 3], x, y, z, w))
        rows['groundtruth'].append(f'{stamp} {pose}')
    for kind, lines in rows.items():
        (folder / f'{kind}.txt').write_text('\n'.join(lines))
    k = {name: getattr(CAMERA, name) for name in ('width', 'height', 'fx', 'fy', 'cx', 'cy')}
    (folder / 'camera.yaml').write_text(json.dumps({**k, 'depth_scale': 5000.0}))


def test_a_recording_with_groundtruth_in_utm_is_mapped_as_one_that_begins_nearby(drive, tmp_path):
    folders = {}
    for name, place in (('near', (0, 0, 0)), ('far', UTM)):
        write_tum(tmp_path / name, moved(drive, place))
        folders[name] = tmp_path / f'map_{name}'
        line = ['map', str(tmp_path / name), '-o', str(folders[name]), '--model', 'sensor']
        settings = ('surface_map.enabled=false', 'gaussian_map.enabled=true', 'occupancy.size=10')
        assert main([*line, *(word for s in settings for word in ('--set', s))]) == 0
    assert (folders['far'] / 'map.pgm').read_bytes() == (folders['near'] / 'map.pgm').read_bytes()
    origins = [yaml.safe_load((f / 'map.yaml').read_text())['origin'] for f in folders.values()]
    np.testing.assert_allclose(np.subtract(*origins[::-1]), UTM, atol=1e-3)
    for name in ('occupied.ply', 'gaussians.ply'):
        (_, rows), (header, far_rows) = (header_and_rows(f / name) for f in folders.values())
        assert 'comment origin 500000.0 5400000.0 0.0' in header
        assert len(far_rows) == len(rows)
    means = [load_ply(f / 'gaussians.ply').arrays.means for f in folders.values()]
    np.testing.assert_allclose(*(ordered(m) for m in means), atol=1e-3)
    one, other = (cv2.imread(str(folder / 'map.png')) for folder in folders.values())
    assert (one != other).mean() < 1e-3  # lines may be drawn a pixel beside


# --- where z is not up ---------------------------------------------------------------------------


def test_poses_from_the_centre_of_the_earth_are_not_mapped_and_named(drive):
    (frame,) = moved(drive[:1], ECEF)
    pipeline = make_pipeline(drive, scale=ScaleConfig(camera_height=1.0))
    told = []
    submit = pipeline.engine.submit
    pipeline.engine.submit = lambda *given: (told.append(given[3]), submit(*given))[1]
    result = pipeline.process(frame, {MAP_POINTS})
    assert result.unmapped.reason == 'pose_not_z_up'
    assert 'z = 4728001 m' in str(result.unmapped)
    assert 'ECEF' in str(result.unmapped)
    assert not result.mapped
    np.testing.assert_array_equal(result.depth, frame.depth)  # which needs no world
    pipeline.process(drive[1], ())
    assert told[0] is None  # no floor where nobody knows what is down
    assert told[1] is not None


@pytest.mark.parametrize('z', [-11_000.0, 0.0, 8_848.0])
def test_heights_on_earth_are_heights(drive, z):
    (frame,) = moved(drive[:1], np.add(UTM, (0.0, 970_000.0, z)))  # 57.5 degrees north
    assert no_height(frame) is None


def test_other_places_out_of_this_world_are_not_said_to_be_on_earth(drive):
    (frame,) = moved(drive[:1], (0.0, 0.0, 50_000.0))
    assert 'ECEF' not in str(no_height(frame))
    assert no_height(replace(frame, T_world_camera=None)) is None
