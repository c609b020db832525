"""The CUDA backend: a table of kernel templates, tried in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.regions import body_of, constants_of, symbols_of
from graphc.backends.triton import choices, support, templates
from graphc.backends.tuning import Choice, lower_tuned, region_key
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
            options: As of `templates.lower`; `tuned`: a `TuningDatabase`, by `region_key`.

        Raises:
            BackendError: No template takes it; says what each answered.
        """
        body, constants = body_of(region), constants_of(region)
        known = options.get("tuned") or {}
        found = known.get(region_key(body, constants, target, options.get("precision", "fp32"))) if known else None
        tuned = lower_tuned(found, lambda choice: templates.lower(body, target, constants, {**options, **choice}))
        if tuned is not None:
            return tuned
        try:
            return templates.lower(body, target, constants, options)
        except BackendError as refusal:
            raise BackendError(
                f"{region.name or region.op}: {refusal.message}", nodes=region.origins or refusal.nodes
            ) from refusal

    def alternatives(self, region: Node, target: CudaTarget, options: Mapping[str, Any]) -> tuple[str, list[Choice]]:
        """What a region is known by, and the choices worth measuring; none where there is nothing to choose.

        Args:
            region: As of `lower`.
            target: The GPU.
            options: As of `lower`.
        """
        body, constants = body_of(region), constants_of(region)
        key = region_key(body, constants, target, options.get("precision", "fp32"))
        # Products of open extents are cut for usual ones: nothing that one run measures is true of all.
        open_ = bool(symbols_of(body)) or templates.template_of(body) is not None
        return key, [] if open_ else choices.alternatives(body, target, constants, options)

    def link(
        self, objects: Mapping[str, bytes], target: CudaTarget, *, cache: Path | None = None
    ) -> Mapping[str, bytes]:
        """The members of a package that carry the kernels: the table of launches, and each cubin once."""
        found = {symbol: CudaObject.from_bytes(data) for symbol, data in objects.items()}
        return cuda_members(target.architecture, found)
