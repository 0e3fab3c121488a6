"""What is where in one cycle of a plan: stream registers, SRAM words, matrix planes, links. Read off, not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.lpu.errors import instruction_words, stream_name
from emulator.lpu.geometry import ICU_OPS, MXM_LW, Geometry
from emulator.lpu.text import FIELDS, STRIDE
from isa.opcodes import BY_CODE, F16, TYPE_BYTES, code
from isa.program import Tensor
from tools.plan import Plan
from tools.plan_streams import Reading, Value, stream_values

ACCESSES = {"READ": "read", "GATHER": "read", "WRITE": "written", "SCATTER": "written"}
# What a word is called that no tensor names: by who takes the value that is read, by who made the one that is written.
TAKEN_BY = {"LW": "weights", "ABC": "activations", "WRITE": "copy", "SCATTER": "copy", "SEND": "to send",
            "SHIFT": "to shift", "PERMUTE": "to permute", "DISTRIBUTE": "to distribute", "TRANSPOSE": "to transpose",
            "GATHER": "addresses"}
MADE_BY = {"READ": "copy", "GATHER": "gathered", "ACC": "sums", "RECV": "received", "SHIFT": "shifted",
           "PERMUTE": "permuted", "DISTRIBUTE": "distributed", "TRANSPOSE": "transposed"}


@dataclass(frozen=True)
class Instruction:
    """One issue, for people. line: of a hand-written program, from 1, or None."""

    queue: str
    name: str
    words: str
    cycle: int
    iteration: int
    node: str
    index: int  # in the text

    def json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("queue", "words", "cycle", "iteration", "node")}


@dataclass(frozen=True)
class Register:
    """A stream register that holds something: the value on it, who made it, and who reads it next (from this
    cycle on), if anybody; readings: how often the value is read in all."""

    value: Value
    column: int
    producer: Instruction
    reader: Instruction | None
    reading: Reading | None
    readings: int


@dataclass(frozen=True)
class Word:
    """An SRAM word that is read or written: queue is its slice. name: the tensor's element, or the node and what
    for; a GATHER or SCATTER takes words from this one on."""

    access: str
    instruction: Instruction
    address: int
    stream: int
    name: str


@dataclass(frozen=True)
class Plane:
    """A matrix plane. installed: node of the last IW and its cycle; shadow: rows loaded since then; under_way:
    results that have not landed yet."""

    number: int
    installed: str | None
    since: int | None
    shadow: int
    under_way: int


@dataclass
class Moment:
    """Everything that is somewhere in a cycle. sent: port -> vectors that left and have not arrived."""

    cycle: int
    issued: list[Instruction]
    words: list[Word]
    registers: list[Register]
    planes: list[Plane]
    sent: dict[int, int]


def moment(plan: Plan, cycle: int) -> Moment:
    """What is where in a cycle of the chip's own clock. Raises ValueError for one that the plan does not have."""
    if not 0 <= cycle < plan.cycles:
        start = plan.chosen.place.start
        hint = f"; this chip's cycle 0 is cycle {start:,} of the step" if start else ""
        raise ValueError(f"--at {cycle}: the plan has cycles 0 to {plan.cycles - 1}{hint}")
    values = stream_values(plan, cycle, cycle + 1)
    registers = []
    for value in values:
        following = min((r for r in value.readings if r.cycle >= cycle), key=lambda r: r.cycle, default=None)
        reader = instruction(plan, following.issue) if following is not None else None
        registers.append(Register(value, value.at(cycle), instruction(plan, value.issue), reader, following,
                                  len(value.readings)))
    found = plan.issues
    now = [int(n) for n in range(*np.searchsorted(found.cycle, (cycle, cycle + 1)))
           if BY_CODE[int(found.opcode[n])].name not in ICU_OPS]
    issued = [instruction(plan, n) for n in now]
    return Moment(cycle, issued, _words(plan, now, issued, registers), registers, _planes(plan, cycle),
                  _sent(plan, cycle))


def instruction(plan: Plan, issue: int) -> Instruction:
    """An issue of the plan with its words."""
    found = plan.issues
    index = int(found.index[issue])
    word = int(plan.text.words[index])
    return Instruction(plan.g.queue_names[found.queue[issue]], BY_CODE[word & 0xFF].name, instruction_words(word),
                       int(found.cycle[issue]), int(found.iteration[issue]), plan.node_of(index), index)


# -- SRAM --------------------------------------------------------------------------------------------
def _words(plan: Plan, now: list[int], issued: list[Instruction], registers: list[Register]) -> list[Word]:
    named = _Tensors(plan)
    table, found = plan.decoded.table, []
    for issue, one in zip(now, issued):
        if one.name not in ACCESSES:
            continue
        address = int(table[one.index, FIELDS]) + one.iteration * int(table[one.index, STRIDE])
        queue = int(plan.issues.queue[issue])
        number = queue * plan.g.words_per_slice + address
        name = named.element(number) or _purpose(plan, issue, one, registers)
        found.append(Word(ACCESSES[one.name], one, address, int(table[one.index, FIELDS + 1]), name))
    return found


