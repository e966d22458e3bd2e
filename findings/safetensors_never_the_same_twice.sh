#!/bin/sh
# safetensors: the same weights with the same metadata are other bytes each time they are saved.
#
# safetensors 0.8.0, CPython 3.11, x86-64, with numpy 2.2.6.
#
# A good guess: a file of sorted tensors, without compression, time or machine in it, is a function
# of what is saved, so that the checksum of weights tells whether a training was repeated exactly.
# That is so without metadata. With five entries of metadata, as a model card needs, 50 saves in
# one process give tens of different files: entries are written in the order of a hash map that
# is seeded anew each time. Compare tensors, or names with hashes of them, not files.
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load, save

tensors = {'a': np.arange(3, dtype=np.float32), 'b': np.zeros((2, 2), np.float16)}
entries = {name: 'text' for name in ('name', 'version', 'licence', 'data', 'outputs')}
plain = {save(tensors) for _ in range(50)}
told = {save(tensors, entries) for _ in range(50)}
equal = all(
    all(np.array_equal(load(file)[name], tensor) for name, tensor in tensors.items())
    for file in told
)
print(f'different files of 50: {len(plain)} without metadata, {len(told)} with five entries')
print('their tensors are equal:', equal)
sys.exit(not (len(plain) == 1 and len(told) > 10 and equal))
PYTHON
