"""What each GPU instruction does, for the twin: lane by lane, in plain Python.

Arithmetic is isa.semantics, as on the fast engine; everything around it is written here once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.gpu.decode import PRED0, UREG0, WARP_WIDE, Instruction
from emulator.gpu.errors import (
    ADDRESS_RANGE,
    DIVERGENT,
    MISALIGNED,
    POISON_ADDRESS,
    POISON_PREDICATE,
    POISON_UNIFORM,
    SHARED_RANGE,
    UNWRITTEN,
)
from emulator.gpu.timing import LINE_AT_PEER, LSU, PEER_AT
from isa.opcodes import PT, RZ, SPECIALS, UNIFORM, URZ
from isa.products import MMA_WORK, mma
from isa.semantics import alu, compare

if TYPE_CHECKING:
    from emulator.gpu.naive import NaiveEngine

ZERO_LANES = np.zeros(32, dtype=np.uint32)


class Fault(Exception):
    """An error of the program: its number in errors.KINDS, what the message will say, and which instruction of
    which warp it was, where that is known."""

    def __init__(self, kind: int, value: int, warp: Warp | None = None, index: int = 0) -> None:
        self.kind, self.value, self.warp, self.index = kind, value, warp, index


@dataclass
class Group:
    """A group of asynchronous copies: lines that have not arrived, and when the last one did."""

    left: int = 0
    time: int = 0


@dataclass
class Warp:
    """32 lanes with their registers, predicates, uniform registers and scoreboard."""

    slot: int
    cta: int
    number: int
    age: int
    start: int
    issued: int  # cycle of its last issue, or the one before its CTA's start
    shared: np.ndarray
    shared_poison: np.ndarray  # one flag a word
    start_reason: str = "launch"
    reason: str | None = None  # why it could not issue in the last cycle
    at_barrier: bool = False
    pc: int = 0
    registers: np.ndarray = field(default_factory=lambda: np.zeros((0, 32), dtype=np.uint32))
    predicates: list[int] = field(default_factory=lambda: [0] * 8)  # lane masks
    uniform: list[int] = field(default_factory=lambda: [0] * 64)
    ready: list[int] = field(default_factory=list)  # by scoreboard slot
    producer: list[str] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    poison: set[int] = field(default_factory=set)
    pending: int = 0
    pending_time: int = 0
    groups: list[Group] = field(default_factory=lambda: [Group()])  # the last one is open
    retired: int = 0
    stores: int = 0  # in the queue, and lines without acknowledgement
    waits_at: int = -1  # shared address of the mbarrier that holds the warp

    def close_group(self) -> None:
        """CPCOMMIT."""
        self.groups.append(Group())

    def lanes(self, register: int) -> np.ndarray:
        """The 32 lanes of a register; RZ is zero."""
        return ZERO_LANES if register == RZ else self.registers[register]


@dataclass
class Access:
    """A load-store instruction on its way: what it touches and when it can be served."""

    warp: Warp
    kind: str
    writes: list[int]
    latency: int
    phases: int
    lines: dict[int, int] = field(default_factory=dict)  # line -> sector mask
    time: int = 0
    group: Group = field(default_factory=Group)
    barrier: int = 0  # shared address of an mbarrier
    bytes: int = 0  # that a bulk copy moves, or an arrival expects
    phase: int = 0  # parity that MBWAIT waits for
    index: int = 0  # of the instruction in its kernel
    landing: dict[int, dict[int, int]] = field(default_factory=dict)  # stored to a peer: by local line, address -> byte

    @property
    def sectors(self) -> int:
        """Sectors touched."""
        return sum(mask.bit_count() for mask in self.lines.values())


def wrap64(value: int) -> int:
    """A whole number as signed 64 bits hold it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def signed32(value: int) -> int:
    """32 bits as a signed number."""
    return (int(value) ^ 0x80000000) - 0x80000000


