"""Own cosine, sine and powers against exact values and against the C library's."""

from __future__ import annotations

import math
from decimal import Context, Decimal

import numpy as np
import pytest

from isa.angles import LARGEST_ANGLE, cos_sin, powers


def test_cos_and_sin_are_within_two_units_in_the_last_place_of_the_library() -> None:
    """The library is right to one unit; near zeros the error is bounded by that of the reduced angle, 2 ** -53."""
    random = np.random.default_rng(3)
    angle = np.concatenate([random.uniform(-4, 4, 20_000), random.uniform(0, 131_072, 20_000), np.arange(4096.0)])
    cos, sin = cos_sin(angle)
    assert np.abs(cos - np.cos(angle)).max() <= 2 * 2.0**-53
    assert np.abs(sin - np.sin(angle)).max() <= 2 * 2.0**-53
    assert np.abs(cos * cos + sin * sin - 1).max() < 1e-15


def test_known_angles() -> None:
    cos, sin = cos_sin(np.array([0.0, math.pi / 2, math.pi, 1.5 * math.pi, 1.0]))
    assert (cos[0], sin[0]) == (1.0, 0.0)
    # The float64 next to pi / 2 is 6.123e-17 below it: cos of it is that difference, not 0.
    assert cos[1] == 6.123233995736766e-17 and sin[1] == 1.0
    assert cos[2] == -1.0 and sin[3] == -1.0
    assert cos[4] == 0.5403023058681398 and sin[4] == 0.8414709848078965  # first digits of the two constants


def test_angles_too_large_to_reduce_are_refused() -> None:
    with pytest.raises(ValueError, match="not reduced exactly"):
        cos_sin(np.array([2 * LARGEST_ANGLE]))


def test_powers_are_the_nearest_float64() -> None:
    """Squares of a square root, taken with 60 digits, bracket the base between the neighbours of the result."""
    exact = Context(prec=60)
    for base in (10000.0, 500000.0, 3.7):
        value = powers(base, [-1], 2)[0]
        low, high = (Decimal(math.nextafter(value, side)) for side in (-math.inf, math.inf))
        inverse = exact.divide(Decimal(1), Decimal(base))
        assert exact.multiply(low, low) < inverse < exact.multiply(high, high)
    assert powers(10000.0, [0, -128, -64], 128).tolist() == [1.0, 1e-4, 1e-2]
