"What is told, counted and logged at the door, whichever way a request comes in."

import gzip
import json

import pytest

from seatrial.serve.guard import keys_path
from seatrial.serve.keys import add
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until

ABROAD = ["Origin: https://evil.example"]


@pytest.fixture(scope="module")
def quay(tmp_path_factory):
    "A server without keys that writes an access log: (running, settings)."
    home = tmp_path_factory.mktemp("quay")
    shelve(home, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(home, SEATRIAL_GUARD_ACCESS_LOG="true")
    with launch(settings=its, port=0, log=home / "log") as running:
        yield running, its


def entries(its):
    "What the access log holds."
    return [
        json.loads(row)
        for file in (its.paths.artifacts / "logs").glob("*.jsonl")
        for row in file.read_text().splitlines()
    ]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2/repository/models/sum/unload", b"{}"),
        ("/v1/outcomes", b'{"request_id": "r", "name": "n", "value": 1}'),
        ("/invocations", b'{"instances": [[1, 2]]}'),
    ],
)
def test_pages_of_other_sites_change_nothing_where_no_key_is_needed(quay, path, content):
    url = quay[0].url
    here = url.removeprefix("http://")
    with Speaker(url) as speaker:
        for headers in (ABROAD, ["Origin: null"], ["Sec-Fetch-Site: cross-site"], [f"Origin: {url}"]):
            assert speaker.say(content, path, headers=headers)[0] == 403  # the last one: Host is x, a name
        home = [b"POST " + path.encode() + b" HTTP/1.1", f"Host: {here}".encode(), f"Origin: {url}".encode()]
        head = b"\r\n".join([*home, b"Content-Length: %d" % len(content), b"", b""])
    with Speaker(url) as speaker:
        speaker.socket.sendall(head + content)
        assert speaker.answer()[0] == 200


def test_with_a_key_it_does_not_matter_where_a_page_came_from(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path)
    key = add(keys_path(its), "page", "predict")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        told = [*ABROAD, f"Authorization: Bearer {key}"]
        assert speaker.say(b'{"instances": [[1, 2]]}', "/invocations", headers=told)[0] == 200
        assert speaker.say(b'{"instances": [[1, 2]]}', "/invocations", headers=ABROAD)[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("DELETE", "/v1/outcomes", "POST"), ("POST", "/health", "GET, HEAD")]
)
def test_a_wrong_method_is_told_the_right_ones(quay, method, path, allowed):
    with Speaker(quay[0].url) as speaker:
        status, headers, _ = speaker.say(path=path, method=method)
    assert (status, headers["allow"]) == (405, allowed)


def test_every_request_leaves_one_line_that_says_what_was_asked_and_answered(quay):
    running, its = quay
    with Speaker(running.url) as speaker:
        speaker.say(path="/the/first", method="GET")
    until(lambda: entries(its)[-1:] and entries(its)[-1]["path"] == "/the/first")
    before, packed = len(entries(its)), ["Content-Encoding: gzip"]
    content, named = tensor([[1, 2]]), "/v2/models/sum/versions/7.0.0/infer"
    asked = [
        ("/v2/models/sum/infer", content, (), 200, ""),
        ("/v2/models/sum/infer", gzip.compress(content), packed, 200, ""),
        (named, content, (), 404, "has no version '7.0.0'"),
        (named, gzip.compress(content), packed, 404, "has no version '7.0.0'"),
        ("/v2/models/ann@example.org/infer", content, (), 404, "[email]"),
        ("/v2/models/ann@example.org/infer", gzip.compress(content), packed, 404, "[email]"),
        ("/nowhere/ann@example.org", content, (), 404, "there is nothing at /nowhere/[email]"),
        ("/health", content, (), 405, "must be asked with GET"),
        ("/invocations", b"{", (), 400, "must be JSON"),
    ]
    for path, body, headers, status, _ in asked:
        with Speaker(running.url) as speaker:
            assert speaker.say(body, path, headers=headers)[0] == status
    until(lambda: len(entries(its)) >= before + len(asked))
    found = entries(its)[before:]
    for (path, _, _, status, told), line in zip(asked, found, strict=True):
        assert (line["status"], line["path"]) == (status, path.replace("ann@example.org", "[email]"))
        assert told in line.get("error", "") and not line.get("error", "").startswith("{")
        assert "example.org" not in json.dumps(line) and line["address"] == "[ip]" and "127.0.0.1" not in str(line)
