"""Type inference: the type of every value from its operator, with the contents of small tensors carried along.

Shapes are often computed by the model itself (Shape, Gather, Concat, Reshape). Their elements are followed in two
forms: arrays where all are numbers, and tuples of symbolic dims where some are extents that are still open.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from graphc.errors import ExecutionError, GraphcError, TypeInferenceError, UnsupportedError
from graphc.ir import Dim, Graph, Node, TensorType, Type, Value, symbol
from graphc.ir.verify import inference_check, register_check
from graphc.ops.base import (
    UNKNOWN_PREFIX,
    Array,
    InferenceContext,
    Operator,
    Trait,
    find,
    is_unknown,
    node_names,
)
from graphc.ops.evaluate import evaluate_node
from graphc.ops.ill_typed import make_raising
from graphc.ops.words import wrong_word

CONTENTS_LIMIT = 1024
"""Largest number of elements that inference follows; shapes, axes, pads and scales are far smaller."""

EXTENT_LIMIT = 1 << 63
"""Extents are 64-bit integers wherever they are written down."""

RANK_LIMIT = 64
"""Largest rank of a tensor: what NumPy holds."""

FRESH_LIMIT = 4096
"""Most symbols that one node may need; a rank read from a damaged file can be any number."""

_DEPTH_LIMIT = 100
"""How far a chain of small tensors is walked back where it was not learned in order."""

_PROBED_RANKS = 7
"""Ranks from 0 on that are tried where the rank of an input is unknown."""

_OPAQUE = frozenset({Trait.RANDOM, Trait.CONTROL, Trait.DATA_DEPENDENT})


class Inference:
    """One run over a graph: remembers what it learned about the elements of small tensors.

    Args:
        strict: Whether an unknown operator, an input without type or a declared type that is contradicted is an error.
        missed: Told which values' elements an operator asked for in vain.
    """

    def __init__(self, *, strict: bool = False, missed: Callable[[Value], object] = lambda value: None) -> None:
        self.strict = strict
        self._missed = missed
        self._elements: dict[Value, Array | None] = {}
        self._contents: dict[Value, tuple[Dim, ...] | None] = {}
        self._depth = 0
        self._ill_typed: dict[Graph, tuple[Node, TypeInferenceError]] = {}

    def run(self, graph: Graph) -> None:
        """Types every value of `graph`, nodes in order."""
        for node in graph.nodes:
            self.visit(node)

    def visit(self, node: Node) -> None:
        """Types the outputs of one node; its inputs were visited before. Importers call it as the graph grows."""
        for value in node.outputs:
            # The body of a loop is visited once for each round of its types; what was known in one is old in the next.
            self._contents.pop(value, None)
            self._elements.pop(value, None)
        declared = [value.type for value in node.outputs]
        types = self.infer(node)
        for value, before, found in zip(node.outputs, declared, types, strict=True):
            value.type = self._merge(node, value, before, found)
            if not node.is_op("Constant"):
                # Learned in order, the chain behind a small tensor is never walked back by recursion.
                self.contents(value)

    def close_branches(self) -> None:
        """Lets branches that did not fit raise when they are taken; every value has its type by then."""
        for branch, (holder, error) in self._ill_typed.items():
            kinds = [value.type for value in holder.outputs if value.type is not None]
            if len(kinds) == len(holder.outputs):
                make_raising(branch, error, kinds)
        self._ill_typed.clear()

    def _try_branch(self, holder: Node, branch: Graph) -> TypeInferenceError | None:
        try:
            self.run(branch)
        except TypeInferenceError as error:
            self._ill_typed[branch] = holder, error
            return error
        self._ill_typed.pop(branch, None)
        return None

    def infer(self, node: Node) -> list[Type | None]:
        """Types of a node's outputs; None where nothing is known.

        Raises:
            TypeInferenceError: Inputs or attributes do not fit the operator.
            UnsupportedError: The operator is unknown, and the run is strict.
        """
        operator = find(node)
        if operator is None:
            if self.strict:
                message = f"operator {node.op} of version {node.version} is unknown"
                raise UnsupportedError(message, nodes=node_names(node))
            return [None] * len(node.outputs)
        inputs = tuple(None if value is None else value.type for value in node.inputs)
        untyped = [value.name for value in node.inputs if value is not None and value.type is None]
        if untyped:
            if self.strict:
                raise TypeInferenceError(f"{node.op}: input {untyped[0]!r} has no type", nodes=node_names(node))
            return [None] * len(node.outputs)
        try:
            types = self._apply(operator, node, inputs)
        except TypeInferenceError:
            if not any(map(_is_unranked, inputs)):
                raise
            probed = self._probe(operator, node, inputs)
            if probed is None and self.strict:
                raise
            return probed or [None] * len(node.outputs)
        if len(types) < len(node.outputs):
            message = f"{node.op}: has {len(node.outputs)} outputs, but the operator makes {len(types)}"
            raise TypeInferenceError(message, nodes=node_names(node))
        for kind in types:
            if isinstance(kind, TensorType) and kind.shape is not None:
                largest = max((extent for extent in kind.shape if isinstance(extent, int)), default=0)
                if largest >= EXTENT_LIMIT:
                    raise TypeInferenceError(f"{node.op}: makes an extent of {largest}", nodes=node_names(node))
                if len(kind.shape) > RANK_LIMIT:
                    message = f"{node.op}: makes a tensor of rank {len(kind.shape)}; {RANK_LIMIT} is the limit"
                    raise TypeInferenceError(message, nodes=node_names(node))
        return list(types[: len(node.outputs)])

    def _apply(self, operator: Operator, node: Node, inputs: tuple[Type | None, ...]) -> Sequence[Type | None]:
        if (wrong := wrong_word(node)) is not None:
            raise TypeInferenceError(f"{node.op}: {wrong}", nodes=node_names(node))
        try:
            return operator.infer(self._context(node, inputs, self._missed))
        except TypeInferenceError:
            raise
        except GraphcError as error:
            raise TypeInferenceError(f"{node.op}: {error.message}", nodes=node_names(node), hint=error.hint) from error
        except (AssertionError, KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
            # Attributes of a wrong kind or inputs of a wrong rank surface like this; they are the model's fault.
            message = f"{node.op}: attributes or inputs do not fit: {error}"
            raise TypeInferenceError(message, nodes=node_names(node)) from error

    def _probe(self, operator: Operator, node: Node, inputs: tuple[Type | None, ...]) -> list[Type | None] | None:
        """What the operator makes of inputs of unknown rank, whichever of the ranks that it takes they have."""
        found: list[Type | None] | None = None
        for rank in range(_PROBED_RANKS):
            trial = tuple(
                _with_rank(kind, value, rank) if isinstance(kind, TensorType) and value is not None else kind
                for kind, value in zip(inputs, node.inputs, strict=True)
            )
            try:
                types = list(self._apply(operator, node, trial))[: len(node.outputs)]
            except TypeInferenceError:
                continue
            found = types if found is None else [_common(a, b) for a, b in zip(found, types, strict=True)]
        return found

    def contents(self, value: Value) -> tuple[Dim, ...] | None:
        """Elements of a small integer tensor (or a float one of whole numbers), row-major; None where unknown."""
        if value in self._contents or self._depth > _DEPTH_LIMIT:
            return self._contents.get(value)
        self._depth += 1
        try:
            found = self._find_contents(value)
        finally:
            self._depth -= 1
        self._contents[value] = found
        return found

    def elements(self, value: Value) -> Array | None:
        """Elements of a small tensor all of whose elements are known numbers, else None."""
        if value in self._elements or self._depth > _DEPTH_LIMIT:
            return self._elements.get(value)
        self._depth += 1
        try:
            found = self._find_elements(value)
        finally:
            self._depth -= 1
        self._elements[value] = found
        return found

    def _find_contents(self, value: Value) -> tuple[Dim, ...] | None:
        kind = value.type
        if not _is_small(kind):
            return None
        known = self.elements(value)
        if known is not None:
            if known.dtype.kind not in "iufb" or not (np.isfinite(known).all() and (known == np.rint(known)).all()):
                return None
            return tuple(int(element) for element in known.reshape(-1).tolist())
        node = value.producer
        if node is None or value.index != 0:
            return None
        operator = find(node)
        if operator is None or operator.propagate is None:
            return None
        inputs = tuple(None if given is None else given.type for given in node.inputs)
        return operator.propagate(self._context(node, inputs))

    def _find_elements(self, value: Value) -> Array | None:
        node = value.producer
        if node is None or not _is_small(value.type):
            return None
        tensor = value.constant
        if tensor is not None:
            return tensor.array()
        operator = find(node)
        if operator is None or operator.evaluate is None or operator.traits & _OPAQUE:
            return None
        if not node.inputs and not node.is_op("Constant"):
            return None
        arrays: list[Array | None] = []
        for given in node.inputs:
            known = None if given is None else self.elements(given)
            if given is not None and known is None:
                return self._from_contents(operator, node, value)
            arrays.append(known)
        try:
            results = evaluate_node(node, arrays)
        except ExecutionError:
            # A bad index in a branch that is never taken is no error of the model; the run time reports real ones.
            return None
        result = results[value.index]
        return result if isinstance(result, np.ndarray) else None

    def _from_contents(self, operator: Operator, node: Node, value: Value) -> Array | None:
        """Numbers that symbolic propagation finds although not all inputs are known (Shape of a static tensor)."""
        if operator.propagate is None or value.index != 0 or not isinstance(value.type, TensorType):
            return None
        inputs = tuple(None if given is None else given.type for given in node.inputs)
        dims = operator.propagate(self._context(node, inputs))
        if dims is None or not all(isinstance(d, int) and abs(d) < 1 << 63 for d in dims) or not value.type.is_static:
            return None
        if len(dims) != math.prod(value.type.static_shape):
            # The model declares a shape that these elements do not have: that is for the checks of types to tell.
            return None
        return np.array(dims, dtype=value.type.dtype.numpy).reshape(value.type.static_shape)

    def _context(
        self, node: Node, inputs: tuple[Type | None, ...], missed: Callable[[Value], object] = lambda value: None
    ) -> InferenceContext:
        counter = iter(range(FRESH_LIMIT))

        def fresh(base: str) -> Dim:
            name = node.outputs[0].name if node.outputs else base
            number = next(counter, None)
            if number is None:
                names = node.origins or ((node.name,) if node.name else (node.describe(),))
                raise TypeInferenceError(f"{node.op}: the ranks of its outputs are absurdly large", nodes=names)
            return symbol(f"{UNKNOWN_PREFIX}{_identifier(name)}_{number}")

        bounds = {} if node.graph is None else node.graph.bounds
        return InferenceContext(
            node,
            inputs,
            self.contents,
            fresh,
            self.run,
            lambda branch: self._try_branch(node, branch),
            self.elements,
            bounds,
            missed,
        )

    def _merge(self, node: Node, value: Value, declared: Type | None, found: Type | None) -> Type | None:
        if declared is None or found is None:
            return declared if found is None else found
        if isinstance(declared, TensorType) and isinstance(found, TensorType):
            problem = _contradiction(declared, found)
            if problem and (self.strict or value.is_graph_output):
                raise TypeInferenceError(
                    f"{node.op}: output {value.name!r} is {found}, but the model declares {declared} ({problem})",
                    nodes=node_names(node),
                )
            return found if problem else _refine(declared, found)
        return found


def infer_node(node: Node, inference: Inference | None = None) -> list[Type | None]:
    """Types of a node's outputs; its inputs must have types. Small constants behind its inputs are looked through.

    Args:
        node: The node; its own outputs' types are not looked at and not set.
        inference: Knowledge of a run in progress; none if None.

    Raises:
        TypeInferenceError: Inputs or attributes do not fit the operator; the error names the node.
    """
    return (inference or Inference()).infer(node)


def infer_graph(graph: Graph, *, strict: bool = False) -> None:
    """Types every value in `graph` and its subgraphs, refining what the model declares.

    Extents that only the data tells become symbols named `unk_...` after the value that has them. A branch of an If
    that does not fit, where the other does, is replaced by one that raises what is wrong when it is taken.

    Args:
        graph: Inputs must have types; outputs of nodes may have declared ones.
        strict: Makes an unknown operator or a contradicted declaration an error instead of leaving the type open or
            taking what inference found. Declared types of graph outputs must not be contradicted in either case.

    Raises:
        TypeInferenceError: Inputs or attributes of a node do not fit its operator; the error names the node.
        UnsupportedError: An operator is unknown, where `strict`.
    """
    inference = Inference(strict=strict)
    inference.run(graph)
    inference.close_branches()


def _is_unranked(kind: Type | None) -> bool:
    return isinstance(kind, TensorType) and kind.shape is None


def _with_rank(kind: TensorType, value: Value, rank: int) -> TensorType:
    """A type of unknown rank given one, its extents named after the value."""
    if kind.shape is not None:
        return kind
    return kind.with_shape(symbol(f"{UNKNOWN_PREFIX}{_identifier(value.name)}_d{axis}") for axis in range(rank))


def _common(left: Type | None, right: Type | None) -> Type | None:
    """What two answers agree on."""
    if left == right or not isinstance(left, TensorType) or not isinstance(right, TensorType):
        return left if left == right else None
    return left.with_shape(None) if left.dtype == right.dtype else None


def _is_small(kind: Type | None) -> bool:
    if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype.kind == "string":
        return False
    size = 1
    for extent in kind.shape:
        if not isinstance(extent, int):
            return False
        size *= extent
    return size <= CONTENTS_LIMIT


def _identifier(name: str) -> str:
    """`name` as an identifier; a checksum keeps names apart that differ only in other characters."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


def _contradiction(declared: TensorType, found: TensorType) -> str | None:
    if declared.dtype != found.dtype:
        return "the dtypes differ"
    if declared.shape is None or found.shape is None:
        return None
    if len(declared.shape) != len(found.shape):
        return "the ranks differ"
    for axis, (left, right) in enumerate(zip(declared.shape, found.shape, strict=True)):
        if isinstance(left, int) and isinstance(right, int) and left != right:
            return f"the extents of axis {axis} differ"
    return None


def _refine(declared: TensorType, found: TensorType) -> TensorType:
    """What inference found, with the declaration's word where inference knows nothing.

    A declared extent wins only over an extent that depends on the data: a declaration is often left over from an
    export at one batch size and must not override an extent that follows from the inputs.
    """
    if found.shape is None or declared.shape is None:
        shape = declared.shape if found.shape is None else found.shape
    else:
        shape = tuple(
            old if is_unknown(new) and not is_unknown(old) else new
            for old, new in zip(declared.shape, found.shape, strict=True)
        )
    return TensorType(found.dtype, shape, declared.layout)


register_check(inference_check(lambda: Inference().infer))

__all__ = ["Inference", "infer_graph", "infer_node"]
