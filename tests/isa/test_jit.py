"""The cache of compiled code: an edit takes effect at once, in whichever module it is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from isa import jit, lean

CALLEE = """
from isa.jit import njit


@njit
def weight(x):
    return {factor} * x
"""
CALLER = """
from isa.jit import njit
from isa.callee import weight


@njit
def total(n):
    s = 0
    for i in range(n):
        s += weight(i)
    return s
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with this isa.jit, a jitted caller, and its callee in another module."""
    package = tmp_path / "isa"
    package.mkdir()
    (package / "__init__.py").touch()
    for module in ("jit.py", "lean.py", "unsigned.py"):
        shutil.copy(Path(jit.__file__).with_name(module), package / module)
    (package / "caller.py").write_text(CALLER)
    (package / "callee.py").write_text(CALLEE.format(factor=2))
    return tmp_path


def total(project: Path) -> int:
    """total(10) in a fresh process with a cache folder of its own."""
    program = f"import sys; sys.path.insert(0, {str(project)!r}); from isa.caller import total; print(total(10))"
    environment = dict(os.environ, DECODELAB_CACHE=str(project / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_an_edited_callee_takes_effect_at_once(project: Path) -> None:
    assert total(project) == 2 * 45  # 0 + 1 + ... + 9
    compiled = sorted((project / "cache").rglob("*.nbc"))
    assert compiled
    assert total(project) == 2 * 45
    assert sorted((project / "cache").rglob("*.nbc")) == compiled, "nothing is compiled twice"
    (project / "isa" / "callee.py").write_text(CALLEE.format(factor=3))
    assert total(project) == 3 * 45


def test_the_hash_covers_every_module_that_is_imported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "ROOT", project)
    jit._imports.cache_clear()
    caller = project / "isa" / "caller.py"
    before = jit.source_hash(caller)
    (project / "isa" / "callee.py").write_text(CALLEE.format(factor=3))
    assert jit.source_hash(caller) != before
    (project / "isa" / "unrelated.py").write_text("x = 1\n")
    (project / "isa" / "callee.py").write_text(CALLEE.format(factor=2))
    assert jit.source_hash(caller) == before
    jit._imports.cache_clear()


def test_the_cache_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECODELAB_CACHE", str(tmp_path / "here"))
    assert jit.cache_root() == tmp_path / "here"
    monkeypatch.delenv("DECODELAB_CACHE")
    assert jit.cache_root().name == "decodelab"


def test_without_a_writable_cache_folder_everything_still_works(project: Path) -> None:
    (project / "cache").write_text("a file where the folder should be")
    assert total(project) == 2 * 45
    assert not list(project.rglob("*.nbc"))


ORDERS = """
from isa.caller import total
from isa.callee import weight
from isa.jit import njit


@njit
def checked(x):
    if x < 0:
        raise ValueError("negative")
    return weight(x)


@njit
def both(x):
    return checked(x) + total(x)


print(both(4), weight(5), total(3), checked(2), weight(0.5), both(4))
try:
    both(-1)
except ValueError as error:
    print(error)
print(len(weight.overloads), weight.overloads and weight(7))
"""


def test_functions_compiled_inside_others_can_be_called_by_themselves(project: Path) -> None:
    environment = dict(os.environ, DECODELAB_CACHE=str(project / "cache"))
    (project / "isa" / "orders.py").write_text(ORDERS)
    for _ in range(2):  # the second time from the cache
        done = subprocess.run([sys.executable, "-m", "isa.orders"], cwd=project, env=environment,
                              capture_output=True, text=True, check=True)
        # both(4) = 2 * 4 + 2 * (0 + 1 + 2 + 3); total(3) = 2 * (0 + 1 + 2)
        assert done.stdout.split("\n")[:2] == ["20 10 6 4 1.0 20", "negative"]


def test_only_entry_points_are_assembled_and_cached(project: Path) -> None:
    total(project)
    assert [path.name.split(".")[1].split("-")[0] for path in (project / "cache").rglob("*.nbc")] == ["total"]


def test_no_index_is_compared_with_zero() -> None:
    def read(array, index):
        array[index + 1] = 5
        return array[index]

    text = {}
    for name, compiled in (("ours", jit.njit(read)), ("numba's", numba.njit(read))):
        compiled(np.arange(4), 2)
        text[name] = next(iter(compiled.inspect_llvm().values()))
    assert "icmp slt" in text["numba's"]
    assert "icmp slt" not in text["ours"]


def test_inlined_functions_give_the_same_and_are_marked_for_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_folder", lambda path: None)  # code from the cache cannot be looked into

    def leaf(array, index):
        for i in range(len(array)):
            if array[i] > index:
                array[i] -= 3
        return array[index]

    marked = {}
    for name, made in (("inlined", jit.inlined(leaf)), ("called", jit.njit(leaf))):
        array = np.array([1, 5, 9])
        assert made(array, 1) + made(array, 2) == 2 + 3  # 1 2 6, then 1 2 3
        marked[name] = "alwaysinline" in next(iter(made.inspect_llvm().values()))
    assert marked == {"inlined": True, "called": False}


def test_trailing_zeros_number_the_lowest_bit() -> None:
    lowest = jit.trailing_zeros()

    @jit.njit
    def lowest_of(array):
        return lowest(array[0])

    assert [lowest_of(np.array([x])) for x in (1, 6, 1 << 40, 1 << 62)] == [0, 1, 40, 62]


def test_this_numba_is_built_as_expected() -> None:
    assert lean.install()
