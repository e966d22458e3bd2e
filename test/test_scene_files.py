"""Scenes in the formats of other programs, read back by other programs' readers."""

from __future__ import annotations

from contextlib import contextmanager
import errno
import fcntl
import io
import json
import os
from pathlib import Path
import shutil
import struct
import subprocess
import sys
from types import SimpleNamespace

from browsers import chromium
import numpy as np
import pytest

from sharp_ros.apps import cli
from sharp_ros.errors import InputError
from sharp_ros.exchange import gltf
from sharp_ros.exchange.scene import Cloud, Mesh, read_scene, Scene, Splats
from sharp_ros.exchange.scene_files import FORMATS, suffix_of, write_scene
from sharp_ros.exchange.spz import write_spz
from sharp_ros.gaussians import GaussianArrays, Gaussians, load_ply, load_rows, save_ply, VERTEX
from sharp_ros.ply import write_ply

N = 1500
SH_C0 = 0.28209479177387814


def random_rows(n=N, extent=5.0, seed=3):
    """Rows of a 3DGS file, none of them special."""
    random = np.random.default_rng(seed)
    opacities = random.uniform(0.02, 0.98, (n, 1))
    quats = random.normal(size=(n, 4))
    return np.concatenate(
        (
            random.uniform(-extent, extent, (n, 3)),
            (random.uniform(0, 1, (n, 3)) - 0.5) / SH_C0,
            np.log(opacities / (1 - opacities)),
            np.log(random.uniform(0.004, 0.3, (n, 3))),
            quats / np.linalg.norm(quats, axis=1, keepdims=True),
        ),
        1,
    ).astype(np.float32)


def rotations(wxyz):
    """[N, 3, 3] of quaternions, in float64."""
    w, x, y, z = (wxyz / np.linalg.norm(wxyz, axis=1, keepdims=True)).astype(float).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.moveaxis(np.array(rows), 2, 0)


def turn_between(a, b):
    """Degrees between rotations that may differ by half turns about the axes of a Gaussian."""
    cosines = np.abs(np.einsum('nij,nij->nj', rotations(a), rotations(b)))
    return np.degrees(np.arccos(np.clip(cosines, 0, 1))).max(1)


def nearest(rows, found):
    """What was found, in the order of what was written: some formats sort."""
    distance = np.linalg.norm(rows[:, None, :3] - found[None, :, :3], axis=2)
    order = distance.argmin(1)
    assert len(set(order)) == len(rows)
    return found[order]


# Largest errors of the formats, as docs/files.md states them: metres, colour and opacity in 0..1,
# factor of a scale, degrees. For a scene within 5 m of its origin.
ERRORS = {
    '.ply': (0, 0, 0, 0, 0.1),
    '.compressed.ply': (0.01, 0.0025, 0.0025, 0.005, 0.3),
    '.splat': (0, 0.0045, 0.0045, 1e-6, 1.0),
    '.spz': (0.00013, 0.0042, 0.0025, 0.032, 0.3),
    '.sog': (0.0005, 0.01, 0.0045, 0.03, 1.0),
    '.ksplat': (0, 0.0045, 0.0045, 1e-6, 0.1),
}


def check(rows, found, suffix):
    position, color, opacity, scale, turn = ERRORS[suffix]
    assert found.shape == rows.shape
    found = nearest(rows, found)
    assert np.abs(found[:, :3] - rows[:, :3]).max() <= position
    assert np.abs(found[:, 3:6] - rows[:, 3:6]).max() * SH_C0 <= color
    sigmoids = [1 / (1 + np.exp(-r[:, 6].astype(float))) for r in (found, rows)]
    assert np.abs(sigmoids[0] - sigmoids[1]).max() <= opacity
    assert np.abs(found[:, 7:10] - rows[:, 7:10]).max() <= scale
    assert turn_between(found[:, 10:], rows[:, 10:]).max() <= turn


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """A PLY file of `random_rows`, as a 3DGS tool leaves it, and those rows."""
    path = tmp_path_factory.mktemp('scene') / 'scene.ply'
    rows = random_rows()
    write_scene(path, Scene(Splats(rows), '-y', from_camera=True))
    return SimpleNamespace(path=path, rows=rows)


def export(scene, output, *flags):
    assert cli.main(['export', str(scene), '-o', str(output), *flags]) == 0
    return output


def by_plyfile(path):
    from plyfile import PlyData

    vertex = PlyData.read(str(path))['vertex']
    assert [p.name for p in vertex.properties] == list(VERTEX)
    return np.stack([vertex[name] for name in VERTEX], 1)


