"""The module that a kernel's function stands in: a template filled in, with the helpers that it calls before it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

_FOLDER = "graphc.codegen_templates"

_HEADER = """import triton
import triton.language as tl
from triton.language.extra import libdevice
"""


def render_module(template: str, functions: Iterable[str], **facts: Any) -> str:
    """The text of a module.

    Args:
        template: Name of the template of the kernel's function, `<template>.py.j2`.
        functions: Names of the helpers that it calls.
        facts: What the template asks for.
    """
    text = _environment().get_template(f"{template}.py.j2").render(**facts)
    return "\n\n".join(
        [_HEADER.rstrip() + "\n", *(f"{helper}\n" for helper in _helpers(functions)), text.strip() + "\n"]
    )


def template_text(name: str) -> str:
    """The source of a template.

    Args:
        name: Of its file.
    """
    return resources.files(_FOLDER).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(template_text),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


@cache
def _library() -> dict[str, tuple[str, frozenset[str]]]:
    """Text of each helper, and the names in it, in the order of the file."""
    source = template_text("functions.py.j2")
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.FunctionDef), f"line {node.lineno} of functions.py.j2 is no function"
        start = min(decorator.lineno for decorator in node.decorator_list) - 1
        names = frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
        found[node.name] = ("\n".join(lines[start : node.end_lineno]), names)
    return found


def _helpers(names: Iterable[str]) -> list[str]:
    """Texts of helpers and of those that they call, each before who calls it."""
    library = _library()
    needed: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += [other for other in library[name][1] if other in library and other != name]
    return [text for name, (text, _) in library.items() if name in needed]
