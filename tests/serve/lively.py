"""A server in a test: started, asked, waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from graphc.serve import Changed, InferRequest, ModelServer, Observer, ServerSettings, State

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Changes(Observer):
    """What became of the versions: number, state, whether it was a reload."""

    def __init__(self) -> None:
        self.events: list[tuple[str, State, bool]] = []

    def changed(self, event: Changed) -> None:
        self.events.append((event.version, event.state, event.reload))


@contextlib.asynccontextmanager
async def serving(root: Path, *observers: Observer, **settings: Any) -> AsyncIterator[ModelServer]:
    """A server that looks at its repository often."""
    server = ModelServer(ServerSettings(root, **{"poll_seconds": 0.02, **settings}), observers)
    try:
        await server.start()
        yield server
    finally:
        await server.stop(5)


async def factor(server: ModelServer, version: str | None = None, model: str = "scale", **parameters: Any) -> float:
    """What the version that answers multiplies by; a wrong answer is no factor at all."""
    response = await server.infer(InferRequest(model, {"x": X}, version, parameters=parameters))
    y = response.outputs["y"]
    found = float(y[0, 1]) - 1
    np.testing.assert_array_equal(y, found * X + 1)
    return found


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for something to come about."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


def states(server: ModelServer) -> dict[str, State]:
    return {f"{entry.name}/{entry.version}": entry.state for entry in server.index()}


def reasons(server: ModelServer) -> dict[str, str]:
    return {f"{entry.name}/{entry.version}": entry.reason for entry in server.index()}


def put(source: Path, folder: Path, name: str = "model.graphc") -> None:
    """A file into the repository as it should be done: written elsewhere, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / ".copying")
    os.replace(folder / ".copying", folder / name)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test's coroutine, for a minute at most."""
    asyncio.run(asyncio.wait_for(main(), 60))
