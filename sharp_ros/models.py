"""The one place a model is chosen: a table of names, and loading what a name stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_ros.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from sharp_ros.network.predictor import Predictor

WEIGHTS_FOLDER = Path(__file__).parent / 'weights'
# Weights whose licence does not let us ship them; the user puts them here.
CACHE_FOLDER = Path('~/.cache/sharp_ros')
SHARP_FILE = 'sharp_2572gikvuh.pt'


@dataclass(frozen=True)
class ModelInfo:
    """What a user must know of a model before trusting it.

    Attributes:
        name: as chosen by `model.name`.
        description: one sentence, honest about accuracy.
        licence: of the weights, SPDX where possible.
        metric: whether depth is in metres rather than up to scale.
        needs_depth: whether a registered depth image must come with every frame.
    """

    name: str
    description: str
    licence: str
    metric: bool
    needs_depth: bool = False


_NANO = ModelInfo(
    'nano',
    'small network for trying out and for machines without a GPU; metres are approximate',
    'Apache-2.0',
    metric=True,
)
_SENSOR = ModelInfo(
    'sensor',
    'registered sensor depth lifted to Gaussians; as accurate as the sensor',
    'Apache-2.0',
    metric=True,
    needs_depth=True,
)
_SHARP = ModelInfo(
    'sharp',
    'network of 702 M parameters for machines with a GPU; accuracy as published, not ours',
    'Apple Machine Learning Research Model licence, research only',
    metric=True,
)


def model_names() -> list[str]:
    """Names that `load_predictor` knows, besides paths."""
    return [_NANO.name, _SENSOR.name, _SHARP.name]


def load_predictor(name_or_path: str, device: str = 'cpu') -> tuple[Predictor, ModelInfo]:
    """Load a model by its name or from a file of weights.

    Args:
        name_or_path: `nano`, `sensor`, `sharp`, or the path of a `.safetensors` file of nano or
            of a `.pt` checkpoint of SHARP.
        device: torch device the weights go to.

    Raises:
        ConfigError: if the name is neither known nor a file.
        CheckpointError: if the weights are missing, corrupt or of another network.
    """
    from sharp_ros.network.predictor import SensorPredictor

    if name_or_path == _SENSOR.name:
        return SensorPredictor(), _SENSOR
    if name_or_path == _NANO.name:
        path = WEIGHTS_FOLDER / 'nano.safetensors'
        if not path.is_file():
            raise CheckpointError(f'{path} is missing; reinstall sharp_ros')
        return _load_nano(path, device), _NANO
    if name_or_path == _SHARP.name:
        path = CACHE_FOLDER.expanduser() / SHARP_FILE
        if not path.is_file():
            raise CheckpointError(
                f'the weights of SHARP are not at {path}; download {SHARP_FILE} (about 2.8 GB; '
                f'{_SHARP.licence}) from where the README of apple/ml-sharp says and put it there'
            )
        return _load_sharp(path, device), _SHARP
    path = Path(name_or_path).expanduser()
    if path.is_file() and path.suffix == '.pt':
        return _load_sharp(path, device), _SHARP
    if path.is_file():
        info = ModelInfo(str(path), 'nano network with weights of yours', 'unknown', metric=True)
        return _load_nano(path, device), info
    raise ConfigError(
        f'model.name {name_or_path!r} is neither one of {", ".join(model_names())} nor a file'
    )


def _load_nano(path: Path, device: str) -> Predictor:
    from sharp_ros.network.nano import load_weights
    from sharp_ros.network.predictor import NanoPredictor

    return NanoPredictor(load_weights(path).to(device))


def _load_sharp(path: Path, device: str) -> Predictor:
    from sharp_ros.network.predictor import SharpPredictor
    from sharp_ros.network.sharp import load_checkpoint

    return SharpPredictor(load_checkpoint(path).to(device))
