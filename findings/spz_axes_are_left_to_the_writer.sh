#!/bin/sh
# One scene, three writers of SPZ, two orientations; and a position of 3 km is read as two others.
#
# gaussforge 0.6.0, gsply 0.4.6 (PyPI), @playcanvas/splat-transform 2.7.1 (npm; needs node 20), x86-64.
#
# A good guess: the format's page says which way its axes point (x right, y up, z back), 3DGS PLY
# has y down and z forward, so whoever converts one into the other turns the scene by half a turn
# about x, and reads it back turned. splat-transform does. gaussforge, which embeds the format's own
# library, and gsply copy the numbers: their files stand on their heads in tools that follow the
# page, and such tools' files do so in them. A test that writes and reads with one library sees
# nothing of it.
# Positions are 24-bit fixed point of 1/4096 m. Beyond 2048 m gaussforge wraps (3000 becomes -1096)
# and gsply holds fast (2048); neither says so.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check gaussforge==0.6.0 \
    'gsply[spz]==0.4.6' numpy==2.2.6
npm install --silent --no-fund --no-audit --prefix "$folder/node" \
    @playcanvas/splat-transform@2.7.1 >/dev/null
cd "$folder"
cat > write.py <<'PYTHON'
import struct
import sys

import gaussforge
import gsply

NAMES = 'x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3'


def ply(x):
    header = 'ply\nformat binary_little_endian 1.0\nelement vertex 1\n'
    header += ''.join(f'property float {name}\n' for name in NAMES.split()) + 'end_header\n'
    row = struct.pack('<14f', x, 2, 3, 0, 0, 0, 1, -3, -3, -3, 1, 0, 0, 0)
    return header.encode() + row


def place(path):
    return gsply.read_spz(path).means[0].round(3).tolist()


def written(x):
    with open('scene.ply', 'wb') as file:
        file.write(ply(x))
    with open('gaussforge.spz', 'wb') as file:
        file.write(gaussforge.GaussForge().convert(ply(x), 'ply', 'spz')['data'])
    gsply.write_spz('gsply.spz', gsply.plyread('scene.ply'), version=3)
    return place('gaussforge.spz'), place('gsply.spz')


if sys.argv[1] == 'far':
    seen = written(3000)
    print('3000 m by gaussforge and gsply:', seen[0][0], seen[1][0])
    sys.exit((seen[0][0], round(seen[1][0])) != (-1096.0, 2048))
if sys.argv[1] == 'near':
    seen = written(1)
    print('1 2 3 by gaussforge and gsply, as stored:', *seen)
    sys.exit(seen != ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))
seen = place('playcanvas.spz')
print('1 2 3 by splat-transform, as stored:', seen)
sys.exit(seen != [1.0, -2.0, -3.0])
PYTHON
venv/bin/python write.py far
venv/bin/python write.py near
node/node_modules/.bin/splat-transform -q -w scene.ply playcanvas.spz
venv/bin/python write.py playcanvas
