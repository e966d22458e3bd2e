#!/bin/sh
# numba: mean and standard deviation of a depth image in millimetres are far off in compiled code.
#
# numba 0.68.1, numpy 2.4.6, CPython 3.11, x86-64.
#
# A good guess: `image.mean()` and `image.std()` mean the same in a function under @njit, within rounding.
# numpy sums float32 pairwise, in partial sums, so that even millions of pixels cost no digit that counts.
# Compiled, one float32 takes up all pixels one after the other: at 2e9 its steps are of 128 mm, and each
# pixel is rounded to those. A flat wall in a 1280x720 image looks five times as rough as it is; in
# metres, or in float64, all is well, so tests of small images never show it.
# Seen, a wall at 2000 mm with noise of 3 mm:
#                            mean                 standard deviation
#     numpy, float32         2000.0               3.0
#     numba, float32         2015.2               15.5
#     numba, float64         2000.0               3.0
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$folder/wall.py" <<'PYTHON'
import sys

from numba import njit
import numpy as np

wall = np.random.default_rng(0).normal(2000, 3, (720, 1280))


def statistics(image):
    return image.mean(), image.std()


compiled = njit(statistics)
expected = {
    'numpy, float32': (statistics(wall.astype(np.float32)), (1999.9, 2000.1), (2.9, 3.1)),
    'numba, float32': (compiled(wall.astype(np.float32)), (2005, 2050), (9, 50)),
    'numba, float64': (compiled(wall), (1999.9, 2000.1), (2.9, 3.1)),
}
changed = False
for name, (seen, *bounds) in expected.items():
    print(f'{name}: mean {seen[0]:.1f}, standard deviation {seen[1]:.1f}')
    changed |= not all(a < x < b for x, (a, b) in zip(seen, bounds, strict=True))
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" "$folder/wall.py"
