"""Layout assignment: activations around convolutions are stored as the machine's convolutions want them.

On CPUs a 2-D convolution is fastest over NCHW[b]c: channels split into blocks of one vector, the block innermost, and a
zero halo around each image so that the inner loop has no border test (Liu et al., "Optimizing CNN Model Inference on
CPUs", USENIX ATC 2019). On GPUs it is a product of matrices whose rows are pixels, and channels are last. The layout
belongs to the value: operators between convolutions compute in it, and a Relayout node stands only where a value enters
or leaves that part of the graph.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import GRAPHC_DOMAIN, ROW_MAJOR, Graph, Layout, Node, TensorType, Value
from graphc.ir.layout_checks import ANY_OPERATOR, register_layout_rule, row_major_only
from graphc.ops.base import Trait, find
from graphc.passes.base import Finding, PassContext, register_pass
from graphc.passes.image_layout import (
    ImageLayout,
    border_of,
    computes_in_any_order,
    convolution_rank,
    image_layout,
    is_convolution,
    widest,
)

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_FOLLOWERS = frozenset({"Concat", "Resize", "BatchNormalization", "Clip", "DepthToSpace", "Slice"})
"""Operators beside the pointwise ones that compute in whatever layout their data has."""


@register_pass
@dataclass(frozen=True)
class AssignLayout:
    """Stores the activations around convolutions in blocks of channels on CPUs, with channels last on GPUs.

    Before: typed graph, every value row-major. After: results of convolutions, and of what follows them, are in the
    layout that the target wants (NCHW[b]c with the halo that their readers need, or NHWC); Relayout nodes convert at
    the borders. Shapes and what the graph computes are unchanged.

    Args:
        block: Channels of a block; 0 takes the target's vector width, 1 leaves everything row-major.
        halo: Whether producers write the zero border that convolutions need.
        channels_last: Whether channels are last whatever the target.
    """

    name: ClassVar[str] = "layout"
    block: int = 0
    halo: bool = True
    channels_last: bool = False

    def run(self, graph: Graph, context: PassContext) -> int:
        """Chooses the values to store so, gives them their layouts, and puts Relayout nodes at the borders."""
        images = self._images(context)
        if images is None:
            return 0
        chosen = self._choose(graph, images, context)
        for value in chosen:
            kind = value.tensor_type
            value.type = kind.with_layout(_layout(value, images))
        changes = len(chosen)
        for value in chosen:
            changes += _convert_readers(graph, value, images, context)
        for node in list(graph.nodes):
            if images.takes(node) and _is_compiled(node, context):
                changes += _convert_inputs(graph, node, images)
        return changes

    def explain(self, graph: Graph, context: PassContext) -> Iterator[Finding]:
        """What would be stored as convolutions want it, and why nothing else would."""
        images = self._images(context)
        if images is None:
            return
        chosen: dict[Value, None] = {}
        for node in graph.nodes:
            if node.is_op("Constant"):
                continue
            reason = _why_row_major(node, chosen, images, context)
            if reason is None:
                chosen.update(dict.fromkeys(_images_of(node)))
        for node in graph.nodes:
            if node.output in chosen:
                yield Finding(node, images.describe(_layout(node.output, images)), done=True)
            elif not node.is_op("Constant"):
                yield Finding(node, f"row-major: {_why_row_major(node, chosen, images, context)}")

    def _images(self, context: PassContext) -> ImageLayout | None:
        return image_layout(context.target, block=self.block, halo=self.halo, last=self.channels_last)

    def _choose(self, graph: Graph, images: ImageLayout, context: PassContext) -> list[Value]:
        """Values to store so, in graph order."""
        chosen: dict[Value, None] = {}
        for node in graph.nodes:
            if _why_row_major(node, chosen, images, context) is None and context.permit(self.name, node):
                chosen.update(dict.fromkeys(_images_of(node)))
        return list(chosen)


def _layout(value: Value, images: ImageLayout) -> Layout:
    """With the widest border that a convolution reading the value asks for."""
    readers = [node for node in value.consumers if images.takes(node) and node.input(0) is value]
    return images.layout(value, widest([border_of(node) for node in readers]))


def _why_row_major(node: Node, chosen: Container[Value], images: ImageLayout, context: PassContext) -> str | None:
    """Why the node's result is stored row-major; None where it is not."""
    reason = images.refusal(node.output)
    if reason is not None:
        return reason
    verdict = None if context.capability is None else context.capability.supports(node)
    if verdict is not None and not verdict:
        return f"{node.op} runs on the host: {verdict.reason}"
    if images.takes(node) or (images.turns(node) and _meets_images(node.output, chosen, images)):
        return None
    if not _computes_in_any_layout(node) and not images.follows(node):
        return f"{node.op} is computed on row-major storage"
    if not any(value in chosen for value in _data_inputs(node)):
        return f"nothing that {node.op} reads is stored as convolutions want it"
    return None


