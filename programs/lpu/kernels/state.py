"""What a step derives from the position once: address maps, position masks, RoPE factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isa.angles import cos_sin
from programs.lpu.build import Build
from programs.lpu.chain import Op, cvt, f32, imm, s32
from programs.lpu.memory import Buffer
from programs.lpu.partition import BLOCK, AttentionLayout, blocks
from programs.lpu.patterns import gather
from programs.lpu.place import byte_planes
from programs.lpu.schedule import Dst, Mem

ANGLES = 32  # positions in the fine RoPE table; the coarse one has every 32nd position
MASK_STEP = 10000.0  # added to a score (in powers of two) for every position beyond the current one


@dataclass
class StepState:
    """Buffers that all layers read; maps of the caches by [sequence], and where they are read from."""

    position: Buffer  # s32, one vector a sequence
    key_maps: list[list[Buffer]]  # [hemisphere] 16 maps: word of a K region for each row slot
    value_maps: list[list[Buffer]]  # [hemisphere] 16 maps: added to a V vector's word for each row slot
    turn_maps: list[list[Buffer]]  # [hemisphere] 20 maps: V vector whose rows go to each 16 rows of a plane, if any
    tile_maps: list[list[list[Buffer]]]  # [parity][twenty V vectors] one map: where a superlane's channels go
    masks: Buffer  # f32, vector (tile * turns + turn) * batch + sequence
    cos: Buffer
    sin: Buffer


def capacity_blocks(context: int) -> int:
    """16-position blocks of the KV cache."""
    return -(-context // BLOCK)


def position_tiles(context: int, lanes: int) -> int:
    """Tiles of positions that a context has."""
    return -(-context // lanes)


def key_side(vector: int, sequence: int) -> int:
    """Hemisphere of a K vector's region and scores."""
    return (vector + sequence) % 2


def value_side(vector: int, sequence: int) -> int:
    """Hemisphere of a V vector's channels; its rows are in the other one."""
    return (vector + sequence + 1) % 2


