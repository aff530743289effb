import contextlib
import copy
import gzip
import itertools
import json
import re
import socket
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from seatrial.serve.contract import ROUTES
from seatrial.serve.openapi import SCHEMAS, TYPES
from seatrial.serve.server import launch
from tests.serve.harbour import (
    Speaker,
    answers_in,
    echo,
    family,
    is_alive,
    linear,
    settings_for,
    shelve,
    spelt,
    tensor,
)


@pytest.fixture(scope="module")
def reef(tmp_path_factory):
    "A server that is there to be run against: a model of numbers, one of texts, and one that nobody else touches."
    home = tmp_path_factory.mktemp("reef")
    models = {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}, "text": {"1.0.0": "BYTES"}}
    models |= {"canary": {"1.0.0": [2.0, 3.0]}, "small": {"1.0.0": "INT8"}}
    shelve(home, models, lambda folder, it: echo(folder, it) if isinstance(it, str) else linear(folder, it))
    with launch(settings=settings_for(home), port=0, log=home / "log") as running:
        reef = Reef(running)
        yield reef
        reef.bird.close()
        reef.talk.close()


class Reef:
    "The server, and a canary that sings between any two blows."

    def __init__(self, running):
        self.running, self.bird, self.songs = running, Speaker(running.url), itertools.count()
        self.crew, self.seen = {*family(running.process.pid)}, Counter()
        self.talk = Speaker(running.url)

    def sing(self):
        "A right answer to a right question, on a connection of its own."
        song = next(self.songs) % 1000
        status, _, said = self.bird.say(tensor([[song, 1]]), "/v2/models/canary/infer")
        assert status == 200 and json.loads(said)["outputs"][0]["data"] == [2 * song + 3]

    def ask(self, *asked):
        "One exchange on a connection that is kept as long as the server keeps it."
        if (answer := self.tried(*asked)) is None:
            self.talk.close()
            self.talk = Speaker(self.running.url)
            answer = self.tried(*asked)
        assert answer is not None, "the server hung up without a word"
        return answer

    def tried(self, content, path, method, headers):
        with contextlib.suppress(ConnectionError):
            return self.talk.say(content, path, method, headers)

    def unharmed(self):
        "Nobody died, nobody was replaced, and nobody met what nobody foresaw."
        self.sing()
        assert {*family(self.running.process.pid)} == self.crew and all(map(is_alive, self.crew))
        assert "Traceback" not in self.running.log.read_text()


def admissible(status, headers, said, path="", method=""):
    "What any answer must be, whatever was asked."
    assert status < 500 or status in (503, 504), (status, said)
    if status < 400 or method == "HEAD" or path in ("/ping", "/health", "/v2/health/ready"):
        return
    assert headers["content-type"] == "application/json", (status, said)
    document = json.loads(said)
    if path == "/invocations":
        assert set(document) == {"error_code", "message"}, document
    else:
        assert set(document) == {"error"}, document
    assert all(isinstance(words, str) and 0 < len(words) < 2000 for words in document.values())


def swum(n, *strategies):
    "Settings of one long swim; what it finds is reported as it was found."
    quiet = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    ]
    its = settings(max_examples=n, deadline=None, suppress_health_check=quiet, phases=[Phase.generate], database=None)
    return lambda test: its(given(*strategies)(test))()


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-0.0, 1e39, -1e308, 2**63, 2**64, 1 << 31, "\0", "../..", "x" * 3000, "\U0001f6a2", ""])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def drawn(schema):
    "What a schema allows."
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of(*map(drawn, schema[word]))
    kinds = schema.get("type", ["string", "number", "null"])
    if isinstance(kinds, list):
        return st.one_of(*(drawn({**schema, "type": kind}) for kind in kinds))
    return KINDS[kinds](schema)


def an_object(schema):
    known = {name: drawn(inner) for name, inner in schema.get("properties", {}).items()}
    required = schema.get("required", [])
    must = {name: known.get(name, JUNK) for name in required}
    return st.fixed_dictionaries(must, optional={k: v for k, v in known.items() if k not in required})


KINDS = {
    "object": an_object,
    "array": lambda s: st.lists(
        drawn(s.get("items", {})), min_size=s.get("minItems", 0), max_size=s.get("minItems", 0) + 2
    ),
    "string": lambda s: st.text(min_size=s.get("minLength", 0), max_size=min(s.get("maxLength", 8), 8)),
    "number": lambda s: st.floats(s.get("minimum"), 1e299, allow_nan=False) | st.integers(0, 9),
    "integer": lambda s: st.integers(s.get("minimum", -9), 2**33) | st.integers(0, 3),
    "boolean": lambda s: st.booleans(),
    "null": lambda s: st.none(),
}


