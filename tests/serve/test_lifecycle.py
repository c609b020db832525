"""Whatever comes and goes in the repository, the newest version that can be served is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ModelUnavailableError
from graphc.serve import State
from tests.serve.conftest import Package
from tests.serve.lively import factor, put, run, serving

BAD = None
steps = st.tuples(st.integers(1, 3), st.sampled_from([2.0, 3.0, BAD, "remove"]))


@settings(max_examples=25)
@given(st.lists(st.lists(steps, min_size=1, max_size=3), min_size=1, max_size=6))
def test_the_newest_version_that_can_be_served_is(
    package: Package, history: list[list[tuple[int, float | str | None]]]
) -> None:
    async def main(folder: Path) -> None:
        root, broken = folder / "models", folder / "broken"
        broken.write_bytes(b"no package")
        (root / "scale").mkdir(parents=True)
        disk: dict[int, float | None] = {}
        expected: dict[int, float] = {}
        async with serving(root, mode="explicit") as server:
            assert server._running is not None
            lifecycle = server._running[1]
            for changes in history:
                for number, what in changes:
                    place = root / "scale" / str(number)
                    if isinstance(what, str):
                        shutil.rmtree(place, ignore_errors=True)
                        disk.pop(number, None)
                        continue
                    put(broken if what is BAD else package(what), place)
                    disk[number] = what
                await lifecycle.settle(await lifecycle.look_at("scale"))
                able = [number for number in disk if disk[number] is not BAD or number in expected]
                if able:
                    top = max(able)
                    now = disk[top]
                    expected = {top: expected[top] if now is None else now}
                elif not disk:
                    expected = {}
                ready = {int(entry.version) for entry in server.index() if entry.state is State.READY}
                assert ready == set(expected)
                if expected:
                    assert await factor(server) == max(expected.items())[1]
                    continue
                try:
                    await factor(server)
                except ModelUnavailableError as error:
                    assert error.retry_after > 0
                else:
                    raise AssertionError("nothing is to be served")

    with tempfile.TemporaryDirectory() as folder:
        run(lambda: main(Path(folder)))
