"""What ONNX's operator definitions ask of a node: how many inputs and outputs, which attributes of which type."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from graphc.errors import ModelError, TypeInferenceError
from graphc.ir import TensorType, Type, dtypes

CANONICAL_OPSET = 27
"""Version of ai.onnx that graphs are normalized to: the newest that ONNX Runtime 1.32 runs quantized models and models
with branches at; it accepts 28, but its kernels of QuantizeLinear, DequantizeLinear, If and Loop end before that."""
NEWEST_OPSET: int = onnx.defs.onnx_opset_version()
"""Newest version of ai.onnx that the installed onnx package defines."""


@dataclass(frozen=True)
class Signature:
    """An operator's definition as far as a node can break it.

    Args:
        since: Version of the definition.
        inputs: Least and greatest number of inputs.
        outputs: Least and greatest number of outputs.
        attributes: Type of each attribute, as a number of `AttributeProto.AttributeType`.
        required: Attributes that must be given.
        deprecated: Whether the version took the operator out of use.
        operands: Of each input its type parameter, and what kinds of elements it may have; the last one repeats where
            inputs do.
    """

    since: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    required: frozenset[str]
    deprecated: bool = False
    operands: tuple[tuple[str, frozenset[str]], ...] = ()


@cache
def signature(domain: str, op_type: str, version: int) -> Signature | None:
    """The definition of an operator at an operator-set version; None where onnx has none."""
    try:
        schema: Any = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return Signature(
        schema.since_version,
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {name: int(attribute.type.value) for name, attribute in schema.attributes.items()},
        frozenset(name for name, attribute in schema.attributes.items() if attribute.required),
        bool(schema.deprecated),
        tuple((_parameter(formal), _kinds(formal)) for formal in schema.inputs),
    )


def _parameter(formal: Any) -> str:
    """What inputs of one dtype share; empty where each may have its own."""
    variadic = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return "" if variadic and not formal.is_homogeneous else str(formal.type_str)


@cache
def first_version(domain: str, op_type: str) -> int | None:
    """Version in which an operator first appeared; None where onnx does not know it."""
    versions = [s.since_version for s in _schemas() if s.domain == domain and s.name == op_type]
    return min(versions, default=None)


WRITTEN_EARLY = {"LayerNormalization": 17}
"""Operators of ai.onnx that ONNX Runtime takes at any opset, and its optimizer writes so; what they then mean."""


@cache
def operator_names(domain: str) -> tuple[str, ...]:
    """Names of every operator that onnx defines in `domain`."""
    return tuple(sorted({s.name for s in _schemas() if s.domain == domain}))


@cache
def _schemas() -> tuple[Any, ...]:
    return tuple(onnx.defs.get_all_schemas_with_history())


def _kinds(formal: Any) -> frozenset[str]:
    """Kinds of elements that an input may have: text, whole numbers, others."""
    whole = ("tensor(int", "tensor(uint", "tensor(bool")
    return frozenset(
        "text" if "string" in kind else "whole" if kind.startswith(whole) else "other" for kind in formal.types
    )


def check_node(node: onnx.NodeProto, kinds: Mapping[str, int], found: Signature, name: str) -> None:
    """Holds a node against its operator's definition.

    Args:
        node: The node.
        kinds: Type of each attribute given.
        found: The definition.
        name: The node's name, for messages.

    Raises:
        ModelError: Too few or too many inputs or outputs; an attribute that is missing, unknown or of a wrong type.
    """

    def fail(message: str, hint: str | None = None) -> None:
        raise ModelError(f"{node.op_type} (since opset {found.since}) {message}", nodes=(name,), hint=hint)

    for what, names, (least, most) in (("inputs", node.input, found.inputs), ("outputs", node.output, found.outputs)):
        # Absent ones at the end may be written or left out.
        count = max((index + 1 for index, name in enumerate(names) if name), default=0)
        if count < least and (what == "inputs" or len(names) < least):
            fail(f"needs at least {least} {what} and has {count}")
        if count > most:
            fail(f"takes at most {most} {what} and has {count}")
    for attribute, kind in kinds.items():
        expected = found.attributes.get(attribute)
        if expected is None:
            close = difflib.get_close_matches(attribute, found.attributes, 1)
            fail(f"has no attribute {attribute!r}", f"did you mean {close[0]!r}?" if close else None)
        elif kind != expected:
            fail(f"needs attribute {attribute!r} to be of type {_kind_name(expected)}, not {_kind_name(kind)}")
    for attribute in sorted(found.required - kinds.keys()):
        fail(f"lacks its attribute {attribute!r}")


def dtype_misfit(op_type: str, types: Sequence[Type | None], found: Signature, name: str) -> TypeInferenceError | None:
    """Why the dtypes of a node's inputs do not fit its operator's definition; None where they do, or are unknown.

    Inputs that must be of one dtype are not, text is given where numbers are wanted, or fractions where whole numbers
    are. Other numbers than those that ONNX lists are let pass: graphc computes more than ONNX promises.
    """
    bound: dict[str, TensorType] = {}
    for index, kind in enumerate(types):
        if not isinstance(kind, TensorType) or not found.operands:
            continue
        parameter, kinds = found.operands[min(index, len(found.operands) - 1)]
        if kind.dtype == dtypes.STRING and "text" not in kinds:
            return TypeInferenceError(f"{op_type}: input {index} is text, and numbers are wanted", nodes=(name,))
        if kinds == {"whole"} and kind.dtype.kind in ("float", "complex"):
            return TypeInferenceError(
                f"{op_type}: input {index} is {kind.dtype}, and whole numbers or truth values are wanted", nodes=(name,)
            )
        first = bound.setdefault(parameter, kind) if parameter else kind
        if first.dtype != kind.dtype:
            return TypeInferenceError(
                f"{op_type}: input {index} is {kind.dtype}, and must be {first.dtype} as another input is",
                nodes=(name,),
                hint="put a Cast in between",
            )
    return None


def _kind_name(kind: int) -> str:
    names: Any = onnx.AttributeProto.AttributeType
    return str(names.Name(kind)) if kind in names.values() else f"number {kind}"
