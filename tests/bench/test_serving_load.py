"""The load generator hides nothing: a stall is seen by all who were due in it, and every request has an outcome."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.serving import load
from bench.serving.generator import Limits, Tally, constant, keep_busy, offer, quantiles, schedule
from bench.serving.senders import (
    Body,
    Expected,
    GrpcSender,
    HttpSender,
    Same,
    grpc_bodies,
    grpc_outputs,
    json_bodies,
    json_outputs,
    upload_bodies,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def under_load(handler: Handler, drive: Callable[[str], Awaitable[Tally]]) -> Tally:
    """Serves a handler at an address, and drives a load against it."""

    async def run() -> Tally:
        application = web.Application()
        application.router.add_post("/", handler)
        async with TestServer(application) as server:
            return await drive(str(server.make_url("/")))

    return asyncio.run(run())


def test_a_stall_is_seen_by_every_request_that_was_due_in_it() -> None:
    begin: list[float] = []

    async def stalls(request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        begin.append(now)
        into = now - begin[0]
        if 0.2 <= into < 0.6:
            await asyncio.sleep(0.6 - into)
        return web.Response(body=b"{}")

    # One connection: while it stalls nothing else is even sent, and a closed loop would see one slow request.
    tally = under_load(
        stalls, lambda url: offer(HttpSender(url, [Body(b"")], connections=1), list(constant(100, 1.0)), Limits())
    )
    assert tally.outcomes == {"ok": 100}
    assert sum(latency > 0.1 for latency in tally.latencies) >= 28
    assert max(tally.latencies) >= 0.35


def test_every_request_has_the_outcome_that_it_had() -> None:
    async def misbehaves(request: web.Request) -> web.StreamResponse:
        match await request.text():
            case "refused":
                raise web.HTTPServiceUnavailable
            case "cut":
                assert request.transport is not None
                request.transport.abort()
            case "hangs":
                await asyncio.sleep(5)
            case "wrong":
                return web.json_response([2.0])
        return web.json_response([1.0])

    bodies = [Body(text.encode()) for text in ("right", "refused", "cut", "hangs", "wrong")]
    sender = HttpSender("", bodies, check=lambda which, answer: answer == b"[1.0]")

    def drive(url: str) -> Awaitable[Tally]:
        sender.url = url
        return offer(sender, list(constant(200, 0.2)), Limits(timeout=1.0))

    tally = under_load(misbehaves, drive)
    assert tally.outcomes == {"ok": 8, "503": 8, "connection": 8, "timeout": 8, "wrong": 8}
    assert len(tally.latencies) == 8
    assert tally.report().offered == 40


def test_what_is_beyond_the_bound_in_flight_is_counted_too() -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.4)
        return web.Response(body=b"{}")

    tally = under_load(
        slow, lambda url: offer(HttpSender(url, [Body(b"")]), list(constant(200, 0.1)), Limits(in_flight=5))
    )
    assert tally.outcomes == {"ok": 5, "unsent": 15}


def test_nobody_listens() -> None:
    tally = asyncio.run(offer(HttpSender("http://127.0.0.1:9", [Body(b"")]), [0.0, 0.0]))
    assert tally.outcomes == {"connection": 2}
    assert tally.report().latency == {}


def test_a_closed_loop_has_as_many_in_flight_as_clients() -> None:
    now, most = 0, 0

    async def counts(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return web.Response(body=b"{}")

    tally = under_load(counts, lambda url: keep_busy(HttpSender(url, [Body(b"")]), clients=6, seconds=0.3))
    assert most == 6
    assert set(tally.outcomes) == {"ok"}


def test_schedules_are_fixed_in_advance() -> None:
    assert schedule("poisson", 100, 2.0, 7) == schedule("poisson", 100, 2.0, 7)
    assert schedule("constant", 4, 1.0, 7) == [0, 0.25, 0.5, 0.75]
    assert schedule("poisson", 100, 2.0, 8) != schedule("poisson", 100, 2.0, 7)


def test_quantiles_are_values_that_occurred() -> None:
    found = quantiles(list(range(1, 1001)))
    assert found == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    assert quantiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0, "p99.9": 3.0, "max": 3.0}


def test_answers_to_one_request_must_be_the_same_but_for_rounding() -> None:
    same = Same()
    assert same(0, b'{"label": 90, "scores": [0.5, 0.25]}')
    assert same(0, b'{"label": 90, "scores": [0.5000001, 0.25]}')
    assert not same(0, b'{"label": 180, "scores": [0.5, 0.25]}')
    assert not same(0, b'{"label": 90, "scores": [0.6, 0.25]}')
    assert same(1, b'{"label": 180, "scores": [0.5, 0.25]}')


def test_an_upload_is_a_form_that_a_server_reads() -> None:
    (body,) = upload_bodies([("page.jpg", b"\xff\xd8 bytes \r\n--x")])
    seen: list[tuple[str, str, bytes]] = []

    async def reads(request: web.Request) -> web.Response:
        field = (await request.post())["file"]
        assert isinstance(field, web.FileField)
        seen.append((field.filename, field.content_type, field.file.read()))
        return web.Response(body=b"{}")

    assert under_load(reads, lambda url: offer(HttpSender(url, [body]), [0.0])).outcomes == {"ok": 1}
    assert seen == [("page.jpg", "image/jpeg", b"\xff\xd8 bytes \r\n--x")]


class Doubles(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with twice its input, of a float32 vector `x`."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_name != "doubles":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        (tensor,) = request.inputs
        x = np.frombuffer(request.raw_input_contents[0], np.float32)
        answer = service_pb2.ModelInferResponse(model_name="doubles")
        answer.outputs.add(name="y", datatype="FP32", shape=tensor.shape)
        answer.raw_output_contents.append((2 * x).tobytes())
        return answer

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ModelMetadataResponse(name="doubles")
        answer.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
        return answer


async def doubles(request: web.Request) -> web.Response:
    """The same over HTTP, in JSON or binary."""
    body = await request.read()
    length = request.headers.get("Inference-Header-Content-Length")
    (tensor,) = json.loads(body[: int(length)] if length else body)["inputs"]
    output = {"name": "y", "datatype": "FP32", "shape": tensor["shape"]}
    if length is None:
        return web.json_response({"outputs": [{**output, "data": [2 * x for x in tensor["data"]]}]})
    data = (2 * np.frombuffer(body[int(length) :], np.float32)).tobytes()
    header = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": len(data)}}]}).encode()
    return web.Response(body=header + data, headers={"Inference-Header-Content-Length": str(len(header))})


async def describes(request: web.Request) -> web.Response:
    return web.json_response({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]})


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """Addresses of HTTP and gRPC."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> tuple[TestServer, Any, int]:
        application = web.Application()
        application.router.add_post("/v2/models/doubles/infer", doubles)
        application.router.add_get("/v2/models/doubles", describes)
        http = TestServer(application)
        await http.start_server()
        rpc = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Doubles(), rpc)
        port = rpc.add_insecure_port("127.0.0.1:0")
        await rpc.start()
        return http, rpc, port

    http, rpc, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield f"http://127.0.0.1:{http.port}", f"127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(rpc.stop(0), loop).result()
    asyncio.run_coroutine_threadsafe(http.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)


