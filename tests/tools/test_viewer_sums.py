"""What the viewer adds up from a trace, against what the machine itself reported, and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.chip import load_chip
from emulator.result import StepResult
from emulator.run import load
from emulator.trace import Trace, Window
from tests.tools.test_viewer import complaints, needs_browser
from tools.bench.browser import browser, open_page
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.plan import Plan, choose_chip
from tools.plan_at import moment
from tools.programs import example_or_file, open_program
from tools.viewer.nodes import nodes, roofs
from tools.viewer.page import description, page, tables
from tools.viewer.recording import Recording
from tools.viewer.streams import flows
from tools.viewer.summary import accounting, summary


@pytest.fixture(scope="module")
def gemv() -> tuple[Any, StepResult, Trace]:
    """The GEMV example on the LPU: program, step, trace."""
    program = open_program(example_or_file(Path("gemv.lpu.s")), ())
    step = load(program, load_chip("groq_tsp_v1")).step(trace=Window())
    assert step.trace is not None
    return program, step, step.trace


def test_bytes_by_node_add_up_to_the_traffic(gemv: tuple[Any, StepResult, Trace]) -> None:
    _, step, trace = gemv
    found: dict[str, int] = {}
    for node in nodes(trace, load_chip("groq_tsp_v1")):
        for level, size in node.bytes.items():
            found[level] = found.get(level, 0) + size
    assert found == {level: size for level, size in step.traffic.items() if size}


def test_accounting_of_the_trace_is_the_machines(gemv: tuple[Any, StepResult, Trace]) -> None:
    _, step, trace = gemv
    mine = accounting(trace)
    for name, buckets in step.accounting.items():
        assert mine.get(name, {"busy": 0, "idle": sum(buckets.values())}) == {
            bucket: cycles for bucket, cycles in buckets.items() if cycles or bucket in ("busy", "idle")}, name


def test_one_abc_of_a_whole_plane_is_320_x_320_multiply_accumulates(gemv: tuple[Any, StepResult, Trace]) -> None:
    _, _, trace = gemv
    fed = sum(trace.instructions.opcode[i] == "ABC" for i in trace.instruction[trace.kind == 0].tolist())
    assert fed and sum(node.macs for node in nodes(trace, load_chip("groq_tsp_v1"))) == fed * 320 * 320


def test_macs_and_cycles_of_gpu_kernels_by_hand() -> None:
    trace = gpu_recording(3_000, sms=2).trace
    found = {node.name: node for node in nodes(trace, None)}
    for launch, name in enumerate(trace.launches.node):
        issues = trace.instruction[(trace.kind == 0) & (trace.launch == launch)].tolist()
        opcodes = [trace.instructions.opcode[i] for i in issues]
        # m16n8k16 of f16; an FMA in each of 32 lanes
        assert found[name].macs == opcodes.count("MMA") * 16 * 8 * 16 + opcodes.count("FMA") * 32
        assert found[name].issues == len(issues)
        assert found[name].cycles == trace.launches.end[launch] - trace.launches.start[launch]


def test_roofs_are_the_published_peaks() -> None:
    lpu, gpu = roofs(load_chip("groq_tsp_v1")), roofs(load_chip("h100_sxm"))
    # Four planes of 320 x 320 cells at 900 MHz: 737 Tera-operations; 3.35 TB/s of HBM3 (H100 SXM5 data sheet).
    assert lpu["operations"]["int8"] == 4 * 320 * 320 * 2 * 900_000_000
    assert gpu["bytes"]["hbm_read"] == pytest.approx(3.35e12, rel=0.01)


def test_a_floor_is_read_whichever_way_it_is_told() -> None:
    recording = gpu_recording(1_000, sms=1)
    for run, expected in (
        ({"floor": {"cycles": 10, "bound_by": "HBM read"}}, {"cycles": 10, "boundBy": "HBM read"}),
        ({"floor": {"seconds": 1e-6, "bound_by": "x"}}, {"cycles": 1755, "boundBy": "x"}),
        ({"floor_seconds": 1e-6, "bound_by": "x"}, {"cycles": 1755, "boundBy": "x"}),
        ({}, None),
        ({"floor": "nonsense"}, None),
    ):
        recording.run = run
        assert summary(recording)["floor"] == expected


def test_flows_follow_the_table_of_instructions(gemv: tuple[Any, StepResult, Trace]) -> None:
    """READ puts a word on its stream at the slice's column in its own cycle; LW takes 16 streams at the plane's; a
    REPEAT touches none by itself."""
    _, _, trace = gemv
    known = flows(trace, load_chip("groq_tsp_v1"))
    at = trace.instructions.opcode.index("READ")
    queue, asm = trace.instructions.kernel[at], trace.instructions.asm[at]
    assert queue.startswith("MEM.")
    column = (1 + int(queue[5:]) // 4) * (1 if queue[4] == "E" else -1)  # four slices a column, counted from the VXM
    stream = int(asm.split("S")[1].split(".")[0]) + (32 if asm.endswith("W") else 0)
    assert known["flows"][known["flow"][at]] == (column, (), (0, column, (stream,)))
    at = trace.instructions.opcode.index("LW")
    column, taken, put = known["flows"][known["flow"][at]]
    assert abs(column) == 18 and len(taken) == 16 and put is None
    assert known["flow"][trace.instructions.opcode.index("REPEAT")] == -1


@needs_browser
def test_values_on_the_streams_are_those_of_the_plan(gemv: tuple[Any, StepResult, Trace], tmp_path: Any) -> None:
    """In every cycle of the step the page shows the registers that `schedule --at` works out from the plan."""
    program, step, trace = gemv
    chip = load_chip("groq_tsp_v1")
    plan = Plan(program, chip, choose_chip(program, 0, 0))
    path = tmp_path / "gemv.html"
    path.write_text(page([Recording("gemv", trace, chip.clock_hz, {})]), encoding="utf-8")
    with browser() as driver:
        open_page(driver, path)
        shown = driver.execute_script("""
            const t = decodelab.traces[0], all = [];
            for (let c = 0; c < t.cycles; c++) all.push(decodelab.valuesAt(t, 0, c).map((v) => [v.stream, v.column]));
            return all""")
        assert complaints(driver) == []
    filled = 0
    for cycle in range(min(step.cycles, plan.cycles)):
        expected = sorted([r.value.stream, r.column] for r in moment(plan, cycle).registers)
        assert sorted(shown[cycle]) == expected, cycle
        filled += len(expected)
    assert filled > 1000


def test_a_chip_with_other_numbers_than_those_at_hand_has_no_roofs_and_no_streams() -> None:
    recording = lpu_recording(1_000)
    assert description(recording)["roofs"] and tables(recording)["streams"]
    other = Recording(recording.label, recording.trace, recording.clock_hz, {"chip_hash": "another"})
    assert other.chip is None
    assert description(other)["roofs"] is None and tables(other)["streams"] is None
