#!/bin/sh
# Open3D 0.20.0: write_ascii=True moves a cloud in UTM by more than a metre, in PLY alone.
#
# open3d 0.20.0, CPython 3.11, x86-64; needs libusb-1.0, libgl1, libegl1, libx11 and libgomp of the system.
#
# A good guess: text is the exact way of writing, or at least no worse than binary: the header says
# `property double x`, and text of PCD, XYZ and PTS has digits enough. In truth numbers of an ASCII PLY
# file have six digits, so that a northing of 5,335,000.456 m comes back as 5,335,000, or 5,335,010
# for what lies 6 m beside: in steps of 10 m. Nothing is said. Binary PLY keeps all, binary PCD 4 bytes.
# Seen, the largest error of three points, in metres:
#     PLY ascii 4.456    PLY binary 0    PCD ascii 0    XYZ 0    PTS 0    PCD binary 0.244
# Exit code 0 while PLY in text is off by more than 1 m and the others in text by less than 1 mm.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check open3d==0.20.0
cat > "$folder/write.py" <<'PYTHON'
import sys

import numpy as np
import open3d as o3d

POINTS = np.array([691000.123, 5335000.456, 500.789]) + [[0, 0, 0], [1, 4, 2], [7, 3.3, 0]]
cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(POINTS))
errors = {}
for kind, text in (
    *((kind, True) for kind in ('ply', 'pcd', 'xyz', 'pts')),
    *((kind, False) for kind in ('ply', 'pcd')),
):
    path = f'{sys.argv[1]}/cloud.{kind}'
    assert o3d.io.write_point_cloud(path, cloud, write_ascii=text)
    back = np.asarray(o3d.io.read_point_cloud(path).points)
    errors[kind, text] = np.abs(back - POINTS).max()
    print(f'{kind} {"ascii" if text else "binary"}: off by {errors[kind, text]:.3f} m')
others = max(errors[kind, True] for kind in ('pcd', 'xyz', 'pts'))
as_noted = errors['ply', True] > 1 and others < 1e-3 and errors['ply', False] == 0
sys.exit(not as_noted)
PYTHON
"$folder/venv/bin/python" "$folder/write.py" "$folder"
