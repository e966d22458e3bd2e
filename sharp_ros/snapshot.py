"""One dense cloud of the current view, for grasp planners: several images of it, joined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import math

import cv2
import numba
import numpy as np

from sharp_ros.camera import check_depth_size, Frame, Intrinsics, unproject
from sharp_ros.config import PointCloudConfig, SnapshotConfig
from sharp_ros.errors import InputError
from sharp_ros.point_cloud import drop_flying_pixels, normals_from_depth
from sharp_ros.se3 import angle, inverse

_WIDTH = 320  # pixels at most, of the images that motion is seen in
_CORNERS = 200
_TEXTURE = 3e-4  # smallest eigenvalue of a corner; noise of four grey levels stays at a third
_RETURN_PX = 0.5  # a corner tracked forth and back ends at most so far from where it began


@dataclass(frozen=True)
class SnapshotCloud:
    """Points of one view in the optical frame of its newest image.

    Attributes:
        points: [N, 3] float32, metres; in the order of the image, rows from above.
        colors: [N, 3] uint8 sRGB.
        normals: [N, 3] float32, unit, towards the camera.
        spread: [N] float32 standard deviation of the depth between the images, metres.
        intrinsics: of the images.
        stamp_ns: of the newest image.
        frame_id: of the newest image.
        frames: images that were joined.
    """

    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    spread: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int
    frame_id: str
    frames: int


class Snapshot:
    """Collects images while the camera stands and joins their depth pixel by pixel.

    An image that was taken from elsewhere than the newest one is forgotten, so the cloud is always
    of the current view: a camera that moves starts over. Elsewhere is farther than `max_motion`,
    or turned by more than that in radians, which moves things at 1 m by as much. Where poses are
    not known the corners in the images tell: half of them move by what `max_motion` is in pixels
    at the distance of the scene, or are lost. Images without texture tell nothing.
    """

    def __init__(self, config: SnapshotConfig) -> None:
        self._config = config
        self._images: list[_Image] = []

    def add(self, frame: Frame, depth: np.ndarray) -> bool:
        """Add an image; the newest `frames` are kept.

        Args:
            frame: with pose where that is known.
            depth: [H, W] cleaned z-depth in metres; 0 and non-finite mean no measurement.

        Returns:
            Whether there are as many images as were asked for.

        Raises:
            InputError: if the depth is not of the size of the image.
        """
        check_depth_size(depth, frame.intrinsics)
        newest = _Image(frame, depth)
        near = [i for i in self._images if _same_view(i, newest, self._config.max_motion)]
        self._images = [*near, newest][-self._config.frames :]
        return len(self._images) == self._config.frames

    def cloud(self) -> SnapshotCloud:
        """Join what was collected.

        Depth is the median of the images that saw the pixel, which at least half of them must
        have done, colour their mean. Pixels in which they differ by more than `max_spread` are
        left out, as are flying pixels and those with too few neighbours for a normal.

        Raises:
            InputError: `snapshot_empty` if no pixel is left.
        """
        if not self._images:
            raise InputError('no image has come yet; is the camera running?', 'snapshot_empty')
        newest = self._images[-1].frame
        depth, spread, colors = _join(
            np.stack([image.depth for image in self._images]).astype(np.float32, copy=False),
            np.stack([image.frame.image for image in self._images]),
            self._config.max_spread,
        )
        depth = drop_flying_pixels(depth, PointCloudConfig().edge_ratio)
        normals = normals_from_depth(depth, newest.intrinsics)
        kept = np.flatnonzero(np.isfinite(normals[..., 2]))
        if not len(kept):
            raise InputError(
                f'no surface was seen in {len(self._images)} images; point the camera at one, '
                'within range',
                'snapshot_empty',
            )
        return SnapshotCloud(
            points=unproject(depth, newest.intrinsics).reshape(-1, 3)[kept],
            colors=colors.reshape(-1, 3)[kept],
            normals=normals.reshape(-1, 3)[kept],
            spread=spread.ravel()[kept],
            intrinsics=newest.intrinsics,
            stamp_ns=newest.stamp_ns,
            frame_id=newest.frame_id,
            frames=len(self._images),
        )


class Snapshots:
    """The snapshot under way, if one is: frames are added to it until it is complete or taken.

    Attributes:
        complete: whether no frame more is of use, as while none is under way.
    """

    def __init__(self) -> None:
        self._snapshot, self.complete = Snapshot(SnapshotConfig()), True

    def begin(self, config: SnapshotConfig) -> None:
        """Collect the frames to come, in place of those of before."""
        self._snapshot, self.complete = Snapshot(config), False

    def add(self, frame: Frame, depth: np.ndarray) -> None:
        """Add a frame if a snapshot waits for one; see `Snapshot.add`."""
        if not self.complete:
            self.complete = self._snapshot.add(frame, depth)

    def take(self) -> Snapshot:
        """Hand over what was collected; no more is added, so any thread may join it."""
        taken = self._snapshot
        self._snapshot, self.complete = Snapshot(SnapshotConfig()), True
        return taken


@dataclass(frozen=True)
class _Image:
    frame: Frame
    depth: np.ndarray

    @cached_property
    def gray(self) -> np.ndarray:
        """[H, W] uint8, small; of the same brightness and contrast whatever the exposure."""
        height, width = self.depth.shape
        size = (_WIDTH, round(height * _WIDTH / width)) if width > _WIDTH else (width, height)
        small = cv2.resize(self.frame.image, size, interpolation=cv2.INTER_AREA)
        gray = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
        # noise shall not become texture where there is little contrast
        gain = 40 / max(float(gray.std()), 20.0)
        return cv2.convertScaleAbs(gray, alpha=gain, beta=128 - gain * float(gray.mean()))

    @cached_property
    def corners(self) -> np.ndarray:  # [N, 1, 2]
        textured = (cv2.cornerMinEigenVal(self.gray, 5) > _TEXTURE).astype(np.uint8)
        if self.frame.unseen is not None:  # the robot goes with the camera
            size, around = self.gray.shape[::-1], np.ones((5, 5), np.uint8)
            unseen = cv2.resize(
                self.frame.unseen.astype(np.float32), size, interpolation=cv2.INTER_AREA
            )
            textured[cv2.dilate((unseen > 0).astype(np.uint8), around) > 0] = 0
        found = cv2.goodFeaturesToTrack(self.gray, _CORNERS, 0.01, 6, mask=textured, blockSize=5)
        return np.empty((0, 1, 2), np.float32) if found is None else found

    @cached_property
    def px_per_metre(self) -> float:
        """By which things move in `gray`, at the distance of the scene but no nearer than 1 m."""
        seen = self.depth[::4, ::4]
        seen = seen[(seen > 0) & np.isfinite(seen)]
        away = max(float(np.median(seen)), 1.0) if seen.size else 1.0
        k = self.frame.intrinsics
        return k.fx * self.gray.shape[1] / k.width / away


def _same_view(a: _Image, b: _Image, max_motion: float) -> bool:
    if a.frame.intrinsics != b.frame.intrinsics or a.frame.frame_id != b.frame.frame_id:
        return False
    pose_a, pose_b = a.frame.T_world_camera, b.frame.T_world_camera
    if pose_a is None or pose_b is None or a.frame.world_frame != b.frame.world_frame:
        textured, other = sorted((a, b), key=lambda image: -len(image.corners))
        return _shift_px(textured, other) <= max_motion * b.px_per_metre
    T_a_b = inverse(pose_a) @ pose_b
    return max(float(np.linalg.norm(T_a_b[:3, 3])), float(angle(T_a_b))) <= max_motion


def _shift_px(a: _Image, b: _Image) -> float:
    """Median displacement of the corners of one image in the other; of lost ones infinite."""
    if not len(a.corners):
        return 0.0
    there, found = _tracked(a.gray, b.gray, a.corners)
    back, found_back = _tracked(b.gray, a.gray, there)
    astray = np.linalg.norm(back - a.corners, axis=-1) > _RETURN_PX
    shift = np.linalg.norm(there - a.corners, axis=-1)
    shift[(found == 0) | (found_back == 0) | astray] = np.inf
    return float(np.median(shift))


def _tracked(a: np.ndarray, b: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where corners [N, 1, 2] of one image are in the other, and whether they were found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(  # pyright: ignore[reportCallIssue]
        a,
        b,
        corners,
        None,  # pyright: ignore[reportArgumentType]  # no first guess, which the stub demands
    )
    return there, found


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _join(
    depths: np.ndarray, images: np.ndarray, max_spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # [K, H, W], [K, H, W, 3]
    """Depth [H, W], NaN where there is none to trust, its spread [H, W], colours [H, W, 3].

    Depths and spread are float32, images and colours uint8.
    """
    frames, height, width = depths.shape
    depth = np.full((height, width), np.nan, np.float32)
    spread = np.zeros((height, width), np.float32)
    colors = np.zeros((height, width, 3), np.uint8)
    for v in numba.prange(height):
        ordered = np.empty((frames, width), np.float32)
        for k in range(frames):
            for u in range(width):
                z = depths[k, v, u]
                ordered[k, u] = z if z > 0 else np.float32(np.inf)
        # bubble sort, since without branches it goes for many pixels at once
        for end in range(frames - 1, 0, -1):
            for k in range(end):
                for u in range(width):
                    a, b = ordered[k, u], ordered[k + 1, u]
                    ordered[k, u], ordered[k + 1, u] = min(a, b), max(a, b)
        for u in range(width):
            count, total, red, green, blue = 0, 0.0, 0, 0, 0
            for k in range(frames):
                z = depths[k, v, u]
                if z > 0 and z < np.inf:
                    count += 1
                    total += z
                    red += images[k, v, u, 0]
                    green += images[k, v, u, 1]
                    blue += images[k, v, u, 2]
            if count == 0 or 2 * count < frames:
                continue
            middle = (ordered[(count - 1) // 2, u] + ordered[count // 2, u]) / 2
            square = 0.0
            for k in range(count):
                square += (ordered[k, u] - total / count) ** 2
            std = math.sqrt(square / max(count - 1, 1))
            if std <= max_spread * middle:
                depth[v, u], spread[v, u] = middle, std
                colors[v, u, 0] = (red + count // 2) // count
                colors[v, u, 1] = (green + count // 2) // count
                colors[v, u, 2] = (blue + count // 2) // count
    return depth, spread, colors
