"""A loaded package: checks a call's inputs, and runs the program for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from graphc.errors import ExecutionError, InputError, OptionError
from graphc.package import HostTensor, Package, TensorSpec, Variant
from graphc.runtime.cpu import thread_count
from graphc.runtime.engine import Engine
from graphc.runtime.engines import choose_engine
from graphc.runtime.host import load_evaluator
from graphc.runtime.memory import Array
from graphc.runtime.profile import Profile, summarize
from graphc.runtime.program import Program
from graphc.runtime.programs import Programs
from graphc.runtime.shortcut import Function
from graphc.runtime.signature import Signature
from graphc.runtime.state import Stateful

Inputs = Mapping[str, Any] | Sequence[Any]


def load(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    threads: int | None = None,
    verify: bool = False,
    isa: str | None = None,
) -> Executable:
    """Loads a package for running.

    Args:
        path: A `.graphc` file.
        device: What runs it: `cpu`, `cuda` or `cuda:1`; by default the first GPU here that the package has code for,
            else the CPU.
        threads: Of the CPU, that one call may use; by default `GRAPHC_NUM_THREADS`, else the CPUs of this process.
        verify: Check the hash of the weights too, which reads the whole file.
        isa: Instruction set to run, of those in the package; by default the richest that the device has.

    Raises:
        PackageError: Not a package, damaged, or it needs what this machine lacks; says what it has code for, and what
            is here.
        DeviceError: The GPU asked for is not here, or cannot be used.
        ToolchainError: What the package needs to run is not installed.
        OptionError: `device`, `threads` or `isa` is unknown or out of range.
        ExecutionError: The GPU has not the memory for the weights.
    """
    package = Package(path)
    if verify:
        package.verify()
    return Executable(package, threads=thread_count(threads), isa=isa, device=device)


class Executable:
    """A package ready to run; may be called from many threads at once. Made by `load`.

    Attributes:
        manifest: What the package says about itself.

    Args:
        package: Opened.
        threads: That one call may use.
        isa: As of `load`.
        device: As of `load`.
        engine: What runs it, in place of `isa` and `device`.
    """

    def __init__(
        self,
        package: Package,
        *,
        threads: int,
        isa: str | None = None,
        device: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.manifest = package.manifest
        self._engine = engine or choose_engine(package.manifest.code, device=device, isa=isa, threads=threads)
        self._signature = Signature(package.manifest, self._engine.adopt)
        self._programs = Programs(package, self._signature, self._engine)
        self._recent: Program[Any] | None = None
        self._shortcut: Function | None = None
        if package.manifest.host_steps:
            load_evaluator()

    @property
    def isa(self) -> str:
        """The instruction set that runs; on a GPU its architecture."""
        return self._engine.isa

    @property
    def device(self) -> str:
        """What runs it: `cpu`, `cuda:0`."""
        return self._engine.device

    @property
    def processor(self) -> str:
        """The name of the processor that runs it."""
        return self._engine.processor

    @property
    def threads(self) -> int:
        """Threads of the CPU that one call may use."""
        return self._engine.threads

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
        return self._programs.variants

    @property
    def path(self) -> Path | None:
        """The package's file; None when closed."""
        package = self._programs.package
        return None if package is None else package.path

    @property
    def memory(self) -> int:
        """Bytes of arenas held now, over all variants used and calls in flight so far."""
        return self._programs.memory

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(str(spec) for spec in specs) for specs in (self.inputs, self.outputs))
        return f"<graphc.Executable {self.manifest.model}: ({inputs}) -> ({outputs}), {self.device} {self.isa}>"

    def __call__(
        self,
        inputs: Inputs,
        out: Mapping[str, Any] | None = None,
        *,
        device_outputs: bool | Collection[str] = False,
    ) -> dict[str, Any]:
        """Runs the model.

        Args:
            inputs: By name or by position; NumPy arrays or DLPack objects of the dtypes and shapes of `.inputs`. A
                sequence is a list of them, an optional is None or may be left out of a dict, a map is a dict. A model
                that a GPU runs takes arrays in its memory too, by DLPack or `__cuda_array_interface__`.
            out: Arrays to write outputs to, by name; those left out are allocated.
            device_outputs: Whether outputs stay in the memory of the GPU that makes them, as `DeviceArray`s; or the
                names of those that do.

        Returns:
            The outputs by name, in the model's order.

        Raises:
            InputError: Inputs or `out` do not fit the model.
            ShapeNotCompiledError: They fit, but this package has no variant for them (or for the values of parameters
                among them), and none can be compiled here.
            OptionError: `device_outputs` asks for what the device has not.
            ExecutionError: A step failed.
        """
        plain = out is None and not device_outputs
        if plain and (short := self._shortcut) is not None and (made := short(inputs)) is not None:
            return made
        program = self._recent
        if program is None or (arrays := program.match(inputs)) is None:
            arrays, program = self._prepare(inputs)
        if plain:
            outputs = program.new_outputs()
        else:
            outputs = self._outputs_in(out or {}, program, arrays, self._on_device(device_outputs, out or {}))
        context = program.acquire()
        try:
            context.execute(arrays, outputs)
        finally:
            program.release(context)
        if out is not None:
            outputs.update(out)
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
        return summarize(program.variant, stamps, spans, self.threads, self.device)

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

        Where a GPU runs the model, they never leave its memory either.

        Args:
            pairs: Names of outputs by the inputs that they become: `{"past_0_k": "present_0_k"}`.
            initial: What those inputs are in the first call; zeros where left out, if their shapes are fixed.

        Returns:
            What is called with the other inputs and answers the other outputs.

        Raises:
            OptionError: A name is unknown, or an output cannot become the input.
            InputError: An initial state does not fit its input, or has to be given.
        """
        return Stateful(self, self._engine, pairs, initial)

    def with_threads(self, threads: int) -> Executable:
        """The same package, its calls using another number of threads.

        Raises:
            OptionError: `threads` is no positive integer.
            ExecutionError: The model is closed.
        """
        if (package := self._programs.package) is None:
            raise ExecutionError("the model is closed")
        count = thread_count(threads)
        return Executable(package, threads=count, engine=self._engine.with_threads(count))

    def with_device(self, device: str) -> Executable:
        """The same package, run by another device.

        Args:
            device: As of `load`.

        Raises:
            ExecutionError: The model is closed.
            As `load`.
        """
        if (package := self._programs.package) is None:
            raise ExecutionError("the model is closed")
        return Executable(package, threads=self.threads, device=device)

    def trim(self) -> None:
        """Frees the arenas that no call is using."""
        self._shortcut = None
        self._programs.trim()

    def close(self) -> None:
        """Frees arenas and weights; calls in flight end as usual, later ones fail."""
        self._programs.close()
        self._recent, self._shortcut = None, None

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare(self, inputs: Inputs) -> tuple[list[Any], Program[Any]]:
        """Arrays that kernels can read, and the program for their shapes."""
        arrays = self._signature.collect(inputs)
        program = self._programs.find(arrays)
        if program is not self._recent:
            self._recent, self._shortcut = program, None
            self._forget_if_closed()
        return arrays, program

    def _shorten(self, program: Program[Any]) -> None:
        """Lets later calls like this one take the short way, if the program has one."""
        if program.shortens:
            self._shortcut = program.shortcut()
            self._forget_if_closed()

    def _forget_if_closed(self) -> None:
        """Takes back what was kept for calls to come where the model was closed meanwhile."""
        if self._programs.package is None:
            self._recent, self._shortcut = None, None

    def _on_device(self, asked: bool | Collection[str], out: Mapping[str, Any]) -> frozenset[str]:
        """Names of the outputs that stay on the GPU, of which no other array was given."""
        if not asked:
            return frozenset()
        names = {spec.name: spec for spec in self.outputs}
        wanted = frozenset(names) if asked is True else frozenset(asked or ())
        if self.device == "cpu":
            raise OptionError("device_outputs is for models that a GPU runs; this one runs on the CPU")
        if unknown := sorted(map(repr, wanted - names.keys())):
            raise OptionError(f"device_outputs has {unknown[0]}; the outputs are {', '.join(map(repr, names))}")
        return wanted - out.keys()

    def _outputs_in(
        self, out: Mapping[str, Any], program: Program[Any], inputs: Sequence[Any], on_device: frozenset[str]
    ) -> dict[str, Any]:
        """The outputs' arrays, those given in `out` among them."""
        outputs = program.new_outputs(on_device)
        if unknown := sorted(map(repr, out.keys() - outputs.keys())):
            raise InputError(f"out has {unknown[0]}; the outputs are {', '.join(map(repr, outputs))}")
        used = [array for array in inputs if isinstance(array, np.ndarray)]
        for name, shape, dtype in program.outputs:
            if (given := out.get(name)) is None:
                continue
            if shape is None:
                raise InputError(f"out {name!r}: its shape is known only when the model has run")
            if type(given) is not np.ndarray and (adopted := self._engine.adopt(given, f"out {name!r}")) is not None:
                outputs[name] = adopted.as_output(name, shape, dtype, [*inputs, *outputs.values()])
                continue
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
