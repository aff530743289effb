import json

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.protocol import Refused
from seatrial.serve.scoring import predictions, problem, scored

SPECS = [
    {"name": "text", "datatype": "BYTES", "shape": [-1]},
    {"name": "age", "datatype": "INT64", "shape": [-1]},
    {"name": "score", "datatype": "FP64", "shape": [-1], "missing": True},
]
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1, max_size=10
)
ROWS = st.lists(
    st.tuples(TEXTS, st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)),
    min_size=1,
    max_size=6,
)


def frame(rows):
    return pd.DataFrame(rows, columns=["text", "age", "score"])


def refusal(body, kind="application/json", specs=SPECS):
    with pytest.raises(Refused) as refused:
        scored(body, kind, specs)
    return refused.value


@given(ROWS)
def test_all_forms_say_the_same(rows):
    table = frame(rows)
    forms = [
        {"dataframe_split": table.to_dict("split")},
        {"dataframe_records": table.to_dict("records")},
        {"instances": table.to_dict("records")},
        {"inputs": table.to_dict("list")},
    ]
    found = [scored(orjson.dumps(form), "application/json", SPECS).tensors for form in forms]
    for tensors in found:
        for (name, _, array), want in zip(tensors, SPECS, strict=True):
            assert name == want["name"] and array.tolist() == table[name].tolist()


@given(ROWS)
def test_a_csv_file_that_pandas_wrote_is_the_table_that_it_was(rows):
    table = frame(rows)
    tensors = scored(table.to_csv(index=False).encode(), "text/csv; charset=utf-8", SPECS).tensors
    assert {name: array.tolist() for name, _, array in tensors} == table.to_dict("list")


@given(st.binary(max_size=200), st.sampled_from(["application/json", "text/csv", "", "text/html"]))
def test_any_body_is_read_or_refused_in_a_sentence(body, kind):
    assert refusal(body, kind).status in (400, 415)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda c: st.lists(c, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]), JSON)
def test_any_value_of_a_form_is_refused_in_a_sentence(form, value):
    assert refusal(orjson.dumps({form: value})).status == 400


def test_a_missing_value_is_missing_only_where_the_model_takes_it():
    table = {"text": ["a"], "age": [1], "score": [None]}
    assert np.isnan(scored(orjson.dumps({"inputs": table}), "", SPECS).tensors[2][2][0])
    assert "age" in refusal(orjson.dumps({"inputs": table | {"age": [None]}})).sentence


def test_a_wide_input_takes_columns_in_the_tables_order():
    wide = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    body = {"dataframe_split": {"columns": ["b", "a"], "index": [7], "data": [[2, 1]]}}
    assert scored(orjson.dumps(body), "", wide).tensors[0][2].tolist() == [[2.0, 1.0]]
    assert scored(b"b,a\n2,1\n", "text/csv", wide).tensors[0][2].tolist() == [[2.0, 1.0]]
    assert "the columns must be x" in refusal(b"a,b,c\n1,2,3\n", "text/csv", wide).sentence


WIDE = [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]


@pytest.mark.parametrize("field", ["1_0", "٣", "0x1", "1,5", "one"])
def test_a_field_of_a_csv_file_is_a_number_as_everybody_writes_it_or_refused(field):
    wide = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert "must be FP32" in refusal(f'a,b\n"{field}",2\n'.encode(), "text/csv", wide).sentence


def test_records_that_would_make_a_far_larger_table_are_refused():
    sparse = [{f"c{i}": 1} for i in range(20_000)]
    assert "too sparse" in refusal(orjson.dumps({"dataframe_records": sparse}), "", WIDE).sentence
    assert scored(orjson.dumps({"dataframe_records": sparse[:100]}), "", WIDE).tensors[0][2].shape == (100, 100)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"inputs": {"text": ["a", "b"], "age": [1, 2], "score": [True, 1.5]}}, "input 'score'"),
        ({"inputs": {"text": ["a", "b"], "age": [True, 2], "score": [1, 1.5]}}, "INT64"),
        ({}, "exactly one of"),
        ({"inputs": [1], "instances": [1]}, "exactly one of"),
        ({"inputs": [1], "extra": 1}, "exactly one of"),
        ({"inputs": {"text": ["a"]}}, "the columns must be text, age, score"),
        ({"inputs": {"text": "a", "age": [1], "score": [1]}}, "'text' must be a list"),
        ({"inputs": {"text": ["a"], "age": [1.5], "score": [1]}}, "INT64"),
        ({"inputs": {"text": [1], "age": [1], "score": [1]}}, "must be a string"),
        ({"dataframe_records": []}, "the columns must be"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": []}}, "a name of its own"),
        ({"inputs": [1], "params": {"temperature": 1}}, "params must be an object with unit, segment or id"),
    ],
)
def test_what_is_wrong_is_said(document, says):
    assert says in refusal(orjson.dumps(document)).sentence


def test_params_name_unit_segment_and_id():
    body = orjson.dumps(
        {"inputs": {"text": ["a"], "age": [1], "score": [1]}, "params": {"unit": "u", "segment": "s", "id": "i"}}
    )
    found = scored(body, "application/json", SPECS)
    assert (found.unit, found.segment, found.id) == ("u", "s", "i")


def test_an_answer_is_rows_or_records_and_a_refusal_has_a_code():
    assert json.loads(predictions({"y": np.float32([[0.5]])})) == {"predictions": [[0.5]]}
    both = {"y": np.int64([1, 2]), "w": np.array(["a", "b"], object)}
    assert json.loads(predictions(both)) == {"predictions": [{"y": 1, "w": "a"}, {"y": 2, "w": "b"}]}
    for status, code in (
        (400, "BAD_REQUEST"),
        (413, "BAD_REQUEST"),
        (504, "INTERNAL_ERROR"),
        (404, "RESOURCE_DOES_NOT_EXIST"),
    ):
        assert json.loads(problem(Refused(status, "x"))) == {"error_code": code, "message": "x"}
