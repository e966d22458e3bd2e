from __future__ import annotations

import threading
import time

import pytest

from sharp_ros.errors import InputError, SharpError
from sharp_ros.worker import Worker


class Gate:
    """A process callback that blocks until it is let through."""

    def __init__(self):
        self.seen = []
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def __call__(self, item):
        self.entered.release()
        assert self.let_go.acquire(timeout=30)
        self.seen.append(item)


def ignore(error, reason):
    pass


def wait_until(condition, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, 'condition not reached'
        time.sleep(0.001)


def balanced(counts):
    return counts.frames_in == counts.processed + counts.dropped + counts.pending


def test_newest_frame_replaces_waiting_one():
    gate = Gate()
    worker = Worker(gate, ignore)
    worker.submit(0)
    gate.entered.acquire(timeout=30)
    for item in range(1, 6):
        worker.submit(item)
        assert balanced(worker.counts())
    gate.let_go.release()
    gate.let_go.release()
    wait_until(lambda: worker.counts().processed == 2)
    assert gate.seen == [0, 5]
    assert worker.counts().reasons == {'replaced': 4}
    assert worker.stop()


def test_every_frame_is_accounted_for_after_stop():
    gate = Gate()
    worker = Worker(gate, ignore)
    for item in range(50):
        worker.submit(item)
        if item % 7 == 0:
            gate.let_go.release()
    worker.reject('no_camera_info')
    gate.let_go.release(50)
    assert worker.stop()
    worker.submit('late')
    counts = worker.counts()
    assert counts.frames_in == 52
    assert counts.pending == 0
    assert counts.frames_in == counts.processed + counts.dropped
    assert counts.reasons['no_camera_info'] == 1
    assert counts.reasons['stopped'] >= 1


def test_errors_are_counted_by_reason_and_the_thread_lives_on():
    errors = []

    def process(item):
        if item == 'bad':
            raise InputError('nonsense', 'bad_encoding')
        if item == 'bug':
            raise ZeroDivisionError

    worker = Worker(process, lambda error, reason: errors.append(reason))
    for item in ('bad', 'bug', 'good'):
        before = worker.counts()
        worker.submit(item)
        wait_until(
            lambda n=before.processed + before.dropped: (
                worker.counts().pending == 0
                and worker.counts().processed + worker.counts().dropped > n
            )
        )
    assert worker.counts().reasons == {'bad_encoding': 1, 'internal_error': 1}
    assert worker.counts().processed == 1
    assert errors == ['bad_encoding', 'internal_error']
    assert worker.stop()


def test_call_runs_on_the_worker_thread_and_returns_or_raises():
    worker = Worker(lambda item: None, ignore, name='the-worker')
    assert worker.call(lambda: threading.current_thread().name, 5) == 'the-worker'
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0, 5)
    assert worker.stop()
    with pytest.raises(SharpError, match='stopped'):
        worker.call(lambda: None, 5)


def test_call_times_out_when_the_worker_is_busy_and_is_not_run_later():
    gate, ran = Gate(), []
    worker = Worker(gate, ignore)
    worker.submit(0)
    gate.entered.acquire(timeout=30)
    with pytest.raises(TimeoutError):
        worker.call(lambda: ran.append(1), 0.05)
    gate.let_go.release()
    assert worker.stop()
    assert ran == []


class Device:
    """A process whose middle part another device does; notes the order of all parts."""

    def __init__(self):
        self.log = []
        self.at_work = threading.Semaphore(0)
        self.done = threading.Semaphore(0)

    def __call__(self, item):
        self.log.append(f'begin {item}')

        def wait():
            self.at_work.release()
            assert self.done.acquire(timeout=30)
            if item == 'broken':
                raise InputError('the device failed', 'device')

        yield wait
        self.log.append(f'end {item}')


def test_the_device_gets_its_next_item_before_the_last_one_is_finished():
    device = Device()
    worker = Worker(device, ignore)
    worker.submit(0)
    assert device.at_work.acquire(timeout=30)
    for item in (1, 2):
        worker.submit(item)
    device.done.release()
    assert device.at_work.acquire(timeout=30)
    assert worker.counts().pending in {1, 2}  # 0 may be finished by now
    assert balanced(worker.counts())
    device.done.release()
    wait_until(lambda: worker.counts().pending == 0)
    assert device.log == ['begin 0', 'begin 2', 'end 0', 'end 2']
    assert worker.counts().reasons == {'replaced': 1}
    assert worker.stop()


def test_a_device_that_fails_drops_its_item_only():
    device, reasons = Device(), []
    worker = Worker(device, lambda error, reason: reasons.append(reason))
    for item in ('broken', 'good'):
        worker.submit(item)
        assert device.at_work.acquire(timeout=30)
        device.done.release()
        wait_until(lambda: worker.counts().pending == 0)
    assert device.log == ['begin broken', 'begin good', 'end good']
    assert (worker.counts().processed, reasons) == (1, ['device'])
    assert worker.stop()


def test_a_call_finds_no_item_under_way():
    device = Device()
    worker = Worker(device, ignore)
    worker.submit(0)
    assert device.at_work.acquire(timeout=30)
    worker.submit(1)
    log = []
    caller = threading.Thread(target=lambda: log.extend(worker.call(lambda: list(device.log), 5)))
    caller.start()
    wait_until(lambda: worker._calls)
    device.done.release(2)
    caller.join(5)
    assert log == ['begin 0', 'end 0']
    assert worker.stop()
    assert worker.counts().pending == 0


def test_threads_end():
    before = threading.active_count()
    workers = [Worker(lambda item: None, ignore) for _ in range(20)]
    assert all(worker.stop() for worker in workers)
    assert threading.active_count() == before


def test_calls_that_wait_behind_the_one_at_work_are_not_begun_after_stop():
    worker, done, gate = Worker(ignore, ignore), [], threading.Event()
    entered = threading.Event()

    def first():
        entered.set()
        assert gate.wait(30)

    with worker._condition:  # so that the thread takes all of them at once
        futures = [worker.post(first), worker.post(lambda: done.append(1))]
    assert entered.wait(30)
    assert not worker.stop(0.0)
    gate.set()
    with pytest.raises(SharpError, match='stopped'):
        futures[1].result(5)
    assert not done
