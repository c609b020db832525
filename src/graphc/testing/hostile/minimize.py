"""A finding made small: fields that the failure does not need are taken away, and the rest is kept."""

from __future__ import annotations

from collections.abc import Callable

from graphc.testing.hostile.wiretree import Tree, parse, serialize, walk


def minimize(model: bytes, fails: Callable[[bytes], bool], *, attempts: int = 200) -> bytes:
    """The smallest variant found that still fails.

    Fields are taken away, the largest first, and then bytes where the file is no message.

    Args:
        model: What fails.
        fails: Whether a variant fails in the same way.
        attempts: Calls of `fails` at most.
    """
    left = attempts

    def still(candidate: bytes) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(candidate)

    best = model
    try:
        tree = parse(model)
    except (ValueError, RecursionError):
        tree = None
    if tree is not None and serialize(tree) == model:
        best = _without_fields(tree, still, lambda: left > 0)
    chunk = len(best) // 2 if tree is None else 0
    while chunk and left > 0:
        place = 0
        while place < len(best) and left > 0:
            candidate = best[:place] + best[place + chunk :]
            if still(candidate):
                best = candidate
            else:
                place += chunk
        chunk //= 2
    return best


def _without_fields(tree: Tree, still: Callable[[bytes], bool], going: Callable[[], bool]) -> bytes:
    best = serialize(tree)
    progress = True
    while progress and going():
        progress = False
        spots = sorted(walk(tree), key=lambda spot: -len(serialize([spot[1]])))
        gone: set[int] = set()
        for holder, field in spots:
            place = next((i for i, other in enumerate(holder) if other is field), None)
            if place is None or id(holder) in gone or not going():
                continue
            del holder[place]
            candidate = serialize(tree)
            if still(candidate):
                best, progress = candidate, True
                gone.update(id(inner) for inner, _ in walk([field]))
            else:
                holder.insert(place, field)
    return best
