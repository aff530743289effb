import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.turn import ELDER, SENT, Cost, Flow, Job, Line, enter, learn, oldest, push, take, waiting

ASKED = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1.0, 2.0, 5.0, 9.0]), st.integers(1, 9)), max_size=40)


def jobs(flow, asked, start=0):
    return [
        Job(flow, None, rows, deadline_s=deadline_s, priority=priority, number=start + i, shape=rows % 3)
        for i, (priority, deadline_s, rows) in enumerate(asked)
    ]


def rank(job):
    return job.priority, job.deadline_s, job.number


@given(ASKED, ASKED, st.integers(0, 40))
def test_a_line_is_in_order_of_priority_deadline_and_arrival(first, second, left):
    line, there = Line(), jobs(None, first)
    for job in there:
        push(line, job)
    for _, job in zip(range(left), waiting(line), strict=False):
        assert job == min(there, key=rank) and oldest(line) == min(there, key=lambda j: j.number)
        there.remove(job)
        job.state = SENT
    for job in jobs(None, second, len(first)):
        push(line, job)
        there.append(job)
    for job in waiting(line):
        assert job == min(there, key=rank)
        there.remove(job)
        job.state = SENT
    assert not there


@given(ASKED, st.booleans(), st.integers(1, 20))
def test_each_batch_is_led_by_the_most_urgent_or_the_oldest_and_is_in_order(asked, shaped, most):
    flow = Flow(("m", "1"), shaped=shaped)
    there = jobs(flow, asked)
    for job in there:
        enter(flow, job)
    while flow.count:
        batch, late, rows, _ = take(flow, 0.0, most, 1 << 20)
        leader = batch[0]
        assert leader in (min(there, key=rank), min(there, key=lambda j: j.number)) and not late
        same = [job for job in there if not shaped or job.shape == leader.shape]
        assert batch[1:] == sorted(set(same) - {leader}, key=rank)[: len(batch) - 1]
        assert rows == sum(job.rows for job in batch) and (rows <= most or len(batch) == 1)
        there = [job for job in there if job not in batch]
        assert (flow.count, flow.rows) == (len(there), sum(job.rows for job in there))
    assert not there


@given(st.lists(ASKED, min_size=1, max_size=30), st.booleans(), st.integers(1, 8))
def test_nobody_waits_longer_than_the_bound_whatever_arrives(waves, shaped, most):
    flow, start, before = Flow(("m", "1"), shaped=shaped), 0, {}

    def sail():
        for job in take(flow, 0.0, most, 1 << 20)[0]:
            older, turn = before.pop(job)
            assert flow.turns - turn <= ELDER * (older + 1)

    for wave in waves:
        for job in jobs(flow, wave, start):
            before[job] = (flow.count, flow.turns)
            enter(flow, job)
        start += len(wave)
        if flow.count:
            sail()
    while flow.count:
        sail()
    assert not before


@given(ASKED, st.floats(0.0, 10.0), st.floats(0.001, 4.0), st.booleans())
def test_expired_jobs_never_run_and_a_forecast_never_leaves_a_batch_empty(asked, now, seconds, shaped):
    flow = Flow(("m", "1"), shaped=shaped)
    for _ in range(10):
        learn(flow.cost, 4, seconds)
    there = jobs(flow, asked)
    for job in there:
        enter(flow, job)
    while flow.count:
        possible, floor = [job for job in there if job.deadline_s > now], flow.cost.floor(8)
        batch, late, *_ = take(flow, now, 8, 1 << 20)
        assert all(job.deadline_s > now for job in batch) and (batch or not possible)
        assert all(job.deadline_s <= now + floor for job in late)
        there = [job for job in there if job not in batch and job not in late]
    assert not there


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.9, 1.1)), min_size=2, max_size=60))
def test_a_cost_is_the_weighted_least_squares_line_where_that_has_no_negative_part(batches):
    cost, n = Cost(), len(batches)
    rows = np.array([rows for rows, _ in batches], float)
    seconds = np.array([(3e-3 + 1e-4 * rows) * noise for rows, noise in batches])
    for k, s in zip(rows.astype(int).tolist(), seconds.tolist(), strict=True):
        learn(cost, k, s)
    weights = np.sqrt(cost.memory ** np.arange(n - 1, -1, -1))
    (a, b), *_ = np.linalg.lstsq(np.stack([np.ones(n), rows], 1) * weights[:, None], seconds * weights)
    if np.ptp(rows) and a > 0 and b > 0:
        assert np.allclose([cost.a_s, cost.b_s], [a, b], rtol=1e-5)
    assert cost.a_s >= 0 and cost.b_s >= 0 and cost.floor(9) <= cost.of(9) * (1 + 1e-9)


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 1e4)), max_size=50))
def test_a_cost_stays_finite_whatever_it_is_told(batches):
    cost = Cost()
    for rows, seconds in batches:
        learn(cost, rows, seconds)
    assert 0 <= cost.of(64) < 1e9 and 0 <= cost.floor(64) <= cost.of(64) * (1 + 1e-9)


def test_time_is_up_at_the_deadline_and_not_after_it():
    flow = Flow(("m", "1"))
    (job,) = jobs(flow, [(1, 5.0, 1)])
    enter(flow, job)
    assert take(flow, 5.0, 8, 1 << 20)[:2] == ([], [job])
