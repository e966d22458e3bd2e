#!/bin/sh
# laspy: coordinates are rounded to 1 cm and colours of 8 bits are nearly black, without a word.
#
# laspy 2.7.0, numpy 2.2.6, CPython 3.11.
#
# A good guess: coordinates are assigned as floats, so the library chooses the step of the integers
# that LAS holds from them, or the finest that fits; and of an array of uint8 it knows how wide it is. In
# truth the step is 0.01 unless `header.scales` says otherwise, whatever is assigned: 1.2345 is 1.23, and a
# room at millimetres has stairs. Colours are 16 bits in LAS: 255 stays 255 of 65535, black in viewers
# that follow the format, while those that guess show it, so it looks right on one desk only.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check laspy==2.7.0 numpy==2.2.6
cat > "$folder/las.py" <<'PYTHON'
import sys

import laspy
import numpy as np

las = laspy.create(point_format=2)
las.x, las.y, las.z = np.array([[1.2345], [0], [0]])
las.red = np.array([255], np.uint8)
path = sys.argv[1]
las.write(path)
again = laspy.read(path)
seen = float(again.x[0]), int(again.red[0])
print(f'1.2345 m is {seen[0]:g}, red 255 is {seen[1]} of 65535')
sys.exit(seen != (1.23, 255))
PYTHON
"$folder/venv/bin/python" "$folder/las.py" "$folder/one.las"
