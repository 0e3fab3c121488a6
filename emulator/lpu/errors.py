"""Schedule errors: what a statically scheduled program can do wrong, said so that one can mend it."""

from __future__ import annotations

from typing import Any

from emulator.lpu.geometry import Geometry
from isa.encoding import decode
from isa.opcodes import ROLE_PORT, TYPE_BYTES, WEST, Kind
from isa.program import LpuText

# Order is the code that the fast engine reports; 0 means no error.
KINDS = ("", "stream_empty", "stream_lost", "stream_collision", "bank_conflict", "port_conflict", "unit_busy",
         "queue_late", "vxm_reach", "weights_missing", "weights_in_use", "accumulator_early", "accumulator_overrun",
         "sram_unwritten", "repeat_misaligned", "sync_deadlock", "poison_address", "address_range", "no_link",
         "link_busy", "receive_early", "receive_overflow", "receive_missing")

PASS_WINDOW = 24  # cycles before and after in which a missed value of a stream is looked for


class ScheduleError(Exception):
    """An impossible schedule, found while it ran.

    kind: one of KINDS; cycle: of superlane 0, counted from the chip's start; queue: name; index:
    instruction within its queue; iteration: 0, or the REPEAT iteration; line: source line from 1, or None;
    node: graph node or None; chip: number in the system, None when there is one chip.
    """

    def __init__(self, kind: str, cycle: int, queue: str, index: int, iteration: int, text: str, *,
                 line: int | None = None, node: str | None = None, file: str = "", source: str = "",
                 chip: int | None = None, start: int = 0) -> None:
        self.kind, self.cycle, self.queue, self.index, self.iteration = kind, cycle, queue, index, iteration
        self.line, self.node, self.text, self.chip = line, node, text, chip
        place = f"{file}:{line}: " if line is not None and file else f"line {line}: " if line is not None else ""
        within = f" of {node}" if node else ""
        again = f", repeat {iteration}" if iteration else ""
        where = "" if chip is None else f"chip {chip}{f' (starts in cycle {start})' if start else ''}, "
        message = f"{place}{text} [{kind}; {where}cycle {cycle}, queue {queue}, instruction {index}{again}{within}]"
        if source:
            message += f"\n{line:5d} | {source}"
        self.message = message
        super().__init__(message)

    @property
    def key(self) -> tuple[str, int, int | None, str, int, int]:
        """What both engines must agree on."""
        return self.kind, self.cycle, self.chip, self.queue, self.index, self.iteration


def stream_name(stream: int, count: int = 1) -> str:
    """S7.E, or S4..S7.W for a group; `stream` in the encoding of a STREAM field."""
    number, direction = stream % WEST, "W" if stream >= WEST else "E"
    return f"S{number}.{direction}" if count == 1 else f"S{number}..S{number + count - 1}.{direction}"


def operand_name(source: int) -> str:
    """Name of a VSRC field."""
    return stream_name(source) if source < 2 * WEST else f"A{source - 2 * WEST}"


def instruction_words(word: int) -> str:
    """An instruction for people, e.g. "READ 12, S0.E"; not meant to be assembled."""
    op, _, values = decode("lpu", word)
    parts = []
    for field, value in zip(op.fields("lpu"), values, strict=True):
        if field.kind is Kind.STREAM:
            parts.append(stream_name(value))
        elif field.kind is Kind.VSRC:
            parts.append(operand_name(value))
        elif field.kind is Kind.VDST:
            parts.append("_" if value == 2 * WEST else stream_name(value))
        elif field.kind is Kind.TYPE:
            parts.append(("f32", "s32", "f16", "bf16", "e4m3", "s8", "u8", "?")[value])
        else:
            parts.append(str(value))
    return " ".join([op.name, ", ".join(parts)]).strip()


