"""Plans: units x cycles, nodes and whereabouts, against hand counts, the machine's accounting and the naive twin."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.chip import Chip, load_chip
from emulator.lpu.errors import ScheduleError
from emulator.lpu.naive import NaiveEngine
from emulator.lpu.sram import Sram
from emulator.run import load
from isa.opcodes import BY_CODE, WEST, code
from isa.program import LpuImage, LpuText, Program
from programs.compile import compile_decode
from programs.models.checkpoint import load_model
from tests.emulator.lpu_network import HOP, Board, joined
from tests.emulator.lpu_programs import random_pad
from tools.plan import Node, Plan, Row, by_kind, choose_chip
from tools.plan_at import moment
from tools.plan_streams import stream_values
from tools.plan_view import Window, picture, scaled_ruler, shade, window_of

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "programs" / "examples").glob("*.lpu.s"))
GROQ = load_chip("groq_tsp_v1")


def plan_of(program: Program, chip: Chip | None = None, stage: int = 0, rank: int = 0) -> Plan:
    return Plan(program, chip or load_chip(program.chip), choose_chip(program, stage, rank))


@lru_cache(maxsize=1)
def gemv() -> Plan:
    return plan_of(assemble(next(path for path in EXAMPLES if path.name == "gemv.lpu.s")))


@lru_cache(maxsize=1)
def system() -> Program:
    """tiny_kjv's decode step on 2 x 4 chips; the two middle stages share a text."""
    return compile_decode(load_model("tiny_kjv"), GROQ, context=64, timing_only=True, tensor_parallel=2,
                          pipeline_parallel=4)


# -- streams: what the naive twin's registers really hold -------------------------------------------------
def check_streams(plan: Plan, image: LpuImage) -> tuple[int, np.ndarray]:
    """Compare every register in every cycle with the twin's: its value's instruction, birth, and whether it was
    sampled. A program with a fault is compared up to it. Returns how many registers were compared, and what was
    issued by opcode."""
    g = plan.g
    sram = Sram(g)
    sram.load(image)
    engine = NaiveEngine(g, plan.text, sram)
    engine.begin()
    values, compared = [], 0
    while engine.alive():
        t = engine.t
        if t % 64 == 0:  # windows in turn, so that their edges are tested too
            values = stream_values(plan, t, t + 64)
        try:
            engine.tick()
        except ScheduleError:
            break
        held = {(s, at - g.edge): (value.row, value.born, value.consumed)
                for s, registers in enumerate(engine.streams) for at, value in enumerate(registers) if value}
        found = {(v.stream, v.at(t)): (int(plan.issues.index[v.issue]), v.born, any(r.cycle <= t for r in v.readings))
                 for v in values if v.born <= t <= v.last}
        assert found == held, f"cycle {t}"
        compared += len(held)
    return compared, engine.issued


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_streams_of_the_examples_are_the_twins(path: Path) -> None:
    program = assemble(path)
    assert check_streams(plan_of(program), program.images[0])[0] > 100  # type: ignore[arg-type]


def test_streams_of_random_programs_are_the_twins() -> None:
    """Every unit takes part, in one program or another: gathers, lane moves, chained operations, both matrix types,
    barriers. A transposition, which seldom finds its 16 streams free, has a program of its own."""
    compared, issued = 0, np.zeros(256, dtype=np.int64)
    for seed in range(120):
        pad = random_pad(seed, 4, superlanes=1 + seed % 3)
        program = Board([pad], [(0, 0, 0)], system=None).program()
        registers, opcodes = check_streams(plan_of(program, pad.chip), program.images[0])  # type: ignore[arg-type]
        compared, issued = compared + registers, issued + opcodes
    assert compared > 2_000
    wanted = {"READ", "WRITE", "GATHER", "SCATTER", "LW", "ABC", "ACC", "SHIFT", "PERMUTE", "DISTRIBUTE", "CVT", "NEG",
              "EXP2", "SYNC", "NOTIFY"}
    missing = wanted - {BY_CODE[number].name for number in np.flatnonzero(issued)}
    assert not missing


@pytest.mark.parametrize("arithmetic", ["fp16", "int8"])
def test_streams_of_a_compiled_layer_are_the_twins(arithmetic: str) -> None:
    program = compile_decode(load_model("tiny_kjv"), GROQ, context=64, timing_only=True, layers=(0, 1),
                             arithmetic=arithmetic)
    assert check_streams(plan_of(program), program.images[0])[0] > 100_000  # type: ignore[arg-type]


