"""How frames get through the network: one by one, beside other work of the CPU, or on CUDA.

Every kind of queue has `launch`, which takes the network's inputs from the CPU, and `collect`,
which waits for what it made of them. With tensors both are called in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import time
from typing import Any, Protocol, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Forward = Callable[..., 'tuple[Tensor, ...]']
_WARM_UP_RUNS = 3  # before capture; libraries choose their kernels in the first ones
_SLOTS = 2  # one is uploaded to while the network reads the other


class InferenceQueue(Protocol):
    """The role of all queues."""

    def launch(self, inputs: Sequence[Any]) -> Any:
        """Begin with inputs on the CPU; returns what `collect` wants."""
        ...

    def waiting(self, flight: Any) -> Callable[[], None] | None:
        """What returns once the device is free for the next frame; None if nothing runs yet."""
        ...

    def collect(self, flight: Any) -> tuple[tuple[Any, ...], float]:
        """Wait for outputs on the device, and the duration of the network in ms."""
        ...

    def forget(self) -> None:
        """Let go of all buffers and captured graphs."""
        ...


class DirectQueue:
    """Any device: all work happens in `collect`.

    Args:
        forward: from tensors to tensors on one device.
        device: of it.
    """

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self._forward = forward
        self._device = device

    def launch(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `InferenceQueue`."""
        return inputs

    def waiting(self, flight: Sequence[Tensor]) -> None:
        """See `InferenceQueue`."""

    def collect(self, flight: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], float]:
        """See `InferenceQueue`."""
        start = time.perf_counter()
        outputs = self._forward(*(tensor.to(self._device) for tensor in flight))
        return outputs, (time.perf_counter() - start) * 1e3

    def forget(self) -> None:
        """See `InferenceQueue`; there is nothing to let go of."""


class ArrayQueue:
    """A network that takes and gives arrays; all work happens in `collect`, without torch.

    Args:
        forward: from arrays to arrays.
    """

    def __init__(self, forward: Callable[..., tuple[np.ndarray, ...]]) -> None:
        self._forward = forward

    def launch(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """See `InferenceQueue`."""
        return inputs

    def waiting(self, flight: Sequence[np.ndarray]) -> None:
        """See `InferenceQueue`."""

    def collect(self, flight: Sequence[np.ndarray]) -> tuple[tuple[np.ndarray, ...], float]:
        """See `InferenceQueue`."""
        start = time.perf_counter()
        outputs = self._forward(*flight)
        return outputs, (time.perf_counter() - start) * 1e3

    def forget(self) -> None:
        """See `InferenceQueue`; there is nothing to let go of."""


class CudaQueue:
    """Page-locked buffers, a stream that uploads and one that computes, and a captured graph.

    While the network works on one frame, the next one is uploaded and waits on the device. Frames
    may differ in size; each size gets its own buffers and graph.

    Args:
        forward: from tensors to tensors on the device, able to be captured.
        captured: whether to replay a CUDA graph instead of launching every kernel again.
    """

    def __init__(self, forward: Forward, *, captured: bool) -> None:
        import torch

        self._forward = forward
        self._captured = captured
        self._upload, self._compute = torch.cuda.Stream(), torch.cuda.Stream()
        # Graphs of all sizes work in the same memory: one replays at a time, and what it made is
        # copied before the next.
        self._pool = torch.cuda.graph_pool_handle()
        self._lanes: dict[Any, _Lane] = {}

    def launch(self, inputs: Sequence[Tensor]) -> _Flight:
        """See `InferenceQueue`; returns while the device works."""
        import torch

        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
        if key not in self._lanes:
            self._lanes[key] = self._lane(inputs)
        lane = self._lanes[key]
        slot = lane.slots[lane.frames % _SLOTS]
        lane.frames += 1
        slot.uploaded.synchronize()  # before that its host buffers are still being read
        for pinned, tensor in zip(slot.pinned, inputs, strict=True):
            pinned.copy_(tensor)
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._upload):
            self._upload.wait_event(slot.read)
            for on_device, pinned in zip(slot.on_device, slot.pinned, strict=True):
                on_device.copy_(pinned, non_blocking=True)
            slot.uploaded.record()
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(slot.uploaded)
            begun.record()
            outputs = lane.forward(*slot.on_device)
            slot.read.record()
            done.record()
        return _Flight(outputs, begun, done)

    def waiting(self, flight: _Flight) -> Callable[[], None]:
        """See `InferenceQueue`."""
        return flight.done.synchronize

    def collect(self, flight: _Flight) -> tuple[tuple[Tensor, ...], float]:
        """See `InferenceQueue`."""
        import torch

        flight.done.synchronize()
        for tensor in flight.outputs:  # made in one stream, read and freed in another
            tensor.record_stream(torch.cuda.current_stream())
        return flight.outputs, flight.begun.elapsed_time(flight.done)

    def forget(self) -> None:
        """See `InferenceQueue`."""
        import torch

        self._lanes.clear()
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def _lane(self, inputs: Sequence[Tensor]) -> _Lane:
        import torch

        slots = [
            _Slot(
                [tensor.pin_memory() for tensor in inputs],
                [tensor.to('cuda') for tensor in inputs],
                torch.cuda.Event(),
                torch.cuda.Event(),
            )
            for _ in range(_SLOTS)
        ]
        if not self._captured:
            return _Lane(slots, self._forward)
        static = [tensor.to('cuda') for tensor in inputs]
        torch.cuda.synchronize()
        with torch.cuda.stream(self._compute):
            for _ in range(_WARM_UP_RUNS):
                self._forward(*static)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # other threads may go on using the device meanwhile
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._compute, capture_error_mode='thread_local'
        ):
            made = self._forward(*static)

        def replay(*on_device: Tensor) -> tuple[Tensor, ...]:
            for fixed, tensor in zip(static, on_device, strict=True):
                fixed.copy_(tensor)
            graph.replay()
            # the next replay writes to the same place
            return tuple(tensor.clone() for tensor in made)

        return _Lane(slots, replay)


@dataclass
class _Slot:
    pinned: list[Tensor]
    on_device: list[Tensor]
    uploaded: torch.cuda.Event
    read: torch.cuda.Event


@dataclass
class _Lane:
    """Frames of one size."""

    slots: list[_Slot]
    forward: Forward
    frames: int = 0


@dataclass(frozen=True)
class _Flight:
    outputs: tuple[Tensor, ...]
    begun: torch.cuda.Event
    done: torch.cuda.Event
