"""Cycle counts of small GPU programs, by hand; each test is named after the rule that it isolates.

`start` of a kernel is the cycle in which its first CTA is dispatched. One CTA's first warp issues
cta_start cycles later: 20 on h100_sxm. `issue(n)` below is the cycle of a warp's n-th instruction from
there. A kernel of one warp ends in the cycle after EXIT, or when its last store is acknowledged.
Every count is checked on the fast engine, most also on the twin.
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
START = 20  # h100_sxm launch.cta_start


def run(kernel: Kernel, chip=H100, grid=1, block=32, shared=0, engines=("fast",), steps=1, launches=1, data=8192):
    """The last launch of the last step: its cycles, and the step's result."""
    results = []
    for engine in engines:
        program = make_program(chip, [kernel], [Launch(0, grid, block, shared)] * launches, data)
        machine = GpuMachine(program, chip, engine=engine)
        for _ in range(steps):
            step = machine.step()
        results.append((step.kernels[-1]["end"] - step.kernels[-1]["first_cta"], step))
    assert all(r == results[0] for r in results)
    return results[0]


def cycles(kernel: Kernel, **options) -> int:
    return run(kernel, **options)[0]


# -- fixed latency ------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 11])
def test_dependent_ffma_chain_issues_every_4_cycles(count):
    k = Kernel("chain")
    r = k.reg("r")
    k.MOVI("f32", r, 1.5)
    for _ in range(count):
        k.FMA("f32", r, r, r, r)
    k.EXIT()
    # MOVI at 20 (latency 4), FMA i at 24 + 4 i, EXIT a cycle after the last, end a cycle after EXIT.
    assert cycles(k) == START + 4 + 4 * (count - 1) + 2


def test_independent_ffma_issue_every_cycle():
    k = Kernel("independent")
    r = [k.reg(f"r{i}") for i in range(9)]
    k.MOVI("f32", r[0], 1.5)
    for i in range(1, 9):
        k.FMA("f32", r[i], r[0], r[0], r[0])
    k.EXIT()
    # MOVI at 20, the eight FMA at 24 .. 31, EXIT at 32.
    assert cycles(k) == START + 4 + 8 + 1


def test_integer_unit_takes_an_instruction_every_2_cycles():
    k = Kernel("integer")
    r = [k.reg(f"r{i}") for i in range(5)]
    for one in r:
        k.MOVI("s32", one, 7)
    k.EXIT()
    # MOVI at 20, 22, 24, 26, 28; EXIT at 29.
    assert cycles(k) == START + 8 + 2


def test_function_unit_takes_an_instruction_every_8_cycles():
    k = Kernel("functions")
    r = [k.reg(f"r{i}") for i in range(4)]
    k.MOVI("f32", r[0], 1.0)
    for one in r[1:]:
        k.EXP2("f32", one, r[0])
    k.EXIT()
    # MOVI at 20, EXP2 at 24, 32, 40; EXIT at 41.
    assert cycles(k) == START + 4 + 16 + 2


def fma_chain() -> Kernel:
    """MOVI, ten FMAs that each need the one before, EXIT."""
    k = Kernel("chain")
    r = k.reg("r")
    k.MOVI("f32", r, 1.5)
    for _ in range(10):
        k.FMA("f32", r, r, r, r)
    k.EXIT()
    return k


def test_four_sub_cores_run_four_warps_side_by_side():
    k = fma_chain()
    # One warp on each sub-core: exactly the time of one warp.
    assert cycles(k, block=128) == cycles(k, block=32)


def test_a_second_warp_of_a_sub_core_fills_the_waiting_cycles():
    k = fma_chain()
    # Warps 0 and 4 share a sub-core. The younger issues MOVI at 20, the older at 22 (the integer unit
    # takes one in 2 cycles); then FMA at 24 + 4 i and 26 + 4 i: the older ends 2 cycles later.
    assert cycles(k, block=160) == cycles(k, block=32) + 2


# -- memory ----------------------------------------------------------------------------------------------
def wait_for(k: Kernel, register) -> None:
    """An instruction that needs a register."""
    k.MOV(k.reg("sink"), register)


