"A server ends in time although a process of it has been stopped, at once when it is told twice, and leaves nobody."

import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, family, is_alive, settings_for, shelve, tensor, until, worker_of
from tests.serve.test_household import left_in, listens


@pytest.fixture
def begun(tmp_path, monkeypatch):
    "How to launch a server with a folder of its own for temporary files: settings -> (running, folder)."
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield lambda **its: (launch(settings=settings_for(tmp_path, **its), port=0, log=tmp_path / "log"), Path(folder))


def front_of(running):
    "The process that speaks HTTP: a child of the main process that the lane leads to, and not from."
    return next(pid for pid in family(running.process.pid)[1:] if listens(pid, "/front-"))


WHO = {"worker": worker_of, "front": lambda running: front_of(running)}
WHO["manager"] = lambda running: next(pid for pid in family(running.process.pid)[1:] if listens(pid, "pymp-"))


@pytest.mark.parametrize("who", WHO)
def test_a_stopped_process_delays_the_end_by_no_more_than_a_request_and_is_not_left_behind(begun, who):
    running, folder = begun(SEATRIAL_SERVE_TIMEOUT_S="1")
    everybody = family(running.process.pid)
    os.kill(WHO[who](running), signal.SIGSTOP)
    running.process.terminate()
    assert running.process.wait(15) == 0  # it takes two seconds at most; 30 and 60 it took once
    until(lambda: not any(is_alive(pid) for pid in everybody))
    running.stop()
    assert not left_in(folder) and "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_refuses_who_waits_and_ends_everybody_at_once(begun, number):
    running, folder = begun(SEATRIAL_SERVE_TIMEOUT_S="300")
    everybody, said = family(running.process.pid), []
    os.kill(worker_of(running), signal.SIGSTOP)

    def ask():
        with Speaker(running.url, 60) as speaker:
            said.append(speaker.say(tensor([[1, 2]])))

    asking = threading.Thread(target=ask)
    asking.start()
    with Speaker(running.url) as other:
        until(lambda: b"\nseatrial_in_flight 1" in other.say(path="/metrics", method="GET")[2])
    until(lambda: running.process.poll() is not None or running.process.send_signal(number))
    asking.join(20)
    assert running.process.returncode == 3 and said[0][0] == 503 and b"told to end at once" in said[0][2]
    until(lambda: not any(is_alive(pid) for pid in everybody))
    running.stop()
    log = running.log.read_text()
    assert not left_in(folder) and f"a second {number.name} ended the server" in log and "Traceback" not in log
