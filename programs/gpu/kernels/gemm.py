"""A matrix product by itself, as libraries write it: the warps of a CTA share stages of weights and x.

Weights and x lie row by row in memory; copies put their 16-byte units into shared memory crosswise
(unit u of row r at place u XOR r % 8), so that LDSM is free of bank conflicts. One barrier a stage: after
it the slots just multiplied are filled again, `burst` of them together, so that neighbouring bytes of a
row, which lie in one row of DRAM, are asked for together. Fragments of the next k-step are loaded while
the tensor cores work. Words of the plan are explained in programs/gpu/gemm_plan.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.gemm_plan import STAGE_BYTES, STAGE_KSTEPS, WINDOW, GemmPlan
from programs.gpu.kernels.common import below, constant, divide, reach, skip_idle_warps, thread, uniform_divide
from programs.gpu.kernels.gemm_ends import output_form, scale_parameters
from programs.gpu.plan import COLUMNS, TILE_BYTES, TILE_ROWS, ceil_div, round_up

COPY_ROWS = 4  # rows of a stage that one copy instruction takes
TURN_STEP = 5  # odd: neighbouring groups begin far from each other
COPY_WINDOW = 8  # copy instructions that one address register reaches
FAR = 1 << 30  # more bytes than any row has


def gemm_kernel(name: str, plan: GemmPlan) -> Kernel:
    """y[m, n] = x[m, k] W[n, k], or one split's part of it.

    Parameters: weights, x, out; without splits also row_scales (fp32 an output) of 8-bit weights and x_scales
    (fp32 a column) of an 8-bit x. out: 16-bit rows of plan.y_values, or with splits raw sums [split][column][y_values].
    """
    return _Gemm(name, plan).kernel


class _Gemm:
    def __init__(self, name: str, plan: GemmPlan) -> None:
        self.plan = plan
        scales = scale_parameters(plan) if plan.splits == 1 else ()
        self.scaled = bool(scales)
        self.kernel = k = Kernel(name, ("weights", "x", "out", *scales))
        self.t = thread(k)
        self._place()
        self._copies()
        k.comment(f"fill the pipeline: {plan.slots} stages of {plan.stage_bytes} bytes")
        for slot in range(0, plan.slots, plan.burst):
            self._fill(slot)
        self._fragments()
        self._loop()
        self._results()
        k.label("leave")
        k.EXIT()

    # -- set-up ------------------------------------------------------------------------------
    def _place(self) -> None:
        """Which rows, columns and stages this CTA has."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("cta = (split * groups + group) * column_blocks + column block")
        self.group, self.split, self.column = k.ureg("group"), k.ureg("split"), k.ureg("column")
        rest = k.ureg("rest")
        uniform_divide(k, rest, self.column, t.cta, plan.column_blocks, plan.grid + 1)
        uniform_divide(k, self.split, self.group, rest, plan.groups, plan.grid + 1)
        self.turn_group = k.ureg("turn_group")
        k.UADD(self.turn_group, self.group, UZERO)
        k.UMULI(self.group, self.group, plan.rows)  # first row
        k.UMULI(self.column, self.column, plan.columns)  # first column
        k.comment("bytes of k still to copy, stages still to multiply")
        self.left, self.todo = k.ureg("left"), k.ureg("todo")
        first = k.ureg("first")
        k.UMULI(first, self.split, plan.split_stages * STAGE_BYTES)
        k.UMOVI(self.left, plan.row_bytes)
        k.USUB(self.left, self.left, first)
        k.UMOVI(rest, plan.split_stages * STAGE_BYTES)
        k.UMIN(self.left, self.left, rest)
        k.UADDI(self.todo, self.left, STAGE_BYTES - 1)
        k.USHR(self.todo, self.todo, STAGE_BYTES.bit_length() - 1)
        self.weights, self.x = k.parameter("weights"), k.parameter("x")
        if plan.turns > 1:
            k.comment("each group of rows begins at another of the stages, and turns to the first after the last")
            self.turn = k.ureg("turn")  # bytes of k until then
            self.circle = k.ureg("circle")
            k.UADDI(self.circle, self.todo, 0)
            k.USHL(self.circle, self.circle, STAGE_BYTES.bit_length() - 1)
            k.UMULI(rest, self.turn_group, TURN_STEP)
            k.UANDI(rest, rest, plan.turns - 1)
            k.UMULI(rest, rest, plan.burst * STAGE_BYTES)
            k.UADD(first, first, rest)
            k.USUB(self.turn, self.circle, rest)
        k.UMULI(rest, self.group, plan.row_bytes)
        k.UADD(rest, rest, first)
        k.UADD(self.weights, self.weights, rest)
        k.UMULI(rest, self.column, plan.x_pitch)
        k.UADD(self.x, self.x, rest)
        for _ in range(plan.x_pieces):
            k.UADD(self.x, self.x, first)
        k.free(rest, first)

    def _copies(self) -> None:
        """Each lane's source offsets and targets: lane / 8 is the row of four, lane % 8 the place in its 128 bytes."""
        k, plan, t = self.kernel, self.plan, self.t
        self.weight_sources = self._sources(plan.tiles * TILE_ROWS, plan.row_bytes, plan.n, self.group)
        x_rows = round_up(ceil_div(plan.columns, plan.warps), COPY_ROWS)
        self.x_sources = self._sources(x_rows, plan.x_pitch, plan.m, self.column)
        k.comment("which bytes of a stage a lane's unit is, to tell what lies past k; columns past the last are far")
        self.guard = k.pred("copy")
        units = [k.reg(f"unit{parity}") for parity in range(2)]
        for parity, unit in enumerate(units):
            self._unit(unit, parity)
        self.weight_keys = units if plan.ragged else [ZERO, ZERO]
        self.x_keys: list[Reg] = []
        for i in range(x_rows // COPY_ROWS):
            whole = plan.warps * x_rows == plan.columns
            key = ZERO
            if not whole:
                key = k.reg(f"x_key{i}")
                row, there = k.reg("row"), k.pred("there")
                self._row(row, x_rows, i)
                limit = constant(k, "columns", plan.columns)
                k.SETP("GE", "s32", there, row, limit)
                k.MOV(key, ZERO)
                k.MOVI("s32", key, FAR, guard=there)
                k.free(row, there, limit)
            self.x_keys.append(key)
        if not plan.ragged:
            k.free(*units)
        lane16, warp = k.reg("lane16"), k.reg("warp_r")
        k.SHL(lane16, t.lane, 4)
        k.S2R(warp, "WARPID")
        self.weight_targets = self._targets(lane16, warp, len(self.weight_sources), plan.tiles * TILE_ROWS, 0)
        self.x_targets = [self._targets(lane16, warp, len(self.x_sources), x_rows, plan.weight_stage + p * plan.x_piece)
                          for p in range(plan.x_pieces)]
        k.free(lane16, warp)

    def _row(self, row: Reg, rows: int, i: int) -> None:
        """row = this lane's row of the CTA's in copy i of a warp that has `rows` of them."""
        k = self.kernel
        k.S2R(row, "WARPID")
        k.MULI("s32", row, row, rows)
        part = k.reg("part")
        k.SHR(part, self.t.lane, 3)
        k.ADD("s32", row, row, part)
        k.ADDI("s32", row, row, COPY_ROWS * i)
        k.free(part)

    def _unit(self, unit: Reg, parity: int) -> None:
        """unit = byte in the stage of what this lane copies: 16 * (lane % 8 XOR row % 8), rows from 4 * parity on."""
        k = self.kernel
        k.SHR(unit, self.t.lane, 3)
        k.ADDI("s32", unit, unit, COPY_ROWS * parity)
        k.XOR("s32", unit, unit, self.t.lane)
        k.ANDI("s32", unit, unit, 7)
        k.SHL(unit, unit, 4)

    def _sources(self, rows: int, pitch: int, there: int, first: UReg) -> list[Reg]:
        """Offset from the CTA's first row for every copy of a warp; rows past the last repeat it."""
        k = self.kernel
        found = []
        last = constant(k, "last", there - 1)
        k.USUB(last, last, first)
        k.comment("where a lane's copies come from")
        for i in range(rows // COPY_ROWS):
            at, unit = k.reg(f"source{i}"), k.reg("unit")
            self._row(at, rows, i)
            k.ANDI("s32", unit, at, 7)
            k.XOR("s32", unit, unit, self.t.lane)
            k.ANDI("s32", unit, unit, 7)
            k.SHL(unit, unit, 4)
            k.MIN("s32", at, at, last)
            k.MULI("s32", at, at, pitch)
            k.ADD("s32", at, at, unit)
            k.free(unit)
            found.append(at)
        k.free(last)
        return found

    def _targets(self, lane16: Reg, warp: Reg, copies: int, rows: int, start: int) -> list[Reg]:
        """Shared addresses of a warp's copies in slot 0, one for COPY_WINDOW of them; they move with the slots."""
        k = self.kernel
        found = []
        for window in range(ceil_div(copies, COPY_WINDOW)):
            at = k.reg(f"target{window}")
            k.MULI("s32", at, warp, rows * STAGE_BYTES)
            k.ADD("s32", at, at, lane16)
            k.ADDI("s32", at, at, start + (window * COPY_WINDOW + COPY_WINDOW // 2) * TILE_BYTES)
            found.append(at)
        return found

    def _fill(self, slot: int) -> None:
        """Start the copies of the next `burst` stages into slots from `slot` on, a group each, and step on."""
        k, plan = self.kernel, self.plan
        for at in range(slot, slot + plan.burst):
            self._copy_stage()
            k.CPCOMMIT()
            k.UADDI(self.left, self.left, -STAGE_BYTES)
            step = plan.stage_bytes if at + 1 < plan.slots else -(plan.slots - 1) * plan.stage_bytes
            for target in (*self.weight_targets, *chain.from_iterable(self.x_targets)):
                k.ADDI("s32", target, target, step)
            k.UADDI(self.weights, self.weights, STAGE_BYTES)
            k.UADDI(self.x, self.x, plan.x_pieces * STAGE_BYTES)
            if plan.turns > 1:
                on = k.fresh("on")
                k.UADDI(self.turn, self.turn, -STAGE_BYTES)
                k.UBR("GT", self.turn, UZERO, on)
                k.USUB(self.weights, self.weights, self.circle)
                for _ in range(plan.x_pieces):
                    k.USUB(self.x, self.x, self.circle)
                k.UADD(self.turn, self.turn, self.circle)
                k.label(on)

    def _copy_stage(self) -> None:
        """This warp's copies of one stage."""
        k = self.kernel
        keys: Reg | None = None

        def guarded(key: Reg) -> Pred:
            nonlocal keys
            if keys != key:
                k.SETP("LT", "s32", self.guard, key, self.left)
                keys = key
            return self.guard

        for parity in range(2):  # by the same guard together
            for i in range(parity, len(self.weight_sources), 2):
                offset = (i % COPY_WINDOW - COPY_WINDOW // 2) * TILE_BYTES
                k.LDGSTS(self.weight_targets[i // COPY_WINDOW], offset, self.weight_sources[i], self.weights, 0,
                         guard=guarded(self.weight_keys[parity]))
        for i, source in enumerate(self.x_sources):
            offset = (i % COPY_WINDOW - COPY_WINDOW // 2) * TILE_BYTES
            for p, targets in enumerate(self.x_targets):
                k.LDGSTS(targets[i // COPY_WINDOW], offset, source, self.x, p * STAGE_BYTES,
                         guard=guarded(self.x_keys[i]))

    def _fragments(self) -> None:
        """What LDSM reads, for every window of the ring: A by k-step, B by pair of k-steps."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("LDSM rows: weights row lane % 16, unit lane / 16; x column lane % 8, unit lane / 8")
        windows = ceil_div(plan.slots * plan.stage_bytes, WINDOW)
        a, b, low = k.reg("a_row"), k.reg("b_row"), k.reg("low")
        k.ANDI("s32", low, t.lane, 7)
        k.SHL(low, low, 4)
        k.SHR(a, t.lane, 4)
        k.SHL(a, a, 4)
        k.XOR("s32", a, a, low)
        row = k.reg("row")
        k.S2R(row, "WARPID")
        k.MULI("s32", row, row, plan.tiles * TILE_ROWS)
        k.ANDI("s32", b, t.lane, 15)
        k.ADD("s32", row, row, b)
        k.SHL(row, row, 7)
        k.ADD("s32", a, a, row)
        k.SHR(b, t.lane, 3)
        k.SHL(b, b, 4)
        k.XOR("s32", b, b, low)
        k.SHL(low, low, 3)
        k.ADD("s32", b, b, low)
        k.free(row, low)
        self.a_at: list[list[Reg]] = []
        self.b_at: list[list[Reg]] = []
        for window in range(windows):
            self.a_at.append([k.reg(f"a_at{window}_{s}") for s in range(STAGE_KSTEPS)])
            self.b_at.append([k.reg(f"b_at{window}_{s}") for s in range(STAGE_KSTEPS // 2)])
            for step, base, found in ((32, a, self.a_at[-1]), (64, b, self.b_at[-1])):
                for s, at in enumerate(found):
                    flip = constant(k, "flip", step * s)
                    k.XOR("s32", at, base, flip)
                    k.ADDI("s32", at, at, window * WINDOW + WINDOW // 2)
                    k.free(flip)
        k.free(a, b)
        self.accumulators = [[k.reg(f"acc{i}_{j}", 4) for j in range(plan.blocks)] for i in range(plan.tiles)]
        for row_of in self.accumulators:
            for acc in row_of:
                for e in range(4):
                    k.MOV(acc[e], ZERO)
        self.a = [[k.reg(f"a{s}_{i}", 4) for i in range(plan.tiles)] for s in range(2)]
        self.b = [[k.reg(f"b{s}_{j}", 4) for j in range(plan.blocks)] for s in range(2)]
        if plan.widened:
            self.wide = [k.reg(f"wide{h}", 4) for h in range(2)]
            self.bytes = [k.reg(f"byte{i}") for i in range(4)]
            self.two_bytes = constant(k, "two_bytes", 1 << 16)

    # -- the loop ----------------------------------------------------------------------------
    def _load_a(self, slot: int, step: int) -> None:
        plan = self.plan
        for i in range(plan.tiles):
            at = slot * plan.stage_bytes + i * TILE_ROWS * STAGE_BYTES
            self.kernel.LDSM(4, 0, self.a[step % 2][i], self.a_at[at // WINDOW][step], at % WINDOW - WINDOW // 2)

    def _load_b(self, slot: int, pair: int) -> None:
        plan = self.plan
        for j in range(plan.blocks):
            at = slot * plan.stage_bytes + plan.weight_stage + pair // 2 * plan.x_piece + j * COLUMNS * STAGE_BYTES
            self.kernel.LDSM(4, 0, self.b[pair % 2][j], self.b_at[at // WINDOW][pair % 2], at % WINDOW - WINDOW // 2)

    def _multiply(self, step: int) -> None:
        if self.plan.widened:
            self._multiply_widened(step)
            return
        for i, row in enumerate(self.accumulators):
            for j, acc in enumerate(row):
                b = self.b[step // 2][j].part(2 * (step % 2), 2)
                self.kernel.MMA(self.plan.form, acc, self.a[step % 2][i], b, acc)

    def _multiply_widened(self, step: int) -> None:
        """32 bytes of a row are two k-steps of the wider type: each half of the A fragment gives one."""
        k = self.kernel
        for i, row in enumerate(self.accumulators):
            for half, wide in enumerate(self.wide):
                for e in range(2):
                    self._widen(wide[e], wide[2 + e], self.a[step % 2][i][2 * half + e])
                for j, acc in enumerate(row):
                    k.MMA(self.plan.mma_form, acc, wide, self.b[step % 2][j].part(2 * half, 2), acc)

    def _widen(self, low: Reg, high: Reg, word: Reg) -> None:
        """Four signed bytes of a word become four bf16 values, exactly: bytes 0 and 1 in low, 2 and 3 in high."""
        k, v = self.kernel, self.bytes
        for i in range(4):
            if i:
                k.SHR(v[i], word, 8 * i)
            k.CVT(self.plan.mma_form, "s8", v[i], v[i] if i else word)
        k.FMA("s32", low, v[1], self.two_bytes, v[0])
        k.FMA("s32", high, v[3], self.two_bytes, v[2])

    def _loop(self) -> None:
        """Stages in order; the text has one copy of the loop a slot."""
        k, plan = self.kernel, self.plan
        k.comment("the first stage")
        k.CPWAIT(plan.slots - 1)
        k.BAR()
        self._load_a(0, 0)
        self._load_b(0, 0)
        k.label("stage")
        for slot in range(plan.slots):
            k.comment(f"slot {slot}: multiply, and load the next k-step meanwhile")
            self._load_a(slot, 1)
            self._load_b(slot, 1)
            self._multiply(0)
            self._load_a(slot, 2)
            if plan.widened:  # a k-step of weights takes a pair of k-steps of x
                self._load_b(slot, 2)
            self._multiply(1)
            self._load_a(slot, 3)
            if plan.widened:
                self._load_b(slot, 3)
            self._multiply(2)
            k.UADDI(self.todo, self.todo, -1)
            k.UBR("LE", self.todo, UZERO, f"last{slot}")
            k.comment("the next stage is there, this slot is free")
            k.CPWAIT(plan.slots - 2 - slot % plan.burst)
            k.BAR()
            following = (slot + 1) % plan.slots
            self._load_a(following, 0)
            self._load_b(following, 0)
            self._multiply(3)
            if (slot + 1) % plan.burst == 0:
                self._fill(slot + 1 - plan.burst)
        k.BRA("stage")
        for slot in range(plan.slots):
            k.label(f"last{slot}")
        self._multiply(3)

    # -- results -----------------------------------------------------------------------------
    def _results(self) -> None:
        """Sums through shared memory, so that threads store neighbouring outputs together."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("results to shared memory: column 2 (lane % 4), row lane / 4")
        k.BAR()
        at, row = k.reg("at"), k.reg("row")
        k.ANDI("s32", at, t.lane, 3)
        k.SHL(at, at, 1)
        guards: list[Pred | None] = [None, None]
        odd = plan.columns % COLUMNS
        if odd:
            guards = [below(k, at, odd), below(k, at, odd - 1)]
        k.MULI("s32", at, at, plan.result_pitch)
        k.SHR(row, t.lane, 2)
        k.SHL(row, row, 2)
        k.ADD("s32", at, at, row)
        k.S2R(row, "WARPID")
        k.MULI("s32", row, row, plan.tiles * TILE_ROWS * 4)
        k.ADD("s32", at, at, row)
        for i, accumulators in enumerate(self.accumulators):
            for j, acc in enumerate(accumulators):
                here = guards if odd and j == plan.blocks - 1 else [None, None]
                for half in range(2):
                    for e in range(2):
                        offset = (COLUMNS * j + e) * plan.result_pitch + (TILE_ROWS * i + 8 * half) * 4
                        with k.scratch():
                            target, rest = reach(k, at, offset)
                            k.STS(32, target, rest, acc[2 * half + e], guard=here[e])
        k.free(at, row)
        for accumulators in self.accumulators:
            k.free(*accumulators)
        k.BAR()
        out = k.parameter("out")
        if plan.splits > 1:
            self._store_parts(out)
        else:
            self._store(out)

    def _store_parts(self, out: UReg) -> None:
        """Raw sums, four a thread, to this split's part of the workspace."""
        k, plan = self.kernel, self.plan
        base = k.ureg("part")
        k.UMULI(base, self.split, plan.m)
        k.UADD(base, base, self.column)
        k.UMULI(base, base, plan.y_values)
        k.UADD(base, base, self.group)
        k.USHL(base, base, 2)
        k.UADD(base, base, out)
        for piece, at, guard in self._pieces(4, plan.y_values * 4):
            value = k.reg("value", 4)
            source, offset = reach(k, piece, 0)
            k.LDS(128, value, source, offset, guard=guard)
            k.STG(128, at, base, 0, value, guard=guard)

    def _store(self, out: UReg) -> None:
        """Eight outputs a thread, scaled where the operands were, in 16 bits."""
        k, plan = self.kernel, self.plan
        base = k.ureg("first_out")
        k.UMULI(base, self.column, plan.y_values)
        k.UADD(base, base, self.group)
        k.USHL(base, base, 1)
        k.UADD(base, base, out)
        form = output_form(plan.form)
        if self.scaled:
            row_scales, first = k.parameter("row_scales"), k.ureg("first")
            k.USHL(first, self.group, 2)
            k.UADD(row_scales, row_scales, first)
        if plan.quantised:
            x_scales = k.parameter("x_scales")
            k.USHL(first, self.column, 2)
            k.UADD(x_scales, x_scales, first)
        for source, at, guard in self._pieces(8, plan.y_values * 2):
            value = [k.reg("low", 4), k.reg("high", 4)]
            for h in range(2):
                k.LDS(128, value[h], source, 16 * h, guard=guard)
            if self.scaled:
                row_scale, x_scale = [k.reg("row_low", 4), k.reg("row_high", 4)], k.reg("x_scale")
                for h in range(2):
                    k.LDG(128, row_scale[h], self.row4, row_scales, 16 * h, guard=guard)
                if plan.quantised:
                    k.LDG(32, x_scale, self.column4, x_scales, 0, guard=guard)
                for h in range(2):
                    for i in range(4):
                        if plan.form == "s8":
                            k.CVT("f32", "s32", value[h][i], value[h][i], guard=guard)
                        k.MUL("f32", value[h][i], value[h][i], row_scale[h][i], guard=guard)
                        if plan.quantised:
                            k.MUL("f32", value[h][i], value[h][i], x_scale, guard=guard)
            words = k.reg("words", 4)
            for i in range(4):
                k.PACK(form, words[i], value[i // 2][2 * i % 4], value[i // 2][2 * i % 4 + 1], guard=guard)
            k.STG(128, at, base, 0, words, guard=guard)

    def _pieces(self, values: int, pitch: int) -> Iterator[tuple[Reg, Reg, Pred]]:
        """For every round of threads: shared address of a piece of results, offset of its outputs, guard.

        A piece is `values` neighbouring outputs of one column; pitch: bytes from column to column of the outputs.
        """
        k, plan, t = self.kernel, self.plan, self.t
        pieces, threads = plan.rows // values, 32 * plan.warps
        total = pieces * plan.columns
        rows_left, columns_left = k.ureg("rows_left"), k.ureg("columns_left")
        k.UMOVI(rows_left, plan.y_values)
        k.USUB(rows_left, rows_left, self.group)
        k.UMOVI(columns_left, min(plan.m, FAR))
        k.USUB(columns_left, columns_left, self.column)
        limit = constant(k, "columns", plan.columns)
        k.UMIN(columns_left, columns_left, limit)
        for r in range(ceil_div(total, threads)):
            if (r + 1) * threads > total:
                skip_idle_warps(k, t, total - r * threads, "leave")
            with k.scratch():
                number, column, piece = k.reg("number"), k.reg("column"), k.reg("piece")
                k.ADDI("s32", number, t.tid, r * threads)
                divide(k, column, piece, number, pieces, total + threads)
                k.MULI("s32", piece, piece, values)
                inside, guard = k.pred("inside"), k.pred("guard")
                k.comment("outputs past the last are left out: their column becomes one that is not there")
                k.SETP("GE", "s32", inside, piece, rows_left)
                test = k.reg("test")
                k.MOV(test, column)
                k.MOVI("s32", test, FAR, guard=inside)
                k.SETP("LT", "s32", guard, test, columns_left)
                source, at = k.reg("source"), k.reg("out_at")
                self.row4, self.column4 = k.reg("row4"), k.reg("column4")
                k.SHL(self.row4, piece, 2)
                k.SHL(self.column4, column, 2)
                k.MULI("s32", source, column, plan.result_pitch)
                k.ADD("s32", source, source, self.row4)
                k.MULI("s32", at, column, pitch)
                k.MULI("s32", piece, piece, pitch // plan.y_values)
                k.ADD("s32", at, at, piece)
                yield source, at, guard
