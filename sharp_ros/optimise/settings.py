"""What an optimisation is set to; shares of a run, so that any budget of time runs all of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of `Optimiser`.

    Attributes:
        ssim_weight: of 1 - SSIM in the loss, the rest is that of L1 (Kerbl et al. 2023).
        means_rate: of Adam at the start, metres; it falls to a hundredth by the end.
        scales_rate: of the logarithm of the scales.
        quats_rate: of the quaternions, of length 1.
        opacities_rate: of the logits of the opacities.
        colors_rate: of sRGB in 0..1.
        exposure_rate: of gain (its logarithm) and offset that each image has of its own.
        half_size_until: share of the run in which images have half their size.
        grow_from: share of the run at which Gaussians begin to be split and removed.
        grow_until: share at which that ends.
        grow_every: iterations from one time to the next.
        grow_gradient: of the loss, over the position in the image where that is 2 wide; what has
            more is split.
        grow_share: of the Gaussians, at most so many are split at a time.
        growth: the number of Gaussians is at most so many times that of the beginning.
        least_opacity: what has less is removed.
        seed: of all chance.
    """

    ssim_weight: float = 0.2
    means_rate: float = 1e-3
    scales_rate: float = 1e-2
    quats_rate: float = 5e-3
    opacities_rate: float = 3e-2
    colors_rate: float = 5e-3
    exposure_rate: float = 1e-3
    half_size_until: float = 0.4
    grow_from: float = 0.05
    grow_until: float = 0.7
    grow_every: int = 100
    grow_gradient: float = 2e-4
    grow_share: float = 0.1
    growth: float = 2.0
    least_opacity: float = 0.01
    seed: int = 0
