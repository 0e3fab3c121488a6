"""A trace as a Perfetto TrackEvent file: opens in https://ui.perfetto.dev, which reads it in the browser.

One cycle is written as one nanosecond. A process for each chip that ran, under it a track for each class of units,
a track for each unit, and below that as many tracks a kind of event as the unit ever has at the same time, so that
slices never overlap. Each slice carries its call stack: layer, graph node, kernel, source line, instruction.
Counters show the bytes of each traffic level. `instruction_fetch` events are in the counters only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emulator.trace import ASKED_BY_SM, ISSUE, KERNEL, KIND_INDEX, KINDS, STALL, Trace, layer_of
from tools.export.merge import colour
from tools.export.output import BLOCK_BYTES, packed_file
from tools.export.perfetto_packets import (
    ASKED_BY,
    BECAUSE,
    BYTES,
    ITERATION,
    PACKET_BYTES_MAX,
    SEQUENCE,
    WAITED,
    WARP,
    Samples,
    Slices,
    fill,
)
from tools.export.protobuf import message, number

COUNTER_POINTS = 1000  # values of a counter, about
SLICES_MAX = 5_000_000  # a browser tab takes about so many
EXPLICIT = 3  # TrackDescriptor.child_ordering
CLEARED = 1  # sequence_flags: SEQ_INCREMENTAL_STATE_CLEARED
ANNOTATIONS = {WARP: "warp", WAITED: "waited cycles", BECAUSE: "because of", BYTES: "bytes", ITERATION: "iteration",
               ASKED_BY: "asked by SM"}
NOT_SLICES = KIND_INDEX["instruction_fetch"]  # one cycle each, where the queue's issue already lies


class Interned:
    """Texts, frames and call stacks by number, from 1; and the tracks, from 1."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.functions: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        self.frames: dict[tuple[int, int], int] = {}  # (function, line)
        self.stacks: list[tuple[int, ...]] = []
        self.tracks: list[bytes] = []
        self.sources = False

    @staticmethod
    def number(table: dict, key: object) -> int:
        """Number of an entry, a new one where it is not in the table yet."""
        return int(table.setdefault(key, len(table) + 1))

    def frame(self, function: str, line: int = 0) -> int:
        """Number of a call stack's frame; line: of the source, 0 none."""
        return self.number(self.frames, (self.number(self.functions, function), line))

    def track(self, parent: int, name: str, rank: int, more: bytes = b"") -> int:
        """A new track's number. more: further fields of its descriptor."""
        uuid = len(self.tracks) + 1
        place = (number(5, parent) if parent else b"") + number(11, EXPLICIT) + number(12, rank)
        self.tracks.append(number(1, uuid) + place + (message(2, _text(name)) if name else b"") + more)
        return uuid

    def packet(self) -> bytes:
        """The packet that clears what was known before and gives all names."""
        parts = [message(2, number(1, i) + message(2, _text(text))) for text, i in self.names.items()]
        parts += [message(3, number(1, i) + message(2, text)) for i, text in ANNOTATIONS.items()]
        parts += [message(5, number(1, i) + message(2, _text(text))) for text, i in self.functions.items()]
        parts += [message(29, number(1, i) + message(2, text)) for text, i in self.reasons.items()]
        parts += [message(17, number(1, 1) + message(2, "decodelab")), message(19, number(1, 1) + number(7, 1)),
                  message(18, number(1, 1) + message(2, "program"))]
        for (function, line), i in self.frames.items():
            source = number(5, 1) + number(6, line) if line else b""
            parts.append(message(6, number(1, i) + number(2, function) + number(3, 1) + source))
        for i, stack in enumerate(self.stacks):
            parts.append(message(7, number(1, i + 1) + b"".join(number(2, frame) for frame in stack)))
        return number(10, SEQUENCE) + number(13, CLEARED) + number(87, 1) + message(12, b"".join(parts))


def export(traces: Sequence[Trace], path: Path, attributes: dict[str, str] | None = None) -> int:
    """Write the traces of one or more chips as one file; gives the number of slices. Raises OSError, ValueError.

    attributes: further facts about the run, shown in Perfetto's "Info and stats".
    """
    count = sum(int((trace.kind != NOT_SLICES).sum()) for trace in traces)
    if count > SLICES_MAX:
        raise ValueError(f"{count:,} slices are more than a browser takes ({SLICES_MAX:,}); name less with --window, "
                         "--kinds or --units")
    interned = Interned()
    slices, samples = zip(*(_chip(trace, number, interned) for number, trace in enumerate(traces)))
    every, values = _joined_slices(slices), _joined_samples(samples)
    facts = {"time": "1 ns = 1 cycle", **(attributes or {})}
    with packed_file(path) as file:
        told = b"".join(message(1, message(1, key) + message(3, _text(value))) for key, value in facts.items())
        file.write(message(1, number(10, SEQUENCE) + message(126, told)))
        file.write(message(1, interned.packet()))
        file.write(b"".join(message(1, number(10, SEQUENCE) + message(60, track)) for track in interned.tracks))
        block, scratch = np.empty(BLOCK_BYTES, dtype=np.uint8), np.empty(PACKET_BYTES_MAX, dtype=np.uint8)
        places = np.zeros(3, dtype=np.int64)
        while used := fill(block, scratch, places, *every, *values):
            file.write(block[:used].data)
    return len(every.start)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")


