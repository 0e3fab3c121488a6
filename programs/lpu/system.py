"""A stored model to an LPU program for one chip or a system of chips: one decode step, serving a whole generation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from emulator.chip import Chip
from emulator.lpu.geometry import Geometry, geometry
from emulator.lpu.system import NODE, System, load_system
from isa.opcodes import ROLE_PORT
from isa.program import LpuImage, LpuText, Program, Tensor
from programs.decode.stored import StoredModel
from programs.errors import CapacityError
from programs.lpu.build import Crossing
from programs.lpu.compile import Arrival, Blocks, Compiler
from programs.lpu.emit import Block, block_starts, text_words
from programs.lpu.kernels.network import NEXT, PREVIOUS
from programs.lpu.ports import PortTimes
from programs.lpu.split import Split, choose_split

SYSTEM = "groq_production"
TRIES = 4  # numbers of stages that are tried, from the smallest that should do


def compile_lpu(stored: StoredModel, chip: Chip, batch: int = 1, context: int = 1024, timing_only: bool = False,
                layers: tuple[int, int] | None = None, chips: int | None = None, tensor_parallel: int | None = None,
                pipeline_parallel: int | None = None) -> Program:
    """Program of one decode step on `chips` chips, split as asked; default: the smallest system that fits.

    layers (a, b): these layers only, on one group, from and to the tensor "hidden" f32 [batch, hidden]. Raises
    CapacityError for what does not fit and for a split that is impossible.
    """
    g = geometry(chip)
    whole_head = not timing_only and stored.has_values
    free = chips is None and pipeline_parallel is None and (layers is None or tensor_parallel is None)
    for more in range(TRIES):
        split = choose_split(stored, g, batch, context, layers, chips, tensor_parallel, pipeline_parallel, whole_head,
                             more)
        try:
            return SystemCompiler(stored, chip, g, batch, context, timing_only, split).program()
        except CapacityError:  # scratch and instructions may not fit where weights and cache just do
            if not free or more == TRIES - 1:
                raise
    raise AssertionError


@dataclass(frozen=True)
class Way:
    """Links from one stage to the next, one a rank at most: ((rank, port), (rank, port))."""

    links: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    ranks: int

    @property
    def senders(self) -> dict[int, int]:
        """Rank that sends -> number of its link."""
        return {a[0]: k for k, (a, _) in enumerate(self.links)}

    @property
    def receivers(self) -> dict[int, int]:
        """Rank that receives -> number of its link."""
        return {b[0]: k for k, (_, b) in enumerate(self.links)}

    @property
    def leaving(self) -> Crossing:
        """What the sending stage's text must know of the way."""
        return Crossing(len(self.links))

    def arriving(self, rank: int) -> Crossing:
        """What a receiving rank's text must know of the way."""
        heard = frozenset(p for p in range(1, self.ranks) if rank ^ p in self.receivers)
        return Crossing(len(self.links), receives=rank in self.receivers, hears=heard)


