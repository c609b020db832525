"""What a region makes of its anchor's result: each output as a scalar over the anchor's axes, and where it is stored.

A template computes elements of its anchor's result. What follows in the region is pointwise, or moves elements (a
reshape, a transposition: how a model splits its heads); an element that was moved is stored where it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.extents import bounds_of
from graphc.backends.regions import Expander
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, Value
from graphc.ir.symbolic import Bounds, floordiv, mod, multiply, simplify, substitute
from graphc.ops.base import Trait, find
from graphc.ops.expr import Axis, Load, Scalar, transform


@dataclass(frozen=True)
class Result:
    """One output of a region, at the place of one element of its anchor's result.

    Args:
        element: Over the anchor's axes; the anchor's element stands in it as a scalar that the caller gave.
        index: Logical index in the output, over the same axes.
        type: The output's type.
    """

    element: Scalar
    index: tuple[Dim, ...]
    type: TensorType


def results_of(body: Graph, anchor: Node, axes: Sequence[Axis], value: Scalar) -> tuple[Result, ...]:
    """Every output of `body` as a function of the first output of `anchor`.

    Args:
        body: The region's body.
        anchor: The node whose result the template computes.
        axes: Of its result.
        value: Stands for its element at `axes`.

    Raises:
        BackendError: An output has other elements than the anchor's result, or reads it elsewhere.
    """
    bounds = {**body.bounds, **bounds_of(axes)}
    places = _places(body, anchor, axes, bounds)
    leaf = len(body.inputs)
    expander = Expander(body, {anchor.output: leaf})
    # An axis of one element stands at 0, whatever its name.
    units: dict[str, Dim] = {axis.name: 0 for axis in axes if axis.extent == 1}
    here = [substitute(axis.index, units) for axis in axes]

    def resolve(scalar: Scalar) -> Scalar | None:
        if not isinstance(scalar, Load) or scalar.input != leaf:
            return None
        if [i if isinstance(i, Scalar) else simplify(i, bounds) for i in scalar.indices] != here:
            raise BackendError(f"the region reads {anchor.op} at other places than it writes", nodes=anchor.origins)
        return value

    results = []
    for output in body.outputs:
        index = places.get(output)
        if index is None:
            raise BackendError(f"%{output.name} has other elements than {anchor.op}", nodes=anchor.origins)
        element = transform(expander.element(output, index), resolve, units)
        results.append(Result(element, tuple(substitute(i, units, bounds) for i in index), output.tensor_type))
    return tuple(results)


def _places(body: Graph, anchor: Node, axes: Sequence[Axis], bounds: Bounds) -> dict[Value, tuple[Dim, ...]]:
    """Where the anchor's element at `axes` is found in each value that has the same elements."""
    places: dict[Value, tuple[Dim, ...]] = {anchor.output: tuple(axis.index for axis in axes)}
    for node in body.nodes:
        source = next((value for value in node.inputs if value is not None and value in places), None)
        if node is anchor or source is None or not node.outputs:
            continue
        before, after = source.tensor_type.dims, node.output.tensor_type.dims
        operator = find(node)
        if node.is_op("Transpose"):
            order = node.ints_attribute("perm") or tuple(reversed(range(len(before))))
            places[node.output] = tuple(places[source][axis] for axis in order)
        elif before == after:
            places.update((output, places[source]) for output in node.outputs if output.tensor_type.dims == before)
        elif operator is not None and operator.has(Trait.VIEW):
            flat: Dim = 0
            for extent, place in zip(before, places[source], strict=True):
                flat = multiply(flat, extent) + place
            places[node.output] = _split(after, flat, bounds)
    return places


def _split(dims: Sequence[Dim], flat: Dim, bounds: Bounds) -> tuple[Dim, ...]:
    """The index in a tensor of `dims` of the element at place `flat` of its row-major order."""
    index: list[Dim] = []
    for extent in reversed(dims[1:]):
        index.append(simplify(mod(flat, extent, bounds), bounds))
        flat = floordiv(flat, extent, bounds)
    if dims:
        index.append(simplify(flat, bounds))
    return tuple(reversed(index))
