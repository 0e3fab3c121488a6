"""The fast GPU engine against its twin, and values mode against timing mode, on random programs.

DECODELAB_RANDOM_PROGRAMS sets the number of programs (default 200).
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.chip import load_chip
from emulator.gpu.errors import MachineError
from emulator.gpu.machine import GpuMachine
from emulator.trace import CTA, Window
from tests.emulator.gpu_random import Case, programs

PROGRAMS = int(os.environ.get("DECODELAB_RANDOM_PROGRAMS", "200"))
CHIP = load_chip("toy_gpu")
COMMON = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


def outcome(program, engine, launch="graph"):
    """Everything a run shows: results and events of two steps and the memory, or the first error."""
    machine = GpuMachine(program, CHIP, engine=engine, launch=launch)
    steps = []
    try:
        for _ in range(2):
            step = machine.step(trace=Window())
            events = [column.tobytes() for column in step.trace.columns().values()]
            steps.append((step.cycles, step.traffic, step.counters, step.accounting, step.kernels, events))
    except MachineError as error:
        return (error.kind, error.cycle, error.kernel, error.index, error.cta, error.warp, error.value), None
    ranks = range(len(machine.engines))
    return steps, np.concatenate([machine.read("memory", rank=rank) for rank in ranks])


def check_same(program) -> str:
    """How a program ends, the same on both engines: "completed" or the kind of its error."""
    fast, fast_memory = outcome(program, "fast")
    naive, naive_memory = outcome(program, "naive")
    assert fast == naive
    if fast_memory is None:
        return fast[0]
    np.testing.assert_array_equal(fast_memory, naive_memory)
    return "completed"


def test_fast_engine_and_twin_agree_on_cycles_values_counters_accounting_and_events():
    """Or on the first error: kind, cycle, instruction, CTA, warp. At least half run to their end."""
    ended: Counter[str] = Counter()

    @settings(max_examples=PROGRAMS, **COMMON)
    @given(case=programs(CHIP))
    def check(case: Case) -> None:
        ended[check_same(case.real)] += 1

    check()
    assert ended["completed"] * 2 >= ended.total() >= PROGRAMS // 2, ended


@settings(max_examples=max(1, PROGRAMS // 4), **COMMON)
@given(case=programs(CHIP, data_addresses=False))
def test_engines_agree_on_phantom_input(case: Case):
    check_same(case.phantom)


@settings(max_examples=PROGRAMS, **COMMON)
@given(case=programs(CHIP, data_addresses=False, errors=False))
def test_values_mode_and_timing_mode_take_the_same_cycles_and_traffic(case: Case):
    real, _ = outcome(case.real, "fast")
    phantom, _ = outcome(case.phantom, "fast")
    assert len(real) == len(phantom) == 2
    for one, other in zip(real, phantom, strict=True):
        one[2].pop("poisoned_stores")  # phantom values are not stored, and that is counted
        other[2].pop("poisoned_stores")
        assert one == other


def test_fast_engine_and_twin_agree_with_peers():
    """Two or four GPUs side by side: also in what each stores into the others' memory, and when it is seen."""
    ended: Counter[str] = Counter()

    @settings(max_examples=max(4, PROGRAMS // 2), **COMMON)
    @given(case=st.sampled_from([2, 4]).flatmap(lambda n: programs(CHIP, data_addresses=False, ranks=n)))
    def check(case: Case) -> None:
        ended[check_same(case.real)] += 1

    check()
    assert ended["completed"] * 2 >= ended.total(), ended


@settings(max_examples=max(4, PROGRAMS // 4), **COMMON)
@given(case=st.sampled_from([2, 8]).flatmap(
    lambda n: programs(CHIP, data_addresses=False, errors=False, ranks=n)))
def test_one_gpu_takes_the_time_of_all(case: Case):
    check_same(case.phantom)
    real, _ = outcome(case.real, "fast")
    phantom, _ = outcome(case.phantom, "fast")
    assert len(real) == len(phantom) == 2
    for one, other in zip(real, phantom, strict=True):
        one[2].pop("poisoned_stores")
        other[2].pop("poisoned_stores")
        assert one == other


@settings(max_examples=max(4, PROGRAMS // 4), **COMMON)
@given(case=programs(CHIP, errors=False))
def test_recording_changes_nothing_that_is_counted(case: Case):
    """And an SM is active while one of its CTAs is there, as the trace has them."""
    traced, plain = (GpuMachine(case.real, CHIP) for _ in range(2))
    for _ in range(2):
        one, other = traced.step(trace=Window()), plain.step()
        trace, one.trace = one.trace, None
        for name in ("cycles", "traffic", "counters", "accounting", "kernels", "time_tree", "trace"):
            assert getattr(one, name) == getattr(other, name), name
        ctas = trace.kind == CTA
        active = {(unit, cycle) for unit, start, end in zip(trace.unit[ctas], trace.start[ctas], trace.end[ctas])
                  for cycle in range(start, end)}
        assert len(active) == one.counters["sm_active_cycles"]
    np.testing.assert_array_equal(traced.read("memory"), plain.read("memory"))
