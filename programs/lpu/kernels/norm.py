"""Sums over lanes, RMSNorm, and the quantisation of activations.

A sum over lanes is a product with a tile of ones: the result stands in every lane. The tile takes
fp16, so fp32 values go in pieces: each piece is the fp16 part, the rest is scaled up for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isa.opcodes import F16
from programs.decode.stored import ACTIVATION_FACTOR, RMS_FLOOR
from programs.lpu.build import Build
from programs.lpu.chain import Op, cvt, f32, imm
from programs.lpu.memory import Buffer
from programs.lpu.patterns import Load, install
from programs.lpu.schedule import Dst, Mat, Mem, later_vectors

CAST_RUN = 4  # vectors cast in one go, where they come one by one
PIECE = 2.0**11  # each of the three pieces carries 11 bits
ROOT_SCALE = 2.0**-9  # elements are scaled so that squares of up to 131,000 stay in fp16's range (SmolLM2 has 22,400)


def install_ones(b: Build, hemisphere: int) -> int:
    """Install the tile of ones in a hemisphere's plane pair; gives its even plane."""
    plane = 2 * hemisphere
    tile = b.ones(hemisphere)
    install(b.s, plane, F16, [Load(tile, 0, tile.n, 0)])
    return plane


def squares(b: Build, x: Buffer, tiles: int, hemisphere: int) -> Buffer:
    """Scaled sums of squares over the vectors of each sequence: x holds vector t * batch + sequence."""
    total = b.scratch(4, b.batch, hemisphere).named("rms")
    for sequence in range(b.batch):
        leaf = imm("MULI", Mem(x, sequence, b.batch), ROOT_SCALE)
        b.s.vop([(f32("MUL", leaf, leaf), [Dst(total, sequence)])], tiles, fold="ADD")
    return total


def lane_sum(b: Build, values: Buffer, scale: float, offset: float, outs: list[Dst], kind: str = "rsqrt") -> None:
    """outs = rsqrt(scale * (sum of values over lanes) + offset), in every lane, for each sequence.

    values: as `squares` gives them. kind "both": outs[0] gets 1 / root, outs[1] the root itself. Both
    plane pairs hold the tile of ones.
    """
    s, n = b.s, b.batch
    pieces = [b.scratch(2, n, side).named("rms") for side in (0, 1, 0)]
    rest: Op | Mem = Mem(values)
    parts: list[tuple[Op, list[Dst]]] = []
    for piece in pieces:
        part = cvt("f16", "f32", rest)
        parts.append((part, [Dst(piece)]))
        rest = imm("MULI", f32("SUB", rest, cvt("f32", "f16", part)), PIECE)
    s.vop(parts, n)
    factor = scale / ROOT_SCALE**2

    def product(k: int) -> Op:
        return imm("MULI", Mat(2 * pieces[k].side, F16, pieces[k]), factor / PIECE**k)

    low, high = b.scratch(4, n, 0).named("rms"), f32("ADD", product(0), product(1))
    s.vop([(product(2), [Dst(low)])], n)
    total = imm("ADDI", f32("ADD", high, Mem(low)), offset)
    if kind == "rsqrt":
        s.vop([(f32("RSQRT", total), [outs[0]])], n)
        return
    mean = b.scratch(4, n, 0).named("rms")
    s.vop([(total, [Dst(mean)])], n)
    root = f32("RSQRT", Mem(mean))
    s.vop([(root, [outs[0]]), (f32("MUL", root, Mem(mean)), [outs[1]])], n)


def rms_norm(b: Build, x: Buffer, tiles: int, weight: Buffer | None, acts: Sequence[Buffer]) -> None:
    """acts[plane] (vector t * batch + sequence) = x / rms(x) * weight, in the linear layers' input format.

    With 8-bit activations the weight is folded into the matrix, and 1 stands for 127 / 8.
    """
    c = b.stored.config
    total = squares(b, x, tiles, 1)
    for hemisphere in (0, 1):
        install_ones(b, hemisphere)
    root = b.scratch(4, b.batch, 0).named("rms")
    lane_sum(b, total, 1.0 / c.hidden, c.norm_eps, [Dst(root)])
    scale_and_cast(b, x, tiles, root, weight, acts, "s8" if b.act_bytes == 1 else "f16")


def scale_and_cast(b: Build, x: Buffer, tiles: int, root: Buffer | None, weight: Buffer | None,
                   acts: Sequence[Buffer], to: str) -> None:
    """acts = cast(x * root * weight), for every plane."""
    for sequence in range(b.batch):
        value: Op | Mem = Mem(x, sequence, b.batch)
        if root is not None:
            value = f32("MUL", value, Mem(root, sequence, 0))
        if weight is not None:
            value = f32("MUL", value, Mem(weight))
        if to == "s8":
            value = imm("MULI", value, ACTIVATION_FACTOR["s8"])
        casts = []
        for side in (0, 1):
            own = {id(act): act for act in acts if act.side == side}
            casts.append((cvt(to, "f32", value), [Dst(act, sequence, b.batch) for act in own.values()]))
        # without a root nothing is waited for: short runs go where a long one would not fit, and as values come
        run = tiles if root is not None else CAST_RUN
        for first in range(0, tiles, run):
            known: dict[int, Any] = {}
            part = [(later_vectors(op, first, known), [Dst(d.buffer, d.start + first * d.step, d.step) for d in dsts])
                    for op, dsts in casts]
            b.s.vop(part, min(run, tiles - first))


def quantise(b: Build, x: Buffer, tiles: int, size: int, acts: Sequence[Buffer], total: Buffer) -> Buffer:
    """acts = s8 of x * 127 / (8 rms(x)); gives the factor 8 rms(x) / 127 of each sequence, in every lane.

    total: sums of squares as `squares` gives them, in the east.
    """
    for hemisphere in (0, 1):
        install_ones(b, hemisphere)
    root, rms = (b.scratch(4, b.batch, 0).named("rms") for _ in range(2))
    lane_sum(b, total, 1.0 / size, RMS_FLOOR, [Dst(root), Dst(rms)], "both")
    scale_and_cast(b, x, tiles, root, None, acts, "s8")
    return rms
