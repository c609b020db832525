"""The `raise` pass: one operator in place of the pieces that exporters write it in, a family a file."""

from graphc.passes.raising import activations as activations
from graphc.passes.raising import attention as attention
from graphc.passes.raising import normalization as normalization
from graphc.passes.raising import pooling as pooling
from graphc.passes.raising import rotary as rotary
from graphc.passes.raising import softmax as softmax
from graphc.passes.raising.base import RAISE as RAISE
from graphc.passes.raising.base import Raise as Raise
