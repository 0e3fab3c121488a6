"""`decodelab predict` on a GPU: products and attention calls through the command line, on the small chip."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from emulator.chip import load_chip
from tests.tools.test_cli import run
from tools.cases import OPERATIONS, parse_case
from tools.predict_gpu import measure

CASES = """\
op,m,n,k,dtype,weight_copies,batch,kv_len,q_heads,kv_heads,head_dim,kv_dtype
gemm,1,64,128,bfloat16,2,,,,,,
gemm,1,64,128,fp8,2,,,,,,
decode_attention,,,,,,2,40,4,2,64,float16
gemm,1,64,128,int4,,,,,,,
decode_attention,,,,,,1,40,3,2,64,
"""


ROOM = ("toy_gpu.sm.l1.bytes=65536", "toy_gpu.sm.shared.bytes=32768", "toy_gpu.sm.shared.max_per_cta=32512")


def measured(chip: str, **cells: str) -> dict[str, object]:
    loaded = load_chip(chip)
    return measure(loaded, parse_case(cells, loaded))


def test_rows_keep_their_order_and_bad_rows_are_told_by_line(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DECODELAB_JOBS", "1")
    (tmp_path / "in.csv").write_text(CASES)
    out = tmp_path / "out.csv"
    more = [word for setting in ROOM for word in ("--set", setting)]
    code, _, err = run(capsys, "predict", "--chip", "toy_gpu", "--cases", str(tmp_path / "in.csv"), "--out", str(out),
                       *more)
    assert code == 2
    assert "line 5: gemm: dtype int4 is not one of bfloat16, float16, fp8, int8" in err
    assert "line 6: decode_attention: q_heads 3 is no multiple of kv_heads 2" in err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cycles"] != "" for row in rows] == [True, True, True, False, False]
    assert {"shared_read_bytes", "l2_read_bytes", "hbm_read_bytes", "hbm_write_bytes"} <= set(rows[0])
    clock = load_chip("toy_gpu").clock_hz
    for row in rows[:3]:
        assert float(row["time_us"]) == pytest.approx(int(row["cycles"]) / clock * 1e6, rel=1e-5)
        assert 0 < float(row["utilisation"]) <= 1
    # an fp8 product has one kernel more: it quantises x first
    assert int(rows[1]["cycles"]) > int(rows[0]["cycles"])


def test_weights_alone_in_8_bits_need_no_kernel_before_the_product() -> None:
    """Half of the bytes of bf16, and no kernel that quantises x: between the two kernels of int8 and bf16's one."""
    times = {dtype: measured("h100_sxm", op="gemm", m="1", n="4096", k="7168", dtype=dtype)
             for dtype in ("bfloat16", "int8", "int8_wo")}
    assert times["int8_wo"]["cycles"] < times["int8"]["cycles"] < times["bfloat16"]["cycles"]
    weights = 4096 * 7168
    assert weights <= times["int8_wo"]["traffic"]["hbm_read"] < 1.02 * weights


def test_what_fits_l2_comes_from_l2_and_what_does_not_comes_from_memory() -> None:
    """50 MB of L2: six copies of 1024 x 1024 bf16 (12.6 MB) stay there; 4096 x 7168 (58.7 MB each) come in whole."""
    warm = measured("h100_sxm", op="gemm", m="1", n="1024", k="1024", dtype="bfloat16")
    cold = measured("h100_sxm", op="gemm", m="1", n="4096", k="7168", dtype="bfloat16")
    assert warm["traffic"]["hbm_read"] < 0.02 * 1024 * 1024 * 2
    assert warm["traffic"]["l2_read"] >= 1024 * 1024 * 2
    assert cold["traffic"]["hbm_read"] >= 4096 * 7168 * 2
    assert cold["bound_by"] == "HBM read"


def test_weight_copies_decide_what_stays_in_l2() -> None:
    """2048 x 4096 bf16 is 16.8 MB: one copy stays in 52 MB of L2, six push each other out."""
    one = measured("h100_sxm", op="gemm", m="1", n="2048", k="4096", dtype="bfloat16", weight_copies="1")
    six = measured("h100_sxm", op="gemm", m="1", n="2048", k="4096", dtype="bfloat16")
    assert one["traffic"]["hbm_read"] < 0.02 * 2048 * 4096 * 2
    assert six["traffic"]["hbm_read"] > 0.99 * 2048 * 4096 * 2
    assert six["cycles"] > one["cycles"]


