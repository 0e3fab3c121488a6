"""One layer's attention of a decode step by itself on one LPU: RoPE, append to the cache, softmax, sums of V.

The program starts with q, k and v of the new position in memory. Address maps, masks and rotations follow
from the position only; a decode step makes them once for all its layers, so here they are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import geometry
from isa.program import Program
from programs.errors import CapacityError
from programs.lpu.kernels.attention import Projections, attention, place_cache
from programs.lpu.kernels.state import (
    MASK_STEP,
    StepState,
    capacity_blocks,
    position_tiles,
    rope_table,
    turned_positions,
    value_side,
)
from programs.lpu.lone import Lone
from programs.lpu.memory import Buffer
from programs.lpu.partition import BLOCK, attention_layout
from programs.lpu.place import Fill, byte_planes, lane_vectors
from programs.lpu.stage import cache_words
from programs.models.config import ModelConfig

ROPE_THETA = 1e4


@dataclass(frozen=True)
class AttentionValues:
    """q float [batch, q_heads, head_dim]; k, v [batch, kv_len, kv_heads, head_dim]: the last position's k is not
    rotated yet (q neither), the others are as the cache has them."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray


def attention_config(q_heads: int, kv_heads: int, head_dim: int, kv_len: int) -> ModelConfig:
    """A model of one layer with this attention. Raises ValueError for heads that do not share evenly."""
    if q_heads % kv_heads:
        raise ValueError(f"q_heads {q_heads} is no multiple of kv_heads {kv_heads}")
    if head_dim % 2:
        raise ValueError(f"head_dim {head_dim} is odd; rotations take pairs")
    hidden = q_heads * head_dim
    return ModelConfig("llama", hidden, hidden, hidden, 1, q_heads, kv_heads, head_dim, kv_len, 1e-5, ROPE_THETA)