def test_streams_of_a_transposition_are_the_twins() -> None:
    """16 streams come in at the SXM's column 4 in cycle 40 from as many slices; 16 go out four cycles later."""
    pad = joined(1).pads[0]
    for s in range(16):
        pad.at(40 - abs(4 - pad.g.column[s]), s, "READ", 0, s)
    pad.at(40, "SXM.E.TRANSPOSE0", "TRANSPOSE", 0, WEST + 16)
    pad.at(44 + 3, "MEM.E0", "WRITE", 3, WEST + 20)  # keeps the twin going while they move to column 1
    program = Board([pad], [(0, 0, 0)], system=None).program()
    plan = plan_of(program, pad.chip)
    compared, issued = check_streams(plan, program.images[0])  # type: ignore[arg-type]
    assert issued[code("TRANSPOSE")] == 1
    moved = [v for v in stream_values(plan, 44, 45) if v.stream >= WEST]
    assert [(v.stream, v.born, v.column) for v in moved] == [(WEST + 16 + n, 44, 4) for n in range(16)]
    assert compared >= 16 * 4


# -- lengths and waits: what the fast engine accounts for ----------------------------------------------------
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_a_plan_is_as_long_as_the_run(path: Path) -> None:
    program = assemble(path)
    assert plan_of(program).cycles == load(program).step().cycles


def test_waits_by_node_add_up_to_the_machines_accounting() -> None:
    program = compile_decode(load_model("tiny_kjv"), GROQ, context=64, timing_only=True, layers=(0, 2))
    plan = plan_of(program, GROQ)
    step = load(program, GROQ).step()
    assert plan.cycles == step.cycles == program.meta["predicted_cycles"]
    accounted: dict[str, int] = {}
    for buckets in step.accounting.values():
        for reason, cycles in buckets.items():
            accounted[reason] = accounted.get(reason, 0) + cycles
    assert len(plan.busy) == accounted.pop("busy")
    waits: dict[str, int] = {}
    nodes = plan.nodes()
    for node in nodes:
        for reason, cycles in node.waits.items():
            waits[reason] = waits.get(reason, 0) + cycles
    assert waits == {reason: n for reason, n in accounted.items() if n and reason not in ("start_barrier", "idle")}
    assert sum(node.instructions for node in nodes) == step.counters["vector_instructions"]


def test_chips_of_a_system_end_when_the_compiler_says() -> None:
    program = system()
    plans = [plan_of(program, GROQ, stage, rank) for stage in range(4) for rank in range(2)]
    assert [plan.chosen.place.number for plan in plans] == list(range(8))
    assert max(plan.chosen.place.start + plan.cycles for plan in plans) == program.meta["predicted_cycles"]


def test_a_stage_shows_its_own_layers() -> None:
    """Stages of one shape share a schedule, which names the first one's layers; shown are those of the stage that
    is asked for."""
    program = compile_decode(load_model("smollm2-135m"), GROQ, context=64, tensor_parallel=4, pipeline_parallel=6)
    chosen = [choose_chip(program, stage, 0) for stage in range(6)]
    assert max(one.later for one in chosen) > 0 and max(one.sharing for one in chosen) > 1
    for stage, (first, end) in enumerate(program.meta["stage_layers"]):
        named = {node.name.split(".")[1] for node in plan_of(program, GROQ, stage).nodes() if "layers." in node.name}
        assert named == {str(n) for n in range(first, end)}
    assert program.meta["stage_layers"][0][0] == 0 and program.meta["stage_layers"][-1][1] == 30
    del program.meta["stage_layers"]
    with pytest.raises(ValueError, match="does not say which layers its stages have; compile it again"):
        choose_chip(program, 0, 0)
    program.meta["pipeline_parallel"] = 5
    with pytest.raises(ValueError, match="says that its 24 chips are 5 stages"):
        choose_chip(program, 0, 0)


def test_a_chip_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--of 4,0: the program has 4 stages \(0 to 3\) of 2 chips each \(0 to 1\)"):
        choose_chip(system(), 4, 0)
    with pytest.raises(ValueError, match="--of 0,2"):
        choose_chip(system(), 0, 2)


# -- nodes ----------------------------------------------------------------------------------------------------
def test_lines_of_the_matrix_example() -> None:
    """From its comments: 20 reads from each of 16 slices so that the first is at column 18 in cycle 16; 20 LW from
    16 to 35 on one of four planes; IW and ABC at 36; ACC at 76; four byte planes written 15 hops on, at 91."""
    nodes = {node.name: node for node in gemv().nodes()}
    reads, loads, y = nodes["line 6"], nodes["line 7"], nodes["line 12"]
    assert (reads.first, reads.instructions) == (16 - 12, 320)  # slice E20 is at column 1 + 20 / 4, 12 hops away
    assert reads.last == 16 + 19 - 9  # slice E35 at column 9
    assert (loads.first, loads.last, loads.instructions, loads.loads, loads.load_span) == (16, 35, 20, 20, 4 * 20)
    assert loads.load_share == 0.25
    assert (y.first, y.last, y.instructions) == (91, 91, 4)
    assert y.waits == {"no_work": 4 * 91}  # each of the four queues waits from cycle 0