# -- one chip's slices -------------------------------------------------------------------------
def _chip(trace: Trace, at: int, interned: Interned) -> tuple[Slices, Samples]:
    """Slices and counters of a trace, its names and tracks added to `interned`. at: number of the trace."""
    rows = np.flatnonzero(trace.kind != NOT_SLICES)
    start, end, kind = trace.start[rows], trace.end[rows], trace.kind[rows].astype(np.int64)
    unit = trace.unit[rows].astype(np.int64)
    ends = np.argsort(end, kind="stable")
    track, group = colour(start, end, ends, unit * len(KINDS) + kind)
    uuids, roots = _tracks(trace, at, group, interned)
    issue = kind == ISSUE
    known = np.array([0, *(interned.number(interned.reasons, r.name) for r in trace.reasons[1:])], dtype=np.int64)
    because = np.where(issue & (trace.wait[rows] > 0), known[trace.reason[rows]], 0)
    # an LPU's first iteration is nothing to tell
    actor = np.where((trace.actor[rows] > 0) | (trace.dialect == "gpu"), trace.actor[rows], -1).astype(np.int64)
    own = Slices(
        start, end, ends, uuids[track], _names(trace, rows, interned), _stacks(trace, rows, interned), actor,
        np.where(np.isin(kind, ASKED_BY_SM), ASKED_BY, WARP if trace.dialect == "gpu" else ITERATION).astype(np.int64),
        trace.wait[rows].astype(np.int64), because, trace.bytes[rows].astype(np.int64))  # fmt: skip
    return own, _counters(trace, roots, interned)