@pytest.mark.parametrize(("width", "latency"), [(32, 32), (64, 34), (128, 38)])
def test_l1_hit_takes_32_34_38_cycles_by_width(width, latency):
    def kernel(loads: int) -> Kernel:
        k = Kernel("hit")
        base, offset, value = k.ureg("base"), lane_offset(k, {32: 2, 64: 3, 128: 4}[width]), k.reg("v", 4)
        k.UMOVI(base, 0)
        for _ in range(loads):
            k.LDG(width, value, offset, base, 0)
            wait_for(k, value)
        k.EXIT()
        return k

    # A further load that hits: LDG a cycle after the MOV before it, its MOV `latency` cycles later.
    assert cycles(kernel(3)) - cycles(kernel(2)) == 1 + latency


def test_l2_hit_takes_262_cycles():
    k = Kernel("l2")
    base, value = k.ureg("base"), k.reg("v")
    k.UMOVI(base, 0)
    k.LDG(32, value, ZERO, base, 0)
    wait_for(k, value)
    k.EXIT()
    # The second launch finds its sector in L2, not in L1 (emptied between kernels). Issue to the unit 1,
    # SM port 1, crossbar 123, slice 1, crossbar 124, SM port 1 (40 of 64 bytes), return to the register 11.
    hit = 1 + 1 + 123 + 1 + 124 + 1 + 11
    assert hit == 262
    # UMOVI at 20 (uniform latency 6), LDG 26, MOV 26 + 262, EXIT, end.
    assert cycles(k, launches=2) == START + 6 + hit + 2


def test_shared_load_takes_29_cycles():
    k = Kernel("shared")
    offset, value = lane_offset(k), k.reg("v")
    k.LDS(32, value, offset, 0)
    wait_for(k, value)
    k.EXIT()
    # S2R 20, SHL 24, LDS 28, MOV 28 + 29, EXIT 58, end 59.
    assert cycles(k, shared=4096, engines=("fast",)) == START + 8 + 29 + 2


@pytest.mark.parametrize(("shift", "ways"), [(2, 1), (3, 2), (4, 4), (7, 32)])
def test_shared_bank_conflict_costs_a_cycle_for_every_further_word_of_a_bank(shift, ways):
    k = Kernel("conflict")
    offset, value = lane_offset(k, shift), k.reg("v")
    k.LDS(32, value, offset, 0)
    wait_for(k, value)
    k.EXIT()
    # Lane l reads word l << (shift - 2): 32 / ways banks with `ways` words each.
    total, step = run(k, shared=4096)
    assert total == START + 8 + 29 + (ways - 1) + 2
    assert step.counters["bank_conflict_cycles"] == ways - 1


def test_shared_broadcast_has_no_conflict():
    k = Kernel("broadcast")
    offset, value = k.reg("offset"), k.reg("v")
    k.MOVI("s32", offset, 64)
    k.LDS(32, value, offset, 0)
    wait_for(k, value)
    k.EXIT()
    # MOVI 20, LDS 24, MOV 53, EXIT 54, end 55.
    assert cycles(k, shared=4096) == START + 4 + 29 + 2


def test_wide_shared_access_takes_a_cycle_for_every_128_bytes():
    k = Kernel("wide")
    offset, value = lane_offset(k, 4), k.reg("v", 4)
    k.LDS(128, value, offset, 0)
    wait_for(k, value)
    k.EXIT()
    # 32 lanes x 16 bytes = 4 groups of 8 lanes, no conflict inside a group: 3 cycles more than one group.
    total, step = run(k, shared=4096)
    assert total == START + 8 + 29 + 3 + 2
    assert step.counters["bank_conflict_cycles"] == 0


def shared_loads(count: int) -> Kernel:
    k = Kernel("loads")
    offset = k.reg("offset")
    values = [k.reg(f"v{i}") for i in range(count)]
    k.MOVI("s32", offset, 0)
    for value in values:
        k.LDS(32, value, offset, 0)
    k.EXIT()
    return k


