from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import RequestError, RequestTooLargeError
from graphc.serve.protocol.compression import accepted, compress, decompress

ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress}


def raw_deflate(data):
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(data) + machine.flush()


@given(st.binary(max_size=500))
def test_there_and_back(data):
    for encoding, encoder in ENCODERS.items():
        assert decompress(encoding, encoder(data), 500) == data
    assert decompress("deflate", raw_deflate(data), 500) == data
    assert decompress("identity", data, 500) == decompress("", data, 500) == data


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_bomb_takes_no_more_memory_than_the_limit(encoding):
    bomb = ENCODERS[encoding](bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(RequestTooLargeError, match="limit of 1048576"):
        decompress(encoding, bomb, 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]))
def test_bodies_from_strangers(data, encoding):
    with contextlib.suppress(RequestError):
        assert len(decompress(encoding, data, 1000)) <= 1000


@pytest.mark.parametrize("encoding", ENCODERS)
def test_too_short_and_too_long(encoding):
    whole = ENCODERS[encoding](b"abc" * 50)
    for body, message in ((whole[:-1], "ends too early"), (whole + whole, "goes on behind"), (b"", "ends too early")):
        with pytest.raises(RequestError, match=message):
            decompress(encoding, body, 1000)


def test_encodings():
    with pytest.raises(RequestError, match="unknown Content-Encoding 'br'"):
        decompress("br", b"", 10)
    assert accepted("gzip;q=0.5, deflate") == "deflate"
    assert accepted("gzip, deflate") == "gzip"
    assert accepted("br, identity;q=1, gzip;q=0, deflate;q=x") == ""
    assert compress("gzip", [b"small"]) == ("", [b"small"])
    encoding, (body,) = compress("gzip", [b"a" * 900, memoryview(b"b" * 900)])
    assert encoding == "gzip" and gzip.decompress(body) == b"a" * 900 + b"b" * 900
    assert zlib.decompress(compress("deflate", [bytes(2000)])[1][0]) == bytes(2000)
