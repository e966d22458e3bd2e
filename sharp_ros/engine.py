"""Runs a predictor on a device: threads, timing, and a check of what comes out."""

from __future__ import annotations

import time

import numpy as np
import torch

from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.network.predictor import Predictor


def choose_device(device: str) -> str:
    """The torch device that `model.device` stands for.

    Raises:
        ConfigError: if a device is asked for that this machine or this torch does not have.
    """
    available = {'cpu': True, 'cuda': torch.cuda.is_available()}
    available['mps'] = torch.backends.mps.is_available()
    if device == 'auto':
        return next(name for name in ('cuda', 'mps', 'cpu') if available[name])
    if not available.get(device, False):
        raise ConfigError(
            f'model.device: {device} is not available here; set it to auto or cpu, or install a '
            'torch build for it (sharp-ros doctor shows what torch sees)'
        )
    return device


class Engine:
    """A predictor made ready to run frame after frame.

    Args:
        predictor: any callable of the `Predictor` role, on its device already.
        config: threads.
    """

    def __init__(self, predictor: Predictor, config: ModelConfig) -> None:
        self._predictor = predictor
        if config.threads:
            torch.set_num_threads(config.threads)
        self.last_ms = 0.0

    def warm_up(self, intrinsics: Intrinsics, runs: int = 2) -> None:
        """Predict a grey image, so that the first real one is not the slow one."""
        size = (intrinsics.height, intrinsics.width)
        image, depth = np.full((*size, 3), 127, np.uint8), np.ones(size, np.float32)
        for _ in range(runs):
            self.predict(image, intrinsics, depth)

    def predict(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """Gaussians of one image, in metres, in its optical frame; see `Predictor`.

        Raises:
            InputError: if the network returned values that are not finite.
        """
        start = time.perf_counter()
        gaussians = self._predictor(image, intrinsics, depth)
        # one reduction: a sum is finite only if every term is
        if not bool(torch.isfinite(gaussians.means.sum())):
            raise InputError('the network returned depth that is not finite', 'not_finite')
        self.last_ms = (time.perf_counter() - start) * 1e3
        return gaussians
