"""A bound on how often an output is made."""

from __future__ import annotations

_EARLY = 20  # stamps jitter; a twentieth of the period early is on time


class RateLimiter:
    """Lets an output pass at most so many times a second, by the stamps of the images.

    Args:
        rate_hz: upper bound; may be replaced between two frames.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self._due_ns: int | None = None

    def take(self, stamp_ns: int) -> bool:
        """Whether the output is due at this stamp; if so, this turn is used up."""
        period_ns = int(1e9 / self.rate_hz)
        due_ns = stamp_ns if self._due_ns is None else self._due_ns
        if stamp_ns < due_ns - period_ns // _EARLY:
            return False
        self._due_ns = max(due_ns + period_ns, stamp_ns)
        return True

    def reset(self) -> None:
        """Let the next one pass."""
        self._due_ns = None
