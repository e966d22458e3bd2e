"""From the space of the image to metres in front of the camera.

What is slow here is the shape of a million Gaussians: the lens turns their axes into vectors of
any length and angle, and new perpendicular ones have to be found. Any device does it with a few
hundred operations on whole tensors (`_shapes`), the CPU with one compiled loop (`_shapes_on_cpu`,
compiled on first use and cached on disk beside this file). Both are the same formula.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians, rotations_from_quats
from sharp_ros.network.composer import NdcGaussians
from sharp_ros.network.jacobi import dot3, inlined, jacobi_sweep, larger

# A Gaussian thinner than a millionth of its length is a needle or a disc to every eye; the floor
# keeps its axes defined.
_THINNEST = 1e-6
# Keeps 0 / 0 away, and is too small to change anything else.
_TINY = float(np.finfo(np.float32).tiny)
_SWEEPS = 4  # a fifth changes nothing in float32


def unproject(
    ndc: NdcGaussians, intrinsics: Intrinsics, item: int = 0, *, covariances: bool = True
) -> Gaussians:
    """Place Gaussians of one image in front of the camera that took it.

    An image coordinate x of -1..1 lies (x + 1) W / 2 pixels from the left edge, and the principal
    point, counted from there, at cx + 1/2. So X / Z = (W x / 2 + W / 2 - cx - 1/2) / fx, and since
    the means hold z x and z, one matrix A takes them to metres, whatever the lens:

        A = | W / 2 fx   0        (W / 2 - cx - 1/2) / fx |
            | 0          H / 2 fy (H / 2 - cy - 1/2) / fy |
            | 0          0        1                       |

    It shears where the principal point is off centre. The new axes are those of the covariance
    A R S S R^T A^T, found as the singular vectors of A R S, so that nothing is squared and float32
    does.

    Args:
        ndc: a batch. A Gaussian that is not finite stays so and disturbs no other.
        intrinsics: of the image before it was resized for the network.
        item: which of the batch.
        covariances: whether to compute shapes; without them most of the time is saved.

    Returns:
        Gaussians in the optical frame, metres, with unit quaternions whose component of largest
        magnitude is positive and falling scales, none below a millionth of the largest; without
        `covariances`, points only. Shapes carry no gradients on the CPU.
    """
    k = intrinsics
    lens = ndc.means.new_tensor(
        [
            [k.width / 2 / k.fx, k.height / 2 / k.fy, 1],
            [(k.width / 2 - k.cx - 0.5) / k.fx, (k.height / 2 - k.cy - 0.5) / k.fy, 0],
        ]
    )
    scales = quats = None
    if covariances:
        shapes = _shapes_on_cpu if ndc.means.device.type == 'cpu' else _shapes
        scales, quats = shapes(ndc.scales[item], ndc.quats[item], lens)
    return Gaussians(
        means=_through(lens, ndc.means[item]),
        quats=quats,
        scales=scales,
        opacities=ndc.opacities[item],
        colors=ndc.colors[item],
        grid=ndc.grid,
    )


def _through(lens: Tensor, vectors: Tensor) -> Tensor:  # [2, 3], [..., 3] -> [..., 3]
    """A v for every vector: the first row of `lens` is A's diagonal, the second its last column.

    No matrix product, because a GPU may be set to round those to ten bits.
    """
    return torch.addcmul(vectors * lens[0], vectors[..., 2:], lens[1])


def _shapes(scales: Tensor, quats: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and quaternions of Gaussians behind the lens, see `unproject`.

    One-sided Jacobi (Hestenes 1958): turn pairs of columns of A R S until all are perpendicular.
    It finds small singular values to full relative precision, and runs over all matrices at once.

    Args:
        scales: [N, 3].
        quats: [N, 4] of any length.
        lens: [2, 3], see `_through`.
    """
    # by the largest component first, so that squares of the others neither vanish nor overflow
    quats = quats / quats.abs().amax(1, keepdim=True).clamp(min=_TINY)
    axes = _through(lens, rotations_from_quats(F.normalize(quats, dim=1)).mT)
    largest = scales.amax(1, keepdim=True).clamp(min=_TINY)
    relative = (scales / largest).clamp(min=_THINNEST)
    # components first, matrices last: every step then runs along contiguous memory
    columns = list((axes * relative[..., None]).permute(1, 2, 0).contiguous())
    for _ in range(_SWEEPS):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            columns[i], columns[j] = _turned(columns[i], columns[j])
    lengths = [_dot(column, column).sqrt() for column in columns]
    first, second = columns[0] / lengths[0], columns[1] / lengths[1]
    rotations = torch.stack([first, second, torch.linalg.cross(first, second, dim=0)])
    return torch.stack(lengths, 1) * largest, _quats_from_rotations(rotations.permute(2, 1, 0))


