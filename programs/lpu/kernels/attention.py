"""Attention of one decode step: RoPE, append to the cache, scores, softmax, weighted sum of V.

K lies as rows (one position a row): a tile of 320 positions is installed and each query head is an
activation, so that scores come out with positions in lanes. V lies transposed (one channel a row), so
that the probabilities can be the activation; a step writes the superlanes of its 16 positions only, of
twenty V vectors at once (see state.Skew). A softmax needs no exact maximum: any number between the
maximum and 16 powers of two above it keeps fp16 probabilities precise. Two sums of powers over the
lanes give such a number (see _upper_bound).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isa.opcodes import F16, S8
from programs.lpu.build import Build
from programs.lpu.chain import Op, copy, cvt, f32, imm
from programs.lpu.kernels.norm import install_ones
from programs.lpu.kernels.state import Skew, StepState, capacity_blocks, key_side, position_tiles, value_side
from programs.lpu.memory import Buffer
from programs.lpu.partition import BLOCK
from programs.lpu.patterns import Load, install, scatter_rows, switch, transpose_rows
from programs.lpu.place import Fill
from programs.lpu.schedule import Dst, Mat, Mem

LOG2E = math.log2(math.e)
TOP = 15.99  # largest exponent of two that fp16 holds
FIRST, SECOND = 0.125, 0.5  # powers that the two sums take
FIRST_SHIFT = -4.0  # the first sum covers maxima from -160 to 160 (powers of two)
MITCHELL = 0.0861  # log2 read off the bits of an fp32 number is at most this much too small


@dataclass
class Cache:
    """KV regions of one layer: keys[sequence][vector]; values[sequence][parity of V vectors] (transposed), and the
    V rows of the current 16 positions, from which a step makes their superlanes anew."""

    keys: list[list[Buffer]]
    values: list[list[Buffer]]
    rows: list[list[Buffer]]
    skew: Skew


def place_cache(b: Build, layered: bool = True) -> Cache:
    """Allocate the cache of a layer (layered: of every layer of the arena), zero-filled: values of later positions
    are multiplied by zero."""
    keys, values, rows = [], [], []
    skew = Skew.of(b.layout, b.g.lanes, b.context)
    for i in range(b.batch):
        keys.append([_region(b, key_side(v, i), capacity_blocks(b.context) + 1, layered).named("layer.kv.keys")
                     for v in range(b.layout.key_vectors)])
        values.append([_region(b, value_side(parity, i), skew.words(parity), layered).named("layer.kv.values")
                       for parity in skew.parities])
        rows.append([_region(b, 1 - value_side(parity, i), skew.rows, layered).named("layer.kv.new_values")
                     for parity in skew.parities])
    return Cache(keys, values, rows, skew)


def _region(b: Build, hemisphere: int, n: int, layered: bool) -> Buffer:
    groups = b.place.streaming_groups(hemisphere, 8)
    buffer = b.memory.buffer(tuple(x for k in groups for x in b.memory.group(hemisphere, k)), n, layered)
    b.place.fills.append(Fill(buffer, zero=True))
    return buffer


@dataclass
class Projections:
    """What the qkv projection leaves in fp32: q and k by K vector, v by tile of 320 channels."""

    q: list[Buffer]  # vector j * batch + sequence
    k: list[Buffer]  # vector sequence
    v: list[Buffer]


def projections(b: Build) -> Projections:
    layout, batch = b.layout, b.batch
    return Projections(
        [b.scratch(4, layout.group * batch, v % 2).named("layer.q") for v in range(layout.key_vectors)],
        [b.scratch(4, batch, 0)] * layout.key_vectors,  # set when they are computed
        [b.scratch(4, batch, 0)] * len(layout.v),
    )


def attention(b: Build, state: StepState, cache: Cache, p: Projections, prefix: str) -> Buffer:
    """Schedule the attention of one layer; gives its output, f32 vector o * batch + sequence."""
    s = b.s
    s.at(prefix + "kv_append")
    _append_values(b, state, cache, p.v)
    s.at(prefix + "rope")
    queries = _rope(b, state, cache, p, prefix)
    s.at(prefix + "attention")
    scores, top = _scores(b, state, cache, queries)
    s.at(prefix + "kv_append")
    _transpose_values(b, state, cache)
    s.at(prefix + "attention")
    return _weighted_values(b, cache, scores, top)


def _append_values(b: Build, state: StepState, cache: Cache, values: Sequence[Buffer]) -> None:
    """Put the new position's V vectors among the rows of the current block."""
    s, skew = b.s, cache.skew
    for i in range(b.batch):
        for v, value in enumerate(values):
            maps = state.value_maps[i][value_side(v, i)]
            new = b.scratch(2, 1, value_side(v, i)).named("layer.v")
            s.settle(new, maps.slices)
            s.vop([(cvt("f16", "f32", Mem(value, i)), [Dst(new)])])
            scatter_rows(s, Mem(new), maps, cache.rows[i][v % 2], v, (v, v + skew.beside))


