"""Sums of a trace by graph node: cycles, bytes by level, stalls, multiply-accumulates; and the chip's roofs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import geometry
from emulator.trace import ISSUE, STALL, Trace
from isa.opcodes import TYPE_BYTES, TYPES
from tools.floor import hbm_bytes_per_second, l2_bytes_per_cycle, tensor_macs_per_cycle

MMA_ROWS, MMA_COLUMNS, MMA_BYTES, WARP = 16, 8, 32, 32  # an MMA multiplies 16 x k by k x 8, k values filling 32 bytes
NO_NODE = "(no node)"


@dataclass
class Node:
    """One graph node (or kernel, where a launch has no node). cycles: GPU, of its launches; LPU, in which it issues
    something. macs: multiply-accumulates of matrix instructions and FMAs, padding included. stalls: unit-cycles."""

    name: str
    kernel: str
    cycles: int
    issues: int
    macs: int
    bytes: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Plain data, as the page takes it."""
        return {"name": self.name, "kernel": self.kernel, "cycles": self.cycles, "issues": self.issues,
                "macs": self.macs, "bytes": self.bytes, "stalls": self.stalls}  # fmt: skip


def nodes(trace: Trace, chip: Chip | None) -> list[Node]:
    """Sums by node, in order of the first event; an event counts as often as it stands for others.

    chip: None where its numbers are not known (an LPU's multiply-accumulates are 0 then).
    """
    names, number, kernels = _names(trace)
    if not len(trace):
        return []
    weight = trace.weights()
    count = len(names)
    levels, level_of = trace.levels()
    issue, stall = trace.kind == ISSUE, trace.kind == STALL
    issues = np.bincount(number[issue], weights=weight[issue], minlength=count)
    macs_of = np.array([*(_macs(opcode, asm, chip) for opcode, asm in
                          zip(trace.instructions.opcode, trace.instructions.asm)), 0], dtype=np.float64)  # fmt: skip
    macs = np.bincount(number[issue], weights=(weight * macs_of[trace.instruction])[issue], minlength=count)
    cycles = _cycles(trace, names, number, issue)
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, number, trace.start)
    found = [Node(name, kernels[n], int(cycles[n]), int(issues[n]), int(macs[n])) for n, name in enumerate(names)]
    sums = _table(number, level_of, weight * trace.bytes, count, len(levels))
    for n, at in np.argwhere(sums[:, 1:]).tolist():
        found[n].bytes[levels[at + 1]] = int(sums[n, at + 1])
    length = (weight * (trace.end - trace.start))[stall]
    sums = _table(number[stall], trace.reason[stall], length, count, len(trace.reasons))
    for n, at in np.argwhere(sums).tolist():
        found[n].stalls[trace.reasons[at].name] = int(sums[n, at])
    order = sorted((n for n in range(count) if first[n] < np.iinfo(np.int64).max), key=lambda n: (first[n], names[n]))
    return [found[n] for n in order]


def _table(row: np.ndarray, column: np.ndarray, values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sums of values by row and column; exact below 2 ** 53."""
    sums = np.bincount(row * columns + column, weights=values, minlength=rows * columns)
    return sums.reshape(rows, columns)


def _names(trace: Trace) -> tuple[list[str], np.ndarray, list[str]]:
    """(names of nodes, number of each event's node, kernel of each node)."""
    table: dict[str, int] = {NO_NODE: 0}
    kernels = [""]

    def of(node: str, kernel: str) -> int:
        name = node or kernel or NO_NODE
        if name not in table:
            table[name] = len(table)
            kernels.append(kernel)
        return table[name]

    gpu = trace.dialect == "gpu"
    by_instruction = [of(node, kernel if gpu else "") for node, kernel in
                      zip(trace.instructions.node, trace.instructions.kernel)]  # fmt: skip
    by_launch = [of(node, kernel) for node, kernel in zip(trace.launches.node, trace.launches.kernel)]
    number = np.array([*by_instruction, 0])[trace.instruction] if len(trace) else np.zeros(0, dtype=np.int64)
    if by_launch:  # the launch knows better: layers share their kernels' text
        launched = trace.launch >= 0
        number = np.where(launched, np.array([*by_launch, 0])[trace.launch], number)
    return list(table), number, kernels


def _cycles(trace: Trace, names: list[str], number: np.ndarray, issue: np.ndarray) -> np.ndarray:
    """Cycles of each node: GPU, of its launches; LPU, those in which it issues something on some chip. names: of all
    nodes; number: of each event's node; issue: which events are issues."""
    if len(trace.launches):
        found = np.zeros(len(names), dtype=np.int64)
        at = {name: n for n, name in enumerate(names)}
        for node, kernel, start, end, times in zip(trace.launches.node, trace.launches.kernel, trace.launches.start,
                                                   trace.launches.end, trace.launches.times):  # fmt: skip
            found[at[node or kernel or NO_NODE]] += (end - start) * times
        return found
    key = np.unique(number[issue].astype(np.int64) * trace.cycles + trace.start[issue])
    return np.bincount(key // max(1, trace.cycles), minlength=len(names))


def _macs(opcode: str, asm: str, chip: Chip | None) -> int:
    """Multiply-accumulates of one issue."""
    if opcode == "MMA":
        form = re.search(r"\bMMA\.(\w+)", asm)
        if form is None or form[1] not in TYPES:
            return 0
        return MMA_ROWS * MMA_COLUMNS * (MMA_BYTES // TYPE_BYTES[TYPES.index(form[1])])
    if opcode == "FMA":
        return WARP
    if opcode == "ABC" and chip is not None and chip.kind == "lpu":
        g = geometry(chip)
        return g.rows * g.lanes
    return 0


def roofs(chip: Chip) -> dict[str, Any]:
    """Ceilings of a chip: operations a second by format (two a multiply-accumulate), bytes a second by level."""
    if chip.kind == "lpu":
        g = geometry(chip)
        return {"operations": {"int8": g.int8_ops_per_second, "fp16": g.fp16_ops_per_second},
                "bytes": {"mxm_ingest": g.ingest_bytes_per_cycle * g.clock_hz,
                          "sram_read": g.sram_bytes_per_cycle // 2 * g.clock_hz}}  # fmt: skip
    ceilings = {"hbm_read": float(hbm_bytes_per_second(chip))}
    if l2_bytes_per_cycle(chip):
        ceilings["l2_read"] = float(l2_bytes_per_cycle(chip) * chip.clock_hz)
    operations = {name: float(2 * tensor_macs_per_cycle(chip, form) * chip.clock_hz)
                  for name, form in (("int8, fp8", "s8"), ("fp16, bf16", "f16"))}  # fmt: skip
    return {"operations": operations, "bytes": ceilings}
