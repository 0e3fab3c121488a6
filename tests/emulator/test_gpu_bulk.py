"""Bulk copies and mbarriers: cycles by hand, each test named after the rule that it isolates.

On h100_sxm a warp's first instruction issues in cycle 20, uniform results take 6 cycles, an L2 hit 262,
and what the load-store unit does with an mbarrier reaches a warp as a shared-memory load does, after 29.
"""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.gpu.machine import GpuMachine
from isa.builder import UZERO, ZERO, Kernel
from isa.program import Launch
from tests.emulator.gpu_program import lane_offset, make_program

H100, TOY = load_chip("h100_sxm"), load_chip("toy_gpu")
START, UNIFORM, L2_HIT = 20, 6, 262
DATA = 65536


def run(kernel: Kernel, chip=H100, block=32, shared=65536, engine="fast", data=DATA, launches=2, phantom=(0, 0)):
    """Cycles of the last launch, the step's result, and the memory afterwards."""
    program = make_program(chip, [kernel], [Launch(0, 1, block, shared)] * launches, data, phantom)
    machine = GpuMachine(program, chip, engine=engine)
    step = machine.step()
    return step.kernels[-1]["end"] - step.kernels[-1]["first_cta"], step, machine


def uniform(k: Kernel, **values: int):
    """Uniform registers with constants."""
    registers = [k.ureg(name) for name in values]
    for register, value in zip(registers, values.values(), strict=True):
        k.UMOVI(register, value)
    return registers


def copies(count: int, size: int) -> Kernel:
    """`count` bulk copies of `size` bytes behind each other to one mbarrier, awaited."""
    k = Kernel("copies")
    bar, to, source, step, total = uniform(k, bar=0, to=128, source=0, step=size, total=count * size)
    k.MBINIT(bar, 0, 1)
    k.MBARRIVE(bar, 0, total)
    for i in range(count):
        k.BULK(to, source, i * size, step, bar, 0)
    k.MBWAIT(bar, 0, UZERO)
    k.EXIT()
    return k


def load_cycles() -> int:
    """Cycles from the issue of a load that finds one line in L2 to that of an instruction that needs it."""
    k = Kernel("load")
    (base,) = uniform(k, base=0)
    value = k.reg("v")
    k.LDG(32, value, ZERO, base, 0)
    k.MOV(k.reg("sink"), value)
    k.EXIT()
    # UMOVI, LDG when the base is there, MOV, EXIT, end.
    return run(k)[0] - (START + UNIFORM) - 2


def test_a_bulk_copy_from_l2_takes_105_cycles_more_than_a_load():
    k = copies(1, 16)
    total, step, _ = run(k)
    # UMOVI bar 20 .. total 24, MBINIT 26 (bar), MBARRIVE 30 (total), BULK 31, MBWAIT 32. The unit takes one of a
    # sub-core's instructions in 4 cycles: MBINIT 27, MBARRIVE 31, BULK 35, MBWAIT 39 - the copy is 3 cycles late.
    bulk_taken = 35
    load_taken = 1  # a load is taken the cycle after its issue
    assert load_cycles() == L2_HIT
    # EXIT issues when the copy is complete, the kernel ends a cycle later.
    assert total == bulk_taken + (L2_HIT - load_taken) + 105 + 1
    assert step.counters["bulk_copies"] == 2 and step.counters["bulk_sectors"] == 2


def test_copies_start_at_least_48_cycles_apart():
    one, two, three = (run(copies(n, 16))[0] for n in (1, 2, 3))
    # BULK are taken 4 cycles apart and started 48 cycles apart.
    assert (two - one, three - two) == (48, 48)


def test_a_copy_asks_for_a_line_a_cycle():
    _, step, _ = run(copies(1, 64 * 128), launches=1)
    assert step.accounting["bulk_engine"]["busy"] == 64
    assert step.counters["bulk_requests"] == 64 and step.counters["bulk_sectors"] == 256
    # The cycle of handing over belongs to the issue.
    assert step.accounting["bulk_engine"]["issue"] == 1
    assert step.traffic["l2_read"] == 64 * 128


def test_a_long_copy_delays_the_next_by_its_lines_not_by_the_interval():
    first, second = (run(copies(n, 100 * 128))[1].accounting["bulk_engine"] for n in (1, 2))
    # The second copy is handed over while the first asks for 100 lines: no cycle is spent on the interval.
    assert second["issue"] == first["issue"] and second["busy"] == 2 * first["busy"]


def test_the_engine_waits_when_too_many_lines_are_under_way():
    assert run(copies(1, 512 * 96), launches=1)[1].accounting["bulk_engine"]["limit"] == 0  # 384 lines
    chip = H100.with_override("sm.bulk.outstanding_lines", "8")
    held = run(copies(1, 64 * 128), chip=chip)[1].accounting["bulk_engine"]
    # The next 8 lines wait for the first 8, and so on: 7 waits of about an L2 hit in each of the two launches.
    assert held["limit"] > 2 * 7 * 200 and held["busy"] == 2 * 64


