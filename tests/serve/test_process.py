"""`graphc serve` as a process: it starts, answers, ends when it is told to, and says what stops it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper

import graphc
from tests.serve.conftest import Package, Repository
from tests.serve.lively import put


class Process:
    """A server that has said where it listens."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.lines: list[str] = []
        assert popen.stderr is not None
        for line in popen.stderr:
            self.lines.append(line)
            if found := re.search(r"ready: http://127\.0\.0\.1:(\d+), http://127\.0\.0\.1:(\d+)/metrics", line):
                self.port, self.metrics_port = int(found[1]), int(found[2])
                break
        else:
            raise AssertionError("".join(self.lines))
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as stream:
            self.lines += stream

    def end(self) -> str:
        """Waits for its end; answers all that it said."""
        self._reading.join(60)
        return "".join(self.lines)

    def waiting(self, model: str) -> int:
        """Requests for a model that wait, as it tells whoever watches."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as response:
            text = response.read().decode()
        found = re.search(rf'^graphc_queue_depth{{model="{model}".*}} (\d+)', text, re.MULTILINE)
        return int(found[1]) if found else 0

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = response.read()
            return response.status, json.loads(data) if data else None

    def infer(self, rows: list[list[float]], model: str = "scale") -> list[float]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 3], "data": rows}
        status, answer = self.ask("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})
        assert status == 200, answer
        data: list[float] = answer["outputs"][0]["data"]
        return data


def command(root: Path, *arguments: str) -> list[str]:
    ports = ("--http-port", "0", "--no-grpc", "--metrics-port", "0")
    return [sys.executable, "-m", "graphc", "serve", str(root), *ports, *arguments]


@contextlib.contextmanager
def started(root: Path, *arguments: str) -> Iterator[Process]:
    popen = subprocess.Popen(command(root, *arguments), stderr=subprocess.PIPE, text=True)
    server = None
    try:
        server = Process(popen)
        yield server
    finally:
        popen.kill()
        popen.wait()
        if server is not None:
            server.end()


def test_it_serves_follows_the_repository_and_ends_with_0(repository: Repository, package: Package) -> None:
    root = repository(scale={1: 2.0})
    with started(root, "--poll-seconds", "0.05", "--slo-ms", "5000") as server:
        assert server.infer([[1, 2, 3]]) == [3, 5, 7]
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        put(package(3.0), root / "scale/2")
        for _ in range(500):
            if server.infer([[1, 2, 3]]) == [4, 7, 10]:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the new version was not served")
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(20) == 0
        assert server.end().splitlines()[-1].endswith("stopped")
        with pytest.raises(ConnectionError):
            server.ask("GET", "/v2/health/live")


@pytest.fixture(scope="module")
def slow_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x to the power of 2²⁰, by squaring, for matrices of 1024 × 1024: a good while."""
    folder = tmp_path_factory.mktemp("slow")
    names = ["x", *(f"x{n}" for n in range(19)), "y"]
    nodes = [helper.make_node("MatMul", [a, a], [b], b) for a, b in itertools.pairwise(names)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024, 1024]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "slow", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, folder / "slow.onnx")
    graphc.compile(folder / "slow.onnx", output=folder / "slow.graphc").close()
    return folder / "slow.graphc"


def test_what_it_has_accepted_is_answered_before_it_ends(repository: Repository, slow_package: Path) -> None:
    root = repository(scale={1: 2.0})
    put(slow_package, root / "slow/1")
    x = np.diag(np.where(np.arange(1024) % 2, 1, -1).astype(np.float32))
    with started(root) as server:
        answers: list[Any] = []

        def ask() -> None:
            with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.port}")) as client:
                tensor = triton.InferInput("x", list(x.shape), "FP32")
                tensor.set_data_from_numpy(x)
                answers.append(client.infer("slow", [tensor]).as_numpy("y"))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        while server.waiting("slow") < 2:
            time.sleep(0.01)
        assert not answers
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(60) == 0
        for thread in asking:
            thread.join(10)
        assert len(answers) == 3
        for y in answers:
            np.testing.assert_array_equal(y, np.eye(1024))


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_second_signal_ends_it_at_once(repository: Repository, slow_package: Path, pause: float) -> None:
    root = repository()
    put(slow_package, root / "slow/1")
    with started(root, "--grace", "600") as server, socket.create_connection(("127.0.0.1", server.port)) as idle:
        idle.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
        server.popen.send_signal(signal.SIGINT)
        time.sleep(pause)
        assert server.popen.poll() is None
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(20) == 0
        assert "Traceback" not in server.end()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{root}/nowhere"], 1, "cannot read the repository"),
        (["{root}/empty", "--mode", "none"], 1, "there is no model in"),
        (["{root}/bad", "--exit-on-error"], 1, "scale/1 was not loaded: .*model.graphc"),
        (["{root}/empty", "--mode", "explicit", "--load-model", "x"], 1, "the repository has no model 'x'"),
        (["{root}/empty", "--load-model", "x"], 1, "--load-model is for --mode explicit"),
        (["{root}/empty", "--http-port", "{taken}"], 1, "graphc serve: error: .*{taken}"),
        (["{root}/empty", "--slo-ms", "-1"], 2, "not a positive number"),
        (["{root}/empty", "--devices", "4096"], 1, "4096 devices"),
    ],
)
def test_what_stops_it_from_starting_is_one_message(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad/scale/1").mkdir(parents=True)
    (tmp_path / "bad/scale/1/model.graphc").write_bytes(b"PK\x03\x04")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"root": str(tmp_path), "taken": str(taken.getsockname()[1])}
        root, *rest = [argument.format(**names) for argument in arguments]
        result = subprocess.run(command(Path(root), *rest), capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    assert re.search(message.format(**names), result.stderr)
    assert "Traceback" not in result.stderr
