"""Cycle counts of the LPU worked out by hand, on both engines. All cycles are superlane 0's unless a
run's length is meant: that adds the 19 cycles after which superlane 19 has done the same.
"""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.lpu import geometry as geo
from emulator.lpu.errors import ScheduleError
from emulator.lpu.geometry import geometry
from isa.opcodes import ALU_BASE, F16, F32, NO_STREAM, S8, S32, WEST, code
from tests.emulator.lpu_programs import Pad

E, W = 0, WEST
STAGGER = 19  # superlanes - 1
G = geometry(load_chip("groq_tsp_v1"))
BOTH = pytest.mark.parametrize("engine", ["fast", "naive"])


def pad() -> Pad:
    return Pad("groq_tsp_v1")


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def put_lanes(p: Pad, slices: list[int], address: int, lanes: np.ndarray) -> None:
    """A 4-byte value a lane, byte k in word `address` of slices[k]."""
    planes = np.ascontiguousarray(lanes).view(np.uint8).reshape(len(lanes), 4)
    for byte, s in enumerate(slices):
        p.put(s, address, planes[:, byte])


def lanes_of(p: Pad, sram, slices: list[int], address: int, dtype=np.float32) -> np.ndarray:
    planes = np.stack([p.read(sram, s, address) for s in slices], axis=1)
    return np.ascontiguousarray(planes).view(dtype)[:, 0]


# -- identities of the machine ------------------------------------------------------------------------
def test_peaks_are_the_published_ones() -> None:
    assert G.queues == 144  # 88 MEM + 16 VXM + 12 MXM + 28 SXM and C2C
    assert G.sram_bytes == 88 * 2560 * 1024  # 2.5 MiB a slice, 220 MiB
    assert G.sram_bytes_per_cycle == 2 * 44 * 2 * 320 == 56_320
    assert G.ingest_bytes_per_cycle == 2 * 32 * 320 == 20_480
    assert G.int8_ops_per_second == 737_280_000_000_000  # 4 x 320 x 320 x 2 x 0.9e9: 737.3 TOPS
    assert G.fp16_ops_per_second == 184_320_000_000_000  # 2 x 320 x 320 x 2 / 2 cycles x 0.9e9: 184.3 TFLOPS


def test_slice_14_is_8_columns_from_the_outer_edge() -> None:
    assert 12 - G.column[G.queue("MEM.E14")] == 8  # 44 // 4 - 14 // 4 = 8
    assert G.column[G.queue("MEM.W14")] == -G.column[G.queue("MEM.E14")]


@BOTH
def test_every_slice_reads_and_writes_every_cycle(engine: str) -> None:
    """10 cycles of one READ from bank 0 and one WRITE to bank 1 in all 88 slices: 563,200 bytes."""
    p = pad()
    for s in range(88):
        stream = s % 4  # the four slices of a column use four streams; a READ may overwrite what passes
        for a in range(10):
            p.put(s, a, np.full(320, s + a))
        # A queue issues one instruction a cycle; the READ's REPEAT runs on beside the WRITE.
        p.at(0, s, "READ", 0, stream, n=10, d=1, stride=0)
        p.at(1, s, "WRITE", 4096, stream, n=9, d=1, stride=1)
    outcome, sram = p.run(engine)
    assert outcome.issued[code("WRITE")] * 320 == 10 * 88 * 320
    assert (outcome.issued[code("READ")] - 88 + outcome.issued[code("WRITE")]) * 320 == 10 * 56_320
    assert outcome.cycles == 1 + 9 + 1 + STAGGER  # last iteration in cycle 10, done in 11
    assert p.read(sram, 87, 4096 + 9)[0] == 87


def load_planes(p: Pad, first: int, kind: int = S8) -> None:
    """LW of all planes in cycles first .. first + 19 and IW in the next, from the outer 32 slices of each side."""
    for side, out in ((0, W), (1, E)):
        for i in range(32):
            s = 44 * side + 12 + i  # slices 12 to 43: columns 4 to 11
            p.phantom |= {p.word(s, a) for a in range(20)}
            p.at(first - (18 - abs(G.column[s])), s, "READ", 0, out + i, n=19, d=1, stride=1)
        for plane in (2 * side, 2 * side + 1) if kind == S8 else (2 * side,):
            p.at(first, f"MXM{plane}.LW", "LW", kind, out + 16 * (plane % 2), 16, 0, n=19, d=1, stride=16)
            p.at(first + 20, f"MXM{plane}.LW", "IW", kind)


