"""Random nodes, operator by operator: which operands and attributes go with a first operand of a given type.

One table serves the random graphs and the random instances of rules' patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir import Attribute, DType, TensorType, dtypes
from graphc.ops.base import Array
from graphc.passes.rules import Chooser
from graphc.testing.choosing import chance, permutation

FLOATS = (dtypes.FLOAT32, dtypes.FLOAT64)
INTEGERS = (dtypes.INT64, dtypes.INT32)
NUMBERS = (*FLOATS, *INTEGERS)
MAX_SIZE = 4096
"""Largest number of elements of any tensor in a random graph."""


@dataclass(frozen=True)
class Operand:
    """An input that fits.

    Args:
        type: Its type.
        array: Its elements, where they must be these (axes, shapes, weights that must not vanish).
    """

    type: TensorType
    array: Array | None = None


@dataclass(frozen=True)
class Sample:
    """Operands (None for an absent one) and attributes of one node."""

    operands: tuple[Operand | None, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)


Sampler = Callable[[TensorType, Chooser], "Sample | None"]


@dataclass(frozen=True)
class OperatorSampler:
    """How random nodes of an operator are made.

    Args:
        kinds: Dtypes of the first operand.
        ranks: Ranks of the first operand, least and most.
        sample: Answers a node for a first operand of a type, the first operand included; None where it does not fit.
        outputs: How many outputs the sample's node has, given its attributes and operands.
    """

    dtypes: tuple[DType, ...]
    ranks: tuple[int, int]
    sample: Sampler
    outputs: Callable[[Sample], int] = lambda sample: 1

    def accepts(self, type_: TensorType) -> bool:
        """Whether a value of this type can be the first operand."""
        if type_.dtype not in self.dtypes or not type_.is_static or 0 in type_.static_shape:
            return False
        return self.ranks[0] <= len(type_.static_shape) <= self.ranks[1]

    def first(self, choose: Chooser) -> TensorType:
        """A type for the first operand."""
        return tensor_type(choose, self.dtypes, self.ranks)


def tensor_type(choose: Chooser, kinds: Sequence[DType] = FLOATS, ranks: tuple[int, int] = (0, 4)) -> TensorType:
    """A random type of a small tensor; extents of 1 come often, because broadcasting turns on them."""
    rank = choose.integer(*ranks)
    return TensorType(choose.pick(kinds), tuple(choose.pick((2, 3, 1, 4, 5)) for _ in range(rank)))


def ints(*values: int) -> Operand:
    """A constant int64 vector."""
    array = np.array(values, np.int64)
    return Operand(TensorType(dtypes.INT64, array.shape), array)


def number(value: float, dtype: DType) -> Operand:
    """A constant scalar."""
    return Operand(TensorType(dtype, ()), np.array(value).astype(dtype.numpy))


def values(choose: Chooser, type_: TensorType, *, low: float = -2, high: float = 2) -> Array:
    """Distinct elements of a type, spread over `low..high` and away from zero, in a random order."""
    shape = type_.static_shape
    size = int(np.prod(shape))
    random = np.random.default_rng(choose.integer(0, 2**16))
    if type_.dtype.kind == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if type_.dtype.is_integer:
        low, high = (max(low, 0), high) if type_.dtype.kind == "uint" else (low, high)
        return random.integers(int(np.ceil(low)), int(np.floor(high)) + 1, shape).astype(type_.dtype.numpy)
    step = (high - low) / max(size, 1)
    places = low + step * (np.arange(size) + random.uniform(0.3, 0.7, size))
    return np.asarray(random.permutation(places).reshape(shape), type_.dtype.numpy)


def broadcast_partner(choose: Chooser, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that broadcasts with `shape`, now and then to a larger one."""
    if chance(choose, 40):
        return tuple(shape)
    if shape and chance(choose, 30):
        kept = choose.integer(0, len(shape) - 1)
        return (shape[kept], *(1 for _ in shape[kept + 1 :]))
    partner = list(shape[choose.integer(0, len(shape)) :])
    for place, extent in enumerate(partner):
        if chance(choose, 30):
            partner[place] = 1
        elif extent == 1 and chance(choose, 30):
            partner[place] = choose.pick((2, 3))
    return tuple(partner)


def _unary(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),))


def _binary(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_), Operand(type_.with_shape(broadcast_partner(choose, type_.static_shape)))))


