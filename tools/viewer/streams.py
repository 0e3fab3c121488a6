"""What an LPU's instructions take from streams and put on them, so that the page can follow every value.

A value on an eastward stream at column p in cycle t keeps t - p while it moves, a westward one t + p: with the
issue events and this table its place in any cycle follows.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from emulator.chip import Chip
from emulator.lpu.geometry import Geometry, geometry
from emulator.trace import Trace
from isa.encoding import encode
from isa.lexer import AssemblyError, Line
from isa.opcodes import BY_NAME
from isa.operands import Scope, read_operands, read_suffixes
from tools.plan_streams import effects, longest_delay

_ADDRESS = re.compile(r"^(READ|WRITE) \d+")  # which word it is does not matter to a stream


def flows(trace: Trace, chip: Chip) -> dict[str, Any]:
    """Streams of a trace's instructions: `edge`, the last column; `reach`, the cycles after its issue in which a value
    may still be somewhere; `flow`, for each instruction its number in `flows` or -1; `flows`: the column, the
    streams that are sampled there at the issue, and (cycles later, column, streams) of what comes out, or None; and
    `markers`, the columns of each class of units."""
    g = geometry(chip)
    known: dict[tuple[Any, ...], int] = {}
    seen: dict[tuple[str, str], int] = {}
    number = []
    for asm, queue in zip(trace.instructions.asm, trace.instructions.kernel):
        key = (_ADDRESS.sub(r"\1 0", asm), queue)
        if key not in seen:
            flow = _flow(g, *key)
            seen[key] = -1 if flow is None else known.setdefault(flow, len(known))
        number.append(seen[key])
    markers = {kind: sorted({g.column[q] for q, name in enumerate(g.queue_names) if name.startswith(kind)})
               for kind in ("MEM", "VXM", "MXM", "SXM", "C2C")}  # fmt: skip
    return {"edge": g.edge, "reach": longest_delay(g) + 2 * g.edge + 1, "flow": number, "flows": list(known),
            "markers": markers}  # fmt: skip


def _flow(g: Geometry, asm: str, queue: str) -> tuple[Any, ...] | None:
    """(column, streams taken, (cycles later, column, streams) or None); None for what touches no stream."""
    if queue not in g.queue_names:
        return None
    word = _word(asm)
    if word is None:
        return None
    at = g.queue(queue)
    taken, put = effects(g, at, word)
    return (g.column[at], taken, put) if taken or put else None


@lru_cache(maxsize=65536)
def _word(asm: str) -> int | None:
    """The instruction word of one disassembled line, None for text that is none."""
    op = BY_NAME.get(asm.partition(" ")[0].partition(".")[0])
    if op is None or op.lpu is None:
        return None
    line = Line("trace", 1, asm)
    try:
        token = line.next()
        given = read_suffixes(line, op, "lpu", token)
        return encode("lpu", op, read_operands(line, op, "lpu", Scope(), given))
    except (AssemblyError, ValueError):
        return None
