"""How decode attention is cut: a CTA has some keys of a KV head of a sequence, a second kernel adds the parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from programs.gpu.plan import Limits, PlanError, ceil_div, round_up

KEY_BLOCK = 16  # keys of one tensor-core fragment
PAGE = 16  # keys of a page: what vLLM's cache has
ROWS = 16  # query heads of a warp: the rows of a tensor-core fragment
Q_DIM_MAX = 128  # dims of q that fit registers beside O
WARPS = 4  # of a CTA, unless more share a KV head's query heads
ROW_WARPS_MAX = 8  # warps that share a tile: 128 query heads of a CTA

BLOCK_CYCLES = 500  # a warp's block of keys: two chains of products and a softmax
COMBINE_CYCLES = 1500  # loads that wait for each other, of a small kernel
SPLIT_CYCLES = 10  # each split that the combine adds


@dataclass(frozen=True)
class AttentionPlan:
    """Split-KV attention of one layer: a CTA does `split` keys of a KV head of a sequence, for `group` query heads."""

    batch: int
    kv_heads: int
    group: int  # query heads of a CTA: all of a KV head's, or an equal part of them
    head_dim: int
    context: int
    row_warps: int  # warps of 16 query heads each; a power of two
    key_warps: int  # warps that share the keys of a tile; a power of two
    keys: int  # of a warp, in a tile; a power of two
    slots: int  # tiles of K and V in shared memory
    split: int  # keys of a CTA: whole tiles
    parts: int = 1  # CTAs that share a KV head's query heads
    paged: bool = False  # K and V lie in pages of 16 keys of all KV heads, which a table names; else head by head
    kv_bytes: int = 2  # of a value of K or V; 1: e4m3, which becomes f16 in registers
    copies: int = 0  # of q and the output before and after: 1, the output; 4, q and the output to and fro
    combine_warps: int = 4  # of the combine, which share a head's splits
    combine_ahead: int = 4  # splits that each of them has under way

    @property
    def warps(self) -> int:
        return self.row_warps * self.key_warps

    @property
    def tile(self) -> int:
        """Keys that a CTA's warps work on together."""
        return self.key_warps * self.keys

    @property
    def units(self) -> int:
        """Groups of query heads of a sequence."""
        return self.kv_heads * self.parts

    @property
    def heads(self) -> int:
        return self.units * self.group

    @property
    def dim(self) -> int:
        """head_dim, padded to tensor-core k, and to what one LDSM reads of a key."""
        return round_up(self.head_dim, 32 // self.kv_bytes)

    @property
    def capacity(self) -> int:
        """Positions of the cache, padded to whole blocks of keys."""
        return round_up(self.context, KEY_BLOCK)

    @property
    def row_bytes(self) -> int:
        """Bytes of K (or V) of a key."""
        return self.kv_bytes * self.dim

    @property
    def q_row_bytes(self) -> int:
        return 2 * self.dim

    @property
    def key_stride(self) -> int:
        """Bytes from key to key in the cache."""
        return self.row_bytes * self.kv_heads if self.paged else self.row_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of K (or V) of a page."""
        return PAGE * self.key_stride

    @property
    def table_row(self) -> int:
        """Entries of the page table of a sequence: whole tiles."""
        return self.splits * self.split // PAGE

    @property
    def pitch(self) -> int:
        """Bytes from key to key in shared memory: 16 more than in the cache, against bank conflicts."""
        return self.row_bytes + 16

    @property
    def splits(self) -> int:
        return ceil_div(self.context, self.split)

    @property
    def grid(self) -> int:
        return self.batch * self.units * self.splits

    @property
    def slot_bytes(self) -> int:
        return 2 * self.tile * self.pitch

    # How a warp copies its piece of a tile: instructions of 32 x 16 bytes, in a pattern of whole keys.
    @property
    def row_pieces(self) -> int:
        """16-byte pieces of a key."""
        return self.row_bytes // 16

    @property
    def pattern_keys(self) -> int:
        """Keys of a pattern: what one copy takes, or a block where keys and copies do not end together."""
        return KEY_BLOCK if 32 % self.row_pieces else min(KEY_BLOCK, 32 // self.row_pieces)

    @property
    def pattern_copies(self) -> int:
        return self.pattern_keys * self.row_pieces // 32

    @property
    def piece(self) -> int:
        """Keys that a warp copies of each tile."""
        return self.keys // self.row_warps

    @property
    def guard_keys(self) -> int:
        """Keys that are copied or not together at the end of a sequence."""
        return min(self.piece, KEY_BLOCK)

    # Layout of a layer's KV region: q of all sequences, then K, then V.
    @property
    def q_stride(self) -> int:
        """Bytes of q of one sequence."""
        return self.heads * self.q_row_bytes

    @property
    def kv_stride(self) -> int:
        """Bytes of K (or V) of one sequence."""
        return self.kv_heads * self.capacity * self.row_bytes

    @property
    def k_at(self) -> int:
        return round_up(self.batch * self.q_stride, 512)

    @property
    def v_at(self) -> int:
        return self.k_at + round_up(self.batch * self.kv_stride, 512)

    @property
    def region_bytes(self) -> int:
        return self.v_at + round_up(self.batch * self.kv_stride, 512)

    # Shared memory: maxima and sums of the warps' rows | ring of tiles, later the warps' outputs.
    @property
    def ring_at(self) -> int:
        return round_up(8 * ROWS * self.warps, 128)

    @property
    def output_pitch(self) -> int:
        """Bytes from head to head of a warp's fp32 output in shared memory: 32 more, against bank conflicts."""
        return 4 * self.dim + 32

    @property
    def shared_bytes(self) -> int:
        return self.ring_at + max(self.slots * self.slot_bytes, self.warps * ROWS * self.output_pitch)

    @property
    def registers(self) -> int:
        """Estimate: q, O, scores, fragments, P, addresses."""
        widened = 12 if self.kv_bytes == 1 else 0
        return (self.dim // 4 if self.q_stays else 4) + self.dim // 2 + self.keys // 2 + 28 + 36 + widened

    @property
    def q_stays(self) -> bool:
        """Whether a warp's q stays in registers; of larger heads it is read from L1 for every tile."""
        return self.dim <= Q_DIM_MAX

    def fits(self, limits: Limits) -> bool:
        """Whether an SM has room for a CTA, and its warps can share its copies."""
        shared = self.piece % self.pattern_keys == 0 and self.piece > 0
        return (shared and self.shared_bytes <= limits.shared_bytes and self.warps <= limits.warps_per_sm
                and self.registers <= min(250, limits.registers // (32 * self.warps)))

    def cycles(self, limits: Limits) -> float:
        """Estimate at full context: CTAs in rounds over the SMs, blocks of a warp one after the other, the combine."""
        rounds = ceil_div(self.grid, limits.sms)
        blocks = ceil_div(min(self.split, self.context), self.key_warps * KEY_BLOCK)
        stream = 2 * self.split * self.row_bytes / limits.stream_bytes_per_cycle
        combine = limits.launch_gap + COMBINE_CYCLES + SPLIT_CYCLES * self.splits if self.splits > 1 else 0
        return rounds * max(blocks * BLOCK_CYCLES, stream) + combine


def plan_attention(batch: int, kv_heads: int, group: int, head_dim: int, context: int, limits: Limits,
                   split: int | None = None, kv_bytes: int = 2) -> AttentionPlan:
    """The fastest split by AttentionPlan.cycles. Raises PlanError.

    group: query heads of a KV head; more than one CTA can have are shared out over several.
    """
    parts = next(p for p in range(1, group + 1) if group % p == 0 and group // p <= ROWS * ROW_WARPS_MAX)
    group //= parts
    row_warps = 1 << (ceil_div(group, ROWS) - 1).bit_length()
    for key_warps, keys, slots in ((4, 32, 2), (4, 16, 2), (4, 16, 1), (2, 64, 2), (2, 32, 2), (1, 64, 2), (2, 16, 1),
                                   (1, 32, 2), (1, 16, 2), (1, 16, 1)):
        if row_warps * key_warps > max(row_warps, WARPS):
            continue
        best, best_cost = None, inf
        tile = key_warps * keys
        sizes = [split] if split else [tile << n for n in range(max(0, ceil_div(context, tile) - 1).bit_length() + 1)]
        for size in sizes:
            plan = AttentionPlan(batch, kv_heads, group, head_dim, context, row_warps, key_warps, keys, slots, size,
                                 parts, kv_bytes=kv_bytes)
            cost = plan.cycles(limits)
            if cost < best_cost and size % tile == 0 and plan.fits(limits):
                best, best_cost = plan, cost
        if best is not None:
            return best
    raise PlanError(f"no plan for attention with {group} query heads a KV head of {head_dim}: "
                    f"{limits.shared_bytes} bytes of shared memory are too few")
