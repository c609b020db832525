"""Fusion: grouping nodes into regions, each of which becomes one kernel.

A region has at most one anchor, the node that decides its loops:

    contraction, window, attention    the kernel is a template; pointwise operators follow in its epilogue
    reduction, normalization          a row at a time; pointwise operators before and after it
    none                              one loop nest over the output; pointwise and movement operators inlined

Anchors are served in that order, because an epilogue costs a matmul nothing and saves a whole pass over memory.
"""

from graphc.passes.fuse.fuse import Fuse
from graphc.passes.fuse.grouping import REGION, Group
from graphc.passes.fuse.region import dissolve, make_region

__all__ = ["REGION", "Fuse", "Group", "dissolve", "make_region"]
