"""How each kind of operand is written: one table from Kind to its reader and its writer.

Fields of kind TYPE, CMP and WIDTH are suffixes of the mnemonic (CVT.s8.f32); the others follow it,
with commas. The address of a GPU memory instruction is one operand in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from isa import validate
from isa.lexer import Line, Token, nearest
from isa.opcodes import (
    ALU_BASE,
    COMPARISONS,
    F32,
    NO_STREAM,
    PT,
    RZ,
    SPECIALS,
    TYPES,
    UNIFORM,
    URZ,
    WEST,
    WIDTHS,
    Field,
    Kind,
    Op,
)

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    Kind.TYPE: TYPES, Kind.CMP: COMPARISONS, Kind.WIDTH: tuple(str(w) for w in WIDTHS)}
_STREAM = re.compile(r"S(\d+)\.([EW])")
_ALU = re.compile(r"A(\d+)")
_REGISTER = re.compile(r"(R|UR|P)(\d+)")
_LIMITS = {"R": RZ, "UR": URZ, "P": PT}  # one more than the last number
_ZEROS = {"RZ": RZ, "URZ": URZ, "PT": PT}


@dataclass
class Scope:
    """Names that operands may use."""

    constants: dict[str, int] = field(default_factory=dict)
    registers: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # name -> (R, UR or P; first; count)
    parameters: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)  # LPU data: first word address
    maps: dict[str, int] = field(default_factory=dict)
    targets: list[tuple[Line, Token]] = field(default_factory=list)  # labels used by the current instruction


def suffix_fields(op: Op, dialect: str) -> list[Field]:
    return [f for f in op.fields(dialect) if f.kind in SUFFIXES]


def address_groups(op: Op, dialect: str) -> list[list[Field]]:
    """The operands of a row as they are written: one field each, or an address of several."""
    groups: list[list[Field]] = []
    rest = [f for f in op.fields(dialect) if f.kind not in SUFFIXES]
    names = [f.name for f in rest]
    while rest:
        size = 1
        if names[:2] in (["dst", "dst_offset"], ["bar", "bar_offset"]):
            size = 2
        elif names[0] in ("a", "base") and "offset" in names:
            size = names.index("offset") + 1
        groups.append(rest[:size])
        rest, names = rest[size:], names[size:]
    return groups


# -- reading ----------------------------------------------------------------------------------
def read_suffixes(line: Line, op: Op, dialect: str, token: Token) -> dict[str, int]:
    """Values of the suffix fields of a mnemonic token such as CVT.s8.f32."""
    given = token.text.split(".")[1:]
    wanted = suffix_fields(op, dialect)
    if len(given) != len(wanted):
        form = ".".join([op.name, *(f"<{f.name}>" for f in wanted)])
        raise line.error(f"{op.name} is written {form}", token)
    values = {}
    for text, f in zip(given, wanted, strict=True):
        choices = SUFFIXES[f.kind]
        if f.kind is Kind.TYPE:
            choices = tuple(TYPES[t] for t in op.types)
        by_case = {c.lower(): c for c in choices}
        if text.lower() not in by_case:
            raise line.error(f"{op.name} has no {f.name} {text}; it can be {', '.join(choices)}", token)
        values[f.name] = SUFFIXES[f.kind].index(by_case[text.lower()])
    return values


def read_operands(line: Line, op: Op, dialect: str, scope: Scope, given: dict[str, int]) -> list[int]:
    """Raw values of every field of a row, in row order. `given` holds those already known."""
    values = dict(given)
    is_float = values.get("type") == F32
    scope.targets.clear()
    groups = [g for g in address_groups(op, dialect) if g[0].name not in given]
    for i, group in enumerate(groups):
        if i:
            _comma(line, op, groups, i)
        if len(group) > 1:
            values.update(_read_address(line, group, scope))
        else:
            values[group[0].name] = _read_one(line, op, group[0], scope, is_float)
    return [values[f.name] for f in op.fields(dialect)]


def _comma(line: Line, op: Op, groups: list[list[Field]], i: int) -> None:
    if not line.accept(","):
        missing = ", ".join("[" + " + ".join(f.name for f in g) + "]" if len(g) > 1 else g[0].name for g in groups[i:])
        raise line.error(f"{op.name} also needs {missing}", line.peek())


def _read_one(line: Line, op: Op, f: Field, scope: Scope, is_float: bool) -> int:
    token = line.peek()
    value = _read_bits(line, scope, is_float) if f.kind is Kind.BITS32 else READERS[f.kind](line, f, scope)
    if f.kind in (Kind.UINT, Kind.INT, Kind.ADDR, Kind.MAP):
        low, high = (-(1 << (f.bits - 1)), (1 << (f.bits - 1)) - 1) if f.kind is Kind.INT else (0, (1 << f.bits) - 1)
        if not low <= value <= high:
            raise line.error(f"{op.name}: {f.name} = {value} is not in {low} to {high}", token)
    allowed = validate.ALLOWED.get((op.name, f.name))
    if allowed is not None and value not in allowed:
        raise line.error(f"{op.name}: {f.name} is one of {', '.join(map(str, allowed))}, not {value}", token)
    return value


def _read_integer(line: Line, f: Field, scope: Scope) -> int:
    token = line.peek()
    if f.name == "param" and token.text in scope.parameters:
        return scope.parameters[line.next().text]
    return line.integer(scope.constants)


def _read_bits(line: Line, scope: Scope, is_float: bool) -> int:
    token = line.peek()
    if is_float and token.text[:2] not in ("0x", "0X") and token.text not in scope.constants:
        with np.errstate(over="ignore"):
            single = np.float32(line.real())
        return 0x7FC00000 if np.isnan(single) else int(single.view(np.uint32))
    value = line.integer(scope.constants)
    if is_float and token.text in scope.constants:
        return int(np.float32(value).view(np.uint32))
    if not -(1 << 31) <= value < 1 << 32:
        raise line.error(f"{value} does not fit 32 bits", token)
    return value & 0xFFFFFFFF


def _read_stream(line: Line, f: Field, scope: Scope) -> int:
    token = line.next()
    match = _STREAM.fullmatch(token.text)
    if match is None or int(match[1]) >= WEST:
        raise line.error(f"expected a stream (S0.E to S31.W) instead of {Line.describe(token)}", token)
    return int(match[1]) + (WEST if match[2] == "W" else 0)


def _read_vxm_source(line: Line, f: Field, scope: Scope) -> int:
    match = _ALU.fullmatch(line.peek().text)
    if match is None:
        return _read_stream(line, f, scope)
    token = line.next()
    if int(match[1]) > 15:
        raise line.error(f"there is no ALU {token.text}; they are A0 to A15", token)
    return ALU_BASE + int(match[1])


def _read_vxm_result(line: Line, f: Field, scope: Scope) -> int:
    if line.accept("_"):
        return NO_STREAM
    return _read_stream(line, f, scope)


def _read_word(line: Line, f: Field, scope: Scope) -> int:
    token = line.peek()
    if token.text in scope.addresses:
        line.next()
        return scope.addresses[token.text] + line.offset(scope.constants)
    known = {**scope.constants, **scope.addresses}
    if token.kind == "name" and token.text not in scope.constants:
        raise line.unknown("data", line.next(), known)
    return line.integer(scope.constants)


def _read_map(line: Line, f: Field, scope: Scope) -> int:
    token = line.peek()
    if token.kind == "name" and token.text not in scope.constants:
        line.next()
        if token.text not in scope.maps:
            raise line.unknown("map", token, scope.maps)
        return scope.maps[token.text]
    return line.integer(scope.constants)


def read_register(line: Line, scope: Scope, families: tuple[str, ...]) -> tuple[str, int]:
    """(family R, UR or P; number) of a register by number or by name, with an optional [index]."""
    token = line.next()
    match = _REGISTER.fullmatch(token.text)
    if token.text in scope.registers:
        family, number, count = scope.registers[token.text]
        if line.accept("["):
            index_token = line.peek()
            index = line.integer(scope.constants)
            if not 0 <= index < count:
                raise line.error(f"{token.text} has {count} registers, no number {index}", index_token)
            number += index
            line.expect("]")
    elif token.text in _ZEROS:
        number = _ZEROS[token.text]
        family = {RZ: "R", URZ: "UR", PT: "P"}[number]
    elif match is not None:
        family, number = match[1], int(match[2])
        if number >= _LIMITS[family]:
            raise line.error(f"there is no register {token.text}; the last is {family}{_LIMITS[family] - 1}", token)
    elif token.kind == "name":
        raise line.error(f"unknown register {token.text}{nearest(token.text, scope.registers)}", token)
    else:
        raise line.error(f"expected a register instead of {Line.describe(token)}", token)
    if family not in families:
        words = {"R": "a vector register", "UR": "a uniform register", "P": "a predicate"}
        wanted = " or ".join(words[f] for f in families)
        raise line.error(f"{token.text} is {words[family]}; expected {wanted}", token)
    return family, number


def _read_predicate(line: Line, f: Field, scope: Scope) -> int:
    return read_register(line, scope, ("P",))[1]


def _read_vector(line: Line, f: Field, scope: Scope) -> int:
    return read_register(line, scope, ("R",))[1]


def _read_uniform(line: Line, f: Field, scope: Scope) -> int:
    return read_register(line, scope, ("UR",))[1]


def _read_either(line: Line, f: Field, scope: Scope) -> int:
    family, number = read_register(line, scope, ("R", "UR"))
    return number + (UNIFORM if family == "UR" else 0)


def _read_special(line: Line, f: Field, scope: Scope) -> int:
    token = line.name("a special register")
    if token.text.upper() not in SPECIALS:
        raise line.unknown("special register", token, SPECIALS)
    return SPECIALS.index(token.text.upper())


def _read_target(line: Line, f: Field, scope: Scope) -> int:
    token = line.peek()
    if token.kind == "name" and token.text not in scope.constants:
        scope.targets.append((line, line.next()))
        return 0
    return line.integer(scope.constants)


READERS: dict[Kind, Callable[[Line, Field, Scope], int]] = {
    Kind.UINT: _read_integer, Kind.INT: _read_integer, Kind.SPECIAL: _read_special, Kind.TARGET: _read_target,
    Kind.STREAM: _read_stream, Kind.ADDR: _read_word, Kind.VSRC: _read_vxm_source, Kind.VDST: _read_vxm_result,
    Kind.MAP: _read_map, Kind.REG: _read_vector, Kind.RU: _read_either, Kind.UREG: _read_uniform,
    Kind.PRED: _read_predicate,
}


def _read_address(line: Line, group: list[Field], scope: Scope) -> dict[str, int]:
    """[register + uniform + offset], in any order; what is left out is zero."""
    opening = line.expect("[")
    registers = {f.kind: f.name for f in group if f.kind in (Kind.REG, Kind.UREG)}
    offset = group[-1]
    found: dict[str, int] = {}
    total = 0
    sign = 1
    while True:
        token = line.peek()
        if token.kind == "name" and token.text not in scope.constants:
            family, number = read_register(line, scope, ("R", "UR"))
            name = registers.get(Kind.REG if family == "R" else Kind.UREG)
            if name is None or name in found or sign < 0:
                kind = "vector" if family == "R" else "uniform"
                many = "only one" if name in found else "no"
                raise line.error(f"this address takes {many} {kind} register" if sign > 0
                                 else "a register cannot be subtracted", token)
            found[name] = number
        else:
            total += sign * line.product(scope.constants)
        if line.accept("]"):
            break
        sign = -1 if line.peek().text == "-" else 1
        if not line.accept("+") and not line.accept("-"):
            raise line.error(f"expected + or ] instead of {Line.describe(line.peek())}", line.peek())
    low, high = -(1 << (offset.bits - 1)), (1 << (offset.bits - 1)) - 1
    if not low <= total <= high:
        raise line.error(f"offset {total} is not in {low} to {high}", opening)
    for f in group[:-1]:
        found.setdefault(f.name, RZ if f.kind is Kind.REG else URZ)
    found[offset.name] = total
    return found


# -- writing ----------------------------------------------------------------------------------
def _write_stream(value: int) -> str:
    return f"S{value % WEST}.{'W' if value >= WEST else 'E'}"


def _write_register(prefix: str, zero: int) -> Callable[[int], str]:
    name = {v: k for k, v in _ZEROS.items()}[zero]
    return lambda value: name if value == zero else f"{prefix}{value}"


_write_vector, _write_uniform = _write_register("R", RZ), _write_register("UR", URZ)

WRITERS: dict[Kind, Callable[[int], str]] = {
    Kind.UINT: str, Kind.INT: str, Kind.ADDR: str, Kind.MAP: str, Kind.TARGET: lambda v: f"L{v}",
    Kind.SPECIAL: lambda v: SPECIALS[v], Kind.STREAM: _write_stream,
    Kind.VSRC: lambda v: f"A{v - ALU_BASE}" if v >= ALU_BASE else _write_stream(v),
    Kind.VDST: lambda v: "_" if v == NO_STREAM else _write_stream(v),
    Kind.REG: _write_vector, Kind.UREG: _write_uniform, Kind.PRED: _write_register("P", PT),
    Kind.RU: lambda v: _write_uniform(v - UNIFORM) if v >= UNIFORM else _write_vector(v),
}


def write_float(bits: int) -> str:
    """The shortest number that reads back as these f32 bits, or the bits of an odd NaN."""
    single = np.uint32(bits).view(np.float32)
    if np.isnan(single):
        return "nan" if bits == 0x7FC00000 else f"0x{bits:08x}"
    return np.format_float_scientific(single, unique=True, trim="-") if 0 < abs(single) < 1e-4 or abs(single) >= 1e7 \
        and np.isfinite(single) else str(single)


def write_instruction(op: Op, dialect: str, values: list[int]) -> str:
    """One instruction as assembly text, without guard and label. `values` are raw, in row order."""
    by_name = {f.name: v for f, v in zip(op.fields(dialect), values, strict=True)}
    mnemonic = ".".join([op.name, *(SUFFIXES[f.kind][by_name[f.name]] for f in suffix_fields(op, dialect))])
    operands = []
    for group in address_groups(op, dialect):
        if len(group) > 1:
            operands.append(_write_address(group, by_name))
        elif group[0].kind is Kind.BITS32:
            bits = by_name["imm"]
            operands.append(write_float(bits) if by_name.get("type") == F32 else str(bits - ((bits >> 31) << 32)))
        else:
            operands.append(WRITERS[group[0].kind](by_name[group[0].name]))
    return f"{mnemonic} {', '.join(operands)}".rstrip()


def _write_address(group: list[Field], values: dict[str, int]) -> str:
    zero = {Kind.REG: RZ, Kind.UREG: URZ}
    parts = [WRITERS[f.kind](values[f.name]) for f in group[:-1] if values[f.name] != zero[f.kind]]
    offset = values[group[-1].name]
    if offset or not parts:
        parts.append(str(offset))
    return "[" + " + ".join(parts).replace("+ -", "- ") + "]"
