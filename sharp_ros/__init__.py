"""Live metric mapping from a single camera: a ROS 2 sense built on predicted 3D Gaussians."""

__version__ = '0.1.0'
