"""Frozen dataclasses to JSON and back, strictly: a wrong type, a missing or an unknown key is a `PackageError`.

The type hints of a dataclass are its schema. Understood: `int`, `str`, `bool`, `bytes` (base64), `None`,
`tuple[T, ...]`, `Mapping[str, T]`, unions of those, dataclasses, and unions of dataclasses told apart by their class
attribute `TAG`. A decoder is built once per type, so decoding costs a few calls per value.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from graphc.errors import PackageError

JsonValue = Any
_Decoder = Callable[[JsonValue, str], Any]
_TAG_KEY = "type"


def encode(value: Any) -> JsonValue:
    """The JSON value of a dataclass instance (or of anything that may stand in its fields)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        tag = getattr(value, "TAG", None)
        return fields if tag is None else {_TAG_KEY: tag, **fields}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(kind: Any, value: JsonValue, path: str) -> Any:
    """An instance of the dataclass `kind` from its JSON value.

    Args:
        kind: A frozen dataclass.
        value: What `json.loads` gave.
        path: Where `value` stands, for messages: `manifest.variants[0]`.

    Raises:
        PackageError: `value` does not fit the schema; names the place, what was expected and what was found.
    """
    return _decoder(kind)(value, path)


def _mismatch(path: str, expected: str, value: JsonValue) -> PackageError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return PackageError(f"{path}: expected {expected}, found {shown}", hint="the package is damaged; compile it again")


@cache
def _decoder(hint: Any) -> _Decoder:
    origin = get_origin(hint)
    if hint in _SCALARS:
        return _scalar(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint))
    if origin is tuple:
        return _tuple(_decoder(get_args(hint)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(_decoder(get_args(hint)[1]))
    raise TypeError(f"no JSON form for {hint!r}")


_SCALARS: dict[Any, str] = {
    int: "an integer",
    str: "a string",
    bool: "true or false",
    bytes: "base64 text",
    type(None): "null",
}


def _scalar(hint: Any) -> _Decoder:
    expected = _SCALARS[hint]

    def exact(value: JsonValue, path: str) -> Any:
        # `type(...) is`: a JSON true must not pass for the integer 1.
        if type(value) is not hint:
            raise _mismatch(path, expected, value)
        return value

    def base64_text(value: JsonValue, path: str) -> bytes:
        if type(value) is not str:
            raise _mismatch(path, expected, value)
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _mismatch(path, expected, value) from error

    return base64_text if hint is bytes else exact


def _tuple(item: _Decoder) -> _Decoder:
    def decoder(value: JsonValue, path: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _mismatch(path, "an array", value)
        return tuple([item(element, f"{path}[{index}]") for index, element in enumerate(value)])

    return decoder


def _mapping(item: _Decoder) -> _Decoder:
    def decoder(value: JsonValue, path: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise _mismatch(path, "an object", value)
        return {key: item(element, f"{path}[{key!r}]") for key, element in value.items()}

    return decoder


def _dataclass(kind: Any) -> _Decoder:
    hints = get_type_hints(kind)
    tag = getattr(kind, "TAG", None)
    fields = {
        field.name: (_decoder(hints[field.name]), field.default is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
    }

    def decoder(value: JsonValue, path: str) -> Any:
        if type(value) is not dict:
            raise _mismatch(path, f"an object ({kind.__name__})", value)
        unknown = value.keys() - fields.keys() - ({_TAG_KEY} if tag is not None else set())
        if unknown:
            raise PackageError(f"{path}: unknown key {min(unknown)!r} in {kind.__name__}")
        arguments = {}
        for name, (field_decoder, required) in fields.items():
            if name in value:
                arguments[name] = field_decoder(value[name], f"{path}.{name}")
            elif required:
                raise PackageError(f"{path}: key {name!r} of {kind.__name__} is missing")
        try:
            return kind(**arguments)
        except PackageError as error:
            raise PackageError(f"{path}: {error.message}", hint=error.hint) from error

    return decoder


def _union(members: tuple[Any, ...]) -> _Decoder:
    tagged = {member.TAG: _decoder(member) for member in members if hasattr(member, "TAG")}
    plain = [(member, _decoder(member)) for member in members if not hasattr(member, "TAG")]
    expected = " or ".join([_SCALARS.get(member, "an array or object") for member, _ in plain] + sorted(tagged))

    def decoder(value: JsonValue, path: str) -> Any:
        if tagged and type(value) is dict:
            tag = value.get(_TAG_KEY)
            if not isinstance(tag, str) or tag not in tagged:
                raise _mismatch(f"{path}.{_TAG_KEY}", " or ".join(sorted(tagged)), tag)
            return tagged[tag](value, path)
        for member, member_decoder in plain:
            if _may_be(member, value):
                return member_decoder(value, path)
        raise _mismatch(path, expected, value)

    return decoder


def _may_be(member: Any, value: JsonValue) -> bool:
    """Whether the JSON type of `value` picks `member` of a union."""
    if member is bytes:
        return type(value) is str
    if member in _SCALARS:
        return type(value) is member
    return type(value) is (list if get_origin(member) is tuple else dict)
