"""The linear layer: weights stream through shared memory to the tensor cores, k split over warps.

Weights lie row by row. Copies put the 16-byte units of a row's 128 bytes into shared memory crosswise
(programs/gpu/kernels/swizzle.py), so that LDSM is free of bank conflicts. A warp keeps `slots` copy
groups in flight and refills a slot as soon as it has multiplied it; nothing in the loop waits for
another warp. After the last chunk of a group the warps leave their partial results in shared memory and
the first threads add them in warp order and finish the layer: see programs/gpu/kernels/finish.py. Words
of the plan are explained in programs/gpu/plan.py.
"""

from __future__ import annotations

from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.kernels.common import (
    WINDOW,
    Maker,
    Thread,
    add_offset,
    below,
    constant,
    reach,
    skip_idle_warps,
    thread,
)
from programs.gpu.kernels.finish import Finish, Item
from programs.gpu.kernels.operand import FusedRows, Operand
from programs.gpu.kernels.swizzle import Swizzle
from programs.gpu.plan import (
    COLUMNS,
    FRAGMENT_KSTEPS,
    KSTEP_BYTES,
    SLOTS_MAX,
    STAGE_BYTES,
    TILE_BYTES,
    LinearPlan,
    ceil_div,
)


def linear_kernel(name: str, plan: LinearPlan, operand: Operand, finish: Finish) -> Kernel:
    """The kernel of one linear layer. Parameters: weights, then x's, then the finish's."""
    linear = Linear(name, plan, operand, finish)
    k, linear.t = linear.kernel, thread(linear.kernel)
    rows = linear.load_rows()
    linear.copies()
    linear.fill()
    linear.multiply(rows)
    k.EXIT()
    return k


