"""The plan of one LPU: what each unit issues when, by queue and by graph node, read off the program itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from emulator.accounting import LPU_REASONS
from emulator.chip import Chip, ChipError
from emulator.lpu.geometry import HEMISPHERES, KIND_CLASS, KIND_NAMES, VXM, Geometry, geometry
from emulator.lpu.replay import Issues, expanded, queue_times
from emulator.lpu.text import COMPLETION, FIELDS, IDLE, NO_REASON, OP, Decoded
from isa.encoding import decode_words
from isa.opcodes import F16, code
from isa.program import LpuText, Place, Program, Source, place_of

NO_NODE = "(no node)"
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Chosen:
    """One chip of a program: its row of the table, stage and rank, and where its text runs.

    later: stages of one shape share a text, whose nodes have the layers of the first one; this stage's are
    `later` numbers higher. sharing: how many stages run this text.
    """

    row: int
    stage: int
    rank: int
    place: Place
    later: int
    sharing: int


@dataclass
class Node:
    """What a graph node takes. first, last: cycles of its first and last issue; instructions: issues, REPEAT
    iterations included; loads: planes x cycles that take weights, load_span: those there are from its first
    LW to its last; waits: reason -> cycles that queues wait before its instructions."""

    name: str
    first: int
    last: int
    instructions: int
    loads: int
    load_span: int
    waits: dict[str, int]

    @property
    def load_share(self) -> float | None:
        """How busy the planes' weight inputs are from the first LW to the last, None without any."""
        return self.loads / self.load_span if self.load_span else None


@dataclass(frozen=True)
class Row:
    """Queues that a picture shows as one line."""

    name: str
    queues: tuple[int, ...]


