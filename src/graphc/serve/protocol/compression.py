"""Bodies that are compressed, in no more memory than the limit on what they become."""

from __future__ import annotations

import gzip
import zlib

from graphc.errors import RequestError, RequestTooLargeError
from graphc.serve.protocol.tensors import Buffer

_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_LEVEL = 1
"""Tensors hardly become smaller with more work."""
_LEAST = 1024
"""Bytes below which compressing costs more than it saves."""


def decompress(encoding: str, body: Buffer, limit: int) -> Buffer:
    """The body that a `Content-Encoding` names: `gzip`, `deflate` (zlib's format, or raw), `identity` or nothing.

    Raises:
        RequestError: Another encoding, or a body that is not of it, or that goes on behind its end.
        RequestTooLargeError: It would be larger than `limit` bytes.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOWS:
        raise RequestError(f"unknown Content-Encoding {encoding!r:.80}", hint="it is gzip or deflate")
    window = _WINDOWS[encoding]
    if encoding == "deflate" and not _is_zlib(body):
        window = -15
    machine = zlib.decompressobj(window)
    try:
        found = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not {encoding}: {error}") from None
    if len(found) > limit:
        raise RequestTooLargeError(f"the body decompresses to more than the server's limit of {limit} bytes")
    if not machine.eof:
        raise RequestError(f"the body is not {encoding}: it ends too early")
    if machine.unused_data:
        # No client writes a second member, and a body of many empty ones would take time that grows with its square.
        raise RequestError(f"the body goes on behind its {encoding} data")
    return found


def _is_zlib(body: Buffer) -> bool:
    # RFC 1950: the method is 8, and the first two bytes are a multiple of 31.
    return len(body) >= 2 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0


def accepted(header: str) -> str:
    """The encoding that an `Accept-Encoding` prefers of those that there are; empty for none."""
    best, best_weight = "", 0.0
    for item in header.split(","):
        name, _, rest = item.partition(";")
        name = name.strip().lower()
        weight = _weight(rest)
        if name in ("gzip", "deflate") and weight > best_weight:
            best, best_weight = name, weight
    return best


def _weight(text: str) -> float:
    key, _, value = text.partition("=")
    if key.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def compress(encoding: str, parts: list[Buffer]) -> tuple[str, list[Buffer]]:
    """The parts of a body, compressed into one where that is worth it, and the encoding that they then have."""
    if not encoding or sum(map(len, parts)) < _LEAST:
        return "", parts
    body = b"".join(parts)
    return encoding, [gzip.compress(body, _LEVEL, mtime=0) if encoding == "gzip" else zlib.compress(body, _LEVEL)]
