"""Checks that a program means something: every word decodes, every field is in its range.

Used when a program file is loaded (nothing in it is trusted) and by the assembler.
"""

from __future__ import annotations

import numpy as np

from isa.encoding import FIELD0, decode_words
from isa.opcodes import (
    ALU_BASE,
    BY_CODE,
    COMPARISONS,
    NO_STREAM,
    PORTS,
    ROLE_PORT,
    RZ,
    SPECIALS,
    TYPES,
    UNIFORM,
    URZ,
    WIDTHS,
    Field,
    Kind,
    Op,
)
from isa.program import ROLES, GpuImage, GpuText, LpuImage, LpuText, Program, Tensor, place_of

# What a field may hold beyond what its bits already limit: highest value of a kind ...
_HIGHEST = {Kind.CMP: len(COMPARISONS) - 1, Kind.WIDTH: len(WIDTHS) - 1, Kind.SPECIAL: len(SPECIALS) - 1,
            Kind.VSRC: ALU_BASE + 15, Kind.VDST: NO_STREAM, Kind.RU: UNIFORM + URZ}
# ... and values of single fields.
ALLOWED: dict[tuple[str, str], tuple[int, ...]] = {
    ("SHIFT", "streams"): (1, 2, 4), ("PERMUTE", "streams"): (1, 2, 4), ("DISTRIBUTE", "streams"): (1, 2, 4),
    ("SEND", "port"): tuple(range(1, PORTS)), ("RECV", "port"): tuple(range(1, PORTS)),
    ("LDSM", "n"): (1, 2, 4), ("LW", "rows"): tuple(range(1, 17)), ("ULDG", "width"): (2, 3)}
_AT_LEAST_ONE = {("NOP", "n"), ("REPEAT", "n"), ("REPEAT", "d")}
# Registers from the named one on that a field of a wide operation means.
_MMA_REGISTERS = {"dst": 4, "a": 4, "b": 2, "c": 4}
_WIDTH_REGISTERS = (1, 1, 1, 2, 4)

CHIPS_MAX, CYCLES_MAX = 1 << 20, 1 << 40  # of a system, of a step: far beyond any real one


class InvalidText(ValueError):
    """A text that no machine can run: what is wrong and with which instruction."""


def span(op: Op, field: Field, values: dict[str, int]) -> int:
    """Consecutive vector registers that a REG or RU field names."""
    if op.name == "MMA":
        return _MMA_REGISTERS[field.name]
    if op.name == "LDSM" and field.name == "dst":
        return values["n"]
    if (op.name, field.name) in (("LDG", "dst"), ("LDCG", "dst"), ("LDS", "dst"), ("STG", "src"), ("STS", "src")):
        return _WIDTH_REGISTERS[values["width"]]
    return 1


def registers_used(op: Op, values: list[int]) -> int:
    """One more than the highest vector register of a GPU instruction. ValueError if it passes R254."""
    by_name = {f.name: v for f, v in zip(op.fields("gpu"), values, strict=True)}
    highest = 0
    for field in op.fields("gpu"):
        value = by_name[field.name]
        if field.kind not in (Kind.REG, Kind.RU) or value >= RZ:
            continue
        end = value + span(op, field, by_name)
        if end > RZ:
            raise ValueError(f"{op.name} takes {end - value} registers from R{value}; the last is R{RZ - 1}")
        highest = max(highest, end)
    return highest


def check_words(dialect: str, words: np.ndarray) -> np.ndarray:
    """The decoded table (encoding.decode_words) of a text whose every field is in range, else InvalidText."""
    try:
        table = decode_words(dialect, words)
    except ValueError as error:
        raise InvalidText(str(error)) from None
    for number in np.unique(table[:, 0]) if len(table) else []:
        op = BY_CODE[int(number)]
        rows = np.flatnonzero(table[:, 0] == number)
        for column, field in enumerate(op.fields(dialect), start=FIELD0):
            values = table[rows, column]
            bad = np.zeros(len(values), dtype=bool)
            if field.kind is Kind.TYPE:
                bad |= ~np.isin(values, op.types)
            if field.kind in _HIGHEST:
                bad |= values > _HIGHEST[field.kind]
            if (op.name, field.name) in ALLOWED:
                bad |= ~np.isin(values, ALLOWED[op.name, field.name])
            if (op.name, field.name) in _AT_LEAST_ONE:
                bad |= values < 1
            if bad.any():
                first = int(np.argmax(bad))
                raise InvalidText(
                    f"instruction {rows[first]} ({op.name}): {field.name} = {values[first]} is not allowed")
        used = 8 + 4 * (dialect == "gpu") + sum(field.bits for field in op.fields(dialect))
        if used < 64 and (words[rows] >> np.uint64(used)).any():
            raise InvalidText(f"{op.name}: bits above the last field are set")
    return table


