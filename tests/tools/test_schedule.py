"""`schedule` and `sensitivity` through the command line: what is printed, as JSON too, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from emulator.chip import FOLDER, load_chip
from emulator.run import load
from programs.compile import compile_decode
from programs.models.checkpoint import load_model
from tests.tools.test_cli import refused, run
from tools.sensitivity import Swept, settings_of, swept_numbers

SMALL = ("--context", "64", "--layers", "0:1")  # of tiny_kjv


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODELAB_JOBS", "1")


def table_row(text: str, first: str) -> list[str]:
    """Cells of the line that begins with a word."""
    return next(line for line in text.splitlines() if line.startswith(first)).split()


# -- schedule ---------------------------------------------------------------------------------------------
def test_the_schedule_of_an_example(capsys) -> None:
    code, out, err = run(capsys, "schedule", "gemv.lpu.s")
    assert (code, err) == (0, "")
    assert out.startswith("groq_tsp_v1: 111 cycles, 123 ns\n")
    assert re.search(r"^MXM.LW.E +\|        \++-", out, re.MULTILINE)  # LW 16 to 35, IW 36: half of two queues
    assert "line 7: MXM2.LW: LW.s8 S0.E, 16, 0 at 16 x20" in out


def test_the_schedule_as_json_says_the_same(capsys) -> None:
    _, text, _ = run(capsys, "schedule", *SMALL)
    code, out, _ = run(capsys, "schedule", *SMALL, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["schema"] == "decodelab.schedule/1"
    program = compile_decode(load_model("tiny_kjv"), load_chip("groq_tsp_v1"), context=64, layers=(0, 1),
                             timing_only=True)
    assert told["cycles"] == program.meta["predicted_cycles"]
    assert f"{told['cycles']:,} cycles" in text
    for node in told["nodes"]:
        numbers = [f"{node[key]:,}" for key in ("first", "last", "instructions")]
        assert numbers == table_row(text, node["node"] + " ")[1:4]
    busy = sum(sum(row["busy"]) for row in told["rows"])
    step = load(program).step()
    assert busy == sum(buckets["busy"] for buckets in step.accounting.values())


def test_a_short_window_of_queues_shows_instructions(capsys) -> None:
    code, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--queues", "--cycles", "0:100")
    _, grid, _ = run(capsys, "run", "gemv.lpu.s", "--grid", "0:100")
    assert code == 0
    assert out.split("\n\n")[1].rstrip() == grid.split("\n\n")[0].rstrip()
    _, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--queues", "--cycles", "70:100", "--json")
    rows = {row["unit"]: row["issued"] for row in json.loads(out)["rows"]}
    assert rows["MXM2.ACC"] == [[76, "ACC"]]
    assert rows["MEM.E8"] == [[91, "WRITE"]]


def test_a_long_window_of_queues_shows_density(capsys) -> None:
    code, out, _ = run(capsys, "schedule", *SMALL, "--queues")
    assert code == 0
    assert re.search(r"^MEM.W\d+\S* +\|.{90,100}\| +\d+\.\d %$", out, re.MULTILINE)


def test_the_window_of_a_node(capsys) -> None:
    code, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--node", "line 7", "--json")
    told = json.loads(out)
    assert (code, told["first_cycle"], told["end_cycle"]) == (0, 16, 36)
    assert "line 12" not in {node["node"] for node in told["nodes"]}
    assert "did you mean layers.0.gate_up?" in refused(capsys, "schedule", *SMALL, "--node", "layers.0.gateup")


def test_a_cycle_in_words_and_as_json(capsys) -> None:
    code, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--at", "36")
    assert code == 0
    # x is sampled by ABC on column 18 and the weights have passed; nothing else is on a stream
    assert "S16.E       18  READ 0, S16.E in MEM.E16, cycle 23" in out
    assert "ABC s8, S16.E in MXM2.ABC, cycle 36" in out
    assert re.search(r"^MXM2 +line 8 +36 +0 +1$", out, re.MULTILINE)
    _, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--at", "36", "--json")
    told = json.loads(out)
    assert [(s["stream"], s["column"], s["since"]) for s in told["streams"]] == [("S16.E", 18, 23)]
    assert {one["queue"] for one in told["issued"]} == {"MXM2.LW", "MXM2.ABC"}
    _, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--at", "10", "--json")
    assert {"access": "read", "slice": "MEM.E20", "address": 6, "stream": "S0.E", "name": "W[96]",
            "node": "line 6"} in json.loads(out)["sram"]


def test_many_values_of_a_cycle_are_told_by_kind(capsys) -> None:
    _, out, _ = run(capsys, "schedule", "gemv.lpu.s", "--at", "30")
    row = next(line for line in out.splitlines() if line.startswith("S0.E..S15.E  13..18"))
    assert re.split("  +", row) == ["S0.E..S15.E", "13..18", "96", "READ in MEM.E20..MEM.E35", "line 6",
                                    "LW in MXM2.LW, cycles 30..35 of line 7"]


def test_a_chip_of_a_system(capsys) -> None:
    options = ("--context", "64", "--tensor-parallel", "2", "--pipeline-parallel", "2")
    code, out, _ = run(capsys, "schedule", *options, "--of", "1,1", "--json")
    told = json.loads(out)
    assert (code, told["stage"], told["rank"], told["number"], told["chips"]) == (0, 1, 1, 3, 4)
    assert {node["node"].split(".")[1] for node in told["nodes"] if node["node"].startswith("layers")} == {"2", "3"}
    program = compile_decode(load_model("tiny_kjv"), load_chip("groq_tsp_v1"), context=64, timing_only=True,
                             tensor_parallel=2, pipeline_parallel=2)
    assert told["starts_in_cycle"] == program.meta["stages"][1][0]
    assert "2 stages (0 to 1) of 2 chips each" in refused(capsys, "schedule", *options, "--of", "0,2")


def test_a_program_file_shows_what_its_model_shows(capsys, tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    run(capsys, "compile", *SMALL, "--timing-only", "-o", str(file))
    _, here, _ = run(capsys, "schedule", *SMALL)
    code, there, _ = run(capsys, "schedule", str(file))
    assert (code, there) == (0, here)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--chip", "h100_sxm"], "only an LPU has a plan"),
    (["gemv.gpu.s"], "toy_gpu is a GPU"),
    (["gemv.lpu.s", "--model", "tiny_kjv"], "--model is for compiling a model"),
    (["gemv.lpu.s", "--chips", "2"], "--chips is for compiling a model"),
    (["gemv.lpu.s", "--at", "3", "--cycles", "0:9"], "exclude each other"),
    (["gemv.lpu.s", "--at", "111"], "the plan has cycles 0 to 110"),
    (["gemv.lpu.s", "--cycles", "200:300"], "the plan has cycles 0 to 110"),
    (["gemv.lpu.s", "--of", "1,0"], "1 stage (0 to 0) of 1 chip each"),
    (["gemv.lpu.s", "--of", "1"], "is not a stage and a rank such as 0,0"),
    (["gemv.lpu.s", "--set", "h100_sxm.dram.channels=3"], "the program is for groq_tsp_v1"),
    (["gemw.lpu.s"], "did you mean the example gemv.lpu.s?"),
], ids=lambda value: value if isinstance(value, str) else " ".join(value))  # fmt: skip
def test_schedule_refuses_what_makes_no_sense(capsys, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, "schedule", *arguments)


# -- sensitivity ----------------------------------------------------------------------------------------------
def test_a_barrier_moves_a_step_by_its_cycles(capsys) -> None:
    """One barrier a step, before everything else: 20 and 50 cycles instead of 35 are 15 less and more."""
    code, out, _ = run(capsys, "sensitivity", *SMALL, "--number", "icu.barrier_cycles", "--json")
    told = json.loads(out)
    assert code == 0
    (number,) = told["numbers"]
    assert [number[end]["cycles"] - told["default_cycles"] for end in ("low", "high")] == [-15, 15]
    assert number["high"]["change"] == pytest.approx(15 / told["default_cycles"])
    together = {name: end["cycles"] - told["default_cycles"] for name, end in told["together"].items()}
    assert together == {"all low": -15, "all high": 15, "all at the faster end": -15, "all at the slower end": 15}


def test_links_between_two_stages_are_crossed_twice(capsys) -> None:
    """The residual goes on and the token comes back: 2 x 53 cycles less without overhead, 2 x (433 - 53) more."""
    code, out, _ = run(capsys, "sensitivity", "--context", "64", "--tensor-parallel", "1", "--pipeline-parallel", "2",
                       "--number", "c2c.overhead_cycles", "--json")
    told = json.loads(out)
    assert (code, told["chips_used"]) == (0, 2)
    assert [told["numbers"][0][end]["cycles"] - told["default_cycles"] for end in ("low", "high")] == [-106, 760]


def test_the_table_is_sorted_by_effect_and_says_what_is_refused(capsys, tmp_path: Path) -> None:
    """A result column of 3 is no machine that programs are compiled for; one chip has no links."""
    text = (FOLDER / "groq_tsp_v1.toml").read_text()
    changed = re.sub(r"(result_column = .*range = )\[0, 1\]", r"\g<1>[1, 3]", text)
    assert changed != text
    file = tmp_path / "chip.toml"
    file.write_text(changed)
    numbers = [x for key in ("icu.barrier_cycles", "mxm.latency_cycles", "vxm.result_column", "c2c.slot_cycles",
                             "mxm.accumulator_depth") for x in ("--number", key)]
    code, out, _ = run(capsys, "sensitivity", *SMALL, "--chip", str(file), *numbers)
    assert code == 0
    names = [line.split()[0] for line in out.splitlines() if re.match(r"\w+\.\w+ +\d", line)]
    assert names == ["mxm.latency_cycles", "icu.barrier_cycles", "vxm.result_column"]
    assert table_row(out, "vxm.result_column")[-3:] == ["same", "refused", "column"]
    assert "refused: vxm.result_column = 3: groq_tsp_v1.vxm.result_column = 3: compiled programs need 0 or 1" in out
    assert "not used by one chip: c2c.slot_cycles" in out
    assert "no effect on this program: mxm.accumulator_depth" in out


def test_what_the_machine_refuses_is_shown_and_the_rest_measured(capsys, monkeypatch) -> None:
    """A schedule that breaks under one number (here: made to) is that number's row, not the end of all."""
    from tools import sensitivity
    from tools.jobs import JobFailed

    def breaks(jobs, title, cold=False):
        if any("icu.barrier_cycles=50" in setting for job in jobs for setting in job.settings):
            raise JobFailed("tiny_kjv on groq_tsp_v1: stream S0.E has no value")
        return [{**entry, "cycles_per_token": 1000 - 15 * bool(job.settings)} for job in jobs]

    entry = dict.fromkeys(("model", "chip", "chip_hash", "arithmetic", "batch", "context", "layers", "system"), "") | {
        "chips_used": 1, "tensor_parallel": 1, "pipeline_parallel": 1}
    monkeypatch.setattr(sensitivity, "run_jobs", breaks)
    code, out, _ = run(capsys, "sensitivity", *SMALL, "--number", "icu.barrier_cycles")
    assert code == 0
    assert table_row(out, "icu.barrier_cycles")[4:] == ["1.09", "us", "-1.5", "%", "refused", "cycles"]
    assert "refused: icu.barrier_cycles = 50: tiny_kjv on groq_tsp_v1: stream S0.E has no value" in out


