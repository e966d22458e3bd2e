"""Rendering Gaussians from any viewpoint."""
