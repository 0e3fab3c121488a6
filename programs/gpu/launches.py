"""Kernels and launches of a program under construction, and the Program they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.chip import Chip
from isa.builder import Kernel
from isa.program import GpuImage, GpuText, Launch, Program, Source, Tensor
from isa.program import Kernel as KernelRecord

Argument = Tensor | tuple[Tensor, int]  # a kernel parameter: a tensor's address, or bytes past it


class Launches:
    """Kernels by name, launches in order; each waits for the one before."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []
        self.index: dict[str, int] = {}
        self.launches: list[tuple[str, int, int, int, tuple[Argument, ...], str]] = []

    def add(self, kernel: Kernel) -> None:
        """A kernel that launches may name."""
        self.index[kernel.name] = len(self.kernels)
        self.kernels.append(kernel)

    def build(self, function: Callable[..., Kernel], name: str, *arguments: Any) -> None:
        """Add the kernel that function(name, *arguments) makes."""
        self.add(function(name, *arguments))

    def launch(self, name: str, grid: int, block: int, shared: int, node: str, **arguments: Argument) -> None:
        """Append a launch of a known kernel; an argument for every parameter, by name."""
        kernel = self.kernels[self.index[name]]
        if set(arguments) != set(kernel.parameters):
            raise ValueError(f"kernel {name} takes {kernel.parameters}, got {tuple(arguments)}")
        self.launches.append((name, grid, block, shared, tuple(arguments[p] for p in kernel.parameters), node))

    def program(self, chip: Chip, image: GpuImage, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Program:
        """The program for one chip. `meta` gets the nodes, in the order of their first launch."""
        words: list[np.ndarray] = []
        records: list[KernelRecord] = []
        lines: list[str] = []
        line_of: list[int] = []
        for kernel in self.kernels:
            encoded = kernel.words()
            records.append(KernelRecord(kernel.name, len(line_of), len(encoded), kernel.registers, kernel.parameters))
            words.append(encoded)
            own_lines, own_line_of = kernel.listing()
            line_of += [len(lines) + line for line in own_line_of]
            lines += own_lines
        none = np.full(len(line_of), -1, dtype=np.int32)
        launches = []
        for at, (name, grid, block, shared, values, node) in enumerate(self.launches):
            arguments = tuple(v.address if isinstance(v, Tensor) else v[0].address + v[1] for v in values)
            launches.append(Launch(self.index[name], grid, block, shared, arguments, (at - 1,) if at else (), node))
        source = Source(np.array(line_of, dtype=np.int32), none, none.astype(np.int16), lines=lines)
        nodes = list(dict.fromkeys(launch.node for launch in launches))
        text = GpuText(np.concatenate(words), records, launches, source)
        meta = meta | {"nodes": nodes}
        return Program("gpu", chip.name, chip.hash, [text], [image], [(0, 0, ())], tensors, meta=meta)
