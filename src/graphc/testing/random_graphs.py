"""Random typed graphs, grown forward from values that are there and backward from inputs that are not yet made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, DType, Graph, TensorType, Value, clone_node
from graphc.ops.inference import infer_node
from graphc.passes.base import PassContext
from graphc.passes.layout import AssignLayout
from graphc.passes.rules import Chooser
from graphc.testing.choosing import DrawChooser, SeedChooser, chance, permutation
from graphc.testing.instances import OPSET
from graphc.testing.open_extents import opened
from graphc.testing.oracle import calm_inputs
from graphc.testing.random_control import add_if, add_loop, add_scan
from graphc.testing.samples import (
    FLOATS,
    MAX_SIZE,
    NUMBERS,
    SAMPLERS,
    Operand,
    OperatorSampler,
    Sample,
    ints,
    tensor_type,
    values,
)


@dataclass(frozen=True)
class GraphOptions:
    """What random graphs look like.

    Args:
        max_nodes: Most nodes, constants not counted.
        operators: Names of the operators that may occur; all of `samplers` if empty.
        without: Names of operators that must not occur.
        samplers: How nodes of each operator are made.
        kinds: Dtypes of inputs that no node asks for.
        ranks: Their ranks, least and most.
        nesting: How deep If, Loop and Scan may stand in one another; 0 for none.
    """

    max_nodes: int = 10
    operators: Collection[str] = ()
    without: Collection[str] = ()
    samplers: Mapping[str, OperatorSampler] = field(default_factory=lambda: SAMPLERS)
    kinds: Sequence[DType] = FLOATS
    ranks: tuple[int, int] = (0, 4)
    nesting: int = 0

    @property
    def names(self) -> list[str]:
        """Operators that may occur, in a fixed order."""
        return [n for n in (self.operators or self.samplers) if n in self.samplers and n not in self.without]


def graphs(
    max_nodes: int = 10,
    *,
    operators: Collection[str] = (),
    without: Collection[str] = (),
    control_flow: bool = False,
    open_dims: bool = False,
    layouts: bool = False,
) -> st.SearchStrategy[Graph]:
    """Random valid graphs: broadcasting, mixed dtypes, shared values, several outputs.

    Each has inputs at which it is finite and smooth: `calm_inputs(graph, 0)` finds them.

    Args:
        max_nodes: Most nodes of a graph, those in bodies not counted.
        operators: Operators that occur; all that are known how to draw if empty.
        without: Operators that must not occur.
        control_flow: Whether there are If, Loop and Scan, in one another too.
        open_dims: Whether an extent is a symbol where the graph's operators let it; `calm_inputs` gives it the extent
            at which the graph was drawn.
        layouts: Whether what is around convolutions is stored in blocks of channels, with a halo, or channels last.
    """
    options = GraphOptions(max_nodes, operators, without, nesting=2 if control_flow else 0)
    if layouts:
        options = replace(options, ranks=(4, 4))  # others have one layout alone

    @st.composite
    def build(draw: st.DrawFn) -> Graph:
        choose = DrawChooser(draw)
        graph = random_graph(choose, options)
        graph = opened(graph, choose) if open_dims else graph
        if layouts:
            stored = AssignLayout(choose.pick((4, 8)), halo=chance(choose, 50), channels_last=chance(choose, 30))
            stored.run(graph, PassContext())
        return graph

    return build().filter(lambda graph: calm_inputs(graph, 0) is not None)


def seeded_graph(seed: int, options: GraphOptions | None = None) -> Graph:
    """The random graph of a seed, for commands and long runs; it need not be finite anywhere."""
    return random_graph(SeedChooser(seed), options or GraphOptions())


def random_graph(choose: Chooser, options: GraphOptions) -> Graph:
    """A random valid graph."""
    growing = Growing(choose, options)
    growing.add_input(tensor_type(choose, NUMBERS if chance(choose, 20) else NUMBERS[:1], options.ranks))
    growing.grow(choose.integer(1, options.max_nodes))
    return growing.finished()


class Growing:
    """A random graph on its way.

    Args:
        choose: Makes the choices.
        options: What it is to look like.
        graph: To begin with; an empty one if None.
        around: Values of enclosing graphs that may be read, where it is a body.
    """

    def __init__(
        self,
        choose: Chooser,
        options: GraphOptions,
        graph: Graph | None = None,
        around: Sequence[Value] | None = None,
    ) -> None:
        self.choose = choose
        self.options = options
        self.graph = Graph("random", opset=OPSET) if graph is None else graph
        self.builder = Builder(self.graph, infer=infer_node)
        self.is_body = around is not None
        made = [value for node in self.graph.nodes for value in node.outputs]
        self.pool = [value for value in (*(around or ()), *self.graph.inputs, *made) if _can_be_read(value)]

    def grow(self, steps: int) -> None:
        """Takes so many random steps; not each of them finds something to add."""
        for _ in range(steps):
            step: Callable[[], None] = self.choose.pick(
                (*[self.forward] * 6, self.repeat, self.backward, self.constant, *[self.control] * self.options.nesting)
            )
            step()

    def control(self) -> None:
        """Adds a branch or a loop."""
        add: Callable[[Growing], None] = self.choose.pick((add_if, add_loop, add_scan))
        add(self)

    def body(self, name: str) -> Growing:
        """An empty body of a node of this graph, which may read what there is here."""
        options = replace(self.options, nesting=self.options.nesting - 1)
        return Growing(self.choose, options, self.graph.nested(name), self.pool)

    def take(self, name: str, type_: TensorType) -> Value:
        """A new input of a body, which nodes may read."""
        value = self.graph.add_input(self.graph.fresh_name(name), type_)
        self.offer([value])
        return value

    def result(self, type_: TensorType | None = None) -> Value:
        """A value that a node of a body makes, of a type if one is given; it is one of the latest, or made for it."""
        made = [value for value in self.pool if value.producer is not None and value.producer.graph is self.graph]
        made = [value for value in made if value.constant is None and type_ in (None, value.type)]
        if made and chance(self.choose, 90):
            found: Value = self.choose.pick(made[::-1][:3])
            return found
        fitting = [value for value in self.pool if type_ in (None, value.type)]
        if fitting:
            return self.builder.op("Identity", self.choose.pick(fitting[::-1]))
        wanted = type_ or tensor_type(self.choose, self.options.kinds, self.options.ranks)
        return self.builder.op("Identity", self.builder.constant(values(self.choose, wanted)))

    def offer(self, made: Iterable[Value]) -> None:
        """Lets nodes read values."""
        self.pool.extend(value for value in made if _can_be_read(value))

    def add_input(self, type_: TensorType) -> Value:
        """A new input, which nodes may read; a constant in a body."""
        if self.is_body:
            value = self.builder.constant(values(self.choose, type_))
            self.pool.append(value)
            return value
        value = self.graph.add_input(self.graph.fresh_name("x"), type_)
        self.pool.append(value)
        return value

    def forward(self) -> None:
        """Adds a node that reads values of the pool, the newest ones preferred."""
        if not self.pool:
            self.add_input(tensor_type(self.choose, self.options.kinds, self.options.ranks))
        value = self.choose.pick(self.pool[::-1][:4]) if chance(self.choose, 70) else self.choose.pick(self.pool)
        fitting = [name for name in self.options.names if self.options.samplers[name].accepts(value.tensor_type)]
        if not fitting:
            value = self.add_input(tensor_type(self.choose, self.options.kinds, self.options.ranks))
            fitting = [name for name in self.options.names if self.options.samplers[name].accepts(value.tensor_type)]
        if not fitting:
            return
        producer = value.producer
        chained = producer is not None and producer.op_type in fitting and chance(self.choose, 25)
        op_type = producer.op_type if producer is not None and chained else self.choose.pick(fitting)
        sample = self.options.samplers[op_type].sample(value.tensor_type, self.choose)
        if sample is not None:
            self.apply(op_type, value, sample)

    def apply(self, op_type: str, value: Value, sample: Sample) -> None:
        """Adds a node with sampled operands; nothing where it does not fit, or grows too large."""
        operands = [value, *(self.operand(operand) for operand in sample.operands[1:])]
        while operands[-1] is None:
            operands.pop()
        outputs = self.options.samplers[op_type].outputs(sample)
        attributes: dict[str, Any] = sample.attributes
        try:
            first = self.builder.op(op_type, *operands, outputs=outputs, **attributes)
        except TypeInferenceError:
            node = list(self.graph.nodes)[-1]
            self.graph.remove(node)
            return
        assert first.producer is not None, first
        made = [v for v in first.producer.outputs if isinstance(v.type, TensorType) and v.type.is_static]
        if len(made) < outputs or any(np.prod(v.tensor_type.static_shape) > MAX_SIZE for v in made):
            self.graph.remove(first.producer)
            return
        self.pool.extend(made)

    def repeat(self) -> None:
        """Adds a node that computes what another one computes."""
        nodes = [
            node
            for node in self.graph.nodes
            if not node.is_op("Constant") and all(map(_can_be_read, node.outputs)) and not any(node.subgraphs())
        ]
        if nodes:
            node = self.choose.pick(nodes)
            names = [self.graph.fresh_name(value.name) for value in node.outputs]
            self.pool.extend(self.builder.insert(clone_node(node, {}, names)).outputs)

    def constant(self) -> None:
        """Adds a constant that nodes may read first, so that some subexpressions are constant."""
        type_ = tensor_type(self.choose, NUMBERS if chance(self.choose, 20) else NUMBERS[:1])
        self.pool.append(self.builder.constant(values(self.choose, type_)))

    def operand(self, operand: Operand | None) -> Value | None:
        """A value that fits: one of the pool, a constant, or a new input."""
        if operand is None:
            return None
        if operand.array is not None:
            return self.builder.constant(operand.array)
        fitting = [value for value in self.pool if value.type == operand.type]
        if fitting and chance(self.choose, 60):
            found: Value = self.choose.pick(fitting)
            return found
        if chance(self.choose, 50):
            return self.builder.constant(values(self.choose, operand.type))
        return self.add_input(operand.type)

    def backward(self) -> None:
        """Makes an input by a node that was not there before."""
        inputs = [
            value
            for value in self.graph.inputs
            if value.is_used and value in self.pool and value.tensor_type.dtype in self.options.kinds
        ]
        inputs = [value for value in inputs if value.tensor_type.dtype.is_float]
        if not inputs or self.is_body:
            return
        value = self.choose.pick(inputs)
        step: Callable[[Builder, Value], Value] = self.choose.pick(
            (self._unary_before, self._binary_before, self._transpose_before, self._reshape_before, self._matmul_before)
        )
        before = Builder(self.graph, before=next(self.graph.nodes, None), infer=infer_node)
        made = step(before, value)
        if made.type != value.type:
            assert made.producer is not None, made
            self.graph.remove(made.producer)
            return
        value.replace_all_uses(made)
        self.pool[self.pool.index(value)] = made
        self.graph.remove_input(value)

    def _unary_before(self, b: Builder, value: Value) -> Value:
        names = [name for name in ("Tanh", "Sigmoid", "Relu", "Neg", "Identity", "Abs") if name in self.options.names]
        return b.op(self.choose.pick(names or ["Identity"]), self.add_input(value.tensor_type))

    def _binary_before(self, b: Builder, value: Value) -> Value:
        names = [name for name in ("Add", "Mul", "Sub") if name in self.options.names]
        if not names:
            return self._unary_before(b, value)
        left, right = self.add_input(value.tensor_type), self.add_input(value.tensor_type)
        return b.op(self.choose.pick(names), left, right)

    def _transpose_before(self, b: Builder, value: Value) -> Value:
        type_ = value.tensor_type
        perm = permutation(self.choose, range(len(type_.static_shape)))
        source = [0] * len(perm)
        for axis, origin in enumerate(perm):
            source[origin] = type_.static_shape[axis]
        return b.op("Transpose", self.add_input(type_.with_shape(source)), perm=perm)

    def _reshape_before(self, b: Builder, value: Value) -> Value:
        type_ = value.tensor_type
        size = int(np.prod(type_.static_shape))
        target = b.constant(ints(*type_.static_shape).array)
        return b.op("Reshape", self.add_input(type_.with_shape((size,))), target)

    def _matmul_before(self, b: Builder, value: Value) -> Value:
        type_ = value.tensor_type
        if len(type_.static_shape) < 2 or "MatMul" not in self.options.names:
            return self._unary_before(b, value)
        *batch, rows, columns = type_.static_shape
        depth = self.choose.integer(1, 4)
        left = self.add_input(type_.with_shape((*batch, rows, depth)))
        return b.op("MatMul", left, self.add_input(type_.with_shape((depth, columns))))

    def finished(self) -> Graph:
        """The graph with most values that nothing reads as outputs, and now and then one that something reads."""
        graph = self.graph
        graph.outputs = []
        made = [value for node in graph.nodes if not node.is_op("Constant") for value in node.outputs if value.name]
        ends = [value for value in made if not value.is_used]
        outputs = [value for value in ends if value is ends[-1] or not chance(self.choose, 10)]
        outputs.extend(value for value in made if value.is_used and chance(self.choose, 5))
        if not outputs:
            source = graph.inputs[0] if graph.inputs else self.add_input(tensor_type(self.choose, self.options.kinds))
            outputs = [self.builder.op("Identity", source)]
        graph.outputs = outputs
        for value in graph.inputs:
            if not value.is_used and len(graph.inputs) > 1:
                graph.remove_input(value)
        return graph


def _can_be_read(value: Value) -> bool:
    """Whether a value is a tensor, there, small and of known shape."""
    type_ = value.type
    return (
        bool(value.name)
        and isinstance(type_, TensorType)
        and type_.is_static
        and int(np.prod(type_.static_shape)) <= MAX_SIZE
    )
