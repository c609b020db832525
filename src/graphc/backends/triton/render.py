"""Rendering tensor expressions as Triton text over blocks of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from graphc.backends.contraction import storage_offset
from graphc.backends.element_types import compute_dtype, is_narrow_float
from graphc.backends.triton import element_types, scalar_ops
from graphc.backends.triton.indices import index_value, is_wide, place
from graphc.backends.triton.masks import both, masks_of
from graphc.backends.triton.reductions import arg_reduce, reduce
from graphc.backends.triton.scope import SCALAR, Code, Dims, Place, Scope, Value
from graphc.errors import BackendError
from graphc.ir import Dim, TensorType, dtypes
from graphc.ir.symbolic import interval, symbol, symbols
from graphc.ops.expr import ArgReduce, Axis, Call, Cast, Const, IndexValue, Load, Reduce, Scalar, Select, children, walk

PAIRS = 32
"""Neighbours among integers of 4 bits that stand in bytes of their own."""

_LIMIT = 1 << 31
_COMPARED = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


class Renderer:
    """Renders scalars of one kernel.

    Args:
        code: The function under construction.
        inputs: Type of each numbered input.
        given: Inputs that are values at hand and not memory (an anchor's result), by number; they stand at the index
            at which they are read.
        names: Of pointers to inputs; `in` and the number where there is none.
        paired: Inputs of 4-bit integers that stand two in a byte, `PAIRS` in lower halves, then as many in the upper
            ones of the same bytes: so elements in a row are found in bytes in a row.

    Attributes:
        reads: Numbers of the inputs that are read from memory.
        reports: Whether bad indices are reported, through a pointer called `status`.
    """

    def __init__(
        self,
        code: Code,
        inputs: Sequence[TensorType],
        given: Mapping[int, Value] | None = None,
        names: Mapping[int, str] | None = None,
        paired: Iterable[int] = (),
    ) -> None:
        self.code = code
        self.inputs = inputs
        self.given = dict(given or {})
        self.names = dict(names or {})
        self.paired = frozenset(paired)
        self.reads: set[int] = set()
        self.reports = False

    def name_of(self, number: int) -> str:
        """The name of the pointer to an input."""
        return self.names.get(number, f"in{number}")

    def render(self, scalar: Scalar, scope: Scope) -> Value:
        """The value of `scalar` in its computing type, a name or a literal; its statements are written.

        Args:
            scalar: What to compute.
            scope: Binds every free index symbol; keeps what was computed.

        Raises:
            BackendError: An operation or type has no form on GPUs.
        """
        return Rendering(self, scope, ()).visit(scalar)

    def tensor(self, scalar: Scalar, scope: Scope) -> Value:
        """As `render`, but no literal."""
        return element_types.tensor(self.code, self.render(scalar, scope), scalar.dtype)

    def stored(self, scalar: Scalar, scope: Scope) -> Value:
        """The value of `scalar` in the form in which its type is stored.

        A cast to a narrow float, which most such results end in, is rounded once and not read back.
        """
        code = self.code
        if isinstance(scalar, Cast) and is_narrow_float(scalar.dtype) and id(scalar) not in scope.values:
            given, source = self.tensor(scalar.value, scope), scalar.value.dtype
            text = element_types.narrowed(
                code, given, source, scalar.dtype, saturate=scalar.saturate, rounding=scalar.rounding
            )
            return replace(given, text=code.bind(text))
        value = self.tensor(scalar, scope)
        text = element_types.to_storage(code, value.text, scalar.dtype)
        return value if text == value.text else replace(value, text=code.bind(text))

    def store(self, scalar: Scalar, type_: TensorType, pointer: str, index: Sequence[Dim], scope: Scope) -> None:
        """Writes an element of every place of the block.

        Args:
            scalar: What is written.
            type_: Of the tensor that is written to.
            pointer: Its name.
            index: Where, by logical axis, over axes or symbols of places.
            scope: As of `render`.
        """
        value = self.stored(scalar, scope)
        offset = storage_offset(type_, [place(scope, i) for i in index], scope.bounds)
        at = index_value(self.code, scope, offset)
        mask = masks_of(self.code, scope, at.dims)
        masked = f", mask={mask.text}" if mask is not None else ""
        spread = "" if value.dims <= at.dims else f" + tl.zeros({scope.shape(value.dims)}, tl.int32)"
        self.code.emit(f"tl.store({pointer} + {at.text}{spread}, {value.text}{masked})")


@dataclass(frozen=True)
class Guard:
    """A branch: what is computed there counts only where the condition is as it says.

    Args:
        condition: Booleans.
        taken: Whether it is the branch of true.
        affine: Whether the condition is about indices alone.
    """

    condition: Value
    taken: bool
    affine: bool


class Rendering:
    """One expression at one place, inside branches.

    Args:
        renderer: The kernel's.
        scope: Where index symbols stand.
        guards: Branches around, the outermost first.
        branches: Values that hold in each of them only.
    """

    def __init__(
        self,
        renderer: Renderer,
        scope: Scope,
        guards: tuple[Guard, ...],
        branches: tuple[dict[int, Value], ...] = (),
    ) -> None:
        self.renderer = renderer
        self.code = renderer.code
        self.scope = scope
        self.guards = guards
        self.branches = branches

    def at(self, scope: Scope) -> Rendering:
        """The same in a loop inside, with the scope of it."""
        return Rendering(self.renderer, scope, self.guards, tuple(dict(values) for values in self.branches))

    def where(self, condition: Value) -> Rendering:
        """The same in a branch of its own, where a condition holds."""
        return Rendering(self.renderer, self.scope, (*self.guards, Guard(condition, True, False)), (*self.branches, {}))

    def visit(self, scalar: Scalar) -> Value:
        """The value of `scalar`, a name or a literal."""
        for values in (self.scope.values, *self.branches):
            found = values.get(id(scalar))
            if found is not None:
                return found
        made = self._compute(scalar)
        if not made.literal and not made.text.isidentifier():
            # Equal texts are equal values: what is read in two expressions is loaded once.
            known = self.scope.texts.get(made.text)
            if known is None:
                name = self.code.bind(made.text, "x" if isinstance(scalar, Load) else "v")
                known = self.scope.texts[made.text] = Value(name)
            made = replace(made, text=known.text)
        (self.scope.values, *self.branches)[made.depth][id(scalar)] = made
        return made

    def tensor(self, scalar: Scalar) -> Value:
        """As `visit`, but no literal."""
        return element_types.tensor(self.code, self.visit(scalar), scalar.dtype)

    def dims_of(self, scalar: Scalar) -> Dims:
        """Dimensions along which a scalar may differ, without rendering it; its own reduction axes are in none."""
        bound = {axis.name for node in walk(scalar) for axis in _bound(node)}
        dims, seen, stack = SCALAR, set[int](), [scalar]
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            known = next((v for values in (self.scope.values, *self.branches) if (v := values.get(id(node)))), None)
            if known is not None:
                dims |= known.dims
                continue
            if isinstance(node, Load) and node.input in self.renderer.given:
                dims |= self.renderer.given[node.input].dims
            for index in _affine_indices(node):
                named = symbols(index) - bound
                dims |= self.scope.dims_of(part for name in named for part in symbols(self.scope.axes.get(name, 0)))
                dims |= self.scope.dims_of(name for name in named if name not in self.scope.axes)
            stack.extend(children(node))
        return dims

    def _compute(self, scalar: Scalar) -> Value:
        match scalar:
            case Const(dtype=dtype, value=value):
                return element_types.constant(value, dtype)
            case IndexValue(index=index):
                return self._index_value(place(self.scope, index))
            case Load():
                return self._load(scalar)
            case Call(op=op, arguments=(IndexValue(index=left), IndexValue(index=right))) if op in _COMPARED:
                return self._compare(op, left, right)
            case Call(op=op, arguments=arguments):
                values = tuple(self.visit(argument) for argument in arguments)
                return scalar_ops.apply(self.code, op, arguments[0].dtype, values)
            case Cast(dtype=dtype, value=value, saturate=saturate, rounding=rounding):
                given = self._cast_from(value, dtype)
                text = element_types.cast(self.code, given, value.dtype, dtype, saturate=saturate, rounding=rounding)
                return replace(given, text=text)
            case Select(condition=condition, then=then, otherwise=otherwise):
                return self._select(condition, then, otherwise)
            case Reduce():
                return reduce(self, scalar)
            case ArgReduce():
                return arg_reduce(self, scalar)
        raise BackendError(f"{type(scalar).__name__} has no compiled form on GPUs")

    def _index_value(self, index: Dim) -> Value:
        if isinstance(index, int):
            return Value(str(index), literal=True)
        value = index_value(self.code, self.scope, index)
        return replace(value, text=f"tl.cast({value.text}, tl.int64)")

    def _cast_from(self, value: Scalar, dtype: dtypes.DType) -> Value:
        """What a cast converts; an index that fits 32 bits is converted from these."""
        if isinstance(value, IndexValue) and dtype != dtypes.BOOL and id(value) not in self.scope.values:
            index = place(self.scope, value.index)
            if not isinstance(index, int) and not is_wide(self.scope, index):
                found = index_value(self.code, self.scope, index)
                return replace(found, text=self.code.bind(f"tl.cast({found.text}, tl.int32)"))
        return self.tensor(value)

    def _compare(self, op: str, left: Dim, right: Dim) -> Value:
        left, right = place(self.scope, left), place(self.scope, right)
        if isinstance(left, int) and isinstance(right, int):
            holds = {"eq": left == right, "ne": left != right, "lt": left < right}
            holds |= {"le": left <= right, "gt": left > right, "ge": left >= right}
            return Value(str(holds[op]), literal=True)
        a, b = index_value(self.code, self.scope, left), index_value(self.code, self.scope, right)
        # In a loop of the interpreter an index may be Python's, and so would the answer be.
        held = replace(a, text=f"tl.cast({a.text}, {'tl.int64' if is_wide(self.scope, left) else 'tl.int32'})")
        return scalar_ops.apply(self.code, op, dtypes.INT64, (replace(held, literal=False), b))

    def _select(self, condition: Scalar, then: Scalar, otherwise: Scalar) -> Value:
        chosen = self.visit(condition)
        if chosen.literal:
            return self.visit(then if chosen.text == "True" else otherwise)
        affine = all(not isinstance(node, Load) for node in walk(condition))
        first = self._inside(Guard(chosen, True, affine), then)
        second = self._inside(Guard(chosen, False, affine), otherwise)
        if first.literal and second.literal:
            first = element_types.tensor(self.code, first, then.dtype)
        if compute_dtype(then.dtype).bits == 64:
            first, second = (element_types.tensor(self.code, value, then.dtype) for value in (first, second))
        # What the branches' masks left out is not chosen: the result holds wherever the select stands.
        depth = min(len(self.guards), max(chosen.depth, first.depth, second.depth))
        text = f"tl.where({chosen.text}, {first.text}, {second.text})"
        return Value(text, chosen.dims | first.dims | second.dims, depth=depth)

    def _inside(self, guard: Guard, scalar: Scalar) -> Value:
        inner = Rendering(self.renderer, self.scope, (*self.guards, guard), (*self.branches, {}))
        return inner.visit(scalar)

    def _load(self, scalar: Load) -> Value:
        given = self.renderer.given.get(scalar.input)
        if given is not None:
            return given
        type_ = self.renderer.inputs[scalar.input]
        places: list[Dim] = []
        depth = 0
        scope = self.scope
        for axis, (index, extent) in enumerate(zip(scalar.indices, type_.dims, strict=True)):
            if isinstance(index, Scalar):
                symbol, scope, reached = self._computed(scope, scalar, axis, index, extent)
                places.append(symbol)
                depth = max(depth, reached)
            else:
                places.append(place(scope, index))
        self.renderer.reads.add(scalar.input)
        at = index_value(self.code, scope, storage_offset(type_, places, scope.bounds))
        unsafe = not all(_is_inside(scope, p, e) for p, e in zip(places, type_.dims, strict=True))
        mask = masks_of(self.code, scope, at.dims)
        for number, guard in enumerate(self.guards):
            if unsafe or (guard.affine and guard.condition.dims <= at.dims):
                depth = max(depth, number + 1)
                mask = self._and(mask, self._condition(guard))
        if unsafe and not self.guards:
            mask = self._and(mask, self._range(scope, places, type_.dims))
        paired = scalar.input in self.renderer.paired
        text = f"{self.renderer.name_of(scalar.input)} + {_pair_of(at.text) if paired else at.text}"
        if mask is not None:
            if not mask.dims <= at.dims:
                text = f"{text} + {self.code.bind(f'tl.zeros_like({mask.text}.to(tl.int32))', 'i')}"
            other = "0.0" if element_types.storage_dtype(type_.dtype).is_float else "0"
            text = f"tl.load({text}, mask={mask.text}, other={other})"
        else:
            text = f"tl.load({text})"
        if paired:
            held = element_types.storage_dtype(type_.dtype)
            text = f"({text} >> tl.cast({at.text} // {PAIRS} % 2 * 4, tl.{held.name}))"
        loaded = element_types.from_storage(self.code, text, type_.dtype)
        dims = at.dims if mask is None else at.dims | mask.dims
        return Value(loaded, dims, depth=depth)

    def _computed(self, scope: Scope, load: Load, number: int, index: Scalar, extent: Dim) -> tuple[Dim, Scope, int]:
        """A gathered index as a symbol of its own; clamped, because a wild one must not be read.

        Answers the symbol, a scope that has it, and the depth of what it was computed from.
        """
        value = self.tensor(index)
        if index.dtype not in (dtypes.INT32, dtypes.INT64):
            value = replace(value, text=self.code.bind(f"{value.text}.to(tl.int64)", "i"))
        if isinstance(extent, int) and extent <= _LIMIT:
            limit, wide = str(extent - 1), False
        else:
            limit, wide = str(extent - 1), True
        held = value.text
        if load.checked:
            self._report(scope, value, index, str(extent))
        clamped = self.code.bind(f"tl.maximum(tl.minimum({held}, {limit}), 0)", "i")
        if not wide:
            clamped = self.code.bind(f"{clamped}.to(tl.int32)", "i")
        name = f"{clamped}@"
        known = Place(clamped, 0, extent - 1 if isinstance(extent, int) else None, value.dims, wide)
        return symbol(name), scope.inner(places={name: known}), value.depth

    def _report(self, scope: Scope, value: Value, index: Scalar, extent: str) -> None:
        """Writes the step's status where an index is out of range, in what is there and in branches that are taken."""
        self.renderer.reports = True
        text = f"({value.text} < 0) | ({value.text} >= {extent})"
        bad = Value(self.code.bind(text, "bad"), value.dims)
        for mask in (masks_of(self.code, scope, value.dims), *map(self._condition, self.guards)):
            if mask is not None:
                bad = both(self.code, scope, bad, mask)
        pointer = f"status + {bad.text}.to(tl.int32) * 0" if bad.dims else "status"
        self.code.emit(f"tl.store({pointer}, 1, mask={bad.text})")

    def _range(self, scope: Scope, places: Sequence[Dim], dims: Sequence[Dim]) -> Value | None:
        """Where indices that are not known to be inside are."""
        mask: Value | None = None
        for index, extent in zip(places, dims, strict=True):
            if _is_inside(scope, index, extent):
                continue
            at = index_value(self.code, scope, index)
            text = f"(tl.cast({at.text}, tl.int64) >= 0) & ({at.text} < {extent})"
            mask = self._and(mask, Value(self.code.bind(text, "m"), at.dims))
        return mask

    def _condition(self, guard: Guard) -> Value:
        if guard.taken:
            return guard.condition
        key = f"not {guard.condition.text}"
        found = self.scope.texts.get(key)
        if found is None:
            text = self.code.bind(f"{guard.condition.text} ^ True", "m")
            found = self.scope.texts[key] = replace(guard.condition, text=text)
        return found

    def _and(self, left: Value | None, right: Value | None) -> Value | None:
        if left is None or right is None:
            return left or right
        return both(self.code, self.scope, left, right)


def _pair_of(at: str) -> str:
    """The byte that has the element at a place."""
    return f"({at} // {2 * PAIRS} * {PAIRS} + {at} % {PAIRS})"


def _is_inside(scope: Scope, index: Dim, extent: Dim) -> bool:
    reach = interval(index, scope.bounds)
    if reach is None or reach[0] < 0 or reach[1] is None:
        return False
    return isinstance(extent, int) and reach[1] < extent


def _affine_indices(node: Scalar) -> list[Dim]:
    if isinstance(node, IndexValue):
        return [node.index]
    if isinstance(node, Load):
        return [index for index in node.indices if not isinstance(index, Scalar)]
    if isinstance(node, Reduce):
        return [axis.extent for axis in node.axes]
    return []


def _bound(node: Scalar) -> Sequence[Axis]:
    if isinstance(node, Reduce):
        return node.axes
    return (node.axis,) if isinstance(node, ArgReduce) else ()