@st.composite
def hurt(draw, documents):
    "A document in which one thing is replaced, left out or added."
    document = copy.deepcopy(draw(documents))
    places, inside = [], [document]
    while inside:
        here = inside.pop()
        keys = here.keys() if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            places.append((here, key))
            inside.append(here[key])
    if not places:
        return draw(JUNK)
    here, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(["replace", "replace", "drop", "double"])):
        case "replace":
            here[key] = draw(JUNK)
        case "drop":
            del here[key]
        case "double" if isinstance(here, list):
            here.append(here[key])
        case _:
            here[str(key) + "s"] = here[key]
    return document


VALUES = {
    "FP32": st.floats(-(2.0**100), 2.0**100, width=32),
    "BYTES": st.text(max_size=5),
    "INT8": st.integers(-128, 127),
}
WIDE = {"sum": "FP32", "text": "BYTES", "small": "INT8"}


def whole(datatype):
    "An infer request that a model of two columns answers."
    rows = st.lists(st.lists(VALUES[datatype], min_size=2, max_size=2), min_size=1, max_size=3)
    entry = rows.map(lambda x: {"name": "x", "shape": [len(x), 2], "datatype": datatype, "data": x})
    optional = {"id": st.text(max_size=9), "parameters": drawn(SCHEMAS["Infer"]["properties"]["parameters"])}
    optional |= {"outputs": st.just([{"name": "y"}])}
    return st.fixed_dictionaries({"inputs": entry.map(lambda one: [one])}, optional=optional)


def table():
    "A body of MLflow's for a model of two columns."
    rows = st.lists(st.lists(VALUES["FP32"], min_size=2, max_size=2), min_size=1, max_size=3)
    return rows.flatmap(
        lambda x: st.sampled_from(
            [
                {"dataframe_split": {"columns": ["a", "b"], "data": x}},
                {"dataframe_records": [{"a": a, "b": b} for a, b in x]},
                {"instances": x},
                {"inputs": {"x": x}},
                {"inputs": x, "params": {"unit": "u"}},
            ]
        )
    )


def json_of(documents):
    return documents.map(lambda document: json.dumps(document).encode())


def bodies(takes, datatype):
    "JSON for a route: as its schema has it, as a model has it, and neither."
    loose = drawn(SCHEMAS[takes])
    right = {"Infer": whole(datatype), "Table": table()}.get(takes, loose)
    texts = json_of(st.one_of(right, hurt(right), right, hurt(right), loose, hurt(loose), JUNK))
    return st.one_of(texts, texts, texts, st.binary(max_size=60), texts.flatmap(cut))


def cut(content):
    return st.integers(0, len(content)).map(lambda n: content[:n])


RAW = {name: np.dtype(kind) for name, kind in {"FP32": "<f4", "INT8": "i1", "FP64": "<f8", "BOOL": "?"}.items()}


@st.composite
def binary(draw, datatype):
    "(headers, content) of an infer request with raw tensors, mostly hurt in one place."
    n, wrong = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["", "", "size", "shape", "type", "blob", "length", "json"])),
    )
    if datatype == "BYTES":
        texts = [t.encode() for t in draw(st.lists(st.text(max_size=4), min_size=2 * n, max_size=2 * n))]
        blob = b"".join(len(t).to_bytes(4, "little") + t for t in texts)
    else:
        blob = draw(st.binary(min_size=2 * n * RAW[datatype].itemsize, max_size=2 * n * RAW[datatype].itemsize))
    size, shape = len(blob), [n, 2]
    near = st.integers(-2, 2).map(lambda d: size + d) | JUNK
    size, shape = (draw(near) if wrong == "size" else size), (draw(JUNK) if wrong == "shape" else shape)
    given = draw(st.sampled_from(TYPES) | JUNK) if wrong == "type" else datatype
    entry = {"name": "x", "shape": shape, "datatype": given, "parameters": {"binary_data_size": size}}
    document = {"inputs": [entry], "parameters": {"binary_data_output": draw(st.booleans())}}
    document = draw(hurt(st.just(document))) if wrong == "json" else document
    text = json.dumps(document).encode()
    blob = draw(st.binary(max_size=len(blob) + 3)) if wrong == "blob" else blob
    length = draw(st.integers(-3, len(text) + len(blob) + 3) | st.integers()) if wrong == "length" else len(text)
    return [(b"Inference-Header-Content-Length", b"%d" % length)], text + blob


