"""What the registry holds, against onnx's own list of operators."""

from __future__ import annotations

import onnx.defs
import pytest

import graphc.ops  # noqa: F401  (fills the registry)
from graphc.errors import OptionError
from graphc.ops.base import REGISTRY, Operator, Registry, Trait

NOT_DEFINED = {
    ("", "Upsample"): "deprecated; the importer raises it to Resize",
    ("ai.onnx.preview.training", "Gradient"): "names a part of the graph around it, which a graph of values has not",
}
"""Operators that have no definition, each with its reason."""


def test_every_operator_of_onnx_is_defined() -> None:
    newest = {(schema.domain, schema.name): schema for schema in onnx.defs.get_all_schemas()}
    missing = {
        key for key, schema in newest.items() if REGISTRY.find(schema.domain, schema.name, schema.since_version) is None
    }
    assert missing == NOT_DEFINED.keys()


def test_pointwise_operators_have_expressions() -> None:
    without = {
        name
        for (_, name), versions in REGISTRY.names().items()
        if versions[-1].has(Trait.POINTWISE) and versions[-1].expression is None
    }
    # An expression has no operation that reads bits as another dtype.
    assert without == {"BitCast"}


def test_the_newest_definition_not_newer_than_asked_is_found() -> None:
    registry = Registry()
    old = registry.register(Operator("Op", lambda ctx: [], since=3))
    new = registry.register(Operator("Op", lambda ctx: [], since=7))
    assert registry.find("", "Op", 2) is None
    assert registry.find("", "Op", 6) is old
    assert registry.find("", "Op", 99) is new
    with pytest.raises(OptionError, match="registered already"):
        registry.register(Operator("Op", lambda ctx: [], since=3))
