"""Several LPUs: when a vector arrives, what links refuse, and what a step of many chips reports.

The toy chip: a link takes a vector in 3 cycles, it arrives 14 cycles after its SEND, 4 may wait. The link
column is 4, three columns from the slices at 1.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.chip import ChipError, load_chip
from emulator.lpu.machine import LpuMachine
from emulator.result import StepResult
from emulator.run import load
from emulator.trace import Window
from isa.opcodes import WEST
from isa.program import Tensor
from tests.emulator.lpu_network import Board, error_of, joined, result_of
from tests.emulator.lpu_programs import Pad

E, W = 0, WEST
EAST, EAST2 = 8, 12  # slices at columns 1 and 2
MODES = pytest.mark.parametrize("engine, timing_only", [("fast", False), ("fast", True), ("naive", False),
                                                        ("naive", True)])
BOTH = pytest.mark.parametrize("engine", ["fast", "naive"])


def spans(step: StepResult) -> list[tuple[int, int]]:
    """(first cycle, end) of each chip's own run inside a recorded step."""
    assert step.trace is not None
    return [(chip.start, chip.end) for chip in step.trace.chips]


def exchange(sends: tuple[int, ...] = (3,), receives: tuple[int, ...] = (17,), *, starts: tuple[int, ...] = (0, 0),
             port: int = 1, back: int = 1) -> Board:
    """Chip 0 reads words 0, 1, .. of slice 8 from cycle 0 on and sends what passes; chip 1 writes what it receives
    to words 100, 101, .. of slice 8."""
    board = joined(2, starts=starts)
    a, b = board.pads
    for address in range(4):
        a.put(EAST, address, np.full(16, 10 + address))
    for cycle in sends:
        a.at(cycle - 3, EAST, "READ", cycle % 4, E)
        a.at(cycle, "C2C.E0", "SEND", port, E)
    for n, cycle in enumerate(receives):
        b.at(cycle, "C2C.E0", "RECV", back, W)
        b.at(cycle + 3, EAST, "WRITE", 100 + n, W)
    return board


# -- time ------------------------------------------------------------------------------------------
@BOTH
def test_a_vector_can_be_received_hop_cycles_after_its_send(engine: str) -> None:
    """SEND in 3, RECV in 17 = 3 + 14, WRITE in 20: chip 0 ends after 4 cycles, chip 1 and the step after 21."""
    machine = exchange().machine(engine)
    step = machine.step(trace=Window())
    assert (step.cycles, spans(step)) == (21, [(0, 4), (0, 21)])
    assert machine.srams[1].data[machine.geometry.words_per_slice * EAST + 100].tolist() == [13] * 16
    assert step.traffic["c2c_sent"] == step.traffic["c2c_received"] == 16


@MODES
def test_a_cycle_earlier_is_too_early(engine: str, timing_only: bool) -> None:
    error = error_of(exchange(receives=(16,)), engine, timing_only)
    assert error.key == ("receive_early", 16, 1, "C2C.E0", 1, 0)
    assert "by cycle 16 for RECV 1, S0.W; the next one arrives in cycle 17" in str(error)


@MODES
def test_a_chip_that_starts_later_counts_its_own_cycles(engine: str, timing_only: bool) -> None:
    """Chip 1 starts in cycle 10: what arrives in cycle 17 arrives in its cycle 7, and the step ends in 10 + 11."""
    step = exchange(receives=(7,), starts=(0, 10)).machine(engine, timing_only).step(trace=Window())
    assert (step.cycles, spans(step)) == (21, [(0, 4), (10, 21)])
    error = error_of(exchange(receives=(6,), starts=(0, 10)), engine, timing_only)
    assert error.key == ("receive_early", 6, 1, "C2C.E0", 1, 0)
    assert "[receive_early; chip 1 (starts in cycle 10), cycle 6, queue C2C.E0, instruction 1]" in str(error)


@BOTH
def test_vectors_arrive_in_the_order_of_their_sends(engine: str) -> None:
    machine = exchange(sends=(3, 6, 10), receives=(17, 25, 26)).machine(engine)
    machine.step()
    words = machine.srams[1].data[machine.geometry.words_per_slice * EAST + 100 :][:3]
    assert words[:, 0].tolist() == [10 + 3 % 4, 10 + 6 % 4, 10 + 10 % 4]


