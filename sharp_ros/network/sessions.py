"""Network files in ONNX, opened by ONNX Runtime or by OpenVINO: arrays in, arrays out.

Neither library is required, each is imported by its session only, and nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
import importlib
import os
from pathlib import Path
import sys
from typing import Any, cast, Protocol

import numpy as np

from sharp_ros.errors import CheckpointError, ConfigError
from sharp_ros.files import CACHE_FOLDER, sha256_of
from sharp_ros.network import compiled_files
from sharp_ros.process import absent, inference_threads

_PROVIDERS = {
    'cuda': ('TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'),
    'mps': ('CoreMLExecutionProvider', 'CPUExecutionProvider'),
    'cpu': ('CPUExecutionProvider',),
}
_HINTS = {'fp32': 'f32', 'bf16': 'bf16'}  # our names of precisions, and OpenVINO's
# OpenVINO's names of types, and ONNX Runtime's, by which descriptions are checked.
_ONNX_TYPES = {
    'f32': 'tensor(float)',
    'f16': 'tensor(float16)',
    'f64': 'tensor(double)',
    'i64': 'tensor(int64)',
    'i32': 'tensor(int32)',
    'u8': 'tensor(uint8)',
}
Way = tuple[str, str]  # `model.execution` and `model.precision`, either may be auto
_SIZES = 2  # sizes of images that stay compiled; a camera has one


class Session(Protocol):
    """The role of both sessions.

    Attributes:
        path: of the file.
        runtime: what runs it, as `model.execution` names it.
        provider: which part of the runtime, for people to read: CPU, CUDA, Tensorrt or CoreML.
        version: of the runtime.
        precision: of the arithmetic: fp32, bf16, or what the exporter wrote.
        metadata: what the exporter wrote into the file.
        inputs: by name, in the order of the file: type as ONNX Runtime names it, and shape, whose
            free sizes are no numbers.
        outputs: likewise.
    """

    path: Path
    runtime: str
    provider: str
    version: str
    precision: str
    metadata: dict[str, str]
    inputs: dict[str, tuple[str, tuple[Any, ...]]]
    outputs: dict[str, tuple[str, tuple[Any, ...]]]

    def run(self, names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs by their names, in arrays of the caller's own.

        Raises:
            RuntimeError: as the runtime says it, also for lack of memory.
        """
        ...

    def close(self) -> None:
        """Let go of all memory; the next `run` takes it again."""
        ...


