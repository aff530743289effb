"""A batch that does not fit into memory is answered all the same, in order, and it is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.engine.call import Strain, cause, first_line, fitted, spec_of, starved


def cramped(room):
    "A model in which so many rows fit."

    def run(tensors):
        if len(tensors["x"]) > room:
            raise MemoryError
        return [tensors["x"] * 2, tensors["x"].astype(str).astype(object)]

    return run


@given(rows=st.integers(1, 200), room=st.integers(1, 200))
def test_halves_give_the_answers_of_the_whole_in_order(rows, room):
    x, strain = np.arange(rows), Strain()
    number, text = fitted(cramped(room), {"x": x}, strain)
    assert number.tolist() == (2 * x).tolist() and text.tolist() == [str(v) for v in x]
    assert strain.calls == (rows > room)
    if rows > room:
        assert strain.failed_rows > room >= strain.served_rows >= 1


@given(rows=st.integers(1, 100))
def test_it_takes_at_most_two_attempts_a_row(rows):
    count = []

    def run(tensors):
        count.append(1)
        return cramped(1)(tensors)

    fitted(run, {"x": np.arange(rows)}, Strain())
    assert len(count) == 2 * rows - 1


def test_every_tensor_is_halved_alike():
    def run(tensors):
        if len(tensors["a"]) > 2:
            raise MemoryError
        return [tensors["a"] + tensors["b"][:, 0]]

    a, b = np.arange(5.0), np.arange(10.0).reshape(5, 2)
    assert fitted(run, {"a": a, "b": b}, Strain())[0].tolist() == (a + b[:, 0]).tolist()


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        "std::bad_alloc",
    ],
)
def test_libraries_are_understood_when_they_lack_memory(said):
    assert starved(RuntimeError(said)) and not starved(RuntimeError("shapes do not match"))


def test_onnx_runtime_says_it_in_the_words_that_are_known(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from seatrial.engine.session import session

    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["y"])]
    sides = (
        [helper.make_tensor_value_info("shape", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", *sides), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(Exception, match=r"(?i)alloc") as caught:
        session(tmp_path / "g.onnx").run(None, {"shape": np.array([2**50])})
    assert starved(caught.value)


def test_what_a_library_raised_becomes_one_line():
    deep = RuntimeError("outer")
    deep.__cause__ = ValueError("\n  inner\nmore")
    assert cause(deep) == "ValueError: inner" and first_line(RuntimeError("")) == "RuntimeError"


@pytest.mark.parametrize("array", [np.array(3.0), np.zeros(2, "datetime64[s]"), np.zeros(2, complex)])
def test_arrays_that_no_protocol_knows_have_no_specification(array):
    with pytest.raises(ValueError, match="array of rows of a known datatype"):
        spec_of("x", array)
