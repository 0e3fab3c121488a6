"""One LPU with a program in its SRAM: steps, host reads and writes, and what a step reports."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from emulator.accounting import LPU_REASONS, check_accounting
from emulator.chip import Chip
from emulator.lpu.geometry import KIND_CLASS, UNIT_CLASSES, Geometry, geometry
from emulator.lpu.outcome import Outcome
from emulator.lpu.sram import Sram
from emulator.result import Accounting, StepResult
from isa import formats
from isa.opcodes import OPS, code
from isa.program import LpuImage, LpuText, Program, Tensor

SRAM_READERS, SRAM_WRITERS = ("READ", "GATHER"), ("WRITE", "SCATTER")
UNIT_OPS = tuple(op.name for op in OPS if op.lpu is not None and op.unit != "icu")


class PoisonError(ValueError):
    """A tensor was read whose values were never computed (timing only)."""


class Engine(Protocol):
    """Runs a text on an SRAM; all other state starts empty each time. Raises ScheduleError."""

    def run(self) -> Outcome: ...


def make_engine(name: str, g: Geometry, text: LpuText, sram: Sram) -> Engine:
    """The engine called "fast" or "naive". Raises TextError for a text that cannot run on this chip."""
    if name == "naive":
        from emulator.lpu.naive import NaiveEngine
        from emulator.lpu.text import Decoded

        Decoded(g, text)  # the same checks at load
        return NaiveEngine(g, text, sram)
    from emulator.lpu.engine import FastEngine  # imports Numba

    return FastEngine(g, text, sram)


class LpuMachine:
    """A program on one LPU; see emulator.run.Machine for the protocol.

    engine: "fast" or "naive". Raises TextError for a text that cannot run on this chip, ValueError
    for an image that does not fit it.
    """

    def __init__(self, program: Program, chip: Chip, engine: str = "fast") -> None:
        self.program, self.chip = program, chip
        self.geometry: Geometry = geometry(chip)
        text_number, image_number, _ = program.chips[0]
        text, image = program.texts[text_number], program.images[image_number]
        assert isinstance(text, LpuText) and isinstance(image, LpuImage)
        self.sram = Sram(self.geometry)
        self.sram.load(image)
        self.engine = make_engine(engine, self.geometry, text, self.sram)

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
        padded = np.zeros((rows, words.shape[1] * g.lanes, raw.shape[2]), dtype=np.uint8)
        padded[:, :columns] = raw
        planes = padded.reshape(rows, words.shape[1], g.lanes, raw.shape[2]).transpose(0, 1, 3, 2)
        self.sram.store(words.reshape(-1), planes.reshape(-1, g.lanes))
        return words.size * g.lanes

    def read(self, name: str) -> np.ndarray:
        """Values of a tensor in its shape (replicated: one value a row): float32 or int32.

        Words that nothing has written read as zeros. Raises PoisonError where values were never computed.
        """
        tensor, g = self.program.tensors[name], self.geometry
        words = self._words(tensor)
        if self.sram.state(words) == "poison":
            raise PoisonError(f"tensor {name} holds no values: the run was timing only")
        rows, columns = tensor.shape
        planes = self.sram.data[words.reshape(-1)].reshape(rows, words.shape[1], words.shape[2], g.lanes)
        raw = planes.transpose(0, 1, 3, 2).reshape(rows, words.shape[1] * g.lanes, words.shape[2])
        values = formats.decode(formats.from_bytes(raw[:, :columns], tensor.dtype), tensor.dtype)
        return values[:, 0].copy() if tensor.replicated else values

    def _words(self, tensor: Tensor) -> np.ndarray:
        if tensor.words is None:
            raise ValueError(f"tensor {tensor.name} has no place in the SRAM")
        return tensor.words

    # -- steps -----------------------------------------------------------------------------------------
    def step(self, token: int | list[int] | None = None) -> StepResult:
        """Run the program once. token: ids that the host writes first, one a sequence.

        Raises ScheduleError when the schedule is impossible.
        """
        host = 0
        if token is not None:
            host = self.write("token", np.atleast_1d(np.asarray(token, dtype=np.int64)))
        fed = self._token_words()
        outcome = self.engine.run()
        accounting = self._accounting(outcome)
        check_accounting(accounting, self.units(), outcome.cycles)
        result = StepResult(outcome.cycles, self._traffic(outcome, host), accounting, self._counters(outcome))
        if fed is not None and self.sram.state(fed[0]) == "poison":
            self.sram.store(*fed)  # timing only: the argmax of unknown logits is discarded
        tensors, words = self.program.tensors, self._words
        if "logits" in tensors and self.sram.state(words(tensors["logits"])) == "real":
            result.logits = self.read("logits")
        if "token" in tensors and not self.program.meta.get("timing_only"):
            if self.sram.state(words(tensors["token"])) == "real":
                result.tokens = self.read("token").reshape(tensors["token"].shape[0], -1)[:, 0].tolist()
        return result

    def _token_words(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Timing only: words and contents of the token that this step reads."""
        if not self.program.meta.get("timing_only") or "token" not in self.program.tensors:
            return None
        words = self._words(self.program.tensors["token"]).reshape(-1)
        return words, self.sram.data[words].copy()

    def units(self) -> dict[str, int]:
        """Queues of each unit class of the accounting."""
        classes = [KIND_CLASS[kind] for kind in self.geometry.queue_kind]
        return {name: classes.count(name) for name in UNIT_CLASSES}

    def _accounting(self, outcome: Outcome) -> Accounting:
        classes = np.array([UNIT_CLASSES.index(KIND_CLASS[kind]) for kind in self.geometry.queue_kind])
        names = [reason.name for reason in LPU_REASONS]
        return {name: dict(zip(names, outcome.buckets[classes == n].sum(axis=0).tolist(), strict=True))
                for n, name in enumerate(UNIT_CLASSES)}

    def _traffic(self, outcome: Outcome, host: int) -> dict[str, int]:
        """Bytes by level. stream_byte_hops: bytes x columns moved; mxm_ingest: weight bytes taken by LW."""
        lanes, issued = self.geometry.lanes, outcome.issued
        return {
            "sram_read": lanes * sum(int(issued[code(name)]) for name in SRAM_READERS),
            "sram_write": lanes * sum(int(issued[code(name)]) for name in SRAM_WRITERS),
            "instruction_fetch": outcome.fetched * self.geometry.instruction_bytes,
            "stream_byte_hops": outcome.hops * lanes,
            "mxm_ingest": outcome.ingested * lanes,
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