PRINTED = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
VALUE = PRINTED.map(lambda text: text.encode("latin-1").strip())
TRACE = st.binary(min_size=25, max_size=25).map(
    lambda b: b"-".join(p.hex().encode() for p in (b[:1], b[1:17], b[17:25], b[:1]))
)
FIELDS = """Content-Type Content-Encoding Accept-Encoding Accept Authorization X-API-Key traceparent tracestate Range
X-Request-Id Inference-Header-Content-Length Connection Cookie Forwarded X-Forwarded-For Origin If-None-Match"""
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(FIELDS.split()).map(str.encode),
        VALUE
        | TRACE
        | st.sampled_from([b"gzip", b"deflate", b"gzip, deflate;q=0.1", b"br;q=1, *;q=0", b"identity", b"text/csv"])
        | st.sampled_from(
            [b"Bearer ", b"Bearer st_00000000_x", b"0", b"-1", b"9" * 40, b"a" * 6000, b"keep-alive", b"close"]
        ),
    ),
    max_size=4,
)
NAMED = st.sampled_from(
    ["sum", "sum", "text", "small", "nothing", "..", "%2e%2e", "%00", "s%75m", "sum%20", "%F0%9F%9A%A2", "a" * 4000]
)
VERSIONED = st.sampled_from(["1.0.0", "1.0.0", "1.1.0", "9", "%2e%2e", "..", "1.0.0%00", "%ff"])
PACK = {b"gzip": gzip.compress, b"deflate": zlib.compress}


TYPE = st.sampled_from([b"application/json", b"text/csv", b"text/csv; charset=utf-8"])
ASKED = st.sampled_from(
    ["?model=sum"] * 6 + ["", "?model=nothing", "?model=%2e%2e", "?model=sum&model=text", "?" + "a=1&" * 99]
)
CSV = st.sampled_from([b"a,b\n1,2\n", b'a,b\n"', b"a,a\n1,2\n", b"x\n\n", b"\xff\xfe", b"a,b\n1,x\n"])
BUSY = [route for route in ROUTES if route.action in ("infer", "score", "outcomes")]


@st.composite
def requests(draw):
    "(content, path, method, headers) for a route of the contract; those that take much more often than the others."
    route, named = draw(st.sampled_from(BUSY) | st.sampled_from(ROUTES)), draw(NAMED)
    path = re.sub(r"\{(\w+)\}", lambda m: named if m[1] == "model" else draw(VERSIONED), route.path)
    method = route.method if draw(st.integers(0, 9)) else draw(st.sampled_from(["HEAD", "PUT", "DELETE", "OPTIONS"]))
    headers = draw(HEADERS) if draw(st.integers(0, 2)) == 0 else []
    datatype = WIDE.get(named, "FP32")
    content = draw(bodies(route.takes, datatype)) if route.takes else draw(st.just(b"") | st.binary(max_size=9))
    if route.action == "infer" and draw(st.integers(0, 2)) == 0:
        more, content = draw(binary(datatype))
        headers = more + headers
    if route.action == "score":
        path += draw(ASKED)
        if draw(st.integers(0, 3)) == 0:
            content, headers = draw(CSV), [(b"Content-Type", draw(TYPE)), *headers]
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from(sorted(PACK)))
        packed, headers = PACK[name](content), [(b"Content-Encoding", name), *headers]
        content = draw(st.sampled_from([packed, packed, packed[:-3], packed[1:], packed + b"x"]))
    return content, path, method, headers


def swim_by_schema(reef, n):
    "Ask n questions that the contract suggests."
    reef.seen.clear()

    @swum(n, requests())
    def _(asked):
        _, path, method, _ = asked
        status, fields, said = reef.ask(*asked)
        admissible(status, fields, said, path.partition("?")[0], method)
        reef.seen[status] += 1
        reef.sing()

    reef.unharmed()
    return reef.seen


def test_no_question_that_the_contract_suggests_makes_the_server_fail(reef):
    seen = swim_by_schema(reef, 300)
    assert seen[200] > 40 and seen[400] > 40 and seen[404] > 5  # the fuzz is neither all right nor all wrong


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_question_of_many_makes_the_server_fail(reef):
    print(swim_by_schema(reef, 20_000))


def chunked(*pieces):
    "A body in chunks."
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


