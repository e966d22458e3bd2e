"""The backward pass of `cpu.py`: gradients of an image to the Gaussians that it shows.

Every tile is walked through front to back once more, as in `cpu.py`. With T the light that reaches
a splat, w = alpha T its share of a pixel and `value` what one unit of w adds to the loss, which is
linear in it,

    d loss / d alpha = T value - behind / (1 - alpha)

where `behind` is what all splats after it and the background add: the sum over the whole pixel,
known from the image, less what has been passed (Kerbl et al. 2023, appendix C, but front to back).
Then the chain rule through the projection, Gaussian by Gaussian, in float64. `reference.py` with
torch's autograd is the slow twin.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

from numba import get_num_threads, njit, prange
import numpy as np
import torch
from torch import Tensor

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians, srgb_from_linear
from sharp_ros.rasterizer import reference
from sharp_ros.rasterizer.cpu import (
    B,
    CHECK_EVERY,
    CLAMP,
    composite,
    CUT,
    exp_minus,
    G,
    HX,
    HY,
    kernel_arrays,
    linear_curve,
    ONE,
    OPACITY,
    PIXELS,
    project,
    Projection,
    R,
    ROW,
    SLOPE,
    TILE,
    U,
    V,
    Y0,
    Y1,
    Z,
    ZERO,
)
from sharp_ros.rasterizer.rendering import EPSILON, Rendering

# numba's cache on disk notices changes of this file only: after a change of cpu.py touch this one.
# Columns of the gradients of a splat; those up to Z are of the splat table's values.
_COLUMNS = 10
_DU, _DV, _DSLOPE, _DHX, _DHY, _DOPACITY, _DZ, _DR, _DG, _DB = range(_COLUMNS)
# Planes of a tile: transmittance, what is behind, gradients of R, G, B, of summed depth, of alpha.
_PLANES = 7
_, _BEHIND, _GR, _GG, _GB, _GD, _GA = (np.uintp(PIXELS * k) for k in range(_PLANES))
_TWO = np.float32(2)
# A pixel counts as full here. What an image may leave out, gradients may not: what lies behind is
# known as a difference, and sRGB is steep in the dark.
_OPAQUE = np.float32(1e-6)
_SUMS = {'reassoc', 'contract', 'nsz'}  # sums of a row in any order; NaN and infinity stay


# error_model: a division that may raise is not turned into vector instructions
@njit(cache=True, nogil=True, error_model='numpy', fastmath=_SUMS)
def _row_gradients(pixels, first, start, row_x, hx, rest, cutoff, opacity, r, g, b, z):
    """One splat over the 16 pixels of a tile row, as `cpu._blend_row`.

    `pixels`, float32 [7 * 256], holds the planes above; `first` is uintp, the rest float32.

    Returns sums over the row: of d, d dx and d dx^2 with d the gradient of the exponent, and
    gradients of R, G, B and z.
    """
    s0, s1, s2, cr, cg, cb, cz = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for j in range(ROW):
        dx = (start + np.float32(np.int32(j))) - row_x
        exponent = hx * dx * dx + rest
        inside = exponent <= cutoff
        alpha = opacity * exp_minus(exponent if inside else cutoff)
        free = inside & (alpha < CLAMP)
        alpha = alpha if alpha < CLAMP else CLAMP
        p = first + j
        transmittance = pixels[p]
        weight = alpha * transmittance if inside else ZERO
        gr, gg, gb, gd = pixels[_GR + p], pixels[_GG + p], pixels[_GB + p], pixels[_GD + p]
        value = r * gr + g * gg + b * gb + z * gd + pixels[_GA + p]
        behind = pixels[_BEHIND + p] - weight * value
        pixels[_BEHIND + p] = behind
        pixels[p] = transmittance - weight
        d = behind * alpha / (ONE - alpha) - transmittance * alpha * value
        d = d if free else ZERO
        s0 += d
        s1 += d * dx
        s2 += d * dx * dx
        cr += weight * gr
        cg += weight * gg
        cb += weight * gb
        cz += weight * gd
    return s0, s1, s2, cr, cg, cb, cz


@njit(parallel=True, cache=True, nogil=True, error_model='numpy')
def _composite_back(splats, starts, entries, tiles_x, first_row, total, upstream, out):
    """Add gradients of the splats of the listed tiles to `out` [workers, N, 10].

    `splats` to `first_row` as for `cpu._composite`; `total` [H, W] is what the whole pixel adds to
    the loss, background included, and `upstream` [H, W, 5] the gradients of linear R, G, B, of
    depth summed with its weights, and of alpha. float32.
    """
    height, width = total.shape
    workers = len(out)
    for worker in prange(workers):
        pixels = np.empty(_PLANES * PIXELS, np.float32)
        live = np.empty(TILE, np.bool_)
        for tile in range(worker, len(starts) - 1, workers):
            left, top = tile % tiles_x * TILE, (tile // tiles_x + first_row) * TILE
            left_x = np.float32(left)
            pixels[:PIXELS] = ONE
            pixels[PIXELS:] = ZERO
            live[:] = True
            for y in range(top, min(top + TILE, height)):
                for x in range(left, min(left + TILE, width)):
                    p = (y - top) * TILE + x - left
                    pixels[PIXELS + p] = total[y, x]
                    for k in range(5):
                        pixels[(k + 2) * PIXELS + p] = upstream[y, x, k]
            for j in range(starts[tile], starts[tile + 1]):
                if (j - starts[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                    open_rows = 0
                    for row in range(TILE):
                        if live[row]:
                            open_pixels = 0
                            for p in range(row * TILE, (row + 1) * TILE):
                                open_pixels += pixels[p] >= _OPAQUE
                            live[row] = open_pixels > 0
                            open_rows += live[row]
                    if open_rows == 0:
                        break
                i = entries[j]
                u, v, slope = splats[i, U], splats[i, V], splats[i, SLOPE]
                hx, hy, cutoff = splats[i, HX], splats[i, HY], splats[i, CUT]
                opacity, z = splats[i, OPACITY], splats[i, Z]
                r, g, b = splats[i, R], splats[i, G], splats[i, B]
                low = max(np.int32(splats[i, Y0]), top)
                high = min(np.int32(splats[i, Y1]), top + TILE - 1)
                du, dv, dslope, dhx, dhy, d_opacity = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
                dz, dr, dg, db = ZERO, ZERO, ZERO, ZERO
                for y in range(low, high + 1):
                    dy = np.float32(y) - v
                    rest = hy * dy * dy
                    if live[y - top] and rest <= cutoff:
                        first, row_x = np.uintp((y - top) * TILE), u + slope * dy
                        place = (pixels, first, left_x, row_x, hx, rest, cutoff, opacity)
                        s0, s1, s2, cr, cg, cb, cz = _row_gradients(*place, r, g, b, z)
                        across = -_TWO * hx * s1
                        du += across
                        dslope += across * dy
                        dv -= _TWO * hy * dy * s0 + across * slope
                        dhx += s2
                        dhy += dy * dy * s0
                        d_opacity -= s0
                        dr += cr
                        dg += cg
                        db += cb
                        dz += cz
                of = out[worker, i]
                of[_DU] += du
                of[_DV] += dv
                of[_DSLOPE] += dslope
                of[_DHX] += dhx
                of[_DHY] += dhy
                of[_DOPACITY] += d_opacity / opacity
                of[_DZ] += dz
                of[_DR] += dr
                of[_DG] += dg
                of[_DB] += db


@njit(parallel=True, cache=True, nogil=True, error_model='numpy')
def _project_back(means, quats, scales, T, camera, limits, order, out, gradients):
    """Gradients of the Gaussians in `order` from those of their splats: the rest of the chain.

    `means` to `limits` as for `cpu._project`, `out` [workers, N, 10] float32; written is
    `gradients` [N, 14] float32: means, quats, scales, opacity, colors.
    """
    fx, fy, _, _ = camera
    x_low, x_high, y_low, y_high = limits
    for k in prange(len(order)):
        i = order[k]
        d = np.zeros(_COLUMNS, np.float64)
        for worker in range(len(out)):
            for column in range(_COLUMNS):
                d[column] += out[worker, i, column]
        # The projection once more; see `cpu._project` for the names.
        px, py, pz = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        x = px * T[0, 0] + py * T[0, 1] + pz * T[0, 2] + T[0, 3]
        y = px * T[1, 0] + py * T[1, 1] + pz * T[1, 2] + T[1, 3]
        z = px * T[2, 0] + py * T[2, 1] + pz * T[2, 2] + T[2, 3]
        jx, jy = fx / z, fy / z
        tx, ty = min(max(x / z, x_low), x_high), min(max(y / z, y_low), y_high)
        w, qx, qy, qz = (
            np.float64(quats[i, 0]),
            np.float64(quats[i, 1]),
            np.float64(quats[i, 2]),
            np.float64(quats[i, 3]),
        )
        norm = math.sqrt(w * w + qx * qx + qy * qy + qz * qz)
        w, qx, qy, qz = w / norm, qx / norm, qy / norm, qz / norm
        rotation = np.array(
            (
                (1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - w * qz), 2 * (qx * qz + w * qy)),
                (2 * (qx * qy + w * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - w * qx)),
                (2 * (qx * qz - w * qy), 2 * (qy * qz + w * qx), 1 - 2 * (qx * qx + qy * qy)),
            )
        )
        # m, n: rows of J W; g, h: rows of J W R, without the scales.
        m, n, g, h = np.empty(3), np.empty(3), np.zeros(3), np.zeros(3)
        for j in range(3):
            m[j] = jx * (T[0, j] - tx * T[2, j])
            n[j] = jy * (T[1, j] - ty * T[2, j])
            for c in range(3):
                g[c] += m[j] * rotation[j, c]
                h[c] += n[j] * rotation[j, c]
        s0, s1, s2 = np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2])
        g0, g1, g2 = g[0] * s0, g[1] * s1, g[2] * s2
        h0, h1, h2 = h[0] * s0, h[1] * s1, h[2] * s2
        b, c = g0 * h0 + g1 * h1 + g2 * h2, h0 * h0 + h1 * h1 + h2 * h2
        k0, k1, k2 = g1 * h2 - g2 * h1, g2 * h0 - g0 * h2, g0 * h1 - g1 * h0
        det = k0 * k0 + k1 * k1 + k2 * k2

        db = d[_DSLOPE] / c
        dc = (0.5 * d[_DHX] / det - 0.5 * d[_DHY] / (c * c)) - d[_DSLOPE] * b / (c * c)
        times = -d[_DHX] * c / (det * det)  # twice the gradient of det, that of k over k
        k0, k1, k2 = times * k0, times * k1, times * k2
        dg0 = db * h0 + h1 * k2 - h2 * k1
        dg1 = db * h1 + h2 * k0 - h0 * k2
        dg2 = db * h2 + h0 * k1 - h1 * k0
        dh0 = db * g0 + 2 * dc * h0 + k1 * g2 - k2 * g1
        dh1 = db * g1 + 2 * dc * h1 + k2 * g0 - k0 * g2
        dh2 = db * g2 + 2 * dc * h2 + k0 * g1 - k1 * g0
        gradients[i, 7] = dg0 * g[0] + dh0 * h[0]
        gradients[i, 8] = dg1 * g[1] + dh1 * h[1]
        gradients[i, 9] = dg2 * g[2] + dh2 * h[2]
        dg0, dg1, dg2 = dg0 * s0, dg1 * s1, dg2 * s2
        dh0, dh1, dh2 = dh0 * s0, dh1 * s1, dh2 * s2

        turn = np.empty((3, 3))  # gradient of the rotation
        djx, djy, dtx, dty = 0.0, 0.0, 0.0, 0.0
        for j in range(3):
            turn[j, 0] = m[j] * dg0 + n[j] * dh0
            turn[j, 1] = m[j] * dg1 + n[j] * dh1
            turn[j, 2] = m[j] * dg2 + n[j] * dh2
            dm = rotation[j, 0] * dg0 + rotation[j, 1] * dg1 + rotation[j, 2] * dg2
            dn = rotation[j, 0] * dh0 + rotation[j, 1] * dh1 + rotation[j, 2] * dh2
            djx += dm * (T[0, j] - tx * T[2, j])
            djy += dn * (T[1, j] - ty * T[2, j])
            dtx -= dm * jx * T[2, j]
            dty -= dn * jy * T[2, j]
        ratio_x, ratio_y = fx * d[_DU], fy * d[_DV]
        if x_low <= x / z <= x_high:
            ratio_x += dtx
        if y_low <= y / z <= y_high:
            ratio_y += dty
        dx, dy = ratio_x / z, ratio_y / z
        dz = d[_DZ] - (djx * jx + djy * jy + ratio_x * x / z + ratio_y * y / z) / z
        for j in range(3):
            gradients[i, j] = dx * T[0, j] + dy * T[1, j] + dz * T[2, j]

        dw = 2 * (
            qz * (turn[1, 0] - turn[0, 1])
            + qy * (turn[0, 2] - turn[2, 0])
            + qx * (turn[2, 1] - turn[1, 2])
        )
        dqx = 2 * (
            qy * (turn[0, 1] + turn[1, 0])
            + qz * (turn[0, 2] + turn[2, 0])
            + w * (turn[2, 1] - turn[1, 2])
            - 2 * qx * (turn[1, 1] + turn[2, 2])
        )
        dqy = 2 * (
            qx * (turn[0, 1] + turn[1, 0])
            + qz * (turn[1, 2] + turn[2, 1])
            + w * (turn[0, 2] - turn[2, 0])
            - 2 * qy * (turn[0, 0] + turn[2, 2])
        )
        dqz = 2 * (
            qx * (turn[0, 2] + turn[2, 0])
            + qy * (turn[1, 2] + turn[2, 1])
            + w * (turn[1, 0] - turn[0, 1])
            - 2 * qz * (turn[0, 0] + turn[1, 1])
        )
        along = w * dw + qx * dqx + qy * dqy + qz * dqz  # the length means nothing
        gradients[i, 3] = (dw - along * w) / norm
        gradients[i, 4] = (dqx - along * qx) / norm
        gradients[i, 5] = (dqy - along * qy) / norm
        gradients[i, 6] = (dqz - along * qz) / norm
        gradients[i, 10] = d[_DOPACITY]
        for j in range(3):
            gradients[i, 11 + j] = d[_DR + j]


class _Rasterize(torch.autograd.Function):
    """Linear colour [H, W, 3], depth, alpha and median depth [H, W], and the number skipped."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, view):
        intrinsics, T, background, near, median_depth = view
        gaussians = Gaussians(means, quats, scales, opacities, colors)
        projection = project(gaussians, intrinsics, T, near)
        images = composite(projection, background, linear_curve(), median_depth, _OPAQUE)
        ctx.arrays, ctx.projection = kernel_arrays(gaussians.arrays), projection
        ctx.background = np.asarray(background, np.float32)
        linear, depth, alpha, median = (torch.from_numpy(image) for image in images)
        ctx.save_for_backward(linear, depth, alpha)
        skipped = torch.tensor(projection.skipped)
        ctx.mark_non_differentiable(median, skipped)
        return linear, depth, alpha, median, skipped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        given = [g.detach().numpy() for g in gradients[:3]]
        images = [image.numpy() for image in ctx.saved_tensors]
        of_view = (ctx.arrays[:3], ctx.projection, ctx.background)
        parts = _gaussian_gradients(*of_view, images, given)
        return *(torch.from_numpy(np.ascontiguousarray(part)) for part in parts), None


