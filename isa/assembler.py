"""Assembly text -> Program. The syntax is in docs/assembly.md; operands are in isa/operands.py.

    program = assemble(text, target_for)          # or assemble_file(path, target_for)

target_for(chip_name) gives a Target: what the assembler must know of a chip. This floor knows no
chips, so the caller looks them up; for an LPU it hands over its columns and delays (LpuGeometry).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from isa import expressions, literals, validate
from isa.lexer import AssemblyError, Line
from isa.operands import Scope
from isa.program import ROLES, Expectation, Program, Tensor

TEXT_BYTES_MAX = 1 << 28


class LpuGeometry(Protocol):
    """What the assembler asks of an LPU. Columns are signed, west is negative; delays are cycles."""

    @property
    def lanes(self) -> int: ...
    @property
    def words_per_slice(self) -> int: ...
    @property
    def slices_per_hemisphere(self) -> int: ...
    @property
    def gather(self) -> int: ...
    @property
    def result_column(self) -> int: ...
    @property
    def large_alus(self) -> frozenset[int]: ...
    @property
    def queue_names(self) -> tuple[str, ...]: ...
    @property
    def column(self) -> tuple[int, ...]: ...
    def queue(self, name: str) -> int: ...
    def vxm_delay(self, op: str, chained: bool) -> int: ...
    def sxm_delay(self, op: str, n: int = 0) -> int: ...


@dataclass(frozen=True)
class Target:
    """A chip as the assembler sees it."""

    dialect: str  # "lpu" or "gpu"
    chip: str
    hash: str
    geometry: LpuGeometry | None = None  # LPU only


@dataclass
class Common:
    """What both dialects share while a file is read."""

    file: str
    lines: list[str]
    folder: Path | None
    blobs: Mapping[str, np.ndarray]
    target_for: Callable[[str], Target]
    target: Target | None = None
    chip_hash: str = ""
    dialect: str = ""
    scope: Scope = field(default_factory=Scope)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # as stored, for data expressions
    expectations: list[Expectation] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    places: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)

    def new_name(self, line: Line, what: str) -> str:
        """A name for data that nothing else has."""
        token = line.name(f"a name for the {what}")
        if "." in token.text:
            raise line.error(f"a name has letters, digits and _, not {token.text}", token)
        if token.text in self.tensors or token.text in self.scope.constants or token.text in self.scope.maps:
            raise line.error(f"{token.text} is defined twice", token)
        return token.text

    def blob(self, line: Line) -> np.ndarray:
        """An array kept beside the text, by its hash."""
        token = line.next()
        if token.text not in self.blobs:
            raise line.error(f"there is no array {token.text} beside this text", token)
        return self.blobs[token.text]


def assemble_file(path: str | Path, target_for: Callable[[str], Target]) -> Program:
    """Assemble a .s file; arrays that a disassembly left in PATH.npz are found there.

    Raises AssemblyError, OSError when the file cannot be read, ProgramFileError for a bad PATH.npz.
    """
    from isa.disassembler import blobs_path
    from isa.programfile import load_arrays

    path = Path(path)
    if path.stat().st_size > TEXT_BYTES_MAX:
        raise AssemblyError(str(path), 1, 1, "the file is too large for assembly text")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise AssemblyError(str(path), 1, 1, "the file is not UTF-8 text") from None
    beside = blobs_path(path)
    blobs = load_arrays(beside) if beside.is_file() else {}
    return assemble(text, target_for, str(path), path.parent, blobs)


def assemble(text: str, target_for: Callable[[str], Target], file: str = "<text>", folder: Path | None = None,
             blobs: Mapping[str, np.ndarray] | None = None) -> Program:
    """The Program of assembly text. Raises AssemblyError with file, line and column.

    folder: where `.data` may find .npy files (None: nowhere). blobs: arrays by hash, as disassembly gives them.
    """
    from isa.assemble_gpu import GpuAssembler
    from isa.assemble_lpu import LpuAssembler

    lines = text.splitlines()
    common = Common(file, lines, folder, blobs or {}, target_for)
    machine: LpuAssembler | GpuAssembler | None = None
    line = Line(file, 1, "")
    for number, raw in enumerate(lines, start=1):
        if raw.startswith(".meta "):  # JSON is not made of our tokens
            _meta(common, Line(file, number, ""), raw)
            continue
        line = Line(file, number, raw)
        if line.done:
            continue
        token = line.peek()
        if token.text in HEADER:
            line.next()
            HEADER[token.text](common, line)
            line.finish()
            continue
        if machine is None:
            if common.target is None:
                raise line.error("a program begins with .chip NAME", token)
            machine = LpuAssembler(common) if common.dialect == "lpu" else GpuAssembler(common)
        if token.kind != "directive":
            machine.statement(line)
        else:
            line.next()
            directive = machine.directives.get(token.text) or COMMON.get(token.text)
            if directive is None:
                raise line.unknown("directive", token, [*HEADER, *COMMON, *machine.directives])
            directive(common, line) if token.text in COMMON else directive(line)  # type: ignore[call-arg, arg-type]
        line.finish()
    if common.target is None:
        raise line.error("a program begins with .chip NAME", line.peek())
    if machine is None:
        machine = LpuAssembler(common) if common.dialect == "lpu" else GpuAssembler(common)
    texts, images = machine.finish()
    _check_expectations(common)
    program = Program(
        dialect=common.dialect, chip=common.target.chip, chip_hash=common.chip_hash, texts=texts, images=images,
        chips=common.places or [(0, 0, ())], tensors=common.tensors, expectations=common.expectations,
        meta=common.meta)
    geometry = common.target.geometry
    try:
        validate.check_program(program, len(geometry.queue_names) if geometry else None,
                               geometry.lanes if geometry else None)
    except validate.InvalidText as error:
        raise AssemblyError(file, len(lines), 1, str(error)) from None
    return program


def _check_expectations(common: Common) -> None:
    for expectation in common.expectations:
        line = Line(common.file, expectation.line, common.lines[expectation.line - 1])
        known = set(common.tensors)
        if expectation.name not in known and expectation.name != "cycles":
            raise line.unknown("data", line.tokens[1], known)
        if isinstance(expectation.values, str):
            for name in sorted(expressions.names(expectation.values) - known):
                raise line.error(f"there is no data {name}", line.tokens[2])


# -- directives of both machines --------------------------------------------------------------
def _dialect(common: Common, line: Line) -> None:
    token = line.name("lpu or gpu")
    if token.text not in ("lpu", "gpu"):
        raise line.unknown("dialect", token, ("lpu", "gpu"))
    if common.dialect not in ("", token.text):
        raise line.error(f"the chip {common.target.chip if common.target else ''} is a {common.dialect}", token)
    common.dialect = token.text


def _chip(common: Common, line: Line) -> None:
    token = line.name("a chip name")
    if common.target is not None:
        raise line.error("a program has one .chip", token)
    try:
        common.target = common.target_for(token.text)
    except ValueError as error:
        raise line.error(str(error), token) from None
    if common.dialect not in ("", common.target.dialect):
        raise line.error(f"{token.text} is not a chip of the {common.dialect} dialect", token)
    common.dialect = common.target.dialect
    common.chip_hash = common.target.hash
    if line.accept("hash"):
        common.chip_hash = line.next().text.strip('"')


def _const(common: Common, line: Line) -> None:
    name = common.new_name(line, "constant")
    line.expect("=")
    common.scope.constants[name] = line.integer(common.scope.constants)


def _meta(common: Common, line: Line, text: str) -> None:
    try:
        value = json.loads(text[len(".meta "):])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AssemblyError(line.file, line.number, len(".meta ") + 1, ".meta takes a JSON object", text)
    common.meta.update(value)


def _expect(common: Common, line: Line) -> None:
    name = read_symbol(line, "cycles or the name of data")
    values: Any
    if name == "cycles":
        common.expectations.append(Expectation(name, line.integer(common.scope.constants), 0.0, line.number))
        return
    token = line.peek()
    if token.text == "(":
        values, opening = line.group_text("(", ")")
        values = values.strip()
        try:
            expressions.parse(values)
        except expressions.ExpressionError as error:
            raise line.error(str(error), opening) from None
    elif token.kind == "string":
        values = literals.read_file(line, common.folder).reshape(-1).tolist()
    elif token.text == "[":
        values = literals.read_list(line)
    else:
        raise line.error(f'expected values: [numbers], (expression) or "file.npy", not {line.describe(token)}', token)
    tolerance = 0.0 if line.done else line.real()
    common.expectations.append(Expectation(name, values, tolerance, line.number))


def _place(common: Common, line: Line) -> None:
    """.place TEXT IMAGE (coordinates): one chip of the system."""
    constants = common.scope.constants
    text, image = line.integer(constants), line.integer(constants)
    common.places.append((text, image, read_integers(common, line)))


def _system(common: Common, line: Line) -> None:
    """.system NAME: the layout that joins the chips."""
    common.meta["system"] = line.name("the name of a system").text


def read_integers(common: Common, line: Line) -> tuple[int, ...]:
    """(number, number, ...)"""
    line.expect("(")
    numbers = []
    while not line.accept(")"):
        numbers.append(line.integer(common.scope.constants))
        if line.peek().text != ")":
            line.expect(",")
    return tuple(numbers)


def read_chips(common: Common, line: Line, tensor: Tensor) -> bool:
    """[chips (rows of the table of chips)]: where a tensor lies when there are several; whether it was there."""
    given = line.accept("chips")
    if given:
        tensor.chips = read_integers(common, line)
    return given


def read_symbol(line: Line, what: str) -> str:
    """A name that a compiler may have made: dotted, or anything in quotes."""
    return line.next().text[1:-1] if line.peek().kind == "string" else line.name(what).text


def read_tensor(common: Common, line: Line) -> Tensor:
    """.tensor NAME FORMAT [rows, columns] ROLE [phantom] [replicated] [chips (..) [sharded]]: data of an image."""
    token = line.peek()
    name = read_symbol(line, "a name for the tensor")
    if name in common.tensors:
        raise line.error(f"{name} is defined twice", token)
    dtype = literals.read_format(line)
    shape = literals.read_shape(line, common.scope.constants)
    token = line.name("a role")
    if token.text not in ROLES:
        raise line.unknown("role", token, ROLES)
    tensor = Tensor(name, dtype, shape, token.text)
    tensor.phantom = line.accept("phantom")
    tensor.replicated = line.accept("replicated")
    tensor.sharded = read_chips(common, line, tensor) and line.accept("sharded")
    common.tensors[name] = tensor
    return tensor


HEADER: dict[str, Callable[[Common, Line], None]] = {".dialect": _dialect, ".chip": _chip, ".const": _const}
COMMON: dict[str, Callable[[Common, Line], None]] = {
    ".expect": _expect, ".place": _place, ".system": _system}
