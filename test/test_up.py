"""Up is what the data says: cameras held in any way keep their place."""

import json

import cv2
import numpy as np
import pytest
from test_folder_recordings import row_of, seconds
from test_sources import Bag, K, START_NS, STEP_NS, unlit, write_rgb

from sharp_ros import se3
from sharp_ros.apps.cli import main
from sharp_ros.apps.inspect import UP_AXES
from sharp_ros.camera import Frame
from sharp_ros.sources import open_source
from sharp_ros.sources.base import LEVEL_WORLD, LevelWorld
from sharp_ros.sources.up import AXES, find_up
from sharp_ros.synthetic import Room

UP = np.array([0, 0, 1.0])


def rolled(pose, degrees):
    """The camera turned about its own axis of view."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return pose @ turn


def held(how):
    """Poses of a camera in the room, the first of which decides."""
    eye = np.array([0.5, 0.2, 1.4])
    if how == 'straight down':
        eye = np.array([0.5, 0.2, 1.6])
        first = se3.look_at(eye, eye - UP, np.array([1.0, 0, 0]))
    else:
        angle = {'upright': 0, 'upside down': 180, 'rolled': 90, 'rolled back': -90}[how]
        first = rolled(se3.look_at(eye, eye + np.array([1.5, 0.5, -0.9]), UP), angle)
    poses = [first.copy() for _ in range(3)]
    for i, pose in enumerate(poses):
        pose[0, 3] -= 0.02 * i
    return poses


HOW = ['upright', 'upside down', 'rolled', 'rolled back', 'straight down']


@pytest.fixture(scope='module')
def room():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, '_atlas', property(unlit))
        made = Room(0)
        made.render(K, held('upright')[0])
        yield made


@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('level', [True, False])
def test_a_camera_in_a_tum_folder_keeps_its_place_however_it_is_held(tmp_path, room, how, level):
    rgb, depth, poses = [], [], []
    for i, pose in enumerate(held(how)):
        image, metres = room.render(K, pose)
        write_rgb(tmp_path / f'rgb/{i}.png', image)
        (tmp_path / 'depth').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f'depth/{i}.png'), np.round(metres * 5000).astype(np.uint16))
        stamp = seconds(START_NS + i * STEP_NS)
        rgb.append(f'{stamp} rgb/{i}.png')
        depth.append(f'{stamp} depth/{i}.png')
        poses.append(f'{stamp} {row_of(pose)}')
    for name, rows in (('rgb', rgb), ('depth', depth), ('groundtruth', poses)):
        (tmp_path / f'{name}.txt').write_text('\n'.join(rows))
    k = {'width': 160, 'height': 120, 'fx': K.fx, 'fy': K.fy, 'cx': K.cx, 'cy': K.cy}
    (tmp_path / 'camera.yaml').write_text(json.dumps(k))
    frames = list(open_source(str(tmp_path), level=level).frames())
    world = LevelWorld()  # as evaluations level what comes as recorded
    for frame, pose in zip(frames, held(how), strict=True):
        placed = frame.T_world_camera if level else world.pose(frame)
        np.testing.assert_allclose(placed, pose, atol=1e-6)


@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('by', ['odometry', 'tf'])
def test_a_camera_in_a_bag_keeps_its_place_however_it_is_held_and_without_depth(
    tmp_path, room, how, by
):
    with Bag(tmp_path / 'a') as bag:
        for i, pose in enumerate(held(how)):
            stamp = START_NS + i * STEP_NS
            bag.image('/image', room.render(K, pose)[0], stamp, 'rgb8')
            if by == 'tf':
                bag.transform('/tf', 'map', 'cam', pose, stamp)
            else:
                bag.odometry(pose, stamp, 'cam')
    world = LevelWorld()
    for frame, pose in zip(open_source(str(tmp_path / 'a')).frames(), held(how), strict=True):
        np.testing.assert_allclose(frame.T_world_camera, pose, atol=1e-6)
        np.testing.assert_allclose(world.pose(frame), pose, atol=1e-6)


# --- worlds of recordings ------------------------------------------------------------------------

WORLDS = {
    'z': np.eye(3),
    'y': np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    '-y': np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    'x': np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]),
    '-z': np.diag([1.0, -1, -1]),
}
TURNED = {'upright': 0, 'upside down': 180, 'rolled': 90, 'rolled back': -90}


@pytest.fixture(scope='module')
def drives(room):
    """A round through the room, by a camera that is held in each way: poses with depth."""
    way = [pose for _, pose in room.trajectory(room.loop_duration, 1.0)][::2]
    found = {}
    for how in (*TURNED, 'straight down', 'straight up'):
        poses = [rolled(pose, TURNED.get(how, 0)) for pose in way]
        if how.startswith('straight'):
            view = UP if how == 'straight up' else -UP
            poses = [se3.look_at(p[:3, 3], p[:3, 3] + view, p[:3, 2]) for p in poses]
        found[how] = [(pose, room.render(K, pose)[1]) for pose in poses]
    return found


def find(drive, world, said=None, *, seen=True):
    """The level world that is found, and errors of up (radians) and of the height (metres)."""
    turn = world if world.shape == (4, 4) else se3.transform(world, np.array([1.0, 2, 3]))
    poses = np.stack([turn @ pose for pose, _ in drive])
    found = find_up(poses, lambda i: (drive[i][1], K) if seen else None, said)
    T_level_room = found.T_level_world @ turn
    off = np.arccos(np.clip(T_level_room[2, 2], -1, 1))
    return found, off, abs((T_level_room @ drive[0][0])[2, 3] - drive[0][0][2, 3])


@pytest.mark.parametrize('how', TURNED)
@pytest.mark.parametrize('world', [*WORLDS, 'first camera'])
def test_what_is_up_is_seen_in_any_world_however_the_camera_is_held(drives, how, world):
    drive = drives[how]
    turn = WORLDS[world] if world in WORLDS else se3.inverse(drive[0][0])
    found, off, height = find(drive, turn)
    assert found.doubt == ''
    assert off < np.radians(2)
    if world == 'z':
        assert found.is_recorded
    else:
        assert height < 0.05


@pytest.mark.parametrize('seen', [True, False])
@pytest.mark.parametrize('how', [*TURNED, 'straight down', 'straight up'])
def test_a_world_with_z_up_stays_as_it_is_however_the_camera_is_held(drives, how, seen):
    found, _, _ = find(drives[how], np.eye(4), seen=seen)
    assert found.is_recorded
    shown = how in ('upright', 'straight down') if seen else how == 'upright'
    if seen and how in TURNED:
        shown = True
    assert ('say it with --up' in found.doubt) != shown


@pytest.mark.parametrize('world', ['y', '-y', 'x'])
def test_an_upright_camera_shows_what_is_up_without_depth_and_that_is_said(drives, world):
    found, off, _ = find(drives['upright'], WORLDS[world], seen=False)
    assert off < np.radians(2)
    assert f'--up={world}' in found.doubt


@pytest.mark.parametrize('seen', [True, False])
@pytest.mark.parametrize('how', [*TURNED, 'straight down', 'straight up'])
@pytest.mark.parametrize('world', ['z', 'y', '-z'])
def test_what_the_user_says_is_up_is(drives, how, world, seen):
    found, off, height = find(drives[how], WORLDS[world], world, seen=seen)
    assert off < 1e-6
    assert found.doubt == ''
    if world != 'z' and seen and how != 'straight up':
        assert height < 0.05


def test_straight_down_in_a_world_that_is_the_first_camera_is_guessed_and_said(drives):
    drive = drives['straight down']
    found, off, height = find(drive, se3.inverse(drive[0][0]))
    assert off < np.radians(2)
    assert height < 0.05
    assert '--up=-z' in found.doubt


def test_the_axis_that_is_said_counts_in_folders_and_bags(tmp_path, room, capsys):
    world = se3.transform(WORLDS['y'], np.zeros(3))
    poses = held('upside down')
    with Bag(tmp_path / 'bag') as bag:
        for i, pose in enumerate(poses):
            stamp = START_NS + i * STEP_NS
            bag.image('/image', room.render(K, pose)[0], stamp, 'rgb8')
            bag.odometry(world @ pose, stamp, 'cam')
    (tmp_path / 'tum').mkdir()
    rgb, truth = [], []
    for i, pose in enumerate(poses):
        write_rgb(tmp_path / f'tum/{i}.png', room.render(K, pose)[0])
        rgb.append(f'{seconds(START_NS + i * STEP_NS)} {i}.png')
        truth.append(f'{seconds(START_NS + i * STEP_NS)} {row_of(world @ pose)}')
    (tmp_path / 'tum/rgb.txt').write_text('\n'.join(rgb))
    (tmp_path / 'tum/groundtruth.txt').write_text('\n'.join(truth))
    assert main(['inspect', str(tmp_path / 'tum')]) == 0
    assert 'say it with --up' in ' '.join(capsys.readouterr().out.split())
    for name in ('bag', 'tum'):
        for level in (True, False):
            source = open_source(str(tmp_path / name), up='y', level=level)
            assert '--up' not in source.note
            for frame, pose in zip(source.frames(), poses, strict=True):
                np.testing.assert_allclose(frame.T_world_camera[2, :3], pose[2, :3], atol=1e-6)
                assert frame.world_frame == LEVEL_WORLD


def test_a_world_that_is_a_camera_is_still_levelled(room):
    """Its z is forward: what lies along it is above a camera that stands at its origin."""
    first = held('upright')[0]
    image, depth = room.render(K, first)
    level = LevelWorld().pose(Frame(image, K, 0, 'cam', np.eye(4), 'world', depth))
    np.testing.assert_allclose(level[2, 3], first[2, 3], atol=0.03)  # height over the floor
    np.testing.assert_allclose(level[2, :3], first[2, :3], atol=0.02)


def test_the_flag_offers_the_axes_that_there_are():
    assert tuple(AXES) == UP_AXES