def chip_groups(stages: int, ranks: int) -> list[list[int]]:
    """Chip numbers of every stage's ranks. In a ring of nodes, a value enters a node in the second half of
    its chips and leaves it from the first half."""
    if stages * ranks <= NODE:
        return [list(range(k * ranks, (k + 1) * ranks)) for k in range(stages)]
    per_node = NODE // ranks
    half = per_node // 2
    order = [*range(per_node - 1, half - 1, -1), *range(half)]
    nodes = -(-stages // per_node)
    found = []
    for node in range(nodes):
        count = stages // nodes + (node < stages % nodes)
        for k in [*order[: count - 1], order[-1]]:
            first = node * NODE + k * ranks
            found.append(list(range(first, first + ranks)))
    return found


class SystemCompiler:
    """Stages to texts, texts to chips, and the cycle in which every chip starts."""

    def __init__(self, stored: StoredModel, chip: Chip, g: Geometry, batch: int, context: int, timing_only: bool,
                 split: Split) -> None:
        self.stored, self.chip, self.g, self.split = stored, chip, g, split
        self.batch, self.context = batch, context
        self.timing_only = timing_only or not stored.has_values
        self.ranks, self.stages = split.ranks, split.stages
        self.system: System | None = load_system(SYSTEM) if split.chips > 1 else None
        if self.system is not None and split.chips > self.system.chips_max:
            raise CapacityError(f"{split.chips:,} chips: {self.system.name} has at most {self.system.chips_max:,}",
                                self.system.chips_max)
        self.groups = chip_groups(len(self.stages), self.ranks)
        count = len(self.stages)
        self.ways = [self._way(k) for k in range(count)] if count > 1 else []
        self.compilers: dict[tuple, Compiler] = {}
        self.common: dict[tuple, Blocks] = {}
        self.entered: dict[tuple, Block] = {}
        self.arrivals: dict[int, Arrival] = {}
        self.blocks: dict[tuple[int, int], list[Block]] = {}

    def _way(self, stage: int) -> Way:
        """The links from a stage to the next one, and from the last one to the first."""
        assert self.system is not None
        here, there = self.groups[stage], self.groups[(stage + 1) % len(self.stages)]
        installed = max(c for group in self.groups for c in group) + 1
        found: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for (a, p), (b, q) in self.system.links(here, there, installed):
            if all(here.index(a) != x[0] and there.index(b) != y[0] for x, y in found):
                found.append(((here.index(a), p), (there.index(b), q)))
        if not found:
            raise CapacityError(f"{self.system.name} has no link between the chips {here} and {there} of consecutive "
                                "stages; choose another --pipeline-parallel", None)
        return Way(tuple(found), self.ranks)

    # -- blocks of every chip -----------------------------------------------------------------
    def _compiler(self, k: int) -> tuple[Compiler, Blocks]:
        """The compiler of stage k with what all stages of its shape share."""
        stage = self.stages[k]
        way = self.ways[k] if self.ways else None
        key = (stage.shape, way)
        if key not in self.compilers:
            made = Compiler(self.stored, self.g, self.batch, self.context, self.timing_only, stage, self.ranks)
            made.b.senders = way.senders if way else {}
            self.compilers[key] = made
            self.common[key] = made.common(way.leaving if way else None)
        return self.compilers[key], self.common[key]

    def _arrival(self, k: int) -> Arrival:
        """What stage k (0: what comes back) gets from the one before, and in which rhythm."""
        if k in self.arrivals:
            return self.arrivals[k]
        before = (k or len(self.stages)) - 1
        sender = self.ways[before].links[0][0][0]
        sent = self._times(self._blocks(before, sender), NEXT, True)
        self.arrivals[k] = Arrival(self._compiler(before)[1].sent, tuple(t - sent[0] for t in sent))
        return self.arrivals[k]

    def _enter(self, k: int, rank: int) -> Block:
        """The block in which a rank of stage k gets what the stage before sends, or the first stage the token."""
        way = self.ways[k - 1]
        compiler, crossing, arrival = self._compiler(k)[0], way.arriving(rank), self._arrival(k)
        key = (id(compiler), k == 0, way, crossing, arrival)
        if key not in self.entered:
            peers: dict[int, PortTimes | None] = {}
            for port in crossing.hears:  # those that others hear come first: their times of sending are known then
                same = way.arriving(rank ^ port) == crossing
                peers[port] = None if same else self._enter(k, rank ^ port).ports
            b = compiler.b
            b.crossing, b.receivers = crossing, way.receivers
            self.entered[key] = (compiler.enter if k else compiler.come_back)(arrival, peers)
        return self.entered[key]

    def _blocks(self, k: int, rank: int) -> list[Block]:
        """What a rank of stage k runs, without the token's return."""
        if (k, rank) in self.blocks:
            return self.blocks[k, rank]
        common = self._compiler(k)[1]
        blocks = list(common.before)
        if k > 0:
            length = max(self._enter(k, r).cycles for r in range(self.ranks))
            blocks.append(replace(self._enter(k, rank), cycles=length))
        blocks += [*common.after, common.last[bool(self.ways) and rank in self.ways[k].senders]]
        self.blocks[k, rank] = blocks
        return blocks

    # -- when -----------------------------------------------------------------------------------
    def _times(self, blocks: list[Block], port: int, sent: bool) -> list[int]:
        """Cycles of a text in which it sends to or receives from a role port."""
        found = []
        for block, start in zip(blocks, block_starts(self.g, blocks), strict=True):
            found += [start + t for t in (block.ports.sent if sent else block.ports.received).get(port, ())]
        return found

    def _lead(self, k: int, there: list[list[Block]]) -> int:
        """Cycles from the start of stage k to the start of the chips `there`, so that all arrives in time."""
        lead = 0
        for (a, _), (b, _) in self.ways[k].links:
            sent = self._times(self._blocks(k, a), NEXT, True)
            received = self._times(there[b], PREVIOUS, False)
            assert len(sent) == len(received)
            lead = max(lead, max(t + self.g.hop - u for t, u in zip(sent, received, strict=True)))
        return lead

    # -- the program --------------------------------------------------------------------------------
    def program(self) -> Program:
        """Everything, for every chip. Raises CapacityError where a chip cannot hold its part."""
        starts = [0]
        for k in range(len(self.stages)):  # in order: a stage's beginning follows from the end of the one before
            self._blocks(k, 0)
        for k in range(len(self.ways) - 1):
            starts.append(starts[k] + self._lead(k, [self._blocks(k + 1, r) for r in range(self.ranks)]))
        texts: list[LpuText] = []
        images: list[LpuImage] = []
        chips: list[tuple[int, int, tuple[int, ...]]] = []
        known: dict[tuple, tuple[int, int]] = {}
        pictures: dict[tuple, int] = {}
        spans: list[tuple[int, int]] = []
        end = words = 0
        for k, stage in enumerate(self.stages):
            compiler = self._compiler(k)[0]
            busy = 0
            for rank in range(self.ranks):
                blocks = self._blocks(k, rank)
                busy = max(busy, block_starts(self.g, blocks)[-1] + blocks[-1].cycles)
                if self.ways and k == 0:
                    blocks = [*blocks, self._tail(starts[-1], rank)]
                key = (id(compiler), *(id(block.table) for block in blocks), blocks[-1].gap)
                if key not in known:
                    text, cycles = compiler.text(blocks)
                    known[key] = len(texts), cycles
                    texts.append(text)
                    words = max(words, compiler.b.memory.used_words + text_words(self.g, len(text.words)))
                number, cycles = known[key]
                picture = (number,) if self.timing_only else (k, rank)
                if picture not in pictures:
                    pictures[picture] = len(images)
                    images.append(compiler.image(stage, rank))
                chips.append((number, pictures[picture], self._coordinates(k, rank, starts[k])))
                end = max(end, starts[k] + cycles)
            spans.append((starts[k], starts[k] + busy))
        layers = [piece.layer for stage in self.stages for piece in stage.pieces]
        meta = {
            "model": self.stored.name, "batch": self.batch, "context": self.context,
            "layers": [min(layers), max(layers) + 1], "timing_only": self.timing_only,
            "predicted_cycles": end, "nodes": texts[0].source.nodes, "sram_words": words,
            "sram_words_available": self.g.words, "tensor_parallel": self.ranks,
            "pipeline_parallel": len(self.stages), "stages": [list(span) for span in spans],
            "stage_layers": [list(stage.layers) for stage in self.stages],
            "layer_cycles": sum(self._layer_cycles(k) for k in range(len(self.stages))),
        }
        if self.system is not None:
            meta["system"] = self.system.name
        return Program("lpu", self.chip.name, self.chip.hash, texts, images, chips, self._tensors(), [], meta)

    def _layer_cycles(self, k: int) -> int:
        """Cycles of a stage's layers, without what comes before, after and between them."""
        return sum(block.cycles for block in self._blocks(k, 0) if block.layer >= 0)

    def _tail(self, last_start: int, rank: int) -> Block:
        """The return of the token to the first stage, as late as the last stage sends it."""
        way = self.ways[-1]
        every = [self._enter(0, r) for r in range(self.ranks)]
        done = [block_starts(self.g, self._blocks(0, r))[-1] + self._blocks(0, r)[-1].cycles for r in range(self.ranks)]
        begin = max(done)
        for (a, _), (b, _) in way.links:
            sent = self._times(self._blocks(len(self.stages) - 1, a), NEXT, True)
            received = every[b].ports.received[PREVIOUS]
            begin = max(begin, max(last_start + t + self.g.hop - u for t, u in zip(sent, received, strict=True)))
        length = max(block.cycles for block in every)
        return replace(every[rank], gap=begin - done[rank], cycles=length)

    def _coordinates(self, k: int, rank: int, start: int) -> tuple[int, ...]:
        if not self.ways:
            return (self.groups[k][rank], start)
        out = {a: p for (a, p), _ in self.ways[k].links}
        back = {b: q for _, (b, q) in self.ways[k - 1].links}
        roles = {NEXT: out.get(rank, -1), PREVIOUS: back.get(rank, -1)}
        return self.groups[k][rank], start, *(roles[ROLE_PORT + i] for i in range(len(roles)))

    def _tensors(self) -> dict[str, Tensor]:
        first, last = self._compiler(0)[0], self._compiler(len(self.stages) - 1)[0]
        every = tuple(range(self.split.chips))
        head = every[-self.ranks :]
        found = {"position": replace(first.tensor("position"), chips=every),
                 "token": replace(first.tensor("token"), chips=every[: self.ranks])}
        if self.stages[-1].heads[0] == 0 and last.ends:
            found["logits"] = replace(last.tensor("logits"), chips=head, sharded=self.ranks > 1)
        elif not last.ends:
            found["hidden"] = replace(last.tensor("hidden"), chips=head)
        return found
