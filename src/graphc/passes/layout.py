"""Layout assignment: where convolutions work on vectors of channels, activations are stored that way.

On CPUs a 2-D convolution is fastest over NCHW[b]c: channels split into blocks of one vector, the block innermost, and a
zero halo around each image so that the inner loop has no border test (Liu et al., "Optimizing CNN Model Inference on
CPUs", USENIX ATC 2019). The layout belongs to the value: operators between convolutions compute in it, and a Relayout
node stands only where a value enters or leaves the blocked part of the graph.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import GRAPHC_DOMAIN, ROW_MAJOR, Graph, Layout, Node, TensorType, Value, blocked
from graphc.ir.dtypes import FLOAT32
from graphc.ir.layout_checks import ANY_OPERATOR, register_layout_rule, row_major_only
from graphc.ops.base import Trait, find
from graphc.ops.convolution import conv_window
from graphc.passes.base import Finding, PassContext, register_pass

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_FOLLOWERS = frozenset({"Concat", "Resize", "BatchNormalization", "Clip", "DepthToSpace", "Slice"})
"""Operators beside the pointwise ones that compute in whatever layout their data has."""


@register_pass
@dataclass(frozen=True)
class AssignLayout:
    """Stores the activations around convolutions in blocks of channels.

    Before: typed graph, every value row-major. After: results of 2-D convolutions, and of what follows them, are
    NCHW[b]c with the halo that their readers need; Relayout nodes convert at the borders. Shapes and what the graph
    computes are unchanged.

    Args:
        block: Channels of a block; 0 takes the target's vector width, 1 leaves everything row-major.
        halo: Whether producers write the zero border that convolutions need.
    """

    name: ClassVar[str] = "layout"
    block: int = 0
    halo: bool = True

    def run(self, graph: Graph, context: PassContext) -> int:
        """Chooses the values to block, gives them their layouts, and puts Relayout nodes at the borders."""
        block = self._block(context)
        if block == 1:
            return 0
        chosen = self._choose(graph, block, context)
        for value in chosen:
            kind = value.tensor_type
            value.type = kind.with_layout(self._layout(value, block))
        changes = len(chosen)
        for value in chosen:
            changes += _convert_readers(graph, value)
        for node in list(graph.nodes):
            changes += _convert_inputs(graph, node, block)
        return changes

    def explain(self, graph: Graph, context: PassContext) -> Iterator[Finding]:
        """What would be stored in blocks of channels, and why nothing else would."""
        block = self._block(context)
        if block == 1:
            return
        chosen: dict[Value, None] = {}
        for node in graph.nodes:
            if node.is_op("Constant"):
                continue
            reason = _why_row_major(node, chosen, block, context)
            if reason is None:
                chosen[node.output] = None
        for node in graph.nodes:
            if node.output in chosen:
                border = " with a border of zeros" if self._layout(node.output, block).halo else ""
                yield Finding(node, f"stored in blocks of {block} channels{border}", done=True)
            elif not node.is_op("Constant"):
                yield Finding(node, f"row-major: {_why_row_major(node, chosen, block, context)}")

    def _block(self, context: PassContext) -> int:
        return self.block or (context.target.lanes(FLOAT32) if context.target is not None else 16)

    def _choose(self, graph: Graph, block: int, context: PassContext) -> list[Value]:
        """Values to store blocked, in graph order."""
        chosen: dict[Value, None] = {}
        for node in graph.nodes:
            if _why_row_major(node, chosen, block, context) is None and context.permit(self.name, node):
                chosen[node.output] = None
        return list(chosen)

    def _layout(self, value: Value, block: int) -> Layout:
        """Blocked, with the widest zero border that a convolution reading the value asks for."""
        border = [(0, 0), (0, 0)]
        if self.halo:
            for node in value.consumers:
                if _is_convolution(node) and node.input(0) is value:
                    border = [(max(a, c), max(b, d)) for (a, b), (c, d) in zip(border, _pads(node), strict=True)]
        halo = ((0, 0), (0, 0), *border) if any(map(any, border)) else ()
        return blocked(1, block, halo=halo, fill=0.0)


def _why_row_major(node: Node, chosen: Container[Value], block: int, context: PassContext) -> str | None:
    """Why the node's result is not stored in blocks; None where it is."""
    reason = _not_an_image(node.output, block)
    if reason is not None:
        return reason
    verdict = None if context.capability is None else context.capability.supports(node)
    if verdict is not None and not verdict:
        return f"{node.op} runs on the host: {verdict.reason}"
    if _is_convolution(node):
        return None
    if not _computes_in_any_layout(node):
        return f"{node.op} is computed on row-major storage"
    if not any(value in chosen for value in _data_inputs(node)):
        return f"nothing that {node.op} reads is stored in blocks"
    return None


