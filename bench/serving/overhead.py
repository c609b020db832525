"""What a call over gRPC costs: a model that takes next to no time, beside a handler that does nothing."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.serving.claims import Claim
from bench.serving.models import place, scale
from bench.serving.processes import graphc_server, load, server
from graphc.cli.table import table
from graphc.testing.compare import format_seconds


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures: one client that asks again when it has its answer, in turns."""
    rounds, seconds = (2, 1.0) if quick else (7, 3.0)
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        progress("compiling")
        place(Path(folder) / "models", "scale", 1, scale(Path(folder), 2.0))
        reports: dict[str, list[dict[str, Any]]] = {"graphc": [], "empty": []}
        command = [sys.executable, "-m", "bench.serving.overhead"]
        with graphc_server(Path(folder) / "models") as ours, server(command, r"ready: (?P<grpc>\S+)") as empty:
            for number in range(rounds):
                progress(f"round {number + 1} of {rounds}")
                for name, running in (("graphc", ours), ("empty", empty)):
                    options = ("--model", "scale", "--kind", "grpc", "--clients", "1", "--seconds", str(seconds))
                    reports[name].append(load(running.ready["grpc"], *options))
    medians = {name: [each["latency"]["p50"] for each in given] for name, given in reports.items()}
    ratios = [ours / theirs for ours, theirs in zip(medians["graphc"], medians["empty"], strict=True)]
    return {"p50": {name: min(values) for name, values in medians.items()}, "ratio": statistics.median(ratios)}


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [(name, format_seconds(value)) for name, value in results["p50"].items()]
    return f"{table(('over gRPC', 'p50'), rows)}\n\n{results['ratio']:.2f} times the empty handler's, median of rounds"


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    return [Claim("a trivial model's P50 over gRPC, over an empty handler's", results["ratio"], "at most", 1.5, "x")]


async def empty() -> None:
    """Serves a handler that answers every request with the same empty message."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    class Empty(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ModelInferResponse()

        async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            answer = service_pb2.ModelMetadataResponse(name=request.name)
            answer.inputs.add(name="x", datatype="FP32", shape=[-1, 16])
            return answer

    listening = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Empty(), listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    print(f"ready: 127.0.0.1:{port}", flush=True)
    await listening.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(empty())
