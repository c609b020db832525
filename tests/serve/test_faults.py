"""What goes wrong around a server: it is killed, clients leave or dawdle, disk and memory are full, clocks jump.

Every answer is held against what it must be; whoever got none was told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from bench.serving.generator import Limits, constant, offer
from bench.serving.processes import graphc_server
from bench.serving.senders import (
    Expected,
    GrpcSender,
    HttpSender,
    Sender,
    grpc_bodies,
    grpc_outputs,
    json_bodies,
    json_outputs,
)
from graphc.serve.observe.watching import Watching
from tests.serve.conftest import Repository
from tests.serve.running import Running, both_ports, running

INPUTS = [{"x": np.full((1 + n % 3, 3), n, np.float32)} for n in range(7)]
ANSWERS = [{"y": 2 * inputs["x"] + 1} for inputs in INPUTS]


def asker(kind: str, http: str, rpc: str, model: str = "scale") -> Sender:
    """A sender whose every answer is held against what it must be."""
    if kind == "grpc":
        return GrpcSender(rpc, grpc_bodies(model, INPUTS), check=Expected(ANSWERS, grpc_outputs))
    url = f"{http}/v2/models/{model}/infer"
    return HttpSender(url, json_bodies(INPUTS), check=Expected(ANSWERS, json_outputs))


def ask(url: str, inputs: dict[str, Any], model: str, name: str = "") -> dict[str, Any]:
    """One request in JSON by the standard library's client."""
    body = {**json.loads(json_bodies([inputs])[0].data), "id": name}
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


# ---------------------------------------------------------------- the server's process


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_killed_server_gives_errors_and_no_wrong_answers(repository: Repository, kind: str) -> None:
    root = repository(scale={1: 2.0})

    async def killed(pid: int, sender: Sender) -> dict[str, int]:
        asyncio.get_running_loop().call_later(0.5, os.kill, pid, signal.SIGKILL)
        return dict((await offer(sender, list(constant(200, 1.0)), Limits(timeout=10))).outcomes)

    with graphc_server(root) as first:
        http, rpc = first.ready["http"], first.ready["grpc"]
        outcomes = asyncio.run(killed(first.pid, asker(kind, http, rpc)))
    assert outcomes.pop("ok") > 0
    assert set(outcomes) <= {"connection", "UNAVAILABLE"}
    assert sum(outcomes.values()) > 0

    ports = ["--http-port", http.rpartition(":")[2], "--grpc-port", rpc.rpartition(":")[2]]
    with graphc_server(root, *ports):
        again = asyncio.run(offer(asker(kind, http, rpc), list(constant(100, 0.3))))
    assert again.outcomes == {"ok": 30}


def test_a_disk_that_is_full_for_the_audit_log_withholds_answers_until_there_is_room(
    repository: Repository, tmp_path: Path
) -> None:
    log = tmp_path / "audit.jsonl"
    answered: list[str] = []
    with graphc_server(repository(scale={1: 2.0}), "--audit-log", str(log)) as server:

        def send(name: str) -> None:
            answer = ask(server.ready["http"], {"x": np.ones((1, 3), np.float32)}, "scale", name)
            assert answer["outputs"][0]["data"] == [3, 3, 3]
            answered.append(name)

        for number in range(5):
            send(f"before-{number}")
        # What a file may have at most is what a full disk does to it: writes are cut short, then fail.
        limits = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 100, limits[1]))
        for number in range(10):
            with pytest.raises(HTTPError) as refused:
                send(f"full-{number}")
            with refused.value:
                assert refused.value.code == 503
                assert int(refused.value.headers["Retry-After"]) >= 1
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, limits)
        time.sleep(1.1)
        send("after")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["id"] for line in lines if line["event"] == "request"] == answered
    assert [line["lost"] for line in lines if line["event"] == "gap"] == [1]  # the others were not even begun


