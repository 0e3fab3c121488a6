"""A plan in the terminal and as JSON: units x cycles by density, graph nodes, and one cycle's whereabouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.lpu.errors import stream_name
from emulator.lpu.geometry import KIND_CLASS, Geometry
from isa.opcodes import BY_CODE, BY_NAME
from tools.grid import Events, follows, letters, merged, render, ruler
from tools.plan import Node, Plan, Row, by_kind
from tools.plan_at import Moment, Register, Word, as_json
from tools.report import percentages, seconds, table

SHADES = " .:-=+*#%@"  # nothing, then ninths of the queues x cycles in which something issues
COLUMNS = 100  # buckets side by side
LETTERS_MAX = 200  # cycles; longer windows of queues show density instead of opcodes
EACH_MAX = 24  # values of a cycle that are listed one by one
WAITS_SHOWN = 4  # reasons of a node in the table; all are in --json
TOLD = ("model", "arithmetic", "batch", "context", "layers", "system")  # of a program's meta
LINE_SHOWN = 40  # characters of a source line

UNIT_LETTERS = {"mem": "m", "vxm": "v", "mxm": "x", "sxm": "s", "c2c": "s"}


@dataclass(frozen=True)
class Window:
    """Cycles first .. end - 1, `bucket` of them to a character."""

    first: int
    end: int
    bucket: int

    @property
    def buckets(self) -> int:
        return -(-(self.end - self.first) // self.bucket)


def window_of(plan: Plan, wanted: tuple[int, int] | None) -> Window:
    """The window to show: what was asked for, else the whole plan. Raises ValueError outside the plan."""
    first, end = wanted or (0, max(plan.cycles, 1))
    if first >= plan.cycles > 0:
        raise ValueError(f"--cycles {first}:{end}: the plan has cycles 0 to {plan.cycles - 1}")
    end = min(end, max(plan.cycles, 1))
    return Window(first, end, -(-(end - first) // COLUMNS))


# -- heads --------------------------------------------------------------------------------------------
def head(plan: Plan) -> dict[str, Any]:
    """What is shown: program, chip, where it stands in its system."""
    meta, chosen = plan.program.meta, plan.chosen
    named: dict[str, Any] = {key: meta[key] for key in TOLD if key in meta}
    return {"schema": "decodelab.schedule/1", "chip": plan.chip.name, "chip_hash": plan.chip.hash, **named,
            "chips": len(plan.program.chips), "stage": chosen.stage, "rank": chosen.rank,
            "number": chosen.place.number, "starts_in_cycle": chosen.place.start, "cycles": plan.cycles,
            "clock_hz": plan.chip.clock_hz}


def head_text(plan: Plan) -> str:
    """The same in one to three lines."""
    h, chosen = head(plan), plan.chosen
    what = [f"{h['model']} on {h['chip']}" if "model" in h else h["chip"]]
    what += [f"{h[key]}" if key == "arithmetic" else f"{key} {h[key]:,}" for key in ("arithmetic", "batch", "context")
             if key in h]
    lines = [f"{', '.join(what)}: {plan.cycles:,} cycles, {seconds(plan.cycles / plan.chip.clock_hz)}"]
    if len(plan.program.chips) > 1:
        lines.append(f"stage {chosen.stage}, rank {chosen.rank}: chip {chosen.place.number} of {h['chips']}; its cycle "
                     f"0 is cycle {chosen.place.start:,} of the step")
        if chosen.sharing > 1:
            lines.append(f"{chosen.sharing} stages share this schedule")
    return "\n".join(lines)


# -- units x cycles -----------------------------------------------------------------------------------
def shade(busy: int, most: int) -> str:
    """One character for a share: a space for nothing, else the ninth that it falls into."""
    return SHADES[0] if busy == 0 else SHADES[min(len(SHADES) - 1, -(-busy * (len(SHADES) - 1) // most))]


def picture(plan: Plan, rows: Sequence[Row], window: Window) -> str:
    """Density by row and bucket, with each row's share of the whole window; rows without an issue are left out."""
    counts = plan.density(list(rows), (window.first, window.end), window.bucket)
    lengths = [min(window.bucket, window.end - window.first - k * window.bucket) for k in range(window.buckets)]
    drawn = []
    for row, busy in zip(rows, counts):
        if busy.any():
            cells = "".join(shade(int(n), len(row.queues) * length) for n, length in zip(busy, lengths))
            share = int(busy.sum()) / (len(row.queues) * (window.end - window.first))
            drawn.append((row.name, f"|{cells}| {100 * share:5.1f} %"))
    if not drawn:
        return f"cycles {window.first} to {window.end - 1}: nothing is issued"
    if len(rows) == plan.g.queues:
        drawn = merged(drawn)
    width = max(len(name) for name, _ in drawn)
    lines = [" " * (width + 3) + scaled_ruler(window), *(f"{name:<{width}}  {cells}" for name, cells in drawn)]
    each = "a cycle" if window.bucket == 1 else f"{window.bucket} cycles"
    lines.append(f"a character is {each}: the darker of '{SHADES}', the more of the row's queues x cycles issue")
    return "\n".join(lines)


