"""Services of the node: reset, save and load the map, a snapshot, on and off. Standard types only.

What they do takes a while and must not hold up images: it runs on a thread of its own, one request
after the other, and only copies of the map are made between two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
import threading
import time
from typing import Any, Protocol

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
import rclpy.task
from std_srvs.srv import SetBool, Trigger

from sharp_ros.config import SharpConfig
from sharp_ros.errors import SharpError
from sharp_ros.mapping.map_files import load_map, map_folder, save_new_map
from sharp_ros.pipeline import Pipeline
from sharp_ros.snapshot import SnapshotCloud
from sharp_ros.worker import Worker

LAST_PATIENCE = 1.0  # seconds that a request or frame at work has left when the node ends


class Host(Protocol):
    """What the services need of the node."""

    def running(self) -> tuple[Pipeline, Worker[Any], SharpConfig]:
        """The parts at work; SharpError while the node is not active."""
        ...

    def publish_map(self) -> None:
        """Publish the map as it is now; on the worker thread."""
        ...

    def publish_snapshot(self, cloud: SnapshotCloud) -> None:
        """Publish a snapshot."""
        ...

    def timings(self) -> str:
        """How long the steps of recent frames took."""
        ...

    def patience(self) -> float:
        """Seconds after which the frame at work is taken to hang."""
        ...

    def enabled(self) -> bool:
        """Whether images are processed."""
        ...

    def set_enabled(self, enabled: bool) -> None:
        """Have images processed or not."""
        ...


class Services:
    """Creates the services and answers them.

    Args:
        node: that owns the services.
        host: the same node, as the services see it.
    """

    def __init__(self, node: Node, host: Host) -> None:
        self._node, self._host = node, host
        self._thread: Worker[None] = Worker(lambda _: None, lambda *_: None, 'sharp_services')
        self._snapshot_ready = threading.Event()
        self._next_save = 0.0  # a caller in a loop must not fill the disk
        # Not the group of the images: they would have to wait for the answers.
        group = MutuallyExclusiveCallbackGroup()
        triggers: dict[str, Callable[[], str]] = {
            'reset': self._reset,
            'save_map': self._save_map,
            'load_map': self._load_map,
            'snapshot': self._snapshot,
        }
        for name, action in triggers.items():
            node.create_service(
                Trigger, f'~/{name}', self._answering(action), callback_group=group
            )
        # one stops work, one tells why it is slow: they do not wait for what others asked for
        node.create_service(SetBool, '~/set_enabled', self._on_set_enabled)
        node.create_service(Trigger, '~/timings', self._on_timings)

    def stop(self) -> None:
        """Answer no more, and let the request at work end if that takes no longer than a moment.

        A map that is being saved is else left unfinished, which harms none that was saved before.
        """
        self._snapshot_ready.set()
        self._thread.stop(LAST_PATIENCE)

    def snapshot_is_complete(self) -> None:
        """Told by the node when no more frames are needed for the snapshot."""
        self._snapshot_ready.set()

    def _answering(self, action: Callable[[], str]) -> Callable[[Any, Any], Any]:
        """A service callback that answers with the message an action returns, or its error."""

        async def callback(request: Any, response: Any) -> Any:
            response.success, response.message = await self._in_background(action)
            return response

        return callback

    def _in_background(self, action: Callable[[], str]) -> rclpy.task.Future:
        def run() -> tuple[bool, str]:
            try:
                return True, action()
            except (SharpError, TimeoutError, OSError) as error:
                return False, str(error)
            except Exception as error:  # an answer is owed whatever happens
                return False, f'internal error, please report it: {type(error).__name__}: {error}'

        executor = self._node.executor
        answer = rclpy.task.Future(executor=executor)

        def done(future: Future[tuple[bool, str]]) -> None:
            stopped = (False, 'the node is shutting down')
            answer.set_result(stopped if future.exception() else future.result())
            executor.wake()  # it sleeps until an image or a timer otherwise

        self._thread.post(run).add_done_callback(done)
        return answer

    def _reset(self) -> str:
        pipeline, worker, _ = self._host.running()

        def reset() -> None:
            pipeline.reset()
            self._host.publish_map()

        worker.call(reset, self._host.patience())
        return 'the map is empty'

    def _save_map(self) -> str:
        pipeline, worker, config = self._host.running()
        if time.monotonic() < self._next_save:
            raise SharpError('the last map was saved less than a second ago; ask again later')
        state = worker.call(pipeline.map_state, self._host.patience())
        folder = save_new_map(Path(config.output.directory).expanduser(), state)
        self._next_save = time.monotonic() + 1.0
        self._node.get_logger().info(f'map saved in {folder}')
        return str(folder)

    def _load_map(self) -> str:
        pipeline, worker, _ = self._host.running()
        # by settings that were accepted before, which apply between two frames
        config = worker.call(lambda: self._host.running()[2], self._host.patience())
        directory = Path(config.output.directory).expanduser()
        folder = map_folder(directory, config.output.load)
        state = load_map(folder)

        def restore() -> None:
            pipeline.restore(state)
            self._host.publish_map()

        worker.call(restore, self._host.patience())
        self._node.get_logger().info(f'map loaded from {folder}')
        return f'{folder}, in frame {state.world_frame}; poses must be in the world it was made in'

    def _snapshot(self) -> str:
        pipeline, worker, _ = self._host.running()
        if not self._host.enabled():
            raise SharpError('images are ignored; call ~/set_enabled with true first')

        def begin() -> float:
            pipeline.begin_snapshot()
            self._snapshot_ready.clear()  # between two frames, of which the last one may have set
            return pipeline.config.snapshot.timeout

        timeout = worker.call(begin, self._host.patience())
        self._snapshot_ready.wait(timeout)
        # joined on this thread: the next images need not wait for it
        cloud = worker.call(pipeline.take_snapshot, self._host.patience()).cloud()
        self._host.publish_snapshot(cloud)
        return f'{len(cloud.points)} points of {cloud.frames} images on ~/snapshot/points'

    def _on_timings(self, request: Any, response: Any) -> Any:
        response.success, response.message = True, self._host.timings()
        return response

    def _on_set_enabled(self, request: Any, response: Any) -> Any:
        self._host.set_enabled(request.data)
        response.success = True
        response.message = 'enabled' if request.data else 'disabled: images are ignored'
        return response
