import os
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from seatrial.base.settings import CannotDo
from seatrial.engine.call import has_gpu
from seatrial.serve.pool import Pool, Terms, pin, threads_of, unload
from seatrial.serve.tenancy import Ledger, leaving
from tests.serve.harbour import shelve

KEYS = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["1.0.0", "2.0.0"]))


@given(
    st.dictionaries(KEYS, st.integers(0, 60), max_size=10),
    st.sets(KEYS, max_size=6),
    KEYS,
    st.integers(0, 120),
    st.integers(1, 200),
)
def test_a_version_is_refused_exactly_when_it_cannot_fit_beside_what_must_stay(sizes, stay, key, size, limit):
    ledger = Ledger(limit, OrderedDict(sizes), stay)
    must = size + sum(its for each, its in sizes.items() if each in stay and each != key)
    if must > limit:
        with pytest.raises(CannotDo, match=re.escape(f"serve.memory_mb={limit / 2**20:g} is the limit")):
            leaving(ledger, key, size)
        return
    gone = leaving(ledger, key, size)
    others = [each for each in sizes if each != key]
    left = sum(sizes[each] for each in others if each not in gone) + size
    assert left <= limit and not set(gone) & (stay | {key})
    assert gone == [each for each in others if each not in stay][: len(gone)]  # the least recently used, in order
    assert not gone or left + sizes[gone[-1]] > limit  # nobody left in vain
    assert ledger.sizes == OrderedDict(sizes)  # it only says; it does nothing


class Harbour(RuleBasedStateMachine):
    "A ledger against the plainest possible model of it."

    def __init__(self):
        super().__init__()
        self.ledger, self.order = Ledger(100), []

    @rule(key=KEYS, size=st.integers(0, 110))
    def come(self, key, size):
        try:
            gone = leaving(self.ledger, key, size)
        except CannotDo:
            return
        for each in gone:
            self.ledger.sizes.pop(each)
            self.order.remove(each)
        if key not in self.ledger.sizes:
            self.order.append(key)
        self.ledger.sizes[key] = size

    @rule(key=KEYS)
    def use(self, key):
        if key in self.ledger.sizes:
            self.ledger.sizes.move_to_end(key)
            self.order.remove(key)
            self.order.append(key)

    @rule(keys=st.sets(KEYS, max_size=3))
    def keep(self, keys):
        self.ledger.stay = keys

    @invariant()
    def fits_and_remembers_the_order_of_use(self):
        assert self.ledger.total <= 100 and list(self.ledger.sizes) == self.order


TestHarbour = Harbour.TestCase


@given(st.integers(0, 64), st.integers(0, 64), st.integers(1, 32), st.integers(1, 64))
def test_workers_together_never_want_more_threads_than_cores_unless_told_to(asked, card, workers, cores):
    threads = threads_of(asked, {"session": {"threads": card}}, workers, cores)
    if asked:
        assert threads == asked
    elif workers > 1:
        assert 1 <= threads <= max(1, cores // workers) and (not card or threads <= card)
    else:
        assert threads is None


@pytest.fixture
def shelf(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0], "1.2.0": [2.0, 2.0]}})
    return tmp_path


def test_who_asks_for_an_open_version_does_not_wait_for_another_to_load(shelf):
    began, free = threading.Event(), threading.Event()

    def told(what, key):
        if (what, key) == ("loading", ("sum", "1.1.0")):
            began.set()
            assert free.wait(20)

    pool = Pool(shelf, told=told)
    champion = pool.engine("sum", "1.0.0")
    with ThreadPoolExecutor(2) as threads:
        twice = [threads.submit(pool.engine, "sum", "1.1.0") for _ in range(2)]
        assert began.wait(20)
        assert pool.engine("sum", "1.0.0") is champion and not any(one.done() for one in twice)
        assert pool.engine("sum", "1.2.0") is not champion  # nor does another load wait
        free.set()
        first, second = (one.result(20) for one in twice)
    assert first is second is pool.engines["sum", "1.1.0"]


def test_a_pinned_version_outlives_any_number_of_others(shelf):
    size = Pool(shelf)
    size.engine("sum", "1.0.0")
    pool = Pool(shelf, Terms(limit=3 * max(size.ledger.total, 2**20)))
    pin(pool, 1, [("sum", "1.0.0")])
    pin(pool, 2, [("sum", "1.0.0"), ("sum", "1.1.0")])
    champion = pool.engine("sum", "1.0.0")
    pin(pool, 2, [])  # one front is gone, the other still wants it
    for _ in range(5):
        for number in ("1.1.0", "1.2.0"):
            pool.engine("sum", number)
    assert pool.engine("sum", "1.0.0") is champion and list(pool.pins) == [1]


def test_what_cannot_fit_is_refused_and_those_who_are_there_stay(shelf):
    pool = Pool(shelf)
    pool.engine("sum", "1.0.0")
    pool.ledger.limit = pool.ledger.total
    pin(pool, 1, [("sum", "1.0.0")])
    with pytest.raises(CannotDo, match=r"sum 1\.1\.0 occupies .*must stay: sum 1\.0\.0 with"):
        pool.engine("sum", "1.1.0")
    assert list(pool.engines) == list(pool.ledger.sizes) == [("sum", "1.0.0")] and not pool.loading
    pin(pool, 1, [])
    pool.ledger.limit = 2**30  # what a version occupies is measured, and two of one size may differ by a page
    assert pool.engine("sum", "1.1.0").run({"x": [[3.0, 1.0]]})["y"].tolist() == [2]


def test_a_refusal_because_of_deaths_ends_by_itself(shelf):
    pool = Pool(shelf)
    pool.refused["sum", "1.0.0"] = "it kills", time.monotonic() + 0.2
    with pytest.raises(CannotDo, match="it kills"):
        pool.engine("sum", "1.0.0")
    deadline = time.monotonic() + 10
    while ("sum", "1.0.0") not in pool.engines and time.monotonic() < deadline:
        try:
            pool.engine("sum", "1.0.0")
        except CannotDo:
            time.sleep(0.02)
    assert ("sum", "1.0.0") in pool.engines


def test_versions_that_come_and_go_under_load_fail_nobody(shelf):
    pool, stop = Pool(shelf), threading.Event()
    weights = {"1.0.0": 3.0, "1.1.0": -1.0, "1.2.0": 6.0}

    def ask(number):
        count = 0
        while not stop.is_set():
            assert pool.engine("sum", number).run({"x": [[1.0, 2.0]]})["y"].tolist() == [weights[number]]
            count += 1
        return count

    with ThreadPoolExecutor(6) as threads:
        asking = [threads.submit(ask, number) for number in (*weights, *weights)]
        for _ in range(20):
            for number in weights:
                unload(pool, ("sum", number))
        stop.set()
        assert all(one.result(20) > 0 for one in asking)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="this machine has no NVIDIA GPU")
def test_a_worker_with_a_gpu_runs_there_with_bound_buffers(shelf):
    engine = Pool(shelf, Terms(device="cuda")).engine("sum", "1.0.0")
    assert (
        engine.describe()["facts"]["provider"] == "CUDAExecutionProvider" and type(engine.call.run).__name__ == "Bound"
    )
    assert engine.run({"x": [[1.0, 2.0]]})["y"].tolist() == [3]


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_a_sentence_and_no_silent_fallback(shelf):
    with pytest.raises(CannotDo, match="NVIDIA GPU"):
        Pool(shelf, Terms(device="cuda")).engine("sum", "1.0.0")
    assert os.environ.get("CUDA_VISIBLE_DEVICES", "") == ""
