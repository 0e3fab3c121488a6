"""How decode attention is cut: a CTA has some keys of a KV head of a sequence, a second kernel adds the parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from programs.gpu.plan import COLUMNS, RING_BYTES_MAX, Limits, PlanError, ceil_div, round_up

KEY_BLOCK = 16  # keys of one attention tile
GROUP_MAX = 16  # query heads of an attention CTA: more accumulators than registers allow otherwise

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
    warps: int
    slots: int  # key blocks in flight a warp
    split: int  # keys
    parts: int = 1  # CTAs that share a KV head's query heads

    @property
    def units(self) -> int:
        """Groups of query heads of a sequence."""
        return self.kv_heads * self.parts

    @property
    def heads(self) -> int:
        return self.units * self.group

    @property
    def dim(self) -> int:
        """head_dim, padded to tensor-core k."""
        return round_up(self.head_dim, 16)

    @property
    def capacity(self) -> int:
        """Positions of the cache, padded to whole splits of key blocks."""
        return round_up(self.context, KEY_BLOCK)

    @property
    def row_bytes(self) -> int:
        return 2 * self.dim

    @property
    def pitch(self) -> int:
        """Bytes from key to key in shared memory: 16 more than in the cache, against bank conflicts."""
        return self.row_bytes + 16

    @property
    def splits(self) -> int:
        return ceil_div(self.context, self.split)

    @property
    def blocks(self) -> int:
        """Column blocks of eight query heads."""
        return ceil_div(self.group, COLUMNS)

    @property
    def grid(self) -> int:
        return self.batch * self.units * self.splits

    @property
    def slot_bytes(self) -> int:
        return 2 * KEY_BLOCK * self.pitch

    # Layout of a layer's KV region: q of all sequences, then K, then V.
    @property
    def q_stride(self) -> int:
        """Bytes of q of one sequence."""
        return self.heads * self.row_bytes

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

    # Shared memory: maxima and sums of the warps | probabilities | rings, later the warps' outputs.
    @property
    def probabilities_at(self) -> int:
        return self.warps * self.blocks * COLUMNS * 8

    @property
    def ring_at(self) -> int:
        return round_up(self.probabilities_at + self.warps * self.blocks * 256, 128)

    def cycles(self, limits: Limits) -> float:
        """Estimate at full context: CTAs in rounds over the SMs, blocks of a warp one after the other, the combine."""
        rounds = ceil_div(self.grid, limits.sms)
        blocks = ceil_div(min(self.split, self.context), self.warps * KEY_BLOCK)
        stream = 2 * self.split * self.row_bytes / limits.stream_bytes_per_cycle
        combine = limits.launch_gap + COMBINE_CYCLES + SPLIT_CYCLES * self.splits if self.splits > 1 else 0
        return rounds * max(blocks * BLOCK_CYCLES, stream) + combine

    @property
    def output_pitch(self) -> int:
        """Bytes from head to head of a warp's fp32 output in shared memory."""
        return 4 * self.dim + 16

    @property
    def shared_bytes(self) -> int:
        ring = self.warps * self.slots * self.slot_bytes
        return self.ring_at + max(ring, self.warps * self.blocks * COLUMNS * self.output_pitch)


def plan_attention(batch: int, kv_heads: int, group: int, head_dim: int, context: int, limits: Limits,
                   split: int | None = None) -> AttentionPlan:
    """The fastest split by AttentionPlan.cycles, four warps a CTA where they fit. Raises PlanError.

    group: query heads of a KV head; more than GROUP_MAX are shared out over several CTAs.
    """
    parts = next(p for p in range(1, group + 1) if group % p == 0 and group // p <= GROUP_MAX)
    group //= parts
    for warps, slots in ((4, 4), (4, 3), (4, 2), (4, 1), (2, 2), (2, 1), (1, 2), (1, 1)):
        best, best_cost = None, inf
        keys = split or warps * KEY_BLOCK
        while True:
            plan = AttentionPlan(batch, kv_heads, group, head_dim, context, warps,
                                 min(slots, ceil_div(keys, warps * KEY_BLOCK)), keys, parts)
            cost = plan.cycles(limits)
            reached = (plan.slots - 1) * plan.slot_bytes + 2 * plan.dim < RING_BYTES_MAX
            if cost < best_cost and reached and plan.shared_bytes <= limits.shared_bytes:
                best, best_cost = plan, cost
            if split is not None or keys >= context:
                break
            keys *= 2
        if best is not None:
            return best
    raise PlanError(f"no plan for attention with {group} query heads a KV head of {head_dim}: "
                     f"{limits.shared_bytes} bytes of shared memory are too few")
