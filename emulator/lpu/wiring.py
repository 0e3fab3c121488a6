"""Which chips of a program are joined, and which link each of them means by a port of an instruction."""

from __future__ import annotations

import numpy as np

from emulator.chip import ChipError
from emulator.lpu.geometry import Geometry
from emulator.lpu.system import GLOBAL_PORT, load_system, system_names
from isa.opcodes import PORTS, ROLE_PORT
from isa.program import Program, place_of


class Wiring:
    """The links of a program's chips. Chips are rows of its table, links are numbered by their port.

    places: coordinates of each row. ports: int64 [rows, PORTS], link of a port in an instruction, -1 for
    none. peers: (row, link) -> (row, link) at the other end. Raises ChipError when the program's system
    is unknown or has no room for its chips.
    """

    def __init__(self, program: Program, g: Geometry) -> None:
        self.places = [place_of(coordinates) for _, _, coordinates in program.chips]
        self.starts = [place.start for place in self.places]
        self.peers: dict[tuple[int, int], tuple[int, int]] = {}
        self.ports = np.full((len(self.places), PORTS), -1, dtype=np.int64)
        name = program.meta.get("system")
        if name is None:
            return
        if name not in system_names():  # a program file may not make us read any other file
            raise ChipError(f"the program's system {name!r} is unknown; known: {', '.join(system_names())}")
        system = load_system(name)
        chips = max(place.number for place in self.places) + 1
        system.check(chips)
        row_of = {place.number: row for row, place in enumerate(self.places)}
        for row, place in enumerate(self.places):
            for link, (number, back) in system.ports(place.number, chips):
                if number in row_of and _has(g, link) and _has(g, back):
                    self.peers[row, link] = row_of[number], back
            named = [*range(ROLE_PORT), *place.roles]
            for port, link in enumerate(named):
                if (row, link) in self.peers:
                    self.ports[row, port] = link


def _has(g: Geometry, port: int) -> bool:
    """The chip has this port at all."""
    return 1 <= port <= g.local_ports or GLOBAL_PORT <= port < GLOBAL_PORT + g.global_ports
