"""`decodelab validate`: measured rows, samples, the models beside the machine, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.tools.test_cli import refused, run
from tools import validate
from tools.validate_points import points
from tools.validate_rows import Measured, fit_line, read_measured, sample, trivial_us

HEADER = "# measured here\ndtype,m,n,k,lat_us_one,lat_us_two,lat_us_three,note\n"
ROWS = HEADER + """\
bfloat16,1,1024,1024,4.5,4.0,,two of three
bfloat16,1,2048,8192,,19.0,20.0,
bfloat16,1,64,64,2.6,,,only one
bfloat16,128,64,64,3,4,5,prefill
int4_wo,1,64,64,9,9,,
fp8,2,64,256,5.0,4.6,,
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DECODELAB_JOBS", "1")
    path = tmp_path / "kernels.csv"
    path.write_text(ROWS)
    return path


def product(us: float, n: int, line: int = 1, k: int = 1024) -> Measured:
    return Measured("f.csv", line, "gemm", ("1", str(n), str(k), "bfloat16"), us)


def test_the_fastest_of_at_least_two_frameworks_counts(data: Path) -> None:
    rows, left = read_measured(data)
    assert [(row.line, row.us, row.dtype) for row in rows] == [(3, 4.0, "bfloat16"), (4, 19.0, "bfloat16"),
                                                               (8, 4.6, "fp8")]
    assert left == {"fewer than two frameworks": 1, "m over 64": 1, "int4_wo is not built": 1}


def test_bytes_are_weights_x_and_y() -> None:
    assert product(1, 10, k=100).bytes == 2 * (10 * 100 + 100) + 2 * 10
    fp8 = Measured("f", 1, "gemm", ("4", "10", "100", "fp8"), 1.0)
    assert fp8.bytes == 10 * 100 + 4 * 100 + 2 * 4 * 10  # x counts in the format it is multiplied in
    call = Measured("f", 1, "decode_attention", ("2", "1000", "32", "8", "128", "bfloat16"), 1.0)
    assert call.bytes == 2 * 2 * 2 * 1000 * 8 * 128  # K and V, two bytes, two sequences


@pytest.mark.parametrize(("us", "name"), [(9.99, "below 10 us"), (10.0, "10 to 30 us"), (99.0, "30 to 100 us"),
                                          (100.0, "100 us and more")])
def test_size_classes(us: float, name: str) -> None:
    from tools.validate_rows import class_name

    assert class_name("gemm", product(us, 10).size_class) == name


def test_a_sample_is_the_same_for_the_same_seed_and_covers_the_times_of_a_class() -> None:
    rows = [product(10 + i / 10, 100 + i, i) for i in range(100)] + [product(1 + i / 100, 10 + i, i) for i in range(5)]
    chosen = sample(rows, 10, seed=3)
    assert chosen == sample(list(reversed(rows)), 10, seed=3)
    assert chosen != sample(rows, 10, seed=4)
    large = [row for row in chosen if row.scored]
    assert len(large) == 10 and len(chosen) == 15
    assert [int(row.us - 10) for row in large] == list(range(10))  # one of every tenth


def test_the_fitted_line_goes_through_rows_that_lie_on_one() -> None:
    """4 us + bytes / 3e6 a us."""
    rows = [product(4 + product(1, n).bytes / 3e6, n) for n in (1000, 2000, 9000, 40000)]
    a, b = fit_line(rows)
    assert a == pytest.approx(4) and b == pytest.approx(3e6)
    alone = fit_line([product(2.0, 100), product(4.0, 100)])
    assert alone == (pytest.approx((1 / 2 + 1 / 4) / (1 / 4 + 1 / 16)), math.inf)


def test_the_trivial_model() -> None:
    assert trivial_us(8_000_000, 1e12) == pytest.approx(10 + 3)  # 8 MB at 0.8 TB/s


def test_quantiles_lie_between_values_in_proportion() -> None:
    assert validate.quantile([4, 1, 3, 2], 0.5) == 2.5
    assert validate.quantile([0.0, 10.0], 0.9) == pytest.approx(9)


