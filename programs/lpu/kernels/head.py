"""Logits to the next token: the largest logit, and of equal ones the lowest id."""

from __future__ import annotations

import numpy as np

from programs.lpu.build import Build
from programs.lpu.chain import Op, copy, cvt, f32, imm
from programs.lpu.kernels.network import exchange
from programs.lpu.memory import Buffer
from programs.lpu.patterns import switch
from programs.lpu.place import byte_planes
from programs.lpu.schedule import Dst, Mem

PADDING = -3.0e38  # added to the logits of lanes that are no token


class ArgMax:
    """Running maximum of logit tiles, lane by lane, in four independent sets; then over the lanes."""

    def __init__(self, b: Build) -> None:
        self.b = b
        self.best: dict[int, tuple[Buffer, Buffer]] = {}

    def begin(self, value: Buffer, index: Buffer) -> None:
        """Go on from what an earlier stage has found, lane by lane."""
        self.best[-1] = value, index

    def lanes(self) -> tuple[Buffer, Buffer]:
        """The largest logit of each lane so far, with its id."""
        self.best = {-1: self._best(list(self.best.values()))}
        return self.best[-1]

    def add(self, n: int, logits: Buffer, hemisphere: int) -> None:
        """Take in tile n of a rank's share (token ids lanes * n on); logits: one vector a sequence."""
        b, s, batch = self.b, self.b.s, self.b.batch
        lanes, vocab = b.g.lanes, b.stored.config.vocab

        def first_ids(rank: int) -> np.ndarray:
            return byte_planes(np.arange(rank * vocab, rank * vocab + lanes, dtype=np.float32)[None])

        def padding(rank: int) -> np.ndarray:
            ids = rank * vocab + lanes * n + np.arange(lanes)
            real = (ids < b.vocab) & (lanes * n + np.arange(lanes) < vocab)
            return byte_planes(np.where(real, 0.0, PADDING).astype(np.float32)[None])

        ids = imm("ADDI", Mem(b.rank_table("first_ids", 1, 4, first_ids, 0), 0, 0), float(lanes * n))
        least = min(vocab, b.vocab - (b.ranks - 1) * vocab)  # tokens of the rank that has the fewest
        if (n + 1) * lanes > least:
            pad = b.rank_table(f"padding{n}", 1, 4, padding, 0)
            padded = b.scratch(4, batch, hemisphere).named("logits")
            s.vop([(f32("ADD", Mem(logits), Mem(pad, 0, 0)), [Dst(padded)])], batch)
            logits = padded
        key = 2 * hemisphere + n % 2
        if key not in self.best:
            value, index = (b.scratch(4, batch, side).named("best") for side in (hemisphere, 1 - hemisphere))
            self.best[key] = value, index
            s.vop([(copy(Mem(logits)), [Dst(value)])], batch)
            s.vop([(copy(ids), [Dst(index)])], batch)
            return
        value, index = self.best[key]
        d = f32("SUB", Mem(value), Mem(logits))  # negative where the new one is larger
        s.vop([(f32("SELECT", d, Mem(value), Mem(logits)), [Dst(value)]),
               (f32("SELECT", d, Mem(index), ids), [Dst(index)])], batch)

    def token(self, token: Buffer) -> None:
        """Write the id of the largest logit of each sequence to every lane of token (s32)."""
        b, s, batch, lanes = self.b, self.b.s, self.b.batch, self.b.g.lanes
        value, index = self.lanes()
        step = 1
        while step < lanes:
            turn = b.lane_map((np.arange(lanes) + step) % lanes)
            turned = []
            for side, source in enumerate((value, index)):
                there = b.scratch(4, batch, side).named("best")
                switch(s, "PERMUTE", turn, Mem(source), Dst(there), side, batch)
                turned.append(there)
            value, index = self._merge((value, index), (turned[0], turned[1]))
            step *= 2
        if b.ranks > 1:
            value, index = self._best(list(zip(exchange(b, value), exchange(b, index), strict=True)))
        s.vop([(cvt("s32", "f32", Mem(index)), [Dst(token)])], batch)

    def _best(self, sets: list[tuple[Buffer, Buffer]]) -> tuple[Buffer, Buffer]:
        while len(sets) > 1:
            sets = [self._merge(*pair) if len(pair) == 2 else pair[0]
                    for pair in (sets[k : k + 2] for k in range(0, len(sets), 2))]
        return sets[0]

    def _merge(self, one: tuple[Buffer, Buffer], two: tuple[Buffer, Buffer]) -> tuple[Buffer, Buffer]:
        """The larger value of each lane with its id; of equal values the lower id."""
        b = self.b
        value, index = (b.scratch(4, b.batch, side).named("best") for side in (0, 1))
        v1, v2, i1, i2 = Mem(one[0]), Mem(two[0]), Mem(one[1]), Mem(two[1])
        d: Op = f32("SUB", v1, v2)
        tie = f32("SELECT", f32("SUB", v2, v1), f32("SUB", i2, i1), d)  # d, or the ids' order when d is 0
        second = f32("SELECT", d, tie, d)
        b.s.vop([(f32("SELECT", second, i1, i2), [Dst(index)])], b.batch)
        b.s.vop([(f32("MAX", v1, v2), [Dst(value)])], b.batch)
        return value, index
