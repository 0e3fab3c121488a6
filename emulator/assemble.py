"""Assembly files with the chips they name: the assembler's own floor knows no chips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emulator.chip import Chip, load_chip
from isa import assembler
from isa.assembler import Target
from isa.program import Program

ChipLoader = Callable[[str], Chip]


def assemble(source: str | Path, chip_for: ChipLoader = load_chip) -> Program:
    """The Program of a .s file, or of assembly text (a string with a line break).

    chip_for: gives the chip that the text names; default the bundled ones. Raises AssemblyError with
    file, line and column, ChipError for an unknown chip, OSError when the file cannot be read.
    """
    def target_for(name: str) -> Target:
        return target_of(chip_for(name))

    if isinstance(source, str) and "\n" in source:
        return assembler.assemble(source, target_for)
    return assembler.assemble_file(Path(source), target_for)


def target_of(chip: Chip) -> Target:
    """What the assembler must know of a chip: for an LPU its queues, columns and delays."""
    if chip.kind != "lpu":
        return Target(chip.kind, chip.name, chip.hash)
    from emulator.lpu.geometry import geometry

    return Target(chip.kind, chip.name, chip.hash, geometry(chip))