def execute(engine: NaiveEngine, counters: dict[str, int], warp: Warp, one: Instruction,
            t: int) -> tuple[Access | None, bool]:
    """Run one instruction; gives what goes to the load-store unit, and whether the guard let it act."""
    warp.pc += 1
    name, v = one.op.name, one.values
    mask = 0xFFFFFFFF if one.guard == PT else warp.predicates[one.guard]
    if one.guard != PT:
        slot = PRED0 + one.guard
        if slot not in warp.written:
            raise Fault(UNWRITTEN, slot)
        if slot in warp.poison:
            raise Fault(POISON_PREDICATE, slot)
    if one.negated:
        mask ^= 0xFFFFFFFF
    if mask not in (0, 0xFFFFFFFF) and one.kind in WARP_WIDE:
        raise Fault(DIVERGENT, 0)
    active = [lane for lane in range(32) if mask >> lane & 1]
    poison = False
    if mask:
        for slot in one.reads:
            if slot not in warp.written:
                raise Fault(UNWRITTEN, slot)
        poison = any(slot in warp.poison for slot in one.reads)
    if one.unit == LSU and "bar" in v:
        from emulator.gpu.naive_bulk import barrier_access

        return (barrier_access(engine, counters, warp, one) if mask else None), bool(mask)
    if one.unit == LSU:
        return (memory_access(engine, counters, warp, one, active, poison) if mask else None), bool(mask)
    if name == "MMA":
        counters["tensor_instructions"] += 1
    if name == "BRA" or name == "UBR":
        if mask and (name == "BRA" or _holds(v["cmp"], warp.uniform[v["a"]], warp.uniform[v["b"]])):
            warp.pc = v["target"]
            warp.start, warp.start_reason = t + max(1, engine.timing.branch_taken), "fixed_latency"
        return None, bool(mask)
    if one.op.unit == "uniform":
        if mask and poison:
            raise Fault(POISON_UNIFORM, 0)
        if mask and v["dst"] != URZ:
            warp.uniform[v["dst"]] = _uniform(engine, warp, one)
    elif mask and one.writes:
        values = None if poison else _compute(engine, warp, one)
        for i, slot in enumerate(one.writes):
            write(warp, slot, mask, None if values is None else values[i])
    if mask and one.op.unit == "uniform":
        warp.written.update(one.writes)
    for slot in one.writes:
        warp.ready[slot] = t + one.latency
        warp.producer[slot] = "fixed_latency"
    return None, bool(mask)


def write(warp: Warp, slot: int, mask: int, values: Any) -> None:
    """Write the active lanes of a register or predicate; values None = poison, which sticks to it as a whole."""
    fresh = slot not in warp.written
    warp.written.add(slot)
    if values is None:
        warp.poison.add(slot)
        if fresh and slot < PRED0:
            keep = [lane for lane in range(32) if not mask >> lane & 1]
            warp.registers[slot][keep] = 0
        return
    if mask == 0xFFFFFFFF:
        warp.poison.discard(slot)
    if slot >= PRED0:
        old = 0 if fresh else warp.predicates[slot - PRED0]
        warp.predicates[slot - PRED0] = (old & ~mask) | (values & mask)
        return
    row = warp.registers[slot]
    for lane in range(32):
        if mask >> lane & 1:
            row[lane] = values[lane]
        elif fresh:
            row[lane] = 0


