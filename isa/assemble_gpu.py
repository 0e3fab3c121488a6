"""The GPU half of the assembler: data in global memory, kernels, launches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from isa import expressions, formats, literals
from isa.assembler import Common, read_symbol, read_tensor
from isa.encoding import ALWAYS, decode, encode
from isa.lexer import Line, Token
from isa.opcodes import BY_NAME, F32, PT, RZ, S32, URZ, Op
from isa.operands import read_operands, read_register, read_suffixes
from isa.program import GpuImage, GpuText, Kernel, Launch, Source, Tensor
from isa.validate import registers_used

ALIGNMENT = 256  # bytes; data begins at multiples of it
PARAMETERS_MAX = 64
_FAMILIES = {".reg": ("R", RZ, "vector registers"), ".ureg": ("UR", URZ, "uniform registers"),
             ".pred": ("P", PT, "predicates")}


@dataclass
class _Kernel:
    """A kernel while its lines are read."""

    name: str
    first: int
    complete: bool  # written with (parameters): gets LDPs and an EXIT
    parameters: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    branches: list[tuple[int, Line, Token]] = field(default_factory=list)  # word, where its label is named
    taken: dict[str, int] = field(default_factory=lambda: {"R": 0, "UR": 0, "P": 0})
    registers: int = 0


@dataclass
class _Launch:
    """A launch whose arguments wait for the addresses of data."""

    launch: Launch
    arguments: list[tuple[str, int]]  # (data name or "", offset)


class GpuAssembler:
    """Reads the statements of a GPU program; `finish` gives texts and images."""

    def __init__(self, common: Common) -> None:
        self.common = common
        self.data: list[tuple[Tensor, np.ndarray | None]] = []
        self.images: list[GpuImage] = []
        self.texts: list[GpuText] = []
        self.launches: list[_Launch] = []  # of every text
        self.directives = {
            ".data": self._data, ".phantom": self._phantom, ".kernel": self._kernel, ".param": self._param,
            ".reg": self._registers, ".ureg": self._registers, ".pred": self._registers,
            ".registers": self._reserve, ".launch": self._launch, ".tensor": self._tensor, ".image": self._image,
            ".text": self._text}
        self._begin_text()

    def _begin_text(self) -> None:
        self.words: list[int] = []
        self.lines: list[int] = []
        self.kernels: list[Kernel] = []
        self.first_launch = len(self.launches)
        self.open: _Kernel | None = None
        self.started = False

    # -- data --------------------------------------------------------------------------------
    def _data(self, line: Line) -> None:
        name = self.common.new_name(line, "data")
        dtype = literals.read_format(line)
        shape = literals.read_shape(line, self.common.scope.constants)
        values = literals.read_values(line, dtype, shape, self.common.folder, self.common.values)
        raw = formats.encode(np.zeros(shape) if values is None else values, dtype)
        self.common.values[name] = expressions.squeeze(formats.decode(raw, dtype))
        self._add(Tensor(name, dtype, shape, "output" if values is None else "activation"), raw)

    def _phantom(self, line: Line) -> None:
        name = self.common.new_name(line, "data")
        dtype = literals.read_format(line)
        shape = literals.read_shape(line, self.common.scope.constants)
        self._add(Tensor(name, dtype, shape, "weight", phantom=True), None)

    def _add(self, tensor: Tensor, raw: np.ndarray | None) -> None:
        tensor.pitch = tensor.shape[1] * tensor.itemsize
        self.common.tensors[tensor.name] = tensor
        self.data.append((tensor, raw))

    def _tensor(self, line: Line) -> None:
        tensor = read_tensor(self.common, line)
        constants = self.common.scope.constants
        line.expect("address")
        tensor.address = line.integer(constants)
        line.expect("pitch")
        tensor.pitch = line.integer(constants)

    def _image(self, line: Line) -> None:
        data = self.common.blob(line)
        constants = self.common.scope.constants
        line.expect("phantom")
        self.images.append(GpuImage(data, line.integer(constants), line.integer(constants)))

    def _place_data(self) -> GpuImage:
        """Addresses for all data: real ones first, then phantom ones."""
        at = 0
        for tensor, _ in sorted(self.data, key=lambda entry: entry[1] is None):
            tensor.address = at
            at = -(-(at + tensor.shape[0] * tensor.pitch) // ALIGNMENT) * ALIGNMENT
        real = [(t, raw) for t, raw in self.data if raw is not None]
        end = max((t.address + t.shape[0] * t.pitch for t, _ in real), default=0)
        end = -(-end // ALIGNMENT) * ALIGNMENT
        memory = np.zeros(end, dtype=np.uint8)
        for tensor, raw in real:
            content = formats.to_bytes(raw, tensor.dtype).reshape(-1)
            memory[tensor.address:tensor.address + len(content)] = content
        return GpuImage(memory, end, at - end)

    # -- kernels -----------------------------------------------------------------------------
    def _text(self, line: Line) -> None:
        if self.started or self.texts:
            self._finish_text()
            self._begin_text()
        self.started = True

    def _kernel(self, line: Line) -> None:
        self._close()
        self.started = True
        token = line.peek()
        name = read_symbol(line, "a name for the kernel")
        if name in [kernel.name for kernel in self.kernels]:
            raise line.error(f"kernel {name} is defined twice", token)
        complete = line.accept("(")
        self.open = _Kernel(name, len(self.words), complete)
        scope = self.common.scope
        scope.registers, scope.parameters = {}, {}
        if complete and not line.accept(")"):
            while True:
                self._new_parameter(line)
                if line.accept(")"):
                    break
                line.expect(",")
        for number, parameter in enumerate(self.open.parameters if complete else []):
            register = self._take(line, line.peek(), parameter, "UR", 1)
            self._emit(line, BY_NAME["LDP"], [register, number])

    def _current(self, line: Line, token: Token) -> _Kernel:
        if self.open is None:
            raise line.error("this belongs into a kernel; begin one with .kernel NAME", token)
        return self.open

    def _new_parameter(self, line: Line) -> None:
        kernel = self._current(line, line.peek())
        token = line.peek()
        name = read_symbol(line, "a parameter name")
        if name in kernel.parameters:
            raise line.error(f"parameter {name} is defined twice", token)
        if len(kernel.parameters) == PARAMETERS_MAX:
            raise line.error(f"a kernel has at most {PARAMETERS_MAX} parameters", token)
        self.common.scope.parameters[name] = len(kernel.parameters)
        kernel.parameters.append(name)

    def _param(self, line: Line) -> None:
        self._new_parameter(line)
        while line.accept(","):
            self._new_parameter(line)

    def _registers(self, line: Line) -> None:
        """.reg a, b[4], c = 0.0"""
        directive = line.tokens[0].text
        family = _FAMILIES[directive][0]
        kernel = self._current(line, line.tokens[0])
        while True:
            token = line.name("a register name")
            count = 1
            if family == "R" and line.accept("["):
                count = line.integer(self.common.scope.constants)
                line.expect("]")
                if not 1 <= count <= RZ:
                    raise line.error(f"{token.text} must have 1 to {RZ} registers", token)
            register = self._take(line, token, token.text, family, count)
            if family != "P" and line.accept("="):
                self._initialise(line, family, register, kernel)
            if not line.accept(","):
                break

    def _take(self, line: Line, token: Token, name: str, family: str, count: int) -> int:
        """Give a name the next free registers of a family; groups of 2 and 4 are aligned."""
        kernel = self._current(line, token)
        scope = self.common.scope
        _, limit, words = _FAMILIES[{"R": ".reg", "UR": ".ureg", "P": ".pred"}[family]]
        if name in scope.registers or "." in name:
            raise line.error(f"register {name} is defined twice" if "." not in name else f"{name} is not a name", token)
        align = 1 if count == 1 else 2 if count == 2 else 4
        first = -(-kernel.taken[family] // align) * align
        if first + count > limit:
            raise line.error(f"there are only {limit} {words}", token)
        kernel.taken[family] = first + count
        scope.registers[name] = (family, first, count)
        if family == "R":
            kernel.registers = max(kernel.registers, first + count)
        return first

    def _initialise(self, line: Line, family: str, register: int, kernel: _Kernel) -> None:
        """= value: a MOVI (f32 when it is written with a point or an exponent) or a UMOVI."""
        token = line.peek(1) if line.peek().text == "-" else line.peek()
        if family == "R" and token.kind == "number" and token.text[:2].lower() != "0x" and set(token.text) & set(".eE"):
            bits = int(np.float32(line.real()).view(np.uint32))
            self._emit(line, BY_NAME["MOVI"], [F32, register, bits])
            return
        value = line.integer(self.common.scope.constants)
        if not -(1 << 31) <= value < 1 << (31 if family == "UR" else 32):
            raise line.error(f"{value} does not fit 32 bits", token)
        if family == "R":
            self._emit(line, BY_NAME["MOVI"], [S32, register, value & 0xFFFFFFFF])
        else:
            self._emit(line, BY_NAME["UMOVI"], [register, value])

    def _reserve(self, line: Line) -> None:
        kernel = self._current(line, line.tokens[0])
        token = line.peek()
        count = line.integer(self.common.scope.constants)
        if not 1 <= count <= RZ:
            raise line.error(f"a kernel has 1 to {RZ} registers, not {count}", token)
        kernel.registers = max(kernel.registers, count)

    def _emit(self, line: Line, op: Op, values: list[int], guard: int = ALWAYS) -> None:
        assert self.open is not None
        self.words.append(encode("gpu", op, values, guard))
        self.lines.append(line.number - 1)
        self.open.registers = max(self.open.registers, registers_used(op, values))

    def statement(self, line: Line) -> None:
        """[label:] [@guard] INSTRUCTION operands"""
        kernel = self._current(line, line.peek())
        scope = self.common.scope
        while line.peek(1).text == ":":
            token = line.name("a label")
            if token.text in kernel.labels:
                raise line.error(f"label {token.text} is defined twice", token)
            kernel.labels[token.text] = len(self.words) - kernel.first
            line.expect(":")
        if line.done:
            return
        guard = ALWAYS
        if line.accept("@"):
            negated = line.accept("!")
            guard = read_register(line, scope, ("P",))[1] | negated << 3
        token = line.name("an instruction")
        op = BY_NAME.get(token.text.split(".")[0].upper())
        if op is None or op.gpu is None:
            raise line.unknown("instruction", token, [name for name, o in BY_NAME.items() if o.gpu is not None])
        given = read_suffixes(line, op, "gpu", token)
        values = read_operands(line, op, "gpu", scope, given)
        kernel.branches += [(len(self.words), at, label) for at, label in scope.targets]
        try:
            self._emit(line, op, values, guard)
        except ValueError as error:
            raise line.error(str(error), token) from None

    def _close(self) -> None:
        """End the open kernel: its EXIT, its branches, its row in the list."""
        kernel = self.open
        if kernel is None:
            return
        last = decode("gpu", self.words[-1])[:2] if len(self.words) > kernel.first else None
        falls_through = last is None or not (last[0].name in ("EXIT", "BRA") and last[1] == ALWAYS)
        ends = len(self.words) - kernel.first
        if kernel.complete and (falls_through or ends in kernel.labels.values()):
            self.words.append(encode("gpu", BY_NAME["EXIT"], []))
            self.lines.append(self.lines[-1] if self.lines else -1)
        for at, line, token in kernel.branches:
            if token.text not in kernel.labels:
                raise line.unknown("label", token, kernel.labels)
            op, guard, values = decode("gpu", self.words[at])
            names = [f.name for f in op.fields("gpu")]
            values[names.index("target")] = kernel.labels[token.text]
            self.words[at] = encode("gpu", op, values, guard)
        self.kernels.append(Kernel(kernel.name, kernel.first, len(self.words) - kernel.first, max(kernel.registers, 1),
                                   tuple(kernel.parameters)))
        self.open = None
        self.common.scope.registers, self.common.scope.parameters = {}, {}

    # -- launches ----------------------------------------------------------------------------
    def _launch(self, line: Line) -> None:
        """.launch KERNEL GRID BLOCK SHARED (arguments) [after ...] [node "name"]"""
        self._close()
        constants = self.common.scope.constants
        token = line.peek()
        name = read_symbol(line, "a kernel")
        names = [kernel.name for kernel in self.kernels]
        if name not in names:
            raise line.unknown("kernel", token, names)
        kernel = self.kernels[names.index(name)]
        size_token = line.peek()
        grid, block, shared = (line.integer(constants) for _ in range(3))
        if not 1 <= grid < 1 << 31:
            raise line.error(f"{grid} CTAs: a grid has at least one", size_token)
        if not 32 <= block <= 1024 or block % 32:
            raise line.error(f"{block} threads: a CTA has 32 to 1024, a multiple of 32", size_token)
        if not 0 <= shared < 1 << 31:
            raise line.error(f"{shared} bytes of shared memory", size_token)
        opening = line.expect("(")
        arguments: list[tuple[str, int]] = []
        while not line.accept(")"):
            arguments.append(self._argument(line))
            if line.peek().text != ")":
                line.expect(",")
        if len(arguments) != len(kernel.parameters):
            raise line.error(f"{name} takes {len(kernel.parameters)} arguments ({', '.join(kernel.parameters)}), "
                             f"not {len(arguments)}", opening)
        after = self._after(line)
        node = ""
        if line.accept("node"):
            node = read_symbol(line, "a graph node")
        self.launches.append(_Launch(Launch(names.index(name), grid, block, shared, (), after, node), arguments))

    def _argument(self, line: Line) -> tuple[str, int]:
        token = line.peek()
        constants = self.common.scope.constants
        symbol = token.text[1:-1] if token.kind == "string" else token.text
        if token.kind in ("name", "string") and symbol not in constants:
            if symbol not in self.common.tensors:
                raise line.unknown("data", token, [*self.common.tensors, *constants])
            line.next()
            name, value = symbol, line.offset(constants)
        else:
            name, value = "", line.integer(constants)
        if not -(1 << 63) <= value < (1 << 62 if name else 1 << 63):
            raise line.error(f"{value} does not fit 64 bits", token)
        return name, value

    def _after(self, line: Line) -> tuple[int, ...]:
        own = self.launches[self.first_launch:]
        if not line.accept("after"):
            return (len(own) - 1,) if own else ()
        if line.accept("none"):
            return ()
        after = []
        while not line.done and line.peek().text != "node":
            token = line.peek()
            if token.kind == "number":
                index = line.integer(self.common.scope.constants)
            else:
                name = read_symbol(line, "an earlier launch")
                of = [i for i, entry in enumerate(own) if self.kernels[entry.launch.kernel].name == name]
                if not of:
                    raise line.error(f"no earlier launch of {name}", token)
                index = of[-1]
            if not 0 <= index < len(own):
                raise line.error(f"launch {index} is not an earlier one; there are {len(own)} before this", token)
            after.append(index)
        return tuple(after)

    # -- result ------------------------------------------------------------------------------
    def _finish_text(self) -> None:
        self._close()
        none = np.full(len(self.words), -1)
        source = Source(np.array(self.lines, dtype=np.int32), none.astype(np.int32), none.astype(np.int16), [],
                        self.common.lines, self.common.file)
        self.texts.append(GpuText(np.array(self.words, dtype=np.uint64), self.kernels, [], source))
        self.texts[-1].launches.extend(entry.launch for entry in self.launches[self.first_launch:])

    def finish(self) -> tuple[list[GpuText], list[GpuImage]]:
        """Texts and images of the whole file."""
        self._finish_text()
        if self.data or not self.images:
            self.images.append(self._place_data())
        index = 0
        for text in self.texts:
            for i, launch in enumerate(text.launches):
                given = self.launches[index].arguments
                values = tuple((self.common.tensors[n].address if n else 0) + offset for n, offset in given)
                text.launches[i] = replace(launch, arguments=values)
                index += 1
        return self.texts, self.images

