"""Protocol Buffers, as much of them as a Perfetto trace needs: fields of integers, texts and messages."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A number from 0 to 2**64 - 1, seven bits a byte, lowest first."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} does not fit a varint of 64 bits")
    out = bytearray()
    while value >= 128:
        out.append(128 | (value & 127))
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """An integer field; a negative value stands as its two's complement in 64 bits."""
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def message(field: int, content: bytes | str) -> bytes:
    """A field of text or of another message's bytes."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw
