"""Procedural worlds for training; they know nothing of training."""
