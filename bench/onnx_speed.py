"""nano by torch, by ONNX Runtime and in 8 bits, on the same frames in one run, as JSON.

    python bench/onnx_speed.py FILE [--frames N]

The variants take turns frame by frame, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
from itertools import islice
import json
from pathlib import Path
import platform
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime
from onnxruntime import quantization
import torch

from sharp_ros import self_check
from sharp_ros.evaluation.depth import motorcycle_frames
from sharp_ros.exchange.onnx_export import export_nano
from sharp_ros.files import write_atomically
from sharp_ros.models import load_predictor
from sharp_ros.network.onnx_predictor import OnnxNanoPredictor
from sharp_ros.network.sessions import OnnxSession, OpenVinoSession
from sharp_ros.process import prepare_process
from sharp_ros.sources import open_source


class Samples(quantization.CalibrationDataReader):
    """Inputs that the ranges of 8-bit values are chosen by."""

    def __init__(self, names: list[str], inputs: list[Any]) -> None:
        self._feeds = iter([dict(zip(names, (t.numpy() for t in i), strict=True)) for i in inputs])

    def get_next(self) -> Any:
        """The next input, or None."""
        return next(self._feeds, None)


def main() -> None:
    """Measure and write."""
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('file', type=Path)
    parser.add_argument('--frames', type=int, default=12, help='rendered ones')
    args = parser.parse_args()
    torch.set_num_threads(2)
    plain: Any = load_predictor('nano')[0]
    rendered = list(islice(open_source('synthetic').frames(), 0, 4 * args.frames, 4))
    frames = [*rendered, *motorcycle_frames()]
    inputs = [plain.inputs(f.image, f.intrinsics) for f in frames]
    calibration = [i for i in inputs if i[0].shape == inputs[0][0].shape][::2]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = {n: Path(folder) / f'{n}.onnx' for n in ('fp32', 'ready', 'dynamic', 'static')}
        export_nano(plain, path['fp32'], {})
        quantization.quant_pre_process(
            str(path['fp32']), str(path['ready']), skip_symbolic_shape=True
        )
        quantization.quantize_dynamic(path['ready'], path['dynamic'])
        names = list(OnnxSession(path['fp32']).inputs)
        quantization.quantize_static(
            path['ready'], path['static'], Samples(names, calibration), per_channel=True
        )
        runs = {'torch fp32': plain.forward}
        for name in ('fp32', 'dynamic', 'static'):
            runs[f'onnx {name}'] = OnnxNanoPredictor(OnnxSession(path[name], threads=2)).forward
        for precision in ('fp32', 'bf16'):
            opened = OpenVinoSession(path['fp32'], precision, threads=2)
            runs[f'openvino {precision}'] = OnnxNanoPredictor(opened).forward
        times: dict[str, list[float]] = {name: [] for name in runs}
        ratios: dict[str, list[float]] = {name: [] for name in runs}
        for i in inputs:
            truth = plain.forward(*i)[0][0]
            for name, forward in runs.items():
                forward(*i)  # OpenVINO compiles for each size of the image
                start = time.perf_counter()
                outputs = forward(*i)
                times[name].append((time.perf_counter() - start) * 1e3)
                ratios[name].append(float((outputs[0][0] - truth).abs().mean()))
        check = plain.inputs(*self_check.check_image())
        expected = plain.forward(*check)
        report = {
            name: {
                'ms_median': round(float(np.median(times[name])), 1),
                'ms_least': round(min(times[name]), 1),
                'log_depth_error_mean': round(float(np.mean(ratios[name])), 5),
                'self_check': round(self_check.difference(forward(*check), expected), 5),
            }
            for name, forward in runs.items()
        }
        sizes = {name: p.stat().st_size for name, p in path.items()}
    versions = {'torch': torch.__version__, 'onnxruntime': onnxruntime.__version__}
    facts = {'machine': platform.processor() or platform.machine(), 'threads': 2, **versions}
    result = {**facts, 'frames': len(frames), 'ways': report, 'bytes': sizes}
    write_atomically(args.file, json.dumps(result, indent=1) + '\n')
    print(json.dumps(report, indent=1))


if __name__ == '__main__':
    main()
