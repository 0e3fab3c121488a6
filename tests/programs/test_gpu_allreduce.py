"""The all-reduce over 2, 4 and 8 GPUs: every way gives every rank the bits of the fp32 tree, call after call, and one
GPU that stands for all takes the same time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.gpu.machine import GpuMachine
from isa import formats
from programs.gpu.allreduce_plan import WAYS, AllreducePlan, candidates, plan_way
from programs.gpu.lone_allreduce import allreduce_program
from programs.gpu.plan import Limits

TOY, H100 = load_chip("toy_gpu"), load_chip("h100_sxm")
LIMITS = Limits.of(TOY)


def tree(rows: list[np.ndarray]) -> np.ndarray:
    """((0, 1), (2, 3)), ((4, 5), (6, 7)) in fp32."""
    while len(rows) > 1:
        rows = [a + b for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return rows[0]


def placed(row: np.ndarray, plan: AllreducePlan, rank: int) -> np.ndarray:
    """Where a rank has the parts of a message: part p at place p XOR rank (two), else in order. Its own inverse."""
    if plan.way != "two":
        return row
    parts = row.reshape(plan.ranks, -1)
    return parts[np.arange(plan.ranks) ^ rank].reshape(-1)


def check_values(chip, plan: AllreducePlan, calls: int = 3, engine: str = "fast"):
    """Run some calls on random values, twice; gives the cycles."""
    machine = GpuMachine(allreduce_program(chip, plan, calls, timing_only=False), chip, engine=engine)
    rng = np.random.default_rng(plan.values)
    cycles = []
    for _ in range(2):
        rows = [formats.decode(formats.encode(rng.normal(0, 3, plan.values), plan.form), plan.form)
                for _ in range(plan.ranks)]
        residual = rng.normal(0, 3, plan.values).astype(np.float32)
        for rank, row in enumerate(rows):
            machine.write("values", placed(row, plan, rank), rank=rank)
        if plan.residual:
            machine.write("residual", residual)
        cycles.append(machine.step().cycles)
        expected = tree(rows)
        if plan.residual:
            expected = residual + expected
        expected = formats.decode(formats.encode(expected, plan.form), plan.form)
        for rank in range(plan.ranks):
            got = placed(machine.read("out", rank=rank).reshape(-1), plan, rank)
            np.testing.assert_array_equal(got, expected)
    return cycles


CASES = [(way, ranks, values, form) for (way, ranks), (values, form) in product(
    product(WAYS, (2, 4, 8)), ((1024, "f32"), (4160, "bf16")))]


@pytest.mark.parametrize(("way", "ranks", "values", "form"), CASES)
def test_every_rank_gets_the_bits_of_the_tree_sum(way: str, ranks: int, values: int, form: str) -> None:
    plan = plan_way(way, ranks, values, form, LIMITS)
    timed = GpuMachine(allreduce_program(TOY, plan, 3), TOY)
    assert check_values(TOY, plan) == [timed.step().cycles for _ in range(2)]


@pytest.mark.parametrize(("ranks", "values"), [(2, 100), (4, 7), (8, 1000)])
def test_a_push_adds_to_a_residual_and_takes_any_length(ranks: int, values: int) -> None:
    check_values(TOY, plan_way("push", ranks, values, "f32", LIMITS, residual=True))


@pytest.mark.parametrize("way", WAYS)
def test_the_twin_takes_the_same_time(way: str) -> None:
    plan = plan_way(way, 4, 512, "f16", LIMITS)
    assert check_values(TOY, plan, 2, "naive") == check_values(TOY, plan, 2)


def test_ways_follow_the_size_of_the_message() -> None:
    """A100 pushes one row of values and reads more; H100 pushes more; from the libraries' thresholds on parts are
    reduced and gathered."""
    def tried(name: str, ranks: int, size: int) -> set[str]:
        return {plan.way for plan in candidates(load_chip(name), ranks, size, "bf16")}

    assert "push" in tried("h100_sxm", 8, 256) and "lamport" in tried("h100_sxm", 8, 128 << 10)
    assert "lamport" in tried("a100_sxm", 8, 4096)
    assert [tried("a100_sxm", 8, size) for size in (16 << 10, 255 << 10, 256 << 10)] == [{"pull"}, {"pull"}, {"two"}]
    assert tried("h100_sxm", 8, 1 << 20) == {"two"}
    assert tried("h100_sxm", 2, 256 << 20) == {"pull"}  # of two GPUs two shots move as much


def test_a_row_of_values_goes_through_one_cta_or_a_cluster() -> None:
    """8 KB in pieces of 16 bytes: 512 threads of one CTA on A100, eight CTAs of 64 on H100."""
    def cut(name: str, size: int) -> tuple[int, int]:
        return next((plan.grid, plan.warps) for plan in candidates(load_chip(name), 2, size, "bf16")
                    if plan.way == "lamport")

    assert cut("a100_sxm", 8192) == (1, 16) and cut("a100_sxm", 1024) == (1, 2)
    assert cut("h100_sxm", 8192) == (8, 2) and cut("h100_sxm", 16384) == (16, 2)


@pytest.mark.parametrize(("ranks", "values"), [(2, 4096 + 8), (4, 8)])
def test_zeros_of_any_sign_arrive(ranks: int, values: int) -> None:
    """The word 0 says that nothing has come yet: values 0 and -0 must not be taken for it, call after call."""
    plan = plan_way("lamport", ranks, values, "bf16", LIMITS)
    machine = GpuMachine(allreduce_program(TOY, plan, 4, timing_only=False), TOY)
    for rank in range(ranks):
        machine.write("values", np.where(np.arange(values) % 3 == 0, 1.0 + rank, [0.0, -0.0][rank % 2]), rank=rank)
    machine.step()
    for rank in range(ranks):
        total = ranks * (ranks + 1) / 2
        assert (machine.read("out", rank=rank).reshape(-1) == np.where(np.arange(values) % 3 == 0, total, 0)).all()


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="over 3 GPUs; 2, 4 or 8"):
        plan_way("push", 3, 64, "f32", LIMITS)
    with pytest.raises(ValueError, match="multiple of 128 bytes"):
        plan_way("two", 8, 100, "f32", LIMITS)


@pytest.mark.parametrize("ranks", [2, 8])
def test_a_push_takes_two_latencies_a_pull_five_and_two_shots_two_for_each_gpu_more(ranks: int) -> None:
    """The last store's acknowledgement comes back before a kernel ends. Polls find a flag up to a round trip late. Two
    shots: a flag, a read, a flag, and a read from each peer in turn."""
    def body(way: str, latency: int) -> int:
        chip = H100.with_override("nvlink.latency", str(latency))
        machine = GpuMachine(allreduce_program(chip, plan_way(way, ranks, 1024, "bf16", Limits.of(chip)), 2), chip)
        machine.step()
        last = machine.step().kernels[1]
        return last["end"] - last["first_cta"]

    for way, times in (("push", 2), ("lamport", 2), ("pull", 5), ("two", 2 * ranks + 2)):
        grown = (body(way, 3000) - body(way, 1000)) / 2000
        assert abs(grown - times) < 0.35, (way, grown)
