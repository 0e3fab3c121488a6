"""Which tensors a program's memory instructions read and write, as far as its text says.

On an LPU every address stands in the instruction: the compiler's source map names what it placed there, and where it
says nothing (programs written by hand) the address is looked up among the program's tensors. On a GPU addresses are
computed: what is followed is from which parameters of the kernel a base register may come, and each launch says which
tensors its arguments point into.
"""

from __future__ import annotations

import re
from bisect import bisect_right

import numpy as np

from isa.encoding import ALWAYS, CODE, FIELD0, GUARD, decode_words
from isa.opcodes import BY_CODE, Kind, Op, code
from isa.program import GpuText, Kernel, LpuText, Program, Tensor

SRAM = ("READ", "WRITE", "GATHER", "SCATTER")
BASE_OF = {"LDG": "base", "LDCG": "base", "STG": "base", "LDGSTS": "base", "ATOM": "base", "BULK": "a", "ULDG": "a"}
ADDED = {"UADD": ("a", "b"), "UMIN": ("a", "b"), "UMAX": ("a", "b"), "USUB": ("a",), "UADDI": ("a",)}
UREGS = 64
JOIN = ", "  # between the names of several


# -- LPU ---------------------------------------------------------------------------------------------
def accessed(program: Program, number: int, words_per_slice: int) -> list[str]:
    """For each instruction of text `number` the tensor that it reads or writes, "" for none or an unnamed one.

    A REPEAT may go through several: all are named. GATHER and SCATTER: the one at the address that the map is added to.
    """
    text = program.texts[number]
    assert isinstance(text, LpuText)
    source = text.source
    found = [""] * len(text.words)
    table = decode_words("lpu", text.words)
    memory = np.flatnonzero(np.isin(table[:, CODE], [code(name) for name in SRAM]))
    queue = np.searchsorted(text.starts, memory, side="right") - 1
    rows = {row for row, (own, _, _) in enumerate(program.chips) if own == number}
    names = _by_word([t for t in program.tensors.values() if rows & set(t.chips)])
    repeat = code("REPEAT")
    for at, slice_ in zip(memory.tolist(), queue.tolist()):
        told = int(source.tensor[at]) if at < len(source.tensor) else -1
        found[at] = source.tensors[told] if told >= 0 else ""
        if found[at] or not names:
            continue
        first, count, stride = int(slice_ * words_per_slice + table[at, FIELD0]), 1, 0
        if at + 1 < text.starts[slice_ + 1] and table[at + 1, CODE] == repeat:
            count, stride = 1 + int(table[at + 1, FIELD0]), int(table[at + 1, FIELD0 + 2])
        touched = range(first, first + count * stride, stride) if stride else [first]
        found[at] = JOIN.join(dict.fromkeys(names[word] for word in touched if word in names))
    return found


def _by_word(tensors: list[Tensor]) -> dict[int, str]:
    """Word number -> tensor that lies there."""
    return {word: tensor.name for tensor in tensors if tensor.words is not None
            for word in tensor.words.reshape(-1).tolist()}


# -- GPU ---------------------------------------------------------------------------------------------
def addressed(program: Program, text: GpuText) -> tuple[list[str], list[dict[str, str]]]:
    """(for each instruction the parameters of its kernel that its address comes from, for each launch what these
    words stand for in it). "" where that is not known: an address that was read from memory, say."""
    words = [""] * len(text.words)
    used: list[dict[str, int]] = []  # of each kernel: words -> parameters, bit by bit
    for kernel in text.kernels:
        masks = _address_parameters(text, kernel)
        told = {mask: JOIN.join(_bits(mask, kernel)) for mask in sorted(set(masks)) if mask}
        used.append({told[mask]: mask for mask in told})
        for at, mask in enumerate(masks):
            words[kernel.first + at] = told.get(mask, "")
    tensors = sorted((t for t in program.tensors.values() if t.words is None), key=lambda t: t.address)
    looped = program.meta.get("launch") == "persistent"  # the base is the first layer's, and a loop adds the layer
    bound = []
    for launch in text.launches:
        names: dict[str, str] = {}
        for word, mask in used[launch.kernel].items():
            values = [value for n, value in enumerate(launch.arguments) if mask >> n & 1]
            held = [name for value in values if (name := _tensor_at(tensors, value))]
            if looped:
                held = [re.sub(r"^layers\.\d+\.", "layers.*.", name) for name in held]
            if held:
                names[word] = JOIN.join(dict.fromkeys(held))
        bound.append(names)
    return words, bound


def _bits(mask: int, kernel: Kernel) -> list[str]:
    """Names of the parameters in a mask."""
    names = kernel.parameters
    return [names[n] if n < len(names) else f"parameter {n}" for n in range(mask.bit_length()) if mask >> n & 1]


def _tensor_at(tensors: list[Tensor], address: int) -> str:
    """Name of the tensor that an address lies in, of tensors by ascending address."""
    at = bisect_right(tensors, address, key=lambda t: t.address) - 1
    if at < 0 or address >= tensors[at].address + tensors[at].shape[0] * tensors[at].pitch:
        return ""
    return tensors[at].name


def _address_parameters(text: GpuText, kernel: Kernel) -> list[int]:
    """For each instruction of a kernel the parameters (bit n: number n) that its base address may come from; 0 for
    what is no memory instruction. Follows every path through the kernel; sums keep both sides, products none."""
    table = decode_words("gpu", text.words[kernel.first:kernel.first + kernel.count])
    ops = [BY_CODE[number] for number in table[:, CODE].tolist()]
    fields = [_named(op, row) for op, row in zip(ops, table[:, FIELD0:].tolist())]
    before: list[list[int] | None] = [None] * len(ops)
    todo = [(0, [0] * UREGS)] if ops else []
    while todo:
        at, state = todo.pop()
        known = before[at]
        if known is not None:
            merged = [a | b for a, b in zip(known, state)]
            if merged == known:
                continue
            state = merged
        before[at] = state
        after = _after(ops[at], fields[at], int(table[at, GUARD]) == ALWAYS, state)
        todo += [(to, after) for to in _successors(ops[at], fields[at], at, int(table[at, GUARD]) == ALWAYS)
                 if 0 <= to < len(ops)]
    return [0 if op.name not in BASE_OF or state is None else state[field[BASE_OF[op.name]]]
            for op, field, state in zip(ops, fields, before)]


def _named(op: Op, row: list[int]) -> dict[str, int]:
    """A GPU instruction's fields by name."""
    return {field.name: value for field, value in zip(op.fields("gpu"), row)}


def _after(op: Op, field: dict[str, int], always: bool, state: list[int]) -> list[int]:
    """What the uniform registers may come from after an instruction."""
    target = next((f.name for f in op.fields("gpu") if f.name == "dst" and f.kind is Kind.UREG), None)
    if target is None or field[target] == UREGS - 1:
        return state
    value = 1 << field["param"] if op.name == "LDP" else 0
    for name in ADDED.get(op.name, ()):
        value |= state[field[name]]
    changed = list(state)
    changed[field[target]] = value if always else value | state[field[target]]
    return changed


def _successors(op: Op, field: dict[str, int], at: int, always: bool) -> list[int]:
    """Where in the kernel an instruction at `at` may lead; always: no predicate guards it."""
    if op.name == "EXIT":
        return [] if always else [at + 1]
    if op.name == "BRA":
        return [field["target"]] if always else [field["target"], at + 1]
    return [field["target"], at + 1] if op.name == "UBR" else [at + 1]
