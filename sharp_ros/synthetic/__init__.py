"""Worlds whose image, depth, poses and occupancy are known exactly: a furnished room and planes.

The room is made of a few thousand flat patches, each with its own texture. From the bottom up:
`materials`, `patches`, `pieces`, `renderer`, `room`, `first_looks` (of cameras that mislead about
level and floor); the planes are in `scenes`.
"""

from __future__ import annotations

from sharp_ros.synthetic.first_looks import first_look, FIRST_LOOKS
from sharp_ros.synthetic.pieces import SIZE
from sharp_ros.synthetic.room import GridTruth, Room, SPEED
from sharp_ros.synthetic.scenes import plane_depth, step_edge_depth

__all__ = [
    'FIRST_LOOKS',
    'SIZE',
    'SPEED',
    'GridTruth',
    'Room',
    'first_look',
    'plane_depth',
    'step_edge_depth',
]
