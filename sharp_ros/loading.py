"""The model of a configuration, ready to run in the fastest way that works here."""

from __future__ import annotations

import logging

from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import ConfigError, SharpError
from sharp_ros.models import load_predictor, ModelInfo

_log = logging.getLogger(__name__)


def load_engine(
    model: ModelConfig, device: str, *, relative: bool = False
) -> tuple[Engine, ModelInfo]:
    """The model of a configuration, ready to run in the fastest way that passes the self-check.

    On a CPU ONNX Runtime runs nano, unless it is not installed or something else is asked for.

    Args:
        model: what is wanted.
        device: from `choose_device`.
        relative: whether a model without metres will do.

    Raises:
        ConfigError: if there is no such model, or it cannot run as configured.
        CheckpointError: if its weights cannot be loaded.
    """

    def load(*, onnx: bool) -> tuple[Engine, ModelInfo]:
        predictor, info = load_predictor(
            model.name,
            device,
            model.patch_batch,
            threads=model.threads,
            onnx=onnx,
            relative=relative,
        )
        return Engine(predictor, model), info

    free = model.execution == 'auto' and model.precision in ('auto', 'fp32') and device == 'cpu'
    if free and model.name == 'nano':
        try:
            engine, info = load(onnx=True)
            engine.prepare()
        except SharpError as error:
            level = logging.INFO if isinstance(error, ConfigError) else logging.WARNING
            _log.log(level, 'torch runs nano, which is slower: %s', error)
        else:
            return engine, info
    return load(onnx=model.execution == 'onnx')
