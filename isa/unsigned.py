"""Array accesses without wrap-around: an index of the engines' arrays is never negative.

Python counts a negative index from the end of an array, so Numba compares every signed index with zero
and adds the length where it is: three machine instructions for each access of a flat array, in engines
that do little else. This pass, one of a compiler pipeline of our own, tells Numba after type inference
that the index of each access of an array by one integer is unsigned. A negative index would be an error
of the engine that reads far outside; the tests run the engines on random programs against their twins.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def pipeline() -> Any:
    """Numba's nopython pipeline with this pass in it, for `njit(pipeline_class=...)`."""
    from numba.core import ir, types
    from numba.core.compiler import CompilerBase, DefaultPassBuilder
    from numba.core.compiler_machinery import FunctionPass, register_pass
    from numba.core.typed_passes import NopythonTypeInference
    from numba.core.typing import signature

    @register_pass(mutates_CFG=False, analysis_only=False)
    class UnsignedIndices(FunctionPass):
        _name = "decodelab_unsigned_indices"

        def __init__(self) -> None:
            FunctionPass.__init__(self)

        def run_pass(self, state: Any) -> bool:
            calls = state.calltypes
            for block in state.func_ir.blocks.values():
                for statement in block.body:
                    node = statement.value if isinstance(statement, ir.Assign) else statement
                    if not (isinstance(node, ir.SetItem) or (isinstance(node, ir.Expr) and node.op == "getitem")):
                        continue
                    known = calls[node]
                    array, index, *rest = known.args
                    if isinstance(array, types.Array) and array.ndim == 1 and isinstance(index, types.Integer):
                        del calls[node]
                        calls[node] = signature(known.return_type, array, types.uintp, *rest)
            return True

    class Pipeline(CompilerBase):
        def define_pipelines(self) -> list[Any]:
            passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
            passes.add_pass_after(UnsignedIndices, NopythonTypeInference)
            passes.finalize()
            return [passes]

    return Pipeline
