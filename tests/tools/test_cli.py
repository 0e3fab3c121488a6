"""The command line as a user meets it: help, listings, errors in one sentence, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command line."""
    code = cli.run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a command line is refused."""
    code, out, err = run(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_help_lists_every_command(capsys) -> None:
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    for name in cli.COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(capsys, name: str) -> None:
    code, out, err = run(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: decodelab {name}")


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    """Under 0.3 s of processor time, best of five, and nothing heavy is imported."""
    program = (
        "import sys; from tools.cli import run; code = run(['--help'])\n"
        "heavy = {'numpy', 'numba', 'networkx', 'rich', 'msgspec', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.3


def test_unknown_names_are_refused_with_the_nearest_one(capsys) -> None:
    assert "did you mean compare?" in refused(capsys, "compar")
    assert "'--json'" in refused(capsys, "chips", "--jsn")
    assert "did you mean h100_sxm?" in refused(capsys, "chips", "h100_smx")
    assert "did you mean tiny_kjv?" in refused(capsys, "models", "tiny_kvj")
    assert "did you mean h100_sxm.dram.channels?" in refused(
        capsys, "chips", "h100_sxm", "--set", "h100_sxm.dram.chanels=3"
    )


def test_listings_need_no_compiled_code() -> None:
    for command in ("chips", "models"):
        program = (
            f"import sys; from tools.cli import run; code = run(['{command}'])\n"
            "assert 'numba' not in sys.modules\nsys.exit(code)"
        )
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_chip_shows_every_number_with_its_provenance(capsys) -> None:
    from emulator.chip import load_chip

    chip = load_chip("groq_tsp_v1")
    code, out, _ = run(capsys, "chips", "groq_tsp_v1")
    assert code == 0
    for key, number in chip.numbers.items():
        line = next(line for line in out.splitlines() if line.startswith(f"{key} "))
        assert number.unit in line and number.status in line and number.source in line


def test_an_lpu_lists_its_queues(capsys) -> None:
    _, out, _ = run(capsys, "chips", "toy_lpu")
    assert "MEM.W0..MEM.W7, MEM.E0..MEM.E7, VXM0..VXM15, MXM0.LW..MXM3.LW, MXM0.ABC..MXM3.ABC" in out
    _, out, _ = run(capsys, "chips", "toy_lpu", "--json")
    assert len(json.loads(out)["queues"]) == 2 * 8 + 16 + 3 * 4 + 2 * (4 + 1)


def test_every_number_of_a_shown_range_can_be_tried() -> None:
    """One at a time, the others as they are."""
    from emulator.chip import chip_names, load_chip
    from emulator.gpu.memory_layout import read_numbers
    from emulator.gpu.timing import read_timing
    from emulator.lpu.geometry import geometry

    for name in chip_names():
        chip = load_chip(name)
        for key, number in chip.numbers.items():
            for value in number.range or ():
                text = str(int(value)) if isinstance(number.value, int) else str(value)
                tried = chip.with_override(key, text)
                if chip.kind == "lpu":
                    geometry(tried)
                else:
                    read_timing(tried)
                    read_numbers(tried)


def test_a_set_number_is_shown_as_the_users(capsys) -> None:
    code, out, _ = run(capsys, "chips", "h100_sxm", "--set", "h100_sxm.dram.channels=40", "--json")
    assert code == 0
    number = json.loads(out)["numbers"]["dram.channels"]
    assert (number["value"], number["status"], number["source"]) == (40, "assumed", "user")


def test_json_and_table_name_the_same_chips(capsys) -> None:
    _, text, _ = run(capsys, "chips")
    _, out, _ = run(capsys, "chips", "--json")
    listed = json.loads(out)
    assert listed["schema"] == "decodelab.chips/1"
    for entry in listed["chips"]:
        line = next(line for line in text.splitlines() if line.startswith(entry["chip"] + " "))
        assert all(str(count) in line for count in entry["numbers"].values())


def test_output_is_ascii_when_the_stream_is_not_utf8() -> None:
    environment = dict(os.environ, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "chips", "groq_tsp_v1"], env=environment, capture_output=True, check=True
    )
    done.stdout.decode("ascii")


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", ""])
def test_a_count_of_jobs_that_is_none_is_refused(capsys, monkeypatch, value: str) -> None:
    monkeypatch.setenv("DECODELAB_JOBS", value)
    assert f"DECODELAB_JOBS={value}: must be" in refused(capsys, "compare", "--timing-only", "--chip", "groq_tsp_v1")


COMPARE_REFUSALS = [
    (["--chip", "h100"], "did you mean h100_sxm?"),
    (["--model", "llama-3.1-9b"], "did you mean llama-3.1-8b?"),
    (["--set", "h100_sxm.dram=3"], "unknown chip key h100_sxm.dram"),
    (["--set", "groq.core.clock_hz=3"], "did you mean groq_tsp_v1?"),
    (["--model", "llama-3.1-8b"], "it runs with --timing-only"),
    (["--model", "llama-3.1-8b", "--timing-only", "--layers", "31:33"], "outside the model's 32 layers"),
    (["--layers", "0:1"], "needs --timing-only"),
    (["--chip", "h100_sxm", "--arithmetic", "int8"], "--arithmetic int8 is for LPUs"),
    (["--chip", "groq_tsp_v1", "--weights", "int8"], "--weights int8 is for GPUs"),
    (["--chip", "groq_tsp_v1", "--launch", "graph"], "--launch graph is for GPUs"),
    (["--arithmetic", "int4"], "--arithmetic int4 is unknown; known: fp16, int8, cast8"),
    (["--weights", "int4"], "--weights int4 is unknown; known: bf16, fp16, fp8, int8"),
    (["--kv-format", "int8"], "--kv-format int8 is unknown; known: fp16, bf16, fp8"),
    (["--context", "8", "--tokens", "16"], "over --context 8"),
    (["--prompt-ids", "5,2000"], "token 2000 is not in the vocabulary of 1024 tokens"),
    (["--prompt", "a", "--prompt-ids", "5"], "cannot be given together"),
    (["--prompt", ""], "holds no token"),
    (["--batch", "1", "--prompt", "a", "--prompt", "b"], "--batch 1 is fewer than the 2 prompts given"),
    (["--csv", "/nowhere/out.csv"], "there is no folder /nowhere"),
    (["--context", "1,,2"], "is not numbers such as"),
]


@pytest.mark.parametrize(("arguments", "message"), COMPARE_REFUSALS, ids=[m for _, m in COMPARE_REFUSALS])
def test_compare_refuses_what_makes_no_sense(capsys, monkeypatch, arguments: list[str], message: str) -> None:
    monkeypatch.setenv("DECODELAB_JOBS", "1")
    assert message in refused(capsys, "compare", *arguments)


def test_arguments_that_are_not_utf8_are_refused_before_anything_is_written(tmp_path: Path, capsys) -> None:
    for arguments in (["query", "t", "SELECT \udcff"], ["trace", "gemv.gpu.s", "-o", f"{tmp_path}/a/\udcff"]):
        assert cli.run(arguments) == 2
        assert "is not text in UTF-8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
