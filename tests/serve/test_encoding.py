import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.encoding import negotiated, packed, plain, unpacked
from seatrial.serve.protocol import Refused

PACK = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda body: zlib.compress(body, wbits=-15),
    "identity": bytes,
}


@given(st.binary(max_size=3000), st.sampled_from(sorted(PACK)), st.integers(0, 3000))
def test_a_body_is_what_was_packed_or_refused_for_its_size(body, name, most):
    if len(body) <= most or name == "identity":
        assert plain(PACK[name](body), name, most, "x") == body
    else:
        with pytest.raises(Refused, match="must be at most x") as refused:
            plain(PACK[name](body), name, most, "x")
        assert refused.value.status == 413


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_read_or_refused_in_a_sentence(body, name):
    with contextlib.suppress(Refused):
        assert len(plain(body, name, 1000, "x")) <= 1000


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_costs_no_more_memory_than_its_limit(pack):
    bomb = pack(bytes(64 * 2**20))
    tracemalloc.start()
    with pytest.raises(Refused, match="unpacks to more"):
        plain(bomb, "gzip" if pack is gzip.compress else "deflate", 2**20, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "identity;q=1", "x" * 500])
def test_an_unknown_encoding_is_415_and_says_what_is_known(name):
    with pytest.raises(Refused, match="gzip, deflate or identity") as refused:
        plain(b"x", name, 10, "x")
    assert refused.value.status == 415 and len(refused.value.sentence) < 150


def test_members_follow_each_other_and_nothing_else_does():
    assert unpacked(gzip.compress(b"a") + gzip.compress(b"b"), 47, 10) == b"ab"
    with pytest.raises(zlib.error):
        unpacked(gzip.compress(b"a") + b"b", 47, 10)


@given(st.text(max_size=60))
def test_any_accept_encoding_is_understood_as_something(accepted):
    assert negotiated(accepted) in ("", "gzip", "deflate")


@given(st.binary(min_size=1401, max_size=4000), st.sampled_from(["gzip", "deflate", "", "gzip;q=0"]))
def test_an_answer_is_readable_by_the_name_it_carries(body, accepted):
    shrunk, name = packed(body, accepted)
    assert name == accepted.partition(";q=0")[0] * (not accepted.endswith("0"))
    assert plain(shrunk, name, len(body), "x") == body


def test_equal_answers_are_packed_into_equal_bytes():
    assert packed(b"a" * 2000, "gzip") == packed(b"a" * 2000, "gzip")
