"""Features of one image found again in another: corners, optical flow, descriptors, their depth.

Nothing here estimates poses: visual odometry does, from these features, and stereo of images that
one camera took one after the other may use them too. Images are gray [H, W] uint8 and places
[N, 2] pixels, x before y, integers at pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics

_WIDTH = 640  # pixels; more would only cost time
_WINDOW, _LEVELS = 11, 3  # of the optical flow: it finds features up to 40 pixels off
_RETURN_LEVELS = 1  # tracking back begins where it ought to end
_RETURN_PX = 0.7  # a feature tracked forth and back ends at most so far from where it began
_TEXTURE = 3e-5  # smallest eigenvalue of a corner; noise of one grey level stays below
_DEPTH_REACH = 4  # pixels; depth of a feature is the median of 9 x 9 around it
_ORB_FEATURES = 500
_ORB_DISTANCE = 64  # of 256 bits


@dataclass(frozen=True)
class Tracks:
    """Features of the last keyframe that are still tracked: their parallax shows the scale.

    Attributes:
        keyframe_stamp_ns: of the keyframe.
        keyframe_px: [N, 2] places in the keyframe, pixels of the image as given.
        now_px: [N, 2] places in the current image.
        T_keyframe_camera: [4, 4] as estimated, in the scale of the odometry.
    """

    keyframe_stamp_ns: int
    keyframe_px: np.ndarray
    now_px: np.ndarray
    T_keyframe_camera: np.ndarray


def shrunk(intrinsics: Intrinsics) -> Intrinsics:
    """Of the image in which features are tracked: at most 640 pixels wide."""
    if intrinsics.width <= _WIDTH:
        return intrinsics
    return intrinsics.resized(_WIDTH, max(1, round(intrinsics.height * _WIDTH / intrinsics.width)))


def to_gray(image: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """An image, uint8 RGB or gray, as gray [h, w] of the size of the (shrunk) intrinsics."""
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = (intrinsics.width, intrinsics.height)
    if size != gray.shape[::-1]:
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return gray


def rescaled(px: np.ndarray, source: Intrinsics, target: Intrinsics) -> np.ndarray:
    """Places [N, 2] of an image in the same image of another size."""
    scale = np.divide((target.width, target.height), (source.width, source.height))
    return (px + 0.5) * scale - 0.5


def followed(
    source: np.ndarray, target: np.ndarray, px: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where features of one image are in another, by optical flow forth and back.

    Args:
        source: [H, W] image with the features.
        target: [H, W] image in which they are looked for.
        px: [N, 2] float32 places in the source.
        start: [N, 2] float32 places in the target from which the search begins, good to some 40
            pixels.

    Returns:
        Places [N, 2] float32 in the target, and which of them hold [N]: inside of the image, and
        tracked back to where they came from.
    """
    found, ok = _flow(source, target, px, start)
    back, returned = _flow(target, source, found, px, _RETURN_LEVELS)
    high, wide = target.shape
    inside = ((found >= 0) & (found <= (wide - 1, high - 1))).all(1)
    return found, ok & returned & inside & (np.linalg.norm(back - px, axis=1) < _RETURN_PX)


def shown(unseen: np.ndarray | None, px: np.ndarray) -> np.ndarray:  # [H, W], [N, 2] -> [N] bool
    """Whether places of an image show something; all do where no pixel is unseen."""
    if unseen is None:
        return np.ones(len(px), bool)
    x, y = np.rint(px).astype(int).T
    high, wide = unseen.shape
    return ~unseen[np.clip(y, 0, high - 1), np.clip(x, 0, wide - 1)]


def _flow(
    source: np.ndarray,
    target: np.ndarray,
    px: np.ndarray,
    start: np.ndarray,
    levels: int = _LEVELS,
) -> tuple[np.ndarray, np.ndarray]:
    """Where places [N, 2] of one image are in another, looked for from `start`; and if found."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        px[:, None],
        start[:, None].copy(),
        winSize=(_WINDOW, _WINDOW),
        maxLevel=levels,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found[:, 0], status[:, 0] > 0


def corners(gray: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:  # -> [N, 2]
    """The strongest corner of every cell of a grid that holds none of the places `taken`.

    Shi and Tomasi's measure; the grid has about `count` cells, so that features spread out.
    """
    strength = cv2.cornerMinEigenVal(gray, 5)
    margin = _WINDOW // 2
    cell = max(4, int(np.sqrt(gray.size / count)))
    rows, columns = ((side - 2 * margin) // cell for side in gray.shape)
    if rows < 1 or columns < 1:
        return np.empty((0, 2))
    window = strength[margin : margin + rows * cell, margin : margin + columns * cell]
    cells = window.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows * columns, -1)
    place = cells.argmax(1)
    free = cells.max(1) > _TEXTURE
    x, y = ((taken - margin) // cell).astype(int).T
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    free[y[inside] * columns + x[inside]] = False
    index = np.flatnonzero(free)
    x = margin + index % columns * cell + place[index] % cell
    y = margin + index // columns * cell + place[index] // cell
    return np.stack([x, y], 1).astype(np.float64)


def depth_at(
    depth: np.ndarray, px: np.ndarray, reach: int = _DEPTH_REACH
) -> tuple[np.ndarray, np.ndarray]:
    """Median depth around features [N], and its relative spread [N]: much on edges.

    The places are those of the depth image, [H, W] metres, 0 and non-finite being none; `reach`
    pixels around each to all sides count.

    NaN where half of the neighbours have none, infinity where a tenth has none.
    """
    x, y = np.rint(px).astype(int).T
    around = np.arange(-reach, reach + 1)
    rows = np.clip(y[:, None, None] + around[:, None], 0, depth.shape[0] - 1)
    columns = np.clip(x[:, None, None] + around, 0, depth.shape[1] - 1)
    values = depth[rows, columns].reshape(len(px), len(around) ** 2).astype(np.float64)
    values[~(np.isfinite(values) & (values > 0))] = np.nan
    values.sort(1)  # NaN last
    last = values.shape[1] - 1
    low, middle, high = (values[:, int(part * last)] for part in (0.1, 0.5, 0.9))
    spread = 0.39 * (high - low) / middle  # the standard deviation of a normal distribution
    return middle, np.where(np.isnan(spread), np.inf, spread)


class Descriptors:
    """Features that are recognised without knowing where to look: ORB (Rublee et al., 2011)."""

    def __init__(self) -> None:
        self._orb = cv2.ORB.create(_ORB_FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)

    def of(self, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places [M, 2] float64 and descriptors [M, 32] uint8 of an image."""
        keypoints, descriptors = self._orb.detectAndCompute(gray, None)
        if not keypoints:
            return np.empty((0, 2)), np.empty((0, 32), np.uint8)
        return np.array([keypoint.pt for keypoint in keypoints]), descriptors

    def matched(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:  # -> [K, 2] int64
        """Rows of descriptors [M, 32] and [N, 32] that are alike, each the other's nearest."""
        pairs = [
            (match.queryIdx, match.trainIdx)
            for match in self._matcher.match(one, other)
            if match.distance < _ORB_DISTANCE
        ]
        return np.array(pairs, np.int64).reshape(-1, 2)
