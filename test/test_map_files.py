"""Maps that are saved, killed while being saved, damaged, loaded and gone on with."""

from __future__ import annotations

from dataclasses import replace
import io
import json
import os
from pathlib import Path
import resource
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
import yaml

from sharp_ros.camera import Intrinsics
from sharp_ros.config import (
    GaussianMapConfig,
    OccupancyConfig,
    OdometryConfig,
    SharpConfig,
    SurfaceMapConfig,
)
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, load_ply
from sharp_ros.localization.odometry import VisualOdometry
from sharp_ros.mapping import map_files
from sharp_ros.mapping.gaussian_map import GaussianMap
from sharp_ros.mapping.map_files import load_map, map_folder, MapState, save_map, save_new_map
from sharp_ros.mapping.occupancy import FREE, OccupancyMap, OCCUPIED, UNKNOWN
from sharp_ros.mapping.surface_map import SurfaceMap
from sharp_ros.mapping.verdict import judge, MapFacts
from sharp_ros.se3 import inverse, look_at
from sharp_ros.synthetic import Room

CONFIG = SharpConfig(
    occupancy=OccupancyConfig(size=8.0, voxel_size=0.1, max_turn_rate=0.0),
    gaussian_map=GaussianMapConfig(enabled=True, voxel_size=0.1),
    surface_map=SurfaceMapConfig(enabled=True, voxel_size=0.05, max_blocks=2000),
)
CAMERA = Intrinsics.from_hfov(1.2, 320, 240)
SMALL = replace(SharpConfig(), occupancy=OccupancyConfig(size=1.0, voxel_size=0.25))
STEP_NS = 125_000_000
STAMP_NS = 1_763_844_693_000_000_007


@pytest.fixture(scope='module')
def drive():
    """Images, exact depth and poses of the first 2 m of a room."""
    room = Room(seed=0)
    return [(*room.render(CAMERA, T), T) for _, T in room.trajectory(4.0, 1e9 / STEP_NS)]


def seen(image: np.ndarray, depth: np.ndarray) -> Gaussians:
    """A Gaussian for every fourth pixel."""
    import torch

    z = depth[::4, ::4]
    means = np.concatenate([CAMERA.rays()[::4, ::4] * z[..., None], z[..., None]], -1)
    n = z.size
    return Gaussians(
        torch.from_numpy(means.reshape(n, 3).astype(np.float32)),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.full((n, 3), 0.02),
        torch.full((n,), 0.9),
        torch.from_numpy(image[::4, ::4].reshape(n, 3).astype(np.float32) / 255),
    )


def maps() -> dict[str, OccupancyMap | GaussianMap | SurfaceMap | VisualOdometry]:
    return {
        'occupancy': OccupancyMap(CONFIG.occupancy),
        'gaussians': GaussianMap(CONFIG.gaussian_map),
        'surface': SurfaceMap(CONFIG.surface_map),
        'odometry': VisualOdometry(CONFIG.odometry),
    }


def integrate(parts, frames, first=0):
    for i, (image, depth, T) in enumerate(frames, first):
        parts['occupancy'].integrate(depth, CAMERA, T, i * STEP_NS)
        parts['gaussians'].integrate(seen(image, depth), depth, CAMERA, T)
        parts['surface'].integrate(image, depth, CAMERA, T)


@pytest.fixture(scope='module')
def parts(drive):
    """All maps of the drive, known by the poses of its own odometry."""
    parts = maps()
    for i, (image, depth, _) in enumerate(drive):
        parts['odometry'].register_frame(image, depth, CAMERA, i * STEP_NS)
    integrate(parts, drive[::5])
    return parts


@pytest.fixture(scope='module')
def state(parts, drive):
    return MapState(
        config=CONFIG,
        world_frame='odom',
        stamp_ns=STAMP_NS,
        visual=True,
        path_stamps_ns=STAMP_NS + STEP_NS * np.arange(len(drive)),
        path=np.stack([T for *_, T in drive]),
        about={'model': 'sensor', 'licence': 'Maß'},
        **{name: part.state() for name, part in parts.items()},
    )


