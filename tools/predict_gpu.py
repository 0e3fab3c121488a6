"""GPU operations of `predict`: cuts tried on the emulated machine, replayed as they were measured.

A matrix product is a graph of `weight_copies` products on distinct weights: its time is one copy's share of
a replay, launch edges included. Where the weights of all copies could stay in L2 the second replay counts;
else one product from cold memory is the same. An attention call is replayed on the same K and V.

The cut of a product is chosen by trial where its weights are few: the planner's best candidates run once
each, and the fastest one counts; of more weights two candidates run, of a large product the best by estimate. An
attention call is cut as serving frameworks cut it (programs/gpu/attention_calls.py): the candidates run where K and V
are few. An all-reduce is a graph of five calls on 16-bit values; the ways that libraries would take are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tools.floor import (
    Floor,
    hbm_bytes_per_second,
    l2_bytes_per_cycle,
    l2_capacity_bytes,
    tensor_macs_per_cycle,
)
from tools.where import told_bound

if TYPE_CHECKING:
    from emulator.chip import Chip
    from emulator.result import StepResult
    from isa.program import Program
    from programs.gpu.gemm_plan import GemmPlan
    from tools.cases import Case

TRIAL_BYTES = 40_000_000  # weights of products whose cut is chosen by trial of all candidates
TRIAL_BYTES_OF_TWO = 100_000_000  # and of the first two
TRIAL_BYTES_ATTENTION = 160_000_000  # K and V of calls of which other cuts are tried


def check_machine(chip: Chip) -> None:
    """Raise ChipError for numbers that no GPU can have."""
    from emulator.gpu.memory_layout import read_numbers
    from emulator.gpu.timing import read_timing

    read_timing(chip)
    read_numbers(chip)


def measure(chip: Chip, case: Case) -> dict[str, Any]:
    """Cycles, utilisation, bound and traffic of a case, from an emulated run. Raises ValueError."""
    return {"gemm": _gemm, "decode_attention": _attention, "allreduce": _allreduce}[case.op](chip, case)


def _outcome(chip: Chip, cycles: int, traffic: Mapping[str, int], parts: dict[str, Fraction]) -> dict[str, Any]:
    """parts: least seconds that each resource needs."""
    floor = Floor(tuple(sorted(((n, float(s)) for n, s in parts.items()), key=lambda p: (-p[1], p[0]))))
    seconds = cycles / chip.clock_hz
    return {"cycles": cycles, "time_us": seconds * 1e6, "utilisation": floor.seconds / seconds,
            "bound_by": told_bound(floor, seconds), "traffic": dict(traffic)}


def _parts(chip: Chip, form: str, macs: int, moved: int, resident: bool) -> dict[str, Fraction]:
    parts = {"arithmetic": Fraction(macs) / (tensor_macs_per_cycle(chip, form) * chip.clock_hz)}
    if l2_bytes_per_cycle(chip):
        parts["L2 read"] = Fraction(moved, l2_bytes_per_cycle(chip) * chip.clock_hz)
    if not resident:
        parts["HBM read"] = moved / hbm_bytes_per_second(chip)
    return parts


def _replayed(chip: Chip, program: Program, warm: bool) -> StepResult:
    """One replay of a program; warm: the second one."""
    from emulator.run import load

    machine = load(program, chip)
    if warm:
        machine.step()
    return machine.step()


# -- matrix products ---------------------------------------------------------------------------


def _gemm(chip: Chip, case: Case) -> dict[str, Any]:
    from programs.gpu.gemm_plan import FORMS
    from programs.gpu.lone_gemm import WORDS, gemm_program

    m, n, k, copies = case.numbers("m", "n", "k", "weight_copies")
    form = WORDS[case["dtype"]]
    plan, trial = chosen_plan(chip, m, n, k, form, copies)
    weights = n * plan.row_bytes
    rotate = copies * weights < 2 * l2_capacity_bytes(chip)
    count = copies if rotate else 1
    step = trial if trial and not rotate else _replayed(chip, gemm_program(chip, plan, count), warm=rotate)
    moved = n * k * FORMS[form] + m * k * FORMS[plan.mma_form] + 2 * m * n
    parts = _parts(chip, plan.mma_form, m * n * k, moved, copies * weights <= l2_capacity_bytes(chip))
    # A replay holds all copies: one that runs alone has its share of the graph's start.
    start = 0 if rotate else round(Fraction(int(chip["launch.graph_start"]) * (copies - 1), copies))
    share = {level: round(Fraction(total, count)) for level, total in step.traffic.items()}
    return _outcome(chip, round(Fraction(step.cycles - start, count)), share, parts)


def chosen_plan(chip: Chip, m: int, n: int, k: int, form: str, copies: int) -> tuple[GemmPlan, StepResult | None]:
    """The fastest candidate in a trial, warm where all copies fit L2, and its replay; of large products the best by
    estimate, and None."""
    from programs.gpu.gemm_plan import candidates
    from programs.gpu.lone_gemm import gemm_program
    from programs.gpu.plan import Limits

    found = candidates(m, n, k, form, Limits.of(chip))
    weights = found[0].n * found[0].row_bytes
    if weights > TRIAL_BYTES:
        found = found[:2 if weights <= TRIAL_BYTES_OF_TWO else 1]
    if len(found) == 1:
        return found[0], None
    warm = copies * weights <= l2_capacity_bytes(chip)
    trials = [(_replayed(chip, gemm_program(chip, plan), warm), plan) for plan in found]
    step, plan = min(trials, key=lambda one: one[0].cycles)
    return plan, step


# -- all-reduce --------------------------------------------------------------------------------

CALLS = 5  # of a graph


def _allreduce(chip: Chip, case: Case) -> dict[str, Any]:
    from programs.gpu.allreduce_plan import candidates
    from programs.gpu.lone_allreduce import allreduce_program

    ranks, message = case.numbers("num_gpus", "message_bytes")
    possible = [n for n in (2, 4, 8) if n <= chip["nvlink.gpus"]]
    if not possible:
        raise ValueError(f"an all-reduce takes 2 GPUs of a node at least, and one of {chip.name} has "
                         f"{chip['nvlink.gpus']}")
    if ranks not in possible:
        raise ValueError(f"num_gpus {ranks} is not one of {', '.join(map(str, possible))}: {chip.name} has nodes of "
                         f"{chip['nvlink.gpus']} GPUs")
    # Values, result and parts: where they could stay in L2 the second replay counts; else one call is like the next.
    warm = 3 * message < 2 * l2_capacity_bytes(chip)
    calls = CALLS if warm else 1
    start = 0 if warm else round(Fraction(int(chip["launch.graph_start"]) * (CALLS - 1), CALLS))
    steps = [_replayed(chip, allreduce_program(chip, plan, calls), warm)
             for plan in candidates(chip, ranks, message, "bf16")]
    step = min(steps, key=lambda one: one.cycles)
    share = {level: round(Fraction(total, calls)) for level, total in step.traffic.items()}
    rate = int(chip["nvlink.bytes"]) * chip.clock_hz
    least = Fraction(2 * (ranks - 1) * message, ranks)  # what each GPU must send, and receive
    parts = {"HBM read": Fraction(0) if warm else message / hbm_bytes_per_second(chip)}
    if rate:
        parts["NVLink"] = least / rate
    return _outcome(chip, round(Fraction(step.cycles - start, calls)), share, parts)


# -- attention ---------------------------------------------------------------------------------


def _attention(chip: Chip, case: Case) -> dict[str, Any]:
    from programs.gpu.attention_calls import call_candidates
    from programs.gpu.lone_attention import WORDS, attention_program

    batch, kv_len, q_heads, kv_heads, head_dim = case.numbers("batch", "kv_len", "q_heads", "kv_heads", "head_dim")
    if q_heads % kv_heads:
        raise ValueError(f"q_heads {q_heads} is no multiple of kv_heads {kv_heads}")
    form = WORDS[case["kv_dtype"]]
    size = 1 if form == "e4m3" else 2
    found = call_candidates(chip, batch, kv_heads, q_heads // kv_heads, head_dim, kv_len, size)
    moved = 2 * size * batch * kv_len * kv_heads * head_dim
    if moved > TRIAL_BYTES_ATTENTION:  # memory decides, whatever the cut
        found = found[:1]
    warm = moved < 2 * l2_capacity_bytes(chip)
    steps = [_replayed(chip, attention_program(chip, plan, form), warm) for plan in found]
    step = min(steps, key=lambda one: one.cycles)
    macs = 2 * batch * kv_len * q_heads * head_dim
    parts = _parts(chip, "f16" if size == 1 else form, macs, moved, moved <= l2_capacity_bytes(chip))
    return _outcome(chip, step.cycles, step.traffic, parts)
