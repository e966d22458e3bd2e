"""The one place a model is chosen: a table of names, and loading what a name stands for.

Beside the table there are the descriptions of other people's networks, `weights/*.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_ros.errors import CheckpointError, ConfigError
from sharp_ros.files import CACHE_FOLDER

if TYPE_CHECKING:
    from sharp_ros.network.description import DepthDescription
    from sharp_ros.network.nano_arrays import NanoArrays
    from sharp_ros.network.onnx_predictor import OnnxNanoPredictor
    from sharp_ros.network.roles import Predictor
    from sharp_ros.network.sessions import Way

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
        name: of the file here, where it is not the publisher's.
    """

    url: str
    sizes: tuple[int, int]
    terms: str
    check: Callable[[Path], object]
    sha256: str | None = None
    name: str = ''

    @property
    def file_name(self) -> str:
        """Our name of the file."""
        return self.name or self.url.rpartition('/')[2]


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
        check=lambda path: _load_sharp(path, 'cpu', patch_batch=0),
    ),
)
MODELS = {info.name: info for info in (_NANO, _SENSOR, _SHARP)}


def model_names() -> list[str]:
    """Names that `load_predictor` knows, besides paths."""
    return list(MODELS)


def onnx_files(name_or_path: str) -> list[Path]:
    """Files of a network in ONNX, as far as they are there: of nano by name, or of a path."""
    path = Path(os.path.expanduser(name_or_path))
    if name_or_path == _NANO.name:
        path = WEIGHTS_FOLDER / 'nano.onnx'
    elif name_or_path in described_names():
        path = WEIGHTS_FOLDER / f'{name_or_path}.yaml'
    files = [path, path.with_suffix('.safetensors')]  # where the graph refers to its weights
    if path.suffix in ('.yaml', '.yml') and path.is_file():
        from sharp_ros.network.description import load_description

        files = [path, load_description(path).network]
    return [file for file in files if file.is_file()]


def described_names() -> list[str]:
    """Names of descriptions that come with this package."""
    return sorted(path.stem for path in WEIGHTS_FOLDER.glob('*.yaml'))


def described_info(name: str) -> ModelInfo:
    """What a description that comes with this package says.

    Raises:
        CheckpointError: if it cannot be read.
    """
    from sharp_ros.network.description import load_description

    return _described(load_description(WEIGHTS_FOLDER / f'{name}.yaml'))


def by_hand(name: str) -> str:
    """How to come by the file of a description that names no address."""
    from sharp_ros.network.description import load_description

    description = load_description(WEIGHTS_FOLDER / f'{name}.yaml')
    return (
        f'{name} cannot be fetched: {description.by_hand} Licence: {description.licence}. '
        f'Put it at {CACHE_FOLDER / description.file}'
    )


def load_predictor(
    name_or_path: str,
    device: str = 'cpu',
    patch_batch: int = 0,
    *,
    threads: int = 0,
    way: Way = ('auto', 'auto'),
    relative: bool = False,
) -> tuple[Predictor, ModelInfo]:
    """Load a model by its name or from a file of weights.

    Args:
        name_or_path: `nano`, `sensor`, `sharp`, the name of a description, or the path of a
            `.safetensors` or `.onnx` file of nano, of a description (`.yaml`), or of a checkpoint
            of SHARP with any other ending.
        device: torch device the weights go to.
        patch_batch: see `SharpPredictor`; the other models have no use for it.
        threads: of networks in ONNX on a CPU; 0: see `inference_threads`.
        way: `model.execution` and `model.precision`: with onnx or openvino these run `nano`, else
            torch does; with openvino it runs any network in ONNX, else ONNX Runtime does.
        relative: whether a model will do that knows depth up to an affine map only.

    Raises:
        ConfigError: if the name is neither known nor a file, ONNX Runtime or OpenVINO is needed
            and missing, or the model is relative and must not be.
        CheckpointError: if the weights are missing, corrupt or of another network.
    """
    if name_or_path == _SENSOR.name:
        from sharp_ros.network.predictor import SensorPredictor

        return SensorPredictor(), _SENSOR
    if name_or_path == _NANO.name and way[0] in ('onnx', 'openvino'):
        return _load_onnx(WEIGHTS_FOLDER / 'nano.onnx', device, threads, way), _NANO
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
    path = Path(os.path.expanduser(name_or_path))  # pathlib raises where there is no such user
    if name_or_path in described_names():
        path = WEIGHTS_FOLDER / f'{name_or_path}.yaml'
    if path.is_file() and path.suffix in ('.yaml', '.yml'):
        return _load_described(path, device, threads, way, relative=relative)
    if path.is_file() and path.suffix == '.onnx':
        predictor = _load_onnx(path, device, threads, way)
        licence = predictor.session.metadata.get('licence', 'unknown')
        text = 'nano network in ONNX with weights of yours'
        return predictor, ModelInfo(str(path), text, licence, metric=True)
    if path.is_file() and path.suffix != '.safetensors':
        return _load_sharp(path, device, patch_batch), _SHARP
    if path.is_file():
        info = ModelInfo(str(path), 'nano network with weights of yours', 'unknown', metric=True)
        return _load_nano(path, device), info
    raise ConfigError(
        f'model.name {name_or_path!r} is neither one of '
        f'{", ".join((*model_names(), *described_names()))} nor a file'
    )


def _described(description: DepthDescription) -> ModelInfo:
    from sharp_ros.network.onnx_predictor import open_described

    def check(path: Path) -> None:
        open_described(replace(description, path=path, file=path.name))

    download = None
    if description.url:
        download = Download(
            description.url,
            description.sizes,
            description.text + (f'\n{description.source}' if description.source else ''),
            check=check,
            sha256=description.sha256 or None,
            name=description.file,
        )
    metric = description.kind != 'relative'
    return ModelInfo(
        description.path.stem,
        description.text,
        description.licence,
        metric=metric,
        download=download,
    )


def _load_described(
    path: Path, device: str, threads: int, way: Way, *, relative: bool
) -> tuple[Predictor, ModelInfo]:
    from sharp_ros.network.description import load_description
    from sharp_ros.network.onnx_predictor import open_described

    description = load_description(path)
    info = _described(description)
    if not (info.metric or relative):
        raise ConfigError(
            f'{info.name} gives relative depth, without a scale, which only the node can use '
            '(~/relative_depth/image); choose a metric model'
        )
    return open_described(description, device, threads, way), info


def _load_onnx(path: Path, device: str, threads: int, way: Way) -> NanoArrays | OnnxNanoPredictor:
    """Nano in a file: in arrays if a way is named, else in tensors."""
    from sharp_ros.network.sessions import open_session

    # of a file of others nobody knows here which weights it refers to
    files = onnx_files(_NANO.name) if path == WEIGHTS_FOLDER / 'nano.onnx' else []
    session = open_session(path, device, threads, way, files)
    if way[0] in ('onnx', 'openvino'):
        from sharp_ros.network.nano_arrays import NanoArrays

        return NanoArrays(session)
    from sharp_ros.network.onnx_predictor import OnnxNanoPredictor

    return OnnxNanoPredictor(session)


def _load_nano(path: Path, device: str) -> Predictor:
    from sharp_ros.network.nano import load_weights
    from sharp_ros.network.predictor import NanoPredictor

    return NanoPredictor(load_weights(path).to(device))


def _load_sharp(path: Path, device: str, patch_batch: int) -> Predictor:
    from sharp_ros.network.predictor import SharpPredictor
    from sharp_ros.network.sharp import load_checkpoint

    return SharpPredictor(load_checkpoint(path).to(device), patch_batch)
