"""How much one request may ask for: each limit is held before the memory or the time that it bounds is spent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request, and of all together.

    Attributes:
        body_bytes: Of an HTTP body or a gRPC message, decompressed.
        held_bytes: Of the bodies of all requests at a time; no request is read that would exceed it.
        json_bytes: Of the JSON in it: parsed JSON takes up to twenty times its size.
        json_depth: Of nested lists and objects.
        tensors: Inputs, and outputs asked for.
        parameters: Of a request, and of each tensor.
        rank: Dimensions of a tensor.
        elements: Of a tensor.
        strings: Of a tensor of strings, each of which is an object.
        header_bytes: All headers of an HTTP request, or the metadata of a gRPC call.
        header_seconds: Until the headers of an HTTP request have come, counted from its first byte or the connection.
        body_seconds: Until the next part of a body comes; all of it may take these, and as many more as it has times
            `body_rate` bytes.
        body_rate: Bytes a second that a slow client sends at least.
        message_seconds: Until the message of a gRPC call has come, however large: how much of it has is not told.
        write_seconds: For a client to take an answer that does not fit into the system's buffers.
        idle_seconds: Of a connection between two requests.
        stream_requests: Of one gRPC stream, in work at a time; more wait to be read.
        connections: Open at a time, on each port.
    """

    body_bytes: int = 256 << 20
    held_bytes: int = 1 << 30
    json_bytes: int = 16 << 20
    json_depth: int = 40
    tensors: int = 1024
    parameters: int = 256
    rank: int = 32
    elements: int = 1 << 31
    strings: int = 1 << 20
    header_bytes: int = 32 << 10
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    body_rate: int = 16 << 10
    message_seconds: float = 120.0
    write_seconds: float = 30.0
    idle_seconds: float = 75.0
    stream_requests: int = 64
    connections: int = 4096


DEFAULT_LIMITS = RequestLimits()