def test_attention_reads_its_cache_once_and_appends_to_it() -> None:
    """2 x 8192 positions x 8 heads x 128 x 2 bytes, K and V: 67 MB, past L2; the step's rows are written."""
    long = measured("h100_sxm", op="decode_attention", batch="2", kv_len="8192", q_heads="32", kv_heads="8",
                    head_dim="128")
    kv = 2 * 2 * 8192 * 8 * 128 * 2
    assert kv <= long["traffic"]["l2_read"] < 1.1 * kv
    assert long["traffic"]["l2_write"] >= 2 * 2 * 8 * 128 * 2


def test_a_chip_that_is_too_small_is_told() -> None:
    chip = load_chip("h100_sxm")
    small = chip.with_override("dram.capacity_bytes", "1000000")
    with pytest.raises(ValueError, match=r"a product of 1 x 1024 x 1024 takes 2,\d+,\d+ bytes; h100_sxm has 1,000,000"):
        measure(small, parse_case({"op": "gemm", "m": "1", "n": "1024", "k": "1024", "dtype": "bfloat16"}, small))


def test_operations_have_the_columns_of_the_contract() -> None:
    names = {op: tuple(c.name for c in row.columns) for op, row in OPERATIONS["gpu"].items()}
    assert names["gemm"] == ("m", "n", "k", "dtype", "weight_copies")
    assert names["decode_attention"] == ("batch", "kv_len", "q_heads", "kv_heads", "head_dim", "kv_dtype")


def test_a_call_of_few_ctas_tries_several_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 CTAs without a split, 132 SMs: the fastest of several splits is told, none of them faster than it."""
    from tools import predict_gpu

    seen: list[int] = []
    original = predict_gpu._replayed

    def replayed(*arguments: object) -> object:
        step = original(*arguments)  # type: ignore[arg-type]
        seen.append(step.cycles)
        return step

    monkeypatch.setattr(predict_gpu, "_replayed", replayed)
    found = measured("h100_sxm", op="decode_attention", batch="32", kv_len="1024", q_heads="16", kv_heads="1",
                     head_dim="128")
    assert len(seen) >= 2 and len(set(seen)) > 1
    assert found["cycles"] == min(seen)


def test_an_all_reduce_shares_its_graphs_start_among_five_calls() -> None:
    """toy_gpu, 4 GPUs, 1024 bytes, which each reads from 3 peers: 8 lines, 6 bytes to ask and 6 + 128 to answer. The
    one CTA sends every peer a flag, a sector, before and after, and gets a header back."""
    found = measured("toy_gpu", op="allreduce", num_gpus="4", message_bytes="1024")
    assert found["traffic"]["nvlink"] == 4 * 3 * (8 * (6 + 6 + 128) + 2 * (6 + 32 + 6))
    # A rank must send 2 x 3/4 of the message, 16 bytes a cycle.
    clock = load_chip("toy_gpu").clock_hz
    assert found["utilisation"] == pytest.approx(1536 / 16 / clock / (found["time_us"] * 1e-6))
    late = load_chip("toy_gpu").with_override("launch.graph_start", "5000")
    case = parse_case({"op": "allreduce", "chips": "4", "message_bytes": "1024"}, late)
    assert measure(late, case)["cycles"] == pytest.approx(found["cycles"] + 1000, abs=1)


def test_a_node_has_only_so_many_gpus() -> None:
    with pytest.raises(ValueError, match="num_gpus 16 is not one of 2, 4, 8: toy_gpu has nodes of 8 GPUs"):
        measured("toy_gpu", op="allreduce", num_gpus="16", message_bytes="1024")
    small = load_chip("toy_gpu").with_override("nvlink.gpus", "4")
    with pytest.raises(ValueError, match="num_gpus 8 is not one of 2, 4: toy_gpu has nodes of 4 GPUs"):
        measure(small, parse_case({"op": "allreduce", "num_gpus": "8", "message_bytes": "64"}, small))
