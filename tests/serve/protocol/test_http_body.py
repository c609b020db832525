"""HTTP bodies as tritonclient writes and reads them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient import http as client

from graphc.errors import ForbiddenError, RequestError, RequestTooLargeError, UnsupportedError
from graphc.serve.facts import ModelMetadata, TensorFacts
from graphc.serve.protocol.datatypes import datatype_of
from graphc.serve.protocol.http_body import decode_request, encode_response
from graphc.serve.protocol.limits import DEFAULT_LIMITS, RequestLimits
from graphc.serve.protocol.shared_memory import SharedMemory
from graphc.serve.request import Client, InferResponse
from tests.serve.protocol.test_tensors import arrays, string_arrays

NO_MEMORY = SharedMemory()


def assert_same(found, wanted):
    assert found.dtype == wanted.dtype
    if wanted.dtype.name == "bfloat16":
        # NumPy's comparison does not know the NaN of types that are not its own.
        found, wanted = found.astype(np.float32), wanted.astype(np.float32)
    np.testing.assert_array_equal(found, wanted)


def metadata(*inputs):
    return ModelMetadata("m", ("1",), inputs, ())


def decode(body, header_length=None, *, limits=DEFAULT_LIMITS, memory=NO_MEMORY, inputs=()):
    return decode_request(
        "m",
        None,
        body if isinstance(body, bytes) else json.dumps(body).encode(),
        header_length,
        limits=limits,
        memory=memory,
        client=Client("http"),
        metadata=lambda: metadata(*inputs),
    )


@settings(max_examples=60)
@given(
    st.lists(st.tuples(arrays() | string_arrays(st.text(max_size=4)), st.booleans()), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 9),
    st.none() | st.integers(0, 1 << 40),
    st.text(max_size=5),
)
def test_requests_and_answers_of_the_client(tensors, all_outputs, priority, timeout, name):
    inputs, wanted = [], {}
    for number, (array, binary) in enumerate(tensors):
        datatype = datatype_of(array.dtype)
        # The client writes neither BF16 nor the quiet kinds of NaN as JSON.
        binary = binary or datatype == "BF16"
        tensor = client.InferInput(f"x{number}", array.shape, datatype)
        inputs.append(tensor.set_data_from_numpy(array, binary_data=binary))
        wanted[f"x{number}"] = array
    outputs = (
        None if all_outputs else [client.InferRequestedOutput(k, binary_data=n % 2 == 1) for n, k in enumerate(wanted)]
    )
    body, length = client.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id=name, priority=priority, timeout=timeout, parameters={"mine": "yes"}
    )
    call = decode(body if isinstance(body, bytes) else body.encode(), length)
    request = call.request
    assert (request.id, request.priority, request.parameters) == (name, priority, {"mine": "yes"})
    assert request.timeout == (timeout / 1e6 if timeout else None)
    assert request.outputs == (None if all_outputs else list(wanted))
    for key, array in wanted.items():
        assert_same(request.inputs[key], array)

    head, parts = encode_response(call, InferResponse("m", "3", request.inputs, name), NO_MEMORY)
    result = client.InferResult.from_response_body(b"".join(parts), header_length=head)
    assert result.get_response()["model_version"] == "3"
    for key, array in wanted.items():
        found = result.as_numpy(key)
        assert found.shape == array.shape
        if array.dtype == object:
            found = np.array([i.decode() if isinstance(i, bytes) else i for i in found.ravel()], object)
            found = found.reshape(array.shape)
        assert_same(found, array)


def test_outputs_are_json_unless_the_request_says_otherwise():
    call = decode({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [0.1, 2]}]})
    head, parts = encode_response(call, InferResponse("m", "1", call.request.inputs), NO_MEMORY)
    assert head is None
    (output,) = json.loads(b"".join(parts))["outputs"]
    assert output == {"name": "x", "datatype": "FP32", "shape": [2], "data": [0.1, 2.0]}


IMAGE = TensorFacts("image", "uint8", (-1, 4, -1))


@pytest.mark.parametrize(
    ("spec", "body", "shape"),
    [
        (IMAGE, bytes(24), (1, 4, 6)),
        (TensorFacts("x", "float32", (-1, 3)), bytes(24), (2, 3)),
        (TensorFacts("x", "float32", (2,)), bytes(8), (2,)),
        (TensorFacts("x", "string", (-1, 1)), b"any\xff", (1, 1)),
        (TensorFacts("x", "bfloat16", ()), bytes(2), ()),
    ],
)
def test_a_raw_body_is_the_only_input(spec, body, shape):
    call = decode(body, 0, inputs=[spec])
    found = call.request.inputs[spec.name]
    assert found.shape == shape and call.binary
    if spec.dtype == "string":
        assert found[0, 0].encode("utf-8", "surrogateescape") == body


@pytest.mark.parametrize("inputs", [[], [IMAGE, IMAGE]])
def test_a_raw_body_for_another_number_of_inputs(inputs):
    with pytest.raises(RequestError, match="one input"):
        decode(b"abcd", 0, inputs=inputs)


def test_a_raw_body_that_does_not_fit():
    with pytest.raises(RequestError, match="takes 20 bytes, got 23"):
        decode(bytes(23), 0, inputs=[IMAGE])


X = {"name": "x", "shape": [1], "datatype": "FP32"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "must be a JSON object"),
        ({}, "no inputs"),
        ({"inputs": {}}, "must be a list"),
        ({"inputs": [1]}, "list of objects"),
        ({"inputs": [{}]}, "every input needs a name"),
        ({"inputs": [{"name": "x"}]}, "unknown datatype None"),
        ({"inputs": [{"name": "x", "datatype": "FP32"}]}, "shape must be a list"),
        ({"inputs": [X]}, "neither data nor binary_data_size"),
        ({"inputs": [{**X, "data": [1], "parameters": {"binary_data_size": 4}}]}, "both data and"),
        ({"inputs": [{**X, "data": [1]}] * 2}, "given twice"),
        ({"inputs": [{**X, "parameters": {"binary_data_size": 4}}]}, "0 bytes are left"),
        ({"inputs": [{**X, "parameters": {"binary_data_size": -4}}]}, "must be a number of bytes"),
        ({"inputs": [{**X, "parameters": {"binary_data_size": True}}]}, "must be a number of bytes"),
        ({"inputs": [{**X, "parameters": {"a": []}}]}, "parameter 'a' must be"),
        ({"inputs": [{**X, "parameters": []}]}, "parameters must be an object"),
        ({"inputs": [{**X, "parameters": {"shared_memory_region": 3}}]}, "must be a name"),
        ({"inputs": [{**X, "parameters": {"shared_memory_region": "a"}}]}, "shared_memory_byte_size must be"),
        (
            {"inputs": [{**X, "parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 4}}]},
            "no shared memory region 'a'",
        ),
        ({"inputs": [{**X, "data": [1]}], "id": 3}, "id must be a string"),
        ({"inputs": [], "parameters": {"priority": -1}}, "priority must be"),
        ({"inputs": [], "parameters": {"priority": "1"}}, "priority must be"),
        ({"inputs": [], "parameters": {"timeout": 1.5}}, "timeout must be"),
        ({"inputs": [], "parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({"inputs": [], "outputs": [{"name": "y"}] * 2}, "asked for twice"),
        ({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "classification"),
        ({"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]}, "binary_data must be"),
    ],
)
def test_what_breaks_the_protocol(body, message):
    with pytest.raises(RequestError, match=message):
        decode(body)


@pytest.mark.parametrize("length", [-1, 3, 1 << 62])
def test_header_length_out_of_range(length):
    with pytest.raises(RequestError, match="the body has 2 bytes"):
        decode(b"{}", length)


def test_bytes_that_belong_to_nothing():
    with pytest.raises(RequestError, match="3 bytes of binary data belong to no input"):
        decode(b'{"inputs":[]}abc', 13)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{}] * 1025},
        {"inputs": [], "outputs": [{"name": str(n)} for n in range(100_000)]},
        {"inputs": [], "parameters": {str(n): n for n in range(1000)}},
        {"inputs": [], "padding": "x" * 2000},
    ],
)
def test_limits(body):
    limits = RequestLimits(json_bytes=1000) if "padding" in body else DEFAULT_LIMITS
    with pytest.raises(RequestTooLargeError, match="limit of"):
        decode(body, limits=limits)


def test_an_output_that_is_no_tensor():
    call = decode({"inputs": []})
    with pytest.raises(UnsupportedError, match="output 'y' is a list"):
        encode_response(call, InferResponse("m", "1", {"y": []}), NO_MEMORY)


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        (np.float32([0.1, 3, 2]), ["3.000000:1", "2.000000:2"]),
        (np.float32([[0.1, 3, 2], [5, 0, 0]]), [["3.000000:1", "2.000000:2"], ["5.000000:0", "0.000000:1"]]),
        (np.uint8([1, 200]), ["200.000000:1", "1.000000:0"]),
    ],
)
def test_classification(scores, found):
    call = decode({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 2}}]})
    _, parts = encode_response(call, InferResponse("m", "1", {"y": scores}), NO_MEMORY)
    (output,) = json.loads(b"".join(parts))["outputs"]
    assert output["datatype"] == "BYTES" and output["shape"] == list(np.shape(found))
    assert np.reshape(output["data"], output["shape"]).tolist() == found


def test_registering_is_off_unless_allowed():
    with pytest.raises(ForbiddenError, match="--allow-shared-memory"):
        NO_MEMORY.register("a", "/a", 0, 1)
