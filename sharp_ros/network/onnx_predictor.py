"""Networks in ONNX: nano as `sharp-ros export` writes it, and described ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn, Tensor

from sharp_ros.camera import FloorGeometry, Intrinsics
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.files import sha256_of
from sharp_ros.gaussians import Gaussians
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.description import DepthDescription
from sharp_ros.network.nano_arrays import check_is_nano, PIXELS
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.network.roles import NetworkPredictor, SessionPredictor
from sharp_ros.network.sessions import (
    open_session,
    Session,
    Way,
)

_TYPES: dict[str, Any] = {
    'tensor(float)': np.float32,
    'tensor(float16)': np.float16,
    'tensor(double)': np.float64,
    'tensor(int64)': np.int64,
    'tensor(int32)': np.int32,
    'tensor(uint8)': np.uint8,
}


class OnnxPredictor(NetworkPredictor[nn.Module], SessionPredictor):
    """What networks in ONNX between tensors have in common: no weights, and results on the CPU.

    Args:
        session: opened.
    """

    def __init__(self, session: Session) -> None:
        SessionPredictor.__init__(self, session)
        NetworkPredictor.__init__(self, _StandIn())

    def move(self, device: torch.device) -> None:
        """See `NetworkPredictor`; the provider takes its device again when it is next run."""
        if device.type == 'cpu' and self.session.provider != 'CPU':
            self.session.close()


class _StandIn(nn.Module):
    """In place of a network of torch: says that tensors are float32 and on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)


class OnnxNanoPredictor(OnnxPredictor, NanoPredictor):
    """Nano, its network in ONNX: what precedes and follows it is that of `NanoPredictor`.

    Raises:
        CheckpointError: if the file holds another network.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        check_is_nano(session)
        self._pixels = PIXELS

    @property
    def uses_geometry(self) -> bool:
        """See `NetworkPredictor`; known from the inputs of the file."""
        return 'geometry' in self.session.inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `NanoPredictor`."""
        feeds = dict(zip(self.session.inputs, (t.numpy() for t in inputs), strict=True))
        outputs = self.session.run(list(self.session.outputs), feeds)
        return tuple(torch.from_numpy(output) for output in outputs)


