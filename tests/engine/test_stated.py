"An answer that is stated: it is one that the model could have given, or it is refused where it is written."

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import read
from seatrial.engine.signature import DATATYPES, Signature, TensorSpec, checked, stated
from tests.serve.harbour import linear

X = (TensorSpec("x", "FP32", (-1,)),)
BOTH = Signature(X, (TensorSpec("p", "FP32", (-1, 3)), TensorSpec("word", "BYTES", (-1,))))


def test_every_row_gets_the_answer_in_the_types_of_the_outputs():
    answer = stated(BOTH, {"p": [0.1, 0.2, 0.7], "word": "fair"}, 2)
    assert answer["p"].dtype == np.float32 and answer["p"].shape == (2, 3) and answer["word"].tolist() == ["fair"] * 2
    assert stated(BOTH, {"p": 0, "word": "x"}, 2)["p"].tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    "default", [{}, {"p": 1}, {"p": [1, 2], "word": "x"}, {"p": "a", "word": "x"}, {"p": 1, "word": 2}, [1], 3]
)
def test_what_is_no_answer_is_refused_by_name(default):
    with pytest.raises(ValueError, match=r"^default (must have a value for each output|of (p|word) must be)"):
        stated(BOTH, default)


@given(st.sampled_from(sorted(DATATYPES)), st.integers(1, 5), st.lists(st.integers(1, 3), max_size=2))
def test_whatever_is_stated_is_an_answer_that_would_pass_as_a_request(datatype, rows, tail):
    spec, value = TensorSpec("y", datatype, (-1, *tail)), {"BYTES": "", "BOOL": True}.get(datatype, 1)
    answer = stated(Signature(X, (spec,)), {"y": value}, rows)
    assert answer["y"].shape == (rows, *tail) and answer["y"].flags["C_CONTIGUOUS"]
    assert checked(Signature((spec,), X), answer)["y"].dtype == answer["y"].dtype


def test_a_bundle_whose_card_states_no_answer_cannot_be_read(tmp_path):
    bundle = linear(tmp_path / "sum", [1.0, 1.0])
    facts = json.loads((bundle.folder / "bundle.json").read_text())
    for default, words in (
        ({"y": 3.5}, ""),
        ({"z": 1.0}, r"a value for each output \(y\)"),
        ({"y": "high"}, "one FP32"),
    ):
        (bundle.folder / "bundle.json").write_text(json.dumps(facts | {"card": {"default": default}}))
        if not words:
            assert read(bundle.folder).card["default"] == default
            continue
        with pytest.raises(CannotDo, match=words):
            read(bundle.folder)
