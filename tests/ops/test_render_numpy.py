"""The NumPy renderer of tensor expressions against the semantics that graphc.ops.expr states and an interpreter."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ExecutionError, OptionError
from graphc.ir import Dim, dtypes, symbol
from graphc.ir.symbolic import evaluate, floordiv, maximum, minimum, mod
from graphc.ops import render_numpy
from graphc.ops.expr import (
    ArgReduce,
    Axis,
    Call,
    Cast,
    Const,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
    TensorExpr,
    axes_of,
    call,
    cast,
    compare,
    const,
    load,
    reduce,
    select,
)
from graphc.ops.render_numpy import erf, evaluate_expression, truncated_division

INT, FLOAT = dtypes.INT64, dtypes.FLOAT32


def interpret(expression: TensorExpr, inputs: list[Any]) -> Any:
    """One element at a time, in Python's integers: as plain as it gets."""

    def scalar(node: Scalar, env: dict[str, int]) -> Any:
        match node:
            case Const(value=value):
                return value
            case IndexValue(index=index):
                return evaluate(index, env)
            case Load(input=number, indices=indices):
                place = tuple(scalar(i, env) if isinstance(i, Scalar) else evaluate(i, env) for i in indices)
                assert all(0 <= i < e for i, e in zip(place, inputs[number].shape, strict=True))
                return inputs[number][place].item()
            case Select(condition=condition, then=then, otherwise=otherwise):
                return scalar(then if scalar(condition, env) else otherwise, env)
            case Cast(dtype=dtype, value=value):
                number = scalar(value, env)
                return (number + 128) % 256 - 128 if dtype == dtypes.INT8 else number
            case Call(op=op, arguments=arguments):
                return CALLS[op](*(scalar(argument, env) for argument in arguments))
            case Reduce(op=op, axes=axes, body=body):
                found = [scalar(body, env | bound) for bound in points(axes, env)]
                return {"sum": sum, "max": max, "min": min, "prod": math.prod}[op](found)
            case ArgReduce(axis=axis, body=body, last=last):
                found = [scalar(body, env | bound) for bound in points((axis,), env)]
                best = max(found) if node.op == "argmax" else min(found)
                return len(found) - 1 - found[::-1].index(best) if last else found.index(best)
        raise AssertionError(node)

    shape = [evaluate(axis.extent, {}) for axis in expression.axes]
    elements = [scalar(expression.body, env) for env in points(expression.axes, {})]
    return np.array(elements, expression.dtype.numpy).reshape(shape)


def points(axes: tuple[Axis, ...], env: dict[str, int]) -> Any:
    extents = [range(evaluate(axis.extent, env)) for axis in axes]
    for place in itertools.product(*extents):
        yield dict(zip((axis.name for axis in axes), place, strict=True))


CALLS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "max": max,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "and": lambda a, b: a and b,
    "neg": lambda a: -a,
    "abs": abs,
}


@st.composite
def indices(draw: st.DrawFn, names: list[Dim], extent: int) -> Dim:
    """A quasi-affine index that stays in `0..extent-1`, whatever the symbols are."""
    value: Dim = draw(st.integers(-3, 3))
    for name in names:
        value = value + draw(st.integers(-2, 2)) * name
    match draw(st.integers(0, 2)):
        case 0:
            return mod(value, extent)
        case 1:
            return minimum(maximum(floordiv(value, 2), 0), extent - 1)
        case _:
            return mod(maximum(value, -value), extent)


@st.composite
def scalars(draw: st.DrawFn, names: list[Dim], depth: int) -> Scalar:
    """A random int64 scalar over inputs of shapes (3, 4) and (5,)."""
    kind = draw(st.sampled_from(("load", "load", "const", "index") if depth == 0 else tuple(KINDS)))
    deeper = scalars(names, depth - 1) if depth else None
    match kind:
        case "const":
            return const(draw(st.integers(-5, 5)), INT)
        case "index":
            return IndexValue(INT, draw(indices(names, 7)))
        case "load":
            if draw(st.booleans()):
                return load(0, INT, [draw(indices(names, 3)), draw(indices(names, 4))])
            return load(1, INT, [draw(indices(names, 5))])
    assert deeper is not None
    match kind:
        case "gather":
            inside = call("min", call("max", draw(deeper), const(0, INT)), const(4, INT))
            return load(1, INT, [inside])
        case "call":
            op = draw(st.sampled_from(("add", "sub", "mul", "min", "max")))
            return call(op, draw(deeper), draw(deeper))
        case "guard":
            # Outside its tensor where the guard does not hold.
            index = names[0] - draw(st.integers(0, 3))
            return select(
                call("and", compare("ge", index, 0), compare("lt", index, 5)), load(1, INT, [index]), draw(deeper)
            )
        case "select":
            return select(call("lt", draw(deeper), draw(deeper)), draw(deeper), draw(deeper))
        case "cast":
            return cast(cast(draw(deeper), dtypes.INT8), INT) if draw(st.booleans()) else call("neg", draw(deeper))
        case "arg":
            (axis,) = axes_of([draw(st.integers(1, 3))], "r")
            body = draw(scalars([*names, axis.index], depth - 1))
            return ArgReduce(INT, draw(st.sampled_from(("argmax", "argmin"))), axis, body, draw(st.booleans()))
    axes = axes_of([draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, 2)))], "r")
    body = draw(scalars([*names, *(axis.index for axis in axes)], depth - 1))
    return reduce(draw(st.sampled_from(("sum", "max", "min"))), axes, body)