def by_gsply(path):
    gsply = pytest.importorskip('gsply')
    data = gsply.read_spz(path) if path.suffix == '.spz' else gsply.plyread(path)
    opacities = np.reshape(data.opacities, (-1, 1))
    return np.concatenate((data.means, data.sh0, opacities, data.scales, data.quats), 1)


def by_gaussforge(path):
    gaussforge = pytest.importorskip('gaussforge')
    made = gaussforge.GaussForge().convert(path.read_bytes(), suffix_of(path)[1:], 'ply')
    copy = path.with_suffix('.gaussforge.ply')
    copy.write_bytes(made['data'])
    return load_rows(copy)


def by_splat_transform(path):
    if shutil.which('splat-transform') is None:
        pytest.skip(
            'splat-transform is not installed (npm install -g @playcanvas/splat-transform)'
        )
    copy = path.with_suffix('.playcanvas.ply')
    subprocess.run(['splat-transform', '-q', '-w', path, copy], check=True)
    return load_rows(copy)


def by_the_page_of_antimatter15(path):
    """Quaternions of .splat as its first viewer has them."""
    record = [('p', '<f4', 3), ('s', '<f4', 3), ('c', 'u1', 4), ('q', 'u1', 4)]
    splats = np.frombuffer(path.read_bytes(), record)
    rgba = splats['c'] / 255
    logit = np.log(rgba[:, 3:] / (1 - rgba[:, 3:]))
    quats = (splats['q'].astype(float) - 128) / 128
    colors = (rgba[:, :3] - 0.5) / SH_C0
    return np.concatenate((splats['p'], colors, logit, np.log(splats['s']), quats), 1)


def spz_axes(rows):
    """What readers find that take the axes of an SPZ file, y up and z back, for those of 3DGS."""
    return Scene(Splats(rows), '-y').with_up('y').content.rows


@pytest.mark.parametrize(
    ('suffix', 'read', 'axes'),
    [
        ('.ply', by_plyfile, None),
        ('.ply', by_gsply, None),
        ('.ply', by_gaussforge, None),
        ('.compressed.ply', by_gsply, None),
        ('.compressed.ply', by_gaussforge, None),
        ('.splat', by_the_page_of_antimatter15, None),
        ('.splat', by_gaussforge, None),
        ('.spz', by_gsply, spz_axes),
        ('.spz', by_gaussforge, spz_axes),
        ('.spz', by_splat_transform, None),
        ('.sog', by_gaussforge, None),
        ('.sog', by_splat_transform, None),
        ('.ksplat', by_gaussforge, None),
        ('.ksplat', by_splat_transform, None),
        ('.compressed.ply', by_splat_transform, None),
    ],
)
def test_other_readers_find_the_gaussians(suffix, read, axes, scene, tmp_path):
    path = export(scene.path, tmp_path / f'scene{suffix}')
    check(axes(scene.rows) if axes else scene.rows, read(path), suffix)


def test_an_opaque_gaussian_comes_back_finite(tmp_path):
    rows = random_rows(50)
    rows[:, 6] = 30
    for suffix in ('.compressed.ply', '.splat', '.spz', '.sog', '.ksplat'):
        path = tmp_path / f'opaque{suffix}'
        write_scene(path, Scene(Splats(rows.copy()), '-y'))
        import gaussforge

        made = gaussforge.GaussForge().convert(path.read_bytes(), suffix[1:], 'ply')
        stored = np.frombuffer(made['data'][-50 * made['data'].count(b'property') * 4 :], '<f4')
        assert np.isfinite(stored).all(), suffix
        assert by_gaussforge(path)[:, 6].min() > np.log(0.99 / 0.01)


def test_what_nobody_can_see_is_left_out(tmp_path, capsys):
    rows = random_rows(20)
    rows[:5, 6] = -9
    write_scene(tmp_path / 'scene.ply', Scene(Splats(rows), '-y'))
    export(tmp_path / 'scene.ply', tmp_path / 'scene.spz')
    assert '15 Gaussians (5 too transparent' in capsys.readouterr().out
    assert len(by_gsply(tmp_path / 'scene.spz')) == 15


def test_spz_refuses_what_would_wrap(tmp_path):
    rows = random_rows(20)
    rows[3, 1] = -2047.9
    path = tmp_path / 'far.spz'
    write_scene(path, Scene(Splats(rows), '-y'))
    check(spz_axes(rows), by_gsply(path), '.spz')
    rows[3, 1] = -2048
    with pytest.raises(InputError, match='2048 m'):
        write_spz(io.BytesIO(), Splats(rows))


