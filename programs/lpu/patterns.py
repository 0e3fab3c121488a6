"""Patterns around memory, matrix planes and lane switches, placed by a Scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.lpu.geometry import PERMUTE
from isa.opcodes import F16, S8
from programs.lpu import chain as vxm
from programs.lpu.board import EAST, WEST, Alternative, Use
from programs.lpu.core import Plane
from programs.lpu.memory import Buffer
from programs.lpu.schedule import Dst, Mem, Scheduler, memory_word, stream_field, word


@dataclass
class Load:
    """Blocks start .. start + count - 1 of a tile buffer (one slice a stream, 16 rows a block) go to rows `row` on.

    cast: the buffer holds s8 in 4 slices, 4 rows a vector, and the VXM casts it to f16 on the way.
    index: the k-th block is block start + map k of this buffer, which lies in the other hemisphere.
    """

    buffer: Buffer
    start: int
    count: int
    row: int
    cast: bool = False
    index: Buffer | None = None


def install(s: Scheduler, plane: int, kind: int, loads: Sequence[Load], after: int = 0) -> None:
    """Load a tile into a plane's shadow (f16: the pair of an even plane) and swap it in as soon as possible."""
    swap(s, plane, kind, load(s, plane, kind, loads, after))


def load(s: Scheduler, plane: int, kind: int, loads: Sequence[Load], after: int = 0) -> int:
    """Load a tile into a plane's shadow only; gives the first cycle in which it may be swapped in."""
    planes = _planes(s, plane, kind)
    start = max([after, *(p.installed + 1 for p in planes), *(p.loaded + 1 for p in planes)])
    for part in loads:
        if part.index is not None:
            start = _gathered(s, plane, part, part.index, start)
        else:
            start = _cast_loads(s, plane, part, start) if part.cast else _load(s, plane, kind, part, start)
        for p in planes:
            p.loaded = start - 1
    return start


def swap(s: Scheduler, plane: int, kind: int, start: int) -> None:
    """Swap a loaded tile in, not before cycle `start`."""
    g, r = s.g, s.resources
    planes = _planes(s, plane, kind)
    queue = r.matrix_queues(plane)[0]
    start = max([start, *(p.fed + 1 for p in planes)])
    found = s.board.find([r.queue(queue, 0, g.install)], [], start)
    assert found is not None
    s.board.mark([r.queue(queue, 0, g.install)], found.time)
    s.emit(queue, found.time, word("IW", kind), 1, reason=found.reason)
    for p in planes:
        p.installed = found.time + g.install - 1


def _planes(s: Scheduler, plane: int, kind: int) -> list[Plane]:
    return [s.planes[plane], s.planes[plane + 1]] if kind == F16 else [s.planes[plane]]


def _load(s: Scheduler, plane: int, kind: int, load: Load, start: int) -> int:
    """READs straight into LW; gives the cycle after the last LW."""
    g, r, buffer = s.g, s.resources, load.buffer
    queue = r.matrix_queues(plane)[0]
    mxm = g.column[queue]
    direction = EAST if mxm > 0 else WEST
    first = 16 * (plane % 2) if kind == S8 else 0
    offsets = s.read_offsets(buffer, mxm, 0)
    last = load.start + load.count - 1
    streams = range(first, first + len(buffer.slices))
    banks = tuple(s.bank(buffer, byte, load.start, last) for byte in range(len(buffer.slices)))
    key = ("load", plane, kind, buffer.slices, banks, load.count)
    uses: list[Use] | None = s.memo.get(key)
    if uses is None:
        uses = [r.queue(queue, 0, load.count), *s.read_uses(buffer, load.start, last, offsets, load.count),
                *s.flows(buffer, direction, streams, mxm, offsets, load.count)]
        assert s.board.clash(uses) is None
        s.memo[key] = uses
    start = max(start, s.ready_bound(buffer, load.start, 1, load.count, 1, offsets))
    found = s.board.find(uses, [], start, checked=True)
    assert found is not None
    t, reason = found.time, found.reason
    s.board.mark(uses, t)
    s.emit_reads(buffer, load.start, 1, load.count, 1, offsets, t, direction, streams, reason)
    s.note_read(buffer, load.start, 1, load.count, 1, t + max(offsets))
    rows = 16
    s.emit(queue, t, word("LW", kind, stream_field(direction, first), rows, load.row), 1, load.count, 1, rows, reason)
    return t + load.count


