"What `/stats` tells is what all processes have done, whichever of them is asked."

import json
import os
import signal

import pytest

from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until, workers_of


def told(url):
    "The counts of one model, as a connection of its own hears them: requests, rows, failures, hits."
    with Speaker(url) as speaker:
        (one,) = json.loads(speaker.say(path="/v2/models/sum/stats", method="GET")[2])["model_stats"]
    said = one["inference_stats"]
    return (*[said[name]["count"] for name in ("success", "fail", "cache_hit")], one["inference_count"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    "A server of two HTTP processes that keep answers: (running, settings)."
    home = tmp_path_factory.mktemp("pair")
    shelve(home, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(home, SEATRIAL_SERVE_API_PROCESSES="2", SEATRIAL_CACHE_SIZE_MB="1")
    with launch(settings=its, port=0, log=home / "log") as running:
        yield running, its


def test_statistics_are_exact_over_all_processes(pair):
    url, rows = pair[0].url, 0
    for i in range(24):
        with Speaker(url) as speaker:  # the kernel chooses the process
            assert speaker.say(tensor([[i, k] for k in range(1 + i % 3)]))[0] == 200
            rows += 1 + i % 3
    assert {told(url) for _ in range(12)} == {(24, 0, 0, rows)}


def test_answers_out_of_the_cache_and_failures_are_told(pair):
    url = pair[0].url
    with Speaker(url) as speaker:
        for _ in range(3):
            assert speaker.say(tensor([[77, 77]]))[0] == 200
        success, fail, hits, _ = told(url)
        assert hits == 2
        for worker in workers_of(pair[0]):
            os.kill(worker, signal.SIGSTOP)
        assert speaker.say(tensor([[78, 78]], parameters={"timeout": 200_000}))[0] == 504
        for worker in workers_of(pair[0]):
            os.kill(worker, signal.SIGCONT)
    until(lambda: told(url)[:2] == (success, fail + 1))