@BOTH
def test_a_repeat_sends_and_receives_once_a_slot(engine: str) -> None:
    board = joined()
    a, b = board.pads
    a.at(0, EAST, "READ", 0, E, n=3, d=3, stride=1)
    a.at(3, "C2C.E0", "SEND", 1, E, n=3, d=3)
    b.at(17, "C2C.W0", "RECV", 1, E, n=3, d=3)
    b.at(17 + 3, 0, "WRITE", 100, E, n=3, d=3, stride=1)  # slice 0 at column -1, three columns from -4
    machine = board.machine(engine)
    step = machine.step()
    assert step.counters["instructions.SEND"] == step.counters["instructions.RECV"] == 4
    assert step.cycles == 17 + 3 + 9 + 1
    assert np.array_equal(machine.srams[1].data[100:104], machine.srams[0].data[EAST * 512 : EAST * 512 + 4])


def test_every_link_carries_a_vector_at_the_same_time() -> None:
    """8 chips of a node with one text: port i leads to chip r XOR i, so all send over all 7 ports at once."""
    chip = load_chip("toy_lpu").with_override("c2c.queues", "7")
    pad = Pad(chip)
    pad.put(EAST, 0, np.arange(16))
    for port in range(1, 8):
        pad.at(port, EAST, "READ", 0, E + port)
        pad.at(port + 3, f"C2C.E{port - 1}", "SEND", port, E + port)
        pad.at(port + 3 + 14, f"C2C.W{port - 1}", "RECV", port, E + port)
        pad.at(port + 3 + 14 + 3, 0, "WRITE", 100 + port, E + port)
    board = Board([pad], [(0, number, 0) for number in range(8)])
    fast = result_of(board, "fast")
    assert fast[1]["c2c_sent"] == 8 * 7 * 16 and fast == result_of(board, "naive")
    assert result_of(board, "fast", timing_only=True)[:4] == fast[:4]


@BOTH
def test_the_program_of_the_manual_sends_a_vector(engine: str) -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "assembly.md").read_text(encoding="utf-8")
    block = next(part for part in manual.split("```") if ".system groq_production" in part)
    program = assemble(block)
    machine = load(program, engine=engine)
    step = machine.step()
    assert np.array_equal(machine.read("x"), machine.read("y")) and machine.read("x").any()
    assert step.cycles == 290 + 15 + 1 + 19  # 15 columns to the slice, the WRITE, the last superlane


def test_the_real_chip_needs_270_cycles_for_a_hop() -> None:
    """217 of the link (ISCA 2022) and 53 on the chips make the published 300 ns at 900 MHz."""
    from emulator.lpu.geometry import geometry

    g = geometry(load_chip("groq_tsp_v1"))
    assert g.hop == 270 and g.slot == 24 and g.hop * 1e9 / g.clock_hz == pytest.approx(300)


@MODES
def test_roles_are_resolved_by_each_chip(engine: str, timing_only: bool) -> None:
    """Role 0 (port 8 in SEND) of chips 0 and 1 is port 2 and port 3, which lead to chip 2 both; role 1 (port 9 in
    RECV) of chip 2 is the other end of one of them. Chip 2 starts in cycle 5 and receives in its cycle 17 - 5."""
    board = exchange(receives=(12,), port=8, back=9)
    for chip, port in ((0, 2), (1, 3)):
        board.rows = [(0, chip, 0, port, -1), (1, 2, 5, -1, port)]
        machine = board.machine(engine, timing_only)
        assert spans(machine.step(trace=Window())) == [(0, 4), (5, 21)]
        assert timing_only or machine.srams[1].data[EAST * 512 + 100, 0] == 13
        board.rows = [(0, chip, 0, port, -1), (1, 2, 5, -1, port ^ 1)]
        assert error_of(board, engine, timing_only).kind == "no_link"


# -- errors ----------------------------------------------------------------------------------------
def receive_early_never_sent() -> tuple[Board, tuple, str]:
    return exchange(receives=(17, 20)), ("receive_early", 20, 1, "C2C.E0", 3, 0), "by cycle 20 .*; none is under way"


def link_busy() -> tuple[Board, tuple, str]:
    return exchange(sends=(3, 5), receives=(17, 20)), ("link_busy", 5, 0, "C2C.E0", 3, 0), (
        r"SEND 1, S0\.E needs the link in cycle 5, .* before it keeps it until cycle 6 \(3 cycles a vector\)")


def link_busy_by_two_names() -> tuple[Board, tuple, str]:
    """Port 1 and role 0 are the same cable."""
    board = exchange(sends=(3,), receives=(17, 20))
    board.rows[0] = (0, 0, 0, 1)
    board.pads[0].at(2, 0, "READ", 0, W)  # column -1 to -4
    board.pads[0].at(5, "C2C.W0", "SEND", 8, W)
    return board, ("link_busy", 5, 0, "C2C.W0", 1, 0), r"SEND 8, S0\.W needs the link in cycle 5"


def no_link_to_a_chip_that_is_not_there() -> tuple[Board, tuple, str]:
    return exchange(port=2), ("no_link", 3, 0, "C2C.E0", 1, 0), r"SEND 2, S0\.E: port 2 leads to no chip here"


