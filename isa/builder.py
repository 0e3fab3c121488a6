"""A small builder for GPU kernels: named registers, labels, one method call an instruction.

    k = Kernel("scale", parameters=("x", "y"))
    x, y = k.parameter("x"), k.parameter("y")
    offset, value = k.reg("offset"), k.reg("value")
    k.S2R(offset, "LANEID")
    k.SHL(offset, offset, 2)
    k.LDG(32, value, offset, x, 0)
    k.MULI("f32", value, value, 0.5)
    k.STG(32, offset, y, 0, value)
    k.EXIT()

A method is a mnemonic of isa.opcodes, its arguments the row's operands in row order; `guard=p`
or `guard=~p` predicates it. The rows are checked and encoded as they are written, and `lines`
is the same kernel as ordinary assembly.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from isa.disassembler import instruction_text
from isa.encoding import ALWAYS, decode, encode
from isa.opcodes import BY_NAME, COMPARISONS, F32, PT, RZ, SPECIALS, TYPES, UNIFORM, URZ, WIDTHS, Kind, Op

PARAMETERS_MAX = 64


class BuilderError(ValueError):
    """A kernel that cannot be built; the message names the kernel and what was asked of it."""


@dataclass(frozen=True)
class Reg:
    """`count` consecutive vector registers; r[i] is the i-th of them."""

    index: int
    count: int = 1
    name: str = ""

    def __getitem__(self, i: int) -> Reg:
        if not 0 <= i < self.count:
            raise IndexError(f"{self.name or 'register'} has {self.count} registers, no number {i}")
        return Reg(self.index + i, 1, self.name)

    def part(self, first: int, count: int) -> Reg:
        """Registers first .. first + count - 1 of this group."""
        if not 0 <= first <= first + count <= self.count:
            raise IndexError(f"{self.name or 'register'} has {self.count} registers, not {first}..{first + count - 1}")
        return Reg(self.index + first, count, self.name)


@dataclass(frozen=True)
class UReg:
    """A uniform register: one 64-bit value a warp."""

    index: int
    name: str = ""


@dataclass(frozen=True)
class Pred:
    """A predicate register; ~p is its negation, usable as a guard only."""

    index: int
    negated: bool = False
    name: str = ""

    def __invert__(self) -> Pred:
        return Pred(self.index, not self.negated, self.name)


ZERO = Reg(RZ)
UZERO = UReg(URZ)


class _Pool:
    """First-fit allocation of numbered registers."""

    def __init__(self, size: int, what: str, kernel: str) -> None:
        self.used = [False] * size
        self.what, self.kernel = what, kernel
        self.high = 0

    def take(self, count: int, align: int, name: str) -> int:
        for start in range(0, len(self.used) - count + 1, align):
            if not any(self.used[start:start + count]):
                self.used[start:start + count] = [True] * count
                self.high = max(self.high, start + count)
                return start
        raise BuilderError(f"kernel {self.kernel}: no {count} free {self.what} for {name}")

    def give(self, start: int, count: int) -> None:
        self.used[start:start + count] = [False] * count


class Kernel:
    """One kernel under construction. See the module's head."""

    def __init__(self, name: str, parameters: tuple[str, ...] = ()) -> None:
        if len(parameters) > PARAMETERS_MAX:
            raise BuilderError(f"kernel {name}: {len(parameters)} parameters, at most {PARAMETERS_MAX}")
        self.name = name
        self.parameters = parameters
        self._rows: list[tuple[Op, list[Any], int]] = []
        self._labels: dict[str, int] = {}
        self._comments: dict[int, str] = {}
        self._regs = _Pool(RZ, "vector registers", name)
        self._uregs = _Pool(URZ, "uniform registers", name)
        self._preds = _Pool(PT, "predicates", name)
        self._fresh = 0

    # -- registers ---------------------------------------------------------------------------
    def reg(self, name: str, count: int = 1) -> Reg:
        """`count` consecutive vector registers, aligned to 2 or 4 as wide accesses like them."""
        align = 1 if count == 1 else 2 if count == 2 else 4
        return Reg(self._regs.take(count, align, name), count, name)

    def ureg(self, name: str) -> UReg:
        """A uniform register."""
        return UReg(self._uregs.take(1, 1, name), name)

    def pred(self, name: str) -> Pred:
        """A predicate register."""
        return Pred(self._preds.take(1, 1, name), False, name)

    def free(self, *registers: Reg | UReg | Pred) -> None:
        """Give registers back to the pool."""
        for register in registers:
            if isinstance(register, Reg):
                self._regs.give(register.index, register.count)
            elif isinstance(register, UReg):
                self._uregs.give(register.index, 1)
            else:
                self._preds.give(register.index, 1)

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Every register taken inside is free again afterwards."""
        pools = (self._regs, self._uregs, self._preds)
        saved = [list(pool.used) for pool in pools]
        yield
        for pool, used in zip(pools, saved, strict=True):
            pool.used = used

    def parameter(self, name: str) -> UReg:
        """A fresh uniform register that holds a kernel parameter (emits LDP)."""
        register = self.ureg(name)
        self.LDP(register, self.parameters.index(name))
        return register

    # -- instructions ------------------------------------------------------------------------
    def __getattr__(self, mnemonic: str) -> Callable[..., None]:
        op = BY_NAME.get(mnemonic)
        if op is None or op.gpu is None:
            raise AttributeError(f"{mnemonic} is not an instruction of the gpu dialect")
        found = op

        def emit(*operands: Any, guard: Pred | None = None) -> None:
            fields = found.fields("gpu")
            if len(operands) != len(fields):
                names = ", ".join(f.name for f in fields)
                raise BuilderError(f"kernel {self.name}: {mnemonic} takes ({names}), got {len(operands)} operands")
            bits = ALWAYS if guard is None else guard.index | guard.negated << 3
            self._rows.append((found, list(operands), bits))

        return emit

    def label(self, name: str) -> str:
        """Mark the next instruction; branches name it."""
        if name in self._labels:
            raise BuilderError(f"kernel {self.name}: label {name} is defined twice")
        self._labels[name] = len(self._rows)
        return name

    def fresh(self, stem: str) -> str:
        """A label name that no other call has returned."""
        self._fresh += 1
        return f"{stem}_{self._fresh}"

    def comment(self, text: str) -> None:
        """A comment line before the next instruction of the listing."""
        at = len(self._rows)
        self._comments[at] = f"{self._comments[at]}; {text}" if at in self._comments else text

    # -- result ------------------------------------------------------------------------------
    @property
    def count(self) -> int:
        """Instructions so far."""
        return len(self._rows)

    @property
    def registers(self) -> int:
        """Vector registers a lane needs."""
        return max(self._regs.high, 1)

    def _raw(self, kind: Kind, value: Any) -> int:
        if kind is Kind.REG and isinstance(value, Reg):
            return value.index
        if kind is Kind.RU:
            return value.index if isinstance(value, Reg) else UNIFORM + value.index
        if kind in (Kind.UREG, Kind.PRED) and isinstance(value, UReg | Pred):
            return value.index
        if kind is Kind.TYPE:
            return TYPES.index(value) if isinstance(value, str) else value
        if kind is Kind.CMP:
            return COMPARISONS.index(value)
        if kind is Kind.WIDTH:
            return WIDTHS.index(value)
        if kind is Kind.SPECIAL:
            return SPECIALS.index(value)
        if kind is Kind.TARGET:
            if value not in self._labels:
                raise BuilderError(f"kernel {self.name}: no label {value}")
            return self._labels[value]
        if kind in (Kind.UINT, Kind.INT) and isinstance(value, int):
            return value
        raise BuilderError(f"kernel {self.name}: {value!r} is not a {kind.value}")

    def words(self) -> np.ndarray:
        """uint64 [n]: the encoded kernel. Raises ValueError or BuilderError for a bad operand."""
        words = np.zeros(len(self._rows), dtype=np.uint64)
        for i, (op, operands, guard) in enumerate(self._rows):
            values = []
            is_float = any(f.kind is Kind.TYPE and self._raw(f.kind, v) == F32
                           for f, v in zip(op.fields("gpu"), operands, strict=True))
            for field, value in zip(op.fields("gpu"), operands, strict=True):
                if field.kind is Kind.BITS32:
                    values.append(immediate_bits(value, is_float))
                else:
                    values.append(self._raw(field.kind, value))
            words[i] = encode("gpu", op, values, guard)
        return words

    def listing(self) -> tuple[list[str], list[int]]:
        """The kernel as assembly text, and the line of every instruction in it (from 0)."""
        names: dict[int, str] = {}
        for name, at in self._labels.items():
            names.setdefault(at, name)
        lines = [f".kernel {self.name}"]
        if self.parameters:
            lines.append(f".param {', '.join(self.parameters)}")
        lines.append(f".registers {self.registers}")
        line_of = []
        for i, word in enumerate(self.words()):
            if i in self._comments:
                lines.append(f"        ; {self._comments[i]}")
            if i in names:
                lines.append(f"{names[i]}:")
            op, _, values = decode("gpu", int(word))
            text = instruction_text("gpu", int(word))
            if op.fields("gpu") and op.fields("gpu")[-1].kind is Kind.TARGET:
                text = text[: text.rindex("L")] + names[values[-1]]
            line_of.append(len(lines))
            lines.append(f"        {text}")
        return lines, line_of


def immediate_bits(value: float, is_float: bool) -> int:
    """The 32 bits of an immediate: an f32 pattern for float rows, else two's complement."""
    if is_float:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    if not -(1 << 31) <= value < (1 << 32):
        raise ValueError(f"immediate {value} does not fit 32 bits")
    return int(value) & 0xFFFFFFFF