@pytest.mark.parametrize("kind", ["binary", "json", "grpc"])
def test_the_command_asks_a_server_what_its_model_wants(
    server: tuple[str, str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = server[kind == "grpc"]
    command = [address, "--model", "doubles", "--kind", kind, "--dims", "x=3,4", "--json"]
    assert load.main([*command, "--rate", "100", "--seconds", "0.3", "--arrivals", "constant"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcomes"] == {"ok": 30}
    assert set(report["latency"]) == {"p50", "p90", "p99", "p99.9", "max"}
    assert report["cpu_share"] > 0


def test_answers_are_held_against_what_is_known(server: tuple[str, str]) -> None:
    requests = [{"x": np.full((1, 4), n, np.float32)} for n in range(3)]
    right = [{"y": 2 * inputs["x"]} for inputs in requests]
    wrong = [{"y": 2 * inputs["x"] + (n == 1)} for n, inputs in enumerate(requests)]
    url = f"{server[0]}/v2/models/doubles/infer"

    def outcomes(sender: HttpSender | GrpcSender) -> dict[str, int]:
        return dict(asyncio.run(offer(sender, [0.0] * 9)).outcomes)

    assert outcomes(HttpSender(url, json_bodies(requests), check=Expected(right, json_outputs))) == {"ok": 9}
    assert outcomes(HttpSender(url, json_bodies(requests), check=Expected(wrong, json_outputs))) == {
        "ok": 6,
        "wrong": 3,
    }
    bodies = grpc_bodies("doubles", requests)
    assert outcomes(GrpcSender(server[1], bodies, check=Expected(right, grpc_outputs))) == {"ok": 9}
    assert outcomes(GrpcSender(server[1], bodies, check=Expected(wrong, grpc_outputs))) == {"ok": 6, "wrong": 3}
    assert outcomes(GrpcSender(server[1], grpc_bodies("other", requests))) == {"NOT_FOUND": 9}
    assert outcomes(GrpcSender("127.0.0.1:9", bodies)) == {"UNAVAILABLE": 9}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9", "--model", "m"], "Connection refused"),
        (["127.0.0.1:9", "--model", "m", "--kind", "grpc"], "127.0.0.1:9"),
        (["127.0.0.1:9", "--model", "m"], "no address of an HTTP server"),
        (["http://127.0.0.1:9"], "--model is missing"),
        (["http://127.0.0.1:9", "--kind", "upload"], "--file is missing"),
        (["http://127.0.0.1:9", "--file", "/nowhere/page.jpg"], "page.jpg"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load.main([*arguments, "--rate", "1", "--seconds", "1"])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
