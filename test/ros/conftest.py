"""Fixtures of the ROS tests; what they give is defined in `ros_helpers` and `fake_tf2`."""

from fake_tf2 import tf2
from ros_helpers import context, executor, make_node, peer

__all__ = ['context', 'executor', 'make_node', 'peer', 'tf2']
