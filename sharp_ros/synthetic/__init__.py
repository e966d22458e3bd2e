"""Worlds whose image, depth, poses and occupancy are known exactly: a furnished room and planes.

The room is made of a few thousand flat patches, each with its own texture. From the bottom up:
`materials`, `patches`, `pieces`, `renderer`, `room`; the planes are in `scenes`.
"""

from __future__ import annotations

from sharp_ros.synthetic.pieces import SIZE
from sharp_ros.synthetic.room import GridTruth, Room, SPEED
from sharp_ros.synthetic.scenes import plane_depth, step_edge_depth

__all__ = ['SIZE', 'SPEED', 'GridTruth', 'Room', 'plane_depth', 'step_edge_depth']
