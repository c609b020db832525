"""Serves compiled models: a repository of versions, whatever protocols ask for them, and who watches."""

from __future__ import annotations

from graphc.serve.core import ModelServer
from graphc.serve.facts import (
    Batching,
    BatchTotals,
    IndexEntry,
    ModelConfig,
    ModelMetadata,
    State,
    TensorFacts,
    Total,
    VersionPolicy,
    VersionStatistics,
)
from graphc.serve.observer import Changed, Ended, Observer, reason_of
from graphc.serve.request import Client, InferRequest, InferResponse, Timings
from graphc.serve.settings import ServerSettings

__all__ = [
    "BatchTotals",
    "Batching",
    "Changed",
    "Client",
    "Ended",
    "IndexEntry",
    "InferRequest",
    "InferResponse",
    "ModelConfig",
    "ModelMetadata",
    "ModelServer",
    "Observer",
    "ServerSettings",
    "State",
    "TensorFacts",
    "Timings",
    "Total",
    "VersionPolicy",
    "VersionStatistics",
    "reason_of",
]
