"""Damaged and hostile models, made out of good ones: bytes, fields, names, extents, nesting, files beside the model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from graphc.testing.hostile.wiretree import LENGTH, VARINT, Field, Tree, field_number, parse, serialize, walk

TEXTS = (
    *(b"", b"x", b"y", b"w", b"axis", b"to", b"batch", b"a+b", b"2*n", b"ai.onnx.ml", b"com.microsoft", b"\xff\xfe"),
    *(b"If", b"Loop", b"Scan", b"Conv", b"Reshape", b"Cast", b"ConstantOfShape", b"Tile", b"Range", b"Einsum", b"Pad"),
    *("é".encode(), b"\x00", b"a" * 5000, b"reflect", b"linear", b"NOTSET", b"ij,jk->ik", b"..."),
)
PATHS = (b"../../../../etc/passwd", b"/etc/passwd", b"/dev/zero", b"/proc/self/mem", b".", b"", b"a/../../b", b"x\x00y")
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 8, 11, 16, 27, 28, 29, 255, 256, 65536, 10**6, 1 << 24, (1 << 31) - 1, 1 << 31, -(1 << 31)),
    *(1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63), -(1 << 63) + 1),
)
DEPTHS = (2, 10, 49, 60, 120, 400)
_GRAPH, _NODE, _ATTRIBUTE, _TENSOR = "onnx.GraphProto", "onnx.NodeProto", "onnx.AttributeProto", "onnx.TensorProto"
_LARGEST_NESTED = 1 << 17
_EXTENTS = frozenset(
    {"dims", "dim_value", "data_type", "elem_type", "i", "ints", "version", "int64_data", "int32_data"}
)


def mutate(model: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A damaged model.

    Args:
        model: A valid one.
        others: Valid ones that parts may come from.
        rng: Where the choices come from.
    """
    if rng.random() < 0.2:
        return damage_bytes(model, rng)
    tree = parse(model)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_EDITS)(tree, others, rng)
    content = serialize(tree)
    return damage_bytes(content, rng) if rng.random() < 0.05 else content


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, drops, repeats, inserts or cuts off bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(found) + 1)
        edit = rng.randrange(5)
        if edit == 0 and place < len(found):
            found[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif edit == 1:
            del found[place : place + rng.choice((1, 2, 16, 256))]
        elif edit == 2:
            found[place:place] = found[rng.randrange(len(found) + 1) :][: rng.choice((1, 8, 64))]
        elif edit == 3:
            found[place:place] = rng.randbytes(rng.choice((1, 4)))
        elif rng.random() < 0.3:
            del found[place:]
    return bytes(found)


def _pick(tree: Tree, rng: random.Random, wanted: Callable[[Field], bool] = lambda field: True) -> Field | None:
    found = [field for _, field in walk(tree) if wanted(field)]
    return rng.choice(found) if found else None


def _drop(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    holder, field = rng.choice(list(walk(tree)))
    holder.remove(field)


def _repeat(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    holder, field = rng.choice(list(walk(tree)))
    for _ in range(rng.choice((1, 1, 1, 50))):
        holder.insert(rng.randrange(len(holder) + 1), field.copy())


def _shuffle(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    holder, _ = rng.choice(list(walk(tree)))
    rng.shuffle(holder)


def _number(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    if field := _pick(tree, rng, lambda field: field.wire == VARINT):
        field.value = rng.choice(NUMBERS)


def _extent(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    if field := _pick(tree, rng, lambda field: field.wire == VARINT and field.name in _EXTENTS):
        field.value = rng.choice(NUMBERS)


def _packed(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    """Bytes of numbers: raw data and packed fields."""
    if field := _pick(tree, rng, lambda field: isinstance(field.value, bytes) and bool(field.value)):
        assert isinstance(field.value, bytes)
        width = rng.choice((1, 4, 8))
        place = rng.randrange(len(field.value)) // width * width
        number = rng.choice(NUMBERS) & (1 << 8 * width) - 1
        field.value = field.value[:place] + number.to_bytes(width, "little") + field.value[place + width :]


def _is_text(field: Field) -> bool:
    return field.wire == LENGTH and isinstance(field.value, bytes)


def _text(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    if field := _pick(tree, rng, _is_text):
        field.value = rng.choice(TEXTS)


def _rename(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    """A name becomes another name of the model: cycles, values made twice, values read before they are made."""
    names = {"input", "output", "name", "op_type", "domain", "dim_param", "s"}
    field = _pick(tree, rng, lambda field: _is_text(field) and field.name in names)
    other = _pick(tree, rng, lambda field: _is_text(field) and field.name in names)
    if field and other:
        field.value = other.value


def _splice(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    """A message takes the place of another of its kind, or stands beside it."""
    field = _pick(tree, rng, lambda field: isinstance(field.value, list))
    if field is None:
        return
    source = parse(rng.choice(others)) if others and rng.random() < 0.7 else tree
    other = _pick(source, rng, lambda candidate: candidate.inner == field.inner and isinstance(candidate.value, list))
    if other is not None:
        field.value = other.copy().value


def _retype(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    _, field = rng.choice(list(walk(tree)))
    if rng.random() < 0.5:
        field.wire = rng.choice((0, 1, 2, 3, 4, 5, 6, 7))
    else:
        field.number = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 9, 14, 20, 1 << 28))


def _lie(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    if field := _pick(tree, rng, lambda field: field.wire == LENGTH):
        field.lie = rng.choice((-1, 1, -5, 100, 1 << 31, 1 << 62))


def _nest(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    """A graph goes into a branch of an If in a graph, or into both branches, and so on."""
    field = _pick(tree, rng, lambda field: field.inner == _GRAPH and isinstance(field.value, list))
    if field is None:
        return
    assert isinstance(field.value, list)
    content = serialize(field.value)
    branches = (b"then_branch", b"else_branch")[: rng.choice((1, 1, 1, 2))]
    kind = Field(_ATTRIBUTE, field_number(_ATTRIBUTE, "type"), VARINT, 5)
    named = [_bytes(_NODE, name, text) for name, text in (("op_type", b"If"), ("input", b"c"), ("output", b"y"))]
    for _ in range(rng.choice(DEPTHS)):
        if len(content) > _LARGEST_NESTED:
            break
        graph = _bytes(_ATTRIBUTE, "g", content)
        attributes = [
            _message(_NODE, "attribute", [_bytes(_ATTRIBUTE, "name", branch), graph, kind]) for branch in branches
        ]
        content = serialize([_message(_GRAPH, "node", [*named, *attributes])])
    # As bytes: a tree as deep as this would be too deep for Python's stack.
    field.value = content


def _external(tree: Tree, others: Sequence[bytes], rng: random.Random) -> None:
    """A tensor's data lies in a file that is none of the model's business."""
    field = _pick(tree, rng, lambda field: field.inner == _TENSOR and isinstance(field.value, list))
    if field is None:
        return
    assert isinstance(field.value, list)
    entry = "onnx.StringStringEntryProto"
    pairs = {b"location": rng.choice(PATHS)}
    for key in (b"offset", b"length"):
        if rng.random() < 0.5:
            pairs[key] = rng.choice((b"0", b"-1", b"4096", b"18446744073709551616", b"x", b""))
    field.value = [part for part in field.value if part.name != "raw_data" or rng.random() < 0.2]
    field.value.append(Field(_TENSOR, field_number(_TENSOR, "data_location"), VARINT, 1))
    field.value += [
        _message(_TENSOR, "external_data", [_bytes(entry, "key", key), _bytes(entry, "value", value)])
        for key, value in pairs.items()
    ]


def _message(owner: str, name: str, fields: int | bytes | Tree) -> Field:
    return Field(owner, field_number(owner, name), LENGTH, fields)


def _bytes(owner: str, name: str, value: bytes) -> Field:
    return Field(owner, field_number(owner, name), LENGTH, value)


_EDITS: tuple[Callable[[Tree, Sequence[bytes], random.Random], None], ...] = (
    *(_drop, _repeat, _shuffle, _number, _extent, _extent, _packed, _text, _rename, _rename, _splice, _splice),
    *(_retype, _lie, _nest, _external),
)
"""What a mutation may do; what is listed twice happens twice as often."""
