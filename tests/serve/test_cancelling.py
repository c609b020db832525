"""A request that its client gave up is taken back: the server's task for it is cancelled, in every protocol."""

from __future__ import annotations

import asyncio
import socket
import time

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.serve.running import both_ports, running
from tests.serve.test_limits import GOOD, post

X = np.zeros((1, 3), np.float32)


class Waiting:
    """An `infer` that never answers, and counts."""

    def __init__(self):
        self.inside = self.cancelled = 0

    async def __call__(self, request):
        self.inside += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
def server(tmp_path, monkeypatch):
    with running(tmp_path, both_ports(), grace=0.5) as found:
        waiting = Waiting()
        monkeypatch.setattr(found.server, "infer", waiting)
        found.waiting = waiting
        yield found


def until(condition):
    deadline = time.perf_counter() + 5
    while not condition() and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert condition()


def tensors():
    return [tritonclient.grpc.InferInput("x", [1, 3], "FP32").set_data_from_numpy(X)]


def test_http_client_that_goes_away(server):
    connections = [socket.create_connection(("127.0.0.1", server.port())) for _ in range(3)]
    for connection in connections:
        connection.sendall(post(GOOD))
    until(lambda: server.waiting.inside == 3)
    assert server.waiting.cancelled == 0
    for connection in connections:
        connection.close()
    until(lambda: server.waiting.cancelled == 3)
    assert server.service.held.held == 0


def test_grpc_call_that_is_cancelled(server):
    with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
        call = client.async_infer("scale", tensors(), callback=lambda result, error: None)
        until(lambda: server.waiting.inside == 1)
        call.cancel()
        until(lambda: server.waiting.cancelled == 1)


def test_grpc_call_whose_deadline_passes(server):
    with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
        with pytest.raises(InferenceServerException, match="Deadline"):
            client.infer("scale", tensors(), client_timeout=0.3)
        until(lambda: server.waiting.cancelled == server.waiting.inside)


def test_stream_that_is_cancelled(server):
    limit = server.service.limits.stream_requests
    with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
        client.start_stream(lambda result, error: None)
        for _ in range(limit + 20):
            client.async_stream_infer("scale", tensors())
        # No more are in work than the limit says; the others wait to be read.
        until(lambda: server.waiting.inside == limit)
        time.sleep(0.1)
        assert server.waiting.inside == limit
        client.stop_stream(cancel_requests=True)
        until(lambda: server.waiting.cancelled == limit)
        until(lambda: server.service.held.held == 0)


def test_the_end_waits_no_longer_than_the_grace(tmp_path, monkeypatch):
    with running(tmp_path, both_ports(), grace=0.5) as server:
        waiting = Waiting()
        monkeypatch.setattr(server.server, "infer", waiting)
        with (
            socket.create_connection(("127.0.0.1", server.port())) as connection,
            tritonclient.grpc.InferenceServerClient(server.address(1)) as client,
        ):
            connection.sendall(post(GOOD))
            client.async_infer("scale", tensors(), callback=lambda result, error: None)
            until(lambda: waiting.inside == 2)
            began = time.perf_counter()
            server.do(_stop(server))
            assert time.perf_counter() - began < 5
            assert waiting.cancelled == 2
            assert connection.recv(12) == b"HTTP/1.1 503"


async def _stop(server):
    await asyncio.gather(*(frontend.stop(0.5) for frontend in server.frontends))
