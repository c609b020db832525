"""Every choice that a template offers computes the same, and what is no choice is not taken for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphc.backends.tuning import Choice, Tuned, TuningDatabase, region_key
from graphc.backends.tvm import conv, depthwise, gemm, winograd
from graphc.backends.tvm.backend import TvmBackend
from graphc.backends.tvm.choices import accepts, alternatives, shipped
from graphc.ir import Graph, dtypes
from graphc.target import CPUS, Target
from tests.backends.bodies import body
from tests.backends.tvm.conv_cases import ConvCase
from tests.backends.tvm.harness import HOST, TARGETS, check

SAME = (1, 1, 1, 1)
CONVOLUTIONS = {
    "3x3": ConvCase((1, 32, 9, 10), 72, pads=SAME, residual=True),
    "1x1, several images": ConvCase((3, 24, 5, 7), 40, (1, 1)),
    "stride 2": ConvCase((1, 16, 11, 11), 48, stride=2, pads=SAME),
    "groups": ConvCase((1, 64, 7, 7), 64, pads=SAME, group=2),
}
LOWER = {"conv": conv.lower, "winograd": winograd.lower}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_every_choice_of_a_convolution_is_right(case: ConvCase, target: Target) -> None:
    graph, _ = case.region(target)
    found = alternatives(graph, target, frozenset({1, 2}), {})
    assert {choice["template"] for choice in found} == ({"conv", "winograd"} if case.group == case.stride == 1
                                                        and case.kernel == (3, 3) else {"conv"})  # fmt: skip
    for choice in found:
        replace(case, options=choice).check(LOWER[choice["template"]], target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_choice_of_a_depthwise_convolution_is_right(target: Target) -> None:
    case = ConvCase((1, 40, 9, 9), 40, pads=SAME, group=40)
    graph, _ = case.region(target)
    found = alternatives(graph, target, frozenset({1, 2}), {})
    assert len(found) >= 3 and all(choice["template"] == "depthwise" for choice in found)
    for choice in found:
        replace(case, options=choice).check(depthwise.lower, target)


def product(rows: int, depth: int, columns: int) -> tuple[Graph, list[Any]]:
    rng = np.random.default_rng([rows, depth, columns])
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((rows, depth), (depth, columns))]
    return body(arrays, lambda b, x, w: b.op("Relu", b.op("MatMul", x, w))), arrays


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_choice_of_a_product_is_right(target: Target) -> None:
    graph, arrays = product(13, 40, 150)
    found = alternatives(graph, target, frozenset({1}), {})
    assert len({choice["tile"][1] for choice in found}) == len(found) >= 3, "one of each width"
    for choice in found:
        check(graph, arrays, lambda g, t, choice=choice: gemm.lower(g, t, frozenset({1}), choice), target)


def test_without_winograd_it_is_no_alternative() -> None:
    graph, _ = CONVOLUTIONS["3x3"].region(HOST)
    found = alternatives(graph, HOST, frozenset({1, 2}), {"winograd": False})
    assert {choice["template"] for choice in found} == {"conv"}


def test_what_has_nothing_to_choose_has_no_alternatives() -> None:
    graph = body([np.zeros((3, 5), np.float32)], lambda b, x: b.op("Relu", x))
    assert alternatives(graph, HOST, frozenset(), {}) == []


@pytest.mark.parametrize(
    ("choice", "good"),
    [
        ({"template": "conv", "conv_tile": [1, 7, 3]}, True),
        ({"template": "conv", "conv_tile": [1, 7, 3], "conv_order": "rows"}, True),
        ({"template": "winograd", "winograd_size": 4, "winograd_order": "tiles"}, True),
        ({"tile": [6, 4]}, True),
        ({}, True),
        ({"template": "convolution"}, False),
        ({"conv_tile": [1, 7]}, False),
        ({"conv_tile": [1, 7, 0]}, False),
        ({"conv_tile": [1, 7, True]}, False),
        ({"conv_tile": "1x7x3"}, False),
        ({"tile": [1, 1 << 40]}, False),
        ({"winograd_size": 6}, False),
        ({"winograd_size": [4]}, False),
        ({"conv_order": ["rows"]}, False),
        ({"template": ["conv"]}, False),
        ({"unroll": 2}, False),
    ],
)
def test_choices_are_checked(choice: Choice, good: bool) -> None:
    assert accepts(choice) is good


def test_a_backend_takes_what_was_measured() -> None:
    graph, _ = product(64, 64, 256)
    (node,) = [node for node in graph.nodes if node.is_op("MatMul")]
    weights = np.ones((64, 256), np.float32)
    plain = body([np.zeros((64, 64), np.float32)], lambda b, x: b.op("MatMul", x, b.constant(weights)))
    (node,) = [node for node in plain.nodes if node.is_op("MatMul")]
    backend = TvmBackend()
    key, choices = backend.alternatives(node, HOST, {})
    default = backend.lower(node, HOST, {})
    other = next(choice for choice in choices if backend.lower(node, HOST, dict(choice)).key != default.key)
    tuned = backend.lower(node, HOST, {"tuned": TuningDatabase({key: Tuned("product", other, 1.5)})})
    assert tuned.key == backend.lower(node, HOST, dict(other)).key != default.key
    assert tuned.schedule["tuned"] == "1.50x"
    # What no template takes any more leaves the cost model's choice.
    stale = TuningDatabase({key: Tuned("product", {"template": "depthwise", "depthwise_tile": [1, 1]}, 2.0)})
    assert backend.lower(node, HOST, {"tuned": stale}).key == default.key


def test_keys_tell_machines_and_constants_apart() -> None:
    graph, _ = product(8, 8, 8)
    again, _ = product(8, 8, 8)
    key = region_key(graph, frozenset({1}), HOST)
    assert region_key(again, frozenset({1}), HOST) == key
    others = [
        region_key(graph, frozenset(), HOST),
        region_key(graph, frozenset({1}), replace(HOST, cores=HOST.cores + 1)),
        region_key(graph, frozenset({1}), next(t for t in CPUS.values() if t.isa != HOST.isa)),
        region_key(product(8, 8, 9)[0], frozenset({1}), HOST),
    ]
    assert len({key, *others}) == 5
    assert graph.inputs[0].tensor_type.dtype == dtypes.FLOAT32


@pytest.mark.parametrize("isa", sorted(target.isa for target in CPUS.values()))
def test_what_ships_is_understood(isa: str) -> None:
    for row in shipped(isa).values():
        assert accepts(row.choice) and row.gain >= 1 and row.what
