"""The rules of the house, read from the source: floors, sizes, one place for the JIT."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("isa", "emulator", "programs", "tools")  # an import may go down or stay, never up
LINES_MAX = 700  # the aim is 500
TABLES = ("isa/opcodes.py",)  # tables may be as long as they are


def sources() -> list[Path]:
    found = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    return [*found, ROOT / "decodelab.py"]


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import of a file, those inside functions too."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            modules.append((node.lineno, node.module or ""))
    return modules


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_never_go_up(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :] + ("decodelab",)
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (ROOT / floor).rglob("*.py")
        for line, module in imported(path)
        if module.split(".")[0] in above
    ]
    assert not broken


def test_only_the_jit_module_and_its_callers_know_numba() -> None:
    """One place owns the JIT's options: everybody else takes `njit` from isa.jit."""
    broken = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        if path.parent != ROOT / "isa" or path.name not in ("jit.py", "lean.py", "unsigned.py")
        for line, module in imported(path)
        if module.split(".")[0] in ("numba", "llvmlite")
    ]
    assert not broken


def test_jitted_code_never_calls_libm() -> None:
    """Values must be the same on every machine: jitted modules use isa.semantics, not math or numpy.exp."""
    broken = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        if any(module == "isa.jit" for _, module in imported(path))
        for line, module in imported(path)
        if module in ("math", "cmath")
    ]
    assert not broken


def test_files_have_one_subject() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES_MAX
        and path.relative_to(ROOT).as_posix() not in TABLES
    }
    assert not long


def test_public_functions_say_what_they_give() -> None:
    """Every public function and class has a docstring, unless it is short or jitted (its module's head speaks)."""
    missing = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) is not None or not tree.body, f"{path.relative_to(ROOT)} has no head"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                if any(isinstance(d, ast.Name) and d.id == "njit" for d in node.decorator_list):
                    continue
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node) is None and lines > 12:
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing


def test_the_public_face_has_what_it_promises() -> None:
    import decodelab

    promised = {"load_model", "load_chip", "compile_decode", "assemble", "load", "run", "Result"}
    assert promised <= set(decodelab.__all__)
    assert all(hasattr(decodelab, name) for name in decodelab.__all__)
