"""Live metric mapping from a single camera: a ROS 2 sense built on predicted 3D Gaussians."""

import os

# Read by numba when it is first imported. OpenMP is safe to call from several threads and is
# everywhere torch is; the TBB that other wheels bring along is often too old and only warned of.
os.environ.setdefault('NUMBA_THREADING_LAYER_PRIORITY', 'omp tbb workqueue')
# Read by OpenMP when torch is first imported. Its threads spin while they wait: for long, and they
# take the cores away from the very nodes they wait for; never, and each of the network's small
# operations waits for the scheduler. docs/benchmark.md has the numbers.
os.environ.setdefault('GOMP_SPINCOUNT', '10000')

# Read by torch when it first takes memory. A million small pages cost SHARP seconds on a CPU.
os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')

__version__ = '0.1.0'
