"""The order of what an export writes, and tracks on which nothing overlaps."""

from __future__ import annotations

import numpy as np

from isa.jit import njit


def colour(start: np.ndarray, end: np.ndarray, ends: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greedy interval colouring: (track of each event, group of each track).

    start, end: int64 [n], end > start, sorted by start; ends: the order of events by end; group: int64 [n], what
    shares tracks. Two events of a track never overlap, and a group has as many tracks as it ever has events at
    the same time. Tracks of a group are numbered in ascending order of their first use.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    track = np.zeros(len(start), dtype=np.int64)
    track_group = np.zeros(len(start), dtype=np.int64)
    free = np.full(groups, -1, dtype=np.int64)
    below = np.full(len(start), -1, dtype=np.int64)
    count = _colour(start, end, ends, group, track, track_group, free, below)
    return track, track_group[:count]


@njit
def _colour(start, end, ends, group, track, track_group, free, below):
    """Each group's free tracks are a stack: `free` is its top, `below` what lies under a track. Gives the tracks."""
    count, done = 0, 0
    for i in range(len(start)):
        while done < len(ends) and end[ends[done]] <= start[i]:
            one = track[ends[done]]
            below[one] = free[track_group[one]]
            free[track_group[one]] = one
            done += 1
        own = group[i]
        if free[own] >= 0:
            track[i] = free[own]
            free[own] = below[track[i]]
        else:
            track[i] = count
            track_group[count] = own
            count += 1
    return count
