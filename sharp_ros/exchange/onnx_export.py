"""nano as one ONNX file, with what is needed to check it wherever it runs.

One file serves every image size whose sides are multiples of 32, which are all that nano asks for.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast
import warnings

import numpy as np
import torch
from torch import Tensor

from sharp_ros import __version__, self_check
from sharp_ros.camera import FloorGeometry
from sharp_ros.errors import ConfigError, EngineError
from sharp_ros.files import replacing
from sharp_ros.network.onnx_predictor import OnnxNanoPredictor
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.network.sessions import OnnxSession

_OPSET = 17  # of ONNX Runtime 1.12 and later
_EXACT = 1e-3  # of the self-check; rounding of another order of sums is below 1e-5


def export_nano(
    predictor: NanoPredictor, output: Path, metadata: dict[str, str], weights: Path | None = None
) -> float:
    """Write nano as ONNX, and compare what ONNX Runtime makes of the file with torch.

    Args:
        predictor: in float32 on the CPU.
        output: the file, which is replaced as a whole, and only by one that is right.
        metadata: entries of the file about itself, besides what is needed to run and check it.
        weights: file beside `output` that the weights stay in; None: the file holds them.

    Returns:
        The largest difference of any value of the output, for two sizes of images, of which one
        comes with a known floor.

    Raises:
        ConfigError: if a package is missing.
        EngineError: if the file gives something else than torch.
    """
    image, intrinsics = self_check.check_image()
    inputs = predictor.inputs(image, intrinsics)
    tilted = FloorGeometry(np.array([0.1, -0.9, -0.3]), 1.2)
    wide = predictor.inputs(image[:360], intrinsics.cropped(0, 0, 640, 360), tilted)
    run_torch = torch.inference_mode()(predictor.forward)
    model = _translated(predictor, inputs)
    if weights is not None:
        _refer_to_weights(model, predictor, weights)
    facts = {
        'model': 'nano',
        'version': __version__,
        'precision': 'fp32',
        'reference': self_check.stored(predictor.comparable(run_torch(*inputs))),
    }
    for key, value in {**metadata, **facts}.items():
        model.metadata_props.add(key=key, value=value)
    worst = 0.0
    with replacing(output) as file:
        file.write(model.SerializeToString())
        file.flush()
        written = OnnxNanoPredictor(OnnxSession(Path(file.name)))
        for size in (inputs, wide):
            for found, truth in zip(written.forward(*size), run_torch(*size), strict=True):
                error = self_check.difference([found], [truth])
                if not error <= _EXACT:
                    raise EngineError(f'{output} would differ from torch by {error:.3g}')
                worst = max(worst, float((found - truth).abs().max()))
    return worst


def _translated(predictor: NanoPredictor, inputs: tuple[Tensor, ...]) -> Any:
    """The network with all that `NanoPredictor.forward` does around it, as a protobuf.

    By torch's older exporter, which traces one run: a tenth of the time of the newer one, and its
    graph is as fast. What the trace takes for constant depends on sides modulo 32 alone.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError('writing ONNX needs the package onnx: pip install onnx') from error

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = predictor.network

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return predictor.forward(*inputs)

    names = ['input_0', 'input_1', 'geometry'][: len(inputs)]
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # that it is the older one, and what it takes for constant
        torch.onnx.export(
            Forward().eval(),
            inputs,
            cast('str', file),  # the older exporter takes it, whatever the signature says
            dynamo=False,
            opset_version=_OPSET,
            do_constant_folding=False,  # which ONNX Runtime does anyway; weights keep their names
            input_names=names,
            dynamic_axes={names[0]: {0: 'rows', 1: 'columns'}},
        )
    return onnx.load_from_string(file.getvalue())


def _refer_to_weights(model: Any, predictor: NanoPredictor, weights: Path) -> None:
    """Replace the weights in a graph by places in their file; what differs from them stays.

    The file holds half precision: the graph widens it, once, when it is loaded.
    """
    import onnx
    from onnx import numpy_helper, TensorProto

    with weights.open('rb') as file:
        size = int.from_bytes(file.read(8), 'little')  # the header of the safetensors format
        header = json.loads(file.read(size))
        start = 8 + size
    graph = model.graph
    state = predictor.network.state_dict()
    replaced, casts = [], []
    for initializer in graph.initializer:
        name = initializer.name.removeprefix('network.')
        entry = header.get(name)
        if entry is None or entry['dtype'] != 'F16' or name not in state:
            continue
        if not np.array_equal(numpy_helper.to_array(initializer), state[name].numpy()):
            continue
        begin, end = entry['data_offsets']
        place = {
            'location': weights.name,
            'offset': str(start + begin),
            'length': str(end - begin),
        }
        half = TensorProto(name=f'{name}.half', data_type=TensorProto.FLOAT16)
        half.dims.extend(entry['shape'])
        half.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            half.external_data.add(key=key, value=value)
        casts.append(onnx.helper.make_node('Cast', [half.name], [initializer.name], to=1))
        replaced.append((initializer, half))
    for initializer, half in replaced:
        graph.initializer.remove(initializer)
        graph.initializer.append(half)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
