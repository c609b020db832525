from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphc.errors import ModelError
from graphc.frontend.wire import LIFT_BYTES, MAX_FIELDS, lift_payloads
from tests.frontend.models import chain, info, model


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@st.composite
def models_with_weights(draw: st.DrawFn) -> onnx.ModelProto:
    """Weights of all sizes around the limit, as initializers, in attributes and inside branches."""
    sizes = st.integers(0, 3 * LIFT_BYTES // 4)
    weights = {f"w{i}": np.arange(size, dtype=np.float32) for i, size in enumerate(draw(st.lists(sizes, max_size=4)))}
    held = numpy_helper.from_array(np.arange(draw(sizes), dtype=np.float32))
    inner = helper.make_graph(
        [], "b", [], [info("k", shape=[None])], [numpy_helper.from_array(np.arange(draw(sizes), dtype=np.float32), "k")]
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=held),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
    ]
    return model(nodes, [info("x", shape=[], elem=9)], ["y", "c"], initializers=weights)


@given(models_with_weights())
def test_nothing_is_lost(proto: onnx.ModelProto) -> None:
    data = proto.SerializeToString()
    rest, payloads = lift_payloads(memoryview(data))
    parsed = onnx.ModelProto.FromString(rest)
    tensors = [*parsed.graph.initializer, parsed.graph.node[0].attribute[0].t]
    tensors += [attribute.g.initializer[0] for attribute in parsed.graph.node[1].attribute]
    large = 0
    for tensor in tensors:
        view = payloads.get(tensor.raw_data)
        large += len(tensor.raw_data) != len(view)
        assert len(view) < LIFT_BYTES or view.obj is data, "a large payload must be a view of the file"
        tensor.raw_data = bytes(view)
    assert parsed.SerializeToString() == proto.SerializeToString()
    assert large == len(payloads.views)


@given(st.data())
def test_every_truncation_is_a_model_error_or_a_model(data: st.DataObject) -> None:
    whole = chain().SerializeToString()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        rest, _ = lift_payloads(memoryview(part))
    except ModelError as error:
        assert "at byte" in error.message
    else:
        assert rest == part


def test_a_file_cannot_forge_a_ticket() -> None:
    big = numpy_helper.from_array(np.zeros(LIFT_BYTES, np.float32), "w")
    forged = onnx.TensorProto(name="f", data_type=2, dims=[24], raw_data=b"\0" * 16 + (1).to_bytes(8, "little"))
    proto = chain()
    proto.graph.initializer.extend([big, forged])
    _, payloads = lift_payloads(memoryview(proto.SerializeToString()))
    assert bytes(payloads.get(forged.raw_data)) == forged.raw_data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x3a\xff\xff\xff\xff\x07", "2147483647 bytes and 0 are left"),
        (b"\x3b\x01", "unknown wire type 3"),
        (b"\x00\x01", "number 0"),
        (b"\x08" + b"\xff" * 10, "longer than 10 bytes"),
        (b"\x08", "cut off"),
        (b"\x0d\x00", "cut off"),
    ],
)
def test_damage_is_located(data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        lift_payloads(memoryview(data))


def test_messages_without_number_end_early() -> None:
    nodes = b"\x0a\x00" * (MAX_FIELDS + 10)
    with pytest.raises(ModelError, match="more than 500,000 fields"):
        lift_payloads(memoryview(b"\x3a" + varint(len(nodes)) + nodes))


def test_deep_nesting_ends_early() -> None:
    tags = [b"\x0a", b"\x2a", b"\x32"]  # GraphProto.node, NodeProto.attribute, AttributeProto.g
    data = b"\0" * LIFT_BYTES
    for level in range(200):
        data = tags[(199 - level) % 3] + varint(len(data)) + data
    with pytest.raises(ModelError, match="nested deeper"):
        lift_payloads(memoryview(b"\x3a" + varint(len(data)) + data))
