"""Frames connected by recorded transforms, fixed and moving."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from sharp_ros.se3 import inverse, PoseBuffer
from sharp_ros.sources.base import pose_at, pose_buffer

_WORLDS = ('map', 'odom', 'world')  # roots of a tree whose z is up by contract (REP-105)


class RecordedTree:
    """What `/tf` and `/tf_static` of a recording say, all of it known before the first image."""

    def __init__(self) -> None:
        self._fixed: dict[str, tuple[str, np.ndarray]] = {}
        self._samples: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = defaultdict(list)
        self._moving: dict[str, tuple[str, PoseBuffer]] | None = None

    def add(
        self, parent: str, child: str, T_parent_child: np.ndarray, stamp_ns: int | None
    ) -> None:
        """Take in one transform; a fixed one has no stamp."""
        parent, child = parent.lstrip('/'), child.lstrip('/')
        if stamp_ns is None:
            self._fixed[child] = parent, T_parent_child
        else:
            self._samples[parent, child].append((stamp_ns, T_parent_child))
            self._moving = None

    def lookup(
        self, target: str, source: str, stamp_ns: int | None = None
    ) -> np.ndarray | None:  # -> [4, 4]
        """`T_target_source`, or None if nothing connects them, without a stamp nothing fixed."""
        up_source = self._ancestors(source.lstrip('/'), stamp_ns)
        for frame, T_frame_target in self._ancestors(target.lstrip('/'), stamp_ns).items():
            if frame in up_source:
                return inverse(T_frame_target) @ up_source[frame]
        return None

    def mounted(self, camera: str) -> dict[str, np.ndarray]:
        """`T_camera_x` [4, 4] of all frames x that are fixed to a camera, the camera included."""
        self._links()  # a transform sent once is fixed, too
        names = {camera.lstrip('/')}
        for child, (parent, _) in self._fixed.items():
            names |= {child, parent}
        found = {name: self.lookup(camera, name) for name in sorted(names)}
        return {name: T for name, T in found.items() if T is not None}

    def worlds(self, camera: str) -> Iterator[str]:
        """Frames above a camera between which and it something moves, the best first."""
        chain, frame, moving = [], camera.lstrip('/'), False
        while True:
            link = self._links().get(frame) or self._fixed.get(frame)
            if link is None or link[0] in chain or link[0] == camera:
                break
            moving = moving or frame in self._links()
            frame = link[0]
            if moving:
                chain.append(frame)
        chain.reverse()  # the outermost first, where none is known by name
        yield from sorted(chain, key=lambda f: _WORLDS.index(f) if f in _WORLDS else len(_WORLDS))

    def stamps(self, world: str, camera: str) -> list[int]:
        """Of the transform between both that was recorded least often, nanoseconds."""
        series, frame = [], camera.lstrip('/')
        while frame != world:
            moving = self._links().get(frame)
            link = moving or self._fixed.get(frame)
            if link is None:
                return []
            if moving is not None:
                series.append([stamp for stamp, _ in self._samples[moving[0], frame]])
            frame = link[0]
        return sorted(min(series, key=len, default=[]))

    def _links(self) -> dict[str, tuple[str, PoseBuffer]]:
        if self._moving is None:
            self._moving = {}
            # A frame with two parents: the one that was sent more often.
            for (parent, child), samples in sorted(
                self._samples.items(), key=lambda item: len(item[1])
            ):
                if len(samples) == 1:  # sent once it never moved
                    self._fixed.setdefault(child, (parent, samples[0][1]))
                else:
                    self._moving[child] = parent, pose_buffer(samples)
        return self._moving

    def _ancestors(self, frame: str, stamp_ns: int | None) -> dict[str, np.ndarray]:
        """`T_ancestor_frame` of a frame and all above it."""
        links = self._links()
        result = {frame: np.eye(4)}
        pose = np.eye(4)
        while True:
            moving = None if stamp_ns is None else links.get(frame)
            if moving is not None and stamp_ns is not None:
                parent, T_parent_frame = moving[0], pose_at(moving[1], stamp_ns)
            else:
                parent, T_parent_frame = self._fixed.get(frame, ('', None))
            if T_parent_frame is None or parent in result:
                return result
            pose = T_parent_frame @ pose
            result[parent] = pose
            frame = parent
