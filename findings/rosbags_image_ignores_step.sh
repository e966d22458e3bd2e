#!/bin/sh
# rosbags-image 0.10.4: an image whose rows are padded comes out sheared, without an error.
#
# rosbags 0.11.9, rosbags-image 0.10.4, opencv-python-headless 5.0.0.93, CPython 3.11, x86-64.
#
# `step` of sensor_msgs/Image is the length of a row in bytes, and cameras and GPUs pad it to 16, 64 or 256.
# A good guess: a converter that reads width, height and encoding reads step as well, as cv_bridge
# does, or notices that there are more bytes than pixels. In truth the first width x height pixels are
# taken one after the other: each row begins where the one before ended, padding between, and the
# last rows are lost. Of depth that is a picture that looks almost right.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check \
    rosbags==0.11.9 rosbags-image==0.10.4 opencv-python-headless==5.0.0.93
cat > "$folder/convert.py" <<'PYTHON'
import sys

import numpy as np
from rosbags.image import message_to_cvimage
from rosbags.typesys import get_typestore, Stores

types = get_typestore(Stores.ROS2_HUMBLE).types
Time, Header, Image = (
    types[name]
    for name in ('builtin_interfaces/msg/Time', 'std_msgs/msg/Header', 'sensor_msgs/msg/Image')
)
depth = np.arange(24, dtype=np.uint16).reshape(4, 6) + 1000


def converted(columns):
    """`depth` in rows of so many columns, as the library gives it back."""
    rows = np.zeros((4, columns), np.uint16)
    rows[:, :6] = depth
    data = rows.view(np.uint8).ravel()
    message = Image(Header(Time(0, 0), 'camera'), 4, 6, '16UC1', 0, 2 * columns, data)
    return message_to_cvimage(message), rows.ravel()[:24].reshape(4, 6)


plain, _ = converted(6)
padded, sheared = converted(8)
print(f'step 12: {"right" if np.array_equal(plain, depth) else "wrong"}')
print(f'step 16:\n{padded}')
as_noted = np.array_equal(plain, depth) and np.array_equal(padded, sheared)
sys.exit(not as_noted or np.array_equal(padded, depth))
PYTHON
"$folder/venv/bin/python" "$folder/convert.py"
