"""A stand-in for `torch.cuda` on machines without one, for the logic of streams and graphs.

Work is done at once on the CPU. A captured graph records every operator that runs, writes the
results of a replay into the same memory, and refuses what a device could not capture: reading a
value back, and bringing one from the host.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FORBIDDEN = ('_local_scalar_dense', 'lift_fresh', 'nonzero', 'item', 'unique')


class Event:
    def __init__(self, enable_timing=False):
        self.recorded = False

    def record(self):
        self.recorded = True

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        assert self.recorded
        assert end.recorded
        return 1.0


class Stream:
    def wait_event(self, event):
        pass


class CUDAGraph:
    """A list of operators with the tensors they read and wrote."""

    def __init__(self):
        self.steps = []
        self.replays = 0

    def replay(self):
        self.replays += 1
        for operator, args, kwargs, made in self.steps:
            again = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.name().partition('::')[2].partition('.')[0]
        if name in _FORBIDDEN:
            raise RuntimeError(f'operation not permitted when stream is capturing: {name}')
        made = operator(*args, **(kwargs or {}))
        self.steps.append((operator, args, kwargs or {}, made))
        return made


class FakeCuda:
    """What of `torch.cuda` the package uses; `graphs` holds every one that was captured."""

    Event, Stream, CUDAGraph = Event, Stream, CUDAGraph

    def __init__(self):
        self.graphs = []

    def stream(self, stream):
        return nullcontext()

    @contextmanager
    def graph(self, graph, pool=None, stream=None, capture_error_mode='global'):
        self.graphs.append(graph)
        with _Recorder(graph.steps):
            yield

    def graph_pool_handle(self):
        return (0, len(self.graphs))

    def current_stream(self):
        return None

    def synchronize(self):
        pass

    def is_initialized(self):
        return True

    def empty_cache(self):
        pass


def installed(monkeypatch):
    """In place of the real one until the end of the test; CudaQueue then runs on the CPU."""
    import torch._dynamo  # asks the real one what it is

    fake, to = FakeCuda(), torch.Tensor.to
    monkeypatch.setattr(torch, 'cuda', fake)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, 'record_stream', lambda self, stream: None)
    monkeypatch.setattr(
        torch.Tensor,
        'to',
        lambda self, *args, **kw: self.clone() if args == ('cuda',) else to(self, *args, **kw),
    )
    return fake
