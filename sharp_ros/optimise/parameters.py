"""Gaussians as what Adam moves, and their number as what changes in between."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sharp_ros.gaussians import (
    Gaussians,
    linear_from_srgb,
    rotations_from_quats,
    srgb_from_linear,
)
from sharp_ros.optimise.settings import Settings

_LOGIT_MAX = 7.0  # of an opacity: 0.999, what renderers draw at most
_SCALE_MIN = 1e-4  # metres; thinner ones make gradients that mean nothing
_SHRINK = 1.6  # of the two that one is split into (Kerbl et al. 2023)


class Parameters:
    """Means, logarithms of scales, quaternions, logits of opacities, and sRGB colours.

    Args:
        gaussians: to begin with; what cannot be drawn is to be left out before.
        settings: of the run.
        device: of torch.
    """

    def __init__(self, gaussians: Gaussians, settings: Settings, device: str) -> None:
        self._settings = settings
        scales, quats = gaussians.shapes
        opacities = gaussians.opacities.clamp(settings.least_opacity, 0.995)
        values = {
            'means': gaussians.means,
            'scales': scales.clamp(min=_SCALE_MIN).log(),
            'quats': quats / quats.norm(dim=1, keepdim=True),
            'opacities': opacities.logit(),
            'colors': srgb_from_linear(gaussians.colors),
        }
        rates = {
            'means': settings.means_rate,
            'scales': settings.scales_rate,
            'quats': settings.quats_rate,
            'opacities': settings.opacities_rate,
            'colors': settings.colors_rate,
        }
        groups = [
            {
                'params': [value.to(device, torch.float32).clone().requires_grad_()],
                'lr': rates[name],
                'name': name,
            }
            for name, value in values.items()
        ]
        self._adam = torch.optim.Adam(groups, eps=1e-15, fused=True)

    @property
    def values(self) -> dict[str, Tensor]:
        """The tensors that are moved, by name."""
        return {group['name']: group['params'][0] for group in self._adam.param_groups}

    def __len__(self) -> int:
        return len(self.values['means'])

    def gaussians(self) -> Gaussians:
        """As they are now; gradients flow to `values`."""
        v = self.values
        scales, colors = v['scales'].exp(), linear_from_srgb(v['colors'])
        return Gaussians(v['means'], v['quats'], scales, v['opacities'].sigmoid(), colors)

    def step(self, means_rate: float) -> None:
        """Move everything along its gradient, and forget that."""
        self._adam.param_groups[0]['lr'] = means_rate
        self._adam.step()
        self._adam.zero_grad()
        with torch.no_grad():
            v = self.values
            v['colors'].clamp_(0, 1)
            v['opacities'].clamp_(max=_LOGIT_MAX)
            v['scales'].clamp_(min=torch.tensor(_SCALE_MIN).log().item())

    @torch.no_grad()
    def split(self, chosen: Tensor, generator: torch.Generator) -> None:
        """Replace each of the chosen [N] bool by two smaller ones within it, at the end."""
        v = {name: value[chosen] for name, value in self.values.items()}
        quats = v['quats'] / v['quats'].norm(dim=1, keepdim=True)
        along = torch.randn(v['means'].shape, generator=generator).to(v['means'])
        offset = (rotations_from_quats(quats) @ (along * v['scales'].exp())[..., None])[..., 0]
        v['scales'] = v['scales'] - torch.tensor(_SHRINK).log()
        pair = {name: torch.cat((value, value)) for name, value in v.items()}
        pair['means'] = torch.cat((v['means'] + 0.5 * offset, v['means'] - 0.5 * offset))
        self._replace(~chosen, pair)

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Remove all but those of the mask [N]."""
        none = torch.zeros(len(kept), dtype=torch.bool, device=kept.device)
        self._replace(kept, {name: value[none] for name, value in self.values.items()})

    def _replace(self, kept: Tensor, added: Mapping[str, Tensor]) -> None:
        """Keep some, add others; the memory of Adam stays with what is kept, the new have none."""
        for group in self._adam.param_groups:
            old, new = group['params'][0], added[group['name']]
            state = self._adam.state.pop(old, {})
            tensor = torch.cat((old.detach()[kept], new)).requires_grad_()
            for name in ('exp_avg', 'exp_avg_sq'):
                if name in state:
                    state[name] = torch.cat((state[name][kept], torch.zeros_like(new)))
            group['params'] = [tensor]
            if state:
                self._adam.state[tensor] = state
