"""`python -m bench.serving.load`: puts a server under load, from a process of its own, and says what came back.

When each request is due is fixed in advance, and its latency counts from then: a server that stalls for a second
delays all requests of that second, and they all show it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt

from bench.serving.generator import QUANTILES, Limits, Report, Tally, keep_busy, offer, schedule
from bench.serving.senders import (
    GrpcSender,
    HttpSender,
    Inputs,
    Members,
    Same,
    Sender,
    binary_bodies,
    binary_outputs,
    grpc_bodies,
    grpc_outputs,
    json_bodies,
    upload_bodies,
)
from graphc.cli.table import table
from graphc.testing.compare import format_seconds


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.cpus is not None:
            os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})
        sender = _sender(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    limits = Limits(options.timeout, options.in_flight)
    if options.clients is not None:
        tally = _run(keep_busy(sender, options.clients, options.seconds, limits))
    else:
        due = schedule(options.arrivals, options.rate, options.seconds, options.seed)
        tally = _run(offer(sender, due, limits))
    report = tally.report()
    print(json.dumps(asdict(report)) if options.json else text(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python -m bench.serving.load http://127.0.0.1:8000 --model m --rate 200 --seconds 10
  python -m bench.serving.load 127.0.0.1:8001 --kind grpc --model m --rate 200 --seconds 10 --json
  python -m bench.serving.load http://127.0.0.1:8080/classify --file page.jpg --rate 100 --seconds 30 --cpus 1
  python -m bench.serving.load http://127.0.0.1:8000 --model m --clients 16 --seconds 10""",
    )
    parser.add_argument("url", metavar="URL", help="of the server; of the form's address, for uploads")
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--rate", type=float, help="requests a second, whether answers come or not")
    pace.add_argument("--clients", type=int, help="instead: clients that wait for each answer before they ask again")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (default: %(default)s)")
    parser.add_argument("--kind", choices=("binary", "json", "grpc", "upload"), help="default: binary, or upload")
    parser.add_argument("--model", help="its name on the server")
    parser.add_argument("--dims", default="", metavar="X=1,3", help="shapes of inputs with open dimensions, by ';'")
    parser.add_argument("--inputs", type=Path, nargs="+", metavar="NPZ", help="inputs of requests; random by default")
    parser.add_argument("--file", type=Path, nargs="+", help="files to upload, in turns")
    parser.add_argument("--expect", nargs="+", metavar="JSON", help="members that the answer to each file must have")
    parser.add_argument("--field", default="file", help="of the form (default: %(default)s)")
    parser.add_argument("--distinct", type=int, default=8, help="different random requests (default: %(default)s)")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds of a request (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=4096, help="requests at most (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="kept open at most (default: %(default)s)")
    parser.add_argument("--cpus", metavar="0,1", help="processors that the generator runs on")
    parser.add_argument("--json", action="store_true")
    return parser


def _sender(options: argparse.Namespace) -> Sender:
    kind = options.kind or ("upload" if options.file else "binary")
    if kind == "upload":
        if not options.file:
            raise ValueError("--file is missing: what to upload")
        bodies = upload_bodies([(path.name, path.read_bytes()) for path in options.file], options.field)
        members = Members([json.loads(each) for each in options.expect]) if options.expect else None
        if options.expect and len(options.expect) != len(options.file):
            raise ValueError(f"{len(options.expect)} answers for {len(options.file)} files")
        return HttpSender(options.url, bodies, connections=options.connections, check=members)
    if options.model is None:
        raise ValueError("--model is missing: which model of the server to ask")
    if options.inputs:
        requests: list[Inputs] = [dict(np.load(path)) for path in options.inputs]
    else:
        metadata = _metadata(options.url, options.model, grpc=kind == "grpc")
        dims = dict(part.split("=", 1) for part in options.dims.split(";") if part)
        rng = np.random.default_rng(options.seed)
        requests = [random_inputs(metadata, dims, rng) for _ in range(options.distinct)]
    if kind == "grpc":
        bodies = grpc_bodies(options.model, requests)
        return GrpcSender(options.url, bodies, channels=min(4, options.connections), check=Same(grpc_outputs))
    url = f"{options.url.rstrip('/')}/v2/models/{options.model}/infer"
    bodies, check = (
        (json_bodies(requests), Same()) if kind == "json" else (binary_bodies(requests), Same(binary_outputs))
    )
    return HttpSender(url, bodies, connections=options.connections, check=check)


def _metadata(url: str, model: str, grpc: bool) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each input."""
    if grpc:
        from tritonclient.grpc import InferenceServerClient
        from tritonclient.utils import InferenceServerException

        try:
            with InferenceServerClient(url) as client:
                return [(i.name, i.datatype, list(i.shape)) for i in client.get_model_metadata(model).inputs]
        except InferenceServerException as error:
            raise ValueError(f"{url}: {error}") from error
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is no address of an HTTP server; expected http://HOST:PORT")
    with urlopen(f"{url.rstrip('/')}/v2/models/{model}") as response:
        return [(i["name"], i["datatype"], i["shape"]) for i in json.load(response)["inputs"]]


def random_inputs(
    metadata: Sequence[tuple[str, str, list[int]]], dims: dict[str, str], rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """Inputs as a model's metadata describes them; open dimensions are 1 unless `dims` says otherwise."""
    from tritonclient.utils import triton_to_np_dtype

    inputs = {}
    for name, datatype, shape in metadata:
        extents = [int(d) for d in dims[name].split(",")] if name in dims else [max(1, d) for d in shape]
        dtype = np.dtype(triton_to_np_dtype(datatype))
        values = rng.integers(0, 2, extents) if dtype.kind in "iub" else rng.standard_normal(extents)
        inputs[name] = values.astype(dtype)
    return inputs


def _run(load: Coroutine[Any, Any, Tally]) -> Tally:
    """Runs on uvloop where it is installed, which takes less of a processor."""
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ModuleNotFoundError):
        from uvloop import new_event_loop as loop
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(load)


def text(report: Report) -> str:
    """A report as tables."""
    cells = [(name, *map(format_seconds, values.values())) for name, values in _quantile_rows(report)]
    head = ("", *(f"p{100 * q:g}" for q in QUANTILES), "max")
    outcomes = "\n".join(f"  {count:>8} {name}" for name, count in report.outcomes.items())
    return (
        f"{report.offered} requests in {report.seconds:.1f} s, {report.rate:.1f} answered a second\n{outcomes}\n\n"
        f"{table(head, cells)}\n\nthe generator took {report.cpu_share:.0%} of a processor"
    )


def _quantile_rows(report: Report) -> list[tuple[str, dict[str, float]]]:
    return [(name, values) for name, values in (("latency", report.latency), ("sent late by", report.lag)) if values]


if __name__ == "__main__":
    sys.exit(main())
