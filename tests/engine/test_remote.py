"""A model on another machine: everything that can go wrong between two machines has a sentence."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from seatrial.base.settings import CannotDo
from seatrial.engine.remote import Declined, as_bytes, as_text, decoded, encoded, from_bytes
from seatrial.engine.runtime import load
from seatrial.engine.signature import DATATYPES

SPEC = {"name": "x", "datatype": "FP32", "shape": [-1, 2], "missing": True}
MODEL = {"name": "m", "inputs": [SPEC], "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]}


@contextmanager
def server(infer, model=MODEL, extensions=()):
    "A server whose answer to an infer call is (status, body, headers) = infer(headers, body)."

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def say(self, status, body, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            about = {"name": "stub", "version": "1", "extensions": list(extensions)}
            self.say(200, json.dumps(model if "models" in self.path else about).encode())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.say(*infer(self.headers, body))

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{found.server_port}/v2/models/m"
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


def echo(headers, body):
    "Gives back what was sent, in the form in which it was sent."
    at = int(headers.get("Inference-Header-Content-Length") or len(body))
    head = json.dumps({"outputs": [json.loads(body[:at])["inputs"][0] | {"name": "y"}]}).encode()
    return 200, head + body[at:], {"Inference-Header-Content-Length": str(len(head))} if at < len(body) else {}


@contextmanager
def remote(infer, **more):
    "An engine on such a server."
    told = {k: more.pop(k) for k in ("model", "extensions") if k in more}
    with server(infer, **told) as url:
        engine = load(url, **more)
        try:
            yield engine
        finally:
            engine.close()


@given(st.sampled_from(sorted(DATATYPES)).flatmap(lambda d: st.tuples(st.just(d), _arrays(d))))
def test_bytes_keep_every_value_of_every_datatype(pair):
    datatype, array = pair
    back = from_bytes(as_bytes(array), datatype)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array.ravel())


def _arrays(datatype):
    if datatype == "BYTES":
        texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5)
        return texts.map(lambda found: np.array(found, dtype=object))
    return hn.arrays(np.dtype(DATATYPES[datatype]), hn.array_shapes(max_dims=3, max_side=4))


@given(hn.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_infinity=False)), st.booleans())
def test_a_request_says_what_was_meant(x, binary):
    headers, body = encoded({"y": x}, {"y": "FP32"}, ["y"], binary)
    at = int(headers.get("Inference-Header-Content-Length") or len(body))
    document = json.loads(body[:at])
    document["outputs"] = document.pop("inputs")
    head = json.dumps(document).encode()
    heads = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    np.testing.assert_array_equal(decoded(heads, head + body[at:])["y"], x)


@pytest.mark.parametrize("extensions", [[], ["binary_tensor_data"]])
def test_tensors_travel_in_the_form_that_the_server_offers(extensions):
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    x[0, 0] = np.nan
    with remote(echo, extensions=extensions) as engine:
        assert engine.describe()["facts"]["tensors"] == ("binary" if extensions else "json")
        np.testing.assert_array_equal(engine.run({"x": x})["y"], x)


def test_holes_are_not_sent_to_a_server_that_does_not_say_it_knows_them():
    model = MODEL | {"inputs": [{k: v for k, v in SPEC.items() if k != "missing"}]}
    with remote(echo, model=model) as engine, pytest.raises(ValueError, match="finite FP32"):
        engine.run({"x": [[1, np.nan]]})


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, Declined, "answered 400 .the reason.; correct the request"),
        (401, CannotDo, "right key in `headers`"),
        (404, CannotDo, "load the model there"),
        (413, CannotDo, "send fewer rows"),
        (429, CannotDo, "it is full"),
        (500, CannotDo, "look at the server and its log"),
        (503, CannotDo, "full or not ready"),
    ],
)
def test_every_status_has_its_sentence(status, error, words):
    with (
        remote(lambda h, b: (status, b'{"error": "the reason"}')) as engine,
        pytest.raises(error, match=words) as caught,
    ):
        engine.run({"x": [[1, 2]]})
    assert "\n" not in str(caught.value) and "the reason" in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"outputs": [{"name": "z"}]}', b'{"outputs": []}'])
def test_an_answer_in_another_language_is_one_sentence(body):
    with remote(lambda h, b: (200, body)) as engine, pytest.raises(CannotDo, match="protocol does not know"):
        engine.run({"x": [[1, 2]]})


def test_a_server_that_is_silent_is_given_up_after_the_timeout():
    wait = threading.Event()
    slow = lambda h, b: (wait.wait(20) and (200, b"")) or (200, b"")  # noqa: E731
    with remote(slow, timeout_s=0.2) as engine:
        start = time.monotonic()
        with pytest.raises(CannotDo, match=r"did not answer within 0\.2 s"):
            engine.run({"x": [[1, 2]]})
        assert time.monotonic() - start < 15
        wait.set()


def test_a_connection_that_went_stale_is_opened_anew():
    with server(echo) as url:
        engine = load(url)
        assert engine.run({"x": [[1, 2]]})["y"].tolist() == [[1, 2]]
        engine.close()  # as a server would, between two requests
        assert engine.run({"x": [[3, 4]]})["y"].tolist() == [[3, 4]]
        engine.close()


def test_nobody_at_the_address_is_one_sentence():
    with server(echo) as url:
        pass
    with pytest.raises(CannotDo, match=r"nobody listens at http://127\.0\.0\.1"):
        load(url, timeout_s=2)
    with pytest.raises(CannotDo, match="cannot be asked"):
        load("http://no-such-host.invalid/v2/models/m", timeout_s=5)


@pytest.mark.parametrize("url", ["http://h", "http://h/v2/models/", "ftp://h/v2/models/m", "http://h/v2/models/m?x=1"])
def test_an_address_that_names_no_model_is_refused(url):
    with pytest.raises(ValueError, match="address of a model"):
        load(url)


FIXED, FOREIGN = SPEC | {"shape": [4, 2]}, SPEC | {"datatype": "BF16"}


@pytest.mark.parametrize("model", [{}, [], {"inputs": []}, MODEL | {"inputs": [FIXED]}, MODEL | {"inputs": [FOREIGN]}])
def test_a_model_that_cannot_be_described_is_one_sentence(model):
    with server(echo, model=model) as url, pytest.raises(CannotDo, match="does not describe a model that takes rows"):
        load(url)


def test_a_key_is_sent_and_never_shown():
    seen = []
    with remote(
        lambda h, b: (seen.append(h["Authorization"]), echo(h, b))[1], headers={"Authorization": "Bearer s3cret"}
    ) as engine:
        engine.run({"x": [[1, 2]]})
        assert "s3cret" not in json.dumps(engine.describe()) + repr(engine)
    assert seen == ["Bearer s3cret"]


def test_text_is_sent_flat_and_holes_as_null():
    assert as_text(np.array([["a"], ["b"]], dtype=object)) == ["a", "b"]
    assert as_text(np.array([1, np.nan], np.float32)) == [1.0, None]


@pytest.mark.parametrize("odd", [{"timeout_s": 0}, {"device": "cuda"}, {"cache": "x"}])
def test_options_of_another_runtime_are_refused(odd):
    with pytest.raises(ValueError, match=r"timeout_s must be|device must be cpu|options of runtime 'remote'"):
        load("http://127.0.0.1:1/v2/models/m", **odd)


ONE = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
LIES = {
    "more rows": ONE | {"shape": [2, 2], "data": [1, 2, 3, 4]},
    "too little": ONE | {"data": [1]},
    "text for numbers": ONE | {"datatype": "BYTES", "data": ["a", "b"]},
    "no datatype": ONE | {"datatype": "XX"},
    "a huge shape": ONE | {"shape": [10**12]},
    "parameters in a list": ONE | {"parameters": [1]},
    "a size in words": ONE | {"parameters": {"binary_data_size": "x"}},
    "a negative size": ONE | {"parameters": {"binary_data_size": -3}},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_server_that_lies_is_blamed_and_never_the_request(lie):
    body = json.dumps({"outputs": [lie]}).encode()
    with remote(lambda h, b: (200, body)) as engine, pytest.raises(CannotDo) as caught:
        engine.run({"x": [[1, 2]]})
    assert "\n" not in str(caught.value)


def test_a_reason_of_many_lines_becomes_one():
    with remote(lambda h, b: (500, b"Traceback\n  line 1\n  line 2")) as engine, pytest.raises(CannotDo) as caught:
        engine.run({"x": [[1, 2]]})
    assert "Traceback line 1 line 2" in str(caught.value) and "\n" not in str(caught.value)
