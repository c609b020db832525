"""Which program runs a call: found in the package, opened for its extents, or compiled for its shapes and values."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from graphc.errors import (
    BackendError,
    ExecutionError,
    InputError,
    PackageError,
    PassError,
    ShapeNotCompiledError,
    TypeInferenceError,
)
from graphc.package import (
    MODEL,
    PARAMETER_ELEMENTS,
    Package,
    Plans,
    Variant,
    format_value,
    format_values,
    instantiate,
    parameter_values,
)
from graphc.runtime.engine import Engine, Unit
from graphc.runtime.hook import compile_hook
from graphc.runtime.memory import Array
from graphc.runtime.parameters import Parameters, Shapes, Values
from graphc.runtime.program import Program
from graphc.runtime.signature import Signature

OPEN_PROGRAMS = 256
"""Bindings of open variants whose step tables are kept: some 150 bytes for each step."""

_USER = 7
"""Frames from a warning here to who called the model."""


class Programs:
    """The programs of an executable, by the shapes and values that they are for. Safe from many threads.

    Args:
        package: The executable's.
        signature: Of its inputs.
        engine: What runs it. The package's code is loaded now: what is wrong with it is an error of loading.

    Raises:
        PackageError: The code does not run here.
    """

    def __init__(self, package: Package, signature: Signature, engine: Engine) -> None:
        self._manifest = package.manifest
        self._package: Package | None = package
        self._signature = signature
        self._engine = engine
        self._parameters = Parameters(package.manifest, MODEL in package.members)
        self._programs: dict[tuple[Shapes, Values], Program[Any]] = {}
        self._plans: dict[int, Plans] = {}
        self._lock = threading.Lock()
        self._unit = engine.load(package)
        # One for each package that was compiled on demand.
        self._units: list[Unit] = [self._unit]

    @property
    def package(self) -> Package | None:
        """The executable's; None when closed."""
        return self._package

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those of the package that this runs, then those compiled on demand."""
        own = tuple(variant for variant in self._manifest.variants if variant.isa == self._engine.isa)
        made = [p.variant for p in self._made()]
        return own + tuple(variant for variant in made if all(variant is not v for v in own))

    @property
    def memory(self) -> int:
        """Bytes of arenas held now."""
        shared = sum(unit.shared_memory for unit in list(self._units))
        return shared + sum(p.arenas * p.arena_size for p in self._made() if not p.opened)

    def _made(self) -> list[Program[Any]]:
        return list(self._programs.values())

    def find(self, arrays: Sequence[Any]) -> Program[Any]:
        """The program for a call's arrays, made ready now where it was not.

        Raises:
            InputError: The arrays do not fit the model.
            ShapeNotCompiledError: They fit, but there is no program for them, and none can be compiled here.
            ExecutionError: The model is closed.
        """
        shapes = self._signature.shapes(arrays)
        values = self._parameters.values(arrays) if self._parameters.positions else ()
        program = self._programs.get((shapes, values)) or self._add(shapes, values, arrays)
        if self._parameters.positions:
            program.watched = self._parameters.watched(program.variant, values)
        return program

    def trim(self) -> None:
        """Frees the arenas that no call is using."""
        for program in self._made():
            program.trim()
        for unit in list(self._units):
            unit.trim()

    def close(self) -> None:
        """Lets go of all; later calls of `find` fail."""
        with self._lock:
            units, self._units = self._units, []
            programs, self._programs = self._programs, {}
            self._package = None
        for program in programs.values():
            program.trim()
        for unit in units:
            unit.close()

    def _add(self, shapes: Shapes, values: Values, arrays: Sequence[Any]) -> Program[Any]:
        with self._lock:
            if self._package is None:
                raise ExecutionError("the model is closed")
            if (program := self._programs.get((shapes, values))) is None:
                program = self._choose(self._package, shapes, values, arrays)
                own = self._parameters.values_of(program.variant) if self._parameters.positions else ()
                self._programs[shapes, own] = program
                self._forget()
            return program

    def _forget(self) -> None:
        """Drops the oldest programs of open variants: there may be as many as there are lengths of text."""
        opened = [key for key, program in self._programs.items() if program.opened]
        for key in opened[: max(0, len(opened) - OPEN_PROGRAMS)]:
            del self._programs[key]

    def _choose(self, package: Package, shapes: Shapes, values: Values, arrays: Sequence[Any]) -> Program[Any]:
        """The variant for just these values, else one compiled for them, else one for any."""
        variant = self._find_variant(package, shapes, values)
        own = (None,) * len(values) if variant is None else self._parameters.values_of(variant)
        if own != values and self._parameters.admits(shapes, values):
            special = self._specialize(package, shapes, values, arrays, variant)
            if special is not None:
                return special
        if (known := self._programs.get((shapes, own))) is not None:
            return known
        if variant is not None:
            return self._unit.program(variant)
        return self._opened(package, arrays) or self._compile(package, shapes, arrays, {}) or self._refuse(arrays)

    def _opened(self, package: Package, arrays: Sequence[Any]) -> Program[Any] | None:
        """A program of an open variant, for the extents of these inputs."""
        if not package.manifest.open:
            return None
        bindings = self._signature.check_shapes(arrays)
        for number, variant in enumerate(package.manifest.open):
            if variant.isa == self._engine.isa and variant.takes(bindings):
                code = package.manifest.code[variant.isa]
                plans = self._plans.setdefault(number, Plans(variant, code.alignment))
                return self._unit.opened(partial(instantiate, variant, bindings, plans=plans))
        return None

    def _find_variant(self, package: Package, shapes: Shapes, values: Values) -> Variant | None:
        """The variant for these shapes that was made for the most of these values, and for none that differs."""
        fitting = [
            variant
            for variant in package.manifest.variants
            if variant.isa == self._engine.isa and variant.inputs == shapes and self._parameters.fits(variant, values)
        ]
        return max(fitting, key=lambda variant: len(variant.values), default=None)

    def _specialize(
        self, package: Package, shapes: Shapes, values: Values, arrays: Sequence[Any], general: Variant | None
    ) -> Program[Any] | None:
        """A program compiled for these values; None where `general` has to do, now and for values to come."""
        given = {self._parameters.names[i]: arrays[position] for i, position in enumerate(self._parameters.positions)}
        try:
            program = self._compile(package, shapes, arrays, given)
        except TypeInferenceError as error:
            raise InputError(
                f"the model does not run with {format_values(given)}: {error.message}",
                nodes=error.nodes,
                hint="these inputs decide shapes, as `graphc inspect` says; are they what they should be?",
            ) from error
        except (BackendError, PassError, PackageError) as error:
            if general is None:
                raise
            warnings.warn(f"not compiled for {format_values(given)}: {error.message}", RuntimeWarning, stacklevel=_USER)
            program = None
        if program is None:
            self._parameters.close()
        else:
            self._parameters.compiled(program.variant, general)
        return program

    def _compile(
        self, source: Package, shapes: Shapes, arrays: Sequence[Any], values: Mapping[str, Array]
    ) -> Program[Any] | None:
        """A program that the compiler makes of the model in the package; None where either is missing."""
        bindings = self._signature.check_shapes(arrays)
        hook = compile_hook()
        whole = set(bindings) == set(self._manifest.symbols)
        path = hook(source, bindings, values) if hook is not None and whole else None
        if path is None:
            return None
        package = Package(path)
        names = self._parameters.names
        keys = tuple([values[name].tobytes() if name in values else None for name in names])
        variant = self._find_variant(package, shapes, keys)
        if variant is None:
            raise PackageError(f"compiling for {bindings} gave no variant of {self._engine.isa} for these inputs")
        unit = self._engine.load(package)
        self._units.append(unit)
        return unit.program(variant)

    def _refuse(self, arrays: Sequence[Any]) -> NoReturn:
        """Raises for inputs that no variant is for."""

        def text(bindings: Mapping[str, int], values: Mapping[str, Array]) -> str:
            bound = ", ".join(f"{name}={value}" for name, value in sorted(bindings.items()))
            return ", ".join(filter(None, (bound, format_values(values)))) or "no symbols"

        bindings = self._signature.check_shapes(arrays)
        places = zip(self._parameters.names, self._parameters.positions, strict=True)
        values = {name: arrays[i] for name, i in places if arrays[i].size <= PARAMETER_ELEMENTS}
        own = [variant for variant in self._manifest.variants if variant.isa == self._engine.isa]
        made = [p.variant for p in self._made() if not p.opened]
        known = own + [variant for variant in made if all(variant is not one for one in own)]
        variants = {text(v.bindings, parameter_values(self._manifest, v)) for v in known}
        variants |= {str(variant) for variant in self._manifest.open if variant.isa == self._engine.isa}
        flags = [f"--dim {name}={value}" for name, value in sorted(bindings.items())]
        flags += [f"--value '{name}={format_value(array)}'" for name, array in values.items()]
        raise ShapeNotCompiledError(
            f"no variant for {text(bindings, values)}; the package has: {'; '.join(sorted(variants)) or 'none'}",
            hint=f"graphc compile ... {' '.join(flags)}, or where the compiler is installed, embed the model"
            " (--embed-model)",
        )
