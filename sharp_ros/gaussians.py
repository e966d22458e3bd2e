"""The container of 3D Gaussians that every stage after the network works on, and its PLY file.

One module: the file holds what the container holds, in units of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
import logging
import os
from pathlib import Path
from typing import Any, cast, TYPE_CHECKING

import cv2
import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.files import replacing
from sharp_ros.ply import PLY_TYPES, read_ply
from sharp_ros.tensors import array_of, give_tensors, is_tensor, tensor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BLOCK = 1 << 14  # Gaussians, 0.9 MB
_FIELDS = ('means', 'quats', 'scales', 'opacities', 'colors', 'log_depth_std', 'empty')


@dataclass(frozen=True)
class GaussianArrays:
    """The values of `Gaussians` on the CPU, in arrays; see there."""

    means: np.ndarray
    quats: np.ndarray | None
    scales: np.ndarray | None
    opacities: np.ndarray
    colors: np.ndarray
    log_depth_std: np.ndarray | None = None
    empty: np.ndarray | None = None

    @property
    def shapes(self) -> tuple[np.ndarray, np.ndarray]:  # [N, 3], [N, 4]
        """Scales and quaternions; see `Gaussians.shapes`."""
        if self.scales is None or self.quats is None:
            raise _points_only()
        return self.scales, self.quats


@dataclass(frozen=True)
class GaussianBlocks:
    """Gaussians on the CPU that are made when they are read, so that they never lie there whole.

    Each block lies where the one before it did.

    Attributes:
        count: of all.
        write: writes those from a number on into arrays, as many as fit.
    """

    count: int
    write: Callable[[int, GaussianArrays], None]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[GaussianArrays]:
        block = empty_arrays(min(self.count, _BLOCK))
        for start in range(0, self.count, _BLOCK):
            rows = slice(min(_BLOCK, self.count - start))
            scales, quats = block.shapes
            part = GaussianArrays(
                means=block.means[rows],
                quats=quats[rows],
                scales=scales[rows],
                opacities=block.opacities[rows],
                colors=block.colors[rows],
            )
            self.write(start, part)
            yield part


def empty_arrays(count: int) -> GaussianArrays:
    """Arrays for so many Gaussians, float32, to be written."""
    shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, 3))
    return GaussianArrays(*(np.empty(shape, np.float32) for shape in shapes))


@dataclass(frozen=True)
class Gaussians:
    """Anisotropic 3D Gaussians in one coordinate frame, all tensors on one device.

    Where a network runs without torch they are held as arrays, see `of_arrays`: the attributes
    are then made tensors, of the same memory, when they are asked for, and `arrays` costs nothing.

    Attributes:
        means: [N, 3] metres.
        quats: [N, 4] wxyz, of any positive length, or None of points only: Gaussians whose shapes
            nobody asked for.
        scales: [N, 3] standard deviations along the local axes, metres; None together with quats.
        opacities: [N] in 0..1.
        colors: [N, 3] linear RGB in 0..1.
        grid: (layers, rows, columns) when Gaussian `(layer * rows + row) * columns + column`
            belongs to that cell of the image it was predicted from, layer 0 being the visible
            surface; None once the order is lost.
        log_depth_std: [N] standard deviation of the logarithm of the depth, or None if unknown.
        empty: [N] bool, those that only say that their ray meets nothing, as in the sky; of
            opacity 0. None if there are none.
        log_scale_std: standard deviation of the logarithm of the metres of all of them together,
            beside that of each; None if the network states none.
    """

    means: Tensor
    quats: Tensor | None
    scales: Tensor | None
    opacities: Tensor
    colors: Tensor
    grid: tuple[int, int, int] | None = None
    log_depth_std: Tensor | None = None
    empty: Tensor | None = None
    log_scale_std: float | None = None

    def __post_init__(self) -> None:
        n = len(self)
        shapes = {
            'means': (n, 3),
            'quats': (n, 4),
            'scales': (n, 3),
            'opacities': (n,),
            'colors': (n, 3),
            'log_depth_std': (n,),
            'empty': (n,),
        }
        if (vars(self)['quats'] is None) != (vars(self)['scales'] is None):
            raise InputError('quats and scales describe one shape: give both, or None for both')
        for name, values in self._held().items():
            if tuple(values.shape) != shapes[name]:
                raise InputError(f'{name} must be {shapes[name]}, got {tuple(values.shape)}')
        if self.grid is not None and self.grid[0] * self.grid[1] * self.grid[2] != n:
            raise InputError(f'grid {self.grid} does not hold {n} Gaussians')

    @staticmethod
    def of_arrays(
        arrays: GaussianArrays,
        grid: tuple[int, int, int] | None = None,
        log_scale_std: float | None = None,
    ) -> Gaussians:
        """The same values as Gaussians, which share their memory; torch is not needed."""
        return Gaussians(**cast('Any', vars(arrays)), grid=grid, log_scale_std=log_scale_std)

    @property
    def arrays(self) -> GaussianArrays:
        """All values on the CPU; torch is not needed where they came as arrays."""
        held = self._held()
        given = {name: array_of(held[name]) if name in held else None for name in _FIELDS}
        return GaussianArrays(**cast('Any', given))

    def __len__(self) -> int:
        return vars(self)['means'].shape[0]

    @property
    def has_shapes(self) -> bool:
        """Whether these are more than points."""
        return vars(self)['quats'] is not None

    @property
    def device(self) -> str:
        """Kind of the device that holds them: cpu, cuda or mps."""
        means = vars(self)['means']
        return means.device.type if is_tensor(means) else 'cpu'

    def _held(self) -> dict[str, Any]:
        """Arrays or tensors, as they came, by name; without those that are None."""
        return {name: vars(self)[name] for name in _FIELDS if vars(self)[name] is not None}

    def _with(self, **changes: Any) -> Gaussians:
        """Like `replace`, which would make tensors of arrays."""
        return Gaussians(**{**vars(self), **changes})

    def _like(self, values: np.ndarray) -> Any:
        """Values as array or tensor, of the kind, device and, if not bool, dtype of the means."""
        means = vars(self)['means']
        if not is_tensor(means):
            return values if values.dtype == bool else values.astype(means.dtype)
        if values.dtype == bool:
            return tensor_of(values).to(means.device)
        return means.new_tensor(values)

    @property
    def shapes(self) -> tuple[Tensor, Tensor]:  # [N, 3], [N, 4]
        """Scales and quaternions, for those who cannot do without.

        Raises:
            InputError: if these are points only.
        """
        if self.scales is None or self.quats is None:
            raise _points_only()
        return self.scales, self.quats

    def to(self, device: str | torch.device) -> Gaussians:
        """The same Gaussians on another device."""
        held = {name: getattr(self, name).to(device) for name in self._held()}
        return replace(self, **held)

    def select(self, index: Tensor | np.ndarray | slice) -> Gaussians:
        """Those Gaussians a boolean mask, an index or a slice picks; the image order is lost."""
        chosen = index
        if not isinstance(index, slice) and not is_tensor(vars(self)['means']):
            chosen = array_of(index)
        return self._with(grid=None, **{name: t[chosen] for name, t in self._held().items()})

    def transformed(self, T_a_b: np.ndarray) -> Gaussians:
        """These Gaussians of frame `b` expressed in frame `a`; order, grid and dtype are kept.

        Args:
            T_a_b: [4, 4] rigid transform; a scale or shear would not leave Gaussians' axes
                perpendicular.

        Raises:
            InputError: if the transform is not rigid.
        """
        T = np.asarray(T_a_b, np.float64)
        if T.shape != (4, 4) or not se3.is_pose(T):
            raise InputError(f'T_a_b must be a rigid [4, 4] transform, got {T}', 'bad_pose')
        rotation, translation = self._like(T[:3, :3]), self._like(T[:3, 3])
        held = vars(self)
        means, quats = held['means'] @ rotation.T + translation, held['quats']
        if quats is not None:
            w, x, y, z = se3.quat_from_matrix(T[:3, :3])
            left = [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]
            quats = quats @ self._like(np.array(left)).T
        return self._with(means=means, quats=quats)

    def scaled(self, factor: float) -> Gaussians:
        """Everything `factor` times as far and as large: the same picture from the origin."""
        held = vars(self)
        scales = None if held['scales'] is None else held['scales'] * factor
        return self._with(means=held['means'] * factor, scales=scales)

    def corrected(self, log_factor: np.ndarray) -> Gaussians:
        """Each farther away and larger by the factor of its place in the image.

        Args:
            log_factor: [m, n] float32 logarithm of it, edge to edge at any resolution.

        Raises:
            InputError: if the image order was lost.
        """
        layers, rows, columns = self._image_grid('correct')
        field = cv2.resize(log_factor, (columns, rows), interpolation=cv2.INTER_LINEAR)
        # three of each, since numpy is slow where it multiplies only three numbers at a time
        each = cv2.merge([cv2.exp(field)] * 3).reshape(-1, 3)
        factor = self._like(np.tile(each, (layers, 1)))
        held = vars(self)
        scales = None if held['scales'] is None else held['scales'] * factor
        return self._with(means=held['means'] * factor, scales=scales)

    def hidden(self, unseen: np.ndarray) -> Gaussians:
        """The same with opacity 0 where the image shows nothing, in any layer.

        Args:
            unseen: [H, W] bool, of the image at any size.

        Raises:
            InputError: if the image order was lost.
        """
        layers, rows, columns = self._image_grid('hide')
        mask = cv2.resize(
            unseen.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT
        )
        seen = self._like(np.tile((mask == 0).ravel(), layers))
        held = vars(self)
        empty = None if held['empty'] is None else held['empty'] & seen
        return self._with(opacities=held['opacities'] * seen, empty=empty)

    def _image_grid(self, do: str) -> tuple[int, int, int]:
        """Layers, rows and columns of the image order, which to `do` something needs."""
        if self.grid is None:
            raise InputError(
                f'Gaussians without image order belong to no pixels; {do} those of the '
                'prediction itself, before select()',
                'no_image_grid',
            )
        return self.grid

    @property
    def front_log_std(self) -> np.ndarray | None:  # [rows, columns]
        """`log_depth_std` of the visible surface on the CPU, of which nothing else is fetched.

        None where it is not known, or the image order was lost.
        """
        std = vars(self)['log_depth_std']
        if std is None or self.grid is None:
            return None
        _, rows, columns = self.grid
        return array_of(std[: rows * columns]).reshape(rows, columns)

    def layer(self, index: int) -> Gaussians:
        """One layer of the image grid, still in image order.

        Raises:
            InputError: if the image order was lost or the layer does not exist.
        """
        if self.grid is None or not 0 <= index < self.grid[0]:
            raise InputError(f'layer {index} asked from Gaussians with grid {self.grid}')
        _, rows, columns = self.grid
        part = slice(index * rows * columns, (index + 1) * rows * columns)
        return self.select(part)._with(grid=(1, rows, columns))


give_tensors(Gaussians, *_FIELDS)


def _points_only() -> InputError:
    return InputError(
        'these Gaussians are points only; to render, save or send them call unproject() '
        'with covariances=True',
        'no_shapes',
    )


def rotations_from_quats(quats: Tensor) -> Tensor:  # [..., 4] -> [..., 3, 3]
    """Rotation matrices of unit wxyz quaternions, whose columns are the local axes."""
    import torch

    w, x, y, z = quats.unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
        torch.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
        torch.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
    )
    return torch.stack(rows, -2)


def srgb_from_linear(linear: Tensor) -> Tensor:
    """IEC 61966-2-1 transfer curve; input is clamped to 0..1."""
    import torch

    x = linear.clamp(0, 1)
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def linear_from_srgb(encoded: Tensor) -> Tensor:
    """Inverse of `srgb_from_linear`."""
    import torch

    x = encoded.clamp(0, 1)
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


# --- PLY ----------------------------------------------------------------------------------------
# SHARP's layout (docs/conventions.md): what 3DGS tools read, plus small elements about the photo.
# Logarithms, logits and spherical harmonics exist in the file only.

_SH_C0 = 0.28209479177387814  # sqrt(1 / (4 pi)), the constant spherical harmonic
_OPACITY_RANGE = (1e-7, 1 - 2**-24)  # keeps the logit of 0 and 1 finite
_SCALE_MIN = 1e-38  # keeps the logarithm of 0 finite
_LOG_LIMIT = float(np.log(np.finfo(np.float32).max))  # of a finite scale
_GAMMA = float(np.float32(1 / 2.4))  # SHARP's exponent
_ROWS = 1 << 13  # Gaussians converted at a time, so that all steps of it stay in the cache
_DEFAULT_INTRINSICS = Intrinsics(512, 512, 319.5, 239.5, 640, 480)  # of a file that names none
# Columns of the vertex element of a 3DGS file, in the units of the file: metres, sRGB as harmonic,
# logit, logarithms, quaternion wxyz.
VERTEX = (
    *('x', 'y', 'z', 'f_dc_0', 'f_dc_1', 'f_dc_2', 'opacity'),
    *('scale_0', 'scale_1', 'scale_2', 'rot_0', 'rot_1', 'rot_2', 'rot_3'),
)


# Every step of SHARP's export is in float32. Rounded float64 functions agree on all processors but
# for about one value in 10^9; float32 ones do not.
def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, _SCALE_MIN).astype(np.float64)).astype(np.float32)


def _logit(opacities: np.ndarray) -> np.ndarray:
    p = opacities.clip(*_OPACITY_RANGE)
    return _log(p / (1 - p))


def _f_dc_from_linear(colors: np.ndarray) -> np.ndarray:
    c = colors.clip(0, 1)
    power = (c.astype(np.float64) ** _GAMMA).astype(np.float32)
    return (np.where(c <= 0.0031308, 12.92 * c, 1.055 * power - 0.055) - 0.5) / _SH_C0


def srgb_bytes(colors: np.ndarray) -> np.ndarray:  # [N, 3] -> [N, 3] uint8
    """Linear RGB as sRGB in 8 bits, for files of coloured points."""
    return np.rint((_f_dc_from_linear(colors) * _SH_C0 + 0.5) * 255).clip(0, 255).astype(np.uint8)


def _exp(logs: np.ndarray) -> np.ndarray:
    return np.exp(logs.astype(np.float64)).astype(np.float32)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _linear_from_f_dc(f_dc: np.ndarray) -> np.ndarray:
    # Undone in float32 step by step: each rounding then finds the number it was made from.
    srgb = (f_dc * _SH_C0 + 0.5).clip(0, 1)
    power = ((srgb + 0.055) / 1.055).astype(np.float64)
    return np.where(srgb <= 0.04045, srgb / 12.92, (power ** (1 / _GAMMA)).astype(np.float32))


def _decode(
    stored: np.ndarray,
    inverse: Callable[[np.ndarray], np.ndarray],
    forward: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """`inverse(stored)`, moved by a few float32 steps to where `forward` gives `stored` again.

    Rounding alone would let a file drift by a bit each time it is read and written. Of all that
    `forward` gives, `inverse` misses less than 1 % and none by more than 5 steps. Some values of
    other tools are none that `forward` gives; these stay as `inverse` has them.
    """
    value = inverse(stored)
    flat, target = value.reshape(-1), stored.reshape(-1)
    wrong = np.flatnonzero(forward(flat) != target)
    for step in (1, -1, 2, -2, 3, -3, 4, -4, 5, -5):
        moved = (flat[wrong].view(np.int32) + step).view(np.float32)
        hit = forward(moved) == target[wrong]
        flat[wrong[hit]] = moved[hit]
        wrong = wrong[~hit]
        if not len(wrong):
            break
    return value


def rows_of(gaussians: Gaussians) -> np.ndarray:  # [N, 14] float32
    """Gaussians as the rows of a 3DGS file, see `VERTEX`.

    Raises:
        InputError: if these are points only.
    """
    blocks = [np.empty((0, len(VERTEX)), np.float32), *_row_blocks(gaussians.arrays)]
    return np.concatenate(blocks)


def _row_blocks(a: GaussianArrays) -> Iterator[np.ndarray]:  # each [up to _ROWS, 14] float32
    """Rows of a 3DGS file, a block at a time."""
    means, colors, opacities, scales, quats = (
        values.astype(np.float32, copy=False)
        for values in (a.means, a.colors, a.opacities, *a.shapes)
    )
    for start in range(0, len(means), _ROWS):
        rows = slice(start, min(start + _ROWS, len(means)))
        vertices = np.empty((rows.stop - start, len(VERTEX)), '<f4')
        vertices[:, 0:3], vertices[:, 10:14] = means[rows], quats[rows]
        vertices[:, 3:6] = _f_dc_from_linear(colors[rows])
        vertices[:, 6], vertices[:, 7:10] = _logit(opacities[rows]), _log(scales[rows])
        yield vertices


def plain_header(count: int, comments: Sequence[str] = (), more: str = '') -> bytes:
    """The header of a PLY file of `count` rows, which follow it, in the layout of 3DGS.

    Args:
        count: of rows.
        comments: lines of ASCII.
        more: lines about elements behind the rows, see `photo_elements`.
    """
    lines = ['ply', 'format binary_little_endian 1.0', *(f'comment {c}' for c in comments)]
    lines += [f'element vertex {count}', *(f'property float {name}' for name in VERTEX)]
    return '\n'.join([*lines, f'{more}end_header\n']).encode('ascii', 'replace')


def photo_elements(intrinsics: Intrinsics | None, depth: np.ndarray) -> tuple[str, bytes]:
    """What SHARP writes behind the rows: lines for the header, and the values.

    Args:
        intrinsics: of the photo; None for those of `save_ply`.
        depth: [N] z of the Gaussians, metres.
    """
    k = intrinsics or _DEFAULT_INTRINSICS
    corner_x, corner_y = k.cx + 0.5, k.cy + 0.5  # the file counts from the image corner
    extras = {
        'extrinsic': ('float', np.eye(4)),
        'intrinsic': ('float', [k.fx, 0, corner_x, 0, k.fy, corner_y, 0, 0, 1]),
        'image_size': ('uint', [k.width, k.height]),
        'frame': ('int', [1, len(depth)]),
        'disparity': ('float', _disparity_range(depth.astype(np.float32, copy=False))),
        'color_space': ('uchar', [0]),
        'version': ('uchar', [1, 5, 0]),
    }
    header, values = '', b''
    for name, (kind, numbers) in extras.items():
        block = np.asarray(numbers).astype('<' + PLY_TYPES[kind])
        header += f'element {name} {block.size}\nproperty {kind} {name}\n'
        values += block.tobytes()
    return header, values


def save_ply(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    intrinsics: Intrinsics | None = None,
    comments: Sequence[str] = (),
    *,
    plain: bool = False,
) -> None:
    """Write Gaussians to a PLY file as SHARP and 3DGS viewers read it.

    The file appears under its name only once it is complete. Colours are stored as sRGB, because
    the common viewers blend in display space.

    Args:
        path: file to create or replace; its folder exists.
        gaussians: their frame is not recorded; SHARP writes the optical frame of the photo.
        intrinsics: of the photo, for viewers that start at its viewpoint; without it 640x480
            pixels with a focal length of 512, which readers assume for a file that names none.
        comments: lines of ASCII for people, and for programs that know of them.
        plain: without the elements about the photo, behind which some readers find nothing.

    Raises:
        InputError: if these are points only.
        OSError: if the file cannot be written; one of that name is then as it was.
    """
    a = gaussians.arrays
    more, tail = ('', b'') if plain else photo_elements(intrinsics, a.means[:, 2])
    with replacing(Path(path)) as file:
        file.write(plain_header(len(gaussians), comments, more))
        file.writelines(block.data for block in _row_blocks(a))
        file.write(tail)


def _disparity_range(depth: np.ndarray) -> np.ndarray:  # [N] -> [2]
    """10 % and 90 % quantile of 1/z of what lies in front of the camera; 0, 0 if nothing does."""
    disparity = 1 / depth[(depth > 0) & np.isfinite(depth)]
    if not len(disparity):
        return np.zeros(2, np.float32)
    return quantiles(disparity, (0.1, 0.9))


def quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:  # [N], [K] -> [K]
    """Of float32 values, at least one: torch.quantile, without its limit of 2^24 values.

    It is in float32 throughout, as the PLY files and camera paths of SHARP want it.
    """
    ranks = np.asarray(shares, np.float32) * np.float32(len(values) - 1)
    low = np.floor(ranks).astype(np.int64).clip(0, len(values) - 1)
    high = np.minimum(low + 1, len(values) - 1)
    ordered = np.partition(values, np.unique(np.concatenate((low, high))))
    import torch

    ends = torch.from_numpy(ordered[low]), torch.from_numpy(ordered[high])
    return torch.lerp(*ends, torch.from_numpy(ranks - low.astype(np.float32))).numpy()


def load_ply(path: str | os.PathLike[str]) -> Gaussians:
    """Read Gaussians from a binary PLY file of SHARP or of a 3DGS tool.

    Of spherical harmonics, of whatever degree, only the constant term is used. Gaussians that are
    not finite or have a zero quaternion, of which 3DGS training leaves a few and which no renderer
    can draw, are left out and their number is logged. Files of `save_ply` without such Gaussians
    are reproduced bit by bit when they are written again.

    Raises:
        InputError: if the file cannot be read, is not such a PLY file, ends early, or holds not
            one usable Gaussian among many; reason `bad_ply`.
    """
    vertex, linear = _gaussian_vertices(path)
    n = len(vertex)
    usable = np.empty(n, bool)
    fields = [np.empty((n, width), np.float32) for width in (3, 3, 1, 3, 4)]
    with np.errstate(over='ignore', invalid='ignore'):
        for start in range(0, n, _ROWS):
            rows = slice(start, start + _ROWS)
            block = np.array([vertex[name][rows] for name in VERTEX], np.float32)
            if linear:
                block[3:6] = block[3:6] * _SH_C0 + 0.5
            else:
                block[3:6] = _decode(block[3:6], _linear_from_f_dc, _f_dc_from_linear)
            block[6] = _decode(block[6], _sigmoid, _logit)
            block[7:10] = _decode(block[7:10], _exp, _log)
            usable[rows] = np.isfinite(block).all(0) & block[10:].any(0)
            for field, values in zip(fields, np.split(block, (3, 6, 7, 10)), strict=True):
                field[rows] = values.T
    means, colors, opacities, scales, quats = fields
    arrays = GaussianArrays(means, quats, scales, opacities[:, 0], colors)
    gaussians = Gaussians.of_arrays(arrays)
    return gaussians if _check_usable(path, usable) else gaussians.select(usable)


def load_rows(path: str | os.PathLike[str]) -> np.ndarray:  # [N, 14] float32
    """What `load_ply` reads, as the rows of a 3DGS file, see `VERTEX`, and in less time.

    Values are as they are stored, but finite: infinite logits, which other tools write, mean an
    opacity of 0 or 1, and the logarithm -inf a scale of nothing.

    Raises:
        InputError: as `load_ply`.
    """
    vertex, linear = _gaussian_vertices(path)
    if vertex.dtype == np.dtype([(name, '<f4') for name in VERTEX]):
        rows = vertex.view('<f4').reshape(-1, len(VERTEX)).astype(np.float32)
    else:
        rows = np.stack([vertex[name].astype(np.float32) for name in VERTEX], 1)
    if linear:
        rows[:, 3:6] = _f_dc_from_linear(rows[:, 3:6] * _SH_C0 + 0.5)
    limits = _logit(np.array(_OPACITY_RANGE, np.float32))
    np.clip(rows[:, 6], *limits, out=rows[:, 6])
    np.maximum(rows[:, 7:10], np.float32(np.log(_SCALE_MIN)), out=rows[:, 7:10])
    with np.errstate(over='ignore', invalid='ignore'):
        usable = np.isfinite(rows @ np.ones(len(VERTEX), np.float32)) & rows[:, 10:].any(1)
        usable &= (rows[:, 7:10] < _LOG_LIMIT).all(1)
    return rows if _check_usable(path, usable) else rows[usable]


def _gaussian_vertices(path: str | os.PathLike[str]) -> tuple[np.ndarray, bool]:
    """The vertices of a file of Gaussians, and whether their colours are linear."""
    elements = read_ply(path).elements
    vertex = elements.get('vertex')
    names = () if vertex is None else vertex.dtype.names or ()
    missing = [name for name in VERTEX if name not in names]
    if vertex is None or missing:
        what = f'vertex properties {", ".join(missing)} are missing'
        if missing == ['scale_2']:
            what = 'these are 2D Gaussians, discs without a third scale'
        elif 'packed_position' in names:
            what = 'it is a compressed PLY file'
        raise InputError(
            f'{path} holds no Gaussians: {what}; export it as uncompressed 3DGS PLY', 'bad_ply'
        )
    # SHARP's first files stored linear colours and no `color_space`. 3DGS tools, which write
    # vertices only, fit their colours to photographs as encoded.
    color_space = elements.get('color_space')
    if color_space is not None and len(color_space):
        return vertex, color_space[0][0] == 1
    return vertex, 'intrinsic' in elements


def _check_usable(path: str | os.PathLike[str], usable: np.ndarray) -> bool:
    """Whether all are; those that are not are logged.

    Raises:
        InputError: if none of many is.
    """
    n = len(usable)
    if usable.all():
        return True
    if not usable.any():
        raise InputError(f'{path} holds {n} Gaussians, none finite; write it anew', 'bad_ply')
    left_out = f'left out {n - usable.sum()} of {n} Gaussians that are not finite'
    logging.getLogger(__name__).warning('%s: %s', path, left_out)
    return False


def load_ply_intrinsics(path: str | os.PathLike[str]) -> Intrinsics:
    """Intrinsics of the photo a PLY file was made from; 640x480 with focal length 512 if unknown.

    Raises:
        InputError: if the file cannot be read or its camera is not one.
    """
    elements = read_ply(path).elements
    size, values = (
        [float(row[0]) for row in elements[name][:10]] if name in elements else []
        for name in ('image_size', 'intrinsic')
    )
    if not np.isfinite(size + values).all():
        raise InputError(f'{path} names a camera that is not finite: {values}', 'bad_ply')
    if len(values) == 4:  # SHARP's first files: fx, fy, width, height
        fx, fy, width, height = values
        return Intrinsics(fx, fy, (width - 1) / 2, (height - 1) / 2, int(width), int(height))
    if len(values) == 9 and len(size) == 2:
        fx, _, corner_x, _, fy, corner_y = values[:6]
        return Intrinsics(fx, fy, corner_x - 0.5, corner_y - 0.5, int(size[0]), int(size[1]))
    return _DEFAULT_INTRINSICS
