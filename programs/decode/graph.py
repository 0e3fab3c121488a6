"""One decode step as a graph of tensor operations, for any machine.

Nodes are named as in listings and reports ("layers.3.qkv"); an edge goes from the operation that
makes a tensor to one that uses it. Each node says what it must move and compute at least: bytes
once, operations once. Nothing here knows a chip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from programs.decode.stored import BYTES, SCHEMES, Scheme, linear_shapes
from programs.models.config import ModelConfig

if TYPE_CHECKING:
    import networkx

KINDS = ("embed", "rmsnorm", "linear", "rope", "kv_append", "attention", "add", "silu_mul", "lm_head", "argmax")


@dataclass(frozen=True)
class Operation:
    """A node of the decode graph; it is the attribute `operation` of the node.

    shape: of the result, [batch, columns]; format: of the result ("s32" for the token). in_columns:
    of the input that is contracted (matrix operations), else 0. All bytes are those of the model,
    without any machine's padding: weight_bytes has row scales, biases and norms; embedding_bytes
    are the rows looked up. macs: multiply-adds of matrix products; vector_operations: results of
    elementwise arithmetic, exponentials and the like (one each).
    """

    kind: str
    layer: int | None
    shape: tuple[int, int]
    format: str
    in_columns: int = 0
    weights: int = 0
    weight_bytes: int = 0
    embedding_bytes: int = 0
    kv_read_bytes: int = 0
    kv_write_bytes: int = 0
    macs: int = 0
    vector_operations: int = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes that come from or go to where weights and KV live."""
        return self.weight_bytes + self.embedding_bytes + self.kv_read_bytes + self.kv_write_bytes


def decode_attention_bytes(kv_heads: int, head_dim: int, context: int, batch: int, bytes_per_value: int) -> int:
    """Bytes of K and V that one decode step must read, for one layer.

    2 (K and V) x batch x context x kv_heads x head_dim x bytes_per_value. Grouped queries share
    their K and V, so query heads do not appear (arXiv 2305.13245).
    """
    return 2 * batch * context * kv_heads * head_dim * bytes_per_value


def decode_graph(
    config: ModelConfig,
    batch: int,
    context: int,
    layers: tuple[int, int] | None = None,
    with_embed: bool | None = None,
    with_head: bool | None = None,
    scheme: Scheme = SCHEMES["fp16"],
) -> networkx.DiGraph:
    """Graph of one decode step in which each of `batch` sequences attends to `context` positions.

    layers (a, b): only layers a .. b - 1. Embedding and head are there when the layers are all of
    them, unless with_embed and with_head say otherwise. Every node has the attribute `operation`.
    Raises ModelError if the context is longer than the model allows.
    """
    import networkx

    config.check_context(context)
    first, end = layers if layers is not None else (0, config.layers)
    whole = (first, end) == (0, config.layers)
    graph = networkx.DiGraph(batch=batch, context=context)
    shapes = linear_shapes(config)
    hidden = config.hidden

    def add(name: str, operation: Operation, *inputs: str) -> str:
        graph.add_node(name, operation=operation)
        graph.add_edges_from((source, name) for source in inputs if source)
        return name

    def norm(name: str, layer: int | None, source: str) -> str:
        folded = scheme.fold_norms  # its weight is then part of the next matrix
        weight = 0 if folded else 4 * hidden
        # square, scale, weight: one operation each and element
        work = (2 if folded else 3) * batch * hidden
        cost = Operation("rmsnorm", layer, (batch, hidden), "f32", weight_bytes=weight, vector_operations=work)
        return add(name, cost, source)

    def linear(name: str, layer: int | None, source: str) -> str:
        short = name.rpartition(".")[2]
        out, inputs = shapes[short]
        bias = config.qkv_bias and short == "qkv"
        size = out * inputs * BYTES[scheme.weights] + 4 * out * (scheme.scaled + bias)
        kind = "lm_head" if short == "lm_head" else "linear"
        return add(name, Operation(
            kind, layer, (batch, out), "f32", in_columns=inputs, weights=out * inputs, weight_bytes=size,
            macs=batch * out * inputs, vector_operations=batch * out * (scheme.scaled + bias),
        ), source)  # fmt: skip

    def elementwise(name: str, kind: str, layer: int, columns: int, operations: int, *inputs: str) -> str:
        cost = Operation(kind, layer, (batch, columns), "f32", vector_operations=batch * columns * operations)
        return add(name, cost, *inputs)

    x = ""
    if whole if with_embed is None else with_embed:
        looked_up = batch * hidden * BYTES[scheme.embed]
        x = add("embed", Operation("embed", None, (batch, hidden), "f32", embedding_bytes=looked_up))
    for i in range(first, end):
        p = f"layers.{i}."
        qkv = linear(p + "qkv", i, norm(p + "attn_norm", i, x))
        # two products and a sum for each element of q and k
        rope = elementwise(p + "rope", "rope", i, config.q_size + config.kv_size, 3, qkv)
        kv_bytes = BYTES[scheme.kv]
        written = decode_attention_bytes(config.kv_heads, config.head_dim, 1, batch, kv_bytes)
        append = Operation("kv_append", i, (batch, 2 * config.kv_size), scheme.kv, kv_write_bytes=written)
        add(p + "kv_append", append, rope, qkv)
        read = decode_attention_bytes(config.kv_heads, config.head_dim, context, batch, kv_bytes)
        # scores and values: head_dim multiply-adds each; softmax: scale, subtract, exponential, sum
        scores = batch * config.heads * context
        attention = add(p + "attention", Operation(
            "attention", i, (batch, config.q_size), "f32", in_columns=context, kv_read_bytes=read,
            macs=2 * scores * config.head_dim, vector_operations=4 * scores,
        ), rope, p + "kv_append")  # fmt: skip
        x = elementwise(p + "attn_add", "add", i, hidden, 1, linear(p + "o", i, attention), x)
        gate_up = linear(p + "gate_up", i, norm(p + "mlp_norm", i, x))
        gated = elementwise(p + "silu_mul", "silu_mul", i, config.ffn, 3, gate_up)
        x = elementwise(p + "mlp_add", "add", i, hidden, 1, linear(p + "down", i, gated), x)
    if whole if with_head is None else with_head:
        logits = linear("lm_head", None, norm("final_norm", None, x))
        add("argmax", Operation("argmax", None, (batch, 1), "s32", vector_operations=batch * config.vocab), logits)
    return graph


def operations(graph: networkx.DiGraph) -> dict[str, Operation]:
    """Node name -> Operation, in an order in which every operation follows its inputs."""
    import networkx

    order = list(graph.nodes)  # nodes were added in execution order: ties are broken by it
    number = {name: index for index, name in enumerate(order)}
    sorted_names = networkx.lexicographical_topological_sort(graph, key=number.__getitem__)
    return {name: graph.nodes[name]["operation"] for name in sorted_names}


def total(graph: networkx.DiGraph) -> Operation:
    """Sum over the graph of weights, bytes and operations: what any machine must move and do once."""
    parts = list(operations(graph).values())
    sums = {
        field: sum(getattr(part, field) for part in parts)
        for field in (
            "weights", "weight_bytes", "embedding_bytes", "kv_read_bytes", "kv_write_bytes", "macs",
            "vector_operations",
        )
    }  # fmt: skip
    return Operation("total", None, (graph.graph["batch"], 0), "", **sums)