def scaled_ruler(window: Window) -> str:
    """Cycle numbers above their columns, one every ten columns."""
    if window.bucket == 1:
        return ruler(window.first, window.buckets)
    line = [" "] * (window.buckets + 12)
    for at in range(0, window.buckets, 10):
        label = str(window.first + at * window.bucket)
        line[at : at + len(label)] = label
    return "".join(line).rstrip()


def spelt_out(window: Window) -> bool:
    """Whether a window of queues is short enough to show every instruction."""
    return window.end - window.first <= LETTERS_MAX


def _issued(plan: Plan, queue: int, window: Window) -> list[list[Any]]:
    """[cycle, instruction] of everything that a queue issues in a window."""
    found = plan.issues
    inside = np.flatnonzero((found.queue == queue) & (found.cycle >= window.first) & (found.cycle < window.end))
    return [[int(found.cycle[n]), BY_CODE[int(found.opcode[n])].name] for n in inside]


def queue_picture(plan: Plan, window: Window) -> str:
    """One row a queue: the instructions of a short window, the density of a longer one."""
    if not spelt_out(window):
        return picture(plan, plan.queue_rows(), window)
    found = plan.issues
    first = int(found.cycle.min()) if len(found.cycle) else 0
    events = Events(plan.g.queue_names, found.queue, found.cycle, found.opcode, first)
    return render(events, (window.first, window.end))


# -- nodes ----------------------------------------------------------------------------------------------
def node_table(plan: Plan, nodes: Sequence[Node]) -> str:
    """Graph nodes with equal ones of all layers as one line: cycles and instructions of the first, waits of all."""
    rows = []
    several = False
    for count, node in by_kind(list(nodes)):
        several |= count > 1
        busy = "" if node.load_share is None else f"{100 * node.load_share:.1f} %"
        ranked = dict(sorted(node.waits.items(), key=lambda item: (-item[1], item[0])))
        shown = list(percentages(ranked).items()) if ranked else []
        waits = ", ".join(f"{reason} {share}" for reason, share in shown[:WAITS_SHOWN])
        rows.append([_titled(plan, node.name), f"x{count}" if count > 1 else "", f"{node.first:,}", f"{node.last:,}",
                     f"{node.instructions:,}", busy, f"{sum(ranked.values()):,}", waits])
    header = ["node", "", "first", "last", "instructions", "LW busy", "waits", "of them by reason, per cent"]
    lines = [aligned(rows, header, "llrrrrrl")]
    lines.append("LW busy: share of planes x cycles that take weights, from the node's first LW to its last; waits: "
                 "cycles of all queues")
    if several:
        lines.append("xN: as many layers; cycles and instructions are the first one's, waits are all of theirs")
    return "\n".join(lines)


def _titled(plan: Plan, node: str) -> str:
    """A node's name; a line of a hand-written program with the beginning of its text."""
    lines = plan.text.source.lines
    number = int(node.removeprefix("line ")) if node.startswith("line ") else 0
    if not 1 <= number <= len(lines):
        return node
    return f"{node}: {' '.join(lines[number - 1].split(';')[0].split())[:LINE_SHOWN]}"


