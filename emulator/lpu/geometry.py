"""Where everything sits on an LPU and how long it takes, made from a chip file.

Pure Python and NumPy, so that the assembler and the compiler can use it without the engine.

Columns are stream-register positions counted from the VXM at 0; the west hemisphere is negative.

    MXM  SXM        MEM W43 .. W0      VXM      MEM E0 .. E43        SXM  MXM
    -18  -16        -11 .... -1         0        1 .... 11           16   18        (groq_tsp_v1)

An eastward value seen at column p in cycle t has the invariant t - p, a westward one t + p: a value
keeps its invariant while it moves one column a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from emulator.chip import Chip, ChipError

HEMISPHERES = ("W", "E")
UNIT_CLASSES = ("mem", "vxm", "mxm", "sxm", "c2c")

# Queue kinds: which instructions a queue takes.
MEM, VXM, MXM_LW, MXM_ABC, MXM_ACC, SHIFT, PERMUTE, DISTRIBUTE, TRANSPOSE, C2C = range(10)
KIND_NAMES = ("MEM", "VXM", "MXM.LW", "MXM.ABC", "MXM.ACC", "SXM.SHIFT", "SXM.PERMUTE", "SXM.DISTRIBUTE",
              "SXM.TRANSPOSE", "C2C")
KIND_CLASS = ("mem", "vxm", "mxm", "mxm", "mxm", "sxm", "sxm", "sxm", "sxm", "c2c")
KIND_OPS: tuple[frozenset[str], ...] = (
    frozenset({"READ", "WRITE", "GATHER", "SCATTER"}),
    frozenset({"ADD", "SUB", "MUL", "MAX", "MIN", "NEG", "AND", "OR", "XOR", "SELECT", "ADDI", "MULI", "MAXI", "MINI",
               "ANDI", "EXP2", "RSQRT", "TANH", "CVT"}),
    frozenset({"LW", "IW"}),
    frozenset({"ABC"}),
    frozenset({"ACC"}),
    frozenset({"SHIFT"}),
    frozenset({"PERMUTE"}),
    frozenset({"DISTRIBUTE"}),
    frozenset({"TRANSPOSE"}),
    frozenset({"SEND", "RECV"}),
)
ICU_OPS = frozenset({"NOP", "REPEAT", "SYNC", "NOTIFY"})  # every queue takes these
SPECIAL_OPS = frozenset({"EXP2", "RSQRT", "TANH"})

LANES_PER_SUPERLANE = 16  # fixed by TRANSPOSE (16 x 16) and by the map format
MAX_DELAY = 4096  # cycles; bounds the engine's rings
MAX_SUPERLANES = 31  # a word's written and poison marks are 2 x 32 bits of one positive 64-bit integer


@dataclass(frozen=True)
class Geometry:
    """Queues, columns and delays of one LPU. All delays in cycles, quoted for superlane 0."""

    chip: str
    clock_hz: int
    superlanes: int
    lanes: int  # of a vector
    streams: int  # a direction
    edge: int  # values fall off beyond columns -edge .. edge
    slices_per_hemisphere: int
    words_per_bank: int
    words_per_slice: int
    gather: int
    result_column: int
    entry: int
    op: int
    special: int
    large_alus: frozenset[int]
    planes: int
    rows: int  # weight rows a plane
    load_streams: int  # an LW takes at most this many streams a plane
    f16_feed: int
    latency: int
    install: int
    depth: int
    shift: int
    permute: int
    distribute: int
    transpose: int
    barrier: int
    instruction_bytes: int
    local_ports: int  # links to chips of the node: port i of chip r leads to chip r XOR i
    global_ports: int  # links to other nodes, numbered after the local ones
    slot: int  # a link takes one vector in this many cycles
    hop: int  # SEND to the first cycle in which a RECV finds the vector
    receive_depth: int  # vectors that may wait at the end of a link
    queue_names: tuple[str, ...]
    queue_kind: tuple[int, ...]
    column: tuple[int, ...]  # of each queue's unit; VXM queues 0, where operands are sampled
    unit: tuple[int, ...]  # slice number (MEM), ALU number (VXM), plane (MXM), else the number in its kind
    first_of_kind: tuple[int, ...]
    _by_name: dict[str, int] = field(repr=False, compare=False)

    def queue(self, name: str) -> int:
        """Queue number of a name such as "MEM.W3", "VXM5", "MXM0.LW" or "SXM.E.SHIFT1"; KeyError if unknown."""
        return self._by_name[name]

    @property
    def queues(self) -> int:
        return len(self.queue_names)

    @property
    def slices(self) -> int:
        return 2 * self.slices_per_hemisphere

    @property
    def words(self) -> int:
        """SRAM words of the chip; word number = slice * words_per_slice + address."""
        return self.slices * self.words_per_slice

    def vxm_queue(self, alu: int) -> int:
        return self.first_of_kind[VXM] + alu

    def mxm_queue(self, plane: int, kind: int) -> int:
        """Queue of a plane: kind MXM_LW (LW and IW), MXM_ABC or MXM_ACC."""
        return self.first_of_kind[MXM_LW] + 3 * plane + (kind - MXM_LW)

    def reach(self, alu: int) -> tuple[int, ...]:
        """Stream quads (4 streams each, either direction) that an ALU's row can take or write."""
        row = alu // 4
        return tuple((2 * row + i) % 8 for i in range(4))

    def can_chain(self, source: int, reader: int) -> bool:
        """ALU `source`'s output reaches every ALU of the next rank and of its own row."""
        return reader % 4 == (source % 4 + 1) % 4 or reader // 4 == source // 4

    def vxm_delay(self, op: str, chained: bool) -> int:
        """Issue to result of a VXM instruction; `chained`: every operand is another ALU's output."""
        return (0 if chained else self.entry) + (self.special if op in SPECIAL_OPS else self.op)

    def sxm_delay(self, op: str, n: int = 0) -> int:
        """Issue to result of an SXM instruction; n is SHIFT's distance.

        A superlane runs one cycle after the one before it. Lanes that move toward superlane 0 come
        from superlanes that run later, so the move has to wait for them.
        """
        if op == "SHIFT":
            return self.shift + (-(n // LANES_PER_SUPERLANE) if n < 0 else 0)
        if op == "PERMUTE":
            return self.permute + self.superlanes - 1
        return {"DISTRIBUTE": self.distribute, "TRANSPOSE": self.transpose}[op]

    def completion(self, op: str, *, n: int = 0, chained: bool = False, type_bytes: int = 1) -> int:
        """Cycles from issue that an instruction counts in the step's length.

        n: NOP's cycles or SHIFT's distance; chained: VXM, all operands chained; type_bytes: ABC's.
        """
        if op == "NOP":
            return n
        if op == "ABC":
            return self.abc_delay(type_bytes)
        if op in KIND_OPS[VXM]:
            return self.vxm_delay(op, chained)
        if op in ("SHIFT", "PERMUTE", "DISTRIBUTE", "TRANSPOSE"):
            return self.sxm_delay(op, n)
        return 1

    def abc_delay(self, type_bytes: int) -> int:
        """ABC's issue to the result in the accumulator; a 2-byte type is fed for f16_feed cycles."""
        return self.latency + (self.f16_feed - 1 if type_bytes == 2 else 0)

    # Peaks, for floors and reports. Bytes a cycle, operations a second.
    @property
    def sram_bytes_per_cycle(self) -> int:
        """One read and one write of a vector a slice and cycle (ISCA 2020, eq. 2)."""
        return self.slices * 2 * self.lanes

    @property
    def ingest_bytes_per_cycle(self) -> int:
        """Weights into the MXM: each plane takes load_streams streams a cycle."""
        return self.planes * self.load_streams * self.lanes

    @property
    def int8_ops_per_second(self) -> int:
        """Two operations a multiply-accumulate, every plane one pass a cycle."""
        return self.planes * self.rows * self.lanes * 2 * self.clock_hz

    @property
    def fp16_ops_per_second(self) -> int:
        """A plane pair takes one activation in f16_feed cycles."""
        return self.planes // 2 * self.rows * self.lanes * 2 * self.clock_hz // self.f16_feed

    @property
    def sram_bytes(self) -> int:
        return self.words * self.lanes


def geometry(chip: Chip) -> Geometry:
    """Geometry of an LPU chip. Raises ChipError for a number that this machine cannot take."""
    if chip.kind != "lpu":
        raise ChipError(f"chip {chip.name} is a {chip.kind}, not an lpu")
    return _geometry(chip.name, tuple(sorted((key, number.value) for key, number in chip.numbers.items())))


def _need(chip: str, key: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        raise ChipError(f"{chip}.{key} = {value}: must be {allowed}")


@lru_cache(maxsize=16)
def _geometry(name: str, numbers: tuple[tuple[str, int | float | str], ...]) -> Geometry:
    values = dict(numbers)

    def number(key: str, low: int, high: int) -> int:
        if key not in values:
            raise ChipError(f"chip {name} has no {key}")
        value = values[key]
        _need(name, key, value, isinstance(value, int) and low <= value <= high,
              f"a whole number from {low} to {high}" if low < high else f"{low}")
        return int(value)

    lanes_per_superlane = number("core.lanes_per_superlane", LANES_PER_SUPERLANE, LANES_PER_SUPERLANE)
    superlanes = number("core.superlanes", 1, MAX_SUPERLANES)
    lanes = superlanes * lanes_per_superlane
    streams = number("stream.per_direction", 32, 32)
    slices = number("mem.slices_per_hemisphere", 1, 256)
    per_column = number("mem.slices_per_column", 1, 64)
    mxm_column = number("mxm.column", 1, 64)
    sxm_column = number("sxm.column", 1, 64)
    edge = number("stream.edge_column", 1, 64)
    last_mem = 1 + (slices - 1) // per_column
    _need(name, "sxm.column", sxm_column, sxm_column > last_mem, f"beyond the last MEM column {last_mem}")
    _need(name, "mxm.column", mxm_column, mxm_column > sxm_column, f"beyond the SXM at {sxm_column}")
    _need(name, "stream.edge_column", edge, edge >= mxm_column, f"at least the MXM's column {mxm_column}")
    planes = number("mxm.planes", 4, 4)
    number("vxm.rows", 4, 4)
    number("vxm.ranks", 4, 4)
    number("mem.banks_per_slice", 2, 2)
    words_per_bank = number("mem.words_per_bank", 1, 4096)
    rows = number("mxm.rows", 1, 320)
    _need(name, "mxm.rows", rows, rows <= lanes, f"at most the {lanes} lanes of a vector")
    try:
        large = frozenset(int(part) for part in str(values.get("vxm.large_alus", "")).split(","))
    except ValueError:
        large = frozenset({-1})
    _need(name, "vxm.large_alus", values.get("vxm.large_alus"), all(0 <= alu < 16 for alu in large),
          "numbers from 0 to 15 with commas")

    names: list[str] = []
    kinds: list[int] = []
    columns: list[int] = []
    units: list[int] = []

    def add(queue: str, kind: int, column: int, unit: int) -> None:
        names.append(queue)
        kinds.append(kind)
        columns.append(column)
        units.append(unit)

    signs = {"W": -1, "E": 1}
    for h, hemisphere in enumerate(HEMISPHERES):
        for s in range(slices):
            add(f"MEM.{hemisphere}{s}", MEM, signs[hemisphere] * (1 + s // per_column), h * slices + s)
    for alu in range(16):
        add(f"VXM{alu}", VXM, 0, alu)
    for plane in range(planes):
        at = mxm_column * (-1 if plane < planes // 2 else 1)
        add(f"MXM{plane}.LW", MXM_LW, at, plane)
        add(f"MXM{plane}.ABC", MXM_ABC, at, plane)
        add(f"MXM{plane}.ACC", MXM_ACC, at, plane)
    for hemisphere in HEMISPHERES:
        for kind, word, low, high in ((SHIFT, "shift", 1, 8), (PERMUTE, "permute", 1, 8),
                                      (DISTRIBUTE, "distribute", 1, 8), (TRANSPOSE, "transpose", 1, 8)):
            for n in range(number(f"sxm.{word}_units", low, high)):
                add(f"SXM.{hemisphere}.{word.upper()}{n}", kind, signs[hemisphere] * sxm_column, n)
        for n in range(number("c2c.queues", 0, 16)):
            add(f"C2C.{hemisphere}{n}", C2C, signs[hemisphere] * sxm_column, n)

    return Geometry(
        chip=name,
        clock_hz=number("core.clock_hz", 1, 2**62),
        superlanes=superlanes,
        lanes=lanes,
        streams=streams,
        edge=edge,
        slices_per_hemisphere=slices,
        words_per_bank=words_per_bank,
        words_per_slice=2 * words_per_bank,
        gather=number("mem.gather_cycles", 1, MAX_DELAY),
        result_column=number("vxm.result_column", 0, mxm_column),
        entry=number("vxm.entry_cycles", 0, MAX_DELAY),
        op=number("vxm.op_cycles", 1, MAX_DELAY),
        special=number("vxm.special_cycles", 1, MAX_DELAY),
        large_alus=large,
        planes=planes,
        rows=rows,
        load_streams=number("mxm.load_streams_per_plane", 1, 16),
        f16_feed=number("mxm.f16_feed_cycles", 1, 64),
        latency=number("mxm.latency_cycles", 1, MAX_DELAY),
        install=number("mxm.install_cycles", 1, MAX_DELAY),
        depth=number("mxm.accumulator_depth", 1, 64),
        shift=number("sxm.shift_cycles", 1, MAX_DELAY),
        permute=number("sxm.permute_cycles", 1, MAX_DELAY),
        distribute=number("sxm.distribute_cycles", 1, MAX_DELAY),
        transpose=number("sxm.transpose_cycles", 1, MAX_DELAY),
        barrier=number("icu.barrier_cycles", 1, 65535),
        instruction_bytes=number("icu.instruction_bytes", 1, 16),
        local_ports=number("c2c.local_ports", 0, 7),
        global_ports=number("c2c.global_ports", 0, 8),
        slot=number("c2c.slot_cycles", 1, MAX_DELAY),
        hop=number("c2c.link_latency_cycles", 1, MAX_DELAY) + number("c2c.overhead_cycles", 0, MAX_DELAY),
        receive_depth=number("c2c.receive_depth", 1, 65535),
        queue_names=tuple(names),
        queue_kind=tuple(kinds),
        column=tuple(columns),
        unit=tuple(units),
        first_of_kind=tuple(kinds.index(kind) if kind in kinds else -1 for kind in range(10)),
        _by_name={queue: n for n, queue in enumerate(names)},
    )
