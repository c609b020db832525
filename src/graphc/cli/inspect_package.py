"""What `inspect` shows of a package, from its manifest."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any

from graphc.cli.common import Dims, parse_dims
from graphc.cli.feeds import allows, open_bindings
from graphc.cli.kernels import kernel_table, kernels_of_variant, template_table
from graphc.cli.launches import launches_of
from graphc.cli.memory_picture import ArenaView
from graphc.cli.memory_plan import memory_json, memory_line, memory_section
from graphc.cli.table import count, facts, names, shorten, size, table
from graphc.cli.values import allows_values, describe_variant, parse_values
from graphc.errors import OptionError
from graphc.package import MODEL, Manifest, OpenVariant, Package, Variant, instantiate, parameter_values


@dataclass
class PackageView:
    """A package, and those of its variants that were asked for."""

    package: Package
    variants: list[Variant]
    opened: list[OpenVariant]

    @classmethod
    def open(cls, options: argparse.Namespace) -> PackageView:
        """The package that `options` name.

        Raises:
            PackageError: It cannot be read.
            OptionError: `--dim` or `--target` leaves no variant.
        """
        package = Package(options.model)
        dims: Dims = parse_dims(options.dims)
        manifest = package.manifest
        values = parse_values(options.values)
        chosen = [
            variant
            for variant in manifest.variants
            if _is_meant(options.target, manifest.target(variant.isa))
            and allows(manifest.inputs, dims, variant)
            and allows_values(manifest, values, variant)
        ]
        opened = [v for v in manifest.open if _is_meant(options.target, manifest.target(v.isa))]
        chosen += [
            instantiate(variant, bindings, alignment=manifest.code[variant.isa].alignment)
            for variant in opened
            for bindings in [open_bindings(variant, dims)]
            if variant.takes(bindings) and not any(v.isa == variant.isa for v in chosen)
        ]
        if (manifest.variants or opened) and not chosen:
            have = "; ".join(f"{describe_variant(manifest, v)} on {v.isa}" for v in manifest.variants)
            have = "; ".join(filter(None, [have, *(f"{v} on {v.isa}" for v in opened)]))
            raise OptionError(f"the package has no such variant; it has: {have}")
        return cls(package, chosen, opened)

    def sections(self, options: argparse.Namespace) -> list[str]:
        """The page, section by section."""
        page = [self._head(), self._variants()]
        for variant in self.variants if options.kernels or options.memory else self.variants[:1]:
            title = f"{describe_variant(self.package.manifest, variant)} on {self.package.manifest.target(variant.isa)}"
            page.append(f"── {title} " + "─" * max(0, 70 - len(title)) if len(self.variants) > 1 else "")
            kernels = kernels_of_variant(variant, launches_of(self.package, variant) if options.kernels else {})
            page.append((kernel_table if options.kernels else template_table)(kernels) if kernels else "")
            page.append(_host_steps(variant))
            if options.memory:
                bounds = (variant.arena_size, variant.lower_bound)
                page.append(memory_section(variant.buffers, len(variant.steps), *bounds))
        return page

    def _head(self) -> str:
        manifest = self.package.manifest
        made = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        told = ", ".join(f"{name} {value}" for name, value in manifest.options.items() if value)
        symbols = [
            f"{name} in {symbol.minimum}..{'' if symbol.maximum is None else symbol.maximum}"
            for name, symbol in manifest.symbols.items()
        ]
        rows = [
            ("package", f"{self.package.path}, {size(self.package.size)}"),
            ("model", f"{manifest.model}{', embedded' if MODEL in self.package.members else ''}"),
            *(("inputs", str(spec)) for spec in manifest.inputs),
            *(("outputs", str(spec)) for spec in manifest.outputs),
            *(("symbols", text) for text in symbols),
            ("batch", f"rows of {manifest.batch.symbol} are independent" if manifest.batch else ""),
            ("decides", _parameters_text(manifest)),
            ("weights", size(manifest.weights_size)),
            *(
                ("code", f"{isa}: {size(_code_size(self.package, isa))} for {code.machine}")
                for isa, code in manifest.code.items()
            ),
            ("made by", made),
            ("options", told),
        ]
        return facts([row for row in rows if row[1]])

    def arenas(self) -> list[ArenaView]:
        """The arena of each variant."""
        return [
            ArenaView(
                title=describe_variant(self.package.manifest, variant),
                buffers=variant.buffers,
                steps=len(variant.steps),
                peak=variant.arena_size,
                bound=variant.lower_bound,
            )
            for variant in self.variants
        ]

    def _variants(self) -> str:
        if not self.variants and not self.opened:
            return (
                "No variant is compiled yet: each shape is when it first comes, by the compiler where the package runs."
            )
        rows = [
            (
                describe_variant(self.package.manifest, variant),
                self.package.manifest.target(variant.isa),
                str(len(variant.steps)),
                str(len(kernels_of_variant(variant))),
                str(len(variant.host_steps)),
                memory_line(variant.arena_size, variant.lower_bound),
            )
            for variant in self.variants
        ]
        rows += [
            (
                str(variant),
                self.package.manifest.target(variant.isa),
                str(len(variant.steps)),
                str(len({step.symbol for step in variant.steps})),
                "0",
                "planned for each shape",
            )
            for variant in self.opened
        ]
        return table(("variant", "target", "steps", "kernels", "host steps", "memory"), rows, left=(0, 1, 5))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        manifest = self.package.manifest
        return {
            "package": str(self.package.path),
            "bytes": self.package.size,
            "model": manifest.model,
            "inputs": [vars(spec) for spec in manifest.inputs],
            "outputs": [vars(spec) for spec in manifest.outputs],
            "symbols": {name: vars(symbol) for name, symbol in manifest.symbols.items()},
            "batch": vars(manifest.batch) if manifest.batch else None,
            "parameters": list(manifest.parameters),
            "specializations": manifest.specializations,
            "weights_bytes": manifest.weights_size,
            "options": dict(manifest.options),
            "versions": dict(manifest.versions),
            "variants": [
                {
                    "bindings": dict(variant.bindings),
                    "values": {name: v.tolist() for name, v in parameter_values(manifest, variant).items()},
                    "target": manifest.target(variant.isa),
                    "steps": len(variant.steps),
                    "kernels": [
                        use.to_json() for use in kernels_of_variant(variant, launches_of(self.package, variant))
                    ],
                    "host_steps": [
                        {"op": s.op_type, "nodes": list(s.origins), "reason": s.reason} for s in variant.host_steps
                    ],
                    "memory": memory_json(variant.buffers, variant.arena_size, variant.lower_bound),
                }
                for variant in self.variants
            ],
            "open": [
                {
                    "ranges": {name: vars(bounds) for name, bounds in variant.ranges.items()},
                    "target": manifest.target(variant.isa),
                    "steps": len(variant.steps),
                    "kernels": len({step.symbol for step in variant.steps}),
                }
                for variant in self.opened
            ],
        }


def _is_meant(asked: str | None, name: str) -> bool:
    """Whether `--target` asks for the target called `name`: in full, by its kind, or by what follows it."""
    return asked is None or asked.strip().lower() in (name, *name.split(":"))


def _code_size(package: Package, isa: str) -> int:
    """Bytes of all members that carry the code of an instruction set."""
    folder = package.manifest.code[isa].member.rpartition("/")[0]
    return sum(member.size for name, member in package.members.items() if name.startswith(f"{folder}/"))


def _parameters_text(manifest: Manifest) -> str:
    if not manifest.parameters:
        return ""
    named = ", ".join(manifest.parameters)
    if MODEL not in manifest.hashes or not manifest.specializations:
        return f"the value of {named}"
    return f"the value of {named}; up to {manifest.specializations} more are compiled for as they come"


def _host_steps(variant: Variant) -> str:
    steps = variant.host_steps
    if not steps:
        return ""
    counts = Counter((step.op_type, step.reason) for step in steps)
    rows = []
    for (op, reason), number in counts.most_common():
        origins = [origin for step in steps if (step.op_type, step.reason) == (op, reason) for origin in step.origins]
        rows.append((op, str(number), shorten(reason, 70), names(origins, shown=3)))
    listed = table(("operator", "steps", "why it has no kernel", "ONNX nodes"), rows, left=(0, 2, 3))
    return f"{count(len(steps), 'step')} on the host, in NumPy\n\n{listed}"
