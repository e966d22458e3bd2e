"""The model of a configuration, ready to run in the fastest way that works here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import logging

from sharp_ros import execution_choice
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine, release_memory
from sharp_ros.errors import ConfigError, SharpError
from sharp_ros.execution_choice import name_of
from sharp_ros.models import load_predictor, ModelInfo, onnx_files
from sharp_ros.network.roles import Predictor, SessionPredictor
from sharp_ros.network.sessions import Way
from sharp_ros.process import inference_threads
from sharp_ros.self_check import check_image

_log = logging.getLogger(__name__)
# In the order in which they are tried; the last resort of nano is torch.
_WAYS: list[Way] = [('openvino', 'bf16'), ('openvino', 'fp32'), ('onnx', 'fp32')]


def load_engine(
    model: ModelConfig, device: str, *, relative: bool = False
) -> tuple[Engine, ModelInfo]:
    """The model of a configuration, ready to run in the fastest way that passes the self-check.

    On a CPU that is measured for nano, once per machine, versions and weights: OpenVINO and ONNX
    Runtime as far as they are installed. Where neither can, torch runs it.

    Args:
        model: what is wanted.
        device: from `choose_device`.
        relative: whether a model without metres will do.

    Raises:
        ConfigError: if there is no such model, or it cannot run as configured.
        CheckpointError: if its weights cannot be loaded.
    """

    def load(way: Way) -> tuple[Predictor, ModelInfo]:
        return load_predictor(
            model.name,
            device,
            model.patch_batch,
            threads=model.threads,
            way=way,
            relative=relative,
        )

    ways = _ways(model, device)
    found = _fastest(model, ways, load) if ways else None
    if found is not None:
        return found
    # without a choice, or none of it able: the error of what was asked for tells the reason
    predictor, info = load((model.execution, model.precision))
    return Engine(predictor, model), info


def _ways(model: ModelConfig, device: str) -> list[Way]:
    """Among which the fastest is looked for; none where there is nothing to choose."""
    if device != 'cpu' or model.execution not in ('auto', 'openvino'):
        return []
    # Only nano brings along what it should give. Whether another network bears bf16 is for its
    # user to say, and of a large one several copies might not fit into the memory.
    if model.execution == 'auto' and not (model.name == 'nano' or model.name.endswith('.onnx')):
        return []
    return [
        (execution, precision)
        for execution, precision in _WAYS
        if model.execution in ('auto', execution) and model.precision in ('auto', precision)
    ]


def _fastest(
    model: ModelConfig, ways: list[Way], load: Callable[[Way], tuple[Predictor, ModelInfo]]
) -> tuple[Engine, ModelInfo] | None:
    """The engine of the fastest way, made ready; None if no way can be."""
    by_name = {name_of(*way): way for way in ways}
    made: dict[str, tuple[Engine, ModelInfo]] = {}
    runs: dict[str, Callable[[], object]] = {}
    refused: dict[str, str] = {}
    lasting = True  # whether what was refused is so until the next version

    def make_ready(name: str) -> None:
        nonlocal lasting
        try:
            predictor, info = load(by_name[name])
            engine = Engine(predictor, model)
            engine.prepare()
        except SharpError as error:
            level = logging.INFO if isinstance(error, ConfigError) else logging.WARNING
            _log.log(level, 'not in %s: %s', name, error)
            refused[name] = str(error)
            broken = isinstance(error.__cause__, ImportError)
            lasting = lasting and not (broken and execution_choice.installed(by_name[name][0]))
            return
        assert isinstance(predictor, SessionPredictor)
        made[name] = engine, info
        runs[name] = partial(predictor.forward, *predictor.inputs(*check_image()))

    threads = inference_threads(model.threads)
    key = execution_choice.key(onnx_files(model.name), threads, list(by_name))
    earlier = execution_choice.remembered(key)
    if earlier is not None and earlier.chosen in by_name:
        make_ready(earlier.chosen)
        if made:
            release_memory()  # which compiling took
            return made[earlier.chosen]
    for name in by_name:
        if name not in refused:
            make_ready(name)
    if not made or len(by_name) == 1:
        return next(iter(made.values()), None)
    choice = execution_choice.choose(model.name, runs, refused)
    _log.info('%s runs in %s', model.name, choice)
    if lasting:
        execution_choice.remember(key, choice)
    fastest = made[choice.chosen]
    made.clear()
    runs.clear()
    release_memory()  # of the slower ones
    return fastest
