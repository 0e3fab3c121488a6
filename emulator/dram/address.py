"""The address map: which pseudo-channel, and which place in it, a chunk of memory has.

Chunks are dealt out in blocks of one chunk a pseudo-channel. Within a block the order is turned: the
numbers are multiplied by a stride and shifted by a hash of the block's number, so that neighbours lie
far apart and no distance between addresses keeps meeting the same pseudo-channel, while any contiguous
piece of memory still loads all of them alike. A block's place, and with it the bank, is XORed with a
hash of the number's upper bits. Every step can be undone, so two chunks never share a place. Plain
integers: the same source serves the jitted engines and the twins. No GPU's map is published.
"""

from __future__ import annotations

from isa.jit import njit

# Odd constants: fractional bits of the golden ratio and of sqrt(3); any odd pair that mixes will do.
FIRST, SECOND = 0x9E3779B1, 0x5DB3D743


def mixed_number(x: int) -> int:
    """A hash of a non-negative number: 32 bits."""
    x = (x ^ (x >> 32)) & 0xFFFFFFFF
    x = (x * FIRST) & 0xFFFFFFFF
    x ^= x >> 15
    x = (x * SECOND) & 0xFFFFFFFF
    return x ^ (x >> 16)


mixed = njit(mixed_number)


def scramble_number(chunk: int, bits: int, total: int, stride: int) -> int:
    """Place of a chunk: its remainder by `total` is the pseudo-channel, the rest the place in it.

    bits: of a block's number that its place may differ in; 0 keeps addresses in order. stride: has no
    common factor with total.
    """
    if bits == 0:
        return chunk
    block = chunk // total
    turned = ((chunk - block * total) * stride + mixed(block)) % total
    return (block ^ (mixed(block >> bits) & ((1 << bits) - 1))) * total + turned


def unscramble_number(place: int, bits: int, total: int, stride: int) -> int:
    """The chunk that `scramble_number` puts at a place."""
    if bits == 0:
        return place
    moved, turned = divmod(place, total)
    block = moved ^ (mixed_number(moved >> bits) & ((1 << bits) - 1))
    return block * total + (turned - mixed_number(block)) * pow(stride, -1, total) % total


scramble = njit(scramble_number)
