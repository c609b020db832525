"""The operator registry: one definition per operator and version, found by `find(domain, op_type, version)`.

An operator's definition holds its type inference, its NumPy meaning, its traits and, where it has one, its tensor
expression. Files beside this one hold the definitions, a family each, as data.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np

from graphc.errors import OptionError, TypeInferenceError
from graphc.ir import Dim, Node, Tensor, TensorType, Type, Value
from graphc.ir.symbolic import Bounds, symbols
from graphc.ops.expr import Scalar, TensorExpr, loads


class UnfitNodeError(TypeInferenceError):
    """A node of the model does not fit its operator, which inference did not see: the model's fault, not a pass's."""


Array: TypeAlias = np.ndarray[Any, Any]
Datum: TypeAlias = Any
"""A value at evaluation time: an array, a list (sequence), a dict (map), or None (absent optional)."""
UNKNOWN_PREFIX = "unk_"
"""Names of symbols for extents that only the data tells begin so."""


class Trait(enum.Enum):
    """What kind of computation an operator is; passes ask for traits, not for names."""

    POINTWISE = "pointwise"
    REDUCTION = "reduction"
    CONTRACTION = "contraction"
    MOVEMENT = "movement"
    WINDOW = "window"
    NORMALIZATION = "normalization"
    SCAN = "scan"
    DATA_DEPENDENT = "data-dependent"
    RANDOM = "random"
    CONTROL = "control"
    VIEW = "view"
    """Row-major output is the input's bytes unchanged (Reshape, Squeeze, Identity)."""
    COMMUTATIVE = "commutative"


@dataclass
class InferenceContext:
    """What type inference of one node may look at.

    Args:
        node: The node; its attributes are given, its outputs not yet typed.
        inputs: Types of the inputs; None for an absent one.
        contents: For small integer tensors, their elements where known: ints or symbolic dims, in row-major order.
        fresh: Makes a new symbol for an extent that only the data tells, from a base name.
    """

    node: Node
    inputs: tuple[Type | None, ...]
    contents: Callable[[Value], tuple[Dim, ...] | None]
    fresh: Callable[[str], Dim]
    infer_subgraph: Callable[[Any], None] = lambda graph: None
    """Infers the types inside a subgraph whose inputs have types now."""
    try_subgraph: Callable[[Any], TypeInferenceError | None] = lambda graph: None
    """The same for a branch that need not be taken: what does not fit is answered, and raised only if it is."""
    elements: Callable[[Value], Array | None] = lambda value: None
    """Elements of a small tensor that are known though no Constant node holds them (folded shape arithmetic)."""
    bounds: Bounds = field(default_factory=dict)
    """Inclusive bounds of symbols, where they are tighter than `1..`."""
    missed: Callable[[Value], object] = lambda value: None
    """Told which inputs' elements the operator asked for and did not get."""

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Raises TypeInferenceError that names the node."""
        raise TypeInferenceError(f"{self.node.op}: {message}", nodes=node_names(self.node), hint=hint)

    def tensor(self, index: int) -> TensorType:
        """Type of input `index`, which must be a tensor that is there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            self.fail(f"input {index} is missing")
        if not isinstance(found, TensorType):
            self.fail(f"input {index} must be a tensor, not {found}")
        return found

    def has(self, index: int) -> bool:
        """Whether optional input `index` is given."""
        return self.node.input(index) is not None

    def shape(self, index: int) -> tuple[Dim, ...]:
        """Shape of input `index`; fails where the rank is unknown."""
        found = self.tensor(index).shape
        if found is None:
            self.fail(f"the rank of input {index} is unknown")
        return found

    def constant(self, index: int) -> Array | None:
        """Elements of input `index` if it is a constant (or its contents are known integers), else None."""
        value = self.node.input(index)
        if value is None:
            return None
        if value.constant is not None:
            return value.constant.array()
        known = self.elements(value)
        if known is not None:
            return known
        dims = self.contents(value)
        kind = self.inputs[index]
        if dims is not None and all(isinstance(d, int) for d in dims) and isinstance(kind, TensorType):
            return np.array(dims, dtype=kind.dtype.numpy).reshape(kind.static_shape)
        self.missed(value)
        return None

    def axis(self, value: int, rank: int) -> int:
        """Axis `value` of a tensor of `rank`, counted from the front; fails where it is out of range."""
        if not -rank <= value < rank:
            self.fail(f"axis {value} is out of range for rank {rank}")
        return value % rank

    def dims(self, index: int) -> tuple[Dim, ...] | None:
        """Elements of integer input `index` as dims (symbolic ones too), or None where unknown."""
        value = self.node.input(index)
        if value is None:
            return None
        known = self.contents(value)
        if known is None:
            self.missed(value)
        return known