def test_unaligned_ends_ask_only_for_their_sectors():
    k = Kernel("ends")
    bar, to, source, size = uniform(k, bar=0, to=128, source=112, size=160)
    k.MBINIT(bar, 0, 1)
    k.MBARRIVE(bar, 0, size)
    k.BULK(to, source, 0, size, bar, 0)
    k.MBWAIT(bar, 0, UZERO)
    k.EXIT()
    # Bytes 112 .. 271: sector 3 of line 0, all of line 1, sector 0 of line 2.
    _, step, _ = run(k, launches=1)
    assert (step.counters["bulk_requests"], step.counters["bulk_sectors"]) == (3, 6)


@pytest.mark.parametrize("engine", ["fast", "naive"])
def test_the_bytes_arrive_and_the_phases_alternate(engine):
    k = Kernel("stream")
    bar, to, source, size, phase, end, out = uniform(k, bar=0, to=128, source=0, size=512, phase=0, end=2048, out=2048)
    offset, value = lane_offset(k, 4), k.reg("v", 4)
    k.MBINIT(bar, 0, 1)
    k.label("again")
    k.MBARRIVE(bar, 0, size)
    k.BULK(to, source, 0, size, bar, 0)
    k.MBWAIT(bar, 0, phase)
    k.LDS(128, value, offset, 128)
    k.STG(128, offset, out, 0, value)
    k.UADDI(source, source, 512)
    k.UADDI(out, out, 512)
    k.UADDI(phase, phase, 1)
    k.UBR("LT", source, end, "again")
    k.EXIT()
    data = np.random.default_rng(1).integers(0, 256, 4096).astype(np.uint8)
    _, step, machine = run(k, chip=TOY, shared=1024, engine=engine, data=data, launches=1)
    memory = machine.read("memory")[0]
    assert np.array_equal(memory[2048:], data[:2048])
    assert step.counters["bulk_copies"] == 4


def test_a_phase_needs_every_arrival():
    k = Kernel("meet")
    (bar,) = uniform(k, bar=0)
    number, r = k.ureg("number"), k.reg("r")
    k.S2UR(number, "WARPID")
    k.MBINIT(bar, 0, 4)
    k.BAR()
    k.UBR("NE", number, UZERO, "meet")
    k.MOVI("f32", r, 1.0)
    for _ in range(100):
        k.FMA("f32", r, r, r, r)
    k.label("meet")
    k.MBARRIVE(bar, 0, UZERO)
    k.MBWAIT(bar, 0, UZERO)
    k.EXIT()
    # UMOVI 20, S2UR 21, MBINIT 26, BAR 27 and 16 more: UBR 43, MOVI 44, FMA 48 .. 444, the arrival of warp 0 at 445.
    # The others arrive hundreds of cycles before. The unit takes the last arrival at 446, its warp's MBWAIT at 450;
    # that warp goes on 28 cycles later.
    total, step, _ = run(k, block=128)
    assert total == 450 + 28 + 1
    assert step.accounting["sub_core"]["mbarrier"] > 3 * 350


def test_a_complete_phase_is_seen_after_the_latency_of_shared_memory():
    k = Kernel("old")
    (bar,) = uniform(k, bar=0)
    odd = k.ureg("odd")
    k.UMOVI(odd, 1)
    k.MBINIT(bar, 0, 1)
    k.MBWAIT(bar, 0, odd)  # the phase before the first counts as complete, as in PTX
    k.EXIT()
    # UMOVI 20, 21, MBINIT 26, MBWAIT 27; taken at 27 + 4 = 31, 4 cycles after MBINIT; EXIT 28 cycles later.
    assert run(k)[0] == 31 + 28 + 1


def test_phantom_bytes_leave_no_values():
    k = Kernel("phantom")
    bar, to, source, size, out = uniform(k, bar=0, to=128, source=8192, size=512, out=0)
    offset, value = lane_offset(k, 4), k.reg("v", 4)
    k.MBINIT(bar, 0, 1)
    k.MBARRIVE(bar, 0, size)
    k.BULK(to, source, 0, size, bar, 0)
    k.MBWAIT(bar, 0, UZERO)
    k.LDS(128, value, offset, 128)
    k.STG(128, offset, out, 0, value)
    k.EXIT()
    for engine in ("fast", "naive"):
        _, step, _ = run(k, chip=TOY, shared=1024, engine=engine, data=4096, launches=1, phantom=(8192, 4096))
        assert step.counters["poisoned_stores"] == 1


def test_a_kernel_waits_for_its_bulk_copies():
    k = Kernel("leaves")
    bar, to, source, size = uniform(k, bar=0, to=128, source=0, size=1024)
    k.MBINIT(bar, 0, 1)
    k.BULK(to, source, 0, size, bar, 0)
    k.EXIT()
    awaited = run(copies(1, 1024))[0]
    # Without MBARRIVE and MBWAIT the copy is taken 4 cycles earlier, and EXIT waits for it all the same.
    assert run(k)[0] == awaited - 4
