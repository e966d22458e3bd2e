"""Memory of a fused map of many Gaussians, and processor time of what is done with it.

    python bench/fused_map.py [--rows 1000000] [--rounds 15] [--before FOLDER] [--json FILE]

A corridor of walls of voxels is fused, as many as asked. Memory is what the process holds of it,
resident: once it is fused, between two views of it, and at most while keyframes are fused and
views rendered. Then, again and again: a keyframe of 98,304 Gaussians is fused, all Gaussians are
asked for, another keyframe is fused, a view is rendered, and once more with nothing changed.
`--before` has another copy of the package, as of an earlier commit, do the same in turns; what
counts are the ratios of each pair. Processor time of all threads: what other programs do meanwhile
lengthens it little.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import ctypes
import gc
import json
from pathlib import Path
import subprocess
import sys
import threading
import time
from typing import Any

HERE = Path(__file__).resolve().parents[1]
_STEP = 4.5  # metres of the corridor that one frame fills
_MIDDLE = 20.0


class Side:
    """A copy of the package, in a process of its own that answers one line at a time."""

    def __init__(self, tree: Path, rows: int) -> None:
        command = [sys.executable, __file__, '--rows', str(rows), '--serve', str(tree.resolve())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> dict[str, float]:
        """The numbers of one step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + '\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(tree: Path, rows: int) -> None:
    """Answer until nobody asks any more."""
    sys.path[0] = str(tree)
    # A pool that is kept would hide what is freed, so memory is asked for as by other programs.
    libc = ctypes.CDLL('libc.so.6')
    libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: larger blocks go back at once
    steps = Steps(rows, libc)
    for line in sys.stdin:
        print(json.dumps(getattr(steps, line.strip())()), flush=True)


class Steps:
    """What is measured; imports the package where it is made."""

    def __init__(self, rows: int, libc: ctypes.CDLL) -> None:
        import numpy as np

        from sharp_ros.camera import Frame, Intrinsics
        from sharp_ros.config import GaussianMapConfig, SharpConfig, ViewConfig
        from sharp_ros.gaussians import GaussianArrays, Gaussians
        from sharp_ros.mapping.gaussian_map import GaussianMap
        from sharp_ros.mapping.world_map import WorldMap
        from sharp_ros.se3 import look_at
        from sharp_ros.synthetic import Room
        from sharp_ros.views import Seen, VirtualCameras

        self._libc, self._rows, self._k = libc, rows, Intrinsics.from_hfov(1.2, 256, 192)
        self._map_of, self._arrays, self._gaussians = GaussianMap, GaussianArrays, Gaussians
        self._seen_of, self._frame_of = Seen, Frame
        eye = (_MIDDLE, 0.0, 0.0)
        view = ViewConfig(
            640, 480, frame='world', position=eye, target=(_MIDDLE + 3, 0.1, 0), source='map'
        )
        self._config = SharpConfig(
            gaussian_map=GaussianMapConfig(enabled=True, max_gaussians=rows), views={'map': view}
        )
        self._forward = look_at(np.zeros(3), np.array([1.0, 0, 0]), np.array([0.0, 0, 1]))
        self._views = VirtualCameras(self._config.views)
        self._world = WorldMap(self._config)
        room = Room(1)
        self._image, depth = room.render(self._k, room.pose(0.0))
        self._depth = np.clip(depth, 2.0, 4.5).astype(np.float32)
        del room  # its textures are large
        self._keyframe = self._keyframe_of()
        self._taken = 0
        # Once with everything, so that nothing is compiled or loaded later, then from nothing.
        self._fill(1)
        self.round()
        self._world._gaussians = None
        self._start = self._resident()
        self._world._gaussians = GaussianMap(self._config.gaussian_map)

    def memory(self) -> dict[str, float]:
        """Fill the map; bytes a Gaussian, resident."""
        self._fill(None)
        fused = self._resident()
        self._view()
        viewed = self._resident()
        n = self._count
        peak = self._most(self.round)
        found = {'fused': fused, 'viewed': viewed, 'peak': peak}
        return {'gaussians': n, **{k: (b - self._start) / n for k, b in found.items()}}

    def round(self) -> dict[str, float]:
        """Milliseconds of one round."""
        found = {'fuse': self._timed(self._fuse)}
        found['export'] = self._timed(lambda: self._world.fused()[0].arrays)
        found['fuse'] = (found['fuse'] + self._timed(self._fuse)) / 2
        found['view'] = self._timed(self._view)
        found['view_unchanged'] = self._timed(self._view)
        return found

    def save(self) -> dict[str, float]:
        """Milliseconds of copying the map, and of making its Gaussians from the copy."""
        held: list[Any] = []
        took = self._timed(lambda: held.append(self._fused().state()))

        def restore() -> None:
            other = self._map_of(self._config.gaussian_map)
            other.restore(held[0])
            other.gaussians()

        return {'copy': took, 'restore': self._timed(restore)}

    @property
    def _count(self) -> int:
        return len(self._fused())

    def _fused(self) -> Any:
        return self._world._gaussians

    def _timed(self, step: Any) -> float:
        start = time.process_time()
        step()
        return (time.process_time() - start) * 1e3

    def _fuse(self) -> None:
        self._taken += 1
        pose = self._forward.copy()
        pose[:3, 3] = _MIDDLE + 0.05 * self._taken, 0.0, 0.0
        self._fused().integrate(self._keyframe, self._depth, self._k, pose)

    def _view(self) -> None:
        pose = self._forward.copy()
        pose[:3, 3] = _MIDDLE, 0.0, 0.0
        frame = self._frame_of(self._image, self._k, 0, 'camera', pose, 'map')
        seen = self._seen_of(frame, self._keyframe, True)
        views, unplaced = self._views.render(('map',), seen, self._world, ())
        assert views
        assert not unplaced

    def _keyframe_of(self) -> Any:
        """Gaussians of a frame in two layers, as nano makes them."""
        import numpy as np
        import torch

        from sharp_ros.network.composer import gaussians_from_depth

        layers = torch.from_numpy(np.stack([self._depth, 1.5 * self._depth]))
        image = torch.from_numpy(self._image).permute(2, 0, 1) / 255
        made = gaussians_from_depth(layers, image, self._k)
        return self._gaussians.of_arrays(made.arrays, made.grid)

    def _fill(self, frames: int | None) -> None:
        """Fuse walls 0.15 m apart, a part of the corridor with each frame."""
        import numpy as np

        side = self._config.gaussian_map.voxel_size
        y, z = (np.arange(60) - 29.5) * side, np.arange(0.3, 0.3 + _STEP, 3 * side)
        x, y, z = (a.ravel() for a in np.meshgrid(y, y, z))
        rng = np.random.default_rng(0)
        depth = np.full((192, 256), 100, np.float32)
        taken = 0
        while len(self._fused()) < self._rows and taken != frames:
            n = min(len(x), self._rows - len(self._fused()))
            means = np.stack((x, y, z), 1)[:n] + rng.uniform(-0.01, 0.01, (n, 3))
            given = (
                means,
                rng.normal(size=(n, 4)),
                rng.uniform(0.005, 0.02, (n, 3)),
                rng.uniform(0.5, 1, n),
                rng.uniform(size=(n, 3)),
            )
            arrays = self._arrays(*(a.astype(np.float32) for a in given))
            pose = self._forward.copy()
            pose[:3, 3] = _STEP * taken, 0.0, 0.0
            self._fused().integrate(self._gaussians.of_arrays(arrays), depth, self._k, pose)
            taken += 1

    def _resident(self) -> float:
        gc.collect()
        self._libc.malloc_trim(0)
        return _anonymous()

    def _most(self, step: Callable[[], Any]) -> float:
        """The most that was resident during a step, looked at every millisecond."""
        seen, done = [0.0], threading.Event()

        def look() -> None:
            while not done.wait(1e-3):
                seen[0] = max(seen[0], _anonymous())

        watcher = threading.Thread(target=look)
        watcher.start()
        step()
        done.set()
        watcher.join()
        return seen[0]


