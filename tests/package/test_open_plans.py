"""Plans that serve neighbouring bindings: right for each of them, hardly larger than their own, and the same always."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphc import memory
from graphc.package import OpenBuffer, OpenStep, OpenVariant, Plans, SymbolRange, evaluate

SIZES = ["4*seq", "64*batch*seq", "seq*seq", "max(seq, 64)*batch", "256*(longer)", "1000", "4096*(seq // 8)", "0"]
BINDINGS = st.tuples(st.integers(1, 40), st.integers(1, 700))


@st.composite
def variants(draw: st.DrawFn) -> OpenVariant:
    steps = draw(st.integers(1, 8))
    buffers = []
    for number in range(draw(st.integers(1, 10))):
        start = draw(st.integers(0, steps - 1))
        size = draw(st.sampled_from(SIZES))
        buffers.append(OpenBuffer(f"b{number}", start, draw(st.integers(start, steps)), size))
    ranges = {"batch": SymbolRange(1, None), "seq": SymbolRange(1, 700), "longer": SymbolRange(2, None)}
    shapes = (("batch", "seq"), ("batch", "longer"))
    made = tuple(OpenStep("kernel", ()) for _ in range(steps))
    return OpenVariant("isa", ranges, shapes, (), tuple(buffers), made, equal={"longer": "seq + 1"})


@given(variants(), st.lists(BINDINGS, min_size=1, max_size=8), st.sampled_from([64, 256]))
def test_each_binding_gets_a_plan_for_itself_whatever_came_before(
    variant: OpenVariant, bindings: list[tuple[int, int]], alignment: int
) -> None:
    plans = Plans(variant, alignment)
    for batch, seq in bindings:
        bound = {"batch": batch, "seq": seq, "longer": seq + 1}
        sizes = [evaluate(buffer.size, bound) for buffer in variant.buffers]
        plan = plans.plan(bound, sizes)
        triples = [(b.start, b.end, size) for b, size in zip(variant.buffers, sizes, strict=True)]
        memory.check(triples, plan, alignment)
        own = memory.plan(triples, alignment=alignment, time_limit=0, node_budget=0)
        assert plan.lower_bound == own.lower_bound
        assert plan.peak <= max(1 << 20, 1.25 * own.lower_bound, own.peak)
        assert plan == Plans(variant, alignment).plan(bound, sizes)


def test_a_length_that_grows_needs_few_plans() -> None:
    ranges = {"seq": SymbolRange(1, None)}
    buffers = (OpenBuffer("a", 0, 1, "4096*seq"), OpenBuffer("b", 0, 1, "128"))
    variant = OpenVariant("isa", ranges, (("seq",),), (), buffers, (OpenStep("kernel", ()),))
    plans = Plans(variant, 64)
    found = {plans.plan({"seq": n}, [4096 * n, 128]).offsets for n in range(1, 513)}
    assert len(found) <= 32
