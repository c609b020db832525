"""Where good turns bad."""

from __future__ import annotations

from collections.abc import Callable


def first_bad(low: int, high: int, is_bad: Callable[[int], bool]) -> int:
    """A number at which good turns bad: it is bad, and the one before it good.

    It takes about log2(high - low) questions. Where bad turns good again in between there are several such numbers,
    and one of them is found.

    Args:
        low: A number that is good.
        high: A larger one that is bad.
        is_bad: Answers for a number in between.
    """
    while high - low > 1:
        middle = (low + high) // 2
        if is_bad(middle):
            high = middle
        else:
            low = middle
    return high
