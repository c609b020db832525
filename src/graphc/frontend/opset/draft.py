"""Raising one node from its operator-set version to the canonical one: the node as a draft, and the table of steps.

A step is a function for an operator and a version: it gets a node that means what the version before says and makes it
mean the same in that version. Steps of one operator run in ascending order. A step changes the draft in place and may
put nodes in front of it (`draft.op`); the draft stays the node that has the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np

from graphc.errors import UnsupportedError
from graphc.ir import Attribute, DType, Node, Tensor, TensorType, Value, dtypes

Step: TypeAlias = "Callable[[Draft], None]"


@dataclass
class Draft:
    """A node on its way to the canonical version.

    Args:
        op_type: Operator.
        domain: Its domain.
        version: Operator-set version that gives the node its meaning at present.
        inputs: Values read, None for an absent optional one.
        outputs: Names of the outputs.
        attributes: Attribute values.
        name: The ONNX node's name.
        origins: Names of the ONNX nodes that it came from.
        target: Canonical version, given to the nodes put in front.
        append: Adds a node to the graph and types its outputs.
        fresh: Makes a value name that the model does not have.
    """

    op_type: str
    domain: str
    version: int
    inputs: list[Value | None]
    outputs: list[str]
    attributes: dict[str, Attribute]
    name: str
    origins: tuple[str, ...]
    target: int
    append: Callable[[Node], Node]
    fresh: Callable[[str], str]

    def input(self, index: int) -> Value | None:
        """Input `index`, None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def set_input(self, index: int, value: Value | None) -> None:
        """Makes input `index` read `value`; inputs before it that are not there become absent."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value

    def has_output(self, index: int) -> bool:
        """Whether output `index` is wanted."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def take(self, name: str, default: Any = None) -> Any:
        """Removes an attribute; answers its value, or `default`."""
        return self.attributes.pop(name, default)

    def op(self, op_type: str, *inputs: Value | None, outputs: Sequence[str] = (), **attributes: Attribute) -> Value:
        """Puts a node in front of the draft; answers its first output."""
        names = list(outputs) or [self.fresh(f"{self.outputs[0] or self.op_type}_{op_type.lower()}")]
        node = Node(op_type, inputs, names, attributes, version=self.target, name=self.name, origins=self.origins)
        return self.append(node).output

    def constant(self, value: Any, dtype: DType) -> Value:
        """Puts a constant in front of the draft."""
        return self.op("Constant", value=Tensor.of(np.asarray(value, dtype.numpy), dtype))

    def integers(self, values: int | Iterable[int]) -> Value:
        """Puts an int64 constant in front of the draft: a scalar of an int, else a vector."""
        return self.constant(values if isinstance(values, int) else list(values), dtypes.INT64)

    def like(self, value: float, model: Value | None) -> Value:
        """A scalar constant of the dtype of `model`."""
        dtype = self.dtype(model)
        if dtype is not None:
            return self.constant(value, dtype)
        return self.op("CastLike", self.constant(value, dtypes.FLOAT32), model)

    def dtype(self, value: Value | None) -> DType | None:
        """Element type of a value, where known."""
        return value.type.dtype if value is not None and isinstance(value.type, TensorType) else None

    def rank(self, value: Value | None) -> int | None:
        """Rank of a value, where known."""
        return value.type.rank if value is not None and isinstance(value.type, TensorType) else None

    def unsupported(self, message: str, hint: str | None = None) -> NoReturn:
        """Raises UnsupportedError that names the node."""
        raise UnsupportedError(
            f"{self.op_type} of opset {self.version} {message}",
            nodes=self.origins,
            hint=hint or f"export the model with opset {self.target}",
        )

    def finish(self) -> Node:
        """The draft as a node, added to the graph."""
        while self.inputs and self.inputs[-1] is None:
            self.inputs.pop()
        while len(self.outputs) > 1 and not self.outputs[-1]:
            self.outputs.pop()
        node = Node(
            self.op_type,
            self.inputs,
            self.outputs,
            self.attributes,
            domain=self.domain,
            version=self.version,
            name=self.name,
            origins=self.origins,
        )
        return self.append(node)


STEPS: dict[str, list[tuple[int, Step]]] = {}
"""Steps of each ai.onnx operator, by the version that they raise it to, ascending."""


def step(version: int, *op_types: str) -> Callable[[Step], Step]:
    """Registers a step that raises `op_types` to `version`."""

    def register(function: Step) -> Step:
        for op_type in op_types:
            known = STEPS.setdefault(op_type, [])
            assert all(other != version for other, _ in known), f"two steps raise {op_type} to {version}"
            known.append((version, function))
            known.sort(key=lambda entry: entry[0])
        return function

    return register


def raise_to(draft: Draft, version: int) -> None:
    """Runs the steps that a draft needs to mean the same at `version`; a node newer than that keeps its own."""
    if draft.domain:
        return
    # Versions 1 allowed work in place to be announced; it never changed a result.
    draft.take("consumed_inputs")
    done: set[tuple[str, int]] = set()
    while True:
        # A step may turn the draft into another operator, whose own steps then count.
        waiting = [
            (to, function)
            for to, function in STEPS.get(draft.op_type, ())
            if draft.version < to <= version and (draft.op_type, to) not in done
        ]
        if not waiting:
            break
        to, function = waiting[0]
        done.add((draft.op_type, to))
        function(draft)
        draft.version = to
    draft.version = max(draft.version, version)


__all__ = ["STEPS", "Draft", "Step", "raise_to", "step"]
