import importlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seatrial.serve.admission import Scheduler, activate, cancel, drain_s, flow_of, full, offer
from seatrial.serve.batching import clear, died, done, draw, everybody, expire, forget, overdue, preferred_rows
from seatrial.serve.protocol import Refused
from seatrial.serve.turn import AGAIN, LATE, SENT, WAITING, Job, learn

ROWS, BYTES, QUEUE = 8, 100, 40


class Voyage(RuleBasedStateMachine):
    "Any history of one scheduler; `fates` says what became of each job, and nobody may be told twice."

    @initialize(workers=st.integers(1, 3), load_s=st.sampled_from([0.0, 0.005, 9.0]))
    def launch(self, workers, load_s):
        self.s = Scheduler(ROWS, BYTES, QUEUE, 50 * BYTES, load_s, workers)
        self.now, self.fates, self.names, self.passed, self.numbers = 0.0, {}, 0, {}, set()
        self.kinds = [
            (("film", "1"), False, (), False),
            (("film", "2"), False, (2, 4), False),
            (("news", "1"), False, (), True),
            (("film", "2"), True, (), True),
        ]

    def end(self, jobs, fate):
        for job in jobs:
            assert self.fates[job] is None
            self.fates[job] = fate

    @rule(
        kind=st.integers(0, 3),
        rows=st.sampled_from([1, 1, 2, 5, 12, 41]),
        priority=st.integers(0, 3),
        left_s=st.sampled_from([0.0, 0.01, 0.5, math.inf]),
        size=st.integers(0, 60),
        many=st.integers(1, 6),
    )
    def arrive(self, kind, rows, priority, left_s, size, many):
        flow = flow_of(self.s, *self.kinds[kind])
        for _ in range(many):
            names, self.names = list(range(self.names, self.names + rows)), self.names + rows
            job = Job(flow, names, rows, None, self.now, self.now + left_s, size, priority, rows % 2)
            self.fates[job] = None
            room = self.s.rows + rows <= QUEUE and self.s.bytes - self.s.lent + size <= 50 * BYTES
            status, dropped = self.let_in(job)
            reasons = {413: rows > QUEUE, 429: not room or flow.shadow, 504: left_s <= flow.cost.floor(rows), 200: room}
            assert reasons[status] and job.gone == (status != 200)
            assert all(copy.shadow for copy in dropped) and not (dropped and flow.shadow)
            self.end(dropped, "dropped")
            self.end([job] if job.gone else [], "refused")

    def let_in(self, job):
        try:
            return 200, offer(self.s, job, self.now)
        except Refused as refusal:
            return refusal.status, []

    @rule(worker=st.integers(0, 2))
    def depart(self, worker):
        worker %= self.s.workers
        busy = worker in self.s.out
        returned = [job for piece in self.s.again for job in piece if job.state == AGAIN and job.deadline_s > self.now]
        load = draw(self.s, self.now, worker)
        if busy:
            assert load == []
            return
        assert load or not (self.s.rows or self.s.copied)
        assert not returned or load[0].jobs[0] is returned[0]
        for batch in load:
            self.fits(batch)
            assert batch.number not in self.numbers
            self.numbers.add(batch.number)
            assert not batch.flow.shadow or (self.s.rows == 0 and len(load) == 1)

    def fits(self, batch):
        jobs = batch.jobs
        assert jobs and {job.state for job in jobs} == {SENT} and all(self.fates[job] is None for job in jobs)
        assert all(job.deadline_s > self.now and job.tries < 2 for job in jobs)
        assert {job.flow for job in jobs} == {batch.flow} and batch.rows == sum(job.rows for job in jobs)
        assert len(jobs) == 1 or (batch.rows <= ROWS and sum(job.size for job in jobs) <= BYTES)
        assert not batch.flow.shaped or len({job.shape for job in jobs}) == 1
        assert batch.padded == preferred_rows(batch.rows, batch.flow.preferred) >= batch.rows

    @precondition(lambda self: self.s.out)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.001, 0.02]))
    def come_back(self, data, seconds):
        load = self.s.out[data.draw(st.sampled_from(sorted(self.s.out)))]
        batch = data.draw(st.sampled_from(load.batches))
        answer = [name for job in batch.jobs for name in job.inputs] + [-1] * (batch.padded - batch.rows)
        free, start = len(load.batches) == 1, 0
        assert done(self.s, batch, seconds) == free and not done(self.s, batch, seconds)
        for job in batch.jobs:
            assert answer[start : start + job.rows] == job.inputs
            start += job.rows
        self.end([job for job in batch.jobs if not job.gone], "answered")

    @precondition(lambda self: self.s.out)
    @rule(data=st.data())
    def die(self, data):
        worker = data.draw(st.sampled_from(sorted(self.s.out)))
        batches = self.s.out[worker].batches
        held = [job for batch in batches for job in batch.jobs if not job.gone]
        suspects = set(batches[0].jobs)
        lost = died(self.s, worker)
        assert all(job.shadow or (job.tries == 2 and job in suspects) for job in lost)
        assert all(job.state == AGAIN for job in held if job not in lost) and died(self.s, worker) == []
        self.end(lost, "lost")

    @precondition(lambda self: self.fates)
    @rule(data=st.data())
    def hang_up(self, data):
        job = data.draw(st.sampled_from(list(self.fates)))
        cancel(self.s, job)
        if self.fates[job] is None:
            self.end([job], "hung up")
            assert job.gone

    @rule(step_s=st.sampled_from([0.001, 0.01, 1.0, -0.5]))
    def time_passes(self, step_s):
        self.now += step_s

    @rule()
    def tell_the_late(self):
        late = expire(self.s, self.now)
        self.end(late, "expired")
        assert not [job for job in everybody(self.s) if job.deadline_s <= self.now]
        assert not [job for job, fate in self.fates.items() if fate is None and job.state == LATE]

    @rule(kind=st.integers(0, 3), everyone=st.booleans())
    def unload(self, kind, everyone):
        key = self.kinds[kind][0]
        self.end(clear(self.s) if everyone else forget(self.s, key), "turned away")
        assert not any(everyone or job.key == key for job in everybody(self.s) if job.state != SENT)

    @invariant()
    def the_books_are_right(self):
        if not hasattr(self, "s"):
            return
        here = [job for job in everybody(self.s) if job.state != SENT]
        live, copies = [j for j in here if not j.shadow], [j for j in here if j.shadow]
        assert self.s.rows == sum(j.rows for j in live) and self.s.copied == sum(j.rows for j in copies)
        assert self.s.bytes == sum(j.size for j in here) and self.s.lent == sum(j.size for j in copies)
        fresh = [j for j in here if j.state == WAITING]
        assert sum(f.count for f in self.s.flows.values()) == len(fresh) and len(set(here)) == len(here)
        assert drain_s(self.s, self.now) >= 0 and math.isfinite(drain_s(self.s, self.now))

    def teardown(self):
        if not hasattr(self, "s"):
            return
        for worker in list(self.s.out):
            for batch in list(self.s.out[worker].batches):
                done(self.s, batch, 0.001)
                self.end([job for job in batch.jobs if not job.gone], "answered")
        while load := draw(self.s, self.now):
            for batch in load:
                done(self.s, batch, 0.001)
                self.end([job for job in batch.jobs if not job.gone], "answered")
        self.end(expire(self.s, self.now), "expired")
        assert None not in self.fates.values() and not list(everybody(self.s))
        assert (self.s.rows, self.s.copied, self.s.bytes, self.s.lent) == (0, 0, 0, 0)


