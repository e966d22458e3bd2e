"""Which parents each frame of tf is given, message by message: with two of them it jumps."""

from __future__ import annotations

import threading
import time
from typing import Any

QUIET = 5.0  # seconds without a message after which a moving parent is none any more


class Parents:
    """Stands between the listener of tf and its buffer, and remembers what passes.

    The buffer cannot be asked: it keeps the newest parent of a frame, so that two broadcasters
    make everything below that frame jump.

    Args:
        buffer: of tf2, which takes in what the listener hears.
    """

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self._lock = threading.Lock()  # the executor hears, the worker asks
        self._heard: dict[str, dict[str, tuple[float, bool]]] = {}  # by child, then parent
        self._doubtful = False  # whether any frame ever had two

    def set_transform(self, msg: Any, authority: str) -> None:
        """Take in a moving transform; named as in tf2, whose listener calls it."""
        self._note(msg, fixed=False)
        self.buffer.set_transform(msg, authority)

    def set_transform_static(self, msg: Any, authority: str) -> None:
        """Take in a fixed transform; see `set_transform`."""
        self._note(msg, fixed=True)
        self.buffer.set_transform_static(msg, authority)

    def of(self, child: str) -> dict[str, bool]:
        """Parents of a frame that still count, and whether it is fixed in each."""
        now = time.monotonic()
        with self._lock:
            heard = self._heard.get(child, {}).items()
            return {p: fixed for p, (when, fixed) in heard if fixed or now - when < QUIET}

    def conflict(self, target: str, source: str) -> tuple[str, dict[str, bool]] | None:
        """A frame on the path between two others that has several parents, and these."""
        if not self._doubtful:
            return None
        # above the common ancestor of the two it no longer matters who the parents are
        for frame in sorted(self._above(source) ^ self._above(target)):
            parents = self.of(frame)
            if len(parents) > 1:
                return frame, parents
        return None

    def forget_fixed(self, before: float) -> None:
        """Forget fixed parents that were last received before a time of the monotonic clock."""
        with self._lock:
            for child, heard in self._heard.items():
                kept = {p: h for p, h in heard.items() if not h[1] or h[0] >= before}
                self._heard[child] = kept

    def _note(self, msg: Any, *, fixed: bool) -> None:
        child = msg.child_frame_id.removeprefix('/')
        parent = msg.header.frame_id.removeprefix('/')
        if not (child and parent and child != parent):  # tf2 takes no notice of it either
            return
        with self._lock:
            heard = self._heard.setdefault(child, {})
            heard[parent] = (time.monotonic(), fixed)
            self._doubtful |= len(heard) > 1

    def _above(self, frame: str) -> set[str]:
        """A frame and all that it hangs on, by whatever parents."""
        found: set[str] = set()
        ahead = [frame]
        while ahead:
            frame = ahead.pop()
            if frame not in found:
                found.add(frame)
                ahead += self.of(frame)
        return found
