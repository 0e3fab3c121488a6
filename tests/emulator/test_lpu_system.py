"""How chips are joined, against the published counts: 28 cables a node, hops, and the largest machine."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from emulator.chip import ChipError
from emulator.lpu.system import NODE, System, load_system, system_names

NAMES = ("groq_dragonfly", "groq_production")
EVERY = pytest.mark.parametrize("name", NAMES)


def cables(system: System, chips: int) -> nx.Graph:
    """Chips as nodes, an edge for every pair that a cable joins."""
    graph = nx.Graph()
    graph.add_nodes_from(range(chips))
    graph.add_edges_from((chip, other) for chip in range(chips) for _, (other, _) in system.ports(chip, chips))
    return graph


def test_both_layouts_ship_with_the_package() -> None:
    assert system_names() == list(NAMES)


@EVERY
def test_every_number_says_where_it_comes_from(name: str) -> None:
    system = load_system(name)
    assert system.numbers and all(n.unit and n.source and n.status for n in system.numbers.values())


@EVERY
@pytest.mark.parametrize("chips", [1, 5, 8, 12, 16, 24, 72, 100, 136, 264, 272, 576, 1520])
def test_every_cable_has_two_ends_that_agree(name: str, chips: int) -> None:
    system = load_system(name)
    for chip in range(chips):
        for port, (other, back) in system.ports(chip, chips):
            assert other != chip and system.peer(other, back, chips) == (chip, port)


@EVERY
def test_a_node_has_28_cables_and_port_i_leads_to_chip_xor_i(name: str) -> None:
    """ISCA 2022: 8 chips fully connected by 28 cables."""
    system = load_system(name)
    graph = cables(system, NODE)
    assert graph.number_of_edges() == 28 and nx.diameter(graph) == 1
    for chip in range(16):
        for port in range(1, 8):
            other = (chip % 8 ^ port) + chip // 8 * 8
            assert system.peer(chip, port, 16) == (other, port)


@EVERY
def test_a_chip_has_11_ports(name: str) -> None:
    """ISCA 2022: 7 local and 4 global. In a full rack of the ring, and in 33 nodes or 145 racks, all lead somewhere."""
    system = load_system(name)
    for chips in {"groq_production": (72, 576), "groq_dragonfly": (72, 264, 10440)}[name]:
        for chip in (0, 7, 40, chips - 1):
            assert [port for port, _ in system.ports(chip, chips)] == [*range(1, 8), 8, 9, 10, 11]


def test_the_production_ring_joins_each_node_to_4_next_and_4_previous_by_4_links() -> None:
    """SHIP: 32 links a node to 4 previous and 4 next nodes; port 8 + j of chip r < 4 to chip r + 4, j + 1 nodes on."""
    system = load_system("groq_production")
    assert system.peer(3, 10, 576) == (8 * 3 + 7, 10) and system.peer(7, 8, 576) == (8 * 71 + 3, 8)
    counts = [len(system.links(range(8), range(8 * node, 8 * node + 8), 576)) for node in range(1, 72)]
    assert counts == [4] * 4 + [0] * 63 + [4] * 4


@pytest.mark.parametrize("name, chips, hops", [
    ("groq_production", 72, 3), ("groq_production", 136, 5),  # SHIP: partitions of 72 and 136
    ("groq_dragonfly", 72, 3), ("groq_dragonfly", 264, 3),  # ISCA 2022: 33 nodes at 3 hops
])
def test_the_published_number_of_hops(name: str, chips: int, hops: int) -> None:
    assert nx.diameter(cables(load_system(name), chips)) == hops


def test_33_nodes_of_the_dragonfly_have_one_link_a_pair() -> None:
    system = load_system("groq_dragonfly")
    assert all(len(system.links(range(8), range(8 * node, 8 * node + 8), 264)) == 1 for node in range(1, 33))
    # local cables of 33 nodes, and one for each of 33 x 32 / 2 pairs
    assert cables(system, 264).number_of_edges() == 33 * 28 + 528


def test_racks_of_the_dragonfly_have_144_links_to_145_racks() -> None:
    """9 nodes x 16 links; two links between two nodes of a rack."""
    system = load_system("groq_dragonfly")
    assert system.chips_max == 145 * 72 == 10_440
    outside = [link for link in system.links(range(72), range(10_440), 10_440) if link[1][0] >= 72]
    assert sorted(other // 72 for _, (other, _) in outside) == list(range(1, 145))
    assert len(system.links(range(8), range(8, 16), 10_440)) == 2


def test_spare_links_of_a_small_dragonfly_are_dealt_out_evenly() -> None:
    """9 nodes: 32 ports for 8 others are 4 each; 8 racks: 144 links for 7 others are 20 each."""
    system = load_system("groq_dragonfly")
    assert len(system.links(range(8), range(40, 48), 72)) == 4
    assert len(system.links(range(72), range(72, 144), 576)) == 20


@EVERY
def test_a_system_has_a_limit(name: str) -> None:
    system = load_system(name)
    system.check(10_440)
    with pytest.raises(ChipError, match=f"{name} has 1 to 10,440 chips, not 10,441"):
        system.check(10_441)


def test_unknown_systems_and_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ChipError, match="unknown system groq_prod; did you mean groq_production?"):
        load_system("groq_prod")
    text = (Path(__file__).parents[2] / "emulator/systems/groq_production.toml").read_text()
    cases = (("chips = { value = 8", "chips = { value = 4", "must be 8"), ('kind = "ring"', 'kind = "torus"', "kind"),
             ("links = { value = 4", "links = { value = 5", "at most 4"),
             ("reach = {", "reacx = {", "has no ring.reach"))
    for old, new, message in cases:
        path = tmp_path / "x.toml"
        path.write_text(text.replace(old, new))
        with pytest.raises(ChipError, match=message):
            load_system(path)
