"""Images of keyframes kept beside a map, and the scene they make with it for other programs.

The scene is a data set of nerfstudio, https://docs.nerf.studio/quickstart/data_conventions.html:
`transforms.json` names images, calibration and poses, and `points.ply` to begin with. Cameras look
along -z there and pixels count from the corner; the world is that of the map, z up, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharp_ros.camera import Frame, Intrinsics

SCENE, POINTS = 'transforms.json', 'points.ply'
_IMAGES, _MASKS = 'images', 'masks'
_QUALITY = 95  # of JPEG; what is lost, an optimisation would learn
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # between the optical frame and +y up, -z ahead


@dataclass(frozen=True)
class Keyframe:
    """An image as it is kept.

    Attributes:
        stamp_ns: of the image.
        jpeg: of its pixels.
        intrinsics: of the image.
        T_local_camera: [4, 4] pose from the origin of the map.
        mask: a PNG of its size, 0 where it shows nothing of the scene, else 255; None: nowhere.
    """

    stamp_ns: int
    jpeg: bytes
    intrinsics: Intrinsics
    T_local_camera: np.ndarray
    mask: bytes | None = None


class KeyframeStore:
    """At most so many keyframes; when it is full every second goes, and fewer are taken since.

    Args:
        most: kept; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._kept: list[Keyframe] = []
        self._offered, self._every = 0, 1

    def add(self, frame: Frame, T_local_camera: np.ndarray) -> None:
        """Keep the image of a frame, if it is its turn."""
        if not self._most:
            return
        turn = self._offered
        self._offered += 1
        if turn % self._every == 0 and len(self._kept) == self._most:
            self._kept = self._kept[::2]
            self._every *= 2
        if turn % self._every:
            return
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
        pose = np.array(T_local_camera, np.float64)
        mask = None
        if frame.unseen is not None:  # each may be of its own, and larger than the JPEG
            _, png = cv2.imencode('.png', np.where(frame.unseen, 0, 255).astype(np.uint8))
            mask = png.tobytes()
        kept = (frame.stamp_ns, jpeg.tobytes(), frame.intrinsics, pose, mask)
        self._kept.append(Keyframe(*kept))

    @property
    def kept(self) -> tuple[Keyframe, ...]:
        """Those that are kept, oldest first."""
        return tuple(self._kept)


def write_scene(folder: Path, keyframes: Sequence[Keyframe], comments: Sequence[str]) -> None:
    """Write images and `transforms.json` into a folder.

    Args:
        folder: exists.
        keyframes: at least one.
        comments: on the frame of the poses, for people.
    """
    masked = any(keyframe.mask is not None for keyframe in keyframes)
    for name in (_IMAGES, *[_MASKS] * masked):
        (folder / name).mkdir()
    frames = []
    for number, keyframe in enumerate(keyframes):
        name = f'{_IMAGES}/frame_{number:06d}.jpg'
        (folder / name).write_bytes(keyframe.jpeg)
        pose = keyframe.T_local_camera @ _FLIP
        about: dict[str, Any] = {'file_path': name, 'stamp_ns': keyframe.stamp_ns}
        if keyframe.mask is not None:
            about['mask_path'] = f'{_MASKS}/frame_{number:06d}.png'
            (folder / about['mask_path']).write_bytes(keyframe.mask)
        camera = _camera(keyframe.intrinsics)
        frames.append({**about, **camera, 'transform_matrix': pose.tolist()})
    scene = {
        'camera_model': 'PINHOLE',
        **_camera(keyframes[0].intrinsics),
        'ply_file_path': POINTS,
        **({'comments': list(comments)} if comments else {}),
        'frames': frames,
    }
    (folder / SCENE).write_text(json.dumps(scene, indent=1) + '\n', encoding='utf-8')


def _camera(k: Intrinsics) -> dict[str, Any]:
    corner = {'fl_x': k.fx, 'fl_y': k.fy, 'cx': k.cx + 0.5, 'cy': k.cy + 0.5}
    return {**corner, 'w': k.width, 'h': k.height}
