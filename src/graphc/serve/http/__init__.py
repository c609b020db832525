"""The protocol over HTTP: Starlette's routes on uvicorn, held to the server's limits."""

from __future__ import annotations

from graphc.serve.http.app import HttpApp
from graphc.serve.http.frontend import HttpFrontend

__all__ = ["HttpApp", "HttpFrontend"]
