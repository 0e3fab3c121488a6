"""The one place that owns Numba's options and its on-disk cache.

Numba's own cache does not notice an edited callee in another module. Here every module's cache
folder is named after a hash of the module and of every project module that it imports, directly
or not, so that any edit that can change the compiled code leads to a fresh folder.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from isa import lean, unsigned

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("isa", "emulator", "programs", "tools")

# No fastmath: results must not depend on the target's instruction set. nogil lets sweeps use threads.
OPTIONS = {"cache": True, "nogil": True, "fastmath": False, "error_model": "numpy", "no_cfunc_wrapper": True}


def cache_root() -> Path:
    """User cache folder for compiled code; DECODELAB_CACHE overrides it."""
    named = os.environ.get("DECODELAB_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "decodelab"


def _module_file(name: str) -> Path | None:
    """Source file of a dotted project module, None when it is not one of ours."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Project files that one file imports."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = _module_file(name)
            if file is not None:
                found.add(file)
    return tuple(sorted(found))


def source_hash(path: Path) -> str:
    """Hash of a file and of every project file that it imports, directly or not."""
    seen: set[Path] = set()
    todo = [path.resolve()]
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo.extend(_imports(file))
    digest = hashlib.sha256()
    for file in sorted(seen):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _folder(path: str) -> Path | None:
    """Cache folder for one module's functions, None when nothing can be written there."""
    folder = cache_root() / source_hash(Path(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def njit(function: Callable[..., Any], *, allocates: bool = False, inlined: bool = False) -> Any:
    """Numba's njit with the project's options, cached under the hash of all sources involved.

    allocates: the function makes arrays. All others only use arrays that they are given, so that nobody
    has to count references: two atomic operations for each array of each call cost more than most calls do.
    inlined: the function has no code of its own, only inside those that call it; for small ones, since a
    call that passes an array costs some thirty instructions.
    Without a writable cache folder everything works, but is compiled again in every process.
    """
    import numba

    lean.install()
    options = {**OPTIONS, "_nrt": allocates, "forceinline": inlined, "pipeline_class": unsigned.pipeline()}
    folder = _folder(function.__code__.co_filename)
    if folder is None:
        return numba.njit(**{**options, "cache": False})(function)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before


def inlined(function: Callable[..., Any]) -> Any:
    """`njit` of a function that is compiled into those that call it."""
    return njit(function, inlined=True)


def trailing_zeros() -> Any:
    """For compiled code: a function that gives the number of the lowest set bit of a positive int64."""
    from numba.cpython.unsafe import numbers

    return numbers.trailing_zeros


def prefetcher() -> Any:
    """For compiled code: a function that brings the host's cache line of element `index` of an array nearer.

    It changes no result, and any index is allowed: nothing is read.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def prefetch(typing: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            at = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
            word = ir.IntType(32)
            function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
            declared = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
            builder.call(declared, [at, word(0), word(3), word(1)])  # to be read, as near as can be, data
            return context.get_dummy_value()

        return types.void(array, types.int64), generate

    return prefetch