def test_spz_packs_quaternions_as_its_definition_says():
    """The slow twin: one quaternion at a time, in the words of the format's page."""
    from sharp_ros.exchange.spz import _smallest_three

    quats = random_rows(300)[:, 10:]
    packed = _smallest_three(3 * quats).view('<u4').ravel()
    for q, bits in zip(quats.astype(float), packed, strict=True):
        largest, left, found = int(bits) >> 30, int(bits), np.zeros(4)
        for i in (3, 2, 1, 0):
            if i != largest:
                size = (left & 511) / 511 * np.sqrt(0.5)
                found[i] = -size if left >> 9 & 1 else size
                left = left >> 10
        found[largest] = np.sqrt(1 - (found**2).sum())
        assert largest == np.abs(q).argmax()
        assert np.abs(found - q * np.sign(q[largest])).max() < 0.0015


def test_rows_are_the_gaussians_that_load_ply_reads(tmp_path):
    rows = random_rows(500)
    rows[0, 6], rows[1, 6] = np.inf, -np.inf
    rows[2, 8] = np.nan
    rows[3, 10:] = 0
    path = tmp_path / 'scene.ply'
    write_scene(path, Scene(Splats(rows), '-y'))
    found = load_rows(path)
    again = tmp_path / 'again.ply'
    save_ply(again, load_ply(path), plain=True)
    assert len(found) == 498
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, by_plyfile(again), atol=2e-5)


def test_a_plain_file_holds_vertices_alone_and_sharps_layout_all_it_had(tmp_path):
    rows = random_rows(100)
    arrays = GaussianArrays(
        rows[:, :3], rows[:, 10:], np.exp(rows[:, 7:10]), np.full(100, 0.5, 'f4'),
        np.full((100, 3), 0.25, 'f4'),
    )  # fmt: skip
    sharp = tmp_path / 'sharp.ply'
    save_ply(sharp, Gaussians.of_arrays(arrays))
    plain = export(sharp, tmp_path / 'plain.ply')
    assert plain.read_bytes().count(b'element') == 1
    assert plain.stat().st_size == sharp.stat().st_size - (
        len(sharp.read_bytes().split(b'end_header\n')[0]) - len(
            plain.read_bytes().split(b'end_header\n')[0])
    ) - 4 * (16 + 9 + 2 + 2 + 2) - 4  # fmt: skip
    again = export(sharp, tmp_path / 'again.ply', '--sharp-layout')
    assert again.read_bytes() == sharp.read_bytes()


def test_up_turns_the_scene_and_is_remembered(scene, tmp_path):
    z_up = export(scene.path, tmp_path / 'z.ply', '--up', 'z')
    x, y, z = scene.rows[:, :3].T
    np.testing.assert_allclose(by_plyfile(z_up)[:, :3], np.stack((x, z, -y), 1))
    check(scene.rows, by_plyfile(export(z_up, tmp_path / 'back.ply')), '.ply')
    y_up = read_scene(export(z_up, tmp_path / 'y.ply', '--up', 'y'), ('gaussians',))
    assert y_up.up == 'y'
    np.testing.assert_allclose(y_up.content.positions, np.stack((x, -y, -z), 1))
    # shapes turn with the centres
    shapes = rotations(y_up.content.quats) * np.exp(scene.rows[:, None, 7:10])
    turned = np.diag([1, -1, -1]) @ rotations(scene.rows[:, 10:])
    turned *= np.exp(scene.rows[:, None, 7:10])
    square = np.swapaxes(shapes, 1, 2), np.swapaxes(turned, 1, 2)
    np.testing.assert_allclose(shapes @ square[0], turned @ square[1], atol=1e-6)


def glb_parts(path):
    """The tree of a .glb, and a function that reads an accessor."""
    data = path.read_bytes()
    magic, version, length, size = struct.unpack('<4s3I', data[:16])
    assert (magic, version, length) == (b'glTF', 2, len(data))
    tree, begin = json.loads(data[20 : 20 + size]), 28 + size

    def values(index):
        accessor = tree['accessors'][index]
        view = tree['bufferViews'][accessor['bufferView']]
        dtype = {5126: '<f4', 5123: '<u2', 5125: '<u4'}[accessor['componentType']]
        width = {'SCALAR': 1, 'VEC3': 3, 'VEC4': 4}[accessor['type']]
        count = accessor['count'] * width
        flat = np.frombuffer(data, dtype, count, begin + view['byteOffset'])
        return flat.reshape(accessor['count'], width)

    return tree, values


