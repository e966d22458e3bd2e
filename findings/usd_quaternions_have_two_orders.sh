#!/bin/sh
# usd-core: four numbers are one rotation in `Gf.Quatf(...)` and another in `Vt.QuatfArray.FromNumpy`.
#
# usd-core 26.11, numpy 2.2.6, CPython 3.11, x86-64.
#
# A good guess: the constructor takes the real part first, text files print it first, so rows of
# an array of quaternions are real, i, j, k too. In truth FromNumpy takes the memory as it lies, and
# that is i, j, k, real. An array of w x y z, which 3DGS files hold, is accepted, printed with its last
# number first, and all Gaussians of a scene are turned wrongly; the identity becomes a half turn
# about z. The way back, numpy.array(...), has the same order, so a round trip shows nothing. And a
# ParticleField3DGaussianSplat whose degree of harmonics is not set has degree 3, not that of the
# coefficients it holds.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check usd-core==26.11 numpy==2.2.6
cat > "$folder/quats.py" <<'PYTHON'
import sys

import numpy as np
from pxr import Gf, Usd, UsdVol, Vt

one = Gf.Quatf(1, 2, 3, 4)
many = Vt.QuatfArray.FromNumpy(np.array([[1, 2, 3, 4]], np.float32))
print('Gf.Quatf(1, 2, 3, 4):', one, 'real', one.GetReal())
print('FromNumpy([[1, 2, 3, 4]]):', many[0], 'real', many[0].GetReal())
print('and back:', np.array(many).tolist())
stage = Usd.Stage.CreateInMemory()
field = UsdVol.ParticleField3DGaussianSplat.Define(stage, '/splats')
field.CreateRadianceSphericalHarmonicsCoefficientsAttr([Gf.Vec3f(0.5)])
degree = field.GetRadianceSphericalHarmonicsDegreeAttr().Get()
print('degree of a field with one coefficient:', degree)
seen = one.GetReal(), many[0].GetReal(), np.array(many).tolist(), degree
sys.exit(seen != (1, 4, [[1, 2, 3, 4]], 3))
PYTHON
"$folder/venv/bin/python" "$folder/quats.py"
