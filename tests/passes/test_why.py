"""Why a rule did not apply."""

from __future__ import annotations

import pytest

from graphc.errors import OptionError
from graphc.ir import Graph
from graphc.ir.parser import parse_graph
from graphc.ops.inference import infer_graph
from graphc.passes import PassManager
from graphc.passes.why import Inquiry, find_rules, why

TEXT = """
graph @g(%x: float32[1x2x4x4], %s: float32[2]) opset 23 {
  %w = constant float32[2x2x1x1]<1.0, 2.0, 3.0, 4.0>
  %one = constant float32[2]<1.0, 1.0>
  %c = Conv(%x, %w) as "conv1"
  %y = BatchNormalization(%c, %s, %one, %one, %one) as "bn1"
  %d = Conv(%x, %w) as "conv2"
  %z = BatchNormalization(%d, %one, %one, %one, %one) as "bn2"
  return %y, %z, %d
}
"""


@pytest.fixture
def graph() -> Graph:
    found = parse_graph(TEXT)
    infer_graph(found, strict=True)
    return found


def test_every_node_at_which_a_rule_could_start_gets_an_answer(graph: Graph) -> None:
    before = str(graph)
    found = {answer.place.origins: answer for answer in why(graph, "batch_norm_into_weights")}
    reasons = {origins: (answer.verdict, answer.reason) for origins, answer in found.items()}
    assert reasons == {
        ("bn1",): ("unmatched", "%s is not a constant"),
        ("bn2",): ("unmatched", "%d is an output of graph g"),
    }
    assert [place.origins for place in found["bn1",].others] == [("conv1",)], "the nodes that were matched"
    assert found["bn1",].bound["w"] == "%w: constant float32[2x2x1x1]"
    assert str(graph) == before


@pytest.mark.parametrize("node", ["bn1", "y"])
def test_a_node_is_found_by_name_origin_and_output(graph: Graph, node: str) -> None:
    (answer,) = why(graph, "batch_norm_into_weights", node)
    assert answer.place.origins == ("bn1",) and answer.subject == "batch_norm_into_weights"


def test_a_node_behind_the_root_is_found_too(graph: Graph) -> None:
    (answer,) = why(graph, "batch_norm_into_weights", "conv1")
    assert answer.place.origins == ("bn1",)


def test_where_it_applies_there_is_no_reason(graph: Graph) -> None:
    (answer,) = why(graph, "batch_norm_to_affine", "bn2")
    assert answer.verdict == "applied" and not answer.reason


def test_a_node_of_another_operator_is_told_so(graph: Graph) -> None:
    (answer,) = why(graph, "transpose_of_transpose", "conv1")
    assert answer.verdict == "unmatched" and answer.reason == "it starts at Transpose, not at Conv"


def test_a_whole_set_and_a_pass_that_is_no_set_can_be_asked(graph: Graph) -> None:
    assert {answer.subject for answer in why(graph, "fold_batch_norm", "bn2")} >= {
        "batch_norm_into_weights",
        "batch_norm_to_affine",
    }
    assert len(find_rules("simplify")) > 20
    assert why(graph, "fold") == []
    big = parse_graph(
        "graph @b() opset 23 {\n  %one = constant float32[]<1.0>\n  %n = constant int64[2]<100000, 100000>\n"
        '  %y = Expand(%one, %n) as "grow"\n  return %y\n}'
    )
    infer_graph(big)
    (answer,) = why(big, "fold", "grow")
    assert answer.verdict == "refused" and "its result would be 40000000000 bytes" in answer.reason


def test_unknown_names_are_answered_with_near_ones(graph: Graph) -> None:
    with pytest.raises(OptionError, match="unknown rule or pass 'batch_norm_into_weight'; did you mean 'batch_norm_in"):
        why(graph, "batch_norm_into_weight")
    with pytest.raises(OptionError, match=r"no node is called 'bn3'; did you mean 'bn[12]'"):
        why(graph, "fold_batch_norm", "bn3")


def test_a_pass_that_explains_itself_is_asked_before_it_runs(graph: Graph) -> None:
    told = {answer.place.origins: answer for answer in why(graph, "layout")}
    assert told["conv1",].verdict == "refused"
    assert told["conv1",].reason == "row-major: 2 channels fill less than half of a block of 16"


def test_in_a_pipeline_a_rule_is_asked_about_what_its_pass_left(graph: Graph) -> None:
    inquiry = Inquiry("batch_norm_to_affine")
    PassManager("fold,fold_batch_norm,simplify", observers=[inquiry]).run(graph)
    assert inquiry.runs == 1
    applied, open_ = inquiry.answers
    assert applied.verdict == "applied" and applied.place.origins == ("bn2",)
    assert open_.verdict == "unmatched" and open_.reason == "%s is not a constant"
    assert [(name, each.action) for name, each in inquiry.fate("bn2")] == [("fold_batch_norm", "batch_norm_to_affine")]
    assert inquiry.fate("conv1") == []


def test_of_other_passes_it_tells_what_they_announced() -> None:
    graph = parse_graph(
        """graph @g(%x: float32[2]) opset 23 {
  %a = Exp(%x) as "left"
  %b = Exp(%x) as "right"
  %y = Add(%a, %b) as "sum"
  return %y
}"""
    )
    infer_graph(graph)
    (answer,) = why(graph, "cse")
    assert (answer.verdict, answer.place.origins) == ("applied", ("right",))
