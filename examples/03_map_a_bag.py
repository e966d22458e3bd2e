"""Map of a bag: python 03_map_a_bag.py recording.mcap map/ [nano|sensor|sharp]."""

from sharp_ros.process import prepare_process

prepare_process()  # first: how the process waits and keeps memory

from dataclasses import replace
from pathlib import Path
import sys

from sharp_ros.config import from_flat
from sharp_ros.errors import InputError
from sharp_ros.mapping.map_files import save_map
from sharp_ros.pipeline import Pipeline
from sharp_ros.sources import open_source

if len(sys.argv) < 3:
    sys.exit(
        f'{__doc__}\n\nrecording.mcap is a ROS bag, or a video or folder of images as in '
        'docs/recordings.md; map/ is the folder for the map.'
    )
bag, folder = sys.argv[1], Path(sys.argv[2])
model = sys.argv[3] if len(sys.argv) > 3 else 'nano'  # sensor: the depth of the bag

config = from_flat({'model.name': model, 'surface_map.enabled': True})
pipeline = Pipeline.from_config(config)
for recorded in open_source(bag).frames():  # without poses, where the bag has no odometry
    depth = recorded.depth if pipeline.info.needs_depth else None
    frame = replace(recorded, world_frame='odom', depth=depth)
    try:
        result = pipeline.process(frame, wanted=())
    except InputError as error:
        print(f'skipped: {error}')
        continue
    position = result.frame.T_world_camera
    print(
        'lost' if position is None else 'camera at {:.2f} {:.2f} {:.2f}'.format(*position[:3, 3])
    )

for file in save_map(folder, pipeline.map_state()):
    print(file)
