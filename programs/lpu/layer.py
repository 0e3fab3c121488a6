"""One decoder layer, or a run of its units, scheduled on a chip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from programs.decode.stored import ACTIVATION_FACTOR, StoredLinear
from programs.lpu.build import Build
from programs.lpu.chain import Op, copy, f32, imm
from programs.lpu.kernels.attention import Projections, attention, place_cache, projections
from programs.lpu.kernels.linear import Partials, linear
from programs.lpu.kernels.network import NEXT, all_reduce, exchanged
from programs.lpu.kernels.norm import quantise, rms_norm, scale_and_cast, squares
from programs.lpu.kernels.state import StepState
from programs.lpu.links import send
from programs.lpu.memory import Buffer
from programs.lpu.partition import LinearPlan, natural
from programs.lpu.place import Fill, PlacedLinear, byte_planes, in_layer, lane_vectors
from programs.lpu.schedule import Dst, Mat, Mem
from programs.lpu.stage import LAYER_LINEARS

Source = Callable[[int], StoredLinear]  # layer that an image is made for -> its matrix


@dataclass
class Flow:
    """What goes from piece to piece, and where it lies: x, the residual at a layer's start; middle, after its
    attention; hidden, the products of gate and up. All f32, vector v * batch + sequence, x and middle with a
    dummy at the end. sent: what has left for the next stage, in order: ("residual" or "hidden", vector)."""

    x: Buffer
    middle: Buffer | None = None
    hidden: Buffer | None = None
    sent: list[tuple[str, int]] = field(default_factory=list)


class Weights:
    """Matrices with their scales, biases and norms on a chip; layered: every layer of an arena has its own.

    layer_of: number of the layer whose values a fill stands for.
    """

    def __init__(self, b: Build, format: str, plans: dict[str, LinearPlan], layered: bool,
                 layer_of: Callable[[int], int], partials: Partials) -> None:
        self.b, self.format, self.plans, self.layered = b, format, plans, layered
        self.layer_of, self.partials = layer_of, partials
        self.placed: dict[str, PlacedLinear] = {}

    def place(self, short: str) -> None:
        self.placed[short] = self.b.place.linear(self.plans[short], self.format, self.layered, self._source(short))

    def _source(self, short: str) -> Source:
        if short == "lm_head":
            return lambda layer: self.b.stored.linears["lm_head"]
        return lambda layer: self.b.stored.linears[f"layers.{self.layer_of(layer)}.{short}"]

    def _row_constant(self, plan: LinearPlan, n: int, values: Callable[[int], np.ndarray], side: int,
                      group: int, what: str) -> Buffer:
        """One f32 a lane of row tile n: `what` of the matrix."""
        buffer = self.b.place.scratch(4, 1, side, self.layered, group).named(f"{in_layer(plan.name)}.{what}")
        self.b.place.fills.append(Fill(buffer, lambda layer: byte_planes(
            lane_vectors(values(layer), [plan.rows[n]], self.b.g.lanes))))
        return buffer

    def norm(self, short: str) -> Buffer | None:
        """f32 norm weights by input vector, None when they are folded into the matrix."""
        b = self.b
        if b.stored.scheme.fold_norms:
            return None
        layout = natural(b.stored.config.hidden, b.g.lanes)
        buffer = b.place.scratch(4, len(layout), 1, self.layered).named(in_layer(short))

        def make(layer: int) -> np.ndarray:
            name = short if short == "final_norm" else f"layers.{self.layer_of(layer)}.{short}"
            values = b.stored.norms[name]
            assert values is not None
            return byte_planes(lane_vectors(values, layout, b.g.lanes))

        b.place.fills.append(Fill(buffer, make))
        return buffer

    def multiply(self, short: str, acts: Sequence[Buffer], rms: Buffer | None,
                 store: Callable[[int, int, int], Dst],
                 finish: Callable[[int, Op | Mat], Op | Mat] = lambda n, value: value) -> None:
        """A linear layer with its scales and bias; finish(n, value) of row tile n's result goes to
        store(n, hemisphere, resting group)."""
        placed, plan, source = self.placed[short], self.plans[short], self._source(short)
        shape = next(one for name, one in self.b.stored.linears.items() if name.rpartition(".")[2] == short)
        factor = 1.0 / ACTIVATION_FACTOR["s8"] if self.format == "s8" else 1.0

        def final(n: int, value: Op | Mat, rest: int, side: int) -> Sequence[tuple[Op, Sequence[Dst]]]:
            if shape.has_scale:
                def scales(layer: int) -> np.ndarray:
                    scale = source(layer).scale
                    assert scale is not None
                    return (scale.astype(np.float64) * factor).astype(np.float32)

                value = f32("MUL", value, Mem(self._row_constant(plan, n, scales, side, rest, "scale"), 0, 0))
            if rms is not None:
                value = f32("MUL", value, Mem(rms))
            if shape.has_bias:
                def biases(layer: int) -> np.ndarray:
                    bias = source(layer).bias
                    assert bias is not None
                    return bias

                value = f32("ADD", value, Mem(self._row_constant(plan, n, biases, side, rest, "bias"), 0, 0))
            value = finish(n, value)
            return [(value if isinstance(value, Op) else copy(value), [store(n, side, rest)])]

        linear(self.b, placed, acts, self.partials, final)

    def keep(self, results: dict[int, Buffer], name: str) -> Callable[[int, int, int], Dst]:
        """A store for `multiply`: every row tile's result in a buffer of its own, collected in `results`."""
        def store(n: int, side: int, rest: int) -> Dst:
            results[n] = self.b.resting(self.b.batch, side, rest).named(name)
            return Dst(results[n])

        return store


