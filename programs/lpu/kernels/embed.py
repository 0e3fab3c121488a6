"""Embedding lookup: the row of a token is gathered from tables in several slices.

A table holds some rows and, after them, one of zeros. Every table is asked, those without the row
answer zeros, and the sum of the answers is the row.
"""

from __future__ import annotations

import numpy as np

from programs.lpu.build import Build
from programs.lpu.chain import cvt, f32, imm, s32
from programs.lpu.kernels.state import byte_maps
from programs.lpu.memory import Buffer
from programs.lpu.partition import natural
from programs.lpu.patterns import gather
from programs.lpu.place import Fill, byte_planes, lane_vectors
from programs.lpu.schedule import Dst, Mem

ROWS, TIGHT_ROWS = 2048, 512  # rows of a table, at most; where the chip is nearly full


def place_embedding(b: Build, begin: int, end: int) -> list[list[Buffer]]:
    """Tables [chunk][vector] of rows begin .. end - 1 of a rank's share: equal numbers of rows, each with a zero row
    at its end."""
    c, g = b.stored.config, b.g
    layout = natural(c.hidden, g.lanes)
    rows = min(ROWS if b.place.roomy else TIGHT_ROWS, end - begin)
    tables = []
    for first in range(begin, end, rows):
        side, group = max(((h, k) for h in (0, 1) for k in b.place.streaming_groups(h, 8)),
                          key=lambda hk: (b.memory.group_free(*hk), hk[1], hk[0]))
        vectors = []
        for v in range(len(layout)):
            if 2 * v % 4 == 0 and v:
                group = max(b.place.streaming_groups(side, 8), key=lambda k: (b.memory.group_free(side, k), k))
            slices = b.memory.group(side, group)[2 * v % 4 : 2 * v % 4 + 2]
            buffer = b.memory.buffer(slices, rows + 1).named("embed")

            def make(layer: int, first: int = first, v: int = v) -> np.ndarray:
                embed = b.stored.embed
                assert embed is not None
                block = embed[first : min(first + rows, end)][:, layout[v]]
                out = np.zeros((rows + 1, g.lanes), dtype=np.uint16)
                out[: len(block), : block.shape[1]] = block
                return byte_planes(out)

            b.place.fills.append(Fill(buffer, make))
            vectors.append(buffer)
        tables.append(vectors)
    return tables


def embedding(b: Build, tables: list[list[Buffer]], begin: int, token: Buffer, x: Buffer,
              before: Buffer | None) -> None:
    """x (f32, vector v * batch + sequence) = embedding row of each sequence's token (s32, in every lane);
    zeros for a token that is not in these tables. before: is added."""
    s, batch, chunks = b.s, b.batch, len(tables)
    s.at("embed")
    rows = tables[0][0].n - 1
    vocab = b.stored.config.vocab  # of a rank's share

    def starts(rank: int) -> np.ndarray:
        first = np.arange(chunks, dtype=np.int32)[:, None] * rows + rank * vocab + begin
        return byte_planes(np.repeat(first.astype(np.int32), b.g.lanes, axis=1))

    start = b.rank_table("chunk_starts", chunks, 4, starts, 0)
    sides = [b.memory.hemisphere(t[0].slices[0]) for t in tables]
    for i in range(batch):
        row = b.scratch(4, chunks, 1)
        d = s32("SUB", Mem(token, i, 0), Mem(start))
        outside = imm("ADDI", imm("ANDI", d, 0), rows)
        s.vop([(s32("SELECT", d, imm("MINI", d, rows), outside), [Dst(row)])], chunks)
        maps = b.both(1, chunks)
        byte_maps(b, row, maps)
        for v in range(len(tables[0])):
            parts = []
            for side in (0, 1):
                mine = [k for k in range(chunks) if sides[k] == side]
                if not mine:
                    continue
                answers = b.scratch(2, len(mine), 1 - side)
                for at, k in enumerate(mine):
                    gather(s, tables[k][v], 0, Mem(maps[1 - side], k), Dst(answers, at))
                total = b.scratch(4, 1, side)
                s.vop([(cvt("f32", "f16", Mem(answers)), [Dst(total)])], len(mine), fold="ADD")
                parts.append(total)
            value = f32("ADD", Mem(parts[0]), Mem(parts[1])) if len(parts) == 2 else imm("ADDI", Mem(parts[0]), 0)
            if before is not None:
                value = f32("ADD", value, Mem(before, v * batch + i))
            s.vop([(value, [Dst(x, v * batch + i)])])


__all__ = ["embedding", "lane_vectors", "place_embedding"]
