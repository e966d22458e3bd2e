"""How long the steps of one frame take."""

from __future__ import annotations

import time


class Stopwatch:
    """Laps of one frame in milliseconds, the first one from construction on."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to what is noted under a name."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now