def _anonymous() -> float:
    """Bytes of this process in memory or swapped out, but for files, which come and go."""
    lines = Path('/proc/self/status').read_text().splitlines()
    found = (line.split() for line in lines if line.startswith(('RssAnon', 'VmSwap')))
    return sum(1024.0 * int(kb) for _, kb, _ in found)


def measure(rows: int, rounds: int, before: Path | None) -> dict[str, Any]:
    """The report: medians of each side, and of the ratios of pairs."""
    import numpy as np

    sides = {'now': Side(HERE, rows)}
    if before is not None:
        sides = {'before': Side(before, rows), **sides}
    report: dict[str, Any] = {'memory': {name: side.ask('memory') for name, side in sides.items()}}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for n in range(rounds):
        for name, side in list(sides.items())[:: 1 if n % 2 else -1]:
            times[name].append(side.ask('round') | (side.ask('save') if n % 5 == 0 else {}))
    for side in sides.values():
        side.close()
    steps = list(times['now'][0])
    for name, taken in times.items():
        report.setdefault('cpu_ms', {})[name] = {
            step: round(float(np.median([t[step] for t in taken if step in t])), 2)
            for step in steps
        }
    if before is not None:
        pairs = list(zip(times['before'], times['now'], strict=True))
        report['now_over_before'] = {
            step: round(float(np.median([b[step] / a[step] for a, b in pairs if step in a])), 3)
            for step in steps
        } | {
            f'bytes_{kind}': round(
                report['memory']['now'][kind] / report['memory']['before'][kind], 3
            )
            for kind in ('fused', 'viewed', 'peak')
        }
    return report


def main() -> None:
    """Print the report, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rows', type=int, default=1_000_000, help='Gaussians')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--before', type=Path, help='folder that holds another sharp_ros')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--serve', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.rows)
        return
    sys.path[0] = str(HERE)
    from sharp_ros.evaluation.circumstances import commit, machine

    report = measure(options.rows, options.rounds, options.before)
    command = ' '.join(['python bench/fused_map.py', *sys.argv[1:]])
    report |= {'machine': machine(), 'commit': commit(), 'command': command}
    print(json.dumps(report, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
