"""LPUs with a program in their SRAM: steps, host reads and writes, and what a step reports."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from emulator.accounting import LPU_REASONS, check_accounting
from emulator.chip import Chip
from emulator.lpu.geometry import KIND_CLASS, UNIT_CLASSES, Geometry, geometry
from emulator.lpu.outcome import Outcome, together
from emulator.lpu.sram import Sram
from emulator.lpu.step_trace import step_trace
from emulator.lpu.time_tree import lpu_tree
from emulator.lpu.wiring import Wiring
from emulator.result import Accounting, StepResult
from emulator.step_state import check_room, fed_ids
from emulator.time_tree import Leaf, check_tree
from emulator.trace import Window
from isa import formats
from isa.opcodes import OPS, code
from isa.program import LpuImage, LpuText, Program, Tensor
from isa.validate import check_columns

SRAM_READERS, SRAM_WRITERS = ("READ", "GATHER"), ("WRITE", "SCATTER")
UNIT_OPS = tuple(op.name for op in OPS if op.lpu is not None and op.unit != "icu")


class PoisonError(ValueError):
    """A tensor was read whose values were never computed (timing only)."""


class Network(Protocol):
    """The chips of a program, each with its text and SRAM; all other state starts empty each time."""

    def run(self, window: Window | None = None) -> list[Outcome]:
        """One step: an Outcome a row of the table of chips. window: what to record, in cycles of the step. Raises
        ScheduleError."""


def make_network(name: str, g: Geometry, texts: list[LpuText], srams: list[Sram], wiring: Wiring, timing_only: bool
                 ) -> Network:
    """The chips on the engine called "fast" or "naive". Raises TextError for a text that cannot run on this chip."""
    if name == "naive":
        from emulator.lpu.naive_network import NaiveNetwork
        from emulator.lpu.text import Decoded

        for text in {id(text): text for text in texts}.values():
            Decoded(g, text)  # the same checks at load
        return NaiveNetwork(g, texts, srams, wiring, timing_only)
    from emulator.lpu.network import FastNetwork  # imports Numba

    return FastNetwork(g, texts, srams, wiring, timing_only)


class LpuMachine:
    """A program on its LPUs; see emulator.run.Machine for the protocol.

    engine: "fast" or "naive". Raises TextError for a text that cannot run on this chip, ValueError
    for an image that does not fit it, ChipError for a system that cannot have these chips.
    """

    def __init__(self, program: Program, chip: Chip, engine: str = "fast") -> None:
        self.program, self.chip = program, chip
        g = self.geometry = geometry(chip)
        self.wiring = Wiring(program, g)
        self.timing_only = bool(program.meta.get("timing_only"))
        # SRAM of each row. Timing only, rows with the same text and image share one: they stay the same but for
        # values, and a rack's memories would not fit into this computer's.
        self.srams: list[Sram] = []
        shared: dict[tuple[int, int], Sram] = {}
        texts: list[LpuText] = []
        for row, (text_number, image_number, _) in enumerate(program.chips):
            text, image = program.texts[text_number], program.images[image_number]
            assert isinstance(text, LpuText) and isinstance(image, LpuImage)
            key = (text_number, image_number if self.timing_only and engine == "fast" else -1 - row)
            if key not in shared:
                shared[key] = Sram(g)
                shared[key].load(image)
            self.srams.append(shared[key])
            texts.append(text)
        for tensor in program.tensors.values():
            words = tensor.words if tensor.words is not None else np.zeros(0)
            if words.size and not 0 <= words.min() <= words.max() < g.words:
                raise ValueError(f"tensor {tensor.name} lies beyond the chip's {g.words} SRAM words")
            check_columns(tensor, g.lanes)
        self.tree: list[Leaf] | None = None  # of a step: all take the same cycles
        self.network = make_network(engine, g, texts, self.srams, self.wiring, self.timing_only)

    # -- the host's view ---------------------------------------------------------------------------
    def write(self, name: str, array: np.ndarray) -> int:
        """Write a tensor: values in its shape, one a row if it is replicated. Returns the bytes moved.

        Raises ValueError for a wrong shape.
        """
        tensor, g = self.program.tensors[name], self.geometry
        values = np.asarray(array)
        rows, columns = tensor.shape
        if tensor.replicated:
            if values.size != rows:
                raise ValueError(f"tensor {name} takes one value for each of its {rows} rows, got {values.shape}")
            values = np.repeat(values.reshape(rows, 1), columns, axis=1)
        if values.size != rows * columns:
            raise ValueError(f"tensor {name} has shape {tensor.shape}, got values of shape {values.shape}")
        raw = formats.to_bytes(formats.encode(values.reshape(rows, columns), tensor.dtype), tensor.dtype)
        words = self._words(tensor)
        width = words.shape[1] * g.lanes
        for sram, first in self._copies(tensor):
            part = raw[:, first : first + width]
            padded = np.zeros((rows, width, raw.shape[2]), dtype=np.uint8)
            padded[:, : part.shape[1]] = part
            planes = padded.reshape(rows, words.shape[1], g.lanes, raw.shape[2]).transpose(0, 1, 3, 2)
            sram.store(words.reshape(-1), planes.reshape(-1, g.lanes))
        return words.size * g.lanes * len(tensor.chips)

    def read(self, name: str) -> np.ndarray:
        """Values of a tensor in its shape (replicated: one value a row): float32 or int32.

        Words that nothing has written read as zeros. Raises PoisonError where values were never computed.
        """
        tensor, g = self.program.tensors[name], self.geometry
        words = self._words(tensor)
        if self._state(tensor) == "poison":
            raise PoisonError(f"tensor {name} holds no values: the run was timing only")
        rows, columns = tensor.shape
        parts = []
        for sram, _ in self._copies(tensor)[: None if tensor.sharded else 1]:
            planes = sram.data[words.reshape(-1)].reshape(rows, words.shape[1], words.shape[2], g.lanes)
            parts.append(planes.transpose(0, 1, 3, 2).reshape(rows, words.shape[1] * g.lanes, words.shape[2]))
        raw = np.concatenate(parts, axis=1)[:, :columns]
        values = formats.decode(formats.from_bytes(raw, tensor.dtype), tensor.dtype)
        return values[:, 0].copy() if tensor.replicated else values

    def _words(self, tensor: Tensor) -> np.ndarray:
        if tensor.words is None:
            raise ValueError(f"tensor {tensor.name} has no place in the SRAM")
        return tensor.words

    def _copies(self, tensor: Tensor) -> list[tuple[Sram, int]]:
        """(SRAM, first column that lies there) of each chip that holds the tensor or a run of its columns."""
        width = self._words(tensor).shape[1] * self.geometry.lanes if tensor.sharded else 0
        return [(self.srams[row], n * width) for n, row in enumerate(tensor.chips)]

    def _state(self, tensor: Tensor) -> str:
        """"real", "poison" or "unwritten": the worst of what a read would take."""
        copies = [(sram, first) for sram, first in self._copies(tensor) if first < tensor.shape[1]]
        states = {sram.state(self._words(tensor)) for sram, _ in copies[: None if tensor.sharded else 1]}
        return max(states, key=("real", "poison", "unwritten").index)

    # -- steps -----------------------------------------------------------------------------------------
    def step(self, token: int | list[int] | None = None, trace: Window | None = None) -> StepResult:
        """Run the program once. token: ids that the host writes first, one a sequence. trace: what to record.

        Raises RunError for a token or position that the program does not have, ScheduleError when the schedule is
        impossible, and TraceError for a trace that cannot be.
        """
        host = 0
        if token is not None:
            host = self.write("token", np.array(fed_ids(self.program, token), dtype=np.int64))
        check_room(self)
        fed = self._token_words()
        outcomes = self.network.run(trace)
        cycles = max(start + outcome.cycles for start, outcome in zip(self.wiring.starts, outcomes, strict=True))
        total = together(outcomes, cycles)
        accounting, traffic = self._accounting(total), self._traffic(total, host)
        check_accounting(accounting, self.units(), total.cycles)
        if traffic["c2c_sent"] != traffic["c2c_received"]:
            raise AssertionError(f"{traffic['c2c_sent']} bytes were sent, {traffic['c2c_received']} received")
        if self.tree is None:
            self.tree = lpu_tree(self.program, self.chip, total.cycles)
        result = StepResult(total.cycles, traffic, accounting, self._counters(total),
                            time_tree=check_tree(self.tree, total.cycles))
        if trace is not None:
            result.trace = step_trace(self.geometry, self.program, outcomes, self.wiring.starts, total.cycles, host,
                                      trace)
        for sram, words, contents in fed:
            if sram.state(words) == "poison":
                sram.store(words, contents)  # timing only: the argmax of unknown logits is discarded
        tensors = self.program.tensors
        if "logits" in tensors and self._state(tensors["logits"]) == "real":
            result.logits = self.read("logits")
        if "token" in tensors and not self.timing_only and self._state(tensors["token"]) == "real":
            result.tokens = self.read("token").reshape(tensors["token"].shape[0], -1)[:, 0].tolist()
        return result

    def _token_words(self) -> list[tuple[Sram, np.ndarray, np.ndarray]]:
        """Timing only: words and contents of the token that this step reads, on each of its chips."""
        if not self.timing_only or "token" not in self.program.tensors:
            return []
        tensor = self.program.tensors["token"]
        words = self._words(tensor).reshape(-1)
        srams = {id(sram): sram for sram, _ in self._copies(tensor)}
        return [(sram, words, sram.data[words].copy()) for sram in srams.values()]

    def units(self) -> dict[str, int]:
        """Queues of each unit class of the accounting, on all chips."""
        classes = [KIND_CLASS[kind] for kind in self.geometry.queue_kind]
        return {name: classes.count(name) * len(self.srams) for name in UNIT_CLASSES}

    def _accounting(self, outcome: Outcome) -> Accounting:
        classes = np.array([UNIT_CLASSES.index(KIND_CLASS[kind]) for kind in self.geometry.queue_kind])
        names = [reason.name for reason in LPU_REASONS]
        return {name: dict(zip(names, outcome.buckets[classes == n].sum(axis=0).tolist(), strict=True))
                for n, name in enumerate(UNIT_CLASSES)}

    def _traffic(self, outcome: Outcome, host: int) -> dict[str, int]:
        """Bytes by level, of all chips. stream_byte_hops: bytes x columns moved; mxm_ingest: weight bytes taken
        by LW."""
        lanes, issued = self.geometry.lanes, outcome.issued
        return {
            "sram_read": lanes * sum(int(issued[code(name)]) for name in SRAM_READERS),
            "sram_write": lanes * sum(int(issued[code(name)]) for name in SRAM_WRITERS),
            "instruction_fetch": outcome.fetched * self.geometry.instruction_bytes,
            "stream_byte_hops": outcome.hops * lanes,
            "mxm_ingest": outcome.ingested * lanes,
            "c2c_sent": lanes * int(issued[code("SEND")]),
            "c2c_received": lanes * int(issued[code("RECV")]),
            "host": host,
        }

    def _counters(self, outcome: Outcome) -> dict[str, int]:
        """Instructions by mnemonic (REPEAT iterations count), their sum, passes' work, and lint.

        unconsumed_values: stream values that no unit ever sampled; harmless, but a sign of a slip.
        """
        counters = {f"instructions.{op.name}": int(outcome.issued[op.code]) for op in OPS if outcome.issued[op.code]}
        counters["vector_instructions"] = sum(int(outcome.issued[code(name)]) for name in UNIT_OPS)
        counters["macs"] = outcome.macs
        counters["stream_values"] = outcome.values
        counters["unconsumed_values"] = outcome.unconsumed
        return counters
