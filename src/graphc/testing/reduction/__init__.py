"""A model made small while it keeps a property: `reduce(model, predicate)`."""

from __future__ import annotations

from graphc.testing.reduction.reducer import Reduced, reduce

__all__ = ["Reduced", "reduce"]
