"""What a server refuses before it costs anything: raw sockets against ports with small limits."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from starlette.responses import Response
from starlette.routing import Route
from tritonclient.grpc import service_pb2, service_pb2_grpc

from graphc.errors import DeadlineError
from graphc.serve import Client, Observer
from graphc.serve.grpc.messages import decode_request, infer_reader
from graphc.serve.protocol.limits import RequestLimits
from graphc.serve.protocol.shared_memory import SharedMemory
from tests.serve.running import both_ports, running

LIMITS = RequestLimits(
    body_bytes=1 << 20,
    json_bytes=100_000,
    header_bytes=4096,
    header_seconds=0.4,
    body_seconds=0.4,
    message_seconds=0.4,
    body_rate=1 << 20,
    write_seconds=0.4,
    idle_seconds=1.0,
    connections=20,
    stream_requests=4,
    held_bytes=3 << 20,
)
GOOD = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory, package):
    root = tmp_path_factory.mktemp("models")
    (root / "scale" / "1").mkdir(parents=True)
    (root / "scale" / "1" / "model.graphc").write_bytes(package(2.0).read_bytes())
    with running(root, both_ports(), limits=LIMITS, observers=[ENDS]) as found:
        yield found


DECODING = {"limits": LIMITS, "memory": SharedMemory(), "client": Client("grpc"), "arrived": 0.0}


class Ends(Observer):
    """How requests ended."""

    def __init__(self):
        self.received_ = 0
        self.reasons = []

    def received(self, request):
        self.received_ += 1

    def ended(self, event):
        self.reasons.append((event.request.client.protocol, event.request.model, event.reason))


ENDS = Ends()


def connect(server):
    found = socket.create_connection(("127.0.0.1", server.port()), timeout=5)
    found.settimeout(5)
    return found


def read_all(connection):
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def status(data):
    assert data.startswith(b"HTTP/1.1 "), data[:100]
    return int(data[9:12])


def ask(server, *parts, close=True):
    """The answer to raw bytes, to the end of the connection."""
    with connect(server) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
        return read_all(connection)


def post(body, *headers, path=b"/v2/models/scale/infer", length=None, close=True):
    head = [
        b"POST " + path + b" HTTP/1.1",
        b"host: a",
        b"content-length: %d" % (len(body) if length is None else length),
    ]
    return b"\r\n".join([*head, *([b"connection: close"] if close else []), *headers, b"", body])


def error_of(data):
    return json.loads(data.partition(b"\r\n\r\n")[2])["error"]


@pytest.fixture(autouse=True)
def good_before_and_after(server):
    yield
    assert status(ask(server, post(GOOD))) == 200


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (b"\x16\x03\x01 not http at all\r\n\r\n", 400, "Invalid HTTP"),
        (b"GET /v2 HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"a" * 8000 + b"\r\n\r\n", 431, "headers"),
        (b"GET /v2 HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"a" * 9000, 431, "headers"),
        (b"GET /" + b"a" * 9000, 431, "headers"),
        (b"GET /v2 HTTP/1.1\r\n" + b"".join(b"h%d: a\r\n" % n for n in range(2000)) + b"\r\n", 431, "headers"),
        (post(GOOD, *[b"a: " + b"a" * 100] * 50), 431, "headers"),
        (b"GET /nothing HTTP/1.1\r\nconnection: close\r\n\r\n", 404, "nothing at '/nothing'"),
        (b"DELETE /v2 HTTP/1.1\r\nconnection: close\r\n\r\n", 405, "DELETE is not for"),
        (b"GET /v2/models/scale/infer HTTP/1.1\r\nconnection: close\r\n\r\n", 405, "GET is not for"),
        (post(b"x" * 10, length=2 << 20), 413, "limit of 1048576 bytes"),
        (post(b"", b"content-length: 7"), 400, "Invalid HTTP"),
        (post(b"", b"content-length: -1"), 400, "Invalid HTTP"),
        (post(GOOD, b"content-encoding: br"), 400, "Content-Encoding"),
        (post(GOOD, b"content-encoding: gzip"), 400, "not gzip"),
        (post(gzip.compress(bytes(64 << 20)), b"content-encoding: gzip"), 413, "decompresses to more"),
        (post(b"[" * 90_000), 413, "nests"),
        (post(b'{"a":"' + b"x" * 200_000 + b'"}'), 413, "bytes of JSON"),
        (post(GOOD, b"inference-header-content-length: 99999999999999999999999"), 400, "the body has"),
        (post(GOOD, b"inference-header-content-length: -5"), 400, "whole number"),
        (post(GOOD, b"inference-header-content-length: 1e3"), 400, "whole number"),
        (post(GOOD, b"inference-header-content-length: 5"), 400, "not JSON"),
        (post(b""), 400, "no inputs"),
        (post(b"null"), 400, "JSON object"),
        (post(b"\xff\xfe"), 400, "not JSON"),
        (post(b"{}", path=b"/v2/models/%00%ff/infer"), 400, "no inputs"),
        (post(GOOD, path=b"/v2/models/%00%ff/infer"), 404, "no model"),
        (post(GOOD, path=b"/v2/models/..%2f..%2fetc/infer"), 404, ""),
    ],
)
def test_what_is_refused(server, request_, code, says):
    data = ask(server, request_)
    assert status(data) == code
    assert says in error_of(data)


def test_a_chunked_body_without_end(server):
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    head = b"POST /v2/models/scale/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    assert status(ask(server, head, *[chunk] * 100)) == 413


def test_chunks_of_one_byte_count_as_what_they_take(server):
    head = b"POST /v2/models/scale/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    assert status(ask(server, head, *[b"1\r\na\r\n" * 10_000] * 6, b"0\r\n\r\n")) == 503


@pytest.mark.parametrize(
    "start",
    [b"", b"\r\n", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nhost: a\r\nx: "],
    ids=["silent", "empty line", "line", "header"],
)
def test_headers_that_do_not_come(server, start):
    began = time.perf_counter()
    data = ask(server, start)
    assert status(data) == 408
    assert 0.3 < time.perf_counter() - began < 3


def test_headers_that_come_one_byte_at_a_time(server):
    """Slowloris: no byte buys time."""
    with connect(server) as connection:
        began = time.perf_counter()
        try:
            for byte in b"GET /v2 HTTP/1.1\r\n" + b"x: y\r\n" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.perf_counter() - began < 3


def test_a_second_request_that_does_not_come(server):
    with connect(server) as connection:
        connection.sendall(post(GOOD, close=False))
        assert status(connection.recv(65536)) == 200
        connection.sendall(b"POST /v2/mod")
        assert status(read_all(connection)) == 408


@pytest.mark.parametrize("sent", [1, 900_000])
def test_a_body_that_does_not_come(server, sent):
    began = time.perf_counter()
    data = ask(server, post(b"{" * sent, length=sent + 1))
    assert status(data) == 408 and "did not come in time" in error_of(data)
    assert time.perf_counter() - began < 3


def test_a_body_that_comes_a_byte_at_a_time(server):
    with connect(server) as connection:
        began = time.perf_counter()
        connection.sendall(post(b"{", length=1000))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.perf_counter() - began < 4:
                connection.sendall(b" ")
                time.sleep(0.02)
        assert time.perf_counter() - began < 3


def test_idle_connections_are_closed(server):
    with connect(server) as connection:
        connection.sendall(post(GOOD, close=False))
        assert status(connection.recv(65536)) == 200
        began = time.perf_counter()
        assert connection.recv(1) == b""
        assert 0.5 < time.perf_counter() - began < 4


def test_keep_alive_and_pipelining(server):
    with connect(server) as connection:
        connection.sendall(post(GOOD, close=False) * 3 + post(GOOD))
        data = read_all(connection)
    assert data.count(b"HTTP/1.1 200 OK") == 4


def test_connections_beyond_the_limit(server):
    held = [connect(server) for _ in range(LIMITS.connections)]
    try:
        time.sleep(0.1)
        data = ask(server, post(GOOD))
        assert status(data) == 503 and b"retry-after: 1" in data
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.1)


def test_a_client_that_takes_no_answer(tmp_path):
    """Its answer is thrown away and its connection aborted."""

    async def big(request):
        return Response(bytes(32 << 20))

    limits = RequestLimits(write_seconds=0.5, body_rate=1 << 30)
    routes = [Route("/big", big)]
    with running(tmp_path, both_ports(routes=routes), limits=limits) as server, connect(server) as connection:
        connection.sendall(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(10) == b"HTTP/1.1 2"
        (held,) = _connections(server)
        assert held.transport.get_write_buffer_size() > 1 << 20
        deadline = time.perf_counter() + 5
        while _connections(server) and time.perf_counter() < deadline:
            time.sleep(0.05)
        assert not _connections(server)


def _connections(server):
    return list(server.frontends[0]._server.server_state.connections)


def test_a_client_that_goes_away_takes_its_request_back(server):
    def count():
        (found,) = server.do(_statistics(server))
        return found.pending

    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(post(GOOD))
    deadline = time.perf_counter() + 5
    while count() and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert count() == 0


async def _statistics(server):
    return server.server.statistics("scale")


def test_bodies_of_all_requests_together(server):
    """Each is within its limit; the one that would be too many together is told to come back, and the next is not."""
    part = post(b" " * ((1 << 20) - 1), length=1 << 20)
    held = [connect(server) for _ in range(4)]
    try:
        for connection in held:
            connection.sendall(part)
        codes = [status(read_all(connection)) for connection in held]
        assert codes.count(503) == 1 and codes.count(408) == 3
    finally:
        for connection in held:
            connection.close()
    assert server.service.held.held == 0


@pytest.mark.parametrize("place", [0, 1])
def test_what_cannot_be_read_is_told_to_whoever_watches(server, place):
    before, ENDS.reasons[:] = ENDS.received_, []
    if place == 0:
        assert status(ask(server, post(b"[]"))) == 400
    else:
        with grpc.insecure_channel(server.address(1)) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (
                code_of(stub.ModelInfer, infer_request(raw_input_contents=[b"1"])) is grpc.StatusCode.INVALID_ARGUMENT
            )
    assert [("http", "grpc")[place], "scale", "invalid"] in [list(reason) for reason in ENDS.reasons]
    assert ENDS.received_ == before + 1


# ---------------------------------------------------------------- gRPC


@pytest.fixture
def stub(server):
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(server.address(1), options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def code_of(call, *arguments, **named):
    with pytest.raises(grpc.RpcError) as found:
        call(*arguments, **named)
    return found.value.code()


def infer_request(**fields):
    request = service_pb2.ModelInferRequest(model_name="scale", **fields)
    return request


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_messages_above_the_limit(stub, compression):
    request = infer_request(raw_input_contents=[bytes(64 << 20)])
    assert code_of(stub.ModelInfer, request, compression=compression) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (infer_request(raw_input_contents=[b""] * 100_000), "fields"),
        (infer_request(outputs=[{"name": str(n)} for n in range(50_000)]), "fields"),
        (infer_request(outputs=[{"name": str(n)} for n in range(1_100)]), "1100 outputs"),
        (infer_request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1 << 62, 1 << 62]}]), "elements"),
        (infer_request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1] * 1000}]), "rank 1000"),
        (infer_request(inputs=[{"name": "x", "datatype": "FP32", "shape": [-1]}]), "from 0 on"),
        (infer_request(inputs=[{"name": "x", "datatype": "FP33", "shape": [1]}]), "unknown datatype"),
        (infer_request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1]}]), "has 1 values, got 0"),
        (infer_request(inputs=[{"name": "x", "datatype": "FP16", "shape": [1]}]), "raw_input_contents alone"),
        (
            infer_request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1], "contents": {"int_contents": [1]}}]),
            "not in int_contents",
        ),
        (
            infer_request(
                inputs=[{"name": "x", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [999]}}]
            ),
            "out of the range",
        ),
        (
            infer_request(
                inputs=[{"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}],
                raw_input_contents=[b"1234"],
            ),
            "beside raw_input_contents",
        ),
        (infer_request(raw_input_contents=[b"1234"]), "belong to no input"),
        (
            infer_request(
                inputs=[
                    {"name": "x", "datatype": "FP32", "shape": [30_000], "contents": {"fp32_contents": [1.0] * 30_000}}
                ]
            ),
            "bytes of message",
        ),
        (infer_request(parameters={"priority": {"string_param": "1"}}), "priority must be"),
        (infer_request(parameters={"timeout": {"int64_param": -1}}), "timeout must be"),
        (infer_request(parameters={"empty": {}}), "has no value"),
    ],
)
def test_what_grpc_refuses(stub, request_, says):
    with pytest.raises(grpc.RpcError) as found:
        stub.ModelInfer(request_)
    assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in found.value.details()


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata"])
def test_messages_that_do_not_come(server, method):
    """Several calls that send nothing end at the limit; one that takes half as long is answered."""
    ended = threading.Event()

    def messages(wait, *then):
        (ended.wait if wait is None else time.sleep)(wait)
        yield from then

    kind = {"ModelInfer": infer_request, "ModelMetadata": lambda: service_pb2.ModelMetadataRequest(name="scale")}
    message = kind[method]().SerializeToString()
    ENDS.reasons[:] = []
    with grpc.insecure_channel(server.address(1)) as channel:
        call = channel.stream_unary(f"/inference.GRPCInferenceService/{method}")
        start = time.perf_counter()
        silent = [call.future(messages(None), timeout=10) for _ in range(3)]
        slow = call.future(messages(0.2, message), timeout=10)
        assert [each.code() for each in silent] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 3
        assert 0.35 < time.perf_counter() - start < 5
        assert all("did not come within 0.4 s" in each.details() for each in silent)
        # It has no inputs, and says so; it was read.
        assert slow.code() is (grpc.StatusCode.OK if method == "ModelMetadata" else grpc.StatusCode.INVALID_ARGUMENT)
        ended.set()
    if method == "ModelInfer":
        assert sorted(ENDS.reasons) == [("grpc", "", "invalid")] * 3 + [("grpc", "scale", "invalid")]


def test_a_call_without_a_message(server):
    with grpc.insecure_channel(server.address(1)) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as found:
            call(iter(()))
    assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message" in found.value.details()


def test_metadata_above_the_limit(stub):
    code = code_of(stub.ServerLive, service_pb2.ServerLiveRequest(), metadata=[("x", "a" * 20_000)])
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bytes_that_are_no_message(server):
    service = "/inference.GRPCInferenceService/"
    with grpc.insecure_channel(server.address(1)) as channel:
        for method in ("ModelInfer", "ModelMetadata", "RepositoryIndex"):
            call = channel.unary_unary(service + method, request_serializer=None, response_deserializer=None)
            for data in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a", b"\x0b" * 9, b"\x3a\x05abc"):
                assert code_of(call, data) is grpc.StatusCode.INVALID_ARGUMENT, (method, data)
        call = channel.unary_unary(service + "Nothing", request_serializer=None, response_deserializer=None)
        assert code_of(call, b"") is grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_that_has_passed_is_not_run():
    message = infer_reader(LIMITS)(infer_request().SerializeToString())
    for deadline, timeout in ((5.0, 5.0), (None, None)):
        call = decode_request(message, **DECODING, deadline=deadline)
        assert call.request.timeout == timeout
    for deadline in (0.0, -3.0):
        with pytest.raises(DeadlineError, match="was over"):
            decode_request(message, **DECODING, deadline=deadline)


def test_many_clients_at_once(server):
    """Threads of both protocols, right answers to each."""
    wrong = []

    def talk(number):
        kind, place = (tritonclient.http, 0) if number % 2 else (tritonclient.grpc, 1)
        with kind.InferenceServerClient(server.address(place)) as client:
            for step in range(20):
                array = np.full((1 + step % 4, 3), number * 100 + step, np.float32)
                x = kind.InferInput("x", list(array.shape), "FP32").set_data_from_numpy(array)
                found = client.infer("scale", [x]).as_numpy("y")
                if not np.array_equal(found, array * 2 + 1):
                    wrong.append((number, step))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
