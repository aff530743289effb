import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seatrial.engine.bundle import DATATYPES
from seatrial.serve.binary import Asked, answer, asked, read_texts, written
from seatrial.serve.protocol import Refused

NUMBERS = {name: np.dtype(kind) for name, kind in DATATYPES.items() if name != "BYTES"}
ARRAYS = st.sampled_from(sorted(NUMBERS)).flatmap(
    lambda name: st.tuples(
        st.just(name), hnp.arrays(NUMBERS[name], hnp.array_shapes(max_dims=3, max_side=4, min_side=0))
    )
)


def body(tensors, **more):
    "A request whose tensors are all binary."
    entries, buffers = [], []
    for i, (datatype, array) in enumerate(tensors):
        buffers.append(written(array.ravel()) if datatype == "BYTES" else array.tobytes())
        head = {"name": f"x{i}", "shape": list(array.shape), "datatype": datatype}
        entries.append(head | {"parameters": {"binary_data_size": len(buffers[-1])}})
    text = orjson.dumps({"inputs": entries, **more})
    return text + b"".join(buffers), len(text)


def refusal(whole, n=None):
    with pytest.raises(Refused) as refused:
        asked(whole, n)
    assert refused.value.status == 400 and len(refused.value.sentence) < 400
    return refused.value.sentence


@given(st.lists(ARRAYS, min_size=1, max_size=4))
def test_every_tensor_arrives_as_it_was_sent(tensors):
    found = asked(*body(tensors)).request.tensors
    for (datatype, array), (_, told, got) in zip(tensors, found, strict=True):
        assert told == datatype and got.dtype == array.dtype and got.shape == array.shape
        assert got.tobytes() == array.tobytes()


@given(st.lists(st.text(), max_size=8))
def test_texts_arrive_as_they_were_sent(texts):
    assert read_texts(memoryview(written(texts)), len(texts), "x").tolist() == texts
    array = np.array(texts, object)
    assert asked(*body([("BYTES", array)])).request.tensors[0][2].tolist() == texts


@given(st.lists(ARRAYS, min_size=1, max_size=2), st.data())
def test_a_body_that_breaks_off_anywhere_is_refused(tensors, data):
    whole, n = body(tensors)
    cut = data.draw(st.integers(0, len(whole) - 1))
    refusal(whole[:cut], min(n, cut))


@given(st.binary(max_size=120), st.integers(0, 120))
def test_any_bytes_are_refused_in_a_sentence(noise, n):
    refusal(noise, n)


@given(
    st.recursive(
        st.none() | st.integers(-(2**63), 2**63) | st.text(max_size=5), lambda c: st.lists(c, max_size=3), max_leaves=5
    )
)
def test_any_parameter_is_understood_or_refused(value):
    entry = {"name": "x", "shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": value}}
    for document in ({"inputs": [entry]}, {"inputs": [entry | {"parameters": value}]}, {"inputs": value}):
        if value != 1:
            refusal(orjson.dumps(document) + b"a", len(orjson.dumps(document)))


def test_binary_and_spelt_tensors_may_stand_beside_each_other():
    first = {"name": "a", "shape": [2], "datatype": "INT32", "data": [1, 2]}
    second = {"name": "b", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}
    text = orjson.dumps({"inputs": [first, second, first | {"name": "c"}]})
    tensors = asked(text + np.float64([0.5]).tobytes(), len(text)).request.tensors
    assert [(name, array.tolist()) for name, _, array in tensors] == [("a", [1, 2]), ("b", [0.5]), ("c", [1, 2])]


@pytest.mark.parametrize("header", [-1, 10**9])
def test_a_header_length_beyond_the_body_is_refused(header):
    assert "Inference-Header-Content-Length" in refusal(b"{}", header)


def test_what_nobody_claims_is_refused():
    whole, n = body([("FP32", np.zeros((1, 2), np.float32))])
    assert "4 bytes follow" in refusal(whole + b"1234", n)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"sequence_id": 5}, "sequence_id must be left out"),
        ({"sequence_start": True}, "sequence_start"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"timeout": "soon"}, "timeout must be a whole number"),
        ({"binary_data_output": 1}, "true or false"),
    ],
)
def test_parameters_that_cannot_be_kept_are_refused(parameters, says):
    assert says in refusal(*body([("FP32", np.zeros(1, np.float32))], parameters=parameters))


def test_what_triton_sends_without_meaning_it_is_accepted():
    quiet = {"sequence_id": 0, "sequence_start": False, "priority": "3", "timeout": "1500"}
    found = asked(*body([("FP32", np.zeros(1, np.float32))], parameters=quiet))
    assert (found.priority, found.timeout_s) == (3, 0.0015)


@given(st.lists(ARRAYS, min_size=1, max_size=3), st.booleans(), st.data())
def test_an_answer_carries_the_same_values_either_way(tensors, raw, data):
    outputs = {f"y{i}": np.where(np.isfinite(a), a, 0).astype(a.dtype) for i, (_, a) in enumerate(tensors)}
    each = {name: data.draw(st.booleans()) for name in outputs if data.draw(st.booleans())}
    whole, n = answer({"id": "1"}, outputs, Asked(None, raw, each))
    document, at = orjson.loads(whole[:n]), n
    for entry, (name, array) in zip(document["outputs"], outputs.items(), strict=True):
        assert (entry["name"], entry["shape"]) == (name, list(array.shape))
        if each.get(name, raw):
            size = entry["parameters"]["binary_data_size"]
            assert whole[at : at + size] == array.tobytes()
            at += size
        else:
            assert np.array_equal(np.asarray(entry["data"], array.dtype).reshape(array.shape), array)
    assert at == (len(whole) if n else n)
