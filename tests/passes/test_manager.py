"""The manager: verification, reports, prints, failures that can be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from graphc.errors import PassError, TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ir.parser import parse_graph
from graphc.ops.inference import infer_node
from graphc.passes import ALL, PassContext, PassManager, PassObserver, PassRun, run_passes
from graphc.passes.base import Pass


def small_graph() -> Graph:
    graph = Graph("small", [("x", TensorType(dtypes.FLOAT32, (2,)))], opset=23)
    b = Builder(graph, infer=infer_node)
    zero = b.constant(np.float32(0))
    graph.outputs = [b.op("Exp", b.op("Add", b.op("Neg", b.op("Neg", graph.inputs[0])), zero))]
    return graph


@dataclass(frozen=True)
class Breaking:
    """Takes a producer away from its readers. Before: anything. After: broken."""

    name: ClassVar[str] = "breaking"

    def run(self, graph: Graph, context: PassContext) -> int:
        next(graph.nodes).outputs[0].name = graph.inputs[0].name
        return 1


@dataclass(frozen=True)
class Failing:
    """Raises. Before: anything. After: nothing."""

    name: ClassVar[str] = "failing"
    how: str = "bug"

    def run(self, graph: Graph, context: PassContext) -> int:
        if self.how == "typed":
            raise TypeInferenceError("no such axis", nodes=["conv1"])
        raise KeyError("missing")


def test_the_report_counts_what_each_pass_and_rule_did() -> None:
    report = run_passes(small_graph(), "dce,simplify")
    assert [(run.name, run.changes) for run in report.runs] == [("dce", 0), ("simplify", 2)]
    simplify = report.runs[1]
    assert simplify.rewrites == {"involution": 1, "neutral_element": 1}
    assert (simplify.nodes_before, simplify.nodes_after) == (5, 1)
    assert simplify.seconds > 0
    assert report.changes == 2
    assert "1 × involution" in str(report)


def test_refusals_are_reported_with_reason_rule_and_node() -> None:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2,)))], opset=23)
    graph.outputs = [
        Builder(graph, infer=infer_node).op("Neg", Builder(graph, infer=infer_node).op("Neg", graph.inputs[0]))
    ]
    (refusal,) = run_passes(graph, "simplify").refusals
    assert refusal.rule == "involution"
    assert str(refusal) == (
        "involution refused at %neg_1 = Neg(%neg): %neg_1 is a graph output, which cannot be an input"
    )


def test_a_broken_invariant_is_blamed_on_the_pass_that_broke_it() -> None:
    with pytest.raises(PassError) as caught:
        PassManager([*PassManager("dce,cse").pipeline, Breaking()]).run(small_graph())
    assert "pass breaking (after dce,cse): " in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message", "nodes"), [("bug", "KeyError: 'missing'", ()), ("typed", "no such axis", ("conv1",))]
)
def test_a_failure_is_chained_and_can_be_repeated(how: str, message: str, nodes: tuple[str, ...]) -> None:
    graph = small_graph()
    with pytest.raises(PassError) as caught:
        PassManager([*PassManager("simplify{only=involution}").pipeline, Failing(how)]).run(graph)
    error = caught.value
    assert message in error.message and error.nodes == nodes
    assert error.__cause__ is not None and type(error.__cause__).__name__ in ("KeyError", "TypeInferenceError")
    first, _, text = error.reproducer.partition("\n")
    assert first.startswith("// passes: failing")
    again = parse_graph(text)
    assert [node.op_type for node in again.nodes] == ["Constant", "Add", "Exp"], "the graph that the pass was given"


def test_interrupts_pass_through() -> None:
    @dataclass(frozen=True)
    class Interrupted:
        """Is interrupted. Before: anything. After: nothing."""

        name: ClassVar[str] = "interrupted"

        def run(self, graph: Graph, context: PassContext) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PassManager([Interrupted()]).run(small_graph())


@pytest.mark.parametrize(
    ("options", "headings"),
    [
        ({"print_before": ("simplify",)}, ["// before simplify"]),
        ({"print_after": ("dce", "simplify")}, ["// after dce", "// after simplify"]),
        ({"print_on_change": True}, ["// after simplify"]),
        (
            {"print_before": ALL, "print_after": ALL},
            ["// before dce", "// after dce", "// before simplify", "// after simplify"],
        ),
    ],
)
def test_graphs_are_printed_when_asked_for(options: dict[str, object], headings: list[str]) -> None:
    printed: list[str] = []
    PassManager("dce,simplify", write=printed.append, **options).run(small_graph())  # type: ignore[arg-type]
    assert [text.splitlines()[0] for text in printed] == headings
    assert all("graph @small" in text for text in printed)


def test_verification_can_be_turned_off() -> None:
    graph = small_graph()
    PassManager([Breaking()], verify=False).run(graph)
    with pytest.raises(PassError):
        PassManager([Breaking()], verify=True).run(small_graph())


def test_an_observer_sees_the_graph_before_and_after_every_pass() -> None:
    seen: list[tuple[str, int]] = []

    class Counting(PassObserver):
        def before_pass(self, pass_: Pass, graph: Graph, context: PassContext) -> None:
            seen.append((f"before {pass_.name}", len(graph)))

        def after_pass(self, pass_: Pass, graph: Graph, context: PassContext, run: PassRun) -> None:
            assert run.applications == tuple(context.history[-len(run.applications) :])
            seen.append((f"after {run.name}", len(graph)))

    graph = small_graph()
    nodes = len(graph)
    PassManager("dce,simplify", observers=[Counting(), PassObserver()]).run(graph)
    assert seen == [("before dce", nodes), ("after dce", 5), ("before simplify", 5), ("after simplify", 1)]


def test_the_report_has_every_application_in_order_with_the_users_names() -> None:
    graph = small_graph()
    for node in graph.nodes:
        node.origins = (f"onnx_{node.op_type}",)
    report = PassManager("dce,simplify").run(graph)
    dce, simplify = report.runs
    assert not dce.applications
    assert [application.action for application in simplify.applications] == ["involution", "neutral_element"]
    assert [application.origins for application in simplify.applications] == [("onnx_Neg",), ("onnx_Add",)]
    assert simplify.rewrites == {"involution": 1, "neutral_element": 1}


def test_a_pass_object_fulfils_the_protocol() -> None:
    assert all(isinstance(pass_, Pass) for pass_ in PassManager("fold,dce,simplify").pipeline)