def test_errors_are_those_of_the_logarithm() -> None:
    rows = [product(10.0, 1000), product(20.0, 2000), product(40.0, 4000)]
    group = validate.judge("g", rows, [11.0, 20.0, 20.0], peak=1e12)
    errors = group.classes["scored"]
    assert errors.median["emulated"] == pytest.approx(math.log(1.1))
    assert errors.p90["emulated"] == pytest.approx(0.2 * math.log(1.1) + 0.8 * math.log(2))
    assert errors.bias == 0
    assert list(group.classes) == ["10 to 30 us", "30 to 100 us", "scored"]


def test_the_command_prints_all_models_and_fails_past_max(capsys, data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    arguments = ("validate", "--chip", "h100_sxm", "--data", str(data), "--results", str(kept))
    code, out, _ = run(capsys, *arguments, "--max", "5")
    assert code == 0
    assert "kernels.csv, bfloat16 (gemm)" in out and "kernels.csv, fp8 (gemm)" in out
    assert "emulated" in out and "trivial" in out and "fitted line" in out
    assert "left out 1 (fewer than two frameworks), 1 (int4_wo is not built), 1 (m over 64)" in out
    before = kept.read_bytes()
    code, out, err = run(capsys, *arguments, "--json", "--max", "0.000001")  # nothing is emulated again
    assert code == 1 and "median error" in err and "3 of 3 rows are in" in err
    assert kept.read_bytes() == before
    found = json.loads(out)
    assert found["schema"] == "decodelab.validate/1"
    (large,) = [row for group in found["groups"] for row in group["rows"] if row["line"] == 4]
    floor = 2048 * 8192 * 2 / 3.352e12 * 1e6
    assert large["measured_us"] == 19.0 and floor < large["emulated_us"] < 4 * floor


def test_files_and_chips_that_cannot_be_used_are_refused(capsys, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert "no measured kernels" in refused(capsys, "validate", "--chip", "h100_sxm", "--data", str(other))
    other.write_text(HEADER + "bfloat16,1,x,64,3,4,5,\n")
    assert "line 3: not a measured kernel" in refused(capsys, "validate", "--chip", "h100_sxm", "--data", str(other))
    for row in ("0,4096,5,6", "2,4096,nan,6", "2,4096,inf,inf"):
        other.write_text(f"num_gpus,message_bytes,lat_us_a,lat_us_b\n{row}\n")
        told = refused(capsys, "validate", "--chip", "h100_sxm", "--data", str(other))
        assert "line 2: not a measured kernel" in told
    assert "is no GPU" in refused(capsys, "validate", "--chip", "groq_tsp_v1", "--data", str(data))
    assert "no published kernel times ship for toy_gpu" in refused(capsys, "validate", "--chip", "toy_gpu")
    assert "no row is left" in refused(capsys, "validate", "--chip", "h100_sxm", "--data", str(data), "--dtype", "x")


def test_rows_of_another_device_are_told(capsys, data: Path) -> None:
    """No row has this data type, so that nothing is emulated."""
    arguments = ("validate", "--chip", "h100_sxm", "--data", str(data), "--dtype", "x")
    for head, device in (("# source: a paper\n# device a100_sxm; CUDA graphs\n", "a100_sxm"),
                         ("# device 8xa100_sxm NVLink\n", "a100_sxm"), ("# device h100_sxm; CUDA graphs\n", None),
                         ("# device 8xh100_sxm NVLink\n", None), ("", None)):
        data.write_text(head + ROWS + "# device a100_sxm: no line of the head\n")
        _, _, err = run(capsys, *arguments)
        told = [line for line in err.splitlines() if line.startswith("warning: ")]
        assert told == ([f"warning: {data} was measured on {device}, and h100_sxm is emulated"] if device else []), head


def test_published_points_have_sources() -> None:
    h100, a100 = points("h100_sxm"), points("a100_sxm")
    assert len(h100) + len(a100) >= 30
    assert all(point.source and point.us > 0 for point in h100 + a100)
    largest = max((p for p in h100 if p.op == "gemm"), key=lambda p: p.bytes)
    assert largest.cells[:3] == ("1", "65536", "16384")


def test_all_reduces_are_judged_by_what_each_gpu_must_send(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("num_gpus,elements_16bit,message_bytes,lat_us_one,lat_us_two\n8,512,1024,3.2,3.4\n2,128,256,2.4,\n")
    rows, left = read_measured(path)
    assert [(row.op, row.cells, row.us, row.bytes, row.scored) for row in rows] == [
        ("allreduce", ("8", "1024"), 3.2, 2 * 7 * 128, True)]
    assert left == {"fewer than two frameworks": 1}
