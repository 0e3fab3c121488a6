"""Operations that `predict` measures: their columns, the program of a case, and the floor beside its time.

A case is plain data, so that cases can run in processes; every figure comes from a program that an
emulated machine has run. A new operation is a row of OPERATIONS.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.chip import Chip
    from emulator.lpu.geometry import Geometry
    from isa.program import Program

LARGEST = 1 << 31  # of any number in a case
FLOOR_TYPES = {"float16": 2, "int8": 1}  # bytes
NODE_CHIPS = (2, 4, 8)  # of a node, that share an operation


@dataclass(frozen=True)
class Case:
    """One operation of given shape: its name and (column, value) pairs."""

    op: str
    values: tuple[tuple[str, int | str], ...]

    def __getitem__(self, column: str) -> Any:
        return dict(self.values)[column]

    def numbers(self, *columns: str) -> list[int]:
        """Values of several whole-number columns."""
        return [self[column] for column in columns]


@dataclass(frozen=True)
class Column:
    """A cell of a case: a whole number of at least 1, or one of some words. default: for an absent cell."""

    name: str
    words: tuple[str, ...] = ()
    default: int | str | None = None
    among: tuple[int, ...] = ()  # the numbers that are taken, where not all are
    other: str = ""  # another name that the column may have

    def cell(self, cells: Mapping[str, str]) -> str:
        """This column's cell of a row. Raises ValueError where its two names say two things."""
        given = {name: cells[name].strip() for name in (self.name, self.other) if cells.get(name, "").strip()}
        if len(set(given.values())) > 1:
            raise ValueError(f"{self.name} {given[self.name]} and {self.other} {given[self.other]} say two things")
        return next(iter(given.values()), "")

    def parse(self, cell: str) -> int | str:
        """The value of a cell. Raises ValueError with one sentence."""
        cell = cell.strip()
        if not cell:
            if self.default is None:
                raise ValueError(f"{self.name} is missing")
            return self.default
        if self.words:
            if cell not in self.words:
                raise ValueError(f"{self.name} {cell} is not one of {', '.join(self.words)}")
            return cell
        number = int(cell) if re.fullmatch(r"[0-9]{1,10}", cell) else 0
        if not 1 <= number <= LARGEST:
            raise ValueError(f"{self.name} {cell!r} is not a whole number from 1 to {LARGEST}")
        if self.among and number not in self.among:
            raise ValueError(f"{self.name} {number} is not one of {', '.join(map(str, self.among))}")
        return number


Cycles = dict[str, Fraction]  # resource -> least cycles


@dataclass(frozen=True)
class Operation:
    """How one operation is measured on one kind of machine."""

    columns: tuple[Column, ...]
    measure: Callable[[Chip, Case], dict[str, Any]]


# -- LPU -------------------------------------------------------------------------------------------


def _gemm_program(chip: Chip, case: Case) -> Program:
    from programs.lpu.product import product_program
    from programs.lpu.shared_product import shared_product

    m, n, k, chips = case.numbers("m", "n", "k", "chips")
    if chips == 1:
        return product_program(chip, m, n, k, case["dtype"])
    return shared_product(chip, m, n, k, case["dtype"], chips)


