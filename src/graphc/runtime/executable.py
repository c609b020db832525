"""A loaded package: checks a call's inputs, picks the variant for their shapes, and runs it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NoReturn

import numpy as np

from graphc.errors import (
    BackendError,
    ExecutionError,
    InputError,
    OptionError,
    PackageError,
    PassError,
    ShapeNotCompiledError,
    TypeInferenceError,
)
from graphc.package import (
    MODEL,
    PARAMETER_ELEMENTS,
    HostTensor,
    Package,
    TensorSpec,
    Variant,
    format_value,
    format_values,
    instantiate,
    parameter_values,
)
from graphc.runtime.arenas import Arenas
from graphc.runtime.cpu import choose_isa, thread_count
from graphc.runtime.hook import compile_hook
from graphc.runtime.host import load_evaluator
from graphc.runtime.library import Library, load_library
from graphc.runtime.memory import Array
from graphc.runtime.parameters import Parameters, Shapes, Values
from graphc.runtime.profile import Profile, summarize
from graphc.runtime.program import OpenProgram, ParameterProgram, Program
from graphc.runtime.shortcut import Function
from graphc.runtime.signature import Signature
from graphc.runtime.state import Stateful

OPEN_PROGRAMS = 256
"""Bindings of open variants whose step tables are kept: some 20 kB each."""

Inputs = Mapping[str, Any] | Sequence[Any]


def load(
    path: str | os.PathLike[str], *, threads: int | None = None, verify: bool = False, isa: str | None = None
) -> Executable:
    """Loads a package for running.

    Args:
        path: A `.graphc` file.
        threads: Threads that one call may use; by default `GRAPHC_NUM_THREADS`, else the CPUs of this process.
        verify: Check the hash of the weights too, which reads the whole file.
        isa: Instruction set to run, of those in the package; by default the richest that this machine has.

    Raises:
        PackageError: Not a package, damaged, or it needs instruction sets that this machine lacks.
        OptionError: `threads` or `isa` is out of range.
    """
    package = Package(path)
    if verify:
        package.verify()
    return Executable(package, threads=thread_count(threads), isa=isa)


class Executable:
    """A package ready to run; may be called from many threads at once. Made by `load`.

    Attributes:
        manifest: What the package says about itself.
        isa: The instruction set that runs.
        threads: That one call may use.
    """

    def __init__(self, package: Package, *, threads: int, isa: str | None = None) -> None:
        self.manifest = package.manifest
        self.threads = threads
        self.isa = choose_isa(package.manifest.code, isa)
        self._package: Package | None = package
        self._signature = Signature(package.manifest)
        self._parameters = Parameters(package.manifest, MODEL in package.members)
        self._programs: dict[tuple[Shapes, Values], Program] = {}
        self._arenas = Arenas()
        self._recent: Program | None = None
        self._shortcut: Function | None = None
        self._lock = threading.Lock()
        # Loaded now rather than in the first call: what is wrong with the code is an error of loading.
        self._library = self._load_library(package)
        if package.manifest.host_steps:
            load_evaluator()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a call takes."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What a call answers."""
        return self.manifest.outputs

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The programs of the instruction set that runs, those compiled on demand last."""
        own = tuple(variant for variant in self.manifest.variants if variant.isa == self.isa)
        return own + tuple(p.variant for p in list(self._programs.values()) if all(p.variant is not v for v in own))

    @property
    def path(self) -> Path | None:
        """The package's file; None when closed."""
        return None if self._package is None else self._package.path

    @property
    def memory(self) -> int:
        """Bytes of arenas held now, over all variants used and calls in flight so far."""
        own = [program for program in list(self._programs.values()) if not isinstance(program, OpenProgram)]
        return self._arenas.size + sum(program.arenas * program.variant.arena_size for program in own)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(str(spec) for spec in specs) for specs in (self.inputs, self.outputs))
        return f"<graphc.Executable {self.manifest.model}: ({inputs}) -> ({outputs}), {self.isa}>"

    def __call__(self, inputs: Inputs, out: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Runs the model.

        Args:
            inputs: By name or by position; NumPy arrays or DLPack objects of the dtypes and shapes of `.inputs`. A
                sequence is a list of them, an optional is None or may be left out of a dict, a map is a dict.
            out: Arrays to write outputs to, by name; those left out are allocated.

        Returns:
            The outputs by name, in the model's order.

        Raises:
            InputError: Inputs or `out` do not fit the model.
            ShapeNotCompiledError: They fit, but this package has no variant for them (or for the values of parameters
                among them), and none can be compiled here.
            ExecutionError: A step failed.
        """
        if out is None and (short := self._shortcut) is not None and (made := short(inputs)) is not None:
            return made
        program = self._recent
        if program is None or (arrays := program.match(inputs)) is None:
            arrays, program = self._prepare(inputs)
        outputs = program.new_outputs() if out is None else self._outputs_in(out, program, arrays)
        context = program.acquire()
        try:
            context.execute(arrays, outputs)
        finally:
            program.release(context)
        if self._shortcut is None:
            self._shorten(program)
        return outputs

    def profile(self, inputs: Inputs, runs: int = 20, warmup: int = 3) -> Profile:
        """Measures each step.

        Args:
            inputs: As of a call.
            runs: Measured runs, at least 1.
            warmup: Runs before those.

        Raises:
            OptionError: `runs` is not positive.
        """
        if runs < 1:
            raise OptionError(f"runs is {runs}; expected at least 1")
        arrays, program = self._prepare(inputs)
        stamps = np.zeros((runs, len(program.variant.steps), 2), np.int64)
        spans = np.zeros((runs, 2), np.int64)
        context = program.acquire()
        try:
            for run in range(-warmup, runs):
                outputs = program.new_outputs()
                start = perf_counter_ns()
                context.execute(arrays, outputs, stamps[max(run, 0)])
                spans[max(run, 0)] = start, perf_counter_ns()
        finally:
            program.release(context)
        return summarize(program.variant, stamps, spans, self.threads)

    def walk(self, inputs: Inputs) -> Iterator[tuple[int, Callable[[HostTensor], Any]]]:
        """Runs step by step, for finding the first wrong one.

        Args:
            inputs: As of a call.

        Yields:
            Index of the step that has just run in the variant's steps, and a function that shows what lies at a place:
            arrays are views, valid until the next step.
        """
        arrays, program = self._prepare(inputs)
        context = program.acquire()
        try:
            for index in context.walk(arrays, program.new_outputs()):
                yield index, context.read
        finally:
            program.release(context)

    def variant_for(self, inputs: Inputs) -> Variant:
        """The program that a call with these inputs runs.

        Raises:
            InputError: They do not fit the model, or no variant has their shapes.
        """
        return self._prepare(inputs)[1].variant

    def output_shapes(self, inputs: Inputs) -> dict[str, tuple[int, ...] | None]:
        """Shapes of the outputs of a call with these inputs; None where only the call tells.

        Raises:
            InputError: They do not fit the model, or no variant has their shapes.
        """
        return {name: shape for name, shape, _ in self._prepare(inputs)[1].outputs}

    def bind_state(self, pairs: Mapping[str, str], initial: Mapping[str, Array] | None = None) -> Stateful:
        """The model with outputs bound to inputs of the next call: caches and recurrent states, which never leave.

        Args:
            pairs: Names of outputs by the inputs that they become: `{"past_0_k": "present_0_k"}`.
            initial: What those inputs are in the first call; zeros where left out, if their shapes are fixed.

        Returns:
            What is called with the other inputs and answers the other outputs.

        Raises:
            OptionError: A name is unknown, or an output cannot become the input.
            InputError: An initial state does not fit its input, or has to be given.
        """
        return Stateful(self, pairs, initial)

    def with_threads(self, threads: int) -> Executable:
        """The same package, its calls using another number of threads.

        Raises:
            OptionError: `threads` is no positive integer.
            ExecutionError: The model is closed.
        """
        if self._package is None:
            raise ExecutionError("the model is closed")
        return Executable(self._package, threads=thread_count(threads), isa=self.isa)

    def trim(self) -> None:
        """Frees the arenas that no call is using."""
        self._shortcut = None
        for program in list(self._programs.values()):
            program.trim()
        self._arenas.trim()

    def close(self) -> None:
        """Frees arenas and weights; calls in flight end as usual, later ones fail."""
        with self._lock:
            self._package, self._recent, self._shortcut, self._programs = None, None, None, {}

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare(self, inputs: Inputs) -> tuple[list[Array], Program]:
        """Arrays that kernels can read, and the program for their shapes."""
        arrays = self._signature.collect(inputs)
        shapes = self._signature.shapes(arrays)
        values = self._parameters.values(arrays) if self._parameters.positions else ()
        program = self._programs.get((shapes, values)) or self._add_program(shapes, values, arrays)
        if isinstance(program, ParameterProgram):
            program.watched = self._parameters.watched(program.variant, values)
        if self._package is not None and program is not self._recent:
            self._recent, self._shortcut = program, None
        return arrays, program

    def _shorten(self, program: Program) -> None:
        """Lets later calls like this one take the short way, if the program has one."""
        if program.shortens:
            with self._lock:
                if self._package is not None:
                    self._shortcut = program.shortcut()

    def _outputs_in(self, out: Mapping[str, Array], program: Program, inputs: Sequence[Array]) -> dict[str, Any]:
        """The outputs' arrays, those given in `out` among them."""
        outputs = program.new_outputs()
        if unknown := sorted(map(repr, out.keys() - outputs.keys())):
            raise InputError(f"out has {unknown[0]}; the outputs are {', '.join(map(repr, outputs))}")
        used = [array for array in inputs if isinstance(array, np.ndarray)]
        for name, shape, dtype in program.outputs:
            if (given := out.get(name)) is None:
                continue
            if shape is None:
                raise InputError(f"out {name!r}: its shape is known only when the model has run")
            if type(given) is not np.ndarray or given.dtype != dtype or given.shape != shape:
                found = f"{given.dtype}{list(given.shape)}" if isinstance(given, np.ndarray) else type(given).__name__
                raise InputError(f"out {name!r}: expected an array {dtype}{list(shape)}, got {found}")
            if not given.flags.carray:
                raise InputError(f"out {name!r}: expected a C-contiguous, aligned, writable array")
            if any(np.may_share_memory(given, array) for array in used):
                raise InputError(f"out {name!r} shares memory with an input or another output")
            used.append(given)
            outputs[name] = given
        return outputs

    def _add_program(self, shapes: Shapes, values: Values, arrays: Sequence[Array]) -> Program:
        with self._lock:
            if self._package is None:
                raise ExecutionError("the model is closed")
            if (program := self._programs.get((shapes, values))) is None:
                program = self._choose(self._package, shapes, values, arrays)
                self._programs[shapes, self._parameters.values_of(program.variant)] = program
                self._forget()
            return program

    def _forget(self) -> None:
        """Drops the oldest programs of open variants: there may be as many as there are lengths of text."""
        opened = [key for key, program in self._programs.items() if isinstance(program, OpenProgram)]
        for key in opened[: max(0, len(opened) - OPEN_PROGRAMS)]:
            del self._programs[key]

    def _choose(self, package: Package, shapes: Shapes, values: Values, arrays: Sequence[Array]) -> Program:
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
            return self._make_program(package, self._library, variant)
        return self._opened(package, arrays) or self._compile(package, shapes, arrays, {}) or self._refuse(arrays)

    def _opened(self, package: Package, arrays: Sequence[Array]) -> Program | None:
        """A program of an open variant, for the extents of these inputs."""
        if not package.manifest.open:
            return None
        bindings = self._signature.check_shapes(arrays)
        for variant in package.manifest.open:
            if variant.isa == self.isa and variant.takes(bindings):
                bound = instantiate(variant, bindings)
                return OpenProgram(
                    package.manifest, bound, self._library, package.weights, self._arenas, threads=self.threads
                )
        return None

    def _find_variant(self, package: Package, shapes: Shapes, values: Values) -> Variant | None:
        """The variant for these shapes that was made for the most of these values, and for none that differs."""
        fitting = [
            variant
            for variant in package.manifest.variants
            if variant.isa == self.isa and variant.inputs == shapes and self._parameters.fits(variant, values)
        ]
        return max(fitting, key=lambda variant: len(variant.values), default=None)

    def _make_program(self, package: Package, library: Library, variant: Variant) -> Program:
        kind = ParameterProgram if self._parameters.positions else Program
        return kind(
            package.manifest,
            variant,
            library,
            package.weights,
            threads=self.threads,
            evaluate=load_evaluator() if variant.host_steps else None,
        )

    def _specialize(
        self, package: Package, shapes: Shapes, values: Values, arrays: Sequence[Array], general: Variant | None
    ) -> Program | None:
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
            warnings.warn(f"not compiled for {format_values(given)}: {error.message}", RuntimeWarning, stacklevel=6)
            program = None
        if program is None:
            self._parameters.close()
        else:
            self._parameters.compiled(program.variant, general)
        return program

    def _compile(
        self, source: Package, shapes: Shapes, arrays: Sequence[Array], values: Mapping[str, Array]
    ) -> Program | None:
        """A program that the compiler makes of the model in the package; None where either is missing."""
        bindings = self._signature.check_shapes(arrays)
        hook = compile_hook()
        whole = set(bindings) == set(self.manifest.symbols)
        path = hook(source, bindings, values) if hook is not None and whole else None
        if path is None:
            return None
        package = Package(path)
        names = self._parameters.names
        keys = tuple([values[name].tobytes() if name in values else None for name in names])
        variant = self._find_variant(package, shapes, keys)
        if variant is None:
            raise PackageError(f"compiling for {bindings} gave no variant of {self.isa} for these inputs")
        return self._make_program(package, self._load_library(package), variant)

    def _refuse(self, arrays: Sequence[Array]) -> NoReturn:
        """Raises for inputs that no variant is for."""

        def text(bindings: Mapping[str, int], values: Mapping[str, Array]) -> str:
            bound = ", ".join(f"{name}={value}" for name, value in sorted(bindings.items()))
            return ", ".join(filter(None, (bound, format_values(values)))) or "no symbols"

        bindings = self._signature.check_shapes(arrays)
        places = zip(self._parameters.names, self._parameters.positions, strict=True)
        values = {name: arrays[i] for name, i in places if arrays[i].size <= PARAMETER_ELEMENTS}
        opened = [p.variant for p in list(self._programs.values()) if isinstance(p, OpenProgram)]
        known = [variant for variant in self.variants if all(variant is not one for one in opened)]
        variants = {text(v.bindings, parameter_values(self.manifest, v)) for v in known}
        variants |= {str(variant) for variant in self.manifest.open if variant.isa == self.isa}
        flags = [f"--dim {name}={value}" for name, value in sorted(bindings.items())]
        flags += [f"--value '{name}={format_value(array)}'" for name, array in values.items()]
        raise ShapeNotCompiledError(
            f"no variant for {text(bindings, values)}; the package has: {'; '.join(sorted(variants)) or 'none'}",
            hint=f"graphc compile ... {' '.join(flags)}, or where the compiler is installed, embed the model"
            " (--embed-model)",
        )

    def _load_library(self, package: Package) -> Library:
        if self.isa not in package.manifest.code:
            raise PackageError(f"{str(package.path)!r} has no code for {self.isa}")
        return load_library(package.code(self.isa), f"{package.path.name}:{package.manifest.code[self.isa].member}")
