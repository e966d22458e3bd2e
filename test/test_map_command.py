from __future__ import annotations

from dataclasses import replace
from itertools import islice
import json
import os
from pathlib import Path
import runpy
import signal
import sys

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
import yaml

from sharp_ros import se3, sources
from sharp_ros.apps.cli import main
from sharp_ros.config import load_yaml, SharpConfig, to_yaml
from sharp_ros.errors import InputError
from sharp_ros.mapping.map_files import load_map
from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OCCUPIED, UNKNOWN
from sharp_ros.pictures.maps import draw_map, draw_surface, draw_trajectory, Trajectory
from sharp_ros.sources import SyntheticSource
from sharp_ros.sources.base import LevelWorld
from sharp_ros.sources.stock import Stock
from sharp_ros.synthetic import Room
from sharp_ros.synthetic.renderer import Atlas

pytestmark = pytest.mark.usefixtures('one_thread')

EXAMPLE = Path(__file__).parents[1] / 'examples' / '03_map_a_bag.py'
SMALL = ('--set', 'occupancy.size=10', '--set', 'surface_map.enabled=false')
PICTURES = {'map.png', 'overview.png', 'trajectory.png'}
GREEN, RED = (20, 160, 60), (215, 40, 40)  # start and end


def speckled(room):
    """Instead of the room's textures, which take seconds to light: speckles to track."""
    patches, fine, coarse = len(room.patches[0]), (48, 48), (12, 12)
    rng = np.random.default_rng(0)
    speckles = rng.integers(30, 225, (patches, *coarse, 3), np.uint8)
    levels = [np.stack([cv2.resize(s, fine) for s in speckles]), speckles]
    offsets = np.arange(patches) * fine[0] * fine[1]
    last = patches * fine[0] * fine[1] + np.arange(patches) * coarse[0] * coarse[1]
    return Atlas(
        np.concatenate([level.reshape(-1, 3) for level in levels]),
        np.stack([offsets, last], 1),
        np.tile([fine, coarse], (patches, 1, 1)),
        np.full(patches, 100.0),
    )


