"""Signals: Fourier transforms, window functions, the mel filter bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import add, floordiv
from graphc.ops.base import Array, Datum, InferenceContext, Operator, register
from graphc.ops.indexing import subtract


def _number(ctx: InferenceContext, index: int, name: str) -> Dim:
    """The one element of an integer input; a symbol where the data decides."""
    found = ctx.dims(index)
    return ctx.fresh(name) if found is None else found[0]


def _fourier_axis(ctx: InferenceContext, rank: int) -> int | None:
    axis = ctx.constant(2) if ctx.has(2) else np.array(-2)
    if axis is None:
        return None
    found = int(axis.reshape(()))
    if not -rank <= found < rank or found % rank == rank - 1:
        ctx.fail(f"axis {found} of an input of rank {rank}")
    return found % rank


def _infer_dft(ctx: InferenceContext) -> Sequence[Type]:
    shape = list(ctx.shape(0))
    axis = _fourier_axis(ctx, len(shape))
    inverse, onesided = ctx.node.int_attribute("inverse", 0), ctx.node.int_attribute("onesided", 0)
    if axis is None:
        return [ctx.tensor(0).with_shape([*(ctx.fresh("dft") for _ in shape[:-1]), 1 if inverse and onesided else 2])]
    length = _number(ctx, 1, "dft") if ctx.has(1) else shape[axis]
    if onesided and not inverse:
        shape[axis] = add(floordiv(length, 2), 1)
    elif onesided and not ctx.has(1):
        shape[axis] = 2 * subtract(length, 1)
    else:
        shape[axis] = length
    shape[-1] = 1 if inverse and onesided else 2
    return [ctx.tensor(0).with_shape(shape)]


def as_complex(x: Array) -> Array:
    """Real (last extent 1) or complex (last extent 2) numbers as NumPy's, at double precision for narrow floats."""
    work = x.astype(np.float64)
    return work[..., 0] if x.shape[-1] == 1 else work[..., 0] + 1j * work[..., 1]


def _as_pairs(values: Array, like: Array) -> Array:
    return np.stack([values.real, values.imag], axis=-1).astype(like.dtype)


