"""Attention as one kernel: a tile of queries at a time goes from scores through softmax to its share of the values.

Keys are transposed once per head into a workspace (or read where they lie, if they come transposed), so that scores of
neighbouring keys fill a vector. The scores of a tile, `rows x keys`, stay in L1 between the two products. Query, key,
value and result are read and written where the operators around them left them: no transposition is a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.tvm.tasks import Tasks


@dataclass(frozen=True)
class Schedule:
    """How an attention is cut.

    Args:
        lanes: Width of a vector.
        rows: Queries of a tile.
        score_vectors: Vectors of keys of a score tile.
        value_vectors: Vectors of a value's elements.
        transposed: Whether keys are copied, transposed, into a workspace.
        splits: Into how many parts the queries of a head are split among threads.
        tasks: (batch, head, split) triples.
        parallel: Whether threads share the tasks.
    """

    lanes: int
    rows: int
    score_vectors: int
    value_vectors: int
    transposed: bool
    splits: int
    tasks: Tasks

    @property
    def per_head(self) -> bool:
        """Whether the task that uses a head's keys transposes them itself."""
        return self.splits == 1
