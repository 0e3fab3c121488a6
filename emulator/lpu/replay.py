"""When every instruction of an LPU program issues, read off its queues without running them.

The schedule is static, so units x cycles and the owner of every cycle follow from the text alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.chip import Chip
from isa.encoding import CODE, FIELD0, decode_words
from isa.opcodes import code
from isa.program import LpuText

_NOP, _REPEAT, _SYNC, _NOTIFY = code("NOP"), code("REPEAT"), code("SYNC"), code("NOTIFY")


@dataclass
class Issues:
    """Every issue of an LPU text, REPEAT iterations included; parallel arrays sorted by cycle, then queue."""

    queue: np.ndarray  # int32
    cycle: np.ndarray  # int64
    index: np.ndarray  # int64: instruction in the text
    opcode: np.ndarray  # int64
    iteration: np.ndarray  # int64: of the REPEAT, 0 for the instruction itself


def queue_times(table: np.ndarray, starts: np.ndarray, barrier_cycles: int) -> np.ndarray:
    """Issue cycle of every instruction, int64 [n]; `table` is decode_words of the text.

    NOP n takes n cycles, REPEAT none, all others one. A SYNC parks its queue until `barrier_cycles`
    after the first NOTIFY at or after it. Raises ValueError when a SYNC is never released.
    """
    opcode = table[:, CODE]
    spent = np.where(opcode == _NOP, table[:, FIELD0], np.where(opcode == _REPEAT, 0, 1)).astype(np.int64)
    times = np.zeros(len(table), dtype=np.int64)
    waiting: list[list[int]] = []  # [next SYNC or NOTIFY of a queue, its queue]
    for q in range(len(starts) - 1):
        first, end = int(starts[q]), int(starts[q + 1])
        if end > first:
            times[first:end] = np.cumsum(spent[first:end]) - spent[first:end]
            waiting.append([first, q])
    markers = {q: [i for i in range(int(starts[q]), int(starts[q + 1])) if opcode[i] in (_SYNC, _NOTIFY)]
               for _, q in waiting if np.isin(opcode[starts[q] : starts[q + 1]], (_SYNC, _NOTIFY)).any()}  # fmt: skip
    while markers:  # one barrier after the other, in time order
        heads = {q: found[0] for q, found in markers.items()}
        notifies = {q: i for q, i in heads.items() if opcode[i] == _NOTIFY}
        if not notifies:
            raise ValueError("a queue waits in SYNC and no NOTIFY releases it")
        chosen = min(notifies, key=lambda q: (times[notifies[q]], q))
        release = int(times[notifies[chosen]]) + barrier_cycles
        for q, i in heads.items():
            if q == chosen or (opcode[i] == _SYNC and times[i] <= release):
                shift = release - (int(times[i]) + 1)  # the instruction after it issues at the release
                times[i + 1 : int(starts[q + 1])] += shift
                markers[q].pop(0)
        markers = {q: found for q, found in markers.items() if found}
    return times


def issues(text: LpuText, chip: Chip) -> Issues:
    """Every issue of `text` on `chip`, REPEAT iterations included."""
    table = decode_words("lpu", text.words)
    return expanded(table, text.starts, queue_times(table, text.starts, int(chip["icu.barrier_cycles"])))


def expanded(table: np.ndarray, starts: np.ndarray, times: np.ndarray) -> Issues:
    """Every issue of a decoded text whose `queue_times` are known."""
    opcode = table[:, CODE]
    queue_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    own = np.flatnonzero(~np.isin(opcode, (_NOP, _REPEAT)))
    repeats = np.flatnonzero(opcode == _REPEAT)
    counts = table[repeats, FIELD0]
    # iteration k of the REPEAT after instruction i issues at time(i) + k * d
    source = np.repeat(repeats - 1, counts)
    iteration = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    later = times[source] + iteration * np.repeat(table[repeats, FIELD0 + 1], counts)
    index = np.concatenate([own, source])
    cycle = np.concatenate([times[own], later])
    iteration = np.concatenate([np.zeros(len(own), dtype=np.int64), iteration])
    order = np.lexsort((index, queue_of[index], cycle))
    index, cycle = index[order], cycle[order]
    return Issues(queue_of[index].astype(np.int32), cycle, index, opcode[index], iteration[order])
