"""One decode step of a Llama-family model as a chain of GPU kernel launches.

    embed | per layer: norm + QKV + RoPE + append, attention, combine, o + residual,
    norm + gate/up + SiLU, down + residual | norm + LM head, argmax and end of step

Parameters are constant, as in a graph replay: kernels read token and position from the step state
in memory, and grids are sized for the context capacity. Layers share their kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.chip import Chip
from isa.builder import Kernel
from isa.program import GpuText, Launch, Program, Source, Tensor
from isa.program import Kernel as KernelRecord
from programs.decode.stored import StoredModel
from programs.gpu.kernels.attention import attention_kernel
from programs.gpu.kernels.combine import WARPS as COMBINE_WARPS
from programs.gpu.kernels.combine import combine_kernel, combine_shared_bytes
from programs.gpu.kernels.finish import Finish, Logits, Residual, RopeAppend, SiluGate, best_entries
from programs.gpu.kernels.linear import linear_kernel
from programs.gpu.kernels.operand import Operand, activation_kernel, activation_warps
from programs.gpu.kernels.small import THREADS, advance_kernel, argmax_kernel, embed_kernel
from programs.gpu.layout import Arena, item_rows, pack_weights, per_item
from programs.gpu.plan import (
    COLUMN_BLOCKS_MAX,
    COLUMNS,
    FUSED_VALUES_MAX,
    AttentionPlan,
    Limits,
    LinearPlan,
    ceil_div,
    plan_attention,
    plan_linear,
    round_up,
)

EMBED_PIECE = 8  # 16-bit values a thread looks up at a time


class CapacityError(ValueError):
    """A model that does not fit the chip's memory; the message says what is needed and what is there."""


def compile_gpu(stored: StoredModel, chip: Chip, batch: int = 1, context: int = 1024, timing_only: bool = False,
                layers: tuple[int, int] | None = None, fused_values_max: int = FUSED_VALUES_MAX,
                split: int | None = None) -> Program:
    """The program of one decode step. See programs.compile.compile_decode for the arguments.

    fused_values_max: most values of x (batch x k) that linear kernels normalise themselves. split: keys of
    an attention CTA; both default to the planner's choice. Raises CapacityError.
    """
    return _Compiler(stored, chip, batch, context, timing_only, layers, fused_values_max, split).program()


