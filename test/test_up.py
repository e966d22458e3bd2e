"""Up is what the data says: cameras held in any way keep their place."""

import json

import cv2
import numpy as np
import pytest
from test_folder_recordings import row_of, seconds
from test_sources import Bag, K, START_NS, STEP_NS, unlit, write_rgb

from sharp_ros import se3
from sharp_ros.camera import Frame
from sharp_ros.sources import open_source
from sharp_ros.sources.base import LevelWorld
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


def test_a_world_that_is_a_camera_is_still_levelled(room):
    """Its z is forward: what lies along it is above a camera that stands at its origin."""
    first = held('upright')[0]
    image, depth = room.render(K, first)
    level = LevelWorld().pose(Frame(image, K, 0, 'cam', np.eye(4), 'world', depth))
    np.testing.assert_allclose(level[2, 3], first[2, 3], atol=0.03)  # height over the floor
    np.testing.assert_allclose(level[2, :3], first[2, :3], atol=0.02)
