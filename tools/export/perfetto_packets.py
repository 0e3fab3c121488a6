"""Slices and counters as the packets of a Perfetto TrackEvent trace, in the order of time: compiled code.

Field numbers are those of the public schema (protos/perfetto/trace of the Perfetto project):
Trace.packet 1; TracePacket: timestamp 8, trusted_packet_sequence_id 10, track_event 11, sequence_flags 13;
TrackEvent: debug_annotations 4, type 9, name_iid 10, track_uuid 11, counter_value 30, callstack_iid 56;
DebugAnnotation: name_iid 1, int_value 4, string_value_iid 17.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from isa.jit import njit
from tools.export.pieces import put_varint, varint_size

SEQUENCE = 1  # all packets are of one sequence, whose interned names they use
NEEDS_NAMES = 2  # sequence_flags: SEQ_NEEDS_INCREMENTAL_STATE
BEGIN, END, COUNTER = 1, 2, 4  # TrackEvent.type
WARP, WAITED, BECAUSE, BYTES, ITERATION, ASKED_BY = 1, 2, 3, 4, 5, 6  # interned names of annotations
PACKET_BYTES_MAX = 160  # more than any packet takes


class Slices(NamedTuple):
    """One entry a slice, sorted by start. track, name, stack (0 none) and because (0 none) are ids of the trace."""

    start: np.ndarray
    end: np.ndarray
    ends: np.ndarray  # the order of slices by end
    track: np.ndarray
    name: np.ndarray
    stack: np.ndarray
    actor: np.ndarray  # -1 none
    actor_name: np.ndarray  # WARP, ASKED_BY or ITERATION
    wait: np.ndarray
    because: np.ndarray
    bytes: np.ndarray


class Samples(NamedTuple):
    """One entry a counter's value, sorted by time."""

    at: np.ndarray
    track: np.ndarray
    value: np.ndarray


@njit
def _head(block, at, time, size):
    """A packet's bytes up to its track event of `size` bytes."""
    inside = 1 + varint_size(time) + 2 + 2 + 1 + varint_size(size) + size
    block[at] = 10  # packet
    at = put_varint(block, at + 1, inside)
    block[at] = 64  # timestamp
    at = put_varint(block, at + 1, time)
    block[at] = 80
    block[at + 1] = SEQUENCE
    block[at + 2] = 104
    block[at + 3] = NEEDS_NAMES
    block[at + 4] = 90  # track_event
    return put_varint(block, at + 5, size)


@njit
def _annotation(block, at, name, tag, tag_bytes, value):
    """A debug annotation: its interned name and one number."""
    block[at] = 34
    block[at + 1] = 2 + tag_bytes + varint_size(value)
    block[at + 2] = 8
    block[at + 3] = name
    at += 4
    block[at] = tag & 255
    if tag_bytes == 2:
        block[at + 1] = tag >> 8
    return put_varint(block, at + tag_bytes, value)


@njit
def _begin(block, at, scratch, i, start, track, name, stack, actor, actor_name, wait, because, carried):
    """The packet that opens slice i."""
    scratch[0] = 72
    scratch[1] = BEGIN
    scratch[2] = 80
    n = put_varint(scratch, 3, name[i])
    scratch[n] = 88
    n = put_varint(scratch, n + 1, track[i])
    if stack[i] > 0:
        scratch[n] = 0xC0  # callstack_iid: field 56 as a varint
        scratch[n + 1] = 3
        n = put_varint(scratch, n + 2, stack[i])
    if actor[i] >= 0:
        n = _annotation(scratch, n, actor_name[i], 32, 1, actor[i])
    if wait[i] > 0:
        n = _annotation(scratch, n, WAITED, 32, 1, wait[i])
    if because[i] > 0:
        n = _annotation(scratch, n, BECAUSE, 0x188, 2, because[i])  # string_value_iid: field 17 as a varint
    if carried[i] > 0:
        n = _annotation(scratch, n, BYTES, 32, 1, carried[i])
    at = _head(block, at, start[i], n)
    for k in range(n):
        block[at + k] = scratch[k]
    return at + n


@njit
def _end(block, at, time, track):
    """The packet that closes the open slice of a track."""
    at = _head(block, at, time, 3 + varint_size(track))
    block[at] = 72
    block[at + 1] = END
    block[at + 2] = 88
    return put_varint(block, at + 3, track)


@njit
def _sample(block, at, time, track, value):
    """The packet with a counter's value from now on."""
    at = _head(block, at, time, 5 + varint_size(track) + varint_size(value))
    block[at] = 72
    block[at + 1] = COUNTER
    block[at + 2] = 88
    at = put_varint(block, at + 3, track)
    block[at] = 0xF0  # counter_value: field 30 as a varint
    block[at + 1] = 1
    return put_varint(block, at + 2, value)


@njit
def fill(block, scratch, places, start, end, ends, track, name, stack, actor, actor_name, wait, because, carried,
         at_samples, sample_track, sample_value):
    """Packets into the block until it is full or all are out; gives the bytes used.

    places: int64 [3], how many ends, samples and begins are out; call again until nothing comes. At equal times
    ends come first, so that no slice lies on another, then samples, then begins.
    """
    closed, sampled, opened = places[0], places[1], places[2]
    used = 0
    while used + PACKET_BYTES_MAX <= len(block) and (closed < len(ends) or sampled < len(at_samples)):
        next_end = end[ends[closed]] if closed < len(ends) else np.int64(2**62)
        next_sample = at_samples[sampled] if sampled < len(at_samples) else np.int64(2**62)
        next_start = start[opened] if opened < len(start) else np.int64(2**62)
        if next_end <= next_sample and next_end <= next_start:
            used = _end(block, used, next_end, track[ends[closed]])
            closed += 1
        elif next_sample <= next_start:
            used = _sample(block, used, next_sample, sample_track[sampled], sample_value[sampled])
            sampled += 1
        else:
            used = _begin(block, used, scratch, opened, start, track, name, stack, actor, actor_name, wait, because,
                          carried)
            opened += 1
    places[0], places[1], places[2] = closed, sampled, opened
    return used
