"""What our launch files share: how arguments are declared, and how processes end.

Keeps to what launch of humble, jazzy and kilted has in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import shutil
from typing import Any

# No wheel carries launch; it comes with ROS, as do the launch files themselves.
from launch.actions import (  # pyright: ignore[reportMissingImports]
    DeclareLaunchArgument,
    Shutdown,
    TimerAction,
)

# A launch that is killed must leave no process behind, since nothing would end it.
_DIES_WITH_LAUNCH = 'setpriv --pdeathsig INT' if shutil.which('setpriv') else ''


def declare(arguments: Mapping[str, tuple[str, str]]) -> list[Any]:
    """Actions that declare the arguments of a launch file.

    Args:
        arguments: default and description by name.
    """
    return [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]


def process_prefix(context: Any) -> str | None:
    """What a process of ours is run by: by what the user gives, such as a debugger, if anything.

    Args:
        context: of this launch.
    """
    return None if 'launch-prefix' in context.launch_configurations else _DIES_WITH_LAUNCH


def required(what: str, then: list[Any] | None = None) -> Callable[[Any, Any], list[Any]]:
    """What to do when a process has ended: the next actions if it did its work, else end it all.

    Nothing is requested while the launch ends: a second shutdown would be an error. Ctrl-C reaches
    all processes at once, and one may have ended before launch itself notices; hence the timer,
    which the end of the launch cancels. An error is reported in one line, and the launch ends
    with exit code 1, so that a supervisor notices.

    Args:
        what: name of the process, for people.
        then: actions that follow success; None: nothing can go on without it.
    """

    def ended(event: Any, context: Any) -> list[Any]:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise RuntimeError(f'{what} failed (exit code {event.returncode}); its log says why')
        end = TimerAction(period=1.0, actions=[Shutdown(reason=f'{what} ended')])
        return [end] if then is None else then

    return ended
