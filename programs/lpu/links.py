"""Vectors to and from other chips, placed by a Scheduler.

A vector of several byte planes crosses a link plane by plane, one a slot. What is sent on a port in a
block is received by the peer in the same block of its own text, in the same order; ranks of a group run
the same blocks in the same cycles, so a rank's own SENDs tell it when the peer's vectors arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emulator.lpu.geometry import C2C
from programs.lpu.board import EAST, WEST, Alternative
from programs.lpu.core import Dst, Mem, memory_word, stream_field, word
from programs.lpu.memory import Buffer
from programs.lpu.schedule import Scheduler


def send(s: Scheduler, ports: Sequence[int], source: Mem, index: Mem | None = None,
         vectors: Sequence[int] = ()) -> None:
    """Send a vector over several ports at once; all byte planes of its buffer lie on one column.

    index: an address map that is added to the vector's address (GATHER); it lies in the other hemisphere.
    vectors: those of the buffer that the map may choose.
    """
    buffer = source.buffer
    queues = _edge(s, buffer.side)[0]
    if len(ports) > len(queues):
        raise ValueError(f"a hemisphere sends over {len(queues)} ports at once, not {len(ports)}")
    last = 0
    for plane in range(len(buffer.slices)):  # one by one: each finds its own gap between weights
        last = _send_plane(s, list(zip(queues, ports, strict=False)), source, plane, index, vectors)
    if index is None:
        s.note_read(buffer, source.start, 1, 1, 1, last)
        return
    s.note_read(index.buffer, index.start, 1, 1, 1, last)
    for v in vectors:
        s.note_read(buffer, v, 0, 1, 1, last)


def _send_plane(s: Scheduler, lines: Sequence[tuple[int, int]], source: Mem, plane: int, index: Mem | None,
                vectors: Sequence[int]) -> int:
    """Send one byte plane over lines of (queue, port); gives the cycle in which it is read."""
    g, r, buffer = s.g, s.resources, source.buffer
    _, column, out = _edge(s, buffer.side)
    x = buffer.slices[plane]
    at = g.column[x]
    if index is None:
        read, appears = 0, 0
        fixed = r.read(x, s.bank(buffer, plane, source.start, source.start), 0, 1)
        bound = s.ready_bound(buffer, source.start, 0, 1, 1, [0])
    else:
        start = g.column[index.buffer.slices[0]]
        read = abs(at - start)
        appears = read + g.gather
        fixed = s.read_uses(index.buffer, index.start, index.start, [0], 1) + r.read(x, -1, read, 1, whole=True)
        ready = max(buffer.ready[v] for v in vectors)
        bound = max(s.ready_bound(index.buffer, index.start, 0, 1, 1, [0]), ready - read)
    sent = appears + abs(column - at)
    for queue, port in lines:
        fixed += [r.queue(queue, sent, 1), r.link(port, sent)]
        bound = max(bound, s.links.last_sent(port) + g.slot - sent)
    choices = [[Alternative(r.flow(out, b, at, column, appears, 1), (b,)) for b in s.groups(1)]]
    if index is not None:
        choices.append([Alternative(r.flow(out, b, start, at, 0, 1), (b,)) for b in s.groups(1)])
    found = s.board.find(fixed, choices, bound)
    assert found is not None
    t, reason = found.time, found.reason
    s.board.mark(fixed, t)
    picked = [choice[i] for choice, i in zip(choices, found.chosen, strict=True)]
    for a in picked:
        s.board.mark(a.uses, t)
    stream = stream_field(out, picked[0].tag[0])
    if index is None:
        code = memory_word("READ", buffer.address(plane, source.start), stream)
    else:
        s.emit_reads(index.buffer, index.start, 1, 1, 1, [0], t, out, [picked[1].tag[0]], reason)
        code = memory_word("GATHER", buffer.address(plane, source.start), stream, stream_field(out, picked[1].tag[0]))
    s.emit(x, t + read, code, 1, reason=reason, layered=buffer.layered, tensor=buffer.name)
    for queue, port in lines:
        s.emit(queue, t + sent, word("SEND", port, stream), 1, reason=reason)
        s.links.note_sent(port, t + sent)
    return t + read


@dataclass(frozen=True)
class Among:
    """Vectors of a buffer of which a SCATTER writes one, or the dummy at its end; other SCATTERs of the same kind
    write the others, in any order. free: first cycle in which all may be written."""

    vectors: tuple[int, ...]
    free: int


def among(buffer: Buffer, vectors: Iterable[int]) -> Among:
    """The vectors as they are now; to be asked for before the first SCATTER."""
    every = (*vectors, buffer.n - 1)
    return Among(every, max(max(buffer.used[v] + 1, buffer.ready[v]) for v in every))


def receive(s: Scheduler, port: int, dst: Dst, index: Mem | None = None, group: Among | None = None) -> None:
    """Take the next vector of a port and write it to dst.

    index: an address map that is added to dst's address (SCATTER), from the other hemisphere; the word is
    then one of `group`.
    """
    s.settle(dst.buffer)
    last = max(_receive_plane(s, port, dst, plane, index, group) for plane in range(len(dst.buffer.slices)))
    if index is not None:
        s.note_read(index.buffer, index.start, 1, 1, 1, last)
    for v in (dst.start,) if group is None else group.vectors:
        dst.buffer.ready[v] = max(dst.buffer.ready[v], last + 1)


def _receive_plane(s: Scheduler, port: int, dst: Dst, plane: int, index: Mem | None, group: Among | None) -> int:
    """Take one byte plane; gives the cycle in which it is written."""
    g, r, buffer = s.g, s.resources, dst.buffer
    queues, column, out = _edge(s, buffer.side)
    back = WEST if out == EAST else EAST
    x = buffer.slices[plane]
    at = g.column[x]
    way = abs(column - at)
    arrival = s.links.arrival(port, 0)
    bound = max(arrival, s.links.last_received(port) + 1)
    start = at if index is None else g.column[index.buffer.slices[0]]
    lead = max(0, abs(at - start) - way)  # cycles by which the map is read before the RECV
    mapped = lead + way - abs(at - start)
    write = lead + way
    if index is None:
        bound = max(bound, s.write_bound(buffer, dst.start, 0, 1, 1, [way]))
        fixed = r.write(x, s.bank(buffer, plane, dst.start, dst.start), write, 1)
    else:
        assert group is not None
        bound = max(bound, group.free - way, s.ready_bound(index.buffer, index.start, 0, 1, 1, [0]))
        fixed = s.read_uses(index.buffer, index.start, index.start, [mapped], 1) + r.write(x, -1, write, 1, whole=True)
    choices = [[Alternative(r.flow(back, b, column, at, lead, 1), (b,)) for b in s.groups(1)],
               [Alternative([r.queue(q, lead, 1)], (q,)) for q in queues]]
    if index is not None:
        choices.append([Alternative(r.flow(out, b, start, at, mapped, 1), (b,)) for b in s.groups(1)])
    found = s.board.find(fixed, choices, bound - lead)
    assert found is not None
    t = found.time
    reason = "network" if t + lead == arrival else found.reason
    s.board.mark(fixed, t)
    picked = [choice[i] for choice, i in zip(choices, found.chosen, strict=True)]
    for a in picked:
        s.board.mark(a.uses, t)
    stream, queue = stream_field(back, picked[0].tag[0]), picked[1].tag[0]
    s.emit(queue, t + lead, word("RECV", port, stream), 1, reason=reason)
    s.links.note_received(port, t + lead)
    if index is None:
        code = memory_word("WRITE", buffer.address(plane, dst.start), stream)
    else:
        s.emit_reads(index.buffer, index.start, 1, 1, 1, [mapped], t, out, [picked[2].tag[0]], reason)
        code = memory_word("SCATTER", buffer.address(plane, dst.start), stream, stream_field(out, picked[2].tag[0]))
    s.emit(x, t + write, code, 1, reason=reason, layered=buffer.layered, tensor=buffer.name)
    return t + write


def scatter(s: Scheduler, source: Mem, index: Mem, target: Buffer, group: Among) -> None:
    """target[map] = a vector; source and map lie in the other hemisphere, upstream. See `receive`."""
    g, r = s.g, s.resources
    planes, at = s.columns(target), s.columns(target)[0]
    way = EAST if target.side else WEST
    starts = s.columns(source.buffer)
    front = starts[0]
    lead = max(0, abs(at - g.column[index.buffer.slices[0]]) - abs(at - front))
    write = lead + abs(at - front)
    mapped = write - abs(at - g.column[index.buffer.slices[0]])
    fixed = s.read_uses(source.buffer, source.start, source.start, [lead] * len(planes), 1)
    fixed += s.read_uses(index.buffer, index.start, index.start, [mapped], 1)
    bound = max(group.free - write, s.ready_bound(source.buffer, source.start, 0, 1, 1, [lead]),
                s.ready_bound(index.buffer, index.start, 0, 1, 1, [mapped]))
    for x in target.slices:
        fixed += r.write(x, -1, write, 1, whole=True)
    values = [Alternative(s.flows(source.buffer, way, range(b, b + len(planes)), at, [lead] * len(planes), 1), (b,))
              for b in s.groups(len(planes))]
    maps = [Alternative(s.flows(index.buffer, way, [b], at, [mapped], 1), (b,)) for b in s.groups(1)]
    found = s.board.find(fixed, [values, maps], bound)
    assert found is not None
    t, reason = found.time, found.reason
    data, line = values[found.chosen[0]], maps[found.chosen[1]]
    s.board.mark([*fixed, *data.uses, *line.uses], t)
    s.emit_reads(source.buffer, source.start, 1, 1, 1, [lead] * len(planes), t, way,
                 range(data.tag[0], data.tag[0] + len(planes)), reason)
    s.note_read(source.buffer, source.start, 1, 1, 1, t + lead)
    s.emit_reads(index.buffer, index.start, 1, 1, 1, [mapped], t, way, [line.tag[0]], reason)
    s.note_read(index.buffer, index.start, 1, 1, 1, t + mapped)
    for k, x in enumerate(target.slices):
        code = memory_word("SCATTER", target.address(k, 0), stream_field(way, data.tag[0] + k),
                           stream_field(way, line.tag[0]))
        s.emit(x, t + write, code, 1, reason=reason, layered=target.layered, tensor=target.name)
    for i in group.vectors:
        target.ready[i] = max(target.ready[i], t + write + 1)


def _edge(s: Scheduler, side: int) -> tuple[list[int], int, int]:
    """(queues, column, outward direction) of a hemisphere's links."""
    g = s.g
    queues = [q for q in range(g.queues) if g.queue_kind[q] == C2C and (g.column[q] > 0) == (side == 1)]
    column = g.column[queues[0]]
    return queues, column, EAST if column > 0 else WEST
