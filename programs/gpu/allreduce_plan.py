"""How an all-reduce over N GPUs is cut: which way the data goes, warps and CTAs, what it needs in memory.

Four ways, for messages from small to large; times in link latencies L and bytes through a GPU's port:

  push     every GPU stores its values to all peers, each line with a flag in it, and polls its own memory until the
           peers' lines are there: two L, for the kernel ends with the last acknowledgement; 4/3 (N - 1) messages.
  lamport  the same with values that are their own flags, as TensorRT-LLM does it: N - 1 messages, but every GPU also
           stores to itself and clears what was read, and a row of values goes through one SM (or a few, of a cluster).
  pull     a flag to every peer, then all peers' values are read, and a flag again: five L, N - 1 messages.
  two      a flag; every GPU reads and adds one N-th of the message; a flag; it reads the other parts, already added,
           from one peer after the other: 2 (N + 1) L, 2 (N - 1) / N messages.

What crosses the link comes in packets: a line of data with its header, and for what is read a header that asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.chip import Chip
from programs.gpu.plan import Limits, ceil_div, round_up

WAYS = ("push", "lamport", "pull", "two")
FORMS = {"f32": 4, "bf16": 2, "f16": 2}  # number type -> bytes
PACKET_WORDS = 3  # of the 4 of 16 bytes that a lane stores; the last is the flag
PUSH_WORDS = 32 * PACKET_WORDS  # of a warp
COUNTS_AT, BOXES_AT = 128, 256  # in a mailbox, from its start (lamport)
WARPS_MAX = 16  # of a CTA
REGISTERS = 96  # that a lane of these kernels needs at most
CTAS_MAX = 36  # of pull and two: vLLM's and SGLang's custom all-reduce has up to 36 CTAs of 512 threads
ROW_VALUES = 4096  # of a token, in the calls that the frameworks were measured with (aiconfigurator)
# Below so many bytes libraries read whole messages: "one shot" (the thresholds of vLLM's custom_all_reduce).
ONE_SHOT = {2: 1 << 62, 4: 512 << 10, 8: 256 << 10}
PUSH_BYTES = 2 << 20  # that a GPU pushes at most: its mailbox is three times as large, and it polls meanwhile
CLUSTER = 8  # CTAs of a cluster, for a row
NEAR = 1.5  # ways whose estimate is within this of the best are worth a trial


@dataclass(frozen=True)
class AllreducePlan:
    """An all-reduce of `values` numbers over `ranks` GPUs. residual: out = residual + sum (push with f32 only)."""

    ranks: int
    values: int
    form: str
    way: str
    warps: int  # of a CTA
    grid: int
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
        """Of a rank's letters (push, lamport)."""
        return 512 * (self.grid * self.warps if self.way == "lamport" else self.push_warps)

    @property
    def epoch_bytes(self) -> int:
        """Of what counts the uses of the mailbox, and says where it is."""
        if self.way == "lamport":
            return BOXES_AT
        return round_up(4 * self.push_warps, 512) if self.way == "push" else 128 * self.grid

    @property
    def pieces(self) -> int:
        """Pieces of 16 bytes of which a GPU reads each from all peers (pull, two)."""
        return self.bytes // 16 // (self.ranks if self.way == "two" else 1)

    @property
    def mail_bytes(self) -> int:
        """Size of the mailbox: counts or flags, then two halves, or three boxes, that are used in turn. It must be real
        and start with mail_words and zeros; nobody else clears it."""
        boxes = {"push": 2 * (self.ranks - 1) * self.slot_bytes, "lamport": 3 * self.ranks * self.slot_bytes,
                 "pull": 0, "two": 2 * 16 * self.pieces}[self.way]
        return self.epoch_bytes + boxes

    @property
    def mail_words(self) -> tuple[int, ...]:
        """32-bit words with which the mailbox starts: where counts and boxes are (lamport)."""
        return (COUNTS_AT, BOXES_AT) if self.way == "lamport" else ()


