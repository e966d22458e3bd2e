from __future__ import annotations

from contextlib import contextmanager
import errno
import io
import os
from pathlib import Path
import resource
import struct
from unittest.mock import patch

import numpy as np
import pytest
import torch

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import (
    Gaussians,
    linear_from_srgb,
    load_ply,
    load_ply_intrinsics,
    save_ply,
    srgb_from_linear,
)

GOLDEN = Path(__file__).parent / 'data' / 'golden_tiny.ply'  # written by SHARP itself
FIELDS = ('means', 'quats', 'scales', 'opacities', 'colors')


def some(n=50, seed=0, **extra):
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    parts = (
        rng.normal((0, 0, 4), 1, (n, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(rng.uniform(-6, 0, (n, 3))),
        rng.uniform(0.01, 0.99, n),
        rng.uniform(0, 1, (n, 3)),
    )
    return Gaussians(*(torch.from_numpy(p.astype(np.float32)) for p in parts), **extra)


def covariances(g):
    axes = se3.matrix_from_quat(g.quats.numpy()) * g.scales.numpy()[:, None, :].astype(np.float64)
    return axes @ np.swapaxes(axes, -1, -2)


TOOL_NAMES = [
    *('x', 'y', 'z', 'f_dc_0', 'f_dc_1', 'f_dc_2', 'opacity', 'scale_0', 'scale_1', 'scale_2'),
    *('rot_0', 'rot_1', 'rot_2', 'rot_3'),
]


def tool_ply(path, n=5, degree=3, names=None, kind='<f4', line_end='\n', change=None):
    """A file as 3DGS training writes it: normals and harmonics, nothing but vertices."""
    rest = [f'f_rest_{i}' for i in range(3 * ((degree + 1) ** 2 - 1))]
    names = names or [
        *('x', 'y', 'z', 'nx', 'ny', 'nz', 'f_dc_0', 'f_dc_1', 'f_dc_2', *rest, 'opacity'),
        *('scale_0', 'scale_1', 'scale_2', 'rot_0', 'rot_1', 'rot_2', 'rot_3'),
    ]
    values = np.zeros(n, [(name, kind) for name in names])
    values['z'], values['f_dc_0'], values['rot_0'] = np.arange(n), 0.5, 2
    for name in set(rest) & set(names):
        values[name] = 9
    if 'scale_2' in names:
        values['scale_2'] = np.log(0.25)
    if change:
        change(values)
    order, size = {'<': 'little', '>': 'big'}[kind[0]], {'4': 'float', '8': 'double'}[kind[2]]
    header = ['ply', f'format binary_{order}_endian 1.0', 'comment element face 9']
    header += ['obj_info made by a tool', f'element vertex {n}']
    header += [*(f'property {size} {name}' for name in names), 'end_header', '']
    path.write_bytes(line_end.join(header).encode() + values.tobytes())
    return path


def test_file_of_sharp_is_reproduced_byte_for_byte(tmp_path):
    copy = tmp_path / 'copy.ply'
    save_ply(copy, load_ply(GOLDEN), load_ply_intrinsics(GOLDEN))
    assert copy.read_bytes() == GOLDEN.read_bytes()


def test_golden_file_is_read_as_linear_colour_metres_and_probabilities():
    g = load_ply(GOLDEN)
    raw = GOLDEN.read_bytes()
    first = struct.unpack_from('<14f', raw, raw.index(b'end_header\n') + 11)
    assert len(g) == 64
    np.testing.assert_allclose(g.means[0], first[:3])
    srgb = np.array(first[3:6]) * np.sqrt(1 / (4 * np.pi)) + 0.5
    np.testing.assert_allclose(g.colors[0], linear_from_srgb(torch.tensor(srgb)), atol=1e-6)
    np.testing.assert_allclose(g.opacities[0], 1 / (1 + np.exp(-first[6])), atol=1e-6)
    np.testing.assert_allclose(g.scales[0], np.exp(first[7:10]), rtol=1e-6)
    np.testing.assert_allclose(g.quats[0], first[10:])
    assert load_ply_intrinsics(GOLDEN) == Intrinsics(512, 512, 319.5, 239.5, 640, 480)


def test_gaussians_survive_a_file(tmp_path):
    g, k = some(3001), Intrinsics(700.0, 650.0, 300.25, 200.5, 601, 401)
    save_ply(tmp_path / 'a.ply', g, k)
    back = load_ply(tmp_path / 'a.ply')
    for name in FIELDS:
        np.testing.assert_allclose(getattr(back, name), getattr(g, name), rtol=1e-5, atol=1e-6)
    assert load_ply_intrinsics(tmp_path / 'a.ply') == k


def float32s(low, high, n, seed):
    """Drawn evenly from the float32 numbers themselves, so that each power of 2 gets its share."""
    bits = np.float32([low, high]).view(np.int32)
    return torch.from_numpy(np.random.default_rng(seed).integers(*bits, n, np.int32).view('f4'))


def test_files_do_not_drift_when_rewritten(tmp_path):
    one, two, n = tmp_path / 'one.ply', tmp_path / 'two.ply', 20_003
    quats = some(n).quats
    for low in (0.1, 1e-9):  # as networks give them, and down to what a file can tell apart
        colors, scales = (float32s(low, 1, 3 * n, seed).reshape(n, 3) for seed in (1, 2))
        save_ply(one, Gaussians(quats[:, :3], quats, scales, float32s(low, 1, n, 3), colors))
        save_ply(two, load_ply(one))
        assert one.read_bytes() == two.read_bytes()


def test_extremes_stay_finite_in_the_file_and_close_after_it(tmp_path):
    g = some(4)
    g.opacities[:2], g.scales[2] = torch.tensor([0.0, 1.0]), 0.0
    g.colors[3] = torch.tensor([-1.0, 0.0, 2.0])
    save_ply(tmp_path / 'a.ply', g)
    back = load_ply(tmp_path / 'a.ply')
    for name in FIELDS:
        assert getattr(back, name).isfinite().all()
    np.testing.assert_allclose(back.opacities[:2], [0, 1], atol=1e-6)
    assert back.scales[2].max() < 1e-30
    np.testing.assert_allclose(back.colors[3], [0, 0, 1], atol=1e-6)


def test_no_gaussians_survive_a_file(tmp_path):
    save_ply(tmp_path / 'none.ply', some(0))
    assert len(load_ply(tmp_path / 'none.ply')) == 0


@pytest.mark.parametrize(
    'variant',
    [
        *({'degree': degree} for degree in range(4)),
        {'kind': '>f4'},
        {'kind': '<f8'},
        {'line_end': '\r\n'},
        {'names': TOOL_NAMES[::-1]},
    ],
    ids=str,
)
def test_file_of_a_3dgs_tool_is_read(tmp_path, variant):
    path = tool_ply(tmp_path / 'tool.ply', **variant)
    g = load_ply(path)
    np.testing.assert_array_equal(g.means, [[0, 0, i] for i in range(5)])
    np.testing.assert_array_equal(g.quats[4], [2, 0, 0, 0])
    np.testing.assert_allclose(g.scales[4], [1, 1, 0.25], rtol=1e-6)
    np.testing.assert_allclose(g.opacities, 0.5)
    expected = 0.5 + 0.5 * np.sqrt(1 / (4 * np.pi))  # fitted to photographs: sRGB
    np.testing.assert_allclose(srgb_from_linear(g.colors)[0], [expected, 0.5, 0.5], atol=1e-6)
    assert all(getattr(g, name).dtype == torch.float32 for name in FIELDS)
    assert load_ply_intrinsics(path).width == 640


def test_gaussians_that_are_not_finite_are_left_out_and_counted(tmp_path, caplog):
    def spoil(rows):
        rows['x'][0], rows['scale_1'][1], rows['opacity'][2] = np.nan, np.inf, np.nan
        for name in ('rot_0', 'rot_1', 'rot_2', 'rot_3'):
            rows[name][3] = 0
        rows['opacity'][5], rows['scale_0'][6] = np.inf, -np.inf  # an opacity of 1, a flat one
        rows['f_rest_3'][7] = np.nan

    g = load_ply(tool_ply(tmp_path / 'tool.ply', n=9000, change=spoil))
    assert g.means[:5, 2].tolist() == [4, 5, 6, 7, 8]
    assert len(g) == 8996
    assert (g.opacities[1], g.scales[2, 0]) == (1, 0)
    assert all(getattr(g, name).isfinite().all() for name in FIELDS)
    assert 'left out 4 of 9000' in caplog.text


def test_file_of_nothing_finite_is_refused(tmp_path):
    path = tool_ply(tmp_path / 'tool.ply', change=lambda rows: rows['y'].fill(np.nan))
    with pytest.raises(InputError, match='5 Gaussians, none finite'):
        load_ply(path)


def test_file_of_no_gaussians_is_read(tmp_path):
    assert len(load_ply(tool_ply(tmp_path / 'none.ply', n=0))) == 0


def test_color_space_of_the_file_decides(tmp_path):
    data = GOLDEN.read_bytes()
    tail = bytes([1, 1, 5, 0])  # color_space and version are the last four bytes
    path = tmp_path / 'linear.ply'
    path.write_bytes(data[:-4] + tail)
    np.testing.assert_allclose(
        load_ply(path).colors, srgb_from_linear(load_ply(GOLDEN).colors), atol=1e-6
    )


@pytest.mark.parametrize(
    ('damage', 'match'),
    [
        (lambda data: b'', 'empty file'),
        (lambda data: b'solid cube\n' + data, 'header'),
        (lambda data: data[:200], 'header'),
        (lambda data: data[:-1], 'version'),
        (lambda data: data[:1000], 'vertex'),
        (lambda data: data.replace(b'vertex 64', b'vertex %d' % 10**18), 'within element vertex'),
        (lambda data: data.replace(b'vertex 64', b'vertex ' + b'9' * 5000), 'element vertex 9'),
        (lambda data: data.replace(b'vertex 64', b'vertex -1'), 'vertex -1'),
        (lambda data: data.replace(b'binary_little_endian', b'ascii'), 'ascii'),
        (lambda data: data.replace(b'float rot_3', b'quad rot_3'), 'quad'),
        (lambda data: data.replace(b'float rot_3', b'float rot_2'), 'twice'),
        (lambda data: data.replace(b'float rot_3', b'float other'), 'rot_3'),
        (lambda data: data.replace(b'element vertex', b'element corner'), 'missing'),
    ],
)
def test_damaged_file_is_refused_with_its_reason(tmp_path, damage, match):
    path = tmp_path / 'bad.ply'
    path.write_bytes(damage(GOLDEN.read_bytes()))
    with pytest.raises(InputError, match=match) as caught:
        load_ply(path)
    assert caught.value.reason == 'bad_ply'


def test_missing_file_and_folder_are_input_errors(tmp_path):
    with pytest.raises(InputError, match='No such file'):
        load_ply(tmp_path / 'absent.ply')
    with pytest.raises(InputError, match='directory'):
        load_ply(tmp_path)


def test_mesh_is_refused_with_what_it_lacks(tmp_path):
    path = tmp_path / 'mesh.ply'
    path.write_bytes(
        b'ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n'
        b'property float y\nproperty float z\nelement face 1\n'
        b'property list uchar int vertex_indices\nend_header\n' + bytes(29)
    )
    with pytest.raises(InputError, match=r'f_dc_0, .* are missing; export'):
        load_ply(path)


def test_camera_that_is_not_finite_is_refused(tmp_path):
    path, data = tmp_path / 'bad.ply', GOLDEN.read_bytes()
    start = data.index(b'end_header\n') + 11 + 64 * 56 + 64  # behind vertices and extrinsic
    path.write_bytes(data[:start] + struct.pack('<f', np.nan) + data[start + 4 :])
    with pytest.raises(InputError, match='not finite'):
        load_ply_intrinsics(path)


class FullDisk(io.FileIO):
    def write(self, data):
        if self.tell() + len(data) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@contextmanager
def file_size_limit():  # here the system itself refuses to go on
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ('failure', 'message'),
    [
        (
            lambda: patch.object(
                Path, 'open', lambda p, mode: io.BufferedWriter(FullDisk(p, mode))
            ),
            'No space left',
        ),
        (file_size_limit, 'File too large'),
        (lambda: patch('os.fsync', side_effect=OSError('Input/output error')), 'Input/output'),
    ],
    ids=['disk full', 'file too large', 'not on disk'],
)
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure, message):
    path = tmp_path / 'a.ply'
    save_ply(path, some(3))
    before = path.read_bytes()
    with failure(), pytest.raises(OSError, match=message):
        save_ply(path, some(20_000))  # several blocks
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_folder_without_permission_is_an_os_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        save_ply(tmp_path / 'a.ply', some(3))
    assert not list(tmp_path.iterdir())


