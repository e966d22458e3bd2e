"""Runs a predictor on a device: precision, execution, memory, timing, self-check.

One module: each of these decisions depends on the others, and one object keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
import ctypes
import gc
import logging
import math
import os
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING, TypeVar

import numpy as np

from sharp_ros import self_check
from sharp_ros.camera import FloorGeometry, Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.errors import ConfigError, EngineError, InputError
from sharp_ros.files import sha256_of
from sharp_ros.gaussians import Gaussians
from sharp_ros.inference_queue import (
    ArrayQueue,
    CudaQueue,
    DirectQueue,
    Forward,
    InferenceQueue,
)
from sharp_ros.network.nano_arrays import NanoArrays
from sharp_ros.network.roles import NetworkPredictor, Predictor, SessionPredictor
from sharp_ros.network.sessions import Session
from sharp_ros.process import prepare_for_large_network, prepare_for_other_threads

if TYPE_CHECKING:
    import torch
    from torch import nn, Tensor

_Result = TypeVar('_Result')
_log = logging.getLogger(__name__)
DTYPES = {'fp32': 'float32', 'tf32': 'float32', 'fp16': 'float16', 'bf16': 'bfloat16'}  # of torch
# Without one of these torch finds no GPU. The devices of NVIDIA's driver may appear only once they
# are used, its version is there as soon as it is loaded.
_GPU_FILES = (
    *('/proc/driver/nvidia/version', '/dev/nvidiactl', '/dev/nvhost-ctrl-gpu', '/dev/nvmap'),
    *('/dev/kfd', '/dev/dxg'),  # AMD; Windows' own for its Linux
)


def dtype_of(precision: str) -> torch.dtype:
    """In which weights are kept."""
    import torch

    return getattr(torch, DTYPES[precision])


def choose_device(device: str) -> str:
    """The torch device that `model.device` stands for.

    Raises:
        ConfigError: if a device is asked for that this machine or this torch does not have.
    """
    if device == 'cpu' or (device == 'auto' and not _may_have_gpu()):
        return 'cpu'
    import torch

    available = {'cpu': True, 'cuda': torch.cuda.is_available()}
    available['mps'] = torch.backends.mps.is_available()
    if device == 'auto':
        return next(name for name in ('cuda', 'mps', 'cpu') if available[name])
    if not available.get(device, False):
        raise ConfigError(
            f'model.device: {device} is not available here; set it to auto or cpu, or install a '
            'torch build for it (sharp-ros doctor shows what torch sees)'
        )
    return device


def choose_precision(precision: str, device: str, *, large: bool) -> str:
    """The precision that `model.precision` stands for.

    Args:
        precision: as configured.
        device: from `choose_device`.
        large: see `NetworkPredictor`.

    Raises:
        ConfigError: if the device cannot compute in it.
    """
    if precision == 'auto':
        if not large or device == 'mps':
            return 'fp32'
        if device == 'cuda':
            import torch

            return 'bf16' if torch.cuda.is_bf16_supported() else 'fp16'
        return 'bf16' if _cpu_multiplies_bf16() else 'fp32'
    if precision == 'tf32' and device != 'cuda':
        raise ConfigError('model.precision: tf32 exists on cuda only; set it to auto')
    if precision == 'fp16' and device == 'cpu':
        raise ConfigError('model.precision: fp16 needs a GPU; set it to bf16 or auto')
    return precision


def choose_execution(execution: str, device: str) -> str:
    """The execution that `model.execution` stands for.

    Raises:
        ConfigError: if the device cannot do it.
    """
    if execution in ('onnx', 'openvino'):
        raise ConfigError(
            f'model.execution: {execution} needs nano, or the path of an .onnx file or of a '
            'description (.yaml); set it to auto'
        )
    if execution == 'auto':
        return 'graph' if device == 'cuda' else 'eager'
    if execution == 'graph' and device != 'cuda':
        raise ConfigError('model.execution: graph exists on cuda only; set it to auto')
    return execution


class Pending:
    """A frame that the network works on; made by `Engine.submit`.

    Attributes:
        wait: returns once the device is free for the next frame; None where it only begins to
            work when the result is asked for.
    """

    def __init__(
        self, finish: Callable[[bool], Gaussians], wait: Callable[[], None] | None = None
    ) -> None:
        self._finish = finish
        self.wait = wait

    def result(self, *, covariances: bool = True) -> Gaussians:
        """Wait for the Gaussians; to be called once.

        Args:
            covariances: False if only points are needed.

        Raises:
            InputError: if the network returned values that are not finite.
            EngineError: if memory is short.
        """
        return self._finish(covariances)


class Engine:
    """A predictor made ready to run frame after frame.

    The first call, or `prepare`, brings the weights to the chosen precision and compares what
    comes out with float32, once per weights and machine; see `self_check`.

    Args:
        predictor: any callable of the `Predictor` role, on its device already.
        config: precision, execution, threads.

    Attributes:
        precision: as chosen: fp32, tf32, fp16 or bf16; in ONNX Runtime what the network says.
        execution: as chosen: eager, graph or compile; of networks in ONNX runtime and provider.
        timings_ms: of the last frame, by stage: `input`, `forward`, `gaussians`.
        check_error: what the self-check found, None where nothing had to be compared.

    Raises:
        ConfigError: if the device cannot run it as configured.
    """

    def __init__(self, predictor: Predictor, config: ModelConfig) -> None:
        self._predictor = predictor
        self._network: NetworkPredictor[nn.Module] | NanoArrays | None = None
        if isinstance(predictor, (NetworkPredictor, NanoArrays)):
            self._network = predictor
        network = predictor if isinstance(predictor, NetworkPredictor) else None
        self._tensors = network is not None  # else nothing here needs torch
        self._device: Any = network.device if network else 'cpu'  # of torch, where that is loaded
        device, large = (network.device.type, network.large) if network else ('cpu', False)
        self._device_kind = device
        if isinstance(predictor, SessionPredictor):
            session = predictor.session
            _check_free(config, session)
            self.precision = session.precision
            self.execution = f'{session.runtime} ({session.provider})'
        else:
            self.precision = choose_precision(config.precision, device, large=large)
            self.execution = choose_execution(config.execution, device)
        self.timings_ms: dict[str, float] = {}
        self.check_error: float | None = None
        self._queue: InferenceQueue | None = None
        self._made = False  # cast and compared, wherever the weights are now
        self._failure: Exception | None = None
        self._threads = config.threads

    @property
    def uses_geometry(self) -> bool:
        """Whether gravity and the height of the camera change what the network says."""
        return self._network is not None and self._network.uses_geometry

    @property
    def last_ms(self) -> float:
        """Duration of the last frame, all stages."""
        return sum(self.timings_ms.values())

    def prepare(self) -> None:
        """Cast, compile and check the network, unless that is done.

        Raises:
            EngineError: if the network made ready differs from the network in float32.
        """
        if self._network is None or self._queue is not None:
            return
        if self._failure is not None:
            raise self._failure
        if self._made:
            self._queue = self._made_again(self._network)
            return
        try:
            self._queue = self._made_ready(self._network)
            self._made = True
        except Exception as error:
            # the weights may be cast by now, and would pass a comparison with themselves
            self._failure = error
            raise

    def release(self) -> None:
        """Free the memory of the device; the next frame, or `prepare`, takes it again."""
        if self._network is not None and self._queue is not None:
            self._queue = None
            if isinstance(self._network, NetworkPredictor):
                import torch

                self._network.move(torch.device('cpu'))
            elif self._network.session.provider != 'CPU':
                self._network.session.close()
            release_memory()

    def _made_again(self, network: NetworkPredictor[nn.Module] | NanoArrays) -> InferenceQueue:
        if isinstance(network, NanoArrays):
            return _array_queue(network)
        network.move(self._device)
        return self._made_queue(network.forward)

    def _made_ready(self, network: NetworkPredictor[nn.Module] | NanoArrays) -> InferenceQueue:
        if isinstance(network, SessionPredictor):
            self.check_error = checked(network)
        if isinstance(network, NanoArrays):
            return _array_queue(network)
        if isinstance(network, SessionPredictor):
            return DirectQueue(network.forward, self._device)
        import torch

        how = f'{self.precision} ({self.execution})'
        changed = (self.precision, self.execution) != ('fp32', 'eager')
        key = self_check.key(network.network, self.precision, self.execution) if changed else ''
        error = self_check.remembered(key) if changed else None
        compared = changed and error is None
        allow_tf32(False)
        network.network.to(  # pyright: ignore[reportCallIssue]  # the stub lacks this overload
            memory_format=torch.channels_last
        )
        inputs: Sequence[Tensor] = ()
        expected: Sequence[Tensor] = ()
        if compared:
            _log.warning('comparing %s with fp32 on %s, once for these weights', how, self._device)
            inputs = network.inputs(*self_check.check_image())
            plain = DirectQueue(network.forward, self._device)
            exact = self._outputs(plain, inputs)
            expected = [tensor.cpu() for tensor in network.comparable(exact)]
        network.cast(dtype_of(self.precision))
        if network.large and self._device_kind == 'cpu' and self.precision != 'fp32':
            prepare_for_large_network()
        allow_tf32(self.precision == 'tf32')
        queue = self._made_queue(network.forward)
        if compared:
            found = network.comparable(self._outputs(queue, inputs))
            error = self_check.difference(found, expected)
        if error is not None and not error <= self_check.TOLERANCE:
            raise EngineError(
                f'self-check failed: {how} on {self._device} differs from fp32 by {error:.3g}, at '
                f'most {self_check.TOLERANCE:g} is allowed; set model.precision to fp32 and '
                'model.execution to eager'
            )
        if compared:
            assert error is not None
            self_check.remember(key, error)
        self.check_error = error
        return queue

    def warm_up(self, intrinsics: Intrinsics, runs: int = 2) -> None:
        """Prepare, and predict a grey image, so that the first real one is not the slow one.

        Raises:
            EngineError: see `prepare`.
        """
        size = (intrinsics.height, intrinsics.width)
        image, depth = np.full((*size, 3), 127, np.uint8), np.ones(size, np.float32)
        for _ in range(runs):
            self.predict(image, intrinsics, depth)

    def memory_mb(self) -> dict[str, int]:
        """Memory of the process, and what tensors hold on the device where that is a GPU."""
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        memory = {'memory_mb': pages * os.sysconf('SC_PAGE_SIZE') >> 20}
        if self._device_kind == 'cuda':
            import torch

            memory['gpu_memory_mb'] = torch.cuda.memory_reserved() >> 20
        return memory

    def predict(
        self,
        image: np.ndarray,
        intrinsics: Intrinsics,
        depth: np.ndarray | None = None,
        geometry: FloorGeometry | None = None,
        *,
        covariances: bool = True,
    ) -> Gaussians:
        """Gaussians of one image, in metres, in its optical frame; see `Predictor`.

        Args:
            image: [H, W, 3] uint8 RGB, rectified.
            intrinsics: of that image.
            depth: [H, W] float32 metres, for models that want it.
            geometry: where the floor is, for models that use it, see `uses_geometry`.
            covariances: False if only points are needed.

        Raises:
            InputError: if the network returned values that are not finite.
            EngineError: if the network cannot be made ready, or memory is short.
        """
        return self.submit(image, intrinsics, depth, geometry).result(covariances=covariances)

    def submit(
        self,
        image: np.ndarray,
        intrinsics: Intrinsics,
        depth: np.ndarray | None = None,
        geometry: FloorGeometry | None = None,
    ) -> Pending:
        """Begin a prediction; CUDA and OpenVINO work while the caller does other things.

        A second frame may be submitted before the first one is collected. With all else the work
        happens in `Pending.result`.

        Raises:
            EngineError: see `predict`.
        """
        if self._threads and self._tensors:
            import torch

            torch.set_num_threads(self._threads)  # the first numba kernel of a thread resets it
        self.prepare()
        start = time.perf_counter()
        network, queue = self._network, self._queue
        if network is None or queue is None:
            return Pending(lambda _: self._called(image, intrinsics, depth))
        inputs = network.inputs(image, intrinsics, geometry)
        flight = self._sparing(lambda: queue.launch(inputs))
        input_ms = (time.perf_counter() - start) * 1e3

        def finish(covariances: bool) -> Gaussians:
            outputs, forward_ms = self._sparing(lambda: queue.collect(flight))
            start = time.perf_counter()
            gaussians = self._sparing(
                lambda: network.gaussians(outputs, intrinsics, covariances=covariances)
            )
            _check_finite(gaussians)  # waits for the device, so that the time below is all of it
            gaussians_ms = (time.perf_counter() - start) * 1e3
            self.timings_ms = {
                'input': input_ms,
                'forward': forward_ms,
                'gaussians': gaussians_ms,
            }
            return gaussians

        return Pending(finish, queue.waiting(flight))

    @property
    def runs_beside(self) -> bool:
        """Whether the network has a device of its own, and may run beside the rest of a frame."""
        return isinstance(self._queue, CudaQueue)

    def _called(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None
    ) -> Gaussians:
        start = time.perf_counter()
        gaussians = self._predictor(image, intrinsics, depth)
        _check_finite(gaussians)
        self.timings_ms = {'forward': (time.perf_counter() - start) * 1e3}
        return gaussians

    def _made_queue(self, forward: Forward) -> InferenceQueue:
        if self.execution == 'compile':
            import torch

            forward = torch.compile(forward, dynamic=False)
        if self._device_kind == 'cuda':
            return CudaQueue(forward, captured=self.execution != 'eager')
        return DirectQueue(forward, self._device)

    def _outputs(self, queue: InferenceQueue, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._sparing(lambda: queue.collect(queue.launch(inputs)))[0]

    def _sparing(self, step: Callable[[], _Result]) -> _Result:
        """Run a step; where memory is too short for it, again with less at a time."""
        while True:
            try:
                with _inference_mode(tensors=self._tensors):
                    return step()
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                cause = str(error).partition('\n')[0]
            # outside of the handler, since the traceback holds on to what the step had made
            assert self._network is not None
            if self._queue is not None:
                self._queue.forget()
            if isinstance(self._network, NanoArrays) or not self._network.shrink():
                raise EngineError(
                    f'out of memory on {self._device} even with the smallest batch '
                    f'({cause}); close other programs or choose model.name: nano'
                )
            _log.warning('out of memory on %s: continuing with a smaller batch', self._device)


def checked(network: SessionPredictor) -> float | None:
    """How far a network in ONNX is from what it should give, once per weights and machine.

    Nano brings the answer of torch along, which it is compared with at every start. Others are
    compared with what `SessionPredictor.plainest` gives, if something else runs them.

    Raises:
        EngineError: if that is too far.
    """
    session = network.session
    plainest = None if network.reference else network.plainest()
    if not network.reference and plainest is None:
        return None
    inputs = network.inputs(*self_check.check_image())
    key, error = '', None
    if plainest is not None:
        way = (session.runtime, session.provider, session.precision)
        key = self_check.file_key(sha256_of(session.path), session.version, *way)
        error = self_check.remembered(key)
    if error is None:
        with _inference_mode(tensors=isinstance(network, NetworkPredictor)):
            found = network.comparable(network.forward(*inputs))
            if plainest is None:
                error = self_check.difference_from_stored(found, network.reference)
            else:
                runs = session.provider if session.runtime == 'onnx' else _way(session)
                _log.warning('comparing %s with CPU, once for %s', runs, session.path)
                expected = network.comparable(plainest.forward(*inputs))
                error = self_check.difference(found, expected)
    if not error <= self_check.TOLERANCE:
        advice = 'the provider does not suit it: export it again, or set model.device to cpu'
        if session.runtime == 'openvino':
            advice = 'OpenVINO does not suit it: export it again, or set model.execution to onnx'
        raise EngineError(
            f'self-check failed: {session.path} in {_way(session)} differs from its reference '
            f'by {error:.3g}, at most {self_check.TOLERANCE:g} is allowed; the file is damaged or '
            f'{advice}'
        )
    if key:
        self_check.remember(key, error)
    return error


def _array_queue(network: NanoArrays) -> InferenceQueue:
    prepare_for_other_threads()
    return ArrayQueue(network.forward)


def _inference_mode(*, tensors: bool) -> AbstractContextManager[Any]:
    if not tensors:
        return nullcontext()
    import torch

    return torch.inference_mode()


def _may_have_gpu() -> bool:
    """Whether torch might find one; asking torch itself costs its import."""
    named = 'torch' in sys.modules or sys.platform != 'linux'
    return named or any(Path(name).exists() for name in _GPU_FILES)


def _way(session: Session) -> str:
    return f'{session.runtime} ({session.provider}), {session.precision}'


def _check_free(config: ModelConfig, session: Session) -> None:
    if config.precision not in ('auto', session.precision) or config.execution not in (
        'auto',
        session.runtime,
    ):
        raise ConfigError(
            'model.precision and model.execution: a network in ONNX brings both; set both to auto'
        )


def _check_finite(gaussians: Gaussians) -> None:
    # one reduction: a sum is finite only if every term is
    with np.errstate(invalid='ignore'):
        on_cpu = gaussians.device == 'cpu'
        total = float((gaussians.arrays if on_cpu else gaussians).means.sum())
    if not math.isfinite(total):
        raise InputError('the network returned depth that is not finite', 'not_finite')


def _is_out_of_memory(error: RuntimeError) -> bool:
    # the libraries that torch calls say it in their own words
    words = ('DefaultCPUAllocator', 'out of memory', 'ALLOC_FAILED')
    kind = type(error).__name__  # torch is not loaded everywhere
    return kind == 'OutOfMemoryError' or any(w in str(error) for w in words)


def allow_tf32(allowed: bool) -> None:
    """For the whole process: whether cuda may round factors of float32 products to ten bits."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for it; emulated it is slower than float32."""
    import torch

    names = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def release_memory() -> None:
    """Give memory that lies free back to the system, of the device too."""
    gc.collect()  # tensors may hang in reference cycles
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL('libc.so.6').malloc_trim(0)
