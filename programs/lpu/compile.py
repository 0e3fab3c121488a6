"""One pipeline stage of a stored model to LPU blocks, texts and images: one decode step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emulator.lpu.geometry import Geometry
from isa.opcodes import TYPE_BYTES, TYPES
from isa.program import LpuImage, LpuText, Tensor
from programs.decode.stored import ACTIVATION_FACTOR, StoredLinear, StoredModel
from programs.errors import CapacityError
from programs.lpu.build import Build
from programs.lpu.chain import Op, copy, f32, imm
from programs.lpu.emit import Block, block_of, make_image, make_text, text_words
from programs.lpu.kernels.attention import Cache, Projections, attention, place_cache, projections
from programs.lpu.kernels.embed import embedding, place_embedding
from programs.lpu.kernels.head import ArgMax
from programs.lpu.kernels.linear import Partials, linear
from programs.lpu.kernels.network import all_reduce, exchanged, hand_over, take_over
from programs.lpu.kernels.norm import quantise, rms_norm, scale_and_cast, squares
from programs.lpu.kernels.state import StepState, capacity_blocks, position_tiles, step_state, value_blocks
from programs.lpu.memory import Buffer, Memory
from programs.lpu.partition import BLOCK, LinearPlan, attention_layout, blocks, linear_plans, natural
from programs.lpu.place import Fill, PlacedLinear, Placer, byte_planes, lane_vectors
from programs.lpu.ports import PortTimes
from programs.lpu.schedule import Dst, Mat, Mem, Scheduler
from programs.lpu.shard import share, share_shapes

LAYER_LINEARS = ("gate_up", "down", "qkv", "o")


@dataclass(frozen=True)
class Stage:
    """Part of a model that one group of chips holds: layers a .. b - 1, the embedding before them, the head after."""

    layers: tuple[int, int]
    embedding: bool = True
    head: bool = True

    @property
    def shape(self) -> tuple[int, bool, bool]:
        """What the schedule depends on: stages of one shape share it."""
        return self.layers[1] - self.layers[0], self.embedding, self.head


def stage_words(stored: StoredModel, g: Geometry, batch: int, context: int, stage: Stage) -> tuple[int, int, int]:
    """SRAM words of (weights and scales of a layer, KV cache of a layer, embedding and head) on each chip;
    `stored` is a rank's share."""
    c, form = stored.config, weight_format(stored)
    layout = attention_layout(c, g.lanes)
    plans = linear_plans(stored, layout, g.lanes)
    size = 2 if form == "f16" else 1
    layer = sum(size * plans[name].words for name in LAYER_LINEARS)
    if form != "f16":
        layer += sum(4 * len(plans[name].rows) for name in LAYER_LINEARS)
    tiles = position_tiles(context, g.lanes)
    channels = [len(v) for v in natural(c.kv_size, g.lanes)]
    cache = batch * 2 * BLOCK * (layout.key_vectors * (capacity_blocks(context) + 1) + sum(
        tiles * blocks(n) + value_blocks(context, g.lanes) + 1 for n in channels))
    ends = 0
    if stage.head:
        ends += size * plans["lm_head"].words + 4 * (1 + batch) * len(plans["lm_head"].rows)
    if stage.embedding:
        ends += 2 * c.vocab * len(natural(c.hidden, g.lanes))
    return layer, cache, ends


def weight_format(stored: StoredModel) -> str:
    """How weights lie and reach the planes: "f16", "s8", or "cast8" (s8, cast to f16 on the way)."""
    scheme = stored.scheme
    return "f16" if scheme.weights == "f16" else "s8" if scheme.activations == "s8" else "cast8"