class Reporter:
    """Turns (kind, cycle, queue, instruction, iteration, detail) into a ScheduleError with words.

    Both engines hand over the same facts; how a fact is found is each engine's own affair. chip: number
    in the system when there are several, with the cycle in which it starts.
    """

    def __init__(self, geometry: Geometry, text: LpuText, chip: int | None = None, start: int = 0) -> None:
        self.geometry, self.text, self.chip, self.start = geometry, text, chip, start

    def where(self, row: int) -> dict[str, Any]:
        """Line, node and source text of an instruction (row of the text)."""
        source = self.text.source
        line = int(source.line[row]) if row < len(source.line) else -1
        node = int(source.node[row]) if row < len(source.node) else -1
        return {"line": line + 1 if line >= 0 else None, "file": source.file,
                "node": source.nodes[node] if node >= 0 else None,
                "source": source.lines[line].rstrip() if 0 <= line < len(source.lines) else ""}

    def queue_of(self, row: int) -> int:
        """Queue that holds a row of the text."""
        starts = self.text.starts
        return int(max(q for q in range(len(starts) - 1) if starts[q] <= row < starts[q + 1]))

    def who(self, row: int) -> str:
        """An instruction named for a message: words, queue and line."""
        place = self.where(row)["line"]
        at = f" at line {place}" if place is not None else ""
        return (f"{instruction_words(self.text.words[row])} in {self.geometry.queue_names[self.queue_of(row)]}{at}")

    def error(self, kind: str, cycle: int, queue: int, row: int, iteration: int, text: str) -> ScheduleError:
        name = self.geometry.queue_names[queue]
        index = row - int(self.text.starts[queue])
        text = text.replace("{who}", instruction_words(self.text.words[row]))
        return ScheduleError(kind, cycle, name, index, iteration, text, chip=self.chip, start=self.start,
                             **self.where(row))

    # -- one function a fact -----------------------------------------------------------------
    def no_value(self, cycle: int, queue: int, row: int, iteration: int, stream: int,
                 near: tuple[int, int] | None) -> ScheduleError:
        """A stream register that holds nothing. near: (cycle in which the nearest value of that
        stream passes here, row of its producer), None when no value passes within PASS_WINDOW."""
        column = self.geometry.column[queue]
        text = f"stream {stream_name(stream)} has no value at column {column} in cycle {cycle}, which {{who}} needs"
        if near is not None:
            verb = "passed" if near[0] < cycle else "passes"
            text += f"; a value of {self.who(near[1])} {verb} there in cycle {near[0]}"
        kind = "repeat_misaligned" if iteration else "stream_empty" if near is None else "stream_lost"
        return self.error(kind, cycle, queue, row, iteration, text)

    def no_output(self, cycle: int, queue: int, row: int, iteration: int, alu: int) -> ScheduleError:
        text = f"ALU A{alu} puts out nothing in cycle {cycle}, in which {{who}} takes its output"
        return self.error("repeat_misaligned" if iteration else "stream_empty", cycle, queue, row, iteration, text)

    def collision(self, cycle: int, queue: int, row: int, iteration: int, stream: int, column: int,
                  other: int) -> ScheduleError:
        text = (f"{{who}} puts a value on stream {stream_name(stream)} at column {column} in cycle {cycle}, where "
                f"{self.who(other)} puts one in the same cycle")
        return self.error("stream_collision", cycle, queue, row, iteration, text)

    def overflow(self, cycle: int, queue: int, row: int, iteration: int, chip: int, arrives: int) -> ScheduleError:
        """A SEND whose vector finds the other end full. chip: at the other end; arrives: in its cycles."""
        text = (f"the vector of {{who}} arrives at chip {chip} in that chip's cycle {arrives}, where more than "
                f"{self.geometry.receive_depth} then wait: receive earlier, or send later")
        return self.error("receive_overflow", cycle, queue, row, iteration, text)

    def missing(self, cycle: int, queue: int, row: int, iteration: int, chip: int, counts: tuple[int, int]
                ) -> ScheduleError:
        """A SEND whose vector nobody has received when the step ends. counts: (sent, received) on the link."""
        text = (f"the vector of {{who}} is never received: chip {chip} takes {counts[1]} of the {counts[0]} vectors "
                "that this link carries")
        return self.error("receive_missing", cycle, queue, row, iteration, text)

    def simple(self, kind: str, cycle: int, queue: int, row: int, iteration: int, detail: int = 0) -> ScheduleError:
        """Every other kind; detail is a number whose meaning depends on the kind."""
        return self.error(kind, cycle, queue, row, iteration, self._words(kind, cycle, queue, row, detail))

    def _words(self, kind: str, cycle: int, queue: int, row: int, detail: int) -> str:
        g = self.geometry
        if kind == "bank_conflict":
            return (f"{{who}} needs bank {'0 and 1' if detail == 3 else detail - 1} of the slice in cycle {cycle}, "
                    "which another instruction uses in the same cycle; a read and a write must go to different banks")
        if kind == "port_conflict":
            return f"{{who}} is issued while an earlier REPEAT keeps the port until cycle {detail}"
        if kind == "unit_busy":
            return f"{{who}}: the unit still works for an earlier instruction (slot in cycle {detail} is taken)"
        if kind == "queue_late":
            return (f"SYNC is reached in cycle {cycle}, {cycle - detail} cycles after the NOTIFY of cycle {detail} "
                    "and before it takes effect: the queue is late for the barrier")
        if kind == "vxm_reach":
            return "{who}: " + vxm_fault(g, g.unit[queue], self.text.words[row])
        if kind == "weights_missing":
            return ("{who} finds no rows in the shadow weights: no LW since the last IW" if detail else
                    "{who} finds no installed weights of its type on the plane")
        if kind == "weights_in_use":
            return ("{who} disturbs weights that are in use: " + (
                "an IW is in progress", "the other half of the plane pair holds rows of another type",
                "an f16 ABC still feeds the plane pair", "the shadow rows are of another type")[detail])
        if kind == "accumulator_early":
            return ("{who}: the accumulator is empty" + (
                f"; the next result lands in cycle {detail}" if detail >= 0 else "; no result is under way"))
        if kind == "accumulator_overrun":
            return f"the result of {{who}} lands on a full accumulator (depth {g.depth}): no ACC took the one before"
        if kind == "sram_unwritten":
            return (f"{{who}} reads word {detail % g.words_per_slice} of slice {detail // g.words_per_slice}, "
                    "which nothing has written")
        if kind == "sync_deadlock":
            return f"SYNC waits since cycle {cycle} for a NOTIFY that never comes"
        if kind == "poison_address":
            return "{who} takes addresses from a map that holds no values (timing only)"
        if kind == "address_range":
            return f"{{who}} reaches {detail}, outside {'the plane' if g.queue_kind[queue] else 'the slice'}"
        if kind == "no_link":
            return f"{{who}}: {port_name(self.text.words[row])} leads to no chip here"
        if kind == "link_busy":
            return (f"{{who}} needs the link in cycle {cycle}, but the vector before it keeps it until cycle {detail} "
                    f"({g.slot} cycles a vector)")
        if kind == "receive_early":
            later = f"the next one arrives in cycle {detail}" if detail >= 0 else "none is under way"
            return f"no vector has arrived on {port_name(self.text.words[row])} by cycle {cycle} for {{who}}; {later}"
        raise AssertionError(kind)


