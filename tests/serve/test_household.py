"A server that dies leaves nothing that the next one does not clear away, and says why it ends or does not begin."

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

from seatrial.base.settings import CannotDo
from seatrial.serve.server import is_ready, launch
from tests.serve.harbour import Speaker, family, is_alive, settings_for, shelve, tensor, until, workers_of


@pytest.fixture
def berth(tmp_path, monkeypatch):
    "A shelf, and a folder of this test's own for temporary files, whose path is short: (settings, folder)."
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield settings_for(tmp_path), Path(folder)


def left_in(folder):
    "What servers have put there; ONNX Runtime leaves a file of its own, .ses."
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def answered(url):
    with Speaker(url) as speaker:
        status, _, said = speaker.say(tensor([[1, 2]]))
    return status == 200 and json.loads(said)["outputs"][0]["data"] == [3]


def manager_of(running):
    "The process that keeps LitServe's books: a child of the main process that is no keeper and speaks no HTTP."
    books = [pid for pid in family(running.process.pid)[1:] if listens(pid, "pymp-")]
    return books[0]


def listens(pid, name):
    "Whether a process listens on a Unix socket with such a name."
    inodes = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(f"socket:[{line[6]}]" in inodes for line in lines if len(line) > 7 and name in line[7])


def test_what_a_killed_server_leaves_behind_the_next_one_clears_away_and_a_living_one_keeps_its_own(berth, tmp_path):
    its, folder = berth
    with launch(settings=its, port=0, log=tmp_path / "first") as first:
        everybody = family(first.process.pid)
        os.kill(first.process.pid, signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in everybody))
        left = left_in(folder)
        assert len(left) == 1 and left[0].name.startswith("seatrial-")
    with launch(settings=its, port=0, log=tmp_path / "second") as second:
        (mine,) = left_in(folder)
        assert mine not in left and answered(second.url)
        with launch(settings=its, port=0, log=tmp_path / "third") as third:
            assert mine.is_dir() and answered(second.url) and answered(third.url)
    assert not left_in(folder)


def test_a_server_without_litserves_manager_says_so_and_leaves_nobody_and_nothing(berth, tmp_path):
    its, folder = berth
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        everybody = family(running.process.pid)
        os.kill(manager_of(running), signal.SIGKILL)
        assert running.process.wait(40) == 3
        until(lambda: not any(is_alive(pid) for pid in everybody))
    assert "LitServe's manager died; the server stops" in running.log.read_text()
    assert "Traceback" not in running.log.read_text() and not left_in(folder)


def test_temporary_folders_too_deep_for_a_socket_are_no_obstacle(berth, tmp_path, monkeypatch):
    deep = tmp_path.joinpath(*["deep-down-under"] * 6)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    with launch(settings=berth[0], port=0, log=tmp_path / "log") as running:
        assert answered(running.url) and len(workers_of(running)) == 1 and is_ready(running.url)
    assert not left_in(deep)


def test_a_journal_that_cannot_be_used_is_one_sentence_before_anybody_is_started(berth, tmp_path):
    its, folder = berth
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/journal.db").write_bytes(b"no database" * 1000)
    with pytest.raises(CannotDo, match=r"journal\.db cannot be used \(file is not a database\)"):
        launch(settings=its, port=0, log=tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 1 and not left_in(folder)


def test_a_worker_that_is_stopped_while_nobody_asks_is_no_ready_server(berth, tmp_path):
    def health(url):
        with Speaker(url) as speaker:
            status, _, said = speaker.say(b"", "/health", "GET")
        return status, json.loads(said)["reasons"]

    with launch(settings=berth[0], port=0, log=tmp_path / "log") as running:
        (worker,) = workers_of(running)
        os.kill(worker, signal.SIGSTOP)
        until(lambda: health(running.url) == (503, [f"worker 0 is stopped (process {worker})"]))
        os.kill(worker, signal.SIGCONT)
        until(lambda: health(running.url) == (200, []))
        assert answered(running.url) and workers_of(running) == [worker]