def check_lpu_text(text: LpuText, queues: int | None = None, lanes: int | None = None) -> None:
    """Raise InvalidText unless an LPU text can be run; queues and lanes of the chip when known."""
    starts = text.starts
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(text.words) or (np.diff(starts) < 0).any():
        raise InvalidText("the queues do not add up to the words")
    if queues is not None and len(starts) != queues + 1:
        raise InvalidText(f"the text has {len(starts) - 1} queues, the chip {queues}")
    if lanes is not None and text.maps.shape[1] != lanes:
        raise InvalidText(f"the maps have {text.maps.shape[1]} lanes, the chip {lanes}")
    table = check_words("lpu", text.words)
    for name in ("PERMUTE", "DISTRIBUTE"):
        op = next(o for o in BY_CODE.values() if o.name == name)
        rows = table[table[:, 0] == op.code]
        column = FIELD0 + [f.name for f in op.fields("lpu")].index("map")
        if len(rows) and rows[:, column].max() >= len(text.maps):
            raise InvalidText(f"{name} names map {rows[:, column].max()}; there are {len(text.maps)}")
    repeat = table[:, 0] == next(o.code for o in BY_CODE.values() if o.name == "REPEAT")
    firsts = starts[:-1][starts[:-1] < starts[1:]]
    if repeat[firsts].any():
        raise InvalidText("a queue begins with REPEAT")


def check_gpu_text(text: GpuText) -> None:
    """Raise InvalidText unless a GPU text can be run."""
    check_words("gpu", text.words)
    for kernel in text.kernels:
        if not (0 <= kernel.first and 1 <= kernel.count and kernel.first + kernel.count <= len(text.words)):
            raise InvalidText(f"kernel {kernel.name} lies outside the text")
        table = decode_words("gpu", text.words[kernel.first:kernel.first + kernel.count])
        used = 0
        for number in np.unique(table[:, 0]):
            op = BY_CODE[int(number)]
            fields = op.fields("gpu")
            rows = np.unique(table[table[:, 0] == number][:, FIELD0:FIELD0 + len(fields)], axis=0)
            for column, field in enumerate(fields):
                highest = int(rows[:, column].max())
                if field.kind is Kind.TARGET and highest >= kernel.count:
                    raise InvalidText(
                        f"kernel {kernel.name}: {op.name} jumps to {highest} of {kernel.count} instructions")
                if field.name == "param" and highest >= len(kernel.parameters):
                    raise InvalidText(f"kernel {kernel.name}: LDP of parameter {highest}; "
                                      f"it has {len(kernel.parameters)}")
            if any(field.kind in (Kind.REG, Kind.RU) for field in fields):
                try:
                    used = max([used, *(registers_used(op, row.tolist()) for row in rows)])
                except ValueError as error:
                    raise InvalidText(f"kernel {kernel.name}: {error}") from None
        if not used <= kernel.registers <= RZ:
            raise InvalidText(f"kernel {kernel.name} uses {used} registers, but declares {kernel.registers}")
    for i, launch in enumerate(text.launches):
        if not 0 <= launch.kernel < len(text.kernels):
            raise InvalidText(f"launch {i} names kernel {launch.kernel}; there are {len(text.kernels)}")
        if not (1 <= launch.grid < 1 << 31 and 32 <= launch.block <= 1024 and launch.block % 32 == 0
                and 0 <= launch.shared_bytes < 1 << 31):
            raise InvalidText(f"launch {i}: grid {launch.grid}, block {launch.block}, "
                              f"shared {launch.shared_bytes} are not possible")
        if len(launch.arguments) != len(text.kernels[launch.kernel].parameters):
            raise InvalidText(f"launch {i} has {len(launch.arguments)} arguments, its kernel takes "
                              f"{len(text.kernels[launch.kernel].parameters)}")
        if any(not 0 <= before < i for before in launch.after):
            raise InvalidText(f"launch {i} waits for a launch that does not come before it")


def check_image(image: LpuImage | GpuImage) -> None:
    """Raise InvalidText unless the parts of an image fit together."""
    if isinstance(image, GpuImage):
        if image.data.dtype != np.uint8 or image.data.ndim != 1:
            raise InvalidText("an image holds something that is not bytes")
        apart = len(image.data) <= image.phantom_base or image.phantom_bytes == 0
        if not (apart and 0 <= image.phantom_base < 1 << 48 and 0 <= image.phantom_bytes < 1 << 48):
            raise InvalidText(f"phantom memory at {image.phantom_base} overlaps the real bytes, or is too large")
        return
    numbers = (image.words, image.zero_words, image.phantom_words)
    if any(words.dtype != np.int32 or words.ndim != 1 for words in numbers) or image.data.dtype != np.uint8 \
            or image.data.ndim != 2:
        raise InvalidText("an image holds something that is not words and bytes")
    if len(image.words) != len(image.data):
        raise InvalidText(f"an image has {len(image.words)} words and {len(image.data)} rows of bytes")
    if any(len(words) and words.min() < 0 for words in numbers):
        raise InvalidText("an image holds a negative word number")