class _Compiler:
    def __init__(self, stored: StoredModel, chip: Chip, batch: int, context: int, timing_only: bool,
                 layers: tuple[int, int] | None, fused_values_max: int, split: int | None) -> None:
        self.stored, self.chip, self.batch, self.context = stored, chip, batch, context
        self.config, self.scheme = stored.config, stored.scheme
        self.timing_only = timing_only
        self.whole = layers is None or layers == (0, self.config.layers)
        self.layers = (0, self.config.layers) if layers is None else layers
        self.limits = Limits.of(chip)
        self.kernels: list[Kernel] = []
        self.index: dict[str, int] = {}
        self.launches: list[tuple[str, int, int, int, tuple[Any, ...], str]] = []
        # More than 64 sequences run as equal slices; the last may hold sequences that do not exist.
        self.slices = ceil_div(batch, COLUMNS * COLUMN_BLOCKS_MAX)
        self.slice = ceil_div(batch, self.slices)
        self.rows = self.slices * self.slice  # sequences, the padding's included
        c = self.config
        self.attention = plan_attention(batch, c.kv_heads, c.group, c.head_dim, context, self.limits, split)
        weights = self.scheme.weights
        self.plans: dict[str, LinearPlan] = {}
        for name, outputs, k, paired in (
            ("qkv", (c.heads + 2 * c.kv_heads) * c.head_dim // 2, c.hidden, True),
            ("o", c.hidden, c.q_size, False),
            ("gate_up", c.ffn, c.hidden, True),
            ("down", c.hidden, c.ffn, False),
            ("lm_head", c.vocab, c.hidden, False),
        ):
            self.plans[name] = plan_linear(outputs, k, weights, self.slice, paired, self.limits, fused_values_max)
        if self.region_plan.region_bytes >= 1 << 32:
            raise CapacityError(f"{stored.name}: the KV cache of one layer with batch {batch} and context {context} is "
                                f"{self.region_plan.region_bytes} bytes; one layer may have {1 << 32}")
        self.arena = Arena(timing_only)
        self._allocate()

    @property
    def region_plan(self) -> AttentionPlan:
        return self.attention

    # -- memory ------------------------------------------------------------------------------
    def _allocate(self) -> None:
        c, p, place = self.config, self.plans, self.arena.place
        self.tokens = place("token", "s32", (self.batch, 1), "state", phantom=False, pitch=4)
        self.positions = place("position", "s32", (self.batch, 1), "state", phantom=False, pitch=4)
        if self.rows > self.batch:
            place("spare_state", "s32", (self.rows - self.batch + 128, 1), "state", phantom=False)
        self.rope = place("rope", "f32", (self.context, c.head_dim + 2), "table", phantom=False, data=self._rope_table())
        pairs = self._pairs()
        self.pairs = place("pairs", "s32", pairs.shape, "table", phantom=False, data=pairs)
        normed = max(p[n].k_padded for n in ("qkv", "gate_up", "lm_head"))
        self.hidden_values = max(normed, round_up(c.hidden, EMBED_PIECE))
        self.hidden = self._activation("hidden", c.hidden, self.hidden_values)
        self.attended = self._activation("attention", c.q_size, p["o"].k_padded)
        self.gated = self._activation("gated", c.ffn, p["down"].k_padded)
        streamed = [plan for plan in p.values() if not plan.fused]
        if streamed:
            size = max(plan.k_bytes * COLUMNS * plan.blocks for plan in streamed)
            self.operand = place("operand", "u8", (self.slices, size), "activation")
            self.operand_scales = place("operand_scales", "f32", (self.slices, self.slice), "activation", pitch=512)
        a = self.attention
        if a.splits > 1:
            rows = a.batch * a.kv_heads * a.splits
            self.partial = place("attention_partial", "f32", (rows, a.group * a.dim), "activation")
            self.partial_ml = place("attention_ml", "f32", (rows, a.group * 2), "activation")
        if self.whole:
            self.logits = place("logits", "f32", (self.batch, c.vocab), "output")
            if self.rows > self.batch:
                place("spare_logits", "f32", (self.rows - self.batch, c.vocab), "output")
            head = p["lm_head"]
            self.best = place("best", "s32", (self.slices * head.grid, self.slice * best_entries(head) * 2), "activation")
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
            self.kv[layer] = place(prefix + "kv", "u8", (1, a.region_bytes + self._spare_kv), "kv")
        if self.whole:
            self._linear("lm_head", "lm_head")
            self._norm("final_norm")

    @property
    def _spare_kv(self) -> int:
        """Where the padding's sequences put their q, K and V: past the region, each over the other."""
        return 3 * self.attention.kv_stride + self.attention.q_stride if self.rows > self.batch else 0

    def _activation(self, name: str, values: int, padded: int) -> Tensor:
        """fp32 rows with zeros up to what a kernel reads."""
        tensor = self.arena.place(name, "f32", (self.rows, padded), "activation")
        tensor.shape = (self.batch, values)
        return tensor

    def _rope_table(self) -> np.ndarray:
        """(cos, sin) of every position and frequency; the last pair of a row is (1, 0), for V."""
        angle = np.arange(self.context, dtype=np.float64)[:, None] * self.config.rope_frequencies()
        table = np.zeros((self.context, self.config.head_dim // 2 + 1, 2), dtype=np.float32)
        table[:, :-1, 0], table[:, :-1, 1] = np.cos(angle), np.sin(angle)
        table[:, -1, 0] = 1.0
        return table

    def _pairs(self) -> np.ndarray:
        """RopeAppend's table for every slice: int32 [slices * items, 4]; see programs.gpu.kernels.finish."""
        c, a, plan = self.config, self.attention, self.plans["qkv"]
        half, row = c.head_dim // 2, a.row_bytes
        head, i = np.divmod(np.arange(plan.outputs), half)
        is_q, is_v = head < c.heads, head >= c.heads + c.kv_heads
        kv_head = np.where(is_v, head - c.heads - c.kv_heads, head - c.heads)
        table = np.zeros((self.slices, plan.passes * plan.grid * plan.items, 4), dtype=np.int64)
        stride = np.where(is_q, a.q_stride, a.kv_stride)
        base = np.where(is_q, head * row, np.where(is_v, a.v_at, a.k_at) + kv_head * a.capacity * row) + 2 * i
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
            data = np.zeros((c.vocab, pitch // 2), dtype=np.uint16)
            data[:, :c.hidden] = self.stored.embed
        return self.arena.place("embed", self.scheme.embed, (c.vocab, c.hidden), "weight", pitch=pitch, data=data)

    def _linear(self, name: str, short: str) -> None:
        """Packed weights, and scales and biases in item order."""
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
        width = plan.rows * plan.k_bytes
        data = None
        if not self.timing_only:
            assert linear.values is not None
            data = pack_weights(plan, linear.values, item_rows(plan, rows_a, rows_b))
        found["weights"] = place(name, "u8", (plan.passes * plan.grid, width), "weight", data=data)
        numbers = plan.passes * plan.grid * plan.items
        for part, values, there in (("row_scales", linear.scale, linear.has_scale), ("bias", linear.bias, linear.has_bias)):
            if there:
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
    def _kernel(self, name: str, make: Callable[[], Kernel]) -> int:
        """Index of a kernel, built at its first use."""
        if name not in self.index:
            self.index[name] = len(self.kernels)
            self.kernels.append(make())
        return self.index[name]

    def _launch(self, name: str, make: Callable[[], Kernel], grid: int, block: int, shared: int, node: str,
                **arguments: Tensor | tuple[Tensor, int]) -> None:
        """Append a launch. arguments: a tensor, or (tensor, byte offset), for every parameter by name."""
        kernel = self.kernels[self._kernel(name, make)]
        if set(arguments) != set(kernel.parameters):
            raise ValueError(f"kernel {name} takes {kernel.parameters}, got {tuple(arguments)}")
        values = tuple(arguments[p] for p in kernel.parameters)
        self.launches.append((name, grid, block, shared, values, node))

    def _linear_launches(self, name: str, short: str, source: str, x: Tensor, finish: Callable[[], Finish],
                         sliced: Callable[[int], dict[str, Tensor | tuple[Tensor, int]]], norm: str = "") -> None:
        """A linear layer for every slice of sequences, with its activation kernel where it is not fused."""
        plan, found = self.plans[short], self.linears[name]
        weighted = bool(norm) and norm in self.norms
        operand = Operand(source, self.scheme.activations, self.stored.linears[name].inputs, x.pitch,
                          self.config.norm_eps, weighted)
        prefix = {"qkv": "norm_", "gate_up": "norm_", "lm_head": "norm_"}.get(short, "") if plan.fused else ""
        for s in range(self.slices):
            at = s * self.slice
            arguments: dict[str, Tensor | tuple[Tensor, int]] = {"weights": found["weights"], **sliced(s)}
            if "row_scales" in found:
                arguments["row_scales"] = found["row_scales"]
            if "bias" in found:
                arguments["bias"] = found["bias"]
            source_x: dict[str, Tensor | tuple[Tensor, int]] = {"x": (x, at * x.pitch)}
            if weighted:
                source_x["norm_weight"] = self.norms[norm]
            if plan.fused:
                arguments.update(source_x)
            else:
                operand_at, scales_at = (self.operand, s * self.operand.pitch), (self.operand_scales, s * 512)
                self._launch(f"{source}_{short}_operand",
                             lambda: activation_kernel(f"{source}_{short}_operand", operand, plan.k_padded, plan.blocks),
                             self.slice, 32 * activation_warps(plan.k_padded), 4 * 32, name,
                             out=operand_at, scales=scales_at, **source_x)
                arguments.update(x=operand_at, x_scales=scales_at)
            kernel = f"{prefix}{short}"
            self._launch(kernel, lambda: linear_kernel(kernel, plan, operand, finish()), plan.grid, 32 * plan.warps,
                         plan.shared_bytes, name, **arguments)

    def _record(self) -> None:
        """All launches of a step, in order."""
        c, a = self.config, self.attention
        scaled = self.scheme.scaled
        own_rms = "rms" if self.scheme.fold_norms else "cast"
        if self.whole:
            self._launch("embed", lambda: embed_kernel("embed", self.scheme.embed, c.vocab, self.embed.pitch,
                                                       self.hidden.pitch),
                         self.rows, THREADS, 0, "embed", table=self.embed, tokens=self.tokens, hidden=self.hidden)
        for layer in range(*self.layers):
            p = f"layers.{layer}."
            kv = self.kv[layer]
            pairs_bytes = self.pairs.shape[0] // self.slices * 16
            self._linear_launches(
                p + "qkv", "qkv", "norm", self.hidden,
                lambda: RopeAppend(scaled, c.qkv_bias, self.scheme.kv, c.head_dim, self.rope.pitch),
                lambda s, kv=kv: {"kv": kv, "pairs": (self.pairs, s * pairs_bytes), "rope": self.rope,  # type: ignore[misc]
                                  "positions": (self.positions, 4 * s * self.slice)}, p + "attn_norm")
            self._attend(p, kv)
            self._linear_launches(p + "o", "o", own_rms, self.attended, lambda: Residual(scaled, self.hidden.pitch),
                                  lambda s: {"hidden": (self.hidden, s * self.slice * self.hidden.pitch)})
            self._linear_launches(p + "gate_up", "gate_up", "norm", self.hidden,
                                  lambda: SiluGate(scaled, self.gated.pitch),
                                  lambda s: {"out": (self.gated, s * self.slice * self.gated.pitch)}, p + "mlp_norm")
            self._linear_launches(p + "down", "down", own_rms, self.gated, lambda: Residual(scaled, self.hidden.pitch),
                                  lambda s: {"hidden": (self.hidden, s * self.slice * self.hidden.pitch)})
        if not self.whole:
            self._launch("advance", lambda: advance_kernel("advance"), self.rows, 32, 0, "advance",
                         positions=self.positions)
            return
        head = self.plans["lm_head"]
        best_bytes = head.grid * self.best.pitch
        self._linear_launches("lm_head", "lm_head", "norm", self.hidden, lambda: Logits(scaled, self.logits.pitch),
                              lambda s: {"logits": (self.logits, s * self.slice * self.logits.pitch),
                                         "best": (self.best, s * best_bytes)}, "final_norm")
        for s in range(self.slices):
            at = 4 * s * self.slice
            self._launch("argmax", lambda: argmax_kernel("argmax", self.slice, head.grid, best_entries(head)),
                         self.slice, THREADS, 8 * THREADS // 32, "argmax", best=(self.best, s * best_bytes),
                         tokens=(self.tokens, at), positions=(self.positions, at))
        del a

    def _attend(self, p: str, kv: Tensor) -> None:
        a, out = self.attention, self.attended
        whole = a.splits == 1
        self._launch("attention", lambda: attention_kernel("attention", a, self.scheme.kv, out.pitch), a.grid,
                     32 * a.warps, a.shared_bytes, p + "attention", kv=kv, positions=self.positions,
                     out=out if whole else self.partial, out_ml=out if whole else self.partial_ml)
        if not whole:
            self._launch("combine", lambda: combine_kernel("combine", a, out.pitch), self.batch * a.heads,
                         32 * COMBINE_WARPS, combine_shared_bytes(a), p + "attention", partial=self.partial,
                         ml=self.partial_ml, positions=self.positions, out=out)

    # -- the program -------------------------------------------------------------------------
    def program(self) -> Program:
        self._record()
        image = self.arena.close()
        words, records, lines, line_of = [], [], [], []
        for kernel in self.kernels:
            encoded = kernel.words()
            first = sum(len(w) for w in words)
            records.append(KernelRecord(kernel.name, first, len(encoded), kernel.registers, kernel.parameters))
            words.append(encoded)
        del lines, line_of
        text = np.concatenate(words)
        none = np.full(len(text), -1, dtype=np.int32)
        launches = []
        for at, (name, grid, block, shared, values, node) in enumerate(self.launches):
            arguments = tuple(v.address if isinstance(v, Tensor) else v[0].address + v[1] for v in values)
            launches.append(Launch(self.index[name], grid, block, shared, arguments, (at - 1,) if at else (), node))
        source = Source(none, none.copy(), none.astype(np.int16))
        nodes = list(dict.fromkeys(launch.node for launch in launches))
        meta = {
            "model": self.stored.name, "batch": self.batch, "context": self.context, "layers": list(self.layers),
            "timing_only": self.timing_only, "nodes": nodes,
        }
        return Program("gpu", self.chip.name, self.chip.hash, [GpuText(text, records, launches, source)], [image],
                       [(0, 0, ())], self.arena.tensors, meta=meta)
