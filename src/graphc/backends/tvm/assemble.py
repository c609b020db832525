"""What all templates share: from a plan to a `Kernel` with its operands, its key and its way to object code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphc.backends.base import Kernel, Operand, Packing, content_key
from graphc.backends.local_extents import Localized
from graphc.backends.regions import signature, symbols_of
from graphc.backends.tvm import objects
from graphc.backends.tvm.tir import KernelBuilder
from graphc.ir import Dim, Graph, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import symbol as dimension
from graphc.target import Target


def build_kernel(
    template: str,
    body: Graph,
    target: Target,
    identity: Sequence[object],
    emit: Callable[[KernelBuilder], None],
    *,
    flops: Dim,
    schedule: Mapping[str, Any],
    reads: Sequence[int] | None = None,
    packed: Mapping[int, tuple[Dim, Packing]] | None = None,
    touched: Mapping[int, Dim] | None = None,
    workspaces: Sequence[Dim] = (),
    workspace_types: Sequence[DType] | None = None,
    local: Localized | None = None,
) -> Kernel:
    """The kernel of a body whose pointers are inputs, outputs and workspaces, in that order.

    Args:
        template: Name of the template.
        body: The region's body.
        target: The CPU.
        identity: What the template chose, as far as it changes the code: part of the key.
        emit: Writes the function into a builder that has the pointers.
        flops: Arithmetic operations of one call.
        schedule: Choices worth showing.
        reads: Numbers of the body's inputs that the kernel reads, in the order of its pointers; all if None.
        packed: For inputs that are constants: bytes of the packed form, and how to make it.
        touched: Bytes read of those inputs, by number, of which less than all is.
        workspaces: Bytes of each workspace.
        workspace_types: Element type of each workspace; float32 if None.
        local: What the body's symbols are, where they are its own.
    """
    local = local or Localized(body)
    packed = packed or {}
    numbers = range(len(body.inputs)) if reads is None else reads
    inputs = [body.inputs[number].tensor_type for number in numbers]
    outputs = [value.tensor_type for value in body.outputs]
    operands = [
        Operand("input", number, *packed.get(number, (local.original(kind.storage_bytes), None)))
        for number, kind in zip(numbers, inputs, strict=True)
    ]
    operands += [Operand("output", number, local.original(kind.storage_bytes)) for number, kind in enumerate(outputs)]
    moved: Dim = 0
    for operand in operands:
        partly = (touched or {}).get(operand.index) if operand.kind == "input" else None
        moved = moved + (operand.size if partly is None else partly)
    operands += [Operand("workspace", number, local.original(size)) for number, size in enumerate(workspaces)]
    names = symbols_of(body)
    bounds = {name: body.bounds.get(name, (0, None)) for name in names}
    # Code for bound extents depends on no bounds.
    open_ = [bounds] if names else []
    key = content_key([template, signature(body), target, *identity, *open_, objects.versions()])
    symbol = Kernel.symbol_of(template, key)

    def compile_kernel() -> bytes:
        scratch = [dtypes.FLOAT32] * len(workspaces) if workspace_types is None else workspace_types
        pointers = [*(kind.dtype for kind in (*inputs, *outputs)), *scratch]
        with KernelBuilder(symbol, pointers, vector_bytes=target.vector_bytes, dims=names, bounds=bounds) as builder:
            emit(builder)
        return objects.compile_function(builder.function, symbol, target)

    return Kernel(
        key=key,
        template=template,
        operands=tuple(operands),
        dims=tuple(local.original(dimension(name)) for name in names),
        flops=local.original(flops),
        bytes=moved,
        schedule=schedule,
        compile=compile_kernel,
    )