def plan_way(way: str, ranks: int, values: int, form: str, limits: Limits, residual: bool = False,
             cluster: int = 1) -> AllreducePlan:
    """The plan that goes one way: push spread over the SMs, the others in the CTAs of libraries, `cluster` of them
    for a row of values (lamport). Raises ValueError where it does not fit the message."""
    if ranks not in (2, 4, 8):
        raise ValueError(f"an all-reduce over {ranks} GPUs; 2, 4 or 8 are possible")
    draft = AllreducePlan(ranks, values, form, way, 1, 1, residual=residual)
    sms, most = limits.sms, max(1, min(WARPS_MAX, limits.registers // (32 * REGISTERS)))
    if way == "push":
        warps = min(most, ceil_div(draft.push_warps, sms))
        return AllreducePlan(ranks, values, form, way, warps, ceil_div(draft.push_warps, warps), residual=residual)
    unit = 16 * (ranks if way == "two" else 1)
    if draft.bytes % unit or residual:
        raise ValueError(f"an all-reduce in pieces needs a multiple of {unit} bytes and no residual")
    pieces = draft.bytes // 16
    if way == "lamport":
        # The row is what the measured calls give to a token; more CTAs for it where they come in clusters.
        row = ceil_div(min(pieces, ROW_VALUES * FORMS[form] // 16), 32)
        warps = min(most, ceil_div(row, cluster))
        return AllreducePlan(ranks, values, form, way, warps, ceil_div(pieces, 32 * warps))
    warps = min(most, ceil_div(pieces, 32))
    return AllreducePlan(ranks, values, form, way, warps, min(sms, CTAS_MAX, ceil_div(pieces, 32 * warps)))


def estimate(chip: Chip, plan: AllreducePlan) -> float:
    """Cycles by latency and bytes alone."""
    header, rate, latency = chip["nvlink.header_bytes"], chip["nvlink.bytes"], chip["nvlink.latency"]
    near = chip["noc.request_latency"] + chip["noc.response_latency"]  # a way through the crossbar and back
    peers, lines = plan.ranks - 1, plan.bytes / 128
    packets = {"push": 4 / 3 * peers * lines * (128 + header), "lamport": peers * lines * (128 + 2 * header),
               "pull": peers * lines * (128 + 2 * header),
               "two": 2 * peers / plan.ranks * lines * (128 + 2 * header)}[plan.way]
    times = {"push": (2, 2), "lamport": (2, 5), "pull": (5, 5), "two": (2 * plan.ranks + 2, plan.ranks + 4)}[plan.way]
    ways = times[0] * latency + times[1] * near
    if plan.way == "lamport" and chip["noc.sm_out_bytes"]:  # letters and what is cleared, through one SM's port
        ways += 2 * plan.ranks * 512 * plan.warps / chip["noc.sm_out_bytes"]
    return float(ways + packets / max(1, rate) if rate else ways)


def candidates(chip: Chip, ranks: int, message_bytes: int, form: str) -> list[AllreducePlan]:
    """Plans worth a trial among those that libraries use, the best by estimate first.

    Libraries go over to two shots at ONE_SHOT bytes. TensorRT-LLM pushes: a Hopper or later has eight CTAs, a cluster,
    for a row of values, and flags in the lines are tried there, too; others have one CTA for a row, and push one row
    only: of more, measured calls take as long as pulls, though it is not known what slows their pushes down. A message
    is filled up to whole pieces.
    """
    fits = message_bytes < ONE_SHOT.get(ranks, 0)
    values = round_up(message_bytes, 16 if fits else 16 * ranks) // FORMS[form]
    hopper = chip["sm.bulk.engines"] > 0
    ways = ["pull" if fits else "two"]
    if (ranks - 1) * message_bytes <= PUSH_BYTES and (hopper or values <= ROW_VALUES):
        ways += ["push", "lamport"] if hopper else ["lamport"]
    plans = [plan_way(way, ranks, values, form, Limits.of(chip), cluster=CLUSTER if hopper else 1) for way in ways]
    plans.sort(key=lambda plan: estimate(chip, plan))
    return [plan for plan in plans if estimate(chip, plan) <= NEAR * estimate(chip, plans[0])]
