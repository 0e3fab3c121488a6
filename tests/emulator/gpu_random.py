"""Random GPU programs for tests: bounded loops, every instruction, addresses kept inside the memory.

A program's memory is [tables 1 KB][output][words for atomics][input]; the input can be real or phantom. Warps of a
CTA may race with each other: both engines run an SM's cycle in the same order. CTAs meet only in the words for
atomics, with ATOM and LDCG. With peers, their input is read, and letters are stored to them behind the words for
atomics, where LDCG finds them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from emulator.chip import Chip
from emulator.gpu.timing import PEER_AT
from isa import builder
from isa.builder import UZERO, ZERO
from isa.program import GpuImage, Launch, Program
from tests.emulator.gpu_program import make_program

TABLE, SLOT = 1024, 16
THREADS = 4 * 128
OUTPUT = THREADS * SLOT * 4
INPUT = 4096
ATOMS = 1024
LETTERS = 640  # where they begin in the words for atomics: ATOM stays below
INPUT_AT = TABLE + OUTPUT + ATOMS

_BINARY = ("ADD", "SUB", "MUL", "MAX", "MIN", "AND", "OR", "XOR")
_IMMEDIATE = ("ADDI", "MULI", "MAXI", "MINI", "ANDI")
_UNARY = ("EXP2", "RSQRT", "TANH", "RCP")


@dataclass
class Case:
    """A program twice: with its input real and with its input phantom (None if values steer it)."""

    real: Program = field(repr=False)
    phantom: Program = field(repr=False)
    listing: str


class _Writer:
    """Writes one random kernel."""

    def __init__(self, draw: st.DrawFn, name: str, shared: int, warps: int, data_addresses: bool,
                 errors: bool, ranks: int) -> None:
        self.ranks = ranks
        self.draw, self.shared, self.warps, self.data_addresses, self.errors = (
            draw, shared, warps, data_addresses, errors)
        self.k = builder.Kernel(name, parameters=("input", "output", "table"))
        k = self.k
        self.input, self.output, self.table = (k.parameter(p) for p in k.parameters)
        self.atoms = k.ureg("atoms")
        k.UADDI(self.atoms, self.output, OUTPUT)
        self.data = [k.reg(f"d{i}", 4) for i in range(4)]
        self.tid, self.own, self.address = k.reg("tid"), k.reg("own"), k.reg("address")
        self.preds = [k.pred("p"), k.pred("q")]
        self.number, self.counter = k.ureg("number"), k.ureg("counter")
        self.peer = k.ureg("peer")
        self.labels = 0
        self.stores = 0

    def pick(self, options):
        return self.draw(st.sampled_from(options))

    def number_in(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def reg(self) -> builder.Reg:
        return self.pick(self.data)[self.number_in(0, 3)]

    def source(self):
        return self.pick([self.reg(), self.reg(), self.reg(), ZERO, self.number])

    def guard(self):
        chosen = self.number_in(0, 5)
        if chosen > 1:
            return None
        return self.preds[chosen] if self.number_in(0, 1) else ~self.preds[chosen]

    def prologue(self) -> None:
        k = self.k
        k.S2R(self.tid, "CTAID")
        k.S2R(self.own, "NWARPS")
        k.MUL("s32", self.tid, self.tid, self.own)
        k.S2R(self.own, "WARPID")
        k.ADD("s32", self.tid, self.tid, self.own)
        k.SHL(self.own, self.own, 5)
        k.S2R(self.address, "LANEID")
        k.ADD("s32", self.own, self.own, self.address)
        k.SHL(self.tid, self.tid, 5)
        k.ADD("s32", self.tid, self.tid, self.address)
        if self.shared >= 512:
            # Behind the shared memory that everything else uses: two mbarriers a warp, one of the CTA at 64, and
            # 256 bytes a warp for bulk copies.
            self.bar, self.all, self.bytes, self.origin, self.place = (
                k.ureg(n) for n in ("bar", "all", "bytes", "origin", "place"))
            self.phases = [k.ureg(f"phase{i}") for i in range(3)]
            for phase in self.phases:
                k.UMOVI(phase, 0)
            k.UMOVI(self.all, self.shared + 64)
            k.S2UR(self.bar, "WARPID")
            k.UMULI(self.place, self.bar, 256)
            k.UADDI(self.place, self.place, self.shared + 80)
            k.UMULI(self.bar, self.bar, 16)
            k.UADDI(self.bar, self.bar, self.shared)
            for number in range(2):
                k.MBINIT(self.bar, 8 * number, 1)
            k.MBINIT(self.all, 0, self.warps)
            k.BAR()
        k.S2UR(self.number, self.pick(["WARPID", "CTAID", "NCTAID"]))
        for r in self.data:
            for i in range(4):
                chosen = self.number_in(0, 3)
                if chosen == 0:
                    k.MOV(r[i], self.tid)
                elif chosen == 1:
                    k.MOVI("f32", r[i], self.pick([0.0, 1.0, -2.5, 1e-3, 3e4, float("inf")]))
                elif chosen == 2:
                    k.MOVI("s32", r[i], self.number_in(-1000, 1000))
                else:
                    k.CVT("f32", "s32", r[i], self.tid)
        for p in self.preds:
            k.SETP(self.pick(["LT", "GE", "NE"]), "s32", p, self.tid, self.number)

    def offset(self, limit: int, width: int) -> builder.Reg:
        """An offset register below limit, aligned to the width, in one of several patterns."""
        k, a = self.k, self.address
        step = self.pick([0, width, width, width, 2 * width, 4 * width, 36 * 4, 128])
        if self.data_addresses and self.number_in(0, 4) == 0:
            k.MOV(a, self.reg())
        else:
            k.MULI("s32", a, self.pick([self.tid, self.own]), step)
        k.ANDI("s32", a, a, (limit - 1) & ~(width - 1))
        return a

    def body(self, count: int, depth: int = 0) -> None:
        for _ in range(count):
            self.instruction(depth)

    def instruction(self, depth: int) -> None:
        k, g = self.k, self.guard()
        if self.ranks > 1 and self.number_in(0, 2) == 0:
            self.cross(g)
            return
        kind = self.number_in(0, 25)
        if kind <= 3:
            typ = self.pick(["f32", "s32"])
            chosen = self.number_in(0, 4)
            if chosen <= 1:
                getattr(k, self.pick(_BINARY))(typ, self.reg(), self.reg(), self.source(), guard=g)
            elif chosen == 2:
                value = self.pick([1, 3, -7]) if typ == "s32" else self.pick([0.5, -1.0, 100.0])
                getattr(k, self.pick(_IMMEDIATE))(typ, self.reg(), self.reg(), value, guard=g)
            elif chosen == 3:
                k.FMA(typ, self.reg(), self.reg(), self.source(), self.reg(), guard=g)
            else:
                k.SELECT(typ, self.reg(), self.reg(), self.source(), self.reg(), guard=g)
        elif kind == 4:
            getattr(k, self.pick(_UNARY))("f32", self.reg(), self.reg(), guard=g)
        elif kind == 5:
            chosen = self.number_in(0, 4)
            if chosen == 0:
                k.CVT(self.pick(["f32", "f16", "s8", "e4m3"]), self.pick(["s32", "f32", "bf16", "u8"]),
                      self.reg(), self.reg(), guard=g)
            elif chosen == 1:
                k.PACK(self.pick(["f16", "bf16"]), self.reg(), self.reg(), self.reg(), guard=g)
            elif chosen == 2:
                k.UNPACK(self.pick(["f16", "bf16"]), self.reg(), self.reg(), self.number_in(0, 1), guard=g)
            elif chosen == 3:
                k.NEG(self.pick(["f32", "s32"]), self.reg(), self.reg(), guard=g)
            else:
                getattr(k, self.pick(["SHL", "SHR"]))(self.reg(), self.reg(), self.number_in(0, 31), guard=g)
        elif kind == 6:
            p = self.preds[0 if depth else self.number_in(0, 1)]
            k.SETP(self.pick(["LT", "LE", "GT", "GE", "EQ", "NE"]), "s32", p,
                   self.tid if not self.data_addresses else self.reg(), self.number, guard=g)
        elif kind == 7:
            k.MMA(self.pick(["f16", "bf16", "s8", "e4m3"]), self.pick(self.data), self.pick(self.data),
                  self.pick(self.data).part(0, 2), self.pick([*self.data, ZERO]))
        elif kind == 8:
            getattr(k, self.pick(["SHFL", "BCAST"]))(self.reg(), self.reg(), self.number_in(0, 31), guard=g)
        elif kind == 9:
            self.uniform(g)
        elif kind <= 12:
            width = self.pick([8, 16, 32, 64, 128])
            a = self.offset(INPUT // 2, max(4, width // 8))
            shift = self.pick([0, 128, INPUT // 2 - 16])
            if self.errors and self.number_in(0, 30) == 0:
                shift = self.pick([2, INPUT, -32768])
            k.LDG(width, self.pick(self.data), a, self.input, shift, guard=g)
        elif kind <= 14:
            width = self.pick([8, 16, 32, 64, 128])
            self.k.SHL(self.address, self.tid, 4)
            k.LDG(32, self.reg(), self.address, self.output, 0, guard=None)
            k.STG(width, self.address, self.output, OUTPUT // 4 * self.number_in(0, 3), self.pick(self.data), guard=g)
        elif kind <= 16 and self.shared >= 512:
            width = self.pick([8, 16, 32, 64, 128])
            a = self.offset(self.shared, max(4, width // 8))
            getattr(self, self.pick(["load_shared", "store_shared"]))(width, a, g)
        elif kind == 17 and self.shared >= 512:
            a = self.offset(self.shared, 16)
            k.LDSM(self.pick([1, 2, 4]), self.number_in(0, 1), self.pick(self.data), a, 0)
        elif kind == 18 and self.shared >= 512:
            k.SHL(self.reg(), self.own, 4)
            target = self.reg()
            k.ANDI("s32", target, self.own, (self.shared - 1) // 16)
            k.SHL(target, target, 4)
            a = self.offset(INPUT, 16)
            k.LDGSTS(target, 0, a, self.input, 0, guard=g)
            if self.number_in(0, 1):
                k.CPCOMMIT()
            if self.number_in(0, 1):
                k.CPWAIT(self.number_in(0, 2))
        elif kind == 19 and depth == 0:
            k.BAR()
        elif kind == 20 and depth == 0:
            label = k.fresh("loop")
            k.UMOVI(self.counter, self.number_in(1, 3))
            k.label(label)
            self.body(self.number_in(1, 4), 1)
            k.UADDI(self.counter, self.counter, -1)
            k.UBR("GT", self.counter, UZERO, label)
        elif kind == 22 and self.shared >= 512 and depth < 3:
            self.bulk(g)
        elif kind == 23 and self.shared >= 512 and depth == 0:
            self.meet()
        elif kind == 24:
            a = self.offset(ATOMS // 2, 4)
            k.ATOM(self.pick([self.reg(), ZERO]), a, self.atoms, self.pick([0, 16]), self.pick([self.reg(), ZERO]),
                   guard=g)
        elif kind == 25:
            width = self.pick([8, 32, 128])
            if self.number_in(0, 1):
                k.MEMBAR()
            k.LDCG(width, self.pick(self.data), self.offset(ATOMS, max(4, width // 8)), self.atoms, 0, guard=g)
        elif kind >= 21:
            label = k.fresh("skip")
            k.UBR(self.pick(["EQ", "GT", "LE"]), self.number, UZERO, label)
            self.body(self.number_in(1, 3), 2)
            k.label(label)

    def cross(self, g) -> None:
        """A peer's memory: its input read, or a letter stored."""
        k = self.k
        slip = self.errors and self.number_in(0, 40) == 0
        k.UMOVI(self.peer, self.ranks if slip else self.number_in(1, self.ranks - 1))
        k.USHL(self.peer, self.peer, PEER_AT)
        chosen = self.number_in(0, 5)
        if chosen <= 2:
            k.UADD(self.peer, self.peer, self.atoms)
            width = self.pick([8, 16, 32, 64, 128])
            a = self.offset(256, max(4, width // 8))
            k.STG(width, a, self.peer, LETTERS, self.pick(self.data), guard=g)
            if self.number_in(0, 1):
                k.LDCG(width, self.pick(self.data), a, self.atoms, LETTERS)
            return
        k.UADD(self.peer, self.peer, self.input)
        if chosen == 3 and self.shared >= 512:
            target = self.reg()
            k.ANDI("s32", target, self.own, (self.shared - 1) // 16)
            k.SHL(target, target, 4)
            k.LDGSTS(target, 0, self.offset(INPUT, 16), self.peer, 0, guard=g)
            return
        width = self.pick([8, 16, 32, 64, 128])
        a = self.offset(INPUT, max(4, width // 8))
        getattr(k, self.pick(["LDG", "LDCG"]))(width, self.pick(self.data), a, self.peer, 0, guard=g)

    def load_shared(self, width, a, g) -> None:
        self.k.LDS(width, self.pick(self.data), a, 0, guard=g)

    def store_shared(self, width, a, g) -> None:
        self.k.STS(width, a, 0, self.pick(self.data), guard=g)

    def bulk(self, g) -> None:
        """Bulk copies of the warp's own, awaited; now and then with a slip that both engines must find."""
        k = self.k
        slip = self.number_in(0, 40) if self.errors else 40
        number, total = self.number_in(0, 1), 0
        offset = 8 * number
        sizes = [16 * self.number_in(1, 8) for _ in range(self.number_in(1, 2))]
        k.UMOVI(self.bytes, sum(sizes) + (16 if slip == 0 else 0))
        k.MBARRIVE(self.bar, offset, self.bytes, guard=g if slip == 1 else None)
        for size in sizes:
            k.UMOVI(self.bytes, size + (8 if slip == 2 else 0))
            k.UMOVI(self.origin, self.number_in(0, self.ranks - 1))
            k.USHL(self.origin, self.origin, PEER_AT)
            k.UADD(self.origin, self.origin, self.input)
            k.UADDI(self.origin, self.origin, 16 * self.number_in(0, INPUT // 16 - 8) + (4 if slip == 3 else 0))
            k.BULK(self.place, self.origin, 0, self.bytes, self.bar, offset + 4 * (slip == 4))
            k.UADDI(self.place, self.place, size)
            total += size
        k.UADDI(self.place, self.place, -total)
        if self.number_in(0, 1):
            self.instruction(3)
        k.MBWAIT(self.bar, offset, self.phases[number])
        k.UADDI(self.phases[number], self.phases[number], 1)
        k.MOV(self.address, self.place)
        k.LDS(128, self.pick(self.data), self.address, 0)
        if slip == 5:
            k.STS(32, self.address, self.number_in(-128, 64) & -16, self.reg())

    def meet(self) -> None:
        """All warps of the CTA meet at an mbarrier."""
        k = self.k
        k.MBARRIVE(self.all, 0, UZERO)
        k.MBWAIT(self.all, 0, self.phases[2])
        k.UADDI(self.phases[2], self.phases[2], 1)

    def uniform(self, g) -> None:
        k, n = self.k, self.number
        chosen = self.number_in(0, 8)
        if chosen == 0:
            k.ULDG(self.pick([32, 64]), n, self.table, 8 * self.number_in(0, 127))
        elif chosen == 1:
            k.R2UR(n, self.tid)
        elif chosen == 2:
            k.S2UR(n, self.pick(["WARPID", "CTAID", "NWARPS"]))
        elif chosen == 3:
            getattr(k, self.pick(["UADD", "USUB", "UMUL", "UMIN", "UMAX"]))(
                n, n, self.pick([n, self.counter, UZERO]))
        elif chosen == 4:
            getattr(k, self.pick(["USHL", "USHR"]))(n, n, self.number_in(0, 63))
        elif chosen == 5:
            k.UMOVI(n, self.number_in(-(2**31), 2**31 - 1))
        else:
            getattr(k, self.pick(["UADDI", "UMULI", "UANDI"]))(n, n, self.number_in(-100, 100))

    def finish(self) -> builder.Kernel:
        k = self.k
        k.SHL(self.address, self.tid, 4)
        k.STG(128, self.address, self.output, 0, self.data[0])
        k.STG(64, self.address, self.output, OUTPUT // 4, self.data[1])
        k.EXIT()
        return k


@st.composite
def programs(draw: st.DrawFn, chip: Chip, data_addresses: bool = True, errors: bool = True,
             ranks: int = 1) -> Case:
    """One or two kernels with a launch each. data_addresses: loaded values may become addresses or
    predicates (a timing-only run of such a program may fail). errors: now and then a wrong address.
    ranks: of so many GPUs, which have inputs of their own (the phantom program is one that stands for all)."""
    shared = draw(st.sampled_from([0, 512, 1024]))
    kernels, blocks = [], []
    for number in range(draw(st.integers(1, 2))):
        blocks.append(32 * draw(st.integers(1, 4)))
        writer = _Writer(draw, f"k{number}", shared, blocks[-1] // 32, data_addresses, errors, ranks)
        writer.prologue()
        writer.k.UMOVI(writer.counter, 1)
        writer.body(draw(st.integers(1, 14)))
        kernels.append(writer.finish())
    launches = []
    for number in range(len(kernels)):
        block = blocks[number]
        room = shared and shared + 80 + 256 * (block // 32)
        grid = draw(st.sampled_from([1, 2, 3, 4, min(12, THREADS // block)]))  # more than fit: CTAs run in waves
        launches.append(Launch(number, grid, block, room, (INPUT_AT, TABLE, 0),
                               (number - 1,) if number else ()))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    data = np.zeros(INPUT_AT + INPUT, dtype=np.uint8)
    data[:TABLE] = generator.integers(0, 256, TABLE)
    data[INPUT_AT:] = generator.integers(0, 256, INPUT)
    real = make_program(chip, kernels, launches, data)
    phantom = make_program(chip, kernels, launches, data[:INPUT_AT], (INPUT_AT, INPUT))
    if ranks > 1:
        inputs = generator.integers(0, 256, (ranks - 1, INPUT), dtype=np.uint8)
        real.images += [GpuImage(np.concatenate([data[:INPUT_AT], row])) for row in inputs]
        real.chips = [(0, rank, ()) for rank in range(ranks)]
        phantom.chips = [(0, 0, ())] * ranks
        phantom.meta["timing_only"] = True
    shapes = [f"grid {one.grid} block {one.block} shared {one.shared_bytes}" for one in launches]
    listing = "\n".join(f"{shape}\n" + "\n".join(k.listing()[0])
                        for shape, k in zip(shapes, kernels, strict=True))
    return Case(real, phantom, listing)
