"""Random graphs for tests of the IR: any structure, types and attributes, with no operator's meaning behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from graphc.ir import GRAPHC_DOMAIN, Graph, Layout, MapType, Node, Tensor, TensorType, Type, Value, dtypes, symbol
from graphc.ir.dtypes import DType
from graphc.ir.types import OptionalType, SequenceType

FEW = settings(max_examples=30)
"""For properties of whole graphs, which take long to draw."""

DTYPES = st.sampled_from(dtypes.ALL)
TEXTS = st.text(max_size=6) | st.sampled_from(
    ["conv1", 'say "hi"', "a\nb", "layer.0/Conv", "\u2028", "\ud800", "#", "//"]
)
WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,6}", fullmatch=True) | st.sampled_from(
    ["graph", "return", "constant", "bounds", "_", "from", "weird op", "a::b", "é", ""]
)
DIMS = st.one_of(
    st.integers(0, 300),
    st.sampled_from(["batch", "seq", "x", "in"]).map(symbol),
    st.builds(lambda a, b, c: symbol(a) * b + c, st.sampled_from(["n", "m"]), st.integers(2, 3), st.integers(-2, 2)),
    st.builds(lambda a, b: (symbol(a) + 1) // b, st.sampled_from(["n", "m"]), st.integers(2, 9)),
)


@st.composite
def layouts(draw: st.DrawFn, rank: int) -> Layout:
    """Any layout that fits `rank` axes."""
    if rank == 0:
        return Layout()
    order = tuple(draw(st.permutations(range(rank)))) if draw(st.booleans()) else ()
    axis = draw(st.none() | st.integers(0, rank - 1))
    block = 1 if axis is None else draw(st.integers(2, 5))
    sides = st.tuples(st.integers(0, 2), st.integers(0, 2))
    halo = tuple(draw(st.lists(sides, min_size=rank, max_size=rank))) if draw(st.booleans()) else ()
    fill = draw(st.none() | st.sampled_from([0.0, -1.5, 128.0, float("-inf"), 0.1, 1e30]))
    return Layout(order, axis, block, halo, fill)


@st.composite
def tensor_types(draw: st.DrawFn) -> TensorType:
    """Any tensor type, of unknown rank too."""
    dtype = draw(DTYPES)
    shape = draw(st.none() | st.lists(DIMS, max_size=4).map(tuple))
    return TensorType(dtype, shape, draw(layouts(len(shape))) if shape is not None else Layout())


TYPES: st.SearchStrategy[Type] = st.recursive(
    tensor_types(),
    lambda inner: inner.map(SequenceType) | inner.map(OptionalType) | st.builds(MapType, DTYPES, inner),
    max_leaves=3,
)


@st.composite
def tensors(draw: st.DrawFn, dtype: DType | None = None) -> Tensor:
    """Any constant: every dtype, every bit pattern, few elements or many."""
    dtype = dtype or draw(DTYPES)
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    size = int(np.prod(shape))
    if dtype is dtypes.STRING:
        strings = draw(st.lists(TEXTS | st.binary(max_size=4), min_size=size, max_size=size))
        array = np.empty(size, dtype=object)
        array[:] = strings
        return Tensor.of(array.reshape(shape), dtype)
    if dtype.itemsize * 8 != dtype.bits or dtype is dtypes.BOOL:
        # Sub-byte types in a byte each: only values that they have.
        codes = np.array(draw(st.lists(st.integers(0, 2**dtype.bits - 1), min_size=size, max_size=size)), np.uint8)
        array = codes.astype(dtype.numpy) if dtype is dtypes.BOOL else codes.view(dtype.numpy)
        if dtype.is_integer:
            low = -(2 ** (dtype.bits - 1)) if dtype.kind == "int" else 0
            array = (codes.astype(np.int64) % 2**dtype.bits + low).astype(dtype.numpy)
        if dtype is dtypes.BOOL:
            array = (codes % 2).astype(np.bool_)
        return Tensor.of(array.reshape(shape), dtype)
    if draw(st.booleans()):
        few = draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=size, max_size=size))
        return Tensor.of(np.array(few, np.float64).astype(dtype.numpy).reshape(shape), dtype)
    data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    return Tensor.of(np.frombuffer(data, dtype.numpy).reshape(shape), dtype)


FLOATS = st.floats() | st.sampled_from([1e-5, float(np.float32(1e-5)), float(np.float32(0.1)), -0.0, 1e38, 3.5e38])


INTEGERS = st.integers(-(2**63), 2**63 - 1)
ATTRIBUTES: st.SearchStrategy[Any] = st.one_of(
    INTEGERS,
    FLOATS,
    TEXTS,
    st.binary(max_size=5),
    tensors(),
    TYPES,
    st.lists(INTEGERS, max_size=3).map(tuple),
    st.lists(FLOATS, max_size=3).map(tuple),
    st.lists(TEXTS, max_size=3).map(tuple),
    st.lists(tensors(), max_size=2).map(tuple),
)
"""Any attribute value that is no graph."""

NAME_STEMS = st.sampled_from(["v", "onnx::Conv_", "a/b.", "in put", 'q"', "_", "é", "0", "graph"])
SMALL = st.integers(0, 3)
OP_TYPES = WORDS.filter(bool)
HELD = st.dictionaries(OP_TYPES, ATTRIBUTES, max_size=2)
DOMAINS = st.sampled_from(["", "com.microsoft", GRAPHC_DOMAIN, "my domain"])
VERSIONS = st.sampled_from([1, 17, 22])
OPSETS = st.sampled_from([0, 17, 22])
OPTIONAL_TYPES = st.none() | TYPES
NAMES = st.just("") | TEXTS
ORIGINS = st.lists(TEXTS, max_size=2)
METADATA = st.dictionaries(TEXTS, TEXTS, max_size=2)
BOUNDS = st.dictionaries(
    st.sampled_from(["batch", "seq", "étage"]),
    st.tuples(st.integers(0, 3), st.none() | st.integers(3, 2**40)),
    max_size=2,
)


class _Naming:
    """Unique value names, some of which need quotes."""

    def __init__(self) -> None:
        self.count = 0

    def next(self, draw: st.DrawFn) -> str:
        self.count += 1
        return draw(NAME_STEMS) + str(self.count)


@st.composite
def graphs(draw: st.DrawFn, *, max_nodes: int = 5) -> Graph:
    """A graph that satisfies `verify` but for the checks of types and layouts."""
    return _graph(draw, _Naming(), [], max_nodes, depth=2, closed=False)


def _graph(draw: st.DrawFn, naming: _Naming, outer: list[Value], max_nodes: int, depth: int, closed: bool) -> Graph:
    graph = Graph(draw(WORDS), opset=draw(OPSETS))
    for _ in range(draw(SMALL)):
        graph.add_input(naming.next(draw), draw(OPTIONAL_TYPES))
    if depth == 2:
        graph.metadata = draw(METADATA)
        graph.bounds = draw(BOUNDS)
    visible = [*([] if closed else outer), *graph.inputs]
    for _ in range(draw(st.integers(0, max_nodes))):
        node = _node(draw, naming, visible, depth)
        graph.append(node)
        visible.extend(value for value in node.outputs if value.name)
    if visible:
        graph.outputs = draw(st.lists(st.sampled_from(visible), max_size=3))
    return graph


def _node(draw: st.DrawFn, naming: _Naming, visible: list[Value], depth: int) -> Node:
    if draw(SMALL) == 0:
        tensor = draw(tensors())
        node = Node("Constant", (), [naming.next(draw)], {"value": tensor}, version=draw(VERSIONS))
        node.output.type = TensorType(tensor.dtype, tensor.shape)
        return node
    inputs = draw(st.lists(st.none() | st.sampled_from(visible), max_size=3)) if visible else []
    outputs = [naming.next(draw) if draw(SMALL) else "" for _ in range(draw(SMALL))]
    held = draw(HELD)
    if depth > 0 and draw(SMALL) == 0:
        held["then_branch"] = _graph(draw, naming, visible, 2, depth - 1, closed=False)
        if draw(st.booleans()):
            held["_"] = tuple(_graph(draw, naming, visible, 1, depth - 1, closed=False) for _ in range(2))
    node = Node(
        draw(OP_TYPES),
        inputs,
        outputs,
        held,
        domain=draw(DOMAINS),
        version=draw(VERSIONS),
        name=draw(NAMES),
        origins=draw(ORIGINS),
    )
    if node.is_op("Region", GRAPHC_DOMAIN):
        node.op_type = "NoRegion"
    for value in node.outputs:
        value.type = draw(OPTIONAL_TYPES)
    return node
