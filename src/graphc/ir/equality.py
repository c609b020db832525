"""Whether two graphs are the same, and where they first differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.ir.graph import Graph, Node, Value


def equal(left: Graph, right: Graph, *, names: bool = True) -> bool:
    """Whether two graphs have the same nodes in the same order, with the same types, attributes and constants.

    Args:
        left: One graph.
        right: The other.
        names: Whether names of values, nodes, graphs and origins, bounds and metadata count too. Values of enclosing
            graphs that both read are the same only if they are the same object.
    """
    return difference(left, right, names=names) is None


def difference(left: Graph, right: Graph, *, names: bool = True) -> str | None:
    """What first differs between two graphs, None where they are equal in the sense of `equal`."""
    return _Comparison(names).graphs(left, right)


class _Comparison:
    def __init__(self, names: bool) -> None:
        self.names = names
        self.partners: dict[Value, Value] = {}

    def graphs(self, left: Graph, right: Graph) -> str | None:
        where = f"graph {left.name}"
        if self.names:
            for what in ("name", "bounds", "metadata"):
                a, b = getattr(left, what), getattr(right, what)
                if a != b:
                    return f"{where}: {what} {a!r} against {b!r}"
        if left.opset != right.opset:
            return f"{where}: opset {left.opset} against {right.opset}"
        found = self.definitions(where, "input", left.inputs, right.inputs)
        if found:
            return found
        for a, b in zip(left.nodes, right.nodes, strict=False):
            found = self.nodes(where, a, b)
            if found:
                return found
        if len(left) != len(right):
            longer = max(left, right, key=len)
            extra = list(longer.nodes)[min(len(left), len(right))]
            return f"{where}: {len(left)} nodes against {len(right)}; {extra} is in one only"
        return self.reads(f"{where}: outputs", left.outputs, right.outputs)

    def nodes(self, where: str, left: Node, right: Node) -> str | None:
        where = f"{where}: node {left}"
        for what in ("domain", "op_type", "version", *(("name", "origins") if self.names else ())):
            a, b = getattr(left, what), getattr(right, what)
            if a != b:
                return f"{where}: {what} {a!r} against {b!r}"
        found = self.reads(f"{where}: inputs", left.inputs, right.inputs)
        found = found or self.definitions(where, "output", left.outputs, right.outputs)
        if found:
            return found
        if left.attributes.keys() != right.attributes.keys():
            only = sorted(left.attributes.keys() ^ right.attributes.keys())
            return f"{where}: attribute {only[0]} is in one only"
        for name, value in sorted(left.attributes.items()):
            found = self.attributes(f"{where}: attribute {name}", value, right.attributes[name])
            if found:
                return found
        return None

    def definitions(self, where: str, what: str, left: Sequence[Value], right: Sequence[Value]) -> str | None:
        if len(left) != len(right):
            return f"{where}: {len(left)} {what}s against {len(right)}"
        for a, b in zip(left, right, strict=True):
            self.partners[a] = b
            if (a.name != b.name) if self.names else (bool(a.name) != bool(b.name)):
                return f"{where}: {what} {a.index} is called {a.name!r} against {b.name!r}"
            if a.type != b.type:
                return f"{where}: {what} %{a.name} is of type {a.type} against {b.type}"
        return None

    def reads(self, where: str, left: Sequence[Value | None], right: Sequence[Value | None]) -> str | None:
        if len(left) != len(right):
            return f"{where}: {len(left)} against {len(right)}"
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            expected = a if a is None else self.partners.get(a, a)
            # A value that is defined further down, in a graph out of order, has no partner yet: its name stands for it.
            same_name = a is not None and b is not None and a not in self.partners and self.names and a.name == b.name
            if expected is not b and not same_name:
                shown = ["_" if value is None else f"%{value.name}" for value in (a, b)]
                return f"{where}: {index} is {shown[0]} against {shown[1]}"
        return None

    def attributes(self, where: str, left: object, right: object) -> str | None:
        if type(left) is not type(right):
            return f"{where}: {left!r} against {right!r}"
        if isinstance(left, Graph) and isinstance(right, Graph):
            found = self.graphs(left, right)
            return None if found is None else f"{where}: {found}"
        if isinstance(left, tuple) and isinstance(right, tuple):
            if len(left) != len(right):
                return f"{where}: {len(left)} items against {len(right)}"
            for index, (a, b) in enumerate(zip(left, right, strict=True)):
                found = self.attributes(f"{where}[{index}]", a, b)
                if found:
                    return found
            return None
        if isinstance(left, float) and isinstance(right, float):
            same = left == right and math.copysign(1, left) == math.copysign(1, right)
            same = same or (math.isnan(left) and math.isnan(right))
        else:
            same = left == right
        return None if same else f"{where}: {left!r} against {right!r}"
