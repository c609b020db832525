"""Fourier transforms and windows against ONNX Runtime; types with symbolic lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ops.inference import infer_node
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats, seeds


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data(), st.booleans(), st.booleans(), seeds)
@settings(max_examples=50)
def test_dft(shape: list[int], data: st.DataObject, inverse: bool, pairs: bool, seed: int) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    length = data.draw(st.none() | st.integers(1, 8))
    onesided = not inverse and not pairs and data.draw(st.booleans())
    x = floats(seed, *shape, 2 if pairs else 1)
    inputs = [x, None if length is None else np.array(length), np.array(axis)]
    subject = case("DFT", inputs, inverse=int(inverse), onesided=int(onesided), constants=[1, 2])
    check(subject, Case.reference, rtol=1e-4, atol=1e-4, expression=False)


def test_a_one_sided_spectrum_turns_back_into_its_signal() -> None:
    x = floats(0, 2, 8, 1)
    axis = np.array(1)
    half = case("DFT", [x, None, axis], onesided=1).evaluate()[0]
    back = case("DFT", [half, None, axis], onesided=1, inverse=1, constants=[2])
    check(back, [x], expression=False)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
@given(st.integers(2, 6), st.integers(1, 4), seeds)
@settings(max_examples=10)
def test_stft(onesided: int, windowed: bool, size: int, step: int, seed: int) -> None:
    signal = floats(seed, 2, 16, 1)
    window = np.hanning(size).astype(np.float32) if windowed else None
    inputs: list[Any] = [signal, np.array(step), window, np.array(size)]
    subject = case("STFT", inputs, onesided=onesided, constants=[1, 3], version=17)
    check(subject, rtol=1e-4, atol=1e-4, expression=False)


@pytest.mark.parametrize("op_type", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op_type: str, periodic: int) -> None:
    subject = case(op_type, [np.array(9)], periodic=periodic, constants=[0])
    # ONNX Runtime's Hamming coefficients are rounded to 0.54 and 0.46 in some versions.
    check(subject, Case.reference, rtol=1e-4, atol=1e-5, expression=False)


def test_mel_filters() -> None:
    numbers = [np.array(n) for n in (8, 64, 16000)]
    edges = [np.array(e, np.float32) for e in (100, 7000)]
    check(case("MelWeightMatrix", [*numbers, *edges], constants=[0, 1, 2]), expression=False, rtol=1e-4)


def test_symbolic_lengths() -> None:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (symbol("n"), symbol("t"), 1)))], opset=20)
    builder = Builder(graph)
    made = builder.op("DFT", graph.inputs[0], None, builder.constant(np.int64(1)), onesided=1).producer
    assert made is not None
    n, t = symbol("n"), symbol("t")
    assert infer_node(made) == [TensorType(dtypes.FLOAT32, (n, t // 2 + 1, 2))]
    framed = builder.op("STFT", graph.inputs[0], *(builder.constant(np.int64(k)) for k in (4,)), None,
                        builder.constant(np.int64(16))).producer  # fmt: skip
    assert framed is not None
    assert infer_node(framed) == [TensorType(dtypes.FLOAT32, (n, (t - 16) // 4 + 1, 9, 2))]


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(TypeInferenceError, match="axis 2"):
        case("DFT", [floats(0, 2, 3, 1), None, np.array(2)], constants=[2]).infer()
    with pytest.raises(TypeInferenceError, match="neither a window"):
        case("STFT", [floats(0, 2, 8, 1), np.array(2)], constants=[1]).infer()
