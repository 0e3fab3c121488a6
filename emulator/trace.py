"""The canonical trace: every event of one step as a table, with the tables that its numbers point into.

A row is an event of a unit: cycles [start, end), counted from the start of the step. Rows are sorted by start, unit,
kind, end and the other columns, so that equal runs give equal bytes. KINDS below says what each kind means on which
unit; what lies outside `window`, or belongs to a kind or launch that was not asked for, is not recorded (which is
not the same as idle).

    issue   GPU: unit is a sub-core, actor the warp's number in its launch (CTA x warps + warp). end is where its
            result is there if its latency is fixed, else start + 1. wait is the cycles between the warp's issue before
            (or its CTA's start) and this one, reason what held it last ("busy": nothing of its own: its unit was busy,
            or other warps were issued first). bytes: of shared memory, at the level of its opcode (LEVEL_OF_OPCODE).
            LPU: unit is a queue, actor the iteration of a REPEAT (0 the first). start is the cycle of superlane 0,
            end where the result is on the stream or in the accumulator. bytes belong to the traffic level of its
            opcode (LEVEL_OF_OPCODE).
    stall   the unit's own waiting, exclusive: distinct cycles of issue + stalls + idle = the unit's accounting.
            instruction and actor (GPU) name what is waited for; on the LPU instruction is the NOP, SYNC or NOTIFY.
    others  carry bytes of the traffic level of their name; over a whole step they add up to StepResult.traffic. actor:
            of l1_read and copy the warp, of l2_read, l2_write and nvlink the SM that asked, of a cta its first warp, of
            a stream's value the iteration that made it, else -1.

A chip (LPU) or GPU that was not run because another one does exactly the same has no events; `chips` says which
chip stands for which. This file needs no compiled code; engines record through emulator/trace_record.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from emulator.accounting import GPU_REASONS, LPU_REASONS, Reason
from isa.opcodes import BY_NAME


class EventKind(NamedTuple):
    """name; machines that write it; unit class it lies on; traffic level of its bytes ("" none, "opcode": see
    LEVEL_OF_OPCODE); meaning."""

    name: str
    dialects: tuple[str, ...]
    unit_class: str
    level: str
    meaning: str


KINDS: tuple[EventKind, ...] = (
    EventKind("issue", ("gpu", "lpu"), "sub_core, queue", "opcode", "an instruction, or an iteration of a REPEAT"),
    EventKind("stall", ("gpu", "lpu"), "sub_core, queue", "", "the unit waits, for one reason"),
    EventKind("kernel", ("gpu",), "gpu", "", "one launch, from its start to the end of its last CTA"),
    EventKind("cta", ("gpu",), "sm", "", "one CTA on its SM; actor is its first warp"),
    EventKind("copy", ("gpu",), "bulk_engine", "", "a bulk copy, from its first request to its last byte in shared "
              "memory"),
    EventKind("bulk_busy", ("gpu",), "bulk_engine", "", "the bulk engine asks for lines"),
    EventKind("bulk_issue", ("gpu",), "bulk_engine", "", "the bulk engine waits for its own rate"),
    EventKind("bulk_limit", ("gpu",), "bulk_engine", "", "the bulk engine has all the lines it may have under way"),
    EventKind("l1_read", ("gpu",), "lsu", "l1_read", "the load-store unit looks a load's sectors up in L1"),
    EventKind("l2_read", ("gpu",), "l2_slice", "l2_read", "a slice of L2 serves a read, up to a line"),
    EventKind("l2_write", ("gpu",), "l2_slice", "l2_write", "a slice of L2 takes stored sectors"),
    EventKind("l2_fill", ("gpu",), "l2_slice", "l2_fill", "sectors come from DRAM into a slice of L2"),
    EventKind("hbm_read", ("gpu",), "dram_bank", "hbm_read", "a row of a DRAM bank is open, and this much is read"),
    EventKind("hbm_write", ("gpu",), "dram_bank", "hbm_write", "a row of a DRAM bank is open, and this much is "
              "written"),
    EventKind("nvlink", ("gpu",), "nvlink", "nvlink", "a message leaves over NVLink, header included"),
    EventKind("instruction_fetch", ("lpu",), "queue", "instruction_fetch", "an instruction word is taken, with its "
              "REPEAT"),
    EventKind("stream_byte_hops", ("lpu",), "stream", "stream_byte_hops", "a value on a stream register file, until "
              "it is overwritten or falls off the edge"),
    EventKind("host", ("gpu", "lpu"), "host", "host", "what the host writes before the step"),
)
KIND_INDEX = {kind.name: number for number, kind in enumerate(KINDS)}
ISSUE, STALL, KERNEL, CTA = (KIND_INDEX[name] for name in ("issue", "stall", "kernel", "cta"))
ASKED_BY_SM = tuple(KIND_INDEX[name] for name in ("l2_read", "l2_write", "nvlink"))  # the actor is an SM, no warp

LEVEL_OF_OPCODE = {  # where the bytes of an issue event belong
    "LDS": "shared_read", "LDSM": "shared_read", "STS": "shared_write", "LDGSTS": "shared_write",
    "BULK": "shared_write",
    "READ": "sram_read", "GATHER": "sram_read", "WRITE": "sram_write", "SCATTER": "sram_write", "LW": "mxm_ingest",
    "SEND": "c2c_sent", "RECV": "c2c_received",
}  # fmt: skip


class TraceError(ValueError):
    """A trace that cannot be made, read or asked; the message is one sentence for the user."""


@dataclass(frozen=True)
class Window:
    """What to record of a step: events that overlap cycles [first, end), of some kinds, of some launches (GPU).

    None: no limit, all kinds, all launches.
    """

    first: int = 0
    end: int | None = None
    kinds: frozenset[str] | None = None
    launches: frozenset[int] | None = None

    def later(self, cycles: int) -> Window:
        """The same window on a clock that began `cycles` earlier."""
        return replace(self, first=self.first + cycles, end=None if self.end is None else self.end + cycles)

    def mask(self) -> int:
        """Bit k: kind k is wanted. Raises TraceError for an unknown kind."""
        names = [kind.name for kind in KINDS]
        unknown = sorted((self.kinds or frozenset()) - set(names))
        if unknown:
            raise TraceError(f"event kind {unknown[0]} is unknown; known: {', '.join(names)}")
        return sum(1 << i for i, name in enumerate(names) if self.kinds is None or name in self.kinds)


@dataclass
class Units:
    """Parallel columns: name ("SM3.1", "MEM.E4", "S7.E"), row of Program.chips, class."""

    name: list[str] = field(default_factory=list)
    chip: list[int] = field(default_factory=list)
    unit_class: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.name)

    def add(self, names: list[str], chip: int, unit_class: str) -> int:
        """Append units of one class; the number of the first one."""
        first = len(self.name)
        self.name += names
        self.chip += [chip] * len(names)
        self.unit_class += [unit_class] * len(names)
        return first


@dataclass
class Instructions:
    """Parallel columns: opcode; asm (as the disassembler writes it); line (1-based line of the source, 0 none) and
    its text; node of the graph; kernel (GPU) or queue (LPU); traffic level of an issue's bytes; tensor that a memory
    instruction reads or writes (GPU: the kernel's parameter that its address comes from, see Launches.tensors)."""

    opcode: list[str] = field(default_factory=list)
    asm: list[str] = field(default_factory=list)
    line: list[int] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    node: list[str] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)
    level: list[str] = field(default_factory=list)
    tensor: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.opcode)


