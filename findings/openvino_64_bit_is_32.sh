#!/bin/sh
# OpenVINO on a CPU counts int64 in 32 bits and float64 in float32, and the outputs say 64 all the same.
#
# openvino 2026.4.1, CPython 3.11, x86-64.
#
# A good guess: a network whose inputs and outputs are int64 or float64, as exporters write indices,
# stamps and transforms, is computed in these types, or refused. In truth the plugin computes both
# in 32 bits, without a word and whatever the hint of precision, and gives back arrays of 64: stamps
# in nanoseconds wrap, and what is subtracted from UTM coordinates is rounded to half a metre first.
# Unsigned 32 bits are kept.
# Seen:
#     int64    3,000,000,000 + 0                             -1294967296
#     int64    1,403,636,579,763,555,584 // 1000              1384975
#     float64  5,335,000.456 - 5,335,000                      0.5
#     uint32   3,000,000,000 + 0                              3000000000
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check openvino==2026.4.1
cat > "$folder/wide.py" <<'PYTHON'
import sys

sys.modules['openvino_telemetry'] = None  # which would write into the home folder
import numpy as np
import openvino
from openvino import opset13 as ops


def outcome(operator, kind, value, other):
    x = ops.parameter([1], kind)
    network = openvino.Model([operator(x, kind(other))], [x])
    hint = {'INFERENCE_PRECISION_HINT': 'f32'}
    result = openvino.compile_model(network, 'CPU', hint)(np.array([value], kind))[0]
    assert result.dtype == kind
    return result[0]


expected = {
    'int64, 3e9 + 0': (outcome(ops.add, np.int64, 3_000_000_000, 0), -1294967296),
    'int64, ns // 1000': (outcome(ops.divide, np.int64, 1_403_636_579_763_555_584, 1000), 1384975),
    'float64, northing': (outcome(ops.subtract, np.float64, 5_335_000.456, 5_335_000.0), 0.5),
    'uint32, 3e9 + 0': (outcome(ops.add, np.uint32, 3_000_000_000, 0), 3_000_000_000),
}
for name, (seen, _) in expected.items():
    print(f'{name}: {seen}')
sys.exit(any(seen != as_noted for seen, as_noted in expected.values()))
PYTHON
"$folder/venv/bin/python" "$folder/wide.py"
