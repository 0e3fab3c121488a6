"""How the kernels are cut for one chip: a small planner from chip numbers, no search at run time.

A linear layer is a stream of weights, row by row as a checkpoint has them, through shared memory:

    group   `tiles` row tiles of 16 rows: what a CTA works on in one pass
    chunk   `ksteps` k-steps of 32 bytes, of all rows of the group: one copy group of a warp
    warp    has every warps-th of a row's chunks, `chunks` of them; `slots` are in flight
    pass    group number cta + pass * grid

So the warps of a CTA read neighbouring pieces of a row at about one time. Sums over the warps' parts of
k are made in shared memory, in warp order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from emulator.chip import Chip

TILE_ROWS = 16
TILE_BYTES = 512  # one A fragment: 16 rows x 32 bytes; what one copy of a warp moves
STAGE_BYTES = 128  # of a row, what lies together in shared memory: a line
KSTEP_BYTES = 32  # k bytes of one MMA: 16 halves or 32 bytes
FRAGMENT_KSTEPS = 4  # k-steps whose fragments a lane holds at a time
COLUMNS = 8  # sequences in one B fragment
COLUMN_BLOCKS_MAX = 8  # 64 sequences a launch
ELEMENT_BYTES = {"f16": 2, "bf16": 2, "s8": 1, "e4m3": 1}

# How much the x vectors may weigh before normalising them once in a kernel of their own pays:
# every CTA of a fused kernel reads and converts batch x k values.
FUSED_VALUES_MAX = 16384
VECTORS_MAX = 16  # 16-byte pieces of x that a thread keeps in registers

SUB_CORES = 4
NOT_HIDDEN = 0.25  # of the shorter of stream and issue
PORT_BYTES_PER_CYCLE = 37  # what an SM sustains from L2 (facts 5.1, sm_noc_in)
HALF_RATE_BYTES = 5120  # in flight an SM for half of its rate: 16, 32, 64 KB give about 76, 86, 93 %
PART_LINES = 0.75  # of the rate of whole lines
WIDE_TILES = 4  # of 16 rows: CTAs of libraries' kernels
WIDE_COST = 1.1  # what such a CTA may cost, of the cheapest
ONE_SLOT = 0.97  # of the rate, where a warp asks for a chunk when it has multiplied the one before
SLOTS_MAX = 8
RING_BYTES_MAX = 32768  # of a warp: what LDSM's offset reaches


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    """The smallest multiple of b that is at least a."""
    return ceil_div(a, b) * b


class PlanError(ValueError):
    """A kernel that no plan fits on the chip; the message says which and why."""


@dataclass(frozen=True)
class Limits:
    """The chip numbers that plans depend on."""

    sms: int
    shared_bytes: int  # a CTA's maximum
    sm_shared_bytes: int  # of an SM, for all of its CTAs
    shared_reserved: int  # what each CTA takes beside its own
    registers: int  # of an SM, 32 bits each
    warps_per_sm: int
    stream_bytes_per_cycle: float  # an SM's share of DRAM bandwidth
    in_flight_bytes: int  # of an SM that still help: what its copies may have outstanding, twice
    mma_interval: int  # cycles from one MMA of a sub-core to the next
    launch_gap: int  # cycles from a kernel's end to the next one's start
    bulk_copies: bool  # an engine for them, as from Hopper on

    @staticmethod
    def of(chip: Chip) -> Limits:
        """The limits of a chip. A DRAM cycle moves burst bytes (32) / burst cycles a pseudo-channel."""
        channels = chip["dram.channels"] * chip["dram.pseudo_channels"]
        clock = chip["dram.clock_hz"] * chip["dram.sustained_percent"] / 100
        rate = channels * 32 / chip["dram.timing.burst"] * clock
        return Limits(
            sms=chip["core.sms"],
            shared_bytes=min(chip["sm.shared.max_per_cta"],
                             max(0, chip["sm.shared.bytes"] - chip["sm.shared.reserved_per_cta"])),
            sm_shared_bytes=chip["sm.shared.bytes"],
            shared_reserved=chip["sm.shared.reserved_per_cta"],
            registers=chip["sm.registers"],
            warps_per_sm=chip["sm.max_warps"],
            stream_bytes_per_cycle=rate / chip.clock_hz / chip["core.sms"],
            in_flight_bytes=64 * chip["sm.outstanding_sectors"],
            mma_interval=chip["sm.tensor.interval"],
            launch_gap=chip["launch.graph_gap"],
            bulk_copies=chip["sm.bulk.engines"] > 0,
        )


@dataclass(frozen=True)
class LinearPlan:
    """One linear layer on the tensor cores. See the module's head for the words."""

    outputs: int  # rows of the result, or pairs of rows when paired
    k: int
    weights: str  # number type of both operands
    batch: int
    paired: bool  # rows i and i + rows/2 of a group belong together (RoPE, gate and up)
    fused: bool  # the kernel makes its own B operand from fp32 x; else an activation kernel did
    warps: int
    tiles: int
    ksteps: int
    chunks: int
    slots: int
    grid: int
    ring_from: int = 0  # the rings begin here at least
    ring_bytes: int = 0  # a warp's ring takes this at least: kernels that share rings agree on both

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.weights]

    @property
    def rows(self) -> int:
        """Weight rows of a group."""
        return self.tiles * TILE_ROWS

    @property
    def items(self) -> int:
        """Results of a group: rows, or pairs of rows."""
        return self.rows // 2 if self.paired else self.rows

    @property
    def groups(self) -> int:
        return ceil_div(self.outputs, self.items)

    @property
    def passes(self) -> int:
        """Passes of the busiest CTA."""
        return ceil_div(self.groups, self.grid)

    @property
    def k_bytes(self) -> int:
        """Bytes of k, padding included."""
        return self.warps * self.chunks * self.ksteps * KSTEP_BYTES

    @property
    def k_padded(self) -> int:
        return self.k_bytes // self.element_bytes

    @property
    def chunk_bytes(self) -> int:
        return self.ksteps * self.tiles * TILE_BYTES

    @property
    def chunk_pitch(self) -> int:
        """Bytes of a row in a chunk."""
        return self.ksteps * KSTEP_BYTES

    @property
    def chunk_step(self) -> int:
        """Bytes of a row from a warp's chunk to its next one."""
        return self.warps * self.chunk_pitch

    @property
    def stage_ksteps(self) -> int:
        """K-steps that lie together in shared memory: a chunk is [stage][row][bytes of the row]."""
        return min(self.ksteps, STAGE_BYTES // KSTEP_BYTES)

    @property
    def copy_rows(self) -> int:
        """Rows that one copy instruction takes."""
        return TILE_ROWS // self.stage_ksteps

    @property
    def blocks(self) -> int:
        """Column blocks of eight sequences."""
        return ceil_div(self.batch, COLUMNS)

    @property
    def x_chunk_bytes(self) -> int:
        """Streamed B operand of a chunk: ksteps x 32 bytes of all columns."""
        return 0 if self.fused else self.ksteps * KSTEP_BYTES * COLUMNS * self.blocks

    @property
    def stage_bytes(self) -> int:
        return self.chunk_bytes + self.x_chunk_bytes

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights, padding included."""
        return self.passes * self.grid * self.rows * self.k_bytes

    # Shared memory: x rows, sums of squares, scales | partial results, twice | rings.
    @property
    def x_pitch(self) -> int:
        """Bytes from one resident x row to the next; 16 more than a multiple of 32 spreads LDSM rows over banks."""
        return self.k_bytes + 16

    @property
    def scratch_at(self) -> int:
        return self.batch * self.x_pitch if self.fused else 0

    @property
    def partials_at(self) -> int:
        """Partial sums; before them a sum of squares a warp and row of x, and one scale a row."""
        return round_up(self.scratch_at + 4 * self.batch * (self.warps + 1), 16)

    @property
    def column_pitch(self) -> int:
        """Bytes from column to column of partial results: 4 rows more, so that a fragment's stores hit 32 banks."""
        return (self.rows + 4) * 4

    @property
    def partial_bytes(self) -> int:
        """Partial results of one warp."""
        return self.batch * self.column_pitch

    @property
    def ring_at(self) -> int:
        copies = 2 if self.passes > 1 else 1
        return max(self.ring_from, round_up(self.partials_at + copies * self.warps * self.partial_bytes, 128))

    @property
    def ring_pitch(self) -> int:
        """Bytes from warp to warp in the rings."""
        return max(self.ring_bytes, self.slots * self.stage_bytes)

    @property
    def ring_weights(self) -> int:
        """Bytes of weights that the rings of a CTA hold."""
        return self.warps * self.slots * self.chunk_bytes

    @property
    def shared_bytes(self) -> int:
        return self.ring_at + self.warps * self.ring_pitch

    @property
    def accumulators(self) -> int:
        return 4 * self.tiles * self.blocks

    @property
    def instructions(self) -> int:
        """Estimate of a CTA's warp instructions: the loop, the ends of passes, x."""
        chunk = self.ksteps * self.tiles * (2 + self.blocks) + ceil_div(self.ksteps, 2) * self.blocks
        chunk += self.x_chunk_bytes // TILE_BYTES + 3
        segment = 4 + self.blocks
        loop = self.warps * self.chunks * chunk + self.warps * segment * ceil_div(self.chunks, self.slots)
        stores = 2 * self.tiles * min(2 * self.blocks, self.batch)
        end = self.warps * (stores + 8) + ceil_div(self.items * self.batch, 32) * (3 * self.warps + 30)
        x = self.batch * (40 * self.warps + self.k_padded // 128 * 18) if self.fused else 0
        start = self.warps * (80 + self.slots * (self.stage_bytes // TILE_BYTES + 2))
        return self.passes * (loop + end) + x + start

    def cycles(self, limits: Limits) -> float:
        """Estimate: the busiest CTA's stream and its issue slots, which overlap but not perfectly.

        All CTAs stream at the rate of DRAM, one at that of its SM's port at most; slower where few bytes are in
        flight, or parts of lines are asked for.
        """
        in_flight = min(self.warps * (self.slots - 0.5) * self.chunk_bytes, limits.in_flight_bytes)
        group = self.rows * self.k_bytes
        stream = max(self.groups * group / (limits.stream_bytes_per_cycle * limits.sms),
                     self.passes * group / PORT_BYTES_PER_CYCLE)
        stream *= 1 + HALF_RATE_BYTES / in_flight
        stream /= 1 if self.chunk_pitch >= STAGE_BYTES else PART_LINES
        stream /= 1 if self.slots > 1 or self.chunks * self.passes == 1 else ONE_SLOT
        if self.fused:
            stream += self.batch * self.k_padded * 4 / PORT_BYTES_PER_CYCLE
        issue = self.instructions * (1 + 1 / self.warps) / SUB_CORES  # few warps wait for their own results
        return max(stream, issue) + min(stream, issue) * NOT_HIDDEN


def _slots(chunks: int, passes: int, chunk_bytes: int) -> list[int]:
    """Ring sizes that fit the loop: divisors of the chunks of a pass, or two or three passes."""
    fits = [s for s in range(1, chunks + 1) if chunks % s == 0] + [n * chunks for n in (2, 3) if n <= passes]
    return [s for s in fits if s <= SLOTS_MAX and s * chunk_bytes <= RING_BYTES_MAX]


@dataclass(frozen=True)
class Room:
    """What a linear layer may take that shares a CTA with other kernels: warps (exactly), bytes of a warp's ring and
    of one chunk, and pieces of x that a thread keeps in registers."""

    warps: int
    ring_bytes: int
    chunk_bytes: int
    vectors: int

    def holds(self, plan: LinearPlan) -> bool:
        return (plan.warps == self.warps and plan.slots * plan.stage_bytes <= self.ring_bytes
                and plan.chunk_bytes <= self.chunk_bytes)


def plan_linear(outputs: int, k: int, weights: str, batch: int, paired: bool, limits: Limits,
                fused_values_max: int = FUSED_VALUES_MAX, room: Room | None = None) -> LinearPlan:
    """The cheapest cut of a linear layer for a chip, by LinearPlan.cycles; ties go to the smaller.

    A kernel by itself has the libraries' CTAs of 64 rows where those cost little more (WIDE_COST): k_proj of an 8B
    model, 16 such CTAs, takes 8.3 us on an H100, of which an SM's port needs 7.2 for 64 rows. Its rings hold the
    weights that an SM may have under way, 32 KB, as the four stages of 64 rows by 64 values of libraries' kernels do.
    outputs: rows, or pairs of rows; batch at most 64. Raises PlanError when nothing fits.
    """
    shape = (outputs, k, weights, batch, paired)
    for fused in (True, False) if batch * k <= fused_values_max else (False,):
        found = [(plan.cycles(limits), plan) for plan in _cuts(*shape, fused, limits.sms)
                 if (room is None or room.holds(plan)) and _fits(plan, limits, room)]
        if room is None:
            found = [one for one in found if one[1].ring_weights <= limits.in_flight_bytes // 2] or found
        if found:
            cost, best = min(found, key=lambda one: one[0])
            wide = [one for one in found if one[1].tiles == WIDE_TILES and one[0] <= WIDE_COST * cost]
            return best if room is not None or not wide else min(wide, key=lambda one: one[0])[1]
    raise PlanError(f"no plan for a linear layer of {outputs} x {k} {weights}, batch {batch}: {_short(shape, limits)}")


def _cuts(outputs: int, k: int, weights: str, batch: int, paired: bool, fused: bool, sms: int) -> Iterator[LinearPlan]:
    """Every way to cut a linear layer, whether it fits or not."""
    total = ceil_div(k * ELEMENT_BYTES[weights], KSTEP_BYTES)
    for warps in (1, 2, 4, 8, 16):
        for tiles in (1, 2, 4):
            for ksteps in (1, 2, 4, 8, 16) if fused else (2, 4, 8, 16):
                chunks = ceil_div(total, warps * ksteps)
                groups = ceil_div(outputs, tiles * TILE_ROWS // (2 if paired else 1))
                grid = min(sms, groups)
                for slots in _slots(chunks, ceil_div(groups, grid), ksteps * tiles * TILE_BYTES):
                    yield LinearPlan(outputs, k, weights, batch, paired, fused, warps, tiles, ksteps, chunks, slots,
                                     grid)


def _with_much(limits: Limits, name: str) -> Limits:
    changed: dict[str, Any] = {name: 1 << 40}
    return replace(limits, **changed)


def _short(shape: tuple[int, int, str, int, bool], limits: Limits) -> str:
    """Which numbers of an SM are too small: each one that alone keeps every cut from fitting, else all."""
    words = {
        "shared_bytes": f"{limits.shared_bytes} bytes of shared memory",
        "registers": f"{limits.registers} registers",
        "warps_per_sm": f"{limits.warps_per_sm} warps",
    }
    plans = list(_cuts(*shape, False, limits.sms))
    alone = [name for name in words if any(_fits(plan, _with_much(limits, name)) for plan in plans)]
    return f"{' and '.join(words[name] for name in alone or words)} an SM are too few"


def _fits(plan: LinearPlan, limits: Limits, room: Room | None = None) -> bool:
    vectors_max = room.vectors if room is not None else VECTORS_MAX
    fragments = 4 * min(plan.ksteps, FRAGMENT_KSTEPS) * plan.tiles + 4 * plan.blocks
    sources = TILE_ROWS // plan.copy_rows * plan.tiles
    vectors = ceil_div(plan.k_padded, 128 * plan.warps)
    registers = plan.accumulators + fragments + sources + 48
    return (
        plan.shared_bytes <= limits.shared_bytes
        and registers <= min(250, limits.registers // (32 * plan.warps))
        and plan.warps <= limits.warps_per_sm
        and plan.slots * plan.stage_bytes <= RING_BYTES_MAX
        and (not plan.fused or min(plan.slots, plan.chunks) * plan.chunk_step <= RING_BYTES_MAX)
        and (not plan.fused or (vectors <= vectors_max and plan.warps * 32 * (8 * vectors + 70) <= limits.registers))
    )
