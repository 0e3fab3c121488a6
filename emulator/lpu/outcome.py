"""What an LPU engine hands back about one run of a text; both engines fill the same record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Outcome:
    """cycles: length of the run. issued: int64 [256], instructions and REPEAT iterations by opcode.
    fetched: instruction words fetched. buckets: int64 [queues, LPU_REASONS], rows add up to cycles.
    values, unconsumed: stream values produced, and those that nobody sampled. hops: value x columns.
    ingested: weight values that LW took. macs: multiply-accumulates of passes, poison ones too."""

    cycles: int
    issued: np.ndarray
    fetched: int
    buckets: np.ndarray
    values: int
    unconsumed: int
    hops: int
    ingested: int
    macs: int
