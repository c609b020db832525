"""From Triton functions to cubins: compiled ahead of time, in worker processes, with no GPU at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata

from graphc.backends.base import Kernel
from graphc.backends.triton.elf import resources_of
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.worker import WorkerError, WorkerPool
from graphc.errors import BackendError, ToolchainError
from graphc.ir import Dim
from graphc.ir.symbolic import substitute, symbol
from graphc.package.cuda import MAX_THREADS, CudaKernel, CudaObject, Integer, Launch, Pointer, cubin_name
from graphc.target.cuda import CudaTarget

COMPILE_SECONDS = 300.0
"""The longest that the compile of one function may take."""

_POOL = WorkerPool(
    "graphc.backends.triton.compile_worker",
    # Without line numbers a cubin does not depend on where its source was.
    {"TRITON_DISABLE_LINE_INFO": "1", "TRITON_STORE_BINARY_ONLY": "1"},
    COMPILE_SECONDS,
)


@dataclass(frozen=True)
class CompiledFunction:
    """A function's machine code, and what a launch must be told.

    Args:
        cubin: The code.
        name: The function's name in it.
        threads: Threads of a block.
        shared: Bytes of dynamic shared memory of a block.
        scratch: Bytes of scratch memory of a block.
        cluster: Blocks of a cluster.
        registers: Registers of a thread.
        stack: Bytes of local memory of a thread; registers were spilled if there are any.
    """

    cubin: bytes
    name: str
    threads: int
    shared: int
    scratch: int
    cluster: int
    registers: int
    stack: int


@cache
def versions() -> str:
    """What compiles: Triton with the assembler that it brings. Part of every kernel's key.

    Raises:
        ToolchainError: Triton is not installed.
    """
    try:
        found = metadata.distribution("triton")
    except metadata.PackageNotFoundError as error:
        raise ToolchainError(
            "kernels for a GPU are compiled by Triton, which is not installed", hint="pip install 'graphc[cuda]'"
        ) from error
    # A wheel's record holds the hash of each of its files; two builds of one version differ there.
    record = found.read_text("RECORD") or ""
    return f"triton {found.version} {hashlib.sha256(record.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Compilation:
    """How a kernel is compiled: what `Kernel.compile` is of those of this backend, so that tests see their functions.

    Args:
        launches: What one call launches, in order.
        target: Compiled for.
        dims: Names of the kernel's dimensions, in the order of the step's table.
    """

    launches: tuple[FunctionLaunch, ...]
    target: CudaTarget
    dims: tuple[str, ...] = ()

    def __call__(self) -> bytes:
        """The bytes of the kernel's `CudaObject`.

        Raises:
            BackendError: A function does not compile.
        """
        return compile_functions(self.launches, self.target, self.dims).to_bytes()


def compilation_of(kernel: Kernel) -> Compilation:
    """How a kernel of this backend is compiled.

    Raises:
        BackendError: It is another backend's.
    """
    if not isinstance(kernel.compile, Compilation):
        raise BackendError(f"kernel {kernel.symbol} is none of Triton's")
    return kernel.compile


def compile_functions(launches: Sequence[FunctionLaunch], target: CudaTarget, dims: Sequence[str] = ()) -> CudaObject:
    """What one call of a kernel launches, compiled. Deterministic; safe to call from several threads.

    Args:
        launches: In order.
        target: Compiled for.
        dims: Names of the kernel's dimensions, in the order of the step's table; grids are expressions over them.

    Raises:
        BackendError: A function does not compile, or asks for more than the target has; names it.
        ToolchainError: Triton is not installed.
    """
    compiled: dict[Function, CompiledFunction] = {}
    for launch in launches:
        function = _without_values(launch.function)
        if function not in compiled:
            compiled[function] = compile_function(launch.function, target)
    names = {name: symbol(f"d{number}") for number, name in enumerate(dims)}

    def extent(dim: Dim) -> int | str:
        return dim if isinstance(dim, int) else str(substitute(dim, names))

    made = []
    for launch in launches:
        function, code = launch.function, compiled[_without_values(launch.function)]
        for argument in function.arguments:
            _check_multiple(f"kernel {function.name} for {target}", argument)
        x, y, z = launch.grid
        made.append(
            Launch(
                cubin=cubin_name(code.cubin),
                function=code.name,
                grid=(extent(x), extent(y), extent(z)),
                threads=code.threads,
                parameters=tuple(argument.value for argument in function.arguments),
                shared=code.shared,
                scratch=code.scratch,
                cluster=code.cluster,
            )
        )
    cubins = {cubin_name(code.cubin): code.cubin for code in compiled.values()}
    return CudaObject(CudaKernel(tuple(made)), cubins)


def compile_function(function: Function, target: CudaTarget) -> CompiledFunction:
    """The machine code of a function.

    Raises:
        BackendError: It does not compile, or asks for more than the target has.
        ToolchainError: Triton is not installed.
    """
    versions()
    what = f"kernel {function.name} for {target}"
    for argument in function.arguments:
        _check_multiple(what, argument)
    question = {
        "text": function.text,
        "name": function.name,
        "arguments": [[argument.name, argument.type, argument.multiple] for argument in function.arguments],
        "constants": dict(function.constants),
        "warps": function.warps,
        "stages": function.stages,
        "cluster": function.cluster,
        "registers": function.registers,
        "capability": target.capability,
    }
    try:
        answer, blobs = _POOL.ask(question)
    except WorkerError as error:
        raise BackendError(f"{what} could not be compiled: {error.message}") from error
    if "error" in answer:
        raise BackendError(f"{what} does not compile: {answer['error']}")
    (cubin,) = blobs
    needs = resources_of(cubin)
    made = CompiledFunction(cubin=cubin, registers=needs.registers, stack=needs.stack, **answer)
    if made.shared > target.shared_bytes:
        raise BackendError(f"{what} wants {made.shared} bytes of shared memory; a block has {target.shared_bytes}")
    if made.threads > MAX_THREADS:
        raise BackendError(f"{what} wants blocks of {made.threads} threads; there are {MAX_THREADS} at most")
    return made


def _without_values(function: Function) -> Function:
    """What decides the machine code: steps of a loop, which differ in their numbers, are compiled once."""
    unset = tuple(replace(argument, value=Pointer(0)) for argument in function.arguments)
    return replace(function, arguments=unset)


def _check_multiple(what: str, argument: Argument) -> None:
    """Refuses an integer that is not the multiple that it is said to be: kernels would read the wrong places."""
    value = argument.value
    if isinstance(value, Integer) and isinstance(value.value, int) and value.value % argument.multiple:
        raise BackendError(f"{what}: {argument.name} = {value.value} is said to be a multiple of {argument.multiple}")
