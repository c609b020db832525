"""Random valid manifests."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from graphc.package import (
    BufferPlan,
    Code,
    Copy,
    HostStep,
    HostTensor,
    KernelStep,
    Location,
    Manifest,
    SymbolRange,
    TensorSpec,
    Variant,
    numpy_dtype,
)

texts = st.text(max_size=12)
dtypes = st.sampled_from(["float32", "int8", "bfloat16", "float8_e4m3fn", "bool", "int64", "uint16", "string"])
identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
ARENA, WEIGHTS, SLOTS = 4096, 1024, 2


@st.composite
def specs(draw: st.DrawFn, bindings: dict[str, int]) -> tuple[TensorSpec, tuple[int, ...]]:
    """A tensor and its concrete shape under `bindings`."""
    extents: list[int | str] = []
    shape = []
    for _ in range(draw(st.integers(0, 3))):
        symbol = draw(st.sampled_from([None, *bindings]))
        extents.append(draw(st.integers(0, 9)) if symbol is None else symbol)
        shape.append(extents[-1] if symbol is None else bindings[symbol])
    return TensorSpec(draw(texts), draw(dtypes), tuple(extents)), tuple(shape)  # type: ignore[arg-type]


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest with one variant of kernels, host steps and copies."""
    bindings = draw(st.dictionaries(identifiers, st.integers(1, 9), max_size=2))
    inputs = draw(st.lists(specs(bindings), max_size=3, unique_by=lambda pair: pair[0].name))
    outputs = draw(st.lists(specs(bindings), max_size=3, unique_by=lambda pair: pair[0].name))
    sizes = {
        "arena": [ARENA],
        "weight": [WEIGHTS],
        "object": [1 << 40] * SLOTS,
        "input": [math.prod(shape) * numpy_dtype(spec.dtype).itemsize for spec, shape in inputs],
        "output": [math.prod(shape) * numpy_dtype(spec.dtype).itemsize for spec, shape in outputs],
    }
    places = [(kind, index) for kind, extents in sizes.items() for index in range(len(extents))]

    @st.composite
    def locations(draw: st.DrawFn, need: int = 0) -> Location:
        fitting = [(kind, index) for kind, index in places if sizes[kind][index] >= need]
        kind, index = draw(st.sampled_from(fitting))
        return Location(kind, index, draw(st.integers(0, min(sizes[kind][index], ARENA) - need)))

    @st.composite
    def operands(draw: st.DrawFn) -> HostTensor:
        dtype = draw(dtypes)
        shape = draw(shapes.filter(lambda shape: math.prod(shape) * 8 <= WEIGHTS))
        place = draw(locations(math.prod(shape) * numpy_dtype(dtype).itemsize))
        known = place.kind in ("arena", "weight") or draw(st.booleans())
        return HostTensor(place, dtype, shape if known else None)

    kernels = st.builds(
        KernelStep,
        identifiers,
        st.lists(locations(), max_size=5).map(tuple),
        st.lists(st.integers(-(1 << 62), 1 << 62), max_size=4).map(tuple),
        texts,
        st.lists(texts, max_size=2).map(tuple),
        st.integers(0, 1 << 40),
        st.integers(0, 1 << 40),
    )
    optional = st.lists(st.none() | operands(), max_size=3).map(tuple)
    hosts = st.builds(
        HostStep, texts, texts, st.integers(1, 30), st.binary(max_size=20), optional, optional, texts, st.just(())
    )
    steps = tuple(draw(st.lists(kernels | hosts, max_size=6)))
    copies = ()
    if outputs:
        copies = tuple(draw(st.lists(st.builds(Copy, st.integers(0, len(outputs) - 1), operands()), max_size=2)))
    variant = Variant(
        "isa",
        bindings,
        tuple(shape for _, shape in inputs),
        tuple(draw(st.sampled_from([None, shape])) for _, shape in outputs),
        ARENA,
        steps,
        draw(st.integers(0, ARENA)),
        tuple(draw(st.lists(st.builds(BufferPlan, texts, *[st.integers(0, 99)] * 4), max_size=2))),
        copies,
        SLOTS,
    )
    return Manifest(
        draw(texts),
        tuple(spec for spec, _ in inputs),
        tuple(spec for spec, _ in outputs),
        (variant,),
        {"isa": Code("cpu/isa/model.so", "x86_64", draw(st.lists(texts, max_size=2).map(tuple)))},
        {name: SymbolRange(1, draw(st.none() | st.integers(9, 99))) for name in bindings},
        WEIGHTS,
        bool(variant.host_steps),
        draw(st.dictionaries(texts, texts, max_size=2)),
    )
