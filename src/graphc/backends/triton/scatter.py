"""Scatters: a copy of the data, and updates stored into it, or combined with it, where indices say.

Updates of one place come in their order, whatever order blocks of threads run in, so that the same inputs give the same
bits. Each place of the result looks at all updates that could be its own and takes those that are (a fold): few
updates cost no more than the copy. Many updates that only replace what was there are marked first: each place learns
the number of the last update that it gets, by an atomic maximum of integers, which is the same in any order.

An index that is none is reported and not followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.extents import unflatten
from graphc.backends.triton import element_types, scalar_ops
from graphc.backends.triton.assemble import arguments_of, build_kernel, number_argument
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.module import render_module
from graphc.backends.triton.scope import Code, Place, Scope
from graphc.backends.triton.scope import Value as Text
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, Value, symbol
from graphc.ops.expr import Axis
from graphc.target.cuda import CudaTarget

BLOCK = 256
"""Elements of a block of threads."""

FOLDED_UPDATES = 32
"""Updates up to which every place looks at all of them."""

FOLDED_LOOKS = 1 << 22
"""Looks of all places together up to which they cost less than two more launches."""

MOST_LOOKS = 1 << 37
"""Looks of all places together that take tens of milliseconds; beyond, the host is as fast."""

_COMBINE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}
_LIMIT = 1 << 31


@dataclass(frozen=True)
class _Source:
    """An input of the node: a pointer argument, or the number it is.

    Args:
        kind: Its type.
        number: Of the body's input; None where a constant of one element is part of the code.
        constant: That element.
    """

    kind: TensorType
    number: int | None
    constant: int | float | bool

    def load(self, code: Code, offset: str, mask: str) -> str:
        """Elements in storage type: of a block where there is a mask, else one."""
        if self.number is not None:
            if not mask:
                return f"tl.load(in{self.number} + {offset})"
            other = "0.0" if element_types.storage_dtype(self.kind.dtype).is_float else "0"
            return f"tl.load(in{self.number} + {offset}, mask={mask}, other={other})"
        held = element_types.tensor(code, element_types.constant(self.constant, self.kind.dtype), self.kind.dtype)
        stored = element_types.to_storage(code, held.text, self.kind.dtype)
        return f"tl.broadcast_to({stored}, ({BLOCK},))" if mask else stored


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a ScatterElements (or Scatter) or ScatterND.

    Raises:
        BackendError: The reduction is unknown, elements have no form on GPUs, shapes do not fit each other, or more
            updates are combined than each place could look at.
    """
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    scatter = _Scatter(body, node)
    launches, workspaces = scatter.launches()
    return build_kernel(
        "scatter",
        body,
        target,
        launches,
        flops=prod(scatter.updates.kind.static_shape),
        schedule={"reduction": scatter.reduction, "way": scatter.way},
        reads=scatter.reads,
        workspaces=workspaces,
    )