def _is_image(value: Value, block: int) -> bool:
    return _not_an_image(value, block) is None


def _not_an_image(value: Value, block: int) -> str | None:
    """Why a value is no float32 batch of images with channels enough to fill most of a block."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None or len(kind.shape) != 4:
        return "its result is no batch of images"
    if kind.dtype != FLOAT32:
        return f"its result is {kind.dtype}, not float32"
    channels = kind.shape[1]
    if not isinstance(channels, int):
        return f"the number of channels is open: {channels}"
    if 2 * channels < block:
        return f"{channels} channels fill less than half of a block of {block}"
    return None


def _is_convolution(node: Node) -> bool:
    """A 2-D convolution whose channels stay whole when split into blocks."""
    if not node.is_op("Conv"):
        return False
    weight = node.inputs[1]
    return weight is not None and weight.tensor_type.rank == 4


def _pads(node: Node) -> list[tuple[int, int]]:
    """Zeros that a convolution sees before and after each spatial axis; none where they depend on open extents."""
    shapes = [value.tensor_type.dims for value in node.inputs[:2] if value is not None]
    window = conv_window(node, *shapes)
    pads = list(zip(window.pads_begin, window.pads_end, strict=True))
    known = [(lo, hi) for lo, hi in pads if isinstance(lo, int) and isinstance(hi, int)]
    return known if len(known) == len(pads) else [(0, 0)] * len(pads)


def _computes_in_any_layout(node: Node) -> bool:
    if node.domain == "" and (node.op_type in _POOLS or node.op_type in _FOLLOWERS):
        return True
    if node.is_op("Resample", GRAPHC_DOMAIN):
        return node.int_attribute("axis", -1) > 1
    operator = find(node)
    return operator is not None and operator.has(Trait.POINTWISE)


def _data_inputs(node: Node) -> list[Value]:
    return [value for value in node.inputs if value is not None]


def _convert_readers(graph: Graph, value: Value) -> int:
    """Gives readers that need row-major storage a converted copy."""
    readers = [
        use
        for use in value.uses
        if isinstance(use.user, Graph)
        # A body reads what it captures as it is declared.
        or use.user.graph is not graph
        or not (_is_convolution(use.user) or _computes_in_any_layout(use.user))
    ]
    if not readers or value.producer is None:
        return 0
    copy = _relayout(value, ROW_MAJOR, graph.fresh_name(value.name))
    graph.insert_after(copy, value.producer)
    for use in readers:
        if isinstance(use.user, Graph):
            # The graph's output keeps its name; the blocked value takes the new one.
            value.name, copy.output.name = copy.output.name, value.name
            use.user.set_output(use.position, copy.output)
        else:
            use.user.set_input(use.position, copy.output)
    return 1


def _convert_inputs(graph: Graph, node: Node, block: int) -> int:
    """Blocks the row-major image that a convolution reads, unless it has too few channels to be worth it."""
    if not _is_convolution(node):
        return 0
    data = node.inputs[0]
    if data is None or not data.tensor_type.layout.is_row_major or not _is_image(data, block):
        return 0
    border = _pads(node)
    halo = ((0, 0), (0, 0), *border) if any(map(any, border)) else ()
    layout = blocked(1, block, halo=halo, fill=0.0)
    for use in data.uses:
        user = use.user
        if (
            isinstance(user, Node)
            and user.is_op("Relayout", GRAPHC_DOMAIN)
            and user.output.tensor_type.layout == layout
        ):
            node.set_input(0, user.output)
            return 0
    copy = _relayout(data, layout, graph.fresh_name(f"{data.name}_blocked"))
    graph.insert_before(copy, node)
    node.set_input(0, copy.output)
    return 1


def _relayout(value: Value, layout: Layout, name: str) -> Node:
    origins = value.producer.origins if value.producer is not None else ()
    node = Node("Relayout", [value], [name], domain=GRAPHC_DOMAIN, version=1, origins=origins)
    node.output.type = value.tensor_type.with_layout(layout)
    return node


def _accepts(node: Node) -> str | None:
    """The verifier's rule: a convolution reads blocked images with a border of zeros; its weights are row-major."""
    if _computes_in_any_layout(node):
        return None
    if not _is_convolution(node):
        return row_major_only(node)
    data, *weights = node.inputs
    if data is not None and data.tensor_type.layout.halo and data.tensor_type.layout.fill != 0:
        return f"a convolution must see zeros around its image, not {data.type}"
    for value in weights:
        if value is not None and not value.tensor_type.layout.is_row_major:
            return f"weights of a convolution must be row-major, not {value.type}"
    return None


register_layout_rule(ANY_OPERATOR, _accepts)
