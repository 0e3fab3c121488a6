"""docs/isa.md from the opcode table: `python -m isa.document` writes it, `--check` says whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from isa.opcodes import COMPARISONS, OPS, SPECIALS, TYPES, WIDTHS, Field, Kind, Op
from isa.operands import SUFFIXES, address_groups, suffix_fields

PATH = Path(__file__).resolve().parent.parent / "docs" / "isa.md"

UNITS = {
    "icu": "any queue (instruction control)", "mem": "MEM slice", "mxm": "MXM plane", "sxm_shift": "SXM shifter",
    "sxm_permute": "SXM permuter", "sxm_distribute": "SXM distributor", "sxm_transpose": "SXM transposer",
    "c2c": "link to another chip",
    "alu": "ALU", "alu_large": "ALU; on the LPU a large one", "mufu": "special-function unit",
    "lsu": "load-store unit", "control": "branch and barrier unit", "tensor": "tensor core",
    "uniform": "uniform datapath"}

HEAD = """# Instruction set

Generated from `isa/opcodes.py` by `python -m isa.document`; do not edit.

An instruction is one 64-bit word: an 8-bit opcode, on the GPU a 4-bit guard (a predicate register, 7 = always,
and a bit that negates it), then the operand fields in the order of the row, least significant bits first. How they
are written is in [assembly.md](assembly.md): fields of kind type, comparison and width are suffixes of the mnemonic,
the others follow it.

Rows of *Arithmetic* belong to both machines: the operation is the same bit for bit, only the operands differ. Every
NaN result has the bits 0x7fc00000, and subnormal numbers are kept. `isa/semantics.py` and, in plain NumPy,
`isa/replica.py` are the definition.
"""


def _form(op: Op, dialect: str) -> str:
    """The row as it is written, e.g. LDG.<width> dst, [a + base + offset]."""
    mnemonic = ".".join([op.name, *(f"<{f.name}>" for f in suffix_fields(op, dialect))])
    operands = [f"[{' + '.join(f.name for f in group)}]" if len(group) > 1 else group[0].name
                for group in address_groups(op, dialect)]
    return f"`{mnemonic} {', '.join(operands)}`".replace(" `", "`")


def _bits(op: Op, dialect: str) -> str:
    at, parts = (8 if dialect == "lpu" else 12), []
    for field in op.fields(dialect):
        parts.append(f"{field.name} {at}" if field.bits == 1 else f"{field.name} {at}-{at + field.bits - 1}")
        at += field.bits
    return ", ".join(parts) or "none"


def _table(title: str, rows: list[tuple[Op, str]]) -> list[str]:
    out = [f"## {title}", "", "| code | form | meaning | types | unit | bits |", "|---|---|---|---|---|---|"]
    for op, dialect in rows:
        types = " ".join(TYPES[t] for t in op.types) if len(op.types) < len(TYPES) else "all"
        meaning = op.doc.replace("|", "\\|")
        out.append(f"| 0x{op.code:02x} | {_form(op, dialect)} | {meaning} | {types} | {UNITS[op.unit]} | "
                   f"{_bits(op, dialect)} |")
    return [*out, ""]


def _kinds() -> list[str]:
    """Kinds of operands, with the fields that have them."""
    used: dict[Kind, set[str]] = {}
    for op in OPS:
        for field in (*(op.lpu or ()), *(op.gpu or ())):
            used.setdefault(field.kind, set()).add(_width(field))
    values = {Kind.TYPE: TYPES, Kind.CMP: COMPARISONS, Kind.WIDTH: tuple(map(str, WIDTHS)), Kind.SPECIAL: SPECIALS}
    out = ["## Operand kinds", "", "| kind | what it holds | bits | values, from 0 |", "|---|---|---|---|"]
    for kind in Kind:
        if kind in used:
            bits = ", ".join(sorted(used[kind], key=int))
            suffix = " (suffix)" if kind in SUFFIXES else ""
            out.append(f"| {kind.name}{suffix} | {kind.value} | {bits} | {' '.join(values.get(kind, ()))} |")
    return [*out, ""]


def _width(field: Field) -> str:
    return str(field.bits)


def document() -> str:
    """The whole page."""
    both = [op for op in OPS if op.lpu is not None and op.gpu is not None]
    lpu = [(op, "lpu") for op in OPS if op.gpu is None]
    gpu = [(op, "gpu") for op in OPS if op.lpu is None]
    lines = [HEAD, *_table("LPU", lpu), *_table("Arithmetic, as the LPU writes it", [(op, "lpu") for op in both]),
             *_table("Arithmetic, as the GPU writes it", [(op, "gpu") for op in both]), *_table("GPU", gpu), *_kinds()]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it; 1 when it is stale."""
    if arguments == ["--check"]:
        current = PATH.is_file() and PATH.read_text(encoding="utf-8") == document()
        if not current:
            print(f"{PATH.name} is stale: run python -m isa.document", file=sys.stderr)
        return 0 if current else 1
    if arguments:
        print("usage: python -m isa.document [--check]", file=sys.stderr)
        return 2
    PATH.write_text(document(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
