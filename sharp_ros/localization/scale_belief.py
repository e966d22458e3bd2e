"""What is believed about the logarithm of a factor, as a histogram (Thrun et al. 2005, chapter 4).

Evidence about a scale may contradict other evidence, and then one of them is true; their mean is
not. A histogram keeps them apart, and says how wide it is until more is known.
"""

from __future__ import annotations

import math

import numpy as np

_REACH, _STEP = 3.0, 0.01  # of the logarithm: factors from 1/20 to 20
_FAILURES = 0.2  # share of images on which a network fails
_DOUBT = 0.03  # probability that is kept for everything: nothing is ever ruled out for good


class Belief:
    """Probabilities of the values of a logarithm.

    Args:
        std: of the normal distribution around 0 to begin with; infinite: all are alike.
    """

    def __init__(self, std: float = math.inf) -> None:
        self._offsets = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        self._origin = self._pending = 0.0
        self._set(np.exp(-0.5 * (self._offsets / std) ** 2))

    @property
    def values(self) -> np.ndarray:
        """[N] logarithms that have a probability."""
        return self._origin + self._offsets

    @property
    def median(self) -> float:
        """Value that is as likely too small as too large."""
        return self._quantiles(0.5)[0]

    @property
    def variance(self) -> float:
        """Of the normal distribution that has as much within one and within two deviations."""
        low2, low, high, high2 = self._quantiles(0.0228, 0.1587, 0.8413, 0.9772)
        return max((high - low) / 2, (high2 - low2) / 4) ** 2 + self._pending

    @classmethod
    def of_frame_error(cls, std: float) -> Belief:
        """About what a single image adds: normal, and three times as large once in a while.

        Networks fail on single images, and by more than a normal distribution would have it.
        """
        usual = cls(std)
        usual.doubt(_FAILURES, 3 * std)
        return usual

    def copy(self) -> Belief:
        """An independent one that begins alike."""
        other = object.__new__(Belief)
        other.__dict__.update(self.__dict__)  # arrays are replaced, never written into
        return other

    def shift(self, by: float) -> None:
        """All values are so much larger."""
        self._origin += by

    def stretch(self, factor: float, about: float) -> None:
        """All differences from a value are so many times larger."""
        source = about + (self.values - about) / factor
        self._set(np.interp(source, self.values, self._weights, 0.0, 0.0))

    def widen(self, variance: float) -> None:
        """Add an independent normal error of that variance."""
        self._pending += variance
        std = math.sqrt(self._pending) / _STEP
        if std < 0.5:  # the bins would not show it
            return
        self._pending = 0.0
        self._set(smoothed(self._weights, std))

    def doubt(self, share: float, std: float) -> None:
        """With some probability all is as it was at the beginning: normal around 0."""
        other = np.exp(-0.5 * (self.values / std) ** 2)
        self._set((1 - share) * self._weights + share * _normalised(other))

    def likelihood(self, values: np.ndarray) -> np.ndarray:
        """Of other values [N], as far as all that was learnt tells."""
        return np.interp(values, self.values, self._weights)

    def add(self, error: Belief) -> None:
        """Add an independent error."""
        self._set(np.convolve(self._weights, error._weights, 'same'))
        self._origin += error._origin

    def learn(self, likelihood: np.ndarray, std: float = 0.0) -> None:
        """Bayes's rule.

        Args:
            likelihood: [N] of what was observed, under each of the values.
            std: of an error between the values and what was observed.
        """
        self._set(self._weights * (smoothed(likelihood, std / _STEP) if std else likelihood))

    def _set(self, weights: np.ndarray) -> None:
        self._weights = _normalised(weights)

    def _quantiles(self, *shares: float) -> list[float]:
        weights = self._weights - self._weights.min()  # without what is kept for everything
        sums = np.cumsum(weights)
        middles = (sums - 0.5 * weights) / sums[-1]  # half of a bin lies below its middle
        return [self._origin + float(np.interp(q, middles, self._offsets)) for q in shares]


def smoothed(weights: np.ndarray, std: float) -> np.ndarray:
    """Convolved with a normal distribution whose deviation is given in bins."""
    reach = min(math.ceil(4 * std), len(weights) // 2)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    return np.convolve(weights, kernel / kernel.sum(), 'same')


def _normalised(weights: np.ndarray) -> np.ndarray:
    weights = np.maximum(weights / weights.sum(), _DOUBT / len(weights))
    return weights / weights.sum()
