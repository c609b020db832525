"""`graphc verify`: are the outputs right, and which step is the first that is not."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import (
    add_compile_options,
    add_json,
    add_source,
    add_threads,
    comma_list,
    is_package,
    print_json,
)
from graphc.cli.feeds import add_inputs, chosen_variants, feed
from graphc.cli.judges import Judge, Verdict, chosen_engines
from graphc.cli.progress import Progress
from graphc.cli.source import Source, open_source
from graphc.cli.table import count, names, shorten, table
from graphc.cli.toolchain import installed
from graphc.cli.values import describe_variant
from graphc.errors import OptionError
from graphc.package import MODEL, Variant

if TYPE_CHECKING:
    from graphc.testing.layers import Layer
    from graphc.testing.verification import Difference, Statistics, Tolerance

DESCRIPTION = """Run a model on seeded inputs (or yours) and compare every output with other engines.

onnxruntime is ONNX Runtime on the original model; reference evaluates the imported graph in NumPy, node by node. An
output passes where its largest difference is at most --scale times its largest magnitude; integers must be equal.
A package needs the model that it was compiled from: the one it embeds, or --model.

--layers holds every step against its own meaning on its own inputs, and against the value of the same name in the
source model, and watches what each leaves of the others' values. It names the first value that differs, the ONNX nodes
it came from and who is to blame: a kernel, the memory plan or a pass. The model runs as it was compiled, fused and in
its arena; both sides hold no more than what is live.

--interpret runs what a compile for GPUs makes on a machine without one: kernels in Triton's interpreter, one block
after another, where every access is looked at, the rest in NumPy, over the arena as it is planned. It takes minutes
where a GPU takes microseconds: for small models and small shapes. Exits with 1 where something differs."""

EXAMPLES = """
  graphc verify model.onnx --dim batch=1
  graphc verify model.onnx --dim batch=1 --against onnxruntime,reference --layers
  graphc verify model.graphc --model model.onnx --seed 7 --input x=image.npy
  graphc verify model.onnx --dim seq=1..512 --input ids=ids.npy --layers     a length left open, at that of the input
  graphc verify small.onnx --target cuda --interpret --dim batch=1
  graphc verify model.onnx --rtol 1e-3 --atol 1e-5
