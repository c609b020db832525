"""What Triton's interpreter gets wrong, set right. Runs in the interpreter's process.

It holds a bfloat16 as a word of 16 bits. Found wrong in 3.9: products and other arithmetic of bfloat16 (words are
multiplied as integers), casts to it (cut off, where a GPU rounds to nearest even) and integers cast to it or from it;
and a scalar comparison as the mask of a block.
3.6 cannot take a scalar for an integer of Python, nor −1 for the largest unsigned one, where NumPy is newer than it.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def apply() -> None:
    """Corrects the interpreter of this process."""
    builder = interpreter.interpreter_builder
    product, cast, convert = builder.create_dot, builder.cast_impl, builder.create_fp_to_fp
    binary, unary = builder.binary_op, builder.unary_op

    def dot(a: Any, b: Any, *rest: Any) -> Any:
        return product(_widened(a), _widened(b), *rest)

    def cast_impl(source: Any, kind: Any) -> Any:
        if not (_is_bfloat16(source.dtype) or _is_bfloat16(kind)):
            return cast(source, kind)
        source = _widened(source)
        if not _is_bfloat16(kind):
            return cast(source, kind)
        # float64 has all integers that a cast to bfloat16 could tell apart.
        data = source.data.astype(np.float32 if source.data.dtype == np.float32 else np.float64)
        return interpreter.TensorHandle(data.astype(ml_dtypes.bfloat16).view(np.uint16), kind.scalar)

    def fp_to_fp(source: Any, kind: Any, rounding: Any) -> Any:
        to_nearest = rounding is None or rounding == interpreter._ir.ROUNDING_MODE.RTNE
        if to_nearest and (_is_bfloat16(source.dtype) or _is_bfloat16(kind)):
            return cast_impl(source, kind)
        return convert(source, kind, rounding)

    def binary_op(left: Any, right: Any, *rest: Any) -> Any:
        _refuse(left, right)
        made = binary(left, right, *rest)
        # A comparison of numbers is no number: a mask made from one would be of their type.
        return interpreter.TensorHandle(made.data, tl.int1) if made.data.dtype == np.bool_ else made

    def unary_op(source: Any, *rest: Any) -> Any:
        _refuse(source)
        return unary(source, *rest)

    builder.create_dot, builder.cast_impl, builder.create_fp_to_fp = dot, cast_impl, fp_to_fp
    builder.binary_op, builder.unary_op = binary_op, unary_op
    builder.get_all_ones_value = _all_ones
    _guard_reductions()
    _reduce_by_halves()
    _index_by_scalars()


def _all_ones(kind: Any) -> Any:
    """What a number is combined with to turn all its bits."""
    return interpreter.TensorHandle(np.invert(np.zeros(1, interpreter._get_np_dtype(kind))), kind.scalar)


def _index_by_scalars() -> None:
    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor


def _guard_reductions() -> None:
    check = interpreter.ReduceScanOpInterface.check_tensor

    def check_tensor(self: Any, values: Any) -> None:
        check(self, values)
        _refuse(*(value.handle for value in values if hasattr(value, "handle")))

    interpreter.ReduceScanOpInterface.check_tensor = check_tensor


def _reduce_by_halves() -> None:
    """Reductions by a function combine halves of a block, as a GPU does; element by element takes minutes."""

    def generic_reduce(self: Any, values: Any) -> Any:
        flat, axis = self.unravel(values, self.axis)
        data = [value.handle.data for value in flat]
        kinds = [value.dtype for value in flat]
        while data[0].shape[axis] > 1:
            pieces = [np.split(part, 2, axis) for part in data]
            left, right = zip(*pieces, strict=True)
            found = self.combine_fn.fn(
                *(self.to_tensor(part, kind) for part, kind in zip(left, kinds, strict=True)),
                *(self.to_tensor(part, kind) for part, kind in zip(right, kinds, strict=True)),
            )
            data = [value.handle.data for value in (found if isinstance(found, tuple) else (found,))]
        if not self.keep_dims:
            data = [part.item() if self.axis is None else np.squeeze(part, axis) for part in data]
        elif self.axis is None:
            data = [part.reshape((1,) * values[0].handle.data.ndim) for part in data]
        return [self.to_tensor(part, kind) for part, kind in zip(data, kinds, strict=True)]

    interpreter.ReduceOps.generic_reduce = generic_reduce


def _is_bfloat16(kind: Any) -> bool:
    return bool(kind.scalar == tl.bfloat16)


def _widened(handle: Any) -> Any:
    """A bfloat16 as the float32 that it is."""
    if not _is_bfloat16(handle.dtype):
        return handle
    data = handle.data.view(ml_dtypes.bfloat16).astype(np.float32)
    return interpreter.TensorHandle(data, tl.float32)


def _refuse(*handles: Any) -> None:
    """Arithmetic of bfloat16 is float32's in every kernel of ours: where it is not, that is an oversight."""
    if any(_is_bfloat16(handle.dtype) for handle in handles):
        raise TypeError("arithmetic of bfloat16, which the interpreter cannot do; cast to float32 before it")