@dataclass(frozen=True)
class ExpressionContext:
    """What a tensor expression of one node may look at: types are final, constants can be read.

    Args:
        node: The node, attributes and all.
        inputs: Types of the inputs; None for an absent one. Loads number the inputs as the node does.
        outputs: Types of the outputs.
    """

    node: Node
    inputs: tuple[TensorType | None, ...]
    outputs: tuple[TensorType, ...]
    missed: Callable[[Value], object] = lambda value: None
    """Told which inputs' elements the operator asked for and did not get."""

    def tensor(self, index: int) -> TensorType:
        """Type of an input that is there."""
        found = self.inputs[index]
        assert found is not None, f"input {index} of {self.node} is absent"
        return found

    def constant(self, index: int) -> Array | None:
        """Elements of input `index` if it is a constant, else None."""
        value = self.node.input(index)
        if value is None:
            return None
        if value.constant is None:
            self.missed(value)
            return None
        return value.constant.array()


Infer: TypeAlias = Callable[[InferenceContext], Sequence[Type]]
Evaluate: TypeAlias = Callable[[Node, Sequence[Datum]], Sequence[Datum]]
Express: TypeAlias = Callable[[ExpressionContext], Sequence[TensorExpr] | None]
Propagate: TypeAlias = Callable[[InferenceContext], tuple[Dim, ...] | None]


@dataclass(frozen=True)
class Operator:
    """One operator at the versions from `since` on.

    Args:
        name: Operator name.
        infer: Output types from input types, attributes and known contents.
        evaluate: Output arrays from input arrays: the operator's NumPy meaning. None where onnx.reference gives it.
        domain: Operator set domain; `""` is ai.onnx.
        since: First operator-set version with this meaning.
        traits: Kinds of computation.
        expression: Tensor expression of each output, or None if these inputs or attributes have none.
        propagate: Symbolic elements of a small integer output, where the inputs' are known.
    """

    name: str
    infer: Infer
    evaluate: Evaluate | None = None
    domain: str = ""
    since: int = 1
    traits: frozenset[Trait] = frozenset()
    expression: Express | None = None
    propagate: Propagate | None = None
    scalar: Callable[..., Scalar] | None = None
    """For pointwise operators: `scalar(node, *elements)` is the element of the output; None is an absent input."""

    @property
    def qualified_name(self) -> str:
        """`domain::name`, or the bare name in ai.onnx."""
        return f"{self.domain}::{self.name}" if self.domain else self.name

    def has(self, trait: Trait) -> bool:
        """Whether the operator has `trait`."""
        return trait in self.traits


@dataclass
class Registry:
    """Operators by domain and name, each with its versions in ascending order."""

    _versions: dict[tuple[str, str], list[Operator]] = field(default_factory=dict)

    def register(self, operator: Operator) -> Operator:
        """Adds a definition.

        Raises:
            OptionError: One for the same version exists.
        """
        versions = self._versions.setdefault((operator.domain, operator.name), [])
        if any(known.since == operator.since for known in versions):
            raise OptionError(f"operator {operator.qualified_name} since {operator.since} is registered already")
        bisect.insort(versions, operator, key=lambda known: known.since)
        return operator

    def find(self, domain: str, name: str, version: int) -> Operator | None:
        """The newest definition that is not newer than `version`, or None."""
        versions = self._versions.get((domain, name), [])
        position = bisect.bisect_right(versions, version, key=lambda known: known.since)
        return versions[position - 1] if position else None

    def names(self) -> Mapping[tuple[str, str], Sequence[Operator]]:
        """Everything registered, by `(domain, name)`."""
        return self._versions


