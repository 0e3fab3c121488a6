"""Cosine, sine and powers for tables, the same bits on every platform.

NumPy's and C's versions differ between platforms in last bits. These use additions and products of
float64 only (exact by IEEE 754), and for powers Python's decimal arithmetic (correctly rounded).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from math import factorial

import numpy as np

# pi / 2 in three parts: the first two have 33 bits, so that their products with whole numbers below
# 2 ** 20 are exact (Cody and Waite's argument reduction).
HALF_PI = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
LARGEST_ANGLE = 2.0**20  # radians; beyond it the reduction loses bits
# Taylor: the first term left out, (pi / 4) ** 18 / 18!, is below 2 ** -58.
COSINE = [(-1.0) ** k / factorial(2 * k) for k in range(9)]
SINE = [(-1.0) ** k / factorial(2 * k + 1) for k in range(9)]
DIGITS = Context(prec=40)


def cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of float64 radians, to about one unit in the last place. Raises ValueError beyond 2 ** 20."""
    angle = np.asarray(angle, dtype=np.float64)
    if np.abs(angle).max(initial=0.0) > LARGEST_ANGLE:
        raise ValueError(f"angles beyond {LARGEST_ANGLE:.0f} radians are not reduced exactly")
    turn = np.rint(angle * (2.0 / np.pi))
    rest = angle
    for part in HALF_PI:
        rest = rest - turn * part
    square = rest * rest
    cos, sin = _polynomial(COSINE, square), rest * _polynomial(SINE, square)
    quarter = turn.astype(np.int64) & 3
    first, second = np.where(quarter & 1, sin, cos), np.where(quarter & 1, cos, sin)
    return np.where((quarter == 1) | (quarter == 2), -first, first), np.where(quarter >= 2, -second, second)


def _polynomial(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    total = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total


def powers(base: float, numerators: Sequence[int], denominator: int) -> np.ndarray:
    """base ** (numerator / denominator) for a positive base, rounded once to float64."""
    return np.array([float(DIGITS.power(Decimal(base), DIGITS.divide(Decimal(n), Decimal(denominator))))
                     for n in numerators])
