"""Single operations on a GPU: values against float64, the twin, the same time without values."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.run import load
from isa import formats
from programs.gpu.gemm_plan import FORMS, GemmPlan, candidates
from programs.gpu.lone_gemm import gemm_program
from programs.gpu.plan import Limits, PlanError

# Of the largest output; 8-bit operands: x is rounded to 4 bits or 8.
ERROR = {"bf16": 4e-3, "f16": 1e-3, "e4m3": 0.06, "s8": 0.02, "s8_bf16": 4e-3}

# m, n, k, form, warps, tiles, slots, splits: k with and without a rest of a stage, columns of several
# eights and of several CTAs, outputs that fill no CTA, more slots than stages and fewer.
PRODUCTS = [
    (1, 64, 128, "bf16", 4, 1, 3, 1),
    (5, 70, 200, "f16", 4, 1, 3, 1),
    (64, 96, 520, "bf16", 2, 1, 4, 1),
    (70, 64, 256, "f16", 4, 1, 3, 1),
    (17, 40, 1100, "f16", 1, 1, 3, 2),
    (9, 50, 300, "e4m3", 4, 1, 4, 1),
    (20, 50, 1600, "e4m3", 2, 1, 3, 3),
    (3, 130, 700, "s8", 4, 2, 3, 1),
    (2, 33, 3000, "s8", 1, 1, 3, 2),
    (64, 300, 300, "bf16", 8, 2, 4, 1, 2),
    (4, 40, 1900, "f16", 3, 1, 8, 2, 4),
    (11, 70, 300, "s8_bf16", 2, 1, 3, 1),
    (64, 96, 1400, "s8_bf16", 4, 2, 4, 2, 2),
    (70, 40, 136, "s8_bf16", 4, 1, 2, 1),
]


def weights_of(plan: GemmPlan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(bytes, values) of random weights."""
    values = rng.standard_normal((plan.n, plan.k))
    form = "s8" if plan.widened else plan.form
    raw = formats.encode(np.round(values * 30) if form == "s8" else values, form)
    return formats.to_bytes(raw, form), formats.decode(raw, form).astype(np.float64)


@pytest.mark.parametrize("shape", PRODUCTS)
def test_products_agree_with_float64(shape: tuple) -> None:
    plan, chip, rng = GemmPlan(*shape), load_chip("h100_sxm"), np.random.default_rng(1)
    raw, weights = weights_of(plan, rng)
    scales = rng.uniform(0.5, 2, plan.n).astype(np.float32) if FORMS[plan.form] == 1 else None
    machine = load(gemm_program(chip, plan, 2, raw, scales), chip)
    machine.write("x", rng.standard_normal((plan.m, plan.k)))
    x = machine.read("x").astype(np.float64)
    machine.step()
    expected = x @ weights.T * (1 if scales is None else scales.astype(np.float64))
    assert np.abs(machine.read("y") - expected).max() < ERROR[plan.form] * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(3, 40, 200, "bf16", 2, 1, 3, 1), (2, 20, 1100, "e4m3", 1, 1, 2, 2),
                                   (9, 40, 300, "s8_bf16", 2, 1, 2, 1)])
def test_without_values_a_product_takes_the_same_cycles_and_the_twin_agrees(shape: tuple) -> None:
    plan, chip = GemmPlan(*shape), load_chip("toy_gpu")
    for key, value in (("sm.l1.bytes", "65536"), ("sm.shared.bytes", "32768"), ("sm.shared.max_per_cta", "32512")):
        chip = chip.with_override(key, value)
    raw, _ = weights_of(plan, np.random.default_rng(2))
    scales = np.ones(plan.n, dtype=np.float32)
    steps = [load(gemm_program(chip, plan, 1, raw, scales), chip).step(),
             load(gemm_program(chip, plan, 1), chip).step(),
             load(gemm_program(chip, plan, 1), chip, engine="naive").step()]
    assert len({step.cycles for step in steps}) == 1
    assert steps[0].traffic == steps[1].traffic == steps[2].traffic


def test_candidates_cover_small_and_large_products() -> None:
    limits = Limits.of(load_chip("h100_sxm"))
    for m, n, k in ((1, 32, 32), (64, 65536, 128), (16, 32, 65536), (300, 4096, 4096)):
        for plan in candidates(m, n, k, "bf16", limits):
            assert plan.fits(limits) and plan.groups * plan.rows >= n
            assert plan.split_stages * plan.splits >= plan.stages > plan.split_stages * (plan.splits - 1)
    few = candidates(1, 32, 65536, "bf16", limits)
    assert few[0].splits > 1  # one CTA's chain of 1,024 stages would take longer than a second kernel
    with pytest.raises(PlanError, match="no plan for a product of 1 x 32 x 32"):
        candidates(1, 32, 32, "bf16", Limits.of(load_chip("h100_sxm").with_override("sm.shared.max_per_cta", "4096")))