@dataclass(frozen=True)
class Skew:
    """How K and V lie in tiles of 320 positions: block b of K or V vector v in superlane (b + v) mod 20.

    So the blocks of the current positions of 20 V vectors are in 20 superlanes, and one pass through the
    planes writes them. V vectors of one parity are in one region: block q of vector v of tile t is in word
    word(t, v) + q. A superlane that has no vector is written to the first words, which nobody reads.
    """

    vectors: int
    blocks: int  # of a vector
    superlanes: int
    context: int

    @classmethod
    def of(cls, layout: AttentionLayout, lanes: int, context: int) -> Skew:
        """The skew of a layout at a context."""
        return cls(len(layout.v), max(blocks(len(one)) for one in layout.v), lanes // BLOCK, context)

    @property
    def parities(self) -> range:
        """Parities that any vector has."""
        return range(min(2, self.vectors))

    @property
    def turns(self) -> int:
        """Different turns of vectors."""
        return min(self.vectors, self.superlanes)

    @property
    def firsts(self) -> range:
        """First vectors of each twenty, which are transposed together."""
        return range(0, self.vectors, self.superlanes)

    @property
    def beside(self) -> int:
        """From a vector's word of the rows region to the one for what belongs to another row."""
        return self.vectors

    @property
    def rows(self) -> int:
        """Words of a rows region."""
        return 2 * self.vectors

    @property
    def together(self) -> bool:
        """Whether any region has the rows of several vectors, which take turns on the rows of a plane."""
        return self.vectors > 2

    def of_parity(self, parity: int) -> int:
        """V vectors of a parity."""
        return len(range(parity, self.vectors, 2))

    def stride(self, parity: int) -> int:
        """Words of a tile of positions, in the region of the vectors of a parity."""
        return self.of_parity(parity) * self.blocks

    def words(self, parity: int) -> int:
        """Words of the region of a parity."""
        return self.blocks + -(-self.context // (BLOCK * self.superlanes)) * self.stride(parity)

    def word(self, tile: int, vector: int) -> int:
        """Word of the first block of a vector in a tile of positions."""
        return self.blocks + tile * self.stride(vector % 2) + vector // 2 * self.blocks

    def channels(self, parity: int, first: int) -> np.ndarray:
        """[block of positions, superlane]: word in tile 0 for what the planes give there of 20 vectors from `first`;
        negative in any tile where that is nothing."""
        block, superlane = np.indices((self.superlanes, self.superlanes))
        vector = first + (superlane - block) % self.superlanes
        mine = (vector < self.vectors) & (vector % 2 == parity)
        return np.where(mine, self.word(0, parity) + vector // 2 * self.blocks, -self.words(parity))


def floor_div(a: Op | Mem, divisor: int) -> Op:
    """floor(a / divisor) of a small whole s32 vector: rounding to nearest after a shift of almost a half."""
    return cvt("s32", "f32", imm("ADDI", imm("MULI", cvt("f32", "s32", a), 1.0 / divisor),
                                 -(divisor - 1) / (2.0 * divisor)))


def quotient(b: Build, a: Buffer, divisor: int) -> tuple[Buffer, Buffer]:
    """(floor(a / divisor), remainder) of an s32 buffer."""
    q, r = b.scratch(4, a.n, 0), b.scratch(4, a.n, 0)
    b.s.vop([(floor_div(Mem(a), divisor), [Dst(q)])], a.n)
    b.s.vop([(s32("ADD", imm("MULI", Mem(q), -divisor), Mem(a)), [Dst(r)])], a.n)
    return q, r


def byte_maps(b: Build, a: Buffer, targets: list[Buffer]) -> None:
    """Address maps of an s32 buffer: little-endian 16 bits in the first two lanes of each superlane."""
    second = np.where(np.arange(b.g.lanes) % 16 == 1, -1, 0).astype(np.int32)[None]
    lane = b.constant("second_lane", second)
    high, low = quotient(b, a, 256)
    outs = [(cvt("u8", "s32", s32("SELECT", Mem(lane, 0, 0), Mem(low), Mem(high))), [Dst(t)]) for t in targets]
    b.s.vop(outs, a.n)
    b.memory.release(high, low)


def slot_maps(b: Build, word: Buffer | None, slot: Buffer, dummy: int, sequence: int) -> list[Buffer]:
    """16 maps in both hemispheres: `word` (None: 0) for the row slot that equals `slot`, `dummy` for the others."""
    numbers = np.repeat(np.arange(BLOCK, dtype=np.int32)[:, None], b.g.lanes, axis=1)
    table = b.constant("slots", numbers)
    chosen = b.scratch(4, BLOCK, 0)
    e = s32("SUB", Mem(slot, sequence, 0), Mem(table))
    hit = imm("MAXI", imm("ADDI", imm("MULI", s32("MUL", e, e), -1), 1), 0)
    if word is None:
        value = imm("ADDI", imm("MULI", hit, -dummy), dummy)
    else:
        value = imm("ADDI", s32("MUL", hit, imm("ADDI", Mem(word, sequence, 0), -dummy)), dummy)
    b.s.vop([(value, [Dst(chosen)])], BLOCK)
    targets = [target.named("kv_maps") for target in b.both(1, BLOCK)]
    byte_maps(b, chosen, targets)
    b.memory.release(chosen)
    return targets


def step_state(b: Build, position: Buffer) -> StepState:
    """Schedule everything that depends on the position only; position: s32 in every lane."""
    g, s, batch = b.g, b.s, b.batch
    s.at("state")
    block, slot = quotient(b, position, BLOCK)
    tile, _ = quotient(b, position, g.lanes)
    row = b.scratch(4, batch, 0)  # block within the tile
    s.vop([(s32("ADD", imm("MULI", Mem(tile), -(g.lanes // BLOCK)), Mem(block)), [Dst(row)])], batch)
    skew = Skew.of(b.layout, g.lanes, b.context)
    key_maps, value_maps, turn_maps = [], [], []
    for i in range(batch):
        key_maps.append(slot_maps(b, block, slot, capacity_blocks(b.context), i))
        value_maps.append(slot_maps(b, None, slot, skew.beside, i))
        turn_maps.append(_turn_maps(b, skew, row, i) if skew.together else [])
    tile_maps = _tile_maps(b, skew, tile, row)
    masks = _position_masks(b, skew, position)
    cos, sin = _rope_factors(b, position)
    return StepState(position, key_maps, value_maps, turn_maps, tile_maps, masks, cos, sin)


def _turn_maps(b: Build, skew: Skew, block: Buffer, sequence: int) -> list[Buffer]:
    """20 maps in both hemispheres: (k - block) mod 20 for the 16 rows k of a plane, at most the number of vectors."""
    count = b.g.superlanes
    table = b.constant("superlanes", np.repeat(np.arange(count, dtype=np.int32)[:, None], b.g.lanes, axis=1))
    vector = b.scratch(4, count, 0)
    away = s32("SUB", Mem(table), Mem(block, sequence, 0))
    below = imm("MINI", imm("MAXI", imm("MULI", away, -1), 0), 1)
    turned = s32("ADD", away, imm("MULI", below, count))
    b.s.vop([(imm("MINI", turned, skew.turns), [Dst(vector)])], count)
    targets = [target.named("kv_maps") for target in b.both(1, count)]
    byte_maps(b, vector, targets)
    b.memory.release(vector)
    return targets


def _tile_maps(b: Build, skew: Skew, tile: Buffer, block: Buffer) -> list[list[list[Buffer]]]:
    """[sequence][parity][twenty vectors]: words of the current tile, in the hemisphere of the planes."""
    index = b.scratch(1, b.batch, 0)
    byte_maps(b, block, [index])
    maps: list[list[list[Buffer]]] = [[[] for _ in skew.parities] for _ in range(b.batch)]
    for parity in skew.parities:
        for first in skew.firsts:
            words = np.repeat(skew.channels(parity, first), BLOCK, axis=1).astype(np.int32)
            table = b.place.constant(byte_planes(words), 1)
            found, word = b.scratch(4, b.batch, 0), b.scratch(4, b.batch, 0)
            for i in range(b.batch):
                gather(b.s, table, 0, Mem(index, i), Dst(found, i))
            value = s32("ADD", imm("MULI", Mem(tile), skew.stride(parity)), Mem(found))
            b.s.vop([(imm("MAXI", value, 0), [Dst(word)])], b.batch)
            targets = [target.named("kv_maps") for target in b.both(1, b.batch)]
            byte_maps(b, word, targets)
            for i in range(b.batch):
                maps[i][parity].append(_one(b, targets[1 - value_side(parity, i)], i))
    return maps


def _one(b: Build, buffer: Buffer, i: int) -> Buffer:
    """Vector i of a buffer as a buffer (it keeps its own readiness from then on)."""
    made = Buffer(buffer.slices, tuple(buffer.address(k, i) for k in range(len(buffer.slices))), 1,
                  layered=buffer.layered, ready=[buffer.ready[i]], used=[buffer.used[i]], side=buffer.side,
                  name=buffer.name)
    b.memory.buffers.append(made)
    return made


def turned_positions(skew: Skew) -> np.ndarray:
    """Position in its tile that a lane stands for, [turn, lane]."""
    turn, lane = np.indices((skew.turns, BLOCK * skew.superlanes))
    return (lane - BLOCK * turn) % (BLOCK * skew.superlanes)


def _position_masks(b: Build, skew: Skew, position: Buffer) -> Buffer:
    """min(0, position - j) x large, for every position j of the cache."""
    tiles = position_tiles(b.context, b.g.lanes)
    masks = b.scratch(4, tiles * skew.turns * b.batch, 1).named("position_masks")
    lane = b.constant("turned_positions", turned_positions(skew).astype(np.float32))
    for t in range(tiles):
        for turn in range(skew.turns):
            ahead = f32("SUB", cvt("f32", "s32", Mem(position)), imm("ADDI", Mem(lane, turn, 0), float(t * b.g.lanes)))
            value = imm("MULI", imm("MINI", ahead, 0.0), MASK_STEP)
            b.s.vop([(value, [Dst(masks, (t * skew.turns + turn) * b.batch)])], b.batch)
    return masks


def _rope_factors(b: Build, position: Buffer) -> tuple[Buffer, Buffer]:
    """cos and signed sin of every lane's angle, by the addition theorem from two tables."""
    c, s = b.stored.config, b.s
    coarse, fine = quotient(b, position, ANGLES)
    maps = [b.scratch(1, b.batch, 0), b.scratch(1, b.batch, 0)]
    byte_maps(b, fine, [maps[0]])
    byte_maps(b, coarse, [maps[1]])
    parts: dict[str, Buffer] = {}
    rows = -(-b.context // ANGLES)
    for name, index, count, unit in (("fine", maps[0], ANGLES, 1), ("coarse", maps[1], rows, ANGLES)):
        cosines, sines = rope_table(c, b.layout.slots, b.g.lanes, np.arange(count) * unit)
        for kind, values in (("cos", cosines), ("sin", sines)):
            table = b.place.constant(byte_planes(values), 1).named("rope")
            found = parts[kind + name] = b.scratch(4, b.batch, 0)
            for i in range(b.batch):
                gather(s, table, 0, Mem(index, i), Dst(found, i))
    cos, sin = (b.scratch(4, b.batch, side).named(f"rope.{kind}") for side, kind in enumerate(("cos", "sin")))
    cf, cc, sf, sc = (Mem(parts[k]) for k in ("cosfine", "coscoarse", "sinfine", "sincoarse"))
    s.vop([(f32("SUB", f32("MUL", cf, cc), f32("MUL", sf, sc)), [Dst(cos)])], b.batch)
    s.vop([(f32("ADD", f32("MUL", sf, cc), f32("MUL", cf, sc)), [Dst(sin)])], b.batch)
    return cos, sin


def rope_table(c, slots: int, lanes: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and signed sin [positions, lanes] in the lanes of K vectors; sin is negative in a head's first half."""
    half = c.head_dim // 2
    d = np.arange(slots * c.head_dim) % c.head_dim
    angle = np.asarray(positions, np.float64)[:, None] * c.rope_frequencies()[d % half]
    cos, sin = np.zeros((len(positions), lanes), np.float32), np.zeros((len(positions), lanes), np.float32)
    cosines, sines = cos_sin(angle)
    cos[:, : len(d)] = cosines
    sin[:, : len(d)] = np.where(d < half, -1.0, 1.0) * sines
    return cos, sin
