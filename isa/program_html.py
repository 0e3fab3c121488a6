"""A program as Jupyter shows it."""

from __future__ import annotations

from collections import Counter

from isa import html
from isa.opcodes import BY_CODE
from isa.program import GpuText, Program

SHOWN = 12  # tensors, kernels, opcodes


def program_html(program: Program) -> str:
    """What the program was made for; instructions by opcode; kernels; the largest tensors."""
    told = f"{len(program.chips)} x {program.chip}" if len(program.chips) > 1 else program.chip
    words = sum(len(text.words) for text in program.texts)
    parts = [html.head("program", f"for {told}: {words:,} instructions, {len(program.tensors)} tensors")]
    facts = [(key, value) for key, value in program.meta.items() if isinstance(value, str | int) and value != ""]
    if facts:
        parts.append(html.table(("made for", ""), [(key, str(value)) for key, value in facts]))
    opcodes = Counter(BY_CODE[word & 0xFF].name for text in program.texts for word in text.words.tolist())
    parts.append(html.table(("instruction", "count"), opcodes.most_common(SHOWN)))
    launches = [(launch.node, text.kernels[launch.kernel].name, launch.grid, launch.block)
                for text in program.texts[:1] if isinstance(text, GpuText) for launch in text.launches]
    if launches:
        parts.append(html.table(("node", "kernel", "CTAs", "threads"), launches[:SHOWN]))
        if len(launches) > SHOWN:
            parts.append(html.head("", f"the first {SHOWN} of {len(launches)} launches"))
    largest = sorted(program.tensors.values(), key=lambda t: -t.shape[0] * t.shape[1] * t.itemsize)[:SHOWN]
    if largest:
        parts.append(html.table(("tensor", "type", "shape", "role", "bytes"), [
            (t.name, t.dtype, f"{t.shape[0]} x {t.shape[1]}", t.role, t.shape[0] * t.shape[1] * t.itemsize)
            for t in largest]))
    if len(program.tensors) > SHOWN:
        parts.append(html.head("", f"the largest {SHOWN} of {len(program.tensors)} tensors"))
    return "".join(parts)
