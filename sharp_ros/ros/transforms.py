"""tf2, where it is installed: frames looked up at a stamp, and those of virtual cameras broadcast.

`tf2_ros` is part of every ROS distribution but no wheel carries it. Without it the node
does all that needs no tf, and says so once.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from sharp_ros.camera import JITTER_NS
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros.conversions import (
    matrix_from_transform,
    stamp_ns_from_msg,
    transform_to_msg,
)
from sharp_ros.ros.parents import Parents, QUIET

try:
    import tf2_ros  # pyright: ignore[reportMissingImports]  (no wheel carries it)
except ImportError:
    tf2_ros: Any = None

TWO_PARENTS = 'tf_two_parents'  # reason under which frames are counted meanwhile
_HEARING = 1.0  # seconds within which a broadcaster of any moving frame is heard


def tf_is_installed() -> bool:
    """Whether tf can be used at all."""
    return tf2_ros is not None


class Transforms:
    """Listens to tf and broadcasts to it, each from its first use on.

    Args:
        node: that owns the subscriptions and publishers.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer: Any = None
        self._parents: Any = None
        self._listener: Any = None
        self._broadcasters: dict[bool, Any] = {}
        self._fixed: dict[str, Any] = {}
        self._since = self._asked = 0.0
        self._owners: dict[str, str | None] = {}

    def listen(self) -> None:
        """Begin to collect transforms, of which the first lookups need some history."""
        if tf2_ros is not None and self._buffer is None:
            self._since = self._asked = time.monotonic()
            self._parents = Parents(tf2_ros.Buffer())
            self._buffer = self._parents.buffer
            self._listener = tf2_ros.TransformListener(self._parents, self._node)

    def time_went_back(self, by_ns: int) -> None:
        """Forget what lies ahead: beside it tf takes in no transforms that are older by 10 s."""
        if self._buffer is not None and by_ns > JITTER_NS:
            self._buffer.clear()

    def lookup(
        self, target: str, source: str, stamp_ns: int, wait: float, tolerance: float = 0.0
    ) -> np.ndarray:
        """`T_target_source` [4, 4] at a stamp.

        Args:
            target: frame that points are taken to.
            source: frame they come from.
            stamp_ns: that of the image.
            wait: seconds to wait for transforms that have not arrived.
            tolerance: seconds by which, after that, a stamp may lie outside of those received.

        Raises:
            PoseUnavailableError: `no_tf` if tf2_ros is not installed, `tf_two_parents` if a frame
                on the path has two parents, else `no_transform`.
        """
        if tf2_ros is None:
            raise PoseUnavailableError(
                f'{source!r} is a frame of tf, but tf2_ros is not installed; install it '
                '(ros-<distro>-tf2-ros-py) or use the frames camera and world',
                'no_tf',
            )
        self.listen()
        self._refuse_two_parents(target, source)
        try:
            msg = self._nearest(target, source, stamp_ns, wait, tolerance)
        except (tf2_ros.TransformException, ValueError) as error:  # stamps may be before 1970
            raise PoseUnavailableError(
                f'no transform from {source!r} to {target!r}: {error}', 'no_transform'
            ) from error
        self._refuse_two_parents(target, source)  # it may have got the second one meanwhile
        return matrix_from_transform(msg.transform)

    def _nearest(
        self, target: str, source: str, stamp_ns: int, wait: float, tolerance: float
    ) -> Any:
        """The transform at a stamp, else one that is not farther from it than the tolerance.

        tf2 itself never goes beyond what it received, not even by a millisecond.
        """
        assert tf2_ros is not None
        stamp, within_ns = Time(nanoseconds=stamp_ns), tolerance * 1e9
        try:
            timeout = Duration(seconds=wait)
            return self._buffer.lookup_transform(target, source, stamp, timeout=timeout)
        except tf2_ros.TransformException:
            # the newest of all, or what there is shortly after, where nothing lies before
            for moment in (Time(), Time(nanoseconds=stamp_ns + int(within_ns))):
                try:
                    msg = self._buffer.lookup_transform(target, source, moment, timeout=Duration())
                except tf2_ros.TransformException:
                    continue
                if abs(stamp_ns_from_msg(msg.header) - stamp_ns) <= within_ns:
                    return msg
            raise

    def _refuse_two_parents(self, target: str, source: str) -> None:
        """Raise while a frame on the path between two others has two parents.

        Raises:
            PoseUnavailableError: `tf_two_parents`, with the frame, its parents and who may be at
                fault.
        """
        conflict = self._parents.conflict(target, source)
        if conflict is None:
            return
        frame, parents = conflict
        fixed = set(parents.values())
        if True in fixed:
            self._ask_again()
        topics = [topic for topic, kind in (('/tf', False), ('/tf_static', True)) if kind in fixed]
        named = ' and '.join(
            f'{p} ({"fixed" if parents[p] else "moving"})' for p in sorted(parents)
        )
        who = '; '.join(f'{topic}: {self._publishers(topic)}' for topic in topics)
        raise PoseUnavailableError(
            f'{frame} has {len(parents)} parents in tf, {named}; end all of their broadcasters '
            f'but one (publishers on {who})',
            TWO_PARENTS,
        )

    def _publishers(self, topic: str) -> str:
        found = self._node.get_publishers_info_by_topic(topic)
        names = {f'{p.node_namespace.rstrip("/")}/{p.node_name}' for p in found}
        return ', '.join(sorted(names)) or 'none any more'

    def _ask_again(self) -> None:
        """Receive fixed transforms anew: those of broadcasters that have gone do not count."""
        now = time.monotonic()
        if now - self._asked >= QUIET:
            self._parents.forget_fixed(before=self._asked)
            self._asked = now
            self._listener.unregister()
            self._listener = tf2_ros.TransformListener(self._parents, self._node)

    def broadcast_unless_owned(
        self, T_parent_child: np.ndarray, stamp_ns: int, parent: str, child: str
    ) -> str | None:
        """Broadcast a moving frame, unless another node does so.

        Two broadcasters of one frame make a robot jump. So nothing is broadcast until there was
        time to hear of another one, and a parent that was there before the first broadcast of our
        own, or is not ours, is another's for good.

        Args:
            T_parent_child: [4, 4].
            stamp_ns: of the image it belongs to.
            parent: frame it is placed in.
            child: frame to be broadcast.

        Returns:
            The parent in which another node places the frame, or None where none is known.
        """
        if tf2_ros is not None:
            self.listen()
            if time.monotonic() - self._since < _HEARING:
                return None
            owner = self._owners.get(child)
            if owner is None:
                ours = {parent} if child in self._owners else set()
                owner = min(self._parents.of(child).keys() - ours, default=None)
                self._owners[child] = owner
            if owner is not None:
                return owner
        self.broadcast(T_parent_child, stamp_ns, parent, child, fixed=False)
        return None

    def broadcast(
        self, T_parent_child: np.ndarray, stamp_ns: int, parent: str, child: str, *, fixed: bool
    ) -> None:
        """Broadcast where a frame of ours is.

        Args:
            T_parent_child: [4, 4].
            stamp_ns: of the image it belongs to.
            parent: frame it is placed in; where it has no name, nothing is sent.
            child: frame that no other node broadcasts.
            fixed: it never moves in its parent, so it is sent once and kept for late listeners.
        """
        if tf2_ros is None:
            self._node.get_logger().warning(
                'tf2_ros is not installed: the frames of virtual cameras, and of maps far from '
                'their origin, are not broadcast',
                once=True,
            )
            return
        if not (parent and child):  # one such message, kept for late listeners, breaks their tf
            return
        msg = transform_to_msg(T_parent_child, stamp_ns, parent, child)
        if not fixed:
            if fixed not in self._broadcasters:
                self._broadcasters[fixed] = tf2_ros.TransformBroadcaster(self._node)
            self._broadcasters[fixed].sendTransform(msg)
            return
        sent = self._fixed.get(child)
        if sent is not None and _same_place(sent, msg):
            return
        if sent is not None:  # tf2 goes on sending what it was given first
            self._node.destroy_publisher(self._broadcasters.pop(fixed).pub_tf)
        if fixed not in self._broadcasters:
            self._broadcasters[fixed] = tf2_ros.StaticTransformBroadcaster(self._node)
        self._fixed[child] = msg
        # on humble late listeners hear the last message alone, so it is complete
        self._broadcasters[fixed].sendTransform(list(self._fixed.values()))


def _same_place(one: Any, other: Any) -> bool:
    return (one.header.frame_id, one.transform) == (other.header.frame_id, other.transform)
