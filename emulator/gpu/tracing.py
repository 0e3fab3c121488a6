"""What the SMs of the fast GPU engine record for a trace, in compiled code; emulator/gpu/naive.py records the same.

Units are numbered here as emulator/gpu/step_trace.py names them: sub-cores, then SMs, load-store units and bulk
engines, one an SM.
"""

from __future__ import annotations

from emulator.gpu.decode import (
    D_CHECK0,
    D_CHECKS,
    D_COLUMNS,
    D_IMM,
    D_KIND,
    D_LATENCY,
    D_UNIT,
    K_EXIT,
    K_MEMBAR,
    K_WAIT,
)
from emulator.gpu.layout import (
    B_DONE,
    B_HANDED,
    B_PC,
    B_SIZE,
    B_SLOT,
    BULK_IDLE,
    C_SHARED_READ,
    C_SHARED_WRITE,
    GROUPS,
    H_SMS,
    H_TRACE,
    H_WARPS,
    Q_SECTORS,
    Q_SLOT,
    R_COPY,
    R_FIXED,
    R_GLOBAL,
    R_NO_WARP,
    SM_BULK_ENTERED,
    SM_BULK_STATE,
    SM_COUNTERS,
    SM_CTA_START,
    SM_ISSUED,
    SM_WARPS,
    W_AGE,
    W_CLOSED,
    W_CTA,
    W_GROUP_TIME,
    W_PC,
    W_PENDING_TIME,
    W_SCORE,
    W_SLOT,
    W_TIME,
    WARP,
)
from emulator.gpu.timing import LSU
from emulator.trace import CTA, ISSUE, KIND_INDEX, STALL
from emulator.trace_layout import WAIT_AT
from emulator.trace_record import record
from isa.jit import njit

COPY, BULK_BUSY, L1_READ = (KIND_INDEX[name] for name in ("copy", "bulk_busy", "l1_read"))


@njit
def _held_by(S, D, w, t):
    """time * 16 + reason of what kept a warp last from the instruction that it issues at t."""
    row = S[w + W_PC] * D_COLUMNS
    held = S[w + W_TIME]
    for i in range(D[row + D_CHECKS]):
        score = S[w + W_SCORE + D[row + D_CHECK0 + i]]
        if score >> 4 > held >> 4:
            held = (score >> 4) * 16 + R_FIXED + (score & 3)
    kind = D[row + D_KIND]
    if kind == K_WAIT:
        group = S[w + W_CLOSED] - D[row + D_IMM]
        if group > 0 and S[w + W_GROUP_TIME + (group - 1) % GROUPS] > held >> 4:
            held = S[w + W_GROUP_TIME + (group - 1) % GROUPS] * 16 + R_COPY
    elif kind == K_EXIT and S[w + W_PENDING_TIME] > held >> 4:
        held = S[w + W_PENDING_TIME] * 16 + R_GLOBAL
    elif kind == K_MEMBAR:
        held = t * 16 + R_GLOBAL
    return held


@njit
def _moved(S, base):
    """Bytes of shared memory that the SM's instructions have moved so far."""
    return S[base + SM_COUNTERS + C_SHARED_READ] + S[base + SM_COUNTERS + C_SHARED_WRITE]


@njit
def trace_before(S, D, base, w, t):
    """To be asked before an instruction is executed: what `trace_issue` wants to know."""
    last = S[base + SM_ISSUED + S[w + W_SLOT]]
    held = _held_by(S, D, w, t)
    reason = held & 15 if held >> 4 > last + 1 else 0
    return _moved(S, base) << 4 | reason


@njit
def trace_issue(S, D, sm, sub, base, w, pc, t, before):
    """A warp has issued instruction pc at t."""
    issued = base + SM_ISSUED + S[w + W_SLOT]
    wait = t - S[issued] - 1
    S[issued] = t
    row = pc * D_COLUMNS
    end = t + 1
    if D[row + D_UNIT] < LSU:
        end = max(end, t + D[row + D_LATENCY])
    record(S, S[H_TRACE], ISSUE, sm * 4 + sub, t, end, pc, S[w + W_AGE], before & 15,
           wait << WAIT_AT | _moved(S, base) - (before >> 4))


@njit
def trace_stall(S, sm, sub, w, start, t, reason):
    """A sub-core has waited since `start` for the next instruction of a warp."""
    record(S, S[H_TRACE], STALL, sm * 4 + sub, start, t, S[w + W_PC], S[w + W_AGE], reason, 0)


@njit
def trace_empty(S, sm, sub, start, t):
    """A sub-core has had no warp since `start`."""
    if t > start:
        record(S, S[H_TRACE], STALL, sm * 4 + sub, start, t, -1, -1, R_NO_WARP, 0)


@njit
def trace_cta(S, sm, base, w, cta, t):
    """The last warp of a CTA, w, has ended at t."""
    record(S, S[H_TRACE], CTA, S[H_SMS] * 4 + sm, S[base + SM_CTA_START + cta], t + 1, -1, S[w + W_CTA] * S[H_WARPS], 0,
           0)


@njit
def trace_load(S, sm, base, q, start, end):
    """The load-store unit looks a load up in L1."""
    w = base + SM_WARPS + S[q + Q_SLOT] * WARP
    record(S, S[H_TRACE], L1_READ, S[H_SMS] * 5 + sm, start, end, -1, S[w + W_AGE], 0, 32 * S[q + Q_SECTORS])


@njit
def trace_copy(S, sm, base, b):
    """A bulk copy is complete."""
    w = base + SM_WARPS + S[b + B_SLOT] * WARP
    record(S, S[H_TRACE], COPY, S[H_SMS] * 6 + sm, S[b + B_HANDED], S[b + B_DONE], S[b + B_PC], S[w + W_AGE], 0,
           S[b + B_SIZE])


@njit
def trace_bulk(S, sm, base, t):
    """The bulk engine does something else from t on."""
    before = S[base + SM_BULK_STATE]
    if before != BULK_IDLE:
        record(S, S[H_TRACE], BULK_BUSY + before, S[H_SMS] * 6 + sm, S[base + SM_BULK_ENTERED], t, -1, -1, 0, 0)
    S[base + SM_BULK_ENTERED] = t


