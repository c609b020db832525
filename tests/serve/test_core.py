"""The server without a protocol: requests, versions, what it tells of itself."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from graphc.errors import AuditError, InputError
from graphc.serve import InferRequest, ModelServer, ServerSettings
from graphc.serve.observer import Ended, Observer
from tests.serve.conftest import Repository


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
