"""What changes a graph: the pass manager, the rule language, a file or folder of rules a pass, pipelines as data."""

from graphc.passes import conv_forms as conv_forms
from graphc.passes import cse as cse
from graphc.passes import dce as dce
from graphc.passes import decompose as decompose
from graphc.passes import einsum as einsum
from graphc.passes import expand as expand
from graphc.passes import fold as fold
from graphc.passes import fold_batch_norm as fold_batch_norm
from graphc.passes import fuse as fuse
from graphc.passes import integer_conv as integer_conv
from graphc.passes import layout as layout
from graphc.passes import merge_matmuls as merge_matmuls
from graphc.passes import order as order
from graphc.passes import precision as precision
from graphc.passes import quantized_conv as quantized_conv
from graphc.passes import quantized_matmul as quantized_matmul
from graphc.passes import raising as raising
from graphc.passes import scan_axes as scan_axes
from graphc.passes import simplify as simplify
from graphc.passes import transposed_conv as transposed_conv
from graphc.passes import unroll as unroll
from graphc.passes import widen as widen
from graphc.passes.base import PASSES, Application, Pass, PassContext, Refusal, describe_pass, refuse, register_pass
from graphc.passes.manager import ALL, PassManager, PassObserver, PassRun, PipelineReport, run_passes
from graphc.passes.pipeline import default_pipeline, parse_pipeline, pipeline_table, print_pipeline
from graphc.passes.rule_pass import RulePass

__all__ = [
    "ALL",
    "PASSES",
    "Application",
    "Pass",
    "PassContext",
    "PassManager",
    "PassObserver",
    "PassRun",
    "PipelineReport",
    "Refusal",
    "RulePass",
    "default_pipeline",
    "describe_pass",
    "parse_pipeline",
    "pipeline_table",
    "print_pipeline",
    "refuse",
    "register_pass",
    "run_passes",
]
