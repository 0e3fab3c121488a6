"""What one group of chips holds of a model: pieces of the decode graph, and the SRAM words they need.

A model is a row of units, in the order in which a token meets them: tables of the embedding; in every
layer the attention block (with its projections), the pairs of row tiles of gate and up, and the row tiles
of down; then the row tiles of the head. A stage is a run of units.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.lpu.geometry import Geometry
from programs.decode.stored import StoredModel
from programs.lpu.kernels.embed import TIGHT_ROWS
from programs.lpu.kernels.state import Skew, capacity_blocks
from programs.lpu.partition import BLOCK, AttentionLayout, LinearPlan, attention_layout, blocks, linear_plans, natural

TABLE_ROWS = 2048  # rows of the embedding in a unit
LAYER_LINEARS = ("gate_up", "down", "qkv", "o")  # in the order of placing


def weight_format(stored: StoredModel) -> str:
    """How weights lie and reach the planes: "f16", "s8", or "cast8" (s8, cast to f16 on the way)."""
    scheme = stored.scheme
    return "f16" if scheme.weights == "f16" else "s8" if scheme.activations == "s8" else "cast8"


@dataclass(frozen=True)
class Piece:
    """Units start .. end - 1 of a layer: 0 is the attention block, then pairs of gate and up, then rows of down."""

    layer: int
    start: int
    end: int


@dataclass(frozen=True)
class Stage:
    """tables, heads: units of the embedding and of the head; pieces: of layers, whole ones but for the ends."""

    tables: tuple[int, int] = (0, 0)
    pieces: tuple[Piece, ...] = ()
    heads: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[object, ...]:
        """What the schedule depends on: stages of one shape share it."""
        return self.tables, tuple((p.start, p.end) for p in self.pieces), self.heads

    @property
    def layers(self) -> tuple[int, int]:
        """First layer that it has units of, and the one after the last."""
        return (self.pieces[0].layer, self.pieces[-1].layer + 1) if self.pieces else (0, 0)


class Units:
    """Units of a model, on each chip of a group, and the words that a run of them takes.

    share: a rank's share. Words count weights, their scales, the KV cache and the embedding.
    """

    def __init__(self, share: StoredModel, g: Geometry, batch: int, context: int) -> None:
        c, form = share.config, weight_format(share)
        layout = attention_layout(c, g.lanes)
        plans = linear_plans(share, layout, g.lanes)
        self.layers = c.layers
        self.tables = -(-c.vocab // TABLE_ROWS)
        self.pairs, self.rows = len(plans["down"].columns), len(plans["down"].rows)
        self.heads = len(plans["lm_head"].rows)
        self.per_layer = 1 + self.pairs + self.rows
        size = 2 if form == "f16" else 1
        scale = 0 if form == "f16" else 4

        def words(plan: LinearPlan, rows: range) -> int:
            return sum(size * len(plan.columns) * BLOCK * blocks(len(plan.rows[n])) + scale for n in rows)

        def every(name: str) -> int:
            return words(plans[name], range(len(plans[name].rows)))

        self.cache = cache_words(layout, g, batch, context)
        pairs = [words(plans["gate_up"], range(2 * k, 2 * k + 2)) for k in range(self.pairs)]
        rows = [words(plans["down"], range(n, n + 1)) for n in range(self.rows)]
        self.unit = [every("qkv") + every("o") + self.cache, *pairs, *rows]
        vectors = len(natural(c.hidden, g.lanes))
        vectors += vectors % 2  # two vectors lie on one column of slices; every table ends in a row of zeros
        rows_of = [min(TABLE_ROWS, c.vocab - first) for first in range(0, c.vocab, TABLE_ROWS)]
        self.table = [2 * vectors * (n + -(-n // TIGHT_ROWS)) for n in rows_of]
        self.head = [words(plans["lm_head"], range(n, n + 1)) + 4 * batch for n in range(self.heads)]

    @property
    def layer(self) -> int:
        """Words of a whole layer."""
        return sum(self.unit)

    def of(self, stage: Stage) -> int:
        return (sum(self.table[slice(*stage.tables)]) + sum(self.head[slice(*stage.heads)])
                + sum(sum(self.unit[p.start : p.end]) for p in stage.pieces))

    def whole(self, layers: tuple[int, int] | None = None) -> Stage:
        """All units, or those of some layers only."""
        a, b = layers or (0, self.layers)
        pieces = tuple(Piece(layer, 0, self.per_layer) for layer in range(a, b))
        ends = layers is None
        return Stage((0, self.tables * ends), pieces, (0, self.heads * ends))


def cache_words(layout: AttentionLayout, g: Geometry, batch: int, context: int) -> int:
    """Words of a layer's KV cache: K as rows, V transposed and the rows of its current block."""
    skew = Skew.of(layout, g.lanes, context)
    values = sum(skew.words(parity) + skew.rows for parity in skew.parities)
    return batch * 2 * BLOCK * (layout.key_vectors * (capacity_blocks(context) + 1) + values)


__all__ = ["LAYER_LINEARS", "Piece", "Stage", "Units", "cache_words", "weight_format"]
