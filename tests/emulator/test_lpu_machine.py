"""The LPU machine around its engines: memory as the host sees it, steps, and what they report."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from emulator.accounting import LPU_REASONS
from emulator.chip import load_chip
from emulator.lpu.errors import ScheduleError
from emulator.lpu.geometry import geometry
from emulator.lpu.machine import LpuMachine, PoisonError
from emulator.lpu.sram import Sram
from isa.encoding import encode
from isa.opcodes import BY_NAME, WEST
from isa.program import LpuImage, LpuText, Program, Tensor
from isa.timeline import Timeline

CHIP = load_chip("toy_lpu")
NONE = np.zeros(0, dtype=np.int32)
E, W = 0, WEST
BOTH = pytest.mark.parametrize("engine", ["fast", "naive"])


def tensor(name: str, dtype: str, rows: int, columns: int, slices: list[int], base: int, **flags: bool) -> Tensor:
    """Rows one after another from word `base`; byte b of chunk k of a row in slice k * bytes + b of the list."""
    t = Tensor(name, dtype, (rows, columns), "activation", **flags)
    chunks = -(-columns // 16)
    words = np.array([[[slices[k * t.itemsize + b] * 512 + base + r for b in range(t.itemsize)]
                       for k in range(chunks)] for r in range(rows)])
    t.words = words.astype(np.int32)
    return t


def machine(tensors: list[Tensor], instructions: list[tuple], engine: str = "fast", phantom: np.ndarray = NONE,
            **meta: object) -> LpuMachine:
    """Everything that the tensors name starts as zeros. instructions: (cycle, queue, op, fields ..)."""
    timeline = Timeline()
    g = geometry(CHIP)
    for cycle, queue, op, *fields in instructions:
        timeline.add(g.queue(queue), cycle, encode("lpu", BY_NAME[op], fields))
    words, starts, source = timeline.pack(g.queues)
    zero = np.concatenate([NONE, *(t.words.reshape(-1) for t in tensors if not t.phantom)])
    image = LpuImage(NONE, np.zeros((0, 16), dtype=np.uint8), np.setdiff1d(zero, phantom).astype(np.int32), phantom)
    program = Program("lpu", CHIP.name, CHIP.hash, [LpuText(words, starts, np.zeros((0, 16), np.uint16), source)],
                      [image], [(0, 0, ())], {t.name: t for t in tensors}, meta=dict(meta))
    return LpuMachine(program, CHIP, engine)


@pytest.mark.parametrize("dtype, values", [
    ("f32", np.linspace(-3, 3, 60, dtype=np.float32)), ("s32", np.arange(60) * 99999 - 7),
    ("f16", np.linspace(-3, 3, 60).astype(np.float16)), ("s8", np.arange(60) * 4 - 120), ("u8", np.arange(60) * 4),
])
def test_a_tensor_that_is_written_reads_back(dtype: str, values: np.ndarray) -> None:
    """Rows of 20 elements take two vectors of 16 lanes."""
    t = tensor("x", dtype, 3, 20, list(range(8)), 100)
    m = machine([t], [])
    m.write("x", values.reshape(3, 20))
    assert np.array_equal(m.read("x"), values.reshape(3, 20).astype(m.read("x").dtype))


def test_a_replicated_tensor_takes_one_value_a_row() -> None:
    t = tensor("n", "s32", 2, 16, [0, 1, 2, 3], 0, replicated=True)
    m = machine([t], [])
    m.write("n", np.array([5, -6]))
    assert m.read("n").tolist() == [5, -6]
    assert np.all(m.srams[0].data[t.words[1, 0, 0]] == 250)  # -6 in every lane
    with pytest.raises(ValueError, match="takes one value for each of its 2 rows"):
        m.write("n", np.zeros(3))


def test_a_wrong_shape_is_refused() -> None:
    m = machine([tensor("x", "s8", 1, 16, [0], 0)], [])
    with pytest.raises(ValueError, match=r"tensor x has shape \(1, 16\), got values of shape \(3,\)"):
        m.write("x", np.zeros(3))


def test_poison_is_never_read_as_a_value() -> None:
    x, y = tensor("x", "s8", 1, 16, [8], 0, phantom=True), tensor("y", "s8", 1, 16, [12], 1)
    m = machine([x, y], [(0, "MEM.E0", "READ", 0, E), (1, "MEM.E4", "WRITE", 1, E)], phantom=x.words.reshape(-1))
    assert not m.read("y").any()
    m.step()
    with pytest.raises(PoisonError, match="tensor y holds no values: the run was timing only"):
        m.read("y")
    m.write("x", np.arange(16))  # a host may give a phantom tensor values
    m.step()
    assert np.array_equal(m.read("y")[0], np.arange(16))


@BOTH
def test_a_step_reports_traffic_and_accounting(engine: str) -> None:
    """READ in cycle 0, WRITE in 1 at the next column: 2 cycles, 16 bytes each; the value ends at the edge, 6 - 1."""
    x, y = tensor("x", "s8", 1, 16, [8], 0), tensor("y", "s8", 1, 16, [12], 1)
    m = machine([x, y], [(0, "MEM.E0", "READ", 0, E), (1, "MEM.E4", "WRITE", 1, E)], engine)
    step = m.step()
    assert step.cycles == 2
    assert step.traffic == {"sram_read": 16, "sram_write": 16, "instruction_fetch": 3 * 8, "stream_byte_hops": 5 * 16,
                            "mxm_ingest": 0, "c2c_sent": 0, "c2c_received": 0, "host": 0}
    mem = step.accounting["mem"]
    # 16 slices x 2 cycles: two instructions, one NOP of a cycle without a reason, else idle.
    assert mem["busy"] == 2 and mem["no_work"] == 1 and mem["idle"] == 29
    assert m.units() == {"mem": 16, "vxm": 16, "mxm": 12, "sxm": 8, "c2c": 2}
    assert {name: sum(b.values()) for name, b in step.accounting.items()} == {n: 2 * k for n, k in m.units().items()}
    assert list(mem) == [reason.name for reason in LPU_REASONS]
    assert step.counters == {"instructions.NOP": 1, "instructions.READ": 1, "instructions.WRITE": 1,
                             "vector_instructions": 2, "macs": 0, "stream_values": 1, "unconsumed_values": 0}


@BOTH
def test_steps_share_the_memory_and_nothing_else(engine: str) -> None:
    """The program moves token to position + 1 words on; each step sees what the one before it wrote."""
    token = tensor("token", "s32", 1, 16, [8, 9, 10, 11], 0, replicated=True)
    other = tensor("last", "s32", 1, 16, [12, 13, 14, 15], 0, replicated=True)
    code = [(0, f"MEM.E{b}", "READ", 0, E + b) for b in range(4)]
    code += [(1, f"MEM.E{4 + b}", "WRITE", 0, E + b) for b in range(4)]
    m = machine([token, other], code, engine)
    first = m.step(token=17)
    assert first.traffic["host"] == 4 * 16 and first.tokens == [17] and m.read("last").tolist() == [17]
    second = m.step()
    assert second.traffic["host"] == 0 and second.tokens == [17] and second.cycles == first.cycles
    assert second.accounting == first.accounting


def test_timing_only_discards_the_token_it_cannot_know() -> None:
    """The program overwrites its token with poison; the next step still has the id that was fed."""
    token = tensor("token", "s32", 1, 16, [8, 9, 10, 11], 0, replicated=True)
    weights = tensor("weights", "s32", 1, 16, [12, 13, 14, 15], 0, phantom=True)
    code = [(0, f"MEM.E{4 + b}", "READ", 0, W + b) for b in range(4)]
    code += [(1, f"MEM.E{b}", "WRITE", 0, W + b) for b in range(4)]
    m = machine([token, weights], code, phantom=weights.words.reshape(-1), timing_only=True)
    assert m.step(token=17).tokens is None
    assert m.read("token").tolist() == [17]


def test_logits_come_out_when_they_are_values() -> None:
    logits = tensor("logits", "f32", 2, 16, [0, 1, 2, 3], 0)
    m = machine([logits], [(0, "MEM.W4", "NOP", 1)])
    m.write("logits", np.arange(32).reshape(2, 16))
    step = m.step()
    assert np.array_equal(step.logits, np.arange(32).reshape(2, 16)) and step.tokens is None


def test_a_schedule_error_leaves_the_machine_usable() -> None:
    x = tensor("x", "s8", 1, 16, [8], 0)
    m = machine([x], [(0, "MEM.E0", "READ", 7, E)])
    for _ in range(2):
        with pytest.raises(ScheduleError, match="sram_unwritten"):
            m.step()
    assert not m.read("x").any()


def test_an_image_beyond_the_chip_is_refused() -> None:
    x = tensor("x", "s8", 1, 16, [8], 0)
    x.words = x.words + 16 * 512
    with pytest.raises(ValueError, match="the image's zero_words go beyond the chip's 8192 SRAM words"):
        machine([x], [])


def test_a_text_for_another_chip_is_refused() -> None:
    m = machine([], [])
    with pytest.raises(ValueError, match="groq_tsp_v1 has 144 instruction queues; the text's queue table does not fit"):
        LpuMachine(m.program, load_chip("groq_tsp_v1"))


def test_phantom_memory_costs_its_flags_only() -> None:
    """220 MiB of phantom words: 5.8 MB of marks; the payload is never touched."""
    resource = pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip("ru_maxrss has another unit here")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    g = geometry(load_chip("groq_tsp_v1"))
    sram = Sram(g)
    sram.load(LpuImage(NONE, np.zeros((0, 320), np.uint8), NONE, np.arange(g.words, dtype=np.int32)))
    assert sram.state(np.arange(10)) == "poison"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    assert grown < 64 * 1024