class _Scatter:
    """One scatter: what is updated, and the functions that do it."""

    def __init__(self, body: Graph, node: Node) -> None:
        self.body = body
        self.node = node
        self.data, self.indices, self.updates = (_source(body, value) for value in node.inputs[:3])
        self.reduction = node.str_attribute("reduction", "none")
        if self.reduction != "none" and self.reduction not in _COMBINE:
            self._refuse(f"reduction {self.reduction!r} is none of none, {', '.join(_COMBINE)}")
        self.shape = self.data.kind.static_shape
        self.dtype = self.data.kind.dtype
        sources = (self.data, self.indices, self.updates)
        self.reads = list(dict.fromkeys(source.number for source in sources if source.number is not None))
        for source in sources:
            element_types.pointer_type(source.kind.dtype)
            if prod(source.kind.static_shape) >= _LIMIT:
                self._refuse("more elements than 32 bits count")
        self._check_shapes()
        self.elements = prod(self.shape)
        if prod(self.updates.kind.static_shape) and not self.elements:
            self._refuse("updates of a tensor without elements")
        if self.reduction != "none" and not scalar_ops.is_supported(_COMBINE[self.reduction], self.dtype):
            self._refuse(f"{self.reduction} of {self.dtype} has no compiled form")
        looks = self.elements * self.count
        if self.count <= FOLDED_UPDATES or looks <= FOLDED_LOOKS or self.reduction != "none":
            self.way = "fold"
            if looks > MOST_LOOKS:
                self._refuse(f"{self.count} updates that {self.elements} elements would each look at")
        else:
            self.way = "mark"

    @property
    def slices(self) -> bool:
        """Whether an update is a slice of the data, found by a tuple of indices."""
        return self.node.op_type == "ScatterND"

    @property
    def axis(self) -> int:
        """The axis whose places the indices tell."""
        return self.node.int_attribute("axis", 0) % len(self.shape)

    @property
    def length(self) -> int:
        """Indices of a tuple."""
        return self.indices.kind.static_shape[-1]

    @property
    def size(self) -> int:
        """Elements that an update replaces together."""
        return prod(self.shape[self.length :]) if self.slices else 1

    @property
    def count(self) -> int:
        """Updates that one place may get."""
        shape = self.indices.kind.static_shape
        return prod(shape[:-1]) if self.slices else shape[self.axis]

    def _refuse(self, why: str) -> None:
        raise BackendError(why, nodes=self.node.origins)

    def _check_shapes(self) -> None:
        data, indices, updates = (source.kind.static_shape for source in (self.data, self.indices, self.updates))
        if self.slices:
            fit = updates == (*indices[:-1], *data[indices[-1] :])
        else:
            fit = updates == indices and all(
                i == self.axis or a <= b for i, (a, b) in enumerate(zip(indices, data, strict=True))
            )
        if not fit:
            self._refuse(f"updates of shape {list(updates)} and indices of {list(indices)}")

    def launches(self) -> tuple[list[FunctionLaunch], list[Dim]]:
        """What a call launches, and the bytes of its workspaces."""
        if not self.elements:
            return [], []
        if self.way == "fold":
            return [self._launch(self._fold(), self.elements)], []
        places = self.elements // self.size
        numbers = prod(self.indices.kind.static_shape[:-1] if self.slices else self.indices.kind.static_shape)
        fill = self._function("fill", ["workspace0"], Code(), places=places)
        launches = [(fill, places), (self._mark(numbers), numbers), (self._pick(), self.elements)]
        return [self._launch(function, work) for function, work in launches], [4 * places]

    @staticmethod
    def _launch(function: Function, work: int) -> FunctionLaunch:
        return FunctionLaunch(function, (-(-work // BLOCK), 1, 1))

    def _function(
        self, name: str, names: Sequence[str], code: Code, count: int | None = None, **facts: Any
    ) -> Function:
        types = [value.tensor_type for value in self.body.inputs]
        outputs = [value.tensor_type for value in self.body.outputs]
        arguments = list(arguments_of(names, self.reads, types, outputs, ["*i32"]))
        if count is not None:
            arguments.append(number_argument("updates", count))
        text = render_module(
            f"scatter_{name}",
            code.functions,
            arguments=[argument.name for argument in arguments],
            block=BLOCK,
            elements=self.elements,
            **facts,
        )
        return Function(text, name, tuple(arguments))

    def _names(self, *sources: _Source) -> list[str]:
        numbers = {source.number for source in sources}
        return [f"in{number}" for number in self.reads if number in numbers]

    # --- the two ways -------------------------------------------------------------------------------------------------

    def _fold(self) -> Function:
        code = Code()
        scope = _scope({"at": (self.elements, 0), "number": (max(self.count, 1), None)})
        mine, to_index, to_update, among = self._places(scope)
        inside = "here"
        if among:
            texts = [f"({index_value(code, scope, at).text} < {extent})" for at, extent in among]
            inside = code.bind(" & ".join(["here", *texts]), "m")
        # Where there is but one place, its number is a literal, and the comparison must still be one for each element.
        own = f"at * 0 + {index_value(code, scope, mine).text}"
        setup = code.take_lines()
        found = [self._index(code, scope, offset, extent, inside) for offset, extent in to_index]
        if self.slices:
            code.emit(f"hit = here & ({own} == {_flat(found, self.shape[: self.length])})")
        else:
            code.emit(f"hit = {inside} & ({own} == {found[0]})")
        at_update = index_value(code, scope, to_update)
        text = at_update.text if at_update.dims else f"{at_update.text} + at * 0"
        update = code.bind(self.updates.load(code, text, "hit"), "x")
        stored = "value"
        data = self.data.load(code, "at", "here")
        combined = update
        if self.reduction != "none":
            update = code.bind(element_types.from_storage(code, update, self.dtype), "x")
            arguments = (Text("value", frozenset({0})), Text(update, frozenset({0})))
            combined = scalar_ops.apply(code, _COMBINE[self.reduction], self.dtype, arguments).text
            lines = code.take_lines()
            data = element_types.from_storage(code, data, self.dtype)
            stored = element_types.to_storage(code, "value", self.dtype)
        else:
            lines = code.take_lines()
        names = [*self._names(self.data, self.indices, self.updates), "out0", "status"]
        return self._function(
            "fold",
            names,
            code,
            self.count,
            setup=setup,
            lines=lines,
            data=data,
            combined=combined,
            stored=stored,
        )

    def _mark(self, numbers: int) -> Function:
        code = Code()
        scope = _scope({"number": (numbers, 0)})
        number = symbol("number")
        if self.slices:
            offsets = [(number * self.length + i, self.shape[i]) for i in range(self.length)]
            found = [self._index(code, scope, offset, extent, "here") for offset, extent in offsets]
            target = _flat(found, self.shape[: self.length])
        else:
            found = [self._index(code, scope, number, self.shape[self.axis], "here")]
            at = _split(number, self.indices.kind.static_shape)
            parts = [index_value(code, scope, index).text for index in at]
            parts[self.axis] = found[0]
            target = _flat(parts, self.shape)
        names = [*self._names(self.indices), "workspace0", "status"]
        return self._function("mark", names, code, lines=code.take_lines(), place=f"({target})", updates=numbers)

    def _pick(self) -> Function:
        code = Code()
        from_ = "number" if self.size == 1 else f"(number * {self.size} + at % {self.size})"
        code.emit(f"update = {self.updates.load(code, from_, 'updated')}")
        code.emit(f"value = {self.data.load(code, 'at', 'kept')}")
        names = [*self._names(self.data, self.updates), "out0", "workspace0"]
        return self._function("pick", names, code, lines=code.take_lines(), size=self.size)

    def _places(self, scope: Scope) -> tuple[Dim, list[tuple[Dim, int]], Dim, list[tuple[Dim, int]]]:
        """Of the element `at` and the update `number` that it looks at.

        Returns:
            What the index must be for the update to be the element's; where the indices lie and the extents that they
            are places of; where the update lies; what must be less than what for there to be updates at all.
        """
        at, number = symbol("at"), symbol("number")
        bounds = scope.bounds
        if self.slices:
            size = Axis("size", self.size)
            outer = Axis("outer", self.elements // self.size)
            where = unflatten((outer, size), at, bounds)
            offsets = [(number * self.length + i, self.shape[i]) for i in range(self.length)]
            return where["outer"], offsets, number * self.size + where["size"], []
        shape = self.indices.kind.static_shape
        mine = _split(at, self.shape, bounds)
        source = [number if i == self.axis else index for i, index in enumerate(mine)]
        offset: Dim = 0
        for index, extent in zip(source, shape, strict=True):
            offset = offset * extent + index
        others = [
            (index, extent)
            for i, (index, extent, whole) in enumerate(zip(mine, shape, self.shape, strict=True))
            if i != self.axis and extent < whole
        ]
        return mine[self.axis], [(offset, self.shape[self.axis])], offset, others

    def _index(self, code: Code, scope: Scope, offset: Dim, extent: int, mask: str) -> str:
        """An index from memory, wrapped; one out of range is reported, and answered as the nearest that is in it."""
        at = index_value(code, scope, place(scope, offset))
        if not at.dims:
            # All look at the same index, which there is.
            mask = ""
        stored = code.bind(self.indices.load(code, at.text, mask), "i")
        wide = code.bind(f"{stored}.to(tl.int64)", "i")
        wrapped = code.bind(f"tl.where({wide} < 0, {wide} + {extent}, {wide})", "i")
        bad = code.bind(f"{mask and f'{mask} & '}(({wrapped} < 0) | ({wrapped} >= {extent}))", "bad")
        code.emit(f"tl.store(status + {bad}.to(tl.int32) * 0, 1, mask={bad})")
        return code.bind(f"tl.maximum(tl.minimum({wrapped}, {extent - 1}), 0).to(tl.int32)", "i")


def _scope(symbols: Mapping[str, tuple[int, int | None]]) -> Scope:
    """Places of symbols: how many values each takes, and the dimension of the block along which it differs."""
    return Scope(
        {},
        {
            name: Place(name, 0, extent - 1, frozenset() if dim is None else frozenset({dim}))
            for name, (extent, dim) in symbols.items()
        },
        (),
        (str(BLOCK),),
    )


def _split(flat: Dim, shape: Sequence[int], bounds: Mapping[str, tuple[int, int | None]] | None = None) -> list[Dim]:
    """The index of a place in row-major order."""
    axes = [Axis(f"axis{i}", extent) for i, extent in enumerate(shape)]
    places = unflatten(axes, flat, bounds or {str(flat): (0, prod(shape) - 1)})
    return [places[axis.name] for axis in axes]


def _flat(parts: Sequence[str], shape: Sequence[int]) -> str:
    """The place of an index in row-major order, as text."""
    text = parts[0] if parts else "0"
    for part, extent in zip(parts[1:], shape[1:], strict=True):
        text = f"({text}) * {extent} + {part}"
    return text


def _source(body: Graph, value: Value | None) -> _Source:
    assert value is not None, "type inference saw all inputs"
    if value in body.inputs:
        return _Source(value.tensor_type, body.inputs.index(value), 0)
    tensor = value.constant
    assert tensor is not None and tensor.size == 1, "only constants of one element are part of a body"
    return _Source(value.tensor_type, None, tensor.array().reshape(()).item())
