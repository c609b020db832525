"""What is only moved is moved as bits: no conversion on the way, whatever the element type.

A transpose of half-width floats that loaded them as float32 would take twice the registers and make signalling NaNs
quiet; complex numbers have no arithmetic in kernels at all. Where an output's elements are loads, choices between
them and constants, their type gives way to an unsigned integer of its width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from graphc.backends.problem import Problem
from graphc.errors import BackendError
from graphc.ir import TensorType, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.expr import Axis, Const, Load, Scalar, Select, axes_of, children, compare, const, select, walk

_WORDS = {1: dtypes.UINT8, 2: dtypes.UINT16, 8: dtypes.UINT64, 16: dtypes.UINT64}
"""Type that stands for elements of so many bytes; two of it for 16."""


def is_wide(dtype: DType) -> bool:
    """Whether an element takes two machine words."""
    return dtype == dtypes.COMPLEX128


def as_bits(problem: Problem) -> Problem:
    """The same problem with moved elements as unsigned integers.

    Elements of two words become as many along an axis of their own, the last; all outputs must then be of such.

    Raises:
        BackendError: Complex numbers are computed with, not just moved.
    """
    moved = _moved(problem)
    for element in problem.elements:
        if element.dtype.kind == "complex" and element not in moved:
            raise BackendError("complex numbers are moved by kernels, not computed with")
    if not moved:
        return problem
    part = axes_of([2], "part") if any(is_wide(element.dtype) for element in moved) else ()
    converted = _Conversion(part[0] if part else None)
    inputs = {node.input for element in moved for node in _way(element) if isinstance(node, Load)}

    def type_of(kind: TensorType) -> TensorType:
        word = _WORDS[kind.dtype.itemsize]
        return kind.with_shape([*kind.dims, 2]).with_dtype(word) if part else kind.with_dtype(word)

    return replace(
        problem,
        axes=(*problem.axes, *part),
        elements=tuple(converted(e) if e in moved else e for e in problem.elements),
        inputs=tuple(type_of(kind) if i in inputs else kind for i, kind in enumerate(problem.inputs)),
        outputs=tuple(
            type_of(kind) if e in moved else kind for e, kind in zip(problem.elements, problem.outputs, strict=True)
        ),
    )


def _gains(dtype: DType) -> bool:
    """Whether elements are stored otherwise than they are computed with, if they can be computed with at all."""
    return dtype.kind in ("bool", "complex") or dtype.bits < 8 or (dtype.is_float and dtype.bits < 32)


def _way(element: Scalar) -> list[Scalar]:
    """The nodes through which the value of a moved element passes: its choices, and the loads and constants chosen."""
    seen: dict[int, Scalar] = {}
    stack = [element]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            stack += [node.then, node.otherwise] if isinstance(node, Select) else []
    return list(seen.values())


def _moved(problem: Problem) -> list[Scalar]:
    """Elements that are only moved, from inputs that nothing computes with."""
    moved = [
        element
        for element in dict.fromkeys(problem.elements)
        if _gains(element.dtype) and all(isinstance(node, Load | Select | Const) for node in _way(element))
    ]
    while True:
        computed = _computed([e for e in problem.elements if e not in moved], moved)
        read = {node.input for node in computed.values() if isinstance(node, Load)}
        kept = [
            element
            for element in moved
            if not any(
                id(node) in computed or (isinstance(node, Load) and node.input in read) for node in _way(element)
            )
        ]
        if kept == moved:
            return moved
        moved = kept


def _computed(elements: Sequence[Scalar], moved: Iterable[Scalar]) -> dict[int, Scalar]:
    """Every node whose value is used as a number: those of other elements, of conditions and of computed indices."""
    roots = list(elements)
    for element in moved:
        for node in _way(element):
            if isinstance(node, Select):
                roots.append(node.condition)
            elif isinstance(node, Load):
                roots += children(node)
    return {id(node): node for root in roots for node in walk(root)}


class _Conversion:
    """Rebuilds moved elements over words; shared nodes stay shared.

    Args:
        part: The axis of an element's two words; None where it has one.
    """

    def __init__(self, part: Axis | None) -> None:
        self.part = part
        self._done: dict[int, Scalar] = {}

    def __call__(self, node: Scalar) -> Scalar:
        found = self._done.get(id(node))
        if found is None:
            found = self._done[id(node)] = self._convert(node)
        return found

    def _convert(self, node: Scalar) -> Scalar:
        word = _WORDS[node.dtype.itemsize]
        if isinstance(node, Select):
            return select(node.condition, self(node.then), self(node.otherwise))
        if isinstance(node, Load):
            at = node.indices if self.part is None else (*node.indices, self.part.index)
            return replace(node, dtype=word, indices=at)
        assert isinstance(node, Const), f"{node} is not moved"
        words = [const(bits, word) for bits in np.array([node.value], node.dtype.numpy).view(word.numpy).tolist()]
        return words[0] if self.part is None else select(compare("eq", self.part.index, 0), *words)
