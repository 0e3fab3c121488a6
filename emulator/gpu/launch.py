"""Launches: how many CTAs fit an SM, what a launch leaves of L1, and one launch on the fast engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emulator.accounting import GPU_REASONS
from emulator.chip import Chip
from emulator.gpu.decode import Instruction, decode_table, register_name
from emulator.gpu.errors import KINDS, LaunchError, MachineError
from emulator.gpu.memory_rows import open_rows, openings_words, watch_rows, with_openings
from emulator.gpu.timing import LINE_BYTES, SUB_CORES, Timing
from emulator.trace import STALL, Window
from emulator.trace_build import event_columns, open_section, taken, wanted, with_section
from emulator.trace_layout import BYTES, END, RECORD, START, WHAT
from isa.program import GpuText, Kernel, Launch

SM_UNITS = 7  # of an SM in a trace: four sub-cores, itself, load-store unit, bulk engine
REGISTER_UNIT = 256  # registers are given to a warp in units of 8 a lane (CUDA occupancy calculator)
RECORDS = 1 << 20  # events that are recorded between two calls
EVENTS_A_CYCLE = 10  # of an SM, at most: an issue and a wait of each sub-core, what the units below it do
WINDOWS_PER_CALL = 1 << 9  # the compiled kernel comes back this often, for Ctrl-C


@dataclass(frozen=True)
class Shape:
    """What a launch gets: warps of a CTA, CTAs that fit one SM, ways of L1 that shared memory leaves."""

    warps: int
    ctas_per_sm: int
    l1_ways: int


@dataclass
class KernelRun:
    """One launch as an engine ran it: cycles (absolute) and what its counters grew by."""

    start: int
    end: int
    counters: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    events: list[dict[str, np.ndarray]] | None = None  # columns for a trace; units as in emulator/gpu/step_trace.py


def round_up(value: int, unit: int) -> int:
    """`value` rounded up to a multiple of `unit`."""
    return -(-value // unit) * unit


def shape_of(kernel: Kernel, launch: Launch, instructions: list[Instruction], timing: Timing) -> Shape:
    """Resources of a launch. Raises LaunchError when no SM can hold one CTA or an argument is missing."""
    where = f"launch of kernel {kernel.name}"
    if launch.grid < 1:
        raise LaunchError(f"{where}: grid of {launch.grid} CTAs; at least 1 is needed")
    if launch.block < 32 or launch.block % 32:
        raise LaunchError(f"{where}: block of {launch.block} threads; a multiple of 32 is needed")
    if not 0 <= launch.shared_bytes <= timing.shared_per_cta:
        raise LaunchError(
            f"{where}: {launch.shared_bytes} bytes of shared memory; 0 to {timing.shared_per_cta} are possible")
    for at, one in enumerate(instructions):
        if one.op.name == "LDP" and one.values["param"] >= len(launch.arguments):
            raise LaunchError(f"{where}: instruction {at} reads parameter {one.values['param']}, "
                              f"the launch has {len(launch.arguments)}")
    warps = launch.block // 32
    registers = round_up(kernel.registers * 32, REGISTER_UNIT)
    shared = round_up(launch.shared_bytes, LINE_BYTES) + timing.shared_reserved
    limits = {
        "warps": timing.max_warps // warps,
        "CTA slots": timing.max_ctas,
        "registers": timing.registers // (warps * registers),
        "shared memory": timing.shared_bytes // shared if shared else timing.max_ctas,
    }
    ctas = min(limits.values())
    if ctas < 1:
        short = min(limits, key=lambda name: limits[name])
        raise LaunchError(f"{where}: an SM has too few {short} for one CTA of {warps} warps with "
                          f"{kernel.registers} registers and {launch.shared_bytes} bytes of shared memory")
    resident = min(ctas, -(-launch.grid // timing.sms))
    way_bytes = timing.l1_sets * LINE_BYTES
    taken = -(-resident * shared // way_bytes)
    return Shape(warps, ctas, max(1, timing.l1_ways - taken))


def machine_error(kind: str, text: GpuText, kernel: Kernel, instructions: list[Instruction], index: int,
                  cta: int, warp: int, cycle: int, value: int) -> MachineError:
    """The exception for an error number of an engine, with the source line."""
    line = int(text.source.line[kernel.first + index]) if len(text.source.line) else -1
    source = text.source.lines[line] if 0 <= line < len(text.source.lines) else ""
    return MachineError(
        kind, kernel=kernel.name, index=index, instruction=instructions[index].op.name,
        line=line + 1 if line >= 0 else -1, text=source.strip(), cta=cta, warp=warp, cycle=cycle, value=value,
        register=register_name(value) if kind == "unwritten" else "")


class FastEngine:
    """The compiled engine with its state: SMs, memory below L1, global memory."""

    def __init__(self, chip: Chip, timing: Timing, text: GpuText, kernels: list[list[Instruction]],
                 image: np.ndarray, phantom: tuple[int, int], ranks: int = 1, rank: int = 0,
                 lanes: np.ndarray | None = None) -> None:
        from emulator.gpu import layout, memory
        from isa.products import MMA_WORK

        self.layout, self.memory = layout, memory
        self.timing, self.text, self.kernels = timing, text, kernels
        self.tables = [np.ascontiguousarray(decode_table(k)).reshape(-1) for k in kernels]
        self.S, self.U = layout.build_state(timing, image, phantom, ranks, rank, lanes)
        self.F = np.zeros(MMA_WORK, dtype=np.float64)
        self.M = memory.build(chip, ranks)
        self.window: Window | None = None
        self.sections: tuple[np.ndarray, np.ndarray] | None = None
        self.recorded: list[dict[str, np.ndarray]] = []
        self.origin = self.number = self.first = 0
        self._views()
        at = int(self.S[layout.H_U_GLOBAL])
        self.bytes = self.U[at:].view(np.uint8)[: len(image)]

    def _views(self) -> None:
        """S as blocks of SMs and of sub-cores."""
        layout, timing = self.layout, self.timing
        block = int(self.S[layout.H_BLOCK])
        self.blocks = self.S[layout.HEADER : layout.HEADER + timing.sms * block].reshape(timing.sms, block)
        subs = self.blocks[:, layout.SUB : layout.SUB + SUB_CORES * layout.SUB_SIZE]
        self.subs = subs.reshape(timing.sms, SUB_CORES, layout.SUB_SIZE)
        assert np.shares_memory(self.subs, self.S)

    def record(self, window: Window | None, origin: int) -> None:
        """Record what a window asks for of a step that began at cycle `origin`, from the next launch on; None: stop."""
        from emulator.gpu.memory_layout import TRACE

        y, self.window, self.origin, self.recorded = self.layout, window, origin, []
        if window is None:
            self.S[y.H_TRACE] = self.M[TRACE] = 0
            watch_rows(self.M, False)
            return
        if self.sections is None:
            reserve = self.timing.sms * y.WINDOW_MAX * EVENTS_A_CYCLE
            ends = len(self.S), len(self.M)
            self.S = with_section(self.S, reserve + RECORDS, reserve)
            self.M = with_section(with_openings(self.M), RECORDS, RECORDS // 2)
            self.sections = self.S[ends[0] :], self.M[ends[1] + openings_words(self.M) :]
            self._views()
        for array, at, section in zip((self.S, self.M), (y.H_TRACE, TRACE), self.sections, strict=True):
            array[at] = len(array) - len(section)
            open_section(section, window, origin)
        watch_rows(self.M, True)

    def _take_out(self) -> None:
        """Keep what has been recorded since the last time. The units of the memory below come after the SMs' own."""
        if self.window is None or self.sections is None:
            return
        for section, units in zip(self.sections, (0, SM_UNITS * self.timing.sms), strict=True):
            self._keep(taken(section), units)

    def _keep(self, records: np.ndarray, units: int = 0) -> None:
        """Records become columns at once: a copy of them would take as long."""
        self.recorded.append(event_columns(records, origin=self.origin, units=units, instructions=self.first,
                                           launch=self.number))

    @property
    def now(self) -> int:
        """Current SM cycle."""
        return int(self.S[self.layout.H_NOW])

    def counters(self) -> dict[str, int]:
        """Counters of all SMs since the machine was made."""
        at = self.layout.SM_COUNTERS
        sums = self.blocks[:, at : at + len(self.layout.COUNTERS)].sum(axis=0)
        return {name: int(value) for name, value in zip(self.layout.COUNTERS, sums, strict=True)}

    def reasons(self) -> np.ndarray:
        """Cycles by reason of every sub-core since the machine was made: int64 [SMs, 4, reasons]."""
        at = self.layout.SUB_REASONS
        return self.subs[:, :, at : at + len(GPU_REASONS)].copy()

    def bulk_cycles(self) -> dict[str, int]:
        """Cycles of all bulk engines by what they did, since the machine was made."""
        y = self.layout
        return {name: int(self.blocks[:, y.SM_BULK_CYCLES + i].sum()) for i, name in enumerate(y.BULK_STATES)}

    def advance(self, kernel: int, windows: int = WINDOWS_PER_CALL, cycles: int | None = None) -> int:
        """Run the kernel that is set up for at most `windows` windows, each of at most `cycles` cycles (by itself as
        long as nothing that one SM does can reach another); its outcome. Windows change no result."""
        from emulator.gpu.engine import run_kernel

        self.S[self.layout.H_WINDOW] = cycles or self.layout.WINDOW_MAX
        outcome: int = run_kernel(self.S, self.U, self.F, self.tables[kernel], self.M, windows)
        return outcome

    def begin(self, number: int, launch: Launch, shape: Shape, gap: int) -> None:
        """Wait for `gap` cycles, then set a launch up."""
        y, S = self.layout, self.S
        kernel = self.text.kernels[launch.kernel]
        self.number, self.first = number, kernel.first
        self.launch, self.before, self.memory_before = launch, self.counters(), self.memory.counters(self.M)
        start = self.now + gap
        self._note_waits(self.now, start, y.R_LAUNCH)
        self.subs[:, :, y.SUB_REASONS + y.R_LAUNCH] += gap
        self.subs[:, :, y.SUB_SINCE] = start
        self.subs[:, :, y.SUB_LAST] = -1
        self.subs[:, :, y.SUB_TOP] = 0
        self.blocks[:, y.SM_TURN] = 0
        S[y.H_PARAMETERS : y.H_PARAMETERS + 64] = 0
        S[y.H_PARAMETERS : y.H_PARAMETERS + len(launch.arguments)] = launch.arguments
        S[y.H_NOW], S[y.H_GRID], S[y.H_WARPS] = start, launch.grid, shape.warps
        S[y.H_REGISTERS], S[y.H_SHARED] = kernel.registers, launch.shared_bytes
        S[y.H_CTAS_PER_SM], S[y.H_WAYS] = shape.ctas_per_sm, shape.l1_ways
        S[y.H_NEXT_CTA], S[y.H_NEXT_SM], S[y.H_END], S[y.H_FAILED_SM] = 0, 0, start, -1
        S[y.H_TOUCHED] = min(self.timing.sms, launch.grid)
        S[y.H_SM_STOP : y.H_SM_STOP + launch.grid][: self.timing.sms] = 2 * start + y.DISPATCH
        S[y.H_ERROR] = 0
        S[y.H_EPOCH] += 1
        self.blocks[:, y.SM_EPOCH] = S[y.H_EPOCH]  # an SM's L1 is not kept coherent: it is emptied between kernels
        self.start = start

    def go_on(self, windows: int = WINDOWS_PER_CALL) -> bool:
        """At most so many windows of the launch; True when it is over. Raises MachineError."""
        from emulator.gpu.engine import DONE, FAILED

        outcome = self.advance(self.launch.kernel, windows)
        self._take_out()
        if outcome == FAILED:
            y, S, number = self.layout, self.S, self.launch.kernel
            raise machine_error(
                KINDS[int(S[y.H_ERROR])], self.text, self.text.kernels[number], self.kernels[number],
                int(S[y.H_ERROR_PC]), int(S[y.H_ERROR_CTA]), int(S[y.H_ERROR_WARP]), self.now,
                int(S[y.H_ERROR_VALUE]))
        return outcome == DONE

    def finish(self) -> KernelRun:
        """What the launch was."""
        y, end = self.layout, self.now
        self.memory.settle(self.M, end)
        self._note_waits(self.subs[:, :, y.SUB_SINCE], end, y.R_NO_WARP)
        if self.window is not None:
            self._keep(wanted(open_rows(self.M), self.window, self.origin), SM_UNITS * self.timing.sms)
        self._take_out()
        self.subs[:, :, y.SUB_REASONS + y.R_NO_WARP] += end - self.subs[:, :, y.SUB_SINCE]
        after, memory_after = self.counters(), self.memory.counters(self.M)
        return KernelRun(self.start, end, {k: after[k] - self.before[k] for k in after},
                         {k: memory_after[k] - self.memory_before[k] for k in memory_after}, self._events())

    def _note_waits(self, start: np.ndarray | int, end: int, reason: int) -> None:
        """All sub-cores wait from `start` on, for the same reason."""
        if self.window is not None:
            waits = np.full((self.timing.sms * SUB_CORES, RECORD), -1, dtype=np.int64)
            waits[:, START], waits[:, END] = np.broadcast_to(start, self.subs.shape[:2]).reshape(-1), end
            waits[:, WHAT] = np.arange(len(waits)) << 16 | STALL << 8 | reason
            waits[:, BYTES] = 0
            self._keep(wanted(waits[waits[:, END] > waits[:, START]], self.window, self.origin))

    def _events(self) -> list[dict[str, np.ndarray]] | None:
        """What was recorded since the launch before."""
        events, self.recorded = self.recorded, []
        return None if self.window is None else events
