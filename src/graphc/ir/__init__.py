"""What a graph is: types, layouts, values, nodes and graphs; builder, verifier, text form, networkx views."""

from graphc.ir.builder import Builder
from graphc.ir.dtypes import DType
from graphc.ir.equality import difference, equal
from graphc.ir.graph import GRAPHC_DOMAIN, Attribute, Graph, Node, Use, Value, captured_values, clone_node
from graphc.ir.layout import ROW_MAJOR, Layout, blocked, channels_last
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import Dim, SymbolicInt, symbol
from graphc.ir.tensor import Tensor
from graphc.ir.text import collect_constants, print_graph, print_node
from graphc.ir.types import MapType, OptionalType, SequenceType, TensorType, Type

__all__ = [
    "GRAPHC_DOMAIN",
    "ROW_MAJOR",
    "Attribute",
    "Builder",
    "DType",
    "Dim",
    "Graph",
    "Layout",
    "MapType",
    "Node",
    "OptionalType",
    "SequenceType",
    "SymbolicInt",
    "Tensor",
    "TensorType",
    "Type",
    "Use",
    "Value",
    "blocked",
    "captured_values",
    "channels_last",
    "clone_node",
    "collect_constants",
    "difference",
    "equal",
    "parse_graph",
    "print_graph",
    "print_node",
    "symbol",
]
