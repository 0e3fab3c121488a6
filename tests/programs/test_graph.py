"""The decode graph: operations in order, and bytes and operations by hand."""

from __future__ import annotations

import networkx
import pytest

from programs.decode.graph import KINDS, decode_attention_bytes, decode_graph, operations, total
from programs.decode.stored import SCHEMES
from programs.models.checkpoint import load_model
from programs.models.errors import ModelError

TINY = load_model("tiny_kjv").config


def test_one_layer_in_order() -> None:
    graph = decode_graph(TINY, 1, 10, (1, 2))
    names = [name.removeprefix("layers.1.") for name in operations(graph)]
    assert names == [
        "attn_norm", "qkv", "rope", "kv_append", "attention", "o", "attn_add",
        "mlp_norm", "gate_up", "silu_mul", "down", "mlp_add",
    ]  # fmt: skip
    assert networkx.is_directed_acyclic_graph(graph)


def test_whole_model_begins_with_embed_and_ends_with_argmax() -> None:
    ops = operations(decode_graph(TINY, 2, 10))
    assert len(ops) == 1 + 4 * 12 + 3
    assert [list(ops)[0], *list(ops)[-3:]] == ["embed", "final_norm", "lm_head", "argmax"]
    assert {op.kind for op in ops.values()} == set(KINDS)
    assert ops["argmax"].shape == (2, 1) and ops["lm_head"].shape == (2, 1024)


def test_residual_goes_round_the_attention_and_the_mlp() -> None:
    graph = decode_graph(TINY, 1, 10)
    assert set(graph.predecessors("layers.0.attn_add")) == {"layers.0.o", "embed"}
    assert set(graph.predecessors("layers.0.mlp_add")) == {"layers.0.down", "layers.0.attn_add"}
    assert set(graph.successors("layers.0.mlp_add")) == {"layers.1.attn_norm", "layers.1.attn_add"}


def test_embedding_and_head_can_be_chosen() -> None:
    first = operations(decode_graph(TINY, 1, 10, (0, 1), with_embed=True))
    last = operations(decode_graph(TINY, 1, 10, (3, 4), with_head=True))
    assert "embed" in first and "lm_head" not in first
    assert "embed" not in last and "lm_head" in last


def test_bytes_and_multiplications_of_an_8b_layer_by_hand() -> None:
    """llama-3.1-8b, int8, 1024 positions, fp16 KV."""
    part = total(decode_graph(load_model("llama-3.1-8b").config, 1, 1024, (0, 1), scheme=SCHEMES["int8"]))
    # q 4096 x 4096, k and v 1024 x 4096 each, o 4096 x 4096, gate, up and down 14336 x 4096 each
    matrices = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096
    assert part.weights == matrices == 218_103_808
    # one byte each, and one fp32 scale for each of 6144 + 4096 + 28672 + 4096 rows; norms are folded
    assert part.weight_bytes == matrices + 4 * 43008
    assert part.kv_read_bytes == 2 * 1024 * 8 * 128 * 2 == decode_attention_bytes(8, 128, 1024, 1, 2)
    assert part.kv_write_bytes == 2 * 8 * 128 * 2
    # scores and values: 32 heads x 1024 positions x 128, twice
    assert part.macs == matrices + 2 * 32 * 1024 * 128
    assert part.embedding_bytes == 0


def test_batch_multiplies_kv_and_operations_but_not_weights() -> None:
    one, four = (total(decode_graph(TINY, batch, 64)) for batch in (1, 4))
    assert four.weight_bytes == one.weight_bytes
    assert (four.kv_read_bytes, four.kv_write_bytes, four.macs, four.embedding_bytes) == (
        4 * one.kv_read_bytes, 4 * one.kv_write_bytes, 4 * one.macs, 4 * one.embedding_bytes
    )  # fmt: skip
    assert four.vector_operations == 4 * one.vector_operations
    assert four.memory_bytes == one.memory_bytes + 3 * (one.kv_read_bytes + one.kv_write_bytes + one.embedding_bytes)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_graph_and_floor_count_the_same_work(scheme: str) -> None:
    """tools.floor counts from the config, the graph operation by operation."""
    from tools.floor import decode_work

    for name in ("llama-3.1-8b", "qwen2.5-7b", "tiny_kjv"):
        config = load_model(name).config
        for layers in (None, (0, 1), (1, 3)):
            ours = total(decode_graph(config, 3, 100, layers, scheme=SCHEMES[scheme]))
            work = decode_work(config, SCHEMES[scheme], 3, 100, layers)
            assert (ours.weights, ours.weight_bytes, ours.embedding_bytes) == (
                work.weights, work.weight_bytes, work.embedding_bytes
            )  # fmt: skip
            assert (ours.kv_read_bytes, ours.kv_write_bytes) == (work.kv_read_bytes, work.kv_write_bytes)
            assert ours.macs == work.weight_macs + work.attention_macs


def test_context_over_the_model_s_is_refused() -> None:
    with pytest.raises(ModelError, match="context of 513 positions is over the 512 of the model"):
        decode_graph(TINY, 1, 513)
