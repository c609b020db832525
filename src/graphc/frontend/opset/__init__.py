"""Raising nodes of older operator sets to the canonical one; importing this package fills the table of steps."""

from graphc.frontend.opset import batched_scan as batched_scan
from graphc.frontend.opset import early_steps as early_steps
from graphc.frontend.opset import steps as steps
from graphc.frontend.opset.draft import STEPS, Draft, raise_to
from graphc.frontend.opset.steps import constant_tensor

__all__ = ["STEPS", "Draft", "constant_tensor", "raise_to"]
