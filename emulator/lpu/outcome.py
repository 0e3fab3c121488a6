"""What an LPU engine hands back about one run of a text; both engines fill the same record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from emulator.accounting import LPU_REASONS, reason_index

PIPELINE = reason_index(LPU_REASONS, "pipeline")


@dataclass
class Outcome:
    """cycles: length of the run. issued: int64 [256], instructions and REPEAT iterations by opcode.
    fetched: instruction words fetched. buckets: int64 [queues, LPU_REASONS], rows add up to cycles.
    values, unconsumed: stream values produced, and those that nobody sampled. hops: value x columns.
    ingested: weight values that LW took. macs: multiply-accumulates of passes, poison ones too.
    events: what was recorded for a trace (emulator.trace_layout), where it was asked for."""

    cycles: int
    issued: np.ndarray
    fetched: int
    buckets: np.ndarray
    values: int
    unconsumed: int
    hops: int
    ingested: int
    macs: int
    events: np.ndarray | None = None


def together(outcomes: list[Outcome], cycles: int) -> Outcome:
    """One step of several chips as one record: everything summed, over a step of so many cycles.

    A queue's cycles before its chip's start and after its end go to the reason "pipeline".
    """
    if len(outcomes) == 1 and outcomes[0].cycles == cycles:
        return outcomes[0]
    kinds = {id(outcome): outcome for outcome in outcomes}  # equal chips were run once
    times = Counter(id(outcome) for outcome in outcomes)

    def total(name: str) -> int:
        return sum(times[key] * getattr(outcome, name) for key, outcome in kinds.items())

    issued = sum(times[key] * outcome.issued for key, outcome in kinds.items())
    buckets = sum(times[key] * outcome.buckets for key, outcome in kinds.items())
    assert isinstance(issued, np.ndarray) and isinstance(buckets, np.ndarray)
    buckets[:, PIPELINE] += sum(cycles - outcome.cycles for outcome in outcomes)
    return Outcome(cycles, issued, total("fetched"), buckets, total("values"), total("unconsumed"), total("hops"),
                   total("ingested"), total("macs"))