def choose_chip(program: Program, stage: int, rank: int) -> Chosen:
    """The chip of a pipeline stage and tensor-parallel rank; a program that names neither has one stage.

    Raises ValueError for a chip that is not there, or a program that is not for an LPU.
    """
    if program.dialect != "lpu":
        raise ValueError(f"{program.chip} is a GPU: it decides as it runs, so there is no plan to show before "
                         "(decodelab run PROGRAM --grid A:B shows what it issued)")
    stages = program.meta.get("pipeline_parallel", 1)
    if type(stages) is not int or stages < 1 or len(program.chips) % stages:
        raise ValueError(f"the program says that its {len(program.chips)} chips are {str(stages)[:20]} stages")
    ranks = len(program.chips) // stages
    if stage >= stages or rank >= ranks:
        raise ValueError(f"--of {stage},{rank}: the program has {_count(stages, 'stage')} (0 to {stages - 1}) of "
                         f"{_count(ranks, 'chip')} each (0 to {ranks - 1})")
    row = stage * ranks + rank
    number, _, coordinates = program.chips[row]
    sharing = len({other // ranks for other, (text, _, _) in enumerate(program.chips) if text == number})
    layers = _layers(program.texts[number].source)
    later = _first_layer(program, stage) - layers[0] if layers and stages > 1 else 0
    return Chosen(row, stage, rank, place_of(coordinates), later, sharing)


def _first_layer(program: Program, stage: int) -> int:
    """First layer of a stage. Raises ValueError where the program's table of them is none."""
    try:
        first = program.meta["stage_layers"][stage][0]
    except (KeyError, IndexError, TypeError):
        first = None
    if type(first) is not int or not 0 <= first < 1 << 31:
        raise ValueError("the program does not say which layers its stages have; compile it again")
    return first


def _layers(source: Source) -> list[int]:
    """Numbers of the layers that a text names."""
    used = {source.nodes[node] for node in np.unique(source.node).tolist() if node >= 0}
    return sorted({int(found[1]) for name in used if (found := _LAYER.match(name))})


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class Plan:
    """Every issue of one chip's text, in the chip's own cycles.

    cycles: length of its run. busy: sorted, distinct (queue, cycle) pairs in which a unit's instruction
    issues, as queue * span + cycle. Raises ChipError where the text is not for a chip with these numbers.
    """

    def __init__(self, program: Program, chip: Chip, chosen: Chosen) -> None:
        text = program.texts[program.chips[chosen.row][0]]
        assert isinstance(text, LpuText)
        if program.chip_hash != chip.hash:
            raise ChipError(f"the program was compiled for {program.chip} with other numbers; give the same --set "
                            "values")
        self.program, self.chip, self.chosen, self.text = program, chip, chosen, text
        self.g: Geometry = geometry(chip)
        self.decoded = Decoded(self.g, text)
        self.names = [_LAYER.sub(lambda found: f"layers.{int(found[1]) + chosen.later}.", name)
                      for name in text.source.nodes]
        raw = decode_words("lpu", text.words)
        self.times = queue_times(raw, text.starts, self.g.barrier)
        self.issues: Issues = expanded(raw, text.starts, self.times)
        done = self.issues.cycle + self.decoded.table[self.issues.index, COMPLETION]
        nops = self.decoded.rows("NOP")
        waited = self.times[nops] + self.decoded.table[nops, FIELDS]
        last = max(int(done.max(initial=0)), int(waited.max(initial=0)))
        self.cycles = last + self.g.superlanes - 1 if last else 0
        self.span = self.cycles + 1
        units = ~np.isin(self.issues.opcode, [code("SYNC"), code("NOTIFY")])
        self.busy = np.unique(self.issues.queue[units].astype(np.int64) * self.span + self.issues.cycle[units])

    # -- rows of the picture -------------------------------------------------------------------
    def unit_rows(self) -> list[Row]:
        """One row a class of units and hemisphere; weights, activations and results of the MXM apart."""
        g = self.g
        found: dict[tuple[str, str], list[int]] = {}
        for queue, kind in enumerate(g.queue_kind):
            name = KIND_NAMES[kind] if KIND_CLASS[kind] == "mxm" else KIND_CLASS[kind].upper()
            side = "" if kind == VXM else f".{HEMISPHERES[int(g.column[queue] > 0)]}"
            found.setdefault((name, side), []).append(queue)
        order = list(dict.fromkeys(name for name, _ in found))  # that of the queues, both hemispheres side by side
        return [Row(name + side, tuple(queues))
                for (name, side), queues in sorted(found.items(), key=lambda item: order.index(item[0][0]))]

    def queue_rows(self) -> list[Row]:
        """One row a queue."""
        return [Row(name, (queue,)) for queue, name in enumerate(self.g.queue_names)]

    def density(self, rows: list[Row], window: tuple[int, int], bucket: int) -> np.ndarray:
        """int64 [rows, buckets]: pairs of queue and cycle in which something issues."""
        first, end = window
        buckets = -(-(end - first) // bucket)
        row_of = np.full(self.g.queues, -1, dtype=np.int64)
        for number, row in enumerate(rows):
            row_of[list(row.queues)] = number
        queue, cycle = np.divmod(self.busy, self.span)
        inside = (cycle >= first) & (cycle < end) & (row_of[queue] >= 0)
        at = row_of[queue[inside]] * buckets + (cycle[inside] - first) // bucket
        return np.bincount(at, minlength=len(rows) * buckets).reshape(len(rows), buckets)

    # -- nodes -------------------------------------------------------------------------------------
    def node_of(self, index: int) -> str:
        """Graph node of an instruction; of a hand-written program, its line."""
        source = self.text.source
        node = int(source.node[index]) if index < len(source.node) else -1
        if node >= 0:
            return self.names[node]
        line = int(source.line[index]) if index < len(source.line) else -1
        return f"line {line + 1}" if line >= 0 else NO_NODE

    def nodes(self) -> list[Node]:
        """What every graph node (of a hand-written program: every line) takes, in order of its first issue."""
        count = len(self.text.words)
        numbers: dict[str, int] = {}
        of = np.array([numbers.setdefault(name, len(numbers)) for name in map(self.node_of, range(count))],
                      dtype=np.int64)
        waits = self._waits(of, len(numbers))
        units = ~np.isin(self.issues.opcode, [code("SYNC"), code("NOTIFY")])
        cycle, index = self.issues.cycle[units], self.issues.index[units]
        node = of[index]
        order = np.argsort(node, kind="stable")  # cycles stay in order
        bounds = np.searchsorted(node[order], np.arange(len(numbers) + 1))
        table, found = self.decoded.table, []
        for name, number in numbers.items():
            mine = order[bounds[number] : bounds[number + 1]]
            if not len(mine):
                continue
            loading = mine[table[index[mine], OP] == code("LW")]
            planes = int(np.where(table[index[loading], FIELDS] == F16, 2, 1).sum())
            span = int(cycle[loading[-1]] - cycle[loading[0]] + 1) * self.g.planes if len(loading) else 0
            told = {LPU_REASONS[r].name: int(n) for r, n in enumerate(waits[number]) if n}
            found.append(Node(name, int(cycle[mine[0]]), int(cycle[mine[-1]]), len(mine), planes, span, told))
        return sorted(found, key=lambda one: (one.first, one.last))

    def _waits(self, node: np.ndarray, nodes: int) -> np.ndarray:
        """int64 [nodes, reasons]: cycles that queues spend in NOPs while nothing of theirs issues."""
        rows = self.decoded.rows("NOP")
        source = self.text.source
        reason = np.full(len(rows), NO_REASON, dtype=np.int64)
        known = rows < len(source.reason)
        given = source.reason[rows[known]]
        reason[known] = np.where((given > 0) & (given < IDLE), given, NO_REASON)
        first = self.decoded.queue[rows] * self.span + self.times[rows]
        cycles = self.decoded.table[rows, FIELDS]
        busy = np.searchsorted(self.busy, first + cycles) - np.searchsorted(self.busy, first)
        found = np.zeros((nodes, len(LPU_REASONS)), dtype=np.int64)
        np.add.at(found, (node[rows], reason), cycles - busy)
        return found


def node_window(plan: Plan, name: str) -> tuple[int, int]:
    """Cycles from a node's first issue to its last. Raises ValueError with near names for one that is not there."""
    import difflib

    nodes = {node.name: node for node in plan.nodes()}
    if name not in nodes:
        near = difflib.get_close_matches(name, nodes, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"--node {name}: this chip's program has no such node; {hint}decodelab schedule without it "
                         "lists them")
    return nodes[name].first, nodes[name].last + 1


def by_kind(nodes: list[Node]) -> list[tuple[int, Node]]:
    """(how many, node) with the same node of several layers as one: the first layer's cycles and instructions,
    everybody's waits."""
    found: dict[str, tuple[int, Node]] = {}
    for node in nodes:
        kind = _LAYER.sub("layers.N.", node.name)
        if kind not in found:
            found[kind] = 1, replace(node, waits=dict(node.waits))
            continue
        count, first = found[kind]
        for reason, cycles in node.waits.items():
            first.waits[reason] = first.waits.get(reason, 0) + cycles
        found[kind] = count + 1, first
    return list(found.values())