def no_link_for_a_role() -> tuple[Board, tuple, str]:
    board = exchange(back=9)
    board.rows[1] = (1, 1, 0, 1, -1)
    return board, ("no_link", 17, 1, "C2C.E0", 1, 0), r"RECV 9, S0\.W: port 9 \(role 1\) leads to no chip here"


def no_link_without_a_system() -> tuple[Board, tuple, str]:
    board = exchange()
    board.system = None
    return board, ("no_link", 3, 0, "C2C.E0", 1, 0), "port 1 leads to no chip here"


def receive_overflow() -> tuple[Board, tuple, str]:
    """SENDs in 3, 6, .. 15 arrive in 17 .. 29; with the first RECV in 30, five wait in cycle 29."""
    return exchange(sends=(3, 6, 9, 12, 15), receives=(30, 31, 32, 33, 34)), (
        "receive_overflow", 15, 0, "C2C.E0", 9, 0), (
        r"the vector of SEND 1, S0\.E arrives at chip 1 in that chip's cycle 29, where more than 4 then wait")


def receive_missing() -> tuple[Board, tuple, str]:
    return exchange(sends=(3, 6)), ("receive_missing", 6, 0, "C2C.E0", 3, 0), (
        "is never received: chip 1 takes 1 of the 2 vectors that this link carries")


def stream_empty_at_the_link() -> tuple[Board, tuple, str]:
    board = exchange()
    board.pads[0].at(9, "C2C.E0", "SEND", 1, E + 5)
    return board, ("stream_empty", 9, 0, "C2C.E0", 3, 0), r"stream S5\.E has no value at column 4 in cycle 9"


def stream_collision_at_the_link() -> tuple[Board, tuple, str]:
    board = exchange()
    b = board.pads[1]
    b.at(13 - 3, EAST, "READ", 0, E + 1)
    b.at(13, "SXM.E.SHIFT0", "SHIFT", 1, E + 1, W, 0)  # its result appears in cycle 17
    return board, ("stream_collision", 17, 1, "C2C.E0", 1, 0), "puts a value on stream S0.W at column 4 in cycle 17"


def the_first_error_of_all_chips() -> tuple[Board, tuple, str]:
    """Chip 1 fails in its cycle 5, which is cycle 25 of the system; chip 0 in cycle 24."""
    board = exchange(receives=(), sends=(), starts=(0, 20))
    board.pads[0].at(24, EAST, "READ", 9, E)
    board.pads[1].at(5, EAST, "READ", 9, E)
    return board, ("sram_unwritten", 24, 0, "MEM.E0", 1, 0), "chip 0, cycle 24"


def a_link_error_before_one_of_a_chip() -> tuple[Board, tuple, str]:
    board = exchange(receives=(16,))
    board.pads[0].at(17, EAST2, "READ", 9, E)
    return board, ("receive_early", 16, 1, "C2C.E0", 1, 0), "no vector has arrived"


def a_chip_error_before_one_of_a_link() -> tuple[Board, tuple, str]:
    board = exchange(receives=(16,))
    board.pads[0].at(15, EAST2, "READ", 9, E)
    return board, ("sram_unwritten", 15, 0, "MEM.E4", 1, 0), "reads word 9 of slice 12"


def deadlock_counts_only_when_nothing_else_fails() -> tuple[Board, tuple, str]:
    board = exchange(sends=(3, 6))
    board.pads[0].at(0, EAST2, "SYNC")
    return board, ("sync_deadlock", 0, 0, "MEM.E4", 0, 0), "never comes"


CASES = [receive_early_never_sent, link_busy, link_busy_by_two_names, no_link_to_a_chip_that_is_not_there,
         no_link_for_a_role, no_link_without_a_system, receive_overflow, receive_missing, stream_empty_at_the_link,
         stream_collision_at_the_link, the_first_error_of_all_chips, a_link_error_before_one_of_a_chip,
         a_chip_error_before_one_of_a_link, deadlock_counts_only_when_nothing_else_fails]