class LoneAttention(Lone):
    """Tensor "out" f32 [output vectors * batch, lanes]: layout.out says which head's value is in which lane."""

    def __init__(self, chip: Chip, config: ModelConfig, batch: int, kv_len: int,
                 values: AttentionValues | None) -> None:
        g = geometry(chip)
        words = cache_words(attention_layout(config, g.lanes), g, batch, kv_len)
        if words > g.words:
            raise CapacityError(f"a KV cache of {batch} x {kv_len} positions needs {words:,} SRAM words and one "
                                f"{g.chip} has {g.words:,}", -(-words // g.words))
        super().__init__(chip, "layer.attention", words, batch, "fp16", config, kv_len)
        self.config, self.batch, self.position, self.values = config, batch, kv_len - 1, values
        self.timing_only = values is None
        self.cache = place_cache(self.b)
        out = attention(self.b, self._state(), self.cache, self._projections(), "layer.")
        count = out.n // batch
        assert count == len(self.b.layout.out)
        self.tensor("out", "f32", g.lanes, "output", out.words(g)[:, None], self.timing_only)

    # -- what the step has made before -----------------------------------------------------------
    def _table(self, values: np.ndarray, side: int) -> Buffer:
        """Known values [n, lanes], real in timing-only programs too."""
        return self.b.place.constant(byte_planes(values), side)

    def _maps(self, values: np.ndarray, side: int) -> Buffer:
        """Address maps [n, lanes or 1]: 16 bits, little endian, in the first two lanes of each superlane."""
        lane = np.arange(self.g.lanes)
        return self._table(np.where(lane % 16 == 1, values >> 8, values & 255).astype(np.uint8), side)

    def _slots(self, word: int, dummy: int) -> list[Buffer]:
        numbers = [word if slot == self.position % BLOCK else dummy for slot in range(BLOCK)]
        return [self._maps(np.array(numbers)[:, None], side) for side in (0, 1)]

    def _state(self) -> StepState:
        lanes, batch, at, context = self.g.lanes, self.batch, self.position, self.b.context
        skew, tile = self.cache.skew, at // lanes
        positions = lanes * np.arange(position_tiles(context, lanes))[:, None, None] + turned_positions(skew)
        masks = np.minimum(0, at - positions.reshape(-1, lanes)) * MASK_STEP
        block = at % lanes // BLOCK
        words = [[np.maximum(tile * skew.stride(parity) + skew.channels(parity, first)[block], 0)
                  for first in skew.firsts] for parity in skew.parities]
        turns = np.minimum((np.arange(skew.superlanes) - block) % skew.superlanes, skew.turns)
        cos, sin = rope_table(self.config, self.b.layout.slots, lanes, np.array([at]))
        return StepState(
            position=self._table(np.full((batch, lanes), at, dtype=np.int32), 0),
            key_maps=[self._slots(at // BLOCK, capacity_blocks(context)) for _ in range(batch)],
            value_maps=[self._slots(0, skew.beside) for _ in range(batch)],
            turn_maps=[[self._maps(turns[:, None], side) for side in (0, 1)] for _ in range(batch)],
            tile_maps=[[[self._maps(np.repeat(word, BLOCK)[None], 1 - value_side(parity, i)) for word in words[parity]]
                        for parity in skew.parities] for i in range(batch)],
            masks=self._table(np.repeat(masks, batch, axis=0).astype(np.float32), 1),
            cos=self._table(np.repeat(cos, batch, axis=0), 0),
            sin=self._table(np.repeat(sin, batch, axis=0), 1))

    # -- inputs -----------------------------------------------------------------------------------
    def _projections(self) -> Projections:
        """q, k and v of the new position in the layout's lanes, and the cache before it."""
        layout, batch, lanes = self.b.layout, self.batch, self.g.lanes
        rows = None
        if self.values is not None:
            new = [self.values.q, self.values.k[:, -1], self.values.v[:, -1]]
            rows = np.concatenate([part.reshape(batch, -1) for part in new], axis=1).astype(np.float32)
            self._fill_cache(self.values)

        def given(vectors: list[np.ndarray], side: int) -> Buffer:
            buffer = self.place(4, len(vectors) * batch, side)
            data = None
            if rows is not None:
                data = np.stack([lane_vectors(row, vectors, lanes) for row in rows]).transpose(1, 0, 2)
            self.give(buffer, None if data is None else data.reshape(-1, lanes))
            return buffer

        q = [given(layout.q[v * layout.group : (v + 1) * layout.group], v % 2) for v in range(layout.key_vectors)]
        return Projections(q, [given([one], 0) for one in layout.k], [given([one], 0) for one in layout.v])

    def _fill_cache(self, values: AttentionValues) -> None:
        """Earlier positions: K by rows; V by channels, and by rows for the 16 positions of the current block."""
        layout, lanes, c, skew = self.b.layout, self.g.lanes, self.config, self.cache.skew
        first = c.q_size
        tiles, current = position_tiles(self.b.context, lanes), self.position // BLOCK * BLOCK
        for i in range(self.batch):
            k = values.k[i, :-1].reshape(self.position, c.kv_size).astype(np.float16)
            v = values.v[i, :-1].reshape(self.position, c.kv_size).astype(np.float16)
            for lane_index, region in zip(layout.k, self.cache.keys[i]):
                self._rows(region, _lanes_of(k, lane_index - first, lanes), np.arange(self.position))
            for number, lane_index in enumerate(layout.v):
                channels = lane_index - first - c.kv_size
                region, rows = self.cache.values[i][number % 2], self.cache.rows[i][number % 2]
                self._rows(rows, _lanes_of(v[current:], channels, lanes), np.arange(self.position - current), number)
                data = np.zeros((tiles * lanes, len(channels)), dtype=np.float16)
                data[: self.position] = v[:, channels]
                by_tile = data.reshape(tiles, lanes, len(channels)).transpose(0, 2, 1)
                turned = np.roll(by_tile, BLOCK * (number % skew.superlanes), axis=2)
                for t in range(tiles):
                    self._rows(region, turned[t], np.arange(len(channels)), skew.word(t, number))

    def _rows(self, region: Buffer, rows: np.ndarray, numbers: np.ndarray, base: int = 0) -> None:
        """f16 rows [n, lanes] into a region: row r in slot r % 16, word base + r // 16."""
        contents = self._contents(region)
        planes = byte_planes(rows)  # [n, 2, lanes]
        for byte in (0, 1):
            contents[base + numbers // BLOCK, 2 * (numbers % BLOCK) + byte] = planes[:, byte]

    def _contents(self, region: Buffer) -> np.ndarray:
        """What a cache region begins with, uint8 [n, slices, lanes]: zeros where nothing is put."""
        fills = self.b.place.fills
        at = next(n for n, fill in enumerate(fills) if fill.buffer is region)
        made = fills[at].make
        if made is None:
            data = np.zeros((region.n, len(region.slices), self.g.lanes), dtype=np.uint8)
            fills[at] = Fill(region, make=lambda layer: data)
            return data
        return made(0)


def _lanes_of(values: np.ndarray, index: np.ndarray, lanes: int) -> np.ndarray:
    """[n, lanes] of columns `index` of values [n, columns], zeros in the lanes beyond."""
    out = np.zeros((len(values), lanes), dtype=values.dtype)
    out[:, : len(index)] = values[:, index]
    return out


def attention_program(chip: Chip, batch: int, kv_len: int, q_heads: int, kv_heads: int, head_dim: int,
                      values: AttentionValues | None = None) -> Program:
    """Attention over kv_len positions, the new one included; fp16 cache. Timing only without values.

    Raises ValueError for head numbers that make no attention, CapacityError for a cache that does not fit.
    """
    g = geometry(chip)
    least = batch * kv_len * (4 * kv_heads * head_dim + 6 * q_heads) + 4 * batch * q_heads * head_dim
    if least > g.sram_bytes:  # K and V in fp16, scores in fp32 and fp16, q; before anything is sized by it
        raise CapacityError(f"K, V and scores of {batch} x {kv_len} positions take at least {least / 1e6:,.0f} MB and "
                            f"{g.chip} has {g.sram_bytes / 1e6:,.1f} MB", -(-least // g.sram_bytes))
    config = attention_config(q_heads, kv_heads, head_dim, kv_len)
    made = LoneAttention(chip, config, batch, kv_len, values)
    return made.finish({"op": "decode_attention", "batch": batch, "kv_len": kv_len, "q_heads": q_heads,
                        "kv_heads": kv_heads, "head_dim": head_dim})


__all__ = ["AttentionValues", "LoneAttention", "attention_config", "attention_program"]
