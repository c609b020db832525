"""The rule matcher at size: `python -m bench.rules [--nodes 10000] [--rules 150]`.

A graph as exporters write them, layer norms, gelus and attention in pieces among arithmetic that does nothing, is
rewritten to its fixed point by every built-in rule and as many more, of the shapes that users write, as make up the
number.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections import Counter

import numpy as np

import graphc.passes
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops.inference import infer_node
from graphc.passes import PassContext
from graphc.passes.rules import RULE_SETS, Match, P, Rule, RuleIndex, Var, rewrite

BATCH, HEADS, POSITIONS, SIZE = 1, 2, 8, 4
WIDTH = HEADS * SIZE
POINTWISE = ("Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Ceil", "Exp", "Tanh", "Sigmoid", "Sqrt")


def built_in() -> list[Rule]:
    """Every rule there is."""
    assert graphc.passes.PASSES
    return [rule for rules in RULE_SETS.values() for rule in rules]


def users(count: int) -> list[Rule]:
    """Rules of the form f(g(x)) * h(y) = f(x) + g(y), no two of the same operators: all are asked at every Mul."""
    x, y = Var("x"), Var("y")

    def made(f: str, g: str, h: str) -> Rule:
        def replacement(m: Match, b: Builder) -> Value:
            """f(g(x)) * h(y) = f(x) + g(y)."""
            return b.op("Add", b.op(f, m["x"]), b.op(g, m["y"]))

        pattern = P.Mul(P.one_of(f)(P.one_of(g)(x)), P.one_of(h)(y))
        return Rule(f"{f}_{g}_{h}".lower(), pattern, replacement)

    return [made(*operators) for operators in itertools.islice(itertools.permutations(POINTWISE, 3), count)]


def exported(nodes: int) -> Graph:
    """A transformer of at least so many nodes, its operators in pieces."""
    graph = Graph("exported", [("x", TensorType(dtypes.FLOAT32, (BATCH, POSITIONS, WIDTH)))], opset=23)
    builder = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    while len(graph) < nodes:
        value = _layer(builder, value)
    graph.outputs = [value]
    return graph


def _layer(b: Builder, x: Value) -> Value:
    attended = _attention(b, _norm(b, x))
    x = b.op("Add", x, _idle(b, attended))
    inner = _linear(b, _norm(b, x), WIDTH)
    return b.op("Add", x, _linear(b, _gelu(b, inner), WIDTH))


def _linear(b: Builder, x: Value, width: int) -> Value:
    weight = b.constant(np.full((x.tensor_type.static_shape[-1], width), 0.01, np.float32))
    return b.op("Add", b.constant(np.zeros(width, np.float32)), b.op("MatMul", x, weight))


def _norm(b: Builder, x: Value) -> Value:
    axes = b.constant([-1])
    deviation = b.op("Sub", x, b.op("ReduceMean", x, axes))
    variance = b.op("ReduceMean", b.op("Pow", deviation, b.constant(np.float32(2))), axes)
    root = b.op("Sqrt", b.op("Add", variance, b.constant(np.float32(1e-5))))
    scaled = b.op("Mul", b.op("Div", deviation, root), b.constant(np.ones(WIDTH, np.float32)))
    return b.op("Add", scaled, b.constant(np.zeros(WIDTH, np.float32)))


def _gelu(b: Builder, x: Value) -> Value:
    erf = b.op("Erf", b.op("Div", x, b.constant(np.float32(math.sqrt(2)))))
    return b.op("Mul", b.op("Mul", x, b.op("Add", erf, b.constant(np.float32(1)))), b.constant(np.float32(0.5)))


def _heads(b: Builder, x: Value) -> Value:
    shape = b.constant([BATCH, POSITIONS, HEADS, SIZE])
    return b.op("Transpose", b.op("Reshape", x, shape), perm=(0, 2, 1, 3))


def _attention(b: Builder, x: Value) -> Value:
    q, k, v = (_heads(b, _linear(b, x, WIDTH)) for _ in range(3))
    scores = b.op("Div", b.op("MatMul", q, b.op("Transpose", k, perm=(0, 1, 3, 2))), b.constant(np.float32(2)))
    weights = b.op("Softmax", scores, axis=-1)
    merged = b.op("Transpose", b.op("MatMul", weights, v), perm=(0, 2, 1, 3))
    return _linear(b, b.op("Reshape", merged, b.constant([BATCH, POSITIONS, WIDTH])), WIDTH)


def _idle(b: Builder, x: Value) -> Value:
    """What exporters leave behind."""
    x = b.op("Identity", b.op("Dropout", x))
    x = b.op("Cast", b.op("Mul", x, b.constant(np.float32(1))), to=dtypes.FLOAT32.onnx)
    x = b.op("Transpose", b.op("Transpose", x, perm=(0, 2, 1)), perm=(0, 2, 1))
    return b.op("Add", x, b.constant(np.float32(0)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rules", description="Rewrite a large graph by many rules.")
    parser.add_argument("--nodes", type=int, default=10_000, help="at least (default: %(default)s)")
    parser.add_argument("--rules", type=int, default=150, help="at least the built-in ones (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rules = built_in()
    rules += users(max(0, options.rules - len(rules)))
    graph = exported(options.nodes)
    seconds, context, after = [], PassContext(), graph
    for _ in range(options.rounds):
        after, context = graph.clone(), PassContext()
        start = time.perf_counter()
        rewrite(after, rules, context)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    RuleIndex(rules)
    indexing = time.perf_counter() - start
    by_rule = dict(Counter(applied.action for applied in context.history).most_common())
    facts = {
        "nodes": len(graph),
        "nodes_after": len(after),
        "rules": len(rules),
        "rewrites": context.applied,
        "seconds": min(seconds),
        "median_seconds": statistics.median(seconds),
        "index_seconds": indexing,
        "by_rule": by_rule,
    }
    if options.json:
        json.dump(facts, sys.stdout, indent=2)
        print()
        return 0
    print(f"{facts['nodes']} nodes, {len(rules)} rules: {context.applied} rewrites to {facts['nodes_after']} nodes")
    print(f"{min(seconds):.2f} s, the best of {options.rounds}; of these {indexing * 1e3:.0f} ms to index the rules")
    for rule, times in by_rule.items():
        print(f"  {times:>6} × {rule}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
