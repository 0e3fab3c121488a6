"""Which tensor an instruction reads or writes: programs by hand, whose places are known, and compiled ones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.assemble import assemble
from emulator.chip import load_chip
from emulator.lpu.geometry import geometry
from emulator.trace_tensors import accessed, addressed
from isa.encoding import CODE, FIELD0, decode_words
from isa.opcodes import BY_NAME
from isa.program import GpuText, LpuText, Program
from isa.programfile import ProgramFileError, load_arrays, load_program, save_arrays, save_program

CHIP = "groq_tsp_v1"
WORDS = geometry(load_chip(CHIP)).words_per_slice


def by_asm(program: Program, opcode: str) -> list[str]:
    """Tensors of all instructions of an opcode, in order."""
    text = program.texts[0]
    if isinstance(text, GpuText):
        names = addressed(program, text)[0]
    else:
        names = accessed(program, 0, WORDS)
    return [name for name, word in zip(names, text.words.tolist()) if word & 255 == BY_NAME[opcode].code]


def lpu(text: str) -> Program:
    return assemble(f".chip {CHIP}\n{text}")


def gpu(text: str) -> Program:
    return assemble(f".chip toy_gpu\n{text}")


def test_an_address_is_looked_up_among_the_tensors_of_its_slice() -> None:
    """a takes words 0 and 1 of slice E0, b word 2; c lies in another slice at the same addresses."""
    program = lpu("""
.data a s8 [2,320] @E0
.data b s8 [1,320] @E0
.data c s8 [2,320] @E1
MEM.E0: READ 1, S0.E
MEM.E0: WRITE 2, S1.E
MEM.E0: READ 3, S0.E
MEM.E1: READ 1, S2.E
""")
    assert by_asm(program, "READ") == ["a", "", "c"]
    assert by_asm(program, "WRITE") == ["b"]


def test_a_repeat_names_every_tensor_that_it_goes_through() -> None:
    data = ".data a s8 [2,320] @E0\n.data b s8 [1,320] @E0\n"
    assert by_asm(lpu(data + "MEM.E0: READ 0, S0.E  at 10 x3\n"), "READ") == ["a, b"]
    assert by_asm(lpu(data + "MEM.E0: READ 0, S0.E  at 10 x2\n"), "READ") == ["a"]
    assert by_asm(lpu(data + "MEM.E0: READ 0, S0.E  at 10 x2 step 2\n"), "READ") == ["a, b"]
    assert by_asm(lpu(data + "MEM.E0: READ 2, S0.E  at 10 x3 step 0\n"), "READ") == ["b"]
    assert by_asm(lpu(data + "MEM.E0: READ 2, S0.E  at 10 x3 step -1\n"), "READ") == ["b, a"]


KERNEL = """
.data W f32 [64,32] random 1
.data x f32 [1,64]  random 2
.data y f32 [1,32]
.kernel k(W, x, y, n)
.reg  at, v
.ureg p, i
        S2R   at, LANEID
        SHL   at, at, 2
{body}
        STG.32 [y + at], v
"""


def launched(body: str, *arguments: str) -> tuple[list[str], list[dict[str, str]]]:
    """(parameters of each LDG, tensors of each launch)."""
    launches = "".join(f".launch k 1 32 0 ({one})\n" for one in arguments)
    program = gpu(KERNEL.format(body=body) + launches)
    text = program.texts[0]
    assert isinstance(text, GpuText)
    return by_asm(program, "LDG"), addressed(program, text)[1]


def test_a_base_is_followed_to_the_parameter_that_it_comes_from() -> None:
    body = """
loop:   LDG.32 v, [W + at]
        LDG.32 v, [x]
        UADDI  W, W, 128
        UADDI  x, x, 4
        UBR.LT x, n, loop
"""
    loads, launches = launched(body, "W, x, y, x+256")
    assert loads == ["W", "x"]
    assert launches == [{"W": "W", "x": "x", "y": "y"}]  # n is compared only: no address comes from it


def test_the_same_instruction_reads_what_its_launch_says() -> None:
    loads, launches = launched("        LDG.32 v, [x + at]\n", "W, x, y, 0", "x, W+128, y, 0", "W, 100000, y, 0")
    assert loads == ["x"]
    assert [one.get("x") for one in launches] == ["x", "W", None]  # nothing lies at 100,000


def test_paths_that_meet_keep_both_parameters_and_a_product_none() -> None:
    body = """
        UADDI  p, W, 0
        UBR.GE n, i, go
        UADDI  p, x, 0
