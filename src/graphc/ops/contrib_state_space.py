"""State-space operators of domain com.microsoft, as those of ai.onnx that came of them."""

from __future__ import annotations

from typing import Any

from graphc.ir import Builder, Node, Value
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, given, kept, needed
from graphc.ops.decomposition import decomposed

_VERSION = 27
"""Version of ai.onnx that has these operators."""


def _results(b: Builder, op_type: str, x: Values, attributes: dict[str, Any]) -> tuple[Value, Value]:
    made = b.op(op_type, *x, outputs=2, version=_VERSION, **attributes).producer
    assert made is not None
    output, state = made.outputs
    return output, state


def _linear_attention(b: Builder, node: Node, x: Values) -> Values | None:
    if node.int_attribute("state_window", 0):
        return None
    return _results(b, "LinearAttention", x, kept(node, "q_num_heads", "kv_num_heads", "scale", "update_rule"))


def _causal_conv(b: Builder, node: Node, x: Values) -> Values | None:
    plain = {"ndim": 1, "dilation": 1, "state_window": 0, "state_length": 0, "input_channels": 0}
    if any(node.int_attribute(name, value) != value for name, value in plain.items()):
        return None
    data, past = needed(x, 0), given(x, 3)
    turned = bool(node.int_attribute("channels_last", 0))
    if len(data.tensor_type.dims) != 3 or len(node.outputs) > 2:
        return None

    def swapped(value: Value | None) -> Value | None:
        return b.op("Transpose", value, perm=[0, 2, 1]) if turned and value is not None else value

    operands = (swapped(data), needed(x, 1), given(x, 2), swapped(past))
    results = _results(b, "CausalConvWithState", operands, kept(node, "activation"))
    return [swapped(result) for result in results]


decomposed("LinearAttention", _linear_attention, domain=DOMAIN, traits={Trait.SCAN, Trait.CONTRACTION})
decomposed("CausalConvWithState", _causal_conv, domain=DOMAIN, traits={Trait.WINDOW})