def test_an_fp16_load_fills_two_planes() -> None:
    """softmax loads its tile of ones by 20 LW.f16 in 20 cycles: half of the four planes."""
    program = assemble(next(path for path in EXAMPLES if path.name == "softmax.lpu.s"))
    loads = next(node for node in plan_of(program).nodes() if node.loads)
    assert (loads.loads, loads.load_span) == (40, 80)


def test_equal_nodes_of_layers_are_one_line() -> None:
    nodes = [Node("embed", 0, 5, 3, 0, 0, {}), Node("layers.2.o", 6, 9, 4, 0, 0, {"data": 5}),
             Node("layers.3.o", 16, 19, 4, 0, 0, {"data": 1, "port": 2})]
    found = by_kind(nodes)
    assert [(count, node.name, node.first) for count, node in found] == [(1, "embed", 0), (2, "layers.2.o", 6)]
    assert found[1][1].waits == {"data": 6, "port": 2}
    assert nodes[1].waits == {"data": 5}, "the nodes themselves stay as they are"


# -- the picture -------------------------------------------------------------------------------------------------
def test_a_character_is_a_share_of_queues_and_cycles() -> None:
    assert [shade(n, 90) for n in (0, 1, 10, 11, 45, 80, 81, 90)] == [" ", ".", ".", ":", "+", "%", "@", "@"]


def test_a_row_counts_queues_and_cycles_in_which_something_issues() -> None:
    """16 slices from E20 read 20 words each: a bucket of 10 cycles of these 16 queues holds 160."""
    plan = gemv()
    rows = [Row("all", tuple(plan.g.queue(f"MEM.E{n}") for n in range(20, 36))), Row("LW", (plan.g.queue("MXM2.LW"),))]
    counts = plan.density(rows, (4, 44), 10)
    # four slices each begin in cycles 4, 5, 6, 7: 10 + 9 + 8 + 7 in the first bucket
    assert counts[0].tolist() == [4 * (10 + 9 + 8 + 7), 160, 4 * (0 + 1 + 2 + 3), 0]
    assert counts[1].tolist() == [0, 8, 10, 3]  # LW from 16 to 35, IW at 36; the last bucket is 34 to 43


def test_the_picture_of_a_row() -> None:
    plan = gemv()
    shown = picture(plan, [Row("MXM2.LW", (plan.g.queue("MXM2.LW"),)), Row("VXM0", (plan.g.queue("VXM0"),))],
                    Window(4, 44, 10))
    # 21 of 40 cycles; of ten each 0, 8, 10 and 3
    assert shown.splitlines()[:2] == ["          4", "MXM2.LW  | %@-|  52.5 %"]
    assert "VXM0" not in shown


def test_the_window_is_the_whole_plan_in_a_hundred_buckets() -> None:
    assert window_of(gemv(), None) == Window(0, 111, 2)
    assert window_of(gemv(), (100, 500)) == Window(100, 111, 1)
    with pytest.raises(ValueError, match="--cycles 111:120: the plan has cycles 0 to 110"):
        window_of(gemv(), (111, 120))


def test_the_ruler_counts_cycles_and_not_characters() -> None:
    assert scaled_ruler(Window(0, 60, 3)) == "0         30"
    assert scaled_ruler(Window(5, 105, 5)) == "5         55"
    assert scaled_ruler(Window(8, 20, 1)) == "  10"


# -- one cycle ----------------------------------------------------------------------------------------------------
def test_what_is_where_in_cycle_30_of_the_matrix_example() -> None:
    """LW 14 (from 0) of rows 224 to 239 issues; the words of later LWs follow it at one column a cycle; x is read so
    that it is at column 18 in cycle 36, so it is at 12 now."""
    now = moment(gemv(), 30)
    at = {(r.value.stream, r.column): r for r in now.registers}
    # stream 0: read in E20 (column 6) from cycle 4 to 23, so iterations 14 to 19 are on columns 18 to 13
    assert sorted(column for stream, column in at if stream == 0) == [13, 14, 15, 16, 17, 18]
    sampled = at[0, 18]
    assert (sampled.producer.queue, sampled.producer.iteration, sampled.producer.cycle) == ("MEM.E20", 14, 18)
    assert sampled.reader is not None and sampled.reading is not None
    assert (sampled.reader.name, sampled.reader.iteration, sampled.reading.cycle) == ("LW", 14, 30)
    x = at[16, 12]
    assert x.producer.queue == "MEM.E16" and x.reader is not None and x.reading is not None
    assert (x.reader.name, x.reading.cycle, x.reading.column) == ("ABC", 36, 18)
    assert len(now.registers) == 16 * 6 + 1
    assert [one.words for one in now.issued] == ["LW s8, S0.E, 16, 0"]
    plane = now.planes[2]
    assert (plane.installed, plane.shadow, plane.under_way) == (None, 15 * 16, 0)


