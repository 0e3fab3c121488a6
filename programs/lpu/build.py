"""What every kernel of the LPU compiler works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from emulator.lpu.geometry import C2C, Geometry
from isa.opcodes import F16, S8
from programs.decode.stored import StoredModel
from programs.lpu.chain import Op, f32
from programs.lpu.memory import Buffer, Memory
from programs.lpu.partition import AttentionLayout
from programs.lpu.place import Fill, Placer, byte_planes, in_layer
from programs.lpu.schedule import Dst, Mem, Scheduler


@dataclass(frozen=True)
class Crossing:
    """How a rank takes part in the way from one pipeline stage to the next.

    links: parallel links between two stages; where every rank has one, each sends and receives all. Else
    receives: whether this rank has one of them; hears: local ports behind which a rank has one.
    """

    links: int = 0
    receives: bool = False
    hears: frozenset[int] = frozenset()


@dataclass
class Build:
    """One compilation: the chip, the model (a rank's share of it), and what has been placed so far.

    ranks: chips that share the layers; rank: the one whose values are asked for, when images are made.
    vocab: tokens of the whole model. senders, receivers: rank -> number of its link to the next stage and
    from the one before, where not every rank has one.
    """

    g: Geometry
    stored: StoredModel
    batch: int
    context: int
    s: Scheduler
    memory: Memory
    place: Placer
    layout: AttentionLayout
    vocab: int
    ranks: int = 1
    rank: int = 0
    crossing: Crossing = Crossing()
    senders: dict[int, int] = field(default_factory=dict)
    receivers: dict[int, int] = field(default_factory=dict)
    maps: list[np.ndarray] = field(default_factory=list)  # lane maps of the text
    constants: dict[str, Buffer] = field(default_factory=dict)

    @property
    def act_type(self) -> int:
        """Number type of linear inputs as an MXM type."""
        return S8 if self.stored.scheme.activations == "s8" else F16

    @property
    def act_bytes(self) -> int:
        return 1 if self.act_type == S8 else 2

    def scratch(self, size: int, n: int, hemisphere: int) -> Buffer:
        """n vectors of `size` bytes; the scheduler finds a place when they are first written."""
        return self.memory.later(size, n, hemisphere)

    def resting(self, n: int, hemisphere: int, rest: int) -> Buffer:
        """n f32 vectors for a linear layer's results: where the chip is nearly full, in the resting group."""
        return self.memory.later(4, n, hemisphere, () if self.place.roomy else (rest,))

    def both(self, size: int, n: int) -> list[Buffer]:
        """The same vectors in both hemispheres."""
        return [self.scratch(size, n, h) for h in (0, 1)]

    def activations(self, n: int, name: str) -> list[Buffer]:
        """Inputs of the linear layer `name` for each plane. int8 planes work side by side: each has its own
        copy, in slices that the other one does not stream from."""
        held = f"{in_layer(name)}.input"
        if self.act_bytes == 1:
            groups = [()] * 2 if self.place.roomy else self.place.unit_groups("s8", name)
            return [self.memory.later(1, n, int(plane >= self.g.planes // 2), tuple(groups[plane % 2])).named(held)
                    for plane in range(self.g.planes)]
        west, east = (buffer.named(held) for buffer in self.both(2, n))
        return [west, west, east, east]

    def constant(self, name: str, values: np.ndarray, hemisphere: int = 0) -> Buffer:
        """A named constant array [n, lanes]; made once."""
        key = f"{name}/{hemisphere}"
        if key not in self.constants:
            self.constants[key] = self.place.constant(byte_planes(values), hemisphere).named(name.partition("(")[0])
        return self.constants[key]

    def rank_table(self, name: str, n: int, size: int, make: Callable[[int], np.ndarray], hemisphere: int) -> Buffer:
        """A named constant that each rank has its own of: make(rank) gives uint8 [n, size, lanes]; made once."""
        key = f"{name}/{hemisphere}"
        if key not in self.constants:
            buffer = self.constants[key] = self.place.scratch(size, n, hemisphere).named(name)
            self.place.fills.append(Fill(buffer, lambda layer: make(self.rank), table=True))
        return self.constants[key]

    @property
    def link_queues(self) -> int:
        """Queues for links in a hemisphere: ports over which it can send a vector at once."""
        return sum(kind == C2C for kind in self.g.queue_kind) // 2

    def combined(self, name: str, parts: Sequence[Buffer], first: int, count: int) -> Op | Mem:
        """ADD or MAX of vectors first .. of several f32 buffers, as an operation over at most four of them."""
        while len(parts) > 4:
            sums = []
            for k in range(0, len(parts), 4):
                value = self.combined(name, parts[k : k + 4], first, count)
                if isinstance(value, Mem):
                    sums.append(parts[k])
                    continue
                sums.append(self.scratch(4, parts[0].n, k // 4 % 2))
                self.s.vop([(value, [Dst(sums[-1], first)])], count)
            parts = sums
        leaves: list[Op | Mem] = [Mem(part, first) for part in parts]
        while len(leaves) > 1:
            leaves = [f32(name, *pair) if len(pair) == 2 else pair[0]
                      for pair in (leaves[k : k + 2] for k in range(0, len(leaves), 2))]
        return leaves[0]

    def ones(self, hemisphere: int) -> Buffer:
        """Tile buffer of all ones in f16: 20 blocks of the same word a slice."""
        key = f"ones/{hemisphere}"
        if key not in self.constants:
            groups = self.place.streaming_groups(hemisphere, 8)
            slices = tuple(x for k in groups for x in self.memory.group(hemisphere, k))
            buffer = self.memory.buffer(slices, 1)
            row = byte_planes(np.ones((16, self.g.lanes), dtype=np.float16))  # [16, 2, lanes]
            data = row.reshape(1, len(slices), self.g.lanes)
            self.place.fills.append(Fill(buffer, lambda layer: data, table=True))
            count = self.g.rows // 16
            self.constants[key] = Buffer(buffer.slices, buffer.addresses, count, pitch=0, side=hemisphere,
                                         name="ones")
            self.memory.buffers.append(self.constants[key])
        return self.constants[key]

    def lane_map(self, lanes: np.ndarray) -> int:
        """Number of a lane map of the text."""
        for number, known in enumerate(self.maps):
            if np.array_equal(known, lanes):
                return number
        self.maps.append(np.asarray(lanes, dtype=np.uint16))
        return len(self.maps) - 1
