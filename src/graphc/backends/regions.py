"""From a region's body graph to tensor expressions over the region's inputs: what every compiling backend starts from.

Producers are inlined into their consumers by substituting index expressions, so a chain of pointwise and movement
operators becomes one expression. A value that is read twice at the same index is one shared scalar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Attribute, Graph, Node, Tensor, TensorType, Value, clone_node
from graphc.ir.symbolic import symbols
from graphc.ops import base
from graphc.ops.expr import (
    Index,
    IndexValue,
    Load,
    Scalar,
    TensorExpr,
    axes_of,
    cast,
    const,
    rename_reductions,
    transform,
)

REGION = "Region"


def body_of(region: Node) -> Graph:
    """The body of a Region node; for any other node, a graph of just that node.

    Constants of one element are part of the body, other inputs are its inputs, in the node's order.
    """
    if region.is_op(REGION, GRAPHC_DOMAIN):
        return region.graph_attribute("body")
    body = Graph(region.op_type, opset=region.graph.opset if region.graph else 0)
    body.bounds = {} if region.graph is None else region.graph.bounds
    inside: dict[Value, Value] = {}
    known = base.parameters(region)
    for index, value in enumerate(region.inputs):
        if value is None or value in inside:
            continue
        tensor = value.constant
        if tensor is not None and (tensor.size == 1 or index in known) and value.producer is not None:
            inside[value] = body.append(clone_node(value.producer, {})).output
        else:
            inside[value] = body.add_input(value.name, value.type)
    copy = body.append(clone_node(region, inside))
    used = [value for value, old in zip(copy.outputs, region.outputs, strict=True) if old.is_used]
    body.outputs = used or copy.outputs
    return body


def symbols_of(body: Graph) -> tuple[str, ...]:
    """The symbols that extents in a body depend on, sorted: what its kernel reads from the table of dimensions."""
    values = [*body.inputs, *(value for node in body.nodes for value in node.outputs)]
    kinds = [value.type for value in values]
    return tuple(sorted(set().union(*(kind.symbols() for kind in kinds if isinstance(kind, TensorType)))))


def inputs_of(region: Node) -> list[Value]:
    """The values that a region's (or single node's) body takes as inputs, in the body's order."""
    if region.is_op(REGION, GRAPHC_DOMAIN):
        return [value for value in region.inputs if value is not None]
    names = {value.name for value in body_of(region).inputs}
    return [value for value in dict.fromkeys(region.inputs) if value is not None and value.name in names]


def constants_of(region: Node) -> frozenset[int]:
    """Numbers of a region's inputs that are constants."""
    return frozenset(number for number, value in enumerate(inputs_of(region)) if value.constant is not None)


def sole_node(body: Graph) -> Node | None:
    """The one node of a body that is no constant; None where there are several."""
    nodes = [node for node in body.nodes if not node.is_op("Constant")]
    return nodes[0] if len(nodes) == 1 else None


class Expander:
    """Expresses values of a body over its leaves: the body's inputs, and any further values given as leaves.

    Args:
        body: A closed graph.
        leaves: Values that stay loads, by the input number they get; the body's inputs have theirs already.
    """

    def __init__(self, body: Graph, leaves: Mapping[Value, int] | None = None) -> None:
        self._numbers: dict[Value, int] = {value: i for i, value in enumerate(body.inputs)}
        self._numbers.update(leaves or {})
        self._expressions: dict[Node, Sequence[TensorExpr]] = {}
        self._done: dict[tuple[Value, tuple[object, ...]], Scalar] = {}
        self._kept: list[tuple[Index, ...]] = []

    def output(self, value: Value) -> TensorExpr:
        """The expression of a value as a whole."""
        axes = axes_of(value.tensor_type.dims)
        return TensorExpr(axes, self.element(value, [axis.index for axis in axes]))

    def element(self, value: Value, indices: Sequence[Index]) -> Scalar:
        """The element of `value` at `indices`.

        Raises:
            BackendError: Some operator on the way has no tensor expression, or arithmetic on a computed index.
        """
        key = (value, tuple(id(i) if isinstance(i, Scalar) else str(i) for i in indices))
        found = self._done.get(key)
        if found is None:
            found = self._done[key] = self._expand(value, indices)
            # A key holds identities of scalars: they must not be given to others.
            self._kept.append(tuple(indices))
        return found

    def _expand(self, value: Value, indices: Sequence[Index]) -> Scalar:
        number = self._numbers.get(value)
        tensor = value.constant
        if number is not None:
            return Load(value.tensor_type.dtype, number, tuple(indices))
        if tensor is not None and tensor.size == 1:
            return const(tensor.array().reshape(()).item(), tensor.dtype)
        if value.producer is None:
            raise BackendError(f"%{value.name} is neither computed nor an input of the region")
        node = value.producer
        expression = self._expression(node)[value.index]
        computed = {a.name: i for a, i in zip(expression.axes, indices, strict=True) if isinstance(i, Scalar)}
        affine = {a.name: i for a, i in zip(expression.axes, indices, strict=True) if not isinstance(i, Scalar)}

        def place(index: Index) -> Index:
            if isinstance(index, Scalar) or not computed:
                return index
            if str(index) not in computed and symbols(index) & computed.keys():
                raise BackendError(f"{node.op} computes with an index that is data", nodes=node.origins)
            return computed.get(str(index), index)

        def resolve(scalar: Scalar) -> Scalar | None:
            if isinstance(scalar, IndexValue):
                moved = place(scalar.index)
                return cast(moved, scalar.dtype) if isinstance(moved, Scalar) else None
            if not isinstance(scalar, Load):
                return None
            position = [place(index) for index in scalar.indices]
            source = node.inputs[scalar.input]
            assert source is not None, f"{node} loads absent input {scalar.input}"
            element = self.element(source, position)
            if isinstance(element, Load) and scalar.checked:
                return Load(element.dtype, element.input, element.indices, True)
            return element

        return transform(rename_reductions(expression.body), resolve, affine)

    def _expression(self, node: Node) -> Sequence[TensorExpr]:
        if node not in self._expressions:
            self._expressions[node] = expression_of(node)
        return self._expressions[node]


def expression_of(node: Node) -> Sequence[TensorExpr]:
    """Tensor expressions of a node's outputs.

    Raises:
        BackendError: The operator has none for these inputs and attributes.
    """
    result = base.express(node)
    if result is None:
        raise BackendError(f"{node.op} has no tensor expression here", nodes=node.origins or (node.name,))
    return result


def signature(body: Graph) -> str:
    """Text equal for bodies that are equal up to names of values and contents of inputs: the identity of a kernel."""
    numbers: dict[Value, str] = {}
    lines = []
    for index, value in enumerate(body.inputs):
        numbers[value] = f"in{index}"
        lines.append(f"in{index}: {value.type}")
    for index, node in enumerate(body.nodes):
        for value in node.outputs:
            numbers[value] = f"v{index}.{value.index}"
        inputs = ", ".join("_" if v is None else numbers[v] for v in node.inputs)
        attributes = ", ".join(f"{name}={_attribute_text(value)}" for name, value in sorted(node.attributes.items()))
        types = ", ".join(str(value.type) for value in node.outputs)
        lines.append(f"v{index}: {types} = {node.op}.{node.version}({inputs}) {{{attributes}}}")
    lines.append("return " + ", ".join(numbers[value] for value in body.outputs))
    return "\n".join(lines)


def _attribute_text(value: Attribute) -> str:
    return f"{value!r} {value.digest().hex()}" if isinstance(value, Tensor) else repr(value)