def check_places(program: Program) -> None:
    """Raise InvalidText unless the table of chips names what is there, and an LPU's coordinates make sense."""
    if not program.chips:
        raise InvalidText("the table of chips is empty")
    numbers = set()
    for text_index, image_index, coordinates in program.chips:
        if not (0 <= text_index < len(program.texts) and 0 <= image_index < len(program.images)):
            raise InvalidText("the table of chips names a text or an image that is not there")
        if program.dialect == "lpu":
            place = place_of(coordinates)
            if not (0 <= place.number < CHIPS_MAX and 0 <= place.start < CYCLES_MAX):
                raise InvalidText(f"the coordinates {coordinates} hold a chip number or a start that is not possible")
            if place.number in numbers:
                raise InvalidText(f"chip {place.number} is in the table of chips twice")
            if len(place.roles) > PORTS - ROLE_PORT or not all(p == -1 or 1 <= p < PORTS for p in place.roles):
                raise InvalidText(f"the coordinates {coordinates} give a role to a port that no chip has")
            numbers.add(place.number)


def check_tensor(tensor: Tensor, lpu: bool, memory: int, chips: int = 1) -> None:
    """Raise InvalidText unless a tensor is possible, lies in memory (GPU: of `memory` bytes) and on chips of the
    table."""
    if not tensor.chips or len(set(tensor.chips)) != len(tensor.chips) or not all(0 <= c < chips for c in tensor.chips):
        raise InvalidText(f"tensor {tensor.name} lies on chips {list(tensor.chips)}; there are {chips}")
    if tensor.sharded and tensor.replicated:
        raise InvalidText(f"tensor {tensor.name} cannot be sharded")
    name, shape = tensor.name, tensor.shape
    known = tensor.dtype in TYPES and tensor.role in ROLES
    if not known or len(shape) != 2 or not all(0 < n < 1 << 40 for n in shape):
        raise InvalidText(
            f"tensor {name}: format {tensor.dtype!r}, role {tensor.role!r} or shape {list(shape)} is not possible")
    if lpu:
        words = tensor.words
        if words is None or words.dtype != np.int32 or words.ndim != 3 or words.shape[0] != shape[0] \
                or words.shape[2] != tensor.itemsize or not words.shape[1]:
            raise InvalidText(f"tensor {name}: its word table is damaged")
        if words.min() < 0:
            raise InvalidText(f"tensor {name} holds a negative word number")
        return
    columns = -(-shape[1] // len(tensor.chips)) if tensor.sharded else shape[1]
    if not (0 <= tensor.address and 0 <= tensor.pitch
            and tensor.address + (shape[0] - 1) * tensor.pitch + columns * tensor.itemsize <= memory):
        raise InvalidText(f"tensor {name} lies outside the memory image")


# What machines and tools read from meta; anything else in it is for people.
META_COUNTS = ("batch", "context", "predicted_cycles")
META_TEXTS = ("model", "arithmetic", "weights", "system")


def check_meta(program: Program) -> None:
    """Raise InvalidText for a known entry of meta that is of another type."""
    for name, value in program.meta.items():
        if name in META_COUNTS and (type(value) is not int or not 1 <= value < 1 << 62):
            raise InvalidText(f"meta {name} is {str(value)[:40]!r}, not a whole number of at least 1")
        if name in META_TEXTS and not isinstance(value, str):
            raise InvalidText(f"meta {name} is {str(value)[:40]!r}, not text")
        if name == "timing_only" and not isinstance(value, bool):
            raise InvalidText(f"meta {name} is {str(value)[:40]!r}, not true or false")


def check_columns(tensor: Tensor, lanes: int) -> None:
    """Raise InvalidText unless a tensor's columns have room in its words, on an LPU with vectors of `lanes`."""
    if tensor.words is not None:
        room = tensor.words.shape[1] * lanes * (len(tensor.chips) if tensor.sharded else 1)
        if tensor.shape[1] > room:
            raise InvalidText(f"tensor {tensor.name} has {tensor.shape[1]} columns, its words hold {room}")


def check_program(program: Program, queues: int | None = None, lanes: int | None = None) -> None:
    """Raise InvalidText unless every part of a program holds together; queues and lanes of an LPU when known."""
    for text in program.texts:
        if isinstance(text, LpuText):
            check_lpu_text(text, queues, lanes)
        else:
            check_gpu_text(text)
    for image in program.images:
        check_image(image)
    check_places(program)
    check_meta(program)
    memory = max((max(len(i.data), i.phantom_base + i.phantom_bytes) for i in program.images
                  if isinstance(i, GpuImage)), default=0)
    for tensor in program.tensors.values():
        check_tensor(tensor, program.dialect == "lpu", memory, len(program.chips))
        if lanes is not None:
            check_columns(tensor, lanes)
