#!/bin/sh
# trimesh: vertex colours of a mesh are washed out in glTF viewers.
#
# trimesh 5.2.0, CPython 3.11.
#
# A good guess: vertex colours of a PLY file are sRGB, as pictures are; glTF says that COLOR_0 is
# linear; so an exporter converts, as it also turns other conventions of its formats. In truth the
# bytes are copied: middle grey, 128, is written as 128/255 = 0.50 where its linear value is 0.22, and
# viewers, which encode for the display, show 188. Reading the file back with trimesh gives 128, so a
# round trip is perfect.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check trimesh==5.2.0 numpy==2.2.6
cat > "$folder/grey.py" <<'PYTHON'
import io
import json
import struct
import sys

import trimesh

mesh = trimesh.Trimesh(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
    [[0, 1, 2]],
    vertex_colors=[[128, 128, 128, 255]] * 3,
    process=False,
)
with io.BytesIO() as file:
    mesh.export(file, file_type='ply')
    file.seek(0)
    mesh = trimesh.load(file, file_type='ply', process=False)
glb = mesh.export(file_type='glb')
size = struct.unpack('<I', glb[12:16])[0]
tree = json.loads(glb[20 : 20 + size])
accessor = tree['accessors'][tree['meshes'][0]['primitives'][0]['attributes']['COLOR_0']]
view = tree['bufferViews'][accessor['bufferView']]
color = list(glb[28 + size + view.get('byteOffset', 0) :][:3])
print(f'sRGB 128 is stored as {color} in a linear attribute of type {accessor["componentType"]}')
sys.exit((color, accessor['componentType']) != ([128, 128, 128], 5121))
PYTHON
"$folder/venv/bin/python" "$folder/grey.py"
