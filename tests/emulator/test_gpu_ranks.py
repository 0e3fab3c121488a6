"""Several GPUs that do the same: cycles of a read and of a flag by hand, values between ranks, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.gpu.errors import LaunchError, MachineError
from emulator.gpu.machine import GpuMachine
from emulator.gpu.ranks import AsymmetryError
from emulator.gpu.timing import PEER_AT
from isa.builder import UZERO, ZERO, Kernel
from isa.program import GpuImage, Launch, Program
from tests.emulator.gpu_program import lane_offset, make_program

TOY = load_chip("toy_gpu").with_override("tlb.entries", "0").with_override("l2.partitions", "1")
ENGINES = ("fast", "naive")


def group(kernel: Kernel, ranks: int, data: list[np.ndarray] | int = 4096, launches: int = 1, grid: int = 1,
          timing_only: bool = False) -> Program:
    """A program for so many ranks; data: the memory of each, or its size."""
    images = [np.zeros(data, dtype=np.uint8)] * ranks if isinstance(data, int) else data
    program = make_program(TOY, [kernel], [Launch(0, grid, 32, 0)] * launches, images[0])
    program.images = [GpuImage(image) for image in images]
    program.chips = [(0, rank, ()) for rank in range(ranks)]
    program.meta["timing_only"] = timing_only
    return program


def words(machine: GpuMachine, rank: int) -> np.ndarray:
    """A rank's memory."""
    return machine.read("memory", rank=rank)[0].astype(np.uint8).view(np.int32)


def window(k: Kernel, distance: int):
    """A uniform register with the beginning of a peer's memory."""
    base = k.ureg(f"peer{distance}")
    k.UMOVI(base, distance)
    k.USHL(base, base, PEER_AT)
    return base


@pytest.mark.parametrize("engine", ENGINES)
def test_a_load_from_a_peer_takes_the_link_both_ways(engine: str) -> None:
    def body(distance: int) -> int:
        k = Kernel("load")
        value = k.reg("v")
        k.LDG(32, value, ZERO, window(k, distance), 0)
        k.MOV(k.reg("sink"), value)
        k.EXIT()
        launch = GpuMachine(group(k, 2, launches=2), TOY, engine=engine).step().kernels[1]  # the line is in L2
        return launch["end"] - launch["first_cta"]

    # Beside a hit of one's own L2: the port (6 bytes at 16 a cycle, 1) and the link's 30 out, the peer's port (38
    # bytes, 3) and 30 back.
    assert body(1) - body(0) == 1 + 30 + 3 + 30


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flag_is_seen_when_it_arrives(engine: str) -> None:
    def seen(delay: int) -> bool:
        k = Kernel("flag")
        peer, value, one = window(k, 1), k.reg("v"), k.reg("one")
        idle = [k.ureg(f"idle{i}") for i in range(4)]  # a result is there after 3 cycles
        k.MOVI("s32", one, 1)
        k.STG(32, ZERO, peer, 0, one)
        for i in range(delay):
            k.UMOVI(idle[i % 4], 0)
        k.LDCG(32, value, ZERO, UZERO, 0)
        k.STG(32, ZERO, UZERO, 128, value)
        k.EXIT()
        machine = GpuMachine(group(k, 2), TOY, engine=engine)
        machine.step()
        both = [words(machine, rank) for rank in range(2)]
        assert both[0][0] == both[1][0] == 1 and both[0][32] == both[1][32]
        return bool(both[0][32])

    # Issued at 0, taken by the load-store unit at 1; a header and a sector, 40 bytes, leave the SM in 2, crossbar 8,
    # port 3, link 30: at the peer's slice at 44. A load that is issued at 35 would be there: the crossbar's 8 and a
    # cycle later. It is issued `delay` + 1 after the store.
    assert not seen(33)
    assert seen(34)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_rank_reads_what_its_peers_have(engine: str) -> None:
    k = Kernel("gather")
    offset, value = lane_offset(k), k.reg("v")
    for distance in range(1, 4):
        k.LDCG(32, value, offset, window(k, distance), 0)
        k.STG(32, offset, UZERO, 128 * distance, value)
    k.EXIT()
    data = [np.full(1024, rank, dtype=np.int32) for rank in range(4)]
    machine = GpuMachine(group(k, 4, [d.view(np.uint8) for d in data]), TOY, engine=engine)
    step = machine.step()
    for rank in range(4):
        for distance in range(1, 4):
            assert (words(machine, rank)[32 * distance : 32 * distance + 32] == rank ^ distance).all()
    # Each of four sends three headers of 6, and gives three lines with theirs; the stores stay at home.
    assert step.traffic["nvlink"] == 4 * 3 * (6 + 134)
    assert step.counters["nvlink_requests"] == step.counters["nvlink_served"] == 4 * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_stored_to_a_peer_lands_there_and_nowhere_else(engine: str) -> None:
    k = Kernel("scatter")
    offset, number, value = lane_offset(k), k.ureg("n"), k.reg("v")
    k.LDG(32, value, offset, UZERO, 0)
    for distance in range(1, 4):
        k.STG(32, offset, window(k, distance), 128 * distance, value)
    k.free(number)
    k.EXIT()
    data = [np.full(1024, 10 + rank, dtype=np.int32) for rank in range(4)]
    machine = GpuMachine(group(k, 4, [d.view(np.uint8) for d in data]), TOY, engine=engine)
    machine.step()
    for rank in range(4):
        memory = words(machine, rank).reshape(-1, 32)
        landed = [10 + (rank ^ d) for d in (1, 2, 3)]
        assert [int(memory[row, 0]) for row in range(5)] == [10 + rank, *landed, 10 + rank]
        assert (memory == memory[:, :1]).all()


