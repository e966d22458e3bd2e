"""Orbit around the scene of a photograph: python 02_render_orbit.py [photo.jpg [orbit.mp4]]."""

from sharp_ros.process import prepare_process

prepare_process()  # first: how the process waits and keeps memory

from pathlib import Path
import sys

from PIL import Image

from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.images import DEFAULT_FOCAL_35MM, focal_from_35mm, read_image
from sharp_ros.models import load_predictor
from sharp_ros.pictures.video import video_intrinsics, video_writer
from sharp_ros.rasterizer import rasterize
from sharp_ros.se3 import inverse
from sharp_ros.trajectory import camera_path, NEAR

output = Path(sys.argv[2] if len(sys.argv) > 2 else 'orbit.mp4')
if len(sys.argv) > 1:
    image, focal = read_image(sys.argv[1])
else:
    from skimage.data import stereo_motorcycle

    image, focal = stereo_motorcycle()[0], 994.978
height, width = image.shape[:2]
if focal is None:  # metres scale with this guess
    focal = focal_from_35mm(DEFAULT_FOCAL_35MM, width, height)
photo = Intrinsics.centred(focal, width, height)

predictor, _ = load_predictor('nano')  # or 'sharp', or the path of weights
gaussians = Engine(predictor, ModelConfig()).predict(image, photo)

k = video_intrinsics(photo)  # even sides, as codecs need
with video_writer(output, k.width, k.height, fps=30) as write:
    for T_world_camera in camera_path('orbit', gaussians, photo):
        view = rasterize(gaussians, k, inverse(T_world_camera), near=NEAR)
        write(view.image())
# The last view is the first: that of the photograph.
Image.fromarray(view.image()).save(output.with_suffix('.png'))
print(f'{output} and {output.with_suffix(".png")}: {len(gaussians)} Gaussians')