def test_transform_moves_means_and_turns_covariances():
    T = se3.look_at([1.0, 2.0, -3.0], [0.5, 0, 1], [0.1, 0.2, 1])
    g = some(20, grid=(1, 4, 5), log_depth_std=torch.ones(20))
    moved = g.transformed(T)
    np.testing.assert_allclose(moved.means, se3.apply(T, g.means.numpy()), atol=1e-5)
    expected = T[:3, :3] @ covariances(g) @ T[:3, :3].T
    np.testing.assert_allclose(covariances(moved), expected, atol=1e-5)
    assert moved.grid == g.grid
    assert moved.means.dtype == g.means.dtype
    back = moved.transformed(se3.inverse(T))
    np.testing.assert_allclose(back.means, g.means, atol=1e-5)
    np.testing.assert_allclose(covariances(back), covariances(g), atol=1e-5)


@pytest.mark.parametrize(
    'T', [np.eye(3), np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, -1, 1]), np.full((4, 4), np.nan)]
)
def test_only_rigid_transforms_are_applied(T):
    with pytest.raises(InputError, match='T_a_b'):
        some(3).transformed(T)


def test_srgb_curve_and_its_inverse_agree():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    np.testing.assert_allclose(linear_from_srgb(srgb_from_linear(x)), x, atol=1e-6)
    assert srgb_from_linear(torch.tensor(0.5)).item() == pytest.approx(0.735357, abs=1e-5)


