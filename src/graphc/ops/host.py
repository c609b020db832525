"""Host steps: nodes that a package runs in NumPy because a backend has no kernel for them.

`serialize` writes a node, its attributes, subgraphs and small constants as bytes that need no onnx to be read;
`evaluate` runs them. An operator's own NumPy meaning is used where it has one, onnx.reference's elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from graphc.errors import ExecutionError, ToolchainError
from graphc.ir import Node, Value, dtypes
from graphc.ops.base import Datum, find
from graphc.ops.codec import decode, encode
from graphc.ops.evaluate import captured_inputs, evaluate_node
from graphc.ops.protobuf import model_of

EMBEDDED_BYTES = 4096
"""Constant inputs up to this size travel in the payload; larger ones are weights of the package."""


def operands(node: Node) -> tuple[Value | None, ...]:
    """What a caller of `evaluate` passes for a node, in order: its inputs, then values that its subgraphs capture.

    None stands for an absent input and for a constant that the payload holds.
    """
    captured = [value for value in captured_inputs(node) if value.constant is None]
    return (*(None if is_embedded(value) else value for value in node.inputs), *captured)


def is_embedded(value: Value | None) -> bool:
    """Whether an input travels in the payload: a constant that is small or made of strings."""
    tensor = None if value is None else value.constant
    return tensor is not None and (tensor.dtype == dtypes.STRING or tensor.nbytes <= EMBEDDED_BYTES)


def serialize(node: Node) -> bytes:
    """`node` as the payload of a host step."""
    return encode(node, is_embedded)


def evaluate(payload: bytes, data: Sequence[Datum]) -> list[Datum]:
    """Runs a host step.

    Args:
        payload: What `serialize` wrote; it is read once and kept.
        data: One datum for each of the node's `operands`: an array, a list (sequence), a dict (map), or None.

    Raises:
        ExecutionError: The data does not fit the operator; names the node.
        PackageError: The payload is damaged.
        ToolchainError: The step needs the onnx package, which is not installed.
    """
    return _prepare(payload)(data)


@lru_cache(maxsize=4096)
def _prepare(payload: bytes) -> Callable[[Sequence[Datum]], list[Datum]]:
    node = decode(payload)
    constants = [None if value is None or value.constant is None else value.constant.array() for value in node.inputs]
    captured = captured_inputs(node)
    operator = find(node)
    reference = _reference(node) if operator is None or operator.evaluate is None else None
    count = len(node.inputs) + sum(value.constant is None for value in captured)

    def run(data: Sequence[Datum]) -> list[Datum]:
        if len(data) != count:
            raise ExecutionError(f"{node.op} takes {count} operands, not {len(data)}", nodes=node.origins)
        inputs = [constant if given is None else given for given, constant in zip(data, constants, strict=False)]
        given = iter(data[len(inputs) :])
        outer = [next(given) if value.constant is None else value.constant.array() for value in captured]
        return reference([*inputs, *outer]) if reference is not None else evaluate_node(node, [*inputs, *outer])

    return run


def evaluate_with_reference(node: Node, data: Sequence[Datum]) -> list[Datum]:
    """Outputs of a node by onnx.reference, for an operator without a NumPy meaning of its own.

    Args:
        node: What to evaluate.
        data: Its inputs, None for an absent one, then its `captured_inputs`.

    Raises:
        ExecutionError: onnx.reference cannot run the node on this data; names the node.
        ToolchainError: onnx is not installed.
    """
    return _reference(node)(data)


def _reference(node: Node) -> Callable[[Sequence[Datum]], list[Datum]]:
    names = node.origins or (node.name or node.describe(),)
    try:
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        message = f"{node.op} runs through onnx.reference, and onnx is not installed"
        raise ToolchainError(message, nodes=names, hint="pip install 'graphc[cpu]'") from error
    operands = [*node.inputs, *captured_inputs(node)]
    wanted = [value.name for value in node.outputs if value.name]
    # onnx.reference raises whatever Python raises; each of them means that the node cannot run.
    try:
        evaluator = ReferenceEvaluator(model_of(node))
    except Exception as error:
        raise ExecutionError(f"onnx.reference cannot run {node.op}: {error}", nodes=names) from error

    def run(data: Sequence[Datum]) -> list[Datum]:
        feeds = {value.name: datum for value, datum in zip(operands, data, strict=False) if value is not None}
        try:
            with np.errstate(all="ignore"):
                results = iter(evaluator.run(wanted, feeds))
        except Exception as error:
            raise ExecutionError(f"{node.op} cannot run on this data: {error}", nodes=names) from error
        found = [next(results) if value.name else None for value in node.outputs]
        return [_normal(datum) for datum in found]

    return run


def _normal(datum: Datum) -> Datum:
    """An answer of onnx.reference in the forms that evaluation knows: no scalars, strings as objects."""
    if isinstance(datum, np.generic):
        datum = np.asarray(datum)
    if isinstance(datum, np.ndarray) and datum.dtype.kind in "UST":
        return datum.astype(object)
    return datum
