#!/bin/sh
# Open3D 0.20.0: a binary PCD file with coordinates of 8 bytes is read as points at the origin.
#
# open3d 0.20.0, CPython 3.11, x86-64; needs libusb-1.0, libgl1, libegl1, libx11 and libgomp of the system.
#
# The format allows SIZE 8 with TYPE F, and clouds in UTM or of a survey need it, since float32 holds a
# northing to half a metre. A good guess: what cannot be read is an error, or loses digits. In truth
# `open3d.io.read_point_cloud` gives as many points as the file has, all of them 0 0 0, without a
# warning; the same file with DATA ascii is read well, and so is the binary one by
# `open3d.t.io.read_point_cloud`.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check open3d==0.20.0
cat > "$folder/read.py" <<'PYTHON'
import sys

import numpy as np
import open3d as o3d

POINTS = np.array([[691000.125, 5335000.5, 500.25], [691001.5, 5335002.75, 501.0]])
HEADER = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z
SIZE {size} {size} {size}
TYPE F F F
COUNT 1 1 1
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA {data}
"""
path = f'{sys.argv[1]}/cloud.pcd'


def written(data, size, body):
    with open(path, 'wb') as file:
        file.write(HEADER.format(size=size, data=data).encode() + body)


def plain():
    return np.asarray(o3d.io.read_point_cloud(path).points)


rows = '\n'.join(' '.join(map(repr, map(float, row))) for row in POINTS) + '\n'
written('ascii', 8, rows.encode())
ascii8 = plain()
written('binary', 8, POINTS.astype('<f8').tobytes())
binary8, tensor8 = plain(), o3d.t.io.read_point_cloud(path).point.positions.numpy()
written('binary', 4, POINTS.astype('<f4').tobytes())
binary4 = plain()
expected = {
    'ascii, 8 bytes': (ascii8, POINTS),
    'binary, 4 bytes': (binary4, POINTS.astype(np.float32)),
    'binary, 8 bytes': (binary8, np.zeros((2, 3))),
    'binary, 8 bytes, open3d.t': (tensor8, POINTS),
}
for name, (seen, _) in expected.items():
    print(f'{name}: {seen.tolist()}')
sys.exit(any(not np.array_equal(seen, noted) for seen, noted in expected.values()))
PYTHON
"$folder/venv/bin/python" "$folder/read.py" "$folder"
