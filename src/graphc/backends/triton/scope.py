"""Where a tensor expression is rendered: which block of values, where its axes stand, and the lines written so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from graphc.ir import Dim

Dims = frozenset[int]
"""Dimensions of a block along which a value differs; along the others it has extent 1. A scalar has none."""

SCALAR: Dims = frozenset()


@dataclass(frozen=True)
class Value:
    """A value at hand.

    Args:
        text: A name, or a literal.
        dims: Dimensions of the block along which it differs.
        literal: Whether it is a literal, which is no tensor until it meets one.
        depth: How many of the branches around it, from outside, its loads were masked by; elsewhere it is not valid.
    """

    text: str
    dims: Dims = SCALAR
    literal: bool = False
    depth: int = 0


@dataclass(frozen=True)
class Place:
    """Where an index symbol stands.

    Args:
        text: Name of an integer, a tensor that has the block's rank or a scalar.
        low: Least value.
        high: Greatest value wherever the masks hold; None where it is not known.
        dims: Dimensions of the block along which it differs.
        wide: Whether it has 64 bits.
    """

    text: str
    low: int = 0
    high: int | None = None
    dims: Dims = SCALAR
    wide: bool = False


@dataclass(frozen=True)
class Mask:
    """Which elements of a block there are.

    Args:
        text: Name of a tensor of booleans with the block's rank.
        dims: Dimensions along which it differs.
    """

    text: str
    dims: Dims


class Code:
    """Lines of a function under construction.

    Attributes:
        lines: What was written, with the indentation of loops.
        functions: Names of the helpers that it calls.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.functions: set[str] = set()
        self._counts: dict[str, int] = {}
        self._indent = ""

    def emit(self, line: str) -> None:
        """Writes a line."""
        self.lines.append(self._indent + line)

    def name(self, hint: str) -> str:
        """A name that no other has."""
        count = self._counts.get(hint, 0)
        self._counts[hint] = count + 1
        return f"{hint}{count}"

    def bind(self, text: str, hint: str = "v") -> str:
        """Gives what `text` computes a name."""
        name = self.name(hint)
        self.emit(f"{name} = {text}")
        return name

    def helper(self, name: str) -> str:
        """A helper's name; its text becomes part of the module."""
        self.functions.add(name)
        return name

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """What is written inside stands under `header`."""
        self.emit(header)
        outside = self._indent
        self._indent += "    "
        try:
            yield
        finally:
            self._indent = outside

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    def take(self) -> str:
        """All lines, which are taken out: they stand elsewhere than what follows."""
        return "\n".join(self.take_lines())

    def take_lines(self) -> list[str]:
        """What `take` does, line by line."""
        lines = list(self.lines)
        self.lines.clear()
        return lines


@dataclass
class Scope:
    """What is known at one point of a kernel.

    Args:
        axes: Index expression, over symbols of `places`, of each axis of the tensor expressions.
        places: Where those symbols stand.
        masks: Which elements of the block there are.
        tile: Extents of the block, as texts of constants; its rank is that of every tensor here.
        values: Scalars that are at hand, by identity.
        texts: Integers and masks that have names, by what they are.
    """

    axes: Mapping[str, Dim] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    masks: Sequence[Mask] = ()
    tile: tuple[str, ...] = ()
    values: dict[int, Value] = field(default_factory=dict)
    texts: dict[str, Value] = field(default_factory=dict)

    @property
    def bounds(self) -> dict[str, tuple[int, int | None]]:
        """Bounds of the symbols of index expressions."""
        return {name: (place.low, place.high) for name, place in self.places.items()}

    def inner(self, axes: Mapping[str, Dim] | None = None, places: Mapping[str, Place] | None = None) -> Scope:
        """The scope of a loop inside, which sees everything here; nothing here sees what it makes."""
        return Scope(
            {**self.axes, **(axes or {})},
            {**self.places, **(places or {})},
            self.masks,
            self.tile,
            dict(self.values),
            dict(self.texts),
        )

    def dims_of(self, names: Iterable[str]) -> Dims:
        """Dimensions along which an index over these symbols of places differs."""
        return SCALAR.union(*(self.places[name].dims for name in names))

    def shape(self, dims: Dims) -> str:
        """Text of the shape of a tensor that differs along `dims`."""
        if not dims:
            return "()"
        return f"[{', '.join(extent if i in dims else '1' for i, extent in enumerate(self.tile))}]"
