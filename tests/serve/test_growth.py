"A server that has answered many requests holds no more than one that has answered some."

import os
import signal
import sys
from itertools import pairwise

import pytest

from seatrial.serve.desk import PATHS_MAX, Desk
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, listener_of, settings_for, shelve, tensor, until

ROUND = 1000  # requests
COUNTING = """
import gc, os, signal, sys

def count(*_):
    gc.collect()
    with open(f"{os.environ['COUNTS']}/{os.getpid()}", "a") as file:
        print(sys.getallocatedblocks(), file=file)

signal.signal(signal.SIGUSR2, count)
"""


def counted(folder, pid):
    "How many pieces of memory Python holds in a process."
    path = folder / str(pid)
    before = path.read_text().count("\n") if path.exists() else 0
    os.kill(pid, signal.SIGUSR2)
    until(lambda: path.exists() and path.read_text().count("\n") > before)
    return int(path.read_text().split()[-1])


def mixture(url):
    "A thousand requests: predictions, equal ones, outcomes, scrapes, mistakes, and clients that leave."
    for i in range(ROUND // 20):
        with Speaker(url) as speaker:
            for k in range(10):
                rows = [[float(i), float(k)]] * (k % 3 + 1)
                assert speaker.say(tensor(rows, id=f"r{k}", parameters={"unit": f"u{k}"}))[0] == 200
            for _ in range(3):
                assert speaker.say(tensor([[1, 2]]))[0] == 200
            outcome = b'{"request_id": "r%d", "name": "click", "value": 1}' % (i % 7)
            assert speaker.say(outcome, "/v1/outcomes")[0] == 200
            assert speaker.say(b"", "/metrics", "GET")[0] == speaker.say(b"", "/health", "GET")[0] == 200
            assert speaker.say(b'{"inputs": 5}')[0] == 400
            assert speaker.say(tensor([[1, 2]]), "/v2/models/nobody/infer")[0] == 404
            assert speaker.say(b"", "/nothing", "GET")[0] == 404
            speaker.socket.sendall(b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_neither_process_grows_with_the_number_of_requests(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("COUNTS", str(tmp_path))
    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    features = {"SEATRIAL_GUARD_ACCESS_LOG": "true", "SEATRIAL_CACHE_SIZE_MB": "0.05"}
    with launch(settings=settings_for(tmp_path / "artifacts", **features), port=0, log=tmp_path / "log") as running:
        pids, held = (running.process.pid, listener_of(running)), []
        for _ in range(5):
            mixture(running.url)
            held.append([counted(tmp_path, pid) for pid in pids])
    grown = [[after - before for before, after in pairwise(one)] for one in zip(*held, strict=True)]
    assert all(min(each) < ROUND / 5 for each in grown), grown  # what leaks, leaks in every round


def test_urls_that_strangers_make_up_are_forgotten():
    desk = Desk()
    for i in range(2 * PATHS_MAX + 7):
        desk.place(b"/v2/models/n%d/infer" % i)
        assert len(desk.places) <= PATHS_MAX
    assert desk.place(b"/v2/models/sum/infer").model == "sum"
