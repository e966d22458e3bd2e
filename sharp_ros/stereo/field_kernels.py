"""Compiled loops of the field over cells; `field.py` says what it is for."""

from __future__ import annotations

from numba import njit
import numpy as np


@njit(cache=True, fastmath=True, nogil=True)
def smoothed(
    mean: np.ndarray,
    information: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
    start: np.ndarray,
    tolerance: float,
    iterations: int,
) -> np.ndarray:
    """Most likely field of a membrane that is tied to measurements.

    Minimises `sum information (x - mean)² + sum link (x_i - x_j)²` over neighbours by conjugate
    gradients (Hestenes and Stiefel, 1952), preconditioned by the diagonal.

    Args:
        mean: [h, w] float32 measured.
        information: [h, w] float32 of that; positive somewhere.
        across: [h, w - 1] float32 links of cells to those on their right.
        down: [h - 1, w] float32 links to those below.
        start: [h, w] float32 to begin from.
        tolerance: of the norm of the residual, as a share of that of the right side.
        iterations: at most.

    Returns:
        [h, w] float32.
    """
    high, wide = mean.shape
    diagonal = information.copy()
    for y in range(high):
        for x in range(wide - 1):
            diagonal[y, x] += across[y, x]
            diagonal[y, x + 1] += across[y, x]
    for y in range(high - 1):
        for x in range(wide):
            diagonal[y, x] += down[y, x]
            diagonal[y + 1, x] += down[y, x]
    inverse = 1 / np.maximum(diagonal, np.float32(1e-9))
    x = start.copy()
    right = information * mean
    residual = right - _product(x, diagonal, across, down)
    scaled = inverse * residual
    direction = scaled.copy()
    slope = np.float64((residual * scaled).sum())
    goal = tolerance * tolerance * np.float64((inverse * right * right).sum())
    for _ in range(iterations):
        if slope <= goal:
            break
        turned = _product(direction, diagonal, across, down)
        step = np.float32(slope / np.float64((direction * turned).sum()))
        x += step * direction
        residual -= step * turned
        scaled = inverse * residual
        following = np.float64((residual * scaled).sum())
        direction = scaled + np.float32(following / slope) * direction
        slope = following
    return x


@njit(cache=True, fastmath=True, nogil=True)
def _product(
    x: np.ndarray, diagonal: np.ndarray, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """The matrix of the membrane times a field [h, w]."""
    high, wide = x.shape
    out = diagonal * x
    for row in range(high):
        for column in range(wide - 1):
            link = across[row, column]
            out[row, column] -= link * x[row, column + 1]
            out[row, column + 1] -= link * x[row, column]
    for row in range(high - 1):
        for column in range(wide):
            link = down[row, column]
            out[row, column] -= link * x[row + 1, column]
            out[row + 1, column] -= link * x[row, column]
    return out