def port_name(word: int) -> str:
    """The port of a SEND or RECV for people."""
    port = decode("lpu", word)[2][0]
    return f"port {port}" if port < ROLE_PORT else f"port {port} (role {port - ROLE_PORT})"


def vxm_fault(g: Geometry, alu: int, word: int) -> str:
    """What is wrong with a VXM instruction on this ALU; "" when it can run there.

    Rows: the field order of the VXM rows is type, [from_type], dst, a, [b, c | imm].
    """
    op, _, values = decode("lpu", word)
    fields = dict(zip((f.name for f in op.fields("lpu")), values, strict=True))
    if op.unit == "alu_large" and alu not in g.large_alus:
        return f"ALU {alu} is small; {op.name} runs on {', '.join(str(n) for n in sorted(g.large_alus))} only"
    source_bytes = TYPE_BYTES[fields.get("from_type", fields["type"])]
    result_bytes = TYPE_BYTES[fields["type"]]
    quads: dict[int, int] = {}  # quad -> direction of the operands
    for name, size in (("dst", result_bytes), ("a", source_bytes), ("b", source_bytes), ("c", source_bytes)):
        value = fields.get(name)
        if value is None or (name == "dst" and value == 2 * WEST):
            continue
        if value >= 2 * WEST:
            if name == "dst" or value - 2 * WEST > 15:
                return f"{name} is neither a stream nor an ALU"
            if not g.can_chain(value - 2 * WEST, alu):
                return f"the output of A{value - 2 * WEST} does not reach ALU {alu}: next rank or same row only"
            continue
        if value % size:
            return f"{stream_name(value)} is not the first stream of a group of {size}"
        quad = value % WEST // 4
        if quad not in g.reach(alu):
            reach = ", ".join(f"S{4 * q}" for q in g.reach(alu))
            return f"{stream_name(value)} is out of reach of ALU {alu}, which has the quads from {reach}"
        if name != "dst" and quads.setdefault(quad, value // WEST) != value // WEST:
            return f"an ALU cannot take quad S{4 * quad} from both directions"
    return ""
