"""What all tests share: compiled code made once, before the workers start; how long random tests run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Random tests draw the same examples every time, so that a failure is the change's and not the draw's.
settings.register_profile("decodelab", derandomize=True, deadline=None, database=None)
settings.load_profile("decodelab")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--random-programs", type=int, default=None, metavar="N",
        help="random programs for each comparison of an engine with its twin (default 200)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """With several workers, compile the engines once before they start, side by side.

    Otherwise each worker would compile both.
    """
    if config.option.random_programs is not None:
        os.environ["DECODELAB_RANDOM_PROGRAMS"] = str(config.option.random_programs)
    starts_workers = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not starts_workers or getattr(config.option, "collectonly", False):
        return
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "tools.warm"]
    running = [subprocess.Popen([*command, kind], cwd=ROOT, env=environment) for kind in ("lpu", "gpu")]
    for process in running:
        process.wait()