Voyage.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_history_ends_with_every_job_out_exactly_once = Voyage.TestCase


@given(st.lists(st.floats(1e-4, 5e-2), min_size=2, max_size=5), st.integers(1, 9), st.integers(20, 120))
@settings(max_examples=40, deadline=None)
def test_backlogged_versions_never_differ_by_more_than_their_two_dearest_batches(prices, rows, batches):
    s = Scheduler(rows_max=rows, load_s=0.0, queue_rows=10**9)
    flows = [flow_of(s, ("m", str(i))) for i in range(len(prices))]
    had = dict.fromkeys(flows, 0.0)
    for flow, price in zip(flows, prices, strict=True):
        learn(flow.cost, rows, price)
        for _ in range(rows * batches):
            offer(s, Job(flow, None), 0.0)
    for _ in range(batches):
        (batch,) = draw(s, 0.0)
        had[batch.flow] += prices[flows.index(batch.flow)]
        done(s, batch, 0.0)
        for i, one in enumerate(flows):
            for j, other in enumerate(flows):
                assert abs(had[one] - had[other]) <= prices[i] + prices[j] + 1e-9


def test_a_version_that_slept_earns_no_credit():
    s = Scheduler(rows_max=1, load_s=0.0)
    busy, sleeper = flow_of(s, ("busy", "1")), flow_of(s, ("sleeper", "1"))
    for _ in range(500):
        offer(s, Job(busy, None), 0.0)
    for _ in range(400):
        done(s, draw(s, 0.0)[0], 1e-3)
    for _ in range(50):
        offer(s, Job(sleeper, None), 0.0)
    served = []
    for _ in range(20):
        (batch,) = draw(s, 0.0)
        served.append(batch.flow)
        done(s, batch, 1e-3)
    assert 9 <= served.count(sleeper) <= 11


