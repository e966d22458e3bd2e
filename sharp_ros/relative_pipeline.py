"""The pipeline of models without metres, and the choice between it and that of metric models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.engine import choose_device
from sharp_ros.errors import InputError
from sharp_ros.frame_result import BegunFrame, FrameResult, SeenFrame
from sharp_ros.loading import load_engine
from sharp_ros.mapping.map_files import MapState
from sharp_ros.pipeline import Pipeline
from sharp_ros.warm_up import warm_up_frame


def load_any_pipeline(config: SharpConfig) -> Pipeline:
    """The pipeline of the configured model, be it one with metres or without.

    Raises:
        ConfigError: if the model or the device does not exist.
        CheckpointError: if the weights cannot be loaded.
    """
    device = choose_device(config.model.device)
    engine, info = load_engine(config.model, device, relative=True)
    return (Pipeline if info.metric else RelativePipeline)(engine, info, config, device)


class RelativePipeline(Pipeline):
    """For models without metres: image to relative depth, of which nothing else can be made."""

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Run the network once on a pattern."""
        with self._bodiless():
            self.process(warm_up_frame(intrinsics), ())
        self.reset()

    def see(self, begun: BegunFrame) -> SeenFrame:
        """Take the depth of the network.

        Raises:
            EngineError: if the network cannot be run.
        """
        frame, size = begun.frame, begun.frame.intrinsics
        gaussians, predicted = begun.predicted(covariances=False, measured=False)
        assert gaussians is not None  # motion needs metres
        result = FrameResult(
            frame=frame,
            gaussians=replace(gaussians, quats=None, scales=None),
            depth=np.full((size.height, size.width), np.nan, np.float32),
            timings_ms=begun.clock.laps,
            relative_depth=predicted.depth,
        )
        return SeenFrame(result, begun)

    def place(self, seen: SeenFrame) -> FrameResult:
        """Nothing is left to be done."""
        return seen.result

    def restore(self, state: MapState) -> None:
        """Refuse, since this model makes no maps.

        Raises:
            InputError: `relative_model`.
        """
        raise self._refusal()

    def begin_snapshot(self) -> None:
        """Refuse, since this model sees no metres.

        Raises:
            InputError: `relative_model`.
        """
        raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(
            f'{self.info.name} gives relative depth, of which nothing can be made but '
            '~/relative_depth/image; choose a metric model',
            'relative_model',
        )
