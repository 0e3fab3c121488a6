"""Random programs on several LPUs, on the fast engine and on its twin: everything they report must be the same.

DECODELAB_RANDOM_PROGRAMS=2000 runs more of them than the default.
"""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.trace import Window
from tests.emulator.lpu_network import random_board, result_of

EXAMPLES = int(os.environ.get("DECODELAB_RANDOM_PROGRAMS", "120"))
RELAXED = {"deadline": None, "derandomize": True, "database": None,
           "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
SEEDS = st.integers(0, 2**32 - 1)


def test_both_engines_agree() -> None:
    """Values mode: cycles, memories, counters and accounting of all chips; or the same first error and words."""
    ended: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, **RELAXED)
    @given(SEEDS, st.integers(0, 4))
    def check(seed: int, kind: int) -> None:
        fast, naive = (result_of(random_board(seed, slip=kind == 0), engine, trace=Window())
                       for engine in ("fast", "naive"))
        assert fast == naive
        ended["completed" if isinstance(fast[0], int) else fast[0][0]] += 1

    check()
    assert ended["completed"] * 2 >= ended.total(), ended
    assert {"receive_early", "link_busy"} <= set(ended), ended


def test_chips_that_run_once_agree_with_all_chips() -> None:
    """Timing only: the fast engine runs equal chips once and judges links from records, the twin runs them all."""
    ended: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, **RELAXED)
    @given(SEEDS, st.integers(0, 4), st.booleans())
    def check(seed: int, kind: int, shared: bool) -> None:
        fast, naive = (result_of(random_board(seed, slip=kind == 0, shared=shared), engine, timing_only=True,
                                 trace=Window()) for engine in ("fast", "naive"))
        assert fast[:4] == naive[:4]
        if isinstance(fast[0], int) and not shared:
            assert fast == naive
        ended["completed" if isinstance(fast[0], int) else fast[0][0]] += 1

    check()
    assert ended["completed"] * 2 >= ended.total(), ended
    assert {"receive_early", "link_busy"} <= set(ended), ended


@settings(max_examples=max(40, EXAMPLES // 3), **RELAXED)
@given(SEEDS, st.booleans(), st.booleans())
def test_values_and_timing_only_take_the_same_cycles(seed: int, slip: bool, shared: bool) -> None:
    real, timing = (result_of(random_board(seed, slip=slip, shared=shared), "fast", timing_only=mode)
                    for mode in (False, True))
    assert real[:4] == timing[:4]
