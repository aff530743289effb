import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from select import select

from seatrial.base.journal import Journal
from seatrial.client.blocking import Client
from seatrial.serve.protocol import Refused
from seatrial.serve.server import launch
from tests.serve.harbour import settings_for, shelve, until, worker_of
from tests.serve.test_wire import Caller, body, request, value


def recorded(its):
    with closing(Journal.open(its)) as journal:
        return journal.read("predictions").to_pylist()


def test_an_equal_request_is_answered_without_being_computed_and_has_a_record_of_its_own(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    its = settings_for(tmp_path, SEATRIAL_CACHE_SIZE_MB="1")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Caller(running.url) as caller:
        for i, (x, version) in enumerate([([1, 2], "1.0.0"), ([1, 2], "1.0.0"), ([1, 2], "1.1.0"), ([2, 1], "1.0.0")]):
            caller.socket.sendall(request(body([x], id=f"r{i}"), f"/v2/models/sum/versions/{version}/infer"))
            answer = caller.answer()
            assert value(answer) == [3 if version == "1.0.0" else -1] and json.loads(answer[2])["id"] == f"r{i}"
    rows = {row["request_id"]: row for row in recorded(its)}
    assert {id: row["cached"] for id, row in rows.items()} == {"r0": False, "r1": True, "r2": False, "r3": False}
    assert rows["r0"]["outputs"] == rows["r1"]["outputs"] and rows["r0"]["inputs_sha"] == rows["r1"]["inputs_sha"]


def test_equal_requests_in_flight_are_computed_once_and_nobody_is_forgotten(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_CACHE_SIZE_MB="1")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, closing(Client(running.url)) as client:
        client.predict("sum", {"x": [0, 0]})
        worker = worker_of(running)
        os.kill(worker, signal.SIGSTOP)
        callers = [Caller(running.url) for _ in range(12)]
        for i, caller in enumerate(callers):
            caller.socket.sendall(request(body([[1, 2]], id=f"r{i}")))
        with Caller(running.url) as last:  # whoever is answered now was read later
            last.socket.sendall(request(b"", "/v2/health/live", "GET"))
            assert last.answer()[0] == 200
        callers.pop(0).__exit__()  # the first one leaves, and is not missed
        os.kill(worker, signal.SIGCONT)
        assert [value(caller.answer()) for caller in callers] == [[3]] * 11
        for caller in callers:
            caller.__exit__()
    flown = [row for row in recorded(its) if row["request_id"].startswith("r")]
    assert sum(not row["cached"] for row in flown) == 1 and {f"r{i}" for i in range(1, 12)} <= {
        row["request_id"] for row in flown
    }


def test_what_fails_is_not_kept_and_fails_for_everybody_who_asked(tmp_path):
    shelve(tmp_path, {"big": {"1.0.0": [3.0]}})
    its = settings_for(tmp_path, SEATRIAL_CACHE_SIZE_MB="1")
    with (
        launch(settings=its, port=0, log=tmp_path / "log") as running,
        closing(Client(running.url, retries=0)) as client,
    ):

        def ask(i):
            try:
                return client.predict("big", {"x": [3e38]}, id=f"r{i}")
            except Refused as refusal:
                return refusal.status

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(8))) == {503}
        assert client.predict("big", {"x": [1]}).outputs["y"].tolist() == [3]


def test_a_journal_that_cannot_be_written_stops_nobody_where_the_operator_says_so(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_JOURNAL_WHEN_FULL="drop")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Caller(running.url) as caller:
        spool = tmp_path / "journal" / "spool"
        until(lambda: spool.exists())
        spool.rename(spool.with_name("gone"))
        caller.socket.sendall(request(body([[1, 2]], id="lost")))
        assert value(caller.answer()) == [3]
        caller.socket.sendall(request(b"", "/metrics", "GET"))
        assert b"seatrial_journal_unrecorded_total 1.0" in caller.answer()[2]
        spool.with_name("gone").rename(spool)


def test_answers_that_wait_for_the_journal_fill_the_queue_and_leave_it_again(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    more = {"SEATRIAL_SERVE_QUEUE_MAX_ROWS": "3", "SEATRIAL_SERVE_TIMEOUT_S": "60"}
    its = settings_for(tmp_path, SEATRIAL_JOURNAL_WHEN_FULL="block", **more)
    with launch(settings=its, port=0, log=tmp_path / "log") as running, ExitStack() as harbour:
        spool, waiting, refused = tmp_path / "journal" / "spool", [], []
        until(lambda: spool.exists())
        spool.rename(spool.with_name("gone"))

        def crowded():
            "One more asks; whether anybody was refused."
            waiting.append(harbour.enter_context(Caller(running.url)))
            waiting[-1].socket.sendall(request(body([[len(waiting), 2]])))
            refused.extend(select([caller.socket for caller in waiting], [], [], 0.2)[0])
            return refused

        until(crowded)
        told = next(caller for caller in waiting if caller.socket in refused)
        status, _, said = told.answer()
        assert status == 429 and b"3 rows wait (3 of them for the journal)" in said
        spool.with_name("gone").rename(spool)
        assert [caller.answer()[0] for caller in waiting if caller is not told][:3] == [200, 200, 200]
        waiting[0].socket.sendall(request(body([[5, 2]])))
        assert value(waiting[0].answer()) == [7]


def test_a_blocked_answer_comes_when_the_journal_can_be_written_again(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_JOURNAL_WHEN_FULL="block")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Caller(running.url) as caller:
        spool = tmp_path / "journal" / "spool"
        until(lambda: spool.exists())
        spool.rename(spool.with_name("gone"))
        caller.socket.sendall(request(body([[1, 2]], id="late")))
        with Caller(running.url) as other:
            other.socket.sendall(request(b"", "/v2/health/live", "GET"))
            assert other.answer()[0] == 200
        spool.with_name("gone").rename(spool)
        assert value(caller.answer()) == [3]
    assert [row["request_id"] for row in recorded(its)] == ["late"]
