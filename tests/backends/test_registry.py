"""Backends are known by name, those of plugins too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx.parser
import pytest

import graphc
from graphc.backends import base
from graphc.backends.base import backend_names, make_backend, register_backend
from graphc.backends.reference import ReferenceBackend
from graphc.errors import OptionError

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
small (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    known = dict(base._BACKENDS)
    monkeypatch.setattr(base, "_BACKENDS", known)
    yield known


def test_a_registered_backend_is_compiled_with(registry: dict[str, object]) -> None:
    asked: list[str] = []

    @register_backend
    class Asking(ReferenceBackend):
        name = "asking"

        def supports(self, node, target):  # type: ignore[no-untyped-def]
            asked.append(node.op_type)
            return super().supports(node, target)

    assert register_backend(Asking) is Asking, "the same class may come twice"
    assert "asking" in backend_names() and isinstance(make_backend("asking"), Asking)
    run = graphc.compile(onnx.parser.parse_model(MODEL), backend="asking")
    x = np.array([[-1, 2, -3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(run([x])["y"], np.maximum(x, 0))
    assert "Relu" in asked


def test_names_are_told_apart(registry: dict[str, object]) -> None:
    class Other(ReferenceBackend):
        name = "reference"

    with pytest.raises(OptionError, match="a backend is called 'reference' already"):
        register_backend(Other)
    Other.name = ""
    with pytest.raises(OptionError, match="has no name"):
        register_backend(Other)
    with pytest.raises(OptionError, match="unknown backend 'mine'; known: tvm, triton, reference"):
        graphc.compile(onnx.parser.parse_model(MODEL), backend="mine")
