"""Compiled timing-only programs on disk: scheduling a large layer takes seconds, and nothing in it depends on values.

A program is kept under a hash of everything that made it: the compiler's sources, the chip's numbers,
the model's shape and the options. Beside the compiled engines, in the user's cache folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from isa.jit import cache_root, source_hash
from isa.program import Program


def kept(compiler: Path, what: str, make: Callable[[], Program]) -> Program:
    """The program of `what` (a text that tells everything it depends on) by the compiler in file `compiler`.

    Made when it is not there or cannot be read; not being able to keep it is no error.
    """
    from isa.programfile import ProgramFileError, load_program, save_program

    name = hashlib.sha256(f"{source_hash(compiler)}\0{what}".encode()).hexdigest()[:32]
    path = cache_root() / "programs" / f"{name}.npz"
    try:
        return load_program(path)
    except (OSError, ProgramFileError):
        program = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_program(program, path)
    except OSError:
        pass
    return program