def _special(engine: NaiveEngine, warp: Warp, number: int) -> int:
    return {"WARPID": warp.number, "CTAID": warp.cta, "NCTAID": engine.launch.grid,
            "NWARPS": engine.launch.block // 32}[SPECIALS[number]]


def _holds(cmp: int, a: int, b: int) -> bool:
    return (a < b, a <= b, a > b, a >= b, a == b, a != b)[cmp]


def _uniform(engine: NaiveEngine, warp: Warp, one: Instruction) -> int:
    """Value of an instruction of the uniform datapath."""
    v, u = one.values, warp.uniform
    name = one.op.name
    if name == "S2UR":
        return _special(engine, warp, v["special"])
    if name == "R2UR":
        return signed32(warp.lanes(v["a"])[0])
    if name == "UMOVI":
        return v["imm"]
    if name == "LDP":
        return engine.launch.arguments[v["param"]]
    a = u[v["a"]]
    b = u[v["b"]] if "b" in v else v.get("imm", v.get("n"))
    assert b is not None
    return wrap64({
        "UADD": lambda: a + b, "USUB": lambda: a - b, "UMUL": lambda: a * b, "UMIN": lambda: min(a, b),
        "UMAX": lambda: max(a, b), "UADDI": lambda: a + b, "UMULI": lambda: a * b, "USHL": lambda: a << b,
        "USHR": lambda: a >> b, "UANDI": lambda: a & b}[name]())


def _compute(engine: NaiveEngine, warp: Warp, one: Instruction) -> list[Any]:
    """Values for each written slot: lanes of registers, or the mask of a predicate."""
    v, name = one.values, one.op.name
    if name == "S2R":
        special = SPECIALS[v["special"]]
        return [np.arange(32, dtype=np.uint32) if special == "LANEID"
                else np.full(32, _special(engine, warp, v["special"]) & 0xFFFFFFFF, dtype=np.uint32)]
    a = warp.lanes(v.get("a", RZ)).copy()
    b_field, c = v.get("b", RZ), warp.lanes(v.get("c", RZ)).copy()
    if b_field >= UNIFORM:
        b = np.full(32, warp.uniform[b_field - UNIFORM] & 0xFFFFFFFF, dtype=np.uint32)
    else:
        b = warp.lanes(b_field).copy()
    if name == "SETP":
        return [int(compare(v["cmp"], v["type"], a, 0, b, 0, 32))]
    if name == "MMA":
        def fragment(first: int, count: int) -> np.ndarray:
            return np.concatenate([warp.lanes(RZ if first == RZ else first + j) for j in range(count)])

        out = np.zeros(128, dtype=np.uint32)
        c_zero = -1 if v["c"] == RZ else 0
        mma(v["type"], fragment(v["a"], 4), 0, fragment(v["b"], 2), 0, fragment(v["c"], 4), c_zero, out, 0,
            np.zeros(MMA_WORK))
        return list(out.reshape(4, 32))
    out = np.zeros(32, dtype=np.uint32)
    immediate = v.get("imm", v.get("n", v.get("half", 0)))
    alu(one.op.code, v.get("type", 0), v.get("from_type", 0), a, 0, b, 0, c, 0, immediate, out, 0, 32)
    return [out]


def memory_access(engine: NaiveEngine, counters: dict[str, int], warp: Warp, one: Instruction,
                  active: list[int], poison: bool) -> Access:
    """A load-store instruction: its values now, its lines and bank phases for the load-store unit."""
    timing, v, name = engine.timing, one.values, one.op.name
    mask = sum(1 << lane for lane in active)
    if name in ("SHFL", "BCAST"):
        source = warp.lanes(v["a"])
        values = [source[lane ^ v["xor"] if name == "SHFL" else v["lane"]] for lane in range(32)]
        for slot in one.writes:
            write(warp, slot, mask, None if poison else values)
        return Access(warp, name, one.writes, timing.shuffle_latency, 1)
    if name in ("LDS", "STS", "LDSM"):
        return _shared_access(timing, counters, warp, one, active, mask)
    width = one.bytes
    if name == "ULDG":
        active, mask = [0], 1
        addresses = {0: wrap64(warp.uniform[v["a"]] + v["offset"])}
        access = Access(warp, name, one.writes, timing.l1_uniform_latency, 1)
        base_phases = 1
    else:
        if v["a"] in warp.poison or (name == "LDGSTS" and v["dst"] in warp.poison):
            raise Fault(POISON_ADDRESS, 0)
        offsets = warp.lanes(v["a"])
        addresses = {lane: warp.uniform[v["base"]] + v["offset"] + int(offsets[lane]) for lane in active}
        latency = {8: timing.l1_latency_64, 16: timing.l1_latency_128}.get(width, timing.l1_latency_32)
        access = Access(warp, name, [] if name in ("STG", "LDGSTS") else one.writes, latency, 1)
        base_phases = max(1, width // 4)
    phantom = {}
    memory = engine.bytes
    for lane in active:
        at = addresses[lane]
        place = engine.place(at, width)
        if place is None:
            raise Fault(ADDRESS_RANGE, at)
        memory, addresses[lane], phantom[lane] = place  # an instruction that is right stays within one window
        if at % width:
            raise Fault(MISALIGNED, at)
        access.lines[at >> 7] = access.lines.get(at >> 7, 0) | 1 << (at >> 5 & 3)
    peer = max(access.lines) >> LINE_AT_PEER
    if peer and name == "ATOM":
        raise Fault(ADDRESS_RANGE, addresses[active[0]] + (peer << PEER_AT))
    access.phases = max(base_phases, len(access.lines))
    access.latency += (access.phases - base_phases) * timing.lsu_phase_cycles
    if name == "ULDG":
        if phantom[0]:
            raise Fault(POISON_UNIFORM, addresses[0] + (peer << PEER_AT))
        for slot in one.writes:
            raw = memory[addresses[0] : addresses[0] + width].tobytes()
            warp.uniform[slot - UREG0] = int.from_bytes(raw, "little", signed=True)
            warp.written.add(slot)
    elif name in ("LDG", "LDCG"):
        size = min(width, 4)
        for j, slot in enumerate(one.writes):
            values = [0] * 32
            for lane in active:
                if not phantom[lane]:
                    at = addresses[lane] + 4 * j
                    values[lane] = int.from_bytes(memory[at : at + size].tobytes(), "little")
            write(warp, slot, mask, None if any(phantom.values()) else values)
    elif name == "ATOM":
        _atomic(engine, counters, warp, one, active, addresses, phantom)
    elif name == "STG":
        stored = _store(counters, warp, one, active, addresses, phantom)
        for at, byte in stored.items():
            if peer:
                access.landing.setdefault(at >> 7, {})[at] = byte
            else:
                engine.bytes[at] = byte
    else:
        for lane in active:
            target = int(warp.lanes(v["dst"])[lane]) + v["dst_offset"]
            if target < 0 or target + 16 > len(warp.shared):
                raise Fault(SHARED_RANGE, target)
            if target % 16:
                raise Fault(MISALIGNED, target)
            warp.shared_poison[target // 4 : target // 4 + 4] = phantom[lane]
            if not phantom[lane]:
                warp.shared[target : target + 16] = memory[addresses[lane] : addresses[lane] + 16]
            counters["shared_write_bytes"] += 16
    return access


def _atomic(engine: NaiveEngine, counters: dict[str, int], warp: Warp, one: Instruction, active: list[int],
            addresses: dict[int, int], phantom: dict[int, bool]) -> None:
    """ATOM: lane after lane. Phantom words have no value; a poisoned addend is dropped, and counted."""
    source, values = one.values["src"], [0] * 32
    addend = [int(v) for v in warp.lanes(source)]
    dropped = source in warp.poison and not all(phantom.values())
    for lane in active:
        if phantom[lane]:
            continue
        word = engine.bytes[addresses[lane] : addresses[lane] + 4].view(np.uint32)
        values[lane] = int(word[0])
        if source not in warp.poison:
            word[0] = (values[lane] + addend[lane]) & 0xFFFFFFFF
    counters["poisoned_stores"] += dropped
    for slot in one.writes:
        write(warp, slot, sum(1 << lane for lane in active), None if any(phantom.values()) else values)


def _store(counters: dict[str, int], warp: Warp, one: Instruction, active: list[int],
           addresses: dict[int, int], phantom: dict[int, bool]) -> dict[int, int]:
    """STG: bytes by address. A poisoned value is dropped, and counted where the memory is real."""
    source, size, dropped = one.values["src"], min(one.bytes, 4), False
    stored: dict[int, int] = {}
    for j in range(one.registers):
        register = RZ if source == RZ else source + j
        for lane in active:
            if phantom[lane]:
                continue
            if register in warp.poison:
                dropped = True
                continue
            at = addresses[lane] + 4 * j
            data = int(warp.lanes(register)[lane]).to_bytes(4, "little")[:size]
            stored |= {at + i: byte for i, byte in enumerate(data)}
    counters["poisoned_stores"] += dropped
    return stored


def _shared_access(timing: Any, counters: dict[str, int], warp: Warp, one: Instruction, active: list[int],
                   mask: int) -> Access:
    """LDS, STS and LDSM."""
    v, name, width = one.values, one.op.name, one.bytes
    if v["a"] in warp.poison:
        raise Fault(POISON_ADDRESS, 0)
    if name == "LDSM":
        active = list(range(8 * one.registers))
    addresses = {lane: int(warp.lanes(v["a"])[lane]) + v["offset"] for lane in active}
    for at in addresses.values():
        if at < 0 or at + width > len(warp.shared):
            raise Fault(SHARED_RANGE, at)
        if at % width:
            raise Fault(MISALIGNED, at)
    moved = width * len(active)
    phases = bank_phases(addresses, width)
    counters["bank_conflict_cycles"] += max(0, phases - max(1, -(-moved // 128)))
    if name == "STS":
        counters["shared_write_bytes"] += moved
        size = min(width, 4)
        for lane, at in addresses.items():
            for j in range(one.registers):
                register = RZ if v["src"] == RZ else v["src"] + j
                word = at + 4 * j
                if register in warp.poison:
                    warp.shared_poison[word // 4] = True
                    continue
                data = int(warp.lanes(register)[lane]).to_bytes(4, "little")[:size]
                warp.shared[word : word + size] = np.frombuffer(data, dtype=np.uint8)
                if width >= 4:
                    warp.shared_poison[word // 4] = False
        return Access(warp, name, [], 0, phases)
    counters["shared_read_bytes"] += moved
    latency = timing.shared_latency + (phases - 1) * timing.lsu_phase_cycles
    for j, slot in enumerate(one.writes):
        values, poison = [0] * 32, False
        if name == "LDS":
            size = min(width, 4)
            for lane, at in addresses.items():
                values[lane] = int.from_bytes(warp.shared[at + 4 * j : at + 4 * j + size].tobytes(), "little")
                poison = poison or bool(warp.shared_poison[(at + 4 * j) // 4])
        else:
            rows = [addresses[8 * j + i] for i in range(8)]
            poison = any(warp.shared_poison[at // 4 : at // 4 + 4].any() for at in rows)
            matrix = np.stack([warp.shared[at : at + 16] for at in rows])
            for lane in range(32):
                if v["transposed"]:
                    halves = matrix.view(np.uint16)
                    low, high = halves[2 * (lane % 4), lane // 4], halves[2 * (lane % 4) + 1, lane // 4]
                    values[lane] = int(low) | int(high) << 16
                else:
                    values[lane] = int(matrix.view(np.uint32)[lane // 4, lane % 4])
        write(warp, slot, mask, None if poison else values)
    return Access(warp, name, one.writes, latency, phases)


def bank_phases(addresses: dict[int, int], width: int) -> int:
    """Cycles that 32 banks of 4 bytes need: lanes go in groups that move 128 bytes; in each group
    the bank with the most distinct words decides."""
    group = 32 if width <= 4 else 128 // width
    total = 0
    for first in range(0, 32, group):
        banks: dict[int, set[int]] = {}
        for lane in range(first, first + group):
            if lane in addresses:
                for word in range(addresses[lane] // 4, (addresses[lane] + max(width, 4)) // 4):
                    banks.setdefault(word % 32, set()).add(word)
        total += max((len(words) for words in banks.values()), default=0)
    return max(1, total)
