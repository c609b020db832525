"""Kernels of a GPU: what one call of a kernel launches, and how that stands in a package. NumPy only, no driver.

A kernel of a CPU is one C function. One of a GPU may be several launches in a row (a product split along K, then the
sum of its parts), each of a function in a cubin. A backend writes what a launch must be told, the runtime reads it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

from graphc.errors import PackageError
from graphc.package import codec
from graphc.package.expression import symbols_of

CUDA = "cuda"
"""`Code.machine` of a GPU's kernels."""

CUDA_ALIGNMENT = 256
"""Bytes to which every buffer of a GPU's program is aligned, from the start of its arena or of the weights."""

MAX_THREADS = 1024
"""Threads of a block, on every architecture."""


@dataclass(frozen=True)
class Pointer:
    """The address of one of the step's arguments.

    Attributes:
        argument: Its number among the step's arguments.
        offset: Bytes added to it.
    """

    TAG: ClassVar[str] = "pointer"
    argument: int
    offset: int = 0

    def __post_init__(self) -> None:
        if min(self.argument, self.offset) < 0:
            raise PackageError(f"a pointer to argument {self.argument} and {self.offset} bytes")


@dataclass(frozen=True)
class Integer:
    """A number.

    Attributes:
        value: Text is an expression over the step's table of dimensions, whose entries are called `d0`, `d1`...
        bytes: Its width, 4 or 8.
    """

    TAG: ClassVar[str] = "integer"
    value: int | str
    bytes: int = 4

    def __post_init__(self) -> None:
        if self.bytes not in (4, 8):
            raise PackageError(f"an integer of {self.bytes} bytes; a launch takes 4 or 8")


@dataclass(frozen=True)
class Status:
    """The address of the step's status, an int32 that is 0 before the call.

    A kernel that finds a bad index in its data writes something else and goes on with an index that is inside, so that
    nothing is read or written from outside. The runtime looks at it after the call and names the step.
    """

    TAG: ClassVar[str] = "status"


Parameter: TypeAlias = Pointer | Integer | Status


@dataclass(frozen=True)
class Launch:
    """One launch of a function of a cubin.

    Attributes:
        cubin: sha256 of the cubin, in hexadecimal.
        function: Name of the function in it.
        grid: Blocks along x, y and z; text is an expression over `d0`, `d1`... A launch of no blocks is left out.
        threads: Threads of a block, along x.
        parameters: In the function's order. Two more pointers follow them, which every function of Triton's takes: to
            scratch memory and to a profiler's, null here.
        shared: Bytes of dynamic shared memory.
        scratch: Bytes of scratch memory for each block.
        cluster: Blocks of a cluster, along x.
    """

    cubin: str
    function: str
    grid: tuple[int | str, ...]
    threads: int
    parameters: tuple[Parameter, ...]
    shared: int = 0
    scratch: int = 0
    cluster: int = 1

    def __post_init__(self) -> None:
        if len(self.grid) != 3:
            raise PackageError(f"launch of {self.function}: a grid of {len(self.grid)} extents; there are three")
        if not 0 < self.threads <= MAX_THREADS:
            raise PackageError(f"launch of {self.function}: {self.threads} threads; a block has 1 to {MAX_THREADS}")
        if min(self.shared, self.scratch) < 0 or self.cluster < 1:
            raise PackageError(f"launch of {self.function}: a size is negative")
        for name in self.symbols:
            if not (name[0] == "d" and name[1:].isdecimal()):
                raise PackageError(f"launch of {self.function}: {name!r} is no entry of a table of dimensions")

    @property
    def symbols(self) -> Iterator[str]:
        """Entries of the step's table of dimensions that it asks for, as often as it does."""
        integers = [parameter.value for parameter in self.parameters if isinstance(parameter, Integer)]
        for extent in (*self.grid, *integers):
            yield from symbols_of(extent)


@dataclass(frozen=True)
class CudaKernel:
    """What one call of a kernel launches, in order.

    Attributes:
        launches: None depends on the values of another's parameters; each sees what those before it wrote.
    """

    launches: tuple[Launch, ...]

    @cached_property
    def needs(self) -> tuple[int, int]:
        """How many arguments, and how many dimensions, a step must have for it."""
        pointers = [p.argument for launch in self.launches for p in launch.parameters if isinstance(p, Pointer)]
        dims = [int(name[1:]) for launch in self.launches for name in launch.symbols]
        return max(pointers, default=-1) + 1, max(dims, default=-1) + 1


