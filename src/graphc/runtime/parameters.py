"""Inputs whose values decide what runs: what a call's are, which variant is for them, when to have one compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from graphc.package import PARAMETER_ELEMENTS, Manifest, Variant
from graphc.runtime.memory import Array

Shapes: TypeAlias = tuple[tuple[int, ...] | None, ...]
Values: TypeAlias = tuple[bytes | None, ...]
"""Bytes of each parameter, in the manifest's order; None for any value."""

_AT_ONCE = 4
"""Specializations compiled at first sight. Values that go on changing after those must come twice."""

_REMEMBERED = 1024
"""Values seen once that are remembered."""


class Parameters:
    """The parameters of a manifest, and the account of what was compiled for their values.

    Callers hold the executable's lock where they ask `admits` or tell it of a compile.

    Args:
        manifest: Of the package.
        can_compile: Whether the package carries what a variant is compiled from.
    """

    def __init__(self, manifest: Manifest, can_compile: bool) -> None:
        names = [spec.name for spec in manifest.inputs]
        self.names = manifest.parameters
        self.positions = tuple(names.index(name) for name in manifest.parameters)
        self._limit = self.room = manifest.specializations if can_compile else 0
        self._made: set[Values] = set()
        self._seen: set[tuple[Shapes, Values]] = set()

    def values(self, arrays: Sequence[Array]) -> Values:
        """The parameters of a call; None for one that is too large to key a variant."""
        found = [arrays[index] for index in self.positions]
        return tuple([array.tobytes() if array.size <= PARAMETER_ELEMENTS else None for array in found])

    def watched(self, variant: Variant, values: Values) -> tuple[tuple[int, bytes], ...] | None:
        """Values by position, at which a call may take `variant` again unasked; None where it must ask each time.

        It must where a variant for any value stands in for one that may be compiled when the values come again.
        """
        if self.room > 0 and None not in values and None in self.values_of(variant):
            return None
        pairs = zip(self.positions, values, strict=True)
        # What is too large to key a variant decides nothing, and its shape is the program's.
        return tuple((index, value) for index, value in pairs if value is not None)

    def values_of(self, variant: Variant) -> Values:
        """The values that a variant is for."""
        return tuple([variant.values.get(name) for name in self.names])

    def fits(self, variant: Variant, values: Values) -> bool:
        """Whether a variant may run with these values."""
        own = self.values_of(variant)
        return all(mine is None or mine == value for mine, value in zip(own, values, strict=True))

    def admits(self, shapes: Shapes, values: Values) -> bool:
        """Whether to have a variant compiled for these values now; counts the sight of them."""
        if (self.room <= 0 and values not in self._made) or None in values:
            return False
        key = shapes, values
        # Values that were worth it once are so in every shape.
        if len(self._made) < _AT_ONCE or values in self._made or key in self._seen:
            return True
        if len(self._seen) == _REMEMBERED:
            self._seen.clear()
        self._seen.add(key)
        return False

    def compiled(self, special: Variant, general: Variant | None) -> None:
        """Counts values compiled for. Those that left as many host steps as the general variant has are the last."""
        self._made.add(self.values_of(special))
        self.room = self._limit - len(self._made)
        if general is not None and len(special.host_steps) >= len(general.host_steps) > 0:
            self.close()

    def close(self) -> None:
        """Ends compiling for values: it cannot be done here, or gains nothing."""
        self.room = self._limit = 0
        self._made.clear()