class OnnxDepthPredictor(OnnxPredictor):
    """Somebody else's monocular depth network; one layer of Gaussians, one a pixel.

    Those of a relative network lie between 1 at its nearest pixel and 2 at its farthest: no unit,
    and nothing but the order and the ratios of differences means anything, of inverse depth where
    the network says that larger is nearer.

    Args:
        description: of the network.
        session: of its file.

    Raises:
        CheckpointError: if file and description do not fit each other.
    """

    def __init__(self, description: DepthDescription, session: Session) -> None:
        super().__init__(session)
        self.description = description
        try:
            _check_fit(description, session)
        except ValueError as error:
            raise CheckpointError(
                f'{description.path} does not fit {session.path}: {error}'
            ) from error

    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[Tensor, ...]:
        """The image [rows, columns, 3] uint8 the network sees, and its focal length [1]."""
        columns, rows = self.description.image_size(intrinsics.width, intrinsics.height)
        shrinks = columns * rows < intrinsics.width * intrinsics.height
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        k = intrinsics.resized(columns, rows)
        focal = torch.tensor([(k.fx * k.fy) ** 0.5], dtype=torch.float32)
        return torch.from_numpy(cv2.resize(image, (columns, rows), interpolation=method)), focal

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Depth [rows', columns'], 0 or not finite where there is none, and the image in 0..1.

        Raises:
            InputError: `bad_output` if an output has another shape than described.
        """
        description, session = self.description, self.session
        small, focal = inputs
        rgb = small.permute(2, 0, 1).float() / 255
        feeds = {name: self._fed(name, value) for name, value in description.constants.items()}
        if description.focal is not None and description.focal[0] == 'input':
            feeds[description.focal[1]] = self._fed(description.focal[1], float(focal))
        feeds[description.image] = self._image(small, rgb)
        names = [description.depth]
        if description.sky is not None:
            names.append(description.sky[0])
        if description.focal is not None and description.focal[0] == 'output':
            names.append(description.focal[1])
        found = dict(zip(names, session.run(names, feeds), strict=True))
        factor = 1.0
        if description.focal is not None and description.focal[0] != 'input':
            kind, value = description.focal
            factor = float(focal) / (value if kind == 'canonical' else float(found[value].item()))
        depth = _depth(description, _plane(found[description.depth], description.channel), factor)
        if description.sky is not None:
            name, bound, above = description.sky
            sky = _plane(found[name], None)
            if sky.shape != depth.shape:
                raise InputError(
                    f'output {name} is {sky.shape}, but {description.depth} is {depth.shape}',
                    'bad_output',
                )
            depth[(sky > bound) if above else (sky < bound)] = np.inf
        return torch.from_numpy(depth), rgb

    def gaussians(
        self, outputs: Sequence[Tensor], intrinsics: Intrinsics, *, covariances: bool = True
    ) -> Gaussians:
        """See `NetworkPredictor`."""
        depth, rgb = outputs
        rows, columns = depth.shape
        if rgb.shape[1:] != depth.shape:
            image = cv2.resize(rgb.permute(1, 2, 0).numpy(), (columns, rows))
            rgb = torch.from_numpy(image).permute(2, 0, 1)
        k = intrinsics.resized(columns, rows)
        return gaussians_from_depth(depth[None], rgb, k, covariances=covariances)

    def _image(self, small: Tensor, rgb: Tensor) -> np.ndarray:
        description = self.description
        kind = _TYPES[self.session.inputs[description.image][0]]
        if kind is np.uint8:
            image = small.permute(2, 0, 1).numpy()
        else:
            mean, std = (
                torch.tensor(v)[:, None, None] for v in (description.mean, description.std)
            )
            image = ((rgb - mean) / std).numpy().astype(kind)
        image = image if description.layout == 'NCHW' else image.transpose(1, 2, 0)
        return np.ascontiguousarray(image[None])

    def _fed(self, name: str, value: float) -> np.ndarray:
        """A number as an input wants it."""
        kind, shape = self.session.inputs[name]
        return np.full([1] * len(shape), value, _TYPES[kind])


def open_described(
    description: DepthDescription,
    device: str = 'cpu',
    threads: int = 0,
    way: Way = ('auto', 'auto'),
) -> OnnxDepthPredictor:
    """The predictor of a description.

    Raises:
        ConfigError: see `open_session`.
        CheckpointError: if the file is missing, another one, or does not fit the description.
    """
    path = description.network
    if not path.is_file():
        name = description.path.stem
        advice = f'run `sharp-ros fetch {name}`' if description.url else description.by_hand
        raise CheckpointError(
            f'{description.file} lies neither beside {description.path} nor in '
            f'{path.parent}: {advice or "put it there"}'
        )
    if description.sha256 and sha256_of(path) != description.sha256:
        raise CheckpointError(f'{path} is not the file of {description.path}: its SHA-256 differs')
    return OnnxDepthPredictor(description, open_session(path, device, threads, way))


def _check_fit(description: DepthDescription, session: Session) -> None:
    """Compare names, types and shapes.

    Raises:
        ValueError: saying what differs.
    """
    given = {description.image, *description.constants}
    wanted = {description.depth, *([description.sky[0]] if description.sky else [])}
    if description.focal is not None and description.focal[0] != 'canonical':
        (given if description.focal[0] == 'input' else wanted).add(description.focal[1])
    inputs, outputs = set(session.inputs), set(session.outputs)
    if given != inputs:
        raise ValueError(f'the network takes {_listed(inputs)}, described are {_listed(given)}')
    if wanted - outputs:
        raise ValueError(f'the network gives {_listed(outputs)}, described are {_listed(wanted)}')
    for name in given:
        kind = session.inputs[name][0]
        if kind not in _TYPES:
            raise ValueError(f'input {name} is {kind}, which no image can be')
    kind, shape = session.inputs[description.image]
    if kind in ('tensor(int64)', 'tensor(int32)'):
        raise ValueError(f'input {description.image} is {kind}, which no image is')
    if kind == 'tensor(uint8)' and (any(description.mean) or set(description.std) != {1.0}):
        raise ValueError(
            f'input {description.image} takes bytes, so that mean and std mean nothing'
        )
    if len(shape) != 4:
        raise ValueError(f'input {description.image} is {shape}, not an image in a batch')
    order = ('batch', 'channels', 'height', 'width')
    order = order if description.layout == 'NCHW' else ('batch', 'height', 'width', 'channels')
    sizes = dict(zip(order, shape, strict=True))
    expected: dict[str, int | None] = {'batch': 1, 'channels': 3, 'height': None, 'width': None}
    if isinstance(description.size, tuple):
        expected |= {'width': description.size[0], 'height': description.size[1]}
    for axis, size in sizes.items():
        if isinstance(size, int) and size > 0 and size != expected[axis]:
            advice = '' if expected[axis] else '; give input.size as [width, height]'
            raise ValueError(
                f'input {description.image} has {axis} {size} in {shape} ({description.layout}), '
                f'described is {expected[axis] or description.size}{advice}'
            )


def _listed(names: set[str]) -> str:
    return ', '.join(sorted(names))


def _plane(output: np.ndarray, channel: int | None) -> np.ndarray:  # -> [rows, columns] float32
    """An output without its axes of size 1.

    Raises:
        InputError: `bad_output` if it is no image.
    """
    try:
        picked = output if channel is None else output[..., channel]
        plane = picked.reshape([n for n in picked.shape if n != 1])
        if plane.ndim != 2:
            raise IndexError
    except IndexError as error:
        raise InputError(
            f'an output of shape {output.shape} is no image of one channel; see output.channel',
            'bad_output',
        ) from error
    return plane.astype(np.float32)  # a copy, to be written to


def _depth(description: DepthDescription, value: np.ndarray, factor: float) -> np.ndarray:
    if description.kind == 'metric':
        return value * np.float32(factor)
    if description.kind == 'disparity':
        with np.errstate(divide='ignore', invalid='ignore'):
            depth = np.where(value > 0, np.float32(factor) / value, np.float32(np.inf))
            return np.where(np.isnan(value), np.float32(np.nan), depth)  # unknown, not free
    finite = np.isfinite(value)
    if not finite.any():
        return value
    low, high = value[finite].min(), value[finite].max()
    share = (value - low) / max(high - low, np.finfo(np.float32).tiny)
    return 2 - share if description.nearer_is_larger else 1 + share