@BOTH
def test_four_planes_are_installed_in_under_40_cycles(engine: str) -> None:
    """First READ (column 4) in cycle 0, on column 18 in 14; 20 LW in 14 to 33, IW in 34, done in 35."""
    p = pad()
    load_planes(p, 14)
    outcome, _ = p.run(engine)
    assert outcome.cycles - STAGGER == 35 < 40
    assert outcome.ingested * 320 == 409_600 == 20 * G.ingest_bytes_per_cycle
    assert outcome.unconsumed == 0


@BOTH
@pytest.mark.parametrize("kind, cycles, macs", [(S8, 8, 8 * 4 * 320 * 320), (F16, 8, 4 * 2 * 320 * 320)])
def test_passes_run_at_the_peak_rate(engine: str, kind: int, cycles: int, macs: int) -> None:
    """8 cycles of int8 passes in four planes, or 4 fp16 passes of 2 cycles in two plane pairs."""
    p = pad()
    load_planes(p, 14, kind)
    each = 1 if kind == S8 else 2
    for side, out in ((0, W), (1, E)):
        for byte in range(each):  # activation streams from the slices at column 1
            s = 44 * side + byte
            p.phantom.add(p.word(s, 0))
            p.at(34 - 17, s, "READ", 0, out + byte, n=cycles // each - 1, d=each)
    for plane in range(0, 4, each):
        p.at(34, f"MXM{plane}.ABC", "ABC", kind, W if plane < 2 else E, n=cycles // each - 1, d=each)
        p.at(34 + G.abc_delay(each), f"MXM{plane}.ACC", "ACC", (E if plane < 2 else W) + 4 * (plane % 2),
             n=cycles // each - 1, d=each)
    outcome, _ = p.run(engine)
    assert outcome.macs == macs
    assert 2 * outcome.macs * G.clock_hz // cycles == (G.int8_ops_per_second if kind == S8 else G.fp16_ops_per_second)


# -- the worked chain -----------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("late", [0, -1, 1])
def test_the_worked_chain_takes_50_cycles(engine: str, late: int) -> None:
    """facts: transpose, cross, hops, read and entry, 3 ALU operations, hops, cross, distribute.

    TRANSPOSE at column -16 in cycle t: result there in t + 4; 16 hops to column 0: t + 20; entry 4 and
    three operations of 3: on column 1 in t + 33; 15 hops to column 16: t + 48; DISTRIBUTE 2: t + 50.
    A SHIFT takes the result in t + 50, and finds nothing a cycle earlier or later.
    """
    p, t = pad(), 20
    for n in range(16):  # the matrix [stream, lane] = lane + 16 * stream in every superlane
        s = n  # MEM.W0 .. W15
        p.put(s, 0, np.arange(320) % 16 + 16 * n)
        p.at(t - (16 - abs(G.column[s])), s, "READ", 0, W + n)
    p.at(t, "SXM.W.TRANSPOSE0", "TRANSPOSE", W, E)
    p.at(t + 20, "VXM0", "ADDI", S32, NO_STREAM, E, 1)
    p.at(t + 27, "VXM1", "ADDI", S32, NO_STREAM, ALU_BASE, 10)
    p.at(t + 30, "VXM2", "ADDI", S32, E + 4, ALU_BASE + 1, 100)
    reverse = p.map([15 - lane % 16 for lane in range(320)])
    p.at(t + 48, "SXM.E.DISTRIBUTE0", "DISTRIBUTE", 4, E + 4, W + 4, reverse)
    p.at(t + 50 + late, "SXM.E.SHIFT0", "SHIFT", 4, W + 4, W + 8, 0)
    if late:
        with pytest.raises(ScheduleError) as raised:
            p.run(engine)
        assert raised.value.cycle == t + 50 + late
        assert raised.value.kind == ("stream_empty" if late < 0 else "stream_lost")  # not yet there; gone
        assert late < 0 or f"passed there in cycle {t + 50}" in str(raised.value)
        return
    slices = [44, 45, 46, 47]
    for byte, s in enumerate(slices):  # after the SHIFT's 4 cycles at column 16, 15 hops to column 1
        p.at(t + 50 + 4 + 15, s, "WRITE", 9, W + 8 + byte)
    outcome, sram = p.run(engine)
    # Transposed, stream j holds byte 16 * lane + j; lane l's 32-bit value of streams 0 to 3, little endian,
    # plus 1 + 10 + 100 = 111, and the lanes reversed within each superlane.
    values = np.array([sum((16 * (15 - lane % 16) + j) << 8 * j for j in range(4)) for lane in range(320)])
    assert np.array_equal(lanes_of(p, sram, slices, 9, np.int32), (values + 111).astype(np.int64).astype(np.int32))


# -- delays, one by one ----------------------------------------------------------------------------------
@BOTH
def test_read_and_entry_are_5_cycles_from_group_0(engine: str) -> None:
    """READ in column 1 in cycle 0, at the VXM in 1, entered in 5, result on column -1 in 8."""
    p = pad()
    put_lanes(p, [44, 45, 46, 47], 3, np.arange(320, dtype=np.float32))
    for byte in range(4):
        p.at(0, 44 + byte, "READ", 3, W + byte)
        p.at(8, byte, "WRITE", 7, W + 4 + byte)
    p.at(1, "VXM0", "MULI", F32, W + 4, W, bits(0.5))
    outcome, sram = p.run(engine)
    assert outcome.cycles == 9 + STAGGER
    assert np.array_equal(lanes_of(p, sram, [0, 1, 2, 3], 7), np.arange(320, dtype=np.float32) / 2)


@BOTH
def test_an_operand_chained_beside_a_stream_is_taken_when_the_stream_has_entered(engine: str) -> None:
    """A0 = x + 1 is out in 1 + 7 = 8. VXM1 takes stream y in 4, A0 in 4 + 4 = 8, result in 8 + 3 = 11."""
    p = pad()
    x, y = np.arange(320, dtype=np.float32), np.full(320, 1000, dtype=np.float32)
    put_lanes(p, [44, 45, 46, 47], 0, x)
    put_lanes(p, [48, 49, 50, 51], 0, y)
    for byte in range(4):
        p.at(0, 44 + byte, "READ", 0, W + byte)
        p.at(2, 48 + byte, "READ", 0, W + 4 + byte)  # column 2, two hops
        p.at(11, byte, "WRITE", 1, W + 8 + byte)
    p.at(1, "VXM0", "ADDI", F32, NO_STREAM, W, bits(1.0))
    p.at(4, "VXM1", "ADD", F32, W + 8, W + 4, ALU_BASE)
    outcome, sram = p.run(engine)
    assert np.array_equal(lanes_of(p, sram, [0, 1, 2, 3], 1), x + 1 + y)
    assert outcome.cycles == 12 + STAGGER


@BOTH
@pytest.mark.parametrize("kind, delay", [(S8, 40), (F16, 41)])
def test_a_pass_lands_after_the_mxm_latency(engine: str, kind: int, delay: int) -> None:
    """int8: 40 cycles; fp16 is fed for two cycles, so one more. ACC a cycle early finds nothing."""
    for wait in (delay, delay - 1):
        p, size = pad(), 1 if kind == S8 else 2
        weights, x = np.arange(320) % 5 - 2, np.arange(320) % 7 - 3
        for byte in range(size):
            data = weights.astype(np.int8).view(np.uint8) if kind == S8 else weights.astype(np.float16).view(
                np.uint8).reshape(320, 2)[:, byte]
            p.put(44 + byte, 0, data)
            data = x.astype(np.int8).view(np.uint8) if kind == S8 else x.astype(np.float16).view(
                np.uint8).reshape(320, 2)[:, byte]
            p.put(44 + byte, 1, data)
            p.at(0, 44 + byte, "READ", 0, E + byte, n=1, d=2, stride=1)  # weights at 17, activation at 19
        p.at(17, "MXM2.LW", "LW", kind, E, 1, 33)
        p.at(18, "MXM2.LW", "IW", kind)
        p.at(19, "MXM2.ABC", "ABC", kind, E)
        p.at(19 + wait, "MXM2.ACC", "ACC", W + 8)
        if wait < delay:
            with pytest.raises(ScheduleError, match=f"the accumulator is empty; the next result lands in cycle "
                                                    f"{19 + delay}"):
                p.run(engine)
            continue
        for byte in range(4):
            p.at(19 + wait + 17, 44 + byte, "WRITE", 5, W + 8 + byte)
        outcome, sram = p.run(engine)
        result = lanes_of(p, sram, [44, 45, 46, 47], 5, np.int32 if kind == S8 else np.float32)
        expected = np.zeros(320)
        expected[33] = np.dot(weights, x)  # rows never loaded give zero
        assert np.array_equal(result, expected)
        assert outcome.macs == 320


@pytest.mark.parametrize("name, n, delay", [("SHIFT", 16, 4), ("SHIFT", -1, 5), ("SHIFT", -16, 5), ("SHIFT", -17, 6),
                                            ("PERMUTE", 0, 23), ("DISTRIBUTE", 0, 2), ("TRANSPOSE", 0, 4)])
def test_lane_moves_wait_for_superlanes_that_run_later(name: str, n: int, delay: int) -> None:
    """Toward superlane 0, data of a superlane that runs k cycles later: 4 + ceil(lanes / 16); any lane: 4 + 19."""
    assert G.sxm_delay(name, n) == delay


@BOTH
def test_gather_takes_an_address_a_superlane_and_one_cycle(engine: str) -> None:
    """Superlane k's map says k: its 16 lanes come from word 100 + k; out on column 1 in cycle 1 + 1."""
    p = pad()
    index = np.zeros(320, dtype=np.uint8)
    index[::16] = np.arange(20)
    p.put(44, 0, index)
    for k in range(20):
        p.put(45, 100 + k, np.full(320, 50 + k))
    p.at(0, 44, "READ", 0, E)
    p.at(0, 45, "GATHER", 100, E + 1, E)  # same column: the map is there in the same cycle
    p.at(1, 46, "WRITE", 0, E + 1)
    _, sram = p.run(engine)
    assert np.array_equal(p.read(sram, 46, 0), np.repeat(50 + np.arange(20), 16))


@BOTH
def test_the_barrier_releases_all_queues_35_cycles_after_notify(engine: str) -> None:
    """NOTIFY in cycle 5: READ in cycle 40, also in the queue that parked in cycle 0; done in 41."""
    p = pad()
    p.put(44, 0, np.arange(320))
    p.at(0, 44, "SYNC")
    p.at(35, 44, "READ", 0, E)  # no NOP behind SYNC, which takes 35 cycles if NOTIFY comes at once
    p.at(5, 46, "NOTIFY")
    p.at(40, 46, "WRITE", 0, E)
    outcome, sram = p.run(engine)
    assert outcome.cycles == 41 + STAGGER
    assert np.array_equal(p.read(sram, 46, 0), np.arange(320) % 256)


@BOTH
def test_repeat_takes_no_issue_slot_and_moves_addresses(engine: str) -> None:
    """READ 10, 15, 20, 25 in cycles 0, 2, 4, 6; the queue itself writes another bank in cycle 1."""
    p = pad()
    for n in range(4):
        p.put(44, 10 + 5 * n, np.full(320, n + 1))
    p.at(0, 44, "READ", 10, E, n=3, d=2, stride=5)
    p.at(0, 45, "WRITE", 30, E, n=3, d=2, stride=-1)
    p.put(46, 0, np.full(320, 77))
    p.at(1, 46, "READ", 0, E + 9)
    p.at(1, 44, "WRITE", 5000, E + 9)
    outcome, sram = p.run(engine)
    assert [int(p.read(sram, 45, 30 - n)[0]) for n in range(4)] == [1, 2, 3, 4]
    assert p.read(sram, 44, 5000)[0] == 77
    assert outcome.cycles == 7 + STAGGER
    # READ, REPEAT, WRITE | WRITE, REPEAT | NOP 1, READ: 7 words fetched
    assert outcome.fetched == 7
    # Queue 44 issued in cycles 0, 1, 2, 4, 6 and was idle in 3 and 5 and for the 19 cycles of the stagger.
    assert outcome.buckets[44][0] == 5 and outcome.buckets[44][-1] == 2 + STAGGER


@BOTH
def test_every_cycle_of_a_queue_has_one_owner(engine: str) -> None:
    """NOP 3 for data, a REPEAT that issues in two of the cycles of a NOP for a port, then nothing."""
    p = pad()
    for a in range(4):
        p.put(44, a, np.zeros(320))
    data, port = 2, 4  # LPU_REASONS
    p.at(3, 44, "READ", 0, E, n=2, d=2, stride=1, reason=data)  # cycles 3, 5, 7
    p.at(10, 44, "READ", 3, E, reason=port)  # NOP 6 in cycles 4 to 9
    outcome, _ = p.run(engine)
    buckets = outcome.buckets[44]
    assert buckets[0] == 4 and buckets[data] == 3 and buckets[port] == 4 and buckets[-1] == STAGGER
    assert outcome.cycles == 11 + STAGGER == buckets.sum()
    assert outcome.unconsumed == outcome.values == 4
    # Each value travels from column 1 to the edge at 18.
    assert outcome.hops == 4 * 17


@BOTH
def test_a_producer_overwrites_what_passes(engine: str) -> None:
    """MEM.E0 (column 1) in cycle 0 and MEM.E4 (column 2) in cycle 1 meet: the second value goes on."""
    p = pad()
    p.put(44, 0, np.full(320, 1))
    p.put(48, 0, np.full(320, 2))
    p.at(0, 44, "READ", 0, E)
    p.at(1, 48, "READ", 0, E)
    p.at(2, 52, "WRITE", 0, E)
    outcome, sram = p.run(engine)
    assert p.read(sram, 52, 0)[0] == 2
    assert (outcome.values, outcome.unconsumed) == (2, 1)
    assert outcome.hops == 1 + 16  # one hop to the overwriting, then 2 to 18


def test_every_alu_reaches_four_quads_and_chains_to_the_next_rank_and_its_row() -> None:
    assert [G.reach(alu) for alu in (0, 5, 10, 15)] == [(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7), (6, 7, 0, 1)]
    assert sorted(G.large_alus) == [0, 2, 5, 7, 8, 10, 13, 15]
    # From ALU 6 (row 1, rank 2): row 1 is 4 to 7, rank 3 is 3, 7, 11, 15.
    assert [alu for alu in range(16) if G.can_chain(6, alu)] == [3, 4, 5, 6, 7, 11, 15]
    assert [alu for alu in range(16) if G.can_chain(3, alu)] == [0, 1, 2, 3, 4, 8, 12]  # rank 3 feeds rank 0


@BOTH
def test_every_allowed_chain_runs_and_every_other_is_refused(engine: str) -> None:
    """From each ALU to each ALU on the toy chip: 7 of 16 readers are in reach."""
    for source in range(0, 16, 5):
        for reader in range(16):
            p = Pad("toy_lpu")
            g = p.g
            base = 4 * g.reach(source)[0]
            for byte in range(4):
                p.put(8 + byte, 0, np.zeros(16))
                p.at(0, 8 + byte, "READ", 0, W + base + byte)
            p.at(1, g.vxm_queue(source), "NEG", S32, NO_STREAM, W + base)
            p.at(8, g.vxm_queue(reader), "NEG", S32, NO_STREAM, ALU_BASE + source)
            if g.can_chain(source, reader):
                outcome, _ = p.run(engine)
                assert outcome.cycles == 11  # 1 + 7 + 3
            else:
                with pytest.raises(ScheduleError, match="does not reach ALU"):
                    p.run(engine)


def test_queue_kinds_take_only_their_instructions() -> None:
    assert {name for ops in geo.KIND_OPS for name in ops} >= {"READ", "ADD", "LW", "IW", "ABC", "ACC", "TRANSPOSE"}
