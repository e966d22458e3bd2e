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
import yaml

from sharp_ros.camera import JITTER_NS
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros.conversions import matrix_from_transform, transform_to_msg

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

_HEARING = 1.0  # seconds within which a broadcaster of any moving frame is heard


def tf_is_installed() -> bool:
    """Whether tf can be used at all."""
    return tf2_ros is not None


class Transforms:
    """Listens to tf and broadcasts to it, as far as somebody asks for either.

    Args:
        node: that owns the subscriptions and publishers.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer: Any = None
        self._listener: Any = None
        self._broadcasters: dict[bool, Any] = {}
        self._fixed: dict[str, tuple[str, bytes]] = {}
        self._since = 0.0
        self._owners: dict[str, tuple[float, str | None]] = {}

    def listen(self) -> None:
        """Begin to collect transforms, of which the first lookups need some history."""
        if tf2_ros is not None and self._buffer is None:
            self._since = time.monotonic()
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, self._node)

    def time_went_back(self, by_ns: int) -> None:
        """Forget what lies ahead: beside it tf takes in no transforms that are older by 10 s."""
        if self._buffer is not None and by_ns > JITTER_NS:
            self._buffer.clear()

    def lookup(self, target: str, source: str, stamp_ns: int, wait: float) -> np.ndarray:
        """`T_target_source` [4, 4] at a stamp, waiting some seconds for what is under way.

        Raises:
            PoseUnavailableError: `no_tf` if tf2_ros is not installed, else `no_transform`.
        """
        if tf2_ros is None:
            raise PoseUnavailableError(
                f'{source!r} is a frame of tf, but tf2_ros is not installed; install it '
                '(ros-<distro>-tf2-ros-py) or use the frames camera and world',
                'no_tf',
            )
        self.listen()
        try:
            stamp, timeout = Time(nanoseconds=stamp_ns), Duration(seconds=wait)
            msg = self._buffer.lookup_transform(target, source, stamp, timeout=timeout)
        except (tf2_ros.TransformException, ValueError) as error:  # stamps may be before 1970
            raise PoseUnavailableError(
                f'no transform from {source!r} to {target!r}: {error}', 'no_transform'
            ) from error
        return matrix_from_transform(msg.transform)

    def owner(self, child: str, parent: str) -> str | None:
        """Who else places a moving frame: None if nobody, so that it may be broadcast.

        Two broadcasters of one frame make a robot jump. So the answer is '' until there was time
        to hear of another one, and a parent that was there before the first broadcast of our own,
        or is not ours, is another's for good.

        Args:
            child: frame to be broadcast.
            parent: frame it shall be placed in.
        """
        if tf2_ros is None:
            return None
        self.listen()
        now = time.monotonic()
        if now - self._since < _HEARING:
            return ''
        checked, owner = self._owners.get(child, (-_HEARING, None))
        if owner is None and now - checked >= _HEARING:
            frames = yaml.safe_load(self._buffer.all_frames_as_yaml()) or {}
            found = frames.get(child, {}).get('parent')
            ours = child in self._owners and found == parent
            owner = None if ours else found
            self._owners[child] = (now, owner)
        return owner

    def broadcast(
        self, T_parent_child: np.ndarray, stamp_ns: int, parent: str, child: str, *, fixed: bool
    ) -> None:
        """Tell where a frame of ours is.

        Args:
            T_parent_child: [4, 4].
            stamp_ns: of the image it belongs to.
            parent: frame it is placed in; where it has no name, nothing is told.
            child: frame that nobody else broadcasts.
            fixed: it never moves in its parent, so it is told once and kept for late listeners.
        """
        if tf2_ros is None:
            self._node.get_logger().warning(
                'tf2_ros is not installed: the frames of virtual cameras are not broadcast',
                once=True,
            )
            return
        if not (parent and child):  # one such message, kept for late listeners, breaks their tf
            return
        if fixed:
            told = (parent, T_parent_child.tobytes())
            if self._fixed.get(child) == told:
                return
            self._fixed[child] = told
        if fixed not in self._broadcasters:
            kinds = (tf2_ros.TransformBroadcaster, tf2_ros.StaticTransformBroadcaster)
            self._broadcasters[fixed] = kinds[fixed](self._node)
        msg = transform_to_msg(T_parent_child, stamp_ns, parent, child)
        self._broadcasters[fixed].sendTransform(msg)
