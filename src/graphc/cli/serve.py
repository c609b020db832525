"""`graphc serve`: the models of a repository, over the network."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.cli.common import add_threads, natural, positive, positive_number
from graphc.cli.serve_ports import add_access, add_ports, make_frontends
from graphc.errors import OptionError, ToolchainError

if TYPE_CHECKING:
    from graphc.serve import ModelServer, ServerSettings
    from graphc.serve.observe.watching import Watching
    from graphc.serve.running import Frontend

DESCRIPTION = """Serve the models of a repository: folders MODEL/VERSION/ that hold a package, or an ONNX model, which
is compiled when it is loaded. A new version is loaded, tried and warmed before it takes over; a bad one leaves the old
one serving. Listens on this machine alone unless --host says otherwise.

Packages hold machine code: serve only folders that you trust, or --compile-only, which takes ONNX models alone."""

EXAMPLES = """
  graphc serve models                          HTTP on port 8000, gRPC on 8001, metrics on 8002
  graphc serve models --slo-ms 50              answer within 50 ms, refuse at once what cannot be
  graphc serve models --mode explicit --load-model mnist
  graphc serve models --host 0.0.0.0           for other machines too
"""


_SWITCH_SECONDS = 0.0001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("repository", metavar="REPOSITORY", type=Path, help="folder of models, each of versions")
    _add_repository(parser.add_argument_group("repository"))
    _add_scheduling(parser.add_argument_group("scheduling"))
    _add_network(parser.add_argument_group("network"))
    add_access(parser.add_argument_group("access"))
    _add_observing(parser.add_argument_group("seeing it"))


def _add_repository(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mode",
        choices=("none", "poll", "explicit"),
        default="poll",
        help="poll: follow what changes (default); explicit: load and unload on request; none: what is there at start",
    )
    group.add_argument(
        "--poll-seconds", type=positive_number, default=1.0, metavar="S", help="between two looks (default: 1)"
    )
    group.add_argument(
        "--load-model",
        action="append",
        default=[],
        metavar="NAME",
        dest="models",
        help="with --mode explicit: load this one at the start (again for others)",
    )
    group.add_argument("--compile-only", action="store_true", help="refuse packages: compile every model here")
    group.add_argument("--exit-on-error", action="store_true", help="end where a model does not load at the start")


def _add_scheduling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slo-ms", type=positive_number, metavar="MS", help="answer within this, or refuse at once (default: none)"
    )
    group.add_argument("--devices", type=positive, default=1, metavar="N", help="batches that run at once (default: 1)")
    add_threads(group)
    group.add_argument(
        "--memory-limit", type=positive, metavar="MB", help="of weights and intermediate values of all models"
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add_ports(group)
    group.add_argument("--grace", type=natural, default=30, metavar="S", help="seconds to end in (default: 30)")


def _add_observing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--metrics-port",
        type=natural,
        default=8002,
        metavar="PORT",
        help="of /metrics for Prometheus and of the status page; 0 picks a free one (default: 8002)",
    )
    group.add_argument("--no-metrics", action="store_true", help="listen on no such port")
    group.add_argument("--log-format", choices=("text", "json"), default="text", help="of lines (default: text)")
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="the least that is said; debug tells of every request (default: info)",
    )
    group.add_argument(
        "--audit-log", type=Path, metavar="FILE", help="append who asked for what, with hashes of inputs and outputs"
    )
    group.add_argument("--audit-mb", type=positive, default=256, metavar="MB", help="of a file of it (default: 256)")
    group.add_argument("--audit-keep", type=natural, metavar="N", help="old files of it (default: all)")
    group.add_argument(
        "--audit-failure",
        choices=("refuse", "warn"),
        default="refuse",
        help="what to do with requests while it cannot be written (default: refuse)",
    )


def run(options: argparse.Namespace) -> int:
    """Serves until told to end."""
    try:
        import uvloop
    except ModuleNotFoundError as error:
        raise ToolchainError(f"{error.name!r} is not installed", hint="pip install 'graphc[serve]'") from error
    from graphc.serve.observe import logs

    settings = _settings(options)
    # A compile is a process of its own: gRPC need not be ready to go on in it, and would complain that it is not.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # A thread that loads a model holds the interpreter for as long before it lets a request have it.
    sys.setswitchinterval(_SWITCH_SECONDS)
    handler = logs.configure(options.log_format, options.log_level)
    try:
        watching = _watching(options)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(settings, watching, options))
        finally:
            watching.close()
    finally:
        logs.remove(handler)
    return 0


async def _serve(settings: ServerSettings, watching: Watching, options: argparse.Namespace) -> None:
    from graphc.serve import ModelServer
    from graphc.serve.running import run as run_server

    server = ModelServer(settings, watching.observers)
    await run_server(server, _frontends(server, watching, options), grace=options.grace)


def _settings(options: argparse.Namespace) -> ServerSettings:
    from graphc.runtime.scheduler import ModelSettings
    from graphc.serve import ServerSettings

    if options.models and options.mode != "explicit":
        raise OptionError("--load-model is for --mode explicit; otherwise all models are loaded")
    return ServerSettings(
        options.repository,
        mode=options.mode,
        poll_seconds=options.poll_seconds,
        models=tuple(options.models),
        model=ModelSettings(slo_ms=options.slo_ms),
        devices=options.devices,
        threads=options.threads,
        memory_limit=None if options.memory_limit is None else options.memory_limit * 1_000_000,
        compile_only=options.compile_only,
        exit_on_error=options.exit_on_error,
    )


def _watching(options: argparse.Namespace) -> Watching:
    """Who watches: metrics, traces, logs, audits."""
    from graphc.serve.observe.audit import AuditLog
    from graphc.serve.observe.watching import Watching

    if options.audit_log is None:
        return Watching()
    audit = AuditLog(
        options.audit_log,
        max_bytes=options.audit_mb * 1_000_000,
        keep=options.audit_keep,
        on_failure=options.audit_failure,
    )
    return Watching(audit)


def _frontends(server: ModelServer, watching: Watching, options: argparse.Namespace) -> list[Frontend]:
    """What listens."""
    frontends = make_frontends(server, watching.trace_settings, options)
    if not options.no_metrics:
        frontends.append(watching.endpoint(server, host=options.host, port=options.metrics_port))
    return frontends
