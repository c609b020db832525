"""Ports of `graphc serve`: where HTTP and gRPC listen, who may ask there, and for how much."""

from __future__ import annotations

import argparse
import ipaddress
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.cli.common import natural, positive
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.serve import ModelServer
    from graphc.serve.protocol.access import Access
    from graphc.serve.protocol.settings import TraceSettings
    from graphc.serve.protocol.tls import Tls
    from graphc.serve.running import Frontend

_log = logging.getLogger(__name__)
_NAMES = {"http": "HTTP", "grpc": "gRPC"}


def add_ports(group: argparse._ArgumentGroup) -> None:
    """Where it listens."""
    for protocol, number in (("http", 8000), ("grpc", 8001)):
        group.add_argument(
            f"--{protocol}-port",
            type=natural,
            default=number,
            metavar="PORT",
            help=f"of the protocol over {_NAMES[protocol]}; 0 picks a free one (default: {number})",
        )
        group.add_argument(f"--no-{protocol}", action="store_true", help="listen on no such port")
    group.add_argument(
        "--admin-port",
        type=natural,
        metavar="PORT",
        help="of HTTP that may load and unload models, and change settings (default: none may)",
    )
    group.add_argument("--admin-grpc-port", type=natural, metavar="PORT", help="the same over gRPC")
    group.add_argument(
        "--admin-host", default="127.0.0.1", metavar="HOST", help="address of these two (default: 127.0.0.1)"
    )


def add_access(group: argparse._ArgumentGroup) -> None:
    """Who may ask for what."""
    group.add_argument("--tls-certificate", type=Path, metavar="FILE", help="speak TLS, with this certificate (PEM)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="of the certificate (PEM)")
    group.add_argument(
        "--tls-client-authority",
        type=Path,
        metavar="FILE",
        help="let in clients alone whose certificates this authority signed (PEM)",
    )
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="let in clients alone that send one of these bearer tokens"
    )
    group.add_argument(
        "--admin-token-file", type=Path, metavar="FILE", help="the same at the admin ports (default: --token-file)"
    )
    group.add_argument(
        "--allow-shared-memory", action="store_true", help="let clients on this machine pass tensors in /dev/shm"
    )
    group.add_argument(
        "--max-body", type=positive, default=256, metavar="MB", help="of a request, decompressed (default: 256)"
    )
    group.add_argument(
        "--max-connections", type=positive, default=4096, metavar="N", help="open at a time, a port (default: 4096)"
    )
    group.add_argument(
        "--grpc-compression",
        choices=("none", "deflate", "gzip"),
        default="none",
        help="of answers over gRPC; over HTTP clients say (default: none)",
    )


def make_frontends(server: ModelServer, trace: TraceSettings, options: argparse.Namespace) -> list[Frontend]:
    """What listens, as the options say.

    Raises:
        OptionError: Options that exclude each other or belong together, or a token file that cannot be used.
    """
    from graphc.serve.grpc import GrpcFrontend
    from graphc.serve.http import HttpFrontend
    from graphc.serve.protocol.limits import RequestLimits
    from graphc.serve.protocol.service import Service
    from graphc.serve.protocol.shared_memory import SharedMemory

    body = options.max_body * 1_000_000
    # Four of the largest at least: of one that is compressed, both forms are held.
    held = max(RequestLimits.held_bytes, 4 * body)
    service = Service(
        server,
        RequestLimits(body_bytes=body, held_bytes=held, connections=options.max_connections),
        SharedMemory(allowed=options.allow_shared_memory),
        trace=trace,
    )
    tls = _tls(options)
    open_to_all, control = _access(options)
    known = tls is not None and tls.client_authority is not None
    for host, access in ((options.host, open_to_all), (options.admin_host, control)):
        if access.tokens is None and not known and not _is_local(host):
            _log.warning("whoever reaches %s may ask: --token-file or --tls-client-authority say who", host)
    compression = options.grpc_compression
    found: list[Frontend] = []
    if not options.no_http:
        found.append(HttpFrontend(service, options.host, options.http_port, access=open_to_all, tls=tls))
    if not options.no_grpc:
        found.append(
            GrpcFrontend(service, options.host, options.grpc_port, access=open_to_all, tls=tls, compression=compression)
        )
    host = options.admin_host
    if options.admin_port is not None:
        found.append(HttpFrontend(service, host, options.admin_port, access=control, tls=tls))
    if options.admin_grpc_port is not None:
        found.append(
            GrpcFrontend(service, host, options.admin_grpc_port, access=control, tls=tls, compression=compression)
        )
    return found


def _tls(options: argparse.Namespace) -> Tls | None:
    from graphc.serve.protocol.tls import Tls

    certificate, key = options.tls_certificate, options.tls_key
    if certificate is None and key is None:
        if options.tls_client_authority is not None:
            raise OptionError("--tls-client-authority is for a server that speaks TLS", hint="give --tls-certificate")
        return None
    if certificate is None or key is None:
        raise OptionError("--tls-certificate and --tls-key belong together")
    return Tls(certificate, key, options.tls_client_authority)


def _access(options: argparse.Namespace) -> tuple[Access, Access]:
    """Of the ports for all, and of those that control the server."""
    from graphc.serve.protocol.access import Access, Tokens

    tokens = None if options.token_file is None else Tokens.read(options.token_file)
    control = tokens if options.admin_token_file is None else Tokens.read(options.admin_token_file)
    return Access(tokens), Access(control, control=True)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
