"""Where weights lie: tiles over slices, so that a tile streams into its plane at full rate.

A tile is read from 16 slices (s8: one stream a slice, row m * 16 + i in slice i), 32 slices (f16: two
streams a row) or 4 slices (s8 that the VXM casts, 4 rows a cycle). Slices come in groups of four on
one column. While a hemisphere streams from 8 groups the other ones rest: partial sums and scales of
these tiles go there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emulator.lpu.geometry import Geometry
from programs.decode.stored import StoredLinear
from programs.lpu.memory import Buffer, Memory
from programs.lpu.partition import BLOCK, LinearPlan, Tile, split_tiles

# Tile positions that share one choice of slice groups where the chip is nearly full; the layers placed
# last change more often, so that slices fill evenly.
CHUNKS = {"qkv": 8, "o": 8}
LATENCY_TILES = 6  # tiles that are loaded before a tile's sums are through
ROOMY = 0.66  # below this share of the chip, weights keep off the groups near the VXM
NEAR_GROUPS = (0, 1, 2)


def in_layer(name: str) -> str:
    """The name of a matrix or norm as instructions have it, before its layer has a number."""
    return name if name in ("lm_head", "final_norm") else f"layer.{name}"


@dataclass
class Fill:
    """Initial contents of a buffer: make(layer) gives uint8 [n, bytes, lanes]; zero: zeros.

    table: the compiler's own constants, which have values in timing-only programs too.
    """

    buffer: Buffer
    make: Callable[[int], np.ndarray] | None = None
    zero: bool = False
    table: bool = False


@dataclass
class PlacedTile:
    tile: Tile
    buffer: Buffer
    start: int
    count: int  # vectors of the buffer
    rest: int  # slice group of the unit's hemisphere that rests meanwhile


@dataclass
class PlacedLinear:
    plan: LinearPlan
    format: str  # "s8", "f16" or "cast8"
    units: list[int]  # planes (f16, cast8: even planes of pairs)
    tiles: list[list[PlacedTile]]  # of each unit


class Placer:
    """Allocates weights and remembers what fills them."""

    def __init__(self, g: Geometry, memory: Memory, share: float) -> None:
        self.g, self.memory = g, memory
        self.roomy = share < ROOMY
        self.fills: list[Fill] = []

    def streaming_groups(self, hemisphere: int, count: int, among: list[int] | None = None) -> list[int]:
        """`count` slice groups with the most room, of all or of some."""
        groups = self.weight_groups if among is None else among
        order = sorted(groups, key=lambda k: (-self.memory.group_free(hemisphere, k), -k))
        return sorted(order[:count])

    @property
    def weight_groups(self) -> list[int]:
        """Groups for weights and the cache: the eight far ones while there is room to choose."""
        columns = self.memory.columns
        return list(range(columns - 8 if self.roomy else 0, columns))

    def unit_groups(self, format: str, name: str) -> list[list[int]]:
        """Groups that each unit of a hemisphere may stream from. Planes that work side by side share none,
        so that one may run ahead; an odd group out changes sides from layer to layer."""
        groups = self.weight_groups
        if format != "s8":
            return [groups]
        even = len(groups) // 2 * 2
        sets = [groups[0:even:2], groups[1:even:2]]
        sets[int(name not in ("gate_up", "lm_head"))] += groups[even:]
        return sets

    def scratch(self, size: int, n: int, hemisphere: int, layered: bool = False, group: int | None = None) -> Buffer:
        """n vectors of `size` bytes: in the given group, else near the VXM while there is room."""
        memory = self.memory
        if group is None or memory.group_free(hemisphere, group) < n + 2:
            groups = tuple(k for k in NEAR_GROUPS if memory.group_free(hemisphere, k) >= n)
            groups = groups or tuple(range(memory.columns))
        else:
            groups = (group,)
        return memory.near(size, n, hemisphere, groups, layered)

    @property
    def scratch_groups(self) -> tuple[int, ...]:
        """Slice groups for scratch: near the VXM while weights keep off, else all."""
        return NEAR_GROUPS if self.roomy else tuple(range(self.memory.columns))

    def constant(self, data: np.ndarray, hemisphere: int, group: int | None = None) -> Buffer:
        """A static buffer with known contents uint8 [n, bytes, lanes]."""
        buffer = self.scratch(data.shape[1], data.shape[0], hemisphere, group=group)
        self.fills.append(Fill(buffer, lambda layer: data, table=True))
        return buffer

    def linear(self, plan: LinearPlan, format: str, layered: bool,
               source: Callable[[int], StoredLinear]) -> PlacedLinear:
        """Place a linear layer's tiles; source(layer) gives its values."""
        g = self.g
        units = list(range(g.planes)) if format == "s8" else list(range(0, g.planes, 2))
        parts = split_tiles(plan, len(units))
        placed: list[list[PlacedTile]] = [[] for _ in units]
        per_unit = {"s8": 4, "f16": 8, "cast8": 1}[format]
        length = 1 if format == "cast8" else 8 if self.roomy else CHUNKS.get(plan.name, 16)
        for hemisphere in (0, 1):
            mine = [u for u, plane in enumerate(units) if (plane >= g.planes // 2) == (hemisphere == 1)]
            sets = self.unit_groups(format, plan.name)
            picks: dict[int, list[list[int]]] = {u: [] for u in mine}
            bounds = sorted((max(0, at - i * length // 2), i, u) for i, u in enumerate(mine)
                            for at in range(0, len(parts[u]) + length, length))
            for first, i, u in bounds:  # neighbours change their groups at different times
                following = min((f for f, j, _ in bounds if j == i and f > first), default=len(parts[u]))
                chunk = parts[u][first:following]
                if not chunk:
                    continue
                # int8 planes have streams of their own, and where layers are few their sums find a place anyhow
                spare = format == "f16" or self.memory.layers > 2
                among = self._but_one(hemisphere, sets[i], picks[u], per_unit) if spare else sets[i]
                groups = self.streaming_groups(hemisphere, per_unit, among)
                slices = tuple(s for k in groups for s in self.memory.group(hemisphere, k))
                picks[u] += [groups] * len(chunk)
                self._tiles(placed[u], chunk, slices, 4 if format == "cast8" else 1, plan, layered, source)
            self._rests(placed, picks)
        return PlacedLinear(plan, format, units, placed)

    def _but_one(self, hemisphere: int, groups: list[int], picks: list[list[int]], count: int) -> list[int]:
        """Groups to choose the next `count` from: but for one that rests already, where enough are left, so that sums
        have a place while the streams change."""
        resting = [k for k in groups if picks and k not in picks[-1]]
        if len(resting) < 2 or len(groups) - 1 < count:
            return groups
        kept = min(resting, key=lambda k: (self.memory.group_free(hemisphere, k), k))
        return [k for k in groups if k != kept]

    def _rests(self, placed: list[list[PlacedTile]], picks: dict[int, list[list[int]]]) -> None:
        """Choose each tile's resting group: one that nobody streams from until its sums are through."""
        for i, u in enumerate(picks):
            last = -1
            for at, tile in enumerate(placed[u]):
                busy = {k for v in picks for groups in picks[v][max(0, at - 1) : at + LATENCY_TILES] for k in groups}
                free = [k for k in range(self.memory.columns) if k not in busy]
                free = free or [k for k in range(self.memory.columns) if k not in picks[u][at]]
                if last not in free:
                    last = free[i % len(free)]
                tile.rest = last

    def _tiles(self, placed: list[PlacedTile], chunk: list[Tile], slices: tuple[int, ...], per_block: int,
               plan: LinearPlan, layered: bool, source: Callable[[int], StoredLinear]) -> None:
        """Consecutive tiles of one unit in one buffer."""
        if not chunk:
            return
        counts = [per_block * t.blocks for t in chunk]
        buffer = self.memory.buffer(slices, sum(counts), layered).named(in_layer(plan.name))
        start = 0
        for tile, count in zip(chunk, counts, strict=True):
            placed.append(PlacedTile(tile, buffer, start, count, 0))
            start += count

        def make(layer: int) -> np.ndarray:
            return _tile_bytes(source(layer), plan, chunk, len(slices), self.g.lanes)

        self.fills.append(Fill(buffer, make))


def _tile_bytes(linear: StoredLinear, plan: LinearPlan, chunk: list[Tile], slices: int, lanes: int) -> np.ndarray:
    """uint8 [vectors, slices, lanes] of tiles: rows dealt to the slices, bytes of a row on neighbours."""
    values = linear.values
    assert values is not None
    size = values.dtype.itemsize
    parts = []
    for tile in chunk:
        rows, columns = plan.rows[tile.n], plan.columns[tile.k]
        out = np.zeros((BLOCK * tile.blocks, lanes), dtype=values.dtype)
        block = values[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)[None, :]]
        block[rows < 0] = 0
        block[:, columns < 0] = 0
        out[: len(rows), : len(columns)] = block
        split = out.view(np.uint8).reshape(len(out), lanes, size).transpose(0, 2, 1)  # [rows, bytes, lanes]
        parts.append(np.ascontiguousarray(split).reshape(-1, slices, lanes))
    return np.concatenate(parts)


def byte_planes(values: np.ndarray) -> np.ndarray:
    """uint8 [n, bytes, lanes] of an array [n, lanes] of 1-, 2- or 4-byte numbers."""
    values = np.ascontiguousarray(values)
    split = values.view(np.uint8).reshape(*values.shape, values.dtype.itemsize)
    return np.ascontiguousarray(split.transpose(0, 2, 1))


def lane_vectors(values: np.ndarray, layout: list[np.ndarray], lanes: int) -> np.ndarray:
    """Elements of a 1-D array in a layout's lanes: [vectors, lanes], zeros in padding lanes."""
    out = np.zeros((len(layout), lanes), dtype=values.dtype)
    for row, index in zip(out, layout, strict=True):
        row[: len(index)] = np.where(index >= 0, values[np.maximum(index, 0)], 0)
    return out
