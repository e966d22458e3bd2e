"""The live view of the node: its buttons are services of the node, its words the diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sharp_ros.config import SharpConfig
from sharp_ros.errors import ConfigError
from sharp_ros.ros.services import Services

if TYPE_CHECKING:
    from sharp_ros.web import LiveView

Status = tuple[str, int, str, dict[str, str]]  # of `Health.statuses`
_LEVELS = ('ok', 'warning', 'ERROR')
_SHOWN = {  # values of diagnostics that are worth a glance
    'Input': ('frames_in', 'processed', 'dropped'),
    'Inference': ('model', 'rate_hz', 'age_ms_p50', 'age_ms_p95'),
    'Mapping': ('mapped', 'unmapped', 'odometry', 'verdict'),
}
_BUTTONS = {'reset': 'reset', 'save map': 'save_map', 'snapshot': 'snapshot'}


def open_web_view(
    config: SharpConfig,
    services: Services,
    look: Callable[[np.ndarray], None],
    statuses: Callable[[], Sequence[Status]],
    warn: Callable[[str], object],
    info: Callable[[str], object],
) -> LiveView | None:
    """The view, or None if it is off, or cannot be had, of which the node only warns.

    Args:
        config: of the node.
        services: that the buttons ask for.
        look: serves a view request from a pose [4, 4] in the world.
        statuses: of the components, as in /diagnostics.
        warn: takes a line.
        info: takes the line with the address.
    """
    if not config.web.enabled:
        return None
    from sharp_ros.web import Controls, LiveView  # loads asyncio and TLS

    buttons = {label: partial(services.ask, name) for label, name in _BUTTONS.items()}
    try:
        view = LiveView(config, Controls(buttons, look, lambda: _words(statuses())))
    except Exception as error:  # of whatever viser is installed: the node does without
        warn(f'no live view: {error if isinstance(error, ConfigError) else repr(error)}')
        return None
    info(f'live view: {view.url}')
    return view


def _words(statuses: Sequence[Status]) -> list[str]:
    """One line of Markdown for each component."""
    from sharp_ros.web import plain

    lines = []
    for name, level, message, values in statuses:
        component = name.rpartition(': ')[2]
        shown = [f'{key} {values[key]}' for key in _SHOWN.get(component, ()) if key in values]
        text = ' · '.join([f'{_LEVELS[level]}: {message}', *shown])
        lines.append(f'**{component}** {plain(text)}')
    return lines
