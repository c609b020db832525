from __future__ import annotations

import os
import uuid

import numpy as np
import pytest
from tritonclient.utils import shared_memory as client

from graphc.errors import RequestError, RequestTooLargeError
from graphc.serve.protocol.shared_memory import Place, SharedMemory, place_of


@pytest.fixture
def memory():
    found = SharedMemory(allowed=True, most=3)
    yield found
    found.close()


@pytest.fixture
def key():
    return f"/graphc-test-{uuid.uuid4().hex}"


@pytest.fixture
def region(key):
    handle = client.create_shared_memory_region("mine", key, 64)
    yield handle
    client.destroy_shared_memory_region(handle)


def test_a_region_of_the_client(memory, region, key):
    client.set_shared_memory_region(region, [np.arange(4, dtype=np.int32)])
    memory.register("a", key, 0, 64)
    assert np.frombuffer(memory.read(Place("a", 4, 8)), np.int32).tolist() == [1, 2]
    memory.write(Place("a", 32, 8), np.array([7, 8], np.int32).view(np.uint8).data)
    assert client.get_contents_as_numpy(region, np.int32, [2], 32).tolist() == [7, 8]
    assert memory.status("a") == [{"name": "a", "key": key, "offset": 0, "byte_size": 64}] == memory.status()
    memory.unregister("a")
    memory.unregister("a")
    assert memory.status() == []
    with pytest.raises(RequestError, match="no shared memory region 'a'"):
        memory.read(Place("a", 0, 1))


def test_offsets_are_of_the_region(memory, region, key):
    client.set_shared_memory_region(region, [np.arange(16, dtype=np.int32)])
    memory.register("half", key, 32, 32)
    assert np.frombuffer(memory.read(Place("half", 0, 4)), np.int32).tolist() == [8]
    for place in (Place("half", 0, 33), Place("half", 32, 1), Place("half", 1 << 40, 1)):
        with pytest.raises(RequestError, match="outside of shared memory region"):
            memory.read(place)
        with pytest.raises(RequestError, match="outside of shared memory region"):
            memory.write(place, b"")
    with pytest.raises(RequestError, match="takes 5 bytes, and has 4"):
        memory.write(Place("half", 0, 4), b"12345")


def test_an_object_that_is_truncated_is_an_error_and_no_signal(memory, region, key):
    memory.register("a", key, 0, 64)
    os.truncate(f"/dev/shm{key}", 8)
    with pytest.raises(RequestError, match="smaller than when it was registered"):
        memory.read(Place("a", 0, 64))
    with pytest.raises(RequestError, match="smaller than when it was registered"):
        memory.write(Place("a", 0, 64), bytes(64))
    os.truncate(f"/dev/shm{key}", 64)


@pytest.mark.parametrize(
    "key", ["", "/", ".", "..", "/..", "../etc/passwd", "/a/b", "/etc/passwd", "a\0b", ".hidden", "x" * 300, None, 3]
)
def test_no_path_leads_out(memory, key):
    with pytest.raises(RequestError, match="is no name of a shared memory object"):
        memory.register("a", key, 0, 1)


def test_no_link_is_followed(memory, key, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    link = f"/dev/shm{key}"
    os.symlink(tmp_path / "secret", link)
    try:
        with pytest.raises(RequestError, match="no shared memory object"):
            memory.register("a", key, 0, 8)
    finally:
        os.unlink(link)


def test_no_pipe_hangs_the_server(memory, key):
    os.mkfifo(f"/dev/shm{key}")
    try:
        with pytest.raises(RequestError):
            memory.register("a", key, 0, 8)
    finally:
        os.unlink(f"/dev/shm{key}")


def test_what_is_refused(memory, region, key):
    for name, offset, size, message in (
        ("a", 0, 65, "has 64 bytes"),
        ("a", 64, 1, "has 64 bytes"),
        ("a", -1, 1, "offset must be"),
        ("a", 0, 1 << 63, "byte_size must be"),
        ("a", 0, 0, "above 0"),
        ("", 0, 1, "1 to 255"),
    ):
        with pytest.raises(RequestError, match=message):
            memory.register(name, key, offset, size)
    assert memory.status() == []
    for name in "abc":
        memory.register(name, key, 0, 8)
    with pytest.raises(RequestError, match="registered already"):
        memory.register("a", key, 0, 8)
    with pytest.raises(RequestTooLargeError, match="3 shared memory regions"):
        memory.register("d", key, 0, 8)
    before = len(os.listdir("/proc/self/fd"))
    memory.unregister()
    assert len(os.listdir("/proc/self/fd")) == before - 3


def test_places():
    assert place_of({}) is None
    parameters = {"shared_memory_region": "a", "shared_memory_byte_size": 8, "shared_memory_offset": 4}
    assert place_of(parameters) == Place("a", 4, 8)
    with pytest.raises(RequestError, match="shared_memory_offset must be"):
        place_of({**parameters, "shared_memory_offset": -4})
