"""Which weights of a fine-tuning are kept: the best on held-out images, if better than before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

ERRORS = {'abs_rel': 'AbsRel', 'photometric': 'photometric difference'}  # the first there is


def error_name(metrics: Mapping[str, float]) -> str:
    """The metric of `validate` that judges: of depth where that is known, else of second views."""
    return next(name for name in ERRORS if name in metrics)


@dataclass
class Selection:
    """The best weights so far.

    Attributes:
        before: metrics of the weights that the run began with, on all held-out images.
        error: of the best weights, on the held-out images that a validation looks at.
        step: at which they were found; 0: they are those that the run began with.
        seen: training images until then.
        stale: validations since then.
        weights: the state of the network.
    """

    before: dict[str, float]
    error: float
    weights: dict[str, Tensor]
    step: int = 0
    seen: int = 0
    stale: int = 0

    def consider(
        self, metrics: Mapping[str, float], network: nn.Module, step: int, seen: int
    ) -> None:
        """Keep these weights instead if they are better."""
        error = metrics[error_name(metrics)]
        self.stale += 1
        if error < self.error:
            self.error, self.weights = error, state_of(network)
            self.step, self.seen, self.stale = step, seen, 0


@dataclass(frozen=True)
class Gain:
    """What a fine-tuning has changed on held-out images.

    Attributes:
        name: of the error, for people.
        before: error of the weights that the run began with.
        after: of the best ones of the run.
        images: that were held out.
    """

    name: str
    before: float
    after: float
    images: int
    kept: bool = True

    @property
    def better(self) -> bool:
        """Whether it was worth it."""
        return self.kept and self.after < self.before


def gain(rows: Sequence[Mapping[str, Any]]) -> Gain | None:
    """That of the last run that the rows of a log tell of; None unless it was a fine-tuning."""
    ends = [row for row in rows if 'final' in row]
    if not ends or 'before' not in ends[-1]:
        return None
    before, after = ends[-1]['before'], ends[-1]['final']
    name = error_name(before)
    first, error, kept = before[name], after[name], bool(ends[-1]['kept'])
    if not kept:  # `after` is `before`; so both of the images that every validation looks at
        checks = [row for row in rows if 'validation' in row]
        first = next((row['validation'][name] for row in checks if not row['seen']), first)
        error = min((row['validation'][name] for row in checks if row['seen']), default=first)
    return Gain(ERRORS[name], first, error, int(before['frames']), kept)


@torch.no_grad()
def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of all that the network is."""
    return {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
