"""Scan of operator set 8, which scans a batch of sequences, each of a length of its own.

Every input has a batch axis in front. What Scan has meant since is one sequence of it, so the batch is scanned by one
Scan and each of its sequences by another inside. A sequence that is shorter than the rest is cut before it is scanned,
and what is collected from it is filled up with zeros, as ONNX Runtime does.
"""

from __future__ import annotations

from graphc.errors import ModelError
from graphc.frontend.opset.draft import Draft, step
from graphc.ir import Attribute, Graph, Node, Tensor, Value, dtypes


@step(9, "Scan")
def _scan_batches(draft: Draft) -> None:
    lengths, operands = draft.input(0), draft.inputs[1:]
    body = draft.attributes["body"]
    scanned = draft.attributes.get("num_scan_inputs", 0)
    directions = draft.take("directions", ())
    if not isinstance(body, Graph) or not isinstance(scanned, int) or not 0 < scanned <= len(operands):
        raise ModelError(f"Scan cannot scan {scanned!r} of {len(operands)} inputs", nodes=draft.origins)
    graph = Graph("sequence", opset=draft.target)
    given: list[Value | None] = [graph.add_input(draft.fresh(f"{body.name}_operand"), None) for _ in operands]
    states, sequences = given[:-scanned], given[-scanned:]
    whole: Value | None = None
    if lengths is not None:
        operands = [*operands, lengths]
        scalar = graph.add_input(draft.fresh(f"{body.name}_length"), None)
        length = _op(draft, graph, "Unsqueeze", scalar, _integers(draft, graph, 0))
        whole = _op(draft, graph, "Shape", sequences[0], start=0, end=1)
        start = _integers(draft, graph, 0)
        sequences = [_op(draft, graph, "Slice", sequence, start, length) for sequence in sequences]
    names = [draft.fresh(f"{body.name}_result") for _ in body.outputs]
    attributes: dict[str, Attribute] = {"body": body, "num_scan_inputs": scanned}
    if any(directions):
        attributes["scan_input_directions"] = directions
    scan = _node(draft, graph, "Scan", [*states, *sequences], names, attributes)
    results = list(scan.outputs)
    if whole is not None:
        missing = _op(draft, graph, "Sub", whole, length)
        pads = _op(draft, graph, "Concat", _integers(draft, graph, 0), missing, axis=0)
        axes = _integers(draft, graph, 0)
        for index in range(len(states), len(results)):
            results[index] = _op(draft, graph, "Pad", results[index], pads, None, axes)
    graph.outputs = results
    draft.inputs = operands
    draft.attributes = {"body": graph, "num_scan_inputs": len(operands)}


def _op(draft: Draft, graph: Graph, op_type: str, *inputs: Value | None, **attributes: Attribute) -> Value:
    name = draft.fresh(f"{graph.name}_{op_type.lower()}")
    return _node(draft, graph, op_type, list(inputs), [name], attributes).output


def _integers(draft: Draft, graph: Graph, *values: int) -> Value:
    return _op(draft, graph, "Constant", value=Tensor.of(list(values), dtypes.INT64))


def _node(
    draft: Draft,
    graph: Graph,
    op_type: str,
    inputs: list[Value | None],
    outputs: list[str],
    attributes: dict[str, Attribute],
) -> Node:
    node = Node(op_type, inputs, outputs, attributes, version=draft.target, name=draft.name, origins=draft.origins)
    return graph.append(node)