def test_gaussians_in_glb_are_those_of_the_extension(scene, tmp_path):
    tree, values = glb_parts(export(scene.path, tmp_path / 'scene.glb'))
    assert tree['extensionsUsed'] == ['KHR_gaussian_splatting']
    primitive = tree['meshes'][0]['primitives'][0]
    assert primitive['mode'] == 0
    found = {name.rpartition(':')[2]: values(i) for name, i in primitive['attributes'].items()}
    y_up = Scene(Splats(scene.rows), '-y').with_up('y').content
    np.testing.assert_array_equal(found['POSITION'], y_up.positions)
    np.testing.assert_allclose(found['SCALE'], np.exp(scene.rows[:, 7:10]), rtol=1e-6)
    np.testing.assert_array_equal(found['SH_DEGREE_0_COEF_0'], scene.rows[:, 3:6])
    np.testing.assert_allclose(np.linalg.norm(found['ROTATION'], axis=1), 1, atol=1e-6)
    assert turn_between(found['ROTATION'][:, [3, 0, 1, 2]], y_up.quats).max() < 0.1
    opacities = 1 / (1 + np.exp(-scene.rows[:, 6:7]))
    np.testing.assert_allclose(found['OPACITY'], opacities, atol=1e-6)
    np.testing.assert_allclose(found['COLOR_0'][:, 3:] / 65535, opacities, atol=1e-4)


def test_more_than_a_glb_can_hold_is_one_clear_line(scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gltf, '_LARGEST', 1000)
    assert cli.main(['export', str(scene.path), '-o', str(tmp_path / 'scene.glb')]) == 1
    assert 'more than the 4.3 GB of a .glb' in capsys.readouterr().err
    assert not list(tmp_path.glob('scene.glb*'))


@pytest.fixture
def map_folder(tmp_path):
    """A folder with the files of a map that `export` looks at."""
    folder = tmp_path / 'map'
    folder.mkdir()
    (folder / 'about.json').write_text('{"world_frame": "map"}')
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2]], np.float32)
    colors = np.array([[255, 0, 0], [0, 128, 0], [0, 0, 255], [64, 64, 64]], np.uint8)
    normals = np.tile(np.array([0, 0, 1], np.float32), (4, 1))
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    with (folder / 'mesh.ply').open('wb') as file:
        write_ply(file, corners, colors, triangles=triangles)
    with (folder / 'cloud.ply').open('wb') as file:
        write_ply(file, corners, colors, normals)
    rows = random_rows(60)
    arrays = GaussianArrays(
        rows[:, :3], rows[:, 10:], np.exp(rows[:, 7:10]), np.full(60, 0.7, 'f4'),
        np.full((60, 3), 0.25, 'f4'),
    )  # fmt: skip
    save_ply(folder / 'gaussians.ply', Gaussians.of_arrays(arrays), plain=True)
    return SimpleNamespace(
        path=folder, corners=corners, colors=colors, triangles=triangles, rows=rows
    )


def test_a_mesh_becomes_glb_with_linear_vertex_colours(map_folder, tmp_path):
    trimesh = pytest.importorskip('trimesh')
    path = export(map_folder.path, tmp_path / 'mesh.glb')
    mesh = trimesh.load(path, force='mesh', process=False)
    x, y, z = map_folder.corners.T
    np.testing.assert_allclose(mesh.vertices, np.stack((x, z, -y), 1))
    np.testing.assert_array_equal(mesh.faces, map_folder.triangles)
    _, values = glb_parts(path)
    linear = values(1)[:, :3] / 65535
    assert linear[0].tolist() == [1, 0, 0]
    assert linear[1, 1] == pytest.approx(0.2158605, abs=1e-5)  # of 128 in sRGB


def test_a_map_becomes_what_the_suffix_is_for(map_folder, tmp_path):
    o3d = pytest.importorskip('open3d')
    kinds = {'x.ply': 'Gaussians', 'x.spz': 'Gaussians', 'x.usdz': 'vertices', 'x.pcd': 'points'}
    for name, kind in kinds.items():
        if name == 'x.usdz':
            pytest.importorskip('pxr')
        said = write_scene(
            tmp_path / name, read_scene(map_folder.path, FORMATS[suffix_of(Path(name))].wanted)
        )
        assert kind in said
    cloud = o3d.io.read_point_cloud(str(tmp_path / 'x.pcd'))
    np.testing.assert_allclose(np.asarray(cloud.points), map_folder.corners)
    np.testing.assert_allclose(np.asarray(cloud.colors) * 255, map_folder.colors, atol=0.01)
    assert np.asarray(cloud.normals).tolist() == [[0, 0, 1]] * 4
    # what a map saved is z up, and 3DGS viewers take -y for up
    x, y, z = map_folder.rows[:, :3].T
    np.testing.assert_allclose(by_plyfile(tmp_path / 'x.ply')[:, :3], np.stack((x, -z, y), 1))
    mesh = export(map_folder.path, tmp_path / 'mesh.ply', '--what', 'mesh', '--up', 'z')
    assert len(o3d.io.read_triangle_mesh(str(mesh)).triangles) == 2


