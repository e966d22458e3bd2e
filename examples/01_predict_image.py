"""Gaussians of one photograph: python 01_predict_image.py photo.jpg [out.ply]."""

from sharp_ros.process import prepare_process

prepare_process()  # first: how the process waits and keeps memory

import sys

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.gaussians import save_ply
from sharp_ros.images import DEFAULT_FOCAL_35MM, focal_from_35mm, read_image
from sharp_ros.models import load_predictor
from sharp_ros.point_cloud import depth_from_gaussians

if len(sys.argv) < 2:
    sys.exit(__doc__)
photo, ply = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else 'photo.ply'

image, focal = read_image(photo)
height, width = image.shape[:2]
if focal is None:  # metres scale with this guess
    focal = focal_from_35mm(DEFAULT_FOCAL_35MM, width, height)
intrinsics = Intrinsics.centred(focal, width, height)

predictor, info = load_predictor('nano')  # or 'sharp', or the path of weights
gaussians = Engine(predictor, ModelConfig()).predict(image, intrinsics)

depth = depth_from_gaussians(gaussians, width, height)
print(f'{info.name}: {len(gaussians)} Gaussians, median depth {np.nanmedian(depth):.2f} m')
save_ply(ply, gaussians, intrinsics)
