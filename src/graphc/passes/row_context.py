"""What is known of a node whose inputs have rows, the items of a batch: what the rules about rows are asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphc.ir import Dim, Node
from graphc.ops.base import Array

Answer: TypeAlias = "Sequence[int | None] | str"


@dataclass(frozen=True)
class RowContext:
    """What a rule may look at.

    Args:
        node: The node; at least one input has rows.
        rows: Axis of rows of each input and how many places along it a row takes; None for an input without rows.
        extents: Whether an input was computed from the number of rows.
    """

    node: Node
    rows: Sequence[tuple[int, int] | None]
    extents: Sequence[bool]

    def axis(self, index: int) -> int | None:
        """Axis of rows of an input, None where it has none or is not there."""
        found = self.rows[index] if index < len(self.rows) else None
        return None if found is None else found[0]

    def shape(self, index: int) -> tuple[Dim, ...]:
        """Shape of an input that is there."""
        value = self.node.input(index)
        assert value is not None
        return value.tensor_type.shape or ()

    def rank(self, index: int = 0) -> int:
        """Rank of an input."""
        return len(self.shape(index))

    def constant(self, index: int) -> Array | None:
        """Elements of a constant input."""
        value = self.node.input(index)
        return None if value is None or value.constant is None else value.constant.array()

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return self.node.input(index) is not None

    def only(self, *indices: int) -> str:
        """Why another input than these matters to rows; empty where none does."""
        for number, value in enumerate(self.node.inputs):
            if number not in indices and value is not None and (self.rows[number] or self.extents[number]):
                return f"input {number} depends on the rows"
        return ""

    def all(self, axis: int | None) -> Answer:
        """The same axis for every output."""
        return [axis] * len(self.node.outputs)
