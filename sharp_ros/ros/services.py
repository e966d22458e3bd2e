"""Services of the node: reset, save and load the map, a snapshot, on and off. Standard types only.

What they do takes a while and must hold up neither images nor each other: each service has a
thread of its own (`requests.py`), and only copies of the map are made between two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
import threading
import time
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
import rclpy.task
from std_srvs.srv import SetBool, Trigger

from sharp_ros.errors import InputError, PoseUnavailableError, SharpError
from sharp_ros.exchange.map_formats import save_snapshot, write_formats
from sharp_ros.mapping.map_files import load_map, map_folder, MapState, save_new_map
from sharp_ros.mapping.map_fit import MapFit
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.requests import Action, Lane
from sharp_ros.ros.session import Running

LOAD_PATIENCE = 10.0  # seconds within which a loaded map should have been checked
# Seconds between two maps, and between files of two snapshots: callers in a loop must not fill
# the disk.
SAVE_INTERVAL = 1.0
LAST_PATIENCE = 1.0  # seconds that a request or frame in progress has left when the node ends


class Save:
    """A map that was asked for; it holds a copy from when its turn comes, or the map goes."""

    def __init__(self, action: Callable[[Save], str]) -> None:
        self._action = action
        self.state: MapState | None = None

    def __call__(self) -> str:
        """See `requests.Action`."""
        return self._action(self)

    def copy(self, pipeline: Pipeline) -> MapState:
        """The map as it is to be saved; between two frames."""
        if self.state is None:
            self.state = pipeline.map_state()
        return self.state


class Services:
    """Creates the services and answers them.

    Args:
        node: that owns the services.
        running: what is at work; raises `SharpError` while the node is not active.
        set_enabled: has images processed or ignored.
        timings: how long the steps of recent frames took.
    """

    def __init__(
        self,
        node: Node,
        running: Callable[[], Running],
        set_enabled: Callable[[bool], None],
        timings: Callable[[], str],
    ) -> None:
        self._node, self._running = node, running
        self._set_enabled, self._timings = set_enabled, timings
        self._ending = threading.Event()
        self._snapshot_ready, self._map_checked = threading.Event(), threading.Event()
        self._loaded: MapFit | PoseUnavailableError | None = None  # what was found
        self._next_save = self._next_snapshot = 0.0
        # all are taken in at once, so that a service that is busy can say so
        group = ReentrantCallbackGroup()
        self._triggers: dict[str, Callable[..., str]] = {
            'reset': self._reset,
            'save_map': self._save_map,
            'load_map': self._load_map,
            'snapshot': self._snapshot,
        }
        self._lanes: dict[str, Lane] = {}
        for name in self._triggers:
            service = node.create_service(
                Trigger, f'~/{name}', self._answering(name), callback_group=group
            )
            has_client = partial(_has_client, node, service.srv_name)
            self._lanes[name] = Lane(name, has_client, node.get_logger().info)
        # one stops work, one says why it is slow: they do not wait for what others asked for
        node.create_service(SetBool, '~/set_enabled', self._on_set_enabled)
        node.create_service(Trigger, '~/timings', self._on_timings)

    def stop(self) -> None:
        """Answer no more, and let the request at work end if that takes no longer than a moment.

        A map that is being saved is else left unfinished, which harms none that was saved before.
        """
        self._ending.set()
        self._snapshot_ready.set()
        self._map_checked.set()
        end = time.monotonic() + LAST_PATIENCE
        for lane in self._lanes.values():
            lane.stop(max(0.0, end - time.monotonic()))

    def map_was_checked(self, loaded: MapFit | PoseUnavailableError) -> None:
        """Note what became of a map that was loaded."""
        self._loaded = loaded
        self._map_checked.set()

    def snapshot_is_complete(self) -> None:
        """Note that no more frames are needed for the snapshot."""
        self._snapshot_ready.set()

    def ask(self, name: str) -> str:
        """Do what a service does, in its turn, and wait for it; not on the executor's thread.

        Raises:
            SharpError: as the service would answer.
        """
        return self._lanes[name].ask(self._request(name), heard=False).result()

    def _request(self, name: str) -> Action:
        action = self._triggers[name]
        return Save(action) if name == 'save_map' else action

    def _answering(self, name: str) -> Callable[[Any, Any], Any]:
        """A service callback that answers with the message an action returns, or its error."""

        async def callback(_: Any, response: Any) -> Any:
            answer = await self._in_turn(self._lanes[name], self._request(name))
            assert answer is not None  # it is set, see `done`
            response.success, response.message = answer
            return response

        return callback

    def _in_turn(self, lane: Lane, action: Action) -> rclpy.task.Future[tuple[bool, str]]:
        executor = self._node.executor
        assert executor is not None  # the request came through it
        answer = rclpy.task.Future(executor=executor)

        def done(future: Future[str]) -> None:
            answer.set_result(self._answer(future))
            executor.wake()  # it sleeps until an image or a timer otherwise

        try:
            lane.ask(action).add_done_callback(done)
        except SharpError as error:
            answer.set_result((False, str(error)))
        return answer

    def _answer(self, future: Future[str]) -> tuple[bool, str]:
        error = future.exception()
        if error is None:
            return True, future.result()
        if self._ending.is_set():
            return False, 'the node is shutting down'
        if isinstance(error, (SharpError, TimeoutError, OSError)):
            return False, str(error)
        # an answer is owed whatever happens
        return False, f'internal error, please report it: {type(error).__name__}: {error}'

    def _reset(self) -> str:
        running = self._running()
        session = running.session

        def reset() -> None:
            self._keep_what_is_to_be_saved(session.pipeline)
            session.pipeline.reset()
            session.publish_map()
            self.map_was_checked(
                PoseUnavailableError(
                    'the map was reset before it was known whether the loaded one fits',
                    'map_reset',
                )
            )

        running.call(reset)
        running.health.verdict(None)
        return 'the map is empty'

    def _save_map(self, save: Save) -> str:
        running = self._running()
        session = running.session
        self._ending.wait(max(0.0, self._next_save - time.monotonic()))
        directory = Path(session.config.output.directory).expanduser()
        state = running.call(lambda: save.copy(session.pipeline))
        missing: list[str] = []

        def finish(partial: Path) -> None:
            suffixes = session.config.output.suffixes
            missing.extend(write_formats(partial, suffixes, self._ending.is_set))

        folder = save_new_map(directory, state, given_up=self._ending.is_set, finish=finish)
        self._next_save = time.monotonic() + SAVE_INTERVAL
        message = '; '.join((str(folder), *missing))
        self._node.get_logger().info(f'map saved in {message}')
        return message

    def _keep_what_is_to_be_saved(self, pipeline: Pipeline) -> None:
        """Copy the map, which goes, for those who asked for it before; between two frames."""
        waiting = [
            request
            for request in self._lanes['save_map'].requests()
            if isinstance(request, Save) and request.state is None
        ]
        if waiting:
            with suppress(InputError):  # it is empty
                state = waiting[0].copy(pipeline)
                for save in waiting[1:]:
                    save.state = state

    def _load_map(self) -> str:
        running = self._running()
        session = running.session
        # by settings that were accepted before, which apply between two frames
        output = running.call(lambda: session.config.output)
        folder = map_folder(Path(output.directory).expanduser(), output.load)
        state = load_map(folder)

        def restore() -> bool:
            self._keep_what_is_to_be_saved(session.pipeline)
            session.pipeline.restore(state)
            self._loaded = None
            self._map_checked.clear()  # between two frames, of which the last one may have set
            if session.pipeline.checks_loaded_map:
                return True
            session.publish_map()
            return False

        message = f'{folder}, in frame {state.world_frame}'
        if running.call(restore):
            message += '; ' + self._fit_of_loaded_map(running)
        self._node.get_logger().info(f'map loaded from {message}')
        return message

    def _fit_of_loaded_map(self, running: Running) -> str:
        """How the map that is being checked fits what is seen.

        Raises:
            SharpError: if it does not, or that is not known yet.
        """
        if not self._map_checked.wait(LOAD_PATIENCE):
            waiting = (
                'the loaded map is not in use yet: too few images with a known pose have come to '
                'tell whether it fits what is seen. It will be if it does, and the map of before '
                'goes on'
            )
            running.health.report('Mapping', 'map_unchecked', waiting)
            raise SharpError(waiting)
        fit = self._loaded
        refusal = fit.refusal() if isinstance(fit, MapFit) else fit
        if isinstance(fit, MapFit) and refusal is None:
            return f'it fits what is seen in {fit.frames} images by {fit.agreement:.0%}'
        raise refusal or SharpError('the node ended before the loaded map was checked')

    def _snapshot(self) -> str:
        running = self._running()
        session = running.session
        if not running.enabled:
            raise SharpError('images are ignored; call ~/set_enabled with true first')

        def begin() -> float:
            session.pipeline.begin_snapshot()
            self._snapshot_ready.clear()  # between two frames, of which the last one may have set
            return session.config.snapshot.timeout

        timeout = running.call(begin)
        self._snapshot_ready.wait(timeout)
        # joined on this thread: the next images need not wait for it
        cloud = running.call(session.pipeline.take_snapshot).cloud()
        session.outputs.publish_snapshot(cloud)
        if session.web is not None:
            session.web.offer_snapshot(cloud)
        message = f'{len(cloud.points)} points of {cloud.frames} images on ~/snapshot/points'
        output = session.config.output
        if output.suffixes:
            self._ending.wait(max(0.0, self._next_snapshot - time.monotonic()))
            try:
                files, missing = save_snapshot(
                    Path(output.directory), cloud, output.suffixes, self._ending.is_set
                )
            finally:
                self._next_snapshot = time.monotonic() + SAVE_INTERVAL
            message += '; '.join((f', in {" ".join(map(str, files))}', *missing))
        return message

    def _on_timings(self, request: Any, response: Any) -> Any:
        response.success, response.message = True, self._timings()
        return response

    def _on_set_enabled(self, request: Any, response: Any) -> Any:
        self._set_enabled(request.data)
        response.success = True
        response.message = 'enabled' if request.data else 'disabled: images are ignored'
        return response


def _has_client(node: Node, service: str) -> bool:
    """Whether a service has a client; where rclpy cannot tell, as on humble, it may have."""
    count = getattr(node, 'count_clients', None)
    return count is None or count(service) > 0
