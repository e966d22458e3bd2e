"""A recording or a camera through the pipeline of the node into a live view, without ROS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import logging
from pathlib import Path
import threading
import time

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import SharpError
from sharp_ros.exchange.map_formats import save_snapshot, write_formats
from sharp_ros.frame_result import OCCUPANCY
from sharp_ros.mapping.map_files import save_new_map
from sharp_ros.pipeline import Pipeline
from sharp_ros.sources import Source
from sharp_ros.viewpoints import WORLD
from sharp_ros.web.live import Controls, LiveView
from sharp_ros.web.page import plain
from sharp_ros.worker import Worker

_LONGEST_PAUSE = 2.0  # seconds between two images
_PATIENCE = 30.0  # seconds for the frame in progress
_log = logging.getLogger(__name__)
Timed = tuple[Frame, float]  # and when it came


def play(
    source: Source, pipeline: Pipeline, stop: threading.Event, say: Callable[[str], object]
) -> None:
    """Show a source at its own pace until it is asked to stop; frames that come too soon drop.

    Pauses of a recording last 2 s at most.

    Args:
        source: where frames come from.
        pipeline: that takes them; its configuration says where the page is.
        stop: ends it.
        say: told the address, and when the source has ended.

    Raises:
        InputError: of the source.
        ConfigError: of the page.
    """
    player = _Player(pipeline)
    try:
        say(f'open {player.view.url}')
        _feed(source, pipeline, player, stop)
        if not stop.is_set():
            say('the source has ended; the view stays until Ctrl-C')
        stop.wait()
    finally:
        player.close()


def _feed(source: Source, pipeline: Pipeline, player: _Player, stop: threading.Event) -> None:
    recorded = False
    world_frame, needs_depth = pipeline.config.pose.world_frame, pipeline.info.needs_depth
    last_ns, due = None, 0.0
    for frame in source.frames():
        if last_ns is None:
            pipeline.warm_up(frame.intrinsics)  # before the worker touches it
            last_ns, due = frame.stamp_ns, time.monotonic()
        # clocks may be set while they are recorded, and pauses be of hours
        due += min(max((frame.stamp_ns - last_ns) / 1e9, 0.0), _LONGEST_PAUSE)
        last_ns = frame.stamp_ns
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        recorded |= frame.T_world_camera is not None
        if recorded and frame.T_world_camera is None:
            continue  # a gap in the poses is none that odometry could fill
        depth = frame.depth if needs_depth else None
        player.submit(replace(frame, world_frame=world_frame, depth=depth))


class _Player:
    """A pipeline behind a worker, and the view of what it gives."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._ages: list[float] = []  # seconds, of recent frames
        self._problem = ''
        self._worker: Worker[Timed] = Worker(self._process, self._on_error, 'sharp_play')
        buttons = {'reset': self._reset, 'save map': self._save, 'snapshot': self._snapshot}
        try:
            self.view = LiveView(
                pipeline.config, Controls(buttons, look=self._look, words=self._words)
            )
        except SharpError:
            self._worker.stop()
            raise

    def submit(self, frame: Frame) -> None:
        """Hand over a frame, which is dropped if a newer one comes before its turn."""
        self._worker.submit((frame, time.monotonic()))

    def close(self) -> None:
        """End the view and the worker."""
        self.view.close()
        self._worker.stop()

    def _process(self, timed: Timed) -> None:
        frame, came = timed
        result = self._pipeline.process(frame, {OCCUPANCY} | self.view.wanted())
        self.view.offer(result)
        self._ages = [*self._ages[-50:], time.monotonic() - came]
        self._problem = '' if result.unmapped is None else f'not mapped: {result.unmapped}'

    def _on_error(self, error: Exception, reason: str) -> None:
        self._problem = f'{reason}: {error}'
        if not isinstance(error, SharpError):
            _log.error('frame dropped by an internal error, please report it: %r', error)

    def _words(self) -> Sequence[str]:
        counts = self._worker.counts()
        lines = [f'**frames** {counts.processed} shown, {counts.dropped} dropped']
        if self._ages:
            lines.append(f'**age** {1e3 * float(np.median(self._ages)):.0f} ms')
        return [*lines, plain(self._problem)] if self._problem else lines

    def _reset(self) -> str:
        self._worker.call(self._pipeline.reset, _PATIENCE)
        self.view.start_over(None)
        return 'the map is empty'

    def _save(self) -> str:
        state = self._worker.call(self._pipeline.map_state, _PATIENCE)
        directory = Path(self._pipeline.config.output.directory).expanduser()
        missing: list[str] = []
        suffixes = self._pipeline.config.output.suffixes
        folder = save_new_map(
            directory, state, finish=lambda made: missing.extend(write_formats(made, suffixes))
        )
        return '; '.join((str(folder), *missing))

    def _snapshot(self) -> str:
        pipeline = self._pipeline
        self._worker.call(pipeline.begin_snapshot, _PATIENCE)
        end = time.monotonic() + pipeline.config.snapshot.timeout
        while not pipeline.snapshot_is_complete and time.monotonic() < end:
            time.sleep(0.05)
        cloud = self._worker.call(pipeline.take_snapshot, _PATIENCE).cloud()
        self.view.offer_snapshot(cloud)
        said = f'{len(cloud.points)} points of {cloud.frames} images'
        output = pipeline.config.output
        if not output.suffixes:
            return said
        files, missing = save_snapshot(Path(output.directory), cloud, output.suffixes)
        return '; '.join((f'{said}, in {" ".join(map(str, files))}', *missing))

    def _look(self, T_world_view: np.ndarray) -> None:
        pipeline = self._pipeline

        def render() -> None:
            frame = pipeline.latest
            views, _ = pipeline.render_request(WORLD, T_world_view, frame, self.view.wanted())
            self.view.offer_views(views, frame, pipeline.map_origin)

        self._worker.call(render, _PATIENCE)
