"""Whose each cycle of an LPU step is: the first true line of LPU_CAUSES, with its layer and graph node.

The schedules alone say it, so nothing needs to run.
"""

from __future__ import annotations

import re

import numpy as np

from emulator.accounting import LPU_CAUSES, reason_index
from emulator.chip import Chip
from emulator.lpu.geometry import KIND_CLASS, geometry
from emulator.lpu.replay import issues
from emulator.time_tree import ROOT, Leaf, merged, place_of_node
from isa.opcodes import code
from isa.program import LpuText, Program, place_of

NETWORK, FILL = reason_index(LPU_CAUSES, "network"), reason_index(LPU_CAUSES, "fill")
START = "start"  # what no node has issued yet: the launch barrier, and values on their way to the first instruction

# Of one text and one cause: cycles in which it is true, without duplicates and in order, and the node of each.
Truth = tuple[np.ndarray, np.ndarray]


def lpu_tree(program: Program, chip: Chip, cycles: int) -> list[Leaf]:
    """Leaves of a step of `cycles` cycles, by layer, graph node and cause.

    On several chips a line is true of a cycle when it is true on any chip; the node is then that of the first chip,
    and of several instructions that of the lowest queue. A vector between two chips belongs to the node that sent it.
    A cycle in which nothing issues belongs to the node that had the cycle before it.
    """
    names: list[str] = [START]
    cause_of = np.full(cycles, FILL, dtype=np.int8)
    node_of = np.full(cycles, -1, dtype=np.int32)
    known: dict[int, list[Truth]] = {}
    seen: set[tuple[int, int]] = set()
    for row, (number, _, coordinates) in enumerate(program.chips):
        start = place_of(coordinates).start
        if (number, start) in seen:  # ranks that do the same in the same cycles
            continue
        seen.add((number, start))
        text = program.texts[number]
        assert isinstance(text, LpuText)
        if number not in known:
            known[number] = _truths(text, chip)
        nodes = np.array([_number(name, names) for name in _names_of_row(program, row, text)], dtype=np.int32)
        for cause, (at, node) in enumerate(known[number]):
            mine = cause_of[at + start] > cause
            where = at[mine] + start
            cause_of[where] = cause
            node_of[where] = nodes[node[mine]]
    _carry(node_of)
    counts = np.bincount(cause_of.astype(np.int64) * len(names) + node_of, minlength=len(LPU_CAUSES) * len(names))
    leaves = []
    first = _first_cycles(node_of, len(names))
    for n in sorted(range(len(names)), key=lambda n: int(first[n])):
        leaves += [Leaf((ROOT, *place_of_node(names[n]), reason.words), int(counts[cause * len(names) + n]))
                   for cause, reason in enumerate(LPU_CAUSES) if counts[cause * len(names) + n]]
    return merged(leaves)


def _number(name: str, names: list[str]) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def _names_of_row(program: Program, row: int, text: LpuText) -> list[str]:
    """Node names of a chip's text, and "program" for what has none. Stages of equal shape share a text, which has the
    layers of the first of them."""
    names = [*text.source.nodes, "program"]
    layers = program.meta.get("stage_layers")
    if not layers or len(text.source.node) == 0:
        return names
    stage = layers[row // program.meta.get("tensor_parallel", 1)]
    used = [re.match(r"layers\.(\d+)\.", names[n]) for n in np.unique(text.source.node) if n >= 0]
    own = [int(found[1]) for found in used if found]
    shift = stage[0] - min(own) if own and stage else 0
    return [re.sub(r"^layers\.(\d+)\.", lambda found: f"layers.{int(found[1]) + shift}.", name) for name in names]


def _truths(text: LpuText, chip: Chip) -> list[Truth]:
    """When each of LPU_CAUSES but the last is true of a text."""
    place = geometry(chip)
    found = issues(text, chip)
    unit = np.array([KIND_CLASS[kind] for kind in place.queue_kind])[found.queue]
    loads = np.isin(found.opcode, (code("LW"), code("IW")))
    node = text.source.node[found.index] if len(text.source.node) else np.full(len(found.index), -1)
    attention = np.array(["attention" in name for name in text.source.nodes] + [False])[node]
    sends = found.opcode == code("SEND")

    works = ~np.isin(found.opcode, (code("SYNC"), code("NOTIFY")))  # of the queues, whatever unit they serve

    def of(wanted: np.ndarray) -> Truth:
        at, own = found.cycle[wanted & works], node[wanted & works]
        first = np.ones(len(at), dtype=bool)  # issues are sorted by cycle, then queue
        first[1:] = at[1:] != at[:-1]
        return at[first], own[first]

    sent, sender = of(sends)
    crossing = np.unique((sent[:, None] + np.arange(place.hop)[None, :]).ravel())
    flight = sender[np.searchsorted(sent, crossing - place.hop, side="right")] if len(sent) else sender
    return [of(loads & ~attention), of(loads & attention), of(~loads & (unit == "mxm")), of(unit == "vxm"),
            of(unit == "sxm"), (crossing, flight), of(unit == "mem")]


def _carry(node_of: np.ndarray) -> None:
    """Give cycles without a node (-1) that of the cycle before, and those before the first START's number, 0."""
    at = np.where(node_of >= 0, np.arange(len(node_of)), -1)
    last = np.maximum.accumulate(at)
    node_of[:] = np.where(last >= 0, node_of[last], 0)


def _first_cycles(node_of: np.ndarray, count: int) -> np.ndarray:
    first = np.full(count, len(node_of), dtype=np.int64)
    nodes, at = np.unique(node_of, return_index=True)
    first[nodes] = at
    return first
