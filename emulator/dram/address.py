"""The pseudo-random address map: multiply, XOR, multiply, XOR on the low bits of a chunk number.

Every step can be undone, so two chunks never share a place. The bits above take part by moving the
low ones (otherwise equal blocks of memory would meet in the same banks). Plain integers: the same
source serves the jitted engines and the twins. No GPU's map is published; a map of this
kind is what lets a read stream reach the measured 95 % of peak (plain modulo stays well below).
"""

from __future__ import annotations

from isa.jit import njit

# Odd constants: fractional bits of the golden ratio and of sqrt(3); any odd pair that mixes will do.
FIRST, SECOND, HIGH = 0x9E3779B1, 0x5DB3D743, 0x2545F491


def scramble_number(chunk: int, bits: int) -> int:
    """Place of a chunk: a permutation of every aligned block of 2**bits chunks. 0 bits: identity."""
    if bits == 0:
        return chunk
    mask = (1 << bits) - 1
    half = (bits + 1) // 2
    high = chunk >> bits
    x = (chunk ^ ((high & 0xFFFFFF) * HIGH)) & mask
    x = (x * FIRST) & mask
    x ^= x >> half
    x = (x * SECOND) & mask
    x ^= x >> half
    return (high << bits) | x


def unscramble_number(place: int, bits: int) -> int:
    """The chunk that `scramble_number` puts at a place."""
    if bits == 0:
        return place
    mask = (1 << bits) - 1
    half = (bits + 1) // 2
    high = place >> bits
    x = place & mask
    x ^= x >> half  # a shift of at least half the width undoes itself
    x = (x * pow(SECOND, -1, 1 << bits)) & mask
    x ^= x >> half
    x = (x * pow(FIRST, -1, 1 << bits)) & mask
    return (high << bits) | (x ^ (((high & 0xFFFFFF) * HIGH) & mask))


scramble = njit(scramble_number)