go:     LDG.32 v, [p + at]
        UMULI  p, W, 2
        LDG.32 v, [p + at]
        ULDG.64 p, [x]
        LDG.32 v, [p + at]
"""
    loads, launches = launched(body, "W, x, y, 1")
    assert loads == ["W, x", "", ""]
    assert launches[0]["W, x"] == "W, x"


def test_a_loop_over_layers_names_no_layer() -> None:
    """A persistent kernel has the first layer's addresses as its arguments and adds the layer's offset itself."""
    program = gpu(KERNEL.format(body="        LDG.32 v, [W + at]\n") + ".launch k 1 32 0 (W, x, y, 0)\n")
    program.tensors = {name: replace(t, name="layers.0.qkv" if name == "W" else name)
                       for name, t in program.tensors.items()}
    text = program.texts[0]
    assert isinstance(text, GpuText)
    assert addressed(program, text)[1][0]["W"] == "layers.0.qkv"
    program.meta["launch"] = "persistent"
    assert addressed(program, text)[1][0] == {"W": "layers.*.qkv", "y": "y"}


@pytest.fixture(scope="module")
def compiled() -> Program:
    from tools.measure import check, chosen_job, prepare

    return prepare(check(chosen_job({"model": "tiny_kjv", "chip": CHIP, "timing_only": True})).job).program


def words_of(program: Program) -> dict[str, set[int]]:
    """SRAM words of each name that the compiler gave to reads and writes, from addresses and repeats."""
    text = program.texts[0]
    assert isinstance(text, LpuText)
    names, table, starts = accessed(program, 0, WORDS), decode_words("lpu", text.words), text.starts
    found: dict[str, set[int]] = defaultdict(set)
    for queue in range(len(starts) - 1):
        for at in range(starts[queue], starts[queue + 1]):
            if table[at, CODE] not in (BY_NAME["READ"].code, BY_NAME["WRITE"].code):
                continue
            again = at + 1 < starts[queue + 1] and table[at + 1, CODE] == BY_NAME["REPEAT"].code
            count, stride = (1 + table[at + 1, FIELD0], table[at + 1, FIELD0 + 2]) if again else (1, 0)
            found[names[at]] |= {int(queue * WORDS + table[at, FIELD0] + k * stride) for k in range(count)}
    return found


def test_the_compilers_names_agree_with_where_its_tensors_lie(compiled: Program) -> None:
    """The state and the logits are in the program's table of tensors too, which the names were not made from."""
    found = words_of(compiled)
    for name in ("position", "token", "logits"):
        words = compiled.tensors[name].words
        assert words is not None
        mine = set(words.reshape(-1).tolist())
        assert mine <= found[name], name
        assert not any(mine & other for key, other in found.items() if key not in (name, "best")), name


def test_every_layer_has_its_matrices_and_its_cache_in_words_of_their_own(compiled: Program) -> None:
    found = words_of(compiled)
    fixed = [f"layers.{layer}.{what}" for layer in range(4)
             for what in ("qkv", "o", "gate_up", "down", "attn_norm", "mlp_norm", "kv.keys", "kv.values")]
    fixed += ["lm_head", "final_norm"]
    for name in fixed:
        assert found[name], name
        assert not [other for other in found if other != name and found[other] & found[name]], name
    assert {len(found[f"layers.{layer}.down"]) for layer in range(4)} == {len(found["layers.0.down"])}


def test_names_survive_a_program_file(compiled: Program, tmp_path: Path) -> None:
    save_program(compiled, tmp_path / "p.npz")
    assert accessed(load_program(tmp_path / "p.npz"), 0, WORDS) == accessed(compiled, 0, WORDS)


def test_a_program_file_that_names_no_tensors_is_read(compiled: Program, tmp_path: Path) -> None:
    """Files of earlier compilers have no such column: what is in the table of tensors is still found."""
    save_program(compiled, tmp_path / "p.npz")
    arrays = load_arrays(tmp_path / "p.npz")
    names = arrays.pop("text0.source_tensor")
    save_arrays(tmp_path / "p.npz", arrays)
    found = set(accessed(load_program(tmp_path / "p.npz"), 0, WORDS))
    assert found == {"", "position", "token", "logits"}
    arrays["text0.source_tensor"] = names + 1_000_000
    save_arrays(tmp_path / "p.npz", arrays)
    with pytest.raises(ProgramFileError, match="source map of text 0 is damaged"):
        load_program(tmp_path / "p.npz")