REGISTRY = Registry()


def register(operator: Operator) -> Operator:
    """Adds a definition to the global registry."""
    return REGISTRY.register(operator)


def find(node: Node) -> Operator | None:
    """The definition of a node's operator, or None."""
    return REGISTRY.find(node.domain, node.op_type, node.version)


def is_unknown(extent: Dim) -> bool:
    """Whether only the data tells the extent: no binding of the inputs' symbols will."""
    return not isinstance(extent, int) and any(name.startswith(UNKNOWN_PREFIX) for name in symbols(extent))


def node_names(node: Node) -> tuple[str, ...]:
    """What messages call a node: the ONNX nodes that it came from, its name, or what it does."""
    return node.origins or (node.name or node.describe(),)


def express(node: Node, missed: Callable[[Value], object] = lambda value: None) -> Sequence[TensorExpr] | None:
    """Tensor expressions of a typed node's outputs, or None where it has none.

    They exist only where inputs and outputs are tensors of known rank and the operator defines expressions for them.

    Args:
        node: With its types inferred.
        missed: Told which inputs would have to be constants and are not.

    Raises:
        UnfitNodeError: The inputs do not fit the operator, which inference had not seen.
    """
    operator = find(node)
    if operator is None or operator.expression is None:
        return None
    inputs = tuple(None if value is None else value.type for value in node.inputs)
    outputs = tuple(value.type for value in node.outputs)
    if any(value is not None and not _is_ranked(value.type) for value in node.inputs) or not all(
        map(_is_ranked, outputs)
    ):
        return None
    context = ExpressionContext(
        node,
        tuple(kind if isinstance(kind, TensorType) else None for kind in inputs),
        tuple(kind for kind in outputs if isinstance(kind, TensorType)),
        missed,
    )
    try:
        return operator.expression(context)
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, AssertionError) as error:
        # Inputs of a model that is not valid, which inference let pass; evaluation answers for its data alike.
        raise UnfitNodeError(f"{node.op} does not fit its inputs: {error}", nodes=node_names(node)) from error


def parameters(node: Node) -> frozenset[int]:
    """Numbers of constant inputs that decide what a typed node's expression is, and whose elements it never loads.

    Shapes, axes and scales are such: they are part of a kernel's code, not of its data.
    """
    constants = {i for i, value in enumerate(node.inputs) if value is not None and value.constant is not None}
    expressions = express(node) if constants else None
    if not expressions:
        return frozenset()
    loaded = {load.input for expression in expressions for load in loads(expression.body)}
    return frozenset(constants - loaded)


def _is_ranked(kind: Type | None) -> bool:
    return isinstance(kind, TensorType) and kind.shape is not None


def broadcast_dims(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...] | None:
    """The shape that `shapes` broadcast to (NumPy's rules), or None where they do not fit.

    A symbol against a symbol of another name is taken to be equal to it (the run time checks); against an extent other
    than 1 it takes that extent.
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        found: Dim = 1
        for shape in shapes:
            position = axis - (rank - len(shape))
            extent = shape[position] if position >= 0 else 1
            if extent == 1 or extent == found:
                continue
            if found == 1 or (isinstance(extent, int) and not isinstance(found, int)):
                found = extent
            elif isinstance(extent, int) and isinstance(found, int):
                return None
        result.append(found)
    return tuple(result)


__all__ = [
    "REGISTRY",
    "Array",
    "Datum",
    "Dim",
    "Evaluate",
    "Express",
    "ExpressionContext",
    "Infer",
    "InferenceContext",
    "Operator",
    "Registry",
    "Tensor",
    "Trait",
    "UnfitNodeError",
    "broadcast_dims",
    "express",
    "find",
    "node_names",
    "register",
]
