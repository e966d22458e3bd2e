"""Training losses; each returns one value per image, averaged over the pixels that count.

`error` [B, H, W] is predicted minus true log depth, already zero where `valid` (0 or 1) is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from sharp_ros.camera import Intrinsics
from sharp_ros.network.nano import gaussians_from_prediction, Lite0Encoder
from sharp_ros.network.nano_arrays import (
    LOG_SCALE,
    LOG_Z1,
    LOG_Z2,
    METRES,
    NONE,
    OPACITIES,
    WIDTHS,
)
from sharp_ros.rasterizer import rasterize, reference

if TYPE_CHECKING:
    from sharp_ros.training.dataset import Batch

MIN_DEPTH, MAX_DEPTH = 0.15, 40.0  # metres between which the truth is trusted
EDGE = 0.1  # log depth; a larger step between neighbours is an occlusion
RENDER_SHRINK = 4  # the second view is compared at a quarter of the sides: a CPU renders it, too
COVERED = 0.5  # alpha from which a rendered pixel is compared

WEIGHTS = {
    'l1': 1.0,
    'scale_invariant': 0.7,
    'gradient': 0.5,
    'edge': 0.25,
    'normals': 0.1,
    'second_layer': 0.25,
    'laplace': 0.25,
    'metres': 0.05,
    'none': 0.25,
    'photometric': 0.5,
    'perceptual': 0.1,
    'widths': 0.01,
    'opacities': 0.01,
}


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:  # [B, H, W], [B, H, W] -> [B]
    """Mean of `values` weighted by `weight`; 0 for an image without any weight."""
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


# --- depth --------------------------------------------------------------------------------------


def log_depth_l1(error: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of log depths: the relative error in metres.

    L1 instead of L2 as of Carvalho et al., On Regression Losses for Deep Depth Estimation (2018).
    """
    return masked_mean(error.abs(), valid)


def scale_invariant_log(error: Tensor, valid: Tensor, balance: float = 0.85) -> Tensor:
    """Eigen et al., Depth Map Prediction from a Single Image (2014), square root taken.

    `balance` 1 ignores a common factor of the whole image, 0 is the plain RMS in log depth.
    """
    mean_square = masked_mean(error.square(), valid)
    mean = masked_mean(error, valid)
    return (mean_square - balance * mean.square() + 1e-5).clamp(min=1e-5).sqrt() - 1e-5**0.5