def _divide(type_: TensorType, choose: Chooser) -> Sample:
    divisor = type_.with_shape(broadcast_partner(choose, type_.static_shape))
    return Sample((Operand(type_), Operand(divisor, values(choose, divisor, low=1, high=3))))


def _power(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_), number(choose.pick((2, 3, 1)), type_.dtype)))


def _variadic(type_: TensorType, choose: Chooser) -> Sample:
    partners = [type_.with_shape(broadcast_partner(choose, type_.static_shape)) for _ in range(choose.integer(0, 1))]
    return Sample((Operand(type_), *map(Operand, partners)))


def _where(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    branch = TensorType(choose.pick(NUMBERS), broadcast_partner(choose, shape))
    return Sample((Operand(type_), Operand(branch), Operand(branch.with_shape(shape))))


def _clip(type_: TensorType, choose: Chooser) -> Sample:
    low = number(choose.pick((0, -1)), type_.dtype) if chance(choose, 70) else None
    high = number(choose.pick((1, 6)), type_.dtype) if low is None or chance(choose, 70) else None
    return Sample((Operand(type_), low, high))


def _cast(type_: TensorType, choose: Chooser) -> Sample:
    wanted = NUMBERS if type_.dtype.is_float else (*NUMBERS, dtypes.FLOAT16)
    # A float on its way to an integer would be cut at a place that rounding decides.
    targets = [d for d in wanted if d.is_float or not type_.dtype.is_float]
    return Sample((Operand(type_),), {"to": choose.pick(targets).onnx})


def _transpose(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"perm": tuple(permutation(choose, range(type_.rank or 0)))})


def _reshape(type_: TensorType, choose: Chooser) -> Sample:
    size = int(np.prod(type_.static_shape))
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    first = choose.pick(divisors)
    targets = (
        type_.static_shape,
        (size,),
        type_.static_shape,
        (first, size // first),
        (first, -1),
        (1, first, size // first),
    )
    target = choose.pick(targets)
    return Sample((Operand(type_), ints(*target)))


def _flatten(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"axis": choose.integer(0, type_.rank or 0)})


def _squeeze(type_: TensorType, choose: Chooser) -> Sample | None:
    units = [axis for axis, extent in enumerate(type_.static_shape) if extent == 1]
    return Sample((Operand(type_), ints(choose.pick(units)))) if units else None


def _unsqueeze(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_), ints(choose.integer(0, type_.rank or 0))))


def _concat(type_: TensorType, choose: Chooser) -> Sample:
    axis = choose.integer(0, len(type_.static_shape) - 1)
    shape = list(type_.static_shape)
    shape[axis] = choose.integer(1, 3)
    count = choose.integer(1, 3)
    others = [Operand(type_.with_shape(shape))] * (count - 1)
    return Sample((Operand(type_), *others), {"axis": axis})


def _split(type_: TensorType, choose: Chooser) -> Sample:
    axis = choose.integer(0, len(type_.static_shape) - 1)
    extent = type_.static_shape[axis]
    cut = choose.integer(0, extent)
    sizes = [cut, extent - cut] if 0 < cut < extent else [extent]
    return Sample((Operand(type_), ints(*sizes)), {"axis": axis})


def _slice(type_: TensorType, choose: Chooser) -> Sample:
    starts, ends, axes, steps = [], [], [], []
    for axis in sorted(permutation(choose, range(type_.rank or 0))[: choose.integer(1, 2)]):
        extent = type_.static_shape[axis]
        start = choose.integer(0, extent - 1)
        forward = chance(choose, 75)
        starts.append(start)
        ends.append(choose.integer(start + 1, extent + 1) if forward else -extent - 1)
        axes.append(axis)
        steps.append(choose.integer(1, 2) if forward else -1)
    return Sample((Operand(type_), ints(*starts), ints(*ends), ints(*axes), ints(*steps)))


def _expand(type_: TensorType, choose: Chooser) -> Sample:
    shape = [choose.integer(2, 3) if extent == 1 else extent for extent in type_.static_shape]
    return Sample((Operand(type_), ints(*([2] if chance(choose, 20) else []), *shape)))


def _tile(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_), ints(*(choose.integer(1, 2) for _ in type_.static_shape))))


def _pad(type_: TensorType, choose: Chooser) -> Sample:
    rank = len(type_.static_shape)
    least = 2 if rank > 2 else 0
    amounts = [choose.integer(0, 2) if axis >= least else 0 for axis in range(rank)] * 2
    return Sample((Operand(type_), ints(*amounts), number(0, type_.dtype)))


