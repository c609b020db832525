"""What the server tells about its models, in the protocol's words: JSON for HTTP, and the same fields for gRPC."""

from __future__ import annotations

from typing import Any

from graphc.serve.facts import IndexEntry, ModelConfig, ModelMetadata, TensorFacts, Total, VersionStatistics
from graphc.serve.protocol.datatypes import BYTES, NAMES, datatype_of_name

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "trace",
)


def describe_model(metadata: ModelMetadata) -> dict[str, Any]:
    """A ModelMetadataResponse."""
    return {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": [_tensor(facts) for facts in metadata.inputs],
        "outputs": [_tensor(facts) for facts in metadata.outputs],
    }


def _tensor(facts: TensorFacts) -> dict[str, Any]:
    return {"name": facts.name, "datatype": datatype_of_name(facts.dtype), "shape": list(facts.shape)}


def describe_config(config: ModelConfig) -> dict[str, Any]:
    """A ModelConfig of `model_config.proto`."""
    policy = config.version_policy
    found: dict[str, Any] = {
        "name": config.name,
        "platform": config.platform,
        "backend": config.platform,
        "version_policy": {
            "latest": {"latest": {"num_versions": policy.count}},
            "all": {"all": {}},
            "specific": {"specific": {"versions": list(policy.versions)}},
        }[policy.kind],
        "max_batch_size": config.max_batch_size,
        "input": [_configured(facts) for facts in config.inputs],
        "output": [_configured(facts) for facts in config.outputs],
        "instance_group": [{"name": f"{config.name}_0", "kind": "KIND_CPU", "count": config.instances}],
    }
    for entry, facts in zip(found["input"], config.inputs, strict=True):
        if facts.optional:
            entry["optional"] = True
    batching = config.batching
    if batching is not None:
        queue: dict[str, Any] = {"allow_timeout_override": True}
        if batching.queue_size is not None:
            queue["max_queue_size"] = batching.queue_size
        if batching.timeout is not None:
            queue["default_timeout_microseconds"] = round(batching.timeout * 1e6)
        found["dynamic_batching"] = {
            "preferred_batch_size": list(batching.preferred),
            "max_queue_delay_microseconds": round(batching.delay * 1e6),
            "default_queue_policy": queue,
        }
    texts = {"threads": str(config.threads), **config.parameters}
    if batching is not None and batching.sizes:
        texts["batch_sizes"] = ",".join(map(str, batching.sizes))
    texts |= {f"label.{label}": str(version) for label, version in config.labels.items()}
    texts |= {f"traffic.{name}": f"{share:g}" for name, share in config.traffic.items()}
    found["parameters"] = {key: {"string_value": text} for key, text in texts.items()}
    return found


def _configured(facts: TensorFacts) -> dict[str, Any]:
    datatype = datatype_of_name(facts.dtype)
    kind = "STRING" if datatype == BYTES else datatype if datatype in NAMES else "INVALID"
    return {"name": facts.name, "data_type": f"TYPE_{kind}", "dims": list(facts.shape)}


def describe_statistics(versions: tuple[VersionStatistics, ...]) -> dict[str, Any]:
    """A ModelStatisticsResponse."""
    nothing = {"count": 0, "ns": 0}
    return {
        "model_stats": [
            {
                "name": found.name,
                "version": found.version,
                "last_inference": found.last_inference,
                "inference_count": found.rows,
                "execution_count": found.calls,
                "inference_stats": {
                    "success": _total(found.success),
                    "fail": _total(found.fail),
                    "queue": _total(found.queue),
                    "compute_input": _total(found.input),
                    "compute_infer": _total(found.infer),
                    "compute_output": _total(found.output),
                    "cache_hit": nothing,
                    "cache_miss": nothing,
                },
                "batch_stats": [
                    {
                        "batch_size": batch.rows,
                        "compute_input": _total(batch.input),
                        "compute_infer": _total(batch.infer),
                        "compute_output": _total(batch.output),
                    }
                    for batch in found.batches
                ],
                "memory_usage": [],
                "response_stats": {},
            }
            for found in versions
        ]
    }


def _total(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}


def describe_index(entries: tuple[IndexEntry, ...]) -> list[dict[str, str]]:
    """The models of a RepositoryIndexResponse."""
    return [
        {"name": entry.name, "version": entry.version, "state": entry.state.value, "reason": entry.reason}
        for entry in entries
    ]
