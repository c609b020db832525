"""Shapes that a model declares and only values tell: believed by nobody, whatever elements there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import graphc
from graphc.errors import ExecutionError, InputError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)


RESHAPE = "g (float[2,3] x, int64[2] s) => (float[2,3] y) <float[2,3] z> { z = Reshape(x, s) y = Neg(z) }"
EXPAND = """g (float[2,3] x, int64[2] s) => (float[2,3] y) <float[2,3] z> {
    r = ReduceMax<axes=[1]>(x) z = Expand(r, s) y = Neg(z) }"""
NAMED = "g (float[N,3] x, int64[2] s) => (float[N,3] y) <float[N,3] z> { z = Reshape(x, s) y = Neg(z) }"
BRANCHES = """g (float[2,3] x, bool s) => (float[2,3] y) <float[2,3] z> {
    z = If(s) <then_branch = t () => (float[2,3] a) { two=Constant<value = int64[2] {2,3}>() a = Reshape(x, two) },
               else_branch = e () => (float[3,2] b) { three=Constant<value = int64[2] {3,2}>() b = Reshape(x, three) }>
    y = Neg(z) }"""


@pytest.mark.parametrize("specializations", [0, 8])
@pytest.mark.parametrize(
    ("text", "fitting", "other"),
    [
        (RESHAPE, [2, 3], [3, 2]),
        (RESHAPE, [2, -1], [-1, 2]),
        (EXPAND, [2, 3], [1, 4]),
        (NAMED, [2, 3], [3, 2]),
        (BRANCHES, True, False),
    ],
)
def test_values_that_tell_another_shape_are_an_error(text: str, fitting: Any, other: Any, specializations: int) -> None:
    # Without specializations there is but the variant for any value.
    with graphc.compile(model(text), target="cpu", dims=None, specializations=specializations) as module:
        for _ in range(2):
            found = module({"x": X, "s": np.array(fitting)})["y"]
            np.testing.assert_array_equal(found, -X if text is not EXPAND else -X.max(1, keepdims=True).repeat(3, 1))
            with pytest.raises((InputError, ExecutionError), match="3"):
                module({"x": X, "s": np.array(other)})


def test_rows_that_no_iteration_makes() -> None:
    proto = model("""g (float[3] x) => (float[5,3] y) {
        n = Constant<value = int64 {5}>() c = Constant<value = bool {1}>()
        v, y = Loop(n, c, x) <body = b (int64 i, bool k, float[3] a) => (bool k2, float[3] a2, float[3] s) {
            two = Constant<value = int64 {2}>() k2 = Less(i, two) a2 = Add(a, a) s = Identity(a) }> }""")
    with (
        graphc.compile(proto, target="cpu") as module,
        pytest.raises(ExecutionError, match=r"expected float32\[5, 3\], the step made float32\[3, 3\]"),
    ):
        module({"x": X[0]})


def test_a_shape_that_data_tells_is_compared_where_it_is_made() -> None:
    proto = model("""g (float[2,3] x, float[100] data) => (float[2,3] y) <float[2,3] z> {
        n = Constant<value = int64[2] {2,98}>() a, b = Split<axis=0>(data, n) s = Cast<to=7>(a)
        z = Reshape(x, s) y = Neg(z) }""")
    ones = [1] * 98
    with graphc.compile(proto, target="cpu") as module:
        feeds = {"x": X, "data": np.array([2, 3, *ones], np.float32)}
        np.testing.assert_array_equal(module(feeds)["y"], -X)
        # The node itself runs on the host; what follows it is compiled.
        assert [step.op_type for step in module.variant_for(feeds).host_steps] == ["Reshape"]
        with pytest.raises(ExecutionError, match=r"Reshape.*made float32\[3, 2\].*'z'"):
            module({"x": X, "data": np.array([3, 2, *ones], np.float32)})


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("declared", ["", "[N]", "[N,4]", "[4]"])
def test_a_rank_that_only_an_extent_tells(opset: int, declared: str) -> None:
    """As of an old export for one row, whose batch is squeezed away where it is 1: what is declared is right or not."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
    text += f"g (float[N,4,1] x) => (float{declared} y) {{ z = Squeeze(x) y = Relu(z) }}"
    module = graphc.compile(parser.parse_model(text))
    # Whoever says that there are two axes has no use for one row.
    for rows in (3, 2) if declared == "[N,4]" else (1, 3, 2):
        x = np.random.default_rng(rows).standard_normal((rows, 4, 1)).astype(np.float32)
        np.testing.assert_array_equal(module({"x": x})["y"], np.maximum(np.squeeze(x), 0))
