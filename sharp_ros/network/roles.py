"""The roles of predictors: one image to Gaussians. Needs no torch before a network of it comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any, Generic, Protocol, TYPE_CHECKING, TypeVar

import numpy as np

from sharp_ros.camera import FloorGeometry, Intrinsics
from sharp_ros.errors import ConfigError
from sharp_ros.gaussians import Gaussians
from sharp_ros.network.sessions import OnnxSession, OpenVinoSession, Session

if TYPE_CHECKING:
    import torch
    from torch import nn, Tensor

Network_co = TypeVar('Network_co', bound='nn.Module', covariant=True)


class Predictor(Protocol):
    """Image and intrinsics in, Gaussians in the camera's optical frame out."""

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """Predict.

        Args:
            image: [H, W, 3] uint8 RGB, rectified.
            intrinsics: of that image.
            depth: [H, W] float32 registered sensor depth in metres, for models that want it.

        Returns:
            Gaussians in metres with `grid` set, layer 0 being the visible surface.
        """
        ...


class NetworkPredictor(ABC, Generic[Network_co]):
    """A predictor in three steps, of which an engine may recast, compile or capture the second.

    Args:
        network: in evaluation mode, on the device it shall run on.

    Attributes:
        large: whether the network is so large that half precision pays.
        uses_geometry: whether gravity and the height of the camera change what it says.
    """

    large = False
    uses_geometry = False

    def __init__(self, network: Network_co) -> None:
        self.network = network
        self.device = next(network.parameters()).device

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`; sensor depth is ignored."""
        import torch

        with torch.inference_mode():
            inputs = (tensor.to(self.device) for tensor in self.inputs(image, intrinsics))
            return self.gaussians(self.forward(*inputs), intrinsics)

    @abstractmethod
    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[Tensor, ...]:
        """What `forward` takes, on the CPU; of the same shapes for images of the same shape.

        Args:
            image: see `Predictor`.
            intrinsics: of that image.
            geometry: where the floor is, if that is known; most networks have no use for it.
        """

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network, from tensors to float32 tensors on its device.

        It neither reads a value back nor brings one from the CPU, so that it can be captured.
        """

    @abstractmethod
    def gaussians(
        self, outputs: Sequence[Tensor], intrinsics: Intrinsics, *, covariances: bool = True
    ) -> Gaussians:
        """Gaussians in front of the camera, from what `forward` gave.

        Args:
            outputs: of `forward`.
            intrinsics: of the image.
            covariances: False if only points are needed.
        """

    def comparable(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What of `forward` is compared with float32, each of one kind, see `self_check`."""
        return outputs

    def cast(self, dtype: torch.dtype) -> None:
        """Bring the weights to a precision, in place."""
        self.network.to(dtype)

    def move(self, device: torch.device) -> None:
        """Bring the weights to a device, in place."""
        self.network.to(device)

    def shrink(self) -> bool:
        """Need less memory from now on, at the price of time; False if that is not possible."""
        return False


class SessionPredictor(ABC):
    """A predictor whose network is a file in ONNX, in three steps as those of `NetworkPredictor`.

    Args:
        session: opened.

    Attributes:
        session: as given.
        reference: `comparable` of the self-check's image as the exporter stored it, or ''.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reference = session.metadata.get('reference', '')

    def plainest(self) -> SessionPredictor | None:
        """The same, run in float32 by ONNX Runtime on the CPU, or without it by OpenVINO.

        Returns:
            None if that is what runs it already.
        """
        session = self.session
        if (session.runtime, session.provider) == ('onnx', 'CPU'):
            return None
        twin = copy(self)
        try:
            twin.session = OnnxSession(session.path)
        except ConfigError:  # not installed
            if session.precision == 'fp32':
                return None
            twin.session = OpenVinoSession(session.path)
        return twin

    @abstractmethod
    def inputs(
        self, image: np.ndarray, intrinsics: Intrinsics, geometry: FloorGeometry | None = None
    ) -> tuple[Any, ...]:
        """See `NetworkPredictor`; tensors or arrays."""

    @abstractmethod
    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """See `NetworkPredictor`; tensors or arrays."""

    @abstractmethod
    def comparable(self, outputs: Sequence[Any]) -> Sequence[Any]:
        """See `NetworkPredictor`; tensors or arrays."""
