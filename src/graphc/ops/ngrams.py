"""TfIdfVectorizer of integers: n-grams are found by searches in sorted tables, and counted by a scatter.

Tokens become numbers of a vocabulary. A position's n-gram is the number of its first n - 1 tokens together with the
next one, looked up among the pairs that begin some n-gram of the pool: a walk down a trie whose levels are tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Array
from graphc.ops.classical_forms import looked_up
from graphc.ops.decomposition import decomposed, rank_of, scalar_like

_LOOKUPS = 512
"""Searches that n-grams of all lengths and distances may take; beyond, a program of them would be endless."""


@dataclass(frozen=True)
class _Level:
    """Beginnings of one length.

    Args:
        keys: What each of them is looked up by: of the first level a token, of later ones the number of the beginning
            that is shorter by one, times the size of the vocabulary, and the number of the next token.
        columns: The column in which each is counted; -1 where it is only the beginning of others.
    """

    keys: tuple[int, ...]
    columns: tuple[int, ...]


def _grams(node: Node) -> list[tuple[tuple[int, ...], int]] | None:
    """Each n-gram that is looked for, with its column; None where the attributes make no sense."""
    pool, starts = node.ints_attribute("pool_int64s"), node.ints_attribute("ngram_counts")
    columns = node.ints_attribute("ngram_indexes")
    if not pool or not starts or not columns:
        return None
    shortest, longest = node.int_attribute("min_gram_length", 1), node.int_attribute("max_gram_length", 1)
    found: list[tuple[tuple[int, ...], int]] = []
    number = 0
    for size, (begin, end) in enumerate(zip(starts, (*starts[1:], len(pool)), strict=True), 1):
        for place in range(begin, end - size + 1, size):
            if number >= len(columns):
                return None
            if shortest <= size <= longest:
                found.append((tuple(pool[place : place + size]), columns[number]))
            number += 1
    return found


def _levels(grams: Sequence[tuple[tuple[int, ...], int]]) -> tuple[list[int], list[_Level]]:
    """The vocabulary, and the beginnings of every length in the order of their keys."""
    tokens = sorted({token for gram, _ in grams for token in gram})
    number = {token: i for i, token in enumerate(tokens)}
    counted = dict(grams)
    levels: list[_Level] = []
    known: dict[tuple[int, ...], int] = {(): 0}
    for size in range(1, max(len(gram) for gram, _ in grams) + 1):
        beginnings = {gram[:size] for gram, _ in grams if len(gram) >= size}
        keyed = sorted((known[b[:-1]] * len(tokens) + number[b[-1]], b) for b in beginnings)
        known = {beginning: i for i, (_, beginning) in enumerate(keyed)}
        levels.append(_Level(tuple(k for k, _ in keyed), tuple(counted.get(b, -1) for _, b in keyed)))
    return tokens, levels


def _vectorize(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
    x = inputs[0]
    if x is None or x.tensor_type.dtype == dtypes.STRING or not isinstance(x.tensor_type.dims[-1], int):
        return None
    grams = _grams(node)
    if grams is None:
        return None
    if _distances(node, x) * max((len(gram) for gram, _ in grams), default=0) > _LOOKUPS:
        return None
    rows = b.op("Cast", x, to=dtypes.INT64.onnx)
    if rank_of(x) == 1:
        rows = b.op("Unsqueeze", rows, b.constant(np.array([0])))
    size = max(node.ints_attribute("ngram_indexes") or (0,)) + 1
    counts = b.op("Expand", b.constant(np.float32(0)), _shape(b, rows, size + 1))
    places = _places(b, node, rows, grams, size) if grams else []
    if places:
        where = b.op("Concat", *places, axis=1)
        ones = b.op("Expand", b.constant(np.float32(1)), b.op("Shape", where))
        counts = b.op("ScatterElements", counts, where, ones, axis=1, reduction="add")
    # The last column has counted what is in no n-gram.
    result = b.op("Slice", counts, *(b.constant(np.array([n])) for n in (0, size, 1)))
    weight, mode = b.constant(_weights(node, size)), node.str_attribute("mode", "TF")
    if mode == "IDF":
        result = b.op("Where", b.op("Greater", result, scalar_like(b, 0, result)), weight, scalar_like(b, 0, result))
    elif mode == "TFIDF":
        result = b.op("Mul", result, weight)
    return [b.op("Squeeze", result, b.constant(np.array([0]))) if rank_of(x) == 1 else result]


def _distances(node: Node, rows: Value) -> int:
    """How many distances between the tokens of an n-gram a row has room for."""
    length = rows.tensor_type.dims[-1]
    assert isinstance(length, int)
    return max(1, min(node.int_attribute("max_skip_count", 0) + 1, length - 1))


def _weights(node: Node, size: int) -> Array:
    """The weight of each column: that of its n-gram."""
    result = np.ones(size, np.float32)
    weights = node.attributes.get("weights")
    if isinstance(weights, tuple):
        given = np.array(weights, np.float32)
        columns = (node.ints_attribute("ngram_indexes") or ())[: len(given)]
        result[list(columns)] = given[: len(columns)]
    return result


def _shape(b: Builder, rows: Value, columns: int) -> Value:
    return b.op("Concat", b.op("Shape", rows, end=1), b.constant(np.array([columns])), axis=0)


def _places(
    b: Builder, node: Node, rows: Value, grams: Sequence[tuple[tuple[int, ...], int]], size: int
) -> list[Value]:
    """The column that each position counts in, `size` for none, for every length and distance of n-grams."""
    tokens, levels = _levels(grams)
    last = rows.tensor_type.dims[-1]
    length = last if isinstance(last, int) else 0
    nothing = np.array(-1, np.int64)
    numbers = looked_up(b, rows, np.array(tokens), np.arange(len(tokens)), nothing)
    found: list[Value] = []
    least = node.int_attribute("min_gram_length", 1)
    for distance in range(1, _distances(node, rows) + 1):
        at = numbers
        for level, table in enumerate(levels):
            positions = length - distance * level
            if positions <= 0:
                break
            if level == 0:
                at = looked_up(b, numbers, np.array(table.keys), np.arange(len(table.keys)), nothing)
            else:
                before = _columns(b, at, 0, positions)
                following = _columns(b, numbers, distance * level, length)
                key = b.op("Add", b.op("Mul", before, b.constant(np.int64(len(tokens)))), following)
                known = b.op("And", *(b.op("GreaterOrEqual", v, b.constant(np.int64(0))) for v in (before, following)))
                key = b.op("Where", known, key, b.constant(nothing))
                at = looked_up(b, key, np.array(table.keys), np.arange(len(table.keys)), nothing)
            if level + 1 >= least and any(column >= 0 for column in table.columns):
                columns = np.array([size if column < 0 else column for column in table.columns])
                found.append(looked_up(b, at, np.arange(len(columns)), columns, np.array(size)))
        # Distance does not matter to single tokens: they are counted once.
        if least == 1:
            least = 2
            if least > node.int_attribute("max_gram_length", 1):
                break
    return found


def _columns(b: Builder, value: Value, begin: int, end: int) -> Value:
    return b.op("Slice", value, *(b.constant(np.array([n])) for n in (begin, end, 1)))


decomposed("TfIdfVectorizer", _vectorize, define=False)
