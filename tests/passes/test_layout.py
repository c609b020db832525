"""Layout assignment: what is stored in blocks, with which border, and where it is converted."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph, TensorType, Value, blocked, dtypes
from graphc.ir.verify import verify
from graphc.ops import infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.passes import PassContext
from graphc.passes.layout import AssignLayout
from graphc.testing import check_pass

RNG = np.random.default_rng(0)
PLAIN = blocked(1, 4, fill=0.0)
BORDER = blocked(1, 4, halo=((0, 0), (0, 0), (1, 1), (1, 1)), fill=0.0)


def _image(*shape: int) -> tuple[Graph, Builder, Value]:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, shape))], opset=23)
    return graph, Builder(graph), graph.inputs[0]


def _conv(b: Builder, x: Value, channels: int, outputs: int, kernel: int) -> Value:
    weight = b.constant(RNG.standard_normal((outputs, channels, kernel, kernel)).astype(np.float32))
    return b.op("Conv", x, weight, kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4)


def _assign(graph: Graph, **options: int | bool) -> dict[str, str]:
    """Layout of each value by the operator that made it; checks meaning in storage, where a missed relayout shows."""
    infer_graph(graph)
    arrays = [RNG.standard_normal(value.tensor_type.static_shape).astype(np.float32) for value in graph.inputs]
    before = evaluate_graph(graph, arrays)
    AssignLayout(**{"block": 4, **options}).run(graph, PassContext())  # type: ignore[arg-type]
    verify(graph)
    for storage in (False, True):
        for found, wanted in zip(evaluate_graph(graph, arrays, storage=storage), before, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return {
        f"{node.op_type}{i}": str(node.output.tensor_type.layout)
        for i, node in enumerate(n for n in graph.nodes if n.op_type != "Constant")
    }


def test_a_chain_of_convolutions_stays_blocked_and_leaves_row_major() -> None:
    graph, b, x = _image(1, 3, 8, 8)
    y = b.op("Relu", _conv(b, x, 3, 8, 3))
    graph.outputs = [_conv(b, y, 8, 8, 3)]
    assert _assign(graph, block=8) == {
        # The first reads three channels as they come; only what the second reads needs a border.
        "Conv0": str(blocked(1, 8, fill=0.0)),
        "Relu1": str(blocked(1, 8, halo=BORDER.halo, fill=0.0)),
        "Conv2": str(blocked(1, 8, fill=0.0)),
        "Relayout3": "row_major",
    }


def test_an_image_with_channels_enough_is_converted_for_its_convolution() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    graph.outputs = [_conv(b, x, 8, 8, 3)]
    assert list(_assign(graph).values()) == [str(BORDER), str(PLAIN), "row_major"]


def test_two_convolutions_share_one_conversion() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    graph.outputs = [b.op("Add", _conv(b, x, 8, 8, 3), _conv(b, x, 8, 8, 3))]
    names = list(_assign(graph))
    assert sum(name.startswith("Relayout") for name in names) == 2, "one in, one out"


def test_what_few_channels_would_waste_stays_row_major() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    graph.outputs = [_conv(b, x, 8, 1, 3)]
    assert list(_assign(graph).values()) == [str(BORDER), "row_major"]


def test_the_output_keeps_its_name() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    weight = b.constant(RNG.standard_normal((8, 8, 1, 1)).astype(np.float32))
    graph.outputs = [b.op("Conv", x, weight, outputs=["result"])]
    _assign(graph)
    assert graph.outputs[0].name == "result"
    assert graph.outputs[0].tensor_type.layout.is_row_major


def test_options() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    graph.outputs = [_conv(b, x, 8, 8, 3)]
    assert set(_assign(graph.clone(), block=1).values()) == {"row_major"}
    assert str(PLAIN) in _assign(graph, halo=False).values()


def test_a_graph_without_convolutions_is_left_alone() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    graph.outputs = [b.op("Relu", x)]
    infer_graph(graph)
    assert AssignLayout(block=4).run(graph, PassContext()) == 0


@pytest.mark.parametrize("block", [2, 4])
def test_random_graphs_keep_their_meaning(block: int) -> None:
    operators = ("Conv", "MaxPool", "GlobalAveragePool", "Relu", "Add", "Concat")
    assert check_pass(f"layout{{block={block}}}", examples=200, operators=operators, max_nodes=12) > 0


def test_padding_that_the_shape_decides_is_padding_too() -> None:
    graph, b, x = _image(1, 8, 6, 6)
    weight = b.constant(RNG.standard_normal((8, 8, 3, 3)).astype(np.float32))
    graph.outputs = [b.op("Conv", x, weight, auto_pad="SAME_UPPER")]
    assert next(iter(_assign(graph).values())) == str(BORDER)
