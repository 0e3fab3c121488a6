"""What can go wrong on links between chips, found in the records of what every chip sent and received.

A link is right when each SEND finds it free, each RECV comes no earlier than its vector, no more than
receive_depth vectors wait, and every vector is received. The n-th RECV at one end belongs to the n-th SEND
at the other. All of this follows from the cycles of SENDs and RECVs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from emulator.lpu.errors import Reporter, ScheduleError
from emulator.lpu.geometry import Geometry
from emulator.lpu.state import ISSUE, LOG_CYCLE, LOG_ITERATION, LOG_QUEUE, LOG_ROW, SAMPLE
from emulator.lpu.wiring import Wiring

AT_THE_END = 1 << 62  # cycle of what is only known when everything has ended
NETWORK = 1 << 20  # a row behind those of all chips: what the links themselves find in a cycle


class Fault(NamedTuple):
    """order: (cycle of the system, row, phase of the cycle or link, queue): the first one is reported.

    row: the chip to blame; record: its log record (see state.LOG_*); detail: as the Reporter wants it.
    """

    order: tuple[int, ...]
    kind: str
    row: int
    record: np.ndarray
    detail: tuple[int, ...] = ()


@dataclass
class Transfers:
    """What one chip sent and received: link -> int64 [n, LOG_SIZE] in order of cycles. unwired: (phase,
    records) of instructions whose port leads nowhere."""

    sent: dict[int, np.ndarray] = field(default_factory=dict)
    received: dict[int, np.ndarray] = field(default_factory=dict)
    unwired: list[tuple[int, np.ndarray]] = field(default_factory=list)


def resolved(by_port: Transfers, ports: np.ndarray) -> Transfers:
    """Transfers by link from transfers by port in an instruction: several ports may mean one link."""
    found = Transfers()
    for phase, given, target in ((SAMPLE, by_port.sent, found.sent), (ISSUE, by_port.received, found.received)):
        for port, records in given.items():
            link = int(ports[port])
            if link < 0:
                found.unwired.append((int(phase), records))
            elif link in target:
                both = np.concatenate([target[link], records])
                target[link] = both[np.lexsort((both[:, LOG_QUEUE], both[:, LOG_CYCLE]))]
            else:
                target[link] = records
    return found


def faults(g: Geometry, wiring: Wiring, chips: list[Transfers]) -> Iterator[Fault]:
    """The first fault of each kind on each link, and the first use of an unwired port of each chip.

    chips: one Transfers a row; rows that share the same object and wiring are looked at once.
    """
    starts, seen = wiring.starts, {}
    for row, transfers in enumerate(chips):
        for phase, records in transfers.unwired:
            yield Fault(_order(starts[row], row, phase, records[0]), "no_link", row, records[0])
    for (a, link), (b, back) in wiring.peers.items():
        key = (id(chips[a]), link, id(chips[b]), back, starts[b] - starts[a])
        if key not in seen:
            seen[key] = list(_link_faults(g, chips[a].sent.get(link), chips[b].received.get(back), key[-1]))
        for kind, record, detail in seen[key]:
            row = b if kind == "receive_early" else a
            if kind == "receive_early":
                order = _order(starts[b], b, int(ISSUE), record)
            elif kind == "link_busy":
                order = _order(starts[a], a, int(SAMPLE), record)
            elif kind == "receive_overflow":
                order = (starts[b] + detail[0], NETWORK, a, link)
                detail = (wiring.places[b].number, *detail)
            else:
                order = (AT_THE_END, NETWORK, a, link)
                detail = (wiring.places[b].number, *detail)
            yield Fault(order, kind, row, record, detail)


def _order(start: int, row: int, phase: int, record: np.ndarray) -> tuple[int, ...]:
    return start + int(record[LOG_CYCLE]), row, phase, int(record[LOG_QUEUE])


def _link_faults(g: Geometry, sends: np.ndarray | None, receives: np.ndarray | None, shift: int
                 ) -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
    """(kind, record, detail) on one link; `shift`: cycle of the sender minus cycle of the receiver."""
    if sends is None and receives is None:
        return
    sent = np.zeros(0, dtype=np.int64) if sends is None else sends[:, LOG_CYCLE] - shift  # on the receiver's clock
    taken = np.zeros(0, dtype=np.int64) if receives is None else receives[:, LOG_CYCLE]
    busy = np.diff(sent) < g.slot
    if busy.any():
        i = int(np.argmax(busy))
        assert sends is not None
        yield "link_busy", sends[i + 1], (int(sends[i, LOG_CYCLE]) + g.slot,)
    arrives = sent + g.hop
    pairs = min(len(sent), len(taken))
    early = np.ones(len(taken), dtype=bool)  # a RECV without a SEND never finds anything
    early[:pairs] = taken[:pairs] < arrives[:pairs]
    if early.any():
        i = int(np.argmax(early))
        known = i < len(sent) and sent[i] < taken[i]
        assert receives is not None
        yield "receive_early", receives[i], (int(arrives[i]) if known else -1,)
    waiting = np.arange(1, len(sent) + 1) - np.searchsorted(taken, arrives, side="right")
    full = waiting > g.receive_depth
    if full.any():
        i = int(np.argmax(full))
        assert sends is not None
        yield "receive_overflow", sends[i], (int(arrives[i]),)
    if len(sent) > len(taken):
        assert sends is not None
        yield "receive_missing", sends[len(taken)], (len(sent), len(taken))


def error_of(fault: Fault, report: Reporter) -> ScheduleError:
    """A fault in words. report: of the chip to blame."""
    cycle, queue, row, iteration = (int(fault.record[i]) for i in (LOG_CYCLE, LOG_QUEUE, LOG_ROW, LOG_ITERATION))
    if fault.kind == "receive_overflow":
        return report.overflow(cycle, queue, row, iteration, fault.detail[0], fault.detail[1])
    if fault.kind == "receive_missing":
        return report.missing(cycle, queue, row, iteration, fault.detail[0], (fault.detail[1], fault.detail[2]))
    return report.simple(fault.kind, cycle, queue, row, iteration, *fault.detail)
