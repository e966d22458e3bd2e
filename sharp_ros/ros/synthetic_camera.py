"""`sharp_camera`: the simulated room, a webcam or a recording as a camera driver, for trying out.

Publishes what `sharp-ros demo` does: image, camera_info, registered depth, odometry, and tf in
place of the localisation of a robot, below /camera. Parameters: `source` and `hfov`.
"""

from __future__ import annotations

import threading

from rcl_interfaces.msg import ParameterDescriptor
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from sharp_ros.camera import Frame
from sharp_ros.errors import SharpError
from sharp_ros.ros.camera_driver import CameraDriver, WORLD
from sharp_ros.ros.ending import Ending
from sharp_ros.ros.transforms import Transforms
from sharp_ros.sources import open_source


class Localisation:
    """Broadcasts the pose of every frame to tf, if its source knows it.

    Args:
        node: that owns the broadcaster.
    """

    def __init__(self, node: Node) -> None:
        self._transforms = Transforms(node)

    def expect(self, stamp_ns: int, frame: Frame) -> None:
        """Broadcast the pose of a frame that is about to be published."""
        pose = frame.T_world_camera
        if pose is None:
            return
        self._transforms.broadcast(pose, stamp_ns, WORLD, frame.frame_id, fixed=False)


def main(ending: Ending, args: list[str] | None = None) -> int:
    """Publish until asked to end, or until the source fails.

    Args:
        ending: set when the process is to end.
        args: command line in place of that of the process.
    """
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node, code = Node('sharp_camera'), 0
    ending.wake(lambda: None)  # the camera looks at `asked` ten times a second
    try:
        _publish(node, ending.asked)
    except SharpError as error:
        node.get_logger().error(str(error))
        code = 1
    ending.limit(code)
    node.destroy_node()
    rclpy.try_shutdown()
    return code


def _publish(node: Node, stopping: threading.Event) -> None:
    any_type = ParameterDescriptor(
        description='as of sharp-ros demo: synthetic, webcam index, video, folder, bag',
        dynamic_typing=True,  # `-p source:=0` is a number
    )
    spec = str(node.declare_parameter('source', 'synthetic', any_type).value)
    angle = ParameterDescriptor(
        description='horizontal field of view of an uncalibrated source, rad; 0: unknown'
    )
    hfov = node.declare_parameter('hfov', 0.0, angle).value
    source = open_source(spec, hfov=hfov or None, loop=True)
    node.get_logger().info(f'{source.name}, {source.rate_hz:g} Hz. {source.note}'.strip())
    say = node.get_logger().warning
    camera = CameraDriver(node, source, Localisation(node), with_depth=True, say=say)
    try:
        while camera.error is None and not stopping.is_set():
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        camera.stop()
    if camera.error is not None:
        raise camera.error
