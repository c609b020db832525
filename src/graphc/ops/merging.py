"""Joining types that meet: branches of an If, iterations of a Loop, elements of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphc.ir import Dim, MapType, OptionalType, SequenceType, TensorType, Type
from graphc.ops.base import is_unknown


def join(left: Type, right: Type, differ: Callable[[Dim, Dim], Dim]) -> Type | None:
    """The type of a value that is of type `left` at one time and `right` at another.

    Args:
        left: One type.
        right: The other.
        differ: The extent that stands for two different ones.

    Returns:
        The joined type: of unknown rank where the ranks differ, None where dtypes or kinds of types differ.
    """
    match left, right:
        case (TensorType(), TensorType()):
            if left.dtype != right.dtype:
                return None
            if left.shape is None or right.shape is None or len(left.shape) != len(right.shape):
                return TensorType(left.dtype, None)
            pairs = zip(left.shape, right.shape, strict=True)
            return TensorType(left.dtype, tuple(a if a == b else differ(a, b) for a, b in pairs))
        case (SequenceType(), SequenceType()):
            element = join(left.element, right.element, differ)
            return None if element is None else SequenceType(element)
        case (OptionalType(), _):
            inner = right.element if isinstance(right, OptionalType) else right
            element = join(left.element, inner, differ)
            return None if element is None else OptionalType(element)
        case (_, OptionalType()):
            return join(right, left, differ)
        case (MapType(), MapType()) if left.key == right.key:
            value = join(left.value, right.value, differ)
            return None if value is None else replace(left, value=value)
    return None


def renew(kind: Type, fresh: Callable[[str], Dim]) -> Type:
    """`kind` with new symbols for extents that only the data tells: they differ between elements of a sequence."""
    match kind:
        case TensorType():
            return renew_tensor(kind, fresh)
        case SequenceType(element=element) | OptionalType(element=element):
            return replace(kind, element=renew(element, fresh))
        case MapType(value=value):
            return replace(kind, value=renew(value, fresh))
    return kind


def renew_tensor(kind: TensorType, fresh: Callable[[str], Dim]) -> TensorType:
    """`renew` of a tensor's type."""
    if kind.shape is None:
        return kind
    return kind.with_shape(fresh("element") if is_unknown(extent) else extent for extent in kind.shape)
