"""What a client asks of the server and what it gets, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

Parameter: TypeAlias = "str | int | float | bool"

ROUTING_KEY = "routing_key"
"""The request parameter that keeps a client on one version where traffic is shared between several."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as far as the protocol knows.

    Attributes:
        protocol: `http`, `grpc`, or `python`.
        address: Host and port of the peer.
        identity: Name that a token or a certificate gave it; empty without.
        trace: W3C trace context as it came (`traceparent`, `tracestate`).
    """

    protocol: str = "python"
    address: str = ""
    identity: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)


_LOCAL = Client()


@dataclass(slots=True)
class InferRequest:
    """One inference request.

    Args:
        model: Name of the model.
        inputs: By name: NumPy arrays; lists, dicts and None where the model takes sequences, maps and optionals.
        version: A version's number or a label; None lets the model's traffic shares decide, else the latest.
        outputs: Names wanted, in this order; None is all, in the model's order.
        id: The client's own name for the request, answered with it.
        priority: As in the protocol: 0 is the default, 1 goes first, 2 is as the default, more goes later.
        timeout: Seconds that the client will wait at most, where that is less than the model's promise.
        parameters: Further parameters of the request.
        client: Who asks.
        arrived: When, on `time.perf_counter`.
    """

    model: str
    inputs: Mapping[str, Any]
    version: str | None = None
    outputs: Sequence[str] | None = None
    id: str = ""
    priority: int = 0
    timeout: float | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    client: Client = _LOCAL
    arrived: float = field(default_factory=perf_counter)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in seconds.

    Attributes:
        total: From its arrival to its end.
        queue: Until its batch started.
        input: Putting its batch together.
        infer: The call itself.
        output: Taking its batch apart.
        rows: Of all requests in its batch.
    """

    total: float = 0.0
    queue: float = 0.0
    input: float = 0.0
    infer: float = 0.0
    output: float = 0.0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to a request.

    Attributes:
        model: Name of the model.
        version: Number of the version that answered.
        outputs: By name, in the order asked for.
        id: Of the request.
        timings: Where the time went.
    """

    model: str
    version: str
    outputs: Mapping[str, Any]
    id: str = ""
    timings: Timings = Timings()
