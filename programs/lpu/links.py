"""Vectors to and from other chips, placed by a Scheduler.

A vector of several byte planes crosses a link plane by plane, one a slot. What is sent on a port in a
block is received by the peer in the same block of its own text, in the same order; ranks of a group run
the same blocks in the same cycles, so a rank's own SENDs tell it when the peer's vectors arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emulator.lpu.geometry import C2C
from programs.lpu.board import EAST, WEST, Alternative, Use
from programs.lpu.core import Dst, Mem, memory_word, stream_field, word
from programs.lpu.memory import Buffer
from programs.lpu.schedule import Scheduler


def send(s: Scheduler, ports: Sequence[int], source: Mem, index: Mem | None = None,
         vectors: Sequence[int] = ()) -> None:
    """Send a vector over several ports at once; all byte planes of its buffer lie on one column.

    index: an address map that is added to the vector's address (GATHER); it lies in the other hemisphere.
    vectors: those of the buffer that the map may choose.
    """
    g, r, buffer = s.g, s.resources, source.buffer
    queues, column, out = _edge(s, buffer.side)
    if len(ports) > len(queues):
        raise ValueError(f"a hemisphere sends over {len(queues)} ports at once, not {len(ports)}")
    planes, at = s.columns(buffer), s.columns(buffer)[0]
    wait = 0
    fixed: list[Use] = []
    if index is not None:
        wait = abs(at - g.column[index.buffer.slices[0]])
        for k in range(len(planes)):
            fixed += s.read_uses(index.buffer, index.start, index.start, [g.slot * k], 1)
            fixed += r.read(buffer.slices[k], -1, g.slot * k + wait, 1, whole=True)
        ready = max(buffer.ready[v] for v in vectors)
        bound = max(s.ready_bound(index.buffer, index.start, 0, 1, 1, [0]), ready - wait)
        wait += g.gather
    else:
        for k in range(len(planes)):
            bank = s.bank(buffer, k, source.start, source.start)
            fixed += r.read(buffer.slices[k], bank, g.slot * k, 1)
        bound = s.ready_bound(buffer, source.start, 0, 1, 1, [0])
    sent = wait + abs(column - at)
    for queue, port in zip(queues, ports, strict=False):
        for k in range(len(planes)):
            fixed += [r.queue(queue, sent + g.slot * k, 1), r.link(port, sent + g.slot * k)]
        bound = max(bound, s.links.last_sent(port) + g.slot - sent)
    streams = [Alternative([use for k in range(len(planes))
                            for use in r.flow(out, b, at, column, wait + g.slot * k, 1)], (b,)) for b in s.groups(1)]
    choices = [streams]
    if index is not None:
        start = g.column[index.buffer.slices[0]]
        choices.append([Alternative([use for k in range(len(planes))
                                     for use in r.flow(out, b, start, at, g.slot * k, 1)], (b,)) for b in s.groups(1)])
    found = s.board.find(fixed, choices, bound)
    assert found is not None
    t = found.time
    s.board.mark(fixed, t)
    picked = [choice[i] for choice, i in zip(choices, found.chosen, strict=True)]
    for a in picked:
        s.board.mark(a.uses, t)
    stream = picked[0].tag[0]
    for k, x in enumerate(buffer.slices):
        begin = t + g.slot * k
        if index is None:
            code = memory_word("READ", buffer.address(k, source.start), stream_field(out, stream))
            s.emit(x, begin, code, 1, reason=found.reason, layered=buffer.layered)
        else:
            s.emit_reads(index.buffer, index.start, 1, 1, 1, [0], begin, out, [picked[1].tag[0]], found.reason)
            code = memory_word("GATHER", buffer.address(k, source.start), stream_field(out, stream),
                               stream_field(out, picked[1].tag[0]))
            s.emit(x, begin + wait - g.gather, code, 1, reason=found.reason, layered=buffer.layered)
        for queue, port in zip(queues, ports, strict=False):
            s.emit(queue, begin + sent, word("SEND", port, stream_field(out, stream)), 1, reason=found.reason)
            s.links.note_sent(port, begin + sent)
    last = t + g.slot * (len(planes) - 1) + wait
    if index is None:
        s.note_read(buffer, source.start, 1, 1, 1, last)
    else:
        s.note_read(index.buffer, index.start, 1, 1, 1, last)
        for v in vectors:
            s.note_read(buffer, v, 0, 1, 1, last)


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
    g, r, buffer = s.g, s.resources, dst.buffer
    s.settle(buffer)
    queues, column, out = _edge(s, buffer.side)
    back = WEST if out == EAST else EAST
    planes, at = s.columns(buffer), s.columns(buffer)[0]
    way = abs(column - at)
    fixed: list[Use] = []
    candidates = (dst.start,) if group is None else group.vectors
    arrival = max(s.links.arrival(port, k) - g.slot * k for k in range(len(planes)))
    bound = arrival
    lead = 0  # cycles by which the map is read before the RECV
    if index is not None:
        lead = max(0, abs(at - g.column[index.buffer.slices[0]]) - way)
        bound = max(bound, s.ready_bound(index.buffer, index.start, 0, 1, 1, [0]))
    mapped = 0 if index is None else lead + way - abs(at - g.column[index.buffer.slices[0]])
    for k in range(len(planes)):
        write = lead + way + g.slot * k
        if index is None:
            fixed += r.write(buffer.slices[k], s.bank(buffer, k, dst.start, dst.start), write, 1)
        else:
            fixed += s.read_uses(index.buffer, index.start, index.start, [mapped + g.slot * k], 1)
            fixed += r.write(buffer.slices[k], -1, write, 1, whole=True)
    bound = max(bound, s.write_bound(buffer, dst.start, 0, 1, 1, [way]) if group is None else group.free - way)
    bound = max(bound, s.links.last_received(port) + 1) - lead
    streams = [Alternative([use for k in range(len(planes))
                            for use in r.flow(back, b, column, at, lead + g.slot * k, 1)], (b,)) for b in s.groups(1)]
    lines = [Alternative([r.queue(q, lead + g.slot * k, 1) for k in range(len(planes))], (q,)) for q in queues]
    choices = [streams, lines]
    if index is not None:
        start = g.column[index.buffer.slices[0]]
        choices.append([Alternative([use for k in range(len(planes))
                                     for use in r.flow(out, b, start, at, mapped + g.slot * k, 1)], (b,))
                        for b in s.groups(1)])
    found = s.board.find(fixed, choices, bound)
    assert found is not None
    t = found.time
    reason = "network" if t + lead == arrival else found.reason
    s.board.mark(fixed, t)
    picked = [choice[i] for choice, i in zip(choices, found.chosen, strict=True)]
    for a in picked:
        s.board.mark(a.uses, t)
    stream, queue = picked[0].tag[0], picked[1].tag[0]
    for k, x in enumerate(buffer.slices):
        begin = t + g.slot * k
        s.emit(queue, begin + lead, word("RECV", port, stream_field(back, stream)), 1, reason=reason)
        s.links.note_received(port, begin + lead)
        if index is None:
            code = memory_word("WRITE", buffer.address(k, dst.start), stream_field(back, stream))
        else:
            s.emit_reads(index.buffer, index.start, 1, 1, 1, [mapped], begin, out, [picked[2].tag[0]], reason)
            code = memory_word("SCATTER", buffer.address(k, dst.start), stream_field(back, stream),
                               stream_field(out, picked[2].tag[0]))
        s.emit(x, begin + lead + way, code, 1, reason=reason, layered=buffer.layered)
    last = t + lead + way + g.slot * (len(planes) - 1)
    if index is not None:
        s.note_read(index.buffer, index.start, 1, 1, 1, last)
    for v in candidates:
        buffer.ready[v] = max(buffer.ready[v], last + 1)


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
        s.emit(x, t + write, code, 1, reason=reason, layered=target.layered)
    for i in group.vectors:
        target.ready[i] = max(target.ready[i], t + write + 1)


def _edge(s: Scheduler, side: int) -> tuple[list[int], int, int]:
    """(queues, column, outward direction) of a hemisphere's links."""
    g = s.g
    queues = [q for q in range(g.queues) if g.queue_kind[q] == C2C and (g.column[q] > 0) == (side == 1)]
    column = g.column[queues[0]]
    return queues, column, EAST if column > 0 else WEST