def test_clouds_are_read_back(map_folder, tmp_path):
    las = export(map_folder.path, tmp_path / 'cloud.las').read_bytes()
    # by the numbers of the LAS 1.2 specification
    offset, kind, length, count = struct.unpack('<I4xBHI', las[96:111])
    assert (las[:4], las[24:26], kind, count) == (b'LASF', b'\1\2', 2, 4)
    scales, offsets = np.frombuffer(las, '<f8', 6, 131).reshape(2, 3)
    points = np.frombuffer(las[offset:], np.dtype((np.void, length)), 4)
    xyz = np.array([struct.unpack('<3i', bytes(p)[:12]) for p in points]) * scales + offsets
    rgb = np.array([struct.unpack('<3H', bytes(p)[20:26]) for p in points])
    np.testing.assert_allclose(xyz, map_folder.corners, atol=1e-4)
    np.testing.assert_array_equal(rgb // 257, map_folder.colors)
    text = np.loadtxt(export(map_folder.path, tmp_path / 'cloud.xyz'))
    np.testing.assert_allclose(text[:, :3], map_folder.corners, atol=1e-4)
    np.testing.assert_array_equal(text[:, 3:], map_folder.colors)


def test_only_solid_gaussians_are_points(scene, tmp_path):
    o3d = pytest.importorskip('open3d')
    path = export(scene.path, tmp_path / 'scene.pcd', '--up=-y')
    solid = scene.rows[:, 6] >= 0
    found = np.asarray(o3d.io.read_point_cloud(str(path)).points)
    np.testing.assert_allclose(found, scene.rows[solid, :3])


def test_usdz_holds_what_was_written(scene, map_folder, tmp_path):
    pytest.importorskip('pxr')
    from pxr import Usd, UsdGeom, UsdVol

    stage = Usd.Stage.Open(str(export(scene.path, tmp_path / 'scene.usdz')))
    assert UsdGeom.GetStageUpAxis(stage) == 'Y'
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    field = UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim())
    y_up = Scene(Splats(scene.rows), '-y').with_up('y').content
    np.testing.assert_array_equal(np.array(field.GetPositionsAttr().Get()), y_up.positions)
    found = field.GetOrientationsAttr().Get()
    quats = np.array([[q.GetReal(), *q.GetImaginary()] for q in found])
    assert turn_between(quats, y_up.quats).max() < 0.1
    coefficients = field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get()
    np.testing.assert_array_equal(np.array(coefficients), scene.rows[:, 3:6])
    stage = Usd.Stage.Open(str(export(map_folder.path, tmp_path / 'mesh.usdz')))
    mesh = UsdGeom.Mesh(stage.GetDefaultPrim())
    indices = mesh.GetFaceVertexIndicesAttr().Get()
    np.testing.assert_array_equal(np.array(indices).reshape(-1, 3), map_folder.triangles)
    colors = UsdGeom.PrimvarsAPI(mesh).GetPrimvar('displayColor').Get()
    assert colors[1][1] == pytest.approx(0.2158605, abs=1e-5)


