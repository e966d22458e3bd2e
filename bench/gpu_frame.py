"""Sections of `gpu.py` about what stands around the network of a frame.

Which runtime and provider run a network in ONNX, what refinement by motion costs and gains with
the network on the device, and the calls of gsplat. Without a GPU the choice of a provider is taken
from a stand-in that offers what a machine with one would, and gsplat's kernels are replaced by
its plain torch code (`bench/fake_gsplat.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import refinement

from sharp_ros import execution_choice, rasterizer, self_check
from sharp_ros.config import ModelConfig
from sharp_ros.errors import SharpError
from sharp_ros.loading import load_engine
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.network.nano_arrays import NanoArrays
from sharp_ros.network.sessions import OnnxSession, OpenVinoSession
from sharp_ros.rasterizer import cuda
from sharp_ros.self_check import TOLERANCE

Report = dict[str, Any]

GRAPH = WEIGHTS_FOLDER / 'nano.onnx'
ROOM = 21  # of `bench/refinement.py`
AGREES = 0.02  # mean of the log of depth on the device over that in float32 on the CPU
# What ONNX Runtime offers by the wheel that is installed, and what must then run nano.
OFFERED = {
    'Tensorrt': ('TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'),
    'CUDA': ('CUDAExecutionProvider', 'CPUExecutionProvider'),
    'CPU': ('CPUExecutionProvider',),
}


# --- runtimes of networks in ONNX ----------------------------------------------------------------


def choices() -> Report:
    """What is asked of ONNX Runtime for a GPU, by what it offers; needs none.

    Returns:
        `chosen`: by the fastest provider that is offered, the providers in the order in which
        they are asked for; `engines_kept`: whether TensorRT is told where to keep its engines;
        `passed`.
    """
    chosen, kept = {}, False
    for first, offered in OFFERED.items():
        session = mock.Mock(
            **{
                'get_providers.return_value': list(offered),
                'get_inputs.return_value': [],
                'get_outputs.return_value': [],
            }
        )
        with (
            mock.patch('onnxruntime.get_available_providers', return_value=list(offered)),
            mock.patch('onnxruntime.InferenceSession', return_value=session) as opened,
        ):
            taken = OnnxSession(GRAPH, 'cuda').provider
        asked = opened.call_args.kwargs
        chosen[first] = asked['providers']
        if first == 'Tensorrt':
            kept = bool(asked['provider_options'][0].get('trt_engine_cache_path'))
        if taken != first:
            chosen[first] = [f'{taken} runs']
    passed = kept and all(chosen[first] == list(offered) for first, offered in OFFERED.items())
    return {'chosen': chosen, 'engines_kept': kept, 'passed': passed}


def runtimes(device: str, pixels: int) -> Report:
    """Nano in every runtime there is here, in turn.

    Args:
        device: cuda or cpu, of ONNX Runtime; OpenVINO runs on the CPU.
        pixels: of the small image that the network sees.

    Returns:
        `available`: providers of ONNX Runtime; `median_ms` by runtime, provider and precision;
        `difference`: as of the self-check, from ONNX Runtime on the CPU; `refused`: why others do
        not run; `choice`: the fastest, as the node chooses on a CPU; `passed`: whether all that
        run stay within the tolerance of the self-check.
    """
    import onnxruntime

    opened: dict[str, NanoArrays] = {}
    refused: dict[str, str] = {}
    for name, make in {
        'onnx CPU': partial(OnnxSession, GRAPH, 'cpu'),
        f'onnx {device}': partial(OnnxSession, GRAPH, device),
        'openvino CPU fp32': partial(OpenVinoSession, GRAPH, 'fp32'),
        'openvino CPU bf16': partial(OpenVinoSession, GRAPH, 'bf16'),
    }.items():
        try:
            session = make()
        except (SharpError, RuntimeError) as error:
            refused[name] = str(error)[:300]
            continue
        way = f'{session.runtime} {session.provider} {session.precision}'
        opened.setdefault(way, NanoArrays(session, pixels))
    image, intrinsics = self_check.check_image()
    runs = {
        name: partial(nano.forward, *nano.inputs(image, intrinsics))
        for name, nano in opened.items()
    }
    found = {name: nano.comparable(runs[name]()) for name, nano in opened.items()}
    truth = next(iter(found.values()))
    differences = {name: self_check.difference(out, truth) for name, out in found.items()}
    times = execution_choice.median_ms(runs)
    return {
        'available': onnxruntime.get_available_providers(),
        'median_ms': times,
        'difference': differences,
        'refused': refused,
        'choice': execution_choice.fastest(times),
        'passed': max(differences.values()) <= TOLERANCE,
    }


# --- refinement ----------------------------------------------------------------------------------


def refined(device: str, frames: int) -> Report:
    """Depth from motion with nano on a device, on a drive through a simulated room.

    Args:
        device: cuda or cpu.
        frames: so many images of the drive.

    Returns:
        AbsRel of the network, times the scale found, and refined; `ms`: medians of the steps;
        `network_log_difference`: mean of the log of the depth of the network over that of float32
        on the CPU for the same images, and `passed` if that is within `AGREES` everywhere.
    """
    shown = [f for f, _ in zip(refinement.drive(ROOM), range(frames), strict=False)]
    poses = [frame.T_world_camera for frame in shown]
    found: dict[str, list[Any]] = {}
    for kind, config in {
        device: ModelConfig(name='nano', device=device),
        'reference': ModelConfig(name='nano', device='cpu', precision='fp32', execution='eager'),
    }.items():
        engine, info = load_engine(config, config.device)
        found[kind] = list(refinement.run(engine, info, shown, poses, rate_hz=0.0))
    here = found[device]
    logs = [
        np.abs(np.log(refinement.steps_of(ours)[0] / refinement.steps_of(other)[0]))
        for ours, other in zip(here, found['reference'], strict=True)
    ]
    difference = float(max(np.nanmean(log[np.isfinite(log)]) for log in logs))
    steps = {name for result in here for name in result.timings_ms}
    return {
        'frames': len(here),
        'refined_frames': sum(result.refinement is not None for result in here),
        'abs_rel': refinement.judged(shown, iter(here)),
        'ms': {
            step: float(np.median([r.timings_ms[step] for r in here if step in r.timings_ms]))
            for step in sorted(steps)
        },
        'network_log_difference': difference,
        'passed': difference <= AGREES,
    }


# --- gsplat --------------------------------------------------------------------------------------


@contextmanager
def gsplat_without_gpu() -> Iterator[None]:
    """Within, what draws on a GPU draws on the CPU, by gsplat's plain torch code."""
    import fake_gsplat  # which loads gsplat

    # what `install` needs of the fixture of pytest
    patch = SimpleNamespace(setitem=lambda modules, name, module: modules.update({name: module}))
    cuda._try_gsplat.cache_clear()
    with (
        mock.patch.dict(sys.modules),
        mock.patch.object(rasterizer, '_implementation', return_value=cuda.rasterize),
    ):
        fake_gsplat.install(patch)
        try:
            yield
        finally:
            cuda._try_gsplat.cache_clear()