def test_what_the_image_does_not_show_is_hidden_in_every_layer():
    gaussians = some(2 * 4 * 6, grid=(2, 4, 6), empty=torch.arange(48) % 5 == 0)
    unseen = np.zeros((8, 12), bool)
    unseen[:4, :6] = True  # the upper left quarter, at twice the size
    hidden = gaussians.hidden(unseen)
    before, after = (g.opacities.reshape(2, 4, 6) for g in (gaussians, hidden))
    assert not after[:, :2, :3].any()
    assert torch.equal(after[:, 2:], before[:, 2:])
    assert torch.equal(after[:, :, 3:], before[:, :, 3:])
    empty = hidden.empty.reshape(2, 4, 6)
    assert not empty[:, :2, :3].any()  # unknown is not empty
    assert torch.equal(empty[:, 2:], gaussians.empty.reshape(2, 4, 6)[:, 2:])
    with pytest.raises(InputError, match='before select'):
        gaussians.select(slice(None)).hidden(unseen)


def test_layer_keeps_image_order_and_selection_loses_it():
    g = some(24, grid=(2, 3, 4))
    back = g.layer(1)
    assert torch.equal(back.means, g.means[12:])
    assert back.grid == (1, 3, 4)
    assert g.select(torch.arange(5)).grid is None
    with pytest.raises(InputError, match='layer 2'):
        g.layer(2)
