"""What the chips of a tensor-parallel group do together, and how a pipeline stage hands over to the next.

Rank r's port i leads to rank r XOR i, so all ranks run one program. Which vector a rank owns depends on
the rank: addresses come from maps in its memory (GATHER and SCATTER). Vectors are dealt out in turn:
vector v belongs to owner v % width; a buffer that is exchanged ends in a dummy vector, which stands for
the vectors beyond the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from isa.opcodes import ROLE_PORT
from programs.lpu.build import Build
from programs.lpu.chain import Op, imm
from programs.lpu.links import among, receive, scatter, send
from programs.lpu.memory import Buffer
from programs.lpu.patterns import gather
from programs.lpu.place import Fill
from programs.lpu.schedule import Dst, Mem

NEXT, PREVIOUS = ROLE_PORT, ROLE_PORT + 1  # roles of a chip's ports: to the next stage, from the one before
Maps = Callable[[int, int], Mem]  # (port, j) -> the map of a vector; see owner_maps
Owner = Callable[[int, int], int]  # (rank, port) -> owner of the vectors that cross that port, -1: none


def address_maps(words: np.ndarray, lanes: int) -> np.ndarray:
    """uint8 [n, 1, lanes] that add words[i] to an address: 16 bits in the first two lanes of each superlane."""
    out = np.zeros((len(words), 1, lanes), dtype=np.uint8)
    out[:, 0, 0::16] = (words & 0xFF)[:, None]
    out[:, 0, 1::16] = (words >> 8)[:, None]
    return out


def owner_maps(b: Build, name: str, n: int, width: int, owner: Owner, side: int) -> Maps:
    """maps(port, j): the address of vector j * width + owner(rank, port), or of the dummy n."""
    slots = -(-n // width)

    def table(port: int) -> Buffer:  # one a port: small ones find room where the chip is nearly full
        def make(rank: int) -> np.ndarray:
            v = np.arange(slots) * width + owner(rank, port)
            return address_maps(np.where((owner(rank, port) >= 0) & (v < n), v, n), b.g.lanes)

        return b.rank_table(f"{name}/{n}/{width}/{port}", slots, 1, make, side)

    return lambda port, j: Mem(table(port), j)


def _own(rank: int, port: int) -> int:
    return rank ^ port


def _receiver(b: Build) -> Owner:
    links = dict(b.receivers)
    return lambda rank, port: links.get(rank ^ port, -1)


def own_vectors(b: Build, n: int, maps: Sequence[Maps]) -> list[Buffer]:
    """Room for a rank's own f32 vectors in both hemispheres, away from the maps that they travel with."""
    found = [b.scratch(4, n, side) for side in (0, 1)]
    for buffer in found:
        b.s.settle(buffer, maps[buffer.side](0, 0).buffer.slices)  # its map (port 0) travels with it
    return found


def exchanged(b: Build, n: int, side: int) -> Buffer:
    """An f32 buffer of n vectors, the last one the dummy; its first contents are zeros."""
    buffer = b.scratch(4, n, side)
    b.s.settle(buffer)
    b.place.fills.append(Fill(buffer, zero=True, table=True))
    return buffer


