import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.serve import limits
from seatrial.serve.limits import Buckets, Limiter, admit, deeper, fields, shallow, turn
from seatrial.serve.protocol import Refused

GAPS = st.lists(st.floats(0, 5), min_size=1, max_size=60)


@given(GAPS, st.floats(0.1, 50), st.integers(1, 20))
def test_no_client_gets_more_than_burst_and_rate_allow_over_any_span(gaps, rate, burst):
    limiter, now, let_in = Limiter(rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        if limiter.take("x", now).let_in:
            let_in.append(now)
    for i, begin in enumerate(let_in):
        for j, end in enumerate(let_in[i:], 1):
            assert j <= burst + rate * (end - begin) + 1e-6


@given(GAPS, st.floats(0.1, 50), st.integers(1, 20))
def test_it_decides_as_a_bucket_of_tokens_that_is_counted(gaps, rate, burst):
    full, tokens, now = 0.0, float(burst), 0.0
    for gap in gaps:
        now, tokens = now + gap, min(burst, tokens + gap * rate)
        full, said = turn(full, now, rate, burst)
        if abs(tokens - 1) > 1e-6:  # on the edge both answers are right
            assert said.let_in == (tokens >= 1)
        tokens -= said.let_in
        assert abs(said.left - tokens) <= 1 + 1e-6


@given(GAPS, st.floats(0.1, 50), st.integers(1, 20))
def test_who_waits_as_long_as_it_was_told_gets_in(gaps, rate, burst):
    full, now = 0.0, 0.0
    for gap in gaps:
        now += gap
        full, said = turn(full, now, rate, burst)
        if not said.let_in:
            assert turn(full, now + said.wait_s, rate, burst)[1].let_in


def test_one_client_does_not_use_up_another_ones_tokens():
    limiter = Limiter(1.0, 2)
    assert [limiter.take("a", 0.0).let_in for _ in range(3)] == [True, True, False]
    assert limiter.take("b", 0.0).let_in


def test_the_table_of_clients_is_bounded_and_whose_bucket_is_full_first_leaves():
    limiter = Limiter(1.0, 1, Buckets(most=8))
    assert all(limiter.take(f"c{i}", now_s=i / 10).let_in for i in range(9))
    assert not any(limiter.take(f"c{i}", now_s=0.9).let_in for i in range(1, 9)) and limiter.take("c0", 0.9).let_in
    assert len(limiter.buckets.names) == 16 and not limiter.take("c8", 0.9).let_in


def test_limiters_that_share_a_file_let_in_as_many_as_one(tmp_path):
    limiters = [Limiter(1.0, 5, Buckets(tmp_path / "limits")) for _ in range(3)]
    taken = [each.take(client, 100.0).let_in for _ in range(4) for each in limiters for client in ("a", "b")]
    assert taken == [True] * 10 + [False] * 14 and limiters[2].take("a", 101.0).let_in


def test_processes_that_ask_at_once_let_in_hardly_more_than_one_would(tmp_path):
    script = "import sys; from seatrial.serve.limits import *; from pathlib import Path\n"
    script += "own = Limiter(1e-9, 500, Buckets(Path(sys.argv[1]))); sys.stdin.readline()\n"
    script += "print(sum(own.take(f'c{i % 4}', 1.0).let_in for i in range(8000)))"
    command = [sys.executable, "-c", script, str(tmp_path / "limits")]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    let_in = sum(int(process.communicate()[0]) for process in both)
    assert 2000 <= let_in < 4000  # without a common table: 4000


def test_a_place_that_cannot_hold_the_table_is_said(tmp_path):
    with pytest.raises(CannotDo, match="the limits cannot be kept in"):
        Buckets(tmp_path / "none" / "limits")


def test_a_refusal_says_who_what_and_when_and_carries_retry_after():
    limiter = Limiter(0.5, 1)
    admit(limiter, "web", 0.0)
    with pytest.raises(Refused, match=r"from web: the limit is guard.rate_per_s=0.5 and guard.rate_burst=1") as refused:
        admit(limiter, "web", 0.0)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2)
    assert dict(refused.value.fields) == {b"ratelimit-policy": b'"default";q=1;w=2', b"ratelimit": b'"default";r=0;t=2'}


def test_the_fields_tell_policy_and_what_is_left():
    limiter = Limiter(2.0, 10)
    told = dict(fields(limiter, admit(limiter, "web", 0.0)))
    assert told == {b"ratelimit-policy": b'"default";q=10;w=5', b"ratelimit": b'"default";r=9;t=1'}


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(), c, max_size=3)
)


def nesting(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.booleans())
def test_depth_is_that_of_the_document_whatever_its_strings_say(document, ascii):
    body, depth = json.dumps(document, ensure_ascii=ascii).encode(), nesting(document)
    assert not deeper(body, depth) and (depth == 0 or deeper(body, depth - 1))


@given(JSON, st.integers(1, 40))
def test_blocks_do_not_change_what_is_found(document, size):
    body, depth = json.dumps(document).encode(), nesting(document)
    before, limits.BLOCK = limits.BLOCK, size
    try:
        assert not deeper(body, depth) and (depth == 0 or deeper(body, depth - 1))
    finally:
        limits.BLOCK = before


@given(st.binary(max_size=200), st.integers(0, 40))
def test_any_bytes_are_deep_or_not(body, most):
    assert deeper(body, most) <= (body.count(b"[") + body.count(b"{") > most)


def test_deep_bodies_are_refused_and_wide_ones_are_not():
    shallow(json.dumps([[1]] * 1000).encode(), 2)
    with pytest.raises(Refused, match=r"guard\.depth_max=2 deep, and this one is deeper"):
        shallow(b"[[[1]]]", 2)


def test_what_has_no_end_is_deep_by_its_beginning():
    assert deeper(b"[" * 33, 32) and not deeper(b"[" * 32, 32) and not deeper(b'["' + b'\\"' * 100_000, 1)
