"""Perfetto export: read back with the official schema; nothing overlaps, times are in order, names and numbers are
the trace's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emulator.trace import KIND_INDEX, KINDS, Trace
from tests.tools.made_traces import AWKWARD, gpu_trace, lpu_trace
from tools.export import perfetto
from tools.export.merge import colour

schema = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="pip install perfetto")


class Read:
    """A Perfetto file, read with the official schema and every rule of its kind checked on the way."""

    def __init__(self, path: Path) -> None:
        packets = schema.Trace.FromString(path.read_bytes()).packet
        (self.attributes,) = [p.trace_attributes for p in packets if p.HasField("trace_attributes")]
        (interned,) = [p for p in packets if p.HasField("interned_data")]
        assert interned.sequence_flags == 1 and interned.first_packet_on_sequence
        data = interned.interned_data
        self.names = {n.iid: n.name for n in data.event_names}
        self.annotations = {n.iid: n.name for n in data.debug_annotation_names}
        self.strings = {s.iid: s.str.decode() for s in data.debug_annotation_string_values}
        functions = {s.iid: s.str.decode() for s in data.function_names}
        assert all(f.mapping_id == data.mappings[0].iid for f in data.frames)
        assert all(f.source_path_iid == data.source_paths[0].iid for f in data.frames if f.line_number)
        frames = {f.iid: (functions[f.function_name_id], f.line_number) for f in data.frames}
        self.stacks = {s.iid: [frames[i] for i in s.frame_ids] for s in data.callstacks}
        tracks = [p.track_descriptor for p in packets if p.HasField("track_descriptor")]
        self.tracks = {t.uuid: t for t in tracks}
        assert len(self.tracks) == len(tracks)
        seen: set[int] = set()
        for t in tracks:
            assert not t.HasField("parent_uuid") or t.parent_uuid in seen, "a parent comes before its children"
            seen.add(t.uuid)
        self.slices: list[tuple] = []  # (track, start, end, name, annotations, stack)
        self.counters: list[tuple[int, int, int]] = []
        self._events([p for p in packets if p.HasField("track_event")])

    def _events(self, packets: list) -> None:
        last = 0
        open_slices: dict[int, tuple] = {}
        for p in packets:
            assert p.trusted_packet_sequence_id == 1 and p.sequence_flags == 2
            assert p.timestamp >= last, "sorted by time"
            last = p.timestamp
            e = p.track_event
            assert e.track_uuid in self.tracks
            if e.type == e.TYPE_SLICE_BEGIN:
                assert e.track_uuid not in open_slices, "slices of one track overlap"
                notes = {self.annotations[a.name_iid]: a.int_value if a.HasField("int_value")
                         else self.strings[a.string_value_iid] for a in e.debug_annotations}
                stack = self.stacks[e.callstack_iid] if e.HasField("callstack_iid") else []
                open_slices[e.track_uuid] = (p.timestamp, self.names[e.name_iid], notes, stack)
            elif e.type == e.TYPE_SLICE_END:
                start, name, notes, stack = open_slices.pop(e.track_uuid)
                assert p.timestamp > start
                self.slices.append((e.track_uuid, start, p.timestamp, name, notes, stack))
            else:
                assert e.type == e.TYPE_COUNTER and self.tracks[e.track_uuid].HasField("counter")
                self.counters.append((e.track_uuid, p.timestamp, e.counter_value))
        assert not open_slices

    def path(self, track: int) -> list[str]:
        """Names from the process down to a track."""
        t = self.tracks[track]
        own = t.process.process_name if t.HasField("process") else t.name
        return [*(self.path(t.parent_uuid) if t.HasField("parent_uuid") else []), own]


def exported(tmp_path: Path, *traces: Trace) -> Read:
    count = perfetto.export(traces, tmp_path / "t.pftrace", {"chip hash": "abc"})
    read = Read(tmp_path / "t.pftrace")
    assert count == len(read.slices)
    return read


def expected_name(trace: Trace, i: int) -> str:
    kind = KINDS[trace.kind[i]].name
    if kind == "issue":
        return trace.instructions.asm[trace.instruction[i]]
    if kind == "stall":
        return trace.reasons[trace.reason[i]].name
    return trace.launches.kernel[trace.launch[i]] if kind == "kernel" else kind.replace("_", " ")


@pytest.mark.parametrize("make", [gpu_trace, lpu_trace])
def test_every_event_is_a_slice_of_its_unit_with_its_name_and_numbers(tmp_path, make) -> None:
    trace = make(3000)
    trace.check()
    read = exported(tmp_path, trace)
    wanted: Counter = Counter()
    for i in range(len(trace)):
        wait, actor, carried = int(trace.wait[i]), int(trace.actor[i]), int(trace.bytes[i])
        notes = {}
        if actor > 0 or (trace.dialect == "gpu" and actor == 0):
            by_sm = KINDS[trace.kind[i]].name in ("l2_read", "l2_write", "nvlink")
            notes["asked by SM" if by_sm else "warp" if trace.dialect == "gpu" else "iteration"] = actor
        if wait:
            notes["waited cycles"] = wait
            if trace.reason[i]:
                notes["because of"] = trace.reasons[trace.reason[i]].name
        if carried:
            notes["bytes"] = carried
        where = trace.units.name[trace.unit[i]], trace.units.chip[trace.unit[i]]
        wanted[where, int(trace.start[i]), int(trace.end[i]), expected_name(trace, i), tuple(notes.items())] += 1
    found: Counter = Counter()
    for track, start, end, name, notes, _ in read.slices:
        names = read.path(track)
        chip = int(names[0].split(" chip ")[1].split()[0].rstrip(",")) if " chip " in names[0] else 0
        found[(names[2], chip), start, end, name, tuple(notes.items())] += 1
    assert found == wanted


def test_the_call_stack_is_layer_node_kernel_line_instruction(tmp_path) -> None:
    trace = gpu_trace(200)
    read = exported(tmp_path, trace)
    stacks = {tuple(stack) for *_, stack in read.slices}
    line = f"LDG.128 R8, [R1]  ; {AWKWARD}"
    assert (("layer 0", 0), ("layers.0.qkv", 0), ("gemv", 0), (line, 1), ("LDG.128 R8, [R1]", 1)) in stacks
    assert (("layer 1", 0), (f"layers.1.{AWKWARD}", 0), ("attention", 0), ("MMA.f16 R0, R8, R12, R0", 0)) in stacks
    assert (("layer 0", 0), ("layers.0.qkv", 0), ("gemv", 0)) in stacks, "a launch has no instruction"
    assert () in stacks, "a row of DRAM belongs to nobody"


def test_processes_are_chips_and_say_what_a_nanosecond_is(tmp_path) -> None:
    read = exported(tmp_path, gpu_trace(50), lpu_trace(50))
    processes = [t.process for t in read.tracks.values() if t.HasField("process")]
    assert {p.process_name for p in processes} == {
        "h100_sxm, 1 ns = 1 cycle", "groq_tsp_v1 chip 0, 1 ns = 1 cycle",
        "groq_tsp_v1 chip 1 (as 3 chips), 1 ns = 1 cycle"}
    assert len({p.pid for p in processes}) == 3
    told = {a.key: a.string_value for a in read.attributes.attribute}
    assert told == {"time": "1 ns = 1 cycle", "chip hash": "abc"}


def test_overlapping_work_of_a_unit_has_its_own_tracks(tmp_path) -> None:
    """Two results under way at once: two tracks; the third issue takes the first track again."""
    trace = gpu_trace(60)
    keep = np.flatnonzero((trace.kind == KIND_INDEX["issue"]) & (trace.unit == 1))[:3]
    for name in trace.columns():
        setattr(trace, name, getattr(trace, name)[keep])
    trace.start[:], trace.end[:] = [10, 12, 20], [20, 30, 25]
    read = exported(tmp_path, trace)
    assert [(read.path(track)[1:], start) for track, start, *_ in sorted(read.slices, key=lambda s: s[1])] == [
        (["sub core", "SM0.1", "issue"], 10), (["sub core", "SM0.1", "issue 2"], 12),
        (["sub core", "SM0.1", "issue"], 20)]


def test_colouring_uses_as_few_tracks_as_ever_overlap() -> None:
    rng = np.random.default_rng(3)
    start = np.sort(rng.integers(0, 500, 400))
    end, group = start + rng.integers(1, 40, 400), rng.integers(0, 3, 400)
    track, owner = colour(start, end, np.argsort(end, kind="stable"), group)
    for g in range(3):
        deepest = max(int(((start <= t) & (end > t) & (group == g)).sum()) for t in range(540))
        assert (owner == g).sum() == deepest
        for one in np.flatnonzero(owner == g):
            mine = np.flatnonzero(track == one)
            assert (group[mine] == g).all() and (start[mine][1:] >= end[mine][:-1]).all()


def test_counters_add_up_to_the_bytes_of_each_level(tmp_path) -> None:
    for trace in (gpu_trace(3000), lpu_trace(2000)):
        read = exported(tmp_path, trace)
        found: Counter = Counter()
        for track, _, value in read.counters:
            found[read.tracks[track].name.split(" bytes in ")[0]] += value
        if trace.dialect == "gpu":
            assert found == {"hbm_read": 20 * 1024}
        else:  # READs and LWs, 320 bytes each, in turn
            issues = trace.kind == KIND_INDEX["issue"]
            reads = int((issues & (trace.instruction == 0)).sum())
            assert found == {"sram_read": 320 * reads, "mxm_ingest": 320 * (int(issues.sum()) - reads)}


def test_the_same_trace_gives_the_same_bytes_and_a_gz_name_packs_them(tmp_path) -> None:
    import gzip

    for name in ("a.pftrace", "b.pftrace", "c.pftrace.gz", "d.pftrace.gz"):
        perfetto.export([gpu_trace(500)], tmp_path / name)
    a, b, c, d = (p.read_bytes() for p in sorted(tmp_path.iterdir()))
    assert a == b and c == d and gzip.decompress(c) == a


def test_an_empty_trace_is_a_sound_file(tmp_path) -> None:
    trace = gpu_trace(10)
    for name in trace.columns():
        setattr(trace, name, getattr(trace, name)[:0])
    assert exported(tmp_path, trace).slices == []


def test_more_slices_than_a_browser_takes_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(perfetto, "SLICES_MAX", 100)
    with pytest.raises(ValueError, match="more than a browser takes"):
        perfetto.export([gpu_trace(500)], tmp_path / "t.pftrace")
    assert list(tmp_path.iterdir()) == []
