"""Places in SRAM: which words belong to what, and when a word may be read and written again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emulator.lpu.geometry import Geometry
from programs.errors import CapacityError


@dataclass
class Buffer:
    """n vectors of len(slices) byte planes: vector i, byte b lies in slices[b] at addresses[b] + i * pitch.

    layered: the addresses are those of the first layer in the layers' arena; the bank is then unknown
    until all is placed. ready[i]: first cycle in which vector i can be read. used[i]: last cycle in
    which it is read. Both count in the block that is being scheduled.
    """

    slices: tuple[int, ...]
    addresses: tuple[int, ...]
    n: int
    pitch: int = 1
    layered: bool = False
    ready: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    size: int = 0  # bytes of a vector
    side: int = 0  # hemisphere
    settled: bool = True  # whether slices and addresses are known
    groups: tuple[int, ...] = ()  # slice groups it wants, while it is not settled
    name: str = ""  # of the tensor that it holds, for people; "layer.": each layer has its own

    def __post_init__(self) -> None:
        self.size = self.size or len(self.slices)
        if not self.ready:
            self.forget()

    def forget(self) -> None:
        """A new block begins: everything is there."""
        self.ready[:] = [0] * self.n
        self.used[:] = [-1] * self.n

    def named(self, name: str) -> Buffer:
        """This buffer, with the name of what it holds."""
        self.name = name
        return self

    def address(self, byte: int, i: int) -> int:
        return self.addresses[byte] + i * self.pitch

    def words(self, g: Geometry) -> np.ndarray:
        """Word numbers int32 [n, bytes] (of a buffer that is not layered)."""
        slices = np.array(self.slices, dtype=np.int64) * g.words_per_slice + np.array(self.addresses)
        return (slices[None, :] + self.pitch * np.arange(self.n)[:, None]).astype(np.int32)

    def planes(self, first: int, step: int) -> Buffer:
        """Every step-th byte plane as a buffer of its own that shares readiness."""
        return Buffer(self.slices[first::step], self.addresses[first::step], self.n, self.pitch, self.layered,
                      self.ready, self.used, side=self.side, name=self.name)

    def repeated(self, i: int, n: int) -> Buffer:
        """Vector i, which is written already, n times over in the same words."""
        return Buffer(self.slices, tuple(self.address(byte, i) for byte in range(len(self.slices))), n, 0, self.layered,
                      [self.ready[i]] * n, [self.used[i]] * n, side=self.side, name=self.name)


class Memory:
    """Allocates words slice by slice: a static part, and one arena that every layer has a copy of."""

    def __init__(self, g: Geometry, layers: int) -> None:
        self.g = g
        self.layers = max(layers, 1)
        self.static = [0] * g.slices
        self.layer = [0] * g.slices
        self.high = [0] * g.slices  # words given out from a slice's end
        self.buffers: list[Buffer] = []
        self.columns = g.slices_per_hemisphere // 4  # groups of four slices on one column
        self.reuse = False  # whether released words are given out again
        self.pool: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (slice, n) -> (cycle it is free, address)
        self.turns = [[0] * self.columns, [0] * self.columns]
        self.names: dict[str, int] = {}  # of buffers that instructions use -> their numbers

    def number(self, name: str) -> int:
        """Number of a buffer's name, -1 of none."""
        return self.names.setdefault(name, len(self.names)) if name else -1

    def free(self, slice_number: int) -> int:
        """Words left in a slice."""
        used = self.static[slice_number] + self.layers * self.layer[slice_number] + self.high[slice_number]
        return self.g.words_per_slice - used

    def take(self, slice_number: int, count: int, layered: bool = False) -> int:
        """First of `count` words of a slice. Raises CapacityError where it has no room for them."""
        counter = self.layer if layered else self.static
        first = counter[slice_number]
        counter[slice_number] += count
        if self.free(slice_number) < 0:
            raise CapacityError(
                f"a chip's part cannot be spread evenly enough: slice {slice_number} would need "
                f"{self.g.words_per_slice - self.free(slice_number):,} of {self.g.words_per_slice:,} words; use more "
                "chips, or a smaller context or batch", None)
        return first

    def group(self, hemisphere: int, number: int) -> tuple[int, ...]:
        """The four slices of column 1 + number of a hemisphere (0 west, 1 east)."""
        first = hemisphere * self.g.slices_per_hemisphere + 4 * number
        return tuple(range(first, first + 4))

    def group_free(self, hemisphere: int, number: int) -> int:
        return min(self.free(s) for s in self.group(hemisphere, number))

    def hemisphere(self, slice_number: int) -> int:
        return slice_number // self.g.slices_per_hemisphere

    def buffer(self, slices: tuple[int, ...], n: int, layered: bool = False) -> Buffer:
        """n vectors over the given slices, one a byte."""
        made = Buffer(slices, tuple(self.take(s, n, layered) for s in slices), n, layered=layered,
                      side=self.hemisphere(slices[0]))
        self.buffers.append(made)
        return made

    def top(self, slices: tuple[int, ...], n: int) -> Buffer:
        """n vectors at the end of the given slices, where the second bank is: they can be written while words of
        the first bank are read, and the other way round."""
        for s in slices:
            self.high[s] += n
        made = Buffer(slices, tuple(self.g.words_per_slice - self.high[s] for s in slices), n,
                      side=self.hemisphere(slices[0]))
        self.buffers.append(made)
        return made

    def near(self, size: int, n: int, hemisphere: int, groups: tuple[int, ...], layered: bool = False) -> Buffer:
        """n vectors of `size` bytes in the emptiest of some column groups; bytes of one vector on one column."""
        number = max(groups, key=lambda k: (self._room(hemisphere, k, size), -k))
        slices = sorted(self.group(hemisphere, number), key=lambda s: (-self.free(s), s))[:size]
        return self.buffer(tuple(sorted(slices)), n, layered)

    def later(self, size: int, n: int, side: int, groups: tuple[int, ...] = ()) -> Buffer:
        """A scratch buffer that gets its place from `settle`, when it is known what it must not disturb."""
        made = Buffer((), (), n, size=size, side=side, settled=False, groups=groups)
        self.buffers.append(made)
        return made

    def settle(self, buffer: Buffer, avoid: set[int], groups: tuple[int, ...]) -> None:
        """Place a buffer in slices not in `avoid`: the first of `groups` with room, used ones later."""
        def slices_of(k: int) -> list[int]:
            return [s for s in self.group(buffer.side, k)
                    if s not in avoid and (self.free(s) >= buffer.n or self.pool.get((s, buffer.n)))]

        able = [k for k in groups if len(slices_of(k)) >= buffer.size]
        if not able:
            able = [k for k in range(self.columns) if len(slices_of(k)) >= buffer.size]
        if not able:
            raise CapacityError(f"no slice of the {'east' if buffer.side else 'west'} has {buffer.n:,} words left for "
                                "scratch vectors; use a smaller context or batch", None)

        def emptiest(k: int) -> list[int]:
            order = sorted(slices_of(k), key=lambda s: (not self.pool.get((s, buffer.n)), -self.free(s), s))
            return order[: buffer.size]

        if self.reuse:  # released words first, then where most is left
            number = min(able, key=lambda k: (sum(not self.pool.get((s, buffer.n)) for s in emptiest(k)),
                                              -min(self.free(s) for s in emptiest(k)), k))
        else:
            number = min(able, key=lambda k: (self.turns[buffer.side][k], k))
        self.turns[buffer.side][number] += buffer.size
        chosen = sorted(emptiest(number))
        buffer.slices = tuple(chosen)
        buffer.settled = True
        addresses = []
        for s in chosen:
            pool = self.pool.get((s, buffer.n))
            if pool:
                free, address = min(pool)
                pool.remove((free, address))
                buffer.used[:] = [max(free - 1, u) for u in buffer.used]
            else:
                address = self.take(s, buffer.n)
            addresses.append(address)
        buffer.addresses = tuple(addresses)

    def release(self, *buffers: Buffer) -> None:
        """These scratch buffers are not needed after what has been scheduled; their words may be reused."""
        for buffer in buffers:
            if self.reuse and buffer.settled:
                free = max(*buffer.ready, *buffer.used, -1) + 1
                for s, address in zip(buffer.slices, buffer.addresses, strict=True):
                    self.pool.setdefault((s, buffer.n), []).append((free, address))
                buffer.settled = False

    def _room(self, hemisphere: int, number: int, size: int) -> int:
        free = sorted((self.free(s) for s in self.group(hemisphere, number)), reverse=True)
        return free[size - 1]

    def new_block(self) -> None:
        """Everything allocated so far counts as present at cycle 0 of the next block."""
        for buffer in self.buffers:
            buffer.forget()
        self.pool = {key: [(0, address) for _, address in pool] for key, pool in self.pool.items()}

    @property
    def used_words(self) -> int:
        return sum(self.static) + self.layers * sum(self.layer) + sum(self.high)

    def check(self, text_words: int) -> None:
        """Raise CapacityError when the chip is over-full with its instruction text."""
        need, have = self.used_words + text_words, self.g.words
        if need > have:
            raise CapacityError(
                f"needs {need:,} SRAM words ({self.used_words:,} of data, {text_words:,} of instructions) and one chip "
                f"has {have:,}", -(-need // have))

    def base(self, slice_number: int, layer: int) -> int:
        """Address of a layer's copy of the arena in a slice (after everything is allocated)."""
        return self.static[slice_number] + layer * self.layer[slice_number]