def _gaussian_gradients(
    shapes: Sequence[np.ndarray],
    projection: Projection,
    background: np.ndarray,
    images: Sequence[np.ndarray],
    gradients: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Gradients of means, quats, scales, opacities and colors, float32, as they are shaped.

    Args:
        shapes: means, quats and scales, float32.
        projection: of the view.
        background: [3] linear RGB.
        images: linear colour [H, W, 3], depth and alpha [H, W], as rendered.
        gradients: of these three.
    """
    linear, depth, alpha = images
    d_color, d_depth, d_alpha = gradients
    covered = np.maximum(alpha, np.float32(EPSILON))
    d_sum = d_depth / covered
    # depth is divided by alpha; of the background, 1 - alpha is seen
    d_share = d_alpha - np.where(alpha > EPSILON, d_sum * depth, 0) - d_color @ background
    upstream = np.concatenate((d_color, d_sum[..., None], d_share[..., None]), -1)
    seen = linear - (1 - alpha)[..., None] * background
    total = (d_color * seen).sum(-1) + d_sum * depth * covered + d_share * alpha
    workers = get_num_threads()
    n = len(projection.splats)
    out = np.zeros((workers, n, _COLUMNS), np.float32)
    upstream, total = (np.require(a, np.float32, ['C']) for a in (upstream, total))
    for lists in projection.lists(workers):
        _composite_back(projection.splats, *lists, total, upstream, out)
    result = np.zeros((n, 14), np.float32)
    means, quats, scales = shapes
    _project_back(means, quats, scales, *projection.view, projection.order, out, result)
    return [result[:, :3], result[:, 3:7], result[:, 7:10], result[:, 10], result[:, 11:]]


def rasterize(
    gaussians: Gaussians,
    intrinsics: Intrinsics,
    T_camera_world: np.ndarray,
    background: Sequence[float],
    near: float,
    median_depth: bool = False,
) -> Rendering:
    """Render float32 Gaussians on the CPU with gradients; see `sharp_ros.rasterizer.rasterize`.

    Gradients flow to means, quats, scales, opacities and colors; from the median depth none do.
    Opacities and colours lie in 0..1. float64 Gaussians are left to `reference.py`.
    """
    view = (intrinsics, T_camera_world, background, near, median_depth)
    if gaussians.means.dtype == torch.float64:
        return reference.rasterize(gaussians, *view)
    scales, quats = gaussians.shapes
    parts = (gaussians.means, quats, scales, gaussians.opacities, gaussians.colors)
    linear, depth, alpha, median, skipped = _Rasterize.apply(*parts, view)  # pyright: ignore
    color = srgb_from_linear(linear)
    return Rendering(color, depth, alpha, skipped, median if median_depth else None)
