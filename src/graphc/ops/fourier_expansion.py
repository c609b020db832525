"""DFT and STFT spelled out as products with constant matrices.

A transform of a short signal is one product with the matrix of its roots of unity. A long one of n = p * q samples is
q transforms of p samples, a rotation of each result, and p transforms of q samples (Cooley and Tukey, 1965), which
makes it products of small matrices again. Where n has a large prime factor, it is a cyclic convolution with a chirp,
done by transforms of a power of two (Bluestein, 1970).

Between steps, complex numbers stand as two planes, (rows, 2, samples), so that every loop runs over samples.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Dim, Node, Value, dtypes
from graphc.ops.base import Array, ExpressionContext, Trait
from graphc.ops.contrib import Values, given, needed, numbers
from graphc.ops.decomposition import decomposed, rank_of
from graphc.ops.expr import TensorExpr, axes_of, load

LONGEST_PRODUCT = 256
"""Complex samples up to which one product is as fast as two steps of smaller ones; twice as many real ones."""


def _parts(matrix: Array, dtype: np.dtype[np.generic]) -> Array:
    """A complex matrix (inputs, outputs) as the real one of planes: (2, inputs, 2, outputs)."""
    return np.stack([np.stack([matrix.real, matrix.imag], 1), np.stack([-matrix.imag, matrix.real], 1)]).astype(dtype)


def _roots(rows: int, columns: int, period: int, sign: int) -> Array:
    """`exp(sign * 2j pi r c / period)`, with products reduced to the period first: exact for long transforms."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % period
    return np.asarray(np.exp(sign * 2j * np.pi * turns / period))


def _constant(b: Builder, value: Array, like: Value) -> Value:
    return b.constant(value.astype(like.tensor_type.dtype.numpy))


def _divisor(count: int) -> int:
    """The divisor of `count` closest to its root from below."""
    return next(d for d in range(math.isqrt(count), 0, -1) if count % d == 0)


def _rotated(b: Builder, x: Value, factors: Array, plane: int) -> Value:
    """`x` times complex `factors`, whose axes are those after the rows, `plane` of x's planes left out."""
    flip = b.op("Slice", x, numbers(b, -1), numbers(b, -3), numbers(b, plane), numbers(b, -1))
    real = np.expand_dims(factors.real, plane - 1)
    turned = np.stack([-factors.imag, factors.imag], plane - 1)
    return b.op("Add", b.op("Mul", x, _constant(b, real, x)), b.op("Mul", flip, _constant(b, turned, x)))


def _planes(b: Builder, x: Value, count: int, planes: int, sign: int, scale: float) -> Value:
    """The transform of (rows, planes, count) as (rows, 2, count); one plane holds real numbers."""
    if count * planes <= 2 * LONGEST_PRODUCT:
        matrix = _parts(_roots(count, count, count, sign) * scale, x.tensor_type.dtype.numpy)[:planes]
        flat = b.op("Reshape", x, numbers(b, -1, planes * count))
        product = b.op("MatMul", flat, b.constant(matrix.reshape(planes * count, 2 * count)))
        return b.op("Reshape", product, numbers(b, -1, 2, count))
    first = _divisor(count)
    if first == 1:
        return _chirped(b, x, count, planes, sign, scale)
    second = count // first
    split = b.op("Reshape", x, numbers(b, -1, planes, first, second))
    columns = b.op("Reshape", b.op("Transpose", split, perm=[0, 3, 1, 2]), numbers(b, -1, planes, first))
    inner = b.op("Reshape", _planes(b, columns, first, planes, sign, 1.0), numbers(b, -1, second, 2, first))
    turned = _rotated(b, inner, _roots(second, first, count, sign), 2)
    rows = b.op("Reshape", b.op("Transpose", turned, perm=[0, 3, 2, 1]), numbers(b, -1, 2, second))
    outer = b.op("Reshape", _planes(b, rows, second, 2, sign, scale), numbers(b, -1, first, 2, second))
    return b.op("Reshape", b.op("Transpose", outer, perm=[0, 2, 3, 1]), numbers(b, -1, 2, count))


def _chirped(b: Builder, x: Value, count: int, planes: int, sign: int, scale: float) -> Value:
    """A transform of any length by a cyclic convolution with a chirp."""
    size = 1 << (2 * count - 2).bit_length()
    places = np.arange(count, dtype=np.int64)
    chirp = np.exp(sign * 1j * np.pi * (places * places % (2 * count)) / count)
    kernel = np.zeros(size, np.complex128)
    kernel[:count] = chirp.conj()
    kernel[size - count + 1 :] = chirp[1:][::-1].conj()
    if planes == 1:
        x = b.op("Concat", x, b.op("Mul", x, _constant(b, np.zeros(()), x)), axis=1)
    padded = b.op("Pad", _rotated(b, x, chirp, 1), numbers(b, 0, 0, 0, 0, 0, size - count))
    spectrum = _rotated(b, _planes(b, padded, size, 2, -1, 1.0), np.fft.fft(kernel), 1)
    convolved = _planes(b, spectrum, size, 2, 1, 1 / size)
    kept = b.op("Slice", convolved, numbers(b, 0), numbers(b, count), numbers(b, 2))
    return _rotated(b, kept, chirp * scale, 1)