@pytest.fixture(scope='module')
def folder(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp('maps') / 'map'
    save_map(folder, state)
    return folder


def small_state(version: int = 0, room_for: int = 0) -> MapState:
    """A map without surface and Gaussians of which every number is its version."""
    occupancy = OccupancyMap(SMALL.occupancy).state()
    occupancy['log_odds'][:] = version
    path = np.tile(np.eye(4), (10 + room_for, 1, 1))
    path[:, 0, 3] = version
    stamps = np.full(len(path), version, np.int64)
    return MapState(SMALL, 'odom', version, False, occupancy, None, None, None, stamps, path, {})


# Reading back


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.shape == other[name].shape
        assert (array == other[name]).all(), name


def test_loaded_map_is_the_saved_one(state, folder):
    loaded = load_map(folder)
    for name in ('occupancy', 'gaussians', 'surface', 'odometry'):
        assert_same(getattr(state, name), getattr(loaded, name))
    assert (loaded.path == state.path).all()
    assert (loaded.path_stamps_ns == state.path_stamps_ns).all()
    for name in ('config', 'world_frame', 'stamp_ns', 'visual', 'about'):
        assert getattr(loaded, name) == getattr(state, name)


def test_parts_that_are_off_stay_absent(tmp_path):
    save_map(tmp_path / 'map', small_state())
    loaded = load_map(tmp_path / 'map')
    assert (loaded.gaussians, loaded.surface, loaded.odometry) == (None, None, None)
    names = {file.name for file in (tmp_path / 'map').iterdir()}
    assert not names & {'cloud.ply', 'mesh.ply', 'gaussians.ply'}


def test_loaded_maps_go_on_as_the_saved_ones_would(folder, drive, parts):
    loaded, restored, going_on = load_map(folder), maps(), maps()
    for name, part in parts.items():
        restored[name].restore(getattr(loaded, name))
        going_on[name].restore(part.state())
    assert_same(restored['occupancy'].state(), parts['occupancy'].state())
    original = {**maps(), 'occupancy': OccupancyMap(CONFIG.occupancy)}
    integrate(original, drive[::5])
    integrate(original, drive[3::7], 50)
    integrate(restored, drive[3::7], 50)
    for name in ('occupancy', 'gaussians'):
        assert_same(restored[name].state(), original[name].state())
    for one, other in zip(
        restored['surface'].point_cloud(), original['surface'].point_cloud(), strict=True
    ):
        assert len(one) == len(other) > 5000
        assert np.sort(one, 0) == pytest.approx(np.sort(other, 0), abs=1e-6)


def test_state_is_a_copy(drive):
    parts = maps()
    integrate(parts, drive[:1])
    before = {n: parts[n].state() for n in ('occupancy', 'gaussians', 'surface')}
    kept = {n: {k: a.copy() for k, a in state.items()} for n, state in before.items()}
    integrate(parts, drive[10:12])
    for name, state in before.items():
        assert_same(state, kept[name])


def test_odometry_finds_itself_in_a_loaded_map(folder, drive):
    odometry = VisualOdometry(OdometryConfig())
    odometry.restore(load_map(folder).odometry)
    image, depth, truth = drive[3 * len(drive) // 4]
    states = []
    for i in range(10):  # two keyframes are searched per image
        motion = odometry.register_frame(image, depth, CAMERA, 5 + i)
        states.append(motion.state)
        if motion.T_odom_camera is not None:
            break
    assert set(states[:-1]) <= {'lost'}
    assert states[-1] == 'recovered'
    first = VisualOdometry(OdometryConfig()).register_frame(*drive[0][:2], CAMERA, 0)
    T_world_odom = drive[0][2] @ inverse(first.T_odom_camera)
    found = T_world_odom @ motion.T_odom_camera
    assert np.linalg.norm(found[:3, 3] - truth[:3, 3]) < 0.05


def test_odometry_without_keyframes_starts_anew():
    odometry = VisualOdometry(OdometryConfig())
    odometry.restore(VisualOdometry(OdometryConfig()).state())
    blank = np.zeros((240, 320, 3), np.uint8)
    motion = odometry.register_frame(blank, np.zeros((240, 320), np.float32), CAMERA, 0)
    assert motion.state == 'starting'


def test_more_keyframes_than_allowed_are_thinned_out(state):
    odometry = VisualOdometry(OdometryConfig(keyframes=2))
    assert len(state.odometry['stamp_ns']) > 2
    odometry.restore(state.odometry)
    stamps = odometry.state()['stamp_ns']
    assert len(stamps) == 2
    assert stamps[-1] == state.odometry['stamp_ns'][-1]


# What others read


def map_server(folder: Path) -> tuple[np.ndarray, dict]:
    """Cells as nav2's map_server takes them from the files in trinary mode."""
    about = yaml.safe_load((folder / 'map.yaml').read_text())
    assert about['mode'] == 'trinary'
    pixels = cv2.imread(str(folder / about['image']), cv2.IMREAD_UNCHANGED)[::-1]
    p = (255 - pixels.astype(float)) / 255
    cells = np.full(p.shape, UNKNOWN, np.int8)
    cells[p < about['free_thresh']] = FREE
    cells[p > about['occupied_thresh']] = OCCUPIED
    return cells, about


def test_grid_for_map_server_has_the_same_cells_at_the_same_places(folder, parts):
    cells, about = map_server(folder)
    grid = parts['occupancy'].grid()
    x, y, yaw = about['origin']
    offset = (np.array([x, y]) - grid.origin) / grid.resolution
    left, bottom = np.rint(offset).astype(int)
    assert offset == pytest.approx([left, bottom], abs=1e-6)
    assert (about['resolution'], about['negate'], yaw) == (grid.resolution, 0, 0.0)
    rows, columns = slice(bottom, bottom + len(cells)), slice(left, left + cells.shape[1])
    assert (cells == grid.cells[rows, columns]).all()
    assert (cells != UNKNOWN).sum() == (grid.cells != UNKNOWN).sum()
    assert {UNKNOWN, FREE, OCCUPIED} == set(np.unique(cells))
    assert cells.size < grid.cells.size  # cropped


def test_the_verdict_is_written_beside_the_grid_and_changes_none_of_it(folder, state, tmp_path):
    verdict = judge(MapFacts(free=10, occupied=9000))
    save_map(tmp_path / 'm', replace(state, verdict=verdict, surface=None))
    assert (tmp_path / 'm' / 'map.pgm').read_bytes() == (folder / 'map.pgm').read_bytes()
    about = yaml.safe_load((tmp_path / 'm' / 'map.yaml').read_text())
    assert about.pop('verdict')['level'] == 'bad'
    assert about == yaml.safe_load((folder / 'map.yaml').read_text())
    told = json.loads((tmp_path / 'm' / 'about.json').read_text())['verdict']
    assert '10 of 9010 seen cells are free' in told['reasons'][0]['text']


def test_a_single_wall_is_at_its_place_in_the_world(tmp_path):
    state = small_state()
    config = replace(state.config, occupancy=OccupancyConfig(size=4.0, voxel_size=0.1))
    occupancy = OccupancyMap(config.occupancy)
    T = look_at(np.array([10.0, -5, 1]), np.array([11.0, -5, 1]), np.array([0.0, 0, 1]))
    for _ in range(3):
        occupancy.integrate(np.full((240, 320), 1.23, np.float32), CAMERA, T)
    save_map(tmp_path / 'm', replace(state, config=config, occupancy=occupancy.state()))
    cells, about = map_server(tmp_path / 'm')
    x, y, _ = about['origin']
    row, column = np.nonzero(cells == OCCUPIED)
    assert x + (column + 0.5) * 0.1 == pytest.approx(11.23, abs=0.1)
    assert y + (row.mean() + 0.5) * 0.1 == pytest.approx(-5, abs=0.1)


def test_map_of_nothing_is_one_unknown_cell_and_empty_files(tmp_path):
    parts = {name: part.state() for name, part in maps().items()}
    state = replace(small_state(), config=CONFIG, **parts, path=np.zeros((0, 4, 4)))
    state = replace(state, path_stamps_ns=np.zeros(0, np.int64))
    save_map(tmp_path / 'm', state)
    cells, _ = map_server(tmp_path / 'm')
    assert (cells == UNKNOWN).all()
    assert cells.size <= 36
    assert len(load_map(tmp_path / 'm').path) == 0


def test_clouds_and_mesh_are_read_by_open3d(folder, parts):
    import open3d as o3d

    points, colors, normals = parts['surface'].point_cloud()
    cloud = o3d.io.read_point_cloud(str(folder / 'cloud.ply'))
    vertices, triangles, vertex_colors = parts['surface'].mesh()
    mesh = o3d.io.read_triangle_mesh(str(folder / 'mesh.ply'))
    occupied = o3d.io.read_point_cloud(str(folder / 'occupied.ply'))
    expected = parts['occupancy'].occupied_points()
    for read, wanted in (
        (cloud.points, points),
        (np.asarray(cloud.colors) * 255, colors),
        (cloud.normals, normals),
        (mesh.vertices, vertices),
        (np.asarray(mesh.vertex_colors) * 255, vertex_colors),
        (occupied.points, expected),
    ):
        assert np.shape(read) == wanted.shape
        # A restored surface has its blocks in another order.
        assert np.sort(np.asarray(read), 0) == pytest.approx(np.sort(wanted, 0), abs=1e-4)
    assert len(mesh.triangles) == len(triangles) > 1000
    assert mesh.get_surface_area() == pytest.approx(area(vertices, triangles), rel=1e-4)


def area(vertices: np.ndarray, triangles: np.ndarray) -> float:
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def test_gaussians_and_trajectory_are_in_their_files(folder, parts, state):
    saved = load_ply(folder / 'gaussians.ply')
    assert len(saved) == len(parts['gaussians']) > 100
    assert saved.means.numpy() == pytest.approx(parts['gaussians'].gaussians().means.numpy())
    lines = (folder / 'trajectory.txt').read_text().splitlines()[1:]
    assert len(lines) == len(state.path)
    assert [float(v) for v in lines[-1].split()[1:4]] == pytest.approx(state.path[-1, :3, 3])


def test_about_says_what_the_map_is(folder, state):
    about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))
    assert about['world_frame'] == 'odom'
    assert about['poses'] == len(state.path)
    assert about['path_length_m'] == pytest.approx(2.0, abs=0.3)
    assert about['about']['licence'] == 'Maß'
    assert about['occupied_voxels'] > 100 < about['triangles']


