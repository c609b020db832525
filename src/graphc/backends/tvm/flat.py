"""Leading axes that a body walks side by side, as one: what keeps divisions by open extents out of a product's rows."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.regions import symbols_of
from graphc.ir import Dim, Graph, TensorType, Value, clone_node
from graphc.ir.symbolic import product
from graphc.ops.base import Trait, find


def flattened(body: Graph) -> Graph:
    """The body with the leading axes of every tensor as one, where its extents are open and it computes the same.

    So it is where a MatMul by a matrix is followed by pointwise operators whose operands have all leading axes or none
    of them. Kernels see pointers alone, so it is the same kernel.
    """
    products = [node for node in body.nodes if node.is_op("MatMul")]
    if len(products) != 1 or not symbols_of(body):
        return body
    (anchor,) = products
    lead = anchor.output.tensor_type.dims[:-1]
    right = anchor.inputs[1]
    if len(lead) < 2 or right is None or len(right.tensor_type.dims) != 2:
        return body
    for node in body.nodes:
        operator = find(node)
        plain = node.is_op("Constant") or (operator is not None and operator.has(Trait.POINTWISE))
        if node is not anchor and not plain:
            return body
    values = [*body.inputs, *(value for node in body.nodes for value in node.outputs)]
    shapes = {value: _flat(value.tensor_type, lead) for value in values if value is not right}
    if any(shape is None for shape in shapes.values()):
        return body
    made = Graph(body.name, opset=body.opset)
    made.bounds = body.bounds
    copies: dict[Value, Value] = {}
    for value in body.inputs:
        copies[value] = made.add_input(value.name, _shaped(value, shapes.get(value)))
    for node in body.nodes:
        copy = made.append(clone_node(node, copies))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.type = _shaped(old, shapes.get(old))
            copies[old] = new
    made.outputs = [copies[value] for value in body.outputs]
    return made


def _shaped(value: Value, shape: Sequence[Dim] | None) -> TensorType:
    return value.tensor_type if shape is None else value.tensor_type.with_shape(shape)


def _flat(kind: TensorType, lead: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """The shape with one axis for the leading ones; None where it has some of them and not all."""
    dims = kind.dims
    if not kind.layout.is_row_major:
        return None
    if dims[:-1] == tuple(lead):
        return product(lead), dims[-1]
    return dims[-1:] if all(extent == 1 for extent in dims[:-1]) else None
