"""Every pass and the whole graph-level pipelines on random graphs, verified and compared after each pass."""

from __future__ import annotations

import pytest

from graphc.ir import Graph
from graphc.passes import PASSES, PassContext, run_passes
from graphc.testing import DifferenceError, check_pass, seeded_graph
from graphc.testing.oracle import calm_inputs, compare_arrays, graph_tolerance

PIPELINE = "fold,dce,cse,simplify,raise,simplify,fold,fold_batch_norm,simplify,cse,dce"

WINDOWS = ("Conv", "ConvTranspose", "BatchNormalization", "Mul", "Add", "Div", "Sub", "Relu", "Pad", "MatMul", "Gemm")
MOVEMENTS = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "Expand", "Cast")


@pytest.mark.parametrize("name", ["fold", "dce", "cse", "simplify", "raise", "fold_batch_norm"])
def test_pass_keeps_the_meaning(name: str) -> None:
    operators = {"raise": ("Softmax", "Log"), "fold_batch_norm": ("Conv", "Mul", "BatchNormalization")}
    assert check_pass(name, examples=80, operators=operators.get(name, ())) > 0


@pytest.mark.parametrize("operators", [WINDOWS, MOVEMENTS], ids=["windows", "movements"])
def test_pipeline_keeps_the_meaning(operators: tuple[str, ...]) -> None:
    assert check_pass(PIPELINE, examples=60, operators=operators) > 0


def test_merged_products_keep_the_meaning() -> None:
    assert check_pass("merge_matmuls,dce", examples=150, max_nodes=16, operators=("MatMul", "Add", "Relu")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("operators", [(), WINDOWS, MOVEMENTS], ids=["all", "windows", "movements"])
def test_pipeline_on_many_graphs(operators: tuple[str, ...]) -> None:
    assert check_pass(PIPELINE, examples=800, max_nodes=16, operators=operators, seed=None) > 0


def test_onnxruntime_agrees_before_and_after() -> None:
    pytest.importorskip("onnxruntime")
    from graphc.errors import UnsupportedError
    from graphc.testing import run_onnxruntime

    compared = 0
    for seed in range(40):
        graph = seeded_graph(seed)
        inputs = calm_inputs(graph, 0)
        if inputs is None:
            continue
        after = graph.clone()
        run_passes(after, PIPELINE)
        try:
            expected, found = run_onnxruntime(graph, inputs), run_onnxruntime(after, inputs)
        except UnsupportedError:
            continue
        for value, wanted, got in zip(graph.outputs, expected, found, strict=True):
            compare_arrays(f"seed {seed}, %{value.name} of\n{after}\n", wanted, got, graph_tolerance(graph))
        compared += 1
    assert compared > 30


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_on_rewrites_holds_over_all_passes(limit: int) -> None:
    stopped = 0
    for seed in range(20):
        graph = seeded_graph(seed)
        unlimited, limited = PassContext(), PassContext(limit=limit)
        run_passes(graph.clone(), PIPELINE, unlimited)
        run_passes(graph, PIPELINE, limited)
        assert limited.applied == min(limit, unlimited.applied)
        stopped += unlimited.applied > limit
    assert stopped > 3


def test_passes_are_idempotent() -> None:
    for seed in range(30):
        graph = seeded_graph(seed)
        run_passes(graph, PIPELINE + "," + PIPELINE)
        assert run_passes(graph, "dce,cse,simplify,fold_batch_norm").changes == 0, graph


def test_a_wrong_pass_is_found_and_shown_small() -> None:
    class Wrong:
        """Takes every Relu for an identity."""

        name = "wrong"

        def run(self, graph: Graph, context: PassContext) -> int:
            relus = [node for node in graph.nodes if node.is_op("Relu") and not node.output.is_graph_output]
            for node in relus:
                source = node.input(0)
                assert source is not None
                node.output.replace_all_uses(source)
            return len(relus)

    with pytest.raises(DifferenceError) as caught:
        check_pass(Wrong(), examples=400, operators=("Relu", "Add", "Mul", "Tanh", "Transpose"))
    before = str(caught.value).partition("before:")[2].partition("after:")[0]
    assert before.count(" = ") - before.count("constant") <= 5, "the graph shown is small"


def test_every_pass_says_what_it_does() -> None:
    own = [cls for cls in PASSES.values() if cls.__module__.startswith("graphc.")]  # other tests register plugins
    assert len(own) > 20
    for cls in own:
        text = cls.__doc__ or ""
        assert "Before:" in text and "After:" in text, f"{cls.__name__} states no contract"