def exchange() -> Kernel:
    """Each rank tells its peer its number of rounds, waits for the peer's, and goes on."""
    k = Kernel("exchange")
    peer, seen, round_ = window(k, 1), k.ureg("seen"), k.ureg("round")
    value = k.reg("v")
    k.UMOVI(round_, 1)
    again = k.label("again")
    k.MOV(value, round_)
    k.STG(32, ZERO, peer, 0, value)
    poll = k.label("poll")
    k.LDCG(32, value, ZERO, UZERO, 0)
    k.R2UR(seen, value)
    k.UBR("LT", seen, round_, poll)
    k.UADDI(round_, round_, 1)
    four = k.ureg("four")
    k.UMOVI(four, 4)
    k.UBR("LE", round_, four, again)
    k.EXIT()
    return k


def test_ranks_wait_for_each_others_flags() -> None:
    steps = []
    for engine in ENGINES:
        for timing_only in (False, True):
            machine = GpuMachine(group(exchange(), 2, timing_only=timing_only), TOY, engine=engine)
            step = machine.step()
            assert words(machine, 0)[0] == 4
            steps.append((step.cycles, step.counters, step.traffic, step.accounting))
    assert all(step == steps[0] for step in steps)
    # Four rounds, each at least store, link and poll: 35 cycles until it can be seen, a poll of 26 or more.
    assert steps[0][0] > 4 * (35 + 26)


def test_ranks_that_do_different_things_are_found_out() -> None:
    k = Kernel("uneven")
    count = k.ureg("count")
    k.ULDG(32, count, UZERO, 0)
    loop = k.label("loop")
    k.UADDI(count, count, -1)
    k.UBR("GT", count, UZERO, loop)
    k.EXIT()
    data = [np.full(64, 5 + rank, dtype=np.int32).view(np.uint8) for rank in range(2)]
    with pytest.raises(AsymmetryError, match="not at the same cycle"):
        GpuMachine(group(k, 2, data), TOY).step()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("ranks", "distance", "name"), [(1, 1, "LDG"), (2, 2, "LDG"), (2, 1, "ATOM")])
def test_an_address_where_no_peer_is_and_an_atomic_on_a_peer_are_errors(
        engine: str, ranks: int, distance: int, name: str) -> None:
    k = Kernel("wrong")
    base, value = window(k, distance), k.reg("v")
    if name == "ATOM":
        k.ATOM(value, ZERO, base, 0, ZERO)
    else:
        k.LDG(32, value, ZERO, base, 0)
    k.EXIT()
    with pytest.raises(MachineError) as error:
        GpuMachine(group(k, ranks), TOY, engine=engine).step()
    assert (error.value.kind, error.value.value) == ("address_range", distance << PEER_AT)


def test_groups_that_cannot_be_are_refused() -> None:
    k = Kernel("nothing")
    k.EXIT()
    with pytest.raises(LaunchError, match="for 3 GPUs; toy_gpu works in groups of a power of two, up to the 8 of"):
        GpuMachine(group(k, 3), TOY)
    with pytest.raises(LaunchError, match="for 16 GPUs"):
        GpuMachine(group(k, 16), TOY)
    with pytest.raises(LaunchError, match="same size"):
        GpuMachine(group(k, 2, [np.zeros(64, np.uint8), np.zeros(128, np.uint8)]), TOY)
