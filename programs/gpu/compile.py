"""One decode step of a Llama-family model as a chain of GPU kernel launches.

    embed | per layer: norm + QKV + RoPE + append, attention, combine, o + residual,
    norm + gate/up + SiLU, down + residual | norm + LM head, argmax and end of step

Parameters are constant, as in a graph replay: kernels read token and position from the step state
in memory, and grids are sized for the context capacity. Layers share their kernels.

GPUs that share the layers (programs/shard.py) run the same kernels on shares of equal shape. What o and
down give is then one part of a sum over the ranks, and each rank knows the best of its own words only:

    o, all-reduce + residual | down, all-reduce + residual | LM head, argmax, election
"""

from __future__ import annotations

from functools import partial

import numpy as np

from emulator.chip import Chip
from emulator.gpu.memory_layout import read_numbers
from emulator.gpu.timing import read_timing
from isa.angles import cos_sin
from isa.program import GpuImage, Program, Tensor
from programs.decode.stored import BYTES, StoredModel
from programs.errors import CapacityError
from programs.gpu.allreduce_plan import plan_way
from programs.gpu.attention_plan import AttentionPlan, plan_attention
from programs.gpu.kernels.allreduce import allreduce_kernel
from programs.gpu.kernels.attention import attention_kernel
from programs.gpu.kernels.combine import combine_kernel, combine_shared_bytes
from programs.gpu.kernels.elect import election_bytes
from programs.gpu.kernels.finish import Finish, Logits, Partial, Residual, RopeAppend, SiluGate, best_entries
from programs.gpu.kernels.linear import linear_kernel
from programs.gpu.kernels.operand import Operand, activation_kernel, activation_warps
from programs.gpu.kernels.small import THREADS, advance_kernel, argmax_kernel, embed_kernel
from programs.gpu.launches import Argument, Launches
from programs.gpu.layout import Arena, item_rows, pack_weights, per_item
from programs.gpu.persistent import COUNTER_BYTES, Persistent, plan_parts
from programs.gpu.plan import (
    COLUMN_BLOCKS_MAX,
    COLUMNS,
    FUSED_VALUES_MAX,
    Limits,
    LinearPlan,
    PlanError,
    Room,
    ceil_div,
    plan_linear,
    round_up,
)
from programs.shard import RANKS, check_ranks, share, share_shapes

EMBED_PIECE = 8  # 16-bit values a thread looks up at a time
SUMS_BYTES = 4 * 32  # shared memory of an activation kernel: a sum a warp


def compile_gpu(stored: StoredModel, chip: Chip, batch: int = 1, context: int = 1024, timing_only: bool = False,
                layers: tuple[int, int] | None = None, fused_values_max: int = FUSED_VALUES_MAX,
                split: int | None = None, persistent: bool = False, ranks: int | None = None) -> Program:
    """The program of one decode step. See programs.compile.compile_decode for the arguments.

    fused_values_max: most values of x (batch x k) that linear kernels normalise themselves. split: keys of
    an attention CTA; both default to the planner's choice. persistent: one kernel for the whole step instead of
    a graph (programs.gpu.persistent). ranks: GPUs that share the layers; default the fewest of one node that
    hold the model. Raises CapacityError, PlanError.
    """
    node = int(chip["nvlink.gpus"])
    if ranks is not None:
        check_ranks(ranks)
        if ranks > node:
            raise CapacityError(f"--tensor-parallel {ranks}: a node of {chip.name} has {node} GPUs", None)
    for count in [ranks] if ranks else [r for r in RANKS if r <= max(1, node)]:
        one = partial(_Compiler, chip=chip, batch=batch, context=context, timing_only=timing_only, layers=layers,
                      fused_values_max=fused_values_max, split=split, persistent=persistent, ranks=count,
                      words=stored.config.vocab)
        try:
            if count == 1:
                return one(stored).program()
            if timing_only:  # ranks are alike: one image stands for all
                return _group([one(share_shapes(stored, count)).program()] * count)
            return _group([one(share(stored, rank, count, whole_embedding=True), rank=rank).program()
                           for rank in range(count)])
        except CapacityError:
            if ranks or 2 * count not in RANKS or 2 * count > node:
                raise
    raise AssertionError("one GPU is always tried")


