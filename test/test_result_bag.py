"""Results of `sharp-ros map` as a bag, read back by others."""

from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from test_map_command import drive, run_map, SMALL  # noqa: F401  (fixtures)

from sharp_ros import se3
from sharp_ros.apps.cli import main

pytestmark = pytest.mark.usefixtures('one_thread')


def contents(path):
    """Messages by topic, in the order of their stamps, with the time of the recorder."""
    found = {}
    with AnyReader([path]) as reader:
        for connection, time, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((time, message))
    return found


def stamp_of(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def matrix_of(position, q):
    rotation = se3.matrix_from_quat(np.array([q.w, q.x, q.y, q.z]))
    return se3.transform(rotation, np.array([position.x, position.y, position.z]))


@pytest.fixture(scope='module')
def mapped(drive, tmp_path_factory):  # noqa: F811
    """The drive as mapped, and what was written about it."""
    folder = tmp_path_factory.mktemp('mapped')
    with pytest.MonkeyPatch.context() as patch:
        from test_map_command import Recording

        patch.setattr('sharp_ros.sources.open_source', lambda *_, **__: Recording(drive))
        line = ['map', 'x', '-o', str(folder / 'map'), '--to-bag', str(folder / 'a.mcap')]
        assert main([*line, '--model', 'sensor', *SMALL]) == 0
        line = ['map', 'x', '-o', str(folder / 'alone.mcap'), '--model', 'sensor', *SMALL]
        assert main(line) == 0
    return folder


def test_depth_poses_and_clouds_come_back_at_the_stamps_of_the_images(drive, mapped):  # noqa: F811
    found = contents(mapped / 'a.mcap')
    assert set(found) == {
        '/sharp/depth/image',
        '/sharp/depth/camera_info',
        '/sharp/points',
        '/sharp/odometry',
        '/sharp/occupancy_grid',
        '/tf',
    }
    for topic in ('depth/image', 'depth/camera_info', 'points', 'odometry'):
        times = [(t, stamp_of(m.header)) for t, m in found[f'/sharp/{topic}']]
        assert times == [(frame.stamp_ns, frame.stamp_ns) for frame in drive]
    for i, frame in enumerate(drive):
        depth = found['/sharp/depth/image'][i][1]
        values = depth.data.view('<f4').reshape(depth.height, depth.width)
        seen = np.isfinite(values)
        assert seen.mean() > 0.9
        np.testing.assert_allclose(values[seen], frame.depth[seen], rtol=0.1)
        info = found['/sharp/depth/camera_info'][i][1]
        np.testing.assert_allclose(info.k, frame.intrinsics.matrix.ravel())
        cloud = found['/sharp/points'][i][1]
        assert (cloud.height, cloud.width, cloud.point_step) == (120, 160, 16)
        xyz = cloud.data.view('<f4').reshape(120, 160, 4)[..., :3]
        np.testing.assert_allclose(xyz[seen][:, 2], values[seen])
        odometry = found['/sharp/odometry'][i][1]
        pose = matrix_of(odometry.pose.pose.position, odometry.pose.pose.orientation)
        np.testing.assert_allclose(pose, frame.T_world_camera, atol=1e-9)
        (link,) = found['/tf'][i][1].transforms
        moved = matrix_of(link.transform.translation, link.transform.rotation)
        np.testing.assert_allclose(moved, pose)
        assert (link.header.frame_id, link.child_frame_id) == (
            odometry.header.frame_id,
            depth.header.frame_id,
        )
        # the recording's own camera frame keeps its own parent
        assert link.child_frame_id == f'sharp_{frame.frame_id}'


def test_the_grid_is_that_of_the_map(mapped):
    ((time, grid),) = contents(mapped / 'a.mcap')['/sharp/occupancy_grid']
    assert time == stamp_of(grid.header)
    cells = np.reshape(grid.data, (grid.info.height, grid.info.width))
    assert {-1, 0, 100} >= set(np.unique(cells)) - set(range(1, 100))
    assert (cells == 100).sum() > 20
    assert (cells == 0).sum() > 100
    assert grid.info.resolution == pytest.approx(0.05)


def test_a_bag_alone_has_the_same_and_leaves_no_folder(mapped):
    assert {p.name for p in mapped.iterdir()} == {'map', 'a.mcap', 'alone.mcap'}
    both, alone = contents(mapped / 'a.mcap'), contents(mapped / 'alone.mcap')
    assert {t: len(m) for t, m in both.items()} == {t: len(m) for t, m in alone.items()}


def test_an_existing_bag_is_never_replaced(drive, run_map, tmp_path, capsys):  # noqa: F811
    bag = tmp_path / 'a.mcap'
    bag.write_text('mine')
    code, _, _ = run_map(drive, '--to-bag', bag)
    assert code == 1
    assert 'exists' in capsys.readouterr().err
    assert bag.read_text() == 'mine'


def test_a_run_that_fails_leaves_no_bag(drive, run_map, tmp_path):  # noqa: F811
    bag = tmp_path / 'a.mcap'
    code, _, _ = run_map([], '--to-bag', bag)
    assert code == 1
    assert [p for p in Path(tmp_path).iterdir() if 'mcap' in p.name] == []