@MODES
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_program_is_refused_with_a_clear_message(case, engine: str, timing_only: bool) -> None:
    board, key, message = case()
    error = error_of(board, engine, timing_only)
    assert error.key == key
    assert re.search(message, str(error)), str(error)
    assert f"chip {error.chip}" in str(error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_all_engines_say_the_same(case) -> None:
    said = {str(error_of(case()[0], engine, mode)) for engine in ("fast", "naive") for mode in (False, True)}
    assert len(said) == 1


@MODES
def test_a_chip_alone_has_no_link(engine: str, timing_only: bool) -> None:
    board = Board([exchange().pads[0]], [(0, 0, 0)], system=None)
    error = error_of(board, engine, timing_only)
    assert error.key == ("no_link", 3, None, "C2C.E0", 1, 0) and "chip" not in str(error).split("[no_link")[1]


def test_full_is_not_too_full() -> None:
    """Four vectors may wait; the fifth arrives in the cycle in which the first is received."""
    board = exchange(sends=(3, 6, 9, 12, 15), receives=(29, 30, 31, 32, 33))
    assert result_of(board, "fast") == result_of(board, "naive")
    assert result_of(board, "fast")[0] == 33 + 3 + 1


def test_a_system_with_too_many_chips_is_refused() -> None:
    board = exchange()
    board.rows[1] = (1, 20_000, 0)
    with pytest.raises(ChipError, match="groq_production has 1 to 10,440 chips, not 20,001"):
        board.machine()
    for name in ("groq_rack", "/etc/other.toml"):
        board.system = name
        with pytest.raises(ChipError, match=f"system '{name}' is unknown; known: groq_dragonfly, groq_production"):
            board.machine()


# -- what a step reports ------------------------------------------------------------------------------
def test_cycles_outside_a_chips_own_run_are_the_pipelines() -> None:
    """Step of 21 cycles: chip 0 runs 4 of them, chip 1 from cycle 10 on 11; all 54 queues of a chip wait outside."""
    machine = exchange(receives=(7,), starts=(0, 10)).machine()
    step = machine.step()
    assert machine.units() == {"mem": 32, "vxm": 32, "mxm": 24, "sxm": 16, "c2c": 4}
    for name, count in machine.units().items():
        buckets = step.accounting[name]
        assert sum(buckets.values()) == count * 21
        assert buckets["pipeline"] == count // 2 * (17 + 10)
    assert step.accounting["c2c"]["busy"] == 2


def test_equal_chips_count_each() -> None:
    """Timing only: 4 chips with 2 texts; engines run twice, the report counts four chips."""
    sender, receiver = exchange(port=2, back=2).pads
    board = Board([sender, receiver], [(0, 0, 0), (0, 1, 0), (1, 2, 0), (1, 3, 0)])
    machine = board.machine(timing_only=True)
    assert len({id(engine) for engine in machine.network.engines}) == 2  # type: ignore[attr-defined]
    values = board.machine().step()
    timing = machine.step()
    assert timing.counters == values.counters and timing.traffic == values.traffic
    assert timing.accounting == values.accounting and timing.cycles == values.cycles
    assert timing.traffic["c2c_sent"] == 2 * 16


@BOTH
def test_steps_start_with_empty_links(engine: str) -> None:
    machine = exchange().machine(engine)
    first, second = machine.step(), machine.step()
    assert first.cycles == second.cycles and first.counters == second.counters


# -- tensors on several chips -------------------------------------------------------------------------
def tensor(name: str, columns: int, chunks: int, chips: tuple[int, ...], sharded: bool) -> Tensor:
    words = np.arange(2 * chunks, dtype=np.int32).reshape(2, chunks, 1) + 200
    return Tensor(name, "s8", (2, columns), "activation", words=words, chips=chips, sharded=sharded)


def test_columns_need_room() -> None:
    board = joined(2)
    program = board.program()
    program.tensors["x"] = tensor("x", 33, 1, (0, 1), True)
    with pytest.raises(ValueError, match="tensor x has 33 columns, its words hold 32"):
        LpuMachine(program, board.pads[0].chip)


def test_a_copy_lies_on_every_chip() -> None:
    machine = joined(3).machine()
    machine.program.tensors["x"] = tensor("x", 20, 2, (0, 2), False)
    values = np.arange(40).reshape(2, 20)
    assert machine.write("x", values) == 2 * 2 * 2 * 16
    assert np.array_equal(machine.read("x"), values)
    assert np.array_equal(machine.srams[0].data[200:204], machine.srams[2].data[200:204])
    assert not machine.srams[1].data[200:204].any()


@pytest.mark.parametrize("columns", [48, 40, 17, 16, 5])
def test_a_sharded_tensor_lies_in_runs_of_columns(columns: int) -> None:
    """One vector of 16 lanes a row and chip: column c on chip c // 16; the last runs may be short or empty."""
    machine = joined(3).machine()
    machine.program.tensors["x"] = tensor("x", columns, 1, (2, 0, 1), True)
    values = np.arange(2 * columns).reshape(2, columns) - 50
    machine.write("x", values)
    assert np.array_equal(machine.read("x"), values)
    for n, chip in enumerate((2, 0, 1)):
        run = machine.srams[chip].data[200:202].view(np.int8)
        assert np.array_equal(run[:, : max(columns - 16 * n, 0)][:, :16], values[:, 16 * n : 16 * n + 16])
