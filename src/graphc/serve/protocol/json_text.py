"""JSON from strangers: what it nests is counted before it is parsed."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import orjson

from graphc.errors import RequestError, RequestTooLargeError

# Possessive, and each match runs on to the end where a quote is missing: linear in the text whatever it holds.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


def check_depth(text: bytes, limit: int) -> None:
    """Holds the depth of lists and objects in JSON text against a limit, in linear time and without recursion.

    Raises:
        RequestTooLargeError: They nest deeper.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return
    brackets = _STRING.sub(b"", text).translate(None, _NO_BRACKETS)
    depth = np.cumsum(_STEP[np.frombuffer(brackets, np.uint8)], dtype=np.int32)
    if depth.size and depth.max() > limit:
        raise RequestTooLargeError(f"the JSON nests {depth.max()} deep, above the server's limit of {limit}")


def loads(text: bytes, depth: int) -> Any:
    """The value of JSON text; `NaN`, `Infinity` and `-Infinity` are numbers, as in other servers of the protocol.

    Raises:
        RequestError: Not JSON.
        RequestTooLargeError: It nests deeper than `depth`.
    """
    check_depth(text, depth)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if b"NaN" not in text and b"Infinity" not in text:
            raise RequestError(f"the body is not JSON: {error}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def loads_object(text: bytes, depth: int) -> dict[str, Any]:
    """The object that JSON text is; an empty text is an empty object.

    Raises:
        RequestError: Not JSON, or not an object.
        RequestTooLargeError: It nests deeper than `depth`.
    """
    if not text:
        return {}
    value = loads(text, depth)
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, got {_kind(value)}")
    return value


def dumps(value: Any) -> bytes:
    """JSON text of plain values and contiguous arrays.

    Raises:
        RequestError: A string in it is not Unicode.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise RequestError(f"the answer cannot be written as JSON: {error}", hint="ask for binary_data") from None


def raw(text: str) -> Any:
    """A value that is JSON text already."""
    return orjson.Fragment(text)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
