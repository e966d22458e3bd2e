#!/bin/sh
# .splat: a quaternion's byte b means (b - 128) / 128 to some and b / 127.5 - 1 to others.
#
# gaussforge 0.6.0 (PyPI), @playcanvas/splat-transform 2.7.1 (npm; needs node 20), x86-64.
#
# A good guess: 32 bytes without a header leave nothing to interpret, and a rotation comes back
# within half a step of 1/128, 0.9 degrees at most. In truth the reader of splat-transform takes the
# byte for a value in 0..1 and stretches it, which adds up to 1/128 to all four numbers. The
# identity, stored as 255 128 128 128, comes back turned by 0.8 degrees, and random rotations by 0.9
# degrees in the median, twice what the bytes themselves cost. Thin, long Gaussians show it.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check gaussforge==0.6.0 numpy==2.2.6
npm install --silent --no-fund --no-audit --prefix "$folder/node" \
    @playcanvas/splat-transform@2.7.1 >/dev/null
cd "$folder"
cat > splat.py <<'PYTHON'
import sys

import gaussforge
import numpy as np

NAMES = 'x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3'.split()
N = 2000
random = np.random.default_rng(0)
rows = np.zeros((N, 14), '<f4')
rows[:, 0] = np.arange(N)
rows[:, 7:10] = -3
quats = random.normal(size=(N, 4))
rows[:, 10:] = quats / np.linalg.norm(quats, axis=1, keepdims=True)


def turn(found):
    cosine = np.abs((found * rows[:, 10:]).sum(1)) / np.linalg.norm(found, axis=1)
    return np.median(np.degrees(2 * np.arccos(np.clip(cosine, 0, 1))))


if sys.argv[1] == 'write':
    header = f'ply\nformat binary_little_endian 1.0\nelement vertex {N}\n'
    header += ''.join(f'property float {name}\n' for name in NAMES) + 'end_header\n'
    made = gaussforge.GaussForge().convert(header.encode() + rows.tobytes(), 'ply', 'splat')
    with open('scene.splat', 'wb') as file:
        file.write(made['data'])
    stored = np.frombuffer(made['data'], np.uint8).reshape(N, 32)[:, 28:].astype(float)
    print(f'by (b - 128) / 128: {turn((stored - 128) / 128):.2f} degrees in the median')
    print(f'by b / 127.5 - 1: {turn(stored / 127.5 - 1):.2f} degrees in the median')
    sys.exit(not turn((stored - 128) / 128) < 0.5 < 0.8 < turn(stored / 127.5 - 1))
with open('back.ply', 'rb') as file:
    header, _, data = file.read().partition(b'end_header\n')
names = [line.split()[2].decode() for line in header.split(b'\n') if line.startswith(b'property')]
table = np.frombuffer(data, '<f4').reshape(N, len(names))
table = table[np.argsort(table[:, names.index('x')])]
found = table[:, [names.index(f'rot_{i}') for i in range(4)]]
print(f'by splat-transform: {turn(found):.2f} degrees in the median')
sys.exit(not turn(found) > 0.8)
PYTHON
venv/bin/python splat.py write
node/node_modules/.bin/splat-transform -q -w scene.splat back.ply
venv/bin/python splat.py read
