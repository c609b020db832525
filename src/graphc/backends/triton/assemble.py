"""What all templates share: the arguments of functions, and from their launches a `Kernel` with its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphc.backends.base import Kernel, Operand, Packing, content_key
from graphc.backends.regions import signature, symbols_of
from graphc.backends.triton import cubin
from graphc.backends.triton.element_types import pointer_type
from graphc.backends.triton.function import Argument, FunctionLaunch
from graphc.ir import Dim, Graph, TensorType
from graphc.ir.symbolic import symbol as dimension
from graphc.package.cuda import Integer, Pointer, Status
from graphc.target import CudaTarget


def arguments_of(
    names: Iterable[str],
    reads: Sequence[int],
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
    workspaces: Sequence[str] = (),
) -> tuple[Argument, ...]:
    """The pointer arguments of a function by their names in its text.

    Args:
        names: `in` and the number of an input, `out` and that of an output, `workspace` and that of a workspace, or
            `status`; in the function's order.
        reads: Inputs that the kernel reads, in the order of its operands.
        inputs: Type of each input as the function sees it.
        outputs: Type of each output as the function sees it.
        workspaces: Pointer type of each workspace, e.g. `*fp32`.
    """
    places = {f"in{number}": (position, inputs[number]) for position, number in enumerate(reads)}
    places |= {f"out{number}": (len(reads) + number, kind) for number, kind in enumerate(outputs)}
    found = []
    for name in names:
        if name == "status":
            found.append(Argument(name, "*i32", Status()))
        elif name in places:
            position, kind = places[name]
            found.append(Argument(name, pointer_type(kind.dtype), Pointer(position)))
        else:
            number = int(name.removeprefix("workspace"))
            found.append(Argument(name, workspaces[number], Pointer(len(reads) + len(outputs) + number)))
    return tuple(found)


def number_argument(name: str, value: int) -> Argument:
    """A number that a function gets when it runs: loops over it are not unrolled, however few their steps are."""
    return Argument(name, "i32", Integer(value), 16 if value % 16 == 0 else 1)


def build_kernel(
    template: str,
    body: Graph,
    target: CudaTarget,
    launches: Sequence[FunctionLaunch],
    *,
    flops: Dim,
    schedule: Mapping[str, Any],
    reads: Sequence[int] | None = None,
    packed: Mapping[int, tuple[Dim, Packing]] | None = None,
    touched: Mapping[int, Dim] | None = None,
    workspaces: Sequence[Dim] = (),
) -> Kernel:
    """The kernel of a body whose pointers are inputs, outputs and workspaces, in that order.

    Args:
        template: Name of the template.
        body: The region's body.
        target: The GPU.
        launches: What a call launches, in order. A `Pointer` names an operand by its place among inputs, outputs and
            workspaces.
        flops: Arithmetic operations of one call.
        schedule: Choices worth showing.
        reads: Numbers of the body's inputs that the kernel reads, in the order of its operands; all if None.
        packed: For inputs that are constants: bytes of the packed form, and how to make it.
        touched: Bytes read of those inputs, by number, of which less than all is.
        workspaces: Bytes of each workspace.
    """
    packed = packed or {}
    numbers = range(len(body.inputs)) if reads is None else reads
    operands = [
        Operand("input", number, *packed.get(number, (body.inputs[number].tensor_type.storage_bytes, None)))
        for number in numbers
    ]
    operands += [Operand("output", number, v.tensor_type.storage_bytes) for number, v in enumerate(body.outputs)]
    moved: Dim = 0
    for operand in operands:
        partly = (touched or {}).get(operand.index) if operand.kind == "input" else None
        moved = moved + (operand.size if partly is None else partly)
    operands += [Operand("workspace", number, size) for number, size in enumerate(workspaces)]
    names = symbols_of(body)
    found = tuple(launches)
    return Kernel(
        # The launches say all of the code; the signature tells apart what an error message names.
        key=content_key([template, signature(body), target, *found, cubin.versions()]),
        template=template,
        operands=tuple(operands),
        dims=tuple(map(dimension, names)),
        flops=flops,
        bytes=moved,
        schedule=schedule,
        compile=cubin.Compilation(found, target, names),
    )
