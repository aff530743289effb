"Tensors that travel in messages are the tensors that were sent, and nothing else gets in."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from seatrial.engine.bundle import DATATYPES
from seatrial.serve.binary import Asked, buffer_of
from seatrial.serve.envelope import LISTS, answer, asked, filled, parameters, written_down
from seatrial.serve.messages import classes, read
from seatrial.serve.protocol import Refused

HEAD = {"model_name": "m", "model_version": "1.0.0", "id": "r", "parameters": {}}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def tensors(draw):
    "Any datatype and an array of it, of one to three dimensions, empty ones too."
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    if datatype == "BYTES":
        return datatype, draw(npst.arrays(object, shape, elements=TEXTS, fill=st.just("")))
    return datatype, draw(npst.arrays(np.dtype(DATATYPES[datatype]), shape))


def sent(datatype, array, raw):
    "A request that has travelled."
    message = classes()["ModelInferRequest"](model_name="m")
    entry = message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        message.raw_input_contents.append(buffer_of(array))
    else:
        filled(entry.contents, array, datatype)
    return read("ModelInferRequest", message.SerializeToString())


def same(one, other):
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f") and one.shape == other.shape


@given(tensors(), st.booleans())
def test_what_arrives_is_what_was_sent(tensor, raw):
    datatype, array = tensor
    raw = raw or datatype not in LISTS
    got = asked(sent(datatype, array, raw)).request.tensors
    assert [(name, kind) for name, kind, _ in got] == [("x", datatype)] and same(array, got[0][2])


@given(tensors(), st.booleans())
def test_what_is_answered_is_what_was_computed(tensor, raw):
    datatype, array = tensor
    said = read("ModelInferResponse", answer(HEAD, {"y": array}, Asked(None, raw)).SerializeToString())
    (output,) = said.outputs
    assert (output.name, output.datatype, tuple(output.shape)) == ("y", datatype, array.shape)
    if raw or datatype not in LISTS:
        assert list(said.raw_output_contents) == [buffer_of(array)]
    else:
        listed = getattr(output.contents, f"{LISTS[datatype]}_contents")
        kind = object if datatype == "BYTES" else DATATYPES[datatype]
        values = [text.encode() for text in array.ravel()] if datatype == "BYTES" else array.ravel()
        assert same(np.array(list(listed), kind), np.array(values, kind))
        assert not said.raw_output_contents


@given(st.sampled_from(["INT8", "INT16", "UINT8", "UINT16"]), st.integers(-(2**31), 2**31 - 1))
def test_a_number_is_kept_or_refused_and_never_bent(datatype, number):
    kind, limits = f"{LISTS[datatype]}_contents", np.iinfo(DATATYPES[datatype])
    number = abs(number) if datatype.startswith("U") else number
    message = classes()["ModelInferRequest"](model_name="m")
    entry = message.inputs.add(name="x", datatype=datatype, shape=[1])
    getattr(entry.contents, kind).append(number)
    if limits.min <= number <= limits.max:
        assert asked(message).request.tensors[0][2].tolist() == [number]
    else:
        with pytest.raises(Refused, match=f"every value must fit datatype {datatype}, got {number}"):
            asked(message)


@given(st.dictionaries(TEXTS, st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), TEXTS)))
def test_parameters_keep_their_types(values):
    message = classes()["ModelInferRequest"]()
    written_down(message.parameters, values)
    back = parameters(read("ModelInferRequest", message.SerializeToString()).parameters, "x")
    assert {name: repr(value) for name, value in back.items()} == {name: repr(value) for name, value in values.items()}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(body):
    status = 200
    try:
        asked(read("ModelInferRequest", body))
    except Refused as refusal:
        status = refusal.status
    assert status in (200, 400)
