"""Inputs and outputs of a third-party depth network, read from a small YAML file beside it.

    description: relative depth of anything      file: depth.onnx       licence: Apache-2.0
    input: {name: pixel_values, size: 518, multiple_of: 14, mean: [...], std: [...]}
    output: {name: predicted_depth, kind: relative, larger_is: nearer}

`docs/onnx.md` explains every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math
from pathlib import Path
from typing import Any

from sharp_ros.errors import CheckpointError
from sharp_ros.files import CACHE_FOLDER

KINDS = ('metric', 'disparity', 'relative')
FOCAL = ('canonical', 'input', 'output')


@dataclass(frozen=True)
class DepthDescription:
    """A depth network in ONNX.

    Attributes:
        path: of the description.
        text: what the model is, in one sentence.
        licence: of the weights.
        file: name of the network, beside the description or in the cache folder.
        image: name of the input.
        size: pixels of the shorter side, whose image keeps its aspect, or (width, height).
        multiple_of: what both sides are multiples of.
        layout: NCHW or NHWC.
        mean: subtracted from colours in 0..1.
        std: what they are divided by then.
        depth: name of the output.
        kind: metric: metres; disparity: 1 / metres; relative: known up to an affine map.
        channel: of the output, where it has several; counted from 0 on its last axis.
        nearer_is_larger: of relative outputs.
        focal: how the focal length in pixels of the network's image enters: None; `canonical`:
            depth is that of a camera of this focal length; `input`: under this name; `output`:
            depth is that of a camera of the focal length which the network gives under this name.
        sky: name of an output, bound, and whether sky lies above it.
        constants: further inputs and their values.
        source: page of the publisher.
        url: of the file, where it can be fetched.
        sizes: least and greatest plausible size of the file, bytes.
        sha256: of the file, hexadecimal.
        by_hand: how to come by the file otherwise.
    """

    path: Path
    text: str
    licence: str
    file: str
    image: str
    size: int | tuple[int, int]
    depth: str
    kind: str
    multiple_of: int = 1
    layout: str = 'NCHW'
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channel: int | None = None
    nearer_is_larger: bool = False
    focal: tuple[str, Any] | None = None
    sky: tuple[str, float, bool] | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    source: str = ''
    url: str = ''
    sizes: tuple[int, int] = (1, 2**40)
    sha256: str = ''
    by_hand: str = ''

    @property
    def network(self) -> Path:
        """Where the network lies, or should: beside the description, else in the cache."""
        beside = self.path.parent / self.file
        return beside if beside.is_file() else CACHE_FOLDER.expanduser() / self.file

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of the network's image for a camera of this size."""
        if isinstance(self.size, tuple):
            return self.size
        scale, unit = self.size / min(width, height), self.multiple_of
        columns, rows = (max(1, round(s * scale / unit)) * unit for s in (width, height))
        return columns, rows


def load_description(path: Path) -> DepthDescription:
    """Read and check a description.

    Raises:
        CheckpointError: naming the key that is missing, unknown or wrong.
    """
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f'cannot read the description {path}: {error}') from error
    try:
        return _description(path, _Section('', tree))
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}; docs/onnx.md explains every key') from error


class _Section:
    """A mapping of the file whose keys are taken one by one, so that what is left is unknown."""

    def __init__(self, name: str, tree: Any) -> None:
        if not isinstance(tree, Mapping):
            raise ValueError(f'{name or "the file"} must be a mapping')
        self.name, self._left = name, dict(tree)

    def take(self, key: str, kind: Any, default: Any = None) -> Any:
        """A value of a type; without a default the key is required."""
        name = f'{self.name}.{key}'.lstrip('.')
        if key not in self._left:
            if default is None:
                raise ValueError(f'{name} is missing')
            return default
        value = self._left.pop(key)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise ValueError(f'{name} must be {kind.__name__}, got {value!r}')
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.take(key, str, default)
        if value not in choices:
            raise ValueError(f'{self.name}.{key} must be one of {", ".join(choices)}')
        return value

    def numbers(self, key: str, count: int, kind: Any, default: Any = None) -> tuple[Any, ...]:
        values = self.take(key, list, default)
        if len(values) != count:
            raise ValueError(f'{self.name}.{key} needs {count} numbers, got {values!r}')
        item = _Section(f'{self.name}.{key}', {str(i): v for i, v in enumerate(values)})
        return tuple(item.take(str(i), kind) for i in range(count))

    def section(self, key: str) -> _Section | None:
        if key not in self._left:
            return None
        return _Section(f'{self.name}.{key}'.lstrip('.'), self._left.pop(key))

    def holds(self, key: str) -> bool:
        return key in self._left

    def done(self) -> None:
        """Refuse keys that were not read.

        Raises:
            ValueError: naming it.
        """
        if self._left:
            where = f' in {self.name}' if self.name else ''
            raise ValueError(f'unknown key {", ".join(map(str, self._left))}{where}')


