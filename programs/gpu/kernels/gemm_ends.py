"""What stands around a lone matrix product: quantising x before it, adding the parts of a split k after it."""

from __future__ import annotations

from isa.builder import UZERO, ZERO, Kernel
from programs.gpu.gemm_plan import FORMS, GemmPlan
from programs.gpu.kernels.common import below, constant, max_lanes, thread, uniform_divide
from programs.gpu.plan import ceil_div, round_up

REDUCE_WARPS = 4
LARGEST = {"s8": 127.0, "e4m3": 448.0}  # of an 8-bit format
SMALLEST = 1e-12  # a scale is at least this
PIECE = 8  # 16-bit values a thread loads at a time
PIECES_MAX = 8  # of a thread, in flight together


def output_form(form: str) -> str:
    """16-bit type of y, and of x before it is quantised."""
    return "f16" if form in ("f16", "s8") else "bf16"


def scale_parameters(plan: GemmPlan) -> tuple[str, ...]:
    """Scales that the sums are multiplied by: of the rows of 8-bit weights, of the columns of an 8-bit x."""
    return (*(("row_scales",) if FORMS[plan.form] == 1 else ()), *(("x_scales",) if plan.quantised else ()))


def reduce_warps(plan: GemmPlan) -> int:
    """Warps of a CTA of the reduction, which share its splits."""
    return min(REDUCE_WARPS, plan.splits)


def reduce_shared_bytes(plan: GemmPlan) -> int:
    """A sum of four outputs a thread."""
    return reduce_warps(plan) * 32 * 16


def reduce_grid(plan: GemmPlan) -> int:
    """CTAs of the reduction, whole ones a column: a lane has four outputs."""
    return plan.m * ceil_div(plan.y_values, 4 * 32)


