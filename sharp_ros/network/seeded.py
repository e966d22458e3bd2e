"""SHARP with pseudo-random weights, and images to go with them: for speed and tests.

No checkpoint is needed. Every weight is seeded by the name of its tensor, every image by a number,
as for the tensors of the reference implementation in `test/data/`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import math
import zlib

import numpy as np
import torch
from torch import Tensor

from sharp_ros.network.sharp import SharpNetwork, SharpNetworkConfig


def fill_value(key: str, shape: torch.Size) -> Tensor:  # -> shape
    """A tensor of a checkpoint, sized so that activations are near those of a real one."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    last, rank = key.rpartition('.')[2], len(shape)
    if last in {'pos_embed', 'cls_token'}:
        value = 0.3 * z
    elif last == 'gamma':
        value = 0.4 + 0.05 * z
    elif rank == 1:
        centre = 1 if last == 'weight' else 2 * key.endswith('monodepth_predictor.head.4.bias')
        value = centre + 0.1 * z
    else:
        patch = key.endswith('image_encoder.conv.weight')
        transposed = rank == 4 and tuple(shape[2:]) == (2, 2) and not patch
        fan = shape[0] if transposed else math.prod(shape[1:])
        gains = {
            'geometry_prediction_head.weight': 3,
            'texture_prediction_head.weight': 0.5,
            'monodepth_predictor.head.4.weight': 0.5,
        }
        gain = next((g for end, g in gains.items() if key.endswith(end)), 1)
        value = gain * z / math.sqrt(fan)
    return torch.from_numpy(np.asarray(value, np.float32))


def filled_network(config: SharpNetworkConfig) -> SharpNetwork:
    """A network for inference, float32 on the CPU."""
    with torch.device('meta'):
        network = SharpNetwork(config)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    with ThreadPoolExecutor() as pool:  # numpy draws without holding the interpreter
        values = pool.map(fill_value, shapes, shapes.values())
        network.load_state_dict(dict(zip(shapes, values, strict=True)), assign=True)
    return network.eval().requires_grad_(False)


def seeded_image(size: int, seed: int) -> Tensor:  # -> [3, size, size]
    """Squares and noise, RGB in 0..1; `size` is a multiple of 16."""
    rng = np.random.Generator(np.random.PCG64(seed))
    low, noise = rng.random((3, 16, 16)), rng.random((3, size, size))
    coarse = low.repeat(size // 16, 1).repeat(size // 16, 2)
    return torch.from_numpy((0.7 * coarse + 0.3 * noise).astype(np.float32))
