#!/bin/sh
# Open3D 0.20.0: colours of a PLY file that are floats of 0 to 1 come out 255 times too dark.
#
# open3d 0.20.0, CPython 3.11, x86-64; needs libusb-1.0, libgl1, libegl1, libx11 and libgomp of the system.
#
# PLY gives every property a type of its own, and programs that render write `property float red`
# with values of 0 to 1, as Open3D itself has colours in memory. A good guess: such values are taken as
# they are, or refused. In truth `open3d.io.read_point_cloud` and `read_triangle_mesh` divide whatever is
# called red by 255: white becomes 0.0039, all but black. 16-bit colours get to 257 in the same way.
# `open3d.t.io.read_point_cloud` takes floats as they are, and leaves 16-bit ones out with a warning.
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

HEADER = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
property {kind} red
property {kind} green
property {kind} blue
element face 1
property list uchar int vertex_indices
end_header
"""
path = f'{sys.argv[1]}/white.ply'


def outcome(kind, white, read):
    rows = [f'{x} {y} 0 {white} {white} {white}' for x, y in ((0, 0), (1, 0), (0, 1))]
    with open(path, 'w') as file:
        file.write(HEADER.format(kind=kind) + '\n'.join([*rows, '3 0 1 2', '']))
    return read()


def cloud():
    return np.asarray(o3d.io.read_point_cloud(path).colors).max()


def mesh():
    return np.asarray(o3d.io.read_triangle_mesh(path).vertex_colors).max()


def tensor():
    point = o3d.t.io.read_point_cloud(path).point
    return float(point.colors.numpy().max()) if 'colors' in point else None


expected = {
    'uchar 255': (outcome('uchar', 255, cloud), 1),
    'float 1.0': (outcome('float', 1.0, cloud), 1 / 255),
    'float 1.0, mesh': (outcome('float', 1.0, mesh), 1 / 255),
    'ushort 65535': (outcome('ushort', 65535, cloud), 257),
    'float 1.0, open3d.t': (outcome('float', 1.0, tensor), 1),
    'ushort 65535, open3d.t': (outcome('ushort', 65535, tensor), None),
}
for name, (seen, _) in expected.items():
    print(f'white as {name}: {seen}')
sys.exit(
    any(
        seen is not noted if noted is None else seen is None or abs(seen - noted) > 1e-6
        for seen, noted in expected.values()
    )
)
PYTHON
"$folder/venv/bin/python" "$folder/read.py" "$folder"
