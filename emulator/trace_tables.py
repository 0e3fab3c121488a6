"""The tables that a trace's numbers point into, made from a program: instructions and launches in words."""

from __future__ import annotations

import json
from functools import lru_cache

from emulator.trace import LEVEL_OF_OPCODE, Instructions, Launches
from isa.disassembler import instruction_text
from isa.opcodes import BY_CODE
from isa.program import GpuText, LpuText, Source


@lru_cache(maxsize=1 << 16)
def _words(dialect: str, word: int) -> tuple[str, str]:
    return BY_CODE[word & 0xFF].name, instruction_text(dialect, word)


def add_instructions(table: Instructions, text: LpuText | GpuText, tensors: list[str],
                     queue_names: tuple[str, ...] = ()) -> int:
    """Append a text's instructions in their order; the number of the first one. tensors: what each of them reads or
    writes (emulator.trace_tensors). queue_names: LPU, the chip's."""
    first, n = len(table), len(text.words)
    dialect = "lpu" if isinstance(text, LpuText) else "gpu"
    pairs = [_words(dialect, word) for word in text.words.tolist()]
    table.opcode += [name for name, _ in pairs]
    table.asm += [asm for _, asm in pairs]
    source = text.source
    lines = [line + 1 if 0 <= line < len(source.lines) else 0 for line in _padded(source, "line", n)]
    table.line += lines
    stripped = [line.strip() for line in source.lines]
    table.source += [stripped[line - 1] if line else "" for line in lines]
    table.node += [source.nodes[node] if 0 <= node < len(source.nodes) else "" for node in _padded(source, "node", n)]
    table.tensor += tensors
    table.level += [LEVEL_OF_OPCODE.get(name, "") for name, _ in pairs]
    if isinstance(text, LpuText):
        starts = text.starts.tolist()
        for name, begin, end in zip(queue_names, starts, starts[1:], strict=False):
            table.kernel += [name] * (end - begin)
    else:
        kernels = [""] * n
        for kernel in text.kernels:
            kernels[kernel.first : kernel.first + kernel.count] = [kernel.name] * kernel.count
        table.kernel += kernels
    return first


def _padded(source: Source, name: str, n: int) -> list[int]:
    """A column of a source map, -1 where it says nothing."""
    column: list[int] = getattr(source, name).tolist()[:n]
    return column + [-1] * (n - len(column))


def launches_of(text: GpuText, bound: list[dict[str, str]]) -> Launches:
    """Every launch of a text; times are 0 until it has run. bound: its tensors (emulator.trace_tensors)."""
    table = Launches(tensors=[json.dumps(one) if one else "" for one in bound])
    for launch in text.launches:
        table.node.append(launch.node)
        table.kernel.append(text.kernels[launch.kernel].name)
        table.grid.append(launch.grid)
        table.block.append(launch.block)
    n = len(table.node)
    table.start, table.end, table.times = [0] * n, [0] * n, [0] * n
    return table
