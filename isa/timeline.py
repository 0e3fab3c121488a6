"""From "instruction X at cycle T in queue Q" to packed LPU queues.

The assembler and the compilers say at which cycle each instruction is issued; a queue only knows
waiting. Timeline sorts each queue's instructions, puts NOPs between them and appends REPEATs.
"""

from __future__ import annotations

from array import array

import numpy as np

from isa.encoding import encode
from isa.opcodes import BY_NAME, code
from isa.program import Source

NOP_MAX = 65535  # cycles of one NOP
_COLUMNS = ("queue", "cycle", "n", "d", "stride", "node", "line", "reason", "busy", "tensor")


class QueueLate(ValueError):
    """Two instructions of one queue need the same cycle (or one comes before the barrier's release)."""

    kind = "queue_late"

    def __init__(self, queue: int, cycle: int, free: int, line: int, first_line: int) -> None:
        super().__init__(f"queue {queue} is late: an instruction is due at cycle {cycle}, "
                         f"but the queue is taken by an earlier one until cycle {free}")
        self.queue, self.cycle, self.free, self.line, self.first_line = queue, cycle, free, line, first_line


class Timeline:
    """Collects instructions with their issue cycles; `pack` makes the queues of an LpuText.

    nodes, tensors, lines and file go into the Source that pack returns; the line, node and tensor of an
    instruction index them.
    """

    def __init__(self, nodes: list[str] | None = None, lines: list[str] | None = None, file: str = "",
                 tensors: list[str] | None = None) -> None:
        self.nodes = [] if nodes is None else nodes
        self.tensors = [] if tensors is None else tensors
        self.lines = [] if lines is None else lines
        self.file = file
        self._table = array("q")  # len(_COLUMNS) values an instruction
        self._words = array("Q")

    def __len__(self) -> int:
        return len(self._words)

    def add(self, queue: int, cycle: int, word: int, n: int = 0, d: int = 1, stride: int = 0,
            node: int = -1, line: int = -1, reason: int = -1, busy: int = 1, tensor: int = -1) -> None:
        """Issue `word` in `queue` at `cycle`, then n times more, d cycles apart (a REPEAT, if n > 0).

        reason (index of emulator.accounting.LPU_REASONS) says why the queue waited before it. The
        queue may go on `busy` cycles later: 1, but for SYNC and NOTIFY the barrier latency.
        """
        self._table.extend((queue, cycle, n, d, stride, node, line, reason, busy, tensor))
        self._words.append(word)

    def extend(self, rows: np.ndarray, words: np.ndarray) -> None:
        """`add` for many instructions: rows int64 [n, 10] in the order of add's arguments without the word."""
        self._table.frombytes(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
        self._words.frombytes(np.ascontiguousarray(words, dtype=np.uint64).tobytes())

    def pack(self, queue_count: int) -> tuple[np.ndarray, np.ndarray, Source]:
        """(words uint64 [n], starts int64 [queue_count + 1], Source) of all queues.

        Raises QueueLate when an instruction is due before its queue is free, ValueError for a cycle
        or a repeat that cannot be encoded.
        """
        table = np.frombuffer(self._table, dtype=np.int64).reshape(-1, len(_COLUMNS))
        order = np.lexsort((table[:, 1], table[:, 0]))
        queue, cycle, n, d, stride, node, line, reason, busy, tensor = table[order].T
        words = np.frombuffer(self._words, dtype=np.uint64)[order]
        self._check(queue, cycle, n, d, stride, queue_count)

        free = np.zeros(len(queue), dtype=np.int64)  # first cycle at which the queue could issue
        same = queue[1:] == queue[:-1]
        free[1:] = np.where(same, cycle[:-1] + busy[:-1], 0)
        gap = cycle - free
        if (gap < 0).any():
            i = int(np.argmax(gap < 0))
            first = int(line[i - 1]) if i and same[i - 1] else -1
            raise QueueLate(int(queue[i]), int(cycle[i]), int(free[i]), int(line[i]), first)

        nops = -(-gap // NOP_MAX)
        repeats = (n > 0).astype(np.int64)
        size = nops + 1 + repeats
        end = np.cumsum(size)
        place = end - 1 - repeats  # where the instruction itself goes
        total = int(end[-1]) if len(end) else 0
        nop = np.uint64(encode("lpu", BY_NAME["NOP"], [0]))
        out = np.full(total, nop | (np.uint64(NOP_MAX) << np.uint64(8)), dtype=np.uint64)
        rest = nops > 0
        last = gap[rest] - (nops[rest] - 1) * NOP_MAX
        out[place[rest] - 1] = nop | (last.astype(np.uint64) << np.uint64(8))
        out[place] = words
        again = repeats > 0
        fields = n[again] << 8 | d[again] << 24 | (stride[again] & 0xFFFF) << 40
        out[place[again] + 1] = (code("REPEAT") | fields).astype(np.uint64)

        owner = np.repeat(np.arange(len(queue)), size)
        waiting = np.ones(total, dtype=bool)
        waiting[place] = False
        waiting[place[again] + 1] = False
        source = Source(
            line=line[owner].astype(np.int32), node=node[owner].astype(np.int32),
            reason=np.where(waiting, reason[owner], -1).astype(np.int16),
            nodes=self.nodes, lines=self.lines, file=self.file,
            tensor=np.where(waiting, -1, tensor[owner]).astype(np.int32), tensors=self.tensors)
        counts = np.bincount(queue, weights=size, minlength=queue_count).astype(np.int64)
        return out, np.concatenate(([0], np.cumsum(counts))).astype(np.int64), source

    def _check(self, queue: np.ndarray, cycle: np.ndarray, n: np.ndarray, d: np.ndarray, stride: np.ndarray,
               queue_count: int) -> None:
        checks = (("queue", queue, 0, queue_count - 1), ("cycle", cycle, 0, 2**62), ("repeat count", n, 0, 65535),
                  ("repeat distance", d, 1, 65535), ("repeat stride", stride, -32768, 32767))
        for name, values, low, high in checks:
            bad = (values < low) | (values > high)
            if bad.any():
                i = int(np.argmax(bad))
                raise ValueError(f"{name} {values[i]} (queue {queue[i]}, cycle {cycle[i]}) is not in {low} to {high}")
