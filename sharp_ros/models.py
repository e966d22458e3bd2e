"""The one place a model is chosen: a table of names, and loading what a name stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_ros.errors import CheckpointError, ConfigError
from sharp_ros.files import CACHE_FOLDER

if TYPE_CHECKING:
    from sharp_ros.network.predictor import Predictor

WEIGHTS_FOLDER = Path(__file__).parent / 'weights'
_SHARP_PARAMETERS = 702_305_169


@dataclass(frozen=True)
class Download:
    """Weights that everyone fetches from their publisher.

    Attributes:
        url: of the file, https.
        sizes: least and greatest plausible size of the file, bytes.
        terms: what the licence means, in plain words.
        check: raises `CheckpointError` for a file that is not these weights.
        sha256: of the file, hexadecimal, where one is published.
    """

    url: str
    sizes: tuple[int, int]
    terms: str
    check: Callable[[Path], object]
    sha256: str | None = None

    @property
    def file_name(self) -> str:
        """The publisher's name of the file, which is also ours."""
        return self.url.rpartition('/')[2]


@dataclass(frozen=True)
class ModelInfo:
    """What a user must know of a model before trusting it.

    Attributes:
        name: as chosen by `model.name`.
        description: one sentence, honest about accuracy.
        licence: of the weights, SPDX where possible.
        metric: whether depth is in metres rather than up to scale.
        needs_depth: whether a registered depth image must come with every frame.
        download: where its weights come from, if not with this package.
    """

    name: str
    description: str
    licence: str
    metric: bool
    needs_depth: bool = False
    download: Download | None = None


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
    download=Download(
        'https://ml-site.cdn-apple.com/models/sharp/sharp_2572gikvuh.pt',
        # half to single precision, and what the file says about its tensors
        sizes=(2 * _SHARP_PARAMETERS, 4 * _SHARP_PARAMETERS + 2**26),
        terms='For non-commercial scientific research and academic work only. Not allowed: '
        'commercial use of any kind, developing products, being part of a product or service. '
        'The same holds for whatever is derived from the weights: fine-tuned, converted, '
        'quantised, distilled. Who passes them on includes the agreement and its attribution. '
        'Binding is the agreement alone: the file LICENSE_MODEL of apple/ml-sharp.',
        check=lambda path: _load_sharp(path, 'cpu'),
    ),
)
MODELS = {info.name: info for info in (_NANO, _SENSOR, _SHARP)}


def model_names() -> list[str]:
    """Names that `load_predictor` knows, besides paths."""
    return list(MODELS)


def load_predictor(
    name_or_path: str, device: str = 'cpu', patch_batch: int = 0
) -> tuple[Predictor, ModelInfo]:
    """Load a model by its name or from a file of weights.

    Args:
        name_or_path: `nano`, `sensor`, `sharp`, or the path of a `.safetensors` file of nano or
            of a checkpoint of SHARP with any other ending.
        device: torch device the weights go to.
        patch_batch: see `SharpPredictor`; the other models have no use for it.

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
        assert _SHARP.download is not None
        path = CACHE_FOLDER.expanduser() / _SHARP.download.file_name
        if not path.is_file():
            raise CheckpointError(
                f'the weights of SHARP are not at {path}: run `sharp-ros fetch sharp` '
                f'(2.8 GB; {_SHARP.licence}), or put the file there yourself'
            )
        return _load_sharp(path, device, patch_batch), _SHARP
    path = Path(name_or_path).expanduser()
    if path.is_file() and path.suffix != '.safetensors':
        return _load_sharp(path, device, patch_batch), _SHARP
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


def _load_sharp(path: Path, device: str, patch_batch: int) -> Predictor:
    from sharp_ros.network.predictor import SharpPredictor
    from sharp_ros.network.sharp import load_checkpoint

    return SharpPredictor(load_checkpoint(path).to(device), patch_batch)