def _computes_in_any_layout(node: Node) -> bool:
    if node.domain == "" and (node.op_type in _POOLS or node.op_type in _FOLLOWERS):
        return True
    if node.is_op("Resample", GRAPHC_DOMAIN):
        return node.int_attribute("axis", -1) > 1
    operator = find(node)
    return operator is not None and operator.has(Trait.POINTWISE)


def _data_inputs(node: Node) -> list[Value]:
    return [value for value in node.inputs if value is not None]


def _reads_any_layout(node: Node, value: Value, images: ImageLayout) -> bool:
    """Whether `node` reads `value` as it is stored: what turns channels last itself should find them there."""
    if images.takes(node):
        return node.input(0) is value
    return _computes_in_any_layout(node) or images.follows(node) or images.reads(node)


def _images_of(node: Node) -> list[Value]:
    """The results of a node that are images: all parts of a split one, never the places of maxima."""
    return [value for value in node.outputs if value.name] if node.is_op("Split") else [node.output]


def _meets_images(value: Value, chosen: Container[Value], images: ImageLayout) -> bool:
    """Whether all that reads `value` would read it as an image is stored, and some of it reads images anyway."""
    if value.is_graph_output or not all(_reads_any_layout(node, value, images) for node in value.consumers):
        return False
    others = [other for node in value.consumers for other in _data_inputs(node) if other is not value]
    return any(images.takes(node) for node in value.consumers) or any(other in chosen for other in others)


def _is_compiled(node: Node, context: PassContext) -> bool:
    return context.capability is None or bool(context.capability.supports(node))


def _convert_readers(graph: Graph, value: Value, images: ImageLayout, context: PassContext) -> int:
    """Gives readers that need row-major storage a converted copy."""
    readers = [
        use
        for use in value.uses
        if isinstance(use.user, Graph)
        # A body reads what it captures as it is declared.
        or use.user.graph is not graph
        or not _reads_any_layout(use.user, value, images)
        # The host reads arrays in their own order.
        or not _is_compiled(use.user, context)
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


def _convert_inputs(graph: Graph, node: Node, images: ImageLayout) -> int:
    """Converts the row-major image that a convolution reads, unless it has too few channels to be worth it."""
    data = node.input(0)
    if data is None or not data.tensor_type.layout.is_row_major:
        return 0
    if images.refusal(data) is not None or not images.converts(data):
        return 0
    layout = images.layout(data, border_of(node))
    for use in data.uses:
        user = use.user
        if (
            isinstance(user, Node)
            and user.is_op("Relayout", GRAPHC_DOMAIN)
            and user.output.tensor_type.layout == layout
        ):
            node.set_input(0, user.output)
            return 0
    copy = _relayout(data, layout, graph.fresh_name(f"{data.name}_images"))
    graph.insert_before(copy, node)
    node.set_input(0, copy.output)
    return 1


def _relayout(value: Value, layout: Layout, name: str) -> Node:
    origins = value.producer.origins if value.producer is not None else ()
    node = Node("Relayout", [value], [name], domain=GRAPHC_DOMAIN, version=1, origins=origins)
    node.output.type = value.tensor_type.with_layout(layout)
    return node


def _accepts(node: Node) -> str | None:
    """The verifier's rule: a convolution reads images with a border of zeros; its weights are row-major."""
    if _computes_in_any_layout(node):
        return None
    if computes_in_any_order(node):
        return None if all(map(_has_one_order, (*node.inputs, *node.outputs))) else row_major_only(node)
    if not is_convolution(node) or convolution_rank(node) not in (3, 4):
        return row_major_only(node)
    data, *weights = node.inputs
    if data is not None and data.tensor_type.layout.halo and data.tensor_type.layout.fill != 0:
        return f"a convolution must see zeros around its image, not {data.type}"
    for value in weights:
        if value is not None and not value.tensor_type.layout.is_row_major:
            return f"weights of a convolution must be row-major, not {value.type}"
    return None


def _has_one_order(value: Value | None) -> bool:
    """Whether a tensor's axes are only stored in another order, if in any layout at all."""
    kind = None if value is None else value.type
    return not isinstance(kind, TensorType) or kind.layout == Layout(order=kind.layout.order)


register_layout_rule(ANY_OPERATOR, _accepts)
