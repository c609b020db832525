"""Half-width computation where it is safe: products and what follows them in float16 or bfloat16, the rest in float32.

Products accumulate in float32 whatever their operands are, so what is given up is the rounding of operands and results.
What sums many elements on its own account (normalizations, softmax, reductions), grows without bound (exponentials,
powers) or counts (positions) stays in float32, as in Micikevicius et al., "Mixed Precision Training" (2018), section 3.
Values that a kernel computes in float32 from half-width ones are rounded once, where they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import ml_dtypes
import numpy as np

from graphc.errors import OptionError
from graphc.ir import Builder, Graph, Node, Tensor, TensorType, Value, clone_node
from graphc.ir.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, DType
from graphc.ops import infer_node
from graphc.ops.base import Array, Trait, find
from graphc.ops.conversion import convert
from graphc.passes.base import Finding, PassContext, register_pass
from graphc.passes.edit import cannot_replace, replace_value

HALVES = {"fp16": FLOAT16, "bf16": BFLOAT16}
"""Half-width types by the names that `--precision` takes."""

PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""Operators that are narrowed wherever their operands fit."""

FOLLOWERS = frozenset(
    {
        *("Abs", "Add", "Celu", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
        *("Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sub", "Sum"),
        *("SwiGLU", "Swish", "Tanh", "ThresholdedRelu", "Where"),
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Pad", "Reshape"),
        *("Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
        *("MaxPool", "RotaryEmbedding"),
    }
)
"""Operators that are narrowed where something half-width comes to them."""

GROWING = frozenset({"CumProd", "CumSum", "Exp", "Pow", "ReduceProd", "ReduceSumSquare"})
"""Operators whose results may be beyond a half-width type's range though what they read is not."""

BOUNDED = frozenset({"Clip", "Div", "Erf", "HardSigmoid", "Log", "Reciprocal", "Sigmoid", "Softsign", "Sqrt", "Tanh"})
"""Pointwise operators behind which a value is taken to be within range again."""

KEPT_BYTES = 1 << 20
"""Constants up to this size are kept in the type that they were converted to."""

OPERANDS = {"Attention": (0, 1, 2, 4, 5), "Resize": (0,), "Pad": (0, 2)}
"""Inputs of an operator's own element type, where others may be float32 too."""


@register_pass
@dataclass(frozen=True)
class Precision:
    """Computes products, and what follows them safely, in a half-width type; inputs and outputs keep their types.

    Before: types are inferred, scales are folded into weights. After: casts stand where values enter and leave the
    half-width part of each graph; constants beyond the type's range, and what is computed from them, stay float32.

    Args:
        to: `fp16` or `bf16`; empty takes the compile's `precision`, which may be to leave all as it is.
    """

    name: ClassVar[str] = "precision"
    to: str = ""

    def __post_init__(self) -> None:
        if self.to and self.to not in HALVES:
            raise OptionError(f"pass {self.name!r} has no type {self.to!r}; known: {', '.join(HALVES)}")

    def run(self, graph: Graph, context: PassContext) -> int:
        """Narrows node by node in graph order; answers how many."""
        dtype = self._type(context)
        return (
            0 if dtype is None else sum(_Narrowing(inner, dtype, context).run() for inner in list(graph.all_graphs()))
        )

    def explain(self, graph: Graph, context: PassContext) -> Iterator[Finding]:
        """Which nodes would be narrowed, and why others would not be."""
        dtype = self._type(context)
        if dtype is None:
            return
        for inner in graph.all_graphs():
            narrowing = _Narrowing(inner, dtype, context)
            for node in inner.nodes:
                reason = narrowing.foresee(node)
                if reason is None or reason:
                    yield Finding(node, reason or f"it computes in {dtype}", done=reason is None)

    def _type(self, context: PassContext) -> DType | None:
        return HALVES.get(self.to or str(context.options.get("precision", "")))


class _Narrowing:
    """One graph on its way to a half-width type.

    Args:
        graph: Changed in place; subgraphs are graphs of their own.
        dtype: The type.
        context: Permits each change, and says what has a compiled form.
    """

    def __init__(self, graph: Graph, dtype: DType, context: PassContext) -> None:
        self.graph, self.dtype, self.context = graph, dtype, context
        self.limits = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
        self.half: dict[Value, Value] = {}
        self.beyond: set[Value] = set()
        self._fitting: dict[Value, bool] = {}

    def run(self) -> int:
        """Narrows what can be; answers how many nodes."""
        changes = 0
        for node in list(self.graph.nodes):
            if node.is_op("Cast") and self._meet(node):
                continue
            reason = self.refusal(node)
            if reason is None and self.context.permit(Precision.name, node):
                reason = self._narrow(node)
                changes += reason is None
            if reason:
                self.context.refused(Precision.name, node, reason)
            self._note_range(node)
        return changes

    def _meet(self, cast: Node) -> bool:
        """Whether a cast of the model is one from or to the type, which needs none behind a half-width value."""
        source = cast.input(0)
        if source is None or not isinstance(source.type, TensorType):
            return False
        if source.type.dtype == self.dtype and is_float32(cast.output):
            self.half[cast.output] = source
            return True
        known = self.half.get(source)
        if known is None or cast.output.tensor_type.dtype != self.dtype:
            return False
        if cannot_replace(cast.output, known, fresh=False) is None:
            replace_value(cast.output, known)
        return True

    def foresee(self, node: Node) -> str | None:
        """What `refusal` will say of a node, asked in graph order, with nothing changed."""
        source = node.input(0)
        widens = node.is_op("Cast") and is_float32(node.output)
        if widens and source is not None and source.tensor_type.dtype == self.dtype:
            self.half[node.output] = source
        reason = self.refusal(node)
        if reason is None:
            narrowed = (*(node.inputs[index] for index in _operands(node)), *node.outputs)
            self.half.update((value, value) for value in narrowed if value is not None and is_float32(value))
        else:
            self._note_range(node)
        return reason

    def refusal(self, node: Node) -> str | None:
        """Why a node stays in float32; empty where it has nothing to do with floats. None where it can be narrowed."""
        if node.domain != "" or node.is_op("Constant") or not any(is_float32(value) for value in node.outputs):
            return ""
        seed = node.op_type in PRODUCTS or _is_table(node)
        if not seed and node.op_type not in FOLLOWERS:
            return f"{node.op} is computed in float32: it sums, grows or counts"
        operands = [node.inputs[index] for index in _operands(node)]
        if not operands:
            return ""
        # A constant that another node reads half-width says nothing of what comes to this one.
        if not seed and not any(
            value in self.half and value.constant is None for value in operands if value is not None
        ):
            return f"nothing half-width comes to {node.op}"
        for value in operands:
            assert value is not None
            if value in self.beyond or not self._fits(value):
                return f"%{value.name} may be beyond the range of {self.dtype}"
        return None

    def _narrow(self, node: Node) -> str | None:
        """Puts a half-width copy in a node's place, or says why there is none."""
        builder = Builder(self.graph, before=node, origins=node.origins, infer=infer_node)
        operands = {node.inputs[index]: None for index in _operands(node)}
        made = {value: self._halved(builder, value) for value in operands if value is not None}
        copy = clone_node(node, {}, [self.graph.fresh_name(value.name) if value.name else "" for value in node.outputs])
        for index in _operands(node):
            value = node.inputs[index]
            assert value is not None
            copy.set_input(index, made[value])
        builder.insert(copy)
        for value, kind in zip(copy.outputs, infer_node(copy), strict=True):
            value.type = kind
        reason = self._misfit(node, copy)
        if reason is not None:
            self.graph.remove(copy)
            return reason
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            if not old.name:
                continue
            if not is_float32(old):
                replace_value(old, new)
                continue
            wide = builder.op("Cast", new, to=FLOAT32.onnx)
            self.half[wide] = new
            replace_value(old, wide)
        self.graph.remove(node)
        return None

    def _misfit(self, node: Node, copy: Node) -> str | None:
        """Why the half-width copy does not do."""
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            if old.name and is_float32(old) and not (isinstance(new.type, TensorType) and new.type.dtype == self.dtype):
                return f"{node.op} makes {new.type} of {self.dtype}"
        capability = self.context.capability
        if capability is not None and capability.supports(node) and not (verdict := capability.supports(copy)):
            return verdict.reason
        return None

    def _halved(self, builder: Builder, value: Value) -> Value:
        """The value as the half-width type; large constants are converted when they are read."""
        if value not in self.half:
            tensor, view = value.constant, value.producer
            if tensor is None and view is not None and _is_float_view(view):
                # Before the view, where the kernel that makes the value can round it.
                copy = clone_node(view, {}, [self.graph.fresh_name(value.name)])
                source = view.inputs[0]
                assert source is not None, "it has one"
                copy.set_input(0, self._halved(builder, source))
                builder.insert(copy)
                copy.output.type = value.tensor_type.with_dtype(self.dtype)
                self.half[value] = copy.output
            elif tensor is None:
                self.half[value] = builder.op("Cast", value, to=self.dtype.onnx)
            else:
                load = partial(_converted, tensor, self.dtype)
                narrow = Tensor(self.dtype, tensor.shape, load, keep=tensor.nbytes <= KEPT_BYTES)
                self.half[value] = builder.constant(narrow, name=value.name)
        return self.half[value]

    def _fits(self, value: Value) -> bool:
        """Whether a constant is within range, infinities aside; a single number must not become zero either."""
        tensor = value.constant
        if tensor is None:
            return True
        if value not in self._fitting:
            array = tensor.array()
            if array.size and not np.isfinite([array.min(), array.max()]).all():
                array = array[np.isfinite(array)]
            largest = max(float(array.max()), -float(array.min())) if array.size else 0.0
            vanishes = tensor.size == 1 and 0 < largest < float(self.limits.smallest_normal)
            self._fitting[value] = largest <= float(self.limits.max) and not vanishes
        return self._fitting[value]

    def _note_range(self, node: Node) -> None:
        """Notes results that may be beyond the type's range."""
        operator = find(node)
        if operator is None or node.graph is None:
            return
        grows = node.op_type in GROWING or _counts(node)
        passes = (operator.has(Trait.POINTWISE) or operator.has(Trait.MOVEMENT)) and node.op_type not in BOUNDED
        if grows or (
            passes
            and any(v is not None and is_float32(v) and (v in self.beyond or not self._fits(v)) for v in node.inputs)
        ):
            self.beyond.update(value for value in node.outputs if is_float32(value))


def _converted(tensor: Tensor, dtype: DType) -> Array:
    return convert(tensor.array(), dtype)


def is_float32(value: Value | None) -> bool:
    """Whether a value is a tensor of float32."""
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype == FLOAT32


def _operands(node: Node) -> list[int]:
    """Numbers of the inputs that have the element type that a node computes in."""
    allowed = OPERANDS.get(node.op_type, range(len(node.inputs)))
    return [index for index in allowed if is_float32(node.input(index))]


def _is_table(node: Node) -> bool:
    """Whether a node looks rows up in a constant: an embedding."""
    table = node.input(0)
    return node.op_type == "Gather" and table is not None and table.constant is not None and table.constant.size > 1024


def _counts(node: Node) -> bool:
    """Whether a node makes floats of integers, which may be large."""
    source = node.input(0)
    if not node.is_op("Cast") or source is None or not isinstance(source.type, TensorType):
        return False
    return source.type.dtype.is_integer and source.type.dtype != BOOL


def _is_float_view(node: Node) -> bool:
    """Whether a node gives a float32 value another shape and nothing else."""
    operator, source = find(node), node.input(0)
    views = operator is not None and operator.has(Trait.VIEW) and operator.has(Trait.MOVEMENT)
    return views and source is not None and is_float32(source) and len(node.outputs) == 1


def narrow_borders(graph: Graph, dtype: DType) -> None:
    """Makes the inputs and outputs of a model half-width, where they are float32: casts stand behind and before them.

    Args:
        graph: As imported; changed in place.
        dtype: The type.
    """
    for value in graph.inputs:
        if is_float32(value):
            value.type = value.tensor_type.with_dtype(dtype)
            if any(use.user is not graph for use in value.uses):
                first = next(iter(graph.nodes), None)
                cast = Builder(graph, before=first, infer=infer_node).op("Cast", value, to=FLOAT32.onnx)
                _read_instead(value, cast, graph)
    for position, value in enumerate(graph.outputs):
        if is_float32(value):
            cast = Builder(graph, infer=infer_node).op("Cast", value, to=dtype.onnx)
            value.name, cast.name = cast.name, value.name
            graph.set_output(position, cast)


def _read_instead(value: Value, cast: Value, graph: Graph) -> None:
    for use in list(value.uses):
        # An input that is an output too is handed on as it came, under its one name.
        if use.user is cast.producer or use.user is graph:
            continue
        if isinstance(use.user, Graph):
            use.user.set_output(use.position, cast)
        else:
            use.user.set_input(use.position, cast)