def _evaluate_dft(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, length, axis_input = [*inputs, None, None][:3]
    axis = (-2 if axis_input is None else int(np.asarray(axis_input).reshape(()))) % x.ndim
    count = None if length is None else int(np.asarray(length).reshape(()))
    values = as_complex(x)
    inverse, onesided = node.int_attribute("inverse", 0), node.int_attribute("onesided", 0)
    if inverse and onesided:
        return [np.fft.irfft(values, count, axis)[..., None].astype(x.dtype)]
    if onesided:
        return [_as_pairs(np.fft.rfft(values.real, count, axis), x)]
    return [_as_pairs((np.fft.ifft if inverse else np.fft.fft)(values, count, axis), x)]


def _infer_stft(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    if len(shape) not in (2, 3):
        ctx.fail(f"signal of shape {list(shape)} must have 2 or 3 axes")
    step = ctx.constant(1)
    if ctx.has(3):
        length = _number(ctx, 3, "frame")
    elif ctx.has(2):
        length = ctx.shape(2)[0]
    else:
        ctx.fail("neither a window nor a frame length is given")
    if step is None:
        frames: Dim = ctx.fresh("frames")
    else:
        if int(step.reshape(())) < 1:
            ctx.fail(f"frame step is {int(step.reshape(()))}")
        frames = add(floordiv(subtract(shape[1], length), int(step.reshape(()))), 1)
    bins = add(floordiv(length, 2), 1) if ctx.node.int_attribute("onesided", 1) else length
    return [ctx.tensor(0).with_shape((shape[0], frames, bins, 2))]


def _evaluate_stft(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    signal, step, window, length = [*inputs, None, None][:4]
    size = int(np.asarray(length).reshape(())) if length is not None else window.shape[0]
    stride = int(np.asarray(step).reshape(()))
    values = as_complex(signal if signal.ndim == 3 else signal[..., None])
    frames = np.lib.stride_tricks.sliding_window_view(values, size, axis=1)[:, ::stride]
    if window is not None:
        # A window shorter than its frame stands in the frame's middle.
        before = (size - window.shape[0]) // 2
        frames = frames * np.pad(window.astype(np.float64), (before, size - window.shape[0] - before))
    transform = np.fft.rfft(frames.real) if node.int_attribute("onesided", 1) else np.fft.fft(frames)
    return [_as_pairs(transform, signal)]


def _infer_window(ctx: InferenceContext) -> Sequence[Type]:
    dtype = dtypes.from_onnx(ctx.node.int_attribute("output_datatype", dtypes.FLOAT32.onnx))
    size = _number(ctx, 0, "window")
    if isinstance(size, int) and size < 0:
        ctx.fail(f"a window of {size} elements")
    return [TensorType(dtype, (size,))]


def _cosine_window(*coefficients: float) -> Callable[[Node, Sequence[Datum]], Sequence[Datum]]:
    """A window that is a sum of cosines with alternating signs."""

    def evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
        size = int(np.asarray(inputs[0]).reshape(()))
        if size < 0:
            raise ValueError(f"a window of {size} elements")
        period = max(size if node.int_attribute("periodic", 1) else size - 1, 1)
        angle = 2 * np.pi * np.arange(size) / period
        terms = [(-1) ** i * c * np.cos(i * angle) for i, c in enumerate(coefficients)]
        dtype = dtypes.from_onnx(node.int_attribute("output_datatype", dtypes.FLOAT32.onnx))
        return [np.sum(terms, axis=0).astype(dtype.numpy)]

    return evaluate


def _infer_mel(ctx: InferenceContext) -> Sequence[Type]:
    for index in (2, 3, 4):
        # The elements decide nothing here, but with them the matrix is a constant.
        ctx.constant(index)
    dtype = dtypes.from_onnx(ctx.node.int_attribute("output_datatype", dtypes.FLOAT32.onnx))
    return [TensorType(dtype, (add(floordiv(_number(ctx, 1, "dft"), 2), 1), _number(ctx, 0, "mel")))]


def _evaluate_mel(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    """Triangles over the bins of a spectrum, whose corners are equally far apart on the mel scale."""
    bins, length, rate = (int(np.asarray(x).reshape(())) for x in inputs[:3])
    low, high = (float(np.asarray(x).reshape(())) for x in inputs[3:5])
    low_mel, high_mel = (2595 * np.log1p(edge / 700) / np.log(10) for edge in (low, high))
    mels = np.arange(bins + 2) * ((high_mel - low_mel) / (bins + 2)) + low_mel
    corners = ((length + 1) * (700 * np.expm1(mels / 2595 * np.log(10))) // rate).astype(np.int64)
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    at = np.arange(length // 2 + 1)[:, None]
    rising = np.where(left == center, 1.0, (at - left) / np.maximum(center - left, 1))
    falling = (right - at) / np.maximum(right - center, 1)
    found = np.where((left <= at) & (at <= center), rising, 0.0)
    found = np.where((center <= at) & (at < right), falling, found)
    dtype = dtypes.from_onnx(node.int_attribute("output_datatype", dtypes.FLOAT32.onnx))
    return [found.astype(dtype.numpy)]


for operator in (
    Operator("DFT", _infer_dft, _evaluate_dft),
    Operator("STFT", _infer_stft, _evaluate_stft),
    Operator("HannWindow", _infer_window, _cosine_window(0.5, 0.5)),
    Operator("HammingWindow", _infer_window, _cosine_window(25 / 46, 21 / 46)),
    Operator("BlackmanWindow", _infer_window, _cosine_window(0.42, 0.5, 0.08)),
    Operator("MelWeightMatrix", _infer_mel, _evaluate_mel),
):
    register(operator)
