"""Versions come, go and are replaced while requests are answered: none is lost, and none gets a wrong answer."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphc.errors import GraphcError, ModelNotFoundError, ModelUnavailableError, RepositoryError, RequestError
from graphc.runtime.cuda import devices
from graphc.serve import State
from graphc.target import detect_host
from tests.serve.conftest import Package, Repository, scale_model
from tests.serve.lively import Changes, X, factor, put, reasons, run, serving, states, until


def test_a_new_version_takes_over_and_the_old_one_goes(repository: Repository, package: Package) -> None:
    async def main() -> None:
        root, changes = repository(scale={1: 2.0}), Changes()
        async with serving(root, changes) as server:
            assert await factor(server) == 2
            put(package(3.0), root / "scale/2")
            await until(lambda: states(server) == {"scale/1": State.UNAVAILABLE, "scale/2": State.READY})
            assert await factor(server) == 3
            assert "not among the versions served" in reasons(server)["scale/1"]
            with pytest.raises(ModelUnavailableError, match="scale/1 is unavailable"):
                await factor(server, "1")
        ready, unloading = State.READY, State.UNLOADING
        order = [event for event in changes.events if event[1] in (ready, unloading)]
        assert order == [("1", ready, False), ("2", ready, False), ("1", unloading, False)], "it was loaded first"

    run(main)


def test_a_version_replaced_in_place_answers_all_along(repository: Repository, package: Package) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        async with serving(root) as server:
            seen: list[float] = []
            done = asyncio.Event()

            async def ask() -> None:
                while not done.is_set():
                    seen.append(await factor(server))

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            for value in (3.0, 2.0, 3.0):
                put(package(value), root / "scale/1")
                await until(lambda value=value: bool(seen) and seen[-1] == value)  # type: ignore[misc]
                assert states(server) == {"scale/1": State.READY}
            done.set()
            await asyncio.gather(*asking)
            assert set(seen) == {2.0, 3.0}

    run(main)


def test_equal_contents_are_not_loaded_again(repository: Repository, package: Package) -> None:
    async def main() -> None:
        root, changes = repository(scale={1: 2.0}), Changes()
        async with serving(root, changes) as server:
            before = server._catalog.models["scale"].versions[1].serving
            put(package(2.0), root / "scale/1")
            await until(lambda: changes.events[-1] == ("1", State.READY, True))
            assert server._catalog.models["scale"].versions[1].serving is before

    run(main)


@pytest.mark.parametrize("how", ["half", "flipped", "empty", "text"])
def test_a_bad_package_leaves_the_old_one_serving_and_says_why(
    repository: Repository, package: Package, tmp_path: Path, how: str
) -> None:
    good = bytearray(package(3.0).read_bytes())
    if how == "half":
        good = good[: len(good) // 2]
    elif how == "flipped":
        # In the weights: what opening a package alone would not notice.
        place = good.index(np.float32(3.0).tobytes())
        good[place] ^= 1
    elif how == "empty":
        good = bytearray()
    else:
        good = bytearray(b"no package")
    bad = tmp_path / "bad"
    bad.write_bytes(good)

    async def main() -> None:
        root = repository(scale={1: 2.0})
        async with serving(root) as server:
            put(bad, root / "scale/1")
            await until(lambda: "serving what was there before" in reasons(server)["scale/1"])
            put(bad, root / "scale/2")
            await until(lambda: states(server).get("scale/2") is State.UNAVAILABLE)
            assert states(server)["scale/1"] is State.READY
            assert "model.graphc" in reasons(server)["scale/2"]
            assert await factor(server) == 2
            put(package(4.0), root / "scale/2")
            await until(lambda: states(server)["scale/2"] is State.READY)
            assert await factor(server) == 4

    run(main)


def test_a_version_that_answers_wrongly_stays_out(repository: Repository, package: Package) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0, 2: 3.0})
        np.savez(root / "scale/2/check.npz", **{"inputs/x": X, "outputs/y": 5 * X + 1})
        async with serving(root) as server:
            assert states(server) == {"scale/1": State.READY, "scale/2": State.UNAVAILABLE}
            assert "check: 5 of 6 elements of output 'y' are wrong" in reasons(server)["scale/2"]
            assert await factor(server) == 2
            np.savez(root / "scale/2/check.npz", **{"inputs/x": X, "outputs/y": 3 * X + 1})
            await until(lambda: states(server)["scale/2"] is State.READY)
            assert await factor(server) == 3

    run(main)


def test_what_is_copied_is_not_loaded_before_it_is_whole(repository: Repository, package: Package) -> None:
    data = package(3.0).read_bytes()

    async def main() -> None:
        root, changes = repository(scale={1: 2.0}), Changes()
        async with serving(root, changes, poll_seconds=0.05) as server:
            folder = root / "scale/2"
            folder.mkdir()
            with (folder / "model.graphc").open("wb") as file:
                for start in range(0, len(data), 1 + len(data) // 20):
                    file.write(data[start : start + 1 + len(data) // 20])
                    file.flush()
                    await asyncio.sleep(0.02)
            await until(lambda: states(server).get("scale/2") is State.READY)
            assert ("2", State.UNAVAILABLE, False) not in changes.events
            assert await factor(server) == 3

    run(main)


def test_writing_into_a_package_that_serves_changes_no_answer(repository: Repository) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        async with serving(root, mode="none") as server:
            path = root / "scale/1/model.graphc"
            path.write_bytes(b"\0" * path.stat().st_size)
            assert await factor(server) == 2
            path.write_bytes(b"")
            assert await factor(server) == 2
            path.unlink()
            assert await factor(server) == 2

    run(main)


def test_a_model_that_is_removed_is_unloaded_and_one_that_is_added_is_loaded(
    repository: Repository, package: Package
) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0}, other={1: 3.0})
        async with serving(root) as server:
            shutil.rmtree(root / "other")
            await until(lambda: "other/1" not in states(server))
            with pytest.raises(ModelNotFoundError, match="there is no model 'other'"):
                await factor(server, model="other")
            put(package(5.0), root / "third/7")
            await until(lambda: states(server).get("third/7") is State.READY)
            assert await factor(server, model="third") == 5
            assert await factor(server) == 2

    run(main)


def test_a_repository_that_vanishes_takes_nothing_with_it(repository: Repository, package: Package) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        async with serving(root) as server:
            root.rename(root.with_name("elsewhere"))
            await asyncio.sleep(0.2)
            assert await factor(server) == 2
            root.with_name("elsewhere").rename(root)
            put(package(3.0), root / "scale/2")
            await until(lambda: states(server).get("scale/2") is State.READY)

    run(main)


def test_models_are_loaded_and_unloaded_on_request(repository: Repository, package: Package) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0}, other={1: 3.0})
        async with serving(root, mode="explicit", models=("scale",)) as server:
            assert states(server) == {"scale/1": State.READY, "other/1": State.UNAVAILABLE}
            with pytest.raises(ModelUnavailableError, match="not loaded"):
                await factor(server, model="other")
            await server.load("other")
            assert await factor(server, model="other") == 3
            put(package(4.0), root / "scale/1")
            assert await factor(server) == 2
            await server.load("scale")
            assert await factor(server) == 4
            await server.unload("scale")
            assert states(server)["scale/1"] is State.UNAVAILABLE
            assert not server.model_ready("scale")
            await server.load("scale")
            assert await factor(server) == 4
            with pytest.raises(ModelNotFoundError, match="'nothing'"):
                await server.load("nothing")
            for name in ("..", "", "scale/1", "\0", "." * 300, "x" * 5000):
                with pytest.raises((ModelNotFoundError, RepositoryError)):
                    await server.load(name)
            put(root / "other/1/model.graphc", root / "bad/1", "model.onnx")
            with pytest.raises(RepositoryError, match=r"bad/1 was not loaded: .*zip archive"):
                await server.load("bad")
        async with serving(root, mode="poll") as server:
            with pytest.raises(RequestError, match="the server's mode is 'poll'"):
                await server.unload("scale")

    run(main)


def test_requests_of_a_version_that_is_unloaded_are_answered(repository: Repository) -> None:
    async def main() -> None:
        async with serving(repository(scale={1: 2.0}), mode="explicit", models=("scale",)) as server:
            for _ in range(10):
                requests = [asyncio.create_task(factor(server)) for _ in range(50)]
                await asyncio.sleep(0)
                await server.unload("scale")
                assert await asyncio.gather(*requests) == [2.0] * 50
                await server.load("scale")

    run(main)


def test_policies_labels_and_traffic(repository: Repository) -> None:
    text = """
        versions = "all"
        labels = {stable = 1, canary = 3, gone = 9}
        traffic = {stable = 75, canary = 25}
    """

    async def main() -> None:
        root = repository(text, scale={1: 2.0, 2: 3.0, 3: 4.0})
        async with serving(root) as server:
            assert set(states(server).values()) == {State.READY}
            assert await factor(server, "stable") == 2
            assert await factor(server, "2") == 3
            with pytest.raises(ModelNotFoundError, match="label 'gone' of 'scale' means version 9"):
                await factor(server, "gone")
            found = [await factor(server) for _ in range(40)]
            assert (found.count(2.0), found.count(4.0)) == (30, 10)
            alice = {await factor(server, routing_key="alice") for _ in range(10)}
            assert len(alice) == 1
            # Routes change without a reload; what is not wanted any more goes.
            before = server._catalog.models["scale"].versions[3].serving
            (root / "scale/model.toml").write_text("versions = [1, 3]\ntraffic = {1 = 1, 3 = 1}\n")
            await until(lambda: states(server)["scale/2"] is State.UNAVAILABLE)
            assert server._catalog.models["scale"].versions[3].serving is before
            found = [await factor(server) for _ in range(10)]
            assert (found.count(2.0), found.count(4.0)) == (5, 5)
            # Bad settings change nothing, and say so.
            (root / "scale/model.toml").write_text("slo_msec = 3\n")
            await until(lambda: "unknown key 'slo_msec'" in reasons(server)["scale/1"])
            assert await factor(server, "3") == 4

    run(main)


def test_settings_that_matter_to_a_loaded_version_load_it_anew(repository: Repository) -> None:
    async def main() -> None:
        root = repository("max_batch_size = 4", scale={1: 2.0})
        async with serving(root) as server:
            assert server.config("scale").max_batch_size == 4
            (root / "scale/model.toml").write_text("max_batch_size = 2\nthreads = 1\n")
            await until(lambda: server.config("scale").max_batch_size == 2)
            assert server.config("scale").threads == 1
            assert await factor(server) == 2

    run(main)


def test_an_onnx_model_is_compiled_and_kept(repository: Repository, tmp_path: Path) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        (root / "raw/1").mkdir(parents=True)
        onnx.save(scale_model(6.0), root / "raw/1/model.onnx")
        (root / "raw/model.toml").write_text("[compile]\ndims = {batch = [1, 2]}\n")
        cache = tmp_path / "cache"
        async with serving(root, cache=cache) as server:
            assert await factor(server, model="raw") == 6
            assert server.config("raw").batching is not None
            assert server.config("raw").max_batch_size == 2
        (kept,) = (cache / "served").glob("*.graphc")
        before = kept.stat()
        async with serving(root, cache=cache, compile_only=True) as server:
            assert await factor(server, model="raw") == 6
            assert states(server)["scale/1"] is State.UNAVAILABLE
            assert "--compile-only" in reasons(server)["scale/1"]
        after = kept.stat()
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)

    run(main)


def test_what_a_model_is_compiled_for_is_its_own_to_say(repository: Repository, tmp_path: Path) -> None:
    """Targets and precisions that are not there leave what serves serving, and the index says why."""

    def say(text: str) -> None:
        (root / "raw/model.toml").write_text(text)

    root, isa = repository(), detect_host().isa
    (root / "raw/1").mkdir(parents=True)
    onnx.save(scale_model(6.0), root / "raw/1/model.onnx")

    async def main() -> None:
        say(f'device = "cpu"\ncompile = {{dims = {{batch = [1, 2]}}, target = "cpu:{isa}", precision = "fp32"}}')
        async with serving(root, cache=tmp_path / "cache") as server:
            assert await factor(server, model="raw") == 6
            serving_now = server._catalog.version("raw", "1").serving
            assert serving_now is not None and list(serving_now.manifest.code) == [isa]
            wrong = [
                ('compile = {dims = {batch = [1, 2]}, target = "tpu"}', "unknown target 'tpu'"),
                ('compile = {dims = {batch = [1, 2]}, precision = "fp7"}', "unknown precision 'fp7'"),
            ]
            if not _has_gpu():
                none = "CUDA driver|cuda-bindings"
                wrong += [
                    ('compile = {dims = {batch = [1, 2]}, target = "cuda:sm_90"}', none),
                    (f'device = "cuda:0"\ncompile = {{dims = {{batch = [1, 2]}}, target = "cpu:{isa}"}}', none),
                ]
            for text, reason in wrong:
                say(text)
                await until(lambda reason=reason: bool(re.search(reason, reasons(server)["raw/1"])))  # type: ignore[misc]
                assert await factor(server, model="raw") == 6

    run(main)


def _has_gpu() -> bool:
    try:
        return bool(devices())
    except GraphcError:
        return False


def test_a_server_with_nothing_to_serve(tmp_path: Path, repository: Repository) -> None:
    async def main() -> None:
        with pytest.raises(RepositoryError, match="cannot read the repository"):
            async with serving(tmp_path / "nowhere"):
                pass
        (tmp_path / "empty").mkdir()
        with pytest.raises(RepositoryError, match="there is no model in"):
            async with serving(tmp_path / "empty", mode="none"):
                pass
        root = repository(scale={1: 2.0})
        (root / "scale/1/model.graphc").write_bytes(b"?")
        with pytest.raises(RepositoryError, match="scale/1 was not loaded"):
            async with serving(root, exit_on_error=True):
                pass
        (root / "bare").mkdir()
        async with serving(root) as server:
            assert server.ready
            assert "has no versions" in reasons(server)["bare/"]
            with pytest.raises(ModelUnavailableError, match="has no versions"):
                await factor(server, model="bare")

    run(main)
