"""The server without a protocol: requests, versions, what it tells of itself."""

from __future__ import annotations

import asyncio

import numpy as np

from graphc.serve import InferRequest, ModelServer, ServerSettings
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
