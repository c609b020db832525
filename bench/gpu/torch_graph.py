"""A model as torch runs it best: the graph after graphc's own simplifications, written as a torch module.

Peers are given what graphc found out: batch norms are folded, layer norms and gelus are one call each, and attention is
`scaled_dot_product_attention`. What is timed then is how fast torch runs the model, not how well an export suits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.frontend import bind_dims, read_model
from graphc.frontend.source import ModelSource
from graphc.ir import Graph, Node, Value
from graphc.ops.inference import infer_graph
from graphc.passes import PassContext, PassManager, parse_pipeline

PASSES = (
    "expand,scan_axes,fold,dce,cse,einsum,simplify,raise,simplify,fold,expand,fold,fold_batch_norm,simplify,cse,dce"
)

_DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"},
    16: "bfloat16",
}
"""Element types of ONNX by their numbers, as torch calls them."""

Write = Callable[[Node, Sequence[str]], str]


def simplified(model: ModelSource, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """A model's graph as graphc simplifies it before it thinks of any machine.

    Args:
        model: The ONNX model.
        shapes: Of every input.
    """
    imported = read_model(model)
    graph = imported.graph
    bind_dims(graph, dict(shapes), imported.dim_names)
    infer_graph(graph)
    PassManager(parse_pipeline(PASSES)).run(graph, PassContext())
    return graph


def source_of(graph: Graph) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    """The text of a function `forward(self, ...)`, and the constants that it reads as attributes of `self`.

    Raises:
        NotImplementedError: An operator is not known here.
    """
    names: dict[Value, str] = {value: f"x{number}" for number, value in enumerate(graph.inputs)}
    constants: dict[str, np.ndarray[Any, Any]] = {}
    lines = []
    fused: dict[Node, _Attention | _Same | _Linear] = {**_attentions(graph), **_linears(graph)}
    inside = {node for found in fused.values() for node in found.nodes}
    for number, node in enumerate(graph.nodes):
        if node.is_op("Constant"):
            tensor = node.output.constant
            assert tensor is not None
            names[node.output] = f"self.c{number}"
            constants[f"c{number}"] = np.ascontiguousarray(tensor.array()).reshape(tensor.shape)
            continue
        if node in fused:
            text = fused[node].text(names)
        elif node in inside:
            continue
        elif node.op_type in _FORMS:
            text = _FORMS[node.op_type](node, ["None" if v is None else names[v] for v in node.inputs])
        else:
            raise NotImplementedError(f"{node.op} has no form in torch here")
        made = [f"v{number}_{value.index}" for value in node.outputs]
        names.update(zip(node.outputs, made, strict=True))
        lines.append(f"    {', '.join(made)}{',' if node.is_op('Split') else ''} = {text}")
    results = ", ".join(names[value] for value in graph.outputs)
    head = f"def forward({', '.join(['self', *(names[value] for value in graph.inputs)])}):"
    return "\n".join([head, *lines, f"    return ({results},)"]), constants


def module_of(graph: Graph, device: str, precision: str = "fp32") -> Any:
    """A torch module in evaluation mode.

    Args:
        graph: From `simplified`.
        device: Where its constants go.
        precision: `fp32`, or the type that floating constants are cast to: `fp16`, `bf16`.
    """
    import torch

    text, constants = source_of(graph)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "FLOAT": dtype}
    exec(compile(text, "<model>", "exec"), scope)
    made = type("Model", (torch.nn.Module,), {"forward": scope["forward"]})()
    for name, array in constants.items():
        tensor = torch.from_numpy(np.array(array)).to(device)
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
        if tensor.dim() == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        made.register_buffer(name, tensor)
    return made.eval()


def _ints(node: Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.ints_attribute(name, default) or ())


def _constant_ints(value: Value | None) -> list[int]:
    """A constant as integers."""
    assert value is not None and value.constant is not None, "shapes are constants in a bound graph"
    return [int(number) for number in value.constant.array().reshape(-1)]


def _shape(node: Node) -> str:
    return str(list(node.output.tensor_type.static_shape))


def _conv(node: Node, names: Sequence[str]) -> str:
    spatial = len(node.output.tensor_type.static_shape) - 2
    pads = _ints(node, "pads", (0,) * 2 * spatial)
    strides = _ints(node, "strides", (1,) * spatial)
    dilations = _ints(node, "dilations", (1,) * spatial)
    group = node.int_attribute("group", 1)
    begin, end = pads[:spatial], pads[spatial:]
    source = names[0]
    if begin != end:
        flat = [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]
        source, begin = f"F.pad({source}, {flat})", [0] * spatial
    bias = names[2] if len(names) > 2 else "None"
    return f"F.conv{spatial}d({source}, {names[1]}, {bias}, {strides}, {begin}, {dilations}, {group})"


def _gemm(node: Node, names: Sequence[str]) -> str:
    alpha, beta = node.float_attribute("alpha", 1.0), node.float_attribute("beta", 1.0)
    left = f"{names[0]}.mT" if node.int_attribute("transA", 0) else names[0]
    right = names[1] if node.int_attribute("transB", 0) else f"{names[1]}.mT"
    if alpha == beta == 1.0:
        return f"F.linear({left}, {right}, {names[2] if len(names) > 2 else 'None'})"
    bias = f" + {beta} * {names[2]}" if len(names) > 2 else ""
    return f"{alpha} * F.linear({left}, {right}){bias}"


def _max_pool(node: Node, names: Sequence[str]) -> str:
    kernel = _ints(node, "kernel_shape", ())
    pads = _ints(node, "pads", (0,) * 2 * len(kernel))
    strides = _ints(node, "strides", (1,) * len(kernel))
    if pads[: len(kernel)] != pads[len(kernel) :]:
        raise NotImplementedError("MaxPool of uneven pads has no form in torch here")
    ceil = bool(node.int_attribute("ceil_mode", 0))
    return f"F.max_pool{len(kernel)}d({names[0]}, {kernel}, {strides}, {pads[: len(kernel)]}, ceil_mode={ceil})"


def _layer_norm(node: Node, names: Sequence[str]) -> str:
    kind = node.inputs[0]
    assert kind is not None
    shape = kind.tensor_type.static_shape
    axis = node.int_attribute("axis", -1) % len(shape)
    weights = ", ".join(names[1:])
    return f"F.layer_norm({names[0]}, {list(shape[axis:])}, {weights}, eps={node.float_attribute('epsilon', 1e-5)})"


def _gather(node: Node, names: Sequence[str]) -> str:
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None and indices is not None
    axis = node.int_attribute("axis", 0) % len(data.tensor_type.static_shape)
    if axis == 0 and len(data.tensor_type.static_shape) == 2:
        return f"F.embedding({names[1]}, {names[0]})"
    place = f"{names[1]}.reshape(-1)"
    return f"torch.index_select({names[0]}, {axis}, {place}).reshape({_shape(node)})"


def _gather_nd(node: Node, names: Sequence[str]) -> str:
    if node.int_attribute("batch_dims", 0):
        raise NotImplementedError("GatherND with batches has no form in torch here")
    return f"{names[0]}[tuple({names[1]}.unbind(-1))]"


def _clip(node: Node, names: Sequence[str]) -> str:
    limits = [_number(value) for value in (*node.inputs[1:], None, None)][:2]
    return f"torch.clamp({names[0]}, {limits[0]}, {limits[1]})"


def _number(value: Value | None) -> str:
    return "None" if value is None or value.constant is None else repr(value.constant.array().reshape(()).item())


def _softmax(node: Node, names: Sequence[str]) -> str:
    return f"torch.softmax({names[0]}, {node.int_attribute('axis', -1)})"


def _cast(node: Node, names: Sequence[str]) -> str:
    kind = _DTYPES[node.int_attribute("to", 1)]
    # A float is of whatever precision the module has.
    return f"{names[0]}.to({'FLOAT' if kind == 'float32' else f'torch.{kind}'})"


def _infix(sign: str) -> Write:
    return lambda node, names: f"{names[0]} {sign} {names[1]}"


def _reduce(function: str) -> Write:
    def write(node: Node, names: Sequence[str]) -> str:
        axes = _constant_ints(node.inputs[1]) if len(node.inputs) > 1 else _ints(node, "axes", ())
        return f"torch.{function}({names[0]}, {axes}, keepdim={bool(node.int_attribute('keepdims', 1))})"

    return write


_FORMS: Mapping[str, Write] = {
    "Add": _infix("+"),
    "Sub": _infix("-"),
    "Mul": _infix("*"),
    "Div": _infix("/"),
    "And": _infix("&"),
    "Equal": _infix("=="),
    "MatMul": _infix("@"),
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "LayerNormalization": _layer_norm,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Clip": _clip,
    "Softmax": _softmax,
    "Cast": _cast,
    "ReduceMax": _reduce("amax"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "GlobalAveragePool": lambda node, names: f"F.adaptive_avg_pool2d({names[0]}, 1)",
    "Gelu": lambda node, names: f"F.gelu({names[0]}, approximate={node.str_attribute('approximate', 'none')!r})",
    "Neg": lambda node, names: f"-{names[0]}",
    "Relu": lambda node, names: f"F.relu({names[0]})",
    "Tanh": lambda node, names: f"torch.tanh({names[0]})",
    "Sigmoid": lambda node, names: f"torch.sigmoid({names[0]})",
    "Reshape": lambda node, names: f"{names[0]}.reshape({_shape(node)})",
    "Identity": lambda node, names: names[0],
    "Concat": lambda node, names: f"torch.cat([{', '.join(names)}], {node.int_attribute('axis', 0)})",
    "Transpose": lambda node, names: f"{names[0]}.permute({_ints(node, 'perm', ())})",
    "Where": lambda node, names: f"torch.where({', '.join(names)})",
    "Split": lambda node, names: (
        f"torch.split({names[0]}, {[v.tensor_type.static_shape[_axis(node)] for v in node.outputs]}, {_axis(node)})"
    ),
}


def _axis(node: Node) -> int:
    return node.int_attribute("axis", 0) % len(node.output.tensor_type.static_shape)


@dataclass(frozen=True)
class _Attention:
    """The nodes of softmax(scale * q @ k + mask) @ v, of which the last one is the call."""

    nodes: frozenset[Node]
    q: Value
    keys: Value
    v: Value
    scale: float
    mask: Value | None

    def text(self, names: Mapping[Value, str]) -> str:
        """The call; keys come as columns, and torch wants them as rows."""
        mask = "" if self.mask is None else f"attn_mask={names[self.mask]}, "
        if self.mask is not None and _is_causal(self.mask):
            mask = "is_causal=True, "
        q, keys, v = names[self.q], names[self.keys], names[self.v]
        return f"F.scaled_dot_product_attention({q}, {keys}.mT, {v}, {mask}scale={self.scale!r})"


@dataclass(frozen=True)
class _Same:
    """A node that is left out: what it does, another call does."""

    nodes: frozenset[Node]
    source: Value

    def text(self, names: Mapping[Value, str]) -> str:
        """What it was given."""
        return names[self.source]


@dataclass(frozen=True)
class _Linear:
    """The nodes of x @ weights + bias."""

    nodes: frozenset[Node]
    x: Value
    weights: Value
    bias: Value

    def text(self, names: Mapping[Value, str]) -> str:
        """The call, in which cuBLAS adds the bias."""
        return f"F.linear({names[self.x]}, {names[self.weights]}.mT, {names[self.bias]})"


def _attentions(graph: Graph) -> dict[Node, _Attention | _Same]:
    """Attention in its pieces, by the product that ends it."""
    found: dict[Node, _Attention | _Same] = {}
    for node in graph.nodes:
        if not node.is_op("MatMul"):
            continue
        weights, nodes = node.inputs[0], {node}
        # Rows that see nothing are zero: so they are in torch, without being told.
        if (guard := _only_producer(weights, "Where")) is not None and _scalar(guard.inputs[1]) == 0:
            weights = guard.inputs[2]
            nodes.add(guard)
        softmax = _only_producer(weights, "Softmax")
        if softmax is None or softmax.int_attribute("axis", -1) not in (-1, 3):
            continue
        nodes.add(softmax)
        value, mask, scale = softmax.inputs[0], None, 1.0
        if (added := _only_producer(value, "Add")) is not None:
            number = next((n for n in (0, 1) if _only_producer(added.inputs[n], "Mul", "MatMul") is not None), None)
            if number is None:
                continue
            value, mask = added.inputs[number], added.inputs[1 - number]
            nodes.add(added)
        if (scaled := _only_producer(value, "Mul")) is not None:
            factor = _scalar(scaled.inputs[1])
            if factor is None:
                continue
            value, scale = scaled.inputs[0], factor
            nodes.add(scaled)
        product = _only_producer(value, "MatMul")
        if product is None:
            continue
        nodes.add(product)
        sides, scalings = [], {}
        for side in product.inputs:
            # The scale may be spread over both operands.
            turned = _only_producer(side, "Transpose")
            scaled = _only_producer(side if turned is None else turned.inputs[0], "Mul")
            if scaled is not None and (part := _scalar(scaled.inputs[1])) is not None:
                source = scaled.inputs[0]
                assert source is not None
                scale *= part
                scalings[scaled] = _Same(frozenset({scaled}), source)
            sides.append(side)
        (q, keys), v = sides, node.inputs[1]
        assert q is not None and keys is not None and v is not None
        if len(q.tensor_type.static_shape) == 4:
            found |= {**scalings, node: _Attention(frozenset(nodes), q, keys, v, scale, mask)}
    return found


def _linears(graph: Graph) -> dict[Node, _Linear]:
    """Products with a matrix of weights to which a bias is added, by the sum."""
    found = {}
    for node in graph.nodes:
        for number in (0, 1) if node.is_op("Add") else ():
            product, bias = _only_producer(node.inputs[number], "MatMul"), node.inputs[1 - number]
            if product is None or bias is None:
                continue
            x, weights = product.inputs
            assert x is not None and weights is not None
            matrix = weights.tensor_type.static_shape
            if len(matrix) == 2 and bias.tensor_type.static_shape == matrix[1:]:
                found[node] = _Linear(frozenset({node, product}), x, weights, bias)
    return found


def _is_causal(mask: Value) -> bool:
    """Whether a mask hides from each query the keys that come after it, and no others."""
    if mask.constant is None or len(shape := mask.constant.shape) < 2 or shape[-1] != shape[-2]:
        return False
    array = mask.constant.array().astype(np.float32)
    hidden = np.triu(np.ones(shape[-2:], bool), 1)
    return bool((array[..., ~hidden] == 0).all() and (array[..., hidden] < -1e4).all())


def _scalar(value: Value | None) -> float | None:
    tensor = None if value is None else value.constant
    return None if tensor is None or tensor.size != 1 else float(tensor.array().reshape(()))


def _only_producer(value: Value | None, *kinds: str) -> Node | None:
    """The node that makes a value, where it is of these operators and nothing else reads the value."""
    if value is None or value.producer is None or value.is_graph_output or len(value.uses) != 1:
        return None
    return value.producer if value.producer.op_type in kinds else None
