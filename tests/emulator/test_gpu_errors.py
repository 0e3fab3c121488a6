"""What a GPU program must not do: both engines stop at the same place with the same words."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.gpu.errors import KINDS, LaunchError, MachineError
from emulator.gpu.machine import GpuMachine
from isa.builder import UZERO, ZERO, Kernel
from isa.program import Launch
from tests.emulator.gpu_program import lane_offset, make_program

TOY = load_chip("toy_gpu")
REAL, PHANTOM = 4096, (8192, 4096)


def fails(kernel: Kernel, block=32, shared=512) -> MachineError:
    """The error of a kernel, the same from both engines."""
    caught = []
    for engine in ("fast", "naive"):
        program = make_program(TOY, [kernel], [Launch(0, 1, block, shared)], REAL, PHANTOM)
        with pytest.raises(MachineError) as error:
            GpuMachine(program, TOY, engine=engine).step()
        caught.append(error.value)
    assert str(caught[0]) == str(caught[1])
    return caught[0]


def base_at(k: Kernel, address: int):
    base = k.ureg("base")
    k.UMOVI(base, address)
    return base


def phantom_value(k: Kernel):
    value = k.reg("phantom")
    k.LDG(32, value, ZERO, base_at(k, PHANTOM[0]), 0)
    return value


def outside(k):
    k.LDG(32, k.reg("v"), lane_offset(k), base_at(k, REAL - 124), 0)  # lane 31 starts at the end


def misaligned(k):
    k.LDG(64, k.reg("v", 2), ZERO, base_at(k, 4), 0)


def poison_address(k):
    k.LDG(32, k.reg("v"), phantom_value(k), base_at(k, 0), 0)


def poison_predicate(k):
    p, r = k.pred("p"), k.reg("r")
    k.SETP("LT", "s32", p, phantom_value(k), ZERO)
    k.MOVI("s32", r, 1, guard=p)


def poison_uniform(k):
    k.R2UR(k.ureg("u"), phantom_value(k))


def shared_range(k):
    k.LDS(32, k.reg("v"), lane_offset(k, 5), 0)  # lane 16 is at byte 512 of 512


def unwritten(k):
    a, b = k.reg("a"), k.reg("b")
    k.ADD("f32", a, b, b)


def divergent(k):
    p = k.pred("p")
    k.SETP("EQ", "s32", p, lane_offset(k), ZERO)
    k.label("again")
    k.BRA("again", guard=p)


def copy_groups(k):
    # Groups finish in order: the empty ones wait for the copy in the first.
    offset = lane_offset(k, 4)
    k.LDGSTS(offset, 0, offset, base_at(k, 0), 0)
    for _ in range(17):
        k.CPCOMMIT()


def barrier_at(k: Kernel, address: int, count: int = 1):
    """An mbarrier at a shared address, in a uniform register."""
    bar = base_at(k, address)
    k.MBINIT(bar, 0, count)
    return bar


def bulk_size(k):
    bar = barrier_at(k, 0)
    k.BULK(base_at(k, 64), base_at(k, 0), 0, base_at(k, 24), bar, 0)


def mbarrier(k):
    k.MBARRIVE(base_at(k, 8), 0, UZERO)


def mbarrier_overrun(k):
    bar, more = barrier_at(k, 0), base_at(k, 16)
    k.MBARRIVE(bar, 0, more)
    k.MBARRIVE(bar, 0, more)


def deadlock(k):
    bar = barrier_at(k, 16, 2)
    k.MBARRIVE(bar, 0, UZERO)
    k.MBWAIT(bar, 0, UZERO)


CASES = {
    "address_range": (outside, "LDG", "address 0x1000 is outside the allocated global memory"),
    "misaligned": (misaligned, "LDG", "address 0x4 is not a multiple of the access width"),
    "poison_address": (poison_address, "LDG", "an address operand has no value"),
    "poison_predicate": (poison_predicate, "MOVI", "the guard has no value"),
    "poison_uniform": (poison_uniform, "R2UR", "a uniform register would take a value that was computed from phantom"),
    "shared_range": (shared_range, "LDS", "shared-memory address 512 is outside the CTA's allocation"),
    "unwritten": (unwritten, "ADD", "R1 is read before anything was written to it"),
    "divergent": (divergent, "BRA", "the guard differs between lanes"),
    "copy_groups": (copy_groups, "CPCOMMIT", "more than 16 groups of asynchronous copies are unfinished"),
    "bulk_size": (bulk_size, "BULK", "24 bytes: a bulk copy moves a multiple of 16"),
    "mbarrier": (mbarrier, "MBARRIVE", "there is no mbarrier at shared address 8; MBINIT makes one"),
    "mbarrier_overrun": (mbarrier_overrun, "MBARRIVE", "the phase of the mbarrier at shared address 0 gets more than"),
    "deadlock": (deadlock, "MBWAIT", "no warp can ever go on: the awaited phase of the mbarrier at shared address 16"),
}


@pytest.mark.parametrize("kind", CASES)
def test_error_names_kernel_instruction_cta_and_cause(kind):
    write, name, words = CASES[kind]
    k = Kernel("wrong")
    write(k)
    at = k.count - 1
    k.EXIT()
    error = fails(k)
    assert error.kind == kind
    assert (error.kernel, error.index, error.cta, error.warp) == ("wrong", at, 0, 0)
    assert f"kernel wrong, instruction {at} ({name}): {words}" in str(error)


def test_every_error_kind_has_a_program():
    assert set(CASES) == set(KINDS) - {"none"}


@pytest.mark.parametrize(("shared", "source", "size", "kind", "value"), [
    (72, 0, 32, "misaligned", 72),
    (64, 8, 32, "misaligned", 8),
    (496, 0, 32, "shared_range", 496),  # 512 bytes
    (64, REAL - 16, 32, "address_range", REAL - 16),
    (64, PHANTOM[0] + PHANTOM[1] - 16, 32, "address_range", PHANTOM[0] + PHANTOM[1] - 16),
    (64, 0, 0, "bulk_size", 0),
    (64, 0, 1 << 20, "bulk_size", 1 << 20),
])
def test_a_bulk_copy_that_cannot_be_made_names_the_address_or_the_size(shared, source, size, kind, value):
    k = Kernel("wrong")
    bar = barrier_at(k, 0)
    k.BULK(base_at(k, shared), base_at(k, source), 0, base_at(k, size), bar, 0)
    k.EXIT()
    error = fails(k)
    assert (error.kind, error.value) == (kind, value)


@pytest.mark.parametrize(("address", "kind"), [(4, "misaligned"), (512, "shared_range"), (-8, "shared_range")])
def test_an_mbarrier_lies_aligned_in_the_ctas_shared_memory(address, kind):
    k = Kernel("wrong")
    k.MBINIT(base_at(k, address), 0, 1)
    k.EXIT()
    assert fails(k).kind == kind


def test_an_mbarrier_that_a_phantom_copy_has_overwritten_is_gone():
    k = Kernel("wrong")
    bar = barrier_at(k, 16)
    k.BULK(base_at(k, 0), base_at(k, PHANTOM[0]), 0, base_at(k, 32), bar, 0)
    k.EXIT()
    error = fails(k)  # when the copy is complete, and its bytes should go there
    assert (error.kind, error.index) == ("mbarrier", k.count - 2)


def test_bulk_copies_are_refused_by_a_chip_that_has_none():
    k = Kernel("fine")
    k.BULK(UZERO, UZERO, 0, UZERO, UZERO, 0)
    k.EXIT()
    with pytest.raises(LaunchError, match=r"this chip has no bulk copies \(sm.bulk.engines = 0\); copy with LDGSTS"):
        chip = load_chip("a100_sxm")
        GpuMachine(make_program(chip, [k], [Launch(0, 1, 32, 0)]), chip)


def test_an_mbarrier_without_arrivals_is_refused():
    k = Kernel("none")
    k.MBINIT(UZERO, 0, 0)
    k.EXIT()
    with pytest.raises(LaunchError, match="expects at least one arrival a phase"):
        GpuMachine(make_program(TOY, [k], [Launch(0, 1, 32, 512)]), TOY)


def test_first_error_is_the_one_of_the_lowest_sub_core():
    k = Kernel("wrong")
    unwritten(k)
    k.EXIT()
    assert fails(k, block=128).warp == 0


@pytest.mark.parametrize(("changes", "words"), [
    ({"grid": 0}, "grid of 0 CTAs"),
    ({"block": 40}, "block of 40 threads; a multiple of 32"),
    ({"shared_bytes": 4000}, "4000 bytes of shared memory; 0 to 3840 are possible"),
    ({"block": 32 * 20}, "an SM has too few warps for one CTA of 20 warps"),
])
def test_impossible_launch_is_refused(changes, words):
    k = Kernel("fine")
    k.EXIT()
    launch = Launch(**({"kernel": 0, "grid": 1, "block": 32, "shared_bytes": 0} | changes))
    with pytest.raises(LaunchError, match=words.replace("(", r"\(")):
        GpuMachine(make_program(TOY, [k], [launch]), TOY)


def test_missing_argument_is_refused():
    k = Kernel("needs", parameters=("x",))
    k.parameter("x")
    k.EXIT()
    with pytest.raises(LaunchError, match="instruction 0 reads parameter 0, the launch has 0"):
        GpuMachine(make_program(TOY, [k], [Launch(0, 1, 32, 0)]), TOY)


def test_kernel_without_an_end_is_refused():
    k = Kernel("endless")
    k.MOVI("s32", k.reg("r"), 1)
    with pytest.raises(LaunchError, match="run past its end"):
        GpuMachine(make_program(TOY, [k], [Launch(0, 1, 32, 0)]), TOY)


def test_register_beyond_the_kernels_count_is_refused():
    k = Kernel("small")
    k.MOVI("s32", k.reg("a", 4)[3], 1)
    k.EXIT()
    with pytest.raises(LaunchError, match="R3 is used, but the kernel has 2 registers"):
        GpuMachine(make_program(TOY, [k], [Launch(0, 1, 32, 0)], registers=2), TOY)


def test_poisoned_store_to_real_memory_is_dropped_and_counted():
    k = Kernel("store")
    k.STG(32, lane_offset(k), base_at(k, 0), 0, phantom_value(k))
    k.EXIT()
    for engine in ("fast", "naive"):
        data = np.arange(REAL, dtype=np.uint32).astype(np.uint8)
        machine = GpuMachine(make_program(TOY, [k], [Launch(0, 1, 32, 0)], data, PHANTOM), TOY, engine=engine)
        assert machine.step().counters["poisoned_stores"] == 1
        np.testing.assert_array_equal(machine.read("memory")[0], data)


def test_phantom_tensor_cannot_be_read():
    k = Kernel("fine")
    k.EXIT()
    program = make_program(TOY, [k], [Launch(0, 1, 32, 0)])
    program.tensors["memory"].phantom = True
    with pytest.raises(ValueError, match="tensor memory is phantom"):
        GpuMachine(program, TOY).read("memory")