def test_assumed_numbers_with_a_range_are_swept_and_no_others() -> None:
    chip = load_chip("groq_tsp_v1")
    swept = {n.key: n for n in swept_numbers(chip)}
    assert "c2c.link_latency_cycles" not in swept  # measured, though it has a range
    latency = swept["mxm.latency_cycles"]
    assert isinstance(latency, Swept)
    assert (latency.value, latency.low.values, latency.high.values) == (
        40, {"mxm.latency_cycles": 24}, {"mxm.latency_cycles": 64})
    assert "mxm.latency_cycles" not in {n.key for n in swept_numbers(chip.with_override("mxm.latency_cycles", "30"))}


def test_the_edge_goes_along_with_a_plane_beyond_it() -> None:
    chip = load_chip("groq_tsp_v1")
    assert settings_of(chip, {"mxm.column": 17}) == ("groq_tsp_v1.mxm.column=17", "groq_tsp_v1.stream.edge_column=18")
    assert settings_of(chip, {"mxm.column": 20}) == ("groq_tsp_v1.mxm.column=20", "groq_tsp_v1.stream.edge_column=20")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--chip", "h100_sxm"], "give an LPU"),
    (["--number", "mxm.latensy_cycles"], "did you mean groq_tsp_v1.mxm.latency_cycles?"),
    (["--number", "core.clock_hz"], "it is published, without a range"),
    (["--number", "mxm.latency_cycles", "--set", "groq_tsp_v1.mxm.latency_cycles=30"], "was set with --set"),
    (["--set", "h100_sxm.dram.channels=3"], "no chip h100_sxm takes part"),
    (["--context", "4000"], "context"),
], ids=lambda value: value if isinstance(value, str) else " ".join(value))  # fmt: skip
def test_sensitivity_refuses_what_makes_no_sense(capsys, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, "sensitivity", *arguments)