class Compiler:
    """The schedule of one stage's shape, for every rank of a group.

    stored: the whole model; shares of it are made when a rank's image is asked for. `common` schedules
    what all chips of the stage do; `enter`, `leave` and `come_back` add the crossings between stages.
    """

    def __init__(self, stored: StoredModel, g: Geometry, batch: int, context: int, timing_only: bool, stage: Stage,
                 ranks: int = 1) -> None:
        self.model, self.g, self.stage = stored, g, stage
        self.timing_only = timing_only or not stored.has_values
        self.layers = range(*stage.layers)
        share = share_shapes(stored, ranks, g.lanes)
        layout = attention_layout(share.config, g.lanes)
        self.format = weight_format(share)
        units = g.planes if self.format == "s8" else g.planes // 2
        self.plans = linear_plans(share, layout, g.lanes, units if ranks > 1 else 0)
        layer, cache, ends = stage_words(share, g, batch, context, stage)
        memory = Memory(g, len(self.layers))
        placer = Placer(g, memory, (len(self.layers) * (layer + cache) + ends) / g.words)
        memory.reuse = not placer.roomy
        self.b = Build(g, share, batch, context, Scheduler(g, [], memory, placer), memory, placer, layout,
                       stored.config.vocab, ranks)
        self.blocks: list[Block] = []

    @property
    def stored(self) -> StoredModel:
        """The share of the rank whose image is being made; before that, shapes only."""
        return self.b.stored

    # -- placement --------------------------------------------------------------------------
    def _source(self, short: str) -> Callable[[int], StoredLinear]:
        if short == "lm_head":
            return lambda layer: self.stored.linears["lm_head"]
        return lambda layer: self.stored.linears[f"layers.{layer}.{short}"]

    def _place(self) -> None:
        b, c = self.b, self.stored.config
        self.position = self._state(b.batch)  # first of all, so that every stage has it in the same words
        self.token = self._state(b.batch + 1)
        self.placed: dict[str, PlacedLinear] = {}
        # what every layer has a copy of first: it comes in the largest steps, the rest evens them out
        if self.layers:
            for short in LAYER_LINEARS:
                self.placed[short] = b.place.linear(self.plans[short], self.format, True, self._source(short))
            self.cache: Cache = place_cache(b)
        if self.stage.head:
            self.placed["lm_head"] = b.place.linear(self.plans["lm_head"], self.format, False, self._source("lm_head"))
        if self.stage.embedding:
            self.tables = place_embedding(b)
        self.tiles = len(natural(c.hidden, self.g.lanes))
        self.x = self._activation(self.tiles * b.batch + 1)
        self.partials = Partials(b)

    def _state(self, n: int) -> Buffer:
        """Step state: zero at first, and real in timing-only programs too."""
        buffer = self.b.place.scratch(4, n, 0)
        self.b.place.fills.append(Fill(buffer, zero=True, table=True))
        return buffer

    def _activation(self, n: int) -> Buffer:
        buffer = self.b.place.scratch(4, n, 0)
        self.b.place.fills.append(Fill(buffer, zero=True))
        return buffer

    def _row_constant(self, plan: LinearPlan, n: int, values: Callable[[int], np.ndarray], layered: bool, side: int,
                      group: int) -> Buffer:
        """One f32 a lane of row tile n, e.g. its scales."""
        buffer = self.b.place.scratch(4, 1, side, layered, group)
        self.b.place.fills.append(Fill(buffer, lambda layer: byte_planes(
            lane_vectors(values(layer), [plan.rows[n]], self.g.lanes))))
        return buffer

    def _norm_weight(self, short: str) -> Buffer | None:
        """f32 norm weights by input vector, None when they are folded into the matrix."""
        if self.stored.scheme.fold_norms:
            return None
        layered = short != "final_norm"
        buffer = self.b.place.scratch(4, self.tiles, 1, layered)
        layout = natural(self.stored.config.hidden, self.g.lanes)

        def make(layer: int) -> np.ndarray:
            values = self.stored.norms[f"layers.{layer}.{short}" if layered else short]
            assert values is not None
            return byte_planes(lane_vectors(values, layout, self.g.lanes))

        self.b.place.fills.append(Fill(buffer, make))
        return buffer

    # -- kernels ----------------------------------------------------------------------------
    def _linear(self, short: str, acts: Sequence[Buffer], rms: Buffer | None,
                store: Callable[[int, int, int], Dst]) -> None:
        """A linear layer with its scales and bias; row tile n's result goes to store(n, hemisphere, resting group)."""
        placed, plan, layered = self.placed[short], self.plans[short], short != "lm_head"
        source = self._source(short)
        first = source(self.layers[0] if layered else 0)
        factor = 1.0 / ACTIVATION_FACTOR["s8"] if self.format == "s8" else 1.0

        def final(n: int, value: Op | Mat, rest: int, side: int) -> Sequence[tuple[Op, Sequence[Dst]]]:
            if first.has_scale:
                def scales(layer: int) -> np.ndarray:
                    scale = source(layer).scale
                    assert scale is not None
                    return (scale.astype(np.float64) * factor).astype(np.float32)

                value = f32("MUL", value, Mem(self._row_constant(plan, n, scales, layered, side, rest), 0, 0))
            if rms is not None:
                value = f32("MUL", value, Mem(rms))
            if first.has_bias:
                def biases(layer: int) -> np.ndarray:
                    bias = source(layer).bias
                    assert bias is not None
                    return bias

                value = f32("ADD", value, Mem(self._row_constant(plan, n, biases, layered, side, rest), 0, 0))
            return [(value if isinstance(value, Op) else copy(value), [store(n, side, rest)])]

        linear(self.b, placed, acts, self.partials, final)

    def _keep(self, results: dict[int, Buffer]) -> Callable[[int, int, int], Dst]:
        """Every row tile's result in a buffer of its own, collected in `results`."""
        def store(n: int, side: int, rest: int) -> Dst:
            results[n] = self.b.resting(self.b.batch, side, rest)
            return Dst(results[n])

        return store

    def _layer(self, state: StepState) -> None:
        b, s, c = self.b, self.b.s, self.stored.config
        batch, layout = b.batch, b.layout
        acts = b.activations(self.tiles * batch, "qkv")
        s.at("layer.attn_norm")
        rms_norm(b, self.x, self.tiles, self._norm_weight("attn_norm"), acts)
        s.at("layer.qkv")
        p = self._projections(acts)
        out = attention(b, state, self.cache, p, "layer.")
        s.at("layer.o")
        middle = b.scratch(4, self.tiles * batch + 1, 1)
        self._residual("o", out, len(layout.out), c.q_size, self.x, middle)
        s.at("layer.mlp_norm")
        acts = b.activations(self.tiles * batch, "gate_up")
        rms_norm(b, middle, self.tiles, self._norm_weight("mlp_norm"), acts)
        s.at("layer.gate_up")
        hidden = self._gated(acts)
        s.at("layer.down")
        self._residual("down", hidden, len(self.plans["down"].columns), c.ffn, middle, self.x)

    def _projections(self, acts: Sequence[Buffer]) -> Projections:
        """q, k and v. q vectors of one K vector lie together; where the chip is nearly full they are brought
        together afterwards, so that they do not cross the weights' way."""
        b, layout, batch = self.b, self.b.layout, self.b.batch
        p = projections(b)
        keys, values = len(layout.k), len(layout.v)
        later: list[tuple[Buffer, Dst]] = []

        def store(n: int, side: int, rest: int) -> Dst:
            own = Dst(b.resting(batch, side, rest))
            if n < keys:
                p.k[n] = own.buffer
            elif n < keys + values:
                p.v[n - keys] = own.buffer
            else:
                v, j = divmod(n - keys - values, layout.group)
                target = Dst(p.q[v], j * batch)
                if b.place.roomy:
                    return target
                later.append((own.buffer, target))
            return own

        self._linear("qkv", acts, None, store)
        for source, target in later:
            b.s.move(Mem(source), [target], batch)
            b.memory.release(source)
        return p

    def _residual(self, short: str, x: Buffer, vectors: int, size: int, old: Buffer, new: Buffer) -> None:
        """new = old + W x, for o and down."""
        b, s, batch = self.b, self.b.s, self.b.batch
        acts = b.activations(vectors * batch, short)
        rms = None
        if b.act_bytes == 1:
            rms = quantise(b, x, vectors, size, acts, squares(b, x, vectors, 1))
        else:
            scale_and_cast(b, x, vectors, None, None, acts, "f16")
        results: dict[int, Buffer] = {}
        add = f"layer.{'attn' if short == 'o' else 'mlp'}_add"
        if b.ranks == 1:
            self._linear(short, acts, rms, self._keep(results))
            s.at(add)
            for n, result in results.items():
                s.vop([(f32("ADD", Mem(result), Mem(old, n * batch)), [Dst(new, n * batch)])], batch)
                b.memory.release(result)
            return
        partial, order = exchanged(b, old.n, new.side), self.plans[short].order
        if b.place.roomy:
            self._linear(short, acts, rms, lambda n, side, rest: Dst(partial, order[n] * batch))
        else:
            self._linear(short, acts, rms, self._keep(results))
            for n, result in results.items():
                s.move(Mem(result), [Dst(partial, order[n] * batch)], batch)
                b.memory.release(result)
        s.at(add)
        all_reduce(b, partial, old, new)
        b.memory.release(partial)

    def _gated(self, acts: Sequence[Buffer]) -> Buffer:
        """silu(gate) * up, f32 vector k * batch + sequence; silu(g) = g (1 + tanh(g / 2)) / 2."""
        b, s, batch = self.b, self.b.s, self.b.batch
        count = len(self.plans["down"].columns)
        hidden = b.scratch(4, count * batch, 0)
        parts: dict[int, Buffer] = {}
        self._linear("gate_up", acts, None, self._keep(parts))
        s.at("layer.silu_mul")
        for k in range(count):
            gate, up = Mem(parts[2 * k]), Mem(parts[2 * k + 1])
            half = imm("ADDI", imm("MULI", f32("TANH", imm("MULI", gate, 0.5)), 0.5), 0.5)
            s.vop([(f32("MUL", f32("MUL", half, gate), up), [Dst(hidden, k * batch)])], batch)
            b.memory.release(parts[2 * k], parts[2 * k + 1])
        return hidden

    def _head(self) -> None:
        b, s, batch = self.b, self.b.s, self.b.batch
        s.at("final_norm")
        acts = b.activations(self.tiles * batch, "lm_head")
        rms_norm(b, self.x, self.tiles, self._norm_weight("final_norm"), acts)
        s.at("lm_head")
        made: dict[int, Buffer] = {}
        self._linear("lm_head", acts, None, self._keep(made))
        self.logits = [made[n] for n in sorted(made)]
        s.at("argmax")
        best = ArgMax(b)
        for n, buffer in made.items():
            best.add(n, buffer, buffer.side)
        best.token(self.token)

    # -- blocks -----------------------------------------------------------------------------
    def _end_block(self) -> Block:
        s = self.b.s
        s.links.check()
        block = block_of(s.events, s.words, s.end, s.links)
        s.start_block()
        self.b.memory.new_block()
        return block

    def common(self) -> tuple[list[Block], list[Block]]:
        """(blocks before the residual comes, blocks after it): the same for all chips of the stage."""
        b, s = self.b, self.b.s
        self._place()
        state = step_state(b, self.position) if self.layers else None
        if self.stage.embedding:
            self._embed()
        before, after = [self._end_block()], []
        if state is not None:
            self._layer(state)
            layer = self._end_block()
            after = [replace(layer, layer=i, arena=at) for at, i in enumerate(self.layers)]
        if self.stage.head:
            self._head()
        s.at("state")
        s.vop([(imm("ADDI", Mem(self.position), 1), [Dst(self.position)])], b.batch)
        after.append(self._end_block())
        return before, after

    def _embed(self) -> None:
        b = self.b
        if b.ranks == 1:
            embedding(b, self.tables, self.token, self.x)
            return
        found = exchanged(b, self.x.n, 0)
        embedding(b, self.tables, self.token, found)
        all_reduce(b, found, None, self.x)
        b.memory.release(found)

    def enter(self, peers: dict[int, PortTimes | None]) -> Block:
        """The residual comes from the stage before. peers: what arrives on local ports, None: what is sent there."""
        return self._crossing("enter", lambda: take_over(self.b, self.x), peers)

    def leave(self) -> Block:
        """The residual, or after the head the token, goes to the next stage."""
        return self._crossing("leave", lambda: hand_over(self.b, self.token if self.stage.head else self.x), {})

    def come_back(self, peers: dict[int, PortTimes | None]) -> Block:
        """The token comes from the last stage to the first."""
        return self._crossing("token", lambda: take_over(self.b, self.token), peers)

    def _crossing(self, node: str, work: Callable[[], None], peers: dict[int, PortTimes | None]) -> Block:
        links = self.b.s.links
        links.peers = {port: links if other is None else other for port, other in peers.items()}
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

    def image(self, layers: range, rank: int) -> LpuImage:
        """Initial SRAM of a rank whose stage has these layers."""
        b = self.b
        shapes, b.rank = b.stored, rank
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
        return made("f32", c.hidden, "activation", rows(self.x, self.tiles * b.batch), False, self.timing_only)


__all__ = ["CapacityError", "Compiler", "Stage", "stage_words", "weight_format"]
