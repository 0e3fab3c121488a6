"""The wheel: everything that a user needs is inside, and it runs from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a clean copy of the tracked and new files."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the files of the project cannot be listed")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A decodelab command line from the unpacked wheel, in a folder of its own."""
    program = (
        "import sys, isa, tools.cli\n"
        f"assert isa.__file__.startswith({str(installed)!r}), isa.__file__\n"
        "if __name__ == '__main__':\n    tools.cli.main()\n"
    )
    script = cwd.parent / "run_from_wheel.py"
    script.write_text(program)
    environment = dict(os.environ, PYTHONPATH=str(installed), PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(
        [sys.executable, str(script), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_wheel_holds_data_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "decodelab.py",
        "emulator/chips/groq_tsp_v1.toml",
        "emulator/chips/a100_sxm.toml",
        "emulator/chips/h100_sxm.toml",
        "emulator/chips/h200_sxm.toml",
        "emulator/systems/groq_production.toml",
        "emulator/dram/configs/dramsim3_hbm2_8gb_x128.toml",
        "emulator/dram/configs/hbm3_6g4_jesd.toml",
        "emulator/systems/groq_dragonfly.toml",
        "programs/models/presets/llama-3.1-8b.json",
        "programs/models/tiny_kjv/model.safetensors",
        "programs/models/tiny_kjv/tokenizer.json",
        "tools/commands/compare.py",
        "tools/viewer/assets/view.html",
        "tools/viewer/assets/main.js",
    ):
        assert needed in names
    assert any(name.startswith("programs/examples/") and name.endswith(".s") for name in names)
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith("tests") for name in names)


def test_listing_commands_run_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, shown in ((["--help"], "compare"), (["chips"], "groq_tsp_v1"), (["models"], "tiny_kjv")):
        done = run(installed, empty, *arguments)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
    assert list(empty.iterdir()) == []


def test_a_model_runs_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(installed, empty, "compare", "--tokens", "2", "--prompt", "In the beginning")
    assert done.returncode == 0, done.stderr
    assert "groq_tsp_v1" in done.stdout and "h100_sxm" in done.stdout
    assert list(empty.iterdir()) == []
