"""Several LPUs on the fast engine.

With values every chip is emulated, in windows no longer than the way over a link: nothing that is sent in
a window can be received in it, so the chips run one after the other and vectors are handed over in between.
Timing only, nothing depends on data: chips with the same text and image run once, alone, and the cycles of
their SENDs and RECVs say whether every link of every chip is right.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu import links
from emulator.lpu import state as st
from emulator.lpu.engine import FOREVER, FastEngine
from emulator.lpu.errors import Reporter, ScheduleError
from emulator.lpu.geometry import Geometry
from emulator.lpu.links import AT_THE_END, Transfers
from emulator.lpu.outcome import Outcome
from emulator.lpu.sram import Sram
from emulator.lpu.text import Decoded
from emulator.lpu.wiring import Wiring
from emulator.trace import Window
from isa.opcodes import PORTS
from isa.program import LpuText

EVERY_PORT = np.arange(PORTS, dtype=np.int64)


class FastNetwork:
    """Runs the chips of a program; one text and one SRAM a row of its table.

    blind: timing only; rows that share an SRAM are run once, and all RECVs give poison.
    """

    def __init__(self, g: Geometry, texts: list[LpuText], srams: list[Sram], wiring: Wiring, blind: bool) -> None:
        """Raises TextError for a text that is not a program of this chip."""
        self.g, self.texts, self.wiring, self.blind = g, texts, wiring, blind
        decoded: dict[int, Decoded] = {}
        shared: dict[int, FastEngine] = {}
        self.engines: list[FastEngine] = []  # of each row
        for row, (text, sram) in enumerate(zip(texts, srams, strict=True)):
            if id(text) not in decoded:
                decoded[id(text)] = Decoded(g, text)
            if not blind or id(sram) not in shared:
                shared[id(sram)] = FastEngine(g, text, sram, decoded=decoded[id(text)], blind=blind,
                                              ports=EVERY_PORT if blind else wiring.ports[row])
            self.engines.append(shared[id(sram)])
        self.distinct = {id(engine): engine for engine in self.engines}

    def run(self, window: Window | None = None) -> list[Outcome]:
        """One step of every chip, an Outcome a row. window: what to record. Raises the first ScheduleError."""
        started: set[int] = set()
        for engine, start in zip(self.engines, self.wiring.starts, strict=True):
            if id(engine) in started:
                continue
            started.add(id(engine))
            engine.start(None if window is None else window.later(-start))
            if self.blind:
                engine.advance(FOREVER)
        if not self.blind:
            self._advance_together()
        error = self._first_error()
        if error is not None:
            raise error
        outcomes = {key: engine.outcome() for key, engine in self.distinct.items()}
        return [outcomes[id(engine)] for engine in self.engines]

    # -- with values -------------------------------------------------------------------------------
    def _advance_together(self) -> None:
        """Until all have ended, or one has failed and the others are at least as far."""
        self.handed = np.zeros((len(self.engines), PORTS), dtype=np.int64)  # vectors handed over from each end
        chips = list(zip(self.engines, self.wiring.starts, strict=True))
        window = self.g.hop if self.wiring.peers else FOREVER
        while waiting := [start + engine.next_event for engine, start in chips if engine.running]:
            window_end = min(waiting) + window
            for engine, start in chips:
                if engine.running and start + engine.next_event < window_end:
                    engine.advance(window_end - start)
            if any(engine.failed and engine.failure().kind != "sync_deadlock" for engine in self.engines):
                return
            for row in range(len(chips)):
                self._hand_over(row)

    def _hand_over(self, row: int) -> None:
        """Give what a chip has sent since the last time to the chips at the other ends."""
        sent = self.engines[row].state.part(st.END_AT, st.END_SIZE)[:, st.END_SENT]
        for link in np.flatnonzero(sent != self.handed[row]).tolist():
            first, last = int(self.handed[row, link]), int(sent[link])
            self.handed[row, link] = last
            other, back = self.wiring.peers[row, link]
            a, b = self.engines[row].state, self.engines[other].state
            last = min(last, int(b.received[back]))  # the other chip takes no more than this
            if last > first:
                shift = self.wiring.starts[row] - self.wiring.starts[other]
                _carry(a, link, b, back, first, last, self.g.hop + shift)

    # -- errors --------------------------------------------------------------------------------------
    def _first_error(self) -> ScheduleError | None:
        """The first thing that went wrong anywhere: on a chip or on a link."""
        found: list[tuple[tuple[int, ...], int, links.Fault | None]] = []
        for row, (engine, start) in enumerate(zip(self.engines, self.wiring.starts, strict=True)):
            if engine.failed:
                kind, cycle, phase, queue = engine.failure()
                order = (AT_THE_END, row) if kind == "sync_deadlock" else (start + cycle, row, phase, queue)
                if kind != "receive_early":  # the link's records say more about that
                    found.append((order, row, None))
        found += [(fault.order, fault.row, fault) for fault in links.faults(self.g, self.wiring, self._transfers())]
        if not found:
            return None
        _, row, fault = min(found, key=lambda entry: (entry[0], entry[2] is None))
        place = self.wiring.places[row]
        report = Reporter(self.g, self.texts[row], place.number if len(self.engines) > 1 else None, place.start)
        return self.engines[row].error(report) if fault is None else links.error_of(fault, report)

    def _transfers(self) -> list[Transfers]:
        """What each row sent and received; the same object for rows where it is the same."""
        logs = {key: _logged(engine.state) for key, engine in self.distinct.items()}
        if not self.blind:
            return [logs[id(engine)] for engine in self.engines]
        known: dict[tuple[int, bytes], Transfers] = {}
        rows = []
        for engine, ports in zip(self.engines, self.wiring.ports, strict=True):
            key = (id(engine), ports.tobytes())
            if key not in known:
                known[key] = links.resolved(logs[id(engine)], ports)
            rows.append(known[key])
        return rows


def _carry(a: st.State, link: int, b: st.State, back: int, first: int, last: int, later: int) -> None:
    """Vectors first .. last - 1 of an end of chip a become those that arrive at an end of chip b, `later` cycles
    after their SEND on b's clock."""
    n, lanes = last - first, a.g.lanes
    leaving = int(a.part(st.END_AT, st.END_SIZE)[link, st.END_FIRST_SENT]) + first
    coming = int(b.part(st.END_AT, st.END_SIZE)[back, st.END_FIRST_RECEIVED]) + first
    records = a.part(st.SENT_AT, st.LOG_SIZE)[leaving : leaving + n]
    arriving = b.part(st.RECEIVED_AT, st.LOG_SIZE)[coming : coming + n]
    arriving[:, st.LOG_POISON] = records[:, st.LOG_POISON]
    arriving[:, st.LOG_ARRIVES] = records[:, st.LOG_CYCLE] + later
    source, target = a.fixed[st.SENT_BYTES] + leaving * lanes, b.fixed[st.RECEIVED_BYTES] + coming * lanes
    b.BYTES[target : target + n * lanes] = a.BYTES[source : source + n * lanes]


def _logged(state: st.State) -> Transfers:
    """What a chip has sent and received, by link (of a blind chip: by port in an instruction)."""
    found = Transfers()
    ends = state.part(st.END_AT, st.END_SIZE)
    for section, count, first, target in (
            (st.SENT_AT, st.END_SENT, st.END_FIRST_SENT, found.sent),
            (st.RECEIVED_AT, st.END_RECEIVED, st.END_FIRST_RECEIVED, found.received)):
        records = state.part(section, st.LOG_SIZE)
        for link in np.flatnonzero(ends[:, count]).tolist():
            target[link] = records[ends[link, first] : ends[link, first] + ends[link, count]]
    return found