class OnnxSession:
    """ONNX Runtime; see `Session`.

    Args:
        path: of the file.
        device: cpu, cuda or mps; the fastest provider that this ONNX Runtime has for it works.
        threads: of the CPU; 0: see `inference_threads`.

    Raises:
        ConfigError: if ONNX Runtime is not installed.
        CheckpointError: if it cannot load the file.
    """

    runtime = 'onnx'

    def __init__(self, path: Path, device: str = 'cpu', threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f'{path} needs ONNX Runtime, which is not installed: pip install onnxruntime '
                '(or onnxruntime-gpu)'
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; what can be done about a warning is done here
        # asked for, since the default pins threads, which containers forbid
        options.intra_op_num_threads = inference_threads(threads)
        # threads that wait in a loop for the next frame would starve what follows the network
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        available = onnxruntime.get_available_providers()
        names = [name for name in _PROVIDERS[device] if name in available]
        cache = {'trt_engine_cache_enable': '1', 'trt_engine_cache_path': str(_engines())}
        settings = [cache if name.startswith('Tensorrt') else {} for name in names]
        self._open: Callable[[], Any] = partial(
            onnxruntime.InferenceSession,
            str(path),
            options,
            providers=names,
            provider_options=settings,
        )
        try:
            session = self._session = self._open()
        except Exception as error:  # its exceptions have no common base
            cause = str(error).partition('\n')[0]
            raise CheckpointError(
                f'{path} is no network that ONNX Runtime {onnxruntime.__version__} can load: '
                f'{cause}'
            ) from error
        self.path = path
        self.provider = session.get_providers()[0].removesuffix('ExecutionProvider')
        self.version = onnxruntime.__version__
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self.precision = self.metadata.get('precision', 'as exported')
        self.inputs = {i.name: (i.type, tuple(i.shape)) for i in session.get_inputs()}
        self.outputs = {o.name: (o.type, tuple(o.shape)) for o in session.get_outputs()}

    def run(self, names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """See `Session`."""
        if self._session is None:
            self._session = self._open()
        outputs = self._session.run(list(names), feeds)
        return cast('list[np.ndarray]', outputs)  # not the sequences and maps of other networks

    def close(self) -> None:
        """See `Session`; the next `run` opens the file again."""
        self._session = None


class OpenVinoSession:
    """OpenVINO on the CPU; see `Session`.

    It compiles for the size of the images it is given, half a second at the first of each size:
    with sizes left open it is no faster than ONNX Runtime. What it compiled may be kept for the
    next start, see `compiled_files`.

    Args:
        path: of the file.
        precision: fp32 or bf16. OpenVINO left alone takes bf16 wherever the processor has
            instructions for it, so it is always told.
        threads: 0: see `inference_threads`.
        files: all that the network consists of; where they are not known nothing is kept.

    Raises:
        ConfigError: if OpenVINO is not installed, or the processor does not compute in bf16.
        CheckpointError: if it cannot load the file.
    """

    runtime = 'openvino'
    provider = 'CPU'

    def __init__(
        self,
        path: Path,
        precision: str = 'fp32',
        threads: int = 0,
        files: Sequence[Path] = (),
    ) -> None:
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise ConfigError(
                f'{path} shall run in OpenVINO, which is not installed: pip install openvino, or '
                'set model.execution to auto'
            ) from error
        self._core = openvino_core()
        able = self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        if precision == 'bf16' and 'BF16' not in able:
            raise ConfigError(
                'model.precision: this processor has no instructions for bf16; set it to auto'
            )
        self.version = openvino.__version__.partition('-')[0]
        self.path, self._files = path, files
        self._sizes: list[Any] = []  # for which the compiled network may be kept
        try:
            model = self._read_now()
            known = model.has_rt_info('framework')  # if anything was written into it
            facts = model.get_rt_info('framework').value if known else {}
        except RuntimeError as error:
            raise CheckpointError(
                f'{path} is no network that OpenVINO {self.version} can load: {_cause(error)}'
            ) from error
        self.metadata = {name: str(value) for name, value in facts.items()}
        self.precision = precision
        self.inputs = {port.any_name: _described(port) for port in model.inputs}
        self.outputs = {port.any_name: _described(port) for port in model.outputs}
        self._read: Any = model  # until it is compiled, for which it is changed
        self._settings = {
            'INFERENCE_PRECISION_HINT': _HINTS[precision],
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': inference_threads(threads),
            'ENABLE_CPU_PINNING': False,  # which containers forbid, and other nodes would suffer
        }
        self._requests: dict[Any, Any] = {}

    def run(self, names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """See `Session`; also compiles, if images of such a size have not come lately."""
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        key = tuple(sorted(shapes.items()))
        request = self._requests.pop(key, None) or self._compiled(shapes)
        self._requests[key] = request  # as the youngest
        while len(self._requests) > _SIZES:
            self._requests.pop(next(iter(self._requests)))
        request.infer(feeds, share_inputs=True)
        # copies, since the next run writes to the same place
        return [np.array(request.get_tensor(name).data) for name in names]

    def close(self) -> None:
        """See `Session`; the next `run` compiles again."""
        self._requests.clear()

    def _compiled(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """A request to the network for inputs of some shapes, kept or compiled now."""
        model, self._read = self._read or self._read_now(), None
        file = self._file(shapes)
        compiled = self._kept(file)
        if compiled is None:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            compiled = self._core.compile_model(model, 'CPU', self._settings)
            if file is not None:
                compiled_files.keep(file, compiled.export_model().getvalue())
                compiled = self._kept(file) or compiled  # which takes less memory
        works_in = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if works_in != _HINTS[self.precision]:
            raise RuntimeError(f'OpenVINO took {works_in} where {self.precision} was asked for')
        return compiled.create_infer_request()

    def _read_now(self) -> Any:
        """The network as it is in its files by now, of which a digest tells."""
        self._contents = [sha256_of(file) for file in self._files]
        return self._core.read_model(self.path)

    def _file(self, shapes: dict[str, tuple[int, ...]]) -> Path | None:
        """Where the network for these shapes is kept; None where it is not."""
        key = sorted(shapes.items())
        if not self._contents or (len(self._sizes) == _SIZES and key not in self._sizes):
            return None  # of ever new sizes all would stay in memory
        if key not in self._sizes:
            self._sizes.append(key)
        return compiled_files.file_for(self._contents, self.version, self._settings, key)

    def _kept(self, file: Path | None) -> Any:
        """The compiled network of a file; None if that cannot be used."""
        contents = None if file is None else compiled_files.mapped(file)
        if file is None or contents is None:
            return None
        tensor = import_openvino().Tensor(np.frombuffer(contents, np.uint8), shared_memory=True)
        try:
            compiled = self._core.import_model(tensor, 'CPU', self._settings)
        except (RuntimeError, TypeError):  # not of this OpenVINO; an older one takes no tensors
            compiled_files.discard(file)
            return None
        # most of the weights are in an order of its own by now
        compiled_files.give_back(file)
        return compiled


def open_session(
    path: Path, device: str, threads: int, way: Way, files: Sequence[Path] = ()
) -> Session:
    """A network file, opened by the runtime that a way of running names.

    Args:
        path: of the file.
        device: cpu, cuda or mps.
        threads: of the CPU; 0: see `inference_threads`.
        way: runtime and precision.
        files: see `OpenVinoSession`.

    Raises:
        ConfigError: if that is not installed, or has no such device or precision.
        CheckpointError: if it cannot load the file.
    """
    execution, precision = way
    if execution != 'openvino':
        return OnnxSession(path, device, threads)
    if device != 'cpu':
        raise ConfigError(
            f'model.execution: openvino computes on the CPU; set model.device to cpu, not {device}'
        )
    if precision not in ('auto', 'fp32', 'bf16'):
        raise ConfigError(
            f'model.precision: openvino computes in fp32 or bf16, not {precision}; set it to auto'
        )
    return OpenVinoSession(path, 'bf16' if precision == 'bf16' else 'fp32', threads, files)


@cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process, which lasts as long as that.

    The plugin for CPUs gives the thread that makes it an alternate stack for signals (2026.4.1)
    and takes the memory back with the last core. Handlers of Python run on such stacks: after that
    the next Ctrl-C would end the process.

    Raises:
        ImportError: if OpenVINO is not installed.
    """
    return import_openvino().Core()


def import_openvino() -> Any:
    """The package, without its telemetry, with which it would report every start to its maker.

    Nor with its converter of other frameworks' models, which takes memory and is not used.

    Raises:
        ImportError: if it is not installed.
    """
    if 'openvino' in sys.modules or 'openvino_telemetry' in sys.modules:
        return importlib.import_module('openvino')  # somebody else decided
    with absent('openvino_telemetry', 'openvino.tools'):
        return importlib.import_module('openvino')


def _engines() -> str:
    """Where TensorRT keeps what it builds, which takes minutes."""
    return os.fspath(CACHE_FOLDER.expanduser() / 'tensorrt')


def _described(port: Any) -> tuple[str, tuple[Any, ...]]:
    """Type and shape of an input or output of OpenVINO, as ONNX Runtime has them."""
    kind: str = port.element_type.get_type_name()
    sizes = [d.get_length() if d.is_static else '?' for d in port.partial_shape]
    return _ONNX_TYPES.get(kind, kind), tuple(sizes)


def _cause(error: RuntimeError) -> str:
    """The message of OpenVINO without the place in its source that precedes it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith('Exception from')), '')
