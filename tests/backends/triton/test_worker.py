from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphc.backends.triton import worker
from graphc.backends.triton.worker import WorkerError, WorkerPool

ECHO = """\
import os, signal, sys, time
from graphc.backends.triton.worker_main import FOLDER, serve

def handle(header, blobs):
    match header:
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"die": number}:
            print("last words", flush=True)
            os.kill(os.getpid(), number)
        case {"exit": status}:
            os._exit(status)
        case {"fail": text}:
            raise ValueError(text)
        case {"child": seconds}:
            import subprocess
            (FOLDER / "left.txt").write_text("something")
            return {"child": subprocess.Popen(["sleep", str(seconds)]).pid, "folder": str(FOLDER)}, []
    print("noise on standard output", flush=True)
    return {"pid": os.getpid(), "variable": os.environ.get("VARIABLE"), **header}, blobs[::-1]

serve(handle)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    (tmp_path / "echo_worker.py").write_text(ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = WorkerPool("echo_worker", {"VARIABLE": "set"}, seconds=20)
    yield made
    made.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def await_end(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def test_what_is_said_comes_back_whole_and_a_worker_is_kept(pool: WorkerPool) -> None:
    blobs = [b"", os.urandom(3 << 20), b"abc"]
    first, back = pool.ask({"text": "ü\n"}, blobs)
    assert back == blobs[::-1] and first["text"] == "ü\n" and first["variable"] == "set"
    second, _ = pool.ask({})
    assert second["pid"] == first["pid"]


def test_several_threads_have_a_worker_each(pool: WorkerPool) -> None:
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(pool.ask({"sleep": 0.5})[0]["pid"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 3
    assert pool.ask({})[0]["pid"] in pids


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"die": int(signal.SIGSEGV)}, "SIGSEGV: last words"),
        ({"exit": 3}, "exit status 3"),
    ],
)
def test_a_worker_that_dies_is_an_error_and_the_next_question_goes_to_another(
    pool: WorkerPool, task: dict[str, int], said: str
) -> None:
    before, _ = pool.ask({})
    with pytest.raises(WorkerError, match=said):
        pool.ask(task)
    after, _ = pool.ask({})
    assert after["pid"] != before["pid"]


def test_descriptors_of_any_number(pool: WorkerPool) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 1200:
        pytest.skip("a process may not have so many files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1200), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    try:
        assert pool.ask({"number": 1})[0]["number"] == 1
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_one_that_cannot_start_is_an_error_and_leaves_nothing(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "files"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(WorkerError, match="could be started"):
        pool.ask({})
    assert not list((tmp_path / "files").iterdir())


def test_one_that_hangs_is_ended(pool: WorkerPool) -> None:
    before, _ = pool.ask({})
    pool.seconds = 0.3
    with pytest.raises(WorkerError, match=r"no answer after 0\.3 seconds"):
        pool.ask({"sleep": 30})
    assert await_end(before["pid"])
    pool.seconds = 20
    assert pool.ask({})[0]["pid"] != before["pid"]


def test_one_that_died_while_it_waited_is_replaced(pool: WorkerPool) -> None:
    before, _ = pool.ask({})
    os.kill(before["pid"], signal.SIGKILL)
    assert await_end(before["pid"])
    assert pool.ask({})[0]["pid"] != before["pid"]


def test_one_without_work_ends_by_itself(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.2)
    before, _ = pool.ask({"child": 60})
    assert await_end(before["child"]) and not Path(before["folder"]).exists()
    assert pool.ask({})[0]["pid"] != before["child"]


def test_an_exception_is_an_answer(pool: WorkerPool) -> None:
    answer, _ = pool.ask({"fail": "no such thing"})
    assert answer == {"error": "ValueError: no such thing"}


def test_closing_ends_what_the_worker_started_and_its_files(pool: WorkerPool) -> None:
    answer, _ = pool.ask({"child": 60})
    assert is_running(answer["child"]) and Path(answer["folder"], "left.txt").exists()
    pool.close()
    assert await_end(answer["child"]) and not Path(answer["folder"]).exists()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit()", "raise KeyboardInterrupt", "os._exit(0)"])
def test_no_worker_outlives_its_parent_however_that_ends(pool: WorkerPool, tmp_path: Path, end: str) -> None:
    program = f"""
        import os, sys
        sys.path[:0] = {[str(tmp_path)]!r}
        from graphc.backends.triton.worker import WorkerPool
        pool = WorkerPool("echo_worker", {{}}, seconds=20)
        answer, _ = pool.ask({{"child": 60}})
        print(answer["child"], answer["folder"], pool.ask({{}})[0]["pid"], flush=True)
        {end}
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=False
    )
    child, folder, own = done.stdout.split()
    assert await_end(int(own)) and await_end(int(child)) and not Path(folder).exists()


def test_a_forked_process_starts_its_own_and_leaves_the_parents_alone(pool: WorkerPool) -> None:
    before, _ = pool.ask({})
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(pool.ask({})[0]["pid"]).encode())
        pool.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        other = int(stream.read())
    os.waitpid(child, 0)
    assert other != before["pid"] and await_end(other)
    assert pool.ask({})[0]["pid"] == before["pid"]
