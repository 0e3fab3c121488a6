"""An LPU text, checked once at load and decoded for the fast engine.

What cannot mean anything (an ADD in a memory queue, REPEAT after nothing, a map that is not a
permutation) is a TextError before the first cycle; what depends on time is a ScheduleError later.
"""

from __future__ import annotations

import numpy as np

from emulator.accounting import LPU_REASONS, reason_index
from emulator.lpu import geometry as geo
from emulator.lpu.errors import vxm_fault
from emulator.lpu.geometry import Geometry
from isa.encoding import CODE, FIELD0, decode_words
from isa.opcodes import ALU_BASE, BY_CODE, F16, F32, S8, S32, TYPE_BYTES, WEST, code
from isa.program import LpuText

# Columns of the fast engine's table. Fields stand in the order of the instruction's row.
(OP, FIELDS, REPEATS, DISTANCE, STRIDE, NEXT, FETCHED, FAULT, REASON, DELAY, COMPLETION, CHAINED, IMMEDIATE, SIZE,
 MOVED, WIDTH) = (0, 1, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
# MOVED: bytes that one issue moves at the level of its opcode (emulator.trace).
# CHAINED of a VXM instruction: where its operands come from.
FROM_STREAMS, FROM_ALUS, FROM_BOTH = 0, 1, 2

NO_REASON = reason_index(LPU_REASONS, "no_work")
START_BARRIER = reason_index(LPU_REASONS, "start_barrier")
IDLE = reason_index(LPU_REASONS, "idle")
ZERO_LANE = 65535  # in a DISTRIBUTE map


class TextError(ValueError):
    """A text that is not a program of this chip, whatever the timing."""


def reason_of(text: LpuText, row: int) -> int:
    """Index in LPU_REASONS of why the NOP in this row waits; "no_work" when nobody said."""
    reason = int(text.source.reason[row]) if row < len(text.source.reason) else -1
    return reason if 0 < reason < IDLE else NO_REASON


class Decoded:
    """table: int64 [n, WIDTH], one row an instruction; maps: int64 [maps, lanes]."""

    def __init__(self, g: Geometry, text: LpuText) -> None:
        self.text = text
        words = np.asarray(text.words, dtype=np.uint64)
        starts = np.asarray(text.starts, dtype=np.int64)
        if len(starts) != g.queues + 1 or starts[0] != 0 or starts[-1] != len(words) or np.any(np.diff(starts) < 0):
            raise TextError(f"{g.chip} has {g.queues} instruction queues; the text's queue table does not fit them")
        raw = decode_words("lpu", words)
        self.starts = starts
        self.queue = np.repeat(np.arange(g.queues), np.diff(starts))
        self.maps = np.zeros((0, g.lanes), dtype=np.int64)
        if len(text.maps):
            self.maps = np.asarray(text.maps, dtype=np.int64)
            if self.maps.ndim != 2 or self.maps.shape[1] != g.lanes:
                raise TextError(f"lane maps have shape {self.maps.shape}, expected [maps, {g.lanes}]")
        table = np.zeros((len(words), WIDTH), dtype=np.int64)
        table[:, OP] = raw[:, CODE]
        count = min(REPEATS - FIELDS, raw.shape[1] - FIELD0)
        table[:, FIELDS : FIELDS + count] = raw[:, FIELD0 : FIELD0 + count]
        table[:, NEXT] = np.arange(1, len(words) + 1)
        table[:, FETCHED] = 1
        table[:, COMPLETION] = 1
        reason = np.full(len(words), -1, dtype=np.int64)
        reason[: len(text.source.reason)] = text.source.reason[: len(words)]
        table[:, REASON] = np.where((reason > 0) & (reason < IDLE), reason, NO_REASON)
        self.table = table
        self._check_queues(g)
        self._fold_repeats(g)
        self._units(g)

    def _fail(self, g: Geometry, row: int, message: str) -> None:
        queue = int(self.queue[row])
        line = int(self.text.source.line[row]) if row < len(self.text.source.line) else -1
        at = f"{self.text.source.file}:{line + 1}: " if line >= 0 else ""
        name, place = BY_CODE[int(self.table[row, OP])].name, f"instruction {row - self.starts[queue]}"
        raise TextError(f"{at}{name} in queue {g.queue_names[queue]}, {place}: {message}")

    def _first(self, g: Geometry, rows: np.ndarray, bad: np.ndarray, message: str) -> None:
        if len(rows) and bad.any():
            self._fail(g, int(rows[np.argmax(bad)]), message)

    def rows(self, *names: str) -> np.ndarray:
        """Rows that hold one of these instructions."""
        return np.flatnonzero(np.isin(self.table[:, OP], [code(name) for name in names]))

    def _check_queues(self, g: Geometry) -> None:
        kinds = np.array(g.queue_kind)[self.queue]
        for kind, allowed in enumerate(geo.KIND_OPS):
            good = [code(name) for name in allowed | geo.ICU_OPS]
            rows = np.flatnonzero(kinds == kind)
            self._first(g, rows, ~np.isin(self.table[rows, OP], good),
                        f"a {geo.KIND_NAMES[kind]} queue does not take this instruction")
        nops = self.rows("NOP")
        self._first(g, nops, self.table[nops, FIELDS] == 0, "waits 1 to 65535 cycles, not 0")
        self.table[nops, COMPLETION] = self.table[nops, FIELDS]

    def _fold_repeats(self, g: Geometry) -> None:
        """A REPEAT becomes a property of the instruction before it, which then skips it."""
        rows = self.rows("REPEAT")
        if not len(rows):
            return
        before = np.maximum(rows - 1, 0)
        icu = [code(name) for name in geo.ICU_OPS]
        orphan = np.isin(rows, self.starts[:-1]) | np.isin(self.table[before, OP], icu)
        self._first(g, rows, orphan, "needs an instruction of a unit right before it")
        n, d, stride = (self.table[rows, FIELDS + i] for i in range(3))
        self._first(g, rows, (d == 0) & (n > 0), "d is at least 1 cycle")
        moving = [code(name) for name in ("READ", "WRITE", "GATHER", "SCATTER", "LW")]
        self._first(g, rows, (stride != 0) & ~np.isin(self.table[before, OP], moving),
                    "a stride is for READ, WRITE, GATHER, SCATTER and LW only")
        for column, value in ((REPEATS, n), (DISTANCE, d), (STRIDE, stride)):
            self.table[before, column] = value
        self.table[before, NEXT] += 1
        self.table[before, FETCHED] = 2

    def _units(self, g: Geometry) -> None:
        t = self.table
        self._vxm(g)
        rows = self.rows("LW")
        types, stream, count = t[rows, FIELDS], t[rows, FIELDS + 1], t[rows, FIELDS + 2]
        self._matrix_types(g, rows, types)
        self._first(g, rows, (count == 0) | (count > g.load_streams), f"loads 1 to {g.load_streams} rows")
        each = np.where(types == F16, 2, 1)
        t[rows, MOVED] = count * each * g.lanes
        t[self.rows("READ", "WRITE", "GATHER", "SCATTER", "SEND", "RECV"), MOVED] = g.lanes
        self._first(g, rows, stream % WEST + count * each > WEST, "its streams go beyond the last one of the direction")
        rows = self.rows("IW")
        self._matrix_types(g, rows, t[rows, FIELDS])
        rows = self.rows("ABC")
        types, stream = t[rows, FIELDS], t[rows, FIELDS + 1]
        self._matrix_types(g, rows, types)
        self._first(g, rows, stream % WEST + np.where(types == F16, 2, 1) > WEST, "its streams go beyond the last one")
        t[rows, COMPLETION] = g.latency + np.where(types == F16, g.f16_feed - 1, 0)
        t[rows, DELAY] = t[rows, COMPLETION]
        rows = self.rows("ACC")
        self._first(g, rows, t[rows, FIELDS] % WEST + 4 > WEST, "its streams go beyond the last one")
        rows = self.rows("SHIFT", "PERMUTE", "DISTRIBUTE")
        count, source, target = t[rows, FIELDS], t[rows, FIELDS + 1], t[rows, FIELDS + 2]
        self._first(g, rows, ~np.isin(count, (1, 2, 4)), "moves 1, 2 or 4 streams")
        count = np.maximum(count, 1)
        self._first(g, rows, (source % count != 0) | (target % count != 0), "its stream groups must be aligned")
        rows = self.rows("PERMUTE", "DISTRIBUTE")
        self._first(g, rows, t[rows, FIELDS + 3] >= len(self.maps), f"there are only {len(self.maps)} lane maps")
        for row in self.rows("PERMUTE"):
            if not np.array_equal(np.sort(self.maps[t[row, FIELDS + 3]]), np.arange(g.lanes)):
                self._fail(g, int(row), f"map {t[row, FIELDS + 3]} is not a permutation of the {g.lanes} lanes")
        for row in self.rows("DISTRIBUTE"):
            lanes = self.maps[t[row, FIELDS + 3]]
            if np.any((lanes >= geo.LANES_PER_SUPERLANE) & (lanes != ZERO_LANE)):
                self._fail(g, int(row), f"map {t[row, FIELDS + 3]} names lanes 0 to 15 or {ZERO_LANE} (zero)")
        for name in ("SHIFT", "PERMUTE", "DISTRIBUTE", "TRANSPOSE"):
            for row in self.rows(name):
                distance = int(t[row, FIELDS + 3]) if name == "SHIFT" else 0
                t[row, DELAY] = t[row, COMPLETION] = g.sxm_delay(name, distance)
        rows = self.rows("TRANSPOSE")
        self._first(g, rows, (t[rows, FIELDS] % 16 != 0) | (t[rows, FIELDS + 1] % 16 != 0),
                    "its groups of 16 streams start at 0 or 16")
        t[self.rows("GATHER"), DELAY] = g.gather

    def _matrix_types(self, g: Geometry, rows: np.ndarray, types: np.ndarray) -> None:
        self._first(g, rows, ~np.isin(types, (S8, F16)), "the matrix planes take s8 and f16 only")
        plane = np.array(g.unit)[self.queue[rows]]
        self._first(g, rows, (types == F16) & (plane % 2 == 1), "f16 goes through the even plane's queues")

    def _vxm(self, g: Geometry) -> None:
        """Types, operand sources and reach of VXM instructions; equal (word, ALU) pairs are looked at once."""
        t, words = self.table, self.text.words
        seen: dict[tuple[int, int], tuple[int, ...]] = {}
        for row in self.rows(*geo.KIND_OPS[geo.VXM]):
            alu = g.unit[int(self.queue[row])]
            key = (int(words[row]), alu)
            if key not in seen:
                seen[key] = self._vxm_row(g, int(row), alu)
            t[row, [FAULT, CHAINED, DELAY, COMPLETION, IMMEDIATE, SIZE]] = seen[key]

    def _vxm_row(self, g: Geometry, row: int, alu: int) -> tuple[int, ...]:
        op = BY_CODE[int(self.table[row, OP])]
        fields = dict(zip((f.name for f in op.fields("lpu")), self.table[row, FIELDS:].tolist(), strict=False))
        result = fields["type"]
        if op.name == "CVT":
            if max(result, fields["from_type"]) >= len(TYPE_BYTES):
                self._fail(g, row, "unknown number type")
        elif result not in ((F32,) if op.name in geo.SPECIAL_OPS else (F32, S32)):
            self._fail(g, row, f"computes in f32{'' if op.name in geo.SPECIAL_OPS else ' or s32'} only")
        sources = [fields[name] >= ALU_BASE for name in "abc" if name in fields]
        chained = FROM_ALUS if all(sources) else FROM_BOTH if any(sources) else FROM_STREAMS
        fault = int(vxm_fault(g, alu, int(self.text.words[row])) != "")
        after_entry = g.special if op.name in geo.SPECIAL_OPS else g.op
        return (fault, chained, after_entry, g.vxm_delay(op.name, chained == FROM_ALUS), fields.get("imm", 0),
                TYPE_BYTES[result])
