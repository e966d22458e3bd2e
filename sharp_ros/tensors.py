"""Between numpy and torch: arrays on the path of a frame, tensors for whoever asks for them.

Importing torch costs seconds and 190 MB, which a robot that runs its network elsewhere can spare.
So it is imported here when the first tensor is asked for, and not before.
"""

from __future__ import annotations

import sys
from typing import Any, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor(value: object) -> bool:
    """Whether it is a tensor of torch."""
    return not isinstance(value, np.ndarray) and 'torch' in sys.modules and _is(value)


def array_of(value: Any) -> np.ndarray:
    """An array, or a tensor on any device, as array: the same memory where that is possible."""
    return value.detach().cpu().numpy() if is_tensor(value) else np.asarray(value)


def tensor_of(value: Any) -> Tensor:
    """A tensor, or an array as tensor of the same memory."""
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    import torch

    return torch.from_numpy(np.asarray(value))


def give_tensors(cls: type, *names: str) -> None:
    """Have fields of a dataclass take arrays or tensors and give tensors; None stays None.

    What was given is what `vars` of an instance holds.
    """
    for name in names:
        setattr(cls, name, _Tensors(name))


class _Tensors:
    """A data descriptor: it stands before the value of the same name in the instance."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            raise AttributeError(self._name)
        return tensor_of(vars(instance)[self._name])

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value


def _is(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