def test_most_keeps_those_that_cover_most(scene, tmp_path, capsys):
    export(scene.path, tmp_path / 'few.ply', '--most', '100')
    assert '100 Gaussians' in capsys.readouterr().out
    scales = np.sort(np.exp(scene.rows[:, 7:10].astype(float)), 1)
    size = scales[:, 2] * scales[:, 1] / (1 + np.exp(-scene.rows[:, 6].astype(float)))
    kept = np.sort(np.argsort(-size)[:100])
    np.testing.assert_array_equal(by_plyfile(tmp_path / 'few.ply'), scene.rows[kept])


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (b'PK\3\4' + bytes(100), 'a ZIP archive'),
        (b'', 'empty'),
        (b'ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n', 'ascii'),
        (
            b'ply\nformat binary_little_endian 1.0\nelement vertex 1\n'
            + b''.join(b'property float %s\n' % n.encode() for n in VERTEX if n != 'scale_2')
            + b'end_header\n' + bytes(52),
            '2D Gaussians',
        ),
        (
            b'ply\nformat binary_little_endian 1.0\nelement vertex 0\n'
            + b''.join(b'property float %s\n' % n.encode() for n in VERTEX) + b'end_header\n',
            'holds no Gaussians',
        ),
        (
            b'ply\nformat binary_little_endian 1.0\nelement vertex 1\n'
            + b''.join(b'property float %s\n' % n.encode() for n in 'xyz')
            + b'end_header\n' + bytes(12),
            'vertex properties f_dc_0',
        ),
        (
            b'ply\nformat binary_little_endian 1.0\nelement vertex 1\n'
            + b''.join(b'property float %s\n' % n.encode() for n in VERTEX)
            + b'end_header\n' + np.full(14, np.nan, '<f4').tobytes(),
            'none finite',
        ),
    ],
)  # fmt: skip
def test_a_file_of_the_wrong_kind_is_one_line(data, words, tmp_path, capsys):
    path, output = tmp_path / 'scene.ply', tmp_path / 'scene.spz'
    path.write_bytes(data)
    output.write_bytes(b'old')
    assert cli.main(['export', str(path), '-o', str(output)]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count('\n') == 1
    assert output.read_bytes() == b'old'
    assert sorted(tmp_path.iterdir()) == [path, output]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['{map}', '-o', '{tmp}/x.txt'], 'must end in one of'),
        (['{map}'], 'give the file'),
        (['{tmp}', '-o', '{tmp}/x.spz'], 'no folder of a map'),
        (['{tmp}/none.ply', '-o', '{tmp}/x.spz'], 'does not exist'),
        (['{map}/mesh.ply', '-o', '{tmp}/x.spz'], 'holds a mesh, no gaussians'),
        (['{map}', '-o', '{tmp}/x.spz', '--what', 'mesh'], 'cannot hold a mesh'),
        (['{map}', '-o', '{tmp}/x.html', '--up', 'z'], 'leave --up away'),
        (['{map}', '-o', '{tmp}/x.spz', '--sharp-layout'], "SHARP's layout"),
        (['{map}', '-o', '{tmp}/x.spz', '--most', '0'], '--most'),
        (['-o', '{tmp}/x.spz'], 'Name the scene'),
    ],
)
def test_flags_that_cannot_be(arguments, words, map_folder, tmp_path, capsys):
    filled = [a.format(map=map_folder.path, tmp=tmp_path) for a in arguments]
    assert cli.main(['export', *filled]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob('x.*'))


@pytest.mark.parametrize(
    ('suffix', 'module', 'package'),
    [
        ('.sog', 'gaussforge', 'gaussforge'),
        ('.las', 'laspy', 'laspy'),
        ('.usdz', 'pxr', 'usd-core'),
    ],
)
def test_the_package_that_is_missing_is_named(
    suffix, module, package, scene, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(['export', str(scene.path), '-o', str(tmp_path / f'x{suffix}')]) == 1
    assert f'pip install {package}' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_export_of_a_scene_needs_neither_torch_nor_open3d(scene, tmp_path):
    code = (
        'import sys\n'
        'from sharp_ros.apps import cli\n'
        f'cli.main(["export", {str(scene.path)!r}, "-o", {str(tmp_path / "x.spz")!r}])\n'
        'print({"torch", "open3d", "gaussforge", "pxr"} & set(sys.modules))'
    )
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert said.stdout.endswith('set()\n')


def test_points_keep_what_they_have(tmp_path):
    cloud = Cloud(np.array([[1, 2, 3]], np.float32), normals=np.array([[0, 0, 1]], np.float32))
    write_scene(tmp_path / 'x.ply', Scene(cloud, 'z'), 'z')
    again = read_scene(tmp_path / 'x.ply', ('cloud',))
    assert again.up == 'z'
    np.testing.assert_array_equal(again.content.normals, cloud.normals)
    assert again.content.colors is None
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))
    tree, values = glb_parts(_written(tmp_path / 'x.glb', Scene(mesh, 'y')))
    assert list(tree['meshes'][0]['primitives'][0]['attributes']) == ['POSITION']
    assert values(1).ravel().tolist() == [0, 1, 2]


def test_a_saved_map_is_written_in_further_formats(map_folder):
    from sharp_ros.exchange.map_formats import write_formats

    (map_folder.path / 'cloud.ply').unlink()
    before = set(map_folder.path.iterdir())
    assert write_formats(map_folder.path, ['.spz', '.glb', '.xyz', '.ply']) == []
    new = {path.name for path in set(map_folder.path.iterdir()) - before}
    assert new == {'gaussians.spz', 'mesh.glb', 'cloud.xyz'}
    assert np.loadtxt(map_folder.path / 'cloud.xyz').shape == (4, 6)  # corners of the mesh
    (map_folder.path / 'gaussians.ply').unlink()
    (complaint,) = write_formats(map_folder.path, ['.sog'])
    assert complaint.startswith('no .sog: ')
    assert 'gaussians.ply' in complaint
    with pytest.raises(InputError, match='given up'):
        write_formats(map_folder.path, ['.glb'], given_up=lambda: True)


