"What the scheduler promises about forecasts, limits in bytes, preferred sizes and memory, each promise by itself."

import math

import pytest

from seatrial.serve.admission import Scheduler, cancel, flow_of, full, offer
from seatrial.serve.batching import died, done, draw, expire
from seatrial.serve.protocol import Refused
from seatrial.serve.turn import LATE, Job


def taught(scheduler, seconds=0.1, rows=1, key=("film", "1"), **kind):
    "A flow that has learned from twenty batches what one takes."
    flow = flow_of(scheduler, key, **kind)
    for _ in range(20):
        offer(scheduler, Job(flow, [], rows), 0.0)
        (batch,) = draw(scheduler, 0.0)
        assert done(scheduler, batch, seconds)
    return flow


def waits(scheduler, flow, rows=1, left_s=math.inf, size=0, priority=0):
    "A job that is let in at second 0."
    job = Job(flow, [], rows, None, 0.0, left_s, size, priority)
    return job, offer(scheduler, job, 0.0)


def test_who_cannot_be_in_time_is_refused_at_once_where_others_wait_and_tried_where_nobody_does():
    scheduler = Scheduler()
    flow = taught(scheduler)
    lone, _ = waits(scheduler, flow, left_s=0.05)  # who knows whether a batch still takes as long as it did
    with pytest.raises(Refused, match=r"0\.05 s are left for an answer, and film 1 takes at least 0\.09 s") as refusal:
        waits(scheduler, flow, left_s=0.05)
    assert refusal.value.status == 504
    assert draw(scheduler, 0.0)[0].jobs == [lone]


def test_who_cannot_be_in_time_any_more_is_left_behind_for_those_who_can():
    scheduler = Scheduler()
    flow = taught(scheduler)
    hopeless, _ = waits(scheduler, flow, left_s=1.0)
    hopeful, _ = waits(scheduler, flow, left_s=2.0)
    assert draw(scheduler, 0.95)[0].jobs == [hopeful]  # there are 0.05 s left for what has never taken less than 0.1
    assert hopeless.state == LATE and expire(scheduler, 0.95) == [hopeless] and scheduler.rows == 0


def test_the_queue_is_full_by_bytes_as_well_and_copies_make_room():
    scheduler = Scheduler(queue_bytes=100)
    flow, shadow = (flow_of(scheduler, ("film", "1"), copy) for copy in (False, True))
    first, _ = waits(scheduler, shadow, size=30)
    second, _ = waits(scheduler, shadow, size=30)
    assert waits(scheduler, flow, size=60)[1] == [first]
    assert waits(scheduler, flow, size=40)[1] == [second] and scheduler.bytes == 100 and scheduler.lent == 0
    with pytest.raises(Refused, match="the queue is full: 2 rows wait, 100 bytes") as refusal:
        waits(scheduler, flow, size=1)
    assert refusal.value.status == 429 and refusal.value.retry_after_s >= 1
    with pytest.raises(Refused, match="could never wait in the queue") as refusal:
        waits(scheduler, flow, size=101)
    assert refusal.value.status == 413


def test_answers_that_wait_for_the_journal_fill_the_queue_for_requests_and_copies():
    scheduler = Scheduler(queue_rows=4)
    flow, shadow = (flow_of(scheduler, ("film", "1"), copy) for copy in (False, True))
    scheduler.owed = 2
    copy, _ = waits(scheduler, shadow)
    waits(scheduler, flow)
    assert full(scheduler, 0.0) is None and waits(scheduler, flow)[1] == [copy]
    assert "4 rows wait (2 of them for the journal)" in full(scheduler, 0.0).sentence
    for late in (flow, shadow):
        with pytest.raises(Refused, match=r"4 rows wait \(2 of them for the journal\)") as refusal:
            waits(scheduler, late)
        assert refusal.value.status == 429
    assert len(draw(scheduler, 0.0)[0].jobs) == 2 and draw(scheduler, 0.0, worker=1) == []


def test_retry_after_is_as_long_as_the_work_that_waits():
    scheduler = Scheduler(rows_max=10, queue_rows=100)
    flow = taught(scheduler, seconds=0.5)
    for _ in range(100):
        waits(scheduler, flow)
    with pytest.raises(Refused) as refusal:
        waits(scheduler, flow)
    assert refusal.value.retry_after_s == 5  # ten batches of half a second


def test_what_was_given_back_still_counts_for_who_is_told_when_to_come_back():
    scheduler = Scheduler(rows_max=10, queue_rows=20)
    flow = taught(scheduler, seconds=2.0)
    for _ in range(10):
        waits(scheduler, flow)
    draw(scheduler, 0.0)
    assert died(scheduler, 0) == [] and scheduler.rows == 10
    for _ in range(10):
        waits(scheduler, flow)
    with pytest.raises(Refused) as refusal:
        waits(scheduler, flow)
    assert refusal.value.retry_after_s == 6  # two pieces (of eight and of two) and one batch, two seconds each


@pytest.mark.parametrize("first", [False, True], ids=["the version", "its shadow"])
def test_a_version_and_its_shadow_learn_from_each_other_what_a_batch_costs(first):
    scheduler = Scheduler()
    flow = taught(scheduler, 0.25, shadow=first)
    assert (
        flow_of(scheduler, ("film", "1"), not first).cost.of(1) == pytest.approx(flow.cost.of(1)) != Scheduler().load_s
    )


def test_batches_have_preferred_sizes_and_the_cost_is_that_of_the_rows_that_ran():
    scheduler = Scheduler(rows_max=8)
    flow = flow_of(scheduler, ("film", "1"), preferred=(2, 4))
    for _ in range(7):
        waits(scheduler, flow)
    sizes = []
    while batches := draw(scheduler, 0.0):
        for batch in batches:
            sizes.append((batch.rows, batch.padded))
            done(scheduler, batch, 0.01 + 0.01 * batch.padded)
    assert sizes == [(4, 4), (3, 4)]
    for n in (1, 2, 3, 4) * 5:
        waits(scheduler, flow, n)
        (batch,) = draw(scheduler, 0.0)
        done(scheduler, batch, 0.01 + 0.01 * batch.padded)
    assert flow.cost.of(4) == pytest.approx(0.05) and flow.cost.of(2) == pytest.approx(0.03)


def test_a_day_of_clients_that_hang_up_leaves_nothing_in_the_lines():
    scheduler = Scheduler()
    flow = flow_of(scheduler, ("film", "1"), shaped=True)
    stays, _ = waits(scheduler, flow)  # so that the line is never empty
    for k in range(20_000):
        job = Job(flow, [], 1, None, 0.0, math.inf, 8, 1 + k % 3, k % 7)
        offer(scheduler, job, 0.0)
        cancel(scheduler, job)
        held = [len(line.run) + len(line.heap) + len(line.late) for line in (flow.line, *flow.shapes.values())]
        assert sum(held) < 1000 and len(flow.shapes) <= 8
    assert draw(scheduler, 0.0)[0].jobs == [stays] and scheduler.rows == scheduler.bytes == 0
