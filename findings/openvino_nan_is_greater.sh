#!/bin/sh
# OpenVINO on a CPU: NaN is greater than 0, exp(NaN) is infinite and max(NaN, 0) is 0.
#
# openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, CPython 3.11, x86-64.
#
# A good guess: comparisons with NaN are false and functions of NaN are NaN, as in IEEE 754, numpy,
# torch and ONNX Runtime, at least in float32, which is asked for here. A network that takes measured
# depth relies on it: `depth > 0` is the usual mask of where something was measured, NaN says where
# not. In truth the mask is true for every NaN, so holes count as measured and, by max or Relu, as 0 m.
# IsNaN finds them all.
# Seen, for x of NaN, 2, -1:
#                    x > 0                  x < 0                 exp(x)          max(x, 0)
#     onnxruntime    False True False       False False True      nan 7.4 0.37    nan 2 0
#     openvino       True  True False       False False True      inf 7.4 0.37    0   2 0
# Exit code 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0
cat > "$folder/nan.py" <<'PYTHON'
import sys

sys.modules['openvino_telemetry'] = None  # which would write into the home folder
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
import openvino

VALUES = np.array([np.nan, 2, -1], np.float32)
HINT = {'INFERENCE_PRECISION_HINT': 'f32'}


def outcomes(operator, kind, *constants):
    inputs = ['x', *('zero' for _ in constants)]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ['y'])],
        'one',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info('y', kind, [3])],
        [numpy_helper.from_array(np.float32(value), 'zero') for value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=['CPUExecutionProvider'])
    core = openvino.Core()
    network = core.compile_model(core.read_model(data), 'CPU', HINT)
    return session.run(None, {'x': VALUES})[0], network(VALUES)[0]


FLOAT, BOOL, e = TensorProto.FLOAT, TensorProto.BOOL, np.exp(np.float32((2, -1)))
expected = {
    'x > 0': (outcomes('Greater', BOOL, 0), [0, 1, 0], [1, 1, 0]),
    'x < 0': (outcomes('Less', BOOL, 0), [0, 0, 1], [0, 0, 1]),
    'exp x': (outcomes('Exp', FLOAT), [np.nan, *e], [np.inf, *e]),
    'max x, 0': (outcomes('Max', FLOAT, 0), [np.nan, 2, 0], [0, 2, 0]),
    'Relu x': (outcomes('Relu', FLOAT), [np.nan, 2, 0], [0, 2, 0]),
    'is NaN': (outcomes('IsNaN', BOOL), [1, 0, 0], [1, 0, 0]),
}
changed = False
for name, (seen, *noted) in expected.items():
    print(f'{name}: onnxruntime {seen[0]}, openvino {seen[1]}')
    changed |= not all(
        np.allclose(a.astype(float), b, rtol=1e-5, equal_nan=True)
        for a, b in zip(seen, noted, strict=True)
    )
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" "$folder/nan.py"