def _tracks(trace: Trace, at: int, group: np.ndarray, interned: Interned) -> tuple[np.ndarray, dict[int, int]]:
    """Number of the track of each colour; and of each chip row's process."""
    per_unit = np.bincount(group // len(KINDS), minlength=len(trace.units))
    roots: dict[int, int] = {}
    stands = {chip.row: len(chip.rows) for chip in trace.chips}
    classes: dict[tuple[int, str], int] = {}
    units: dict[int, int] = {}
    seen: dict[int, int] = {}
    uuids = np.zeros(len(group), dtype=np.int64)
    for one in np.argsort(group, kind="stable").tolist():
        unit, kind = divmod(int(group[one]), len(KINDS))
        row, word = trace.units.chip[unit], trace.units.unit_class[unit]
        if row not in roots:
            roots[row] = interned.track(0, "", row, _process(trace, at, row, stands.get(row, 1)))
        if (row, word) not in classes:
            classes[row, word] = interned.track(roots[row], word.replace("_", " "), len(classes))
        if unit not in units:
            units[unit] = interned.track(classes[row, word], trace.units.name[unit], unit)
        if per_unit[unit] == 1:  # the unit's own track is enough
            uuids[one] = units[unit]
            continue
        copy = seen[int(group[one])] = seen.get(int(group[one]), 0) + 1
        name = KINDS[kind].name.replace("_", " ")
        uuids[one] = interned.track(units[unit], name if copy == 1 else f"{name} {copy}", kind * 1000 + copy)
    return uuids, roots


def _process(trace: Trace, at: int, row: int, stands_for: int) -> bytes:
    """The field that makes a track a process: one chip."""
    many = len(trace.chips) > 1 or stands_for > 1
    name = trace.chip + (f" chip {row}" if many else "") + (f" (as {stands_for} chips)" if stands_for > 1 else "")
    return message(3, number(1, 1000 * at + row + 1) + message(6, f"{name}, 1 ns = 1 cycle"))


def _names(trace: Trace, rows: np.ndarray, interned: Interned) -> np.ndarray:
    """Name of each slice: an instruction as the disassembler writes it, a stall's reason, a kernel, or the kind."""
    kind, instruction = trace.kind[rows], trace.instruction[rows]
    by_kind = np.array([interned.number(interned.names, k.name.replace("_", " ")) for k in KINDS], dtype=np.int64)
    name = by_kind[kind]
    issue = (kind == ISSUE) & (instruction >= 0)
    by_instruction = np.zeros(len(trace.instructions), dtype=np.int64)
    for i in np.flatnonzero(np.bincount(instruction[issue], minlength=len(trace.instructions))).tolist():
        by_instruction[i] = interned.number(interned.names, trace.instructions.asm[i])
    name[issue] = by_instruction[instruction[issue]]
    stall = kind == STALL
    by_reason = np.array([interned.number(interned.names, reason.name) for reason in trace.reasons], dtype=np.int64)
    name[stall] = by_reason[trace.reason[rows][stall]]
    launched = (np.isin(kind, (KERNEL, KIND_INDEX["cta"]))) & (trace.launch[rows] >= 0)
    by_launch = np.array([interned.number(interned.names, kernel) for kernel in trace.launches.kernel], dtype=np.int64)
    if launched.any():
        name[launched] = by_launch[trace.launch[rows][launched]]
    return name


def _stacks(trace: Trace, rows: np.ndarray, interned: Interned) -> np.ndarray:
    """Call stack of each slice, 0 where nothing is known: one a pair of launch and instruction that occurs."""
    wide = len(trace.instructions) + 1
    key = (trace.launch[rows].astype(np.int64) + 1) * wide + trace.instruction[rows] + 1
    pairs, place = np.unique(key, return_inverse=True)
    numbers = np.zeros(len(pairs), dtype=np.int64)
    for i, pair in enumerate(pairs.tolist()):
        launch, instruction = divmod(pair, wide)
        stack = _frames(trace, launch - 1, instruction - 1, interned)
        if stack:
            interned.stacks.append(stack)
            numbers[i] = len(interned.stacks)
    return numbers[place]


def _frames(trace: Trace, launch: int, instruction: int, interned: Interned) -> tuple[int, ...]:
    """Frames of a stack, outermost first."""
    table = trace.instructions
    node = trace.launches.node[launch] if launch >= 0 else ""
    node = node or (table.node[instruction] if instruction >= 0 else "")
    frames = []
    if layer_of(node) >= 0:
        frames.append(interned.frame(f"layer {layer_of(node)}"))
    if node:
        frames.append(interned.frame(node))
    if launch >= 0:
        frames.append(interned.frame(trace.launches.kernel[launch]))
    if instruction >= 0:
        if table.line[instruction] > 0:
            frames.append(interned.frame(table.source[instruction], table.line[instruction]))
        frames.append(interned.frame(table.asm[instruction], table.line[instruction]))
    return tuple(frames)


# -- counters ------------------------------------------------------------------------------------
def _counters(trace: Trace, roots: dict[int, int], interned: Interned) -> Samples:
    """Bytes of each traffic level and chip, in equal spans of cycles; an event's bytes count where it starts."""
    first, last = max(0, trace.window[0]), max(trace.window[1], int(trace.end.max(initial=0)))
    span = max(1, -(-(last - first) // COUNTER_POINTS))
    levels, level = trace.levels()
    bins = -(-(last - first) // span) + 1
    place = np.clip((trace.start - first) // span, 0, bins - 1)
    row = np.array(trace.units.chip, dtype=np.int64)[trace.unit] if len(trace) else np.zeros(0, dtype=np.int64)
    found = []
    for chip, root in roots.items():
        for at, name in enumerate(levels):
            mine = (row == chip) & (level == at) & (trace.bytes > 0)
            if not name or not mine.any():
                continue
            values = np.bincount(place[mine], weights=trace.bytes[mine], minlength=bins).astype(np.int64)
            unit = message(6, "B") + message(7, "traffic")
            uuid = interned.track(root, f"{name} bytes in {span} cycles", 0, message(8, unit))
            found.append((first + span * np.arange(bins), np.full(bins, uuid), values))
    if not found:
        return Samples(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    return Samples(*(np.concatenate(column) for column in zip(*found)))


def _joined_slices(parts: Sequence[Slices]) -> Slices:
    """Slices of several chips in the order of time."""
    if len(parts) == 1:
        return parts[0]
    start = np.concatenate([part.start for part in parts])
    order = np.argsort(start, kind="stable")
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in Slices._fields}
    columns["ends"] = np.argsort(columns["end"], kind="stable")
    return Slices(**columns)


def _joined_samples(parts: Sequence[Samples]) -> Samples:
    """Counter values of several chips in the order of time."""
    columns = [np.concatenate(column) for column in zip(*parts)]
    order = np.argsort(columns[0], kind="stable")
    return Samples(*(column[order] for column in columns))