def _group(programs: list[Program]) -> Program:
    """One program for the ranks of a group, each with its image; the kernels are the same for all."""
    first = programs[0]
    images = list({id(one): one.images[0] for one in programs}.values())
    first.images = [image for image in images if isinstance(image, GpuImage)]
    first.chips = [(0, min(rank, len(images) - 1), (rank,)) for rank in range(len(programs))]
    for tensor in first.tensors.values():
        tensor.chips = tuple(range(len(programs)))
    first.meta |= {"tensor_parallel": len(programs), "system": "NVLink"}
    return first


class _Compiler:
    """words: of the whole vocabulary, of which `stored` has this rank's share."""

    def __init__(self, stored: StoredModel, chip: Chip, batch: int, context: int, timing_only: bool,
                 layers: tuple[int, int] | None, fused_values_max: int, split: int | None, persistent: bool,
                 ranks: int, words: int, rank: int = 0) -> None:
        if ranks > 1 and persistent:
            raise PlanError(f"--launch persistent is for one GPU, and {ranks} share the layers; leave it out")
        self.stored, self.chip, self.batch, self.context = stored, chip, batch, context
        self.config, self.scheme = stored.config, stored.scheme
        self.ranks, self.rank, self.words = ranks, rank, words
        self.timing_only = timing_only
        self.whole = layers is None or layers == (0, self.config.layers)
        self.layers = (0, self.config.layers) if layers is None else layers
        read_timing(chip)  # refuse impossible numbers before planning with them
        read_numbers(chip)
        self.limits = Limits.of(chip)
        self.launches: Launches | Persistent = Persistent(self.limits) if persistent else Launches()
        self._plan(fused_values_max, split)
        if self.attention.region_bytes >= 1 << 32:
            raise CapacityError(f"{stored.name}: the KV cache of one layer with batch {batch} and context {context} is "
                                f"{self.attention.region_bytes} bytes; one layer may have {1 << 32}")
        self.arena = Arena(timing_only)
        self._allocate()

    def _plan(self, fused_values_max: int, split: int | None) -> None:
        """Plans of the linear layers and of attention; how many slices the batch runs in.

        More than 64 sequences run as equal slices, and fewer where shared memory is too small; the last
        slice may hold sequences that nobody asked for.
        """
        c = self.config
        shapes = {
            "qkv": ((c.heads + 2 * c.kv_heads) * c.head_dim // 2, c.hidden, True),
            "o": (c.hidden, c.q_size, False),
            "gate_up": (c.ffn, c.hidden, True),
            "down": (c.hidden, c.ffn, False),
            "lm_head": (c.vocab, c.hidden, False),
        }
        self.plans: dict[str, LinearPlan] = {}
        if isinstance(self.launches, Persistent):
            self._plan_parts(shapes, split)
            return
        self.slices = ceil_div(self.batch, COLUMNS * COLUMN_BLOCKS_MAX)
        while True:
            self.slice = ceil_div(self.batch, self.slices)
            try:
                for name, (outputs, k, paired) in shapes.items():
                    self.plans[name] = plan_linear(outputs, k, self.scheme.weights, self.slice, paired, self.limits,
                                                   fused_values_max)
                break
            except PlanError:
                if self.slice == 1:
                    raise
                self.slices = min(2 * self.slices, self.batch)
        self.rows = self.slices * self.slice  # sequences, the padding's included
        self.attention = plan_attention(self.rows, c.kv_heads, c.group, c.head_dim, self.context, self.limits, split,
                                        BYTES[self.scheme.kv])

    def _plan_parts(self, shapes: dict[str, tuple[int, int, bool]], split: int | None) -> None:
        """Plans of kernels that share CTAs."""
        c = self.config
        self.slices, self.slice, self.rows = 1, self.batch, self.batch
        widest = max(k for _, k, _ in shapes.values())
        if self.batch * widest > FUSED_VALUES_MAX:
            raise PlanError(f"--launch persistent takes {FUSED_VALUES_MAX} values of x a layer at most, and "
                            f"{self.stored.name} has {self.batch * widest} with batch {self.batch}; leave it out")

        def linear(room: Room) -> dict[str, LinearPlan]:
            return {name: plan_linear(outputs, k, self.scheme.weights, self.batch, paired, self.limits, room=room)
                    for name, (outputs, k, paired) in shapes.items()}

        def attention(limits: Limits) -> AttentionPlan:
            return plan_attention(self.batch, c.kv_heads, c.group, c.head_dim, self.context, limits, split,
                                  BYTES[self.scheme.kv])

        self.plans, self.attention = plan_parts(linear, attention, self.limits)

    # -- memory ------------------------------------------------------------------------------
    def _allocate(self) -> None:
        c, p, place = self.config, self.plans, self.arena.place
        self.tokens = place("token", "s32", (self.rows, 1), "state", phantom=False)
        self.positions = place("position", "s32", (self.rows, 1), "state", phantom=False)
        self.tokens.shape = self.positions.shape = (self.batch, 1)
        table = self._rope_table()
        if isinstance(self.launches, Persistent):
            place("barrier", "s32", (1, COUNTER_BYTES // 4), "state", phantom=False)
        self.rope = place("rope", "f32", table.shape, "table", phantom=False, data=table)
        pairs = self._pairs()
        self.pairs = place("pairs", "s32", pairs.shape, "table", phantom=False, data=pairs)
        normed = max(p[n].k_padded for n in ("qkv", "gate_up", "lm_head"))
        self.hidden_values = max(normed, round_up(c.hidden, EMBED_PIECE))
        self.hidden = self._activation("hidden", c.hidden, self.hidden_values)
        if self.ranks > 1:
            self.partial_sum = self._activation("partial_sum", c.hidden, self.hidden_values)
            values = self.rows * self.hidden_values
            self.allreduce = plan_way("push", self.ranks, values, "f32", self.limits, residual=True)
            self.mail = place("mail", "u8", (1, self.allreduce.mail_bytes), "state", phantom=False)
        self.attended = self._activation("attention", c.q_size, p["o"].k_padded)
        self.gated = self._activation("gated", c.ffn, p["down"].k_padded)
        streamed = [plan for plan in p.values() if not plan.fused]
        if streamed:
            size = max(plan.k_bytes * COLUMNS * plan.blocks for plan in streamed)
            self.operand = place("operand", "u8", (self.slices, size), "activation")
            self.scales = place("operand_scales", "f32", (self.slices, self.slice), "activation", pitch=512)
        a = self.attention
        if a.splits > 1:
            self.partial = place("attention_partial", "f32", (a.grid, a.group * a.dim), "activation")
            self.partial_ml = place("attention_ml", "f32", (a.grid, a.group * 2), "activation")
        if self.whole:
            self.logits = place("logits", "f32", (self.rows, c.vocab), "output")
            self.logits.shape = (self.batch, c.vocab)
            if self.ranks > 1:
                first = min(self.rank * c.vocab, self.words)
                span = np.array([[first, min(c.vocab, self.words - first)]], dtype=np.int32)
                self.votes = place("votes", "u8", (1, election_bytes(self.ranks, self.slice)), "state", phantom=False)
                self.span = place("span", "s32", span.shape, "table", phantom=False, data=span)
                self.logits.shape, self.logits.sharded = (self.batch, self.words), True
            head = p["lm_head"]
            pairs_of_cta = self.slice * best_entries(head)
            self.best = place("best", "s32", (self.slices * head.grid, 2 * pairs_of_cta), "activation")
            self.embed = self._embedding()
        self.linears: dict[str, dict[str, Tensor]] = {}
        self.norms: dict[str, Tensor] = {}
        self.kv: dict[int, Tensor] = {}
        for layer in range(*self.layers):
            prefix = f"layers.{layer}."
            for short in ("qkv", "o", "gate_up", "down"):
                self._linear(prefix + short, short)
            for short in ("attn_norm", "mlp_norm"):
                self._norm(prefix + short)
            self.kv[layer] = place(prefix + "kv", "u8", (1, a.region_bytes), "kv")
        if self.whole:
            self._linear("lm_head", "lm_head")
            self._norm("final_norm")

    def _activation(self, name: str, values: int, padded: int) -> Tensor:
        """fp32 rows with zeros up to what a kernel reads."""
        tensor = self.arena.place(name, "f32", (self.rows, padded), "activation")
        tensor.shape = (self.batch, values)
        return tensor

    def _rope_table(self) -> np.ndarray:
        """(cos, sin) of every position and frequency; the last pair of a row is (1, 0), for V."""
        angle = np.arange(self.context, dtype=np.float64)[:, None] * self.config.rope_frequencies()
        table = np.zeros((self.context, self.config.head_dim + 2), dtype=np.float32)
        table[:, 0:-2:2], table[:, 1:-2:2] = cos_sin(angle)
        table[:, -2] = 1.0
        return table

    def _pairs(self) -> np.ndarray:
        """RopeAppend's table for every slice: int32 [slices * items, 4]; see programs.gpu.kernels.finish."""
        c, a, plan = self.config, self.attention, self.plans["qkv"]
        half, row = c.head_dim // 2, a.row_bytes
        head, i = np.divmod(np.arange(plan.outputs), half)
        is_q, is_v = head < c.heads, head >= c.heads + c.kv_heads
        kv_head = np.where(is_v, head - c.heads - c.kv_heads, head - c.heads)
        size = np.where(is_q, 2, a.kv_bytes)
        table = np.zeros((self.slices, plan.passes * plan.grid * plan.items, 4), dtype=np.int64)
        stride = np.where(is_q, a.q_stride, a.kv_stride)
        base = np.where(is_q, head * a.q_row_bytes, np.where(is_v, a.v_at, a.k_at) + kv_head * a.capacity * row)
        base = base + size * i
        for s in range(self.slices):
            out = table[s, :plan.outputs]
            out[:, 0] = base + s * self.slice * stride
            out[:, 1] = np.where(is_v, half, i) * 8
            out[:, 2] = stride
            out[:, 3] = np.where(is_q, 0, row)
        return (table & 0xFFFFFFFF).astype(np.uint32).view(np.int32).reshape(-1, 4)

    def _embedding(self) -> Tensor:
        c = self.config
        pitch = round_up(c.hidden, EMBED_PIECE) * 2
        data = None
        if not self.timing_only:
            assert self.stored.embed is not None
            data = np.zeros((self.words, pitch // 2), dtype=np.uint16)
            data[:, :c.hidden] = self.stored.embed
        return self.arena.place("embed", self.scheme.embed, (self.words, c.hidden), "weight", pitch=pitch, data=data)

    def _linear(self, name: str, short: str) -> None:
        """Weights row by row, and scales and biases in item order."""
        plan, linear, c = self.plans[short], self.stored.linears[name], self.config
        rows_a = np.arange(plan.outputs)
        rows_b = None
        if short == "qkv":
            head, i = np.divmod(rows_a, c.head_dim // 2)
            rows_a = head * c.head_dim + i
            rows_b = rows_a + c.head_dim // 2
        elif short == "gate_up":
            rows_b = rows_a + c.ffn
        place, found = self.arena.place, {}
        data = None
        if not self.timing_only:
            assert linear.values is not None
            data = pack_weights(plan, linear.values, item_rows(plan, rows_a, rows_b))
        found["weights"] = place(name, "u8", (plan.passes * plan.grid * plan.rows, plan.k_bytes), "weight",
                                 data=data)
        numbers = plan.passes * plan.grid * plan.items
        parts = {"row_scales": linear.scale} if linear.has_scale else {}
        if linear.has_bias:
            parts["bias"] = linear.bias
        for part, values in parts.items():
            data = None
            if not self.timing_only:
                assert values is not None
                data = per_item(plan, values, rows_a, rows_b)
            found[part] = place(f"{name}.{part}", "f32", (numbers, 2 if plan.paired else 1), "weight", data=data)
        self.linears[name] = found

    def _norm(self, name: str) -> None:
        """A norm's weights, unless they are folded; zeros up to the padded k."""
        if self.scheme.fold_norms:
            return
        data = None
        if not self.timing_only:
            values = self.stored.norms[name]
            assert values is not None
            data = np.zeros(self.hidden_values, dtype=np.float32)
            data[:len(values)] = values
        tensor = self.arena.place(name, "f32", (1, self.hidden_values), "weight", data=data)
        tensor.shape = (1, self.config.hidden)
        self.norms[name] = tensor

    # -- launches ----------------------------------------------------------------------------
    def _linear_launches(self, name: str, short: str, source: str, x: Tensor, finish: Finish, norm: str = "",
                         **arguments: Argument) -> None:
        """A linear layer for every slice of sequences, after its activation kernel where it is not fused.

        arguments: of the finish; (tensor, bytes) grows by so many bytes from slice to slice.
        """
        plan, found = self.plans[short], self.linears[name]
        weighted = norm in self.norms
        operand = Operand(source, self.scheme.activations, self.stored.linears[name].inputs, x.pitch,
                          self.config.norm_eps, weighted)
        kernel, prepare = f"norm_{short}" if plan.fused and source == "norm" else short, f"{short}_operand"
        if kernel not in self.launches.index:
            self.launches.build(linear_kernel, kernel, plan, operand, finish)
            if not plan.fused:
                self.launches.build(activation_kernel, prepare, operand, plan.k_padded, plan.blocks)
        fixed: dict[str, Argument] = {part: tensor for part, tensor in found.items()}
        for s in range(self.slices):
            moved = {n: (a[0], a[1] * s) if isinstance(a, tuple) else a for n, a in arguments.items()}
            source_x: dict[str, Argument] = {"x": (x, s * self.slice * x.pitch)}
            if weighted:
                source_x["norm_weight"] = self.norms[norm]
            if not plan.fused:
                out, scales = (self.operand, s * self.operand.pitch), (self.scales, s * self.scales.pitch)
                self.launches.launch(prepare, self.slice, 32 * activation_warps(plan.k_padded), SUMS_BYTES, name,
                             out=out, scales=scales, **source_x)
                source_x = {"x": out, "x_scales": scales}
            self.launches.launch(kernel, plan.grid, 32 * plan.warps, plan.shared_bytes, name, **fixed, **moved,
                                 **source_x)

    def _record(self) -> None:
        """All launches of a step, in order."""
        c, scaled = self.config, self.scheme.scaled
        own_rms = "rms" if self.scheme.fold_norms else "cast"
        gated = (self.gated, self.slice * self.gated.pitch)
        positions = (self.positions, self.slice * self.positions.pitch)
        pairs = (self.pairs, self.pairs.shape[0] // self.slices * self.pairs.pitch)
        if self.whole:
            self.launches.build(embed_kernel, "embed", self.scheme.embed, self.words, self.embed.pitch,
                                self.hidden.pitch)
            self.launches.launch("embed", self.rows, THREADS, 0, "embed", table=self.embed, tokens=self.tokens,
                         hidden=self.hidden)
        for layer in range(*self.layers):
            p = f"layers.{layer}."
            rotate = RopeAppend(scaled, c.qkv_bias, self.scheme.kv, c.head_dim, self.rope.pitch)
            self._linear_launches(p + "qkv", "qkv", "norm", self.hidden, rotate, p + "attn_norm", kv=self.kv[layer],
                                  pairs=pairs, rope=self.rope, positions=positions)
            self._attend(p + "attention", self.kv[layer])
            self._add_launches(p + "o", "o", own_rms, self.attended)
            gate = SiluGate(scaled, self.gated.pitch)
            self._linear_launches(p + "gate_up", "gate_up", "norm", self.hidden, gate, p + "mlp_norm", out=gated)
            self._add_launches(p + "down", "down", own_rms, self.gated)
        if self.whole:
            self._head(positions)
        else:
            self.launches.build(advance_kernel, "advance")
            self.launches.launch("advance", self.rows, 32, 0, "advance", positions=self.positions)

    def _add_launches(self, name: str, short: str, source: str, x: Tensor) -> None:
        """hidden += a linear layer's result, of which each rank has a part."""
        if self.ranks == 1:
            add = Residual(self.scheme.scaled, self.hidden.pitch)
            self._linear_launches(name, short, source, x, add, hidden=(self.hidden, self.slice * self.hidden.pitch))
            return
        mine = Partial(self.scheme.scaled, self.partial_sum.pitch)
        self._linear_launches(name, short, source, x, mine, out=(self.partial_sum, self.slice * self.partial_sum.pitch))
        plan = self.allreduce
        if "all_reduce" not in self.launches.index:
            self.launches.build(allreduce_kernel, "all_reduce", plan)
        self.launches.launch("all_reduce", plan.grid, 32 * plan.warps, 0, name, values=self.partial_sum,
                             out=self.hidden, mail=self.mail, residual=self.hidden)

    def _head(self, positions: tuple[Tensor, int]) -> None:
        head = self.plans["lm_head"]
        best = (self.best, head.grid * self.best.pitch)
        logits = Logits(self.scheme.scaled, self.logits.pitch, self.ranks > 1)
        span, votes = ({"span": self.span}, {"mail": self.votes}) if self.ranks > 1 else ({}, {})
        self._linear_launches("lm_head", "lm_head", "norm", self.hidden, logits,
                              "final_norm", logits=(self.logits, self.slice * self.logits.pitch), best=best, **span)
        self.launches.build(argmax_kernel, "argmax", self.slice, head.grid, best_entries(head), self.ranks)
        for s in range(self.slices):
            at = s * positions[1]
            self.launches.launch("argmax", self.slice, THREADS, 8 * THREADS // 32, "argmax",
                                 best=(best[0], s * best[1]), tokens=(self.tokens, at), positions=(self.positions, at),
                                 **votes)

    def _attend(self, node: str, kv: Tensor) -> None:
        """Attention, and the combine where there is more than one split."""
        a, out = self.attention, self.attended
        if "attention" not in self.launches.index:
            self.launches.build(attention_kernel, "attention", a, self.scheme.kv, out.pitch)
            if a.splits > 1:
                self.launches.build(combine_kernel, "combine", a, out.pitch)
        parts = (out, out) if a.splits == 1 else (self.partial, self.partial_ml)
        self.launches.launch("attention", a.grid, 32 * a.warps, a.shared_bytes, node, kv=kv, positions=self.positions,
                     out=parts[0], out_ml=parts[1])
        if a.splits > 1:
            self.launches.launch("combine", self.rows * a.heads, 32 * a.combine_warps, combine_shared_bytes(a), node,
                         partial=self.partial, ml=self.partial_ml, positions=self.positions, out=out)

    # -- the program -------------------------------------------------------------------------
    def _check_capacity(self) -> None:
        size, there = self.arena.bytes, int(self.chip["dram.capacity_bytes"])
        if size > there:
            least = ceil_div(size * self.ranks, there)
            chips = next((ranks for ranks in RANKS if ranks >= least), least)
            on_each = f" on each of {self.ranks} GPUs" if self.ranks > 1 else ""
            what = f"{self.stored.name} with batch {self.batch} and context {self.context}"
            raise CapacityError(f"{what} takes {size:,} bytes{on_each}; {self.chip.name} has {there:,} ({chips} chips "
                                "would hold it)", chips)

    def program(self) -> Program:
        self._check_capacity()
        self._record()
        meta = {
            "model": self.stored.name, "batch": self.batch, "context": self.context, "layers": list(self.layers),
            "timing_only": self.timing_only, "part_of_step": not self.whole,
        }
        return self.launches.program(self.chip, self.arena.close(), self.arena.tensors, meta)