def test_a_format_that_fails_in_any_way_costs_no_other(map_folder, monkeypatch):
    from sharp_ros.exchange import map_formats

    def fail(path, scene):
        if path.suffix == '.glb':
            raise RuntimeError('of a library')
        path.touch()

    monkeypatch.setattr(map_formats, 'write_scene', fail)
    (complaint,) = map_formats._write_each(map_folder.path, ['.glb', '.xyz'])
    assert 'of a library' in complaint
    assert (map_folder.path / 'cloud.xyz').exists()
    monkeypatch.setattr(map_formats, 'by_another_process', lambda *args: 'no JSON')
    (complaint,) = map_formats.write_formats(map_folder.path, ['.glb'])
    assert complaint.startswith('no .glb: ')

    def no_memory(*arguments):
        raise OSError(12, 'Cannot allocate memory')

    monkeypatch.setattr(map_formats, 'by_another_process', no_memory)
    (complaint,) = map_formats.write_formats(map_folder.path, ['.glb'])
    assert 'Cannot allocate memory' in complaint


def small_snapshot():
    from sharp_ros.camera import Intrinsics
    from sharp_ros.snapshot import SnapshotCloud

    points = np.array([[0, 0, 1], [0, 0, 2]], np.float32)
    up = np.array([[0, 0, -1]] * 2, np.float32)
    k = Intrinsics(100, 100, 50, 50, 101, 101)
    colors = np.full((2, 3), 9, np.uint8)
    return SnapshotCloud(points, colors, up, points[:, 0], k, 0, 'camera', 1)


def test_a_snapshot_is_written_by_another_process_whatever_fails(tmp_path):
    from sharp_ros.exchange.map_formats import save_snapshot

    cloud = small_snapshot()
    files, missing = save_snapshot(tmp_path, cloud, ['.xyz', '.spz'])
    assert missing == []
    assert sorted(tmp_path.iterdir()) == sorted(files)  # and nothing hidden
    np.testing.assert_allclose(np.loadtxt(files[0])[:, :3], [[0, 1, 0], [0, 2, 0]], atol=1e-4)
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='cannot be saved'):
        save_snapshot(tmp_path / 'file', cloud, ['.xyz'])
    with pytest.raises(InputError, match='given up'):
        save_snapshot(tmp_path, cloud, ['.xyz'], given_up=lambda: True)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_snapshot_removes_what_killed_processes_left_and_nothing_else(tmp_path):
    from sharp_ros.exchange.map_formats import save_snapshot

    kept = {'alive': 'lock', 'new': 'snapshot.npz', 'others': 'photo.jpg'}
    killed = {'killed': 'lock', 'written': '.snapshot_2026-01-01T00-00-00-0.ply.partial'}
    for name, file in (kept | killed).items():
        folder = tmp_path / f'.snapshot_{name}'
        folder.mkdir()
        (folder / file).touch()
        if name != 'new':
            os.utime(folder, (0, 0))
    with (tmp_path / '.snapshot_alive' / 'lock').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files, missing = save_snapshot(tmp_path, small_snapshot(), ['.xyz'])
    assert missing == []
    left = {path.name.removeprefix('.snapshot_') for path in tmp_path.iterdir()}
    assert left == {*kept, *(file.name for file in files)}


def test_a_snapshot_is_locked_while_it_is_written(tmp_path):
    from sharp_ros.exchange.map_formats import save_snapshot

    def asked():
        (hidden,) = tmp_path.iterdir()
        with (hidden / 'lock').open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    with pytest.raises(InputError, match='given up'):
        save_snapshot(tmp_path, small_snapshot(), ['.xyz'], given_up=asked)
    assert not list(tmp_path.iterdir())


def test_a_snapshot_is_written_where_no_file_can_be_locked(tmp_path, monkeypatch):
    from sharp_ros.exchange import map_formats

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, 'No locks available')

    left = tmp_path / '.snapshot_left'
    left.mkdir()
    os.utime(left, (0, 0))
    monkeypatch.setattr(map_formats.fcntl, 'flock', refuse)
    files, missing = map_formats.save_snapshot(tmp_path, small_snapshot(), ['.xyz'])
    assert missing == []
    assert sorted(tmp_path.iterdir()) == sorted([left, *files])


