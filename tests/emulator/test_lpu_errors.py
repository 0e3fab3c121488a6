"""Each kind of ScheduleError: a program that provokes it, on both engines, and what the message says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from emulator.chip import ChipError, load_chip
from emulator.lpu.errors import KINDS
from emulator.lpu.geometry import geometry
from emulator.lpu.text import TextError
from isa.opcodes import ALU_BASE, F16, F32, NO_STREAM, S8, S32, WEST
from tests.emulator.lpu_programs import Pad, error_of
from tests.emulator.test_lpu_network import CASES as link_cases

E, W = 0, WEST
LANES = 16
# The toy chip: slices 0-7 west (columns -1, -2), 8-15 east (1, 2), SXM at 4, MXM at 6; latency 8.
EAST, EAST2 = 8, 12


def pad(words: int = 4) -> Pad:
    p = Pad("toy_lpu")
    for s in range(p.g.slices):
        for a in range(words):
            p.put(s, a, np.full(LANES, 16 * s + a))
    return p


def loaded(kind: int = S8, rows: int = 1, planes: tuple[int, ...] = (2,)) -> Pad:
    """Planes of the east side with `rows` rows in the shadow in cycle 10, streams from 0 fed for 8 cycles."""
    p = pad(16)
    for n in range(8):
        p.at(10 - 5, EAST + n % 4, "READ", 0, E + n, n=7, d=1) if n < 4 else p.at(
            10 - 4, EAST2 + n % 4, "READ", 0, E + n, n=7, d=1)
    for plane in planes:
        p.at(10, f"MXM{plane}.LW", "LW", kind, E, rows, 0)
    return p


def stream_empty() -> tuple[Pad, str]:
    p = pad()
    p.at(3, EAST, "WRITE", 0, W + 7)
    return p, (r"pad\.lpu\.s:1: stream S7\.W has no value at column 1 in cycle 3, which WRITE 0, S7\.W needs "
               r"\[stream_empty; cycle 3, queue MEM\.E0, instruction 1\]\n    1 \| WRITE 0, 39")


def stream_lost() -> tuple[Pad, str]:
    p = pad()
    p.at(0, EAST, "READ", 0, E)
    p.at(2, EAST2, "WRITE", 0, E)
    return p, (r"no value at column 2 in cycle 2, which WRITE 0, S0\.E needs; a value of READ 0, S0\.E in MEM\.E0 at "
               r"line 1 passed there in cycle 1 \[stream_lost")


def stream_lost_early() -> tuple[Pad, str]:
    p = pad()
    p.at(0, 0, "READ", 0, E)  # from column -1 it passes column 2 in cycle 3
    p.at(2, EAST2, "WRITE", 0, E)
    return p, r"in MEM\.W0 at line 1 passes there in cycle 3 \[stream_lost"


def stream_collision() -> tuple[Pad, str]:
    p = pad()
    p.at(4, EAST, "READ", 0, E + 3)
    p.at(4, EAST + 1, "READ", 1, E + 3)
    return p, (r"READ 1, S3\.E puts a value on stream S3\.E at column 1 in cycle 4, where READ 0, S3\.E in MEM\.E0 at "
               r"line 1 puts one in the same cycle \[stream_collision; cycle 4, queue MEM\.E1")


def bank_conflict() -> tuple[Pad, str]:
    p = pad()
    p.at(0, EAST, "READ", 0, E, n=3, d=1)
    p.at(2, EAST, "WRITE", 7, E)
    return p, (r"WRITE 7, S0\.E needs bank 0 of the slice in cycle 2, which another instruction uses in the same "
               r"cycle; a read and a write must go to different banks \[bank_conflict")


def bank_conflict_gather() -> tuple[Pad, str]:
    p = pad()
    p.put(9, 300, np.zeros(LANES))
    p.at(0, EAST, "READ", 0, E, n=3, d=1)  # bank 0
    p.at(1, EAST, "SCATTER", 300, E, E)  # both banks
    return p, r"SCATTER 300, S0\.E, S0\.E needs bank 0 of the slice"


def port_conflict() -> tuple[Pad, str]:
    p = pad()
    p.at(0, EAST, "READ", 0, E, n=3, d=4)
    p.at(9, EAST, "READ", 1, E + 1)
    return p, r"READ 1, S1\.E is issued while an earlier REPEAT keeps the port until cycle 12 \[port_conflict; cycle 9"


def unit_busy() -> tuple[Pad, str]:
    """VXM0 enters an f32 operation in 1 (start 5); an operation on its own output cannot start in 5 too."""
    p = pad()
    for byte in range(4):
        p.at(0, EAST + byte, "READ", 0, W + byte, n=8, d=1)
    p.at(1, "VXM0", "NEG", S32, NO_STREAM, W, n=7, d=1)
    p.timeline.nodes.append("layers.0.norm")
    p.at(5, "VXM2", "NEG", S32, NO_STREAM, W)
    p.at(9, "VXM2", "NEG", S32, NO_STREAM, ALU_BASE)
    return p, r"NEG s32, _, A0: the unit still works for an earlier instruction \(slot in cycle 9 is taken\)"


def unit_busy_feed() -> tuple[Pad, str]:
    p = loaded(F16)
    p.at(11, "MXM2.LW", "IW", F16)
    p.at(11, "MXM2.ABC", "ABC", F16, E)
    p.at(12, "MXM2.ABC", "ABC", F16, E)
    return p, r"ABC f16, S0\.E: the unit still works for an earlier instruction \(slot in cycle 12 is taken\)"


def unit_busy_sxm() -> tuple[Pad, str]:
    """A SHIFT of -1 takes 5 cycles, one of +1 takes 4: a cycle later it would come out together with the first."""
    p = pad()
    p.at(0, EAST, "READ", 0, E, n=3, d=1)
    p.at(3, "SXM.E.SHIFT0", "SHIFT", 1, E, W, -1)
    p.at(4, "SXM.E.SHIFT0", "SHIFT", 1, E, W + 1, 1)
    return p, r"SHIFT 1, S0\.E, S1\.W, 1: the unit still works for an earlier instruction \(slot in cycle 8"


def queue_late() -> tuple[Pad, str]:
    p = pad()
    p.at(0, EAST, "SYNC")
    p.at(1, EAST + 1, "NOTIFY")
    p.at(3, EAST + 2, "SYNC")
    return p, (r"SYNC is reached in cycle 3, 2 cycles after the NOTIFY of cycle 1 and before it takes effect: the "
               r"queue is late for the barrier \[queue_late; cycle 3, queue MEM\.E2")


def vxm_reach() -> tuple[Pad, str]:
    p = pad()
    p.at(0, "VXM0", "NEG", S32, W, E + 16)
    return p, r"NEG s32, S0\.W, S16\.E: S16\.E is out of reach of ALU 0, which has the quads from S0, S4, S8, S12 \["


def weights_missing() -> tuple[Pad, str]:
    p = loaded()
    p.at(11, "MXM2.ABC", "ABC", S8, E)
    return p, r"ABC s8, S0\.E finds no installed weights of its type on the plane \[weights_missing; cycle 11"


def weights_missing_shadow() -> tuple[Pad, str]:
    p = loaded()
    p.at(11, "MXM2.LW", "IW", S8)
    p.at(12, "MXM2.LW", "IW", S8)
    return p, r"IW s8 finds no rows in the shadow weights: no LW since the last IW \[weights_missing; cycle 12"


def weights_in_use_install() -> tuple[Pad, str]:
    p = loaded(F16)
    p.at(11, "MXM2.LW", "IW", F16)
    p.at(11, "MXM3.LW", "LW", S8, E, 1, 0)
    return p, r"LW s8, S0\.E, 1, 0 disturbs weights that are in use: an IW is in progress \[weights_in_use; cycle 11"


def weights_in_use_pair() -> tuple[Pad, str]:
    p = loaded(F16)
    p.at(11, "MXM3.LW", "LW", S8, E, 1, 0)
    return p, r"the other half of the plane pair holds rows of another type \[weights_in_use; cycle 11, queue MXM3\.LW"


def weights_in_use_feed() -> tuple[Pad, str]:
    p = loaded(F16)
    p.at(11, "MXM2.LW", "IW", F16)
    p.at(12, "MXM2.LW", "LW", F16, E, 1, 0)
    p.at(12, "MXM2.ABC", "ABC", F16, E)
    p.at(13, "MXM2.LW", "IW", F16)
    return p, r"IW f16 disturbs weights that are in use: an f16 ABC still feeds the plane pair \[weights_in_use"


def weights_in_use_type() -> tuple[Pad, str]:
    p = loaded(F16)
    p.at(11, "MXM2.LW", "IW", S8)
    return p, r"IW s8 disturbs weights that are in use: the shadow rows are of another type"


def accumulator_early() -> tuple[Pad, str]:
    p = loaded()
    p.at(11, "MXM2.LW", "IW", S8)
    p.at(11, "MXM2.ABC", "ABC", S8, E)
    p.at(18, "MXM2.ACC", "ACC", W)
    return p, r"ACC S0\.W: the accumulator is empty; the next result lands in cycle 19 \[accumulator_early; cycle 18"


def accumulator_never() -> tuple[Pad, str]:
    p = pad()
    p.at(2, "MXM0.ACC", "ACC", E)
    return p, r"the accumulator is empty; no result is under way \[accumulator_early"


def accumulator_overrun() -> tuple[Pad, str]:
    p = loaded()
    p.at(11, "MXM2.LW", "IW", S8)
    p.at(11, "MXM2.ABC", "ABC", S8, E, n=1, d=3)
    p.at(22, "MXM2.ACC", "ACC", W)  # in cycle 22 the second result is there before the first is taken
    return p, (r"the result of ABC s8, S0\.E lands on a full accumulator \(depth 1\): no ACC took the one before "
               r"\[accumulator_overrun; cycle 22, queue MXM2\.ABC, instruction 1, repeat 1\]")


def sram_unwritten() -> tuple[Pad, str]:
    p = pad()
    p.at(5, EAST, "READ", 9, E)
    return p, r"READ 9, S0\.E reads word 9 of slice 8, which nothing has written \[sram_unwritten; cycle 5"


def repeat_misaligned() -> tuple[Pad, str]:
    """Three values in cycles 0, 1, 2; four WRITEs."""
    p = pad()
    p.at(0, EAST, "READ", 0, E, n=2, d=1)
    p.at(1, EAST2, "WRITE", 20, E, n=3, d=1)
    return p, (r"no value at column 2 in cycle 4, .* passed there in cycle 3 \[repeat_misaligned; cycle 4, "
               r"queue MEM\.E4, instruction 1, repeat 3\]")


def sync_deadlock() -> tuple[Pad, str]:
    p = pad()
    p.at(2, EAST, "SYNC")
    p.at(0, EAST2, "READ", 0, E)
    return p, r"SYNC waits since cycle 2 for a NOTIFY that never comes \[sync_deadlock; cycle 2, queue MEM\.E0"


def poison_address() -> tuple[Pad, str]:
    p = pad()
    p.phantom.add(p.word(EAST, 0))
    p.at(0, EAST, "READ", 0, E)
    p.at(0, EAST + 1, "GATHER", 0, E + 1, E)
    return p, r"GATHER 0, S1\.E, S0\.E takes addresses from a map that holds no values \(timing only\) \[poison_address"


def address_range() -> tuple[Pad, str]:
    p = pad()
    p.at(0, EAST, "READ", 2, E, n=3, d=1, stride=-1)
    return p, r"READ 2, S0\.E reaches -1, outside the slice \[address_range; cycle 3, queue MEM\.E0"


def address_range_rows() -> tuple[Pad, str]:
    p = loaded(rows=4)
    p.at(11, "MXM2.LW", "LW", S8, E, 4, 13)
    return p, r"LW s8, S0\.E, 4, 13 reaches 16, outside the plane \[address_range"


def chained_output_missing() -> tuple[Pad, str]:
    p = pad()
    p.at(7, "VXM1", "NEG", F32, NO_STREAM, ALU_BASE)
    return p, r"ALU A0 puts out nothing in cycle 7, in which NEG f32, _, A0 takes its output \[stream_empty"


CASES = [stream_empty, stream_lost, stream_lost_early, stream_collision, bank_conflict, bank_conflict_gather,
         port_conflict, unit_busy, unit_busy_feed, unit_busy_sxm, queue_late, vxm_reach, weights_missing,
         weights_missing_shadow, weights_in_use_install, weights_in_use_pair, weights_in_use_feed, weights_in_use_type,
         accumulator_early, accumulator_never, accumulator_overrun, sram_unwritten, repeat_misaligned, sync_deadlock,
         poison_address, address_range, address_range_rows, chained_output_missing]


@pytest.mark.parametrize("engine", ["fast", "naive"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_program_is_refused_with_a_clear_message(case, engine: str) -> None:
    p, message = case()
    error = error_of(p, engine)
    assert re.search(message, str(error)), str(error)
    assert error.kind in str(error) and error.queue in str(error) and f"cycle {error.cycle}" in str(error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_both_engines_say_the_same(case) -> None:
    p, _ = case()
    assert str(error_of(p, "fast")) == str(error_of(p, "naive"))


def test_every_kind_has_a_program() -> None:
    """Those of links are in test_lpu_network.py."""
    found = {error_of(case()[0]).kind for case in CASES} | {case()[1][0] for case in link_cases}
    assert found == set(KINDS) - {""}


@pytest.mark.parametrize("alu, fields, message", [
    (1, ("MAX", S32, W, E, E + 4), "ALU 1 is small; MAX runs on 0, 2, 5, 7, 8, 10, 13, 15 only"),
    (0, ("ADD", F32, W, E + 4, W + 4), "cannot take quad S4 from both directions"),
    (0, ("NEG", F32, W, E + 2), "S2.E is not the first stream of a group of 4"),
    (0, ("NEG", F32, W + 20, E), "S20.W is out of reach of ALU 0"),
    (0, ("NEG", F32, W, ALU_BASE + 5), "the output of A5 does not reach ALU 0"),
    (2, ("CVT", F16, F32, E + 3, E), "S3.E is not the first stream of a group of 2"),
])
def test_the_vxm_says_what_it_cannot_reach(alu: int, fields: tuple, message: str) -> None:
    p = pad()
    p.at(0, f"VXM{alu}", *fields)
    error = error_of(p)
    assert error.kind == "vxm_reach" and message in str(error)


@pytest.mark.parametrize("queue, fields, message", [
    ("MEM.E0", ("ADD", F32, W, E, E + 4), "a MEM queue does not take this instruction"),
    ("C2C.E0", ("READ", 0, E), "a C2C queue does not take this instruction"),
    ("MEM.E0", ("NOP", 0), "waits 1 to 65535 cycles, not 0"),
    ("VXM0", ("NEG", S8, W, E), "computes in f32 or s32 only"),
    ("VXM0", ("EXP2", S32, W, E), "computes in f32 only"),
    ("VXM0", ("CVT", 7, F32, W, E), "unknown number type"),
    ("MXM0.LW", ("LW", F32, E, 1, 0), "the matrix planes take s8 and f16 only"),
    ("MXM1.LW", ("LW", F16, E, 1, 0), "f16 goes through the even plane's queues"),
    ("MXM0.LW", ("LW", S8, E, 17, 0), "loads 1 to 16 rows"),
    ("MXM0.LW", ("LW", S8, E + 20, 16, 0), "its streams go beyond the last one of the direction"),
    ("MXM0.ABC", ("ABC", F16, E + 31), "its streams go beyond the last one"),
    ("MXM0.ACC", ("ACC", E + 30), "its streams go beyond the last one"),
    ("SXM.E.SHIFT0", ("SHIFT", 3, E, W, 0), "moves 1, 2 or 4 streams"),
    ("SXM.E.SHIFT0", ("SHIFT", 4, E + 2, W, 0), "its stream groups must be aligned"),
    ("SXM.E.PERMUTE0", ("PERMUTE", 1, E, W, 5), "there are only 2 lane maps"),
    ("SXM.E.PERMUTE0", ("PERMUTE", 1, E, W, 0), "map 0 is not a permutation of the 16 lanes"),
    ("SXM.E.DISTRIBUTE0", ("DISTRIBUTE", 1, E, W, 1), "map 1 names lanes 0 to 15 or 65535"),
    ("SXM.E.TRANSPOSE0", ("TRANSPOSE", E + 8, W), "its groups of 16 streams start at 0 or 16"),
])
def test_a_text_that_means_nothing_is_refused_at_load(queue: str, fields: tuple, message: str) -> None:
    p = pad()
    p.map([0] * LANES)
    p.map([16] * LANES)
    p.at(0, queue, *fields)
    with pytest.raises(TextError, match=f"pad.lpu.s:1: {fields[0]} in queue {queue}") as raised:
        p.run("fast")
    assert message in str(raised.value)


def test_repeat_needs_an_instruction_before_it() -> None:
    p = pad()
    p.at(0, EAST, "REPEAT", 1, 1, 0)
    with pytest.raises(TextError, match="needs an instruction of a unit right before it"):
        p.run("fast")
    p = pad()
    p.at(0, "VXM0", "NEG", F32, W, E, n=1, stride=1)
    with pytest.raises(TextError, match="a stride is for READ, WRITE, GATHER, SCATTER and LW only"):
        p.run("fast")


@pytest.mark.parametrize("key, value, message", [
    ("core.superlanes", "40", "toy_lpu.core.superlanes = 40: must be a whole number from 1 to 31"),
    ("mxm.column", "3", "toy_lpu.mxm.column = 3: must be beyond the SXM at 4"),
    ("stream.edge_column", "5", "toy_lpu.stream.edge_column = 5: must be at least the MXM's column 6"),
    ("mxm.rows", "17", "toy_lpu.mxm.rows = 17: must be at most the 16 lanes of a vector"),
    ("vxm.large_alus", "0,99", "toy_lpu.vxm.large_alus = 0,99: must be numbers from 0 to 15 with commas"),
    ("mem.words_per_bank", "5000", "must be a whole number from 1 to 4096"),
])
def test_impossible_chip_numbers_are_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ChipError) as raised:
        geometry(load_chip("toy_lpu").with_override(key, value))
    assert message in str(raised.value)


def test_a_gpu_chip_has_no_lpu_geometry() -> None:
    with pytest.raises(ChipError, match="is a gpu, not an lpu"):
        geometry(load_chip("toy_gpu"))
