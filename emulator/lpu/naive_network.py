"""Several naive LPUs: all chips go through every cycle together, and vectors move down the wires.

A cycle of the system: every vector on a wire moves one place, and what reaches the end waits there; then
each chip that has started does its own cycle, in order of the program's table; then no end may hold more
vectors than it has room for. A wire has as many places as a vector is under way for cycles.
"""

from __future__ import annotations

from collections import deque

from emulator.lpu.errors import Reporter
from emulator.lpu.geometry import Geometry
from emulator.lpu.naive import NaiveEngine
from emulator.lpu.naive_units import End, Parcel
from emulator.lpu.outcome import Outcome
from emulator.lpu.sram import Sram
from emulator.lpu.wiring import Wiring
from emulator.trace import Window
from isa.program import LpuText


class NaiveNetwork:
    """Runs the chips of a program; one text and one SRAM a row of its table. blind: timing only, what arrives
    has no values."""

    def __init__(self, g: Geometry, texts: list[LpuText], srams: list[Sram], wiring: Wiring, blind: bool) -> None:
        self.g, self.wiring, self.blind = g, wiring, blind
        several = len(texts) > 1
        self.chips = [NaiveEngine(g, text, sram, Reporter(g, text, place.number if several else None, place.start))
                      for text, sram, place in zip(texts, srams, wiring.places, strict=True)]

    def lay_wires(self) -> None:
        """Every link empty, and each chip's ports at its ends."""
        self.ends = {key: End(deque([None] * self.g.hop, self.g.hop)) for key in self.wiring.peers}
        for key, other in self.wiring.peers.items():
            self.ends[key].far = self.ends[other]
            self.ends[key].later = self.wiring.starts[other[0]] - self.wiring.starts[key[0]]
        for row, chip in enumerate(self.chips):
            chip.ends = {port: self.ends[row, link] for port, link in enumerate(self.wiring.ports[row].tolist())
                         if link >= 0}

    def run(self, window: Window | None = None) -> list[Outcome]:
        """One step of every chip, an Outcome a row. window: what to record. Raises the first ScheduleError."""
        self.lay_wires()
        for chip, start in zip(self.chips, self.wiring.starts, strict=True):
            chip.begin(None if window is None else window.later(-start))
        now = 0
        while any(chip.alive() for chip in self.chips) or any(any(end.wire) for end in self.ends.values()):
            self.move()
            for chip, start in zip(self.chips, self.wiring.starts, strict=True):
                if now >= start and chip.alive():
                    chip.tick()
            self.check_room()
            now += 1
        for chip in self.chips:
            chip.check_parked()
        self.check_received()
        return [chip.outcome() for chip in self.chips]

    def move(self) -> None:
        for end in self.ends.values():
            parcel = end.wire.pop()
            end.wire.appendleft(None)
            if parcel is not None:
                assert end.far is not None
                if self.blind:
                    parcel.poison = self.chips[0].full
                end.far.arrived.append(parcel)

    def check_room(self) -> None:
        """Raises ScheduleError."""
        for (row, link), end in self.ends.items():
            assert end.far is not None
            if len(end.far.arrived) > self.g.receive_depth:
                parcel, issue = end.far.arrived[-1], end.far.arrived[-1].issue
                raise self.chips[row].report.overflow(
                    parcel.sent, issue.queue, issue.row, issue.iteration, self.number_behind(row, link),
                    parcel.sent + self.g.hop - end.later)

    def check_received(self) -> None:
        """At the end nothing may be left on a link. Raises ScheduleError."""
        for (row, link), end in self.ends.items():
            assert end.far is not None
            if end.far.arrived:
                parcel: Parcel = end.far.arrived[0]
                raise self.chips[row].report.missing(
                    parcel.sent, parcel.issue.queue, parcel.issue.row, parcel.issue.iteration,
                    self.number_behind(row, link), (end.sent, end.far.received))

    def number_behind(self, row: int, link: int) -> int:
        """Number of the chip at the other end."""
        return self.wiring.places[self.wiring.peers[row, link][0]].number
