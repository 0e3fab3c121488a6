"""Linear layers: tiles stream through the matrix planes, partial sums meet in the VXM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emulator.lpu.geometry import Geometry
from isa.opcodes import F16, S8
from programs.lpu.board import EAST, WEST
from programs.lpu.build import Build
from programs.lpu.chain import Op, copy, cvt, f32, s32
from programs.lpu.core import ALL_QUADS, Dst, Mat, Mem
from programs.lpu.memory import Buffer
from programs.lpu.patterns import CAST_QUADS, Load, install
from programs.lpu.place import LATENCY_TILES, PlacedLinear, PlacedTile

TURNS = 2  # partial sums of a row tile that its column tiles are added to in turn, at most
GAP_WAIT = 4  # cycles that a sum waits, as a rule, until it may leave between two tiles' weights

Final = Callable[[int, Op | Mat, int, int], Sequence[tuple[Op, Sequence[Dst]]]]


class Partials:
    """Scratch for partial sums of each unit: four sets in the group that rests, two for a row tile, used in turn.

    With several rows a sum is written while the one before is still being read: then they lie in
    different banks.
    """

    def __init__(self, b: Build) -> None:
        self.b = b
        self.sets: dict[tuple[int, int, int], Buffer] = {}

    def get(self, hemisphere: int, group: int, unit: int, turn: int) -> Buffer:
        key = (unit, group, turn)
        if key not in self.sets:
            batch, memory = self.b.batch, self.b.memory
            if batch > 1 and turn % 2 and memory.group_free(hemisphere, group) >= batch + 2:
                made = memory.top(memory.group(hemisphere, group), batch)
            else:
                made = self.b.place.scratch(4, batch, hemisphere, group=group)
            self.sets[key] = made.named("partial_sums")
        return self.sets[key]


def linear(b: Build, placed: PlacedLinear, acts: Sequence[Buffer], partials: Partials, final: Final) -> None:
    """y = W x for all sequences. acts[plane]: input vectors, vector k * batch + sequence.

    final(n, sum, rest, hemisphere) gives what to do with row tile n's sums (f32, or s32 for int8),
    one vector a sequence; it may use constants of the resting group `rest` of that hemisphere.
    """
    s, batch = b.s, b.batch
    kind = S8 if placed.format == "s8" else F16
    add = s32 if kind == S8 else f32
    left = [0] * len(placed.plan.rows)
    for tiles in placed.tiles:
        for t in tiles:
            left[t.tile.n] += 1
    open_sums: dict[tuple[int, int], list[Buffer]] = {}  # (unit, n) -> its partial sums, the oldest first
    shared = _shared(placed)
    longest = max(len(tiles) for tiles in placed.tiles)
    for i in range(longest):
        for u, plane in enumerate(placed.units):
            if i >= len(placed.tiles[u]):
                continue
            t = placed.tiles[u][i]
            n, k = t.tile.n, t.tile.k
            hemisphere = int(plane >= b.g.planes // 2)
            install(s, plane, kind, [Load(t.buffer, t.start, t.count, 0, placed.format == "cast8")])
            half = plane % 2 if kind == S8 else -1  # planes side by side have half of the streams each
            quads = _quads(b, placed, u, i)
            # cycles of a tile at batch 1; the last tile's sums have no weights to leave room for
            period = t.count + 1 if i + 1 < len(placed.tiles[u]) else 0
            node: Op | Mat = Mat(plane, kind, acts[plane], k * batch)
            sums = open_sums.setdefault((u, n), [])
            old = sums.pop(0) if len(sums) >= turns(b.g, t, batch) else None
            if old is not None:
                node = add("ADD", node, Mem(old))
            left[n] -= 1
            if left[n]:
                if old is not None and batch == 1 and old.slices[0] in b.memory.group(hemisphere, t.rest):
                    new = old
                else:
                    new = _partial(b, partials, t, hemisphere, u, n in shared)
                assert all(new is not other for other in sums)
                sums.append(new)
                s.vop([(node if isinstance(node, Op) else copy(node), [Dst(new)])], batch, period=period,
                      own_half=half, quads=quads)
                if n in shared and old is not None and new is not old:
                    b.memory.release(old)
                continue
            for other in [key for key in open_sums if key[1] == n]:
                for part in open_sums.pop(other):
                    node = add("ADD", node, Mem(part))
            s.vop(final(n, cvt("f32", "s32", node) if kind == S8 else node, t.rest, hemisphere), batch,
                  period=period, own_half=half, quads=quads)


def turns(g: Geometry, t: PlacedTile, batch: int) -> int:
    """Partial sums for a row tile's column tiles in turn: a sum is on its way from its slices to the VXM and back for
    the time of so many tiles, and a tile that is to be added to it would wait for it. With several rows in a batch
    sums change between two banks instead."""
    way = 2 * abs(g.column[4 * t.rest]) + g.entry + g.op
    return min(TURNS, -(-(way + GAP_WAIT) // (t.count + 1))) if batch == 1 else 1


def _quads(b: Build, placed: PlacedLinear, unit: int, at: int) -> frozenset[int]:
    """Stream quads for the sums of tile `at`: weights that come from beyond the sums' slices on the same
    stream are not disturbed by them."""
    plane, g, t = placed.units[unit], b.g, placed.tiles[unit][at]
    if placed.format == "cast8":
        target = CAST_QUADS[EAST if plane >= g.planes // 2 else WEST][1]
        return ALL_QUADS - {target, target + 1}
    first = 4 * (plane % 2) if placed.format == "s8" else 0
    count = len(t.buffer.slices) // 4
    near = range(at, min(at + LATENCY_TILES, len(placed.tiles[unit])))
    column = abs(g.column[b.memory.group(0, t.rest)[0]])
    good = {first + q for q in range(count)
            if all(abs(g.column[placed.tiles[unit][j].buffer.slices[4 * q]]) > column for j in near)}
    return frozenset(good or range(first, first + count))


def _shared(placed: PlacedLinear) -> set[int]:
    """Row tiles whose column tiles are on more than one unit."""
    seen: dict[int, set[int]] = {}
    for u, tiles in enumerate(placed.tiles):
        for t in tiles:
            seen.setdefault(t.tile.n, set()).add(u)
    return {n for n, units in seen.items() if len(units) > 1}


def _partial(b: Build, partials: Partials, t: PlacedTile, hemisphere: int, unit: int, shared: bool) -> Buffer:
    """A partial-sum buffer; one of its own for a row tile that another unit finishes."""
    if shared:
        if b.place.roomy and b.batch > 1 and t.tile.k % 2:
            return b.memory.top(b.memory.group(hemisphere, t.rest), b.batch).named("partial_sums")
        buffer = b.memory.later(4, b.batch, hemisphere).named("partial_sums")
        b.memory.settle(buffer, set(), (t.rest,))
        return buffer
    return partials.get(hemisphere, t.rest, unit, (t.tile.n * 2 + t.tile.k % 2) % 4)


__all__ = ["Final", "Partials", "linear", "turns"]