class Linear:
    """A linear layer's code in pieces: `copies`, then `fill`, which depend on no other kernel, and the rest."""

    def __init__(self, name: str, plan: LinearPlan, operand: Operand, finish: Finish,
                 make: Maker = Kernel) -> None:
        self.plan, self.operand, self.finish = plan, operand, finish
        x_parameters = operand.parameters if plan.fused else ("x", "x_scales")
        self.kernel = make(name, ("weights", *x_parameters, *finish.parameters))
        self.t: Thread
        self.filled = 0  # slots whose first copies have been started

    def load_rows(self) -> FusedRows | None:
        """Start the loads of x, where this kernel makes its own operand."""
        plan = self.plan
        if not plan.fused:
            return None
        return FusedRows(self.kernel, self.operand, self.t, plan.warps, plan.batch, plan.k_padded)

    def multiply(self, rows: FusedRows | None) -> None:
        """Everything after the first copies."""
        k, plan, finish = self.kernel, self.plan, self.finish
        finish.begin(k, self.t, plan)
        self.early = ceil_div(plan.items * plan.batch, 32 * plan.warps) == 1  # the ends' loads run ahead
        if self.early:
            self._fetch_early()
        if rows is not None:
            k.comment("x: normalise, convert, keep in shared memory")
            rows.finish(plan.x_pitch, plan.scratch_at, plan.scratch_at + 4 * plan.batch * plan.warps)
            k.BAR()
        self._late_registers()
        self._passes()
        finish.end(k, self.t, plan)

    # -- set-up ------------------------------------------------------------------------------
    def copies(self) -> None:
        """What the copies need: pointers, shared addresses, how many passes this CTA has."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("this warp's chunks: every so many-th of the rows of group cta, cta + grid, ..")
        self.weights = k.parameter("weights")
        at = k.ureg("at")
        k.UMULI(at, t.cta, plan.rows * plan.k_bytes)
        k.UADD(self.weights, self.weights, at)
        k.UMULI(at, t.warp, plan.chunk_pitch)
        k.UADD(self.weights, self.weights, at)
        if not plan.fused:
            self.x_start, self.x_scales, self.x = k.parameter("x"), k.parameter("x_scales"), k.ureg("x_next")
            k.UMULI(at, t.warp, plan.x_chunk_bytes)
            k.UADD(self.x_start, self.x_start, at)
            k.UADD(self.x, self.x_start, UZERO)
        k.free(at)
        self.passes = self._pass_count()
        self.lane16 = k.reg("lane16")
        k.SHL(self.lane16, t.lane, 4)
        ring = k.reg("ring")  # this warp's slots, plus lane * 16
        warp = k.reg("warp_r")
        k.S2R(warp, "WARPID")
        k.MULI("s32", ring, warp, plan.ring_pitch)
        k.ADD("s32", ring, ring, self.lane16)
        k.ADDI("s32", ring, ring, plan.ring_at)
        k.free(warp)
        self.ring = ring
        self.swizzle = Swizzle(plan.stage_ksteps)
        self.sources = self.swizzle.sources(k, t.lane, plan.rows, plan.k_bytes)
        self.windows = []
        for i in range(ceil_div(plan.slots * plan.stage_bytes, WINDOW)):
            window = k.reg(f"window{i}")
            k.ADDI("s32", window, ring, i * WINDOW + WINDOW // 2)
            self.windows.append(window)

    def _pass_count(self) -> UReg:
        """groups // grid, and one more for the first groups % grid CTAs."""
        k, plan = self.kernel, self.plan
        passes = k.ureg("passes")
        full, more = divmod(plan.groups, plan.grid)
        k.UMOVI(passes, full)
        if more:
            extra, one = constant(k, "extra", more), constant(k, "one", 1)
            k.USUB(extra, extra, self.t.cta)
            k.UMIN(extra, extra, one)
            k.UMAX(extra, extra, UZERO)
            k.UADD(passes, passes, extra)
            k.free(extra, one)
        return passes

    @property
    def segment(self) -> int:
        """Chunks between two decisions whether to refill."""
        return min(self.plan.chunks, self.plan.slots)

    def _copy(self, slot: int, guard: Pred | None) -> None:
        """Start one chunk's copies into a slot, close the group, step on."""
        k, plan = self.kernel, self.plan
        stages = plan.ksteps // plan.stage_ksteps
        copies = [(source, stage) for source in range(len(self.sources)) for stage in range(stages)]
        for source, stage in copies:  # neighbouring bytes of a row together: they lie in one row of DRAM
            target, offset = self._window(slot, stage * len(self.sources) + source)
            k.LDGSTS(target, offset, self.sources[source], self.weights, stage * STAGE_BYTES, guard=guard)
        for i in range(plan.x_chunk_bytes // TILE_BYTES):
            target, offset = self._window(slot, len(copies) + i)
            k.LDGSTS(target, offset, self.lane16, self.x, i * TILE_BYTES, guard=guard)
        k.CPCOMMIT()
        k.UADDI(self.weights, self.weights, plan.chunk_step)
        if not plan.fused:
            k.UADDI(self.x, self.x, plan.warps * plan.x_chunk_bytes)

    def _window(self, slot: int, copy: int) -> tuple[Reg, int]:
        """Register and offset of what copy instruction `copy` of a slot writes."""
        at = slot * self.plan.stage_bytes + copy * TILE_BYTES
        return self.windows[at // WINDOW], at % WINDOW - WINDOW // 2

    def _next_group(self) -> None:
        """The copies' pointers from behind a group's last chunk to the first of the CTA's next group."""
        k, plan = self.kernel, self.plan
        if plan.passes > 1:
            add_offset(k, self.weights, self.weights, plan.grid * plan.rows * plan.k_bytes - plan.k_bytes)
        if not plan.fused:
            k.UADD(self.x, self.x_start, UZERO)

    def fill(self, slots: int = SLOTS_MAX) -> None:
        """Start the first copies of the next `slots` slots that have none yet."""
        k, plan = self.kernel, self.plan
        end = min(plan.slots, self.filled + slots)
        with k.scratch():
            guard, passes = None, None
            for slot in range(self.filled, end):
                k.comment(f"fill slot {slot} of {plan.slots}: a chunk of {plan.stage_bytes} bytes a warp")
                if slot % plan.chunks == 0 and slot:
                    self._next_group()
                if slot >= plan.chunks and (guard is None or slot % plan.chunks == 0):
                    if guard is None:
                        passes, guard = k.reg("passes_r"), k.pred("fill")
                        k.MOV(passes, self.passes)
                    need = constant(k, "need", slot // plan.chunks)
                    k.SETP("GT", "s32", guard, passes, need)
                    k.free(need)
                self._copy(slot, guard)
        self.filled = end

    def _late_registers(self) -> None:
        """What the multiplication and the sums need; taken after x's registers are free again."""
        k, plan, t = self.kernel, self.plan, self.t
        self.refill = k.pred("refill")
        self.left = k.ureg("left")  # segments still to do that have a refill
        segments = plan.chunks // self.segment
        k.UMULI(self.left, self.passes, segments)
        k.UADDI(self.left, self.left, -(plan.slots // self.segment))
        self.x_lanes: list[Reg] = []
        if plan.fused:
            k.comment("rows of x that this lane's LDSM addresses: sequence lane % 8, 16 bytes of k by lane / 8")
            piece, start = k.reg("piece"), k.reg("start")
            k.SHR(piece, t.lane, 3)
            k.SHL(piece, piece, 4)
            k.S2R(start, "WARPID")
            k.MULI("s32", start, start, plan.chunk_pitch)
            k.ADD("s32", piece, piece, start)
            for block in range(plan.blocks):
                row = k.reg(f"x_lane{block}")
                k.ANDI("s32", row, t.lane, COLUMNS - 1)
                k.ADDI("s32", row, row, COLUMNS * block)
                k.MINI("s32", row, row, plan.batch - 1)  # columns past the batch repeat the last: nobody reads them
                k.MULI("s32", row, row, plan.x_pitch)
                k.ADD("s32", row, row, piece)
                self.x_lanes.append(row)
            k.free(piece, start)
        k.comment("rows of the ring that this lane's LDSM addresses")
        self.fragments = self.swizzle.fragments(k, t.lane)
        ring = k.reg("ring_at")
        k.SUB("s32", ring, self.ring, self.lane16)
        for at in self.fragments:
            k.ADD("s32", at, at, ring)
        k.free(ring)
        self._partial_registers()
        self.accumulators = [[k.reg(f"acc{m}_{j}", 4) for j in range(plan.blocks)] for m in range(plan.tiles)]

    def _partial_registers(self) -> None:
        """Where a lane stores its accumulators: sequence 2 (lane % 4), row lane / 4, of its warp's area."""
        k, plan, t = self.kernel, self.plan, self.t
        self.partial = k.reg("partial")
        row = k.reg("row")
        k.ANDI("s32", self.partial, t.lane, 3)
        k.SHL(self.partial, self.partial, 1)
        self.column_guards: list[Pred | None] = [None, None]
        if plan.batch % COLUMNS:
            self.column_guards = [below(k, self.partial, plan.batch % COLUMNS),
                                  below(k, self.partial, plan.batch % COLUMNS - 1)]
        k.MULI("s32", self.partial, self.partial, plan.column_pitch)
        k.SHR(row, t.lane, 2)
        k.SHL(row, row, 2)
        k.ADD("s32", self.partial, self.partial, row)
        k.S2R(row, "WARPID")
        k.MULI("s32", row, row, plan.partial_bytes)
        k.ADD("s32", self.partial, self.partial, row)
        k.free(row)
        self.swap: UReg | None = None
        k.ADDI("s32", self.partial, self.partial, plan.partials_at)
        self.partials = k.reg("partials")  # 0 or the second copy's offset: passes alternate
        k.MOV(self.partials, ZERO)
        if plan.passes > 1:
            self.swap = constant(k, "swap", plan.warps * plan.partial_bytes)

    # -- the loop ----------------------------------------------------------------------------
    def _passes(self) -> None:
        k, plan = self.kernel, self.plan
        segments = plan.chunks // self.segment
        self.chunk = 0  # chunk of the pass at compile time; moves with x_lanes inside a segment loop
        begin, done = k.label("pass"), "done"
        copies = max(1, plan.slots // plan.chunks)  # groups in flight: as many copies of the loop's text
        for copy in range(copies):
            k.comment("a group: multiply its chunks, refill the slots")
            if segments == 1:
                self._segment(copy * plan.chunks, last=True)
            else:
                self._clear()
                count = constant(k, "segments", segments)
                loop = k.label(k.fresh("segment"))
                k.UADDI(count, count, -1)
                self._segment(0, last=None, count=count)
                for row in self.x_lanes:
                    k.ADDI("s32", row, row, self.segment * plan.chunk_step)
                k.UBR("GT", count, UZERO, loop)
                for row in self.x_lanes:
                    k.ADDI("s32", row, row, -plan.k_bytes)
                k.free(count)
            self._sum()
            if plan.passes > 1:
                k.UADDI(self.passes, self.passes, -1)
                if copy + 1 < copies:
                    k.UBR("LE", self.passes, UZERO, done)
                else:
                    k.UBR("GT", self.passes, UZERO, begin)
        k.label(done)

    def _clear(self) -> None:
        for row in self.accumulators:
            for acc in row:
                for i in range(4):
                    self.kernel.MOV(acc[i], ZERO)

    def _segment(self, slot: int, last: bool | None, count: UReg | None = None) -> None:
        """`segment` chunks from slot on. last: whether refills start the next group's x; None: ask count."""
        k, plan = self.kernel, self.plan
        if not plan.fused or plan.passes > 1:
            if last is None:
                assert count is not None
                keep = k.fresh("keep")
                k.UBR("GT", count, UZERO, keep)
                self._next_group()
                k.label(keep)
            else:
                self._next_group()
        k.SETP("LT", "s32", self.refill, ZERO, self.left)
        k.UADDI(self.left, self.left, -1)
        for i in range(self.segment):
            k.CPWAIT(plan.slots - 1)
            self._multiply(slot + i, i, fresh=last is True and i == 0)
            self._copy(slot + i, self.refill)

    def _multiply(self, slot: int, chunk: int, fresh: bool) -> None:
        """One chunk: fragments by LDSM, then the products, k-step by k-step. fresh: sums start from zero."""
        for first in range(0, self.plan.ksteps, FRAGMENT_KSTEPS):
            self._multiply_steps(slot, chunk, range(first, min(first + FRAGMENT_KSTEPS, self.plan.ksteps)), fresh)

    def _multiply_steps(self, slot: int, chunk: int, steps: range, fresh: bool) -> None:
        k, plan = self.kernel, self.plan
        start = slot * plan.stage_bytes
        with k.scratch():
            a = [[k.reg(f"a{s}_{m}", 4) for m in range(plan.tiles)] for s in steps]
            b: list[list[Reg]] = []  # [k-step][block] two registers
            for s in steps[::2]:
                pair = min(2, steps.stop - s)
                both = [k.reg(f"b{s}_{j}", 4) for j in range(plan.blocks)]
                for j in range(plan.blocks):
                    if plan.fused:
                        k.LDSM(2 * pair, 0, both[j], self.x_lanes[j], chunk * plan.chunk_step + s * KSTEP_BYTES)
                    else:
                        k.LDSM(4, 0, both[j], self.ring, start + plan.chunk_bytes + (s // 2 * plan.blocks + j) * 512)
                for step in range(s, s + pair):
                    b.append([both[j].part(2 * (step - s), 2) for j in range(plan.blocks)])
                    stage, place = divmod(step, plan.stage_ksteps)
                    at = start + stage * plan.rows * STAGE_BYTES
                    for m in range(plan.tiles):
                        k.LDSM(4, 0, a[step - steps.start][m], self.fragments[place],
                               at + m * plan.stage_ksteps * TILE_BYTES)
            for s in steps:
                for m in range(plan.tiles):
                    for j in range(plan.blocks):
                        acc = self.accumulators[m][j]
                        k.MMA(plan.weights, acc, a[s - steps.start][m], b[s - steps.start][j],
                              ZERO if fresh and s == 0 else acc)

    # -- the end of a group ------------------------------------------------------------------
    def _sum(self) -> None:
        """Partial results to shared memory; the first threads add them and finish."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("partial results of this warp")
        at = k.reg("at")
        k.ADD("s32", at, self.partial, self.partials)
        for j in range(plan.blocks):
            here = min(COLUMNS, plan.batch - COLUMNS * j)  # sequences of this block
            guards = self.column_guards if here < COLUMNS else [None, None]
            for m in range(plan.tiles):
                for half in range(2):
                    for e in range(min(2, here)):
                        offset = (COLUMNS * j + e) * plan.column_pitch + (16 * m + 8 * half) * 4
                        k.STS(32, at, offset, self.accumulators[m][j][2 * half + e],
                              guard=guards[e])
        k.free(at)
        k.BAR()
        k.comment("add them in warp order and finish")
        total, threads = plan.items * plan.batch, 32 * plan.warps
        after = k.fresh("after")
        if self.early:
            if total < threads:  # warps that have nothing to add
                skip_idle_warps(k, t, total, after)
            with k.scratch():
                self._finish(self.item)
            if plan.passes > 1:
                self.finish.next_pass(k, plan)
                self.finish.fetch(k, plan, self.item)
        else:
            for j in range(ceil_div(total, threads)):
                if (j + 1) * threads > total:
                    skip_idle_warps(k, t, total - j * threads, after)
                with k.scratch():
                    item = self._item(j)
                    self.finish.fetch(k, plan, item)
                    self._finish(item)
        k.label(after)
        if plan.passes > 1 and not self.early:
            self.finish.next_pass(k, plan)
        if self.swap is not None:
            k.XOR("s32", self.partials, self.partials, self.swap)

    def _item(self, j: int) -> Item:
        """Registers of result tid + j * threads of a group."""
        k, plan = self.kernel, self.plan
        total, threads = plan.items * plan.batch, 32 * plan.warps
        number, sequence, row = k.reg("number"), k.reg("sequence"), k.reg("row")
        k.ADDI("s32", number, self.t.tid, j * threads)
        k.ANDI("s32", row, number, plan.items - 1)
        k.SHR(sequence, number, plan.items.bit_length() - 1)
        valid = None
        if total % 32 and (j + 1) * threads > total:
            valid = below(k, number, total)
        k.free(number)
        return Item(j, sequence, row, valid)

    def _fetch_early(self) -> None:
        """What the end of the first pass needs: scales, positions, old values. Later passes' loads run ahead too."""
        k, plan = self.kernel, self.plan
        k.comment("loads for the end of the first group")
        skip = k.fresh("fetched")
        if plan.items * plan.batch < 32 * plan.warps:
            skip_idle_warps(k, self.t, plan.items * plan.batch, skip)
        self.item = self._item(0)
        self.finish.fetch(k, plan, self.item)
        k.label(skip)

    def _finish(self, item: Item) -> None:
        """Sum over warps, hand to the finish."""
        k, plan = self.kernel, self.plan
        at, row = k.reg("at"), k.reg("row_at")
        k.MULI("s32", at, item.sequence, plan.column_pitch)
        k.SHL(row, item.row, 2)
        k.ADD("s32", at, at, row)
        k.ADD("s32", at, at, self.partials)
        sums = []
        typ = "s32" if plan.weights == "s8" else "f32"
        for part in range(2 if plan.paired else 1):
            values = [k.reg(f"v{w}") for w in range(plan.warps)]
            for w, value in enumerate(values):
                offset = plan.partials_at + w * plan.partial_bytes + part * plan.items * 4
                source, offset = reach(k, at, offset)
                k.LDS(32, value, source, offset, guard=item.valid)
            for value in values[1:]:
                k.ADD(typ, values[0], values[0], value)
            if typ == "s32":
                k.CVT("f32", "s32", values[0], values[0])
            sums.append(values[0])
            k.free(*values[1:])
        if plan.weights in ("s8", "e4m3"):
            self._dequantise(item, sums)
        self.finish.store(k, plan, item, sums)

    def _dequantise(self, item: Item, sums: list[Reg]) -> None:
        """Sums times the vector's factor; rows' own scales belong to the finish."""
        k, plan = self.kernel, self.plan
        if self.operand.constant_scale:
            for value in sums:
                k.MULI("f32", value, value, self.operand.constant_scale)
            return
        scale, at = k.reg("x_scale"), k.reg("x_scale_at")
        k.SHL(at, item.sequence, 2)
        if plan.fused:
            source, offset = reach(k, at, plan.scratch_at + 4 * plan.batch * plan.warps)
            k.LDS(32, scale, source, offset, guard=item.valid)
        else:
            k.LDG(32, scale, at, self.x_scales, 0, guard=item.valid)
        for value in sums:
            k.MUL("f32", value, value, scale)
