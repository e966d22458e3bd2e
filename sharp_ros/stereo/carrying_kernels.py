"""Compiled loop that looks up what an image before knows of the depth of every cell."""

from __future__ import annotations

from numba import njit
import numpy as np

_STEPS = 4  # of the search, which ends sooner on most cells
_SETTLED = 0.01  # of inverse depth


@njit(cache=True, nogil=True, error_model='numpy')
def carry(
    inverse: np.ndarray,
    darkest: np.ndarray,
    brightest: np.ndarray,
    gray: np.ndarray,
    T_before_now: np.ndarray,
    intrinsics: np.ndarray,
    ratio: float,
    tolerance: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth of the image at hand from that of one before, where both show one surface.

    Each cell looks for its own depth along its ray: where the ray's point of the depth so far lies
    in the image before, that image has another depth, which is the next guess. So there are no
    holes between cells, and planes stay planes. Where that does not settle, as beside an edge that
    uncovers something, nothing is known.

    Args:
        inverse: [h, w] float32 inverse depth of the cells of the image before, 1/m; 0 where
            nothing is in range, NaN where nothing is known.
        darkest: [h, w] uint8, of the image before, the lowest grey level of 3x3 cells.
        brightest: [h, w] uint8, likewise the highest.
        gray: [h, w] uint8, the image at hand.
        T_before_now: [4, 4] pose of the camera at hand in that of the image before, metres.
        intrinsics: [4] fx, fy, cx, cy of the cells.
        ratio: of depths up to which four neighbours are one surface.
        tolerance: grey levels.

    Returns:
        Inverse depth [h, w] float32 at hand, NaN where it is not known, and [h, w] bool, cells
        that look brighter or darker than what the image before shows there.
    """
    high, wide = inverse.shape
    fx, fy, cx, cy = intrinsics
    T = T_before_now
    carried = np.full((high, wide), np.nan, np.float32)
    changed = np.zeros((high, wide), np.bool_)
    for y in range(high):
        b = (y - cy) / fy
        for x in range(wide):
            a = (x - cx) / fx
            # the ray in the frame of the image before; a point on it is that + inverse depth * t
            X = T[0, 0] * a + T[0, 1] * b + T[0, 2]
            Y = T[1, 0] * a + T[1, 1] * b + T[1, 2]
            Z = T[2, 0] * a + T[2, 1] * b + T[2, 2]
            rho = np.float64(inverse[y, x])
            if not rho >= 0:
                rho = 0.0
            for _ in range(_STEPS):
                d = Z + T[2, 3] * rho
                if not d > 0:
                    break
                u = (X + T[0, 3] * rho) / d * fx + cx
                v = (Y + T[1, 3] * rho) / d * fy + cy
                if not (-0.5 <= u < wide - 0.5 and -0.5 <= v < high - 0.5):
                    break
                left = min(int(max(u, 0.0)), wide - 2)
                top = min(int(max(v, 0.0)), high - 2)
                p, q = min(max(u - left, 0.0), 1.0), min(max(v - top, 0.0), 1.0)
                one, two = inverse[top, left], inverse[top, left + 1]
                three, four = inverse[top + 1, left], inverse[top + 1, left + 1]
                known = one + two + three + four >= 0  # not NaN, which min and max pass over
                if known and min(one, two, three, four) * ratio >= max(one, two, three, four):
                    there = (1 - q) * ((1 - p) * one + p * two) + q * ((1 - p) * three + p * four)
                elif q < 0.5:
                    there = one if p < 0.5 else two
                else:
                    there = three if p < 0.5 else four
                if not there >= 0:
                    break
                before, rho = rho, there * d
                if abs(rho - before) <= _SETTLED * rho:
                    row, column = top + (q >= 0.5), left + (p >= 0.5)
                    carried[y, x] = rho
                    g = np.int64(gray[y, x])
                    changed[y, x] = (
                        g + tolerance < darkest[row, column]
                        or g - tolerance > brightest[row, column]
                    )
                    break
    return carried, changed
