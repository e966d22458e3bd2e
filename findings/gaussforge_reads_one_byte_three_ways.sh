#!/bin/sh
# gaussforge: an opaque Gaussian comes back as three different numbers, and `read` never succeeds.
#
# gaussforge 0.6.0, CPython 3.11, x86-64, with numpy 2.2.6 and without.
#
# A good guess: opacities are stored in a byte by .spz, .splat and .ksplat alike, so one library reads
# the byte 255 as one logit, a large finite one, since a PLY file of it must be drawn again. In truth
# it is +inf from .spz, 10 from .splat and 13.8 from .ksplat, and compressed PLY holds 6.9 at
# most. What computes with the logit (training, merging, averages) meets an infinity only if the
# scene came by SPZ. And the documented `read`, which is to return arrays, ends with
# {'error': 'std::bad_cast'} for every format, while `convert` of the same bytes is right.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check gaussforge==0.6.0
cat > "$folder/opaque.py" <<'PYTHON'
import math
import struct
import sys

import gaussforge

NAMES = 'x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3'.split()
header = 'ply\nformat binary_little_endian 1.0\nelement vertex 1\n'
header += ''.join(f'property float {name}\n' for name in NAMES) + 'end_header\n'
ply = header.encode() + struct.pack('<14f', 1, 2, 3, 0, 0, 0, 30, -3, -3, -3, 1, 0, 0, 0)
forge = gaussforge.GaussForge()


def logit(name):
    stored = forge.convert(ply, 'ply', name)['data']
    head, _, row = forge.convert(stored, name, 'ply')['data'].partition(b'end_header\n')
    names = [line.split()[2] for line in head.split(b'\n') if line.startswith(b'property')]
    return struct.unpack(f'<{len(names)}f', row)[names.index(b'opacity')]


found = {name: round(logit(name), 1) for name in ('spz', 'splat', 'ksplat', 'compressed.ply')}
print('logit of an opaque Gaussian:', found)
said = forge.read(ply, 'ply').get('error')
print('read:', said)
as_noted = {'spz': math.inf, 'splat': 10.0, 'ksplat': 13.8, 'compressed.ply': 6.9}
sys.exit(found != as_noted or said != 'std::bad_cast')
PYTHON
"$folder/venv/bin/python" "$folder/opaque.py"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.2.6
"$folder/venv/bin/python" "$folder/opaque.py"
