import base64
import contextlib
import gzip
import io
import json
import os
import pickle
import re
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest

from seatrial.base.journal import Journal
from seatrial.serve.contract import ROUTES
from seatrial.serve.guard import keys_path
from seatrial.serve.keys import RIGHTS, add, revoke
from seatrial.serve.server import launch
from tests.serve.harbour import (
    Speaker,
    family,
    is_alive,
    linear,
    listener_of,
    peak_mb,
    settings_for,
    shelve,
    spelt,
    tensor,
    until,
)

MODELS = {"sum": {"1.0.0": [1.0, 1.0]}, "spare": {"1.0.0": [3.0, 3.0]}}
PLACES = {"model": "sum", "version": "1.0.0"}
BODIES = {
    "Infer": tensor([[1, 2]]),
    "Outcomes": b'{"request_id": "r", "name": "n", "value": 1}',
    "Table": b'{"instances": [[1, 2]]}',
    "Index": b"{}",
    "Nothing": b"{}",
    "": b"",
}


def path_of(route):
    places = PLACES | ({"model": "spare"} if route.action in ("load", "unload") else {})
    return re.sub(r"\{(\w+)\}", lambda m: places[m[1]], route.path) + "?model=sum" * (route.action == "score")


@pytest.fixture(scope="module")
def fort(tmp_path_factory):
    "A server with keys, an access log and a low limit on bodies: (running, settings, role -> key)."
    home = tmp_path_factory.mktemp("fort")
    shelve(home, MODELS)
    its = settings_for(
        home,
        SEATRIAL_GUARD_ACCESS_LOG="true",
        SEATRIAL_SERVE_BODY_MAX_MB="4",
        SEATRIAL_SERVE_TIMEOUT_S="2",
        SEATRIAL_TRACE_URL=str(home / "spans.jsonl"),
        SEATRIAL_TRACE_SHARE="1",
    )
    keys = {role: add(keys_path(its), f"for {role}", role) for role in RIGHTS}
    with launch(settings=its, port=0, log=home / "log") as running:
        yield running, its, keys


def bearer(key):
    return [f"Authorization: Bearer {key}"] if key else []


def expected(route, role):
    "What a caller of a role gets from the guard: 401, 403 or 0 (let in)."
    if not route.right or (role and route.right in RIGHTS.get(role, ())):
        return 0
    return 403 if role in RIGHTS else 401


@pytest.mark.parametrize("role", ["", "stranger", *RIGHTS])
def test_every_route_asks_for_the_right_that_the_contract_says(fort, role):
    running, _, keys = fort
    key = "" if not role else keys.get(role, "st_00000000_" + "x" * 43)
    with Speaker(running.url) as speaker:
        for route in ROUTES:
            for method in (route.method, "HEAD") if route.method == "GET" else (route.method,):
                status, headers, said = speaker.say(BODIES[route.takes], path_of(route), method, bearer(key))
                want = expected(route, role)
                assert status == want if want else status == 200, (role, method, route.path, status, said)
                if want == 401:
                    assert headers["www-authenticate"] == "Bearer"
                if want and method != "HEAD":
                    assert set(json.loads(said)) in ({"error"}, {"error_code", "message"})
        speaker.say(b"{}", "/v2/repository/models/spare/load", "POST", bearer(keys["admin"]))


def test_a_key_is_taken_from_either_header_and_nowhere_else(fort):
    running, _, keys = fort
    with Speaker(running.url) as speaker:

        def status(path="/v2/models/sum/infer", *headers):
            return speaker.say(BODIES["Infer"], path, "POST", headers)[0]

        key = keys["predict"]
        assert status("/v2/models/sum/infer", f"X-API-Key: {key}") == 200
        assert status("/v2/models/sum/infer", f"authorization: bearer {key}") == 200
        assert status(f"/v2/models/sum/infer?key={key}&api_key={key}&access_token={key}") == 401
        assert status("/v2/models/sum/infer", f"Cookie: key={key}") == 401
        assert status("/v2/models/sum/infer", f"Authorization: Basic {base64.b64encode(key.encode()).decode()}") == 401
        for wrong in (key[:-1], key + "x", key.upper(), key[:12], "", " ", "st_", "\x80" * 54):
            assert status("/v2/models/sum/infer", f"X-API-Key: {wrong}".encode("latin-1").decode("latin-1")) == 401, (
                wrong
            )