# Names


def test_new_maps_get_folders_of_their_own_and_latest_is_the_newest(tmp_path):
    folders = [save_new_map(tmp_path / 'deep' / 'maps', small_state(i)) for i in range(3)]
    assert len(set(folders)) == 3
    directory = tmp_path / 'deep' / 'maps'
    assert (directory / 'latest').resolve() == folders[-1]
    assert load_map(map_folder(directory, 'latest')).stamp_ns == 2
    assert load_map(map_folder(directory, folders[0].name)).stamp_ns == 0
    assert {f.name for f in directory.iterdir()} == {
        *(f.name for f in folders), 'latest', '.lock'
    }  # fmt: skip


def test_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(InputError, match='not empty') as caught:
        save_map(tmp_path, small_state())
    assert caught.value.reason == 'cannot_save'
    assert [file.name for file in tmp_path.iterdir()] == ['mine.txt']


def test_somebody_elses_latest_is_left_alone(tmp_path):
    (tmp_path / 'latest').write_text('mine')
    with pytest.raises(InputError, match='in the way'):
        save_new_map(tmp_path, small_state())
    assert (tmp_path / 'latest').read_text() == 'mine'


@pytest.mark.parametrize(
    'name', ['..', '../other', 'a/../../other', '/etc', '', '.', 'out', 'loop', 'a\0b', 'a/..']
)
def test_names_that_lead_out_of_the_directory_are_refused(tmp_path, name):
    directory = tmp_path / 'maps'
    (directory / 'a').mkdir(parents=True)
    (tmp_path / 'other').mkdir()
    (directory / 'out').symlink_to(tmp_path / 'other')
    (directory / 'loop').symlink_to('loop')
    with pytest.raises(InputError, match='below') as caught:
        map_folder(directory, name)
    assert caught.value.reason == 'outside_output'


