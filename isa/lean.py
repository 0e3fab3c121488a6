"""Faster first compilation: functions that only other compiled functions call get no machine code of their own.

Numba optimises and assembles every function by itself, and once more inside each of its callers. An
engine is one entry point and a hundred small functions, so nearly all of that work is thrown away.
Here a function that is compiled because another one calls it stops at LLVM code: it is optimised
inside the entry point that uses it, and only the entry point is assembled and cached. Called from
Python later, it is compiled then. Results are the same; this changes only how long the first run takes.
"""

from __future__ import annotations

import threading
import weakref
from functools import cache
from typing import Any

_state = threading.local()


def _inside() -> bool:
    """Is this thread compiling a function for the sake of another one?"""
    return getattr(_state, "depth", 0) > 1


@cache
def install() -> bool:
    """Teach Numba, once; False (and nothing changed) when this version of it is built differently."""
    from numba.core import caching, codegen, dispatcher, sigutils
    from numba.core import types as numba_types

    library: Any = getattr(codegen, "CPUCodeLibrary", None)
    generator: Any = getattr(codegen, "JITCPUCodegen", None)
    base: Any = getattr(dispatcher, "Dispatcher", None)
    types: Any = numba_types
    wanted = ((library, "_optimize_final_module"), (library, "_finalize_final_module"), (generator, "set_env"),
              (library, "_finalize_dynamic_globals"), (base, "compile"), (base, "add_overload"),
              (base, "get_call_template"), (types, "unliteral"),
              (caching, "NullCache"))
    if not all(hasattr(owner, name) for owner, name in wanted):
        return False
    optimize, finish, set_env = library._optimize_final_module, library._finalize_final_module, generator.set_env
    compile_, add_overload, call_template = base.compile, base.add_overload, base.get_call_template

    def _optimize_final_module(self: Any) -> None:
        if not _inside():
            optimize(self)

    def _finalize_final_module(self: Any) -> None:
        if not _inside():
            finish(self)
            return
        self._finalize_dynamic_globals()
        self._final_module.__library = weakref.proxy(self)
        self._finalized = True

    def _set_env(self: Any, name: str, environment: Any) -> None:
        if not _inside():
            set_env(self, name, environment)

    def _add_overload(self: Any, result: Any) -> None:
        if not _inside():
            add_overload(self, result)
            return
        result.library.without_code = True
        self.overloads[tuple(result.signature.args)] = result

    def _get_call_template(self: Any, arguments: Any, keywords: Any) -> Any:
        # A call with a literal (a flag, an opcode) is no reason to compile the callee once more.
        plain = tuple(types.unliteral(a) for a in arguments)
        return call_template(self, plain, {k: types.unliteral(v) for k, v in keywords.items()})

    def _compile(self: Any, signature: Any) -> Any:
        _state.depth = getattr(_state, "depth", 0) + 1
        try:
            if not _inside():
                arguments = tuple(sigutils.normalize_signature(signature)[0])
                known = self.overloads.get(arguments)
                if known is not None and getattr(known.library, "without_code", False):
                    del self.overloads[arguments]
                return compile_(self, signature)
            cache, options = self._cache, self.targetoptions
            self._cache, self.targetoptions = caching.NullCache(), {**options, "no_cpython_wrapper": True}
            try:
                return compile_(self, signature)
            finally:
                self._cache, self.targetoptions = cache, options
        finally:
            _state.depth -= 1

    library._optimize_final_module = _optimize_final_module
    library._finalize_final_module = _finalize_final_module
    generator.set_env = _set_env
    base.add_overload = _add_overload
    base.compile = _compile
    base.get_call_template = _get_call_template
    return True
