"""Whether scale anchors contradict each other, such as odometry on slipping wheels and a height.

Nothing of this changes the estimate: it is for people, who are to find out which of them is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
import math

import numpy as np

_RECENT = 2.0  # seconds of observations by which anchors are compared
_STDS, _LEAST = 3.0, 0.1  # standard deviations, and log scale, between two that disagree


class ScaleDispute:
    """What each anchor said lately about the log scale of one reference.

    Args:
        systematic: by anchor, the standard deviation of its errors that averaging does not remove.
        group: seconds within which observations of one anchor share their errors.
    """

    def __init__(self, systematic: Mapping[str, float], group: float) -> None:
        self._systematic, self._group_ns = systematic, int(group * 1e9)
        self._statements: dict[str, deque[_Statement]] = {}

    def clear(self) -> None:
        """Forget all that was said."""
        self._statements.clear()

    def add(self, source: str, stamp_ns: int, log_scale: float, variance: float) -> None:
        """Note what an anchor says, without the variance that averaging does not remove."""
        statements = self._statements.setdefault(source, deque())
        statements.append(_Statement(stamp_ns, log_scale, variance))

    def shift(self, by: float) -> None:
        """Go on with another reference, whose log scale is higher by so much."""
        for source, statements in self._statements.items():
            self._statements[source] = deque(
                replace(s, log_scale=s.log_scale + by) for s in statements
            )

    def log_scales(self, stamp_ns: int) -> dict[str, float]:
        """The log scales that two anchors ask for which contradict each other, else nothing."""
        since = stamp_ns - _RECENT * 1e9
        middles = {}
        for source, statements in self._statements.items():
            while statements and statements[0].stamp_ns < since:
                statements.popleft()
            if (
                not statements
                or statements[-1].stamp_ns - statements[0].stamp_ns < _RECENT / 2 * 1e9
            ):
                continue
            groups = len({s.stamp_ns // self._group_ns for s in statements})
            variance = float(np.median([s.variance for s in statements])) / groups
            middle = float(np.median([s.log_scale for s in statements]))
            middles[source] = middle, variance + self._systematic[source] ** 2
        if len(middles) < 2:
            return {}
        low = min(middles, key=lambda source: middles[source][0])
        high = max(middles, key=lambda source: middles[source][0])
        apart = middles[high][0] - middles[low][0]
        if apart < max(_STDS * math.sqrt(middles[high][1] + middles[low][1]), _LEAST):
            return {}
        return {source: middles[source][0] for source in (low, high)}


@dataclass(frozen=True)
class _Statement:
    stamp_ns: int
    log_scale: float
    variance: float
