"""Every template: those of regions, tried in order, and those of operators that no tensor expression says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from graphc.backends.base import Kernel
from graphc.backends.conv_product import as_product, of_convolution
from graphc.backends.regions import sole_node
from graphc.backends.triton import (
    attention,
    conv,
    depthwise,
    determinant,
    generic,
    matmul,
    recurrent,
    rows,
    scan,
    scatter,
    top_k,
    trees,
)
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Graph
from graphc.ops.recurrent import RECURRENCE
from graphc.ops.trees import TREES
from graphc.target import CudaTarget

Lower: TypeAlias = "Callable[[Graph, CudaTarget, frozenset[int], Mapping[str, Any]], Kernel]"
"""Body, target, numbers of the inputs that are constants, options. Raises BackendError with the reason it refuses."""


def _generic(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    return generic.lower(body, target)


def _mixing(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """A convolution of single pixels, as the product that it is."""
    product, weights = as_product(body)
    return of_convolution(matmul.lower(product, target, constants, options), weights)


TEMPLATES: tuple[tuple[str, Lower], ...] = (
    ("conv_product", _mixing),
    ("depthwise", depthwise.lower),
    ("conv", conv.lower),
    ("matmul", matmul.lower),
    ("attention", attention.lower),
    ("rows", rows.lower),
    ("generic", _generic),
)
"""Templates of regions by name, the most special first; the last takes whatever has tensor expressions."""

OPERATORS: Mapping[tuple[str, str], Lower] = {
    ("", "CumProd"): scan.lower,
    ("", "CumSum"): scan.lower,
    ("", "Det"): determinant.lower,
    ("", "Scatter"): scatter.lower,
    ("", "ScatterElements"): scatter.lower,
    ("", "ScatterND"): scatter.lower,
    ("", "TopK"): top_k.lower,
    (GRAPHC_DOMAIN, RECURRENCE): recurrent.lower,
    (GRAPHC_DOMAIN, TREES): trees.lower,
}
"""Templates of single operators, by domain and name. Tensors without elements come to them too."""


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of the first template that takes a body.

    Args:
        body: The region's body.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants.
        options: `template`: the only one to ask; the others are the templates'.

    Raises:
        BackendError: No template takes it; says what each answered.
    """
    own = template_of(body)
    if own is not None:
        return own(body, target, constants, options)
    refusals = []
    # No template tiles nothing; the generic one writes the identity of a reduction over nothing.
    empty = any(value.tensor_type.numel == 0 for value in (*body.inputs, *body.outputs))
    for name, template in TEMPLATES[-1:] if empty else TEMPLATES:
        if options.get("template", name) != name:
            continue
        try:
            return template(body, target, constants, options)
        except BackendError as refusal:
            refusals.append(f"{name}: {refusal.message}")
    raise BackendError(f"no kernel template takes the region: {'; '.join(refusals)}")


def template_of(body: Graph) -> Lower | None:
    """The template of the one node of a body, if it is an operator with one of its own."""
    node = sole_node(body)
    return None if node is None else OPERATORS.get((node.domain, node.op_type))
