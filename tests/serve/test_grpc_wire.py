"""Tensors lifted out of messages and lowered into them, against protobuf's own reading."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from graphc.errors import RequestError, RequestTooLargeError
from graphc.serve.grpc.wire import lift, lower

REQUEST_RAW, RESPONSE_RAW = 7, 6
RAWS = st.lists(st.binary(max_size=300), max_size=5)
NAMES = st.text(max_size=5)


@st.composite
def requests(draw):
    request = pb.ModelInferRequest(model_name=draw(NAMES), id=draw(NAMES), raw_input_contents=draw(RAWS))
    for _ in range(draw(st.integers(0, 3))):
        shape = draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
        entry = request.inputs.add(name=draw(NAMES), datatype="FP32", shape=shape)
        entry.contents.bytes_contents.extend(draw(RAWS))
    for key in draw(st.lists(NAMES, max_size=3)):
        request.parameters[key].double_param = draw(st.floats(allow_nan=False))
    return request


@given(requests())
def test_lifting_takes_the_tensors_and_nothing_else(request_):
    data = request_.SerializeToString()
    head, raw = lift(data, REQUEST_RAW, 100)
    assert [bytes(view) for view in raw] == list(request_.raw_input_contents)
    assert all(view.obj is data for view in raw)
    found = pb.ModelInferRequest.FromString(head)
    assert not found.raw_input_contents
    found.raw_input_contents.extend(request_.raw_input_contents)
    assert found == request_


@given(requests(), st.randoms(use_true_random=False))
def test_fields_in_any_order(request_, random):
    """Messages are concatenated from parts, in an order that protobuf would not write."""
    parts = [pb.ModelInferRequest(raw_input_contents=[raw]).SerializeToString() for raw in request_.raw_input_contents]
    request_.ClearField("raw_input_contents")
    parts.append(request_.SerializeToString())
    random.shuffle(parts)
    data = b"".join(parts)
    head, raw = lift(data, REQUEST_RAW, 100)
    assert list(pb.ModelInferRequest.FromString(data).raw_input_contents) == [bytes(view) for view in raw]
    assert pb.ModelInferRequest.FromString(head) == request_


@given(RAWS, NAMES)
def test_lowering_is_what_protobuf_writes(raws, name):
    wanted = pb.ModelInferResponse(model_name=name, raw_output_contents=raws)
    head = pb.ModelInferResponse(model_name=name).SerializeToString()
    assert lower(head, RESPONSE_RAW, [memoryview(raw) for raw in raws]) == wanted.SerializeToString()


@given(st.binary(max_size=60))
def test_bytes_from_strangers(data):
    """What is lifted from is what protobuf can read too, or an error either way."""
    with contextlib.suppress(RequestError):
        head, raw = lift(data, REQUEST_RAW, 100)
        with contextlib.suppress(DecodeError):
            wanted = pb.ModelInferRequest.FromString(data)
            assert list(wanted.raw_input_contents) == [bytes(view) for view in raw]
            assert pb.ModelInferRequest.FromString(head).id == wanted.id


def test_many_fields_are_not_walked():
    with pytest.raises(RequestTooLargeError, match="more than 100 fields"):
        lift(b"\x0a\x00" * 10_000_000, REQUEST_RAW, 100)
