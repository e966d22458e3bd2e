"""A camera driver that can be killed: images, camera_info and odometry at 30 Hz until then."""

from __future__ import annotations

import sys
import time

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from ros_helpers import Peer

if __name__ == '__main__':
    context = Context()
    rclpy.init(context=context)
    camera = Peer(context, SingleThreadedExecutor(context=context))
    rate_hz = float(sys.argv[1])
    while True:
        camera.send()
        time.sleep(1 / rate_hz)
