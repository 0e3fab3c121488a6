"""How a lone matrix product is cut into CTAs, and which cuts are worth trying.

The cut is the one of the libraries whose kernels have been measured: a CTA owns `rows` outputs of
all columns and walks over k in stages of 128 bytes that its warps share; where that leaves SMs
without work, k is split over CTAs and a second kernel adds the parts (8-bit operands: WHOLE_COLUMNS).

    weights [n, k] and x [m, k] lie row by row, as the layer before and the checkpoint leave them
    stage   128 bytes of k: of `rows` weight rows and of all columns of x; `slots` stages are in flight
    split   a contiguous range of stages; CTA = (split * groups + group) * column_blocks + column block
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from programs.gpu.plan import (
    COLUMNS,
    HALF_RATE_BYTES,
    KSTEP_BYTES,
    PORT_BYTES_PER_CYCLE,
    TILE_ROWS,
    Limits,
    PlanError,
    ceil_div,
    round_up,
)

STAGE_BYTES = 128  # of k
STAGE_KSTEPS = STAGE_BYTES // KSTEP_BYTES
CTA_COLUMNS = 64  # columns of x that a CTA takes
SLOTS_MAX = 8  # a warp may have 16 copy groups open
SPLITS_MAX = 32  # parts that a thread of the reduction has in flight
SPLIT_STAGES_MIN = 16  # of a part: libraries cut k into parts of about a thousand values at least
# Up to so many columns products of 8-bit operands do not split k: the libraries' (CUTLASS, scaled) never do, and
# measured times grow with k as one chain of stages does. With more columns they use WGMMA, which this machine has
# not: there a split makes up for the longer chain.
WHOLE_COLUMNS = 16
WINDOW = 65536  # bytes that the signed 16-bit offset of LDSM reaches
RING_MAX = 2 * WINDOW
CANDIDATES = 4
# (warps, tiles of 16 rows a warp) of a CTA. From Hopper on WGMMA lets libraries choose nearly any number of rows: x is
# the operand of 64, the weights are the one of 8 to 256. Before, tiles of cuBLAS and CUTLASS are powers of two, and
# the smallest have 64 x 32 results.
SHAPES = (*((warps, 1) for warps in range(1, 9)), (4, 2), (5, 2), (6, 2), (8, 2))
SHAPES_BEFORE_HOPPER = ((2, 1), (4, 1), (8, 1), (4, 2), (8, 2))
TILE_RESULTS_MIN, TILE_COLUMNS_MIN = 64 * 32, 32
# Bytes of a weight. s8_bf16: 8-bit weights that become bf16 in registers, and a bf16 x; the others are both operands'.
FORMS = {"bf16": 2, "f16": 2, "s8": 1, "e4m3": 1, "s8_bf16": 1}

STAGE_CYCLES = 150  # estimate: four dependent MMAs, a barrier
START_CYCLES = 1400  # estimate: first loads, last stores
END_CYCLES = 8  # estimate: of 16 x 8 results on their way out
REDUCE_CYCLES = 1000  # estimate: the reduction's loads, which wait for each other
LATENCY_CYCLES = 1700  # estimate: from a copy's start to its data, under load
IDLE_LATENCY_CYCLES = 800  # estimate: the same without load
QUARTER = 0.25  # estimate: the bytes in flight that a stream needs are counted in LATENCY_CYCLES already
STREAM_SHARE = {1: 0.80, 2: 0.88, 4: 0.90}  # estimate: of peak DRAM bandwidth, by the stages asked for together
OVERLAP = 0.1  # estimate: of the shorter of memory time and chain that is not hidden


@dataclass(frozen=True)
class GemmPlan:
    """One matrix product y[m, n] = x[m, k] W[n, k]. form: number type of the operands, of FORMS."""

    m: int
    n: int
    k: int
    form: str
    warps: int
    tiles: int  # of 16 weight rows, a warp
    slots: int
    splits: int
    burst: int = 1  # stages whose copies start together; divides slots

    @property
    def widened(self) -> bool:
        """Whether weights are made as wide as x in registers."""
        return self.form == "s8_bf16"

    @property
    def quantised(self) -> bool:
        """Whether x is 16-bit and becomes 8-bit in a kernel before."""
        return self.form in ("s8", "e4m3")

    @property
    def mma_form(self) -> str:
        """Number type that the tensor cores take."""
        return "bf16" if self.widened else self.form

    @property
    def x_pieces(self) -> int:
        """Pieces of 128 bytes of a column of x that belong to a stage."""
        return 2 if self.widened else 1

    @property
    def row_bytes(self) -> int:
        """Bytes from row to row of weights: whole 16-byte copies."""
        return round_up(self.k * FORMS[self.form], 16)

    @property
    def x_pitch(self) -> int:
        """Bytes from row to row of x: whole stages, zeros past k."""
        return round_up(self.k * FORMS[self.form], STAGE_BYTES) * self.x_pieces

    @property
    def stages(self) -> int:
        """Stages of k, all splits together."""
        return ceil_div(self.row_bytes, STAGE_BYTES)

    @property
    def split_stages(self) -> int:
        """Stages of a split; the last split may have fewer."""
        return ceil_div(self.stages, self.splits)

    @property
    def ragged(self) -> bool:
        """Whether the last stage has fewer than 128 bytes of weights."""
        return self.row_bytes % STAGE_BYTES != 0

    @property
    def turns(self) -> int:
        """Runs of `burst` stages, a power of two, at which groups of rows begin their walk around a split's stages.

        Groups that walk in step would all want the same lines of x at a time, from few slices of L2.
        """
        last = self.stages - (self.splits - 1) * self.split_stages
        return 1 if self.ragged else 1 << max(1, last // self.burst).bit_length() - 1

    @property
    def rows(self) -> int:
        """Weight rows of a CTA."""
        return self.warps * self.tiles * TILE_ROWS

    @property
    def groups(self) -> int:
        return ceil_div(self.n, self.rows)

    @property
    def column_blocks(self) -> int:
        """CTAs that share a group of weight rows, each with its columns."""
        return ceil_div(self.m, CTA_COLUMNS)

    @property
    def columns(self) -> int:
        """Columns of a CTA."""
        return ceil_div(self.m, self.column_blocks)

    @property
    def blocks(self) -> int:
        """Column blocks of eight of a CTA."""
        return ceil_div(self.columns, COLUMNS)

    @property
    def grid(self) -> int:
        return self.groups * self.splits * self.column_blocks

    @property
    def y_values(self) -> int:
        """Values of a row of y, padded to whole 16-byte stores."""
        return round_up(self.n, 8)

    # Shared memory: stages of weights and x; later the results.
    @property
    def weight_stage(self) -> int:
        return self.rows * STAGE_BYTES

    @property
    def x_piece(self) -> int:
        """Bytes in shared memory of a stage's piece of x, all columns."""
        return self.blocks * COLUMNS * STAGE_BYTES

    @property
    def stage_bytes(self) -> int:
        return self.weight_stage + self.x_pieces * self.x_piece

    @property
    def result_pitch(self) -> int:
        """Bytes from column to column of the results; 4 rows more, so that a fragment's stores hit 32 banks."""
        return (self.rows + 4) * 4

    @property
    def shared_bytes(self) -> int:
        return max(self.slots * self.stage_bytes, self.columns * self.result_pitch)

    @property
    def registers(self) -> int:
        """Estimate of the registers of a lane."""
        fragments = 8 * self.tiles + 8 * self.blocks
        return 4 * self.tiles * self.blocks + fragments + 5 * self.tiles + 48 + 14 * self.widened

    def ctas_per_sm(self, limits: Limits) -> int:
        """CTAs that fit an SM together."""
        return min(limits.sm_shared_bytes // (round_up(self.shared_bytes, 128) + limits.shared_reserved),
                   limits.registers // (32 * self.warps * round_up(self.registers, 8)),
                   limits.warps_per_sm // self.warps)

    def fits(self, limits: Limits) -> bool:
        return (self.shared_bytes <= limits.shared_bytes and self.registers <= 250
                and self.slots * self.stage_bytes <= RING_MAX and self.ctas_per_sm(limits) >= 1)

    def cycles(self, limits: Limits) -> float:
        """Estimate: CTAs dealt out over the SMs in turn, each by its stream of bytes, or by its chain of stages.

        While all SMs work each has its share of DRAM; a rest of CTAs shares what its SMs' ports take. An SM
        takes what it has in flight once a latency.
        """
        resident = min(self.ctas_per_sm(limits), ceil_div(self.grid, limits.sms))
        slots = min(self.slots, self.split_stages)
        size = self.split_stages * self.stage_bytes
        dram = limits.stream_bytes_per_cycle * limits.sms * STREAM_SHARE[self.burst]
        dram *= self.stage_bytes / self.weight_stage  # x comes from L2

        def port(ctas: int) -> float:
            in_flight = min(ctas * (slots - (self.burst - 1) / 2) * self.stage_bytes, limits.in_flight_bytes / 2)
            return min(PORT_BYTES_PER_CYCLE, in_flight / LATENCY_CYCLES)

        rounds, rest = divmod(self.grid, limits.sms)
        stream = rounds * size / min(port(resident), dram / limits.sms)
        if rest:
            stream += size / min(port(1), dram / rest)
        stream *= 1 + QUARTER * HALF_RATE_BYTES / min(resident * slots * self.stage_bytes, limits.in_flight_bytes / 2)
        waves = ceil_div(self.grid, limits.sms * resident)
        stream += (ceil_div(self.grid, limits.sms) - 1) * START_CYCLES / resident**2  # of CTAs that start alone
        mmas = STAGE_KSTEPS * self.x_pieces * self.tiles * self.blocks * resident * ceil_div(self.warps, 4)
        loads = 4 * self.warps * (STAGE_KSTEPS * self.tiles + 2 * self.x_pieces * self.blocks)  # LDSM: 4 cycles each
        shared = resident * (loads + self.stage_bytes // STAGE_BYTES)  # and a cycle for each copied 128 bytes
        stage = max(STAGE_CYCLES, mmas * limits.mma_interval, shared)
        # A slot is filled again when its burst is multiplied, and waits for the data.
        chain = waves * self.split_stages * max(stage, (IDLE_LATENCY_CYCLES + self.burst * stage) / slots)
        ends = START_CYCLES + END_CYCLES * self.tiles * self.warps * self.blocks * resident
        total = max(chain, stream) + OVERLAP * min(chain, stream) + ends
        if self.splits > 1:
            parts = 4 * self.splits * self.m * self.y_values / (PORT_BYTES_PER_CYCLE * limits.sms)
            total += limits.launch_gap + REDUCE_CYCLES + parts
        return total


def candidates(m: int, n: int, k: int, form: str, limits: Limits, count: int = CANDIDATES) -> list[GemmPlan]:
    """The cuts that may be fastest, by estimate: at most `count`, of different rows or splits. Raises PlanError."""
    found = [plan for plan in _cuts(m, n, k, form, limits) if plan.fits(limits)]
    if not found:
        raise PlanError(f"no plan for a product of {m} x {n} x {k}: {limits.shared_bytes} bytes of shared memory or "
                        f"{limits.registers} registers an SM are too few")
    found.sort(key=lambda plan: plan.cycles(limits))
    best: dict[tuple[int, int], GemmPlan] = {}
    for plan in found:
        best.setdefault((plan.rows, plan.splits), plan)
    return list(best.values())[:count]


def _cuts(m: int, n: int, k: int, form: str, limits: Limits) -> Iterator[GemmPlan]:
    whole = form in ("s8", "e4m3") and m <= WHOLE_COLUMNS
    for warps, tiles in SHAPES if limits.bulk_copies else SHAPES_BEFORE_HOPPER:
        for slots in (2, 3, 4, 6, 8):
            for splits in (1,) if whole else (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
                plan = GemmPlan(m, n, k, form, warps, tiles, slots, splits,
                                {8: 4, 6: 2, 4: 2}.get(slots, 1))
                if not limits.bulk_copies and plan.rows * max(plan.columns, TILE_COLUMNS_MIN) < TILE_RESULTS_MIN:
                    continue
                if splits > 1:
                    if plan.split_stages < SPLIT_STAGES_MIN or plan.split_stages * (splits - 1) >= plan.stages:
                        continue
                yield plan
