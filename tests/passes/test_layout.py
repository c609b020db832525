"""Layout assignment: what is stored in blocks, with which border, and where it is converted."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph, Node, TensorType, Value, blocked, channels_last, dtypes
from graphc.ir.verify import verify
from graphc.ops import infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.passes import PassContext
from graphc.passes.buffers import assign_buffers
from graphc.passes.layout import AssignLayout
from graphc.passes.views import is_view
from graphc.target import GPUS, Verdict, accepted, refused
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


def _assign(graph: Graph, **options: int) -> dict[str, str]:
    """Layout of each value by the operator that made it; checks meaning in storage, where a missed relayout shows."""
    infer_graph(graph)
    arrays = [RNG.standard_normal(value.tensor_type.static_shape).astype(np.float32) for value in graph.inputs]
    before = evaluate_graph(graph, arrays)
    blocks = {} if options.get("channels_last") else {"block": 4}
    AssignLayout(**{**blocks, **options}).run(graph, PassContext())  # type: ignore[arg-type]
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


NHWC = str(channels_last(4))


def test_channels_are_last_around_convolutions_where_asked() -> None:
    graph, b, x = _image(1, 3, 8, 8)
    y = b.op("Relu", _conv(b, x, 3, 8, 3))
    graph.outputs = [b.op("MaxPool", _conv(b, y, 8, 1, 3), kernel_shape=[2, 2])]
    # A photo is read as it comes; one channel lies the same in both orders.
    assert _assign(graph, channels_last=True) == {
        "Conv0": NHWC,
        "Relu1": NHWC,
        "Conv2": "row_major",
        "MaxPool3": "row_major",
    }


def test_gpus_want_channels_last() -> None:
    graph, b, x = _image(1, 16, 6, 6)
    graph.outputs = [_conv(b, x, 16, 8, 3)]
    infer_graph(graph)
    AssignLayout().run(graph, PassContext(target=GPUS["sm_90"]))
    verify(graph)
    layouts = [str(node.output.tensor_type.layout) for node in graph.nodes if not node.is_op("Constant")]
    assert layouts == [NHWC, NHWC, "row_major"], "in, the convolution, out"


def test_pooled_images_of_one_pixel_and_their_convolutions_need_no_conversion() -> None:
    graph, b, x = _image(1, 3, 8, 8)
    y = _conv(b, x, 3, 16, 3)
    scale = b.op("Sigmoid", _conv(b, b.op("GlobalAveragePool", y), 16, 16, 1))
    graph.outputs = [b.op("GlobalMaxPool", b.op("Mul", y, scale))]
    found = _assign(graph, channels_last=True)
    assert found == {
        "Conv0": NHWC,
        "GlobalAveragePool1": "row_major",
        "Conv2": "row_major",
        "Sigmoid3": "row_major",
        "Mul4": NHWC,
        "GlobalMaxPool5": "row_major",
    }


def test_what_turns_channels_last_finds_them_there() -> None:
    graph, b, x = _image(1, 3, 8, 8)
    graph.outputs = [b.op("Transpose", _conv(b, x, 3, 16, 3), perm=(0, 2, 3, 1))]
    assert _assign(graph, channels_last=True) == {"Conv0": NHWC, "Transpose1": "row_major"}


def test_signals_and_integers_are_stored_channels_last_too() -> None:
    graph = Graph("g", [("x", TensorType(dtypes.UINT8, (1, 16, 9)))], opset=23)
    b = Builder(graph)
    weight = b.constant(RNG.integers(-9, 9, (8, 16, 3)).astype(np.int8))
    graph.outputs = [b.op("Cast", b.op("ConvInteger", graph.inputs[0], weight, pads=[1, 1]), to=1)]
    infer_graph(graph)
    AssignLayout(channels_last=True).run(graph, PassContext())
    verify(graph)
    layouts = [str(node.output.tensor_type.layout) for node in graph.nodes if not node.is_op("Constant")]
    assert layouts == [str(channels_last(3))] * 3 + ["row_major"]


def test_random_graphs_keep_their_meaning_with_channels_last() -> None:
    operators = ("Conv", "MaxPool", "GlobalAveragePool", "Relu", "Add", "Concat", "Transpose", "Pad", "Split")
    assert check_pass("layout{channels_last=true}", examples=200, operators=operators, max_nodes=12) > 0


def test_axes_that_are_turned_to_channels_last_and_back_are_views() -> None:
    graph, b, x = _image(2, 3, 8, 8)
    y = _conv(b, x, 3, 16, 3)
    tokens = b.op("LayerNormalization", b.op("Transpose", y, perm=(0, 2, 3, 1)), b.constant(np.ones(16, np.float32)))
    graph.outputs = [_conv(b, b.op("Add", b.op("Transpose", tokens, perm=(0, 3, 1, 2)), y), 16, 8, 3)]
    found = _assign(graph, channels_last=True)
    assert [name for name, layout in found.items() if layout == NHWC] == ["Conv0", "Transpose3", "Add4", "Conv5"]
    turned = [node for node in graph.nodes if node.is_op("Transpose")]
    assert all(is_view(node) for node in turned)
    plan = assign_buffers(graph)
    assert not set(turned) & set(plan.steps)
    assert plan.storage[turned[0].output] is plan.storage[y]


def test_axes_are_turned_as_written_where_nothing_reads_images() -> None:
    graph, b, x = _image(1, 4, 6, 5)
    y = b.op("Relu", b.op("Transpose", x, perm=(0, 3, 1, 2)))
    graph.outputs = [y, _conv(b, x, 4, 4, 3)]
    assert _assign(graph, channels_last=True)["Transpose0"] == "row_major"


def test_what_moves_or_reduces_images_takes_them_with_channels_last() -> None:
    graph, b, x = _image(1, 3, 8, 8)
    y = _conv(b, x, 3, 16, 3)
    half = b.op("Split", y, outputs=2, axis=1, num_outputs=2)
    assert half.producer is not None
    left, right = half.producer.outputs
    padded = b.op("Pad", b.op("LRN", left, size=3), b.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    mean = b.op("ReduceMean", right, b.constant(np.array([-1, -2])))
    deep = b.op("ReduceMean", right, b.constant(np.array([1])))
    graph.outputs = [b.op("Mul", padded, mean), deep]
    found = _assign(graph, channels_last=True)
    last = {name.rstrip("0123456789") for name, layout in found.items() if layout == NHWC}
    assert last == {"Conv", "Split", "LRN", "Pad", "Mul"}
    assert right.tensor_type.layout == channels_last(4)
    assert sum(name.startswith("Relayout") for name in found) == 2, "before the mean of channels, and at the end"


class _NoConvolutions:
    """A backend that leaves convolutions of fewer than six channels, and sums, to the host."""

    def supports(self, node: Node) -> Verdict:
        x = node.input(0)
        few = node.is_op("Conv") and x is not None and x.tensor_type.static_shape[1] < 6
        return refused("not here") if few or node.is_op("Add") else accepted()


@pytest.mark.parametrize("options", [{"block": 4}, {"channels_last": True}])
def test_the_host_is_given_what_is_row_major(options: dict[str, int]) -> None:
    graph, b, x = _image(1, 4, 6, 6)
    y = b.op("Relu", _conv(b, _conv(b, x, 4, 16, 3), 16, 16, 3))
    graph.outputs = [b.op("Relu", b.op("Add", y, y))]
    infer_graph(graph)
    AssignLayout(**options).run(graph, PassContext(capability=_NoConvolutions()))  # type: ignore[arg-type]
    verify(graph)
    for node in graph.nodes:
        if not _NoConvolutions().supports(node):
            assert all(v is None or v.tensor_type.layout.is_row_major for v in (*node.inputs, *node.outputs))
