"""Compile the engines into the cache by running a small program on each: `python -m tools.warm lpu gpu`."""

from __future__ import annotations

import sys

PROGRAMS = {
    "lpu": """
.chip toy_lpu
.data x f32 [1,16] 1.5 @E0:E3
.data y f32 [1,16] @E4:E7
x:    READ    S0.W              arrive 20 VXM
VXM0: ADD.f32 S0.E, S0.W, S0.W  at 20
y:    WRITE   S0.E              at 28
.expect y [3.0]
""",
    "gpu": """
.chip toy_gpu
.data x f32 [1,32] 1.5
.kernel twice(x)
.reg at, v
        S2R     at, LANEID
        SHL     at, at, 2
        LDG.32  v, [x + at]
        ADD.f32 v, v, v
        STG.32  [x + at], v
.launch twice 1 32 0 (x)
.expect x [3.0]
""",
}


def warm(kind: str) -> None:
    """Run the small program of one kind of machine."""
    from emulator.assemble import assemble
    from emulator.run import run

    run(assemble(PROGRAMS[kind]))


if __name__ == "__main__":
    for name in sys.argv[1:] or PROGRAMS:
        warm(name)
