"""Nano as training would leave it, without training."""

from __future__ import annotations

import torch

from sharp_ros.network.nano import LAYOUTS, NanoLayout, NanoNetwork


def unsettled_network(layout: NanoLayout = LAYOUTS[2]) -> NanoNetwork:
    """Untrained, but with batch norm statistics and a head that are not the neutral ones."""
    torch.manual_seed(0)
    network = NanoNetwork(layout=layout).train()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64), torch.tensor([[60.0, 60.0, 32.0, 32.0]] * 2))
    return network.eval()