def _rope(b: Build, state: StepState, cache: Cache, p: Projections, prefix: str) -> list[list[Buffer]]:
    """Rotate q and k, append k; gives fp16 queries [sequence][vector], one vector a (slot, j)."""
    s, layout, batch, g = b.s, b.layout, b.batch, b.g
    hd, half = layout.head_dim, layout.head_dim // 2
    lane = np.arange(g.lanes)
    inside = lane < layout.slots * hd
    partner = b.lane_map(np.where(inside, lane // hd * hd + (lane % hd + half) % hd, lane))
    slot_masks = np.array([(lane // hd == k) & inside for k in range(layout.slots)], dtype=np.float32)
    masks = b.constant("slot_masks", slot_masks) if layout.slots > 1 else None
    for v in range(layout.key_vectors):
        turned = b.scratch(4, batch, v % 2).named("layer.k")
        switch(s, "PERMUTE", partner, Mem(p.k[v]), Dst(turned), v % 2, batch)
        for i in range(batch):
            side = key_side(v, i)
            new = b.scratch(2, 1, 1 - side).named("layer.k")
            s.settle(new, state.key_maps[i][1 - side].slices)
            s.vop([(cvt("f16", "f32", _rotated(p.k[v], turned, state, i, 0)), [Dst(new)])])
            s.at(prefix + "kv_append")
            region = cache.keys[i][v]
            scatter_rows(s, Mem(new), state.key_maps[i][1 - side], region, 0, range(region.n))
            s.at(prefix + "rope")
    queries = [[b.scratch(2, layout.slots_of(v) * layout.group, key_side(v, i)).named("layer.q")
                for v in range(layout.key_vectors)] for i in range(batch)]
    for v in range(layout.key_vectors):
        n = layout.group * batch
        turned = b.scratch(4, n, v % 2).named("layer.q")
        switch(s, "PERMUTE", partner, Mem(p.q[v]), Dst(turned), v % 2, n)
        for i in range(batch):
            for slot in range(layout.slots_of(v)):
                value: Op = _rotated(p.q[v], turned, state, i, batch)
                if masks is not None:
                    value = f32("MUL", value, Mem(masks, slot, 0))
                s.vop([(cvt("f16", "f32", value), [Dst(queries[i][v], slot * layout.group)])], layout.group)
        b.memory.release(turned, p.q[v])
    return queries


def _rotated(x: Buffer, turned: Buffer, state: StepState, sequence: int, step: int) -> Op:
    return f32("ADD", f32("MUL", Mem(x, sequence, step), Mem(state.cos, sequence, 0)),
               f32("MUL", Mem(turned, sequence, step), Mem(state.sin, sequence, 0)))


def _scores(b: Build, state: StepState, cache: Cache, queries: list[list[Buffer]]) -> tuple[list[Buffer], Buffer]:
    """Masked scores in powers of two [tile] (vector sequence * heads + head), and their maxima over tiles."""
    s, layout, heads = b.s, b.layout, b.stored.config.heads
    tiles = position_tiles(b.context, b.g.lanes)
    scores = [b.scratch(4, b.batch * heads, t % 2).named("layer.scores") for t in range(tiles)]
    factor = LOG2E / math.sqrt(layout.head_dim)
    per_tile = b.g.lanes // BLOCK
    for t in range(tiles):
        for i in range(b.batch):
            for v in range(layout.key_vectors):
                plane = 2 * key_side(v, i)
                count, turn = min(per_tile, capacity_blocks(b.context) - t * per_tile), v % per_tile
                before = min(count, per_tile - turn)
                loads = [Load(cache.keys[i][v], t * per_tile, before, BLOCK * turn)]
                if before < count:
                    loads.append(Load(cache.keys[i][v], t * per_tile + before, count - before, 0))
                install(s, plane, F16, loads)
                first = i * heads + v * layout.slots * layout.group
                value = f32("ADD", imm("MULI", Mat(plane, F16, queries[i][v]), factor),
                            Mem(state.masks, (t * cache.skew.turns + turn) * b.batch + i, 0))
                s.vop([(value, [Dst(scores[t], first)])], layout.slots_of(v) * layout.group)
    if tiles == 1:
        return scores, scores[0]
    top = b.scratch(4, b.batch * heads, 0).named("layer.scores")
    for first, count in _halves(top.n):
        most = b.combined("MAX", scores, first, count)
        assert isinstance(most, Op)
        s.vop([(most, [Dst(top, first)])], count)
    return scores, top


def _transpose_values(b: Build, state: StepState, cache: Cache) -> None:
    """Make the current block's superlanes of the transposed V anew from its rows, byte plane by byte plane.

    The 16 rows of each vector go to the rows of the plane where its superlane is in this step, so that one pass
    over a vector's channels transposes twenty vectors.
    """
    s, skew = b.s, cache.skew
    lanes = np.array([BLOCK * k + slot for slot in range(BLOCK) for k in range(skew.blocks)])
    one_hot = (np.arange(b.g.lanes)[None, :] == lanes[:, None]).astype(np.int8)
    quarter = len(one_hot) // 4  # in four slices, so that no slice has to hold all of it
    for i in range(b.batch):
        for number, first in enumerate(skew.firsts):
            for parity in skew.parities:
                side = value_side(parity, i)
                for byte in (0, 1):
                    rows, plane = cache.rows[i][parity].planes(byte, 2), 2 * (1 - side) + byte
                    if skew.together:
                        one = Load(rows, first, skew.superlanes, 0, index=state.turn_maps[i][side])
                    else:  # a vector alone may be on all rows of the plane
                        one = Load(rows.repeated(parity, skew.superlanes), 0, skew.superlanes, 0)
                    install(s, plane, S8, [one])
            for slot in range(BLOCK):
                for parity in skew.parities:
                    side = value_side(parity, i)
                    k = slot // 4
                    table = b.constant(f"one_hot{k}", one_hot[k * quarter : (k + 1) * quarter], 1 - side)
                    transpose_rows(s, 2 * (1 - side), Mem(table, slot % 4 * skew.blocks),
                                   state.tile_maps[i][parity][number], cache.values[i][parity], slot, skew.blocks)


def _log2_bits(a: Mat, factor: float, offset: float) -> Op:
    """factor * (log2 a + offset) from the bits of a positive fp32 number: at least that, by little."""
    return imm("ADDI", imm("MULI", cvt("f32", "s32", a), factor * 2.0**-23), factor * (offset - 127.0 + MITCHELL))


def _halves(n: int) -> list[tuple[int, int]]:
    """(first, count) of the rows for each plane pair."""
    return [(0, n)] if n < 8 else [(0, (n + 1) // 2), ((n + 1) // 2, n // 2)]


def _upper_bound(b: Build, top: Buffer, planes: Sequence[int]) -> Buffer:
    """A number between the maximum over lanes of each vector and 17 above it, minus 15, in every lane.

    log2 of a sum of 2 ** (x / 8) over n lanes is between max / 8 and max / 8 + log2 n: multiplied by 8
    that is at most 67 too large. The same with x / 2, relative to the first estimate, is at most 17
    too large.
    """
    s, n = b.s, top.n
    small = [b.scratch(2, n, h).named("layer.scores.bound") for h in (0, 1)]
    first, second, bound = small[0], small[1], b.scratch(4, n, 0).named("layer.scores.bound")
    estimate = b.scratch(4, n, 1).named("layer.scores.bound")
    for start, count in _halves(n):
        value = imm("MINI", imm("ADDI", imm("MULI", Mem(top, start), FIRST), FIRST_SHIFT), TOP)
        s.vop([(cvt("f16", "f32", f32("EXP2", value)), [Dst(first, start)])], count)
    for (start, count), plane in zip(_halves(n), planes, strict=False):
        log = _log2_bits(Mat(plane, F16, first, start), 1.0 / FIRST, -FIRST_SHIFT)
        s.vop([(log, [Dst(estimate, start)])], count)
        value = imm("ADDI", imm("MULI", f32("SUB", Mem(top, start), Mem(estimate, start)), SECOND), 15.0)
        s.vop([(cvt("f16", "f32", f32("EXP2", imm("MINI", value, TOP))), [Dst(second, start)])], count)
    for (start, count), plane in zip(_halves(n), planes, strict=False):
        log = _log2_bits(Mat(plane, F16, second, start), 1.0 / SECOND, -15.0)
        s.vop([(imm("ADDI", f32("ADD", log, Mem(estimate, start)), -15.0), [Dst(bound, start)])], count)
    b.memory.release(first, second, estimate)
    return bound


def _weighted_values(b: Build, cache: Cache, scores: list[Buffer], top: Buffer) -> Buffer:
    """Softmax of the scores and its product with V; gives f32 vector o * batch + sequence."""
    s, heads, batch = b.s, b.stored.config.heads, b.batch
    n, tiles = batch * heads, len(scores)
    planes = [install_ones(b, 1 - k) for k in range(len(_halves(n)))]
    bound = _upper_bound(b, top, planes)
    weights = [b.scratch(2, n, t % 2).named("layer.probabilities") for t in range(tiles)]
    for start, count in _halves(n):
        for t in range(tiles):
            value = imm("MINI", f32("SUB", Mem(scores[t], start), Mem(bound, start)), TOP)
            s.vop([(cvt("f16", "f32", f32("EXP2", value)), [Dst(weights[t], start)])], count)
    b.memory.release(bound, *scores)
    if tiles > 1:
        b.memory.release(top)
    if len(planes) == 1:  # the products are in the other hemisphere, so that neither waits for the other
        planes = [install_ones(b, 0)]
    inverse = b.scratch(4, n, 0).named("layer.probabilities.sum")
    sums = [b.scratch(4, n, t % 2).named("layer.probabilities.sum") for t in range(tiles)]
    for (start, count), plane in zip(_halves(n), planes, strict=False):
        for t in range(tiles if tiles > 1 else 0):
            s.vop([(imm("ADDI", Mat(plane, F16, weights[t], start), 0), [Dst(sums[t], start)])], count)
        total = b.combined("ADD", sums, start, count) if tiles > 1 else Mat(plane, F16, weights[0], start)
        root = f32("RSQRT", total)
        s.vop([(f32("MUL", root, root), [Dst(inverse, start)])], count)
    out = _divided(b, _products(b, cache, weights), inverse)
    b.memory.release(inverse, *sums, *weights)
    return out


def _products(b: Build, cache: Cache, weights: list[Buffer]) -> dict[tuple[int, int], list[Buffer]]:
    """Products of the probabilities, not yet divided by their sums, with V: [sequence, output vector][tile],
    one vector a query head that has lanes of the output vector."""
    s, heads, layout = b.s, b.stored.config.heads, b.layout
    tiles = len(weights)
    parts = {(i, o): [b.scratch(4, len(vector.masks), (o + t) % 2).named("layer.attention") for t in range(tiles)]
             for i in range(b.batch) for o, vector in enumerate(layout.out)}
    for i in range(b.batch):
        for tile in layout.tiles:
            plane, region = 2 * value_side(tile.vector, i), cache.values[i][tile.vector % 2]
            for t in range(tiles):
                word = cache.skew.word(t, tile.vector)
                install(s, plane, F16, [Load(region, word + first, count, row) for first, count, row in tile.loads()])
                for piece, wanted in tile.pieces():
                    value = copy(Mat(plane, F16, weights[t], i * heads + piece.first, piece.step))
                    s.vop([(value, [Dst(parts[i, o][t], at) for o, at in wanted])], piece.count)
    return parts


def _divided(b: Build, parts: dict[tuple[int, int], list[Buffer]], inverse: Buffer) -> Buffer:
    """Sums of the products over tiles and heads, each in its head's lanes and divided by its head's sum."""
    s, heads = b.s, b.stored.config.heads
    out = b.scratch(4, len(b.layout.out) * b.batch, 0).named("layer.attention")
    factors: dict[tuple[int, int], Buffer] = {}
    for i, o in parts:
        vector = b.layout.out[o]
        masks = b.constant(f"out_masks{_key(vector.masks)}", _wide(vector.masks, b.g.lanes), o % 2)
        factors[i, o] = b.scratch(4, masks.n, 1 - o % 2).named("layer.probabilities.sum")
        at = 0
        for piece in vector.pieces:
            value = f32("MUL", Mem(masks, at), Mem(inverse, i * heads + piece.first, piece.step))
            s.vop([(value, [Dst(factors[i, o], at)])], piece.count)
            at += piece.count
    for (i, o), tiles in parts.items():
        n = factors[i, o].n
        value = f32("MUL", b.combined("ADD", tiles, 0, n), Mem(factors[i, o]))
        s.vop([(value, [Dst(out, o * b.batch + i)])], n, fold="ADD")
        b.memory.release(*tiles, factors[i, o])
    return out


def _key(masks: np.ndarray) -> str:
    return f"{masks.shape}{np.packbits(masks).tobytes().hex()}"


def _wide(masks: np.ndarray, lanes: int) -> np.ndarray:
    out = np.zeros((len(masks), lanes), dtype=np.float32)
    out[:, : masks.shape[1]] = masks
    return out
