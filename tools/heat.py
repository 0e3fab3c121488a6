"""Where the cycles of a trace went: by instruction, by source line and by graph node.

Cycles are those of sub-cores (GPU) or queues (LPU), summed over all that the trace stands for: an issue takes one, a
stall belongs to the instruction that was waited for.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.trace import ISSUE, STALL, Instructions, Trace, TraceError

WAITING = ("NOP", "SYNC", "NOTIFY")
BAR = 12  # characters of the hottest line


@dataclass
class Heat:
    """One line of a listing, or one node. issued, stalled: cycles; reasons: stalled cycles by reason, most first."""

    kernel: str
    node: str
    line: int
    asm: str
    issued: int
    stalled: int
    reasons: dict[str, int]

    @property
    def cycles(self) -> int:
        return self.issued + self.stalled

    def json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kernel": self.kernel, "node": self.node, "line": self.line or None, "asm": self.asm,
                "cycles": self.cycles, "issued": self.issued, "stalled": self.stalled, "reasons": self.reasons}


def counts(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """(issues [instructions], stalled cycles [instructions + 1, reasons]) of a trace, weighted; the last row is for
    stalls that wait for no instruction."""
    n, reasons = len(trace.instructions), len(trace.reasons)
    weight, length = trace.weights(), trace.end - trace.start
    issues = (trace.kind == ISSUE) & (trace.instruction >= 0)
    issued = np.bincount(trace.instruction[issues], weights=weight[issues], minlength=n).astype(np.int64)
    stalls = trace.kind == STALL
    place = np.where(trace.instruction[stalls] < 0, n, trace.instruction[stalls]) * reasons + trace.reason[stalls]
    stalled = np.bincount(place, weights=(weight * length)[stalls], minlength=(n + 1) * reasons).astype(np.int64)
    return issued, stalled.reshape(n + 1, reasons)


def listing(trace: Trace, kernel: str | None = None) -> list[Heat]:
    """Every instruction that cost a cycle, in the order of the program, of the kernels (LPU: queues) of this pattern.
    Raises TraceError for a pattern that fits none.

    On the LPU a line of the source is one entry, whatever the queues; its NOPs count with the instruction behind
    them, for which they wait, where the source says that it is the same line."""
    table = trace.instructions
    issued, stalled = counts(trace)
    groups: dict[tuple[int, int], list[int]] = {}
    for at in np.flatnonzero((issued > 0) | (stalled[:-1].sum(axis=1) > 0)).tolist():
        # Lines of a text are told apart by their number, instructions without one by themselves.
        line = table.line[at]
        if kernel is not None and not fnmatch.fnmatchcase(table.kernel[at], kernel):
            continue
        by_line = line > 0 and trace.dialect == "lpu"
        groups.setdefault((line, -1 if by_line else _waited_for(table, at)), []).append(at)
    found = []
    for (line, _), rows in groups.items():
        owners = list(dict.fromkeys(table.kernel[at] for at in rows))
        owner = owners[0] if len(owners) == 1 else f"{owners[0]} +{len(owners) - 1}"
        shown = next((at for at in rows if table.opcode[at] not in WAITING), _waited_for(table, rows[0]))
        asm = table.source[shown] if trace.dialect == "lpu" and line else table.asm[shown]
        found.append(Heat(owner, table.node[shown], line, asm, int(issued[rows].sum()),
                          int(stalled[rows].sum()), _reasons(trace, stalled[rows].sum(axis=0))))
    if kernel is not None and not found:
        known = sorted({h.kernel for h in listing(trace)})
        raise TraceError(f"--kernel {kernel}: nothing of it was recorded; known: {', '.join(known[:12]) or 'none'}")
    return found


def _waited_for(table: Instructions, at: int) -> int:
    """The instruction that a NOP, SYNC or NOTIFY stands in front of, where it has no line of its own; else itself."""
    after = at
    while after < len(table) and table.opcode[after] in WAITING and table.kernel[after] == table.kernel[at]:
        after += 1
    found = after < len(table) and table.kernel[after] == table.kernel[at] and table.line[after] == table.line[at]
    return after if found else at


def nodes(trace: Trace) -> list[Heat]:
    """Cycles by graph node (GPU: of the launch), hottest first; what waits for no instruction under its reason."""
    weight, length = trace.weights(), trace.end - trace.start
    kept = (trace.kind == STALL) | (trace.kind == ISSUE) & (trace.instruction >= 0)
    names = sorted(set(trace.launches.node) | set(trace.instructions.node) | {""})
    number = {name: at for at, name in enumerate(names)}
    of_launch = np.array([*(number[name] for name in trace.launches.node), number[""]], dtype=np.int64)
    of_instruction = np.array([*(number[name] for name in trace.instructions.node), number[""]], dtype=np.int64)
    node = np.where(trace.launch[kept] >= 0, of_launch[trace.launch[kept]], of_instruction[trace.instruction[kept]])
    reason = np.where(trace.kind[kept] == ISSUE, 0, trace.reason[kept])
    cycles = (weight * np.where(trace.kind == ISSUE, 1, length))[kept]
    size = len(trace.reasons)
    sums = np.bincount(node * size + reason, weights=cycles, minlength=len(names) * size).astype(np.int64)
    found = []
    for name, row in zip(names, sums.reshape(-1, size), strict=True):
        if row.any():
            found.append(Heat("", name, 0, "", int(row[0]), int(row[1:].sum()), _reasons(trace, row)))
    return sorted(found, key=lambda heat: (-heat.cycles, heat.node))


def _reasons(trace: Trace, row: np.ndarray) -> dict[str, int]:
    """Stalled cycles by reason, most first."""
    order = sorted(range(1, len(row)), key=lambda at: (-int(row[at]), at))
    return {trace.reasons[at].name: int(row[at]) for at in order if row[at]}


def bar(cycles: int, most: int) -> str:
    """A heat bar: as long as the cycles are many, at least a dot."""
    return "█" * round(BAR * cycles / most) or "·" if most else ""


def rows_of(heats: Iterable[Heat], total: int) -> list[list[Any]]:
    """Cells of a table: bar, share, cycles, issued, stalled, main reason."""
    heats = list(heats)
    most = max((heat.cycles for heat in heats), default=0)
    return [[bar(h.cycles, most), f"{100 * h.cycles / max(1, total):.1f} %", h.cycles, h.issued, h.stalled,
             next(iter(h.reasons), "")] for h in heats]


def text(trace: Trace, lines: int, kernel: str | None) -> str:
    """The heat of a trace as tables: nodes, then the hottest lines in the order of the program (of one kernel or
    queue: all of them). Raises TraceError for a kernel that it does not have."""
    from tools.report import table

    by_node, by_line = nodes(trace), listing(trace, kernel)
    total = sum(heat.cycles for heat in by_node)
    what = "sub-core" if trace.dialect == "gpu" else "queue"
    out = [f"{trace.chip}: {total:,} {what} cycles recorded of {trace.cycles:,} cycles", ""]
    head = ["heat", "share", "cycles", "issued", "stalled", "most for"]
    if kernel is None:
        shown = by_node[:lines]
        out.append(table([[*row, h.node or "(none)"] for row, h in zip(rows_of(shown, total), shown, strict=True)],
                         [*head, "node"]))
        if len(by_node) > lines:
            out.append(f"... {len(by_node) - lines} cooler nodes: --lines or --json")
        hottest = sorted(by_line, key=lambda h: -h.cycles)[:lines]
        chosen = {id(h) for h in hottest}
        shown = [h for h in by_line if id(h) in chosen]
        out.append("")
    else:
        shown = by_line
    out.append(table([[*row, h.kernel, h.line or "", h.asm]
                      for row, h in zip(rows_of(shown, total), shown, strict=True)],
                     [*head, "kernel" if trace.dialect == "gpu" else "queue", "line", "instruction"]))
    if len(by_line) > len(shown) and kernel is None:
        out.append(f"... {len(by_line) - len(shown):,} cooler lines: --kernel NAME for all of one, or --json")
    return "\n".join(out)