def test_no_other_method_gets_around_the_guard(fort):
    running = fort[0]
    with Speaker(running.url) as speaker:
        for route in ROUTES:
            if route.right:
                for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET" if route.method == "POST" else "POST"):
                    assert speaker.say(b"{}", path_of(route), method)[0] in (401, 404, 405), (method, route.path)


@pytest.mark.parametrize(
    "path",
    [
        "/lane",
        "/predict",
        "/info",
        "/shutdown",
        "/redoc",
        "/docs/oauth2-redirect",
        "/v2/..",
        "//v2",
        "/V2/models/sum",
        "/metrics/",
    ],
)
def test_what_is_not_in_the_contract_does_nothing(fort, path):
    with Speaker(fort[0].url, patience_s=5) as speaker:
        for method in ("GET", "POST"):
            status, _, said = speaker.say(BODIES["Infer"] if method == "POST" else b"", path, method)
            assert status in (401, 404, 405) and b"1.0.0" not in said, (method, path, status, said)


def test_a_revoked_key_is_refused_within_a_second_or_so(fort):
    running, its, _ = fort
    key = add(keys_path(its), "brief", "predict")

    def status():
        with Speaker(running.url) as speaker:
            return speaker.say(BODIES["Infer"], headers=bearer(key))[0]

    until(lambda: status() == 200)
    revoke(keys_path(its), key[3:11])
    until(lambda: status() == 401)


NAMES = [
    "..", ".", "%2e%2e", "%252e%252e", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%252f..%252fetc",
    "..%5c..%5cetc", "%c0%ae%c0%ae%c0%af", "%e2%88%95etc%e2%88%95passwd", "%ef%bc%8e%ef%bc%8e%ef%bc%8fetc", "%00",
    "sum%00", "sum%00.onnx", "sum%2f1.0.0", "sum%2f..%2fsum", "%2fetc%2fpasswd", "file:%2f%2f%2fetc%2fpasswd",
    "~", "*", "sum;x=1", "..%2foutside", "models%2fsum", "sum%0d%0aX: y", "${HOME}", "%7b%7d", "SUM",
    "s\u0075m%20", "\u202e", "a" * 5000,
]  # fmt: skip


def test_names_lead_nowhere_but_to_what_is_registered(fort):
    running, its, keys = fort
    linear(its.paths.artifacts.parent / "outside" / "1.0.0", [1.0, 1.0])  # sound, and not registered
    with Speaker(running.url) as speaker:
        for name in NAMES:
            name = name.encode().decode("latin-1")
            for route in ROUTES:
                if "{model}" in route.path:
                    for places in ({"model": name, "version": "1.0.0"}, {"model": "sum", "version": name}):
                        path = re.sub(r"\{(\w+)\}", lambda m, p=places: p[m[1]], route.path)
                        if name not in path:
                            continue
                        status, _, said = speaker.say(BODIES[route.takes], path, route.method, bearer(keys["admin"]))
                        assert status in (400, 404), (route.method, path[:200], status, said[:200])
                        assert b"root:" not in said and len(said) < 2000
            for path in (f"/invocations?model={name}", f"/v2/repository/{name}", f"/docs/{name}", f"/{name}"):
                status, _, said = speaker.say(BODIES["Table"], path, "POST", bearer(keys["admin"]))
                assert status in (400, 404, 405) and b"root:" not in said, (path[:200], status, said[:200])