def _fitted(b: Builder, x: Value, count: int) -> Value:
    """(rows, samples, parts) with samples cut off or zeros added, so that there are `count`."""
    found = x.tensor_type.dims[1]
    assert isinstance(found, int), "the number of samples is known"
    if found > count:
        return b.op("Slice", x, numbers(b, 0), numbers(b, count), numbers(b, 1))
    return b.op("Pad", x, numbers(b, 0, 0, 0, 0, count - found, 0)) if found < count else x


def _complex(b: Builder, x: Value, count: int, bins: int, sign: int, window: Array | None) -> Value:
    """The first `bins` of the transform of (rows, samples, parts) at `count` samples, as (rows, bins, 2)."""
    _, samples, parts = x.tensor_type.dims
    assert isinstance(samples, int) and isinstance(parts, int), "extents are known"
    scale = 1 / count if sign > 0 else 1.0
    used = min(samples, count)
    if used * parts <= 2 * LONGEST_PRODUCT:
        if samples > count:
            x = _fitted(b, x, count)
        weights = np.ones(used) if window is None else window[:used]
        planes = _parts(_roots(used, bins, count, sign) * weights[:, None] * scale, x.tensor_type.dtype.numpy)[:parts]
        # Here real and imaginary parts lie side by side on both sides.
        matrix = planes.transpose(1, 0, 3, 2).reshape(used * parts, bins * 2)
        product = b.op("MatMul", b.op("Reshape", x, numbers(b, -1, used * parts)), b.constant(matrix))
        return b.op("Reshape", product, numbers(b, -1, bins, 2))
    if window is not None:
        x = b.op("Mul", x, _constant(b, window[:, None], x))
    planes_first = b.op("Transpose", _fitted(b, x, count), perm=[0, 2, 1])
    whole = b.op("Transpose", _planes(b, planes_first, count, parts, sign, scale), perm=[0, 2, 1])
    return whole if bins == count else b.op("Slice", whole, numbers(b, 0), numbers(b, bins), numbers(b, 1))


def _real(b: Builder, x: Value, count: int) -> Value:
    """The real signal (rows, count, 1) whose one-sided spectrum is (rows, bins, parts)."""
    half = count // 2 + 1
    x = _fitted(b, x, half) if x.tensor_type.dims[1] != half else x
    parts = x.tensor_type.dims[2]
    # The first bin, and the last of an even length, stand for themselves; the others for their mirror images too.
    single = np.zeros(half, np.bool_)
    single[0] = True
    single[-1] |= count % 2 == 0
    if half * 2 <= 2 * LONGEST_PRODUCT:
        roots = _roots(half, count, count, 1) * np.where(single, 1, 2)[:, None] / count
        matrix = np.stack([roots.real, -roots.imag], 1)[:, : parts if isinstance(parts, int) else 2]
        flat = b.op("Reshape", x, numbers(b, -1, matrix.shape[0] * matrix.shape[1]))
        return b.op(
            "Reshape", b.op("MatMul", flat, _constant(b, matrix.reshape(-1, count), x)), numbers(b, -1, count, 1)
        )
    if parts == 1:
        x = b.op("Pad", x, numbers(b, 0, 0, 0, 0, 0, 1))
    planes = b.op("Transpose", x, perm=[0, 2, 1])
    planes = b.op("Mul", planes, _constant(b, np.stack([np.ones(half), ~single]), x))
    last = half - 1 if count % 2 == 0 else half
    mirror = b.op("Slice", planes, numbers(b, last - 1), numbers(b, 0), numbers(b, 2), numbers(b, -1))
    mirror = b.op("Mul", mirror, _constant(b, np.array([[1.0], [-1.0]]), x))
    whole = _planes(b, b.op("Concat", planes, mirror, axis=2), count, 2, 1, 1 / count)
    signal = b.op("Slice", whole, numbers(b, 0), numbers(b, 1), numbers(b, 1))
    return b.op("Reshape", signal, numbers(b, -1, count, 1))


def _number(value: Value | None) -> int | None:
    """The one element of a constant."""
    return None if value is None or value.constant is None else int(value.constant.array().reshape(()))


def _widened(b: Builder, x: Value) -> Value:
    dtype = x.tensor_type.dtype
    return x if dtype in (dtypes.FLOAT32, dtypes.FLOAT64) else b.op("Cast", x, to=dtypes.FLOAT32.onnx)


