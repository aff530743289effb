"A request inside a worker that dies or hangs: another worker computes it, once, and it is answered and recorded once."

import json
import os
import re
import signal
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.serve.admission import Scheduler, flow_of, offer
from seatrial.serve.batching import died, done, draw, expire
from seatrial.serve.server import launch
from seatrial.serve.turn import Job
from seatrial.serve.vigil import doubted
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until, workers_of
from tests.serve.test_hangs import HANGS, counting


@pytest.fixture
def pair(tmp_path):
    "A server with two workers, whose requests wait four seconds at most, and its settings."
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}}, counting)
    its = settings_for(tmp_path, SEATRIAL_SERVE_WORKERS="2", SEATRIAL_SERVE_TIMEOUT_S="4")
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        until(lambda: len(workers_of(running)) == 2 and asked(running.url, tensor([[1.0, 2.0]]))[0] == 200)
        until(lambda: sample(running.url, "worker_up") == 2)
        yield running, its


def asked(url, body):
    "Status and body of one request."
    with Speaker(url) as speaker:
        status, _, said = speaker.say(body)
        return status, json.loads(said)


def sample(url, name):
    "The sum of a metric over its labels."
    with urllib.request.urlopen(f"{url}/metrics") as page:
        return sum(map(float, re.findall(rf"^seatrial_{name}(?:\{{.*\}})? (\S+)$", page.read().decode(), re.MULTILINE)))


def recorded(its):
    "How often each request is on record, and as what."
    with closing(Journal.open(its)) as journal:
        return Counter((row["request_id"], row["status"]) for row in journal.read("predictions").to_pylist())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_request_inside_a_worker_that_ends_is_answered_by_the_other_one_and_recorded_once(pair, end):
    (running, its), url = pair, pair[0].url
    stopped = workers_of(running)[:1]
    for worker in stopped:  # whoever is stopped takes a request in, and says nothing
        os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(asked, url, tensor([[float(i), 1.0]], id=f"r{i}")) for i in range(4)]
        until(lambda: sample(url, "in_flight") > 0 or all(one.done() for one in asking))
        if end == signal.SIGKILL:
            os.kill(stopped[0], end)
        answers = [one.result() for one in asking]
    assert [said["outputs"][0]["data"] for _, said in answers] == [[i + 1] for i in range(4)]
    assert sample(url, "retries_total") >= 1
    if end == signal.SIGSTOP:  # it was only slow, and comes too late
        os.kill(stopped[0], signal.SIGCONT)
        until(lambda: asked(url, tensor([[1.0, 2.0]]))[0] == 200)
    book = recorded(its)
    assert all(book[f"r{i}", "ok"] == 1 for i in range(4)) and set(book.values()) == {1}


def test_a_request_that_hangs_whoever_computes_it_is_given_to_two_workers_and_no_more(pair):
    (running, its), url = pair, pair[0].url
    before = {*workers_of(running)}
    status, _ = asked(url, HANGS[:-1] + b', "id": "poison"}')
    assert status == 504 and sample(url, "retries_total") == 1
    until(lambda: not before & {*workers_of(running)} and len(workers_of(running)) == 2)  # both are replaced
    until(lambda: asked(url, tensor([[1.0, 2.0]]))[0] == 200)
    assert sample(url, "retries_total") == 1 and recorded(its)["poison", "timeout"] == 1


KINDS = st.sampled_from(["ask", "draw", "done", "doubt", "die", "expire"])
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 2)), max_size=120)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_dies_or_is_silent_every_job_is_answered_or_lost_once_and_computed_twice_at_most(steps):
    waits, now, ends, runs = Scheduler(workers=3), 0.0, Counter(), Counter()
    flow, jobs = flow_of(waits, ("m", "1")), []
    for what, worker in steps:
        now += 1.0
        if what == "ask":
            jobs.append(Job(flow, None, 1, len(jobs), now, now + 30, 1))
            offer(waits, jobs[-1], now)
        elif what == "draw":
            runs.update(job.ticket for batch in draw(waits, now, worker) for job in batch.jobs)
        elif what == "doubt" and worker in waits.out:
            doubted(waits, worker)
        elif what == "done" and worker in waits.out:
            batch = waits.out[worker].batches[0]
            done(waits, batch, 0.1)
            ends.update(job.ticket for job in batch.jobs if not job.gone)
        elif what == "die":
            ends.update(job.ticket for job in died(waits, worker))
        elif what == "expire":
            ends.update(job.ticket for job in expire(waits, now))
    for worker in range(3):  # what is left comes back in the end
        for batch in list(waits.out[worker].batches if worker in waits.out else ()):
            done(waits, batch, 0.1)
            ends.update(job.ticket for job in batch.jobs if not job.gone)
    while batches := draw(waits, now, 0):
        runs.update(job.ticket for batch in batches for job in batch.jobs)
        for batch in batches:
            done(waits, batch, 0.1)
            ends.update(job.ticket for job in batch.jobs if not job.gone)
    ends.update(job.ticket for job in expire(waits, now))
    assert set(ends.values()) <= {1} and set(ends) == {job.ticket for job in jobs}
    assert max(runs.values(), default=0) <= 2
    assert waits.rows == waits.bytes == 0