KINDS = ("load", "gather", "call", "guard", "select", "cast", "arg", "reduce")
INPUTS = [np.random.default_rng(0).integers(-9, 9, (3, 4)), np.random.default_rng(1).integers(-9, 9, (5,))]


@st.composite
def expressions(draw: st.DrawFn) -> TensorExpr:
    axes = axes_of([draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3)))])
    return TensorExpr(axes, draw(scalars([axis.index for axis in axes], draw(st.integers(0, 3)))))


@given(expressions(), st.sampled_from((3, 16, 1 << 21)))
@settings(max_examples=150)
def test_agrees_with_an_interpreter(expression: TensorExpr, block: int) -> None:
    before = render_numpy.BLOCK
    render_numpy.BLOCK = block
    try:
        found = evaluate_expression(expression, INPUTS)
    finally:
        render_numpy.BLOCK = before
    np.testing.assert_array_equal(found, interpret(expression, INPUTS))


def over(shape: tuple[int, ...], *arrays: Any) -> tuple[tuple[Axis, ...], list[Scalar]]:
    """Axes over `shape`, and the element of each array there."""
    axes = axes_of(shape)
    place = [axis.index for axis in axes]
    return axes, [load(i, dtypes.from_numpy(array.dtype), place) for i, array in enumerate(arrays)]


def apply(op: str, *arrays: Any) -> Any:
    axes, elements = over(arrays[0].shape, *arrays)
    return evaluate_expression(TensorExpr(axes, call(op, *elements)), list(arrays))


def test_integer_division_has_its_own_rules() -> None:
    left, right = np.array([7, -7, 7, -7, 5], np.int32), np.array([2, 2, -2, -2, 0], np.int32)
    np.testing.assert_array_equal(apply("div", left, right), [3, -3, -3, 3, 0])
    np.testing.assert_array_equal(apply("floordiv", left, right), [3, -4, -4, 3, 0])
    np.testing.assert_array_equal(apply("mod", left, right), [1, 1, -1, -1, 0])
    np.testing.assert_array_equal(apply("fmod", left, right), [1, -1, 1, -1, 0])


@given(st.lists(st.tuples(st.integers(-128, 127), st.integers(-128, 127)), min_size=1))
@settings(max_examples=30)
def test_truncated_division(pairs: list[tuple[int, int]]) -> None:
    left, right = (np.array(column, np.int8) for column in zip(*pairs, strict=True))
    with np.errstate(all="ignore"):
        found = truncated_division(left, right)
    exact = [0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) for a, b in pairs]
    np.testing.assert_array_equal(found, np.array(exact).astype(np.int8))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "int64", "uint64"])
def test_integers_wrap_around(kind: str) -> None:
    info = np.iinfo(kind)
    high, one = np.array([info.max], kind), np.array([1], kind)
    assert apply("add", high, one)[0] == info.min
    assert apply("mul", high, high)[0] == 1


def test_shifts_by_the_width_or_more() -> None:
    amounts = np.array([0, 1, 31, 32, 40], np.uint32)
    ones = np.full(5, 0xFFFFFFFF, np.uint32)
    np.testing.assert_array_equal(apply("shl", ones, amounts), [0xFFFFFFFF, 0xFFFFFFFE, 1 << 31, 0, 0])
    np.testing.assert_array_equal(apply("shr", ones, amounts), [0xFFFFFFFF, 0x7FFFFFFF, 1, 0, 0])
    np.testing.assert_array_equal(
        apply("shr", np.full(5, -8, np.int32), amounts.astype(np.int32)), [-8, -4, -1, -1, -1]
    )


