"""The node as a process of its own, as a user runs it, and what it leaves behind."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import subprocess
import sys
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import psutil

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
ROOT = Path(__file__).parents[2]
PROGRAM = 'from sharp_ros.ros.programs import sharp_node; sharp_node()'
START = 60.0  # seconds that a start may take on a busy machine


class NodeProcess:
    """Starts the node; `change` asks it for transitions, `end` sends a signal and waits.

    Args:
        peer: whose node owns the clients.
        log: file that takes all it writes.
        parameters: of the node.
        before: Python that is run in the process first.
        whole: wait until all of the node is made.
    """

    def __init__(self, peer, log, parameters=None, before='', whole=True):
        self.peer, self.log = peer, Path(log)
        # a node of an earlier test would take the first request in place of this one
        peer.spin_until(lambda: '/sharp' not in self.others())
        flat = [part for k, v in (parameters or {}).items() for part in ('-p', f'{k}:={v}')]
        with self.log.open('wb') as output:
            self.process = subprocess.Popen(
                [sys.executable, '-c', f'{before}\n{PROGRAM}', '--ros-args', *flat],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONFAULTHANDLER': '1'},
            )
        self.client = peer.node.create_client(ChangeState, '/sharp/change_state')
        self.wait_for(self.client.service_is_ready)
        if whole:
            names = peer.node.get_service_names_and_types
            self.wait_for(lambda: '/sharp/set_enabled' in dict(names()))

    def others(self):
        names = self.peer.node.get_node_names_and_namespaces()
        return {f'{namespace.rstrip("/")}/{name}' for name, namespace in names}

    def wait_for(self, condition, **kwargs):
        def done():
            assert self.process.poll() is None, f'the node ended:\n{self.log.read_text()}'
            return condition()

        self.peer.spin_until(done, START, **kwargs)

    def ask(self, transition):
        return self.client.call_async(ChangeState.Request(transition=Transition(id=transition)))

    def change(self, *transitions):
        for transition in transitions:
            answer = self.ask(transition)
            self.wait_for(answer.done)
            assert answer.result().success, self.log.read_text()

    def end(self, number, timeout=30.0):
        """Send a signal; seconds until the process was gone, with all that was its own."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        shared = shared_memory(self.process)
        start = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout)
        seconds = time.monotonic() - start
        assert not psutil.wait_procs(children, 1)[1]
        left = abandoned(shared)
        assert not left, left
        return seconds

    def kill(self):
        self.peer.node.destroy_client(self.client)
        self.process.kill()
        self.process.wait()


def shared_memory(process):
    """Files in shared memory that a process uses and this one does not."""
    return mapped(process.pid) - mapped(os.getpid())


def mapped(pid):
    """Files in shared memory that a process uses, each with its inode."""
    lines = Path(f'/proc/{pid}/maps').read_text().splitlines()
    parts = [line.split() for line in lines if ' /dev/shm/' in line]
    return {(Path(p[5]), int(p[4])) for p in parts if p[-1] != '(deleted)'}


def abandoned(files):
    """Those files that are still there and used by nobody.

    Fast DDS looks for a free port among files that programs of all domains share, so that one of
    this name may be there for another program. It maps the mutex of a port, of whomever it is, for
    the moment in which it holds it: whoever uses the port uses its mutex, too.
    """

    def there():
        found = set()
        for path, inode in files:
            with suppress(FileNotFoundError):
                found |= {(path, inode)} if path.stat().st_ino == inode else set()
        return found

    left = there()
    for pid in psutil.pids() if left else ():
        with suppress(OSError):  # it has ended, or is of another user
            used = mapped(pid)
            mutexes = {f'sem.{path.name}_mutex' for path, _ in used}
            left = {file for file in left - used if file[0].name not in mutexes}
    return left & there()
