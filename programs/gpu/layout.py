"""Where things lie in GPU memory: an arena of real and phantom allocations, and weights row by row.

Weights lie as a checkpoint has them, each row in one piece, padded to whole chunks. Only the order of
rows is the kernels' own: rows that meet in one item (the halves of a rotated pair, gate and up) are in
the same group.
"""

from __future__ import annotations

import numpy as np

from isa.opcodes import TYPE_BYTES, TYPES
from isa.program import GpuImage, Tensor
from programs.gpu.plan import LinearPlan, round_up

ALIGNMENT = 512  # bytes: whole lines, whole DRAM chunks


class Arena:
    """Allocations by name; `close()` gives the initial memory, `tensors` is the table of names.

    What is always real (step state, tables) comes first, then what is phantom in a timing-only
    program: addresses are the same with and without values, and so are the cycles.
    """

    def __init__(self, timing_only: bool) -> None:
        self.timing_only = timing_only
        self.tensors: dict[str, Tensor] = {}
        self._sizes = {"always": ALIGNMENT, "values": 0}  # address 0 stays empty: no tensor lies there
        self._values: list[Tensor] = []  # whose addresses are relative until `close`
        self._contents: list[tuple[Tensor, np.ndarray]] = []

    def place(self, name: str, dtype: str, shape: tuple[int, int], role: str, *, pitch: int | None = None,
              data: np.ndarray | None = None, phantom: bool | None = None) -> Tensor:
        """Allocate rows of `dtype`. pitch: bytes from row to row (default: packed).

        data: initial bytes (any dtype, C order, from the tensor's address on), zero otherwise; not
        looked at where the tensor is phantom. phantom=False: real in timing-only programs too.
        """
        pitch = pitch or shape[1] * TYPE_BYTES[TYPES.index(dtype)]
        section = "always" if phantom is False else "values"
        tensor = Tensor(name, dtype, shape, role, phantom=self.timing_only and section == "values",
                        address=self._sizes[section], pitch=pitch)
        self._sizes[section] += round_up(max(shape[0] * pitch, 1), ALIGNMENT)
        if section == "values":
            self._values.append(tensor)
        if data is not None and not tensor.phantom:
            self._contents.append((tensor, data))
        self.tensors[name] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        """Memory taken so far."""
        return sum(self._sizes.values())

    def close(self) -> GpuImage:
        """Fix the addresses (in place) and give the initial memory. Call once, before launches are made."""
        base = self._sizes["always"]
        for tensor in self._values:
            tensor.address += base
        data = np.zeros(base if self.timing_only else self.bytes, dtype=np.uint8)
        for tensor, content in self._contents:
            raw = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
            data[tensor.address:tensor.address + len(raw)] = raw
        self._contents.clear()
        return GpuImage(data, base, self._sizes["values"] if self.timing_only else 0)


def item_rows(plan: LinearPlan, rows_a: np.ndarray, rows_b: np.ndarray | None = None) -> np.ndarray:
    """Original row of every stored row, -1 for padding: int64 [passes * grid * rows].

    rows_a: original row of each output (or of a pair's first), rows_b: of a pair's second.
    """
    groups = plan.passes * plan.grid
    padded = np.full((2 if rows_b is not None else 1, groups * plan.items), -1, dtype=np.int64)
    padded[0, :len(rows_a)] = rows_a
    if rows_b is not None:
        padded[1, :len(rows_b)] = rows_b
    return padded.reshape(-1, groups, plan.items).transpose(1, 0, 2).reshape(-1)


def pack_weights(plan: LinearPlan, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The stored weights, uint8 [passes * grid * rows, k_bytes]. values: raw [out, in]; rows: from item_rows."""
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(values.shape[0], -1)
    padded = np.zeros((len(rows), plan.k_bytes), dtype=np.uint8)
    padded[rows >= 0, :raw.shape[1]] = raw[rows[rows >= 0]]
    return padded


def per_item(plan: LinearPlan, values: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray | None = None) -> np.ndarray:
    """fp32 numbers of each output, [items] or [items, 2] for pairs, padded with zeros to whole passes."""
    count = plan.passes * plan.grid * plan.items
    columns = [rows_a] if rows_b is None else [rows_a, rows_b]
    out = np.zeros((count, len(columns)), dtype=np.float32)
    for i, rows in enumerate(columns):
        out[:len(rows), i] = values[rows]
    return out
