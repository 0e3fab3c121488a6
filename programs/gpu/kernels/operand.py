"""The input of a linear layer: an fp32 vector, normalised and converted to the tensor cores' format.

Either every CTA of a linear kernel does it for itself (fused, few sequences), or a kernel of its
own does it once and writes the B operand in fragment order (many sequences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.kernels.common import OFFSET_REACH, Thread, below, constant, reach, sum_lanes, thread
from programs.gpu.plan import COLUMNS, VECTORS_MAX, ceil_div

FACTOR = {"s8": 127.0 / 8.0, "e4m3": 16.0}  # 8-bit activations are x * FACTOR / rms(x)
RMS_FLOOR = 1e-12  # added to the mean square where the rms is a scale, not a norm


@dataclass(frozen=True)
class Operand:
    """How x becomes an operand.

    source "norm": RMSNorm with eps, times a weight vector if `weighted`; "rms": 8-bit formats scale
    by the vector's own rms; "cast": only the format changes.
    """

    source: str
    format: str
    k: int  # values of x
    x_pitch: int  # bytes from one sequence's x to the next
    eps: float = 0.0
    weighted: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("x", "norm_weight") if self.weighted else ("x",)

    @property
    def constant_scale(self) -> float:
        """What a product is multiplied by when that is the same for every vector, else 0."""
        return 0.0 if self.source == "rms" else 1.0 / FACTOR.get(self.format, 1.0)


@dataclass
class Row:
    """A thread's share of one vector on its way: pieces of four values, and the norm's weights for them.

    Piece j has values 4 v .. 4 v + 3 of v = tid + 32 * warps * j. `tail` says whether the last piece
    exists in this thread (None: in all); where it does not, the registers hold zeros.
    """

    values: list[Reg]
    weights: list[Reg]
    tail: Pred | None

    def guard(self, j: int) -> Pred | None:
        return self.tail if j == len(self.values) - 1 else None


def load_row(k: Kernel, t: Thread, warps: int, k_padded: int, x: UReg, norm_weight: UReg | None) -> Row:
    """Start the loads of one vector. The registers stay taken."""
    threads = 32 * warps
    vectors = ceil_div(k_padded, 4 * threads)
    rest = k_padded - (vectors - 1) * 4 * threads
    row = Row([k.reg(f"x{j}", 4) for j in range(vectors)],
              [k.reg(f"weight{j}", 4) for j in range(vectors)] if norm_weight is not None else [],
              below(k, t.tid, rest // 4) if rest < 4 * threads else None)
    address = k.reg("address")
    k.comment("load x")
    k.SHL(address, t.tid, 4)
    for values, base in ((row.values, x), (row.weights, norm_weight)):
        for j, value in enumerate(values):
            assert base is not None
            guard = row.guard(j)
            if guard is not None:
                for i in range(4):
                    k.MOV(value[i], ZERO)
            _load(k, value, address, base, j, threads, guard)
    k.free(address)
    return row


def convert_row(k: Kernel, operand: Operand, t: Thread, warps: int, row: Row,
                sums: Callable[[int], tuple[Reg, int]], scale: Callable[[Reg, Pred], None],
                store: Callable[[int, Reg, int, Pred | None], None]) -> None:
    """Normalise and convert one vector, by all warps of the CTA.

    sums(i): register and offset of the shared word i where warps leave their sums of squares.
    scale(register, first_thread): keep the factor that products of this vector need (source "rms").
    store(j, words, count, guard): keep `count` 32-bit words, piece j converted.
    """
    with k.scratch():
        factor = k.reg("factor")
        if operand.source in ("norm", "rms"):
            _factor(k, operand, t, warps, row.values, factor, sums, scale)
        if operand.source == "norm" and operand.format in FACTOR:
            k.MULI("f32", factor, factor, FACTOR[operand.format])
        words = k.reg("words", 4)
        bytes_up: tuple[UReg, ...] = ()
        if operand.format in FACTOR:
            bytes_up = (constant(k, "byte", 1 << 8), constant(k, "two_bytes", 1 << 16))
        k.comment("scale and convert")
        for j, value in enumerate(row.values):
            if operand.source in ("norm", "rms"):
                for i in range(4):
                    k.MUL("f32", value[i], value[i], factor)
            if row.weights:
                for i in range(4):
                    k.MUL("f32", value[i], value[i], row.weights[j][i])
            store(j, words, _convert(k, operand.format, words, value, bytes_up), row.guard(j))


def _load(k: Kernel, value: Reg, address: Reg, base: UReg, j: int, threads: int, guard: Pred | None) -> None:
    """Sixteen bytes a thread; far pieces need another base than the 16-bit offset gives."""
    offset = j * threads * 16
    if offset < OFFSET_REACH:
        k.LDG(128, value, address, base, offset, guard=guard)
        return
    far = k.ureg("far")
    k.UADDI(far, base, offset)
    k.LDG(128, value, address, far, 0, guard=guard)
    k.free(far)


def _factor(k: Kernel, operand: Operand, t: Thread, warps: int, values: list[Reg], factor: Reg,
            sums: Callable[[int], tuple[Reg, int]], scale: Callable[[Reg, Pred], None]) -> None:
    """factor = 1 / rms(x) (times the 8-bit factor for source "rms")."""
    k.comment("sum of squares: thread, warp, CTA, in this order")
    part, total, other = k.reg("part", 4), k.reg("total"), k.reg("other")
    for i in range(4):
        k.MUL("f32", part[i], values[0][i], values[0][i])
    for value in values[1:]:
        for i in range(4):
            k.FMA("f32", part[i], value[i], value[i], part[i])
    k.ADD("f32", part[0], part[0], part[1])
    k.ADD("f32", part[2], part[2], part[3])
    k.ADD("f32", total, part[0], part[2])
    sum_lanes(k, total, other)
    if warps > 1:
        first_lane = below(k, t.lane, 1)
        mine = k.reg("mine")
        k.S2R(mine, "WARPID")
        k.SHL(mine, mine, 2)
        register, offset = sums(0)
        k.ADD("s32", mine, mine, register)
        k.STS(32, mine, offset, total, guard=first_lane)
        k.BAR()
        k.LDS(32, total, register, offset)
        rest = [k.reg(f"sum{w}") for w in range(1, warps)]
        for w, r in enumerate(rest, start=1):
            register, offset = sums(w)
            k.LDS(32, r, register, offset)
        for r in rest:
            k.ADD("f32", total, total, r)
        k.free(first_lane)
    k.MULI("f32", total, total, 1.0 / operand.k)
    k.ADDI("f32", total, total, operand.eps if operand.source == "norm" else RMS_FLOOR)
    k.RSQRT("f32", factor, total)
    if operand.source == "rms":
        k.MUL("f32", total, total, factor)  # rms = mean square / rms
        k.MULI("f32", total, total, 1.0 / FACTOR[operand.format])
        scale(total, below(k, t.tid, 1))
        k.MULI("f32", factor, factor, FACTOR[operand.format])


def _convert(k: Kernel, form: str, words: Reg, value: Reg, bytes_up: tuple[UReg, ...]) -> int:
    """Four fp32 values to packed words; the number of words."""
    if form in ("f16", "bf16"):
        k.PACK(form, words[0], value[0], value[1])
        k.PACK(form, words[1], value[2], value[3])
        return 2
    for i in range(4):
        k.CVT(form, "f32", words[i], value[i])
    k.FMA("s32", words[0], words[1], bytes_up[0], words[0])  # a shift and an OR in one
    k.FMA("s32", words[2], words[3], bytes_up[0], words[2])
    k.FMA("s32", words[0], words[2], bytes_up[1], words[0])
    return 1


def activation_kernel(name: str, operand: Operand, k_padded: int, blocks: int) -> Kernel:
    """One CTA a sequence: x -> its column of the B operand, and the factor of its products.

    Parameters: x [norm_weight], out, scales. out: for every 64 bytes of k and every block of eight
    sequences 512 bytes in LDSM order: 16-byte piece of k, sequence, 16 bytes. scales: fp32 a sequence.
    """
    warps = activation_warps(k_padded)
    if warps > 32:
        raise ValueError(f"{name}: vectors of {k_padded} values are longer than {32 * 128 * VECTORS_MAX}")
    k = Kernel(name, (*operand.parameters, "out", "scales"))
    t = thread(k)
    x = k.parameter("x")
    norm_weight = k.parameter("norm_weight") if operand.weighted else None
    out, scales = k.parameter("out"), k.parameter("scales")
    pitch = k.ureg("pitch")
    k.UMULI(pitch, t.cta, operand.x_pitch)
    k.UADD(x, x, pitch)
    k.comment("column of this sequence: block of eight, place in the block")
    column, offset = k.ureg("column"), k.ureg("offset")
    k.USHR(column, t.cta, 3)
    k.UMULI(offset, column, 512)
    k.UADD(out, out, offset)
    k.UANDI(column, t.cta, COLUMNS - 1)
    k.UMULI(offset, column, 16)
    k.UADD(out, out, offset)
    k.USHL(column, t.cta, 2)
    k.UADD(scales, scales, column)
    size = 1 if operand.format in FACTOR else 2

    def store(j: int, words: Reg, count: int, guard: Pred | None) -> None:
        with k.scratch():
            at, piece = k.reg("at"), k.reg("piece")
            k.ADDI("s32", at, t.tid, j * 32 * warps)
            k.SHL(at, at, 1 + size)  # byte of k
            k.SHR(piece, at, 6)
            k.MULI("s32", piece, piece, 512 * blocks)
            low = k.reg("low")
            k.ANDI("s32", low, at, 48)
            k.SHL(low, low, 3)
            k.ADD("s32", piece, piece, low)
            k.ANDI("s32", low, at, 15)
            k.ADD("s32", piece, piece, low)
            k.STG(32 * count, piece, out, 0, words, guard=guard)

    def sums(w: int) -> tuple[Reg, int]:
        return zero, 4 * w

    def scale(value: Reg, first: Pred) -> None:
        k.STG(32, zero, scales, 0, value, guard=first)

    zero = k.reg("zero")
    k.MOV(zero, ZERO)
    convert_row(k, operand, t, warps, load_row(k, t, warps, k_padded, x, norm_weight), sums, scale, store)
    k.EXIT()
    return k


def activation_warps(k_padded: int) -> int:
    """Warps of the activation kernel: 4 values a thread up to 16 warps, then more values a thread."""
    warps = max(min(16, ceil_div(k_padded, 128)), ceil_div(k_padded, 128 * VECTORS_MAX))
    return 1 << (warps - 1).bit_length()


class FusedRows:
    """All sequences' x into rows of shared memory from address 0 on, one after the other.

    `start` takes the parameters and, for a single sequence, starts its loads: call it before the
    weights' copies, which would otherwise be in front of them. `finish` does the rest, without a last barrier.
    Shared: rows of smem_pitch bytes; sums_at: a word a warp and sequence; scales_at: a word a sequence.
    """

    def __init__(self, k: Kernel, operand: Operand, t: Thread, warps: int, batch: int, k_padded: int) -> None:
        self.k, self.operand, self.t, self.warps = k, operand, t, warps
        self.batch, self.k_padded = batch, k_padded
        self.x = k.parameter("x")
        self.norm_weight = k.parameter("norm_weight") if operand.weighted else None
        self.row = self._load() if batch == 1 else None

    def _load(self) -> Row:
        return load_row(self.k, self.t, self.warps, self.k_padded, self.x, self.norm_weight)

    def finish(self, smem_pitch: int, sums_at: int, scales_at: int) -> None:
        """Normalise, convert and store; every register is free afterwards."""
        k, t = self.k, self.t
        size = 1 if self.operand.format in FACTOR else 2
        with k.scratch():
            row, words_at, scale_at = k.reg("row"), k.reg("words_at"), k.reg("scale_at")
            k.SHL(row, t.tid, 1 + size)
            k.MOVI("s32", words_at, sums_at)
            k.MOVI("s32", scale_at, scales_at)
            if self.batch > 1:
                left = constant(k, "left", self.batch)
                loop = k.label(k.fresh("sequence"))

            def store(j: int, words: Reg, count: int, guard: Pred | None) -> None:
                with k.scratch():
                    target, offset = reach(k, row, j * 32 * self.warps * 4 * size)
                    k.STS(32 * count, target, offset, words.part(0, count), guard=guard)

            def sums(w: int) -> tuple[Reg, int]:
                return words_at, 4 * w

            def scale(value: Reg, first: Pred) -> None:
                k.STS(32, scale_at, 0, value, guard=first)

            convert_row(k, self.operand, t, self.warps, self.row or self._load(), sums, scale, store)
            if self.batch > 1:
                k.ADDI("s32", row, row, smem_pitch)
                k.ADDI("s32", words_at, words_at, 4 * self.warps)
                k.ADDI("s32", scale_at, scale_at, 4)
                k.UADDI(self.x, self.x, self.operand.x_pitch)
                k.UADDI(left, left, -1)
                k.UBR("GT", left, UZERO, loop)
        if self.row is not None:
            k.free(*self.row.values, *self.row.weights)
            if self.row.tail is not None:
                k.free(self.row.tail)
        k.free(self.x)
