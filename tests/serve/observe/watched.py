"""A server in a thread, with its endpoint, for tests that look at it from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphc.serve import InferRequest, ModelServer, ServerSettings
from graphc.serve.observe.watching import Watching


class Watched:
    """Address and control of a server that runs in a thread."""

    def __init__(self, root: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.watching = Watching()
        self.server = ModelServer(ServerSettings(root), self.watching.observers)
        self.endpoint = self.watching.endpoint(self.server, host="127.0.0.1", port=0)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.endpoint.port}"

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def infer(self, model: str, times: int = 1, **inputs: Any) -> None:
        for _ in range(times):
            self.do(self.server.infer(InferRequest(model, inputs)))


@contextmanager
def watched(root: Path) -> Iterator[Watched]:
    found = Watched(root)
    thread = threading.Thread(target=found.loop.run_forever, daemon=True)
    thread.start()
    found.do(found.endpoint.start())
    found.do(found.server.start())
    try:
        yield found
    finally:
        found.do(found.endpoint.stop(5))
        found.do(found.server.stop(5))
        found.watching.close()
        found.loop.call_soon_threadsafe(found.loop.stop)
        thread.join()
        found.loop.close()