def test_points_of_a_snapshot_become_flat_gaussians_in_its_surface():
    from sharp_ros.camera import Intrinsics
    from sharp_ros.exchange.map_formats import surfels

    random = np.random.default_rng(0)
    normals = random.normal(size=(50, 3)).astype(np.float32)
    normals[0], normals[1] = (0, 0, 1), (0, 0, -1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = random.uniform(1, 3, (50, 3)).astype(np.float32)
    colors = random.integers(0, 256, (50, 3), np.uint8)
    k = Intrinsics(100, 100, 50, 50, 101, 101)
    splats = surfels(Cloud(points, colors, normals), k.fx)
    np.testing.assert_array_equal(splats.positions, points)
    np.testing.assert_allclose(splats.srgb * 255, colors, atol=1e-3)
    np.testing.assert_allclose(splats.scales[:, 0], 0.006 * points[:, 2], rtol=1e-5)
    thin = rotations(splats.quats)[:, :, splats.scales[0].argmin()]
    np.testing.assert_allclose(np.abs((thin * normals).sum(1)), 1, atol=1e-5)


def test_the_suffixes_of_the_configuration_are_those_that_are_written():
    from sharp_ros.config import OutputConfig, SCENE_SUFFIXES

    assert tuple(FORMATS) == SCENE_SUFFIXES
    assert OutputConfig(formats=' .spz  .glb .spz').suffixes == ('.spz', '.glb')


def _written(path, scene):
    write_scene(path, scene)
    return path


def test_a_page_of_200_thousand_gaussians_stays_below_5_mb(tmp_path):
    path = tmp_path / 'page.html'
    write_scene(path, Scene(Splats(random_rows(200_000)), '-y'))
    assert path.stat().st_size < 5e6


def test_a_page_shows_the_scene_without_network(tmp_path):
    """A wall of four colours before a camera, with a thin tilted bar in front of it."""
    side = np.linspace(-1, 1, 60)
    x, y = (a.ravel() for a in np.meshgrid(side, side))
    rows = np.zeros((len(x) + 1, 14), np.float32)
    rows[:-1, 0], rows[:-1, 1], rows[:, 2], rows[:, 6] = x, y, 3, 6
    rows[:, 7:10], rows[:, 10] = np.log(0.02), 1
    corner = np.stack((x > 0, y > 0, (x < 0) & (y < 0)), 1)  # red: right; green: below; blue
    rows[:-1, 3:6] = (corner * 0.8 + 0.1 - 0.5) / SH_C0
    bar = rows[-1]
    bar[:3], bar[3:6] = (0, 0, 2), 0.5 / SH_C0  # white
    bar[7:10] = np.log((0.3, 0.01, 0.01))
    bar[10:] = np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)  # 45 degrees, down to the right
    path = tmp_path / 'page.html'
    write_scene(path, Scene(Splats(rows), '-y', from_camera=True))
    with _page(path) as page:
        size = page.viewport_size
        from PIL import Image

        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert('RGB'), float) / 255
    height, width = pixels.shape[:2]
    focal = 0.8 * max(height, width * 0.75)
    assert (width, height) == (size['width'], size['height'])

    def seen(x, y, z):
        return pixels[round(height / 2 + focal * y / z), round(width / 2 + focal * x / z)]

    np.testing.assert_allclose(seen(0.5, -0.8, 3), [0.9, 0.1, 0.1], atol=0.03)
    np.testing.assert_allclose(seen(0.5, 0.8, 3), [0.9, 0.9, 0.1], atol=0.03)
    np.testing.assert_allclose(seen(-0.5, 0.8, 3), [0.1, 0.9, 0.1], atol=0.03)
    np.testing.assert_allclose(seen(-0.5, -0.8, 3), [0.1, 0.1, 0.9], atol=0.03)
    assert seen(0.14, 0.14, 2).min() > 0.8  # the bar hides the wall
    assert seen(0.14, -0.14, 2).min() < 0.2
    np.testing.assert_allclose(seen(-1.2, 0, 3), [0.063, 0.07, 0.078], atol=0.01)


@contextmanager
def _page(path):
    """A page of Chromium that shows a file, in which a request for anything else is an error."""
    with chromium() as browser:
        page = browser.new_page(viewport={'width': 400, 'height': 300})
        asked, errors = [], []
        page.on('request', lambda request: asked.append(request.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function('document.body.dataset.drawn', timeout=60_000)
        yield page
    assert asked == [path.as_uri()]
    assert not errors