def _turned(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:  # [3, N] each
    """Two vectors turned within their span until they are perpendicular, the longer one first."""
    half, pq = (_dot(q, q) - _dot(p, p)) / 2, _dot(p, q)
    # of the smaller angle that does it; where q is longer it takes the complement
    tangent = pq / (half.abs() + torch.hypot(half, pq) + _TINY)
    cosine = torch.rsqrt(1 + tangent * tangent)
    sine = tangent * cosine
    swap = half > 0
    u, v = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    return torch.addcmul(u * p, v, q), torch.addcmul(u * q, v, p, value=-1)


def _dot(p: Tensor, q: Tensor) -> Tensor:  # [3, N], [3, N] -> [N]
    return torch.addcmul(torch.addcmul(p[0] * q[0], p[1], q[1]), p[2], q[2])


def _quats_from_rotations(rotation: Tensor) -> Tensor:  # [N, 3, 3] -> [N, 4]
    """Unit wxyz quaternions whose component of largest magnitude is positive (Shepperd 1978)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(1) for row in rotation.unbind(1))
    # 4 q q^T; any of its rows is q but for the length, and the one that is longest is most exact
    products = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], 1),
            torch.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], 1),
            torch.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], 1),
            torch.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], 1),
        ],
        1,
    )
    largest = products.diagonal(dim1=1, dim2=2).argmax(1)
    rows = products.gather(1, largest[:, None, None].expand(-1, 1, 4))[:, 0]
    return F.normalize(rows, dim=1)


# --- on the CPU ---------------------------------------------------------------------------------

_BLOCK = 256  # Gaussians at a time; their seven numbers each fit the first cache
# Positions of scales and quaternions in a block, one plane after the other: with constant
# distances between them the compiler knows that they do not overlap. Unsigned, because numba
# guards signed ones against counting from the end. Either stops it from vectorising.
_S0, _S1, _S2, _W, _X, _Y, _Z = (np.uintp(_BLOCK * plane) for plane in range(7))
# Typed constants: numba widens float32 arithmetic to float64 at every bare literal.
_ONE, _TWO = np.float32(1), np.float32(2)
_THIN_32, _TINY_32 = np.float32(_THINNEST), np.float32(_TINY)


def _shapes_on_cpu(scales: Tensor, quats: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """`_shapes` in 32-bit floats."""
    # Not made contiguous: the network leaves planes, and numba compiles for whatever layout comes.
    scales_, quats_ = (t.detach().float().numpy().T for t in (scales, quats))
    (a, b, _), (c, d, _) = lens.float().numpy()
    # Where numba and torch share OpenMP, the start of numba's threads sets torch's number of them.
    threads = torch.get_num_threads()
    out = _shapes_kernel(scales_, quats_, (a, b, c, d))
    torch.set_num_threads(threads)
    return torch.from_numpy(out[0]), torch.from_numpy(out[1])


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _shapes_kernel(
    scales: np.ndarray, quats: np.ndarray, lens: tuple[np.float32, ...]
) -> tuple[np.ndarray, np.ndarray]:  # [3, N], [4, N] -> [N, 3], [N, 4]
    """`_shapes` of all Gaussians, block by block; float32."""
    n = scales.shape[1]
    out_scales, out_quats = np.empty((n, 3), np.float32), np.empty((n, 4), np.float32)
    for k in numba.prange((n + _BLOCK - 1) // _BLOCK):
        block = np.zeros((7, _BLOCK), np.float32)
        start = k * _BLOCK
        size = min(_BLOCK, n - start)
        for c in range(3):
            for i in range(size):
                block[c, i] = scales[c, start + i]
        for c in range(4):
            for i in range(size):
                block[3 + c, i] = quats[c, start + i]
        _shapes_of_block(block.reshape(-1), lens)
        for i in range(size):
            for c in range(3):
                out_scales[start + i, c] = block[c, i]
            for c in range(4):
                out_quats[start + i, c] = block[3 + c, i]
    return out_scales, out_quats


@numba.njit(cache=True, nogil=True, error_model='numpy', fastmath={'contract'})
def _shapes_of_block(block: np.ndarray, lens: tuple[np.float32, ...]) -> None:
    """`_shapes` of the float32 [7 * _BLOCK] numbers, in place and without a branch.

    Every choice is a select: the compiler then takes eight or sixteen Gaussians at a time, which
    is worth more than stopping early. Selects are written so that NaN comes through.
    """
    a, b, c, d = lens
    for i in range(np.uintp(_BLOCK)):
        w, x, y, z = block[_W + i], block[_X + i], block[_Y + i], block[_Z + i]
        largest = larger(larger(abs(w), abs(x)), larger(abs(y), abs(z)))
        largest = larger(largest, _TINY_32)
        w, x, y, z = w / largest, x / largest, y / largest, z / largest
        two = _TWO / larger(w * w + x * x + y * y + z * z, _TINY_32)
        xx, xy, xz = _ONE - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)
        yx, yy, yz = two * (x * y + w * z), _ONE - two * (x * x + z * z), two * (y * z - w * x)
        zx, zy, zz = two * (x * z - w * y), two * (y * z + w * x), _ONE - two * (x * x + y * y)

        s0, s1, s2 = block[_S0 + i], block[_S1 + i], block[_S2 + i]
        largest = larger(larger(larger(s0, s1), s2), _TINY_32)
        s0, s1, s2 = s0 / largest, s1 / largest, s2 / largest
        s0, s1, s2 = (
            larger(s0, _THIN_32),
            larger(s1, _THIN_32),
            larger(s2, _THIN_32),
        )
        p = (a * xx + c * zx) * s0, (b * yx + d * zx) * s0, zx * s0
        q = (a * xy + c * zy) * s1, (b * yy + d * zy) * s1, zy * s1
        r = (a * xz + c * zz) * s2, (b * yz + d * zz) * s2, zz * s2
        p, q, r = jacobi_sweep(*jacobi_sweep(*jacobi_sweep(*jacobi_sweep(p, q, r))))
        l0, l1, l2 = np.sqrt(dot3(p, p)), np.sqrt(dot3(q, q)), np.sqrt(dot3(r, r))
        block[_S0 + i], block[_S1 + i], block[_S2 + i] = l0 * largest, l1 * largest, l2 * largest
        xx, yx, zx = p[0] / l0, p[1] / l0, p[2] / l0
        xy, yy, zy = q[0] / l1, q[1] / l1, q[2] / l1
        xz, yz, zz = yx * zy - zx * yy, zx * xy - xx * zy, xx * yy - yx * xy

        # the longest row of 4 q q^T, see `_quats_from_rotations`
        quat = _ONE + xx + yy + zz, zy - yz, xz - zx, yx - xy
        longest, other = quat[0], _ONE + xx - yy - zz
        quat = _choose(other > longest, (zy - yz, other, xy + yx, xz + zx), quat)
        longest, other = larger(longest, other), _ONE - xx + yy - zz
        quat = _choose(other > longest, (xz - zx, xy + yx, other, yz + zy), quat)
        longest, other = larger(longest, other), _ONE - xx - yy + zz
        w, x, y, z = _choose(other > longest, (yx - xy, xz + zx, yz + zy, other), quat)
        norm = np.sqrt(w * w + x * x + y * y + z * z)
        block[_W + i], block[_X + i] = w / norm, x / norm
        block[_Y + i], block[_Z + i] = y / norm, z / norm


@inlined
def _choose(condition, a, b):
    """One of two tuples of four float32."""
    return (
        a[0] if condition else b[0],
        a[1] if condition else b[1],
        a[2] if condition else b[2],
        a[3] if condition else b[3],
    )