class Canary:
    "Whoever unpickles it leaves a mark."

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_from_the_network_is_ever_unpickled(fort, tmp_path):
    running, _, keys = fort
    mark = tmp_path / "mark"
    shells = [pickle.dumps(Canary(mark), protocol) for protocol in (0, 2, 5)]
    with io.BytesIO() as file:
        np.save(file, np.array([Canary(mark)], object), allow_pickle=True)
        shells.append(file.getvalue())
    shells += [gzip.compress(shells[0]), base64.b64encode(shells[1])]
    kinds = """application/json application/octet-stream application/x-pickle application/python-pickle text/plain
    application/x-npy application/vnd.python.pickle text/csv multipart/form-data application/x-www-form-urlencoded"""
    posts = [route for route in ROUTES if route.method == "POST"]
    with Speaker(running.url) as speaker:
        for shell in shells:
            text = shell.decode("latin-1")
            raw = len(shell).to_bytes(4, "little") + shell
            head = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
            wrapped = json.dumps({"inputs": [head], "id": text[:200], "parameters": {"unit": text[:200]}}).encode()
            listed = {
                "name": "x",
                "shape": [1],
                "datatype": "BYTES",
                "data": [text],
                "parameters": {"type": "pickle"},
            }
            files = {"parameters": {"config": text, "file:1/model.pkl": base64.b64encode(shell).decode()}}
            for route in posts:
                bodies = [shell, json.dumps({"inputs": [listed]}).encode(), json.dumps(files).encode()]
                for content in bodies:
                    for kind in kinds.split() if content is shell else ["application/json"]:
                        headers = [*bearer(keys["admin"]), f"Content-Type: {kind}"]
                        assert speaker.say(content, path_of(route), "POST", headers)[0] < 500
                headers = [*bearer(keys["admin"]), f"Inference-Header-Content-Length: {len(wrapped)}"]
                assert speaker.say(wrapped + raw, path_of(route), "POST", headers)[0] < 500
        speaker.say(b"{}", "/v2/repository/models/spare/load", "POST", bearer(keys["admin"]))
    assert not mark.exists()
    pickle.loads(shells[0])
    assert mark.exists()  # the canary does sing where it is heard