class Layer:
    """Units start .. end - 1 of a layer (see stage.py): their places, and their schedule.

    leaves: the stage ends inside this layer: what the next one needs is sent as soon as it is there. The
    group is one chip then.
    """

    def __init__(self, b: Build, format: str, plans: dict[str, LinearPlan], start: int, end: int, layered: bool,
                 layer_of: Callable[[int], int], partials: Partials, leaves: bool) -> None:
        self.b, self.leaves = b, leaves
        pairs, self.rows = len(plans["down"].columns), len(plans["down"].rows)
        self.attends = start == 0
        self.first_pair, self.last_pair = (max(0, min(at - 1, pairs)) for at in (start, end))
        self.first_row, self.last_row = max(start - 1 - pairs, 0), max(0, end - 1 - pairs)
        self.pairs = pairs
        gate_up, down = plans["gate_up"], plans["down"]
        mine = plans | {
            "gate_up": replace(gate_up, rows=gate_up.rows[2 * self.first_pair : 2 * self.last_pair]),
            "down": replace(down, rows=down.rows[self.first_row : self.last_row],
                            order=down.order[self.first_row : self.last_row]),
        }
        self.weights = Weights(b, format, mine, layered, layer_of, partials)
        for short in LAYER_LINEARS:
            if mine[short].rows and (self.attends or short in ("gate_up", "down")):
                self.weights.place(short)
        if self.attends:
            self.cache = place_cache(b, layered)

    # -- schedule ---------------------------------------------------------------------------
    def schedule(self, state: StepState | None, flow: Flow) -> None:
        """What this piece does to `flow`, in the block under construction."""
        b, s, c = self.b, self.b.s, self.b.stored.config
        tiles = (flow.x.n - 1) // b.batch
        if self.attends:
            assert state is not None
            acts = b.activations(tiles * b.batch, "qkv")
            s.at("layer.attn_norm")
            rms_norm(b, flow.x, tiles, self.weights.norm("attn_norm"), acts)
            s.at("layer.qkv")
            out = attention(b, state, self.cache, self._projections(acts), "layer.")
            s.at("layer.o")
            if flow.middle is None:
                flow.middle = (exchanged if b.ranks > 1 else _scratch)(b, tiles * b.batch + 1, 1).named("hidden")
            old, new = flow.x, flow.middle
            self._add("o", "attn_add", out, len(b.layout.out), c.q_size, lambda n: (Mem(old, n), Dst(new, n)),
                      self.last_pair == 0, flow)
        middle = flow.middle
        assert middle is not None
        acts = b.activations(tiles * b.batch, "gate_up") if self.last_pair > self.first_pair else []
        if acts:
            s.at("layer.mlp_norm")
            rms_norm(b, middle, tiles, self.weights.norm("mlp_norm"), acts)
        if self.last_pair > 0 and self.leaves:  # all but the rows that are still to be added to
            self._send_all(flow, "residual", middle, 0, self.first_row * b.batch)
            self._send_all(flow, "residual", middle, self.last_row * b.batch, middle.n - 1)
        if self.leaves and self.first_pair and flow.hidden is not None:
            self._send_all(flow, "hidden", flow.hidden, 0, self.first_pair * b.batch)
        if acts:
            s.at("layer.gate_up")
            self._gate(acts, flow)
        if self.last_row > self.first_row:
            assert flow.hidden is not None
            s.at("layer.down")
            whole = self.last_row == self.rows
            target = flow.x if whole else middle
            for n in range(self.first_row * b.batch if whole else 0):  # rows that an earlier stage has added
                s.vop([(copy(Mem(middle, n)), [Dst(target, n)])])
            self._add("down", "mlp_add", flow.hidden, self.pairs, c.ffn,
                      lambda n: (Mem(middle, n), Dst(target, n)), self.leaves, flow)

    def _send_all(self, flow: Flow, name: str, buffer: Buffer, first: int, end: int) -> None:
        for v in range(first, end):
            send(self.b.s, [NEXT], Mem(buffer, v))
            flow.sent.append((name, v))

    def _projections(self, acts: Sequence[Buffer]) -> Projections:
        """q, k and v. q vectors of one K vector lie together; where the chip is nearly full they are brought
        together afterwards, so that they do not cross the weights' way."""
        b, layout, batch = self.b, self.b.layout, self.b.batch
        p = projections(b)
        keys, values = len(layout.k), len(layout.v)
        later: list[tuple[Buffer, Dst]] = []

        def store(n: int, side: int, rest: int) -> Dst:
            own = Dst(b.resting(batch, side, rest).named("layer.k" if n < keys else "layer.v" if n < keys + values
                                                         else "layer.q"))
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

        self.weights.multiply("qkv", acts, None, store)
        for source, target in later:
            b.s.move(Mem(source), [target], batch)
            b.memory.release(source)
        return p

    def _add(self, short: str, node: str, x: Buffer, vectors: int, size: int,
             places: Callable[[int], tuple[Mem, Dst]], last: bool, flow: Flow) -> None:
        """Residual + W x for o and down: vector n goes from and to places(n). last: it is sent on if the stage ends."""
        b, s, batch = self.b, self.b.s, self.b.batch
        acts = b.activations(vectors * batch, short)
        rms = None
        if b.act_bytes == 1:
            rms = quantise(b, x, vectors, size, acts, squares(b, x, vectors, 1))
        else:
            scale_and_cast(b, x, vectors, None, None, acts, "f16")
        results: dict[int, Buffer] = {}
        order = self.weights.plans[short].order
        if b.ranks == 1:
            self.weights.multiply(short, acts, rms, self.weights.keep(results, f"layer.{short}.output"))
            s.at("layer." + node)
            for n, result in results.items():
                first = order[n] * batch
                old, new = places(first)
                s.vop([(f32("ADD", Mem(result), old), [new])], batch)
                if last and self.leaves:
                    self._send_all(flow, "residual", new.buffer, first, first + batch)
                b.memory.release(result)
            return
        old, new = places(0)
        partial = exchanged(b, old.buffer.n, new.buffer.side).named(f"layer.{short}.output")
        if b.place.roomy:
            self.weights.multiply(short, acts, rms, lambda n, side, rest: Dst(partial, order[n] * batch))
        else:
            self.weights.multiply(short, acts, rms, self.weights.keep(results, f"layer.{short}.output"))
            for n, result in results.items():
                s.move(Mem(result), [Dst(partial, order[n] * batch)], batch)
                b.memory.release(result)
        s.at("layer." + node)
        all_reduce(b, partial, old.buffer, new.buffer)
        b.memory.release(partial)

    def _gate(self, acts: Sequence[Buffer], flow: Flow) -> None:
        """silu(gate) * up of this piece's pairs; silu(g) = g (1 + tanh(g / 2)) / 2."""
        b, batch = self.b, self.b.batch
        if flow.hidden is None:
            flow.hidden = b.scratch(4, self.pairs * batch, 0).named("layer.gated")
        hidden = flow.hidden
        kept: dict[int, Buffer] = {}  # of a pair, what is finished first

        def finish(n: int, value: Op | Mat) -> Op | Mat:
            if n % 2 == 0:
                half = imm("ADDI", imm("MULI", f32("TANH", imm("MULI", value, 0.5)), 0.5), 0.5)
                value = f32("MUL", value, half)
            return f32("MUL", value, Mem(kept[n ^ 1])) if n ^ 1 in kept else value

        def store(n: int, side: int, rest: int) -> Dst:
            if n ^ 1 in kept:
                return Dst(hidden, (self.first_pair + n // 2) * batch)
            kept[n] = b.resting(batch, side, rest).named("layer.gate" if n % 2 == 0 else "layer.up")
            return Dst(kept[n])

        self.weights.multiply("gate_up", acts, None, store, finish)
        b.memory.release(*kept.values())
        if self.leaves:
            self._send_all(flow, "hidden", hidden, self.first_pair * batch, self.last_pair * batch)


def _scratch(b: Build, n: int, side: int) -> Buffer:
    return b.scratch(4, n, side)


__all__ = ["Flow", "Layer", "Weights"]