def _gather(type_: TensorType, choose: Chooser) -> Sample:
    axis = choose.integer(0, len(type_.static_shape) - 1)
    extent = type_.static_shape[axis]
    indices = [choose.integer(0, extent - 1) for _ in range(choose.integer(1, 3))]
    return Sample((Operand(type_), ints(*indices)), {"axis": axis})


def _reduce(type_: TensorType, choose: Chooser) -> Sample:
    rank = len(type_.static_shape)
    axes = permutation(choose, range(rank))[: choose.integer(1, rank)]
    return Sample((Operand(type_), ints(*sorted(axes))), {"keepdims": choose.integer(0, 1)})


def _along_axis(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"axis": choose.pick((-1, 0))})


def _layer_norm(type_: TensorType, choose: Chooser) -> Sample:
    weight = type_.with_shape(type_.static_shape[-1:])
    return Sample((Operand(type_), Operand(weight), Operand(weight)), {"axis": -1, "epsilon": 1e-3})


def _batch_norm(type_: TensorType, choose: Chooser) -> Sample:
    vector = type_.with_shape(type_.static_shape[1:2])
    scale, shift, mean = (Operand(vector, values(choose, vector)) for _ in range(3))
    variance = Operand(vector, values(choose, vector, low=0.5, high=2))
    return Sample((Operand(type_), scale, shift, mean, variance), {"epsilon": 1e-3})


