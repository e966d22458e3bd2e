"""Depth and Gaussians of one photograph: python 01_predict_image.py photo.jpg [out.ply]."""

import sys

import numpy as np

from sharp_ros.camera import Frame, Intrinsics, read_image
from sharp_ros.config import SharpConfig
from sharp_ros.gaussians import save_ply
from sharp_ros.pipeline import Pipeline

photo, ply = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else 'photo.ply'

image, focal = read_image(photo)
height, width = image.shape[:2]
if focal is None:
    focal = 0.87 * max(width, height)  # 60 degrees across; metres scale with this guess
intrinsics = Intrinsics.centred(focal, width, height)

pipeline = Pipeline.from_config(SharpConfig())
result = pipeline.process(Frame(image, intrinsics, stamp_ns=0, frame_id='camera'), wanted=())

print(f'median depth {np.nanmedian(result.depth):.2f} m, {len(result.gaussians)} Gaussians')
save_ply(ply, result.gaussians, intrinsics)
