"""The reference backend: no kernels, every node a step in NumPy.

What a package compiled with it computes is what the operators mean: the oracle that compiled packages are held to, on
any machine that Python runs on, one operator at a time and slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.tvm.link import linked
from graphc.errors import BackendError
from graphc.ir import Node
from graphc.package import cuda_members
from graphc.target import AnyTarget, Target, Verdict, refused


class ReferenceBackend:
    """Leaves every node to the host."""

    name = "reference"
    kinds = ("cpu", "cuda")
    runs_control = False

    def supports(self, node: Node, target: AnyTarget) -> Verdict:
        """Never: each node runs in NumPy."""
        return refused("the reference backend evaluates it in NumPy")

    def lower(self, region: Node, target: AnyTarget, options: Mapping[str, Any]) -> Kernel:
        """Has nothing to answer.

        Raises:
            BackendError: Always.
        """
        raise BackendError("the reference backend has no kernels", nodes=region.origins)

    def link(
        self, objects: Mapping[str, bytes], target: AnyTarget, *, cache: Path | None = None
    ) -> Mapping[str, bytes]:
        """Links the launcher alone, for a CPU; a GPU has nothing to run.

        Raises:
            ToolchainError: No linker is installed.
        """
        if isinstance(target, Target):
            return linked(objects, target, cache)
        return cuda_members(target.architecture, {})
