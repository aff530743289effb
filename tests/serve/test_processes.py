"Several HTTP processes and several workers behave as one server."

import json
import os
import signal
import time
import urllib.error
import urllib.request

import pytest

from seatrial.base.journal import Journal
from seatrial.base.settings import load
from seatrial.serve.server import launch
from tests.serve.harbour import shelve, until, workers_of

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    "A server of two HTTP processes and two workers: (running, settings)."
    home = tmp_path_factory.mktemp("fleet")
    shelve(home / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    told = {"PATHS_ARTIFACTS": str(home / "artifacts"), "SERVE_CONTROLLER": "false", "ENGINE_THREADS": "1"}
    told |= {"SERVE_API_PROCESSES": "2", "SERVE_WORKERS": "2"}
    settings = load(os.devnull, {f"SEATRIAL_{key}": value for key, value in told.items()})
    with launch(settings=settings, port=0, log=home / "log") as running:
        yield running, settings


def asked(url, content=None):
    "One exchange on a connection of its own, so that the kernel chooses the process."
    with urllib.request.urlopen(urllib.request.Request(url, content, {"Connection": "close"}), timeout=20) as answer:
        return answer.read().decode()


def told(url, name):
    "The value of a sample."
    lines = [line for line in asked(url + "/metrics").splitlines() if line.startswith(name)]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_whichever_process_is_asked_it_tells_what_all_have_counted_and_all_of_it_is_on_record_once(fleet):
    running, settings = fleet
    url, before = running.url, told(running.url, "seatrial_requests_total")
    for _ in range(60):
        assert answered(url) == [3]
    counts = {told(url, "seatrial_requests_total") for _ in range(8)}
    with Journal.open(settings) as journal:
        ids = journal.read("predictions")["request_id"].to_pylist()
    assert counts == {before + 60} == {float(len(ids))} and len(ids) == len({*ids})
    until(lambda: told(url, "seatrial_worker_up") == 2, 60)


def answered(url):
    "One prediction; who is told to come back comes back, and must get it in the end."
    for _ in range(20):
        try:
            return json.loads(asked(url + "/v2/models/sum/infer", BODY))["outputs"][0]["data"]
        except urllib.error.HTTPError as refusal:
            with refusal:
                if refusal.code != 503 or not refusal.headers["retry-after"]:
                    raise
            time.sleep(0.1)
    raise AssertionError("nobody answered")


def test_while_one_worker_is_dead_the_other_answers(fleet):
    url = fleet[0].url
    until(lambda: len(workers_of(fleet[0])) == 2, 60)
    os.kill(workers_of(fleet[0])[0], signal.SIGKILL)
    assert [answered(url) for _ in range(20)] == [[3]] * 20
    until(lambda: len(workers_of(fleet[0])) == 2 and told(url, "seatrial_worker_up") == 2, 60)
    assert told(url, "seatrial_worker_deaths") >= 1