BODY = tensor([[1, 2]])
ROW = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'
POSTED = b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = [(b"Inference-Header-Content-Length", b"%d" % len(ROW))]
WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
]
SOUND = [
    spelt(BODY),
    spelt(BODY, "/v2/models/sum/versions/1.1.0/infer"),
    spelt(ROW + bytes(8), headers=LENGTH),
    spelt(gzip.compress(BODY), headers=["Content-Encoding: gzip", "Accept-Encoding: deflate"]),
    spelt(BODY, version="1.0"),
    spelt(BODY, headers=["Connection: close"]),
    spelt(BODY, headers=["Expect: 100-continue", "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"]),
    POSTED + chunked(BODY[:9], BODY[9:]),
    spelt(b'{"request_id": "r", "name": "n", "value": 1}', "/v1/outcomes"),
    spelt(b'{"instances": [[1, 2]]}', "/invocations?model=sum", headers=["Content-Type: application/json"]),
    spelt(b"", "/v2/models/sum", "GET"),
    spelt(b"", "/v2/health/ready", "HEAD"),
    spelt(b"", "/metrics", "GET", ["Accept-Encoding: gzip"]),
    spelt(b"", "/v2", "GET", WEBSOCKET),
    spelt(
        b"", "/v2", "GET", ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
LAST = spelt(b"", "/v2/health/live", "GET", ["Connection: close"])
BITS = [
    b"\r\n",
    b"\n",
    b"\0",
    b":",
    b" ",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"Content-Length: 5\r\n",
    b"\x80",
    b"\xff\xfe",
]
BITS += [
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
    b"HTTP/9.9",
    b"%",
    b"GET ",
    b"/" * 300,
    b"X: " + b"y" * 9000 + b"\r\n",
    b"{",
    b'"',
    b"\x16\x03\x01",
]


@st.composite
def spoilt(draw):
    "A sound request with up to three wounds."
    stream = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(stream)))
        upto = min(len(stream), at + draw(st.integers(0, 12)))
        bit = draw(st.sampled_from(BITS) | st.binary(max_size=4))
        stream = draw(
            st.sampled_from(
                [stream[:at] + bit + stream[at:], stream[:at] + bit + stream[upto:], stream[:at] + stream[upto:]]
            )
        )
    return stream


STREAMS = st.one_of(
    st.lists(spoilt() | st.sampled_from(SOUND), min_size=1, max_size=4).map(b"".join),
    spoilt().flatmap(cut),
    st.binary(max_size=200),
)


def said_to(url, stream, at, end):
    "All that a server says to a stream that comes in two pieces; `end`: how the client lets it know that this was all."
    with Speaker(url) as speaker:
        heard = []
        with contextlib.suppress(ConnectionError):
            speaker.socket.sendall(stream[:at])
            speaker.socket.sendall(stream[at:] + (LAST if end == "last" else b""))
            speaker.socket.settimeout(0.02)  # whoever is silent for so long waits for more
            with contextlib.suppress(TimeoutError):
                while piece := speaker.socket.recv(1 << 16):
                    heard.append(piece)
            speaker.socket.settimeout(20)
            if end == "reset":
                speaker.close(abruptly=True)
                return b"".join(heard)
            with contextlib.suppress(OSError):  # it may have closed already
                speaker.socket.shutdown(socket.SHUT_WR)
            while piece := speaker.socket.recv(1 << 16):
                heard.append(piece)
        return b"".join(heard)


def swim_by_bytes(reef, n):
    "Send n streams of bytes, some of which are requests."
    reef.seen.clear()

    @swum(n, STREAMS, st.integers(0, 300), st.sampled_from(["last", "last", "half", "reset"]))
    def _(stream, at, end):
        heard = said_to(reef.running.url, stream, at, end)
        whole = end != "reset"  # else the last answer may be cut
        for status, headers, said in answers_in(heard) if whole else []:
            reef.seen[status] += 1
            assert status < 500 or status in (503, 504), (status, said)
            if status >= 400 and said:
                assert headers["content-type"] == "application/json", (status, said)
                assert set(json.loads(said)) in ({"error"}, {"error_code", "message"}, {"detail"})
        reef.sing()

    reef.unharmed()
    return reef.seen


def test_no_bytes_on_a_connection_make_the_server_fail(reef):
    seen = swim_by_bytes(reef, 250)
    assert seen[200] > 40 and seen[400] > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_bytes_of_many_make_the_server_fail(reef):
    print(swim_by_bytes(reef, 20_000))
