"""The container of 3D Gaussians that every stage after the network works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharp_ros.errors import InputError


@dataclass(frozen=True)
class Gaussians:
    """Anisotropic 3D Gaussians in one coordinate frame, all tensors on one device.

    Attributes:
        means: [N, 3] metres.
        quats: [N, 4] wxyz, of any positive length.
        scales: [N, 3] standard deviations along the local axes, metres.
        opacities: [N] in 0..1.
        colors: [N, 3] linear RGB in 0..1.
        grid: (layers, rows, columns) when Gaussian `(layer * rows + row) * columns + column`
            belongs to that cell of the image it was predicted from, layer 0 being the visible
            surface; None once the order is lost.
        log_depth_std: [N] standard deviation of the logarithm of the depth, or None if unknown.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    grid: tuple[int, int, int] | None = None
    log_depth_std: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        shapes = {
            'means': (n, 3),
            'quats': (n, 4),
            'scales': (n, 3),
            'opacities': (n,),
            'colors': (n, 3),
        }
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(f'{name} must be {shape}, got {tuple(getattr(self, name).shape)}')
        if self.log_depth_std is not None and tuple(self.log_depth_std.shape) != (n,):
            raise InputError(f'log_depth_std must be ({n},)')
        if self.grid is not None and self.grid[0] * self.grid[1] * self.grid[2] != n:
            raise InputError(f'grid {self.grid} does not hold {n} Gaussians')

    def __len__(self) -> int:
        return self.means.shape[0]

    def to(self, device: str | torch.device) -> Gaussians:
        """The same Gaussians on another device."""
        std = self.log_depth_std
        return replace(
            self,
            means=self.means.to(device),
            quats=self.quats.to(device),
            scales=self.scales.to(device),
            opacities=self.opacities.to(device),
            colors=self.colors.to(device),
            log_depth_std=None if std is None else std.to(device),
        )

    def select(self, index: Tensor) -> Gaussians:
        """Those Gaussians a boolean mask or an index picks; the image order is lost."""
        std = self.log_depth_std
        return Gaussians(
            self.means[index],
            self.quats[index],
            self.scales[index],
            self.opacities[index],
            self.colors[index],
            None,
            None if std is None else std[index],
        )

    def layer(self, index: int) -> Gaussians:
        """One layer of the image grid, still in image order.

        Raises:
            InputError: if the image order was lost or the layer does not exist.
        """
        if self.grid is None or not 0 <= index < self.grid[0]:
            raise InputError(f'layer {index} asked from Gaussians with grid {self.grid}')
        _, rows, columns = self.grid
        part = slice(index * rows * columns, (index + 1) * rows * columns)
        return replace(self.select(part), grid=(1, rows, columns))  # type: ignore[arg-type]


def srgb_from_linear(linear: Tensor) -> Tensor:
    """IEC 61966-2-1 transfer curve; input is clamped to 0..1."""
    x = linear.clamp(0, 1)
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def linear_from_srgb(encoded: Tensor) -> Tensor:
    """Inverse of `srgb_from_linear`."""
    x = encoded.clamp(0, 1)
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
