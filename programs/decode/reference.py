"""The oracle: a decoder of the Llama family in NumPy float64, as the paper writes it.

    h = x + Wo attention(rope(Wq n(x)), rope(Wk n(x)), Wv n(x))        n = RMSNorm
    y = h + Wdown (silu(Wgate n(h)) * (Wup n(h)))

It uses the same stored weights as the machines and quantises activations at the same points (8-bit
schemes); everything else is float64. A second oracle, `machine_like=True`, also rounds where the
machines round: from the distance of the two comes the bound on a machine's logits.

Rows: all functions work on rows, one a (sequence, position); a row attends to the positions of its
sequence up to its own. One call may hold one row of each sequence (a decode step) or all positions
of a text at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isa.angles import cos_sin
from programs.decode.stored import ACTIVATION_FACTOR, BLOCK_ROWS, RMS_FLOOR, StoredModel, decode, rounded
from programs.models.errors import ModelError

# Bound = safety x the largest shift of a logit by machine-like rounding + the floor. Both machines' largest error
# over that shift, with 8 prompts each of two models and every step as if it were a run's only one: at most 2.3 with
# 16-bit activations, whose errors come from few casts, and 1.4 with 8-bit ones (about 3000 steps), where everything
# near a tie is flipped on purpose. The most that a token chosen by a machine lost in those runs was 0.6 of that shift.
SAFETY = 4.0
SAFETY_8_BIT = 2.0
PROMPT_ROWS = 16  # positions before a sequence's first new token whose shift counts too: one step alone says little
FLOOR = 2.0**-16  # of the largest logit: fp32 sums in another order
LOGIT_GRID = 2.0**-20  # oracle logits are rounded to it: BLAS's order of summation cannot show in what is printed
NEAR_TIE = 2.0**-8  # quanta: an 8-bit activation this near a tie may be rounded either way (see _either_way)
FP32_BITS = 20  # mantissa that machine-like fp32 results keep: sums, rsqrt and exp2 lose a few of the 24


class Reference:
    """Float64 decoder with a KV cache for `batch` sequences.

    layers=(a, b) runs layers a .. b - 1 only: then step_hidden is used, not step.
    """

    def __init__(
        self, stored: StoredModel, batch: int, layers: tuple[int, int] | None = None, *, machine_like: bool = False
    ) -> None:
        if not stored.has_values:
            raise ModelError(f"{stored.name}: there are no weights, only shapes")
        config = stored.config
        self.stored = stored
        self.batch = batch
        self.first, self.end = layers if layers is not None else (0, config.layers)
        self.machine_like = machine_like
        self.frequency = config.rope_frequencies()
        empty = np.zeros((batch, config.kv_heads, 0, config.head_dim))
        self.keys = {i: empty for i in range(self.first, self.end)}  # [batch, kv_heads, capacity, head_dim]
        self.values = dict(self.keys)

    def step(self, tokens: Sequence[int] | np.ndarray, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """One decode step: token and position of each sequence -> logits [batch, vocab]."""
        sequence = np.arange(self.batch)
        return self.head(self.body(sequence, self.embed(np.asarray(tokens)), np.asarray(positions)))

    def step_hidden(self, hidden: np.ndarray, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """One decode step of a run of layers: residual [batch, hidden] in -> residual out."""
        return self.body(np.arange(self.batch), np.asarray(hidden, np.float64), np.asarray(positions))

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        """Token ids [rows] -> residual [rows, hidden]."""
        assert self.stored.embed is not None
        return decode(self.stored.embed[tokens], self.stored.scheme.embed)

    def body(self, sequence: np.ndarray, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Residual [rows, hidden] through the layers. sequence, positions: [rows]."""
        self._reserve(int(positions.max()) + 1)
        for i in range(self.first, self.end):
            p = f"layers.{i}."
            x = x + self._attention(i, self._norm(p + "attn_norm", x), sequence, positions)
            gate, up = np.split(self._linear(p + "gate_up", self._norm(p + "mlp_norm", x), normed=True), 2, axis=1)
            x = x + self._linear(p + "down", self._fp32(silu(gate) * up), normed=False)
        return x

    def head(self, x: np.ndarray) -> np.ndarray:
        """Residual [rows, hidden] -> logits [rows, vocab]."""
        return self._linear("lm_head", self._norm("final_norm", x), normed=True)

    def _attention(self, i: int, x: np.ndarray, sequence: np.ndarray, positions: np.ndarray) -> np.ndarray:
        config = self.stored.config
        heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
        qkv = self._linear(f"layers.{i}.qkv", x, normed=True)
        q, k, v = np.split(qkv, [config.q_size, config.q_size + config.kv_size], axis=1)
        q = self._cast_wide(rope(q.reshape(-1, heads, head_dim), positions, self.frequency))
        k = self._cast(rope(k.reshape(-1, kv_heads, head_dim), positions, self.frequency))
        self.keys[i][sequence, :, positions] = k
        self.values[i][sequence, :, positions] = self._cast(v.reshape(-1, kv_heads, head_dim))

        out = np.empty((len(x), heads * head_dim))
        for row, (s, position) in enumerate(zip(sequence, positions, strict=True)):
            key = self.keys[i][s, :, : position + 1]  # [kv_heads, positions, head_dim]
            value = self.values[i][s, :, : position + 1]
            query = q[row].reshape(kv_heads, config.group, head_dim)
            score = query @ key.transpose(0, 2, 1) / np.sqrt(head_dim)  # [kv_heads, group, positions]
            weight = self._cast_wide(np.exp(score - score.max(axis=2, keepdims=True)))
            out[row] = (weight @ value / weight.sum(axis=2, keepdims=True)).reshape(-1)
        return self._linear(f"layers.{i}.o", self._fp32(out), normed=False)

    def _linear(self, name: str, x: np.ndarray, normed: bool) -> np.ndarray:
        """y = W x + b on rows, with the input in the scheme's activation format.

        8-bit activations are scaled by the root mean square of the whole input vector, which is 1
        by definition for what RMSNorm gives (`normed`).
        """
        linear, activations = self.stored.linears[name], self.stored.scheme.activations
        if activations in ACTIVATION_FACTOR:
            factor = ACTIVATION_FACTOR[activations] / (np.ones_like(x) if normed else self._rms(name, x))
            x = (_either_way if self.machine_like else rounded)(x * factor, activations) / factor
        elif self.machine_like:
            x = rounded(x, activations)
        y = np.empty((len(x), linear.out))
        for first in range(0, linear.out, BLOCK_ROWS):
            y[:, first : first + BLOCK_ROWS] = x @ linear.decoded(first, first + BLOCK_ROWS).T
        return y if linear.bias is None else y + linear.bias.astype(np.float64)

    def _rms(self, name: str, x: np.ndarray) -> np.ndarray:
        """Root mean square that every element of o's or down's input is scaled by: that of its chip's share."""
        parts = self.stored.parts.get(name.rpartition(".")[2]) or [np.arange(x.shape[1])]
        found = np.ones_like(x)
        for part in parts:
            real = part[part >= 0]
            square = np.sum(x[:, real] ** 2, axis=1, keepdims=True) / len(part)  # padding counts, as zeros
            found[:, real] = np.sqrt(square + RMS_FLOOR)
        return found

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """RMSNorm; its weight is 1 where it is folded into the next matrix."""
        y = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + self.stored.config.norm_eps)
        weight = self.stored.norms.get(name)
        return self._fp32(y if weight is None else y * weight.astype(np.float64))

    def _cast(self, x: np.ndarray) -> np.ndarray:
        """K and V are held in the KV format by the machines."""
        return rounded(x, self.stored.scheme.kv) if self.machine_like else x

    def _cast_wide(self, x: np.ndarray) -> np.ndarray:
        """So are q and probabilities; beside K and V of 8 bits they are fp16."""
        return rounded(x, self.stored.scheme.wide) if self.machine_like else x

    def _fp32(self, x: np.ndarray) -> np.ndarray:
        if not self.machine_like:
            return x
        mantissa, exponent = np.frexp(x)
        return np.ldexp(np.rint(np.ldexp(mantissa, FP32_BITS)), exponent - FP32_BITS)

    def _reserve(self, positions: int) -> None:
        """Grow the KV cache to hold this many positions."""
        for cache in (self.keys, self.values):
            for i, old in cache.items():
                if old.shape[2] < positions:
                    grown = np.zeros((*old.shape[:2], max(64, 2 * positions), old.shape[3]))
                    grown[:, :, : old.shape[2]] = old
                    cache[i] = grown


