"""Names while a model is read: where they are visible, what they become in the graph, what to say of a lost one."""

from __future__ import annotations

import difflib
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import onnx

from graphc.errors import ModelError
from graphc.ir import Value

Scope: TypeAlias = "ChainMap[str, Value | None]"
"""Values by their names in the file, those of enclosing graphs last; None for an absent optional function input."""


@dataclass(frozen=True)
class Frame:
    """Where nodes come from: the model itself, or one call of a function.

    Args:
        opsets: Operator-set versions in force.
        prefix: Put before the names of nodes and values: the calls that led here.
        attributes: What attribute references mean; None outside functions.
        depth: Subgraphs and calls around.
        results: Value names that a function's outputs get.
        branch: Whether an If decides if the nodes run at all: its own inference judges types that do not fit there.
    """

    opsets: Mapping[str, int]
    prefix: str = ""
    attributes: Mapping[str, onnx.AttributeProto] | None = None
    depth: int = 0
    results: Mapping[str, str] = field(default_factory=dict)
    branch: bool = False


@dataclass
class UniqueNames:
    """Value names of the graph that is made: unique in the whole model, subgraphs included."""

    _taken: set[str] = field(default_factory=set)
    _counts: dict[str, int] = field(default_factory=dict)

    def reserve(self, graph: onnx.GraphProto) -> None:
        """Keeps the names of a model's own values for them; those inside subgraphs and functions give way."""
        self._taken.update(value.name for value in graph.input)
        self._taken.update(tensor.name for tensor in graph.initializer)
        self._taken.update(tensor.values.name for tensor in graph.sparse_initializer)
        self._taken.update(name for node in graph.node for name in node.output)

    def make(self, base: str) -> str:
        """A new name: `base`, or `base_1`, `base_2`..."""
        name = base
        while name in self._taken:
            self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}_{self._counts[base]}"
        self._taken.add(name)
        return name


def lookup(name: str, scope: Scope, label: str) -> Value | None:
    """The value that node `label` reads as `name`.

    Raises:
        ModelError: Nothing makes it; similar names are suggested.
    """
    if name not in scope:
        fail_dangling(name, scope, f"input {name!r} is not produced by any node, input or initializer", (label,))
    return scope[name]


def fail_dangling(name: str, scope: Scope, message: str, nodes: tuple[str, ...] = ()) -> NoReturn:
    """Raises ModelError with names that are like the one that nothing makes."""
    near = [other for other in scope if abs(len(other) - len(name)) <= 2][:2000]
    close = difflib.get_close_matches(name, near, 3)
    hint = f"did you mean {' or '.join(repr(item) for item in close)}?" if close else None
    raise ModelError(message, nodes=nodes, hint=hint or "the tool that wrote the model dropped the node that makes it")
