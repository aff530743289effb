import contextlib
import json
from string import ascii_letters

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.serve.outcome import outcomes
from seatrial.serve.protocol import DATATYPES, Refused, address, answer, matched, request, tensor

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(ascii_letters, max_size=8), inner, max_size=4),
    max_leaves=12,
)
INTEGERS = [name for name in DATATYPES if "INT" in name]
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "", "y"]) | JSON,
        "datatype": st.sampled_from(sorted(DATATYPES)) | JSON,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | JSON,
        "data": st.lists(st.integers(-3, 300) | st.floats(allow_nan=False), max_size=9) | JSON,
    },
)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_are_refused(body):
    for read in (request, lambda b: outcomes(b, 0.0)):
        with contextlib.suppress(Refused):
            read(body)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({}, optional={"inputs": st.lists(ENTRY, max_size=3) | JSON, "parameters": JSON, "id": JSON})
)
def test_any_json_is_a_request_or_is_refused(document):
    with contextlib.suppress(Refused):
        asked = request(json.dumps(document).encode())
        assert all(array.dtype == np.dtype(DATATYPES[datatype]) for _, datatype, array in asked.tensors)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "BOOL")])
@pytest.mark.parametrize(
    "data", [[True, 2], [2, False], [[1], [True]], [[[0, 1], [True, 0]]], [1.0, True], [None, True]]
)
def test_truth_is_not_a_number_wherever_it_stands(datatype, data):
    shape = list(np.array(data, object).shape)
    with pytest.raises(Refused, match=datatype):
        tensor({"name": "x", "datatype": datatype, "shape": shape, "data": data}, 0)


@settings(max_examples=200)
@given(
    st.sampled_from([name for name in DATATYPES if "INT" in name]),
    st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1),
)
def test_integers_arrive_unchanged_or_not_at_all(datatype, data):
    try:
        array = tensor({"name": "x", "datatype": datatype, "shape": [len(data)], "data": data}, 0)[2]
    except Refused:
        info = np.iinfo(DATATYPES[datatype])
        assert min(data) < info.min or max(data) > info.max
    else:
        assert array.tolist() == data


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/m/infer/",
        "/v2/models/m/versions",
        "/v3",
        "/v2/models/m/x",
    ],
)
def test_odd_paths_are_not_mistaken_for_others(path):
    found = address(path)
    assert found is None or (path.endswith("/infer/") and found.action == "infer")


def test_an_answer_can_be_read_back_as_a_request():
    outputs = {"y": np.array([[0.1], [2.5]], np.float32), "word": np.array(["a", "ü"], object)}
    said = json.loads(answer("m", "1.0.0", "r", {}, outputs))
    for entry in said["outputs"]:
        name, _, array = tensor(entry, 0)
        assert (array == outputs[name]).all()


@pytest.mark.parametrize("depth", [1, 31, 33, 63, 70, 300, 1000])
@pytest.mark.parametrize(
    ("datatype", "leaf"), [("FP32", {}), ("INT64", {}), ("INT64", 2**70), ("BYTES", "a"), ("FP32", 1)]
)
def test_data_of_any_depth_and_kind_is_read_or_refused(depth, datatype, leaf):
    data = leaf
    for _ in range(depth):
        data = [data]
    entry = {"name": "x", "shape": [2], "datatype": datatype, "data": data}
    with pytest.raises(Refused) as refusal:
        tensor(entry, 0)
    assert refusal.value.status == 400 and "\n" not in refusal.value.sentence


def test_null_is_missing_only_where_the_signature_allows_it():
    body = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, null]}]}'
    spec = {"name": "x", "datatype": "FP32", "shape": [-1]}
    with pytest.raises(Refused, match="must not hold null"):
        matched(request(body), [spec])
    assert np.isnan(matched(request(body), [spec | {"missing": True}])["x"]).tolist() == [False, True]


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "n", "value": 1},
        {"request_id": "", "name": "n", "value": 1},
        {"request_id": "r", "name": "n", "value": True},
        {"request_id": "r", "name": "n", "value": 1, "time_s": -1},
        {"request_id": "r", "name": "n", "value": 1, "colour": "red"},
    ],
)
def test_a_bulk_of_outcomes_is_refused_as_a_whole(entry):
    good = {"request_id": "r", "name": "n", "value": 1}
    with pytest.raises(Refused, match=r"^\[1\]: "):
        outcomes(json.dumps([good, entry]).encode(), 0.0)
