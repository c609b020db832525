"""The contract between the compiler and a backend: what a kernel is, and the four questions a backend answers."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from graphc.errors import OptionError
from graphc.ir import Dim, Node
from graphc.target import Verdict


@dataclass(frozen=True)
class Packing:
    """How a kernel wants a constant input stored, applied once at compile time.

    Args:
        transform: Name of the transform, part of the stored tensor's identity.
        parameters: What distinguishes this use of the transform, e.g. block sizes.
        apply: Array in the ONNX shape in, packed array out.
    """

    transform: str
    parameters: tuple[tuple[str, int | float | str], ...]
    apply: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.transform}({', '.join(f'{name}={value}' for name, value in self.parameters)})"


@dataclass(frozen=True)
class Operand:
    """One pointer argument of a kernel.

    Args:
        kind: A region input, a region output, or scratch memory that lives only while the kernel runs.
        index: Number among the region's inputs or outputs; running number of workspaces.
        size: Bytes that the kernel may touch.
        packing: For a constant input: the form in which the kernel reads it; None for the ONNX form in row-major order.
    """

    kind: Literal["input", "output", "workspace"]
    index: int
    size: Dim
    packing: Packing | None = None


@dataclass(frozen=True)
class Kernel:
    """A region lowered for one target: its interface, its cost, and the way to its object code.

    Args:
        key: Hash of all that determines the object code; kernels with equal keys are compiled once.
        template: Which kernel template was chosen.
        operands: Pointer arguments in order.
        dims: Values of the int64 table that the kernel reads, over the model's symbols.
        flops: Arithmetic operations.
        bytes: Bytes read and written if every operand moved once.
        schedule: Choices worth showing: tiles, unrolling, parallel axis.
        compile: Answers the object code. Deterministic; raises BackendError.
    """

    key: str
    template: str
    operands: tuple[Operand, ...]
    dims: tuple[Dim, ...]
    flops: Dim
    bytes: Dim
    schedule: Mapping[str, Any]
    compile: Callable[[], builtins.bytes] = field(compare=False, repr=False)

    @property
    def symbol(self) -> str:
        """The C symbol under which the object exports the kernel."""
        return self.symbol_of(self.template, self.key)

    @staticmethod
    def symbol_of(template: str, key: str) -> str:
        """The C symbol of a kernel of `template` whose key is `key`."""
        return f"graphc_{template}_{key[:16]}"


class Backend(Protocol):
    """What turns regions into kernels."""

    name: str
    kinds: tuple[str, ...]
    """Kinds of targets that it lowers for: `cpu`, `cuda`. The targets below are of these."""
    runs_control: bool
    """Whether bodies of If, Loop and Scan are compiled where they can be, and run by the launcher."""

    def supports(self, node: Node, target: Any) -> Verdict:
        """Whether a node has a compiled form on `target`, or why not."""
        ...

    def lower(self, region: Node, target: Any, options: Mapping[str, Any]) -> Kernel:
        """The kernel of a region (or a single node).

        Args:
            region: Its body, or the node.
            target: To lower for.
            options: `winograd` (bool): whether convolutions may be transformed; `precision`: `tf32` lets products of
                float32 round their operands for tensor cores; `tuned`: a `TuningDatabase`.

        Raises:
            BackendError: No template takes the region, though `supports` said yes of its nodes.
        """
        ...

    def link(
        self, objects: Mapping[str, builtins.bytes], target: Any, *, cache: Path | None = None
    ) -> Mapping[str, builtins.bytes]:
        """The members of a package that carry the code of `target`, by name.

        Args:
            objects: What kernels' `compile` answered, by the kernels' symbols.
            target: They were compiled for.
            cache: Folder that keeps what every link needs.

        Returns:
            On a CPU one shared library, called `graphc.package.library_member(target.isa)`; on a GPU what
            `graphc.package.cuda_members` makes of its objects.
        """
        ...


BackendClass = TypeVar("BackendClass", bound=Callable[[], Backend])
_BACKENDS: dict[str, Callable[[], Backend] | str] = {
    "tvm": "graphc.backends.tvm.backend:TvmBackend",
    "triton": "graphc.backends.triton.backend:TritonBackend",
    "reference": "graphc.backends.reference:ReferenceBackend",
}
"""Backends by name: what makes one, or where that is, since some import much."""


def register_backend(cls: BackendClass) -> BackendClass:
    """Class decorator that makes a backend known by its `name`, for `CompileOptions(backend=...)` and `--backend`.

    Raises:
        OptionError: Another backend has its name.
    """
    name: str = getattr(cls, "name", "")
    if not name or _BACKENDS.get(name, cls) is not cls:
        raise OptionError(f"a backend is called {name!r} already" if name else f"backend {cls!r} has no name")
    _BACKENDS[name] = cls
    return cls


def backend_names() -> tuple[str, ...]:
    """Every backend there is."""
    return tuple(_BACKENDS)


def make_backend(name: str) -> Backend:
    """The backend called `name`, which must be one of `backend_names()`; what it needs is imported.

    Raises:
        ImportError: What it needs is not installed.
    """
    known = _BACKENDS[name]
    if isinstance(known, str):
        module, _, attribute = known.partition(":")
        made: Backend = getattr(import_module(module), attribute)()
        return made
    return known()


def content_key(parts: Sequence[object]) -> str:
    """Hash of the text of `parts`: equal contents, equal key, in every process."""
    state = hashlib.sha256()
    for part in parts:
        state.update(str(part).encode())
        state.update(b"\0")
    return state.hexdigest()