def _either_way(x: np.ndarray, format: str) -> np.ndarray:
    """Rounded to an 8-bit format, but whatever is NEAR_TIE of a tie goes to the farther neighbour.

    A machine's fp32 error of about 2 ** -13 quanta moves an activation across a tie once in thousands,
    and one such flip moves a logit far more than all fp32 errors together. A bound must not depend on
    whether a flip happens to occur in one run, so many more are made to occur than a machine can have.
    """
    quantum = 1.0 if format == "s8" else np.abs(x) * 2.0**-3  # e4m3: at most 2 ** -3 of a normal number
    value = rounded(x, format)
    below, above = (rounded(x + side * NEAR_TIE * quantum, format) for side in (-1, 1))
    return np.where(above != value, above, below)


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), without overflow."""
    return x * 0.5 * (1.0 + np.tanh(0.5 * x))


def rope(x: np.ndarray, positions: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Rotary embedding in rotate-half order: x [rows, heads, head_dim] at positions [rows]."""
    angle = positions[:, None, None] * frequency  # [rows, 1, head_dim / 2]
    cos, sin = cos_sin(angle)
    a, b = np.split(x, 2, axis=2)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)


@dataclass(frozen=True)
class Agreement:
    """A machine's tokens and logits against the oracle.

    bound: how far a machine's logit may be from the oracle's (see logit_bound). margins[s][t]: lead
    of the oracle's best token over its second at generated token t of sequence s. near_ties: (s, t)
    where the machine chose another token whose logit is within the bound of the best: more room than
    such choices of a sound machine need (see SAFETY). mismatches: (s, t) where it is further away.
    """

    near_ties: tuple[tuple[int, int], ...]
    mismatches: tuple[tuple[int, int], ...]
    margins: tuple[tuple[float, ...], ...]
    bound: float
    logits_max_abs_error: float | None

    @property
    def tokens_match(self) -> bool:
        """Whether every generated token is the oracle's, near ties granted."""
        return not self.mismatches

    @property
    def logits_within_bound(self) -> bool | None:
        """Whether no logit is further off than the bound; None when no logits were given."""
        return None if self.logits_max_abs_error is None else self.logits_max_abs_error <= self.bound


