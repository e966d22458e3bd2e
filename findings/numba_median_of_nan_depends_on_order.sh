#!/bin/sh
# numba: np.median of values with NaN among them is NaN or a number, by the order they come in.
#
# numba 0.68.1, numpy 2.4.6, CPython 3.11, x86-64.
#
# A good guess: as in numpy one NaN makes the median NaN, or, if numba leaves them out, it is that of the
# others. In truth it selects by comparisons, which NaN breaks: the same three values give NaN or one of
# the others, and 1001 pixels of a depth image with a third of holes a number beside the true median.
# Nothing warns. np.nanmedian, np.percentile, max and sort of numba do as numpy does.
# Seen:
#     1, 2, NaN in six orders         2  nan  2  nan  2  2
#     1001 pixels, a third NaN        2.0287; numpy NaN, of the others 1.9982
# Exit code 0 while orders differ and the median of the pixels is no NaN.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$folder/median.py" <<'PYTHON'
from itertools import permutations
import sys

from numba import njit
import numpy as np


@njit
def median(values):
    return np.median(values)


@njit
def others(values):
    return np.nanmedian(values), np.percentile(values, 50.0), values.max()


orders = [float(median(np.array(order))) for order in permutations((1.0, 2.0, np.nan))]
depth = np.random.default_rng(0).normal(2, 0.1, 1001)
depth[::3] = np.nan
seen, (true, percentile, most) = float(median(depth)), others(depth)
print('1, 2, NaN in six orders:', *orders)
print(f'pixels: {seen:.4f}; numpy {np.median(depth)}, without NaN {np.nanmedian(depth):.4f}')
print(f'nanmedian {true:.4f}, percentile {percentile}, max {most}')
as_noted = (
    0 < np.isnan(orders).sum() < 6
    and not np.isnan(seen)
    and seen != np.nanmedian(depth)
    and np.isnan(np.median(depth))
    and true == np.nanmedian(depth)
    and np.isnan(percentile)
    and np.isnan(most)
)
sys.exit(not as_noted)
PYTHON
"$folder/venv/bin/python" "$folder/median.py"
