"""The CPU backend: a table of kernel templates, tried in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.regions import body_of, inputs_of
from graphc.backends.tvm import (
    attention,
    batch_matmul,
    conv,
    depthwise,
    gemm,
    generic,
    operators,
    pooling,
    rows,
    support,
    winograd,
)
from graphc.backends.tvm.link import link
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
    ("gemm", gemm.lower),
    ("batch_matmul", batch_matmul.lower),
    ("attention", attention.lower),
    ("rows", rows.lower),
    ("generic", _generic),
)
"""Every template by name, the most special first; the last takes whatever has tensor expressions."""


class TvmBackend:
    """Compiles regions through TVM for CPUs."""

    name = "tvm"

    def supports(self, node: Node, target: Target) -> Verdict:
        """Whether `node` has a compiled form, with the types it has now, or why not."""
        return support.supports(node, target)

    def lower(self, region: Node, target: Target, options: Mapping[str, Any]) -> Kernel:
        """The kernel of the first template that takes the region.

        Args:
            region: A Region, or any one node that `supports` accepts.
            target: The CPU.
            options: `winograd` (bool): whether 3x3 convolutions may be transformed.

        Raises:
            BackendError: No template takes it; says what each answered.
        """
        body = body_of(region)
        constants = frozenset(i for i, value in enumerate(inputs_of(region)) if value.constant is not None)
        own = operators.template_of(body)
        if own is not None:
            return own(body, target, constants, options)
        refusals = []
        # No template tiles nothing; the generic one writes the halo, or the identity of a reduction over nothing.
        empty = any(value.tensor_type.numel == 0 for value in (*body.inputs, *body.outputs))
        for name, lower in TEMPLATES[-1:] if empty else TEMPLATES:
            try:
                return lower(body, target, constants, options)
            except BackendError as refusal:
                refusals.append(f"{name}: {refusal.message}")
        raise BackendError(
            f"no kernel template takes {region.name or region.op}: {'; '.join(refusals)}", nodes=region.origins
        )

    def link(self, objects: Mapping[str, bytes], target: Target, out: Path, *, cache: Path | None = None) -> None:
        """Links kernels with the launcher into the shared library of a package.

        Raises:
            ToolchainError: No linker is installed.
            BackendError: The linker failed.
        """
        link(objects, out=out, triple=target.triple, cache=cache)
