"""Where, with what and how a report was measured."""

from __future__ import annotations

import os
from pathlib import Path
import platform
import shlex
import subprocess
import sys
from typing import Any

from sharp_ros import __version__


def circumstances() -> dict[str, Any]:
    """Where, with what and how a report was measured."""
    command = shlex.join(['sharp-ros', *sys.argv[1:]])
    return {'machine': machine(), 'commit': commit(), 'command': command}


def rss_mb() -> float:
    """Resident memory of this process, MB; without psutil its peak so far."""
    try:
        import psutil
    except ImportError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e6 if sys.platform == 'darwin' else 1024)
    return psutil.Process().memory_info().rss / 2**20


def commit() -> str:
    """Commit of the checkout this package runs from, else the version of the package."""
    root = Path(__file__).parents[2]
    try:
        answer = subprocess.run(
            ['git', '-C', str(root), 'rev-parse', '--show-toplevel', 'HEAD'],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.split('\n')
    except (OSError, subprocess.SubprocessError):
        return __version__
    # installed into some other repository's folder, its commit says nothing about us
    return answer[1][:12] if Path(answer[0]).resolve() == root.resolve() else __version__


def machine() -> dict[str, Any]:
    """The machine as reports of measurements name it."""
    import numpy as np

    try:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'
        versions = {'torch': torch.__version__}
    except ImportError:
        device, versions = 'unknown', {}
    total, _ = memory_gb()
    return {
        'cpu': cpu_name(),
        'cores': cores(),
        'load_average': round(os.getloadavg()[0], 2),  # above the cores: timings are too long
        'memory_gb': round(total, 1),
        'gpu': device,
        'system': platform.platform(),
        'python': platform.python_version(),
        'numpy': np.__version__,
        **versions,
        'sharp_ros': __version__,
    }


def cores() -> int:
    """Cores this process may use, which containers limit."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Name of the processor as the system gives it."""
    try:
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            key, _, value = line.partition(':')
            if key.strip() in ('model name', 'Model'):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_gb() -> tuple[float, float]:
    """Total and available memory, GB; 0 where the system does not say."""
    try:
        text = Path('/proc/meminfo').read_text(encoding='utf-8')
    except OSError:
        page, pages = os.sysconf('SC_PAGE_SIZE'), os.sysconf('SC_PHYS_PAGES')
        return page * pages / 1e9, page * pages / 1e9
    kilobytes = {line.split(':')[0]: int(line.split()[1]) for line in text.splitlines()}
    return kilobytes['MemTotal'] / 1e6, kilobytes['MemAvailable'] / 1e6