def _description(path: Path, top: _Section) -> DepthDescription:
    known: dict[str, Any] = {
        'path': path,
        'text': top.take('description', str),
        'licence': top.take('licence', str),
        'file': top.take('file', str),
        'source': top.take('source', str, ''),
        'url': top.take('url', str, ''),
        'sha256': top.take('sha256', str, ''),
        'by_hand': top.take('by_hand', str, ''),
    }
    if Path(known['file']).name != known['file']:
        raise ValueError('file must be a name without a folder; the file lies beside this one')
    if top.holds('bytes'):
        least, greatest = top.numbers('bytes', 2, int)
        known['sizes'] = (least, greatest)
    known |= _input(_required(top, 'input')) | _output(_required(top, 'output'))
    focal = top.section('focal')
    if focal is not None:
        kinds = [kind for kind in FOCAL if focal.holds(kind)]
        if len(kinds) != 1:
            raise ValueError(f'focal needs one of {", ".join(FOCAL)}')
        known['focal'] = (
            kinds[0],
            focal.take(kinds[0], float if kinds[0] == 'canonical' else str),
        )
        if known['focal'][0] == 'canonical' and known['focal'][1] <= 0:
            raise ValueError('focal.canonical must be positive')
        focal.done()
    if known['kind'] == 'relative' and known.get('focal', ('input',))[0] != 'input':
        raise ValueError('focal would scale metres, which relative outputs have none of')
    sky = top.section('sky')
    if sky is not None:
        above = sky.holds('above')
        bound = sky.take('above' if above else 'below', float)
        known['sky'] = (sky.take('name', str), bound, above)
        sky.done()
    constants = top.section('constants')
    if constants is not None:
        names = list(constants._left)
        known['constants'] = {name: constants.take(name, float) for name in names}
    top.done()
    return DepthDescription(**known)


def _required(top: _Section, key: str) -> _Section:
    section = top.section(key)
    if section is None:
        raise ValueError(f'{key} is missing')
    return section


def _input(section: _Section) -> dict[str, Any]:
    known = {
        'image': section.take('name', str),
        'multiple_of': section.take('multiple_of', int, 1),
        'layout': section.choice('layout', ('NCHW', 'NHWC'), 'NCHW'),
        'mean': section.numbers('mean', 3, float, [0.0] * 3),
        'std': section.numbers('std', 3, float, [1.0] * 3),
    }
    both = isinstance(section._left.get('size'), list)
    size = section.numbers('size', 2, int) if both else section.take('size', int)
    sides = size if isinstance(size, tuple) else (size,)
    unit = known['multiple_of']
    if unit < 1 or min(sides) < 1 or any(side % unit for side in sides):
        raise ValueError(f'{section.name}.size must be positive multiples of multiple_of ({unit})')
    if min(known['std']) <= 0:
        raise ValueError(f'{section.name}.std must be positive')
    section.done()
    return {**known, 'size': size}


def _output(section: _Section) -> dict[str, Any]:
    known: dict[str, Any] = {
        'depth': section.take('name', str),
        'kind': section.choice('kind', KINDS),
    }
    if section.holds('channel'):
        known['channel'] = section.take('channel', int)
    if known['kind'] == 'relative':
        larger = section.choice('larger_is', ('nearer', 'farther'))
        known['nearer_is_larger'] = larger == 'nearer'
    section.done()
    return known
