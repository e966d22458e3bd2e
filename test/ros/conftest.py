"""Fixtures of the ROS tests; what they give is defined in `ros_helpers`."""

from ros_helpers import context, executor, make_node, peer

__all__ = ['context', 'executor', 'make_node', 'peer']
