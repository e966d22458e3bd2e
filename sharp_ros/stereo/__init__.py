"""Depth from motion: a network's depth corrected by recent images of the same camera.

`DepthRefiner` is what others use, and `DepthCarrier`, which spares the network images that show
little new. `references` keeps images, `timed_poses` has their poses, also where those given belong
to other moments, which `time_offset` tells, `alignment` corrects them, the plane sweep measures,
and `field` joins what is measured; kernels stand apart, in `*_kernels.py`.
"""

from __future__ import annotations

from sharp_ros.stereo.carrying import DepthCarrier, PredictedDepth
from sharp_ros.stereo.refiner import DepthRefiner, MeasuredScale, Refinement
from sharp_ros.stereo.time_offset import TimeOffset

__all__ = [
    'DepthCarrier',
    'DepthRefiner',
    'MeasuredScale',
    'PredictedDepth',
    'Refinement',
    'TimeOffset',
]
