"""The CUDA backend: a table of kernel templates, tried in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.regions import body_of, inputs_of
from graphc.backends.triton import support, templates
from graphc.errors import BackendError
from graphc.ir import Node
from graphc.package.cuda import CudaObject, cuda_members
from graphc.target import CudaTarget, Verdict


class TritonBackend:
    """Compiles regions through Triton for GPUs, with no GPU at hand."""

    name = "triton"
    kinds = ("cuda",)
    runs_control = False

    def supports(self, node: Node, target: CudaTarget) -> Verdict:
        """Whether `node` has a compiled form, with the types it has now, or why not."""
        return support.supports(node, target)

    def lower(self, region: Node, target: CudaTarget, options: Mapping[str, Any]) -> Kernel:
        """The kernel of the first template that takes the region.

        Args:
            region: A Region, or any one node that `supports` accepts.
            target: The GPU.
            options: As of `templates.lower`.

        Raises:
            BackendError: No template takes it; says what each answered.
        """
        body = body_of(region)
        constants = frozenset(i for i, value in enumerate(inputs_of(region)) if value.constant is not None)
        try:
            return templates.lower(body, target, constants, options)
        except BackendError as refusal:
            raise BackendError(
                f"{region.name or region.op}: {refusal.message}", nodes=region.origins or refusal.nodes
            ) from refusal

    def link(
        self, objects: Mapping[str, bytes], target: CudaTarget, *, cache: Path | None = None
    ) -> Mapping[str, bytes]:
        """The members of a package that carry the kernels: the table of launches, and each cubin once."""
        found = {symbol: CudaObject.from_bytes(data) for symbol, data in objects.items()}
        return cuda_members(target.architecture, found)
