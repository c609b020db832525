"""The status page in a real browser, by the WebDriver protocol: it shows what happens, as it happens."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from graphc.serve.facts import IndexEntry, State
from tests.serve.conftest import Repository
from tests.serve.observe.watched import watched

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no browser here: chromium and chromedriver are not installed"
)


class Browser:
    """One window."""

    def __init__(self, port: int, folder: Path) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": BROWSER, "args": [*arguments, f"--user-data-dir={folder}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._ask("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._base += f"/session/{session}"

    def open(self, url: str) -> None:
        self._ask("/url", {"url": url})

    def run(self, script: str) -> Any:
        return self._ask("/execute/sync", {"script": f"return {script}", "args": []})

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def close(self) -> None:
        urlopen(Request(self._base, method="DELETE"), timeout=20).close()

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        request = Request(self._base + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def _wait_for_driver(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                urlopen(f"{self._base}/status", timeout=5).close()
                return
            except URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    assert DRIVER is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        window = Browser(port, tmp_path / "profile")
        yield window
        window.close()
    finally:
        driver.terminate()
        driver.wait(20)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_page_follows_the_server(repository: Repository, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(repository(scale={1: 2.0})) as served:
        browser.open(served.address)
        until(lambda: browser.text("#state") == "ready", "the server is ready")
        assert browser.text("h1") == "graphc"
        cells = "[data-model=scale] tr:nth-child(2) td"
        assert browser.text(f"{cells}:nth-child(2)") == "ready"
        assert browser.text(f"{cells}:nth-child(4)") == "–"

        served.infer("scale", times=40, x=np.ones((1, 3), np.float32))
        until(lambda: browser.text(f"{cells}:nth-child(4)").endswith("s"), "a latency is shown")
        until(lambda: float(browser.text("#rate")) > 0, "a rate is shown")
        values = [0.0000123, 0.00023, 0.0123, 1.5, 150.25]
        assert browser.run(f"{values}.map(seconds)") == ["12 µs", "230 µs", "12.3 ms", "1.50 s", "150 s"]
        assert browser.run("[0, 0.5, 77.44, 123.4, 12345.6].map(number)") == ["0", "0.50", "77.4", "123", "12,346"]
        assert browser.run("document.querySelector('#load path').getAttribute('d')").count("L") == 59

        # Text of a failure is text, whatever is in it.
        bad = IndexEntry("scale", "2", State.UNAVAILABLE, "<img src=x onerror='document.title=1'> is damaged")
        index = served.server.index
        monkeypatch.setattr(served.server, "index", lambda: (*index(), bad))
        until(lambda: "<img src=x" in browser.text("[data-model=scale] .reason"), "the reason is shown")
        assert browser.run("document.title") == "graphc"
        assert browser.run("document.images.length") == 0
        assert browser.complaints() == []

        served.do(served.endpoint.stop(5))
        until(lambda: "no answer" in browser.text("#lost"), "that the server is gone is shown")
