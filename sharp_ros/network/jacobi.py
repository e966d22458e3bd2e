"""Singular vectors of 3x3 matrices by one-sided Jacobi rotations, on the CPU; needs no torch."""

from __future__ import annotations

import numba
import numpy as np

# Keeps 0 / 0 away, and is too small to change anything else.
_TINY = np.float32(np.finfo(np.float32).tiny)
# Typed constants: numba widens float32 arithmetic to float64 at every bare literal.
_ZERO, _HALF, _ONE = (np.float32(value) for value in (0, 0.5, 1))
# What follows must end up inside the loop: a call stops the compiler from vectorising.
inlined = numba.njit(cache=True, forceinline=True, error_model='numpy', fastmath={'contract'})


@inlined
def jacobi_sweep(p, q, r):
    """One round of one-sided Jacobi rotations: the columns grow more perpendicular.

    Columns are tuples of three float32, in and out.
    """
    p, q = turned3(p, q)
    p, r = turned3(p, r)
    q, r = turned3(q, r)
    return p, q, r


@inlined
def turned3(p, q):
    """`unprojection._turned` of one pair of columns, tuples of three float32."""
    half, pq = (dot3(q, q) - dot3(p, p)) * _HALF, dot3(p, q)
    tangent = pq / (abs(half) + np.sqrt(half * half + pq * pq) + _TINY)
    cosine = _ONE / np.sqrt(_ONE + tangent * tangent)
    sine = tangent * cosine
    swap = half > _ZERO
    u, v = (sine if swap else cosine), (cosine if swap else sine)
    return (
        (u * p[0] + v * q[0], u * p[1] + v * q[1], u * p[2] + v * q[2]),
        (u * q[0] - v * p[0], u * q[1] - v * p[1], u * q[2] - v * p[2]),
    )


@inlined
def dot3(p, q):
    """Of two tuples of three float32: a float32."""
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@inlined
def larger(a, b):
    """Of two float32; `a` if either is NaN."""
    return b if b > a else a
