"""Who is let in: tokens, certificates, ports; and what happens to those inside when the server ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from functools import partial

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from graphc.errors import ForbiddenError, ListenError, OptionError, RequestError, UnauthenticatedError
from graphc.serve import Observer
from graphc.serve.grpc import GrpcFrontend
from graphc.serve.http import HttpFrontend
from graphc.serve.protocol.access import Access, Tokens
from graphc.serve.protocol.settings import TraceSettings
from graphc.serve.protocol.tls import Tls
from tests.serve.running import both_ports, running

ALICE, BOB = "a" * 32, "b" * 32
X = np.arange(3, dtype=np.float32).reshape(1, 3)


@pytest.fixture
def root(tmp_path, package):
    (tmp_path / "models" / "scale" / "1").mkdir(parents=True)
    (tmp_path / "models" / "scale" / "1" / "model.graphc").write_bytes(package(2.0).read_bytes())
    return tmp_path / "models"


class Seen(Observer):
    def __init__(self):
        self.clients = []

    def received(self, request):
        self.clients.append(request.client)


def ask(client, module, **options):
    x = module.InferInput("x", [1, 3], "FP32").set_data_from_numpy(X)
    return client.infer("scale", [x], **options).as_numpy("y")


# ---------------------------------------------------------------- tokens


def test_token_files(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# of people\nalice {ALICE}\n\n{BOB}  # no name\n")
    tokens = Tokens.read(path)
    assert tokens.identity(f"Bearer {ALICE}") == "alice"
    assert tokens.identity(f"bearer  {BOB}") == "token 4"
    for header in (
        None,
        "",
        ALICE,
        "Basic abc",
        "Bearer",
        "Bearer ",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        "Bearer \udcff",
    ):
        with pytest.raises(UnauthenticatedError):
            tokens.identity(header)
    for text in ("", "# none\n", "short\n", f"a b {ALICE}\n"):
        path.write_text(text)
        with pytest.raises(OptionError, match="token"):
            Tokens.read(path)
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(OptionError, match="cannot be read"):
            Tokens.read(missing)
    assert ALICE not in repr(Access(tokens))


def test_tokens_open_both_protocols(root):
    access = Access(Tokens({ALICE: "alice"}))
    seen = Seen()
    with running(root, both_ports(access=access), observers=[seen]) as server:
        for place, module in enumerate((tritonclient.http, tritonclient.grpc)):
            with module.InferenceServerClient(server.address(place)) as client:
                # Probes carry no secrets.
                assert client.is_server_live() and client.is_server_ready()
                for headers in ({}, {"authorization": f"Bearer {BOB}"}):
                    for call in (
                        partial(ask, client, module),
                        partial(client.get_model_metadata, "scale"),
                        partial(client.get_model_metadata, "nothing"),
                    ):
                        with pytest.raises(InferenceServerException) as found:
                            call(headers=headers)
                        assert found.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
                mine = {"authorization": f"Bearer {ALICE}", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
                np.testing.assert_array_equal(ask(client, module, headers=mine), X * 2 + 1)
        with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
            told = []
            client.start_stream(lambda result, error: told.append(error))
            with contextlib.suppress(InferenceServerException):
                # The stream may have been refused by now.
                client.async_stream_infer("scale", [])
            client.stop_stream()
            assert "UNAUTHENTICATED" in str(told[0])
        with grpc.insecure_channel(server.address(1)) as channel:
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
    assert [client.identity for client in seen.clients] == ["alice", "alice"]
    assert [client.protocol for client in seen.clients] == ["http", "grpc"]
    assert all(client.address.startswith("127.0.0.1:") for client in seen.clients)
    assert all(client.trace["traceparent"].startswith("00-1111") for client in seen.clients)


# ---------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.private_key_pem.write_to_path(folder / "key.pem")
    for number, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(folder / "server.pem", append=number > 0)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    for name, issuer in (("client", authority), ("stranger", other)):
        issuer.issue_cert(f"{name}@example.org", common_name=name).private_key_and_cert_chain_pem.write_to_path(
            folder / f"{name}.pem"
        )
    return folder


def https(server, certificates, client=None):
    context = ssl.create_default_context(cafile=str(certificates / "authority.pem"))
    if client is not None:
        context.load_cert_chain(certificates / f"{client}.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", server.port(0), context=context, timeout=5)
    x = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": X.ravel().tolist()}
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/scale/infer", json.dumps({"inputs": [x]}))
        return json.loads(connection.getresponse().read())["outputs"][0]["data"]


def grpcs(server, certificates, client=None):
    options = {"ssl": True, "root_certificates": str(certificates / "authority.pem")}
    if client is not None:
        options |= {
            "private_key": str(certificates / f"{client}.pem"),
            "certificate_chain": str(certificates / f"{client}.pem"),
        }
    with tritonclient.grpc.InferenceServerClient(f"localhost:{server.port(1)}", **options) as speaker:
        return ask(speaker, tritonclient.grpc, client_timeout=5).ravel().tolist()


def test_tls(root, certificates):
    tls = Tls(certificates / "server.pem", certificates / "key.pem")
    with running(root, both_ports(tls=tls)) as server:
        assert https(server, certificates) == grpcs(server, certificates) == [1, 3, 5]
        stranger = http.client.HTTPSConnection("127.0.0.1", server.port(0), timeout=5)
        with contextlib.closing(stranger), pytest.raises(ssl.SSLError):
            stranger.request("GET", "/v2")
        plain = http.client.HTTPConnection("127.0.0.1", server.port(0), timeout=5)
        with contextlib.closing(plain), pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.request("GET", "/v2")
            plain.getresponse()


def test_mutual_tls(root, certificates):
    tls = Tls(certificates / "server.pem", certificates / "key.pem", certificates / "authority.pem")
    seen = Seen()
    with running(root, both_ports(tls=tls), observers=[seen]) as server:
        assert https(server, certificates, "client") == grpcs(server, certificates, "client") == [1, 3, 5]
        for client in (None, "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                https(server, certificates, client)
            with pytest.raises(InferenceServerException):
                grpcs(server, certificates, client)
    assert [client.identity for client in seen.clients] == ["client", "client"]


def test_certificates_that_cannot_be_used(root, certificates, tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    for tls in (
        Tls(tmp_path / "nothing.pem", certificates / "key.pem"),
        Tls(tmp_path / "bad.pem", certificates / "key.pem"),
        Tls(certificates / "client.pem", certificates / "key.pem"),
        Tls(certificates / "server.pem", certificates / "key.pem", tmp_path / "bad.pem"),
    ):
        for kind in (HttpFrontend, GrpcFrontend):
            with (
                pytest.raises(ListenError, match="certificates cannot be used"),
                running(root, lambda s, k=kind, t=tls: [k(s, port=0, tls=t)]),
            ):
                pass


# ---------------------------------------------------------------- ports


@pytest.mark.parametrize("kind", [HttpFrontend, GrpcFrontend])
def test_ports_that_cannot_be_listened_on(root, kind):
    with running(root, lambda service: [kind(service, port=0)]) as server:
        for host, port in (("127.0.0.1", server.port()), ("192.0.2.1", 0)):
            with (
                pytest.raises(ListenError, match="cannot listen"),
                running(root, lambda s, h=host, p=port: [kind(s, h, p)]),
            ):
                pass


def test_compressions_of_grpc(root):
    with pytest.raises(OptionError, match="none, deflate, gzip"):
        GrpcFrontend(None, compression="br")
    with (
        running(root, lambda service: [GrpcFrontend(service, port=0, compression="gzip")]) as server,
        tritonclient.grpc.InferenceServerClient(server.address()) as client,
    ):
        np.testing.assert_array_equal(ask(client, tritonclient.grpc), X * 2 + 1)


def test_settings_of_traces():
    settings = TraceSettings(available=True)
    assert settings.sample("m")
    settings.update({"trace_rate": "3"})
    assert sum(settings.sample("m") for _ in range(30)) == 10
    settings.update({"trace_rate": 1, "trace_count": "4"}, "m")
    assert sum(settings.sample("m") for _ in range(30)) == 4
    settings.update({"trace_level": "OFF"}, "n")
    assert not settings.sample("n")
    settings.update({"trace_level": None}, "n")
    assert settings.current("n")["trace_level"] == ["TIMESTAMPS"]
    for key, value in (
        ("trace_rate", "0"),
        ("trace_rate", "x"),
        ("trace_count", -2),
        ("trace_level", "ALL"),
        ("x", 1),
        ("trace_rate", [1, 2]),
    ):
        with pytest.raises(RequestError):
            settings.update({key: value})
    with pytest.raises(ForbiddenError):
        settings.update({"trace_file": "/etc/passwd"})


# ---------------------------------------------------------------- the end


def test_what_is_under_way_is_answered_before_the_end(root):
    """Requests accepted before the end are answered; what comes after is refused, not lost without a word."""
    outcomes = []
    started, stop = threading.Event(), threading.Event()

    def talk(module, address):
        while not stop.is_set():
            try:
                with module.InferenceServerClient(address) as client:
                    while not stop.is_set():
                        outcomes.append(
                            ("right" if np.array_equal(ask(client, module), X * 2 + 1) else "wrong", module)
                        )
                        started.set()
            except InferenceServerException as error:
                outcomes.append((error.status(), module))
                return
            except OSError:
                # Nobody listens any more, or the idle connection was closed as the request was sent.
                outcomes.append(("closed", module))
                return

    with running(root, both_ports()) as server:
        threads = [
            threading.Thread(target=talk, args=(module, server.address(place)))
            for place, module in enumerate((tritonclient.http, tritonclient.grpc))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert started.wait(10)
        time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(10)
    kinds = {kind for kind, _ in outcomes}
    assert "right" in kinds and kinds <= {"right", "closed", "503", "StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"}


def test_health_while_it_ends(root):
    with running(root, both_ports()) as server:
        server.loop.call_soon_threadsafe(server.server.drain)
        time.sleep(0.05)
        with (
            tritonclient.http.InferenceServerClient(server.address(0)) as one,
            tritonclient.grpc.InferenceServerClient(server.address(1)) as two,
        ):
            for client, module in ((one, tritonclient.http), (two, tritonclient.grpc)):
                assert client.is_server_live() and not client.is_server_ready()
                # Who has not heard of it yet is answered still.
                np.testing.assert_array_equal(ask(client, module), X * 2 + 1)