def _purpose(plan: Plan, issue: int, one: Instruction, registers: list[Register]) -> str:
    """The node of an access, and what its value is there."""
    if ACCESSES[one.name] == "read":
        reader = next((r.reader for r in registers if r.value.issue == issue and r.reader is not None), None)
        purpose = TAKEN_BY.get(reader.name, "operand") if reader is not None else "read"
        return f"{one.node}: {'K or V' if purpose == 'weights' and 'attention' in one.node else purpose}"
    stream = int(plan.decoded.table[one.index, FIELDS + 1])
    column = plan.g.column[plan.issues.queue[issue]]
    maker = next((r.producer for r in registers if r.value.stream == stream and r.column == column), None)
    return f"{one.node}: {MADE_BY.get(maker.name, 'result') if maker is not None else 'written'}"


class _Tensors:
    """Finds the tensor element that lies in a word of the chosen chip."""

    def __init__(self, plan: Plan) -> None:
        self.lanes = plan.g.lanes
        self.tensors: list[tuple[Tensor, np.ndarray, np.ndarray]] = []
        for tensor in plan.program.tensors.values():
            if tensor.words is not None and plan.chosen.row in tensor.chips:
                order = np.argsort(tensor.words, axis=None, kind="stable")
                self.tensors.append((tensor, order, tensor.words.reshape(-1)[order]))

    def element(self, word: int) -> str | None:
        """"x[3], lanes 320 to 639, byte 1": row, columns and byte plane; None where no tensor is."""
        for tensor, order, words in self.tensors:
            at = int(np.searchsorted(words, word))
            if at < len(words) and words[at] == word:
                assert tensor.words is not None
                row, vector, byte = np.unravel_index(int(order[at]), tensor.words.shape)
                name = f"{tensor.name}[{row}]"
                if tensor.words.shape[1] > 1:
                    first = int(vector) * self.lanes
                    name += f" columns {first} to {min(first + self.lanes, tensor.shape[1]) - 1}"
                return name + (f" byte {byte}" if tensor.words.shape[2] > 1 else "")
        return None


# -- planes and links --------------------------------------------------------------------------------
def _planes(plan: Plan, cycle: int) -> list[Plane]:
    g, found, table = plan.g, plan.issues, plan.decoded.table
    planes = []
    before = slice(0, int(np.searchsorted(found.cycle, cycle + 1)))
    queue, opcode, index, at = (array[before] for array in (found.queue, found.opcode, found.index, found.cycle))
    for number in range(g.planes):
        pair = [number] if number % 2 == 0 else [number - 1, number]  # an f16 instruction of the even plane is for both

        def mine(name: str, pair: list[int] = pair, number: int = number) -> np.ndarray:
            chosen = np.zeros(len(queue), dtype=bool)
            for plane in pair:
                queues = [g.mxm_queue(plane, kind) for kind in range(MXM_LW, MXM_LW + 3)]
                rows = np.isin(queue, queues) & (opcode == code(name))
                chosen |= rows if plane == number else rows & (table[index, FIELDS] == F16)
            return np.flatnonzero(chosen)

        swaps, loads, feeds = mine("IW"), mine("LW"), mine("ABC")
        swapped = int(swaps[-1]) if len(swaps) else -1
        rows = int(table[index[loads[loads > swapped]], FIELDS + 2].sum())
        landing = at[feeds] + np.array([g.abc_delay(TYPE_BYTES[t]) for t in table[index[feeds], FIELDS].tolist()],
                                       dtype=np.int64)
        node = plan.node_of(int(index[swapped])) if swapped >= 0 else None
        since = int(at[swapped]) if swapped >= 0 else None
        planes.append(Plane(number, node, since, rows, int((landing > cycle).sum())))
    return planes


def _sent(plan: Plan, cycle: int) -> dict[int, int]:
    g: Geometry = plan.g
    found = plan.issues
    sent: dict[int, int] = {}
    window = slice(*np.searchsorted(found.cycle, (cycle - g.hop + 1, cycle + 1)))
    for index in found.index[window][found.opcode[window] == code("SEND")].tolist():
        port = int(plan.decoded.table[index, FIELDS])
        sent[port] = sent.get(port, 0) + 1
    return dict(sorted(sent.items()))


def as_json(now: Moment) -> dict[str, Any]:
    """A moment as plain data: every register and word by itself."""
    return {
        "cycle": now.cycle,
        "issued": [one.json() for one in now.issued],
        "sram": [{"access": w.access, "slice": w.instruction.queue, "address": w.address,
                  "stream": stream_name(w.stream), "name": w.name, "node": w.instruction.node} for w in now.words],
        "streams": [
            {"stream": stream_name(r.value.stream), "column": r.column, "since": r.value.born, "until": r.value.last,
             "produced_by": r.producer.json(),
             "read_next_by": r.reader.json() if r.reader is not None else None,
             "read_next_at_column": r.reading.column if r.reading is not None else None,
             "readings": r.readings}
            for r in now.registers
        ],
        "planes": [{"plane": p.number, "installed": p.installed, "installed_in_cycle": p.since,
                    "shadow_rows": p.shadow, "results_under_way": p.under_way} for p in now.planes],
        "vectors_on_links": {str(port): count for port, count in now.sent.items()},
    }  # fmt: skip
