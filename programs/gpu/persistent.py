"""A decode step as one kernel: a CTA an SM that stays, the step's kernels one after the other, a barrier between.

The parts are the kernels of the graph plan, with the same cuts' words (programs/gpu/plan.py), four warps each. A
linear layer's weights depend on nothing: each CTA starts the copies of the next one's first chunks between its
arrival at a barrier and its wait there, so that DRAM has work while the grid meets. Layers are a loop; what belongs
to a layer lies at equal distances in memory.

    embed | loop: QKV, attention, combine, o, gate and up, down | LM head, argmax

Shared memory: what a part has for itself, from 0 on | the rings of weights, one a warp, which all linear layers share.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from emulator.chip import Chip
from isa.builder import UZERO, Kernel, UReg
from isa.program import GpuImage, Program, Tensor
from programs.gpu.attention_plan import AttentionPlan
from programs.gpu.kernels.combine import combine_shared_bytes
from programs.gpu.kernels.common import Maker, add_offset, constant, thread
from programs.gpu.kernels.linear import Linear, linear_kernel
from programs.gpu.kernels.part import GridBarrier, Part
from programs.gpu.launches import Argument, Launches
from programs.gpu.plan import Limits, LinearPlan, PlanError, Room, round_up

WARPS = 4
COUNTER_BYTES = 256  # the barrier's counter and where it began, a line each
RINGS = (32768, 24576, 16384, 8192, 4096, 2048, 1024)  # bytes of a warp's ring, the first that fits
CHUNK_BYTES = 4096  # of a warp: copies in flight are started in pieces of this
VECTORS = 28  # 16-byte pieces of x that a thread keeps in registers: fewer warps than other plans have
SMALL_BYTES = 1024  # shared memory of the small kernels, at most


def plan_parts(linear: Callable[[Room], dict[str, LinearPlan]], attention: Callable[[Limits], AttentionPlan],
               limits: Limits) -> tuple[dict[str, LinearPlan], AttentionPlan]:
    """Cuts of all layers that share a CTA: the largest rings that leave attention enough shared memory.

    linear(room): the linear layers' plans; attention(limits): attention's. Raises PlanError.
    """
    for ring in RINGS:
        try:
            plans = linear(Room(WARPS, ring, min(CHUNK_BYTES, ring // 2), VECTORS))
            att = attention(replace(limits, shared_bytes=limits.shared_bytes - WARPS * ring))
        except PlanError:
            continue
        start = max(SMALL_BYTES, att.shared_bytes, combine_shared_bytes(att), *(p.ring_at for p in plans.values()))
        plans = {name: replace(p, ring_from=round_up(start, 128), ring_bytes=ring) for name, p in plans.items()}
        if att.warps == WARPS and all(p.fused and p.shared_bytes <= limits.shared_bytes for p in plans.values()):
            return plans, att
    raise PlanError(f"--launch persistent puts all kernels of a step into a CTA of {WARPS} warps, for which "
                    f"{limits.shared_bytes} bytes of shared memory or {limits.registers} registers an SM are too few; "
                    "leave it out")


@dataclass(frozen=True)
class _Launch:
    name: str
    grid: int
    arguments: dict[str, Argument]


class Persistent:
    """Takes the launches of a step as `Launches` does, and makes one kernel of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.index: dict[str, tuple[Callable[..., Kernel], tuple[Any, ...]]] = {}
        self.before: list[_Launch] = []
        self.layers: dict[int, list[_Launch]] = {}
        self.after: list[_Launch] = []
        self.shared = 0

    def build(self, function: Callable[..., Kernel], name: str, *arguments: Any) -> None:
        """A kernel that launches may name; function(name, *arguments, make=..) emits it."""
        self.index[name] = function, arguments

    def launch(self, name: str, grid: int, block: int, shared: int, node: str, **arguments: Argument) -> None:
        """Append a launch of a known kernel; an argument for every parameter, by name."""
        if block > 32 * WARPS:
            raise ValueError(f"kernel {name} has {block} threads, a CTA {32 * WARPS}")
        self.shared = max(self.shared, shared)
        layer = re.match(r"layers\.(\d+)\.", node)
        if layer is not None:
            where = self.layers.setdefault(int(layer[1]), [])
        else:
            where = self.after if self.layers else self.before
        where.append(_Launch(name, grid, arguments))

    def program(self, chip: Chip, image: GpuImage, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Program:
        """The program of one launch. Addresses must be final."""
        step = _Step(self, tensors["barrier"])
        launches = Launches()
        launches.add(step.kernel)
        launches.launch("step", self.limits.sms, 32 * WARPS, self.shared, "step", **step.arguments)
        return launches.program(chip, image, tensors, meta | {"launch": "persistent"})


class _Step:
    """The one kernel. `arguments`: its parameters' values, those of a layer for the first layer."""

    def __init__(self, parts: Persistent, counter: Tensor) -> None:
        self.parts, self.sms = parts, parts.limits.sms
        self.arguments: dict[str, Argument] = {}
        self.kernel = k = Kernel("step")
        layers = list(parts.layers.values())
        self.stride = _stride(layers)
        self.loop = layers[0]
        self.cta, self.offset, self.left = k.ureg("cta"), k.ureg("layer_offset"), k.ureg("layers_left")
        k.S2UR(self.cta, "CTAID")
        k.UMOVI(self.offset, 0)
        k.UMOVI(self.left, len(layers))
        base = k.ureg("counter")
        self._argument("counter", counter, base)
        self.barrier = GridBarrier(k, base, self.sms)
        self.pools = (k._regs, k._uregs, k._preds)
        self.free = self._taken()  # what is taken all the time
        self.pending: Linear | None = None  # the next linear layer, with its first copies under way
        self._emit()
        k.parameters = tuple(self.arguments)

    # -- the order -----------------------------------------------------------------------------
    def _emit(self) -> None:
        k, parts = self.kernel, self.parts
        self._prefetch(self.loop[0])
        assert self.pending is not None
        began = self._taken(), self.pending.filled
        for one in parts.before:
            self._part(one)
            self._meet(None)
        k.comment("a layer")
        k.label("layer")
        for at, one in enumerate(self.loop):
            self._part(one)
            if at + 1 < len(self.loop):
                self._meet(_next_linear(parts.index, self.loop[at + 1:]))
        self.barrier.arrive()
        k.UADDI(self.left, self.left, -1)
        k.UBR("LE", self.left, UZERO, "last_layer")
        add_offset(k, self.offset, self.offset, self.stride)
        self._prefetch(self.loop[0])
        assert (self._taken(), self.pending.filled) == began, "the loop finds other registers than it began with"
        self.barrier.wait()
        k.BRA("layer")
        k.label("last_layer")
        self._release()
        following = _next_linear(parts.index, parts.after)
        if following is not None:
            self._prefetch(following)
        self.barrier.wait()
        for at, one in enumerate(parts.after):
            if at:
                self._meet(_next_linear(parts.index, parts.after[at:]))
            self._part(one)
        self.barrier.end(self.cta)
        k.EXIT()

    def _meet(self, following: _Launch | None) -> None:
        """A barrier; the copies of the linear layer that follows go on meanwhile."""
        self.barrier.arrive()
        if following is not None:
            self._prefetch(following)
        self.barrier.wait()

    def _prefetch(self, launch: _Launch) -> None:
        """Start some copies of a linear layer: as many as the SM can have in flight, which stall nobody."""
        k = self.kernel
        if self.pending is None:
            function, arguments = self.parts.index[launch.name]
            plan, operand, finish = arguments
            self.pending = linear = Linear(launch.name, plan, operand, finish, self._maker(launch, self.cta))
            linear.t = thread(linear.kernel)
            linear.copies()
        if self.pending.filled == self.pending.plan.slots:
            return
        plan = self.pending.plan
        skip = k.fresh("no_copies")
        self._skip(self.cta, plan.grid, skip)
        self.pending.fill(max(1, self.parts.limits.in_flight_bytes * 3 // 8 // (WARPS * plan.stage_bytes)))
        k.label(skip)

    def _taken(self) -> list[list[bool]]:
        return [list(pool.used) for pool in self.pools]

    def _release(self) -> None:
        """No linear layer is pending, and its registers are free."""
        self.pending = None
        for pool, used in zip(self.pools, self.free, strict=True):
            pool.used = list(used)

    # -- parts -------------------------------------------------------------------------------
    def _part(self, launch: _Launch) -> None:
        """One kernel of the step: a linear layer whose copies have begun, or another one."""
        k = self.kernel
        function, arguments = self.parts.index[launch.name]
        if function is linear_kernel:
            linear = self.pending
            assert linear is not None and linear.kernel.name == launch.name
            part = linear.kernel
            assert isinstance(part, Part)
            self._skip(self.cta, launch.grid, part.own("part_end"))
            rows = linear.load_rows()
            linear.fill()
            linear.multiply(rows)
            part.end()
            self._release()
            return
        with k.scratch():
            unit, again = self.cta, ""
            done = k.fresh("part_done")
            if launch.grid > self.sms:
                unit = k.ureg("unit")
                k.UADD(unit, self.cta, UZERO)
                again = k.label(k.fresh("part_again"))
            else:
                self._skip(self.cta, launch.grid, done)
            made: list[Part] = []
            with k.scratch():
                function(launch.name, *arguments, make=self._maker(launch, unit, made))
                made[0].end()
            if again:
                k.BAR()  # the next unit's shared memory is this one's
                k.UADDI(unit, unit, self.sms)
                limit = constant(k, "units", launch.grid)
                k.UBR("LT", unit, limit, again)
            k.label(done)

    def _skip(self, unit: UReg, grid: int, label: str) -> None:
        """CTAs past a part's grid have nothing to do in it."""
        k = self.kernel
        if grid < self.sms:
            with k.scratch():
                k.UBR("GE", unit, constant(k, "grid", grid), label)

    def _maker(self, launch: _Launch, unit: UReg, made: list[Part] | None = None) -> Maker:
        def make(name: str, parameters: tuple[str, ...]) -> Kernel:
            part = Part(self.kernel, name, parameters, lambda p, register: self._argument(
                f"{name}_{p}", launch.arguments[p], register), unit)
            if made is not None:
                made.append(part)
            return part

        return make

    def _argument(self, name: str, argument: Argument, register: UReg) -> None:
        """Load a parameter; a layer's own lie `offset` past the first layer's."""
        tensor, past = argument if isinstance(argument, tuple) else (argument, 0)
        value = (tensor, past)
        for known, other in self.arguments.items():
            if other == value:
                name = known
        self.arguments[name] = value
        self.kernel.LDP(register, list(self.arguments).index(name))
        if tensor.name.startswith("layers."):
            self.kernel.UADD(register, register, self.offset)


def _next_linear(index: dict[str, tuple[Callable[..., Kernel], tuple[Any, ...]]],
                 launches: list[_Launch]) -> _Launch | None:
    return next((one for one in launches if index[one.name][0] is linear_kernel), None)


def _stride(layers: list[list[_Launch]]) -> int:
    """Bytes from a layer's tensors to the next layer's; the same for all. ValueError where they are not."""
    first = [_addresses(one) for one in layers[0]]
    own = [{p: _tensor(a).name.startswith("layers.") for p, a in one.arguments.items()} for one in layers[0]]
    stride = 0
    for number, layer in enumerate(layers):
        for one, was, mine in zip(layer, first, own, strict=True):
            for p, address in _addresses(one).items():
                if number == 1 and mine[p] and not stride:
                    stride = address - was[p]
                if address != was[p] + (stride * number if mine[p] else 0):
                    raise ValueError(f"{one.name}: {p} of layer {number} is not where the loop looks for it")
    return stride


def _tensor(argument: Argument) -> Tensor:
    return argument[0] if isinstance(argument, tuple) else argument


def _addresses(launch: _Launch) -> dict[str, int]:
    return {p: a.address if isinstance(a, Tensor) else a[0].address + a[1] for p, a in launch.arguments.items()}
