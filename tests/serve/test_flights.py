"What single flight owes to those who share a computation: an answer to each, whatever becomes of the others."

import contextlib
import json
import os
import signal
import time

import pytest

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, spelt, tensor, until, worker_of

THRICE = [[7, 7]] * 3


@contextlib.contextmanager
def stopped(running):
    "The worker does nothing until the block ends."
    worker = worker_of(running)
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def read(running):
    "Come back when all that was sent before has been read."
    with Speaker(running.url) as last:
        assert last.say(path="/v2/health/live", method="GET")[0] == 200


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    "A server that keeps answers and has a short queue: (running, settings)."
    home = tmp_path_factory.mktemp("flights")
    shelve(home, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    its = settings_for(home, SEATRIAL_CACHE_SIZE_MB="1", SEATRIAL_SERVE_QUEUE_MAX_ROWS="16")
    with launch(settings=its, port=0, log=home / "log") as running, Speaker(running.url) as speaker:
        assert speaker.say(tensor([[0, 0]]))[0] == 200
        yield running, its


def test_a_request_that_is_too_large_is_refused_each_time(harbour):
    for _ in range(3):
        with Speaker(harbour[0].url) as speaker:
            assert speaker.say(tensor([[7, 7]] * 20))[0] == 413


def test_a_request_that_found_the_queue_full_is_computed_when_it_comes_again(harbour):
    running, _ = harbour
    with contextlib.ExitStack() as stack, stopped(running):
        others = [stack.enter_context(Speaker(running.url)) for _ in range(3)]
        for i, other in enumerate(others):
            other.socket.sendall(spelt(tensor([[i, k] for k in range(8)])))  # the first one goes to the worker
            read(running)
        with Speaker(running.url) as speaker:
            assert speaker.say(tensor(THRICE))[0] == 429
    with Speaker(running.url) as speaker:
        assert speaker.say(tensor(THRICE))[0] == 200


def test_a_leader_whose_time_is_up_takes_nobody_with_it(harbour):
    running, _ = harbour
    with contextlib.ExitStack() as stack:
        leader, other, another = (stack.enter_context(Speaker(running.url)) for _ in range(3))
        with stopped(running):
            leader.socket.sendall(spelt(tensor([[8, 8]], parameters={"timeout": 300_000})))
            read(running)
            for each in (other, another):
                each.socket.sendall(spelt(tensor([[8, 8]])))
            assert leader.answer()[0] == 504
        assert [each.answer()[0] for each in (other, another)] == [200, 200]


def test_who_joins_with_little_time_is_told_when_it_is_up(harbour):
    running, _ = harbour
    with Speaker(running.url) as leader, Speaker(running.url) as other, stopped(running):
        leader.socket.sendall(spelt(tensor([[9, 9]])))
        read(running)
        began = time.monotonic()
        assert other.say(tensor([[9, 9]], parameters={"timeout": 300_000}))[0] == 504
        assert time.monotonic() - began < 9  # and not with the leader, after ten
    with Speaker(running.url) as speaker:
        assert speaker.say(tensor([[9, 9]]))[0] == 200


def test_a_shadow_gets_its_copies_also_of_what_was_not_computed(harbour):
    running, its = harbour
    with Journal.open(its) as journal, Speaker(running.url) as speaker:
        gates = (Gate("error_rate", margin=0.02),)
        plan = Plan("night", "sum", "1.0.0", "1.1.0", gates, kind="shadow", stages=(1.0,))
        journal.decide(Decision("start", "sum", "night", evidence=plan_to_dict(plan)))
        until(lambda: json.loads(speaker.say(tensor([[4, 4]]))[2])["parameters"]["trial"] == "night")
        asked = {f"r{i}" for i in range(12)}
        for id in asked:
            assert speaker.say(tensor([[5, 5]], id=id, parameters={"unit": id}))[0] == 200

        def copies():
            found = journal.read("predictions", trial="night").to_pylist()
            return {(row["request_id"], row["variant"]) for row in found if row["request_id"] in asked}

        until(lambda: copies() == {(id, variant) for id in asked for variant in ("champion", "shadow")})
        journal.decide(Decision("abort", "sum", "night", evidence={"stage": 0}))
