import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.engine.bundle import DATATYPES
from seatrial.serve.protocol import Refused
from seatrial.serve.repository import Counts, added, asked, config, index, statistics, total

BATCH = st.tuples(st.integers(1, 64), st.integers(1, 64), st.floats(0, 1), st.floats(0, 5), st.floats(0, 1e9))


def counted(batches):
    counts = Counts()
    for requests, rows, engine_s, waits_s, now_s in batches:
        added(counts, min(requests, rows), rows, engine_s, waits_s, now_s)
    return counts


@given(st.lists(BATCH, max_size=20), st.integers(0, 20))
def test_counts_of_two_processes_are_those_of_one_that_did_it_all(batches, cut):
    both = total([counted(batches[:cut]), counted(batches[cut:])])
    whole = counted(batches)
    for name in ("answered", "failed", "rows", "hits", "last_s"):
        assert getattr(both, name) == getattr(whole, name)
    assert {rows: n for rows, (n, _) in both.batches.items()} == {rows: n for rows, (n, _) in whole.batches.items()}
    assert both.answer_s == pytest.approx(whole.answer_s)


@given(st.lists(BATCH, max_size=20))
def test_the_document_adds_up_and_is_json(batches):
    said = json.loads(json.dumps(statistics("m", "1", counted(batches))))
    inside = said["inference_stats"]
    assert said["execution_count"] == len(batches) == sum(b["compute_infer"]["count"] for b in said["batch_stats"])
    assert said["inference_count"] == sum(b["batch_size"] * b["compute_infer"]["count"] for b in said["batch_stats"])
    assert abs(inside["compute_infer"]["ns"] - sum(b["compute_infer"]["ns"] for b in said["batch_stats"])) <= 20
    assert inside["queue"]["ns"] <= inside["success"]["ns"] + 1


def test_the_index_lists_every_version_once_with_its_state():
    known, held = {"b": ["1.0.0", "1.1.0"], "a": ["2.0.0"]}, {("b", "1.1.0"): "", ("a", "2.0.0"): "corrupt"}
    found = index(known, held)
    assert [(e["name"], e["version"], e.get("state")) for e in found] == [
        ("a", "2.0.0", "UNAVAILABLE"),
        ("b", "1.0.0", None),
        ("b", "1.1.0", "READY"),
    ]
    assert [e["version"] for e in index(known, held, ready=True)] == ["1.1.0"] and found[0]["reason"] == "corrupt"


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'{"ready": 1}', b'{"other": true}', b'{"parameters": {"config": "{}"}}']
)
def test_a_repository_call_takes_nothing_that_it_would_ignore(body):
    with pytest.raises(Refused) as refused:
        asked(body, {"ready": bool})
    assert refused.value.status == 400


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_a_word_in_the_configuration(datatype):
    signature = {"inputs": [{"name": "x", "datatype": datatype, "shape": [-1, 2, -1]}], "outputs": []}
    (entry,) = config("m", signature, 8)["input"]
    assert entry["dims"] == [2, -1] and entry["data_type"] == (
        "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    )


@pytest.mark.parametrize("document", [{"ready": {}}, {"ready": 1}, {"ready": []}, {"else": None}, {"else": {}}, []])
def test_what_a_call_does_not_know_is_refused_also_where_it_says_nothing(document):
    with pytest.raises(Refused, match="the body m"):
        asked(json.dumps(document).encode(), {"ready": bool})


@pytest.mark.parametrize("document", [{}, {"ready": None}, {"parameters": {}}, {"parameters": None}])
def test_what_tritons_clients_say_of_nothing_is_nothing(document):
    assert not any(asked(json.dumps(document).encode(), {"ready": bool}).values())
