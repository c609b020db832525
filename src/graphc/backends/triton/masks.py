"""Masks of a block: where it has elements, and where several masks hold together."""

from __future__ import annotations

from graphc.backends.triton.scope import Code, Dims, Scope, Value


def both(code: Code, scope: Scope, left: Value, right: Value) -> Value:
    """Where two masks hold."""
    if left.text == right.text:
        return left
    key = f"{left.text} and {right.text}"
    found = scope.texts.get(key)
    if found is None:
        text = code.bind(f"{left.text} & {right.text}", "m")
        found = scope.texts[key] = Value(text, left.dims | right.dims)
    return found


def masks_of(code: Code, scope: Scope, dims: Dims) -> Value | None:
    """Where a block that differs along `dims` has elements; None where it has all."""
    result: Value | None = None
    for mask in scope.masks:
        if mask.dims & dims:
            value = Value(mask.text, mask.dims)
            result = value if result is None else both(code, scope, result, value)
    return result
