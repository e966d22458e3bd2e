"""Whether a value deviates for good or by noise."""

from __future__ import annotations

import numpy as np

_ALLOWANCE, _THRESHOLD = 1.0, 5.0  # of the cumulative sums, standard deviations
_LEAST_TIME = 0.3  # seconds that a deviation must have lasted to be believed
_MEMORY = 1.0  # seconds without deviation that end one


class ChangeDetector:
    """Tells noise from a change: sums up deviations that keep their sign (CUSUM, Page 1954).

    Args:
        bound: standard deviations that one wild value counts at most.

    Attributes:
        typical: lower median of the differences that made up a change; the last one may be wild.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._sums = np.zeros(2)
        self._differences: list[float] = []
        self._quiet_ns = self._last_ns = 0
        self.typical = 0.0

    def persists(self, deviation: float, difference: float, stamp_ns: int) -> bool:
        """Add a difference, also in standard deviations; True once when a change is certain."""
        if stamp_ns - self._last_ns > _MEMORY * 1e9:
            self._sums[:], self._last_ns = 0, stamp_ns
        bounded = min(max(deviation, -self._bound), self._bound)
        if not self._sums.any():
            self._quiet_ns = self._last_ns
            self._differences.clear()
        change = np.array([bounded, -bounded]) - _ALLOWANCE
        self._sums = np.maximum(self._sums + change, 0)
        self._differences.append(difference)
        self._last_ns = stamp_ns
        lasted = (stamp_ns - self._quiet_ns) * 1e-9
        certain = bool(self._sums.max() > _THRESHOLD and lasted > _LEAST_TIME)
        if certain:
            self._sums[:] = 0
            ordered = sorted(self._differences, key=abs)
            self.typical = ordered[(len(ordered) - 1) // 2]
        return certain