def test_several_small_versions_leave_in_one_load_and_a_dear_one_waits_for_its_own():
    s = Scheduler(rows_max=16, load_s=0.005)
    for name, seconds in (("a", 1e-3), ("b", 1e-3), ("dear", 0.5)):
        learn(flow_of(s, (name, "1")).cost, 1, seconds)
        offer(s, Job(flow_of(s, (name, "1")), None), 0.0)
    first = draw(s, 0.0)
    assert [batch.flow.key[0] for batch in first] == ["a", "b"]
    assert [done(s, batch, 1e-3) for batch in first] == [False, True]
    assert [batch.flow.key[0] for batch in draw(s, 0.0)] == ["dear"]


def test_a_batch_is_never_cut_small_to_fill_a_load():
    s = Scheduler(rows_max=16, load_s=9.0)
    for name, count in (("a", 10), ("b", 10)):
        for _ in range(count):
            offer(s, Job(flow_of(s, (name, "1")), None), 0.0)
    assert [(batch.flow.key[0], batch.rows) for batch in draw(s, 0.0)] == [("a", 10)]


def test_copies_leave_in_batches_that_are_soon_back():
    s = Scheduler(rows_max=64, load_s=0.005)
    copies = flow_of(s, ("film", "2"), shadow=True)
    for rows in (1, 64) * 5:
        learn(copies.cost, rows, 1e-3 + 0.9e-3 * rows)
    for _ in range(64):
        offer(s, Job(copies, None), 0.0)
    (batch,) = draw(s, 0.0)
    assert batch.rows == 4


def test_what_was_given_back_goes_first_in_the_order_in_which_it_left():
    s = Scheduler(rows_max=64)
    film = flow_of(s, ("film", "1"))
    old = [Job(film, None) for _ in range(20)]
    for job in old:
        offer(s, job, 0.0)
    draw(s, 0.0, "first")
    for _ in range(5):
        offer(s, Job(film, None, priority=1), 0.0)
    assert died(s, "first") == []
    load = draw(s, 0.0, "second")
    assert [len(batch.jobs) for batch in load] == [8, 8, 4, 5]
    assert [job for batch in load[:3] for job in batch.jobs] == old


def test_only_the_batch_that_a_worker_can_have_begun_has_used_up_a_try():
    s = Scheduler(rows_max=64, load_s=9.0)
    for name in "abc":
        offer(s, Job(flow_of(s, (name, "1")), None), 0.0)
    first, second, third = draw(s, 0.0)
    done(s, first, 1e-3)
    assert died(s, 0) == [] and (second.jobs[0].tries, third.jobs[0].tries) == (1, 0)


def test_a_worker_that_holds_a_load_for_too_long_is_named():
    s = Scheduler()
    offer(s, Job(flow_of(s, ("film", "1")), None), 0.0)
    draw(s, 1.0, "w")
    assert overdue(s, 2.0, 5.0) == [] and overdue(s, 7.0, 5.0) == ["w"]


def test_a_refusal_says_when_the_queue_will_have_drained():
    s = Scheduler(rows_max=10, queue_rows=100, workers=2)
    film = flow_of(s, ("film", "1"))
    for rows in (1, 10) * 10:
        learn(film.cost, rows, 1.0 + 0.1 * rows)
    for _ in range(100):
        offer(s, Job(film, None), 0.0)
    with pytest.raises(Refused) as refused:
        offer(s, Job(film, None), 0.0)
    assert (
        refused.value.status == 429 and refused.value.retry_after_s == 10
    )  # (10 batches · 1 s + 100 rows · 0.1 s) / 2


def test_a_flow_that_nobody_asks_for_any_more_leaves_the_ring():
    s = Scheduler()
    film = flow_of(s, ("film", "1"))
    job = Job(film, None)
    offer(s, job, 0.0)
    cancel(s, job)
    offer(s, Job(flow_of(s, ("news", "1")), None), 0.0)
    assert [batch.flow.key[0] for batch in draw(s, 0.0)] == ["news"]
    assert not s.live.heap and not film.active
    activate(s, film)
    assert film.active


