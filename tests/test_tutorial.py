"""docs/tutorial.md: its commands run as written and print what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import cli

ROOT = Path(__file__).resolve().parent.parent
SIZE = re.compile(r", [0-9.]+ k?B$", re.MULTILINE)  # of a trace's files: Parquet is packed as DuckDB's version does it


def commands() -> list[tuple[str, str]]:
    """(command, what it prints) of every line that begins with "$ "."""
    found: list[tuple[str, str]] = []
    inside = False
    for line in (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and line.startswith("$ "):
            found.append((line[2:], ""))
        elif inside and found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def test_the_tutorial_works_as_written(capsys, tmp_path, monkeypatch) -> None:
    shutil.copytree(ROOT / "programs" / "examples", tmp_path / "programs" / "examples")
    assert "\nmkdir hour\ncd hour\n" in (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (tmp_path / "hour").mkdir()
    monkeypatch.chdir(tmp_path / "hour")
    lines = commands()
    assert sum(line.startswith("decodelab ") for line, _ in lines) >= 8
    for line, expected in lines:
        program, *arguments = shlex.split(line)
        if program == "decodelab":
            code = cli.run(arguments)
            said = capsys.readouterr().out
            assert code == 0, line
        else:
            said = subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
        assert SIZE.sub("", said) == SIZE.sub("", expected), line
    assert {path.name for path in tmp_path.iterdir()} == {"programs", "hour"}  # nothing falls into the checkout


@pytest.mark.parametrize("name", ["export.md", "diff.md", "gpu.md", "lpu.md", "assembly.md", "notebook.ipynb"])
def test_pages_that_it_names_exist(name: str) -> None:
    assert (ROOT / "docs" / name).is_file()
