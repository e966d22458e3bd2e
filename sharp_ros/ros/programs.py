"""The executables: each takes note of Ctrl-C from its first moment on, then loads its parts."""

from __future__ import annotations

from collections.abc import Callable
import traceback
from typing import NoReturn

from sharp_ros.process import import_messages, import_numba, prepare_process
from sharp_ros.ros.ending import Ending, leave


def sharp_node() -> NoReturn:
    """The node, which waits to be configured and activated."""

    def program(ending: Ending) -> int:
        import_numba()
        import_messages()
        from sharp_ros.ros.node import main

        return main(ending)

    _run(program)


def sharp_camera() -> NoReturn:
    """A simulated room, webcam or recording as a camera driver."""

    def program(ending: Ending) -> int:
        from sharp_ros.ros.synthetic_camera import main

        return main(ending)

    _run(program)


def sharp_autostart() -> NoReturn:
    """Configures and activates a node, and ends."""

    def program(ending: Ending) -> int:
        from sharp_ros.ros.autostart import main

        return main(ending)

    _run(program)


def _run(program: Callable[[Ending], int]) -> NoReturn:
    """Run a program to its end; the exit code is its result, or 1 after an error."""
    ending, code = Ending(), 1
    prepare_process()
    try:
        code = program(ending)
    except Exception:
        traceback.print_exc()
    leave(code)
