"""Which issue made what another issue of the same warp reads: the register dependencies of a GPU trace."""

from __future__ import annotations

import re

import numpy as np

from emulator.gpu.decode import SLOTS
from emulator.trace import Trace
from isa.jit import njit

NONE = -1
LABEL = re.compile(r"\bL\d+\b")  # the disassembler's names of jump targets


def producers(trace: Trace, rows: np.ndarray) -> np.ndarray:
    """For each of the issue events `rows`: number (in rows) of the latest one before it in the same warp whose result
    it reads, NONE where no recorded one is known. int64 [rows].

    On the LPU values travel on streams, not in named registers, and nothing is known here.
    """
    latest = np.full(len(rows), NONE, dtype=np.int64)
    if trace.dialect != "gpu" or len(rows) == 0:
        return latest
    reads, writes = _registers(trace)
    warp = trace.launch[rows].astype(np.int64) * (int(trace.actor[rows].max()) + 2) + trace.actor[rows]
    instruction = np.maximum(trace.instruction[rows], 0).astype(np.int64)
    _latest(np.argsort(warp, kind="stable"), warp, instruction, *reads, *writes,
            np.full(SLOTS, NONE, dtype=np.int64), latest)
    return latest


def _registers(trace: Trace) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Scoreboard slots that each instruction of the table reads and writes: (slots, starts) of both.

    A trace keeps instructions as text; the assembler turns it back. What it does not know has no registers.
    """
    from emulator.chip import load_chip
    from emulator.gpu.decode import decode_instruction
    from emulator.gpu.timing import read_timing

    known: dict[str, tuple[list[int], list[int]]] = {}
    words = _words(list(dict.fromkeys(trace.instructions.asm)))
    rules = read_timing(load_chip("toy_gpu"))  # registers are the same on every chip
    for asm, word in words.items():
        made = decode_instruction(word, rules)
        known[asm] = made.reads, made.writes
    found = []
    for side in (0, 1):
        lists = [known.get(asm, ((), ()))[side] for asm in trace.instructions.asm or [""]]
        starts = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(one) for one in lists], out=starts[1:])
        found.append((np.array([slot for one in lists for slot in one], dtype=np.int64), starts))
    return found[0], found[1]


def _words(lines: list[str]) -> dict[str, int]:
    """Instruction words of assembly lines; lines that are not sound are left out, after a second try one by one."""
    from emulator.assemble import assemble

    def made(some: list[str]) -> dict[str, int]:
        body = "\n".join(LABEL.sub("END", line) for line in some)
        text = assemble(f".chip toy_gpu\n.kernel k()\n{body}\nEND: EXIT\n.launch k 1 32 0 ()\n").texts[0]
        return dict(zip(some, text.words.tolist())) if len(text.words) == len(some) + 1 else {}

    try:
        return made(lines)
    except ValueError:
        found: dict[str, int] = {}
        for line in lines:
            try:
                found |= made([line])
            except ValueError:
                continue
        return found


@njit
def _latest(order, warp, instruction, read, read_starts, written, written_starts, writer, latest):
    """order: events warp by warp, in time; writer: the last writer of each slot, all NONE at first."""
    before = np.int64(-1)
    for k in range(len(order)):
        i = order[k]
        if k == 0 or warp[i] != before:
            before = warp[i]
            for slot in range(len(writer)):
                writer[slot] = -1
        at = instruction[i]
        for r in range(read_starts[at], read_starts[at + 1]):
            latest[i] = max(latest[i], writer[read[r]])
        for w in range(written_starts[at], written_starts[at + 1]):
            writer[written[w]] = i
