"""The port for whoever watches: what it says over HTTP is what the server did."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest

from graphc.errors import ListenError
from graphc.serve.facts import State
from graphc.serve.observer import Changed
from tests.serve.conftest import Repository
from tests.serve.observe.watched import watched

X = np.ones((2, 3), np.float32)


def get(url: str) -> tuple[Any, bytes]:
    with urlopen(url, timeout=10) as response:
        return response.headers, response.read()


def test_the_status_is_what_happened(repository: Repository) -> None:
    with watched(repository(scale={1: 2.0}, other={4: 3.0})) as served:
        served.infer("scale", times=5, x=X)
        deadline = time.monotonic() + 10
        while True:
            status = json.loads(get(f"{served.address}/status.json")[1])
            (scale,) = (model for model in status["models"] if model["name"] == "scale")
            (version,) = scale["versions"]
            if sum(version["answered"]) == 5 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    assert status["server"]["live"]
    assert status["server"]["ready"]
    assert status["server"]["memory"] > 1e6
    assert [model["name"] for model in status["models"]] == ["other", "scale"]
    assert (version["version"], version["state"], version["reason"]) == ("1", "READY", "")
    assert sum(version["answered"]) == 5
    assert version["rows_per_call"] == 2
    assert 0 < version["latency"]["p50"] <= version["latency"]["p99"] < 10
    assert (version["refused"], version["failed"], version["waiting"]) == (0, 0, 0)
    assert status["load"]["answered_per_second"] == version["answered_per_second"] > 0


def test_metrics_and_the_page_are_there_and_nothing_else(repository: Repository) -> None:
    with watched(repository(scale={1: 2.0})) as served:
        served.infer("scale", x=X)
        headers, text = get(f"{served.address}/metrics")
        assert headers["Content-Type"].startswith("text/plain")
        assert b'nv_inference_request_success{model="scale",version="1"} 1.0' in text
        headers, text = get(f"{served.address}/")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"://" not in text  # nothing comes from elsewhere
        with pytest.raises(HTTPError, match="404"):
            get(f"{served.address}/etc/passwd")
        with pytest.raises(HTTPError, match="405"):
            urlopen(f"{served.address}/metrics", data=b"x")


def test_a_port_that_is_taken_is_said(repository: Repository) -> None:
    with watched(repository(scale={1: 2.0})) as served:
        second = served.watching.endpoint(served.server, host="127.0.0.1", port=served.endpoint.port)
        with pytest.raises(ListenError, match=str(served.endpoint.port)):
            asyncio.run(second.start())


def test_why_a_version_is_not_served_is_in_the_log(repository: Repository, caplog: pytest.LogCaptureFixture) -> None:
    with watched(repository(scale={1: 2.0})) as served, caplog.at_level("DEBUG", "graphc"):
        for observer in served.watching.observers:
            observer.changed(Changed("scale", "2", State.UNAVAILABLE, "the package is damaged"))
    (record,) = (record for record in caplog.records if record.message == "model")
    assert record.fields["reason"] == "the package is damaged"  # type: ignore[attr-defined]