def test_a_sub_core_pushes_five_accesses_then_one_in_four_cycles():
    # The address unit lets one instruction of a sub-core pass every 4 cycles, the queue holds 4. LDS i
    # is taken at 25 + 4 i. The first five issue at 24 .. 28: at 24 an empty queue, LDS 0 leaves it at 25.
    # LDS 5 finds 4 in the queue at 29, LDS 1 leaves at 29: it issues at 30, LDS 6 at 34, LDS 7 at 38.
    # EXIT waits for the last value: taken at 25 + 4 (n - 1), there 28 cycles later.
    for count in (1, 5, 6, 8):
        assert cycles(shared_loads(count), shared=128) == START + 5 + 4 * (count - 1) + 28 + 1
    _, step = run(shared_loads(8), shared=128)
    # Waiting for the queue: LDS 5 at 29, LDS 6 at 31 .. 33, LDS 7 at 35 .. 37.
    assert step.accounting["sub_core"]["memory_queue"] == 1 + 3 + 3


def test_load_store_unit_takes_one_access_in_two_cycles_from_four_sub_cores():
    # Four warps, one a sub-core, 8 loads each: 32 instructions, taken every 2 cycles from 25 on.
    assert cycles(shared_loads(8), shared=128, block=128) == START + 5 + 2 * 31 + 28 + 1


def test_uncoalesced_load_takes_a_cycle_for_every_line():
    def kernel(shift: int, loads: int) -> Kernel:
        k = Kernel("lines")
        base, offset, value = k.ureg("base"), lane_offset(k, shift), k.reg("v")
        k.UMOVI(base, 0)
        for _ in range(loads):
            k.LDG(32, value, offset, base, 0)
            wait_for(k, value)
        k.EXIT()
        return k

    # Lanes 128 bytes apart: 32 lines, 31 cycles more than one line when all of them hit L1.
    assert cycles(kernel(7, 3)) - cycles(kernel(7, 2)) == 1 + 32 + 31
    _, step = run(kernel(7, 3))
    assert (step.counters["l1_miss_sectors"], step.counters["l1_hit_sectors"]) == (32, 64)


def test_asynchronous_copy_takes_7_cycles_more_than_a_load_from_l2():
    def kernel(copy: bool) -> Kernel:
        k = Kernel("copy")
        base, offset, value = k.ureg("base"), lane_offset(k, 4), k.reg("v", 4)
        k.UMOVI(base, 0)
        if copy:
            k.LDGSTS(offset, 0, offset, base, 0)
            k.CPCOMMIT()
            k.CPWAIT(0)
        else:
            k.LDG(128, value, offset, base, 0)
        wait_for(k, offset if copy else value)
        k.EXIT()
        return k

    # Both ask for 4 lines of L2. The MOV issues with the last value, or the cycle after the CPWAIT
    # that issues with the last copy.
    assert cycles(kernel(True), shared=1024, launches=2) - cycles(kernel(False), shared=1024, launches=2) == 7 + 1


# -- barriers, CTAs, launches -----------------------------------------------------------------------------
def test_barrier_releases_all_warps_16_cycles_after_the_last_arrival():
    k = Kernel("barrier")
    r = k.reg("r")
    number = k.ureg("number")
    k.S2UR(number, "WARPID")
    k.UBR("EQ", number, UZERO, "wait")
    k.MOVI("f32", r, 1.0)
    k.FMA("f32", r, r, r, r)
    k.FMA("f32", r, r, r, r)
    k.label("wait")
    k.BAR()
    k.EXIT()
    # Warp 1: S2UR 20, UBR 26 (uniform latency 6, not taken), MOVI 27, FMA 31, FMA 35, BAR 36; both go on
    # at 36 + 16 and EXIT.
    total, step = run(k, block=64)
    assert total == START + 16 + 16 + 1
    # Warp 0 took the branch at 26 and arrived at 32: it waits 33 .. 51, warp 1 37 .. 51.
    assert step.accounting["sub_core"]["barrier"] == 19 + 15


def test_more_ctas_than_fit_run_in_waves():
    k = fma_chain()
    # 227 KB of shared memory: one CTA an SM. 132 CTAs are dispatched 8 a cycle, the last 4 in cycle 16.
    # A CTA takes `one` cycles from dispatch to the cycle after EXIT, in which the next one is dispatched.
    one = START + 4 + 4 * 9 + 2
    assert cycles(k, grid=132, shared=232448) == 16 + one
    assert cycles(k, grid=133, shared=232448) == 2 * one


