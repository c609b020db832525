"""The audit log: every request is in it or was not answered; lines are whole; hashes are of values."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from graphc.errors import AuditError, InputError, OptionError
from graphc.serve import InferRequest, ModelServer, ServerSettings
from graphc.serve.observe import audit
from graphc.serve.observe.audit import AuditLog, digest
from graphc.serve.observer import SUCCESS, Ended
from graphc.serve.request import Client, InferResponse, Timings
from tests.serve.conftest import Repository

X = np.arange(3, dtype=np.float32).reshape(1, 3)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(name: str = "r") -> Ended:
    response = InferResponse("m", "1", {"y": X})
    return Ended(InferRequest("m", {"x": X}, id=name), "1", SUCCESS, Timings(0.01), response)


def test_who_what_when_and_hashes(repository: Repository, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    client = Client("grpc", "10.0.0.7:555", "alice")

    async def main() -> None:
        server = ModelServer(ServerSettings(repository(scale={1: 2.0})), [log])
        await server.start()
        await server.infer(InferRequest("scale", {"x": X}, id="a", client=client))
        with pytest.raises(InputError):
            await server.infer(InferRequest("scale", {"x": X[:, :1]}, id="b", client=client))
        await server.stop()

    asyncio.run(main())
    good, bad = lines(log.path)
    assert (good["id"], good["identity"], good["address"], good["protocol"]) == ("a", "alice", "10.0.0.7:555", "grpc")
    assert (good["model"], good["version"], good["outcome"]) == ("scale", "1", "success")
    # As anybody can compute it.
    assert good["inputs"] == {"x": hashlib.sha256(b"float32:1,3;" + X.tobytes()).hexdigest()}
    assert good["outputs"] == {"y": hashlib.sha256(b"float32:1,3;" + (2 * X + 1).tobytes()).hexdigest()}
    assert (bad["outcome"], "outputs" in bad) == ("invalid", False)
    assert log.path.stat().st_mode & 0o077 == 0


def test_files_are_rotated_and_no_line_is_lost(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a.jsonl", max_bytes=1000)
    for number in range(20):
        log.answering(answer(str(number)))
    log.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdecimal() else 0)
    assert len(files) > 3
    assert all(path.stat().st_size <= 1000 for path in files)
    assert [line["id"] for path in files for line in lines(path)] == [str(number) for number in range(20)]


def test_only_so_many_old_files_are_kept(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a.jsonl", max_bytes=1, keep=2)
    for number in range(6):
        log.answering(answer(str(number)))
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.1", "a.jsonl.2"}
    assert lines(tmp_path / "a.jsonl.2")[0]["id"] == "3"


def test_it_is_appended_to_and_by_one_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = AuditLog(path)
    first.answering(answer("1"))
    with pytest.raises(AuditError, match="another process"):
        AuditLog(path)
    first.close()
    second = AuditLog(path)
    second.answering(answer("2"))
    second.close()
    assert [line["id"] for line in lines(path)] == ["1", "2"]


class Full:
    """A disk that is full, by the limit that the system has on a file's size: writes fail, or are cut short."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        signal.signal(signal.SIGXFSZ, self.handler)


def test_a_full_disk_withholds_answers_until_there_is_room_and_the_gap_is_told(tmp_path: Path) -> None:
    now = 10.0
    log = AuditLog(tmp_path / "a.jsonl", clock=lambda: now)
    log.answering(answer("1"))
    size = log.path.stat().st_size
    with Full(size + 20):
        with pytest.raises(AuditError) as refused:
            log.answering(answer("2"))
        assert refused.value.retry_after == pytest.approx(1.0)
        with pytest.raises(AuditError):
            log.received(InferRequest("m", {}))
        now += 1.5
        with pytest.raises(AuditError):
            log.received(InferRequest("m", {}))
        assert log.path.stat().st_size == size  # half a line is none
        with pytest.raises(AuditError):
            log.answering(answer("3"))  # it was accepted before, and may not slip out now
    now += 1.5
    log.received(InferRequest("m", {}))
    log.answering(answer("4"))
    log.close()
    assert [line.get("id", line.get("lost")) for line in lines(log.path)] == ["1", 2, "4"]


def test_a_rotation_that_fails_half_way_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    log = AuditLog(tmp_path / "a.jsonl", max_bytes=1, clock=lambda: now)
    log.answering(answer("1"))

    def no_more_files(path: Path) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(audit, "_open", no_more_files)
        for _ in range(3):
            now += 2
            with pytest.raises(AuditError):
                log.answering(answer("2"))
    now += 2
    log.answering(answer("3"))
    log.close()
    found = {path.name: lines(path)[0] for path in tmp_path.iterdir()}
    assert {name: line.get("id", line.get("lost")) for name, line in found.items()} == {
        "a.jsonl.2": "1",
        "a.jsonl.1": 3,
        "a.jsonl": "3",
    }


def test_who_prefers_answers_is_warned_instead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 10.0
    log = AuditLog(tmp_path / "a.jsonl", on_failure="warn", clock=lambda: now)
    with Full(10):
        for _ in range(3):
            log.received(InferRequest("m", {}))
            log.answering(answer())
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    now += 2
    log.answering(answer("5"))
    log.close()
    assert [line.get("id", line.get("lost")) for line in lines(log.path)] == [3, "5"]


def test_options_and_paths_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="ignore"):
        AuditLog(tmp_path / "a", on_failure="ignore")
    with pytest.raises(OptionError, match="max_bytes"):
        AuditLog(tmp_path / "a", max_bytes=0)
    with pytest.raises(AuditError, match="cannot be written"):
        AuditLog(tmp_path / "nowhere" / "a")
    assert os.listdir(tmp_path) == []


@given(arrays.arrays(np.float32, arrays.array_shapes()))
def test_a_hash_is_of_values_whatever_their_strides(array: np.ndarray[Any, Any]) -> None:
    strided = np.stack([array, array + 1], -1)[..., 0]
    assert digest(array) == digest(strided) == digest(np.asfortranarray(array))
    assert digest(array) != digest(array.astype(np.float64))
    assert digest(array) != digest(array[np.newaxis])


def test_values_of_other_kinds_differ_where_they_differ() -> None:
    values: list[Any] = [
        None,
        [],
        [X],
        [X, X],
        {"a": X},
        {"b": X},
        np.array(["ab", "c"], object),
        np.array(["a", "bc"], object),
        np.array([b"ab", b"cd"], object),
        np.zeros(3, ml_dtypes.bfloat16),
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0), np.float32),
        np.array(True),
        np.array([True]),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(np.array(["ab"], object)) == digest(np.array([b"ab"], object))