@dataclass(frozen=True)
class CudaCode:
    """The kernels of one architecture: the text of `cuda/<architecture>/kernels.json`.

    Attributes:
        architecture: What the cubins were compiled for, e.g. `sm_90`.
        kernels: By the symbol under which steps call them.
    """

    architecture: str
    kernels: Mapping[str, CudaKernel]

    @property
    def launches(self) -> Iterator[Launch]:
        """Every launch of every kernel."""
        for kernel in self.kernels.values():
            yield from kernel.launches

    def check_call(self, symbol: str, arguments: int, dims: int) -> None:
        """Raises PackageError unless it has the kernel `symbol`, which needs no more arguments and dimensions."""
        if symbol not in self.kernels:
            raise PackageError(f"there is no kernel {symbol!r}")
        wanted_arguments, wanted_dims = self.kernels[symbol].needs
        if wanted_arguments > arguments or wanted_dims > dims:
            raise PackageError(
                f"kernel {symbol!r} takes {wanted_arguments} arguments and {wanted_dims} dimensions; a step gives"
                f" {arguments} and {dims}"
            )

    def to_json(self) -> str:
        """Its text: keys sorted, so that equal kernels give equal bytes."""
        return json.dumps(codec.encode(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> CudaCode:
        """The kernels of such a text.

        Raises:
            PackageError: It is no such text; names the place.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PackageError(f"kernels.json is not JSON: {error}", hint="the package is damaged") from error
        code = codec.decode(cls, value, "kernels")
        assert isinstance(code, cls)
        return code


@dataclass(frozen=True)
class CudaObject:
    """A compiled kernel on its own: what a backend's `compile` answers and a cache keeps.

    Attributes:
        kernel: What a call launches.
        cubins: The cubins that it names, by their sha256.
    """

    kernel: CudaKernel
    cubins: Mapping[str, bytes]

    _HEADER: ClassVar[struct.Struct] = struct.Struct("<8sQ")
    _MAGIC: ClassVar[bytes] = b"gcudaobj"

    def to_bytes(self) -> bytes:
        """The kernel as JSON with the sizes of its cubins, then the cubins, in the order of their names."""
        names = sorted(self.cubins)
        sizes = {name: len(self.cubins[name]) for name in names}
        text = json.dumps({"kernel": codec.encode(self.kernel), "sizes": sizes}, sort_keys=True).encode()
        return b"".join([self._HEADER.pack(self._MAGIC, len(text)), text, *(self.cubins[name] for name in names)])

    @classmethod
    def from_bytes(cls, data: bytes) -> CudaObject:
        """The kernel of such bytes.

        Raises:
            PackageError: They are not such bytes, or a cubin is not what its name says.
        """
        try:
            magic, length = cls._HEADER.unpack_from(data)
            start = cls._HEADER.size + length
            value = json.loads(data[cls._HEADER.size : start])
            kernel = codec.decode(CudaKernel, value["kernel"], "kernel")
            cubins = {}
            for name, size in sorted(value["sizes"].items()):
                cubins[name] = data[start : start + size]
                start += size
        except (struct.error, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise PackageError(f"no compiled kernel of a GPU: {error}") from error
        if magic != cls._MAGIC or start != len(data) or any(cubin_name(cubins[name]) != name for name in cubins):
            raise PackageError("no compiled kernel of a GPU, or a damaged one")
        return cls(kernel, cubins)


def cubin_name(cubin: bytes) -> str:
    """What a cubin is called: sha256 of its bytes, in hexadecimal."""
    return hashlib.sha256(cubin).hexdigest()


def kernels_member(architecture: str) -> str:
    """What the table of an architecture's kernels is called in a package."""
    return f"cuda/{architecture}/kernels.json"


def cubin_member(architecture: str, name: str) -> str:
    """What a cubin is called in a package, by its sha256."""
    return f"cuda/{architecture}/{name}.cubin"


def cuda_members(architecture: str, kernels: Mapping[str, CudaObject]) -> dict[str, bytes]:
    """The members of a package that carry kernels of a GPU, by name: the table, and each cubin once.

    Args:
        architecture: Of all of them.
        kernels: By the symbols under which steps call them.
    """
    code = CudaCode(architecture, {symbol: found.kernel for symbol, found in kernels.items()})
    cubins = {name: cubin for found in kernels.values() for name, cubin in found.cubins.items()}
    return {
        kernels_member(architecture): code.to_json().encode("ascii"),
        **{cubin_member(architecture, name): cubin for name, cubin in sorted(cubins.items())},
    }
