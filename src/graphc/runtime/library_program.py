"""A variant ready to run on a CPU: kernels found in the package's library, its step table built."""

from __future__ import annotations

from collections.abc import Callable

from graphc.package import HostStep, Location, Manifest, Variant
from graphc.runtime import abi
from graphc.runtime.arenas import EMPTY, Arenas
from graphc.runtime.context import HostPart, KernelRange, LibraryContext
from graphc.runtime.host import Evaluate
from graphc.runtime.library import Library
from graphc.runtime.memory import Array, allocate
from graphc.runtime.program import Program
from graphc.runtime.shortcut import Function, build
from graphc.runtime.table import Table


class LibraryProgram(Program[LibraryContext]):
    """A variant with its kernels found and its tables built.

    Attributes:
        own_rows: Rows of the variant's steps, before those of bodies.
        copies: Outputs that no step writes.
        object_count: Object slots of a call.
        slot_count: Places that loops set.

    Args:
        manifest: The package's.
        variant: Of this manifest.
        library: With the variant's kernels.
        weights: The package's weights region, uint8.
        threads: That a call may use.
        evaluate: Runs host steps; needed if the variant has any.
        keyed: Whether the model has parameters.
    """

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        library: Library,
        weights: Array,
        *,
        threads: int,
        evaluate: Evaluate | None,
        keyed: bool = False,
    ) -> None:
        super().__init__(manifest, variant, keyed=keyed)
        self.weights = weights
        self.threads = threads
        self.evaluate = evaluate
        # The library stays loaded for as long as this does.
        self._library = library
        self.run = library.run
        self._entry = library.shortcut
        self.parts = _split(variant)
        self._first = {
            "arena": abi.ARENA,
            "weight": abi.WEIGHTS,
            "input": abi.FIRST_ARRAY,
            "output": abi.FIRST_ARRAY + self.input_count,
            "object": abi.FIRST_ARRAY + self.input_count + self.output_count,
            "slot": abi.FIRST_ARRAY + self.input_count + self.output_count + variant.objects,
        }
        self.table = Table(variant, library.kernel, self._base)
        self.copies = variant.copies
        self.object_count, self.slot_count = variant.objects, len(variant.slots)
        self.own_rows = sum(part.last - part.first for part in self.parts if isinstance(part, KernelRange))
        self._shortcut: Function | None = None
        # One range of kernels writes all outputs. A variant for any value may stand in for another, which must be asked
        # for at each call.
        kernels = len(self.parts) == 1 and isinstance(self.parts[0], KernelRange) and not variant.copies
        special = variant.values.keys() == set(manifest.parameters)
        self.shortens = kernels and special and not self.takes_objects and None not in variant.outputs

    def _base(self, place: Location) -> int:
        return self._first[place.kind] + place.index

    def new_arena(self) -> Array:
        """Memory for a context's intermediate values."""
        return allocate(self.arena_size)

    def new_context(self) -> LibraryContext:
        """What one more call in flight needs."""
        return LibraryContext(self)

    def shortcut(self) -> Function | None:
        """The short way of calls like the last one, with a context of its own; None where there is none."""
        if self._shortcut is None and self.shortens:
            with self._lock:
                if self._shortcut is None and self._idle:
                    self._shortcut = build(self._idle.pop(), self._entry)
                    self.shortens = self._shortcut is not None
        return self._shortcut

    def trim(self) -> None:
        """Frees the contexts that no call is using."""
        with self._lock:
            if self._shortcut is not None:
                self._shortcut = None
                self.arenas -= 1
        super().trim()


class OpenProgram(LibraryProgram):
    """A program of an open variant at one binding: contexts borrow their arenas, which serve all bindings.

    There may be as many as there are lengths of text, so that each keeps its table and little else.

    Args:
        manifest: The package's.
        instantiated: Makes the variant; the same one whenever it is called.
        library: With its kernels.
        weights: The package's weights region, uint8.
        shared: Where arenas come from.
        threads: That a call may use.
    """

    opened = True

    def __init__(
        self,
        manifest: Manifest,
        instantiated: Callable[[], Variant],
        library: Library,
        weights: Array,
        shared: Arenas,
        *,
        threads: int,
    ) -> None:
        super().__init__(manifest, instantiated(), library, weights, threads=threads, evaluate=None)
        self._instantiated = instantiated
        del self._variant
        self._shared = shared
        # The short way has an arena of its own, and there are too many bindings for that.
        self.shortens = False

    @property
    def variant(self) -> Variant:
        """What it runs, made anew."""
        return self._instantiated()

    def new_arena(self) -> Array:
        """Nothing: `acquire` borrows an arena."""
        return EMPTY

    def acquire(self) -> LibraryContext:
        """A context with an arena borrowed for it."""
        context = super().acquire()
        context.move(self._shared.take(self.arena_size))
        return context

    def release(self, context: LibraryContext) -> None:
        """Gives the arena back and keeps the context for the next call."""
        self._shared.give(context.arena)
        context.move(EMPTY)
        super().release(context)


def _split(variant: Variant) -> list[KernelRange | HostPart]:
    """The steps as runs of the launcher and single host steps, in order."""
    parts: list[KernelRange | HostPart] = []
    rows = 0
    for index, step in enumerate(variant.steps):
        if isinstance(step, HostStep):
            parts.append(HostPart(index, step))
            continue
        if parts and isinstance(last := parts[-1], KernelRange):
            parts[-1] = KernelRange(last.first, rows + 1, last.start)
        else:
            parts.append(KernelRange(rows, rows + 1, index))
        rows += 1
    return parts
