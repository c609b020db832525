"""Logs: whole lines, that a program can read, with the request's id, and not drowned by an overload."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from graphc.errors import ModelNotFoundError, OptionError, RefusedError
from graphc.serve import InferRequest, ModelServer, ServerSettings
from graphc.serve.facts import State
from graphc.serve.observe import logs
from graphc.serve.observer import SUCCESS, Changed, Ended
from graphc.serve.request import Client, Timings
from tests.serve.conftest import Repository

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def json_lines() -> Iterator[Lines]:
    stream = io.StringIO()
    handler = logs.configure("json", "debug", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.remove(handler)
    logs.set_level("warning")


def ended(reason: str, error: Exception | None = None, **facts: Any) -> Ended:
    return Ended(InferRequest("m", {}, **facts), "1", reason, Timings(0.5), error=error)


def test_requests_at_once_each_have_their_own_id(repository: Repository, json_lines: Lines) -> None:
    async def main() -> None:
        server = ModelServer(ServerSettings(repository(scale={1: 2.0})), [logs.RequestLog()])
        await server.start()

        async def ask(name: str) -> None:
            await server.infer(InferRequest("scale", {"x": np.ones((1, 3), np.float32)}, id=name))
            logging.getLogger("graphc.elsewhere").info("done")

        await asyncio.gather(*(ask(name) for name in ("a", "b", "")))
        with pytest.raises(ModelNotFoundError):
            await server.infer(InferRequest("none", {}))
        await server.stop()

    asyncio.run(main())
    lines = json_lines()
    requests = [line for line in lines if line["message"] == "request"]
    assert len({line["request_id"] for line in requests}) == 4
    assert {"a", "b"} < {line["request_id"] for line in requests}
    assert {line["request_id"] for line in lines if line["message"] == "done"} == {
        line["request_id"] for line in requests if line["outcome"] == SUCCESS
    }
    assert [line["outcome"] for line in requests if line["level"] == "info"] == ["not_found"]
    assert any(line["message"] == "model" and line["state"] == "READY" for line in lines)


def test_the_level_changes_at_run_time(json_lines: Lines) -> None:
    log = logs.RequestLog()
    log.ended(ended(SUCCESS))
    logs.set_level("error")
    assert logs.level() == "error"
    log.ended(ended(SUCCESS))
    log.ended(ended("refused", RefusedError("late", retry_after=1)))
    log.ended(ended("failed", RuntimeError("a step failed")))
    assert [line["outcome"] for line in json_lines()] == [SUCCESS, "failed"]
    with pytest.raises(OptionError, match="verbose"):
        logs.set_level("verbose")


def test_an_overload_is_a_line_a_second_that_says_how_many_there_were(json_lines: Lines) -> None:
    now = 5.0
    log = logs.RequestLog(lambda: now)
    for _ in range(1000):
        log.ended(ended("refused"))
    log.ended(ended("queue_full"))
    now = 6.5
    log.ended(ended("refused"))
    assert [(line["outcome"], line.get("more")) for line in json_lines()] == [
        ("refused", None),
        ("queue_full", None),
        ("refused", 999),
    ]


def test_an_error_of_our_own_comes_with_its_traceback(json_lines: Lines) -> None:
    logs.RequestLog().ended(ended("internal", ValueError("what")))
    (line,) = json_lines()
    assert (line["level"], line["error"]) == ("error", "what")
    assert "ValueError: what" in line["exception"]


def test_text_cannot_be_forged() -> None:
    stream = io.StringIO()
    handler = logs.configure("text", "debug", stream)
    try:
        client = Client("http", "127.0.0.1:5", 'me" level=x\n2026 ERROR forged')
        logs.RequestLog().ended(ended("refused", RefusedError("late\nforged", retry_after=1), client=client))
        logging.getLogger("graphc").warning("two\nlines")
        logs.RequestLog().changed(Changed("m", "2", State.UNAVAILABLE, "bad\x1b[31m"))
    finally:
        logs.remove(handler)
        logs.set_level("warning")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in stream.getvalue()
    assert "outcome=refused" in lines[0]
    assert "state=UNAVAILABLE" in lines[2]


def test_unknown_formats_and_levels_are_refused() -> None:
    with pytest.raises(OptionError, match="xml"):
        logs.configure("xml")
    with pytest.raises(OptionError, match="loud"):
        logs.configure(level="loud")