def aligned(rows: Sequence[Sequence[str]], header: Sequence[str], sides: str) -> str:
    """A table of text with each column to the left (l) or right (r)."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(header))]
    return "\n".join("  ".join(cell.rjust(w) if side == "r" else cell.ljust(w)
                               for cell, w, side in zip(line, widths, sides)).rstrip() for line in lines)


def schedule_text(plan: Plan, window: Window, queues: bool) -> str:
    """The whole report: head, units x cycles, and the nodes that the window touches."""
    shown = queue_picture(plan, window) if queues else picture(plan, plan.unit_rows(), window)
    nodes = [node for node in plan.nodes() if node.first < window.end and node.last >= window.first]
    return "\n\n".join([head_text(plan), shown, *([node_table(plan, nodes)] if nodes else [])])


def schedule_json(plan: Plan, window: Window, queues: bool) -> dict[str, Any]:
    """The same as plain data: `busy` counts queue x cycle pairs in which something issues, a number a bucket."""
    rows = plan.queue_rows() if queues else plan.unit_rows()
    counts = plan.density(rows, (window.first, window.end), window.bucket)
    nodes = [
        {"node": n.name, "first": n.first, "last": n.last, "instructions": n.instructions, "lw_busy": n.load_share,
         "waits": n.waits}
        for n in plan.nodes() if n.first < window.end and n.last >= window.first
    ]  # fmt: skip
    found: dict[str, Any] = {
        "first_cycle": window.first, "end_cycle": window.end, "cycles_per_bucket": window.bucket,
        "rows": [{"unit": row.name, "queues": len(row.queues), "busy": busy.tolist()}
                 | ({"issued": _issued(plan, row.queues[0], window)} if queues and spelt_out(window) else {})
                 for row, busy in zip(rows, counts) if busy.any()],
        "nodes": nodes,
    }  # fmt: skip
    return head(plan) | found


# -- one cycle ------------------------------------------------------------------------------------------
def moment_json(plan: Plan, now: Moment) -> dict[str, Any]:
    return head(plan) | as_json(now)


def moment_text(plan: Plan, now: Moment) -> str:
    """What is where in a cycle."""
    step = f" (cycle {now.cycle + plan.chosen.place.start:,} of the step)" if plan.chosen.place.start else ""
    parts = [head_text(plan), f"cycle {now.cycle:,}{step}", stream_map(plan.g, now), value_table(now), word_table(now)]
    issued = [[one.queue, one.words + _again(one.iteration), one.node] for one in now.issued
              if not one.queue.startswith("MEM")]
    if issued:
        parts.append(table(issued, ["issued in", "instruction", "node"]))
    planes = [[f"MXM{p.number}", p.installed or "nothing", "" if p.since is None else f"{p.since:,}", str(p.shadow),
               str(p.under_way)] for p in now.planes]
    parts.append(aligned(planes, ["plane", "installed weights of", "since", "rows in shadow", "results under way"],
                         "llrrr"))
    if now.sent:
        parts.append("on links: " + ", ".join(f"{n} sent over port {port}" for port, n in now.sent.items()))
    return "\n\n".join(part for part in parts if part)


def _again(iteration: int) -> str:
    return f" (repeat {iteration})" if iteration else ""


def stream_map(g: Geometry, now: Moment) -> str:
    """Streams x columns: a letter where a register holds something, by the instruction that produced it."""
    if not now.registers:
        return "streams: all empty"
    named = letters(sorted({BY_NAME[r.producer.name].code for r in now.registers}))
    cells: dict[int, list[str]] = {}
    for r in now.registers:
        row = cells.setdefault(r.value.stream, ["."] * (2 * g.edge + 1))
        row[r.column + g.edge] = named[BY_NAME[r.producer.name].code]
    rows = merged([(stream_name(s), "".join(cells[s])) for s in sorted(cells)])
    width = max(len(name) for name, _ in rows)
    units = ["."] * (2 * g.edge + 1)
    for queue, column in enumerate(g.column):
        units[column + g.edge] = UNIT_LETTERS[KIND_CLASS[g.queue_kind[queue]]]
    legend = "  ".join(f"{letter} {BY_CODE[number].name}" for number, letter in named.items())
    lines = [f"{'column':<{width}}  {column_ruler(g.edge)}", f"{'unit':<{width}}  {''.join(units)}"]
    lines += [f"{name:<{width}}  {row}" for name, row in rows]
    lines.append(f"produced by  {legend}  . empty;  unit: m memory, v VXM, s SXM and links, x MXM")
    return "\n".join(lines)


def column_ruler(edge: int) -> str:
    """Column numbers above every sixth column, counted from the VXM."""
    line = [" "] * (2 * edge + 5)
    for column in range(-edge + edge % 6, edge + 1, 6):
        label = str(column)
        line[column + edge : column + edge + len(label)] = label
    return "".join(line).rstrip()


def value_table(now: Moment) -> str:
    """Who made what is on the streams, and who reads it next: a line a value, or a line a kind where there are many."""
    if not now.registers:
        return ""
    if len(now.registers) <= EACH_MAX:
        rows = [[stream_name(r.value.stream), str(r.column), _producer(r), r.producer.node, _reader(r)]
                for r in now.registers]
        return aligned(rows, ["stream", "column", "produced by", "of", "read next by"], "lrlll")
    kinds: dict[tuple[Any, ...], list[Register]] = {}
    for r in now.registers:
        reader = None if r.reader is None else (r.reader.name, r.reader.queue, r.reader.node)
        kinds.setdefault((r.value.west, r.producer.name, r.producer.node, reader, r.readings > 0), []).append(r)
    rows = []
    for (_, made, node, reader, read), found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        streams = ranges(stream_name(s) for s in sorted({r.value.stream for r in found}))
        columns = sorted({r.column for r in found})
        queues = ranges(dict.fromkeys(r.producer.queue for r in found))
        if reader is None:
            to = "nobody any more" if read else "nobody"
        else:
            cycles = sorted({r.reading.cycle for r in found if r.reading is not None})
            to = f"{reader[0]} in {reader[1]}, cycle{'s' if len(cycles) > 1 else ''} {spread(cycles)}"
            to += "" if reader[2] == node else f" of {reader[2]}"
        rows.append([streams, spread(columns), str(len(found)), f"{made} in {queues}", node, to])
    return aligned(rows, ["streams", "columns", "values", "produced by", "of", "read next by"], "llrlll")


def _producer(r: Register) -> str:
    return f"{r.producer.words}{_again(r.producer.iteration)} in {r.producer.queue}, cycle {r.producer.cycle}"


def _reader(r: Register) -> str:
    if r.reader is None or r.reading is None:
        return "nobody any more" if r.readings else "nobody"
    return f"{r.reader.words}{_again(r.reader.iteration)} in {r.reader.queue}, cycle {r.reading.cycle}"


def spread(numbers: Sequence[int]) -> str:
    """"4", or "4..9" for the first and last of several."""
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}..{numbers[-1]}"


def ranges(names: Iterable[str]) -> str:
    """Names in a row, runs of neighbours joined, at most three of them: "MEM.E4..MEM.E7, MEM.E9"."""
    joined = [name for name, _ in merged([(name, "") for name in names])]
    return ", ".join(joined[:3]) + (f" and {len(joined) - 3} more" if len(joined) > 3 else "")


def word_table(now: Moment) -> str:
    """SRAM words that are read and written, runs of one purpose as one line."""
    if not now.words:
        return "SRAM: nothing is read or written"
    runs: list[list[Word]] = []
    for word in now.words:
        last = runs[-1][-1] if runs else None
        alike = last is not None and (last.access, last.name.split("[")[0], last.instruction.name) == (
            word.access, word.name.split("[")[0], word.instruction.name)
        if alike and last is not None and follows(last.instruction.queue, word.instruction.queue):
            runs[-1].append(word)
        else:
            runs.append([word])
    rows = []
    for run in runs:
        names = list(dict.fromkeys(word.name for word in run))
        shown = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        addresses = sorted({word.address for word in run})
        more = " + map" if run[0].instruction.name in ("GATHER", "SCATTER") else ""
        rows.append([run[0].access, shown, ranges(word.instruction.queue for word in run),
                     spread(addresses) + more, ranges(stream_name(word.stream) for word in run)])
    return aligned(rows, ["SRAM", "what", "slices", "words", "streams"], "lllll")