def test_a_body_beyond_the_memory_is_an_error_of_its_request_alone(repository: Repository) -> None:
    with graphc_server(repository(scale={1: 2.0})) as server:
        one = {"x": np.ones((1, 3), np.float32)}
        ask(server.ready["http"], one, "scale")
        size = int(Path(f"/proc/{server.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(server.pid, resource.RLIMIT_AS, (size + (48 << 20), resource.RLIM_INFINITY))
        url = f"{server.ready['http']}/v2/models/scale/infer"
        with pytest.raises((HTTPError, URLError, ConnectionError)) as refused:
            urllib.request.urlopen(urllib.request.Request(url, b" " * (200 << 20)), timeout=60)
        if isinstance(refused.value, HTTPError):
            with refused.value:
                assert refused.value.code in (400, 413, 503)
        assert ask(server.ready["http"], one, "scale")["outputs"][0]["data"] == [3, 3, 3]


# ---------------------------------------------------------------- clients


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two models: y = x · w sixty times, which takes a while; and y = x + 1 for 16 MB."""
    folder = tmp_path_factory.mktemp("slow")
    rng = np.random.default_rng(1)
    w = numpy_helper.from_array((rng.standard_normal((1024, 1024)) / 32).astype(np.float32), "w")
    shape = [256, 1024]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y60"))
    nodes = [helper.make_node("MatMul", [f"y{n}" if n else "x", "w"], [f"y{n + 1}"]) for n in range(60)]
    _compile(helper.make_graph(nodes, "slow", [x], [y], [w]), folder, "slow")
    one = numpy_helper.from_array(np.array([1], np.float32), "one")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4_000_000]) for name in "xy")
    _compile(
        helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "large", [x], [y], [one]), folder, "large"
    )
    return folder / "models"


def _compile(graph: onnx.GraphProto, folder: Path, name: str) -> None:
    path = folder / "models" / name / "1" / "model.graphc"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    graphc.compile(str(folder / "m.onnx"), output=path)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[Running, Callable[[str, str], float]]]:
    """A server in this process, and its counts: `count(model, outcome)`."""
    watching = Watching()
    with running(root, both_ports(), observers=watching.observers) as server:

        def count(model: str, outcome: str) -> float:
            labels = {"model": model, "version": "1", "outcome": outcome}
            return watching.metrics.registry.get_sample_value("graphc_requests_total", labels) or 0.0

        yield server, count


def binary_request(model: str, x: np.ndarray[Any, Any]) -> bytes:
    """A whole request over HTTP, its tensor and that of its answer binary."""
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(header)}\r\n"
        f"Content-Length: {len(header) + x.nbytes}\r\n\r\n"
    )
    return head.encode() + header + x.tobytes()


def test_requests_whose_clients_went_away_are_not_run(slow: Path) -> None:
    data = binary_request("slow", np.zeros((256, 1024), np.float32))
    with serving(slow) as (server, count):
        clients = []
        for _ in range(40):
            client = socket.create_connection(("127.0.0.1", server.port()))
            client.sendall(data)
            clients.append(client)
        until(lambda: server.server.statistics("slow")[0].pending >= 30, "requests wait")
        for client in clients:
            client.close()
        until(lambda: not server.server.statistics("slow")[0].pending, "nothing waits")
        assert count("slow", "cancelled") >= 25
        until(lambda: count("slow", "success") + count("slow", "cancelled") >= 30, "all have ended")
        assert server.server.statistics("slow")[0].calls <= 10


def test_calls_that_were_cancelled_over_grpc_are_not_run(slow: Path) -> None:
    (body,) = grpc_bodies("slow", [{"x": np.zeros((256, 1024), np.float32)}])
    with serving(slow) as (server, count), grpc.insecure_channel(server.address(1)) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [infer.future(body.data) for _ in range(40)]
        until(lambda: server.server.statistics("slow")[0].pending >= 30, "calls wait")
        for call in calls:
            call.cancel()
        until(lambda: not server.server.statistics("slow")[0].pending, "nothing waits")
        assert count("slow", "cancelled") >= 25
        until(lambda: count("slow", "success") + count("slow", "cancelled") >= 30, "all have ended")
        assert server.server.statistics("slow")[0].calls <= 10


def test_clients_that_leave_in_the_middle_take_nothing_with_them(slow: Path) -> None:
    x = np.arange(4_000_000, dtype=np.float32)
    whole = binary_request("large", x)
    body = whole.index(b"\r\n\r\n") + 4
    with serving(slow) as (server, count):

        def left(sent: int, read: int) -> None:
            with socket.create_connection(("127.0.0.1", server.port())) as client:
                client.sendall(whole[:sent])
                if read:
                    assert client.recv(read).startswith(b"HTTP/1.1 200")

        for sent in (10, body, body + 7, len(whole) // 2, len(whole) - 1):
            left(sent, 0)
        assert count("large", "success") == 0
        for _ in range(5):
            left(len(whole), 512)
        until(lambda: count("large", "success") == 5, "all five were answered")
        # The next one gets all of its answer, and it is right.
        with socket.create_connection(("127.0.0.1", server.port())) as client:
            client.sendall(whole.replace(b"\r\nHost: x", b"\r\nHost: x\r\nConnection: close", 1))
            answer = b"".join(iter(lambda: client.recv(1 << 20), b""))
        np.testing.assert_array_equal(np.frombuffer(answer[-x.nbytes :], np.float32), x + 1)


def test_slow_clients_keep_nobody_waiting(repository: Repository) -> None:
    with serving(repository(scale={1: 2.0})) as (server, count), contextlib.ExitStack() as stack:
        slow_ones = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port()))) for _ in range(100)]
        request = b"POST /v2/models/scale/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        stop = False

        async def dribble() -> None:
            for number in range(len(request)):
                for client in slow_ones:
                    client.send(request[number : number + 1])
                if stop:
                    return
                await asyncio.sleep(0.02)

        async def both() -> dict[str, int]:
            nonlocal stop
            dribbling = asyncio.create_task(dribble())
            tally = await offer(asker("http", f"http://{server.address()}", ""), list(constant(100, 1.0)))
            stop = True
            await dribbling
            return dict(tally.outcomes)

        assert asyncio.run(both()) == {"ok": 100}
        assert count("scale", "success") == 100


# ---------------------------------------------------------------- time


def test_a_clock_that_jumps_changes_nothing(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_ns = time.time, time.time_ns
    jumps = iter(range(1 << 30))

    def jump() -> int:
        """A day forwards, a day backwards."""
        return (86_400, -86_400)[next(jumps) % 2]

    with serving(repository(scale={1: 2.0})) as (server, count):
        monkeypatch.setattr(time, "time", lambda: real() + jump())
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + jump() * 1_000_000_000)
        for kind in ("http", "grpc"):
            sender = asker(kind, f"http://{server.address()}", server.address(1))
            assert asyncio.run(offer(sender, list(constant(100, 0.5)))).outcomes == {"ok": 50}
        monkeypatch.undo()
        (found,) = server.server.statistics("scale")
        assert count("scale", "success") == found.success.count == 100
        for total in (found.success, found.queue, found.infer):
            assert 0 <= total.ns < 60e9
