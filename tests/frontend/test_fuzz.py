"""Damaged models: thousands of random edits, each of which must end in a graph or in a typed error."""

from __future__ import annotations

import random
import resource
import time
import warnings
from typing import Any

import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from graphc.errors import GraphcError
from graphc.frontend import export_model, import_model
from tests.frontend.models import chain
from tests.frontend.test_importer import function_model, loop_model, nested

SEED = 20240607
SECONDS = 2
MEGABYTES = 400

TEXTS = ("", "x", "y", "w", "If", "Loop", "Conv", "axis", "to", "batch", "a+b", "ai.onnx.ml", "../x", "é")
NUMBERS = (0, 1, -1, 2, 7, 16, 28, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 62), (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e38)


def own_models() -> list[bytes]:
    return [proto.SerializeToString() for proto in (chain(), loop_model(), function_model(), nested(3))]


def onnx_models(*kinds: str) -> list[bytes]:
    """Models of ONNX's own suite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for kind in kinds for case in load_model_tests(kind=kind)]
    return [case.model.SerializeToString() for case in cases if case.model is not None]


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, drops, repeats and inserts bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(found) + 1)
        edit = rng.randrange(4)
        if edit == 0 and place < len(found):
            found[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif edit == 1:
            del found[place : place + rng.choice((1, 2, 16, 256))]
        elif edit == 2:
            found[place:place] = found[rng.randrange(len(found) + 1) :][: rng.choice((1, 8, 64))]
        else:
            found[place:place] = rng.randbytes(rng.choice((1, 4)))
    return bytes(found)


def damage_fields(data: bytes, rng: random.Random) -> bytes:
    """Clears, repeats, swaps and overwrites fields, so that the file still parses."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        spots: list[tuple[Any, Any]] = []
        collect(model, spots)
        message, field = rng.choice(spots)
        if rng.random() < 0.15:
            message.ClearField(field.name)
            continue
        if field.is_repeated:
            items = getattr(message, field.name)
            index = rng.randrange(len(items))
            edit = rng.randrange(3)
            if edit == 0:
                del items[index]
            elif field.message_type is None:
                items[index] = scalar(field, spots, rng)
            elif edit == 1:
                items.add().CopyFrom(items[index])
            else:
                items[index].CopyFrom(rng.choice(items))
        elif field.message_type is not None:
            getattr(message, field.name).Clear()
        else:
            value = scalar(field, spots, rng)
            if field.type != field.TYPE_ENUM or value in field.enum_type.values_by_number:
                setattr(message, field.name, value)
    return model.SerializeToString()


def collect(message: Any, spots: list[tuple[Any, Any]]) -> None:
    for field, value in message.ListFields():
        spots.append((message, field))
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                collect(inner, spots)


def scalar(field: Any, spots: list[tuple[Any, Any]], rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        names = [getattr(m, f.name) for m, f in spots if f.type == f.TYPE_STRING and not f.is_repeated]
        return rng.choice((*TEXTS, *names[:100]))
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\xff\xfe", b"abcd" * 4, b"reflect"))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    limit = 31 if field.type in (field.TYPE_INT32, field.TYPE_ENUM) else 63
    low = 0 if field.type == field.TYPE_UINT64 else -(1 << limit)
    return rng.choice([number for number in NUMBERS if low <= number < 1 << limit])


def hammer(models: list[bytes], damage: Any, rounds: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    counts: dict[str, int] = {}
    for _ in range(rounds):
        data = damage(rng.choice(models), rng)
        start = time.monotonic()
        try:
            export_model(import_model(data))
            outcome = "graph"
        except GraphcError as error:
            outcome = type(error).__name__
            assert str(error)
        counts[outcome] = counts.get(outcome, 0) + 1
        assert time.monotonic() - start < SECONDS
    return counts


@pytest.mark.parametrize("damage", [damage_bytes, damage_fields], ids=["bytes", "fields"])
@pytest.mark.parametrize(
    ("kinds", "rounds"),
    [(("simple",), 1500), pytest.param(("simple", "node"), 30000, marks=pytest.mark.slow)],
    ids=["short", "long"],
)
def test_damage_ends_in_a_graph_or_a_typed_error(damage: Any, kinds: tuple[str, ...], rounds: int) -> None:
    models = own_models() + onnx_models(*kinds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = hammer(models, damage, rounds, SEED)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
    assert counts.get("ModelError", 0) > rounds // 10 and counts.get("graph", 0) > rounds // 50