# Ends of saving

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_map_files import SMALL, small_state
from sharp_ros.mapping import map_files
from sharp_ros.mapping.map_files import load_map, save_new_map
text = map_files.to_yaml(SMALL)  # takes longer than all the rest
map_files.to_yaml, map_files.load_yaml = lambda _: text, lambda _: SMALL
directory, version, halves = Path(sys.argv[1]), 0, 0
save_new_map(directory, small_state(version))
span = 0.02
random.seed(0)
for _ in range(100):
    child = os.fork()
    if not child:
        while True:
            version += 1
            save_new_map(directory, small_state(version))
    time.sleep(random.uniform(0, span))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = load_map(directory / 'latest')
    for array in (state.path[:, 0, 3], state.path_stamps_ns, state.occupancy['log_odds']):
        assert (array == state.stamp_ns).all()
    assert state.stamp_ns >= version
    span *= 0.85 if state.stamp_ns > version else 1.15  # about half of them shall save a map
    version = state.stamp_ns
    partial = len(list(directory.glob('.map_*.partial')))
    assert partial <= 1
    halves += partial
save_new_map(directory, small_state(version))
assert not list(directory.glob('.*.partial'))
for folder in directory.glob('map_*'):
    load_map(folder)
print(version, halves)
"""


def test_killed_while_saving_the_previous_map_is_whole(tmp_path):
    # Python is slow enough for a map this small, and forks without threads.
    environment = {**os.environ, 'NUMBA_DISABLE_JIT': '1'}
    out = subprocess.run(
        [sys.executable, '-c', KILLED, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    saved, halves = map(int, out.stdout.split())
    assert saved > 10
    assert halves > 10


@pytest.mark.parametrize('limit', [0, 100, 3000, 30_000])
def test_full_disk_is_said_and_the_previous_map_is_intact(tmp_path, limit):
    previous = save_new_map(tmp_path, small_state(1))
    before = sorted(tmp_path.rglob('*'))
    state = small_state(2, room_for=3000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(InputError, match=r'make room') as caught:
            save_new_map(tmp_path, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert caught.value.reason == 'cannot_save'
    assert sorted(tmp_path.rglob('*')) == before
    assert (tmp_path / 'latest').resolve() == previous
    assert load_map(previous).stamp_ns == 1


def test_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    for save in (save_map, save_new_map):
        with pytest.raises(InputError, match=r'output\.directory') as caught:
            save(tmp_path / 'file' / 'maps', small_state())
        assert caught.value.reason == 'cannot_save'


# Damage


def refused(load, match: str | None = None) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load()
    assert caught.value.reason == 'bad_map'


@pytest.mark.parametrize('name', ['state.npz', 'about.json', 'config.yaml'])
def test_missing_and_cut_files_are_refused(tmp_path, name):
    save_map(tmp_path / 'm', small_state())
    file = tmp_path / 'm' / name
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2] + b'\n[', b'{', b'\xff' * 100, b' ' * 2_000_000):
        file.write_bytes(damaged)
        refused(lambda: load_map(tmp_path / 'm'))
    file.unlink()
    refused(lambda: load_map(tmp_path / 'm'), name)


def test_folder_that_does_not_exist_is_no_map(tmp_path):
    refused(lambda: load_map(tmp_path / 'none'))


def test_flipped_bytes_never_do_worse_than_being_refused(tmp_path):
    save_map(tmp_path / 'm', small_state(3))
    file = tmp_path / 'm' / 'state.npz'
    data = np.frombuffer(file.read_bytes(), np.uint8)
    rng, bad = np.random.default_rng(0), 0
    occupancy = OccupancyMap(SMALL.occupancy)
    for _ in range(200):
        damaged = data.copy()
        damaged[rng.integers(len(data), size=2)] = rng.integers(256, size=2)
        file.write_bytes(damaged.tobytes())
        try:
            occupancy.restore(load_map(tmp_path / 'm').occupancy)
        except InputError:
            bad += 1
    assert bad > 100


def written(array: np.ndarray, **header) -> bytes:
    """A .npy file, with what its header says replaced."""
    stream = io.BytesIO()
    described = {**np.lib.format.header_data_from_array_1_0(array), **header}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    'header', [{'shape': (1 << 40,)}, {'descr': '|O'}, {'descr': '<U1'}, {'shape': (-3,)}]
)
def test_headers_that_lie_are_refused(tmp_path, header):
    with zipfile.ZipFile(tmp_path / 'state.npz', 'w') as archive:
        archive.writestr('path.npy', written(np.zeros(3), **header))
    refused(lambda: map_files._read_arrays(tmp_path / 'state.npz'))


def test_more_than_memory_should_hold_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    save_map(tmp_path / 'm', small_state())
    monkeypatch.setattr(map_files, '_LARGEST_STATE', 1000)
    monkeypatch.setattr(zipfile.ZipFile, 'read', lambda *_: pytest.fail('was unpacked'))
    refused(lambda: load_map(tmp_path / 'm'), 'memory')


@pytest.mark.parametrize('name', ['occupancy', 'gaussians', 'surface', 'odometry'])
def test_damaged_arrays_are_refused_and_change_nothing(state, parts, name):
    good, before = getattr(state, name), parts[name].state()
    for key, array in good.items():
        wrong = [array.astype(np.complex64), array[None]]
        if array.ndim and key not in ('corner', 'viewpoints'):  # of any length
            wrong.append(array[:-1])
        if array.dtype.kind == 'f':
            wrong.append(np.full_like(array, np.nan))
        if key in ('log_odds', 'sums', 'covariance', 'T_odom_camera', 'camera', 'rho', 'orb'):
            wrong.append(np.full_like(array, -32768))
        for bad in wrong:
            refused(lambda: parts[name].restore({**good, key: bad}))  # noqa: B023
        lacking = {k: a for k, a in good.items() if k != key}
        refused(lambda: parts[name].restore(lacking))  # noqa: B023
    assert_same(parts[name].state(), before)


@pytest.mark.parametrize(
    ('part', 'match'),
    [
        (OccupancyMap(replace(CONFIG.occupancy, voxel_size=0.2)), r'voxel_size is 0.2.* was 0.1 '),
        (OccupancyMap(replace(CONFIG.occupancy, size=9.0)), r'occupancy.size is 9.* was 8 '),
        (GaussianMap(GaussianMapConfig()), r'gaussian_map.voxel_size is 0.05.* was 0.1 '),
        (GaussianMap(replace(CONFIG.gaussian_map, max_gaussians=50)), 'max_gaussians from 50'),
        (SurfaceMap(SurfaceMapConfig()), r'surface_map.voxel_size is 0.02.* was 0.05 '),
        (SurfaceMap(replace(CONFIG.surface_map, max_blocks=20)), 'max_blocks from 20'),
    ],
)
def test_map_of_other_settings_is_refused_by_name_and_values(state, part, match):
    name = {OccupancyMap: 'occupancy', GaussianMap: 'gaussians', SurfaceMap: 'surface'}[type(part)]
    refused(lambda: part.restore(getattr(state, name)), match)


def test_format_of_another_version_is_refused(tmp_path):
    save_map(tmp_path / 'm', small_state())
    file = tmp_path / 'm' / 'about.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'format': 99}))
    refused(lambda: load_map(tmp_path / 'm'), 'format 99')
