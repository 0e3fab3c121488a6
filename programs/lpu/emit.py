"""Scheduled blocks to a chip's text and memory image.

Blocks follow each other: each starts when the one before has ended. A layer's block is laid down once
a layer, with its own addresses in the layers' arena.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from emulator.lpu.geometry import Geometry
from isa.encoding import encode
from isa.opcodes import BY_NAME
from isa.program import LpuImage, LpuText
from isa.timeline import Timeline
from programs.lpu.core import EVENT_COLUMNS, REASON
from programs.lpu.memory import Memory
from programs.lpu.place import Fill
from programs.lpu.ports import PortTimes

ADDRESS_BIT = 8  # first bit of a memory instruction's address
NODE, TENSOR = EVENT_COLUMNS.index("node"), EVENT_COLUMNS.index("tensor")


@dataclass
class Block:
    """Instructions of a block with cycles from its start. layer: number of the layer, -1 = none; arena: its
    place among the compiled layers. gap: cycles that the chip waits before it. ports: when what crosses its
    links, in cycles of the block."""

    table: np.ndarray  # int64 [n, len(EVENT_COLUMNS)]
    words: np.ndarray  # uint64 [n]
    cycles: int
    ports: PortTimes
    layer: int = -1
    arena: int = -1
    gap: int = 0


def block_starts(g: Geometry, blocks: list[Block]) -> list[int]:
    """First cycle of each block of a text."""
    found, at = [], g.barrier
    for block in blocks:
        found.append(at + block.gap)
        at = found[-1] + block.cycles
    return found


def block_of(events: array, words: array, cycles: int, ports: PortTimes) -> Block:
    table = np.array(events, dtype=np.int64).reshape(-1, len(EVENT_COLUMNS))
    return Block(table, np.array(words, dtype=np.uint64), cycles, ports)


def text_words(g: Geometry, instructions: int) -> int:
    """SRAM words that instructions take."""
    return -(-instructions * g.instruction_bytes // g.lanes)


def timeline_rows(events: np.ndarray) -> np.ndarray:
    """Events of a block, with cycles of the text, as Timeline.extend takes them."""
    rows = np.zeros((len(events), 10), dtype=np.int64)  # queue, cycle, n, d, stride, node, line, reason, busy, tensor
    rows[:, :6] = events[:, :6]
    rows[:, 6], rows[:, 7], rows[:, 8], rows[:, 9] = -1, events[:, 6], 1, events[:, TENSOR]
    return rows


class _Names:
    """Names of a text in the order of their numbers: first those that are the same in every layer."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = [name for name in names if not name.startswith("layer.")]
        self.number = {name: k for k, name in enumerate(self.names)}

    def of_layer(self, names: Iterable[str], layer: int) -> np.ndarray:
        """The text's number of each of a schedule's names, in a block of this layer; then -1, for none."""
        found = []
        for name in names:
            if name.startswith("layer."):
                name = f"layers.{max(layer, 0)}.{name[len('layer.'):]}"
            if name not in self.number:
                self.number[name] = len(self.names)
                self.names.append(name)
            found.append(self.number[name])
        return np.array([*found, -1], dtype=np.int64)


def make_text(g: Geometry, memory: Memory, blocks: list[Block], nodes: list[str], maps: list[np.ndarray]
              ) -> tuple[LpuText, int]:
    """The text, and the cycles of one step as the schedule has them."""
    names, tensors = _Names(nodes), _Names(memory.names)
    tables, words, end = [], [], g.barrier
    for block, start in zip(blocks, block_starts(g, blocks), strict=True):
        table, code = block.table.copy(), block.words.copy()
        table[:, 1] += start
        end = start + block.cycles
        if block.arena >= 0:
            base = np.array([memory.base(s, block.arena) for s in range(g.slices)], dtype=np.uint64)
            rows = table[:, 7] != 0
            code[rows] += base[table[rows, 0]] << np.uint64(ADDRESS_BIT)
        table[:, NODE] = names.of_layer(nodes, block.layer)[table[:, NODE]]
        table[:, TENSOR] = tensors.of_layer(memory.names, block.layer)[table[:, TENSOR]]
        tables.append(table)
        words.append(code)
    every = np.concatenate(tables)
    timeline = Timeline(nodes=names.names, tensors=tensors.names)
    used = sorted(set(every[:, 0].tolist()))
    for k, queue in enumerate(used):
        name = "NOTIFY" if k == 0 else "SYNC"
        timeline.add(queue, 0, encode("lpu", BY_NAME[name], []), busy=g.barrier, reason=REASON["start_barrier"])
    timeline.extend(timeline_rows(every), np.concatenate(words))
    packed, starts, source = timeline.pack(g.queues)
    lane_maps = np.array(maps, dtype=np.uint16) if maps else np.zeros((0, g.lanes), dtype=np.uint16)
    return LpuText(packed, starts, lane_maps, source), end + g.superlanes - 1


def make_image(g: Geometry, memory: Memory, fills: list[Fill], layers: Sequence[int], timing_only: bool) -> LpuImage:
    """Initial SRAM contents; in a timing-only program everything but the compiler's tables is phantom."""
    words, data, zeros, phantom = [], [], [], []
    for fill in fills:
        buffer = fill.buffer
        for at, layer in enumerate(layers if buffer.layered else (-1,)):
            slices = np.array(buffer.slices, dtype=np.int64)
            address = np.array(buffer.addresses, dtype=np.int64)
            if buffer.layered:
                address = address + np.array([memory.base(s, at) for s in buffer.slices])
            number = slices * g.words_per_slice + address + buffer.pitch * np.arange(buffer.n)[:, None]
            if timing_only and not fill.table:
                phantom.append(number.ravel())
            elif fill.zero:
                zeros.append(number.ravel())
            else:
                assert fill.make is not None
                words.append(number.ravel())
                data.append(fill.make(layer).reshape(-1, g.lanes))

    def flat(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)

    content = np.concatenate(data) if data else np.zeros((0, g.lanes), dtype=np.uint8)
    return LpuImage(flat(words), content, flat(zeros), flat(phantom))


__all__ = ["Block", "block_of", "block_starts", "make_image", "make_text", "text_words", "timeline_rows"]