def test_words_have_the_names_of_tensors() -> None:
    """Row r of W lies in slice E20 + r % 16, word r // 16. E20 begins in cycle 4: iteration 6 in cycle 10."""
    now = moment(gemv(), 10)
    words = {word.instruction.queue: word for word in now.words}
    assert len(words) == 16
    assert (words["MEM.E20"].name, words["MEM.E20"].address) == ("W[96]", 6)
    assert words["MEM.E35"].name == f"W[{16 * (10 - 7) + 15}]"  # column 9: three hops nearer, begins in cycle 7
    written = moment(gemv(), 91).words
    assert [(w.access, w.name) for w in written] == [("written", f"y[0] byte {b}") for b in range(4)]


def test_words_without_a_tensor_have_a_purpose() -> None:
    program = compile_decode(load_model("tiny_kjv"), GROQ, context=64, timing_only=True, layers=(0, 2),
                             arithmetic="int8")
    plan = plan_of(program, GROQ)
    for name, purpose in (("LW", "weights"), ("ABC", "activations")):
        reader = next(int(n) for n in np.flatnonzero(plan.issues.opcode == code(name))
                      if plan.node_of(int(plan.issues.index[n])) == "layers.0.gate_up")
        cycle = int(plan.issues.cycle[reader])
        value = next(v for v in stream_values(plan, cycle, cycle + 1) if any(r.issue == reader for r in v.readings))
        words = moment(plan, value.born).words  # a READ puts its word on the stream in its own cycle
        queue = plan.g.queue_names[plan.issues.queue[value.issue]]
        assert [w.name for w in words if w.instruction.queue == queue] == [f"layers.0.gate_up: {purpose}"]


def test_planes_between_the_swap_and_the_result() -> None:
    """IW and ABC at 36, result in the accumulator at 76."""
    for cycle, under_way in ((36, 1), (75, 1), (76, 0)):
        plane = moment(gemv(), cycle).planes[2]
        assert (plane.installed, plane.since, plane.shadow) == ("line 8", 36, 0)
        assert plane.under_way == under_way
    assert moment(gemv(), 35).planes[2].installed is None


def test_vectors_are_on_a_link_until_they_arrive() -> None:
    """The toy chips: a vector read at column -1 in cycle 3 is at the link's column -4 in cycle 6, and HOP cycles on
    the wire."""
    board = joined()
    sender, receiver = board.pads
    column = sender.g.column[sender.g.queue("C2C.W0")]
    sender.at(3, "MEM.W0", "READ", 0, 32)
    sent = 3 + abs(column - sender.g.column[sender.g.queue("MEM.W0")])
    sender.at(sent, "C2C.W0", "SEND", 1, 32)
    receiver.at(sent + HOP, "C2C.W0", "RECV", 1, 0)
    board.machine().step()  # the program is sound
    sender.at(sent + HOP + 5, "MEM.W1", "READ", 0, 32)
    program = board.program()
    plan = plan_of(program, sender.chip)
    assert [moment(plan, t).sent for t in (sent - 1, sent, sent + HOP - 1, sent + HOP)] == [{}, {1: 1}, {1: 1}, {}]
    assert moment(plan, sent).registers[0].reader.name == "SEND"  # type: ignore[union-attr]
    received = moment(plan_of(program, sender.chip, 0, 1), sent + HOP)
    assert [(r.producer.name, r.column) for r in received.registers] == [("RECV", column)]


def test_a_cycle_outside_the_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="--at 111: the plan has cycles 0 to 110$"):
        moment(gemv(), 111)
    plan = plan_of(system(), GROQ, 1)
    with pytest.raises(ValueError, match=f"this chip's cycle 0 is cycle {plan.chosen.place.start:,} of the step"):
        moment(plan, plan.cycles)


def test_a_plan_needs_the_numbers_that_the_program_was_made_for() -> None:
    program = assemble(EXAMPLES[0])
    other = GROQ.with_override("mxm.latency_cycles", "41")
    with pytest.raises(ValueError, match="give the same --set values"):
        Plan(program, other, choose_chip(program, 0, 0))
    assert isinstance(program.texts[0], LpuText)
