"""The ports of `graphc serve`, and a process of it from start to end."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme

import graphc
from graphc.cli import serve
from graphc.cli.serve_ports import make_frontends
from graphc.errors import OptionError
from graphc.serve import ModelServer, ServerSettings
from graphc.serve.protocol.settings import TraceSettings
from tests.serve.conftest import scale_model

TOKEN = "t" * 32


def frontends(tmp_path, *arguments):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    options = parser.parse_args([str(tmp_path), *map(str, arguments)])
    return make_frontends(ModelServer(ServerSettings(tmp_path)), TraceSettings(), options)


def test_which_ports_there_are(tmp_path):
    def kinds(*arguments):
        return [(type(found).__name__, found.port) for found in frontends(tmp_path, *arguments)]

    assert kinds() == [("HttpFrontend", 8000), ("GrpcFrontend", 8001)]
    assert kinds("--no-grpc", "--http-port", "9000") == [("HttpFrontend", 9000)]
    assert kinds("--no-http", "--admin-port", "1", "--admin-grpc-port", "2") == [
        ("GrpcFrontend", 8001),
        ("HttpFrontend", 1),
        ("GrpcFrontend", 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tls-certificate", "a.pem"], "belong together"),
        (["--tls-key", "a.pem"], "belong together"),
        (["--tls-client-authority", "a.pem"], "a server that speaks TLS"),
        (["--token-file", "nothing"], "cannot be read"),
        (["--admin-token-file", "nothing"], "cannot be read"),
    ],
)
def test_options_that_do_not_go(tmp_path, arguments, says):
    with pytest.raises(OptionError, match=says):
        frontends(tmp_path, *arguments)


def test_a_port_for_everybody_is_said_aloud(tmp_path, caplog):
    (tmp_path / "tokens").write_text(TOKEN)
    with caplog.at_level(logging.WARNING):
        frontends(tmp_path, "--host", "0.0.0.0", "--token-file", tmp_path / "tokens")
        frontends(tmp_path, "--host", "localhost", "--admin-host", "::1")
        assert not caplog.records
        frontends(tmp_path, "--host", "0.0.0.0")
    assert "whoever reaches 0.0.0.0 may ask" in caplog.text


def test_a_process_with_everything(tmp_path):
    """TLS, tokens and an admin port, from the command to SIGTERM."""
    onnx.save(scale_model(2.0), tmp_path / "scale.onnx")
    folder = tmp_path / "models" / "scale" / "1"
    folder.mkdir(parents=True)
    graphc.compile(str(tmp_path / "scale.onnx"), output=folder / "model.graphc", dims={"batch": [1, 2]})
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    (tmp_path / "tokens").write_text(TOKEN)
    command = [
        *(sys.executable, "-m", "graphc", "serve", tmp_path / "models", "--mode", "explicit", "--load-model", "scale"),
        *(
            "--http-port",
            0,
            "--grpc-port",
            0,
            "--admin-grpc-port",
            0,
            "--no-metrics",
            "--token-file",
            tmp_path / "tokens",
        ),
        *("--tls-certificate", tmp_path / "server.pem", "--tls-key", tmp_path / "key.pem"),
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "ready: " in line)
        web, call, admin = (place.strip().rpartition(":")[2] for place in line.partition("ready: ")[2].split(","))
        assert "https://" in line and "grpcs://" in line
        headers = {"authorization": f"Bearer {TOKEN}"}
        secure = {"ssl": True, "root_certificates": str(tmp_path / "authority.pem")}
        x = np.ones((1, 3), np.float32)
        with tritonclient.grpc.InferenceServerClient(f"localhost:{call}", **secure) as client:
            tensor = tritonclient.grpc.InferInput("x", [1, 3], "FP32").set_data_from_numpy(x)
            np.testing.assert_array_equal(client.infer("scale", [tensor], headers=headers).as_numpy("y"), x * 2 + 1)
        with tritonclient.grpc.InferenceServerClient(f"localhost:{admin}", **secure) as client:
            client.unload_model("scale", headers=headers)
            client.load_model("scale", headers=headers)
        options = {"ca_certs": str(tmp_path / "authority.pem")}
        with tritonclient.http.InferenceServerClient(f"localhost:{web}", ssl=True, ssl_options=options) as client:
            tensor = tritonclient.http.InferInput("x", [1, 3], "FP32").set_data_from_numpy(x)
            np.testing.assert_array_equal(client.infer("scale", [tensor], headers=headers).as_numpy("y"), x * 2 + 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
