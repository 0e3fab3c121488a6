"""What a step derives from the position once: address maps, position masks, RoPE factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isa.angles import cos_sin
from programs.lpu.build import Build
from programs.lpu.chain import Op, cvt, f32, imm, s32
from programs.lpu.memory import Buffer
from programs.lpu.partition import BLOCK
from programs.lpu.patterns import gather
from programs.lpu.place import byte_planes
from programs.lpu.schedule import Dst, Mem

ANGLES = 32  # positions in the fine RoPE table; the coarse one has every 32nd position
MASK_STEP = 10000.0  # added to a score (in powers of two) for every position beyond the current one


@dataclass
class StepState:
    """Buffers that all layers read. Lists are by hemisphere; maps by [sequence][hemisphere]."""

    position: Buffer  # s32, one vector a sequence
    key_maps: list[list[Buffer]]  # 16 maps: word of a K region for each row slot
    value_maps: list[list[Buffer]]  # 16 maps: word of the V rows region
    tile_maps: list[list[Buffer]]  # one map: tile of 320 positions
    masks: Buffer  # f32, vector tile * batch + sequence
    cos: Buffer
    sin: Buffer


def capacity_blocks(context: int) -> int:
    """16-position blocks of the KV cache."""
    return -(-context // BLOCK)


def position_tiles(context: int, lanes: int) -> int:
    return -(-context // lanes)


def value_blocks(context: int, lanes: int) -> int:
    """16-position blocks of the V rows of the current tile."""
    return min(lanes // BLOCK, capacity_blocks(context))


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


def slot_maps(b: Build, word: Buffer, slot: Buffer, dummy: int, sequence: int) -> list[Buffer]:
    """16 maps in both hemispheres: `word` for the row slot that equals `slot`, the dummy word for the others."""
    numbers = np.repeat(np.arange(BLOCK, dtype=np.int32)[:, None], b.g.lanes, axis=1)
    table = b.constant("slots", numbers)
    chosen = b.scratch(4, BLOCK, 0)
    e = s32("SUB", Mem(slot, sequence, 0), Mem(table))
    hit = imm("MAXI", imm("ADDI", imm("MULI", s32("MUL", e, e), -1), 1), 0)
    value = imm("ADDI", s32("MUL", hit, imm("ADDI", Mem(word, sequence, 0), -dummy)), dummy)
    b.s.vop([(value, [Dst(chosen)])], BLOCK)
    targets = b.both(1, BLOCK)
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
    key_maps, value_maps, tile_maps = [], [], []
    for i in range(batch):
        key_maps.append(slot_maps(b, block, slot, capacity_blocks(b.context), i))
        value_maps.append(slot_maps(b, row, slot, value_blocks(b.context, g.lanes), i))
    tiles = b.both(1, batch)
    byte_maps(b, tile, tiles)
    for i in range(batch):
        tile_maps.append([_one(b, t, i) for t in tiles])
    masks = _position_masks(b, position)
    cos, sin = _rope_factors(b, position)
    return StepState(position, key_maps, value_maps, tile_maps, masks, cos, sin)


def _one(b: Build, buffer: Buffer, i: int) -> Buffer:
    """Vector i of a buffer as a buffer (it keeps its own readiness from then on)."""
    made = Buffer(buffer.slices, tuple(buffer.address(k, i) for k in range(len(buffer.slices))), 1,
                  layered=buffer.layered, ready=[buffer.ready[i]], used=[buffer.used[i]], side=buffer.side)
    b.memory.buffers.append(made)
    return made


def _position_masks(b: Build, position: Buffer) -> Buffer:
    """min(0, position - j) x large, for every position j of the cache."""
    tiles = position_tiles(b.context, b.g.lanes)
    masks = b.scratch(4, tiles * b.batch, 1)
    lane = b.constant("lane_f32", np.arange(b.g.lanes, dtype=np.float32)[None])
    for t in range(tiles):
        ahead = f32("SUB", cvt("f32", "s32", Mem(position)), imm("ADDI", Mem(lane, 0, 0), float(t * b.g.lanes)))
        value = imm("MULI", imm("MINI", ahead, 0.0), MASK_STEP)
        b.s.vop([(value, [Dst(masks, t * b.batch)])], b.batch)
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
            table = b.place.constant(byte_planes(values), 1)
            found = parts[kind + name] = b.scratch(4, b.batch, 0)
            for i in range(b.batch):
                gather(s, table, 0, Mem(index, i), Dst(found, i))
    cos, sin = b.scratch(4, b.batch, 0), b.scratch(4, b.batch, 1)
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
