"""How kernels of a GPU stand in a package: what is written is read back, what is damaged is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import PackageError
from graphc.package.cuda import CudaCode, CudaKernel, CudaObject, Integer, Launch, Pointer, Status, cubin_name

extents = st.one_of(st.integers(0, 2**31), st.sampled_from(["d0", "(d0 + 127)//128", "d1*d0"]))
parameters = st.one_of(
    st.builds(Pointer, st.integers(0, 39), st.integers(0, 2**40)),
    st.builds(Integer, extents, st.sampled_from([4, 8])),
    st.just(Status()),
)
cubins = st.binary(max_size=64)


@st.composite
def objects(draw):
    code = {cubin_name(cubin): cubin for cubin in draw(st.lists(cubins, min_size=1, max_size=3))}
    launches = st.builds(
        Launch,
        cubin=st.sampled_from(sorted(code)),
        function=st.just("kernel"),
        grid=st.tuples(extents, extents, extents),
        threads=st.sampled_from([32, 128, 256]),
        parameters=st.lists(parameters, max_size=5).map(tuple),
        shared=st.integers(0, 232448),
        scratch=st.integers(0, 4096),
        cluster=st.sampled_from([1, 2]),
    )
    return CudaObject(CudaKernel(tuple(draw(st.lists(launches, min_size=1, max_size=3)))), code)


@given(objects())
def test_objects_and_code_read_back_equal(compiled):
    assert CudaObject.from_bytes(compiled.to_bytes()) == compiled
    code = CudaCode("sm_90", {"graphc_generic_0": compiled.kernel})
    assert CudaCode.from_json(code.to_json()) == code


@given(objects(), st.data())
def test_a_damaged_object_is_refused(compiled, data):
    written = bytearray(compiled.to_bytes())
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    try:
        read = CudaObject.from_bytes(bytes(written))
    except PackageError:
        return
    # Digits of the text may have become others; cubins are what their names say.
    assert all(cubin_name(cubin) == name for name, cubin in read.cubins.items())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grid": (1, 1)}, "three"),
        ({"grid": ("seq", 1, 1)}, "no entry of a table"),
        ({"threads": 2048}, "1 to 1024"),
        ({"shared": -1}, "negative"),
    ],
)
def test_launches_check_themselves(changed, words):
    fields = {"cubin": "0", "function": "f", "grid": (1, 1, 1), "threads": 32, "parameters": ()} | changed
    with pytest.raises(PackageError, match=words):
        Launch(**fields)


def test_integers_have_a_width_that_functions_take():
    with pytest.raises(PackageError, match="4 or 8"):
        Integer(1, 2)


def test_an_object_nested_without_end_is_refused():
    text = b"[" * 100000
    with pytest.raises(PackageError, match="no compiled kernel"):
        CudaObject.from_bytes(CudaObject._HEADER.pack(CudaObject._MAGIC, len(text)) + text)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"architecture": "sm_90"}', "[" * 100000])
def test_what_is_no_code_is_refused(text):
    with pytest.raises(PackageError):
        CudaCode.from_json(text)