def _dft(b: Builder, node: Node, inputs: Values) -> Values | None:
    x = needed(inputs, 0)
    shape, rank = x.tensor_type.dims, rank_of(x)
    axis = -2 if given(inputs, 2) is None else _number(given(inputs, 2))
    if axis is None or not isinstance(shape[-1], int) or not isinstance(shape[axis], int):
        return None
    axis %= rank
    inverse, onesided = (bool(node.int_attribute(name, 0)) for name in ("inverse", "onesided"))
    samples = shape[axis]
    assert isinstance(samples, int), "checked above"
    if given(inputs, 1) is None:
        count: int | None = 2 * (samples - 1) if inverse and onesided else samples
    else:
        count = _number(given(inputs, 1))
    if count is None or count < 1 or samples < 1:
        return None
    others = [i for i in range(rank - 1) if i != axis]
    moved = [*others, axis, rank - 1]
    wide = _widened(b, x)
    if moved != list(range(rank)):
        wide = b.op("Transpose", wide, perm=moved)
    if onesided and not inverse and shape[-1] == 2:
        wide = b.op("Slice", wide, numbers(b, 0), numbers(b, 1), numbers(b, rank - 1))
    parts = wide.tensor_type.dims[-1]
    assert isinstance(parts, int), "checked above"
    outer = b.op("Shape", wide, end=rank - 2)
    rows = b.op("Reshape", wide, numbers(b, -1, samples, parts))
    if inverse and onesided:
        made, extent, last = _real(b, rows, count), count, 1
    else:
        extent, last = count // 2 + 1 if onesided else count, 2
        made = _complex(b, rows, count, extent, 1 if inverse else -1, None)
    result = b.op("Reshape", made, b.op("Concat", outer, numbers(b, extent, last), axis=0))
    if moved != list(range(rank)):
        result = b.op("Transpose", result, perm=[moved.index(i) for i in range(rank)])
    return [
        result if wide.tensor_type.dtype == x.tensor_type.dtype else b.op("Cast", result, to=x.tensor_type.dtype.onnx)
    ]


def _stft(b: Builder, node: Node, inputs: Values) -> Values | None:
    signal, window = needed(inputs, 0), given(inputs, 2)
    step = _number(given(inputs, 1))
    size = _number(given(inputs, 3))
    if given(inputs, 3) is None and window is not None:
        extent = window.tensor_type.dims[0]
        size = extent if isinstance(extent, int) else None
    if step is None or size is None or step < 1 or size < 1 or not isinstance(signal.tensor_type.dims[1], int):
        return None
    shape, wide = signal.tensor_type.dims, _widened(b, signal)
    parts = shape[2] if len(shape) == 3 else 1
    length = shape[1]
    assert isinstance(length, int), "checked above"
    if not isinstance(parts, int) or length < size:
        return None
    flat = b.op("Reshape", wide, numbers(b, 0, length, parts))
    if node.int_attribute("onesided", 1) and parts == 2:
        flat, parts = b.op("Slice", flat, numbers(b, 0), numbers(b, 1), numbers(b, 2)), 1
    frames = b.op("Frames", flat, domain=GRAPHC_DOMAIN, size=size, step=step)
    weights: Array | None = None
    if window is not None:
        span = window.tensor_type.dims[0]
        if not isinstance(span, int):
            return None
        # A window shorter than its frame stands in the frame's middle.
        before = (size - span) // 2
        if window.constant is not None:
            weights = np.pad(window.constant.array().astype(np.float64), (before, size - span - before))
        else:
            spread = b.op(
                "Pad", b.op("Cast", window, to=wide.tensor_type.dtype.onnx), numbers(b, before, size - span - before)
            )
            frames = b.op("Mul", frames, b.op("Unsqueeze", spread, numbers(b, 1)))
    bins = size // 2 + 1 if node.int_attribute("onesided", 1) else size
    made = _complex(b, b.op("Reshape", frames, numbers(b, -1, size, parts)), size, bins, -1, weights)
    count = (length - size) // step + 1
    result = b.op("Reshape", made, numbers(b, -1, count, bins, 2))
    same = wide.tensor_type.dtype == signal.tensor_type.dtype
    return [result if same else b.op("Cast", result, to=signal.tensor_type.dtype.onnx)]


def _frames(b: Builder, node: Node, inputs: Values) -> Values | None:
    x, size, step = needed(inputs, 0), node.int_attribute("size", 1), node.int_attribute("step", 1)
    length = x.tensor_type.dims[1]
    if not isinstance(length, int):
        return None
    starts = np.arange((length - size) // step + 1)[:, None] * step
    return [b.op("Gather", x, b.constant(starts + np.arange(size)), axis=1)]


def _express_frames(ctx: ExpressionContext) -> list[TensorExpr]:
    """Frames (batch, frames, size, parts) of a signal (batch, samples, parts), a step apart."""
    axes = axes_of(ctx.outputs[0].dims)
    batch, frame, place, part = (axis.index for axis in axes)
    at: Dim = frame * ctx.node.int_attribute("step", 1) + place
    return [TensorExpr(axes, load(0, ctx.tensor(0).dtype, (batch, at, part)))]


decomposed("DFT", _dft, define=False)
decomposed("STFT", _stft, define=False)
decomposed("Frames", _frames, domain=GRAPHC_DOMAIN, traits={Trait.MOVEMENT}, expression=_express_frames)