def oracle_logits(
    stored: StoredModel,
    prompts: Sequence[Sequence[int]],
    generated: Sequence[Sequence[int]],
    *,
    machine_like: bool = False,
    before: int = 0,
) -> list[np.ndarray]:
    """Logits [tokens, vocab] of each sequence that the oracle has where token t was generated.

    before: so many positions before the first come first, or as many as the prompt has. The machine's
    own tokens are fed, so that a near tie does not change what follows. All positions go through each
    layer together: the weights are read once.
    """
    texts = [[*prompt, *tokens[:-1]] for prompt, tokens in zip(prompts, generated, strict=True)]
    sequence = np.concatenate([np.full(len(text), s) for s, text in enumerate(texts)])
    positions = np.concatenate([np.arange(len(text)) for text in texts])
    oracle = Reference(stored, len(texts), machine_like=machine_like)
    x = oracle.body(sequence, oracle.embed(np.concatenate([np.array(t, np.int64) for t in texts])), positions)
    firsts = [max(0, len(prompt) - 1 - before) for prompt in prompts]
    chosen = np.concatenate([np.arange(len(t)) >= first for t, first in zip(texts, firsts, strict=True)])
    logits = np.rint(oracle.head(x[chosen]) / LOGIT_GRID) * LOGIT_GRID
    return np.split(logits, np.cumsum([len(t) - first for t, first in zip(texts, firsts, strict=True)])[:-1])


def logit_bound(exact: Sequence[np.ndarray], machine_like: Sequence[np.ndarray], safety: float = SAFETY) -> float:
    """How far a machine's logits may be from the exact ones.

    The machine-like oracle rounds activations, q, K, V and probabilities to the machines' formats
    at their cast points, and other results to about fp32. A machine rounds at the same points but
    sums in another order, so its error is another draw of about the same size as the largest shift
    seen here; 8-bit activations near a tie are rounded the other way, which a machine may do too. The
    bound is `safety` times that shift, plus FLOOR times the largest logit.
    """
    shift = max(float(np.abs(a - b).max()) for a, b in zip(exact, machine_like, strict=True))
    return safety * shift + FLOOR * max(float(np.abs(a).max()) for a in exact)


def check_agreement(
    stored: StoredModel,
    prompts: Sequence[Sequence[int]],
    generated: Sequence[Sequence[int]],
    logits: Sequence[np.ndarray] | None = None,
) -> Agreement:
    """Compare what a machine generated with the oracle.

    prompts and generated: token ids of each sequence, at least one each. logits: the machine's
    [tokens, vocab] of each sequence at the steps that chose the generated tokens.
    """
    rounded_to_8_bits = stored.scheme.activations in ACTIVATION_FACTOR
    exact = oracle_logits(stored, prompts, generated, before=PROMPT_ROWS)
    like = oracle_logits(stored, prompts, generated, machine_like=True, before=PROMPT_ROWS)
    bound = logit_bound(exact, like, SAFETY_8_BIT if rounded_to_8_bits else SAFETY)
    exact = [rows[-len(tokens) :] for rows, tokens in zip(exact, generated, strict=True)]
    near: list[tuple[int, int]] = []
    wrong: list[tuple[int, int]] = []
    margins: list[tuple[float, ...]] = []
    for s, (rows, tokens) in enumerate(zip(exact, generated, strict=True)):
        two = np.sort(rows, axis=1)[:, -2:]
        margins.append(tuple(float(m) for m in two[:, -1] - two[:, 0]))
        for t, token in enumerate(tokens):
            if token != int(rows[t].argmax()):
                (near if rows[t].max() - rows[t, token] <= bound else wrong).append((s, t))
    error = None
    if logits is not None:
        errors = [np.abs(np.asarray(m, np.float64) - e).max() for m, e in zip(logits, exact, strict=True)]
        error = float(np.nan_to_num(np.max(errors), nan=np.inf))  # a logit that is not a number is infinitely wrong
    return Agreement(tuple(near), tuple(wrong), tuple(margins), bound, error)
