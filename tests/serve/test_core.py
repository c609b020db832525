"""The server without a protocol: requests, versions, what it tells of itself."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphc
from graphc.errors import (
    AuditError,
    InputError,
    ModelNotFoundError,
    ModelUnavailableError,
    OptionError,
    RefusedError,
    RequestError,
)
from graphc.serve import InferRequest, InferResponse, ModelServer, ServerSettings
from graphc.serve.observer import Ended, Observer
from tests.serve.conftest import Repository
from tests.serve.lively import put, run, serving, until


def test_a_request_is_answered(repository: Repository) -> None:
    async def main() -> None:
        server = ModelServer(ServerSettings(repository(scale={1: 2.0})))
        await server.start()
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        response = await server.infer(InferRequest("scale", {"x": x}, id="a"))
        np.testing.assert_array_equal(response.outputs["y"], 2 * x + 1)
        assert (response.model, response.version, response.id) == ("scale", "1", "a")
        assert 0 < response.timings.infer < response.timings.total
        (counts,) = server.statistics("scale")
        assert (counts.success.count, counts.rows, counts.calls) == (1, 2, 1)
        assert server.metadata("scale").inputs[0].shape == (-1, 3)
        assert server.config("scale").max_batch_size == 8
        assert server.config("scale").inputs[0].shape == (3,)
        await server.stop()
        assert not server.live

    asyncio.run(main())


class Objects(Observer):
    """Lets no answer go out, and keeps what it is told."""

    def __init__(self) -> None:
        self.ends: list[Ended] = []

    def answering(self, event: Ended) -> None:
        raise AuditError("not written down", retry_after=1.0)

    def ended(self, event: Ended) -> None:
        self.ends.append(event)


def test_an_observer_that_objects_withholds_an_answer_which_has_then_failed_once(repository: Repository) -> None:
    async def main() -> None:
        observer = Objects()
        server = ModelServer(ServerSettings(repository(scale={1: 2.0})), [observer])
        await server.start()
        with pytest.raises(AuditError):
            await server.infer(InferRequest("scale", {"x": np.ones((1, 3), np.float32)}))
        (end,) = observer.ends
        assert (end.version, end.reason, end.response) == ("1", "audit", None)
        (counts,) = server.statistics("scale")
        assert (counts.success.count, counts.fail.count, dict(counts.failures)) == (0, 1, {"audit": 1})
        await server.stop()

    asyncio.run(main())


def test_what_does_not_fit_is_counted_for_its_version(repository: Repository) -> None:
    async def main() -> None:
        server = ModelServer(ServerSettings(repository(scale={1: 2.0})))
        await server.start()
        with pytest.raises(InputError):
            await server.infer(InferRequest("scale", {"x": np.ones((1, 4), np.float32)}))
        assert server.statistics("scale")[0].failures == {"invalid": 1}
        await server.stop()

    asyncio.run(main())


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x squared four times, for matrices of 1024 × 1024: long enough for others to wait."""
    folder = tmp_path_factory.mktemp("slow")
    names = ["x", *(f"x{n}" for n in range(3)), "y"]
    nodes = [helper.make_node("MatMul", [a, a], [b], b) for a, b in itertools.pairwise(names)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024, 1024]) for name in "xy")
    graph = helper.make_graph(nodes, "slow", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "slow.onnx")
    graphc.compile(folder / "slow.onnx", output=folder / "slow.graphc").close()
    return folder / "slow.graphc"


BIG = np.eye(1024, dtype=np.float32)