def test_tiny_kernel_period_in_a_graph_is_1260_ns_and_in_a_stream_2400_ns():
    k = Kernel("scale")
    base, offset, value = k.ureg("base"), lane_offset(k), k.reg("v")
    k.UMOVI(base, 0)
    k.LDG(32, value, offset, base, 0)
    k.MULI("f32", value, value, 0.5)
    k.STG(32, offset, base, 128, value)
    k.EXIT()
    for mode, nanoseconds in (("graph", 1260), ("stream", 2400)):
        program = make_program(H100, [k], [Launch(0, 1, 32, 0)] * 4, 8192)
        machine = GpuMachine(program, H100, launch=mode)
        machine.step()
        step = machine.step()
        period = step.kernels[3]["end"] - step.kernels[2]["end"]
        # The chip's gap was set with a body of a few more address instructions: 1 % either way.
        assert period / 1.98 == pytest.approx(nanoseconds, rel=0.01)
        assert step.kernels[0]["first_cta"] == machine.timing.gap(mode, first=True)


def test_a_graph_starts_late_and_a_kernel_with_shared_memory_later_than_one_without():
    """Beside the gap of 60: 7 once a replay, 5 before each kernel that uses shared memory."""
    chip = TOY.with_override("launch.graph_start", "7").with_override("launch.shared_start", "5")
    k = Kernel("nothing")
    k.EXIT()
    for mode, once, gap in (("graph", 7, 60), ("stream", 0, 120)):
        program = make_program(chip, [k], [Launch(0, 1, 32, shared) for shared in (0, 128, 0)], 8192)
        kernels = GpuMachine(program, chip, launch=mode).step().kernels
        assert kernels[0]["first_cta"] == gap + once
        assert [after["first_cta"] - before["end"] for before, after in zip(kernels, kernels[1:])] == [gap + 5, gap]
        program.meta["part_of_step"] = True  # layers alone
        assert GpuMachine(program, chip, launch=mode).step().kernels[0]["first_cta"] == gap


def test_a_profiler_counts_the_head_of_a_launch_as_the_kernels_time():
    """Of the gap of 60 the last 20, and the 5 of a kernel with shared memory; never more than the whole gap."""
    chip = TOY.with_override("launch.shared_start", "5")
    k = Kernel("nothing")
    k.EXIT()
    program = make_program(chip, [k], [Launch(0, 1, 32, shared) for shared in (0, 128)], 8192)
    for head, counted in ((20, 20), (60, 60), (100, 60)):
        step = GpuMachine(program, chip.with_override("launch.kernel_head", str(head)), launch="graph").step()
        plain, shared = step.kernels
        assert [one["first_cta"] - one["start"] for one in (plain, shared)] == [counted, counted + 5]
        assert [plain["start"], shared["start"] - plain["end"]] == [60 - counted] * 2
        assert step.cycles == shared["end"]


# -- both engines on the small chip ------------------------------------------------------------------------
def test_twin_gives_the_same_hand_counted_cycles():
    k = Kernel("both")
    offset, value = lane_offset(k), k.reg("v")
    k.STS(32, offset, 0, offset)
    k.BAR()
    k.LDS(32, value, offset, 0)
    k.FMA("f32", value, value, value, value)
    k.EXIT()
    # toy_gpu: cta_start 4, S2R 4, SHL 8, STS 12, BAR 13, barrier 5, LDS 18 (latency 9), FMA 27, EXIT 28.
    assert cycles(k, chip=TOY, shared=512, engines=("fast", "naive")) == 29


def test_results_are_the_same_in_two_runs():
    k = Kernel("again")
    base, offset, value = k.ureg("base"), lane_offset(k), k.reg("v")
    k.UMOVI(base, 0)
    k.LDG(32, value, offset, base, 0)
    k.STG(32, offset, base, 4096, value)
    k.EXIT()
    first, second = (run(k, grid=300, block=64, steps=2)[1] for _ in range(2))
    assert first == second
    assert np.sum(list(first.accounting["sub_core"].values())) == first.cycles * 132 * 4
