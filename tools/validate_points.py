"""Published kernel times that ship with the package: what `validate` compares with when it is given no data.

Facts of public sources, retold: NVIDIA's aiconfigurator (github ai-dynamo/aiconfigurator, Apache-2.0), its
measured kernel latencies on SXM parts; the fastest of the frameworks named. Replay in a CUDA graph, launch
edge included: products on distinct weights in rotation, attention on the same K and V.
"""

from __future__ import annotations

from tools.validate_rows import Measured

AIC = "ai-dynamo/aiconfigurator @095f58a5, kernel latencies"

# n, k -> us at m = 1, bf16: A100 (TRT-LLM), H100 (the faster of vLLM 0.24 and TRT-LLM)
PRODUCTS = {
    (2048, 2048): (10.6, 6.67),
    (5120, 2560): (21.7, 11.5),
    (5120, 4096): (33.1, 16.9),
    (6144, 8192): (67.6, 36.1),
    (16384, 8192): (173.0, 88.5),
    (65536, 8192): (645.0, 362.0),
    (65536, 16384): (1253.0, 720.0),
}
MORE_PRODUCTS = {  # m, n, k, type -> us on H100
    (16, 16384, 8192, "bfloat16"): 95.7,
    (64, 16384, 8192, "bfloat16"): 100.3,
    (1, 16384, 8192, "fp8"): 57.5,
    (1, 65536, 16384, "fp8"): 345.0,
}
# batch, positions -> us of bf16 attention with 32 query heads, 8 KV heads of 128
H100_CALLS = {
    (1, 128): 11.1, (1, 1024): 12.6, (1, 4096): 15.2, (1, 8192): 19.8, (1, 32768): 64.7,
    (8, 128): 9.82, (8, 1024): 28.1, (8, 4096): 68.5, (8, 8192): 106.0, (8, 32768): 368.0,
    (64, 128): 24.5, (64, 1024): 108.0, (64, 4096): 365.0, (64, 8192): 715.0,
}  # fmt: skip
A100_CALLS = {
    (1, 128): 12.8, (1, 1024): 20.0, (1, 4096): 29.5, (1, 8192): 40.2, (1, 32768): 107.0,
    (8, 128): 19.8, (8, 1024): 42.8, (8, 4096): 108.0, (8, 8192): 187.0, (8, 32768): 651.0,
}  # fmt: skip


def points(chip: str) -> list[Measured]:
    """The published points of a chip. Raises ValueError where there are none."""
    if chip not in ("a100_sxm", "h100_sxm"):
        raise ValueError(f"no published kernel times ship for {chip}, only for a100_sxm and h100_sxm; give --data")
    column = 0 if chip == "a100_sxm" else 1
    products = {(1, n, k, "bfloat16"): times[column] for (n, k), times in PRODUCTS.items()}
    if column:
        products |= MORE_PRODUCTS
    found = [Measured("published products", 0, "gemm", tuple(map(str, shape)), us, AIC)
             for shape, us in products.items()]
    calls = H100_CALLS if column else A100_CALLS
    return found + [
        Measured("published attention", 0, "decode_attention", (str(batch), str(length), "32", "8", "128", "bfloat16"),
                 us, AIC) for (batch, length), us in calls.items()]
