"""How the chips of a system are joined: which port leads where, and counts of links.

Chips are numbered from 0; chip c is chip c % 8 of node c // 8. Ports 1 to 7 are local: port i of chip r
of a node leads to port i of chip r XOR i of the same node. Ports 8 to 11 are global and lead to other
nodes, as the system's kind says. A system is described for any number of chips (its first ones), because
cables follow from how many nodes and racks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from emulator.chip import ChipError, Number, description_path, read_numbers

FOLDER = Path(__file__).resolve().parent.parent / "systems"
NODE = 8  # chips; port i of chip r to chip r XOR i joins every pair of 8 by 7 ports
GLOBAL_PORT = 8  # the first port that leaves the node
Port = tuple[int, int]  # (chip, port)


class System:
    """One layout. numbers: provenance by key, as in a chip file. Raises ChipError for what it cannot be.

    `chips` in every method is how many chips are installed: chips 0 .. chips - 1.
    """

    def __init__(self, name: str, kind: str, title: str, numbers: dict[str, Number]) -> None:
        self.name, self.kind, self.title, self.numbers = name, kind, title, numbers
        if self._number("node.chips") != NODE:
            raise ChipError(f"{name}.node.chips: must be {NODE}, so that port i of chip r leads to chip r XOR i")
        self.rack_nodes = self._number("rack.nodes")
        if kind == "ring":
            self.reach, self.ring_links = self._number("ring.reach"), self._number("ring.links")
            if self.ring_links > NODE // 2:
                raise ChipError(f"{name}.ring.links: at most {NODE // 2}, one for each chip of half a node")
            self.chips_max = self._number("ring.chips_max")
        else:
            self.node_ports = NODE * self._number("node.global_ports")
            self.rack_links = self._number("rack.links")
            self.flat_nodes = self._number("dragonfly.flat_nodes")
            self.chips_max = self._number("dragonfly.racks_max") * self.rack_nodes * NODE

    def _number(self, key: str) -> int:
        if key not in self.numbers:
            raise ChipError(f"system {self.name} has no {key}")
        value = self.numbers[key].value
        if not isinstance(value, int) or value < 1:
            raise ChipError(f"{self.name}.{key} = {value}: must be a whole number from 1 on")
        return value

    def check(self, chips: int) -> None:
        """Raise ChipError unless this system can have so many chips."""
        if not 1 <= chips <= self.chips_max:
            raise ChipError(f"{self.name} has 1 to {self.chips_max:,} chips, not {chips:,}")

    # -- wires -------------------------------------------------------------------------------------
    def peer(self, chip: int, port: int, chips: int) -> Port | None:
        """(chip, port) at the other end of a port's cable; None where no cable is or no chip is installed."""
        if not 0 <= chip < chips:
            return None
        found = None
        if 1 <= port < NODE:
            found = chip - chip % NODE + (chip % NODE ^ port), port
        elif port >= GLOBAL_PORT:
            found = (self._ring if self.kind == "ring" else self._dragonfly)(chip, port - GLOBAL_PORT, chips)
        return found if found is not None and found[0] < chips else None

    def _ring(self, chip: int, j: int, chips: int) -> Port | None:
        """Chips of the first half of a node lead to the (j + 1)th next node, those of the second half back."""
        nodes = -(-chips // NODE)
        node, r = divmod(chip, NODE)
        half = NODE // 2
        if j >= self.reach or r % half >= self.ring_links or (j + 1) % nodes == 0:
            return None
        other = node + (j + 1 if r < half else -(j + 1))
        return other % nodes * NODE + (r + half) % NODE, GLOBAL_PORT + j

    def _dragonfly(self, chip: int, j: int, chips: int) -> Port | None:
        """A node's global ports (first one of each chip, then the second ones ..) are dealt out to other nodes."""
        nodes = -(-chips // NODE)
        node, r = divmod(chip, NODE)
        each = self.node_ports // NODE
        at = j * NODE + r  # of the node's global ports: neighbours in this order sit on different chips
        if j >= each:
            return None
        if nodes <= self.flat_nodes:
            found = _dealt(node, at, nodes, self.node_ports)
            return None if found is None else _port(*found)
        rack, place = divmod(node, self.rack_nodes)
        inside = self.rack_links * (self.rack_nodes - 1)
        if at < inside:
            found = _dealt(place, at, self.rack_nodes, inside)
            return None if found is None else _port(rack * self.rack_nodes + found[0], found[1])
        outside = self.node_ports - inside  # a node's links to other racks
        racks = -(-nodes // self.rack_nodes)
        found = _dealt(rack, place * outside + at - inside, racks, outside * self.rack_nodes)
        if found is None:
            return None
        there, position = divmod(found[1], outside)
        return _port(found[0] * self.rack_nodes + there, inside + position)

    def ports(self, chip: int, chips: int) -> Iterator[tuple[int, Port]]:
        """(port, what it leads to) of a chip's wired ports, in order."""
        for port in range(1, 16):
            other = self.peer(chip, port, chips)
            if other is not None:
                yield port, other

    def links(self, a: Iterable[int], b: Iterable[int], chips: int) -> list[tuple[Port, Port]]:
        """Every cable from a chip of `a` to a chip of `b`: ((chip, port), (chip, port)), by chip and port."""
        targets = set(b)
        return [((chip, port), other) for chip in sorted(set(a)) for port, other in self.ports(chip, chips)
                if other[0] in targets]


def _dealt(group: int, at: int, groups: int, ports: int) -> tuple[int, int] | None:
    """(group, port of it) that port `at` of a group leads to, when each group deals its ports out to the others.

    Every other group gets as many ports as all can have, the nearest (group + 1) first; ports that are
    left over have no cable. The way back is at distance groups - distance.
    """
    each = ports // (groups - 1) if groups > 1 else 0
    if not each or at >= each * (groups - 1):
        return None
    distance, n = at // each + 1, at % each
    return (group + distance) % groups, (groups - distance - 1) * each + n


def _port(node: int, at: int) -> Port:
    """Global port `at` of a node as (chip, port)."""
    return node * NODE + at % NODE, GLOBAL_PORT + at // NODE


def system_names() -> list[str]:
    """Names of the systems that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_system(name: str | Path) -> System:
    """Load a bundled system by name, or a TOML file by path. Raises ChipError with one sentence."""
    head, numbers = read_numbers(description_path(name, "system", FOLDER), "system", ("ring", "dragonfly"))
    return System(head["name"], head["kind"], head["title"], numbers)
