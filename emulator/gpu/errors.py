"""What can go wrong while a GPU program runs, with the place where it did."""

from __future__ import annotations

# Error kinds, in the order of their numbers in the engine (0 = none).
KINDS = (
    "none", "address_range", "misaligned", "poison_address", "poison_predicate", "poison_uniform",
    "shared_range", "unwritten", "divergent", "copy_groups", "deadlock", "bulk_size", "mbarrier",
    "mbarrier_overrun",
)
(NONE, ADDRESS_RANGE, MISALIGNED, POISON_ADDRESS, POISON_PREDICATE, POISON_UNIFORM,
 SHARED_RANGE, UNWRITTEN, DIVERGENT, COPY_GROUPS, DEADLOCK, BULK_SIZE, MBARRIER, MBARRIER_OVERRUN) = range(len(KINDS))

WORDS = {
    "address_range": "address 0x{value:x} is outside the allocated global memory",
    "misaligned": "address 0x{value:x} is not a multiple of the access width",
    "poison_address": "an address operand has no value: it was computed from phantom (timing-only) data",
    "poison_predicate": "the guard has no value: it was computed from phantom (timing-only) data",
    "poison_uniform": "a uniform register would take a value that was computed from phantom (timing-only) data",
    "shared_range": "shared-memory address {value} is outside the CTA's allocation",
    "unwritten": "{register} is read before anything was written to it",
    "divergent": "the guard differs between lanes, but this instruction acts for the whole warp",
    "copy_groups": "more than 16 groups of asynchronous copies are unfinished",
    "deadlock": "no warp can ever go on: the awaited phase of the mbarrier at shared address {value} gets no more "
                "arrivals or bytes",
    "bulk_size": "{value} bytes: a bulk copy moves a multiple of 16, an mbarrier expects up to 1048575",
    "mbarrier": "there is no mbarrier at shared address {value}; MBINIT makes one",
    "mbarrier_overrun": "the phase of the mbarrier at shared address {value} gets more than it expects",
}


class LaunchError(ValueError):
    """A program or launch that this GPU cannot take; the message is for the user."""


class MachineError(Exception):
    """A program did something that the machine does not allow.

    kind: one of KINDS. kernel: name; index: instruction in the kernel; line: source line number or
    -1; cta, warp: numbers in the grid and in the CTA; cycle: SM cycle of the issue.
    """

    def __init__(self, kind: str, *, kernel: str, index: int, instruction: str, line: int, text: str,
                 cta: int, warp: int, cycle: int, value: int = 0, register: str = "") -> None:
        self.kind, self.kernel, self.index, self.line = kind, kernel, index, line
        self.cta, self.warp, self.cycle, self.value = cta, warp, cycle, value
        what = WORDS[kind].format(value=value, register=register)
        where = f"kernel {kernel}, instruction {index} ({instruction})"
        if line >= 0:
            where += f", line {line}"
        message = f"{where}: {what} [CTA {cta}, warp {warp}, cycle {cycle}]"
        super().__init__(message + (f"\n    {text}" if text else ""))