def multi_scale_gradient(error: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """Differences between neighbours at steps of 1, 2, 4, ...

    Li & Snavely, MegaDepth (2018); Ranftl et al., MiDaS (2020).
    """
    total = torch.zeros_like(error[:, 0, 0])
    for _ in range(scales):
        across, down = (step.abs() * both for step, both in _steps(error, valid))
        count = valid.sum((1, 2)).clamp(min=1)
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / count
        error, valid = error[:, ::2, ::2], valid[:, ::2, ::2]
    return total


def edge_gradient(error: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Differences between neighbours on the two sides of a true occlusion only.

    Few pixels, which vanish among all others, decide whether outlines are sharp: Hu et al.,
    Revisiting Single Image Depth Estimation (2019); sampled along edges as in Xian et al.,
    Structure-Guided Ranking Loss (2020).

    Args:
        error: [B, H, W].
        target: [B, H, W] true log depth, finite.
        valid: [B, H, W].
    """
    total, count = torch.zeros_like(error[:, 0, 0]), torch.zeros_like(error[:, 0, 0])
    for (step, both), (true, _) in zip(_steps(error, valid), _steps(target, valid), strict=True):
        occlusion = both * (true.abs() > EDGE)
        total = total + (step.abs() * occlusion).sum((1, 2))
        count = count + occlusion.sum((1, 2))
    return total / count.clamp(min=1)


def surface_normals(
    log_depth: Tensor, target: Tensor, valid: Tensor, intrinsics: Tensor
) -> Tensor:
    """One minus the cosine between predicted and true normals, on one surface.

    Hu et al. (2019); Yin et al., Enforcing Geometric Constraints of Virtual Normal (2019). The
    normal is the cross product of the steps to the right and to the lower neighbour.

    Args:
        log_depth: [B, H, W] predicted.
        target: [B, H, W] true log depth, finite.
        valid: [B, H, W].
        intrinsics: [B, 4] fx, fy, cx, cy, counted from the corner.
    """
    (across, _), (down, _) = _steps(target, valid)
    smooth = (across.abs() < EDGE)[:, :-1] & (down.abs() < EDGE)[:, :, :-1]
    counts = valid[:, :-1, :-1] * valid[:, :-1, 1:] * valid[:, 1:, :-1] * smooth
    cosine = (_normals(log_depth, intrinsics) * _normals(target, intrinsics)).sum(-1)
    return masked_mean(1 - cosine, counts)


def laplace_nll(error: Tensor, log_scale: Tensor, valid: Tensor) -> Tensor:
    """Kendall & Gal, What Uncertainties Do We Need (2017); Laplace density, constant dropped.

    `error` is not differentiated: the spread learns from the error and leaves the depth alone. It
    is least where the scale is the mean absolute error of pixels that look alike.
    """
    return masked_mean(error.detach().abs() * torch.exp(-log_scale) + log_scale, valid)


def metres_nll(error: Tensor, log_std: Tensor, valid: Tensor) -> Tensor:
    """As `laplace_nll`, of one number an image: what all of its depths are wrong by together.

    Args:
        error: [B, H, W].
        log_std: [B] log of the standard deviation, sqrt(2) times the Laplace scale.
        valid: [B, H, W]; of an image without any this is 0.
    """
    log_scale = log_std - 0.5 * math.log(2)
    off = masked_mean(error.detach(), valid).abs()
    return (off * torch.exp(-log_scale) + log_scale) * (valid.sum((1, 2)) > 0)


def nothing_there(logit: Tensor, depth: Tensor) -> Tensor:
    """Binary cross entropy of "there is nothing", like the sky mask of Wang et al., MoGe (2025).

    Args:
        logit: [B, H, W].
        depth: [B, H, W] true; infinite where nothing is, not counted where not positive or NaN.
    """
    known = (depth > 0).float()
    return masked_mean(
        F.binary_cross_entropy_with_logits(logit, (depth == torch.inf).float(), reduction='none'),
        known,
    )


# --- second view --------------------------------------------------------------------------------


def ssim(a: Tensor, b: Tensor) -> Tensor:  # [B, 3, H, W], [B, 3, H, W] -> [B, H, W]
    """Structural similarity of Wang et al. (2004), mean over colours, in windows of 3x3 pixels.

    With the small flat windows of Godard et al., Monodepth (2017); 1 where both are the same.
    """

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode='reflect'), 3, 1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    cov = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * cov + c2) / (var_a + var_b + c2)).mean(1)


def photometric(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """0.85 structural dissimilarity and 0.15 L1, as Godard et al., Monodepth (2017).

    Args:
        a: [B, 3, H, W] in 0..1.
        b: [B, 3, H, W].
        weight: [B, H, W].
    """
    difference = 0.85 * (1 - ssim(a, b)) / 2 + 0.15 * (a - b).abs().mean(1)
    return masked_mean(difference, weight)


def perceptual(a: Tensor, b: Tensor, weight: Tensor, encoder: Lite0Encoder) -> Tensor:
    """Distance of unit features at strides 2 and 4 of an encoder that stays as it is.

    Johnson et al., Perceptual Losses (2016); unit features as in Zhang et al., LPIPS (2018),
    before its weights are learnt. The encoder is EfficientNet-Lite0 with its ImageNet weights.

    Args:
        a: [B, 3, H, W] in 0..1.
        b: [B, 3, H, W].
        weight: [B, H, W].
        encoder: takes no gradient; the one that is trained would learn to see nothing.
    """
    total = torch.zeros_like(weight[:, 0, 0])
    with torch.no_grad():
        targets = encoder(b, 2)
    for seen, target in zip(encoder(a, 2), targets, strict=True):
        distance = (F.normalize(seen, dim=1) - F.normalize(target, dim=1)).square().sum(1)
        size = (int(distance.shape[1]), int(distance.shape[2]))
        total = total + masked_mean(distance, F.adaptive_avg_pool2d(weight, size))
    return total


def render_second_view(prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the second camera would see of the predicted Gaussians, beside what it saw.

    Kerbl et al., 3D Gaussian Splatting (2023), trained from one image as in Szymanowicz et al.,
    Splatter Image (2024). Images whose second pose is unknown are left out.

    Args:
        prediction: [B, C, H, W].
        batch: with a second view.

    Returns:
        Rendered and true image [P, 3, H / 4, W / 4], P <= B, and [P, H / 4, W / 4] alpha, or 0
        where too little is there to be compared.
    """
    assert batch.rgb2 is not None
    assert batch.intrinsics2 is not None
    assert batch.T_2_1 is not None
    image = batch.rgb if batch.clean is None else batch.clean
    height, width = (side // RENDER_SHRINK for side in image.shape[2:])
    second = F.adaptive_avg_pool2d(batch.rgb2, (height, width))
    # the depth of one pixel near the middle: a mean across an edge lies on no surface. That pixel
    # is half a pixel from the middle, and so are the colours around it and the camera.
    middle = slice(RENDER_SHRINK // 2, None, RENDER_SHRINK)
    picked = prediction[:, :, middle, middle][:, :, :height, :width]
    around = F.avg_pool2d(F.pad(image, (0, 1, 0, 1), mode='replicate'), 2, 1)
    first = F.adaptive_avg_pool2d(around, (height, width))
    render = rasterize if prediction.is_cuda else reference.rasterize
    colors, alphas = [], []
    chosen = [i for i, T in enumerate(batch.T_2_1) if bool(torch.isfinite(T).all())]
    for i in chosen:
        size = int(image.shape[3]), int(image.shape[2])
        k, k2 = (_intrinsics(corner[i], *size) for corner in (batch.intrinsics, batch.intrinsics2))
        camera = replace(k, cx=k.cx - 0.5, cy=k.cy - 0.5).resized(width, height)
        gaussians = gaussians_from_prediction(picked[i], first[i], camera)
        T = batch.T_2_1[i].double().cpu().numpy()
        camera2 = k2.resized(width, height)
        rendering = render(gaussians, camera2, T, background=(0.0, 0.0, 0.0), near=0.05)
        colors.append(rendering.color.permute(2, 0, 1))
        alphas.append(rendering.alpha.detach())
    if not chosen:
        nothing = first[:0]
        return nothing, nothing, nothing[:, 0]
    alpha = torch.stack(alphas)
    return torch.stack(colors), second[chosen], alpha * (alpha > COVERED)


# --- all ----------------------------------------------------------------------------------------


def thinned(prediction: Tensor, batch: Batch, phase: tuple[int, int]) -> tuple[Tensor, Batch]:
    """Every second row and column of a prediction and its truth: the loss on a quarter of it.

    Args:
        prediction: [B, C, H, W].
        batch: of which no second view is compared; `rgb` is left as it is.
        phase: first row and column, 0 or 1; steps that alternate see every pixel.
    """
    row, column = phase
    pick = (..., slice(row, None, 2), slice(column, None, 2))
    corner = batch.intrinsics / 2
    # from the corner of the new pixels, whose centres are those of the pixels picked
    shift = torch.tensor([0, 0, 0.25 - column / 2, 0.25 - row / 2]).to(corner)
    return prediction[pick], batch._replace(
        depth=batch.depth[pick], second_depth=batch.second_depth[pick], intrinsics=corner + shift
    )


def depth_loss(
    prediction: Tensor, batch: Batch, encoder: Lite0Encoder | None = None
) -> dict[str, Tensor]:
    """All terms of one batch, and their weighted sum under `total`.

    Args:
        prediction: [B, C, H, W] as `NanoNetwork` gives it.
        batch: with `rgb2` the terms on the second view are added, which cost a rendering.
        encoder: for the perceptual term on the second view; None leaves it out.

    Returns:
        Scalars by the names of `WEIGHTS`, of what there is.
    """
    depth = batch.depth
    valid = (depth > MIN_DEPTH) & (depth < MAX_DEPTH)
    # what is not valid is replaced before anything is computed: 0 times infinity would be NaN
    target = torch.where(valid, depth, torch.ones_like(depth)).log()
    behind = (batch.second_depth > depth) & (batch.second_depth < MAX_DEPTH) & valid
    second_target = torch.where(behind, batch.second_depth, target.exp()).log()
    weight = valid.float()
    error = (prediction[:, LOG_Z1] - target) * weight
    # unknown: 0 or NaN, as in recordings, and what lies too far behind
    beyond = (batch.second_depth >= MAX_DEPTH) & (batch.second_depth < torch.inf)
    known = (batch.second_depth > 0) & ~beyond
    # Most pixels have nothing behind them; those that do count four times as much.
    second_weight = weight * known * (0.3 + (second_target - target > 0.03).float())
    terms = {
        'l1': log_depth_l1(error, weight),
        'scale_invariant': scale_invariant_log(error, weight),
        'gradient': multi_scale_gradient(error, weight),
        'edge': edge_gradient(error, target, weight),
        'normals': surface_normals(prediction[:, LOG_Z1], target, weight, batch.intrinsics),
        'second_layer': log_depth_l1(prediction[:, LOG_Z2] - second_target, second_weight),
        'laplace': laplace_nll(error, prediction[:, LOG_SCALE], weight),
        'none': nothing_there(prediction[:, NONE], depth),
    }
    if prediction.shape[1] > METRES:
        log_std = prediction[:, METRES, 0, 0]
        terms['metres'] = metres_nll(error, log_std, weight)
    if batch.rgb2 is not None:
        rendered, seen, alpha = render_second_view(prediction, batch)
        terms['photometric'] = photometric(rendered, seen, alpha)
        if encoder is not None:
            terms['perceptual'] = perceptual(rendered, seen, alpha, encoder)
        # A prior as in Kheradmand et al., 3DGS as MCMC (2024), here around what the depth alone
        # gives: corrections that help no view stay at zero.
        if prediction.shape[1] > NONE + 1:
            terms['widths'] = prediction[:, WIDTHS].square().mean((1, 2, 3))
            terms['opacities'] = prediction[:, OPACITIES].square().mean((1, 2, 3))
    means = {name: term.mean() for name, term in terms.items() if len(term)}
    means['total'] = torch.stack([WEIGHTS[name] * mean for name, mean in means.items()]).sum()
    return means


def _steps(x: Tensor, valid: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    """Differences of neighbours across and down, and where both of them are valid."""
    return (
        (x[:, :, 1:] - x[:, :, :-1], valid[:, :, 1:] * valid[:, :, :-1]),
        (x[:, 1:] - x[:, :-1], valid[:, 1:] * valid[:, :-1]),
    )


def _normals(log_depth: Tensor, intrinsics: Tensor) -> Tensor:  # -> [B, H - 1, W - 1, 3]
    """Unit normals towards the camera; scaling all depths changes none of them."""
    height, width = log_depth.shape[1:]
    fx, fy, cx, cy = (intrinsics[:, i, None, None] for i in range(4))
    u = torch.arange(width, device=log_depth.device).to(log_depth)[None, None] + 0.5
    v = torch.arange(height, device=log_depth.device).to(log_depth)[None, :, None] + 0.5
    x, y = ((u - cx) / fx).expand_as(log_depth), ((v - cy) / fy).expand_as(log_depth)
    # every pixel divided by its own depth: float32 then knows only steps, near and far alike
    rays = torch.stack([x, y, torch.ones_like(x)], -1)
    here = log_depth[:, :-1, :-1, None]
    right = rays[:, :-1, 1:] * torch.exp(log_depth[:, :-1, 1:, None] - here)
    below = rays[:, 1:, :-1] * torch.exp(log_depth[:, 1:, :-1, None] - here)
    normal = torch.linalg.cross(below - rays[:, :-1, :-1], right - rays[:, :-1, :-1])
    # scaled up first: F.normalize keeps lengths below 1e-12 as they are
    return F.normalize(normal * (fx * fy)[..., None], dim=-1)


def _intrinsics(corner: Tensor, width: int, height: int) -> Intrinsics:
    """Intrinsics of a camera given as [4] fx, fy, cx, cy from the image corner."""
    fx, fy, cx, cy = corner.tolist()
    return Intrinsics(fx, fy, cx - 0.5, cy - 0.5, width, height)