@dataclass
class Launches:
    """Parallel columns, one row a launch of the program (GPU): node, kernel, cycles [start, end) in the step, CTAs,
    threads of a CTA, how often it counts in the step (0: it did not run; above 1: it stands for others), and a JSON
    object: what Instructions.tensor says of its kernel -> the tensor that it is in this launch."""

    node: list[str] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    grid: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.node)


@dataclass
class TracedChip:
    """A chip that was run: its row of Program.chips, the rows that it stands for (its own first), and its own
    cycles [start, end) in the step. Events lie where this chip's lie; the others may start elsewhere (starts)."""

    row: int
    rows: list[int]
    starts: list[int]
    start: int
    end: int


CYCLES_MAX = 1 << 53  # of a step: weeks

COLUMNS: dict[str, Any] = {
    "start": np.int64, "end": np.int64, "unit": np.int32, "kind": np.uint8, "reason": np.uint8, "launch": np.int32,
    "instruction": np.int32, "actor": np.int32, "wait": np.int32, "bytes": np.int32,
}  # fmt: skip


@dataclass(eq=False)
class Trace:
    """See the module's head. cycles: of the whole step. window: cycles that were recorded; kinds: those that were;
    launches_recorded: None for all."""

    dialect: str
    chip: str
    cycles: int
    window: tuple[int, int]
    start: np.ndarray
    end: np.ndarray
    unit: np.ndarray
    kind: np.ndarray
    reason: np.ndarray
    launch: np.ndarray
    instruction: np.ndarray
    actor: np.ndarray
    wait: np.ndarray
    bytes: np.ndarray
    units: Units
    instructions: Instructions
    launches: Launches
    chips: list[TracedChip]
    kinds: list[str]
    launches_recorded: list[int] | None = None
    _db: Any = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        return (f"<Trace {self.chip}: {len(self):,} events of {len(self.units):,} units in cycles "
                f"{self.window[0]:,} to {self.window[1]:,} of {self.cycles:,}>")

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The table that `reason` points into."""
        return GPU_REASONS if self.dialect == "gpu" else LPU_REASONS

    def columns(self) -> dict[str, np.ndarray]:
        """The event columns by name, in their order on disk."""
        return {name: getattr(self, name) for name in COLUMNS}

    def of_kind(self, *names: str) -> np.ndarray:
        """Rows of these kinds, as a mask."""
        return np.isin(self.kind, [KIND_INDEX[name] for name in names])

    def whole(self) -> bool:
        """Whether every event of the step was recorded."""
        everything = self.window[0] <= 0 and self.window[1] >= self.cycles and self.launches_recorded is None
        return everything and self.kinds == kinds_of(self.dialect)

    def traffic(self) -> dict[str, int]:
        """Bytes by traffic level, of every chip that an event stands for, of every launch as often as it counts."""
        levels = [kind.level for kind in KINDS]
        weight = self.weights() * self.bytes
        by_kind = np.bincount(self.kind, weights=weight, minlength=len(KINDS)) if len(self) else np.zeros(len(KINDS))
        found = {level: int(by_kind[i]) for i, level in enumerate(levels) if level not in ("", "opcode")
                 and self.dialect in KINDS[i].dialects}
        for opcode, level in LEVEL_OF_OPCODE.items():
            if getattr(BY_NAME[opcode], self.dialect) is not None:
                found.setdefault(level, 0)
        issues = (self.kind == ISSUE) & (self.bytes > 0) & (self.instruction >= 0)
        if issues.any():
            sums = np.bincount(self.instruction[issues], weights=weight[issues], minlength=len(self.instructions))
            for at in np.flatnonzero(sums).tolist():
                found[self.instructions.level[at]] += int(sums[at])
        return found

    def levels(self) -> tuple[list[str], np.ndarray]:
        """(traffic levels, "" first; the number of that of each event's bytes, 0 for none). int64 [n]."""
        of_kind = ["" if kind.level == "opcode" else kind.level for kind in KINDS]
        names = list(dict.fromkeys(["", *of_kind, *self.instructions.level]))
        number = {name: at for at, name in enumerate(names)}
        by_instruction = np.array([*(number[level] for level in self.instructions.level), 0], dtype=np.int64)
        by_kind = np.array([number[level] for level in of_kind], dtype=np.int64)
        # instruction -1: the last one
        return names, np.where(self.kind == ISSUE, by_instruction[self.instruction], by_kind[self.kind])

    def weights(self) -> np.ndarray:
        """How often each event counts: chips that its chip stands for x times of its launch. int64 [n]."""
        stands = {chip.row: len(chip.rows) for chip in self.chips}
        by_unit = np.array([stands.get(chip, 1) for chip in self.units.chip], dtype=np.int64)
        weight = by_unit[self.unit] if len(self) else np.zeros(0, dtype=np.int64)
        if len(self.launches):
            times = np.array([*self.launches.times, 1], dtype=np.int64)
            weight = weight * times[self.launch]  # launch -1: the last one
        return weight

    def query(self, sql: str) -> Any:
        """A DuckDB relation: `sql` over the tables of emulator.trace_sql, such as `events`. Raises TraceError."""
        import duckdb

        from emulator.trace_sql import connect

        if self._db is None:
            self._db = connect(self)
        try:
            return self._db.sql(sql)
        except duckdb.Error as error:
            raise TraceError(f"the query cannot be answered: {str(error).splitlines()[0]}") from None

    def relation(self) -> Any:
        """The events in words as a DuckDB relation."""
        return self.query("SELECT * FROM events")

    def _repr_html_(self) -> str:
        from emulator.notebook import trace_html

        return trace_html(self)

    def check(self) -> None:
        """Raise TraceError unless every number points into its table and rows are in order."""
        def fail(what: str) -> None:
            raise TraceError(f"not a trace of this version: {what}")

        first, end = self.window
        if not (0 <= self.cycles < CYCLES_MAX and 0 <= first <= end <= self.cycles):
            fail(f"its window of cycles {first} to {end} does not lie in a step of {self.cycles}")
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != self.start.shape:
                fail(f"column {name} is {column.dtype}[{len(column)}], expected {np.dtype(dtype)}[{len(self.start)}]")
        for table in (self.units, self.instructions, self.launches):
            if len({len(getattr(table, f.name)) for f in fields(table)}) != 1:
                fail(f"the columns of {type(table).__name__.lower()} have different lengths")
        for text in self.launches.tensors:
            names = _json_object(text) if text else {}
            if names is None or not all(isinstance(name, str) for name in names.values()):
                fail("a launch's tensors are no JSON object of texts")
        if not len(self):
            return
        limits = (("unit", 0, len(self.units)), ("kind", 0, len(KINDS)), ("reason", 0, len(self.reasons)),
                  ("launch", -1, len(self.launches)), ("instruction", -1, len(self.instructions)))
        for name, low, high in limits:
            column = getattr(self, name)
            if column.min() < low or column.max() >= high:
                fail(f"a {name} points outside its table of {high}")
        if (self.end <= self.start).any() or (np.diff(self.start) < 0).any():
            fail("events end before they start, or are not in order")


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def kinds_of(dialect: str) -> list[str]:
    """Names of the kinds that a machine writes."""
    return [kind.name for kind in KINDS if dialect in kind.dialects]


def layer_of(node: str) -> int:
    """Layer of a graph node such as "layers.3.qkv"; -1 when it belongs to none."""
    parts = node.split(".")
    return int(parts[1]) if len(parts) > 1 and parts[0] == "layers" and parts[1].isdigit() else -1


def in_order(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Events sorted as a Trace wants them, in its dtypes. Only one column is held at a time."""
    n = len(columns["start"])
    if n == 0:
        return {name: columns[name].astype(dtype) for name, dtype in COLUMNS.items()}
    units = int(columns["unit"].max()) + 1
    start = columns["start"].astype(np.int64, copy=False)
    first = int(start.min())
    key = start - first
    key *= units
    key += columns["unit"]
    key *= len(KINDS)
    key += columns["kind"]
    order = np.argsort(key)
    key = key[order]
    # Few events share start, unit and kind: only those need the other columns, and equal rows no order.
    tied = np.zeros(n, dtype=bool)
    tied[1:] = key[1:] == key[:-1]
    tied[:-1] |= tied[1:]
    if tied.any():
        at = np.flatnonzero(tied)
        rows = order[at]
        rest = [columns[name][rows] for name in ("bytes", "wait", "reason", "actor", "instruction", "launch", "end")]
        order[at] = rows[np.lexsort([*rest, key[at]])]
    return {name: columns[name][order].astype(dtype, copy=False) for name, dtype in COLUMNS.items()}
