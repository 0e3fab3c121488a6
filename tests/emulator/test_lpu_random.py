"""Random LPU programs on the fast engine and on its twin: everything they report must be the same.

DECODELAB_RANDOM_PROGRAMS=2000 runs more of them than the default.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.trace import Window, kinds_of
from emulator.trace_build import wanted
from tests.emulator.lpu_programs import random_pad, result_of

EXAMPLES = int(os.environ.get("DECODELAB_RANDOM_PROGRAMS", "200"))
RELAXED = {"deadline": None, "derandomize": True, "database": None,
           "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
WHOLE = Window()
SEEDS, PIECES, SUPERLANES = st.integers(0, 2**32 - 1), st.integers(1, 14), st.sampled_from((1, 2, 3))


def test_both_engines_agree() -> None:
    """Cycles, memory, counters, accounting and every event of a trace; or the same first error with the same words.

    At least half of the programs run to their end, the others meet several kinds of errors.
    """
    ended: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, **RELAXED)
    @given(SEEDS, PIECES, SUPERLANES, st.integers(0, 5))
    def check(seed: int, pieces: int, superlanes: int, kind: int) -> None:
        def pad():
            return random_pad(seed, pieces, superlanes=superlanes, slip=kind == 0)

        fast, naive = (result_of(pad(), engine, window=WHOLE) for engine in ("fast", "naive"))
        assert fast == naive
        ended["completed" if isinstance(fast[0], int) else fast[0][0]] += 1

    check()
    assert ended["completed"] * 2 >= ended.total(), ended
    assert len(ended) >= 4, f"random programs provoke too few kinds of errors: {ended}"


@settings(max_examples=max(40, EXAMPLES // 5), **RELAXED)
@given(SEEDS, PIECES, SUPERLANES)
def test_values_and_timing_only_take_the_same_cycles(seed: int, pieces: int, superlanes: int) -> None:
    """Phantom data instead of real data (maps stay real): cycles, counters and errors do not change."""
    real = result_of(random_pad(seed, pieces, superlanes=superlanes), "fast")
    phantom = result_of(random_pad(seed, pieces, superlanes=superlanes, phantom=True), "fast")
    if isinstance(real[0], int):
        assert isinstance(phantom[0], int) or phantom[0][0] == "poison_address"
        if isinstance(phantom[0], int):
            assert real[:9] == phantom[:9]
    else:
        assert real == phantom or phantom[0][0] == "poison_address"


@settings(max_examples=20, **RELAXED)
@given(SEEDS, PIECES, st.integers(1, 9))
def test_pausing_the_kernel_changes_nothing(seed: int, pieces: int, budget: int) -> None:
    whole = result_of(random_pad(seed, pieces), "fast", window=WHOLE)
    assert result_of(random_pad(seed, pieces), "fast", budget=budget, window=WHOLE) == whole


@settings(max_examples=40, **RELAXED)
@given(SEEDS, PIECES, st.integers(0, 200), st.integers(1, 100), st.sets(st.sampled_from(kinds_of("lpu")), min_size=1))
def test_a_window_is_a_part_of_the_whole_trace(seed: int, pieces: int, first: int, length: int, kinds: set[str]
                                               ) -> None:
    """Both engines record the same part; recording changes nothing else that a run reports."""
    window = Window(first, first + length, frozenset(kinds))
    fast, naive = (result_of(random_pad(seed, pieces), engine, window=window) for engine in ("fast", "naive"))
    assert fast == naive
    assert result_of(random_pad(seed, pieces), "fast")[:-1] == fast[:-1] or not isinstance(fast[0], int)
    if isinstance(fast[0], int):
        outcome, _ = random_pad(seed, pieces).run("fast", window=WHOLE)
        part = wanted(outcome.events, window)
        assert part[np.lexsort(part.T)].tobytes() == fast[-1]


@settings(max_examples=25, **RELAXED)
@given(SEEDS, PIECES)
def test_phantom_programs_agree_too(seed: int, pieces: int) -> None:
    fast = result_of(random_pad(seed, pieces, superlanes=2, phantom=True), "fast")
    assert fast == result_of(random_pad(seed, pieces, superlanes=2, phantom=True), "naive")
