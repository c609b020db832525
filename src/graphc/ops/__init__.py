"""What operators mean: one definition each, found by domain, name and version."""

from graphc.ops import activations as activations
from graphc.ops import attention as attention
from graphc.ops import choice as choice
from graphc.ops import compiler_ops as compiler_ops
from graphc.ops import contraction as contraction
from graphc.ops import control as control
from graphc.ops import convolution as convolution
from graphc.ops import gathering as gathering
from graphc.ops import movement as movement
from graphc.ops import normalization as normalization
from graphc.ops import pointwise as pointwise
from graphc.ops import pooling as pooling
from graphc.ops import quantization as quantization
from graphc.ops import recurrent as recurrent
from graphc.ops import reduction as reduction
from graphc.ops import resize as resize
from graphc.ops import sequence as sequence
from graphc.ops import shape as shape
from graphc.ops.base import express as express
from graphc.ops.base import find as find
from graphc.ops.evaluate import evaluate_expression as evaluate_expression
from graphc.ops.evaluate import evaluate_graph as evaluate_graph
from graphc.ops.evaluate import evaluate_node as evaluate_node
from graphc.ops.inference import infer_graph as infer_graph
from graphc.ops.inference import infer_node as infer_node
