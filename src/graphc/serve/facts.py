"""What the server tells about its models, in no protocol's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

PLATFORM = "graphc"


class State(Enum):
    """Of a version; the names are those of the protocol's repository index."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class TensorFacts:
    """An input or output.

    Attributes:
        name: Of the tensor.
        dtype: By graphc's name: `float32`, `bfloat16`, `string`.
        shape: Extents; -1 where several are possible.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelMetadata:
    """A model's inputs and outputs, with all their axes.

    Attributes:
        name: Of the model.
        versions: Numbers of those that are ready, ascending.
        inputs: In the model's order.
        outputs: In the model's order.
        platform: What runs it.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    platform: str = PLATFORM


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a model are served.

    Attributes:
        kind: `latest`, `all` or `specific`.
        count: How many of the latest.
        versions: Which, where specific.
    """

    kind: str = "latest"
    count: int = 1
    versions: tuple[int, ...] = ()

    def choose(self, present: list[int]) -> list[int]:
        """Of the versions present, those that are served, ascending."""
        ordered = sorted(present)
        if self.kind == "all":
            return ordered
        if self.kind == "specific":
            return [number for number in ordered if number in self.versions]
        return ordered[-self.count :]


@dataclass(frozen=True)
class Batching:
    """How requests share calls.

    Attributes:
        sizes: Rows of the programs compiled, ascending.
        preferred: Rows at which a batch that waits starts at once.
        delay: Seconds that a batch may wait for others.
        queue_size: Requests that may wait; None where only the promise limits them.
        timeout: Seconds promised; None without a promise.
    """

    sizes: tuple[int, ...] = ()
    preferred: tuple[int, ...] = ()
    delay: float = 0.0
    queue_size: int | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class ModelConfig:
    """How a model is served.

    Attributes:
        name: Of the model.
        version_policy: Which versions are served.
        max_batch_size: Rows of a batch at most; 0 where requests share no calls along their first axis.
        inputs: Shapes are without the first axis where `max_batch_size` is not 0.
        outputs: Likewise.
        batching: How requests share calls; None where they do not.
        instances: Batches that run at once.
        threads: Of a call.
        labels: Versions by label.
        traffic: Shares by label or version.
        parameters: Whatever else there is to say, as text.
        platform: What runs it.
    """

    name: str
    version_policy: VersionPolicy
    max_batch_size: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    batching: Batching | None
    instances: int = 1
    threads: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    platform: str = PLATFORM


@dataclass(frozen=True)
class IndexEntry:
    """A version of a model in the repository.

    Attributes:
        name: Of the model.
        version: Its number; empty for a model none of whose versions could be looked at.
        state: What it is in.
        reason: Why it is not ready.
    """

    name: str
    version: str
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Total:
    """How often something happened, and how long it took in sum, in nanoseconds."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True)
class BatchTotals:
    """Calls with one number of rows.

    Attributes:
        rows: Of requests in the batch.
        input: Putting batches together.
        infer: The calls.
        output: Taking batches apart.
    """

    rows: int
    input: Total
    infer: Total
    output: Total


@dataclass(frozen=True)
class VersionStatistics:
    """Counts of a version since it was first served; they outlive a reload.

    Attributes:
        name: Of the model.
        version: Its number.
        last_inference: When a request last ended, milliseconds since 1970; 0 if none has.
        rows: Answered.
        calls: Made.
        success: Requests answered, from arrival to end.
        fail: Requests that ended otherwise, refusals among them.
        queue: Waiting of requests answered.
        input: Of requests answered.
        infer: Of requests answered.
        output: Of requests answered.
        batches: Calls by their number of rows.
        failures: Requests that ended otherwise, by reason (see `graphc.serve.observer.Ended`).
        pending: Requests that wait now.
    """

    name: str
    version: str
    last_inference: int
    rows: int
    calls: int
    success: Total
    fail: Total
    queue: Total
    input: Total
    infer: Total
    output: Total
    batches: tuple[BatchTotals, ...]
    failures: Mapping[str, int]
    pending: int
