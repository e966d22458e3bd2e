"""Gaussians of one scene fitted to its images: what takes minutes where the network takes one."""

from __future__ import annotations

from sharp_ros.optimise.optimiser import Optimiser, View
from sharp_ros.optimise.settings import Settings

__all__ = ['Optimiser', 'Settings', 'View']