"""

_BAR = 24
"""Characters of the longest bar of a histogram."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source(parser)
    parser.add_argument(
        "--against", type=comma_list, metavar="ENGINES", help="onnxruntime, reference, or both (default: onnxruntime)"
    )
    parser.add_argument("--layers", action="store_true", help="find the first step that differs")
    parser.add_argument("--interpret", action="store_true", help="run a GPU's kernels without one, in an interpreter")
    parser.add_argument("--model", dest="onnx", type=Path, metavar="MODEL", help="what a package was compiled from")
    parser.add_argument("--scale", type=float, metavar="X", help="of the largest magnitude (default: 1e-4)")
    parser.add_argument("--rtol", type=float, metavar="X", help="elementwise instead: |difference| ≤ atol + rtol·|y|")
    parser.add_argument("--atol", type=float, metavar="X", help="the absolute part of it")
    add_inputs(parser)
    add_threads(parser)
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compares; 1 where something differs."""
    engines = chosen_engines(options.against)
    if options.interpret:
        from graphc.cli.interpreted import interpreted

        return _told(options, interpreted(options, engines), [])
    if options.layers and is_package(options.model):
        raise OptionError(
            "--layers compares with the graph that a compile makes, which a package does not hold",
            hint="verify the ONNX model instead, with the options that the package was compiled with",
        )
    if options.layers:
        # The steps compared are those that were compiled here, not those of a variant made for the values of one call.
        options.specializations = 0
    with installed():
        from graphc.testing.verification import told_tolerance

    verdicts: list[Verdict] = []
    layers: list[tuple[str, list[Layer]]] = []
    with open_source(options) as source:
        precision = source.executable.manifest.options.get("precision", "fp32")
        tolerance = told_tolerance(precision, options.scale, options.rtol, options.atol)
        model = _model(source, options)
        for variant in chosen_variants(source, options):
            inputs = feed(source, options, variant)
            found = source.executable(inputs)
            # The variant of these inputs' values, where they decide.
            bindings = describe_variant(source.executable.manifest, source.executable.variant_for(inputs))
            shapes = zip(source.executable.inputs, variant.inputs, strict=True)
            judge = Judge(
                model,
                {spec.name: shape for spec, shape in shapes if shape is not None},
                source.executable.threads,
                precision,
            )
            verdicts += [judge.verdict(engine, bindings, inputs, found, tolerance) for engine in engines]
            if options.layers:
                layers.append((bindings, _layers(source, judge, variant, inputs, tolerance)))
    return _told(options, verdicts, layers)


def _told(options: argparse.Namespace, verdicts: list[Verdict], layers: list[tuple[str, list[Layer]]]) -> int:
    right = all(d.ok for v in verdicts for d in v.differences) and all(layer.ok for _, each in layers for layer in each)
    if options.json:
        print_json(
            {
                "ok": right,
                "variants": [_verdict_json(verdict) for verdict in verdicts],
                "layers": [_layers_json(*entry) for entry in layers],
            }
        )
    else:
        print("\n\n".join([_outputs_text(verdicts), *(_layers_text(*entry) for entry in layers)]))
    return 0 if right else 1


def _model(source: Source, options: argparse.Namespace) -> Path | bytes:
    """What the package was compiled from: a file, or the embedded model's bytes."""
    if not source.is_package:
        if options.onnx is not None:
            raise OptionError("--model is for packages, and an ONNX model is given already")
        model: Path = options.model
        return model
    if options.onnx is not None:
        return Path(options.onnx)
    if source.embeds_model:
        return source.package.read(MODEL)
    raise OptionError(
        f"{str(options.model)!r} carries no model to compare with",
        hint="give it with --model model.onnx, or compile with --embed-model",
    )


def _layers(
    source: Source,
    judge: Judge,
    variant: Variant,
    inputs: dict[str, Any],
    tolerance: Tolerance,
) -> list[Layer]:
    from graphc.testing.layers import compare_layers

    own = [program for program in source.programs if program.target.isa == source.executable.isa]
    program = next(
        (
            program
            for program in own
            if not program.is_open
            and program.bindings == variant.bindings
            and {name: value.tobytes() for name, value in program.values.items()} == variant.values
        ),
        None,
    ) or next(program for program in own if program.is_open)
    layers = []
    with Progress() as progress:
        for layer in compare_layers(source.executable, program, inputs, judge.bound(), tolerance):
            layers.append(layer)
            progress("comparing steps", len(layers), len(program.buffers.steps))
    return layers


def _outputs_text(verdicts: list[Verdict]) -> str:
    rows = []
    for verdict in verdicts:
        for difference in verdict.differences:
            rows.append(
                (
                    "ok" if difference.ok else "DIFFERS",
                    verdict.bindings,
                    verdict.engine,
                    difference.name,
                    difference.type,
                    _error(difference.error),
                    f"{difference.scale:.3g}",
                    _worst(difference),
                )
            )
    head = ("", "variant", "against", "output", "type", "error", "scale", "worst element")
    return table(head, rows, left=(0, 1, 2, 3, 4, 7), indent=0)


def _error(error: float) -> str:
    return f"{error:.1e}" if math.isfinite(error) else "∞"


def _worst(difference: Difference) -> str:
    if difference.error == 0 or not difference.expected:
        return ""
    place = f"[{', '.join(map(str, difference.place))}]: " if difference.place else ""
    return f"{place}{difference.found}, expected {difference.expected}"


