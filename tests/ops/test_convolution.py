"""Convolutions against ONNX Runtime on random geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ir.symbolic import substitute
from graphc.ops.inference import infer_node
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats, integers, seeds


@st.composite
def geometries(draw: st.DrawFn, *, transposed: bool = False) -> dict[str, Any]:
    """Shapes of input and weights and the attributes of a convolution that fits them."""
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from((1, 1, 2, 3)))
    inner, outer = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {
        "strides": [draw(st.integers(1, 3)) for _ in range(rank)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(rank)],
        "group": group,
    }
    auto = draw(st.sampled_from(("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")))
    pads = [0] * (2 * rank)
    if auto == "NOTSET":
        pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
        attributes["pads"] = pads
    else:
        attributes["auto_pad"] = auto
    spatial = [draw(st.integers(1, 7)) for _ in range(rank)]
    for axis in range(rank):
        reach = attributes["dilations"][axis] * (kernel[axis] - 1) + 1
        if transposed:
            full = attributes["strides"][axis] * (spatial[axis] - 1) + reach
            assume(full - pads[axis] - pads[rank + axis] > 0)
            # ONNX Runtime leaves the wanted extent where it would have to pad by less than nothing.
            assume(not auto.startswith("SAME") or attributes["strides"][axis] <= reach)
        else:
            assume(spatial[axis] + pads[axis] + pads[rank + axis] >= reach)
    batch = draw(st.integers(1, 2))
    weights = [group * inner, outer, *kernel] if transposed else [group * outer, inner, *kernel]
    return {
        "x": [batch, group * inner, *spatial],
        "w": weights,
        "channels": group * outer,
        "bias": draw(st.booleans()),
        "attributes": attributes,
    }


@given(geometries(), seeds)
@settings(max_examples=80)
def test_conv(geometry: dict[str, Any], seed: int) -> None:
    arrays = [floats(seed, *geometry["x"]), floats(seed + 1, *geometry["w"])]
    if geometry["bias"]:
        arrays.append(floats(seed + 2, geometry["channels"]))
    attributes = geometry["attributes"]
    # ONNX Runtime refuses auto_pad together with dilations for some ranks; the geometry is the same without.
    if attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        attributes["dilations"] = [1] * len(attributes["dilations"])
    check(case("Conv", arrays, **attributes), rtol=1e-4, atol=1e-4)


@given(geometries(transposed=True), seeds, st.booleans())
@settings(max_examples=80)
def test_conv_transpose(geometry: dict[str, Any], seed: int, more: bool) -> None:
    arrays = [floats(seed, *geometry["x"]), floats(seed + 1, *geometry["w"])]
    if geometry["bias"]:
        arrays.append(floats(seed + 2, geometry["channels"]))
    attributes = geometry["attributes"]
    if more:
        attributes["output_padding"] = [min(1, stride - 1) for stride in attributes["strides"]]
    check(case("ConvTranspose", arrays, **attributes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("auto", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_conv_transpose_of_a_wanted_shape(auto: str) -> None:
    arrays = [floats(0, 1, 2, 4, 5), floats(1, 2, 3, 3, 4)]
    check(case("ConvTranspose", arrays, strides=[2, 3], output_shape=[8, 14], auto_pad=auto), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conv_of_narrow_floats_accumulates_wide(dtype: str) -> None:
    kind = dtypes.from_name(dtype).numpy
    x, w = floats(0, 1, 64, 5, 5), floats(1, 4, 64, 3, 3)
    narrow = [x.astype(kind), w.astype(kind)]
    wide = case("Conv", [a.astype(np.float32) for a in narrow]).evaluate()[0].astype(kind)
    check(case("Conv", narrow), [wide], rtol=2e-2, atol=2e-2)


@given(geometries(), seeds, st.sampled_from(["none", "scalar", "channel"]))
@settings(max_examples=40)
def test_conv_integer(geometry: dict[str, Any], seed: int, zero: str) -> None:
    arrays = [integers(seed, *geometry["x"], dtype=np.uint8), integers(seed + 1, *geometry["w"], dtype=np.uint8)]
    if zero != "none":
        shape = () if zero == "scalar" else (geometry["channels"],)
        arrays += [integers(seed, dtype=np.uint8), integers(seed, *shape, dtype=np.uint8)]
    attributes = geometry["attributes"]
    x, w = arrays[0].astype(np.float64), arrays[1].astype(np.float64)
    if zero != "none":
        x = x - arrays[2]
        w = w - arrays[3].reshape(-1, *(1,) * (w.ndim - 1))
    expected = case("Conv", [x, w], **attributes).evaluate()[0].astype(np.int32)
    check(case("ConvInteger", arrays, **attributes), [expected])


@pytest.mark.parametrize("auto", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@given(st.integers(6, 40), st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=15)
def test_symbolic_extents_agree_with_numbers(auto: str, extent: int, stride: int, taps: int, pad: int) -> None:
    attributes: dict[str, Any] = {"strides": [stride], "auto_pad": auto}
    if auto == "NOTSET":
        attributes["pads"] = [pad, 0]

    def shape(length: Any) -> Any:
        graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (symbol("n"), 3, length)))], opset=22)
        graph.add_input("w", TensorType(dtypes.FLOAT32, (8, 3, taps)))
        made = Builder(graph).op("Conv", *graph.inputs, **attributes).producer
        assert made is not None
        (kind,) = infer_node(made)
        assert isinstance(kind, TensorType)
        return kind.dims

    symbolic, static = shape(symbol("t")), shape(extent)
    assert symbolic[:2] == static[:2] == (symbol("n"), 8)
    assert substitute(symbolic[2], {"t": extent}) == static[2]


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("Conv", [floats(0, 1, 3, 8, 8), floats(0, 4, 2, 3, 3)]), "3 channels"),
        (case("Conv", [floats(0, 1, 3, 2, 2), floats(0, 4, 3, 3, 3)]), "does not fit"),
        (case("Conv", [floats(0, 1, 3, 8, 8), floats(0, 4, 3, 3)]), "equal rank"),
        (case("Conv", [floats(0, 1, 3, 8, 8), floats(0, 4, 3, 3, 3)], strides=[0, 1]), "strides"),
        (case("Conv", [floats(0, 1, 3, 8, 8), floats(0, 4, 3, 3, 3)], pads=[1, 1]), "pads"),
        (case("Conv", [floats(0, 1, 3, 8, 8), floats(0, 4, 3, 3, 3)], kernel_shape=[5, 5]), "contradicts"),
        (case("Conv", [floats(0, 1, 4, 8, 8), floats(0, 3, 2, 3, 3)], group=2), "3 output channels"),
        (case("Conv", [floats(0, 1, 3, 8, 8), floats(0, 4, 3, 3, 3)], auto_pad="BOTH"), "auto_pad"),
        (case("ConvTranspose", [floats(0, 1, 3, 8, 8), floats(0, 4, 3, 3, 3)]), "3 channels"),
        (case("ConvTranspose", [floats(0, 1, 3, 1, 1), floats(0, 3, 3, 1, 1)], pads=[1, 1, 1, 1]), "leave an output"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_node(subject: Case, text: str) -> None:
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=text) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)
