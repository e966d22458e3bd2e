"""A frame on which every step of a pipeline has something to do, before the first real one."""

from __future__ import annotations

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.se3 import look_at


def warm_up_frame(intrinsics: Intrinsics) -> Frame:
    """A chequered image, of which no step can say that it shows nothing, 2 m away, with a pose."""
    width, height = intrinsics.width, intrinsics.height
    position, ahead, up = np.array([[0.0, 0, 1], [1, 0, 1], [0, 0, 1]])
    squares = np.indices((height, width)) * 24 // max(width, 24)
    return Frame(
        image=np.where(squares.sum(0)[..., None] % 2, 90, 165).astype(np.uint8).repeat(3, 2),
        intrinsics=intrinsics,
        stamp_ns=0,
        frame_id='camera',
        T_world_camera=look_at(position, ahead, up),
        world_frame='world',
        depth=np.full((height, width), 2.0, np.float32),
    )
