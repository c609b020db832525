"""Linking with whatever C compiler there is, with Zig's, and with none."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from graphc.backends.tvm import link as module
from graphc.backends.tvm.link import Linker, find_linker, link
from graphc.errors import BackendError, ToolchainError
from graphc.runtime import NATIVE_SOURCES, abi
from tests.runtime.conftest import KERNELS, SYMBOLS, compile_c


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compile_c(KERNELS, tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)


def zig() -> Linker:
    pytest.importorskip("ziglang")
    program = module._find_zig()
    assert program is not None
    return Linker((str(program), "cc", "-target", "x86_64-linux-gnu"), program)


def test_equal_objects_give_equal_bytes(kernels: bytes, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.so").write_bytes(link({"kernels": kernels}, exports=SYMBOLS))
    assert (tmp_path / "a/model.so").read_bytes() == (tmp_path / "b/model.so").read_bytes()


def test_only_kernels_and_the_launcher_are_visible(kernels: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(link({"kernels": kernels}, exports=["scale"]))
    library = ctypes.CDLL(str(tmp_path / "model.so"))
    assert library.scale
    assert library.graphc_run
    for hidden in ("add", "count", "__TVMBackendParallelLaunch", "TVMFFIErrorSetRaisedFromCStrParts"):
        assert not hasattr(library, hidden)


def test_names_of_objects_are_the_exports_by_default(tmp_path: Path) -> None:
    objects = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        objects[name] = compile_c(
            f"#include <stdint.h>\nint32_t {name}(const int64_t* dims) {{ return 0; }}", tmp_path / name
        )
    (tmp_path / "model.so").write_bytes(link(objects))
    library = ctypes.CDLL(str(tmp_path / "model.so"))
    assert library.one(None) == library.two(None) == 0


def test_the_launcher_is_compiled_once(kernels: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "a.so").write_bytes(link({"kernels": kernels}, exports=SYMBOLS, flags=["-DONCE"], cache=cache))
    assert len(list(cache.iterdir())) == sum(path.suffix == ".c" for path in NATIVE_SOURCES)
    monkeypatch.setattr(module, "_launchers", {})
    monkeypatch.setattr(module, "_compile", None)
    (tmp_path / "b.so").write_bytes(link({"kernels": kernels}, exports=SYMBOLS, flags=["-DONCE"], cache=cache))
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()


def test_without_any_compiler_the_hint_says_what_to_install(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_find_zig", lambda: None)
    with pytest.raises(ToolchainError, match="pip install ziglang"):
        find_linker()


def test_zig_is_found_where_there_is_no_other(no_compiler: None) -> None:
    assert find_linker().command[1:] == zig().command[1:]


def test_another_machine_needs_a_cross_compiler_or_zig(no_compiler: None) -> None:
    assert find_linker("aarch64-linux-gnu").command == (*zig().command[:3], "aarch64-linux-gnu")


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -pipe")
    assert find_linker().command[1:] == ("-pipe",)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_linker().program.name != "no-such-compiler"


def test_what_the_linker_said_is_in_the_error() -> None:
    with pytest.raises(BackendError, match="failed with status"):
        link({"k": b"not an object"})


def test_an_undefined_symbol_fails_here_and_not_at_load(tmp_path: Path) -> None:
    source = "#include <stdint.h>\nint32_t nowhere(void);\nint32_t k(const int64_t* dims) { return nowhere(); }"
    with pytest.raises(BackendError, match="nowhere"):
        link({"k": compile_c(source, tmp_path)})


@pytest.mark.slow
def test_zig_links_for_this_machine_and_for_arm(kernels: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(link({"kernels": kernels}, exports=SYMBOLS, linker=zig()))
    assert ctypes.CDLL(str(tmp_path / "model.so")).graphc_abi() == abi.VERSION
    (tmp_path / "arm.so").write_bytes(link({}, linker=find_linker("aarch64-linux-gnu")))
    header = (tmp_path / "arm.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183, "EM_AARCH64"