def _conv(type_: TensorType, choose: Chooser) -> Sample:
    _, channels, *spatial = type_.static_shape
    groups = choose.pick((1, channels))
    filters = groups * choose.integer(1, 2)
    kernel = [choose.integer(1, min(3, extent)) for extent in spatial]
    weight = type_.with_shape((filters, channels // groups, *kernel))
    bias = type_.with_shape((filters,))
    operands = (
        Operand(type_),
        Operand(weight, values(choose, weight)),
        Operand(bias, values(choose, bias)) if chance(choose, 50) else None,
    )
    pads = tuple(choose.integer(0, 1) for _ in spatial) * 2
    strides = tuple(choose.integer(1, 2) for _ in spatial)
    return Sample(operands, {"group": groups, "pads": pads, "strides": strides, "kernel_shape": tuple(kernel)})


def _conv_transpose(type_: TensorType, choose: Chooser) -> Sample:
    _, channels, *spatial = type_.static_shape
    groups = choose.pick((1, channels))
    per_group = choose.integer(1, 2)
    weight = type_.with_shape((channels, per_group, *(choose.integer(1, 2) for _ in spatial)))
    bias = type_.with_shape((per_group * groups,))
    operands = (
        Operand(type_),
        Operand(weight, values(choose, weight)),
        Operand(bias, values(choose, bias)) if chance(choose, 50) else None,
    )
    return Sample(operands, {"group": groups, "strides": tuple(choose.integer(1, 2) for _ in spatial)})


def _pool(type_: TensorType, choose: Chooser) -> Sample:
    spatial = type_.static_shape[2:]
    whole = chance(choose, 20)
    kernel = tuple(extent if whole else choose.integer(1, min(2, extent)) for extent in spatial)
    return Sample((Operand(type_),), {"kernel_shape": kernel, "strides": tuple(choose.integer(1, 2) for _ in spatial)})


def _matmul(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    batch = shape[:-2] if chance(choose, 50) else ()
    weight = type_.with_shape((*batch, shape[-1], choose.integer(1, 4)))
    return Sample((Operand(type_), Operand(weight, values(choose, weight) if chance(choose, 70) else None)))


def _gemm(type_: TensorType, choose: Chooser) -> Sample:
    (_, depth), columns, transposed = type_.static_shape, choose.integer(1, 4), choose.integer(0, 1)
    weight = type_.with_shape((columns, depth) if transposed else (depth, columns))
    bias = type_.with_shape((columns,))
    operands = (
        Operand(type_),
        Operand(weight, values(choose, weight)),
        Operand(bias, values(choose, bias)) if chance(choose, 70) else None,
    )
    return Sample(operands, {"transB": transposed})


def _resize(type_: TensorType, choose: Chooser) -> Sample:
    scales = np.array([1, 1, *(choose.pick((1, 2)) for _ in type_.static_shape[2:])], np.float32)
    operand = Operand(TensorType(dtypes.FLOAT32, scales.shape), scales)
    attributes: dict[str, Attribute] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    return Sample((Operand(type_), None, operand), {**attributes, "nearest_mode": "floor"})


def _cast_like(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_), Operand(TensorType(choose.pick(FLOATS), ()))))


def _table(names: Iterable[str], *rest: Any) -> dict[str, OperatorSampler]:
    return {name: OperatorSampler(*rest) for name in names}


_ANY = (0, 4)
_SPATIAL = (3, 4)
SAMPLERS: dict[str, OperatorSampler] = {
    **_table(("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu"), FLOATS, _ANY, _unary),
    **_table(("Elu", "Selu", "Softplus", "Softsign", "Gelu", "Mish", "Cos", "Sin", "Atan"), FLOATS, _ANY, _unary),
    **_table(("Sqrt", "Log", "Reciprocal"), FLOATS, _ANY, _unary),
    **_table(("Floor", "Ceil", "Round"), FLOATS, _ANY, _unary),
    **_table(("Neg", "Abs", "Sign"), NUMBERS, _ANY, _unary),
    **_table(("Identity",), NUMBERS, _ANY, _unary),
    **_table(("Dropout",), FLOATS, _ANY, _unary),
    **_table(("Not",), (dtypes.BOOL,), _ANY, _unary),
    **_table(("IsNaN",), FLOATS, _ANY, _unary),
    **_table(("Add", "Sub", "Mul"), NUMBERS, _ANY, _binary),
    **_table(("Div",), NUMBERS, _ANY, _divide),
    **_table(("Pow",), NUMBERS, _ANY, _power),
    **_table(("Max", "Min", "Sum", "Mean"), FLOATS, _ANY, _variadic),
    **_table(("Less", "Greater", "LessOrEqual", "GreaterOrEqual"), NUMBERS, _ANY, _binary),
    **_table(("Equal",), INTEGERS, _ANY, _binary),
    **_table(("And", "Or", "Xor"), (dtypes.BOOL,), _ANY, _binary),
    **_table(("Where",), (dtypes.BOOL,), _ANY, _where),
    **_table(("Clip",), NUMBERS, _ANY, _clip),
    **_table(("Cast",), (*NUMBERS, dtypes.BOOL), _ANY, _cast),
    **_table(("CastLike",), NUMBERS, _ANY, _cast_like),
    **_table(("Transpose",), NUMBERS, (1, 4), _transpose),
    **_table(("Reshape",), NUMBERS, _ANY, _reshape),
    **_table(("Flatten",), NUMBERS, (1, 4), _flatten),
    **_table(("Squeeze",), NUMBERS, (1, 4), _squeeze),
    **_table(("Unsqueeze",), NUMBERS, (0, 3), _unsqueeze),
    **_table(("Concat",), NUMBERS, (1, 4), _concat),
    **_table(("Split",), NUMBERS, (1, 4), _split, lambda sample: _second_size(sample)),
    **_table(("Slice",), NUMBERS, (1, 4), _slice),
    **_table(("Expand",), NUMBERS, (0, 3), _expand),
    **_table(("Tile",), NUMBERS, (1, 3), _tile),
    **_table(("Pad",), FLOATS, (1, 4), _pad),
    **_table(("Gather",), NUMBERS, (1, 3), _gather),
    **_table(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"), FLOATS, (1, 4), _reduce),
    **_table(("ReduceProd", "ReduceL2", "ReduceSumSquare"), FLOATS, (1, 4), _reduce),
    **_table(("ArgMax",), FLOATS, (1, 4), _along_axis),
    **_table(("Softmax", "LogSoftmax"), FLOATS, (1, 4), _along_axis),
    **_table(("LayerNormalization",), FLOATS, (2, 4), _layer_norm),
    **_table(("BatchNormalization",), FLOATS, (2, 4), _batch_norm),
    **_table(("GlobalAveragePool", "GlobalMaxPool"), FLOATS, _SPATIAL, _unary),
    **_table(("MaxPool", "AveragePool"), FLOATS, _SPATIAL, _pool),
    **_table(("Conv",), FLOATS, _SPATIAL, _conv),
    **_table(("ConvTranspose",), FLOATS, _SPATIAL, _conv_transpose),
    **_table(("MatMul",), FLOATS, (2, 4), _matmul),
    **_table(("Gemm",), FLOATS, (2, 2), _gemm),
    **_table(("Resize",), (dtypes.FLOAT32,), (4, 4), _resize),
}
"""How random nodes of each operator are made. An operator not here can stand in a rule only with `examples`."""


def _second_size(sample: Sample) -> int:
    sizes = sample.operands[1]
    assert sizes is not None
    return int(sizes.type.static_shape[0])
