"""Training losses on log depth; each returns one value per image, averaged over valid pixels.

All take [B, H, W] tensors: `error` is predicted minus true log depth, already zero where `valid`
(0 or 1) is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_DEPTH, MAX_DEPTH = 0.15, 24.0  # metres between which the truth is trusted


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:  # [B, H, W], [B, H, W] -> [B]
    """Mean of `values` weighted by `weight`; 0 for an image without any weight."""
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def log_depth_l1(error: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of log depths: the relative error in metres."""
    return masked_mean(error.abs(), valid)


def scale_invariant_log(error: Tensor, valid: Tensor, balance: float = 0.85) -> Tensor:
    """Eigen et al., Depth Map Prediction from a Single Image (2014), square root taken.

    `balance` 1 ignores a common factor of the whole image, 0 is the plain RMS in log depth.
    """
    mean_square = masked_mean(error.square(), valid)
    mean = masked_mean(error, valid)
    return (mean_square - balance * mean.square() + 1e-5).clamp(min=1e-5).sqrt()


def multi_scale_gradient(error: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """Li & Snavely, MegaDepth (2018): differences between neighbours, at steps of 1, 2, 4, ..."""
    total = torch.zeros_like(error[:, 0, 0])
    for _ in range(scales):
        across = (error[:, :, 1:] - error[:, :, :-1]).abs() * valid[:, :, 1:] * valid[:, :, :-1]
        down = (error[:, 1:] - error[:, :-1]).abs() * valid[:, 1:] * valid[:, :-1]
        count = valid.sum((1, 2)).clamp(min=1)
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / count
        error, valid = error[:, ::2, ::2], valid[:, ::2, ::2]
    return total


def laplace_nll(error: Tensor, log_scale: Tensor, valid: Tensor) -> Tensor:
    """Kendall & Gal, What Uncertainties Do We Need (2017); Laplace density, constant dropped.

    `error` is not differentiated: the spread learns from the error and leaves the depth alone.
    """
    return masked_mean(error.detach().abs() * torch.exp(-log_scale) + log_scale, valid)


def depth_loss(prediction: Tensor, depth: Tensor, second_depth: Tensor) -> dict[str, Tensor]:
    """All terms of one batch, and their weighted sum under `total`.

    Args:
        prediction: [B, 3, H, W] log z1, log z2, log Laplace scale.
        depth: [B, H, W] metres of the first surface; outside the trusted range it is ignored.
        second_depth: [B, H, W] metres of the surface behind; equal to `depth` where there is none.
    """
    valid = ((depth > MIN_DEPTH) & (depth < MAX_DEPTH)).float()
    target = depth.clamp(MIN_DEPTH, MAX_DEPTH).log()
    second_target = second_depth.clamp(MIN_DEPTH, MAX_DEPTH).log()
    error = (prediction[:, 0] - target) * valid
    # Most pixels have nothing behind them; those that do count four times as much.
    behind = valid * (0.3 + (second_target - target > 0.03).float())
    terms = {
        'l1': log_depth_l1(error, valid),
        'scale_invariant': scale_invariant_log(error, valid),
        'gradient': multi_scale_gradient(error, valid),
        'second_layer': log_depth_l1(prediction[:, 1] - second_target, behind),
        'laplace': laplace_nll(error, prediction[:, 2], valid),
    }
    means = {name: term.mean() for name, term in terms.items()}
    means['total'] = sum((WEIGHTS[name] * mean for name, mean in means.items()), torch.tensor(0.0))
    return means


WEIGHTS = {
    'l1': 1.0,
    'scale_invariant': 0.7,
    'gradient': 0.5,
    'second_layer': 0.25,
    'laplace': 0.25,
}
