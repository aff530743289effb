"Whoever asks to be followed leaves spans, whichever way the request goes and however it ends."

import gzip
import json
import urllib.error
import urllib.request

import pytest

from seatrial.serve.server import launch
from tests.serve.harbour import settings_for, shelve

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
TIMED = json.dumps(json.loads(BODY) | {"parameters": {"timeout": 5_000_000}}).encode()
INFER, SCORE = "/v2/models/sum/infer", "/invocations"
ASKED = {  # trace -> path, body, headers, status
    1: (INFER, BODY, {}, 200),
    2: (INFER, gzip.compress(BODY), {"Content-Encoding": "gzip"}, 200),
    3: (INFER, TIMED, {}, 200),
    4: (SCORE, b'{"inputs": [[1, 2]]}', {}, 200),
    5: (INFER, b"{}", {}, 400),
    6: (INFER, gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, 400),
    7: ("/v2/models/nobody/infer", BODY, {}, 404),
    8: (SCORE, b'{"inputs": "nonsense"}', {}, 400),
}


def asked(url, trace, flag):
    path, body, headers, _ = ASKED[trace]
    headers = {"Content-Type": "application/json", "traceparent": f"00-{trace:032x}-{7:016x}-{flag}"} | headers
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, body, headers), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    "Trace -> the spans of its request."
    artifacts = tmp_path_factory.mktemp("followed")
    shelve(artifacts, {"sum": {"1.0.0": [1.0, 1.0]}})
    out = artifacts / "spans.jsonl"
    with launch(settings=settings_for(artifacts, SEATRIAL_TRACE_URL=str(out), SEATRIAL_TRACE_SHARE="0"), port=0) as sea:
        for trace, (*_, status) in ASKED.items():
            assert asked(sea.url, trace, "00") == status and asked(sea.url, trace, "01") == status, trace
    found = {}
    for line in map(json.loads, out.read_text().splitlines()):
        found.setdefault(int(line["context"]["trace_id"], 16), []).append(line)
    return found


@pytest.mark.parametrize("trace", ASKED)
def test_a_request_that_asks_for_it_leaves_one_span_that_hangs_on_its_clients(spans, trace):
    (infer,) = [span for span in spans[trace] if span["name"] == "infer"]
    assert infer["parent_id"] == f"0x{7:016x}"
    if ASKED[trace][-1] == 200:
        assert infer["status"] == {"status_code": "OK"} and infer["links"]
        assert [span["parent_id"] for span in spans[trace] if span["name"] == "queue"] == [infer["context"]["span_id"]]
    else:
        assert infer["status"]["status_code"] == "ERROR" and infer["status"]["description"] and len(spans[trace]) == 1


def test_whoever_asks_not_to_be_followed_leaves_nothing(spans):
    assert sum(span["name"] == "infer" for trace in spans.values() for span in trace) == len(ASKED)


def test_an_answer_from_the_cache_leaves_its_span_alone(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    out = tmp_path / "spans.jsonl"
    kept = {"SEATRIAL_TRACE_URL": str(out), "SEATRIAL_TRACE_SHARE": "1", "SEATRIAL_CACHE_SIZE_MB": "1"}
    with launch(settings=settings_for(tmp_path, **kept), port=0) as sea:
        assert [asked(sea.url, trace, "01") for trace in (1, 2)] == [200, 200]
    spans = {
        (int(each["context"]["trace_id"], 16), each["name"]): each
        for each in map(json.loads, out.read_text().splitlines())
    }
    assert (1, "queue") in spans and (2, "queue") not in spans and not spans[2, "infer"]["links"]
    assert spans[2, "infer"]["attributes"]["seatrial.cached"] is True
