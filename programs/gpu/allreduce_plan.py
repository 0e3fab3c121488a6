"""How an all-reduce over N GPUs is cut: which way the data goes, warps and CTAs, what it needs in memory.

Three ways, for messages from small to large; times in link latencies L and bytes through a GPU's port:

  push     every GPU stores its values to all peers, each line with a flag in it, and polls its own memory until the
           peers' lines are there: two L, for the kernel ends with the last acknowledgement; 4/3 (N - 1) messages.
  pull     a flag to every peer, then all peers' values are read, and a flag again: five L, N - 1 messages.
  two      a flag; every GPU reads and adds one N-th of the message; a flag; it reads the other parts, already added,
           from the peers: six L, 2 (N - 1) / N messages.

What crosses the link comes in packets: a line of data with its header, and for what is read a header that asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.chip import Chip
from programs.gpu.plan import Limits, ceil_div, round_up

WAYS = ("push", "pull", "two")
FORMS = {"f32": 4, "bf16": 2, "f16": 2}  # number type -> bytes
PACKET_WORDS = 3  # of the 4 of 16 bytes that a lane stores; the last is the flag
PUSH_WORDS = 32 * PACKET_WORDS  # of a warp
WARPS_MAX = 16  # of a CTA
REGISTERS = 96  # that a lane of these kernels needs at most
# Up to so many bytes libraries read or push whole messages: "one shot" (the thresholds of vLLM's custom_all_reduce).
ONE_SHOT = {2: 1 << 62, 4: 512 << 10, 8: 256 << 10}
PUSH_BYTES = 1 << 20  # that a GPU pushes at most: its mailbox is two and a half times as large, and it polls meanwhile
NEAR = 1.3  # ways whose estimate is within this of the best are worth a trial


@dataclass(frozen=True)
class AllreducePlan:
    """An all-reduce of `values` numbers over `ranks` GPUs. residual: out = residual + sum (push with f32 only)."""

    ranks: int
    values: int
    form: str
    way: str
    warps: int  # of a CTA
    grid: int
    unroll: int = 1  # pieces of 16 bytes that a thread reads together (pull, two)
    residual: bool = False

    @property
    def bytes(self) -> int:
        """Of the message."""
        return self.values * FORMS[self.form]

    @property
    def words(self) -> int:
        """32-bit words of the message."""
        return ceil_div(self.bytes, 4)

    @property
    def push_warps(self) -> int:
        """Warps that push, of all CTAs."""
        return ceil_div(self.words, PUSH_WORDS)

    @property
    def slot_bytes(self) -> int:
        """Of a peer's letters (push)."""
        return self.push_warps * 32 * 16

    @property
    def epoch_bytes(self) -> int:
        """Of what counts the uses of the mailbox."""
        return round_up(4 * self.push_warps, 512) if self.way == "push" else 128 * self.grid

    @property
    def pieces(self) -> int:
        """Pieces of 16 bytes of which a GPU reads each from all peers (pull, two)."""
        return self.bytes // 16 // (self.ranks if self.way == "two" else 1)

    @property
    def mail_bytes(self) -> int:
        """Size of the mailbox: counts or flags, then two halves that are used in turn. It must be real and zero at
        the start, and is never cleared."""
        half = {"push": (self.ranks - 1) * self.slot_bytes, "pull": 0, "two": 16 * self.pieces}[self.way]
        return self.epoch_bytes + 2 * half


def plan_way(way: str, ranks: int, values: int, form: str, limits: Limits, residual: bool = False) -> AllreducePlan:
    """The plan that goes one way. Raises ValueError where it does not fit the message."""
    if ranks not in (2, 4, 8):
        raise ValueError(f"an all-reduce over {ranks} GPUs; 2, 4 or 8 are possible")
    draft = AllreducePlan(ranks, values, form, way, 1, 1, residual=residual)
    sms, most = limits.sms, max(1, min(WARPS_MAX, limits.registers // (32 * REGISTERS)))
    if way == "push":
        warps = min(most, ceil_div(draft.push_warps, sms))
        return AllreducePlan(ranks, values, form, way, warps, ceil_div(draft.push_warps, warps), residual=residual)
    unit = 16 * (ranks if way == "two" else 1)
    if draft.bytes % unit or residual:
        raise ValueError(f"an all-reduce that is read needs a multiple of {unit} bytes and no residual")
    warps = min(most, ceil_div(draft.pieces, 32 * sms))
    grid = min(sms, ceil_div(draft.pieces, 32 * warps))
    unroll = min(8 // ranks, ceil_div(draft.pieces, 32 * warps * grid))
    return AllreducePlan(ranks, values, form, way, warps, grid, unroll)


def estimate(chip: Chip, plan: AllreducePlan) -> float:
    """Cycles by latency and bytes alone."""
    header, rate, latency = chip["nvlink.header_bytes"], chip["nvlink.bytes"], chip["nvlink.latency"]
    near = chip["noc.request_latency"] + chip["noc.response_latency"]  # a way through the crossbar and back
    peers, lines = plan.ranks - 1, plan.bytes / 128
    packets = {"push": 4 / 3 * peers * lines * (128 + header), "pull": peers * lines * (128 + 2 * header),
               "two": 2 * peers / plan.ranks * lines * (128 + 2 * header)}[plan.way]
    ways = {"push": 2 * latency + 2 * near, "pull": 5 * latency + 5 * near, "two": 6 * latency + 6 * near}[plan.way]
    return float(ways + packets / max(1, rate) if rate else ways)


def candidates(chip: Chip, ranks: int, message_bytes: int, form: str) -> list[AllreducePlan]:
    """Plans worth a trial among those that libraries use, the best by estimate first.

    Libraries go over to two shots at ONE_SHOT bytes (here it would pay earlier), and push where the chip is a Hopper or
    later (the kernels of TensorRT-LLM and SGLang that do so ask for compute capability 9.0); on an A100 they have
    flags at both ends. A message is filled up to whole pieces.
    """
    fits = message_bytes <= ONE_SHOT.get(ranks, 0)
    values = round_up(message_bytes, 16 if fits else 16 * ranks) // FORMS[form]
    plans = []
    for way in WAYS:
        if (way == "two") == fits:
            continue
        if way == "push" and (chip["sm.bulk.engines"] == 0 or (ranks - 1) * message_bytes > PUSH_BYTES):
            continue
        plans.append(plan_way(way, ranks, values, form, Limits.of(chip)))
    plans.sort(key=lambda plan: estimate(chip, plan))
    return [plan for plan in plans if estimate(chip, plan) <= NEAR * estimate(chip, plans[0])]