def _layers_text(bindings: str, layers: list[Layer]) -> str:
    first = next((layer for layer in layers if not layer.ok), None)
    lines = [f"steps of {bindings}"]
    if first is None:
        kernel = max((d.error for layer in layers for d in layer.kernel), default=0.0)
        model = max((d.error for layer in layers for d in layer.model), default=0.0)
        compared = count(sum(len(layer.model) for layer in layers), "value")
        lines.append(f"  all {len(layers)} agree with their own meaning, error at most {_error(kernel)}")
        lines.append(f"  {compared} agree with the source model's, error at most {_error(model)}")
        half = next((layer for layer in layers if layer.halves), None)
        if half is not None:
            told = "rounds a value to the other side of a half; what follows is held against the steps' meaning alone"
            lines.append(f"  step {half.step} ({names(half.origins)}) {told}")
        return "\n".join(lines)
    lines.append(f"  the first value to differ is {_first_value(first)!r}, made by step {first.step}: {_defect(first)}")
    lines.append(f"  from {', '.join(repr(name) for name in first.origins) or 'no ONNX node'}")
    if first.statistics is not None:
        lines.extend(f"    {line}" for line in _statistics_text(first.statistics))
    shown = layers[max(0, first.step - 3) : first.step + 4]
    rows = [
        (
            "→" if layer is first else "",
            str(layer.step),
            shorten(layer.label, 40),
            _error(max((d.error for d in layer.kernel), default=0.0)),
            _error(max(d.error for d in layer.model)) if layer.model else "",
            names(layer.origins),
        )
        for layer in shown
    ]
    return "\n".join([*lines, "", table(("", "step", "", "kernel", "model", "ONNX nodes"), rows, left=(0, 2, 5))])


def _first_value(layer: Layer) -> str:
    """The value of the model that a layer shows to be wrong: what it overwrote, or an output by its ONNX name."""
    if layer.overwritten:
        return layer.overwritten[0].name
    # Names of the source model come before those that passes have made.
    return next(d.name for d in (*layer.model, *layer.kernel) if not d.ok)


def _defect(layer: Layer) -> str:
    if layer.overwritten:
        other = layer.overwritten[0]
        told = f"it overwrote what step {other.made_by} made and others still read; "
        return told + (
            "the memory plan gave both the same bytes" if other.planned else "its kernel wrote beside its own"
        )
    if layer.kernel_is_right:
        return "it differs from the source model, though its kernel is right: a pass, or rounding that has added up"
    return "its kernel differs from what its nodes mean on the same inputs"


def _statistics_text(statistics: Statistics) -> list[str]:
    s = statistics
    spans = ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in s.where)
    lines = [
        f"{s.differing} of {s.elements} elements differ{f', at [{spans}]' if spans else ''}",
        f"largest difference {s.max_abs:.3g} absolute, {s.max_rel:.3g} relative"
        + (f", {s.max_ulp:.3g} ulp" if s.max_ulp else ""),
    ]
    if s.nan_expected or s.nan_found or s.infinite_expected or s.infinite_found:
        lines.append(
            f"NaN: {s.nan_found}, expected {s.nan_expected}; "
            f"infinities: {s.infinite_found}, expected {s.infinite_expected}"
        )
    most = max((number for _, number in s.histogram), default=0)
    for decade, number in s.histogram:
        lines.append(f"relative error 1e{decade:+03d} {'█' * max(1, round(_BAR * number / most)):<{_BAR}} {number}")
    return lines


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "variant": verdict.bindings,
        "against": verdict.engine,
        "outputs": [vars(difference) for difference in verdict.differences],
    }


def _layers_json(bindings: str, layers: list[Layer]) -> dict[str, Any]:
    return {
        "variant": bindings,
        "first_difference": next((layer.step for layer in layers if not layer.ok), None),
        "first_value": next((_first_value(layer) for layer in layers if not layer.ok), None),
        "steps": [
            {
                "step": layer.step,
                "label": layer.label,
                "nodes": list(layer.origins),
                "ok": layer.ok,
                "halves": layer.halves,
                "kernel": [vars(difference) for difference in layer.kernel],
                "model": [vars(difference) for difference in layer.model],
                "overwritten": [vars(overwritten) for overwritten in layer.overwritten],
                "statistics": None if layer.statistics is None else vars(layer.statistics),
            }
            for layer in layers
        ],
    }
