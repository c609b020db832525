"""Functions that a model defines: found by name, checked for recursion and for what they unfold to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx

from graphc.errors import ModelError
from graphc.frontend.order import subgraphs
from graphc.frontend.schema import NEWEST_OPSET
from graphc.frontend.source import MAX_NESTING

MAX_NODES = 150_000
"""Nodes of a whole model after functions are unfolded."""

_LARGEST_VERSION = (1 << 31) - 1

Key: TypeAlias = tuple[str, str, str]
"""Domain, name and overload."""


def domain_of(domain: str) -> str:
    """The operator-set domain, `""` for both spellings of ai.onnx."""
    return "" if domain == "ai.onnx" else domain


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto], owner: str) -> dict[str, int]:
    """Operator-set versions by domain.

    Raises:
        ModelError: One domain is imported in two versions, or in one that does not exist or is not known yet.
    """
    found: dict[str, int] = {}
    for entry in imports:
        domain, version = domain_of(entry.domain), entry.version
        known = NEWEST_OPSET if domain == "" else _LARGEST_VERSION
        if version < 1:
            raise ModelError(f"{owner} is of opset {version}, and opsets start at 1", hint="the file is damaged")
        if version > known:
            raise ModelError(
                f"{owner} is of opset {version} of {domain or 'ai.onnx'!r}; the newest known here is {known}",
                hint=f"upgrade the onnx package, or export the model with opset {known}",
            )
        if found.setdefault(domain, version) != version:
            raise ModelError(
                f"{owner} imports domain {domain or 'ai.onnx'!r} in versions {found[domain]} and {version}"
            )
    return found


@dataclass
class Functions:
    """The functions of one model."""

    _by_key: dict[Key, onnx.FunctionProto] = field(default_factory=dict)
    _sizes: dict[Key, int] = field(default_factory=dict)

    @staticmethod
    def of(model: onnx.ModelProto) -> Functions:
        """Collects the functions of a model.

        Raises:
            ModelError: Two have the same name, or two inputs or outputs of one.
        """
        functions = Functions()
        for function in model.functions:
            key = (domain_of(function.domain), function.name, function.overload)
            if key in functions._by_key:
                raise ModelError(f"function {key[0]}::{key[1]} is defined twice")
            for names in (function.input, function.output):
                if len(set(names)) != len(names):
                    raise ModelError(f"function {key[0]}::{key[1]} lists an input or output twice: {list(names)}")
            functions._by_key[key] = function
        return functions

    def find(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """The function that a node calls; None where it is no call."""
        return self._by_key.get((domain_of(node.domain), node.op_type, node.overload)) if self._by_key else None

    def check(self, graph: onnx.GraphProto) -> None:
        """Measures what the model unfolds to.

        Raises:
            ModelError: Functions call themselves, or subgraphs, calls or nodes are more than the limits allow.
        """
        if self._count(graph.node, (), 0) > MAX_NODES:
            raise ModelError(f"the model unfolds to more than {MAX_NODES:,} nodes")

    def _count(self, nodes: Iterable[onnx.NodeProto], calls: tuple[Key, ...], depth: int) -> int:
        if depth > MAX_NESTING:
            raise ModelError(f"subgraphs and function calls are nested deeper than {MAX_NESTING} levels")
        total = 0
        for node in nodes:
            function = self.find(node)
            if function is None:
                total += 1
            else:
                total += self._size(function, calls, depth)
            for graph in subgraphs(node):
                total += self._count(graph.node, calls, depth + 1)
        return total

    def _size(self, function: onnx.FunctionProto, calls: tuple[Key, ...], depth: int) -> int:
        key = (domain_of(function.domain), function.name, function.overload)
        if key in calls:
            names = [name for _, name, _ in calls[calls.index(key) :]]
            raise ModelError(
                f"function {function.name!r} calls itself: {' → '.join([*names, function.name])}",
                nodes=(function.name,),
            )
        if key not in self._sizes:
            self._sizes[key] = self._count(function.node, (*calls, key), depth + 1)
        return self._sizes[key]


def call_attributes(
    node: onnx.NodeProto, function: onnx.FunctionProto, attributes: Mapping[str, onnx.AttributeProto]
) -> dict[str, onnx.AttributeProto]:
    """What a function's attribute references mean in one call: the call's attributes, else the defaults.

    Args:
        node: The call.
        function: What it calls.
        attributes: The call's own attributes, references of an enclosing call replaced.

    Raises:
        ModelError: An attribute without default is missing, or one is given that the function does not have.
    """
    known = set(function.attribute) | {attribute.name for attribute in function.attribute_proto}
    for name in attributes:
        if name not in known:
            raise ModelError(
                f"function {function.name!r} has no attribute {name!r}", nodes=(node.name or node.op_type,)
            )
    found = {attribute.name: attribute for attribute in function.attribute_proto}
    found.update(attributes)
    return found
