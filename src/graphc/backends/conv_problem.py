"""What a convolution region computes: its geometry, and which of the body's inputs it reads for what."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.contraction import anchor_of, storage_offset
from graphc.backends.regions import Expander
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Layout, Node, TensorType, Value, blocked, symbol
from graphc.ir.dtypes import FLOAT32, DType
from graphc.ir.symbolic import linear_coefficient
from graphc.ops.convolution import conv_window
from graphc.ops.expr import loads
from graphc.ops.window import StaticWindow


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution with known extents.

    Args:
        anchor: Its node.
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
    def is_depthwise(self) -> bool:
        """Whether every channel is convolved alone."""
        return self.group == self.inputs == self.outputs

    @property
    def border(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns that windows read outside the input: before it and after it."""
        found = []
        for axis, extent in enumerate((self.height, self.width)):
            window = self.window
            reach = window.dilations[axis] * (window.kernel[axis] - 1) + 1
            begin = window.pads_begin[axis]
            last = (window.output[axis] - 1) * window.strides[axis] - begin + reach
            found.append((begin, max(0, last - extent)))
        return found[0], found[1]


FLOAT_CONVOLUTIONS = frozenset({"Conv"})
INTEGER_CONVOLUTIONS = frozenset({"ConvInteger"})


def convolution_of(
    body: Graph,
    *,
    operators: frozenset[str] = FLOAT_CONVOLUTIONS,
    dtypes: frozenset[DType] = frozenset({FLOAT32}),
    reads_bias: bool = True,
) -> Convolution:
    """The convolution that a body is built around.

    Args:
        body: The body.
        operators: What a convolution may be.
        dtypes: What its operands may be.
        reads_bias: Whether a bias must be an input of the body; it is left out of the answer otherwise.

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
        if not kind.is_static or kind.numel == 0:
            raise BackendError(f"%{value.name} has an extent that is not bound, or is empty")
    assert x is not None and w is not None
    batch, inputs, height, width = _extents(x.tensor_type)
    return Convolution(
        anchor,
        conv_window(anchor, x.tensor_type.dims, w.tensor_type.dims).static(),
        batch,
        inputs,
        _extents(w.tensor_type)[0],
        anchor.int_attribute("group", 1),
        height,
        width,
        data,
        weights,
        None if bias is None else number(bias, "bias"),
    )


def _extents(kind: TensorType) -> tuple[int, ...]:
    return tuple(extent for extent in kind.dims if isinstance(extent, int))


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
        names = ("n", "b", "c", "h", "w")
        image, outer, inner, row, column = map(symbol, names)
        bounds: dict[str, tuple[int, int | None]] = {name: (0, None) for name in names}
        bounds["c"] = (0, self.block - 1)
        channel = inner if self.type.layout.blocked_axis is None else outer * self.block + inner
        offset = storage_offset(self.type, (image, channel, row, column), bounds)
        steps = [linear_coefficient(offset, name) for name in names]
        origin = storage_offset(self.type, (0, 0, 0, 0), {})
        assert None not in steps and isinstance(origin, int), f"{self.type} is not strided"
        n, b, c, h, w = (step for step in steps if step is not None)
        return Strides(origin, n, b, c, h, w)


@dataclass(frozen=True)
class Strides:
    """Storage of images as `origin + image*n + block*b + channel*c + row*h + column*w`."""

    origin: int
    image: int
    block: int
    channel: int
    row: int
    column: int

    def at(self, image: Dim, block: Dim, row: Dim, column: Dim) -> Dim:
        """The offset of the first channel of a block at a pixel; rows and columns may lie in the border."""
        return self.origin + image * self.image + block * self.block + row * self.row + column * self.column


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
