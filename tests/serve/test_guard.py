import asyncio
import gzip
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.settings import Settings
from seatrial.serve.call import Said, arrived, read, refusal, sent, understood
from seatrial.serve.guard import Guard, keys_path, let
from seatrial.serve.keys import add
from seatrial.serve.protocol import Refused

SCOPE = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}


def home(tmp_path, **changed):
    found = Settings()
    guarded = replace(found.guard, **{k: v for k, v in changed.items() if hasattr(found.guard, k)})
    served = replace(found.serve, **{k: v for k, v in changed.items() if hasattr(found.serve, k)})
    return replace(found, paths=replace(found.paths, artifacts=tmp_path), guard=guarded, serve=served)


def status(guard, headers, address, right):
    try:
        let(guard, headers, address, right)
    except Refused as refused:
        return refused.status
    return 200


def test_probes_are_let_in_whatever_was_set(tmp_path):
    add(keys_path(home(tmp_path)), "x", "predict")
    guard = Guard(home(tmp_path, rate_per_s=0.001, rate_burst=1), clock=lambda: 0.0)
    assert [status(guard, [], "203.0.113.9", "") for _ in range(5)] == [200] * 5


def test_a_probe_is_enough_to_notice_that_the_keys_are_gone(tmp_path):
    its = home(tmp_path)
    add(keys_path(its), "x", "predict")
    guard = Guard(its, clock=itertools.count(1.0).__next__)
    keys_path(its).unlink()
    assert status(guard, [], "203.0.113.9", "") == 200 and "is gone" in guard.ring.trouble
    assert status(guard, [], "127.0.0.1", "predict") == 401


def test_a_key_is_limited_wherever_it_comes_from_and_others_are_not(tmp_path):
    settings = home(tmp_path, rate_per_s=1.0, rate_burst=2)
    keys = [add(keys_path(settings), name, "predict").encode() for name in "ab"]
    guard = Guard(settings, clock=lambda: 0.0)
    asked = [status(guard, [(b"x-api-key", keys[0])], f"203.0.113.{i}", "predict") for i in range(4)]
    assert asked == [200, 200, 429, 429] and status(guard, [(b"x-api-key", keys[1])], "203.0.113.1", "predict") == 200


def test_without_keys_addresses_are_limited_each_for_itself(tmp_path):
    guard = Guard(home(tmp_path, rate_per_s=1.0, rate_burst=1), clock=lambda: 0.0)
    assert [status(guard, [], a, "predict") for a in ("203.0.113.1", "203.0.113.1", "203.0.113.2")] == [200, 429, 200]


def test_several_processes_share_a_rate(tmp_path):
    its = home(tmp_path, rate_per_s=4.0, rate_burst=8, api_processes=4)
    guards = [Guard(its, lambda: 0.0, tmp_path) for _ in range(4)]
    assert [status(guards[2], [], "203.0.113.1", "predict") for _ in range(9)] == [200] * 8 + [429]
    let_in = [status(guard, [], "203.0.113.2", "predict") for guard in guards for _ in range(8)]
    assert let_in.count(200) == 8


def events(pieces, leave):
    script = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    script.append({"type": "http.disconnect"} if leave else {"type": "http.request", "body": b"", "more_body": False})
    steps = iter(script)

    async def receive():
        return next(steps)

    return receive


@given(st.lists(st.binary(max_size=20), max_size=12), st.integers(1, 60), st.booleans())
@settings(max_examples=60)
def test_a_body_is_whole_or_refused_for_its_size_or_its_client_has_left(pieces, most, leave):
    size, far = sum(map(len, pieces)), list(itertools.accumulate(map(len, pieces)))
    stopped = any(n > 4 * most for n in far)
    try:
        found = asyncio.run(arrived(events(pieces, leave), most))
    except ConnectionResetError:
        assert leave and not stopped
    else:
        assert (stopped or not leave) and found == (b"".join(pieces) if size <= most else None)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([], b"[" * 40 + b"]" * 40, 400),
        ([(b"content-encoding", b"gzip")], gzip.compress(b" " * 3 * 2**20), 413),
        ([(b"content-encoding", b"gzip")], b"plain", 400),
        ([(b"content-encoding", b"zstd")], b"plain", 415),
        ([], b" " * (2**20 + 1), 413),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_status(tmp_path, headers, body, status):
    call = understood(SCOPE | {"headers": headers})
    with pytest.raises(Refused) as refused:
        asyncio.run(read(call, events([body], False), home(tmp_path, body_max_mb=1.0)))
    assert refused.value.status == status


def test_raw_tensors_are_not_measured_as_if_they_were_json(tmp_path):
    call = understood(SCOPE | {"headers": [(b"inference-header-content-length", b"2")]})
    asyncio.run(read(call, events([b"{}" + b"[" * 1000], False), home(tmp_path)))
    assert len(call.body) == 1002


def test_refusals_say_when_to_come_back_and_who_one_has_to_be():
    assert refusal(Refused(503, "x", retry_after_s=0.2)).headers == [(b"retry-after", b"1")]
    assert refusal(Refused(401, "x")).headers == [(b"www-authenticate", b"Bearer")]


def test_an_answer_is_packed_only_for_who_asks_and_says_so():
    def left(accept):
        out = []

        async def send(event):
            out.append(event)

        call = understood(SCOPE | {"headers": [(b"accept-encoding", accept)]})
        asyncio.run(sent(Said(b"a" * 5000), send, call))
        return dict(out[0]["headers"]), out[1]["body"]

    headers, body = left(b"gzip")
    assert gzip.decompress(body) == b"a" * 5000 and headers[b"content-encoding"] == b"gzip"
    assert int(headers[b"content-length"]) == len(body) and headers[b"vary"] == b"accept-encoding"
    headers, body = left(b"identity")
    assert body == b"a" * 5000 and b"content-encoding" not in headers


@pytest.mark.parametrize("path", ["/v2", "/v1/outcomes", "/health", "/metrics", "/docs", "/v2/", "/ping"])
def test_our_own_paths_are_understood(path):
    method = "POST" if path == "/v1/outcomes" else "GET"
    assert understood(SCOPE | {"path": path, "method": method}).route.path == path.rstrip("/")


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/lane", "/openapi", "/x/v2"])
def test_what_nobody_has_described_is_not_there(path):
    with pytest.raises(Refused, match="there is nothing at") as refused:
        understood(SCOPE | {"path": path})
    assert refused.value.status == 404