def all_reduce(b: Build, partial: Buffer, old: Buffer | None, new: Buffer) -> None:
    """new = old + the sum of all ranks' `partial`; f32 buffers of n + 1 vectors, the last one a dummy.

    A reduce-scatter (each rank adds up the vectors it owns) and an all-gather, both directly from rank to
    rank. One rank adds a vector up, so all get the same bits.
    """
    s, n, ranks = b.s, partial.n - 1, b.ranks
    slots = -(-n // ranks)
    ports = range(1, ranks)
    maps = [owner_maps(b, "owner", n, ranks, _own, side) for side in (0, 1)]
    mine = maps[1 - partial.side]
    dealt = [range(j * ranks, min((j + 1) * ranks, n)) for j in range(slots)]
    held = b.scratch(4, slots, 1 - partial.side)
    before = None if old is None else b.scratch(4, slots, 1 - old.side)
    got = {port: b.scratch(4, slots, port % 2) for port in ports}
    for j in range(slots):
        if old is not None and before is not None:
            gather(s, old, 0, maps[1 - old.side](0, j), Dst(before, j), dealt[j])
    for j in range(slots):
        for port in ports:
            send(s, [port], Mem(partial), mine(port, j), dealt[j])
        gather(s, partial, 0, mine(0, j), Dst(held, j), dealt[j])
    total = own_vectors(b, slots, maps)
    for j in range(slots):
        for port in ports:
            receive(s, port, Dst(got[port], j))
        parts = [held, *got.values(), *([] if before is None else [before])]
        value = b.combined("ADD", parts, j, 1)
        s.vop([(value if isinstance(value, Op) else imm("ADDI", value, 0), [Dst(x, j) for x in total])])
    all_gather(b, total, "owner", n, ranks, _own, list(ports), list(ports), new)
    b.memory.release(held, *got.values(), *total)
    if before is not None:
        b.memory.release(before)


def all_gather(b: Build, own: Sequence[Buffer], name: str, n: int, width: int, owner: Owner, out: Sequence[int],
               inward: Sequence[int], new: Buffer) -> None:
    """new = the vectors of all owners. own: this rank's, in both hemispheres (empty: it owns none).

    out, inward: ports that this rank's vectors go to and others come from.
    """
    s, slots = b.s, -(-n // width)
    s.settle(new)
    maps = owner_maps(b, name, n, width, owner, 1 - new.side)
    per_side = b.link_queues
    groups = [among(new, range(j * width, min((j + 1) * width, n))) for j in range(slots)]
    for j in range(slots if own else 0):
        for k in range(0, len(out), per_side):
            send(s, out[k : k + per_side], Mem(own[k // per_side % 2], j))
        scatter(s, Mem(own[1 - new.side], j), maps(0, j), new, groups[j])
    for j in range(slots):
        for port in inward:
            receive(s, port, Dst(new), maps(port, j), groups[j])


def exchange(b: Build, source: Buffer) -> list[Buffer]:
    """Every rank's copy of an f32 buffer: this rank's first, then those of ranks XOR 1, 2, ..."""
    s = b.s
    found = [source, *(b.scratch(4, source.n, source.side) for _ in range(1, b.ranks))]
    for i in range(source.n):
        for k in range(1, b.ranks, b.link_queues):
            send(s, range(k, min(b.ranks, k + b.link_queues)), Mem(source, i))
    for i in range(source.n):
        for port in range(1, b.ranks):
            receive(s, port, Dst(found[port], i))
    return found


def hand_over(b: Build, source: Buffer) -> None:
    """Send the vectors of a buffer (but its dummy) to the next stage, dealt out over fewer links than ranks."""
    n, links = source.n - 1, b.crossing.links
    senders = dict(b.senders)
    maps = owner_maps(b, f"sender{senders}", n, links, lambda rank, port: senders.get(rank, -1), 1 - source.side)
    for j in range(-(-n // links)):
        send(b.s, [NEXT], Mem(source), maps(0, j), range(j * links, min((j + 1) * links, n)))


def take_over(b: Build, target: Buffer) -> None:
    """Receive what `hand_over` sent; the ranks that have no link from the stage before get it from the others."""
    n, links, s = target.n - 1, b.crossing.links, b.s
    slots = -(-n // links)
    own: list[Buffer] = []
    if b.crossing.receives:
        maps = [owner_maps(b, f"receiver{b.receivers}", n, links, _receiver(b), side) for side in (0, 1)]
        own = own_vectors(b, slots, maps)
        for j in range(slots):
            receive(s, PREVIOUS, Dst(own[0], j))
            s.move(Mem(own[0], j), [Dst(own[1], j)])
    every = list(range(1, b.ranks))
    all_gather(b, own, f"receiver{b.receivers}", n, links, _receiver(b),
               every if own else [], [p for p in every if p in b.crossing.hears], target)


__all__ = ["NEXT", "PREVIOUS", "all_gather", "all_reduce", "exchange", "exchanged", "hand_over", "take_over"]

