"""Thousands of requests that good ones became by accident or on purpose: none breaks the server or holds it up."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2

from graphc.serve.protocol.limits import RequestLimits
from tests.serve.running import both_ports, running

X = np.arange(6, dtype=np.float32).reshape(2, 3)
LIMITS = RequestLimits(body_bytes=4 << 20, header_seconds=0.2, body_seconds=0.2, idle_seconds=1)
INTERESTING = (
    *(-1, 0, 1, 2, 3, 127, 128, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63, 2**64 - 1, 2**64, 10**30),
    *(
        1.5,
        -0.0,
        1e308,
        1e-320,
        True,
        False,
        None,
        "",
        "x",
        "FP32",
        "BYTES",
        "UINT64",
        "..",
        "\x00",
        "\ud83d\ude00",
        "a" * 5000,
    ),
    *([], {}, [[]], [1] * 100, [[1, 2], [3]], {"a": 1}, [{}], [None]),
)
PATHS = (
    "/v2/models/scale/infer",
    "/v2/models/scale/versions/1/infer",
    "/v2/models/scale/versions/-1/infer",
    "/v2/models//infer",
    "/v2/models/scale/versions/99999999999999999999999/infer",
    "/v2/models/scale/ready",
    "/v2/models/scale/config",
    "/v2/models/scale/stats",
    "/v2/models/stats",
    "/v2/repository/index",
    "/v2/repository/models/scale/load",
    "/v2/repository/models/scale/unload",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/models/scale/trace/setting",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/region/a/register",
    "/v2/health/ready",
    "/v2",
    "/",
    "*",
    "/v2/%",
    "/v2/%zz",
    "/%2e%2e/v2",
    "//v2",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, package):
    root = tmp_path_factory.mktemp("models")
    (root / "scale" / "1").mkdir(parents=True)
    (root / "scale" / "1" / "model.graphc").write_bytes(package(2.0).read_bytes())
    with running(root, both_ports(), limits=LIMITS) as found:
        yield found


def mutated_value(random_, value):
    """The value with one thing in it replaced, removed, doubled or renamed."""
    if random_.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return random_.choice(INTERESTING)
    value = value.copy()
    key = random_.choice(list(value) if isinstance(value, dict) else range(len(value)))
    action = random_.random()
    if action < 0.1:
        del value[key]
    elif action < 0.2 and isinstance(value, list):
        value += [value[key]] * random_.choice((1, 5, 2000))
    elif action < 0.2:
        value[random_.choice(("name", "shape", "datatype", "data", "parameters", "x"))] = value.pop(key)
    else:
        value[key] = mutated_value(random_, value[key])
    return value


def mutated_bytes(random_, data):
    """The bytes with some of them flipped, cut, doubled or inserted."""
    data = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 8))):
        place = random_.randrange(len(data) + 1)
        action = random_.random()
        if action < 0.4 and place < len(data):
            data[place] ^= 1 << random_.randrange(8)
        elif action < 0.6:
            data[place : place + random_.randrange(1, 30)] = b""
        elif action < 0.8:
            data[place:place] = random_.choice(
                (b"\x00", b"\xff" * 9, b"\r\n", b"[" * 50, b'"', b"{", b"9" * 20, b"%s%n")
            )
        else:
            data[place:place] = data[place : place + random_.randrange(1, 60)]
    return bytes(data)


def http_request(random_):
    x = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": X.ravel().tolist()}
    text = {"id": "1", "inputs": [x], "outputs": [{"name": "y"}], "parameters": {"priority": 1, "timeout": 10**6}}
    tail = b""
    if random_.random() < 0.5:
        del x["data"]
        x["parameters"] = {"binary_data_size": 24}
        tail = X.tobytes()
    for _ in range(random_.choice((0, 1, 1, 2))):
        text = mutated_value(random_, text)
    head = json.dumps(text).encode("utf-8", "surrogatepass")
    body = head + tail
    headers = {"host": "a", "connection": "close"}
    if tail or random_.random() < 0.1:
        headers["inference-header-content-length"] = random_.choice(
            (len(head),) * 4 + (0, 1, len(body) + 1, -1, "x", 2**64)
        )
    if random_.random() < 0.2:
        headers["content-encoding"] = random_.choice(("gzip", "deflate", "identity", "br", "gzip, gzip"))
        if random_.random() < 0.7:
            body = gzip.compress(body)
    if random_.random() < 0.2:
        body = mutated_bytes(random_, body)
    length = len(body) if random_.random() < 0.95 else random_.choice((0, len(body) + 1, 10**12, -1, "x"))
    path = random_.choice(PATHS) if random_.random() < 0.4 else PATHS[0]
    method = random_.choice(("GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW")) if random_.random() < 0.1 else "POST"
    if random_.random() < 0.1:
        headers["transfer-encoding"] = "chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        headers["content-length"] = length
    data = f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items())
    data += b"\r\n" + body
    return mutated_bytes(random_, data) if random_.random() < 0.2 else data


def grpc_request(random_):
    request = service_pb2.ModelInferRequest(model_name="scale", id="1")
    entry = request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    if random_.random() < 0.7:
        request.raw_input_contents.append(X.tobytes())
    else:
        entry.contents.fp32_contents.extend(X.ravel().tolist())
    request.outputs.add(name="y")
    request.parameters["priority"].int64_param = 1
    action = random_.random()
    if action < 0.2:
        entry.shape[random_.randrange(2)] = random_.choice((-1, 0, 1, 2**31, 2**62))
    elif action < 0.3:
        entry.datatype = random_.choice(("BYTES", "FP64", "BOOL", "BF16", "fp32", ""))
    elif action < 0.4:
        entry.name = random_.choice(("", "y", "x" * 5000, "\x00"))
    elif action < 0.5:
        entry.parameters["shared_memory_region"].string_param = random_.choice(("", "a", "/etc"))
    elif action < 0.6:
        request.parameters[random_.choice(("priority", "timeout", "a"))].int64_param = random_.choice((-1, 2**62))
    data = request.SerializeToString()
    return mutated_bytes(random_, data) if random_.random() < 0.6 else data


def http_status(server, data):
    """The code of the answer; None where the server just closed the connection."""
    with socket.create_connection(("127.0.0.1", server.port()), timeout=5) as connection:
        connection.settimeout(5)
        answer = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        except TimeoutError:
            pytest.fail(f"no answer to {data[:500]!r}")
    if not answer:
        return None
    assert answer.startswith(b"HTTP/1."), answer[:100]
    return int(answer[9:12])


def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def attack(server, count, seed):
    random_ = random.Random(seed)
    seen = {"http": {}, "grpc": {}}
    x = tritonclient.http.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)
    y = tritonclient.grpc.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)
    with (
        grpc.insecure_channel(server.address(1)) as channel,
        tritonclient.http.InferenceServerClient(server.address(0), network_timeout=5) as good,
        tritonclient.grpc.InferenceServerClient(server.address(1)) as also_good,
    ):
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        before = memory()
        for number in range(count):
            if number % 3:
                data = http_request(random_)
                code = http_status(server, data)
                assert code is None or code < 500 or code in (501, 503), (code, data)
                seen["http"][code] = seen["http"].get(code, 0) + 1
            else:
                data = grpc_request(random_)
                try:
                    call(data, timeout=5)
                    code = grpc.StatusCode.OK
                except grpc.RpcError as error:
                    code = error.code()
                refusals = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
                assert code in (grpc.StatusCode.OK, *refusals), (code, data)
                seen["grpc"][code] = seen["grpc"].get(code, 0) + 1
            if number % 20 == 0:
                began = time.perf_counter()
                np.testing.assert_array_equal(good.infer("scale", [x]).as_numpy("y"), X * 2 + 1)
                np.testing.assert_array_equal(also_good.infer("scale", [y]).as_numpy("y"), X * 2 + 1)
                assert time.perf_counter() - began < 2, "a good request was held up"
        assert memory() - before < 128 << 20
    # What is only ever refused tests the parser of the first byte alone.
    assert seen["http"].get(200, 0) > count // 20 and seen["http"].get(400, 0) > count // 10
    assert seen["grpc"].get(grpc.StatusCode.OK, 0) > count // 40


def test_malformed_requests(server):
    attack(server, 500, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_malformed_requests(server):
    attack(server, 5000, seed=2)
