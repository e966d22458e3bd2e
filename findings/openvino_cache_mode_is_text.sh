#!/bin/sh
# OpenVINO on a CPU refuses its own constants for the mode of the cache of compiled networks.
#
# openvino 2026.4.1, CPython 3.11, x86-64.
#
# A good guess: properties.CacheMode.OPTIMIZE_SIZE, the documented constant, and its name as text ask
# for the same, as constants and texts of other properties do (those of hint.PerformanceMode, below);
# and a refusal means that a CPU has no such mode. In truth the constants, both of them, are a "Wrong
# value for property key CACHE_MODE", as nonsense is, and the texts are taken and work: the compiled
# network leaves out the weights, which are in its file, or holds them.
# Seen (one product with a 1024 x 1024 matrix of float32, 4,194,304 bytes), bytes of the cache:
#     CacheMode.OPTIMIZE_SIZE     refused     'OPTIMIZE_SIZE'   about 4,100
#     CacheMode.OPTIMIZE_SPEED    refused     'OPTIMIZE_SPEED'  about 4,198,400
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check openvino==2026.4.1
cat > "$folder/modes.py" <<'PYTHON'
from pathlib import Path
import sys

sys.modules['openvino_telemetry'] = None  # which would write into the home folder
import numpy as np
import openvino
from openvino import opset13 as ops
from openvino.properties import CacheMode, hint

here = Path(sys.argv[1])
matrix = np.random.default_rng(0).random((1024, 1024), np.float32)
x = ops.parameter([1, 1024], np.float32)
product = ops.matmul(x, ops.constant(matrix), False, False)
openvino.save_model(openvino.Model([product], [x]), here / 'net.xml', compress_to_fp16=False)
core = openvino.Core()


def compiled(name, **settings):
    folder = here / name
    try:
        core.compile_model(here / 'net.xml', 'CPU', {'CACHE_DIR': str(folder), **settings})
    except RuntimeError as error:
        assert 'Wrong value for property key CACHE_MODE' in str(error), error
        return 'refused'
    return sum(file.stat().st_size for file in folder.iterdir())


modes = [CacheMode.OPTIMIZE_SIZE, CacheMode.OPTIMIZE_SPEED, 'OPTIMIZE_SIZE', 'OPTIMIZE_SPEED']
found = [compiled(f'mode_{i}', CACHE_MODE=mode) for i, mode in enumerate(modes)]
for mode, outcome in zip(modes, found):
    print(f'{mode!s:26} {type(mode).__name__:10} {outcome}')
assert found[:2] == ['refused', 'refused']
assert found[2] < 20_000 < matrix.nbytes < found[3]
for i, mode in enumerate((hint.PerformanceMode.LATENCY, 'LATENCY')):
    assert compiled(f'hint_{i}', PERFORMANCE_HINT=mode) != 'refused'
PYTHON
"$folder/venv/bin/python" "$folder/modes.py" "$folder"
