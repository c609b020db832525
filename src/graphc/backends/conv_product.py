"""A convolution that only mixes the channels of each pixel, as the product of matrices that it is.

Where all tensors of a region are stored with their channels last, pixels are the rows of a matrix as they lie: the body
of a 1x1 convolution of stride 1 becomes one around a Gemm, of the same storage.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.backends.base import Kernel, Packing
from graphc.backends.contraction import anchor_of
from graphc.backends.conv_problem import FLOAT_CONVOLUTIONS
from graphc.errors import BackendError
from graphc.ir import ROW_MAJOR, Builder, Dim, Graph, Layout, TensorType, Value, channels_last, clone_node
from graphc.ir.symbolic import product
from graphc.ops.base import Trait, find
from graphc.ops.convolution import conv_window


def as_product(body: Graph) -> tuple[Graph, int]:
    """The body as one around a Gemm, and the number of the weights among its inputs, which keep their numbers.

    Raises:
        BackendError: Its convolution is no product, or some tensor does not lie as a matrix of pixels by channels.
    """
    anchor = anchor_of(body, FLOAT_CONVOLUTIONS)
    x, w = anchor.inputs[0], anchor.inputs[1]
    assert x is not None and w is not None, "a convolution has both operands"
    if not w.tensor_type.is_static or anchor.int_attribute("group", 1) != 1 or w not in body.inputs:
        raise BackendError("the convolution has groups, or its weights are no input of the region")
    window = conv_window(anchor, x.tensor_type.dims, w.tensor_type.dims)
    pads = (*window.pads_begin, *window.pads_end)
    if any(extent != 1 for extent in (*window.kernel, *window.strides)) or any(pad != 0 for pad in pads):
        raise BackendError("the convolution sees neighbours, a border, or leaves pixels out")
    if set(w.consumers) != {anchor}:
        raise BackendError("the weights of the convolution are read for something else too")
    pixels = (x.tensor_type.dims[0], *x.tensor_type.dims[2:])
    made = Graph(body.name, opset=body.opset)
    made.bounds = body.bounds
    inside: dict[Value, Value] = {}
    for value in body.inputs:
        kind = value.tensor_type
        if value is w:
            kind = kind.with_shape(kind.dims[:2])
        elif value is not anchor.input(2):
            kind = _matrix(value, pixels)
        inside[value] = made.add_input(value.name, kind)
    b = Builder(made)
    for node in body.nodes:
        operator, tensor = find(node), node.output.constant
        if tensor is not None and tensor.size == 1:
            inside[node.output] = b.constant(tensor.array().reshape(()), tensor.dtype)
            continue
        if node is anchor:
            rest = [inside[value] for value in (anchor.input(2),) if value is not None and value in inside]
            if len(rest) != (anchor.input(2) is not None):
                raise BackendError("the bias of the convolution is not an input of the region")
            result = b.op("Gemm", inside[x], inside[w], *rest, transB=1)
        elif operator is not None and operator.has(Trait.POINTWISE):
            result = made.append(clone_node(node, inside)).output
        else:
            raise BackendError(f"{node.op} does not compute each element from those at the same place")
        result.type = _matrix(node.output, pixels)
        inside[node.output] = result
    made.outputs = [inside[value] for value in body.outputs]
    return made, body.inputs.index(w)


def of_convolution(kernel: Kernel, number: int) -> Kernel:
    """The kernel of such a product as that of its convolution: the weights are packed from the shape that they had.

    Args:
        kernel: Of the product.
        number: Of the weights.
    """

    def of_matrix(packing: Packing) -> Packing:
        return replace(packing, apply=lambda array: packing.apply(array.reshape(array.shape[:2])))

    operands = (
        replace(operand, packing=of_matrix(operand.packing))
        if operand.kind == "input" and operand.index == number and operand.packing is not None
        else operand
        for operand in kernel.operands
    )
    return replace(kernel, operands=tuple(operands))


def _matrix(value: Value, pixels: tuple[Dim, ...]) -> TensorType:
    """A tensor of the body as a matrix of pixels by channels, of the same storage.

    Raises:
        BackendError: It does not lie so.
    """
    kind = value.tensor_type
    rank = len(pixels) + 1
    dims = (1,) * (rank - len(kind.dims)) + kind.dims
    if all(extent == 1 for extent in (dims[0], *dims[2:])) and _is_plain(kind.layout, rank):
        return kind.with_shape(dims[1:2] if len(kind.dims) < 2 else (1, dims[1]))
    spatial = (dims[0], *dims[2:])
    inside = kind.layout == channels_last(rank) or all(extent == 1 for extent in dims[2:]) or dims[1] == 1
    if spatial != pixels or not inside or not _is_plain(kind.layout, rank):
        raise BackendError(f"%{value.name} is {kind}, whose pixels are no rows of a matrix")
    return kind.with_shape((product(pixels), dims[1]))


def _is_plain(layout: Layout, rank: int) -> bool:
    return layout in (ROW_MAJOR, channels_last(rank))
