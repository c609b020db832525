"""What a convolution region computes: its geometry, and which of the body's inputs it reads for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphc.backends.contraction import anchor_of, storage_offset
from graphc.backends.local_extents import Localized
from graphc.backends.regions import Expander
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Layout, Node, TensorType, Value, blocked
from graphc.ir.dtypes import FLOAT32, DType
from graphc.ir.symbolic import product
from graphc.ops.convolution import conv_window
from graphc.ops.expr import loads
from graphc.ops.window import StaticWindow, Window


@dataclass(frozen=True)
class Plane:
    """What the loops of a convolution run over.

    Args:
        batch: Images.
        rows: Output rows.
        columns: Output columns.
        top: Rows before the input that the first window reads.
        left: Columns before it.
    """

    batch: Dim
    rows: Dim
    columns: Dim
    top: Dim
    left: Dim

    @property
    def is_open(self) -> bool:
        """Whether rows or columns are not bound."""
        return not (isinstance(self.rows, int) and isinstance(self.columns, int))


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution, with extents that are known or, where they are open, usual: those weigh what it costs.

    Args:
        anchor: Its node.
        plane: Its extents as they are, open ones among them.
        border: Rows and columns that windows read outside the input at most: before it and after it.
        window: Geometry of its windows; entry 0 of every field is rows, entry 1 columns.
        batch: Images.
        inputs: Channels of the input.
        outputs: Channels of the output.
        group: Groups of channels that do not see each other.
        height: Rows of the input.
        width: Columns of the input.
        data: Number of the body input that is convolved.
        weights: Number of the body input that holds the weights.
        bias: Number of the body input added to each channel, or None.
    """

    anchor: Node
    plane: Plane
    border: tuple[tuple[int, int], tuple[int, int]]
    window: StaticWindow
    batch: int
    inputs: int
    outputs: int
    group: int
    height: int
    width: int
    data: int
    weights: int
    bias: int | None

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        rows, columns = self.window.output
        taps = self.window.kernel[0] * self.window.kernel[1]
        return self.batch * self.outputs * rows * columns * (self.inputs // self.group) * taps

    @property
    def flops(self) -> Dim:
        """Arithmetic operations, whatever the extents."""
        per_pixel = 2 * self.outputs * (self.inputs // self.group) * self.window.kernel[0] * self.window.kernel[1]
        return self.plane.batch * self.plane.rows * self.plane.columns * per_pixel

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is convolved alone."""
        return self.group == self.inputs == self.outputs


FLOAT_CONVOLUTIONS = frozenset({"Conv"})
INTEGER_CONVOLUTIONS = frozenset({"ConvInteger"})


def convolution_of(
    body: Graph,
    *,
    operators: frozenset[str] = FLOAT_CONVOLUTIONS,
    dtypes: frozenset[DType] = frozenset({FLOAT32}),
    reads_bias: bool = True,
    local: Localized | None = None,
) -> Convolution:
    """The convolution that a body is built around.

    Args:
        body: The body.
        operators: What a convolution may be.
        dtypes: What its operands may be.
        reads_bias: Whether a bias must be an input of the body; it is left out of the answer otherwise.
        local: What the body's open extents are, where the template takes any.

    Raises:
        BackendError: It has none, or one that is not 2-D, of such elements, and between inputs of the body.
    """
    anchor = anchor_of(body, operators)
    numbers = {value: i for i, value in enumerate(body.inputs)}

    def number(value: Value | None, what: str) -> int:
        if value not in numbers:
            raise BackendError(f"the {what} of the convolution is not an input of the region")
        return numbers[value]

    x, w = anchor.inputs[0], anchor.inputs[1]
    bias = anchor.input(2) if reads_bias and anchor.op_type in FLOAT_CONVOLUTIONS else None
    data, weights = number(x, "input"), number(w, "weights")
    for value in (x, w, anchor.output):
        assert value is not None
        kind = value.tensor_type
        if kind.dtype not in dtypes and value is not anchor.output:
            raise BackendError(f"a convolution of {kind.dtype}, not of {', '.join(sorted(map(str, dtypes)))}")
        if kind.rank != 4:
            raise BackendError("the convolution is not 2-D")
        if not (kind.is_static or (local is not None and isinstance(kind.dims[1], int))) or kind.numel == 0:
            raise BackendError(f"%{value.name} has an extent that is not bound, or is empty")
    assert x is not None and w is not None
    if not w.tensor_type.is_static:
        raise BackendError("the weights of the convolution have an extent that is not bound")
    known = local or Localized(body)
    shape, taps = x.tensor_type.dims, w.tensor_type.dims
    window = conv_window(anchor, shape, taps)
    batch, (inputs, height, width) = known.usual(shape[0], 1), map(known.usual, shape[1:])
    bound = (batch, inputs, height, width)
    # What follows in the region knows the results' extents by their own names.
    plane = Plane(shape[0], *anchor.output.tensor_type.dims[2:], *window.pads_begin)
    return Convolution(
        anchor,
        plane,
        border_of(window),
        conv_window(anchor, bound, taps).static(),
        batch,
        inputs,
        known.usual(taps[0]),
        anchor.int_attribute("group", 1),
        height,
        width,
        data,
        weights,
        None if bias is None else number(bias, "bias"),
    )


def border_of(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns that windows read outside an image at most: before it and after it."""
    rows, columns = (_reached(window, axis) for axis in (0, 1))
    return rows, columns


def _reached(window: Window, axis: int) -> tuple[int, int]:
    begin, end = window.pads_begin[axis], window.pads_end[axis]
    extent, output, reach = window.spatial[axis], window.output[axis], window.reach[axis]
    if isinstance(begin, int) and isinstance(extent, int) and isinstance(output, int):
        return begin, max(0, (output - 1) * window.strides[axis] - begin + reach - extent)
    # Padding that depends on the extent is what a window lacks.
    return (begin, end) if isinstance(begin, int) and isinstance(end, int) else (reach - 1, reach - 1)


def check_weights(problem: Convolution, body: Graph, constants: frozenset[int]) -> None:
    """Refuses weights that cannot be packed at compile time.

    Raises:
        BackendError: They are not a constant, or the region reads them for something else too.
    """
    if problem.weights not in constants:
        raise BackendError("the weights of the convolution are not a constant")
    expander = Expander(body, {problem.anchor.output: len(body.inputs)})
    read = {load.input for value in body.outputs for load in loads(expander.output(value).body)}
    if problem.weights in {*read, problem.data, problem.bias}:
        raise BackendError("the weights of the convolution are read for something else too")


@dataclass(frozen=True)
class Source:
    """Where a kernel reads its input: the border included, so that windows need no test.

    Args:
        type: The storage that windows read.
        is_staged: Whether that is a copy with a border, made by the kernel in a workspace.
    """

    type: TensorType
    is_staged: bool

    @property
    def workspaces(self) -> list[Dim]:
        """Bytes of the copy, where there is one."""
        return [self.type.storage_bytes] if self.is_staged else []

    @property
    def is_blocked(self) -> bool:
        """Whether channels are split into blocks."""
        return self.type.layout.blocked_axis is not None

    @property
    def block(self) -> int:
        """Channels that lie at one stride from each other."""
        layout = self.type.layout
        channels = self.type.dims[1]
        assert isinstance(channels, int)
        return channels if layout.blocked_axis is None else layout.block

    def strides(self) -> Strides:
        """Elements between neighbours along each axis of the storage."""
        kind = self.type
        storage = kind.layout.storage_shape(kind.dims)
        order = kind.layout.order or tuple(range(len(kind.dims)))
        image, outer, row, column = (product(storage[order.index(axis) + 1 :]) for axis in range(4))
        origin = storage_offset(kind, (0, 0, 0, 0), {})
        if self.is_blocked:
            return Strides(origin, image, outer, 1, row, column)
        return Strides(origin, image, outer * self.block, outer, row, column)


@dataclass(frozen=True)
class Strides:
    """Storage of images as `origin + image*n + block*b + channel*c + row*h + column*w`."""

    origin: Dim
    image: Dim
    block: Dim
    channel: Dim
    row: Dim
    column: Dim

    def at(self, image: Dim, block: Dim, row: Dim, column: Dim) -> Dim:
        """The offset of the first channel of a block at a pixel; rows and columns may lie in the border."""
        return self.origin + image * self.image + block * self.block + row * self.row + column * self.column

    def map(self, change: Callable[[Dim], Dim]) -> Strides:
        """The same with every one of them changed: computed once by a kernel, for example."""
        return Strides(*map(change, (self.origin, self.image, self.block, self.channel, self.row, self.column)))


def source_of(
    problem: Convolution, type_: TensorType, lanes: int | None = None, *, reads_padding: bool = False
) -> Source:
    """The input as it lies where its border is wide enough and zero, else a copy that has one.

    Args:
        problem: The convolution.
        type_: Its input.
        lanes: Channels of a block, where the kernel reads whole blocks; None where it reads one channel at a time.
        reads_padding: Whether lanes past the last channel are read and must be zero.
    """
    layout = type_.layout
    wanted = problem.border
    images = layout.blocked_axis in (None, 1) and not layout.order and not any(map(any, layout.halo[:2]))
    images = images and lanes in (None, layout.block)
    if reads_padding and problem.inputs % layout.block:
        images = images and layout.fill == 0.0
    if images and not any(map(any, wanted)):
        return Source(type_, False)
    if images and layout.halo and layout.fill == 0.0:
        found = layout.halo[2:]
        if all(f[0] >= w[0] and f[1] >= w[1] for f, w in zip(found, wanted, strict=True)):
            return Source(type_, False)
    halo = ((0, 0), (0, 0), *wanted)
    block = lanes or (layout.block if layout.blocked_axis == 1 else 1)
    copy = blocked(1, block, halo=halo, fill=0.0) if block > 1 else Layout(halo=halo, fill=0.0)
    return Source(type_.with_layout(copy), True)
