"""How far nano is from what this machine can do: its multiply-adds and the measured peak, as JSON.

    python bench/floor_nano.py FILE [--rounds N]

The ways of running nano and one large product of matrices in each precision take turns, so that
what else the machine does meets all of them alike. Wall time and processor time are told.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import math
from pathlib import Path
import sys
import time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from sharp_ros import self_check
from sharp_ros.evaluation.circumstances import circumstances
from sharp_ros.files import write_atomically
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.network.nano_arrays import NanoArrays
from sharp_ros.network.sessions import (
    import_openvino,
    OnnxSession,
    openvino_core,
    OpenVinoSession,
)
from sharp_ros.process import inference_threads, prepare_process

_SIDE = 1024  # of the square matrices, which fit into the last cache
_HINTS = {'fp32': 'f32', 'bf16': 'bf16'}
_PATH = WEIGHTS_FOLDER / 'nano.onnx'


def multiply_adds(model: Any) -> dict[str, int]:
    """Of convolutions and products of matrices, by kind; the rest is negligible.

    Args:
        model: of OpenVINO, its sizes fixed.
    """
    counts: dict[str, int] = {}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in {'Convolution', 'GroupConvolution'}:
            # weights are [out, in, v, u], of groups [groups, out, in, v, u]
            weights = list(node.input_value(1).get_shape())
            per_output = math.prod(weights[1 if kind == 'Convolution' else 2 :])
            kind = f'{kind} {weights[-2]}x{weights[-1]}'
        elif kind == 'MatMul':
            a = list(node.input_value(0).get_shape())
            per_output = a[-2] if node.get_attributes()['transpose_a'] else a[-1]
        else:
            continue
        outputs = math.prod(node.output(0).get_shape())
        counts[kind] = counts.get(kind, 0) + outputs * per_output
    return counts


def product(precision: str) -> Callable[[], Any]:
    """One product of two square matrices in OpenVINO."""
    openvino = import_openvino()
    ops = openvino.opset13
    a = ops.parameter([_SIDE, _SIDE], np.float32)
    b = ops.constant(np.random.default_rng(0).random((_SIDE, _SIDE), np.float32))
    settings = {
        'INFERENCE_PRECISION_HINT': _HINTS[precision],
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': inference_threads(),
        'ENABLE_CPU_PINNING': False,
    }
    model = openvino.Model([ops.matmul(a, b, False, False)], [a])
    request = openvino_core().compile_model(model, 'CPU', settings).create_infer_request()
    values = np.ones((_SIDE, _SIDE), np.float32)
    return lambda: request.infer([values], share_inputs=True, share_outputs=True)


def main() -> None:
    """Measure and write."""
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('file', type=Path)
    parser.add_argument('--rounds', type=int, default=60)
    args = parser.parse_args()
    image, camera = self_check.check_image()
    networks = {
        'onnx fp32': NanoArrays(OnnxSession(_PATH)),
        'openvino fp32': NanoArrays(OpenVinoSession(_PATH, 'fp32')),
        'openvino bf16': NanoArrays(OpenVinoSession(_PATH, 'bf16')),
    }
    inputs = networks['onnx fp32'].inputs(image, camera)
    model = openvino_core().read_model(_PATH)
    shapes = zip(networks['onnx fp32'].session.inputs, inputs, strict=True)
    model.reshape({name: list(array.shape) for name, array in shapes})
    counts = multiply_adds(model)
    runs: dict[str, Callable[[], Any]] = {
        name: (lambda network=network: network.forward(*inputs))
        for name, network in networks.items()
    }
    runs |= {f'product {precision}': product(precision) for precision in _HINTS}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(args.rounds + 3):
        for name, run in runs.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            if i >= 3:  # the first rounds compile
                wall[name].append((time.perf_counter() - start) * 1e3)
                cpu[name].append((time.process_time() - busy) * 1e3)
    work = {name: float(sum(counts.values())) for name in networks}
    work |= {f'product {precision}': float(_SIDE**3) for precision in _HINTS}
    report = {
        name: {
            'ms_median': round(float(np.median(wall[name])), 2),
            'ms_least': round(min(wall[name]), 2),
            'cpu_ms_median': round(float(np.median(cpu[name])), 2),
            'gmac_per_cpu_s': round(work[name] / float(np.median(cpu[name])) / 1e6, 1),
        }
        for name in runs
    }
    command = f'python bench/floor_nano.py {args.file} --rounds {args.rounds}'
    result = {'multiply_adds': counts, 'ways': report, **circumstances(), 'command': command}
    write_atomically(args.file, json.dumps(result, indent=1) + '\n')
    print(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
