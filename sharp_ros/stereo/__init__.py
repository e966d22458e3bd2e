"""Depth from motion: a network's depth corrected by recent images of the same camera.

`DepthRefiner` is what others use, and `DepthCarrier`, which spares the network images that show
little new. `references` keeps images, `alignment` corrects their poses, the
plane sweep measures, `field` joins what is measured, and `time_offset` tells whether poses belong
to other moments than their images; kernels stand apart, in `*_kernels.py`.
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
