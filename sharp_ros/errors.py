"""Exceptions raised by the core: one class per layer, all derived from `SharpError`."""

from __future__ import annotations


class SharpError(Exception):
    """Base of every error this package raises on purpose; the message says what to do next."""


class ConfigError(SharpError):
    """A configuration value is unknown, out of range, or of the wrong type."""


class CheckpointError(SharpError):
    """Model weights are missing, corrupt, or do not belong to the network."""


class EngineError(SharpError):
    """The network cannot be run as configured, or does not give its own results when it is."""


class InputError(SharpError):
    """Data handed to a public function cannot be used.

    Args:
        message: what came, what was expected and what to do.
        reason: short snake_case key under which the failure is counted in diagnostics.
    """

    def __init__(self, message: str, reason: str = 'bad_input') -> None:
        super().__init__(message)
        self.reason = reason


class PoseUnavailableError(SharpError):
    """No camera pose is known at the stamp of the image, so nothing may be integrated.

    Args:
        message: what was looked for and why it was not found.
        reason: short snake_case key under which the failure is counted in diagnostics.
    """

    def __init__(self, message: str, reason: str = 'no_pose') -> None:
        super().__init__(message)
        self.reason = reason
