from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seatrial.serve.cache import OVERHEAD, Cache, Flight, Kept, content, fail, invalidate, leave, look, purge, settle

KEYS = [("film", "1"), ("film", "2"), ("news", "1")]
ASKED = st.builds(lambda word, size: word * size, st.sampled_from([b"a", b"b", b"cd", b"e" * 50]), st.integers(1, 3))
ARRAYS = st.one_of(
    arrays(st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?"]), array_shapes(min_dims=1, max_dims=3, max_side=3)),
    st.lists(st.text(max_size=3), max_size=3).map(lambda words: np.array(words, object)),
)
INPUTS = st.dictionaries(st.text(max_size=2), ARRAYS, max_size=2)


def told(inputs):
    "What decides, written down without any cleverness."
    return [
        (name, array.dtype.str, array.shape, array.tolist() if array.dtype.kind == "O" else array.tobytes())
        for name, array in inputs.items()
    ]


@given(INPUTS, INPUTS)
@settings(deadline=None)
def test_contents_are_equal_exactly_if_everything_that_decides_is(one, other):
    assert (content(one) == content(other)) == (told(one) == told(other))
    assert content(one) == content({name: array.copy() for name, array in one.items()})


@settings(max_examples=50, deadline=None)
@given(arrays("f8", 4, elements=st.floats(allow_nan=False)), st.integers(0, 6))
def test_rounding_never_makes_equal_what_differs_by_more_than_a_unit_of_the_last_decimal(values, decimals):
    for i in range(3):
        one, other = values[i : i + 1], values[i + 1 : i + 2]
        if content({"x": one}, decimals) == content({"x": other}, decimals):
            assert one[0] == other[0] or abs(one[0] - other[0]) <= 10.0**-decimals * (1 + 1e-9)


class Asked(RuleBasedStateMachine):
    "Any history, beside a plain model: an ordered dict, a clock, and lists of who waits."

    @initialize(room=st.integers(0, 4), ttl_s=st.sampled_from([0.0, 5.0, 1e9]))
    def open(self, room, ttl_s):
        self.cache = Cache(room * (OVERHEAD + 20), ttl_s)
        self.now, self.members, self.known, self.waiting = 0.0, 0, OrderedDict(), {}

    @rule(key=st.sampled_from(KEYS), asked=ASKED)
    def ask(self, key, asked):
        self.members += 1
        before = self.cache.stats.misses + self.cache.stats.joins + self.cache.stats.hits
        found = look(self.cache, key, asked, self.members, self.now)
        value = self.known.get((key, asked))
        if value is not None and value[1] > self.now:
            assert isinstance(found, Kept) and found.value == value[0] and found.content == asked
            self.known.move_to_end((key, asked))
        else:
            self.known.pop((key, asked), None)
            assert isinstance(found, Flight) and found.content == asked and found.key == key
            assert (found in self.waiting) == (len(found.members) > 1)
            self.waiting.setdefault(found, []).append(self.members)
            assert found.members == self.waiting[found]
        assert self.cache.stats.misses + self.cache.stats.joins + self.cache.stats.hits == before + 1

    def some(self, data):
        return data.draw(st.sampled_from(list(self.waiting)))

    @rule(data=st.data(), size=st.integers(0, 400))
    def succeed(self, data, size):
        if not self.waiting:
            return
        flight = self.some(data)
        keep = flight.keep
        assert settle(self.cache, flight, f"{flight.content}", size, self.now) == self.waiting.pop(flight)
        size += len(flight.content) + OVERHEAD
        if keep and size <= self.cache.size_max and self.cache.ttl_s:
            while sum(entry[2] for entry in self.known.values()) + size > self.cache.size_max:
                self.known.popitem(last=False)
            self.known[flight.key, flight.content] = (f"{flight.content}", self.now + self.cache.ttl_s, size)

    @rule(data=st.data())
    def go_wrong(self, data):
        if self.waiting:
            flight = self.some(data)
            assert fail(self.cache, flight) == self.waiting.pop(flight)
            assert fail(self.cache, flight) == [] == settle(self.cache, flight, "late", 1, self.now)

    @rule(data=st.data())
    def hang_up(self, data):
        if self.waiting:
            flight = self.some(data)
            member = data.draw(st.sampled_from(self.waiting[flight]))
            self.waiting[flight].remove(member)
            assert leave(self.cache, flight, member) == (not self.waiting[flight])
            if not self.waiting[flight]:
                del self.waiting[flight]

    @rule(version=st.sampled_from(["1", "2", None]))
    def unload(self, version):
        gone = [entry for entry in self.known if entry[0][0] == "film" and version in (None, entry[0][1])]
        assert invalidate(self.cache, "film", version) == len(gone)
        for entry in gone:
            del self.known[entry]

    @rule(step_s=st.sampled_from([0.0, 2.0, 6.0]), clear=st.booleans())
    def time_passes(self, step_s, clear):
        self.now += step_s
        if clear:
            old = [entry for entry, value in self.known.items() if value[1] <= self.now]
            assert purge(self.cache, self.now) == len(old)
            for entry in old:
                del self.known[entry]

    @invariant()
    def the_books_are_right(self):
        if hasattr(self, "cache"):
            assert [(kept.key, kept.content) for kept in self.cache.order] == list(self.known)
            assert self.cache.bytes == sum(value[2] for value in self.known.values()) <= self.cache.size_max
            assert sum(map(len, self.cache.shelves.values())) == len(self.known)
            assert set(self.cache.flights.values()) <= set(self.waiting)


Asked.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_any_history_gives_what_a_plain_model_gives = Asked.TestCase


def test_equal_marks_never_mix_contents(monkeypatch):
    monkeypatch.setattr("seatrial.serve.cache.xxh3_64_intdigest", lambda content, seed: 7)
    cache, film = Cache(1 << 20), KEYS[0]
    one, other = look(cache, film, b"one", 1, 0.0), look(cache, film, b"other", 2, 0.0)
    assert one is not other
    assert settle(cache, other, "OTHER", 5, 0.0) == [2] and settle(cache, one, "ONE", 3, 0.0) == [1]
    assert look(cache, film, b"one", 3, 0.0).value == "ONE"
    assert isinstance(look(cache, film, b"other", 4, 0.0), Flight)


def test_what_one_version_said_is_never_given_for_another():
    cache = Cache(1 << 20)
    settle(cache, look(cache, KEYS[0], b"x", 1, 0.0), "ONE", 3, 0.0)
    assert all(isinstance(look(cache, key, b"x", 1, 0.0), Flight) for key in KEYS[1:])
