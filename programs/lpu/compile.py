"""A stored model to an LPU program: one decode step, serving a whole generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import Geometry, geometry
from isa.opcodes import TYPE_BYTES, TYPES
from isa.program import Program, Tensor
from programs.decode.stored import ACTIVATION_FACTOR, StoredLinear, StoredModel
from programs.errors import CapacityError
from programs.lpu.build import Build
from programs.lpu.chain import Op, copy, f32, imm
from programs.lpu.emit import Block, block_of, make_image, make_text, text_words
from programs.lpu.kernels.attention import Cache, Projections, attention, place_cache, projections
from programs.lpu.kernels.embed import embedding, place_embedding
from programs.lpu.kernels.head import ArgMax
from programs.lpu.kernels.linear import Partials, linear
from programs.lpu.kernels.norm import quantise, rms_norm, scale_and_cast, squares
from programs.lpu.kernels.state import StepState, capacity_blocks, position_tiles, step_state, value_blocks
from programs.lpu.memory import Buffer, Memory
from programs.lpu.partition import BLOCK, LinearPlan, attention_layout, blocks, linear_plans, natural
from programs.lpu.place import Fill, PlacedLinear, Placer, byte_planes, lane_vectors
from programs.lpu.schedule import Dst, Mat, Mem, Scheduler

LAYER_LINEARS = ("gate_up", "down", "qkv", "o")
HEADROOM = 0.01  # share of the chip that tables, scratch and instructions need at least


def compile_lpu(stored: StoredModel, chip: Chip, batch: int = 1, context: int = 1024, timing_only: bool = False,
                layers: tuple[int, int] | None = None) -> Program:
    """Program of one decode step. Raises CapacityError when one chip cannot hold it.

    layers (a, b): these layers only, from and to the tensor "hidden" f32 [batch, hidden].
    """
    return Compiler(stored, geometry(chip), batch, context, timing_only, layers).program(chip)


class Compiler:
    """Everything about one compilation."""

    def __init__(self, stored: StoredModel, g: Geometry, batch: int, context: int, timing_only: bool,
                 layers: tuple[int, int] | None) -> None:
        self.stored, self.g = stored, g
        self.timing_only = timing_only or not stored.has_values
        self.whole = layers is None
        self.layers = range(*(layers or (0, stored.config.layers)))
        layout = attention_layout(stored.config, g.lanes)
        self.plans = linear_plans(stored, layout, g.lanes)
        scheme = stored.scheme
        self.format = "f16" if scheme.weights == "f16" else "s8" if scheme.activations == "s8" else "cast8"
        need = self._estimate(batch, context, layout.key_vectors)
        memory = Memory(g, len(self.layers))
        placer = Placer(g, memory, need / g.words)
        memory.reuse = not placer.roomy
        self.b = Build(g, stored, batch, context, Scheduler(g, [], memory, placer), memory, placer, layout)
        self.blocks: list[Block] = []

    # -- capacity ---------------------------------------------------------------------------
    def _estimate(self, batch: int, context: int, key_vectors: int) -> int:
        """SRAM words of weights, scales, cache and embedding; raises CapacityError beyond the chip."""
        c, g = self.stored.config, self.g
        size = 2 if self.format == "f16" else 1
        layer = sum(size * self.plans[name].words for name in LAYER_LINEARS)
        if self.format != "f16":
            layer += sum(4 * len(self.plans[name].rows) for name in LAYER_LINEARS)
        tiles = position_tiles(context, g.lanes)
        channels = [len(v) for v in natural(c.kv_size, g.lanes)]
        cache = batch * 2 * BLOCK * (key_vectors * (capacity_blocks(context) + 1) + sum(
            tiles * blocks(n) + value_blocks(context, g.lanes) + 1 for n in channels))
        head = embed = 0
        if self.whole:
            head = size * self.plans["lm_head"].words + 4 * (1 + batch) * len(self.plans["lm_head"].rows)
            embed = 2 * c.vocab * len(natural(c.hidden, g.lanes))
        count = len(self.layers)
        need = count * (layer + cache) + head + embed
        if need > g.words * (1 - HEADROOM):
            usable = int(g.words * (1 - HEADROOM))
            per_chip = usable // (layer + cache)
            if per_chip:  # whole layers a chip; embedding and head share the last one with the layers left over
                left = count % per_chip * (layer + cache) + head + embed
                chips = count // per_chip + -(-left // usable)
            else:
                chips = -(-need // usable)
            unit = "layer" if count == 1 else "layers"
            raise CapacityError(
                f"{self.stored.name} does not fit one {g.chip}: {count} {unit} of {layer + cache:,} SRAM words "
                f"({layer:,} weights, {cache:,} KV cache for {batch} x {context} positions) and {head + embed:,} of "
                f"embedding and head need {need:,} words of {g.lanes} B = {need * g.lanes / 1e6:,.0f} MB; the chip has "
                f"{g.words:,} = {g.sram_bytes / 1e6:,.1f} MB; {chips} chips could hold it", chips)
        return need

    # -- placement --------------------------------------------------------------------------
    def _source(self, short: str) -> Callable[[int], StoredLinear]:
        if short == "lm_head":
            return lambda layer: self.stored.linears["lm_head"]
        return lambda layer: self.stored.linears[f"layers.{layer}.{short}"]

    def _place(self) -> None:
        b, c = self.b, self.stored.config
        self.placed: dict[str, PlacedLinear] = {}
        # what every layer has a copy of first: it comes in the largest steps, the rest evens them out
        for short in LAYER_LINEARS:
            self.placed[short] = b.place.linear(self.plans[short], self.format, True, self._source(short))
        self.cache: Cache = place_cache(b)
        if self.whole:
            self.placed["lm_head"] = b.place.linear(self.plans["lm_head"], self.format, False, self._source("lm_head"))
            self.tables = place_embedding(b)
        self.tiles = len(natural(c.hidden, self.g.lanes))
        self.position = self._state(b.batch)
        self.token = self._state(b.batch)
        self.x = self._activation(self.tiles * b.batch)
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
        first = source(self.layers[0])
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
        middle = b.scratch(4, self.tiles * batch, 1)
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
        self._linear(short, acts, rms, self._keep(results))
        s.at(f"layer.{'attn' if short == 'o' else 'mlp'}_add")
        for n, result in results.items():
            s.vop([(f32("ADD", Mem(result), Mem(old, n * batch)), [Dst(new, n * batch)])], batch)
            b.memory.release(result)

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

    # -- the whole program ------------------------------------------------------------------
    def _end_block(self) -> None:
        s = self.b.s
        self.blocks.append(block_of(s.events, s.words, s.end))
        s.start_block()
        self.b.memory.new_block()

    def program(self, chip: Chip) -> Program:
        b, s, g = self.b, self.b.s, self.g
        self._place()
        state = step_state(b, self.position)
        if self.whole:
            embedding(b, self.tables, self.token, self.x)
        self._end_block()
        self._layer(state)
        self._end_block()
        layer = self.blocks.pop()
        self.blocks += [Block(layer.table, layer.words, layer.cycles, i, at) for at, i in enumerate(self.layers)]
        if self.whole:
            self._head()
        s.at("state")
        s.vop([(imm("ADDI", Mem(self.position), 1), [Dst(self.position)])], b.batch)
        self._end_block()
        text, cycles = make_text(g, b.memory, self.blocks, s.nodes, b.maps)
        b.memory.check(text_words(g, len(text.words)))
        image = make_image(g, b.memory, b.place.fills, self.layers, self.timing_only)
        meta = {
            "model": self.stored.name, "batch": b.batch, "context": b.context,
            "layers": [self.layers[0], self.layers[-1] + 1], "timing_only": self.timing_only,
            "predicted_cycles": cycles, "nodes": text.source.nodes,
            "sram_words": b.memory.used_words + text_words(g, len(text.words)), "sram_words_available": g.words,
        }
        return Program("lpu", chip.name, chip.hash, [text], [image], [(0, 0, (0,))], self._tensors(), [], meta)

    def _tensors(self) -> dict[str, Tensor]:
        b, g, c = self.b, self.g, self.stored.config
        found: dict[str, Tensor] = {}

        def add(name: str, dtype: str, shape: tuple[int, int], role: str, words: np.ndarray, replicated: bool = False,
                phantom: bool = False) -> None:
            assert words.shape[2] == TYPE_BYTES[TYPES.index(dtype)]
            found[name] = Tensor(name, dtype, shape, role, phantom, replicated, words.astype(np.int32))

        def rows(buffer: Buffer) -> np.ndarray:  # [batch, vectors, bytes] of vector v * batch + sequence
            return buffer.words(g).reshape(-1, b.batch, len(buffer.slices)).transpose(1, 0, 2)

        add("position", "s32", (b.batch, g.lanes), "state", rows(self.position), True)
        add("token", "s32", (b.batch, g.lanes), "state", rows(self.token), True)
        if self.whole:
            words = np.concatenate([rows(x) for x in self.logits], axis=1)
            add("logits", "f32", (b.batch, c.vocab), "output", words, phantom=self.timing_only)
        else:
            add("hidden", "f32", (b.batch, c.hidden), "activation", rows(self.x), phantom=self.timing_only)
        return found


__all__ = ["CapacityError", "Compiler", "compile_lpu"]