def test_who_waits_may_give_up_or_come_first_and_who_has_no_time_is_refused(tmp_path: Path, slow: Path) -> None:
    put(slow, tmp_path / "models/slow/1")

    async def main() -> None:
        async with serving(tmp_path / "models") as server:
            ended: list[str] = []

            async def ask(name: str, **options: Any) -> None:
                await server.infer(InferRequest("slow", {"x": BIG}, **options))
                ended.append(name)

            def pending() -> int:
                return server.statistics("slow")[0].pending

            running = asyncio.create_task(ask("running"))
            await asyncio.sleep(0)
            await until(lambda: pending() == 0)
            later = asyncio.create_task(ask("later", priority=3))
            usual = asyncio.create_task(ask("usual"))
            first = asyncio.create_task(ask("first", priority=1))
            given_up = asyncio.create_task(ask("given up"))
            hasty = asyncio.create_task(ask("hasty", timeout=1e-3))
            await asyncio.sleep(0)
            assert pending() == 4
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            with pytest.raises(RefusedError, match="could not answer within 1 ms"):
                await hasty
            await asyncio.gather(running, later, usual, first)
            assert ended == ["running", "first", "usual", "later"]
            (counts,) = server.statistics("slow")
            assert (counts.success.count, dict(counts.failures)) == (4, {"cancelled": 1, "refused": 1})

    run(main)


def test_a_promise_that_cannot_be_kept_is_not_made(tmp_path: Path, slow: Path) -> None:
    put(slow, tmp_path / "models/slow/1")
    (tmp_path / "models/slow/model.toml").write_text("slo_ms = 1\n")

    async def main() -> None:
        async with serving(tmp_path / "models") as server:
            with pytest.raises(RefusedError, match="slow/1 could not answer within 1 ms") as caught:
                await server.infer(InferRequest("slow", {"x": BIG}))
            assert caught.value.retry_after > 0
            assert server.statistics()[0].failures == {"refused": 1}

    run(main)


def test_a_server_that_stops_answers_what_it_has_and_nothing_more(tmp_path: Path, slow: Path) -> None:
    put(slow, tmp_path / "models/slow/1")

    async def main() -> None:
        async with serving(tmp_path / "models") as server:
            request = InferRequest("slow", {"x": BIG})
            tasks = [asyncio.create_task(server.infer(request)) for _ in range(3)]
            await asyncio.sleep(0)
            server.drain()
            assert server.live and not server.ready
            late = asyncio.create_task(server.infer(request))
            await asyncio.sleep(0)
            await server.stop(20)
            for task in (*tasks, late):
                np.testing.assert_array_equal((await task).outputs["y"], BIG)
            with pytest.raises(ModelUnavailableError):
                await server.infer(request)
        async with serving(tmp_path / "models") as server:
            tasks = [asyncio.create_task(server.infer(request)) for _ in range(3)]
            await asyncio.sleep(0.01)
            await server.stop(0)
            first, *others = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(first, InferResponse), "what runs is answered"
            for error in others:
                assert isinstance(error, ModelUnavailableError)

    run(main)


def test_what_is_asked_for_is_checked(repository: Repository) -> None:
    async def main() -> None:
        async with serving(repository(scale={1: 2.0})) as server:
            x = np.ones((1, 3), np.float32)
            for request, kind, message in (
                (InferRequest("scael", {"x": x}), ModelNotFoundError, "there is no model 'scael'"),
                (InferRequest("scale", {"x": x}, "2"), ModelNotFoundError, "no version '2'"),
                (InferRequest("scale", {"x": x}, "9" * 5000), ModelNotFoundError, "no version '999"),
                (InferRequest("scale", {"x": x}, "²"), ModelNotFoundError, "no version '²'"),
                (InferRequest("scale", {"x": x}, outputs=["z"]), RequestError, "scale has no output 'z'"),
                (InferRequest("scale", {"z": x}), InputError, "unknown input 'z'"),
                (InferRequest("scale", {"x": x}, timeout=-1.0), OptionError, "timeout_ms is -1000"),
            ):
                with pytest.raises(kind, match=message):
                    await server.infer(request)
            chosen = await server.infer(InferRequest("scale", {"x": x}, outputs=["y"]))
            assert list(chosen.outputs) == ["y"]
            with pytest.raises(ModelNotFoundError):
                server.metadata("scale", "7")
            with pytest.raises(ModelNotFoundError):
                server.statistics("other")

    run(main)
