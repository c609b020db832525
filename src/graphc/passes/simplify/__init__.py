"""The `simplify` pass: rules that make the graph smaller and never cost anything, a family a file."""

from graphc.passes.simplify import algebra as algebra
from graphc.passes.simplify import casts as casts
from graphc.passes.simplify import movement as movement
from graphc.passes.simplify import reshaping as reshaping
from graphc.passes.simplify import slicing as slicing
from graphc.passes.simplify.base import SIMPLIFY as SIMPLIFY
from graphc.passes.simplify.base import Simplify as Simplify