def _gemm_floor(g: Geometry, case: Case) -> Cycles:
    """One operand enters as weights, the other as activations, whichever way round is less; every product once,
    all in equal shares of the chips."""
    m, n, k, chips = case.numbers("m", "n", "k", "chips")
    size = FLOOR_TYPES[case["dtype"]]
    units, feed = (g.planes // 2, g.f16_feed) if size == 2 else (g.planes, 1)
    ways = [{"weight ingest": Fraction(weights * k * size, g.ingest_bytes_per_cycle),
             "activation feed": Fraction(rows * k * feed, units * g.lanes)} for weights, rows in ((n, m), (m, n))]
    ends = 2 if size == 2 else 4
    alone = min(ways, key=lambda way: max(way.values())) | {
        "arithmetic": Fraction(m * n * k * feed, units * g.rows * g.lanes),
        "SRAM": Fraction((m + n) * k * size + m * n * ends, g.sram_bytes_per_cycle)}
    return {name: cycles / chips for name, cycles in alone.items()}


def _all_reduce_program(chip: Chip, case: Case) -> Program:
    """The message is taken as fp32 numbers; its last bytes fill one up."""
    from programs.lpu.lone_all_reduce import ELEMENT, all_reduce_program

    return all_reduce_program(chip, case["chips"], -(-case["message_bytes"] // ELEMENT))


def _all_reduce_floor(g: Geometry, case: Case) -> Cycles:
    """Bus bytes, 2 (n - 1) / n of the message, over n - 1 links: utilisation is bus bandwidth over its peak."""
    chips, message = case.numbers("chips", "message_bytes")
    return {"links": Fraction(2 * message * g.slot, chips * g.lanes)}


def _lstm_program(chip: Chip, case: Case) -> Program:
    from programs.lpu.lstm import lstm_program

    return lstm_program(chip, case["hidden"], case["batch"])


def _published_program(chip: Chip, case: Case) -> Program:
    from programs.lpu.lstm_published import published_program

    return published_program(chip, case["hidden"], case["batch"])


def _lstm_floor(g: Geometry, case: Case) -> Cycles:
    """Four gates of hidden x 2 hidden int8 weights."""
    hidden, batch = case.numbers("hidden", "batch")
    weights = 4 * hidden * 2 * hidden
    return {"weight ingest": Fraction(weights, g.ingest_bytes_per_cycle),
            "arithmetic": Fraction(weights * batch, g.planes * g.rows * g.lanes)}


def _attention_program(chip: Chip, case: Case) -> Program:
    from programs.lpu.lone_attention import attention_program

    batch, positions, q_heads, kv_heads, head_dim = case.numbers("batch", "kv_len", "q_heads", "kv_heads", "head_dim")
    return attention_program(chip, batch, positions, q_heads, kv_heads, head_dim)


def _attention_floor(g: Geometry, case: Case) -> Cycles:
    """K and V enter as weights; every query head meets all of its K and V once."""
    batch, positions, q_heads, kv_heads, head_dim = case.numbers("batch", "kv_len", "q_heads", "kv_heads", "head_dim")
    cache = 2 * batch * positions * kv_heads * head_dim
    products = 2 * batch * positions * q_heads * head_dim
    return {"KV ingest": Fraction(cache * FLOOR_TYPES[case["kv_dtype"]], g.ingest_bytes_per_cycle),
            "arithmetic": Fraction(products * g.f16_feed, g.planes // 2 * g.rows * g.lanes)}


def _on_lpu(program: Callable[[Chip, Case], Program], floor: Callable[[Geometry, Case], Cycles],
            calibrated: bool = False) -> Callable[[Chip, Case], dict[str, Any]]:
    """How an LPU operation is measured. calibrated: the program holds a calibrated constant, named in its meta."""

    def measure(chip: Chip, case: Case) -> dict[str, Any]:
        from emulator.lpu.geometry import geometry
        from emulator.run import load
        from tools.floor import Floor
        from tools.where import told_bound

        made = program(chip, case)
        step = load(made, chip).step()
        assert step.cycles == made.meta["predicted_cycles"], "the schedule's cycles are the machine's"
        parts = [(name, float(cycles) / chip.clock_hz) for name, cycles in floor(geometry(chip), case).items()]
        least = Floor(tuple(sorted(parts, key=lambda part: (-part[1], part[0]))))
        seconds = step.cycles / chip.clock_hz
        bound = told_bound(least, seconds) + (f" ({made.meta['calibrated']})" if calibrated else "")
        return {"cycles": step.cycles, "time_us": seconds * 1e6, "utilisation": least.seconds / seconds,
                "bound_by": bound, "traffic": dict(step.traffic)}

    return measure


# -- GPU -------------------------------------------------------------------------------------------


def _on_gpu(chip: Chip, case: Case) -> dict[str, Any]:
    from tools.predict_gpu import measure

    return measure(chip, case)


_CELL = (Column("hidden"), Column("batch"))
_CALL = (Column("batch"), Column("kv_len"), Column("q_heads"), Column("kv_heads"), Column("head_dim"))
OPERATIONS: dict[str, dict[str, Operation]] = {
    "lpu": {
        "gemm": Operation(
            (Column("m"), Column("n"), Column("k"), Column("dtype", tuple(FLOOR_TYPES)),
             Column("chips", default=1, among=(1, *NODE_CHIPS))),
            _on_lpu(_gemm_program, _gemm_floor)),
        "allreduce": Operation((Column("chips", among=NODE_CHIPS, other="num_gpus"), Column("message_bytes")),
                               _on_lpu(_all_reduce_program, _all_reduce_floor)),
        "decode_attention": Operation(
            (*_CALL, Column("kv_dtype", ("float16",), default="float16")),
            _on_lpu(_attention_program, _attention_floor)),
        "lstm_cell": Operation(_CELL, _on_lpu(_lstm_program, _lstm_floor)),
        "lstm_cell_published": Operation(_CELL, _on_lpu(_published_program, _lstm_floor, calibrated=True)),
    },
    "gpu": {
        "allreduce": Operation((Column("num_gpus", other="chips"), Column("message_bytes")), _on_gpu),
        "gemm": Operation(
            (Column("m"), Column("n"), Column("k"), Column("dtype", ("bfloat16", "float16", "fp8", "int8", "int8_wo")),
             Column("weight_copies", default=6)),
            _on_gpu),
        "decode_attention": Operation((*_CALL, Column("kv_dtype", ("bfloat16", "float16", "fp8"), default="bfloat16")),
                                      _on_gpu),
    },
}


def check_machine(chip: Chip) -> None:
    """Raise ChipError for a chip that none of the operations' programs can be compiled for."""
    if chip.kind == "lpu":
        from programs.lpu.requirements import check_chip

        check_chip(chip)
    else:
        from tools.predict_gpu import check_machine as check_gpu

        check_gpu(chip)


def parse_case(cells: Mapping[str, str], chip: Chip) -> Case:
    """The case of a row (column -> cell). Raises ValueError with one sentence."""
    known = OPERATIONS[chip.kind]
    op = cells.get("op", "").strip()
    if not op:
        raise ValueError(f"op is missing; known: {', '.join(known)}")
    if op not in known:
        near = difflib.get_close_matches(op, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"op {op} is unknown on {chip.name}; {hint}known: {', '.join(known)}")
    try:
        return Case(op, tuple((c.name, c.parse(c.cell(cells))) for c in known[op].columns))
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None


def measure_case(chip: Chip, case: Case) -> dict[str, Any]:
    """Cycles, utilisation, bound and traffic of a case, from an emulated run.

    utilisation is the floor's share of the time: how busy the resource is that needs longest. Raises
    ValueError for a case that the chip cannot hold, ScheduleError for a fault of the program.
    """
    return OPERATIONS[chip.kind][case.op].measure(chip, case)
