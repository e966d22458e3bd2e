"""What our programs set for their whole process; importing this package sets nothing.

The node and the commands own their process and call `prepare_process` before they import anything
large. A program that uses `sharp_ros` as a library may call it too, as its first lines; without it
everything is as right, and somewhat slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import ctypes
import hashlib
import importlib
import os
from pathlib import Path
import platform
import site
import sys
from types import ModuleType
from typing import cast

# The shared memory that Fast DDS sets aside by itself is smaller than one image, so that it drops
# most best-effort messages of that size. Launch files, scripts/env.sh and containers set it, for
# all processes of a robot; see docs/launch.md.
TRANSPORTS, TRANSPORTS_FOR_IMAGES = 'FASTDDS_BUILTIN_TRANSPORTS', 'DEFAULT?sockets_size=8MB'
_PREFIX, _ANY_ROS_PACKAGE = 'AMENT_PREFIX_PATH', 'rmw_implementation'
_SPINS = 'GOMP_SPINCOUNT'
# A variable that the user has set keeps its value.
_ENVIRONMENT = {
    # Read by numba when it is first imported. OpenMP is safe to call from several threads and is
    # everywhere torch is; the TBB that other wheels bring along is often too old and only warned
    # of.
    'NUMBA_THREADING_LAYER_PRIORITY': 'omp tbb workqueue',
    # Read by OpenMP when torch is first imported. Its threads spin while they wait: for long, and
    # they take the cores away from the very nodes they wait for; never, and each of the network's
    # small operations waits for the scheduler. docs/benchmark.md has the numbers.
    _SPINS: '10000',
    # Read by torch when it first takes memory. A million small pages cost SHARP seconds on a CPU.
    'THP_MEM_ALLOC_ENABLE': '1',
}
_THREAD_COUNTS = (
    *('OMP_NUM_THREADS', 'NUMBA_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'),
    'OPENCV_FOR_THREADS_NUM',
)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_prepared = False
_may_spin = False  # by our own default


def prepare_process() -> None:
    """Set how this process waits, counts threads and keeps memory; before torch and numba load.

    Environment variables that are unset: threads of numba and torch, huge pages. glibc: blocks of
    up to 32 MB that were freed are kept, up to 256 MB of them. By default large ones go back to
    the system at once, and the next are handed out page by page and zeroed: for the images and
    clouds of a frame that takes half of the time that ROS costs.
    """
    global _prepared, _may_spin  # noqa: PLW0603 (it is about the process)
    _prepared = True
    _may_spin = _SPINS not in os.environ
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _keep_freed_memory(block=32 << 20, kept=256 << 20)


def prepare_for_ros() -> None:
    """Set what ROS reads from the environment when it is loaded; for this process and its own.

    Wheels of ROS make a virtual environment, or the packages of a user, a prefix of ROS, of which
    nothing else tells them. Where a distribution was sourced everything is as it set it.
    """
    os.environ.setdefault(TRANSPORTS, TRANSPORTS_FOR_IMAGES)
    prefixes = (sys.prefix, site.getuserbase())
    index = 'share/ament_index/resource_index/packages'
    found = [p for p in prefixes if (Path(p) / index / _ANY_ROS_PACKAGE).exists()]
    if found:
        os.environ.setdefault(_PREFIX, os.pathsep.join(found))


def prepare_for_ray() -> None:
    """Have Ray keep to itself that it was started; before it is imported."""
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')


def limit_threads(count: int) -> None:
    """Have every library of this process take so many threads; before they load."""
    os.environ.update(thread_limits(count))


def thread_limits(count: int) -> dict[str, str]:
    """The environment in which every library takes so many threads."""
    return dict.fromkeys(_THREAD_COUNTS, str(count))


def prepare_for_other_threads() -> None:
    """Have no OpenMP threads spin, in a process that was prepared and has not loaded them yet.

    For networks that run in threads of another library, which would lose the cores to them: what
    is left is loops of some milliseconds, that wait for the scheduler once each.
    """
    if _may_spin and 'torch' not in sys.modules:
        os.environ[_SPINS] = '0'


def prepare_for_large_network() -> None:
    """Keep freed memory without bound, shared by all threads, in a process that was prepared.

    In the decoders of a large network on a CPU that is a sixth of the time. What is kept fits
    badly to what is asked for next, so it also takes memory, too much in float32.
    """
    if _prepared:
        _keep_freed_memory(block=1 << 30, kept=2**31 - 1)
        _set_malloc(_M_ARENA_MAX, 1)  # blocks of more than 64 MB must be shared


def import_numba() -> None:
    """Import numba without SciPy and coverage, for a process that compiles our loops alone.

    numba imports both where they are installed, for linear algebra in compiled code, of which we
    have none, and to say which compiled lines ran: 18 MB of memory. Later imports find them.
    """
    with absent('scipy', 'coverage'), suppress(ImportError):  # of another version of numba
        for name in ('numba', 'numba.np.arraymath', 'numba.misc.coverage_support'):
            importlib.import_module(name)


def import_messages() -> None:
    """Import what ROS messages need without the parser of their definitions, for a node.

    It is for tools that make packages of messages, and takes 3 MB. Later imports find it.
    """
    with absent('rosidl_parser.parser'), suppress(ImportError):  # where ROS is not installed
        importlib.import_module('rosidl_generator_py')


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Packages that are not loaded yet cannot be in the block, as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = cast('ModuleType', None)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def inference_threads(wanted: int = 0) -> int:
    """How many threads a network gets on the CPU.

    Args:
        wanted: by the user; 0: as many as torch would take: what OMP_NUM_THREADS says, else one
            for each physical core that this process may run on.
    """
    if wanted:
        return wanted
    asked = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0]
    if asked.isdecimal() and int(asked):
        return int(asked)
    affinity = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))
    return max(1, len({_core_of(cpu) for cpu in affinity(0)}))


def processor() -> str:
    """Kind of the processor, with the instructions it has, as the system tells."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    facts = dict(line.replace('\t', '').split(':', 1) for line in lines if ':' in line)
    name = facts.get('model name', facts.get('CPU part', platform.processor())).strip()
    instructions = facts.get('flags', facts.get('Features', ''))
    digest = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return f'{name or "unknown"} ({platform.machine()}, {digest})'


def _core_of(cpu: int) -> str:
    """The processors that share a physical core with this one; itself where nobody tells."""
    topology = Path(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list')
    try:
        return topology.read_text()
    except OSError:
        return str(cpu)


def _keep_freed_memory(block: int, kept: int) -> None:
    """Have glibc keep freed blocks of at most `block` bytes, while at most `kept` lie free."""
    _set_malloc(_M_MMAP_THRESHOLD, block)
    _set_malloc(_M_TRIM_THRESHOLD, kept)


def _set_malloc(option: int, value: int) -> None:
    try:
        ctypes.CDLL('libc.so.6').mallopt(option, value)
    except (OSError, AttributeError):
        return  # another C library: slower, and no less right
