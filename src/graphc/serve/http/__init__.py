"""The protocol over HTTP: uvicorn's connections answer inference themselves, Starlette's routes all else."""

from __future__ import annotations

from graphc.serve.http.app import HttpApp
from graphc.serve.http.frontend import HttpFrontend

__all__ = ["HttpApp", "HttpFrontend"]