def _gathered(s: Scheduler, plane: int, load: Load, index: Buffer, start: int) -> int:
    """GATHERs of an s8 tile into LW, each block's word from a map; gives the cycle after the last LW."""
    g, r, buffer, n = s.g, s.resources, load.buffer, load.count
    queue = r.matrix_queues(plane)[0]
    mxm = g.column[queue]
    direction = EAST if mxm > 0 else WEST
    first = 16 * (plane % 2)
    issue = [x - g.gather for x in s.read_offsets(buffer, mxm, 0)]
    map_read = [x - g.gather for x in s.read_offsets(index, mxm, 0)]
    fixed = [r.queue(queue, 0, n), *s.read_uses(index, 0, n - 1, map_read, n)]
    for byte, x in enumerate(buffer.slices):
        fixed += r.read(x, -1, issue[byte], n, whole=True)
        fixed += r.flow(direction, first + byte, g.column[x], mxm, issue[byte] + g.gather, n)
    far = max((g.column[x] for x in buffer.slices), key=abs)
    maps = [Alternative(s.flows(index, direction, [b], far, map_read, n), (b,)) for b in s.groups(1)
            if b // 16 != plane % 2]  # the weights have the other half
    start = max(start, max(buffer.ready) - min(issue), s.ready_bound(index, 0, 1, n, 1, map_read))
    found = s.board.find(fixed, [maps], start)
    assert found is not None
    t, reason, chosen = found.time, found.reason, maps[found.chosen[0]]
    s.board.mark([*fixed, *chosen.uses], t)
    s.emit_reads(index, 0, 1, n, 1, map_read, t, direction, [chosen.tag[0]], reason)
    s.note_read(index, 0, 1, n, 1, t + map_read[0])
    for byte, x in enumerate(buffer.slices):
        code = memory_word("GATHER", buffer.address(byte, load.start), stream_field(direction, first + byte),
                           stream_field(direction, chosen.tag[0]))
        s.emit(x, t + issue[byte], code, g.gather, n, 1, reason=reason, layered=buffer.layered, tensor=buffer.name)
    s.note_read(buffer, 0, 1, buffer.n, 0, t + n - 1 + max(issue))
    s.emit(queue, t, word("LW", S8, stream_field(direction, first), 16, load.row), 1, n, 1, 16, reason)
    return t + n


# ALUs, source quad and target quads of the cast in each hemisphere's direction: four rows a cycle.
CAST_ALUS = {EAST: (0, 2, 5, 7), WEST: (8, 10, 13, 15)}
CAST_QUADS = {EAST: (2, 2), WEST: (6, 6)}  # source quad, first of two target quads


CAST_ROWS = 4  # weight rows that four ALUs cast in a cycle
PATIENCE = 4  # cycles that casts wait for a run without a gap
SHORT = 8  # runs of so many vectors are not cut further: every run takes instructions


def _cast_loads(s: Scheduler, plane: int, load: Load, start: int) -> int:
    """A tile's casts in as few runs as go without waiting: what is in the way in one cycle must not hold up the
    cycles before it. Gives the cycle after the last LW."""
    done = 0
    while done < load.count:
        n = load.count - done
        while True:
            part = Load(load.buffer, load.start + done, n, load.row + CAST_ROWS * done, True)
            end = _cast_load(s, plane, part, start, n > SHORT)
            if end is not None:
                break
            n = (n + 1) // 2
        start, done = end, done + n
    return start


def _cast_load(s: Scheduler, plane: int, load: Load, start: int, soon: bool) -> int | None:
    """s8 rows through four casts of the VXM into LW, four rows a cycle; gives the cycle after the last LW.

    soon: None unless that can begin within PATIENCE cycles.
    """
    g, r, buffer = s.g, s.resources, load.buffer
    queue = r.matrix_queues(plane)[0]
    mxm = g.column[queue]
    direction = EAST if mxm > 0 else WEST
    source_direction = s.inward(buffer.slices[0])
    quad, target = CAST_QUADS[direction]
    delay = g.entry + g.op
    n = load.count
    cast = -delay - (abs(mxm) - g.result_column)  # issue of the casts, before the LW
    offsets = s.read_offsets(buffer, 0, cast)
    uses: list[Use] = [r.queue(queue, 0, n)]
    uses += s.read_uses(buffer, load.start, load.start + n - 1, offsets, n)
    uses += s.flows(buffer, source_direction, range(4 * quad, 4 * quad + 4), 0, offsets, n)
    sign = 1 if direction == EAST else -1
    for alu in CAST_ALUS[direction]:
        uses += [*r.alu(alu, cast, cast + g.entry, n), *r.finish(alu, cast + delay, n)]
    for stream in range(4 * target, 4 * target + 8):
        uses += r.flow(direction, stream, sign * g.result_column, mxm, cast + delay, n)
    start = max(start, s.ready_bound(buffer, load.start, 1, n, 1, offsets))
    found = s.board.find(uses, [], start, limit=start + PATIENCE if soon else None)
    if found is None:
        return None
    t, reason = found.time, found.reason
    s.board.mark(uses, t)
    s.emit_reads(buffer, load.start, 1, n, 1, offsets, t, source_direction, range(4 * quad, 4 * quad + 4), reason)
    s.note_read(buffer, load.start, 1, n, 1, t + max(offsets))
    for i, alu in enumerate(CAST_ALUS[direction]):
        code = vxm.vxm_word("CVT", "f16", "s8", stream_field(direction, 4 * target + 2 * i),
                            (stream_field(source_direction, 4 * quad + i),), None)
        s.emit(g.vxm_queue(alu), t + cast, code, delay, n, 1, reason=reason)
    s.emit(queue, t, word("LW", F16, stream_field(direction, 4 * target), CAST_ROWS, load.row), 1, n, 1, CAST_ROWS,
           reason)
    return t + n


def _way(start: int, end: int) -> int:
    return EAST if end > start else WEST


def switch(s: Scheduler, op: str, argument: int, source: Mem, dst: Dst, side: int, n: int = 1) -> None:
    """Send vectors through a lane switch: op PERMUTE (argument: map), SHIFT (lanes) or DISTRIBUTE (map).

    side: hemisphere of the switch. Source bytes travel outward to it, results inward to dst.
    """
    g, r = s.g, s.resources
    s.settle(dst.buffer, source.buffer.slices)
    size = source.bytes()
    kind = {"SHIFT": PERMUTE - 1, "PERMUTE": PERMUTE, "DISTRIBUTE": PERMUTE + 1}[op]
    queues = [q for q in range(g.queues) if g.queue_kind[q] == kind and (g.column[q] > 0) == (side == 1)]
    column = g.column[queues[0]]
    out = EAST if column > 0 else WEST
    back = WEST if out == EAST else EAST
    delay = g.sxm_delay(op, argument if op == "SHIFT" else 0)
    read = s.read_offsets(source.buffer, column, 0)
    write = [delay + abs(column - g.column[x]) for x in dst.buffer.slices]
    fixed = s.read_uses(source.buffer, source.start, source.start + source.step * (n - 1), read, n)
    fixed += s.write_uses(dst.buffer, dst.start, dst.start + dst.step * (n - 1), write, n)
    bound = max(s.ready_bound(source.buffer, source.start, source.step, n, 1, read),
                s.write_bound(dst.buffer, dst.start, dst.step, n, 1, write))
    there = [Alternative(s.flows(source.buffer, out, range(b, b + size), column, read, n), (b,))
             for b in s.groups(size)]
    far = g.column[dst.buffer.slices[0]]
    here = []
    for b in s.groups(size):
        uses: list[Use] = []
        for stream in range(b, b + size):
            uses += r.flow(back, stream, column, far, delay, n)
        here.append(Alternative(uses, (b,)))
    unit = [Alternative([r.queue(q, 0, n)], (q,)) for q in queues]
    choices = [there, here, unit]
    found = s.board.find(fixed, choices, bound)
    assert found is not None
    t = found.time
    s.board.mark(fixed, t)
    picked = [choice[i] for choice, i in zip(choices, found.chosen, strict=True)]
    for a in picked:
        s.board.mark(a.uses, t)
    first, second, q = (p.tag[0] for p in picked)
    s.emit_reads(source.buffer, source.start, source.step, n, 1, read, t, out, range(first, first + size), found.reason)
    s.note_read(source.buffer, source.start, source.step, n, 1, t + max(read))
    s.emit(q, t, word(op, size, stream_field(out, first), stream_field(back, second), argument), delay, n, 1,
           reason=found.reason)
    s.emit_writes(dst.buffer, dst.start, dst.step, n, 1, write, t, back, range(second, second + size), found.reason)
    s.note_write(dst.buffer, dst.start, dst.step, n, 1, t + max(write))


def gather(s: Scheduler, table: Buffer, base: int, index: Mem, dst: Dst, vectors: Sequence[int] = ()) -> None:
    """dst = vector base + m of a table, m from a map; map and dst are in the other hemisphere.

    vectors: those of the table that the map may choose, when they are written while the program runs.
    """
    g, r = s.g, s.resources
    s.settle(dst.buffer, index.buffer.slices)
    size = len(table.slices)
    source = g.column[index.buffer.slices[0]]
    columns = [g.column[x] for x in table.slices]
    direction = _way(source, columns[0])
    targets = [g.column[x] for x in dst.buffer.slices]
    back = _way(columns[0], targets[0])
    issue = [abs(c - source) for c in columns]
    assert len(set(columns)) == 1  # the byte planes of a table lie on one column
    write = [issue[0] + g.gather + abs(x - columns[0]) for x in targets]
    fixed: list[Use] = s.read_uses(index.buffer, index.start, index.start, [0], 1)
    for byte, x in enumerate(table.slices):
        fixed += r.read(x, -1, issue[byte], 1, whole=True)
    fixed += s.write_uses(dst.buffer, dst.start, dst.start, write, 1)
    ready = max((table.ready[v] for v in vectors), default=0)
    bound = max(s.ready_bound(index.buffer, index.start, 1, 1, 1, [0]), ready - min(issue),
                s.write_bound(dst.buffer, dst.start, 1, 1, 1, write))
    maps = [Alternative(s.flows(index.buffer, direction, [b], columns[0], [0], 1), (b,)) for b in s.groups(1)]
    words = []
    for b in s.groups(size):
        uses: list[Use] = []
        for i in range(size):
            uses += r.flow(back, b + i, columns[0], targets[0], issue[i] + g.gather, 1)
        words.append(Alternative(uses, (b,)))
    found = s.board.find(fixed, [maps, words], bound)
    assert found is not None
    t = found.time
    m, w = maps[found.chosen[0]], words[found.chosen[1]]
    s.board.mark([*fixed, *m.uses, *w.uses], t)
    s.emit_reads(index.buffer, index.start, 1, 1, 1, [0], t, direction, [m.tag[0]], found.reason)
    s.note_read(index.buffer, index.start, 1, 1, 1, t)
    for v in vectors:
        s.note_read(table, v, 0, 1, 1, t + max(issue))
    for byte, x in enumerate(table.slices):
        code = memory_word("GATHER", table.address(byte, base), stream_field(back, w.tag[0] + byte),
                           stream_field(direction, m.tag[0]))
        s.emit(x, t + issue[byte], code, 1, reason=found.reason, layered=table.layered, tensor=table.name)
    s.emit_writes(dst.buffer, dst.start, 1, 1, 1, write, t, back, range(w.tag[0], w.tag[0] + size), found.reason)
    s.note_write(dst.buffer, dst.start, 1, 1, 1, t + max(write))


def scatter_rows(s: Scheduler, source: Mem, maps: Buffer, region: Buffer, base: int, words: Sequence[int]) -> None:
    """Append a vector to a region in tile layout: row slot i (of 16) goes to word base + map i.

    source: `size` bytes; region: 16 x size slices, byte b of slot i in slices[size * i + b]. The maps
    of the slots other than the right one point at a dummy word. Source and maps lie upstream, in the other
    hemisphere. words: those that the maps may choose.
    """
    g, r = s.g, s.resources
    size, n = source.bytes(), 16
    columns = [g.column[x] for x in region.slices]
    front = g.column[source.buffer.slices[0]]
    direction = _way(front, columns[0])
    read = [abs(g.column[x] - front) for x in source.buffer.slices]
    map_read = [(g.column[maps.slices[0]] - front) * (1 if direction == EAST else -1)]
    shift = max(0, -min(map_read))
    read = [x + shift for x in read]
    map_read = [map_read[0] + shift]
    fixed = s.read_uses(source.buffer, source.start, source.start, read, n)
    fixed += s.read_uses(maps, 0, n - 1, map_read, n)
    issue = []
    for slot in range(n):
        for b in range(size):
            at = shift + abs(columns[size * slot + b] - front) + slot
            issue.append(at)
            fixed += r.write(region.slices[size * slot + b], -1, at, 1, whole=True)
    bound = max(s.ready_bound(source.buffer, source.start, 0, n, 1, read), s.ready_bound(maps, 0, 1, n, 1, map_read),
                max(max(region.used[k] + 1, region.ready[k]) for k in words) - min(issue))
    end = max(columns) if direction == EAST else min(columns)
    values = [Alternative(s.flows(source.buffer, direction, range(b, b + size), end, read, n), (b,))
              for b in s.groups(size)]
    indices = [Alternative(s.flows(maps, direction, [b], end, map_read, n), (b,)) for b in s.groups(1)]
    found = s.board.find(fixed, [values, indices], bound)
    assert found is not None
    t = found.time
    v, m = values[found.chosen[0]], indices[found.chosen[1]]
    s.board.mark([*fixed, *v.uses, *m.uses], t)
    s.emit_reads(source.buffer, source.start, 0, n, 1, read, t, direction, range(v.tag[0], v.tag[0] + size),
                  found.reason)
    s.note_read(source.buffer, source.start, 0, n, 1, t + max(read))
    s.emit_reads(maps, 0, 1, n, 1, map_read, t, direction, [m.tag[0]], found.reason)
    s.note_read(maps, 0, 1, n, 1, t + map_read[0])
    for slot in range(n):
        for b in range(size):
            k = size * slot + b
            code = memory_word("SCATTER", region.address(k, base), stream_field(direction, v.tag[0] + b),
                               stream_field(direction, m.tag[0]))
            s.emit(region.slices[k], t + issue[k], code, 1, reason=found.reason, layered=region.layered,
                   tensor=region.name)
    for k in words:
        region.ready[k] = max(region.ready[k], t + max(issue) + 1)


def transpose_rows(s: Scheduler, plane: int, one_hot: Mem, index: Buffer, target: Buffer, slot: int, n: int) -> None:
    """Columns of the byte tiles on planes `plane` (low) and `plane` + 1 (high) become words of `target`.

    Each one-hot activation picks a column of both tiles; the low byte of its integer products is that
    column. Run i goes to word map + i in the target's slices 2 * slot and 2 * slot + 1, each superlane to the
    word of its own map. The map lies in the planes' hemisphere, the target in the other one: results meet the
    map on their way.
    """
    g, r = s.g, s.resources
    mxm = g.column[r.matrix_queues(plane)[1]]
    out, back = (EAST, WEST) if mxm > 0 else (WEST, EAST)
    land = g.abc_delay(1)
    read = s.read_offsets(one_hot.buffer, mxm, 0)
    fixed = s.read_uses(one_hot.buffer, one_hot.start, one_hot.start + n - 1, read, n)
    low = s.ready_bound(one_hot.buffer, one_hot.start, 1, n, 1, read)
    front = land + abs(mxm)  # cycle in which the first result is at column 0
    map_read = [front - abs(g.column[index.slices[0]])]
    fixed += s.read_uses(index, 0, 0, map_read, n)
    low = max(low, index.ready[0] - map_read[0])
    issue = []
    for byte in (0, 1):
        _, abc_queue, acc_queue = r.matrix_queues(plane + byte)
        fixed += [r.queue(abc_queue, 0, n), r.queue(acc_queue, land, n)]
        state = s.planes[plane + byte]
        low = max(low, state.installed, state.fed + 1, state.accumulated + 1 - land)
        x = target.slices[2 * slot + byte]
        issue.append(front + abs(g.column[x]))
        fixed += r.write(x, -1, issue[byte], n, whole=True)
    low = max(low, max(max(target.used) + 1, max(target.ready)) - min(issue))
    far = g.column[target.slices[2 * slot + 1]]
    feeds = [Alternative(r.flow(out, b, g.column[one_hot.buffer.slices[0]], mxm, read[0], n), (b,))
             for b in s.groups(1)]
    indices = [Alternative(s.flows(index, back, [b], far, map_read, n), (b,)) for b in s.groups(1)]
    quads = []
    for b in s.groups(4):
        uses = r.flow(back, b, mxm, far, land, n)
        for i in (1, 2, 3):
            uses += r.flow(back, b + i, mxm, mxm, land, n)
        quads.append(Alternative(uses, (b,)))
    choices = [feeds, quads, quads, indices]
    found = s.board.find(fixed, choices, low)
    assert found is not None
    t, reason = found.time, found.reason
    picked = [choice[i] for choice, i in zip(choices, found.chosen, strict=True)]
    s.board.mark(fixed, t)
    for a in picked:
        s.board.mark(a.uses, t)
    feed, *results, m = (a.tag[0] for a in picked)
    s.emit_reads(one_hot.buffer, one_hot.start, 1, n, 1, read, t, out, [feed], reason)
    s.note_read(one_hot.buffer, one_hot.start, 1, n, 1, t + read[0])
    s.emit_reads(index, 0, 0, n, 1, map_read, t, back, [m], reason)
    s.note_read(index, 0, 0, n, 1, t + map_read[0])
    for byte in (0, 1):
        _, abc_queue, acc_queue = r.matrix_queues(plane + byte)
        state = s.planes[plane + byte]
        s.emit(abc_queue, t, word("ABC", S8, stream_field(out, feed)), land, n, 1, reason=reason)
        s.emit(acc_queue, t + land, word("ACC", stream_field(back, results[byte])), 1, n, 1, reason=reason)
        state.fed, state.accumulated = t + n - 1, t + land + n - 1
        k = 2 * slot + byte
        code = memory_word("SCATTER", target.address(k, 0), stream_field(back, results[byte]),
                           stream_field(back, m))
        s.emit(target.slices[k], t + issue[byte], code, 1, n, 1, target.pitch, reason, target.layered, target.name)
    for w in range(target.n):
        target.ready[w] = max(target.ready[w], t + max(issue) + n)


__all__ = ["CAST_QUADS", "Load", "gather", "install", "load", "scatter_rows", "swap", "switch", "transpose_rows"]
