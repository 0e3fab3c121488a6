"""The LPU half of the assembler: data in MEM slices, queues, and times into issue cycles."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from isa import expressions, formats, literals
from isa.assembler import Common, LpuGeometry, read_chips, read_tensor
from isa.encoding import encode
from isa.lexer import Line, Token
from isa.opcodes import ALU_BASE, BY_NAME, NO_STREAM, WEST, Kind, Op
from isa.operands import read_operands, read_suffixes
from isa.program import LpuImage, LpuText, Source, Tensor
from isa.timeline import QueueLate, Timeline

_SLICE = re.compile(r"([EW])(\d+)")
_TIMES = re.compile(r"x(\d+)")
CYCLE_MAX = 1 << 32  # of an `at`: about five seconds, 65,538 NOPs
_PRODUCERS = ("READ", "ACC", "RECV")  # they put a value on their own column in the issue cycle
_MAP_NONE = 65535  # a lane that takes zero


@dataclass
class _Slot:
    """One queue that a statement goes to: its number, and what is added to streams."""

    queue: int
    shift: int = 0
    base: int | None = None  # address of the data, for statements of data


@dataclass
class _When:
    """The time suffix of a statement."""

    kind: str = ""  # "", at, arrive, leave
    cycle: int = 0
    unit: Token | None = None
    count: int = 1
    every: int = 1
    step: int | None = None
    token: Token | None = None


class LpuAssembler:
    """Reads the statements of an LPU program; `finish` gives texts and images."""

    def __init__(self, common: Common) -> None:
        assert common.target is not None and common.target.geometry is not None
        self.common = common
        self.geometry: LpuGeometry = common.target.geometry
        self.slices: dict[str, list[int]] = {}  # data -> its slices, in order
        self.used: dict[int, list[tuple[int, int, str]]] = {}  # slice -> (first, end, data)
        self.words: list[np.ndarray] = []
        self.data: list[np.ndarray] = []
        self.zero: list[np.ndarray] = []
        self.phantom: list[np.ndarray] = []
        self.images: list[LpuImage] = []
        self.texts: list[LpuText] = []
        self.directives = {
            ".data": self._data, ".phantom": self._phantom, ".map": self._map, ".queue": self._queue,
            ".tensor": self._tensor, ".image": self._image, ".maps": self._maps, ".text": self._text}
        self._begin_text()

    def _begin_text(self) -> None:
        self.timeline = Timeline(lines=self.common.lines, file=self.common.file)
        self.raw: dict[int, list[tuple[int, int]]] = {}  # queue -> (word, line) without times
        self.timed: dict[int, int] = {}  # queue -> first line with a time
        self.maps: list[np.ndarray] = []
        self.common.scope.maps.clear()
        self.current: list[_Slot] = []
        self.started = False

    # -- data --------------------------------------------------------------------------------
    def _data(self, line: Line) -> None:
        name = self.common.new_name(line, "data")
        dtype = literals.read_format(line)
        shape = literals.read_shape(line, self.common.scope.constants)
        values = literals.read_values(line, dtype, shape, self.common.folder, self.common.values)
        tensor = self._allocate(line, Tensor(name, dtype, shape, "output" if values is None else "activation"))
        assert tensor.words is not None
        numbers = tensor.words.reshape(-1)
        if values is None:
            self.zero.append(numbers)
            self.common.values[name] = expressions.squeeze(np.zeros(shape))
            return
        raw = formats.encode(values, dtype)
        self.common.values[name] = expressions.squeeze(formats.decode(raw, dtype))
        self.words.append(numbers)
        self.data.append(self._lanes(tensor, raw))

    def _lanes(self, tensor: Tensor, raw: np.ndarray) -> np.ndarray:
        """Bytes [words, lanes] of a tensor's raw values, in the order of its words."""
        assert tensor.words is not None
        lanes, size = self.geometry.lanes, tensor.itemsize
        rows, chunks, _ = tensor.words.shape
        if tensor.replicated:
            raw = np.repeat(raw, lanes, axis=1)
        padded = np.zeros((rows, chunks * lanes), dtype=raw.dtype)
        padded[:, :raw.shape[1]] = raw
        planes = formats.to_bytes(padded, tensor.dtype).reshape(rows, chunks, lanes, size)
        return np.ascontiguousarray(planes.transpose(0, 1, 3, 2)).reshape(-1, lanes)

    def _phantom(self, line: Line) -> None:
        name = self.common.new_name(line, "data")
        dtype = literals.read_format(line)
        shape = literals.read_shape(line, self.common.scope.constants)
        tensor = self._allocate(line, Tensor(name, dtype, shape, "weight", phantom=True))
        assert tensor.words is not None
        self.phantom.append(tensor.words.reshape(-1))

    def _allocate(self, line: Line, tensor: Tensor) -> Tensor:
        """Read `@slices[+address] [replicated] [chips (..)]`, take the words, and remember the tensor."""
        at = line.expect("@")
        slices, address = self._place(line)
        size, lanes = tensor.itemsize, self.geometry.lanes
        if len(slices) % size:
            raise line.error(f"{tensor.dtype} needs a multiple of {size} slices, one a byte, not {len(slices)}", at)
        if line.accept("replicated"):
            if tensor.shape[1] != 1:
                raise line.error("replicated data has one value a row: its shape is [rows,1]", at)
            tensor.replicated = True
            tensor.shape = (tensor.shape[0], lanes)
        read_chips(self.common, line, tensor)
        rows, chunks = tensor.shape[0], -(-tensor.shape[1] // lanes)
        groups = len(slices) // size
        height = -(-rows * chunks // groups)
        if address is None:
            address = max((end for s in slices for _, end, _ in self.used.get(s, [])), default=0)
        if address + height > self.geometry.words_per_slice:
            raise line.error(
                f"{tensor.name} takes words {address} to {address + height - 1} of its slices; "
                f"a slice has {self.geometry.words_per_slice}", at)
        for s in slices:
            for first, end, other in self.used.setdefault(s, []):
                if first < address + height and address < end:
                    raise line.error(f"{tensor.name} overlaps {other} in slice {self._slice_name(s)}", at)
            self.used[s].append((address, address + height, tensor.name))
        vector = np.arange(rows * chunks)
        group, word = vector % groups, address + vector // groups
        slice_of = np.array(slices)[group[:, None] * size + np.arange(size)]
        tensor.words = (slice_of * self.geometry.words_per_slice + word[:, None]).astype(np.int32).reshape(
            rows, chunks, size)
        self.common.tensors[tensor.name] = tensor
        self.common.scope.addresses[tensor.name] = address
        self.slices[tensor.name] = slices
        return tensor

    def _place(self, line: Line) -> tuple[list[int], int | None]:
        """E20:E35,W0 + address -> (slice numbers, address or None)."""
        slices: list[int] = []
        while True:
            token = line.peek()
            first = self._slice(line)
            last = self._slice(line) if line.accept(":") else first
            step = 1 if last >= first else -1
            slices.extend(range(first, last + step, step))
            if len(set(slices)) != len(slices):
                raise line.error("a slice is named twice", token)
            if not line.accept(","):
                break
        return slices, line.integer(self.common.scope.constants) if line.accept("+") else None

    def _slice(self, line: Line) -> int:
        token = line.name("a MEM slice")
        match = _SLICE.fullmatch(token.text)
        count = self.geometry.slices_per_hemisphere
        if match is None or int(match[2]) >= count:
            raise line.error(f"expected a MEM slice (W0 to W{count - 1}, E0 to E{count - 1}), not {token.text}", token)
        return int(match[2]) + (count if match[1] == "E" else 0)

    def _slice_name(self, s: int) -> str:
        count = self.geometry.slices_per_hemisphere
        return f"W{s}" if s < count else f"E{s - count}"

    def _map(self, line: Line) -> None:
        name = self.common.new_name(line, "map")
        lanes = self.geometry.lanes
        token = line.peek()
        if token.text == "(":
            text, _ = line.group_text("(", ")")
            try:
                values = np.broadcast_to(expressions.evaluate(text, {"l": np.arange(lanes)}), (lanes,))
            except (expressions.ExpressionError, ValueError) as error:
                raise line.error(str(error), token) from None
        else:
            values = np.array(literals.read_list(line))
            if lanes % len(values):
                raise line.error(f"{len(values)} entries do not make a map of {lanes} lanes", token)
            values = np.tile(values, lanes // len(values))
        if not np.all((values >= -1) & (values < lanes) & (values == np.floor(values))):
            raise line.error(f"a map holds lanes 0 to {lanes - 1}, or -1 for zero", token)
        self.common.scope.maps[name] = len(self.maps)
        self.maps.append(np.where(values < 0, _MAP_NONE, values).astype(np.uint16))

    # -- what a disassembly holds ------------------------------------------------------------
    def _tensor(self, line: Line) -> None:
        tensor = read_tensor(self.common, line)
        line.expect("words")
        tensor.words = self.common.blob(line)

    def _image(self, line: Line) -> None:
        arrays = [self.common.blob(line) for _ in range(4)]
        self.images.append(LpuImage(*arrays))

    def _maps(self, line: Line) -> None:
        self.maps = list(self.common.blob(line))

    def _text(self, line: Line) -> None:
        if self.started or self.texts:
            self.texts.append(self._finish_text())
            self._begin_text()
        self.started = True

    # -- statements --------------------------------------------------------------------------
    def _queue(self, line: Line) -> None:
        self.current = self._slots(line, line.name("a queue"))

    def _slots(self, line: Line, token: Token) -> list[_Slot]:
        """The queues that a name stands for: one, or the slices of data."""
        if token.text in self.slices:
            base = self.common.scope.addresses[token.text]
            return [_Slot(s, i, base) for i, s in enumerate(self.slices[token.text])]
        name = f"MEM.{token.text}" if _SLICE.fullmatch(token.text) else token.text
        if name not in self.geometry.queue_names:
            raise line.unknown("queue", token, [*self.geometry.queue_names, *self.slices])
        return [_Slot(self.geometry.queue(name))]

    def statement(self, line: Line) -> None:
        """[QUEUE:] INSTRUCTION operands [time]"""
        self.started = True
        slots = self.current
        if line.peek(1).text == ":":
            slots = self._slots(line, line.name("a queue"))
            line.expect(":")
        token = line.name("an instruction")
        op = BY_NAME.get(token.text.split(".")[0].upper())
        if op is None or op.lpu is None:
            raise line.unknown("instruction", token, [name for name, o in BY_NAME.items() if o.lpu is not None])
        if not slots:
            raise line.error("an instruction needs its queue before it, or a .queue above it", token)
        for slot in slots:
            self._check_unit(line, token, op, slot.queue)
        given = read_suffixes(line, op, "lpu", token)
        scope = self.common.scope
        base = slots[0].base
        if base is not None:
            if not any(f.kind is Kind.ADDR for f in op.fields("lpu")):
                raise line.error(f"{op.name} is not an instruction of MEM slices", token)
            given["a"] = base
            if line.peek().text in ("+", "-"):
                given["a"] += line.offset(scope.constants)
                line.expect(",")
        values = read_operands(line, op, "lpu", scope, given)
        when = self._when(line)
        for slot in slots:
            self._emit(line, op, list(values), when, slot)

    def _check_unit(self, line: Line, token: Token, op: Op, queue: int) -> None:
        name = self.geometry.queue_names[queue]
        right = {"mem": name.startswith("MEM."), "alu": name.startswith("VXM"), "alu_large": name.startswith("VXM"),
                 "mxm": name.endswith({"ABC": ".ABC", "ACC": ".ACC"}.get(op.name, ".LW")), "icu": True,
                 "sxm_shift": ".SHIFT" in name, "sxm_permute": ".PERMUTE" in name,
                 "sxm_distribute": ".DISTRIBUTE" in name, "sxm_transpose": ".TRANSPOSE" in name,
                 "c2c": name.startswith("C2C.")}[op.unit]
        if not right:
            raise line.error(f"{op.name} is not an instruction of queue {name}", token)
        if op.unit == "alu_large" and int(name[3:]) not in self.geometry.large_alus:
            large = ", ".join(map(str, sorted(self.geometry.large_alus)))
            raise line.error(f"{op.name} needs a large ALU ({large}); {name} is a small one", token)

    def _when(self, line: Line) -> _When:
        when = _When()
        constants = self.common.scope.constants
        if line.peek().text in ("at", "arrive", "leave"):
            when.token = line.next()
            when.kind = when.token.text
            when.cycle = line.integer(constants)
            after = line.peek()
            if when.kind == "leave" or (when.kind == "arrive" and after.kind == "name"
                                        and not _TIMES.fullmatch(after.text) and after.text not in ("every", "step")):
                when.unit = line.name("a unit")
        if match := _TIMES.fullmatch(line.peek().text):
            token = line.next()
            when.count = int(match[1])
            if not 1 <= when.count <= 65536:
                raise line.error(f"{token.text}: an instruction is issued 1 to 65536 times", token)
            while line.peek().text in ("every", "step"):
                if line.next().text == "every":
                    when.every = line.integer(constants)
                else:
                    when.step = line.integer(constants)
        return when

    def _emit(self, line: Line, op: Op, values: list[int], when: _When, slot: _Slot) -> None:
        fields = op.fields("lpu")
        by_name = {f.name: i for i, f in enumerate(fields)}
        if slot.shift:
            i = by_name["s"]
            if values[i] % WEST + slot.shift >= WEST:
                raise line.error(f"slice {slot.shift} of the data would use a stream beyond S31")
            values[i] += slot.shift
        word = encode("lpu", op, values)
        step = when.step
        if step is None:
            step = values[by_name["rows"]] if op.name == "LW" else int(op.unit == "mem" and "map" not in by_name)
        if not when.kind:
            self._emit_raw(line, slot.queue, word, when, step)
            return
        if slot.queue in self.raw:
            raise line.error("earlier instructions of this queue have no time; all have one, or none", when.token)
        cycle = self._issue(line, op, dict(zip((f.name for f in fields), values, strict=True)), when, slot.queue)
        if cycle < 0:
            raise line.error(f"this would have to be issued {-cycle} cycles before cycle 0", when.token)
        if cycle > CYCLE_MAX:
            raise line.error(f"cycle {cycle} is too far away; the last is {CYCLE_MAX}", when.token)
        self.timed.setdefault(slot.queue, line.number)
        try:
            encode("lpu", BY_NAME["REPEAT"], [when.count - 1, when.every, step])
            self.timeline.add(slot.queue, cycle, word, when.count - 1, when.every, step, line=line.number - 1)
        except (ValueError, OverflowError) as error:
            raise line.error(str(error), when.token) from None

    def _emit_raw(self, line: Line, queue: int, word: int, when: _When, step: int) -> None:
        if queue in self.timed:
            raise line.error(f"this queue's instructions have times (line {self.timed[queue]}); all have one, or none")
        queued = self.raw.setdefault(queue, [])
        queued.append((word, line.number - 1))
        if when.count > 1:
            queued.append((encode("lpu", BY_NAME["REPEAT"], [when.count - 1, when.every, step]), line.number - 1))

    # -- times -------------------------------------------------------------------------------
    def _issue(self, line: Line, op: Op, values: dict[str, int], when: _When, queue: int) -> int:
        """Issue cycle of an instruction from what the text says about its operand or result."""
        if when.kind == "at":
            return when.cycle
        column = self.geometry.column[queue]
        if when.kind == "leave":
            stream = next((values[f.name] for f in op.fields("lpu") if f.name != "dst" and f.name in values
                           and (f.kind is Kind.STREAM or (f.kind is Kind.VSRC and values[f.name] < ALU_BASE))), None)
            if stream is None or op.name in _PRODUCERS:
                raise line.error(f"{op.name} takes nothing from a stream; use at or arrive", when.token)
            assert when.unit is not None
            return when.cycle + self._hops(line, when, stream, self._column(line, when.unit, stream), column)
        made = self._result(op, values, column)
        if made is None:
            raise line.error(f"{op.name} puts nothing on a stream; use at or leave", when.token)
        stream, delay, column = made
        target = self._column(line, when.unit, None) if when.unit else self._edge(stream)
        return when.cycle - delay - self._hops(line, when, stream, column, target)

    def _result(self, op: Op, values: dict[str, int], column: int) -> tuple[int, int, int] | None:
        """(stream, delay, column where the result appears) of an instruction, None without a result."""
        if op.name in _PRODUCERS:
            return values["s"], 0, column
        if op.name == "GATHER":
            return values["s"], self.geometry.gather, column
        if op.unit.startswith("sxm"):
            return values["dst"], self.geometry.sxm_delay(op.name, values.get("n", 0)), column
        if op.unit.startswith("alu") and values["dst"] != NO_STREAM:
            sources = [values[f.name] for f in op.fields("lpu") if f.kind is Kind.VSRC]
            west = values["dst"] >= WEST
            return (values["dst"], self.geometry.vxm_delay(op.name, all(s >= ALU_BASE for s in sources)),
                    -self.geometry.result_column if west else self.geometry.result_column)
        return None

    def _edge(self, stream: int) -> int:
        """Column of the MXM at the end of a stream."""
        columns = [c for name, c in zip(self.geometry.queue_names, self.geometry.column, strict=True)
                   if name.startswith("MXM")]
        return min(columns) if stream >= WEST else max(columns)

    def _column(self, line: Line, token: Token, leaving: int | None) -> int:
        """Column of a unit by name; `leaving`: the stream on which its result left, for the VXM's."""
        if token.text in self.slices:
            columns = {self.geometry.column[s] for s in self.slices[token.text]}
            if len(columns) > 1:
                raise line.error(f"{token.text} lies in {len(columns)} columns; name one slice", token)
            return columns.pop()
        name = f"MEM.{token.text}" if _SLICE.fullmatch(token.text) else token.text
        for queue, column in zip(self.geometry.queue_names, self.geometry.column, strict=True):
            unit = re.match(r"VXM|MXM\d+|SXM\.[EW]|C2C\.[EW]", queue)
            if name == queue or (unit is not None and name == unit.group()):
                if queue.startswith("VXM") and leaving is not None:
                    return -self.geometry.result_column if leaving >= WEST else self.geometry.result_column
                return column
        units = ["VXM", "SXM.W", "SXM.E", *(n.split(".")[0] for n in self.geometry.queue_names if n.startswith("MXM"))]
        raise line.unknown("unit", token, [*self.geometry.queue_names, *units, *self.slices])

    def _hops(self, line: Line, when: _When, stream: int, start: int, end: int) -> int:
        """Cycles from column to column on a stream; an error when the stream moves the other way."""
        hops = start - end if stream >= WEST else end - start
        if hops < 0:
            way = "west" if stream >= WEST else "east"
            raise line.error(f"S{stream % WEST} moves {way}, from column {start} it never reaches column {end}",
                             when.unit or when.token)
        return hops

    # -- result ------------------------------------------------------------------------------
    def _finish_text(self) -> LpuText:
        queues = len(self.geometry.queue_names)
        try:
            words, starts, source = self.timeline.pack(queues)
        except QueueLate as error:
            line = Line(self.common.file, error.line + 1, self.common.lines[error.line])
            raise line.error(
                f"queue {self.geometry.queue_names[error.queue]} is not free in cycle {error.cycle}: "
                f"line {error.first_line + 1} issues there", line.tokens[0]) from None
        if self.raw:
            all_words, all_lines = [], []
            for queue in range(queues):
                part = slice(starts[queue], starts[queue + 1])
                raw = self.raw.get(queue, [])
                all_words.append(np.concatenate([words[part], np.array([w for w, _ in raw], dtype=np.uint64)]))
                all_lines.append(np.concatenate([source.line[part], np.array([n for _, n in raw], dtype=np.int32)]))
            sizes = [len(part) for part in all_words]
            words = np.concatenate(all_words)
            starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
            reason = np.full(len(words), -1, dtype=np.int16)
            source = Source(np.concatenate(all_lines), np.full(len(words), -1, dtype=np.int32), reason,
                            [], self.common.lines, self.common.file)
        lanes = self.geometry.lanes
        maps = np.stack(self.maps) if self.maps else np.zeros((0, lanes), dtype=np.uint16)
        return LpuText(words, starts, maps.astype(np.uint16), source)

    def finish(self) -> tuple[list[LpuText], list[LpuImage]]:
        """Texts and images of the whole file."""
        self.texts.append(self._finish_text())
        if self.words or self.zero or self.phantom or not self.images:
            none = np.zeros(0, dtype=np.int32)
            lanes = self.geometry.lanes
            self.images.append(LpuImage(
                words=np.concatenate([none, *self.words]).astype(np.int32),
                data=np.concatenate([np.zeros((0, lanes), dtype=np.uint8), *self.data]),
                zero_words=np.concatenate([none, *self.zero]).astype(np.int32),
                phantom_words=np.concatenate([none, *self.phantom]).astype(np.int32)))
        return self.texts, self.images
