"""Rows of weights in shared memory, crosswise: copies are whole lines, and LDSM is free of bank conflicts.

A stage of a row is 32, 64 or 128 bytes. Unit u (16 bytes) of row r lies at place u XOR key of its row,
where the key goes up from line to line of 128 bytes: eight rows that LDSM reads at a time lie in all banks.
"""

from __future__ import annotations

from dataclasses import dataclass

from isa.builder import Kernel, Reg
from programs.gpu.kernels.common import constant
from programs.gpu.plan import KSTEP_BYTES, TILE_ROWS, ceil_div


@dataclass(frozen=True)
class Swizzle:
    """Rows of `ksteps` k-steps (1, 2 or 4) of 32 bytes."""

    ksteps: int

    @property
    def units(self) -> int:
        """Units of a row; a power of two."""
        return 2 * self.ksteps

    @property
    def copy_rows(self) -> int:
        """Rows that the 32 lanes of one copy take."""
        return 32 // self.units

    def key(self, k: Kernel, key: Reg, row: Reg) -> None:
        """key = what the units' numbers of a row are turned by. key may be row."""
        k.SHR(key, row, (8 // self.units).bit_length() - 1)
        k.ANDI("s32", key, key, self.units - 1)

    def unit(self, k: Kernel, offset: Reg, row: Reg, lane: Reg) -> None:
        """offset = byte in its row's stage of what this lane copies, into place lane % units."""
        self.key(k, offset, row)
        k.XOR("s32", offset, offset, lane)
        k.ANDI("s32", offset, offset, self.units - 1)
        k.SHL(offset, offset, 4)

    def sources(self, k: Kernel, lane: Reg, rows: int, pitch: int) -> list[Reg]:
        """Offset from the first row for every copy of `rows` rows, which lie `pitch` bytes apart."""
        found = []
        row, unit = k.reg("row"), k.reg("unit")
        k.comment("where a lane's copies come from")
        for i in range(ceil_div(rows, self.copy_rows)):
            at = k.reg(f"source{i}")
            k.SHR(row, lane, self.units.bit_length() - 1)
            k.ADDI("s32", row, row, self.copy_rows * i)
            self.unit(k, unit, row, lane)
            k.MULI("s32", at, row, pitch)
            k.ADD("s32", at, at, unit)
            found.append(at)
        k.free(row, unit)
        return found

    def fragments(self, k: Kernel, lane: Reg) -> list[Reg]:
        """Offset of this lane's row of an A fragment (row lane % 16, unit lane / 16), for each k-step of a stage."""
        base, key = k.reg("row"), k.reg("key")
        k.ANDI("s32", base, lane, TILE_ROWS - 1)
        self.key(k, key, base)
        k.MULI("s32", base, base, self.ksteps * KSTEP_BYTES)
        half = k.reg("half")
        k.SHR(half, lane, 4)
        k.XOR("s32", key, key, half)
        k.SHL(key, key, 4)
        k.ADD("s32", base, base, key)
        k.free(key, half)
        found = []
        for step in range(self.ksteps):
            at, flip = k.reg(f"fragment{step}"), constant(k, "flip", step * KSTEP_BYTES)
            k.XOR("s32", at, base, flip)
            k.free(flip)
            found.append(at)
        k.free(base)
        return found