def test_the_scheduler_has_no_clock_and_no_event_loop():
    modules = [importlib.import_module(f"seatrial.serve.{name}") for name in ("turn", "admission", "batching")]
    used = {name for module in modules for name in vars(module)}
    assert not {"time", "asyncio", "threading", "np", "numpy"} & used


@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(1, 8), st.integers(5, 60))
@settings(deadline=None)
def test_a_version_that_wakes_up_is_served_before_any_other_is_served_twice(prices, rows, turns):
    s = Scheduler(rows_max=rows, load_s=0.0, queue_rows=10**9)
    *busy, sleeper = (flow_of(s, ("m", str(i))) for i in range(len(prices)))
    for flow, price in zip((*busy, sleeper), prices, strict=True):
        learn(flow.cost, rows, 1e-3 * price)
        for _ in range(rows * (turns + 2 * len(prices)) if flow is not sleeper else 0):
            offer(s, Job(flow, None), 0.0)
    for _ in range(turns):
        done(s, draw(s, 0.0)[0], 0.0)
    offer(s, Job(sleeper, None), 0.0)
    served = []
    while sleeper not in served:
        (batch,) = draw(s, 0.0)
        done(s, batch, 0.0)
        served.append(batch.flow)
    assert len(set(served)) == len(served)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_several_workers_never_hold_the_same_job_and_each_holds_one_load(data):
    s = Scheduler(rows_max=4, load_s=9.0, workers=3)
    flows = [flow_of(s, ("m", str(i))) for i in range(3)]
    jobs = [Job(data.draw(st.sampled_from(flows)), None) for _ in range(40)]
    for job in jobs:
        offer(s, job, 0.0)
    left = []
    while s.rows or s.out:
        for worker in data.draw(st.permutations("abc")):
            assert bool(draw(s, 0.0, worker)) <= (worker in s.out) and draw(s, 0.0, worker) == []
        held = [job for load in s.out.values() for batch in load.batches for job in batch.jobs]
        assert len(set(held)) == len(held) and not set(held) & set(left)
        for batch in s.out[data.draw(st.sampled_from(sorted(s.out)))].batches[:]:
            done(s, batch, 0.001)
            left += batch.jobs
    assert set(left) == set(jobs) and len(left) == len(jobs)


def given_back(*deadlines):
    "A scheduler to which a dying worker has just given these jobs back."
    s = Scheduler()
    film = flow_of(s, ("film", "1"))
    jobs = [Job(film, None, deadline_s=deadline_s, size=10) for deadline_s in deadlines]
    for job in jobs:
        offer(s, job, 0.0)
    draw(s, 0.0)
    assert died(s, 0) == [] and {job.state for job in jobs} == {AGAIN}
    return s, jobs


def test_what_was_given_back_may_hang_up():
    s, (bored, there) = given_back(9.0, 9.0)
    cancel(s, bored)
    assert bored.gone and (s.rows, s.bytes) == (1, 10)
    assert [batch.jobs for batch in draw(s, 1.0)] == [[there]]


def test_what_was_given_back_too_late_does_not_run_and_is_told_once():
    s, (late, there) = given_back(1.0, 9.0)
    assert [batch.jobs for batch in draw(s, 2.0)] == [[there]]
    assert expire(s, 2.0) == [late] and late.gone and expire(s, 3.0) == []


def test_what_was_given_back_too_late_is_not_told_after_it_hung_up():
    s, (late, _) = given_back(1.0, 9.0)
    draw(s, 2.0)
    cancel(s, late)
    assert expire(s, 2.0) == []


def test_copies_never_ride_along_with_requests():
    s = Scheduler(load_s=9.0)
    offer(s, Job(flow_of(s, ("film", "2"), shadow=True), None), 0.0)
    offer(s, Job(flow_of(s, ("film", "1")), None), 0.0)
    assert [batch.flow.shadow for batch in draw(s, 0.0)] == [False]
    assert [batch.flow.shadow for batch in draw(s, 0.0, "other")] == [True]


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(1, 8), st.integers(0, 99)), max_size=40))
def test_whoever_is_told_that_the_queue_is_full_would_have_been_refused(most, asked):
    s = Scheduler(queue_rows=most, queue_bytes=1000)
    film, told = flow_of(s, ("film", "1")), []
    for i, (rows, size) in enumerate(asked):
        before = full(s, float(i))
        try:
            offer(s, Job(film, None, rows, size=size), float(i))
            assert before is None
        except Refused as refusal:
            told.append(refusal.status)
            assert before is None or (before.status == 429 and before.retry_after_s >= 1)
    assert set(told) <= {413, 429}