def reduce_kernel(name: str, plan: GemmPlan) -> Kernel:
    """y = sum over splits, scaled where the operands were 8-bit; a warp adds every so many-th split, then warp by warp.

    Parameters: parts [split][column][y_values] (fp32; s32 for s8), out, for 8-bit weights row_scales, and for an
    8-bit x x_scales.
    """
    scaled = FORMS[plan.form] == 1
    k = Kernel(name, ("parts", "out", *scale_parameters(plan)))
    t = thread(k)
    parts, out = k.parameter("parts"), k.parameter("out")
    warps, size = reduce_warps(plan), 4 * plan.m * plan.y_values
    typ = "s32" if plan.form == "s8" else "f32"
    k.comment("lane = four neighbouring outputs of a column; cta = column * CTAs of a column + part")
    number, at, offset = k.reg("number"), k.reg("at"), k.ureg("offset")
    column, block = k.ureg("column"), k.ureg("block")
    uniform_divide(k, column, block, t.cta, ceil_div(plan.y_values, 4 * 32), reduce_grid(plan))
    k.USHL(block, block, 5)
    k.MOV(number, block)
    k.ADD("s32", number, number, t.lane)
    guard = below(k, number, plan.y_values // 4)
    k.SHL(at, number, 4)
    k.UMULI(offset, t.warp, size)
    k.UADD(parts, parts, offset)
    k.UMULI(offset, column, 4 * plan.y_values)
    k.UADD(parts, parts, offset)
    k.UMULI(offset, column, 2 * plan.y_values)
    k.UADD(out, out, offset)
    values = [k.reg(f"part{s}", 4) for s in range(ceil_div(plan.splits, warps))]
    if plan.splits % warps:
        for i in range(4):
            k.MOV(values[-1][i], ZERO)
        limit = constant(k, "limit", plan.splits % warps)
        k.UBR("GE", t.warp, limit, "loaded_last")
        base = k.ureg("last")
        k.UADDI(base, parts, (len(values) - 1) * warps * size)
        k.LDG(128, values[-1], at, base, 0, guard=guard)
        k.label("loaded_last")
    for value in values[:plan.splits // warps]:
        k.LDG(128, value, at, parts, 0, guard=guard)
        k.UADDI(parts, parts, warps * size)
    if scaled:
        row_scale = k.reg("row_scale", 4)
        k.LDG(128, row_scale, at, k.parameter("row_scales"), 0, guard=guard)
    if plan.quantised:
        x_scale, column4 = k.reg("x_scale"), k.reg("column4")
        k.MOV(column4, column)
        k.SHL(column4, column4, 2)
        k.LDG(32, x_scale, column4, k.parameter("x_scales"), 0, guard=guard)
    first = values[0]
    for value in values[1:]:
        for i in range(4):
            k.ADD(typ, first[i], first[i], value[i], guard=guard)
    mine = k.reg("mine")
    k.SHL(mine, t.tid, 4)
    k.STS(128, mine, 0, first, guard=guard)
    k.BAR()
    k.UBR("GT", t.warp, UZERO, "leave")
    others = [k.reg(f"warp{w}", 4) for w in range(1, warps)]
    for w, value in enumerate(others, start=1):
        k.LDS(128, value, mine, 512 * w, guard=guard)
    for value in others:
        for i in range(4):
            k.ADD(typ, first[i], first[i], value[i], guard=guard)
    if scaled:
        for i in range(4):
            if plan.form == "s8":
                k.CVT("f32", "s32", first[i], first[i], guard=guard)
            k.MUL("f32", first[i], first[i], row_scale[i], guard=guard)
            if plan.quantised:
                k.MUL("f32", first[i], first[i], x_scale, guard=guard)
    for i in range(2):
        k.PACK(output_form(plan.form), first[i], first[2 * i], first[2 * i + 1], guard=guard)
    k.SHL(at, number, 3)
    k.STG(64, at, out, 0, first.part(0, 2), guard=guard)
    k.label("leave")
    k.EXIT()
    return k


def quantise_warps(plan: GemmPlan) -> int:
    """Warps of a CTA of the quantising kernel, which has one row of x: 8 values a thread, more for long rows."""
    wanted = ceil_div(source_values(plan), 32 * PIECE)
    return 1 << (max(1, min(32, max(ceil_div(wanted, 2), ceil_div(wanted, PIECES_MAX)))) - 1).bit_length()


def source_values(plan: GemmPlan) -> int:
    """Values of a row of the 16-bit x: whole stages of its 8-bit form, zeros past k."""
    return round_up(plan.x_pitch, PIECE)


def quantise_kernel(name: str, plan: GemmPlan) -> Kernel:
    """A CTA a row: scale = largest |x| / largest of the format, out = x / scale in 8 bits.

    Parameters: source (16-bit rows of source_values), out (rows of plan.x_pitch bytes), scales (fp32 a row).
    """
    k = Kernel(name, ("source", "out", "scales"))
    t = thread(k)
    warps, values, form = quantise_warps(plan), source_values(plan), output_form(plan.form)
    source, out, scales = (k.parameter(n) for n in k.parameters)
    row = k.ureg("row")
    k.UMULI(row, t.cta, 2 * values)
    k.UADD(source, source, row)
    k.UMULI(row, t.cta, plan.x_pitch)
    k.UADD(out, out, row)
    k.USHL(row, t.cta, 2)
    k.UADD(scales, scales, row)
    at = k.reg("at")
    k.SHL(at, t.tid, 4)
    rounds = ceil_div(values, 32 * warps * PIECE)
    raw = [k.reg(f"raw{r}", 4) for r in range(rounds)]
    guard = None
    for r, words in enumerate(raw):
        rest = values - r * 32 * warps * PIECE
        if rest < 32 * warps * PIECE:
            guard = below(k, t.tid, rest // PIECE)
            for i in range(4):
                k.MOV(words[i], ZERO)
        k.LDG(128, words, at, source, 0, guard=guard)
        k.UADDI(source, source, 32 * warps * 2 * PIECE)
    k.comment("largest magnitude: thread, warp, CTA")
    largest, other, value = k.reg("largest"), k.reg("other"), k.reg("value")
    k.MOVI("f32", largest, 0.0)
    for words in raw:
        for i in range(PIECE):
            k.UNPACK(form, value, words[i // 2], i % 2)
            k.MAX("f32", largest, largest, value)
            k.NEG("f32", value, value)
            k.MAX("f32", largest, largest, value)
    max_lanes(k, largest, other)
    if warps > 1:
        mine, first = k.reg("mine"), below(k, t.lane, 1)
        k.S2R(mine, "WARPID")
        k.SHL(mine, mine, 2)
        k.STS(32, mine, 0, largest, guard=first)
        k.BAR()
        k.ANDI("s32", mine, t.lane, warps - 1)
        k.SHL(mine, mine, 2)
        k.LDS(32, largest, mine, 0)
        max_lanes(k, largest, other)
        k.free(first)
    scale, inverse, only = k.reg("scale"), k.reg("inverse"), below(k, t.tid, 1)
    k.MULI("f32", scale, largest, 1.0 / LARGEST[plan.form])
    k.MAXI("f32", scale, scale, SMALLEST)
    k.RCP("f32", inverse, scale)
    zero = k.reg("zero")
    k.MOV(zero, ZERO)
    k.STG(32, zero, scales, 0, scale, guard=only)
    byte, two_bytes = constant(k, "byte", 1 << 8), constant(k, "two_bytes", 1 << 16)
    k.SHL(at, t.tid, 3)
    for r, words in enumerate(raw):
        with k.scratch():
            packed, part = k.reg("packed", 2), [k.reg(f"v{i}") for i in range(4)]
            for h in range(2):
                for i in range(4):
                    k.UNPACK(form, part[i], words[2 * h + i // 2], i % 2)
                    k.MUL("f32", part[i], part[i], inverse)
                    k.CVT(plan.form, "f32", part[i], part[i])
                k.FMA("s32", part[0], part[1], byte, part[0])
                k.FMA("s32", part[2], part[3], byte, part[2])
                k.FMA("s32", packed[h], part[2], two_bytes, part[0])
            k.STG(64, at, out, 0, packed, guard=guard if r + 1 == rounds else None)
            k.UADDI(out, out, 32 * warps * PIECE)
    k.EXIT()
    return k
