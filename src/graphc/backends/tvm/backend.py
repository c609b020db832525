"""The CPU backend: a table of kernel templates, tried in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.regions import body_of, constants_of, symbols_of
from graphc.backends.tuning import Choice, lower_tuned, region_key
from graphc.backends.tvm import (
    attention,
    batch_matmul,
    choices,
    conv,
    depthwise,
    gemm,
    generic,
    integer_gemm,
    operators,
    plane_pooling,
    pooling,
    rows,
    support,
    winograd,
)
from graphc.backends.tvm.flat import flattened
from graphc.backends.tvm.link import linked
from graphc.backends.tvm.operators import Lower
from graphc.errors import BackendError
from graphc.ir import Graph, Node
from graphc.target import Target, Verdict


def _generic(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    return generic.lower(body, target)


TEMPLATES: tuple[tuple[str, Lower], ...] = (
    ("depthwise", depthwise.lower),
    ("winograd", winograd.lower),
    ("conv", conv.lower),
    ("pooling", pooling.lower),
    ("plane_pooling", plane_pooling.lower),
    ("gemm", gemm.lower),
    ("integer_gemm", integer_gemm.lower),
    ("batch_matmul", batch_matmul.lower),
    ("attention", attention.lower),
    ("rows", rows.lower),
    ("generic", _generic),
)
"""Every template by name, the most special first; the last takes whatever has tensor expressions."""


OPEN_TEMPLATES = frozenset(
    {
        "conv",
        "depthwise",
        "winograd",
        "pooling",
        "plane_pooling",
        "gemm",
        "batch_matmul",
        "attention",
        "rows",
        "generic",
    }
)
"""Templates whose kernels take extents from the table of dimensions."""


class TvmBackend:
    """Compiles regions through TVM for CPUs."""

    name = "tvm"
    kinds = ("cpu",)
    runs_control = True

    def supports(self, node: Node, target: Target) -> Verdict:
        """Whether `node` has a compiled form, with the types it has now, or why not."""
        return support.supports(node, target)

    def lower(self, region: Node, target: Target, options: Mapping[str, Any]) -> Kernel:
        """The kernel of the first template that takes the region.

        Args:
            region: A Region, or any one node that `supports` accepts.
            target: The CPU.
            options: `winograd` (bool): whether 3x3 convolutions may be transformed; `tuned`: a `TuningDatabase`, by
                `region_key`; `template`: the only one to ask.

        Raises:
            BackendError: No template takes it; says what each answered.
        """
        body = flattened(body_of(region))
        constants = constants_of(region)
        own = operators.template_of(body)
        if own is not None:
            return own(body, target, constants, options)
        known = options.get("tuned") or {}
        found = known.get(region_key(body, constants, target)) if known else None
        if found is not None and found.choice.get("template") == "winograd" and not options.get("winograd", True):
            found = None
        tuned = lower_tuned(found, lambda choice: self._lower(region, body, target, constants, {**options, **choice}))
        return tuned or self._lower(region, body, target, constants, options)

    def alternatives(self, region: Node, target: Target, options: Mapping[str, Any]) -> tuple[str, list[Choice]]:
        """What a region is known by, and the choices worth measuring; none where there is nothing to choose.

        Args:
            region: As of `lower`.
            target: The CPU.
            options: As of `lower`.
        """
        body = body_of(region)
        constants = constants_of(region)
        return region_key(body, constants, target), choices.alternatives(body, target, constants, options)

    def _lower(
        self, region: Node, body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]
    ) -> Kernel:
        refusals = []
        # No template tiles nothing; the generic one writes the halo, or the identity of a reduction over nothing.
        empty = any(value.tensor_type.numel == 0 for value in (*body.inputs, *body.outputs))
        open_ = bool(symbols_of(body))
        for name, lower in TEMPLATES[-1:] if empty else TEMPLATES:
            if options.get("template", name) != name or (open_ and name not in OPEN_TEMPLATES):
                continue
            try:
                return lower(body, target, constants, options)
            except BackendError as refusal:
                refusals.append(f"{name}: {refusal.message}")
        raise BackendError(
            f"no kernel template takes {region.name or region.op}: {'; '.join(refusals)}", nodes=region.origins
        )

    def link(self, objects: Mapping[str, bytes], target: Target, *, cache: Path | None = None) -> Mapping[str, bytes]:
        """Links kernels with the launcher into the shared library of a package.

        Raises:
            ToolchainError: No linker is installed.
            BackendError: The linker failed.
        """
        return linked(objects, target, cache)
