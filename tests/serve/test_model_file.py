"""What `model.toml` may say, and what is wrong with what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.errors import RepositoryError
from graphc.runtime.scheduler import ModelSettings
from graphc.serve.facts import VersionPolicy
from graphc.serve.model_file import CompileFacts, ModelFile, Tolerance, read_model_file

DEFAULTS = ModelSettings(slo_ms=100, max_queue_size=7)


def read(folder: Path, text: str) -> ModelFile:
    (folder / "model.toml").write_text(text)
    return read_model_file(folder / "model.toml", DEFAULTS)


def test_without_a_file_the_server_s_defaults_hold(tmp_path: Path) -> None:
    assert read_model_file(tmp_path / "model.toml", DEFAULTS) == ModelFile(serving=DEFAULTS)
    assert read(tmp_path, "") == ModelFile(serving=DEFAULTS)


def test_all_that_it_may_say(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        slo_ms = 50
        max_batch_size = 8
        preferred_batch_sizes = [4, 8]
        padding = false
        versions = [3, 1]
        threads = 2
        instances = 1
        device = "cuda:1"

        [labels]
        stable = 1

        [traffic]
        stable = 90
        3 = 10.5

        [compile]
        dims = {batch = "auto", seq = [128, 256], x = [1, 3]}
        values = {axes = [1]}
        level = "O3"
        winograd = false
        target = "cpu:x86-64-v3,cuda:sm_90"
        precision = "bf16,io"

        [check]
        rtol = 1e-2
        """,
    )
    assert found == ModelFile(
        ModelSettings(slo_ms=50, max_batch_size=8, preferred_batch_sizes=(4, 8), padding=False, max_queue_size=7),
        VersionPolicy("specific", versions=(1, 3)),
        {"stable": 1},
        {"stable": 90.0, "3": 10.5},
        2,
        1,
        "cuda:1",
        CompileFacts(
            {"batch": "auto", "seq": [128, 256], "x": [1, 3]},
            {"axes": [1]},
            "O3",
            False,
            "cpu:x86-64-v3,cuda:sm_90",
            "bf16,io",
        ),
        Tolerance(rtol=1e-2),
    )


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ('versions = "all"', VersionPolicy("all")),
        ('versions = "latest"', VersionPolicy()),
        ("versions = {latest = 3}", VersionPolicy(count=3)),
    ],
)
def test_version_policies(tmp_path: Path, text: str, policy: VersionPolicy) -> None:
    assert read(tmp_path, text).versions == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slo = 50", "unknown key 'slo'"),
        ("slo_ms = '50'", "slo_ms is '50'; expected a number"),
        ("slo_ms = nan", "slo_ms is nan"),
        ("max_batch_size = 0", "max_batch_size is 0; expected an integer from 1 on"),
        ("max_batch_size = true", "max_batch_size is True"),
        ("preferred_batch_sizes = 4", "preferred_batch_sizes is 4; expected a list"),
        ("preferred_batch_sizes = ['4']", "preferred_batch_sizes is '4'"),
        ("padding = 1", "padding is 1; expected true or false"),
        ("threads = 0", "threads is 0; expected a positive integer"),
        ("instances = 1.5", "instances is 1.5"),
        ("versions = 'newest'", "versions is 'newest'; expected"),
        ("versions = []", "versions is "),
        ("versions = [0]", "versions is "),
        ("versions = [true]", "versions is "),
        ("versions = {latest = 0}", "versions is "),
        ("versions = {latest = 2, specific = 3}", "versions is "),
        ("labels = 3", "labels is 3; expected a table"),
        ("labels = {stable = 'x'}", r"labels\.stable is 'x'"),
        ("labels = {7 = 1}", "'7' cannot be a label"),
        ("traffic = {canary = 1}", "'canary' is neither a version nor a label"),
        ("traffic = {1 = -1}", r"traffic\.1 is -1"),
        ("traffic = {1 = inf}", r"traffic\.1 is inf"),
        ("traffic = {1 = 0}", "all weights are 0"),
        ("compile = 1", "compile is 1; expected a table"),
        ("compile = {dim = {batch = 1}}", r"unknown key 'compile\.dim'"),
        ("compile = {dims = {batch = 1.5}}", r"compile\.dims is"),
        ("compile = {level = 'fast'}", r"compile\.level is 'fast'"),
        ("compile = {target = ['cpu']}", r"compile\.target is \['cpu'\]"),
        ("compile = {precision = 16}", r"compile\.precision is 16"),
        ("device = 'gpu'", 'device is \'gpu\'; expected "cpu", "cuda"'),
        ("device = 'cuda:-1'", "device is 'cuda:-1'"),
        ("device = 0", "device is 0"),
        ("check = {rtol = -1}", r"check\.rtol is -1"),
        ("a = ", "is no TOML"),
        ("a = " + "[" * 5000, "is no TOML"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message) as caught:
        read(tmp_path, text)
    assert "model.toml" in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RepositoryError, match="is no text"):
        read_model_file(tmp_path / "model.toml", DEFAULTS)
    (tmp_path / "model.toml").unlink()
    (tmp_path / "model.toml").mkdir()
    with pytest.raises(RepositoryError, match="cannot read"):
        read_model_file(tmp_path / "model.toml", DEFAULTS)


def test_which_changes_need_a_version_loaded_anew(tmp_path: Path) -> None:
    base = read(tmp_path, "slo_ms = 50")
    assert base.routes_only(read(tmp_path, "slo_ms = 50\nversions = 'all'\nlabels = {a = 1}\ntraffic = {a = 1}"))
    assert not base.routes_only(read(tmp_path, "slo_ms = 60"))
    assert not base.routes_only(read(tmp_path, "slo_ms = 50\nthreads = 1"))