def test_nan_in_comparisons_and_extremes() -> None:
    left, right = np.array([np.nan, 1, np.nan], np.float32), np.array([1, np.nan, np.nan], np.float32)
    for op in ("min", "max"):
        assert np.isnan(apply(op, left, right)).all()
    for op in ("eq", "lt", "le", "gt", "ge"):
        assert not apply(op, left, right).any()
    assert apply("ne", left, right).all()
    assert np.isnan(apply("sign", left)[0])


def test_rounding_is_half_to_even() -> None:
    np.testing.assert_array_equal(apply("round", np.array([0.5, 1.5, 2.5, -0.5, -1.5])), [0, 2, 2, 0, -2])
    np.testing.assert_array_equal(apply("round", np.array([3, -4])), [3, -4])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_floats_keep_the_wider_value_between_roundings(kind: str) -> None:
    dtype = dtypes.from_name(kind)
    big = np.array([1024.0 if kind == "float16" else 256.0], dtype.numpy)
    (axis,) = axes_of([1])
    x = load(0, dtype, [axis.index])
    small = const(0.25, dtype)
    summed = call("sub", call("add", x, small), x)
    assert evaluate_expression(TensorExpr((axis,), summed), [big])[0] == 0.25
    rounded = call("sub", cast(cast(call("add", cast(x, FLOAT), const(0.25, FLOAT)), dtype), FLOAT), cast(x, FLOAT))
    assert evaluate_expression(TensorExpr((axis,), rounded), [big])[0] == 0


def test_casts() -> None:
    axes, (x,) = over((4,), np.zeros(4, np.float32))
    data = [np.array([1.9, -1.9, 0.0, -0.4], np.float32)]
    np.testing.assert_array_equal(evaluate_expression(TensorExpr(axes, cast(x, dtypes.INT32)), data), [1, -1, 0, 0])
    np.testing.assert_array_equal(
        evaluate_expression(TensorExpr(axes, cast(call("gt", x, const(0, FLOAT)), FLOAT)), data), [1, 0, 0, 0]
    )


def test_reductions_of_nothing_give_the_identity() -> None:
    (outer,) = axes_of([2])
    for op, identity in (("sum", 0), ("prod", 1), ("max", -np.inf), ("min", np.inf)):
        (inner,) = axes_of([0], "r")
        body = reduce(op, (inner,), load(0, FLOAT, [outer.index, inner.index]))
        found = evaluate_expression(TensorExpr((outer,), body), [np.zeros((2, 0), np.float32)])
        np.testing.assert_array_equal(found, [identity] * 2)


def test_a_read_outside_is_an_error_unless_nobody_takes_it() -> None:
    (axis,) = axes_of([4])
    data = [np.arange(3, dtype=np.float32)]
    outside = load(0, FLOAT, [axis.index])
    with pytest.raises(ExecutionError, match="reads 3 of axis 0 with extent 3 of input 0"):
        evaluate_expression(TensorExpr((axis,), outside), data)
    guarded = select(compare("lt", axis.index, 3), outside, const(7, FLOAT))
    np.testing.assert_array_equal(evaluate_expression(TensorExpr((axis,), guarded), data), [0, 1, 2, 7])
    leaky = select(compare("lt", axis.index, 4), outside, const(7, FLOAT))
    with pytest.raises(ExecutionError):
        evaluate_expression(TensorExpr((axis,), leaky), data)


def test_guards_nest() -> None:
    (axis,) = axes_of([6])
    data = [np.arange(3, dtype=np.float32)]
    inner = select(compare("lt", axis.index, 4), load(0, FLOAT, [axis.index - 1]), const(9, FLOAT))
    body = select(compare("ge", axis.index, 1), inner, const(8, FLOAT))
    np.testing.assert_array_equal(evaluate_expression(TensorExpr((axis,), body), data), [8, 0, 1, 2, 9, 9])


def test_symbols_are_bound_or_an_error() -> None:
    n = symbol("n")
    (axis,) = axes_of([n])
    expression = TensorExpr((axis,), IndexValue(INT, n * axis.index))
    np.testing.assert_array_equal(evaluate_expression(expression, [], {"n": 3}), [0, 3, 6])
    with pytest.raises(OptionError, match="no value is bound for n"):
        evaluate_expression(expression, [])


def test_empty_and_rank_0_outputs() -> None:
    assert evaluate_expression(TensorExpr((), const(3, FLOAT)), []).shape == ()
    assert evaluate_expression(TensorExpr(axes_of([2, 0]), const(3, FLOAT)), []).shape == (2, 0)


def test_erf() -> None:
    x = np.linspace(-6, 6, 101)
    np.testing.assert_array_equal(erf(x), [math.erf(value) for value in x])
    assert erf(np.float32([[np.inf, -np.inf]])).tolist() == [[1.0, -1.0]]
