"""One pipeline stage of a stored model to LPU blocks, texts and images: one decode step."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from emulator.lpu.geometry import Geometry
from isa.opcodes import TYPE_BYTES, TYPES
from isa.program import LpuImage, LpuText, Tensor
from programs.decode.stored import StoredModel
from programs.lpu.build import Build, Crossing
from programs.lpu.chain import imm
from programs.lpu.emit import Block, block_of, make_image, make_text, text_words
from programs.lpu.kernels.embed import embedding, place_embedding
from programs.lpu.kernels.head import ArgMax
from programs.lpu.kernels.linear import Partials
from programs.lpu.kernels.network import NEXT, PREVIOUS, all_reduce, exchanged, hand_over, take_over
from programs.lpu.kernels.norm import rms_norm
from programs.lpu.kernels.state import StepState, step_state
from programs.lpu.layer import Flow, Layer, Weights
from programs.lpu.links import receive, send
from programs.lpu.memory import Buffer, Memory
from programs.lpu.partition import attention_layout, linear_plans, natural
from programs.lpu.place import Fill, Placer
from programs.lpu.ports import PortTimes
from programs.lpu.schedule import Dst, Mem, Scheduler
from programs.lpu.stage import TABLE_ROWS, Piece, Stage, Units, weight_format
from programs.shard import share, share_shapes

Sent = tuple[tuple[str, int], ...]  # what crosses from stage to stage, in order: (name, vector)


@dataclass(frozen=True)
class Arrival:
    """What comes from the stage before, and when: cycles after the first vector."""

    sent: Sent
    cycles: tuple[int, ...]


@dataclass
class Blocks:
    """What the chips of a stage run: blocks before the residual comes, then those of `after`, then `last` of ranks
    that do not send to the next stage (False) and of those that do, which is the same but for the sending.
    sent: what goes to the next stage."""

    before: list[Block]
    after: list[Block]
    last: dict[bool, Block]
    sent: Sent


class Compiler:
    """The schedule of one stage's shape, for every rank of a group.

    stored: the whole model; shares of it are made when a rank's image is asked for. `common` schedules
    what does not depend on the stage before; `enter` and `come_back` add what comes from other stages.
    """

    def __init__(self, stored: StoredModel, g: Geometry, batch: int, context: int, timing_only: bool, stage: Stage,
                 ranks: int = 1) -> None:
        self.model, self.g, self.stage = stored, g, stage
        self.timing_only = timing_only or not stored.has_values
        shapes = share_shapes(stored, ranks, g.lanes)
        layout = attention_layout(shapes.config, g.lanes)
        self.format = weight_format(shapes)
        planes = g.planes if self.format == "s8" else g.planes // 2
        self.plans = linear_plans(shapes, layout, g.lanes, planes if ranks > 1 else 0)
        self.units = Units(shapes, g, batch, context)
        memory = Memory(g, sum(self._complete(p) for p in stage.pieces))
        placer = Placer(g, memory, self.units.of(stage) / g.words)
        memory.reuse = not placer.roomy
        self.b = Build(g, shapes, batch, context, Scheduler(g, [], memory, placer), memory, placer, layout,
                       stored.config.vocab, ranks)
        self.first_layer = stage.layers[0]  # of the stage whose image is being made

    def _complete(self, piece: Piece) -> bool:
        return (piece.start, piece.end) == (0, self.units.per_layer)

    @property
    def begins(self) -> bool:
        """Whether a token starts here."""
        return self.stage.tables[0] == 0 and self.stage.tables[1] > 0

    @property
    def ends(self) -> bool:
        """Whether the next token is known at the end of this stage."""
        return self.stage.heads[1] == self.units.heads

    # -- placement --------------------------------------------------------------------------
    def _place(self) -> None:
        b, stage = self.b, self.stage
        # first of all, so that every stage has it in the same words
        self.position = self._zeros(b.batch, True).named("position")
        self.token = self._zeros(b.batch + 1, True).named("token")
        # In a timing-only program nobody knows the token that arrives, but addresses come from it: it goes to words
        # beside it, and the stage works on with zero. A program with values has these words too, to be the same.
        beside = b.memory.buffer(self.token.slices, b.batch).named("token")
        self.arrived = beside if self.timing_only else self.token
        self.partials = Partials(b)
        made: dict[Piece | None, Layer] = {}
        # what every layer has a copy of first: it comes in the largest steps, the rest evens them out
        for piece in sorted(stage.pieces, key=lambda p: not self._complete(p)):
            key = None if self._complete(piece) else piece
            if key not in made:
                made[key] = self._piece(piece)
        self.pieces = [made[None if self._complete(piece) else piece] for piece in stage.pieces]
        if stage.heads[1] > stage.heads[0]:
            rows = self.plans["lm_head"].rows[slice(*stage.heads)]
            plans = self.plans | {"lm_head": replace(self.plans["lm_head"], rows=rows)}
            self.head = Weights(b, self.format, plans, False, lambda layer: layer, self.partials)
            self.head.place("lm_head")
        if stage.tables[1] > stage.tables[0]:
            vocab = b.stored.config.vocab
            self.rows = stage.tables[0] * TABLE_ROWS, min(vocab, stage.tables[1] * TABLE_ROWS)
            self.tables = place_embedding(b, *self.rows)
        n = len(natural(b.stored.config.hidden, self.g.lanes)) * b.batch + 1
        self.x = self._zeros(n, False).named("hidden")
        self.incoming = Flow(self.x)
        if stage.pieces and stage.pieces[0].start > 0:
            self.incoming.middle = self._zeros(n, False, 1).named("hidden")
            if stage.pieces[0].start > 1:
                self.incoming.hidden = self._zeros(self.units.pairs * b.batch, False).named("gated")
        cut = 0 < stage.heads[0] or 0 < stage.heads[1] < self.units.heads
        # largest logit and its id by lanes, where the head is cut
        self.best = [self._zeros(b.batch, False, side).named("best") for side in (0, 1)] if cut else []

    def _piece(self, piece: Piece) -> Layer:
        offset = piece.layer - self.stage.layers[0]
        complete = self._complete(piece)
        return Layer(self.b, self.format, self.plans, piece.start, piece.end, complete,
                     (lambda layer: layer) if complete else (lambda layer: self.first_layer + offset), self.partials,
                     piece.end < self.units.per_layer and self.b.ranks == 1)

    def _zeros(self, n: int, real: bool, side: int = 0) -> Buffer:
        """n f32 or s32 vectors, zero at first; real: in timing-only programs too (step state)."""
        buffer = self.b.place.scratch(4, n, side)
        self.b.place.fills.append(Fill(buffer, zero=True, table=real))
        return buffer

    # -- blocks -----------------------------------------------------------------------------
    def _end_block(self) -> Block:
        s = self.b.s
        s.links.check()
        block = block_of(s.events, s.words, s.end, s.links)
        s.start_block()
        self.b.memory.new_block()
        return block

    def common(self, way: Crossing | None) -> Blocks:
        """Everything but what comes from the stage before. way: how ranks that send take part in the way to the
        next stage; None: there is none."""
        b, s = self.b, self.b.s
        self._place()
        state = step_state(b, self.position) if any(piece.attends for piece in self.pieces) else None
        if self.begins:
            self._embed(None)
        s.at("state")
        s.vop([(imm("ADDI", Mem(self.position), 1), [Dst(self.position)])], b.batch)
        before = self._end_block()
        work = self._work(state)
        plain: dict[str, Block] = {}
        sending, sent = self._empty(), tuple[tuple[str, int], ...]()
        for key, schedule, _, _ in work or [("", lambda: None, -1, -1)]:
            if key in plain:
                continue
            schedule()
            plain[key] = block_of(s.events, s.words, s.end, copy.deepcopy(s.links))
            if way is not None and (not work or key == work[-1][0]):  # sends go on top: nothing else moves
                b.crossing = way
                sent = self._leave()
                sending = self._end_block()
            else:
                self._end_block()
        after = [replace(plain[key], layer=layer, arena=arena) for key, _, layer, arena in work]
        closing = replace(sending, layer=after[-1].layer, arena=after[-1].arena) if work else sending
        last = after.pop() if work else plain[""]
        s.memo.clear()  # patterns of the layers; a system has a compiler for every shape of its stages
        return Blocks([before], after, {False: last, True: last if way is None else closing}, sent)

    def _work(self, state: StepState | None) -> list[tuple[str, Callable[[], None], int, int]]:
        """(name of the block, what schedules it, layer, place in the arena) of all blocks; one name, one schedule."""
        stage, flow = self.stage, replace(self.incoming, sent=[])
        found: list[tuple[str, Callable[[], None], int, int]] = []
        if stage.tables[0] > 0:
            found.append(("embed", lambda: self._embed(self.x), -1, -1))
        for at, (piece, layer) in enumerate(zip(stage.pieces, self.pieces, strict=True)):
            own = Flow(self.x) if layer.weights.layered else flow

            def schedule(layer: Layer = layer, own: Flow = own) -> None:
                layer.schedule(state, own)

            if layer.weights.layered:
                arena = sum(name == "layer" for name, *_ in found)
                found.append(("layer", schedule, piece.layer, arena))
            else:
                found.append((f"piece {at}", schedule, piece.layer, -1))
            flow = flow if piece.end < self.units.per_layer else Flow(self.x)
        self.last = flow
        if stage.heads[1] > stage.heads[0]:
            found.append(("head", self._head, -1, -1))
        return found

    def _empty(self) -> Block:
        return block_of(array("q"), array("Q"), 0, PortTimes(self.g.slot, self.g.hop))

    def _embed(self, before: Buffer | None) -> None:
        b = self.b
        if b.ranks == 1:
            embedding(b, self.tables, self.rows[0], self.token, self.x, before)
            return
        found = exchanged(b, self.x.n, 0).named("hidden")
        embedding(b, self.tables, self.rows[0], self.token, found, None)
        all_reduce(b, found, None, self.x)
        b.memory.release(found)

    def _head(self) -> None:
        b, s = self.b, self.b.s
        first, end = self.stage.heads
        s.at("final_norm")
        tiles = (self.x.n - 1) // b.batch
        acts = b.activations(tiles * b.batch, "lm_head")
        rms_norm(b, self.x, tiles, self.head.norm("final_norm"), acts)
        s.at("lm_head")
        made: dict[int, Buffer] = {}
        self.head.multiply("lm_head", acts, None, self.head.keep(made, "logits"))
        self.logits = [made[n] for n in sorted(made)]
        s.at("argmax")
        best = ArgMax(b)
        if first > 0:
            best.begin(*self.best)
        for n, buffer in made.items():
            best.add(first + n, buffer, buffer.side)
        if end == self.units.heads:
            best.token(self.token)
            return
        for found, kept in zip(best.lanes(), self.best, strict=True):
            s.move(Mem(found), [Dst(kept)], b.batch)

    # -- crossings --------------------------------------------------------------------------
    def enter(self, arrival: Arrival, peers: dict[int, PortTimes | None]) -> Block:
        """What the stage before has sent. peers: what arrives on local ports, None: what is sent there."""
        residual = self.incoming.middle or self.x
        places = {"residual": residual, "hidden": self.incoming.hidden, "token": self.arrived}
        if self.best:
            places |= {"value": self.best[0], "index": self.best[1]}

        def take() -> None:
            for name, v in arrival.sent:
                buffer = places[name]
                assert buffer is not None
                receive(self.b.s, PREVIOUS, Dst(buffer, v))

        work = take if self._direct else (lambda: take_over(self.b, residual))
        return self._crossing("enter", work, peers, arrival)

    def _leave(self) -> Sent:
        """Send to the next stage what was not sent before; gives everything that was, in order."""
        b, stage = self.b, self.stage
        if self.last.sent:
            return tuple(self.last.sent)
        b.s.at("leave")
        residual = self.last.middle or self.x
        vectors: list[tuple[str, Buffer, int]] = [("residual", residual, v) for v in range(residual.n - 1)]
        if self.ends:
            vectors = [("token", self.token, i) for i in range(b.batch)]
        elif 0 < stage.tables[1] < self.units.tables:
            vectors += [("token", self.token, i) for i in range(b.batch)]
        elif stage.heads[1] > 0:
            vectors += [(name, self.best[k], i) for k, name in enumerate(("value", "index")) for i in range(b.batch)]
        if not self._direct:
            hand_over(b, self.token if self.ends else residual)
        for _, buffer, v in vectors if self._direct else []:
            send(b.s, [NEXT], Mem(buffer, v))
        return tuple((name, v) for name, _, v in vectors)

    def come_back(self, arrival: Arrival, peers: dict[int, PortTimes | None]) -> Block:
        """The token comes from the last stage to the first."""
        def take() -> None:
            for _, v in arrival.sent:
                receive(self.b.s, PREVIOUS, Dst(self.token, v))

        work = take if self._direct else (lambda: take_over(self.b, self.token))
        return self._crossing("token", work, peers, arrival)

    @property
    def _direct(self) -> bool:
        """Whether every rank has its own link to its counterpart in the next stage, and sends all."""
        return self.b.crossing.links == self.b.ranks

    def _crossing(self, node: str, work: Callable[[], None], peers: dict[int, PortTimes | None],
                  arrival: Arrival | None) -> Block:
        links = self.b.s.links
        links.peers = {port: links if other is None else other for port, other in peers.items()}
        links.stage = () if arrival is None else arrival.cycles
        self.b.s.at(node)
        work()
        return self._end_block()

    # -- results ----------------------------------------------------------------------------
    def text(self, blocks: list[Block]) -> tuple[LpuText, int]:
        """A chip's text and its cycles. Raises CapacityError where the SRAM does not hold it."""
        b = self.b
        text, cycles = make_text(self.g, b.memory, blocks, b.s.nodes, b.maps)
        b.memory.check(text_words(self.g, len(text.words)))
        return text, cycles

    def image(self, stage: Stage, rank: int) -> LpuImage:
        """Initial SRAM of a rank of a stage of this shape."""
        b = self.b
        shapes, b.rank = b.stored, rank
        self.first_layer = stage.layers[0]
        layers = [p.layer for p in stage.pieces if self._complete(p)]
        if not self.timing_only:
            b.stored = share(self.model, rank, b.ranks, self.g.lanes)
        image = make_image(self.g, b.memory, b.place.fills, layers, self.timing_only)
        b.stored = shapes
        return image

    def tensor(self, name: str) -> Tensor:
        """Where "position", "token", "logits" (a rank's share) or "hidden" lies on a chip."""
        b, g, c = self.b, self.g, self.model.config

        def rows(buffer: Buffer, n: int) -> np.ndarray:  # [batch, vectors, bytes] of vector v * batch + sequence
            return buffer.words(g)[:n].reshape(-1, b.batch, len(buffer.slices)).transpose(1, 0, 2)

        def made(dtype: str, columns: int, role: str, words: np.ndarray, replicated: bool, phantom: bool) -> Tensor:
            assert words.shape[2] == TYPE_BYTES[TYPES.index(dtype)]
            return Tensor(name, dtype, (b.batch, columns), role, phantom, replicated, words.astype(np.int32))

        if name in ("position", "token"):
            return made("s32", g.lanes, "state", rows(getattr(self, name), b.batch), True, False)
        if name == "logits":
            words = np.concatenate([rows(x, b.batch) for x in self.logits], axis=1)
            return made("f32", c.vocab, "output", words, False, self.timing_only)
        return made("f32", c.hidden, "activation", rows(self.x, self.x.n - 1), False, self.timing_only)


__all__ = ["Arrival", "Compiler", "Sent"]
