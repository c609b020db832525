"""What is told of a model: from its manifest and its settings to facts."""

from __future__ import annotations

from graphc.package import OPTIONAL, Manifest, TensorSpec
from graphc.serve.catalog import Model, Serving
from graphc.serve.facts import Batching, ModelConfig, ModelMetadata, TensorFacts


def metadata(model: Model, serving: Serving) -> ModelMetadata:
    """Inputs and outputs of a version."""
    manifest = serving.manifest
    return ModelMetadata(
        model.name,
        tuple(map(str, model.ready)),
        tuple(map(tensor_facts, manifest.inputs)),
        tuple(map(tensor_facts, manifest.outputs)),
    )


def config(model: Model, serving: Serving, devices: int) -> ModelConfig:
    """How a version is served.

    Args:
        model: Whose it is.
        serving: The version.
        devices: Of the scheduler.
    """
    manifest, settings, served = serving.manifest, serving.file.serving, serving.served
    largest = max((queue.costs.largest for queue in served.queues), default=0) if batches_first(manifest) else 0
    batching = None
    if largest:
        batching = Batching(
            tuple(sorted({rows for queue in served.queues for rows in queue.costs.latencies})),
            settings.preferred_batch_sizes,
            settings.batch_timeout_micros / 1e6,
            settings.queue_limit,
            None if settings.slo_ms is None else settings.slo,
        )
    axis = 0 if largest else None
    return ModelConfig(
        model.name,
        model.file.versions,
        largest,
        tuple(tensor_facts(spec, without=axis) for spec in manifest.inputs),
        tuple(tensor_facts(spec, without=axis) for spec in manifest.outputs),
        batching,
        instances=devices if served.devices is None else len(served.devices),
        threads=serving.executable.threads,
        labels=model.file.labels,
        traffic=model.file.traffic,
        parameters={"isa": serving.executable.isa, "producer": manifest.producer, **manifest.versions},
    )


def tensor_facts(spec: TensorSpec, *, without: int | None = None) -> TensorFacts:
    """What is told of an input or output.

    Args:
        spec: Of the manifest.
        without: An axis that is left out.
    """
    extents = [extent if isinstance(extent, int) else -1 for extent in spec.shape]
    if without is not None:
        del extents[without]
    return TensorFacts(spec.name, spec.dtype, tuple(extents), spec.wraps[:1] == (OPTIONAL,))


def batches_first(manifest: Manifest) -> bool:
    """Whether requests share calls along the first axis of every input and output."""
    batch = manifest.batch
    return batch is not None and not any(batch.inputs) and not any(batch.outputs)
