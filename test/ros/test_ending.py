"""How a process ends: by itself, when it is asked to, and when something hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sharp_ros.ros.ending import PATIENCE

pytestmark = pytest.mark.ros

START = """
import ctypes, os, signal, sys, threading, time
from sharp_ros.ros.ending import Deadline, Ending, leave
def hang():  # in C, with Python's lock held, as the middleware does
    ctypes.PyDLL(None).sleep(60)
"""


def run(code, timeout=30.0):
    """Exit code, what was printed, and seconds after the start of the interesting part."""
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, '-c', START + code],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr, time.monotonic() - began


@pytest.mark.parametrize('code', [0, 3])
def test_a_deadline_ends_what_hangs_with_the_lock_of_python_held(code):
    returned, _, seconds = run(f'Deadline(0.5, {code})\nhang()')
    assert returned == code
    assert seconds < 30


def test_a_deadline_that_is_cancelled_ends_nothing():
    assert run('Deadline(0.2, 3).cancel()\ntime.sleep(0.6)\nprint("on")')[:2] == (0, 'on\n')


def test_a_block_that_hangs_is_left_and_one_that_does_not_goes_on():
    code = """
from sharp_ros.ros import ending
ending.PATIENCE = 0.3
with ending.limited(1):
    pass
time.sleep(0.6)
print('on', flush=True)
with ending.limited(4):
    hang()
"""
    assert run(code)[:2] == (4, 'on\n')


def test_without_the_timer_of_the_system_a_thread_takes_its_place():
    code = """
from sharp_ros.ros import ending
def missing(*_):
    raise OSError
ending._system_timer = missing
Deadline(0.2, 3)
time.sleep(30)
"""
    assert run(code)[0] == 3


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_has_not_begun_leaves_at_once(number):
    assert run(f'Ending()\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)')[:2] == (0, '')


def test_a_process_at_work_is_woken_once_and_has_time_to_end():
    code = """
ending, woken = Ending(), []
ending.wake(lambda: woken.append(1))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
    os.kill(os.getpid(), number)
assert ending.asked.wait(10)
time.sleep(0.3)
print('saved', len(woken))
leave(0)
"""
    assert run(code)[:2] == (0, 'saved 1\n')


def test_what_hangs_after_the_wish_to_end_is_left():
    code = """
ending = Ending()
ending.wake(lambda: None)
os.kill(os.getpid(), signal.SIGINT)
assert ending.asked.wait(10)
print('ours is safe', flush=True)
hang()
"""
    returned, text, seconds = run(code)
    assert (returned, text) == (0, 'ours is safe\n')
    assert seconds > PATIENCE


def test_the_limit_after_an_error_keeps_its_code():
    assert run('ending = Ending()\nending.limit(1)\nending.limit(0)\nhang()')[0] == 1


def test_whoever_waits_after_the_wish_is_woken_at_once():
    code = """
ending = Ending()
ending.wake(lambda: None)
os.kill(os.getpid(), signal.SIGTERM)
assert ending.asked.wait(10)
ending.wake(lambda: print('woken', flush=True))
"""
    assert run(code)[:2] == (0, 'woken\n')


def test_a_guest_leaves_the_process_as_it_was():
    code = """
signal.signal(signal.SIGINT, lambda *_: print('mine', flush=True))  # it may be ignored here
ending = Ending()
ending.close()
assert signal.set_wakeup_fd(-1) == -1
end = time.monotonic() + 10
while 'ending' in {t.name for t in threading.enumerate()}:
    assert time.monotonic() < end
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.1)
"""
    assert run(code)[:2] == (0, 'mine\n')


def test_text_that_was_printed_is_out():
    returned, text, _ = run("sys.stdout.write('last words')\nleave(2)")
    assert (returned, text) == (2, 'last words')


def test_other_signals_are_not_a_wish_to_end():
    code = """
ending = Ending()
signal.signal(signal.SIGUSR1, lambda *_: print('heard', flush=True))
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.3)
print(ending.asked.is_set())
leave(0)
"""
    assert run(code)[:2] == (0, 'heard\nFalse\n')


def test_the_wish_reaches_a_process_whose_main_thread_waits_in_c():
    child = subprocess.Popen(
        [sys.executable, '-c', START + 'Ending()\nprint(flush=True)'
         '\nctypes.CDLL(None).sleep(60)'],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == b'\n'
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(10) == 0