@pytest.fixture(scope='module')
def drive():
    """A second and a half of a drive through a simulated room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, '_atlas', property(speckled))
        return list(islice(SyntheticSource(size=(160, 120)).frames(), 15))


class Recording:
    """A source of these frames; whatever else is in the list is called."""

    name, rate_hz, note = 'recording', 10.0, ''

    def __init__(self, frames):
        self._frames, self.stock = frames, Stock(self.name, 'test')

    def frames(self):
        for frame in self._frames:
            if callable(frame):
                frame()
            else:
                yield frame


@pytest.fixture
def run_map(monkeypatch, tmp_path):
    """Runs the command on frames; gives exit code, report and the folder of the map."""

    def run(frames, *arguments, settings=SMALL):
        monkeypatch.setattr(sources, 'open_source', lambda *_, **__: Recording(frames))
        out, report = tmp_path / 'out', tmp_path / 'report.json'
        line = ['map', 'recording', '-o', str(out), '--json', str(report), '--model', 'sensor']
        code = main([*line, *settings, *map(str, arguments)])
        return code, json.loads(report.read_text()) if report.exists() else None, out

    return run


def test_a_mask_counts_and_a_bad_one_is_named(drive, run_map, tmp_path, capsys):
    """The right half of every image is taken for the robot."""

    def mapped(mask, folder):
        given = ('--set', f'camera.mask={mask}') if mask else ()
        code, report, _ = run_map(drive, *given, '-o', tmp_path / folder)
        return code, report, ''.join(capsys.readouterr())

    mask = np.full((120, 160), 255, np.uint8)
    mask[:, 80:] = 0
    cv2.imwrite(str(tmp_path / 'mask.png'), mask)
    code, whole, _ = mapped('', 'whole')
    assert code == 0
    code, half, _ = mapped(tmp_path / 'mask.png', 'half')
    assert code == 0
    assert half['voxels'] < 0.8 * whole['voxels']
    code, _, said = mapped('/nowhere/mask.png', 'none')
    assert code == 1
    assert 'camera.mask: cannot read /nowhere/mask.png' in said
    code, _, said = mapped('0,400 640,400 640,480 0,480', 'none')
    assert code == 1
    assert 'lies outside of the 160x120 image' in said.replace('\n', ' ')


def without_poses(frames):
    return [replace(frame, T_world_camera=None) for frame in frames]


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def fail(reason):
    def call():
        raise InputError('the plug was pulled', reason)

    return call


def places_of(picture, colour):
    """Rows and columns that have this colour."""
    return np.argwhere((picture == colour).all(-1))


# --- the command ---------------------------------------------------------------------------------


def test_recorded_poses_give_a_whole_map_with_pictures_and_a_report(drive, run_map, capsys):
    code, report, out = run_map(drive, settings=())
    assert code == 0
    assert {path.name for path in out.iterdir()} == set(report['files'])
    assert {'map.pgm', 'map.yaml', 'cloud.ply', 'mesh.ply', 'gaussians.ply', *PICTURES} <= set(
        report['files']
    )
    assert (report['poses'], report['frames'], report['placed']) == ('source', 15, 15)
    assert min(report[n] for n in ('voxels', 'gaussians', 'surface_points', 'fps')) > 0
    state = load_map(out)
    np.testing.assert_allclose(state.path, [frame.T_world_camera for frame in drive])
    steps = np.diff([frame.T_world_camera[:3, 3] for frame in drive], axis=0)
    length = np.linalg.norm(steps, axis=1).sum()
    assert report['path_length_m'] == pytest.approx(length, abs=1e-3)
    assert report['verdict'] == {'level': 'good', 'reasons': []}
    assert 'ate_rmse_m' not in report  # the recorded poses against themselves
    plan = read(out / 'map.png')
    for colour in ((255, 255, 255), (0, 0, 0), (205, 205, 205), GREEN, RED):
        assert len(places_of(plan, colour)) > 50
    assert read(out / 'overview.png').shape == (2 * 508, 3 * 640, 3)
    printed = capsys.readouterr().out
    assert '15 placed' in printed
    assert 'map.png' in printed


def test_visual_odometry_is_measured_against_the_recorded_poses(drive, run_map):
    code, report, out = run_map(drive, '--poses', 'visual')
    assert code == 0
    assert (report['poses'], report['placed']) == ('visual', 15)
    assert 0 < report['ate_rmse_m'] < 0.02  # of 0.7 m
    assert load_map(out).visual
    estimate = load_map(out).path[:, :3, 3]
    assert np.abs(estimate[0, :2]).max() < 0.01  # its own world, not the recorded one
    orange = places_of(read(out / 'trajectory.png'), (240, 150, 30))
    assert len(orange) > 100  # the truth


def test_a_black_map_is_no_success(drive, run_map, capsys):
    """Poses 0.3 m too high: the floor lies where obstacles do."""
    raised = [replace(frame, T_world_camera=frame.T_world_camera.copy()) for frame in drive]
    for frame in raised:
        frame.T_world_camera[2, 3] += 0.3
    code, report, out = run_map(raised)
    assert (code, report['placed'], report['lost']) == (3, 15, 0)
    assert report['verdict']['level'] == 'bad'
    assert [reason['name'] for reason in report['verdict']['reasons']] == ['little_free']
    assert yaml.safe_load((out / 'map.yaml').read_text())['verdict'] == report['verdict']
    said = capsys.readouterr().err
    assert '--set scale.camera_height=METRES' in said
    assert 'seen cells are free' in said


def test_frames_without_a_pose_are_lost_time_of_the_map(drive, run_map):
    gap = [*drive[:5], *without_poses(drive[5:10]), *drive[10:]]
    code, report, _ = run_map(gap)
    assert (code, report['verdict']['level']) == (0, 'doubtful')
    assert [reason['name'] for reason in report['verdict']['reasons']] == ['lost_time']


def test_frames_without_poses_are_placed_by_visual_odometry_unless_poses_are_asked_for(
    drive, run_map, capsys
):
    code, report, out = run_map(without_poses(drive))
    assert (code, report['poses'], report['placed']) == (0, 'visual', 15)
    assert 'ate_rmse_m' not in report
    for path in out.iterdir():
        path.unlink()
    code, _, out = run_map(without_poses(drive), '--poses', 'source')
    assert code == 1
    assert '--poses visual' in capsys.readouterr().err
    assert not any(out.iterdir())


def test_poses_that_begin_late_are_used_and_what_came_before_is_reported(drive, run_map, capsys):
    code, report, _ = run_map([*without_poses(drive[:4]), *drive[4:]])
    assert (code, report['poses']) == (0, 'source')
    assert (report['placed'], report['lost']) == (11, 4)
    assert 'no pose for 4 of 15 frames' in capsys.readouterr().err


def test_unusable_frames_are_counted_and_the_others_mapped(drive, run_map, capsys):
    damaged = [replace(frame, depth=None) for frame in drive[5:8]]
    code, report, _ = run_map([*drive[:5], *damaged, *drive[8:]])
    assert code == 0
    assert (report['frames'], report['placed'], report['lost']) == (15, 12, 0)
    assert sum(report['unusable'].values()) == 3
    warning = capsys.readouterr().err
    assert all(f'{reason} 3' in warning for reason in report['unusable'])


def test_images_with_the_stamp_of_the_one_before_are_reported_and_not_counted_as_mapped(
    drive, run_map, capsys
):
    moving = without_poses(drive)
    moving[5] = replace(moving[5], stamp_ns=moving[4].stamp_ns)
    code, report, _ = run_map(moving)
    assert (code, report['placed'], report['lost']) == (0, 14, 0)
    assert report['unusable'] == {'repeated_stamp': 1}
    assert 'repeated_stamp 1' in capsys.readouterr().err


def test_a_recording_without_any_depth_is_refused_with_the_reason(drive, run_map, capsys):
    code, report, out = run_map([replace(frame, depth=None) for frame in drive])
    assert (code, report) == (1, None)
    assert 'none of 15 frames could be used' in capsys.readouterr().err
    assert not out.exists()


def test_ctrl_c_writes_what_there_is_and_gives_the_signal_back(drive, run_map, capsys):
    before = signal.getsignal(signal.SIGINT)
    code, report, out = run_map(
        [*drive[:12], lambda: os.kill(os.getpid(), signal.SIGINT), *drive[12:]]
    )
    assert code == 130
    assert 12 <= report['placed'] < 15
    assert report['interrupted']
    assert len(load_map(out).path) == report['placed']
    assert 'interrupted' in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_source_that_breaks_off_leaves_the_map_so_far(drive, run_map, capsys):
    code, report, out = run_map([*drive[:12], fail('camera_unavailable')])
    assert code == 1
    assert (report['placed'], report['broken']) == (12, 'the plug was pulled')
    assert len(load_map(out).path) == 12
    assert 'the plug was pulled' in capsys.readouterr().err


def test_leaving_the_window_is_reported_with_what_to_set(drive, run_map, capsys):
    far = drive[9].T_world_camera.copy()
    far[0, 3] -= 30
    code, _, out = run_map([*drive[:9], replace(drive[9], T_world_camera=far)])
    assert code == 0
    assert '--set occupancy.size=20' in capsys.readouterr().err
    assert (out / 'map.png').exists()  # with the whole way


@pytest.mark.parametrize('taken', ['file', 'filled folder', 'file above'])
def test_an_output_in_the_way_is_refused_before_any_work(taken, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sources, 'open_source', lambda *_, **__: pytest.fail('it worked'))
    out = tmp_path / 'out'
    if taken == 'filled folder':
        out.mkdir()
        (out / 'thesis.txt').write_text('all of it')
    else:
        out.write_text('all of it')
    target = out / 'map' if taken == 'file above' else out
    assert main(['map', 'synthetic', '-o', str(target)]) == 1
    assert 'choose another' in capsys.readouterr().err
    kept = out / 'thesis.txt' if taken == 'filled folder' else out
    assert kept.read_text() == 'all of it'


@pytest.mark.parametrize(
    ('flags', 'printed'),
    [
        (['--set', 'occupancy.voxel=0.1'], 'unknown setting'),
        (['--set', 'occupancy.voxelsize=0.1'], 'did you mean occupancy.voxel_size'),
        (['--set', 'occupancy.size=1_0'], 'must be float, got str'),
        (['--set', 'occupancy.voxel_size=-1'], 'at least'),
        (['--set', 'occupancy.voxel_size=small'], 'must be float'),
        (['--set', 'occupancy.voxel_size'], 'KEY=VALUE'),
        (['--set', 'model.name=[a'], 'cannot be read'),
        (['--config', '/nowhere/sharp.yaml'], '/nowhere/sharp.yaml'),
        (['--max-frames', '0'], '--max-frames'),
        (['--hfov', '200'], '--hfov'),
        (['--json', '/nowhere/report.json'], '/nowhere'),
    ],
)
def test_flags_that_cannot_be_are_refused_before_any_work(
    flags, printed, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sources, 'open_source', lambda *_, **__: pytest.fail('it worked'))
    assert main(['map', 'synthetic', '-o', str(tmp_path / 'out'), *flags]) == 1
    assert printed in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_settings_come_from_the_file_then_from_this_command_then_from_flags(
    drive, run_map, tmp_path
):
    base = SharpConfig()
    file = tmp_path / 'mine.yaml'
    voxels = replace(base.occupancy, voxel_size=0.1, size=10.0)
    names = replace(base.model, name='nano')
    file.write_text(to_yaml(replace(base, occupancy=voxels, model=names)))
    flags = ('--set', 'scale.camera_height=1', '--set', 'gaussian_map.enabled=false')
    code, report, out = run_map(drive, '--config', file, *flags, '--max-frames', 3, settings=())
    assert (code, report['frames']) == (0, 3)
    config = load_yaml(out / 'config.yaml')
    assert config.occupancy == voxels
    assert config.model.name == 'sensor'
    assert config.scale.camera_height == 1
    assert not config.gaussian_map.enabled
    assert config.surface_map.enabled  # though the file has the default, off
    assert not config.views


def levelled(frames):
    world = LevelWorld()
    return [frame.placed(world.pose(frame), frame.world_frame) for frame in frames]


def test_a_world_whose_z_is_not_up_is_levelled_by_the_floor(drive, run_map):
    tilt = se3.look_at(np.array([5.0, 1, 2]), np.array([0.3, 0.1, -0.4]), np.array([1.0, 0.5, 0]))
    tilted = [replace(frame, T_world_camera=tilt @ frame.T_world_camera) for frame in drive]
    limit = ('--set', 'occupancy.max_turn_rate=0')  # the way begins with a turn
    code, _, out = run_map(levelled(tilted), '--max-frames', 5, *limit)
    assert code == 0
    heights = [frame.T_world_camera[2, 3] for frame in drive[:5]]
    np.testing.assert_allclose(load_map(out).path[:, 2, 3], heights, atol=0.05)
    for frame, same in zip(drive, levelled(drive), strict=True):  # was level
        np.testing.assert_array_equal(same.T_world_camera, frame.T_world_camera)


# --- pictures ------------------------------------------------------------------------------------


def way_along(points, truth=None):
    path = np.tile(np.eye(4), (len(points), 1, 1))
    path[:, :3, 3] = points
    return Trajectory(np.arange(len(points)) * 100_000_000, path, truth)


def test_map_shows_the_path_where_it_was_with_y_up_and_a_true_scale_bar():
    cells = np.full((60, 80), UNKNOWN, np.int8)
    cells[10:40, 10:70] = FREE
    cells[10:12, 10:70] = OCCUPIED  # a wall at the smallest y
    grid = OccupancyGrid2D(cells, 0.1, (-4.0, -3.0))
    picture = draw_map(grid, way_along([[-2.0, -1, 1], [-2.0, 0, 1], [1.0, 0, 1]]))
    plan, footer = picture[:-52], picture[-52:]
    (start_v, start_u), (end_v, end_u) = (
        places_of(plan, colour).mean(0) for colour in (GREEN, RED)
    )
    px_per_metre = (end_u - start_u) / 3
    assert (start_v - end_v) / px_per_metre == pytest.approx(1, abs=0.1)
    wall = places_of(plan, (0, 0, 0))
    assert (wall[:, 0].min() - start_v) / px_per_metre == pytest.approx(0.8, abs=0.1)
    bar = (footer[26, 20:180] == 45).all(-1)
    assert np.argmin(bar) / px_per_metre == pytest.approx(1, abs=0.02)


def test_a_path_beyond_the_grid_is_drawn_whole():
    grid = OccupancyGrid2D(np.full((40, 40), FREE, np.int8), 0.1, (0.0, 0.0))
    inside = draw_map(grid, way_along([[1.0, 1, 0], [2.0, 2, 0]]))
    outside = draw_map(grid, way_along([[1.0, 1, 0], [30.0, 2, 0]]))
    assert len(places_of(outside, RED)) == pytest.approx(len(places_of(inside, RED)), rel=0.2)
    assert outside.shape[1] / outside.shape[0] > 3


def surface_of_a_room():
    """A green floor, a blue ceiling, and two facing walls, one red and one yellow."""
    a, b = (g.ravel() for g in np.meshgrid(np.linspace(0, 4, 81), np.linspace(0, 4, 81)))
    zero = np.zeros_like(a)
    parts = [
        (np.stack([a, b, zero], -1), (0, 200, 0), (0, 0, 1)),
        (np.stack([a, b, zero + 2.0], -1), (0, 0, 255), (0, 0, -1)),
        (np.stack([a, zero, b / 2], -1), (255, 0, 0), (0, 1, 0)),
        (np.stack([a, zero + 4, b / 2], -1), (255, 255, 0), (0, -1, 0)),
    ]
    return [np.concatenate([np.broadcast_to(p[i], p[0].shape) for p in parts]) for i in range(3)]


def test_surface_from_above_has_its_floor_in_sight_and_no_ceiling():
    way = way_along([[1.0, 1, 1], [3.0, 1, 1]])
    picture = draw_surface(*surface_of_a_room(), 0.05, way, oblique=False)
    assert len(places_of(picture, (0, 200, 0))) > 0.4 * picture.shape[0] ** 2
    assert not (picture[..., 2] > 240).all(-1).any()
    blue = (picture[..., 2] > 200) & (picture[..., 0] < 10) & (picture[..., 1] < 10)
    assert not blue.any()


def test_surface_from_the_side_shows_the_far_wall_and_not_the_back_of_the_near_one():
    way = way_along([[1.0, 1, 1], [3.0, 1, 1]])
    picture = draw_surface(*surface_of_a_room(), 0.05, way, oblique=True).astype(int)
    red = (picture[..., 0] > 120) & (picture[..., 1] < 20) & (picture[..., 2] < 20)
    yellow = (picture[..., 0] > 120) & (picture[..., 1] > 120) & (picture[..., 2] < 20)
    floor = (picture[..., 1] > 120) & (picture[..., 0] < 20) & (picture[..., 2] < 20)
    assert sorted([red.sum() > 20_000, yellow.sum() > 20_000]) == [False, True]
    assert floor.sum() > 20_000


def test_an_empty_surface_is_a_dark_picture_with_the_path():
    nothing = (np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32))
    for oblique in (False, True):
        picture = draw_surface(*nothing, 0.02, way_along([[0.0, 0, 1]]), oblique=oblique)
        assert len(places_of(picture, RED)) > 10


def test_no_line_is_drawn_over_a_gap_in_the_path():
    points = np.stack([np.linspace(0, 4, 21), np.zeros(21), np.ones(21)], -1)
    whole = draw_trajectory(way_along(points), 'path')
    gap = np.r_[0:6, 15:21]
    way = way_along(points)
    parts = draw_trajectory(Trajectory(way.stamps_ns[gap], way.path[gap]), 'path')
    blue = (25, 105, 230)
    assert len(places_of(parts, blue)) < 0.75 * len(places_of(whole, blue))


# --- the example -------------------------------------------------------------------------------


def write_bag(path, frames):
    """Images, registered depth, calibration and odometry of the camera, as a driver records."""
    store = get_typestore(Stores.ROS2_HUMBLE)

    def of(name, *values, **fields):
        return store.types[name](*values, **fields)

    def header(stamp_ns, frame_id):
        stamp = of('builtin_interfaces/msg/Time', *divmod(stamp_ns, 10**9))
        return of('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)

    def image(array, stamp_ns, encoding):
        rows = np.ascontiguousarray(array).view(np.uint8).reshape(array.shape[0], -1)
        size = dict(zip(('height', 'width'), array.shape, strict=False))
        return of(
            'sensor_msgs/msg/Image', header(stamp_ns, 'cam'), **size, encoding=encoding,
            is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
        )  # fmt: skip

    def info(k, stamp_ns):
        return of(
            'sensor_msgs/msg/CameraInfo', header(stamp_ns, 'cam'), k.height, k.width, 'plumb_bob',
            np.zeros(5), k.matrix.ravel(), np.eye(3).ravel(),
            np.column_stack([k.matrix, np.zeros(3)]).ravel(), 0, 0,
            of('sensor_msgs/msg/RegionOfInterest', 0, 0, 0, 0, False),
        )  # fmt: skip

    def odometry(pose, stamp_ns):
        w, x, y, z = map(float, se3.quat_from_matrix(pose[:3, :3]))
        place = of(
            'geometry_msgs/msg/Pose',
            of('geometry_msgs/msg/Point', *map(float, pose[:3, 3])),
            of('geometry_msgs/msg/Quaternion', x, y, z, w),
        )
        still = of('geometry_msgs/msg/Vector3', 0.0, 0.0, 0.0)
        return of(
            'nav_msgs/msg/Odometry', header(stamp_ns, 'odom'), 'cam',
            of('geometry_msgs/msg/PoseWithCovariance', place, np.zeros(36)),
            of(
                'geometry_msgs/msg/TwistWithCovariance',
                of('geometry_msgs/msg/Twist', still, still), np.zeros(36),
            ),
        )  # fmt: skip

    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for frame in frames:
            stamp_ns = 1_700_000_000_000_000_000 + frame.stamp_ns
            messages = {
                '/cam/camera_info': info(frame.intrinsics, stamp_ns),
                '/cam/image_raw': image(frame.image, stamp_ns, 'rgb8'),
                '/cam/depth': image(frame.depth, stamp_ns, '32FC1'),
                '/odom': odometry(frame.T_world_camera, stamp_ns),
            }
            for topic, message in messages.items():
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                writer.write(connections[topic], stamp_ns, store.serialize_cdr(message, kind))


def test_example_maps_a_bag(drive, tmp_path, capsys, monkeypatch):
    write_bag(tmp_path / 'bag', drive[:6])
    folder = tmp_path / 'map'
    monkeypatch.setattr(sys, 'argv', [EXAMPLE.name, str(tmp_path / 'bag'), str(folder), 'sensor'])
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    printed = capsys.readouterr().out
    assert printed.count('camera at') == 6
    assert str(folder / 'map.pgm') in printed
    poses = [frame.T_world_camera for frame in drive[:6]]
    np.testing.assert_allclose(load_map(folder).path, poses, atol=1e-6)
