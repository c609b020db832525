"""A backend for GPUs that compiles nothing: its cubins are text, its launches as a real one's. Tests of the seam.

Kernels take whatever has static tensors, one launch a node; those of a MatMul are two, of one cubin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel, Operand, content_key
from graphc.backends.regions import body_of, signature
from graphc.ir import Node, TensorType
from graphc.package import CudaKernel, CudaObject, Launch, cuda_members
from graphc.package.cuda import Integer, Pointer, Status
from graphc.target import CudaTarget, Verdict, accepted, refused


class FakeCudaBackend:
    name = "fake-cuda"
    kinds = ("cuda",)
    runs_control = False

    def supports(self, node: Node, target: CudaTarget) -> Verdict:
        kinds = [value.type for value in (*node.inputs, *node.outputs) if value is not None]
        if not all(isinstance(kind, TensorType) and kind.is_static for kind in kinds):
            return refused("it has a value of open extents")
        return refused("there is no Sin on this GPU") if node.is_op("Sin") else accepted()

    def lower(self, region: Node, target: CudaTarget, options: Mapping[str, Any]) -> Kernel:
        body = body_of(region)
        inputs, outputs = ([v.tensor_type for v in values] for values in (body.inputs, body.outputs))
        operands = [Operand("input", n, k.storage_bytes) for n, k in enumerate(inputs)]
        operands += [Operand("output", n, k.storage_bytes) for n, k in enumerate(outputs)]
        operands += [Operand("workspace", 0, 100)]
        key = content_key(["fake", signature(body), target])
        launches = 2 if any(node.is_op("MatMul") for node in body.nodes) else 1

        def compile_kernel() -> bytes:
            cubin = f"cubin of {key}".encode()
            name = hashlib.sha256(cubin).hexdigest()
            pointers = tuple(Pointer(number) for number in range(len(operands)))
            launch = Launch(name, f"f_{key[:8]}", (1, 1, 1), 128, (*pointers, Integer(3), Status()), shared=1024)
            return CudaObject(CudaKernel((launch,) * launches), {name: cubin}).to_bytes()

        moved = sum(kind.storage_bytes for kind in (*inputs, *outputs))
        return Kernel(key, "fake", tuple(operands), (), 0, moved, {"tile": "1x1"}, compile_kernel)

    def link(
        self, objects: Mapping[str, bytes], target: CudaTarget, *, cache: Path | None = None
    ) -> Mapping[str, bytes]:
        return cuda_members(target.isa, {symbol: CudaObject.from_bytes(data) for symbol, data in objects.items()})
