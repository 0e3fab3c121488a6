"""Kernels as parts of one: the same code, but in a text with others, and leaving a part is no exit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isa.builder import UZERO, ZERO, Kernel, UReg
from isa.opcodes import BY_NAME, Kind


class Part(Kernel):
    """A kernel whose instructions and registers are the whole's.

    argument(parameter's name, register) emits what loads a parameter. unit: the register that takes the place of
    the CTA's number. Labels are the part's own; EXIT jumps to its end, which `end` marks.
    """

    def __init__(self, whole: Kernel, name: str, parameters: tuple[str, ...], argument: Callable[[str, UReg], None],
                 unit: UReg) -> None:
        super().__init__(name, parameters)
        self._rows, self._labels, self._comments = whole._rows, whole._labels, whole._comments
        self._regs, self._uregs, self._preds = whole._regs, whole._uregs, whole._preds
        self.argument, self.unit = argument, unit

    def own(self, label: str) -> str:
        """A label's name in the whole."""
        return f"{self.name}_{label}"

    def parameter(self, name: str) -> UReg:
        register = self.ureg(name)
        self.argument(name, register)
        return register

    def label(self, name: str) -> str:
        super().label(self.own(name))
        return name

    def end(self) -> None:
        """What comes next is no longer the part's."""
        self.label("part_end")

    def __getattr__(self, mnemonic: str) -> Callable[..., None]:
        if mnemonic == "EXIT":
            return lambda guard=None: self.BRA("part_end", guard=guard)
        emit = super().__getattr__(mnemonic)
        op = BY_NAME[mnemonic]
        targets = [i for i, field in enumerate(op.fields("gpu")) if field.kind is Kind.TARGET]

        def emit_part(*operands: Any, guard: Any = None) -> None:
            if mnemonic == "S2UR" and operands[1] == "CTAID":
                self.UADD(operands[0], self.unit, UZERO)
                return
            emit(*(self.own(o) if i in targets else o for i, o in enumerate(operands)), guard=guard)

        return emit_part


class GridBarrier:
    """All CTAs of a grid meet, time after time: one warp of each adds 1 to a counter in global memory and polls it.

    The counter only grows, and wraps; where a launch begins to count is kept beside it, 128 bytes on. Between
    `arrive` and `wait` a CTA may do what depends on no other.
    """

    EPOCH = 128  # bytes from the counter to where it stood when the launch began

    def __init__(self, k: Kernel, counter: UReg, grid: int) -> None:
        self.k, self.counter, self.grid = k, counter, grid
        self.warp, self.target, self.seen = k.ureg("barrier_warp"), k.ureg("barrier_target"), k.ureg("barrier_seen")
        self.value = k.reg("barrier_value")
        k.S2UR(self.warp, "WARPID")
        k.ULDG(32, self.target, counter, self.EPOCH)

    def arrive(self) -> None:
        """What this CTA has stored can be seen by whoever has waited."""
        k = self.k
        k.comment("barrier of the grid")
        k.UADDI(self.target, self.target, self.grid)
        k.MEMBAR()
        k.BAR()
        k.UBR("NE", self.warp, UZERO, arrived := k.fresh("arrived"))
        with k.scratch():
            one, first = k.reg("one"), k.pred("first")
            k.S2R(one, "LANEID")
            k.SETP("EQ", "s32", first, one, ZERO)
            k.MOVI("s32", one, 1)
            k.ATOM(self.value, ZERO, self.counter, 0, one, guard=first)  # the first poll waits for its answer
        k.label(arrived)

    def wait(self) -> None:
        """Go on when all have arrived; the SM's L1 is empty then."""
        k = self.k
        k.UBR("NE", self.warp, UZERO, met := k.fresh("met"))
        poll = k.label(k.fresh("poll"))
        k.LDCG(32, self.value, ZERO, self.counter, 0)
        k.SUB("s32", self.value, self.value, self.target)
        k.R2UR(self.seen, self.value)
        k.UBR("LT", self.seen, UZERO, poll)
        k.MEMBAR()
        k.label(met)
        k.BAR()

    def end(self, cta: UReg) -> None:
        """After the last barrier: the next launch begins to count where this one ends."""
        k = self.k
        k.UBR("NE", cta, UZERO, ended := k.fresh("ended"))
        k.UBR("NE", self.warp, UZERO, ended)
        with k.scratch():
            lane, first = k.reg("lane"), k.pred("first")
            k.S2R(lane, "LANEID")
            k.SETP("EQ", "s32", first, lane, ZERO)
            k.MOV(lane, self.target)
            k.STG(32, ZERO, self.counter, self.EPOCH, lane, guard=first)
        k.label(ended)
