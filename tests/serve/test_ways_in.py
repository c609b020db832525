"""Inference over HTTP as clients write it: what the connection answers itself, and what goes through ASGI."""

from __future__ import annotations

import contextlib
import gc
import json
import socket

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc.serve import Observer
from graphc.serve.http.direct import DirectExchange, inference
from tests.serve.running import both_ports, running

X = np.arange(3 * 4000, dtype=np.float32).reshape(-1, 3)[:1]
HEAD = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}'
BINARY = HEAD + X.tobytes()
JSON = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": X.ravel().tolist()}]}).encode()
PLAIN = "/v2/models/scale/infer"


class Clients(Observer):
    """Who asked."""

    def __init__(self):
        self.seen = []

    def received(self, request):
        self.seen.append(request.client)


CLIENTS = Clients()


@pytest.fixture(scope="module")
def server(tmp_path_factory, package):
    root = tmp_path_factory.mktemp("models")
    (root / "scale" / "1").mkdir(parents=True)
    (root / "scale" / "1" / "model.graphc").write_bytes(package(2.0).read_bytes())
    with running(root, both_ports(), observers=[CLIENTS]) as found:
        yield found


@pytest.fixture(scope="module")
def connection(server):
    with socket.create_connection(("127.0.0.1", server.port()), timeout=5) as found:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with found.makefile("rb") as stream:
            yield found, stream


def request(body=JSON, path=PLAIN, *headers, version="1.1", length=True):
    lines = [f"POST {path} HTTP/{version}", "Host: here", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer(stream):
    """Status, headers and body of one answer."""
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, stream.read(int(headers["content-length"]))


def chunked(body, size):
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


WAYS = {
    "plain": request(),
    "version": request(JSON, "/v2/models/scale/versions/1/infer"),
    "chunked": request(chunked(JSON, 7), PLAIN, "Transfer-Encoding: chunked", length=False),
    "escaped": request(JSON, "/v2/models/sc%61le/infer"),
    "query": request(JSON, PLAIN + "?x=1"),
    "forwarded": request(JSON, PLAIN, "X-Forwarded-For: 10.1.2.3"),
    "expect": request(JSON, PLAIN, "Expect: 100-continue"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_the_same_answer(server, connection, way):
    stream = connection[1]
    connection[0].sendall(WAYS[way])
    if way == "expect":
        assert stream.readline().startswith(b"HTTP/1.1 100")
        assert stream.readline() == b"\r\n"
    status, headers, body = answer(stream)
    assert status == 200 and headers["content-type"] == "application/json" and "date" in headers
    found = json.loads(body)
    assert (found["model_name"], found["model_version"]) == ("scale", "1")
    np.testing.assert_allclose(found["outputs"][0]["data"], (2 * X + 1).ravel())
    address = CLIENTS.seen[-1].address
    assert address.partition(":")[0] == ("10.1.2.3" if way == "forwarded" else "127.0.0.1")


@given(cuts=st.lists(st.integers(1, 200), max_size=4), binary=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_may_come_in_any_pieces(connection, cuts, binary):
    length = f"Inference-Header-Content-Length: {len(HEAD)}"
    data = request(BINARY, PLAIN, length) if binary else request()
    for start, end in zip([0, *(places := sorted(set(cuts)))], [*places, len(data)], strict=True):
        connection[0].sendall(data[start:end])
    status, headers, body = answer(connection[1])
    assert status == 200
    head = json.loads(
        body[: int(headers["inference-header-content-length"])]
        if "inference-header-content-length" in headers
        else body
    )
    np.testing.assert_allclose(head["outputs"][0]["data"], (2 * X + 1).ravel())


def test_the_connection_ends_where_the_client_says_so(server):
    for data in (request(JSON, PLAIN, "Connection: close"), request(JSON, version="1.0")):
        with socket.create_connection(("127.0.0.1", server.port()), timeout=5) as each:
            each.sendall(data)
            stream = each.makefile("rb")
            status, headers, _ = answer(stream)
            assert status == 200 and headers["connection"] == "close" and stream.read() == b""


def test_an_answer_that_fails_in_its_midst_ends_the_connection(server, monkeypatch, caplog):
    async def broken(self, *_):
        raise OSError("no")

    with socket.create_connection(("127.0.0.1", server.port()), timeout=5) as each, monkeypatch.context() as patch:
        patch.setattr(DirectExchange, "_deliver", broken)
        each.sendall(request())
        with contextlib.suppress(ConnectionResetError):
            assert each.recv(100) == b""
    assert "inference by scale failed while it was answered" in caplog.text


def test_requests_leave_no_garbage(connection):
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            connection[0].sendall(request())
            assert answer(connection[1])[0] == 200
        assert sum(isinstance(each, DirectExchange) for each in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_large_tensors_are_not_moved(server):
    """What comes lies where a kernel can use it: no copy is made on its way to the model."""
    seen = []

    class Look(Observer):
        def received(self, request):
            seen.append(request.inputs["x"])

    x = np.ones((20_000, 3), np.float32)
    head = json.dumps(
        {"inputs": [{"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}]}
    ).encode()
    with running(server.server.settings.repository, both_ports(), observers=[Look()]) as other:
        for pad in range(4):
            length = f"Inference-Header-Content-Length: {len(head) + pad}"
            with socket.create_connection(("127.0.0.1", other.port()), timeout=5) as each:
                each.sendall(request(head + b" " * pad + x.tobytes(), PLAIN, length))
                # More rows than were compiled: it is refused, but was read.
                assert answer(each.makefile("rb"))[0] == 400
    assert len(seen) == 4
    assert all(array.flags.aligned and not array.flags.owndata and np.array_equal(array, x) for array in seen)


@pytest.mark.parametrize(
    ("method", "url", "found"),
    [
        (b"POST", b"/v2/models/a/infer", ("a", None)),
        (b"POST", b"/v2/models/a.b-c/versions/7/infer", ("a.b-c", "7")),
        (b"GET", b"/v2/models/a/infer", None),
        (b"POST", b"/v2/models//infer", None),
        (b"POST", b"/v2/models/a/infer/", None),
        (b"POST", b"/v2/models/a/generate", None),
        (b"POST", b"/v2/models/a/b/infer", None),
        (b"POST", b"/v2/models/%41/infer", None),
        (b"POST", b"/v2/models/\xc3\xa4/infer", None),
        (b"POST", b"http://here/v2/models/a/infer", None),
    ],
)
def test_what_the_connection_answers_itself(method, url, found):
    assert inference(method, url, [(b"host", b"here")]) == found
