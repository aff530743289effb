"What a server costs in processes: whoever can share, shares; whoever is not needed is not there."

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.base.settings import CannotDo
from seatrial.registry.manifest import Shelf, replace_text
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.companion import Call, accompany
from seatrial.serve.server import is_ready, launch
from tests.serve.harbour import Speaker, family, is_alive, listener_of, settings_for, shelve, until, workers_of

PLAN = Plan("watch", "sum", "1.0.0", "1.1.0", gates=(Gate("error_rate", margin=0.02),), kind="ab", stages=(0.5,))
BEGIN = Decision("start", "sum", "watch", evidence=plan_to_dict(PLAN))
END = Decision("abort", "sum", "watch", evidence={"stage": 0})
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is forked")


def shelved(artifacts):
    shelve(artifacts, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})


def controllers(running):
    "The process ids of a server's controllers."
    found = []
    for pid in family(running.process.pid):
        if is_alive(pid) and b"\0trial\0watch\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found


@LINUX
def test_the_first_keeper_shares_what_was_imported_and_holds_no_port(sea):
    running, _ = sea
    main, keeper = running.process.pid, workers_of(running, "seatrial-keeper")[0]
    assert Path(f"/proc/{keeper}/cmdline").read_bytes() == Path(f"/proc/{main}/cmdline").read_bytes()
    port = int(running.url.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {f"socket:[{f[9]}]" for f in lines if f[3] == "0A" and int(f[1].partition(":")[2], 16) == port}
    for pid in (keeper, *workers_of(running)):
        assert not ours & {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}


def test_a_controller_comes_with_a_trial_comes_back_when_it_is_killed_and_leaves_when_the_trial_is_over(tmp_path):
    shelved(tmp_path)
    its = settings_for(tmp_path, SEATRIAL_SERVE_CONTROLLER="true", SEATRIAL_ROLLOUT_TICK_INTERVAL_S="0.1")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Journal.open(its) as journal:
        assert not controllers(running)
        journal.decide(BEGIN)
        until(lambda: [d.kind for d in journal.decisions(trial="watch")] == ["start", "hold"], 60)
        first = controllers(running)
        assert len(first) == 1
        os.kill(first[0], signal.SIGKILL)
        until(lambda: controllers(running) not in ([], first), 60)
        journal.decide(END)
        until(lambda: not controllers(running), 60)
        assert is_ready(running.url)
        everybody = family(running.process.pid)
    until(lambda: not any(is_alive(pid) for pid in everybody))


@LINUX
def test_the_http_process_stops_at_once_when_it_is_told_to(sea, tmp_path):
    shelved(tmp_path)
    with launch(settings=settings_for(tmp_path), port=0, log=tmp_path / "log") as running:
        os.kill(listener_of(running), signal.SIGTERM)  # nobody but the main process should; it ends the server
        assert running.process.wait(30) == 3
    assert "the HTTP process died" in (tmp_path / "log").read_text()


def test_a_call_answers_as_before_while_the_journal_cannot_be_read(tmp_path):
    shelved(tmp_path)
    with Journal(tmp_path / "journal") as journal:
        call = Call(journal, Shelf(tmp_path))
        assert not call()
        journal.decide(BEGIN)
        assert call()
        table = tmp_path / "registry" / "aliases.json"
        sound = table.read_bytes()
        journal.decide(Decision("alias", "sum", to_version="1.0.0", evidence={"alias": "champion"}))
        journal.decide(END)
        table.write_bytes(b"{")
        assert call()
        table.write_bytes(sound)
        assert not call()


def test_a_call_is_heard_until_what_was_decided_is_published(tmp_path):
    shelved(tmp_path)
    with Journal(tmp_path / "journal") as journal:
        call = Call(journal, Shelf(tmp_path))
        journal.decide(Decision("alias", "sum", to_version="1.1.0", evidence={"alias": "champion"}))
        assert call() and call()
        table = tmp_path / "registry" / "aliases.json"
        replace_text(table, table.read_text().replace("1.0.0", "1.1.0"))
        assert not call()


def test_a_companion_that_fails_is_started_again_after_growing_pauses_and_its_failure_is_said(tmp_path, caplog):
    stop, diary = threading.Event(), tmp_path / "diary"
    code = f"open({str(diary)!r}, 'a').write('.'); raise SystemExit(7)"
    companion = threading.Thread(
        target=accompany, args=([sys.executable, "-c", code], stop), kwargs={"longest_s": 0.02}
    )
    companion.start()
    until(lambda: diary.exists() and len(diary.read_text()) >= 3)
    stop.set()
    companion.join(20)
    assert not companion.is_alive() and "ended with status 7; it is started again in 0.02 s" in caplog.text


def test_a_controller_command_of_ones_own_is_always_there(tmp_path):
    shelved(tmp_path)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with launch(settings=settings_for(tmp_path), port=0, controller=command, log=tmp_path / "log") as running:
        pids = family(running.process.pid)
        until(lambda: any(b"time.sleep(600)" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids))


def test_a_server_that_cannot_start_says_why_and_leaves_nobody(tmp_path):
    shelved(tmp_path)
    (tmp_path / "journal").write_text("a file where a folder should be")
    with pytest.raises(CannotDo, match="did not become ready"):
        launch(settings=settings_for(tmp_path), port=0, log=tmp_path / "log")


def test_rolling_a_day_loads_no_data_frames(tmp_path):
    shelved(tmp_path)
    its = settings_for(tmp_path)
    with launch(settings=its, port=0, log=tmp_path / "log") as running:
        with Speaker(running.url) as speaker:
            old = b'{"request_id": "r", "name": "click", "value": 1, "time_s": 5}'
            assert speaker.say(old, "/v1/outcomes")[0] == 200
        until(lambda: [*(its.paths.artifacts / "journal").glob("day=1970-01-01/outcomes.parquet")])
        assert b"/pandas/" not in Path(f"/proc/{running.process.pid}/maps").read_bytes()


def test_no_process_of_a_server_collects_telemetry(sea):
    for pid in family(sea[0].process.pid):
        assert not [f for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink() and "onnxruntime" in os.readlink(f)]