def bombs():
    "Small bodies that are large: (name, headers, content)."
    zeros = bytes(200 * 2**20)
    deep = b"[" * 2_000_000
    yield "gzip", ["Content-Encoding: gzip"], gzip.compress(zeros, 9)
    yield "deflate", ["Content-Encoding: deflate"], zlib.compress(zeros, 9)
    yield "many streams", ["Content-Encoding: gzip"], gzip.compress(zeros[: 2**20], 9) * 300
    yield "bare deflate", ["Content-Encoding: deflate"], zlib.compress(zeros, 9)[2:-4]
    yield "deep", [], deep
    yield "deep objects", [], b'{"a":' * 700_000
    yield "deep and packed", ["Content-Encoding: gzip"], gzip.compress(deep)
    yield "deep data", [], b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + deep
    yield "deep and closed", [], b'{"inputs":' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    yield (
        "long number",
        [],
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[' + b"9" * 3_000_000 + b",1]}]}",
    )
    yield (
        "wide shape",
        [],
        json.dumps({"inputs": [{"name": "x", "shape": [2**31 - 1] * 9, "datatype": "FP32", "data": [1]}]}).encode(),
    )
    yield "long", [], bytes(17 * 2**20)


def test_bombs_are_refused_and_cost_little_memory(fort):
    running, _, keys = fort
    listener = listener_of(running)
    before = peak_mb([listener])
    for name, headers, content in bombs():
        for path in ("/v2/models/sum/infer", "/v1/outcomes", "/invocations?model=sum"):
            with Speaker(running.url) as speaker:
                with contextlib.suppress(ConnectionError):
                    speaker.socket.sendall(spelt(content, path, "POST", [*bearer(keys["predict"]), *headers]))
                status, _, said = speaker.answer()
                assert status in (400, 413) and len(said) < 2000, (name, path, status, said[:200])
        assert is_alive(listener), name
    assert peak_mb([listener]) - before < 60  # serve.body_max_mb is 4
    with Speaker(running.url) as speaker:
        assert speaker.say(BODIES["Infer"], headers=bearer(keys["predict"]))[0] == 200


def test_a_refused_body_is_not_kept_in_memory(fort):
    running, _, keys = fort
    listener, long = listener_of(running), b" " * (4 * 2**20 - 1000)
    before = peak_mb([listener])
    with Speaker(running.url) as speaker:
        for k in range(30):
            path = f"/v2/models/{'sum' if k % 2 else 'nothing'}/infer"
            assert speaker.say(b"{" + long, path, "POST", bearer(keys["predict"]))[0] in (400, 404)
    assert peak_mb([listener]) - before < 40


def closing(url, stream):
    "What a server says until it closes, to somebody who never stops by himself."
    with Speaker(url) as speaker:
        with contextlib.suppress(ConnectionError):
            speaker.socket.sendall(stream)
        return speaker.rest()


@pytest.mark.parametrize(
    "stream",
    [
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 3_000_000,
        b"GET /" + b"a" * 3_000_000,
        b"GET /v2 HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % k for k in range(200_000)),
        b"a" * 3_000_000,
    ],
    ids=["a long header", "a long path", "many headers", "no request at all"],
)
def test_headers_have_a_largest_size(fort, stream):
    listener = listener_of(fort[0])
    before = peak_mb([listener])
    heard = closing(fort[0].url, stream)
    assert not heard or re.match(rb"HTTP/1.1 4(00|31|14) ", heard)
    assert peak_mb([listener]) - before < 20


def test_who_sends_too_slowly_is_sent_away(fort):
    "serve.timeout_s is 2: whether nothing comes, half a head or half a body, and however steadily it trickles."
    whole = spelt(BODIES["Infer"], headers=bearer(fort[2]["predict"]))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Speaker(fort[0].url, 15)) for _ in range(12)]
        for k, speaker in enumerate(slow):
            speaker.socket.sendall(whole[: k * len(whole) // 12])
        trickle = stack.enter_context(Speaker(fort[0].url, 0.05))
        for byte in whole[:-1]:  # some 300 bytes, 20 a second
            with contextlib.suppress(TimeoutError):
                trickle.socket.sendall(bytes([byte]))
                trickle.socket.recv(1, socket.MSG_PEEK)
                break  # an answer, or the end
        trickle.socket.settimeout(15)
        for speaker in [*slow, trickle]:
            heard = speaker.rest()
            assert not heard or heard.startswith(b"HTTP/1.1 408 "), heard


def test_no_key_is_found_in_anything_that_is_written_or_said(tmp_path):
    shelve(tmp_path, MODELS)
    its = settings_for(
        tmp_path,
        SEATRIAL_GUARD_ACCESS_LOG="true",
        SEATRIAL_TRACE_URL=str(tmp_path / "spans.jsonl"),
        SEATRIAL_TRACE_SHARE="1",
    )
    keys = [add(keys_path(its), role, role) for role in RIGHTS]
    keys += ["st_12345678_" + "wrongwrong" * 4 + "abc", "not-even-a-key-of-ours-0123456789"]
    heard = []
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        with Speaker(running.url) as speaker:
            for key in keys:
                for way in (f"Authorization: Bearer {key}", f"X-API-Key: {key}"):
                    trace = "traceparent: 00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
                    for route in ROUTES:
                        for content in {BODIES[route.takes], b"{" if route.takes else b""}:
                            heard.append(speaker.say(content, path_of(route), route.method, [way, trace]))
                    speaker.say(b"", f"/v2/models/sum?key={key}", "GET", [way])
                    heard.append(speaker.say(b"{}", "/v2/repository/models/spare/load", "POST", bearer(keys[-3])))
                with contextlib.suppress(ConnectionError), Speaker(running.url) as broken:
                    broken.socket.sendall(f"GET /v2 HTTP/1.1\r\nX-API-Key: {key}\r\nbad header\r\n\r\n".encode())
                    heard.append((0, {}, broken.rest()))
            heard.append(speaker.say(b"", "/metrics", "GET", bearer(keys[1])))
        told = [
            Path(f"/proc/{pid}/{what}").read_bytes()
            for pid in family(running.process.pid)
            for what in ("cmdline", "environ")
        ]
    Journal.open(its).close()
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    logged = b"".join(content for path, content in written.items() if path.parent.name == "logs")
    assert all(key[3:11].encode() in logged for key in keys[:-2]) and (tmp_path / "spans.jsonl") in written
    for key in keys:
        secret = key[12:].encode()
        assert not [path for path, content in written.items() if secret in content]
        assert not [answer for answer in heard if secret in answer[2] or secret.decode() in str(answer[1])]
        assert not [content for content in told if secret in content]


def test_keys_whose_file_is_gone_stay_in_force_and_health_says_so(tmp_path):
    shelve(tmp_path, MODELS)
    its = settings_for(tmp_path)
    key = add(keys_path(its), "shop", "predict")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        keys_path(its).unlink()
        until(lambda: "keys.json is gone" in speaker.say(b"", "/health", "GET")[2].decode())
        path = "/v2/models/sum/infer"
        assert [speaker.say(BODIES["Infer"], path, "POST", who)[0] for who in ((), bearer(key))] == [401, 200]


def test_a_limit_holds_over_all_processes_however_connections_are_dealt_out(tmp_path):
    shelve(tmp_path, MODELS)
    limits = {"SEATRIAL_GUARD_RATE_PER_S": "0.001", "SEATRIAL_GUARD_RATE_BURST": "6"}
    its = settings_for(tmp_path, SEATRIAL_SERVE_API_PROCESSES="2", **limits)
    one, many = (add(keys_path(its), name, "predict") for name in ("one", "many"))
    path, content = "/v2/models/sum/infer", BODIES["Infer"]
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        with Speaker(running.url) as speaker:
            kept = [speaker.say(content, path, "POST", bearer(one))[0] for _ in range(8)]
        opened = []
        for _ in range(16):
            with Speaker(running.url) as speaker:
                opened.append(speaker.say(content, path, "POST", bearer(many))[0])
        assert kept == [200] * 6 + [429] * 2 and opened == [200] * 6 + [429] * 10


def test_who_asks_too_often_is_told_when_to_come_back(tmp_path):
    shelve(tmp_path, MODELS)
    its = settings_for(tmp_path, SEATRIAL_GUARD_RATE_PER_S="0.5", SEATRIAL_GUARD_RATE_BURST="6")
    keys = [add(keys_path(its), f"k{k}", "operate") for k in range(3)]
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        for key, path in zip(
            keys, ("/v2/models/sum/infer", "/v2/models/sum/infer?x=1", "/invocations?model=sum"), strict=True
        ):
            content = BODIES["Table" if "invocations" in path else "Infer"]
            answers = [speaker.say(content, path, "POST", bearer(key)) for _ in range(12)]
            assert [status for status, _, _ in answers[:6]] == [200] * 6 and answers[-1][0] == 429
            left = [int(re.fullmatch(r'"default";r=(\d+);t=\d+', h["ratelimit"])[1]) for _, h, _ in answers]
            assert left[:6] == [5, 4, 3, 2, 1, 0] and left[-1] == 0
            assert {h["ratelimit-policy"] for _, h, _ in answers} == {'"default";q=6;w=12'}
            refused = [answer for answer in answers if answer[0] == 429]
            assert all(int(headers["retry-after"]) >= 1 for _, headers, _ in refused)
            assert all(set(json.loads(said)) in ({"error"}, {"error_code", "message"}) for _, _, said in refused)
        assert all(speaker.say(b"", "/health", "GET")[0] == 200 for _ in range(20))
