import contextlib
import gzip
import itertools
import json
import os
import resource
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.registry.manifest import Shelf, write_tables
from seatrial.serve.breaker import Breakers, Rule, passable, told
from seatrial.serve.inquest import Rules
from seatrial.serve.limits import Limiter, admit
from seatrial.serve.protocol import Refused
from seatrial.serve.server import is_ready, launch
from tests.serve.harbour import (
    Crowd,
    Speaker,
    family,
    is_alive,
    listener_of,
    peak_mb,
    settings_for,
    shelve,
    spelt,
    tensor,
    until,
    worker_of,
)

BODY = tensor([[1, 2]])
MODELS = {"sum": {"1.0.0": [1.0, 1.0]}, "wide": {"1.0.0": [1.0, 1.0]}}
MODELS |= {"swapped": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0], "2.0.0": [5.0, 5.0]}}


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    "A server that survives all that is done to it here: (running, settings). serve.timeout_s is 2."
    home = tmp_path_factory.mktemp("storm")
    shelve(home, MODELS)
    its = settings_for(home, SEATRIAL_SERVE_TIMEOUT_S="2")
    with launch(settings=its, port=0, log=home / "log") as running:
        yield running, its


def answers(url, rows=((1, 2),)):
    with Speaker(url) as speaker:
        status, _, said = speaker.say(tensor([list(row) for row in rows]))
    return status == 200 and json.loads(said)["outputs"][0]["data"] == [sum(row) for row in rows]


def killed_under_load(running, times, clients=8):
    "Kill the worker again and again under load: (what was asked, longest seconds from a kill to an answer)."
    waited, met = [0.0], 0
    with Crowd(running.url, clients) as crowd:
        for _ in range(times):
            crowd.wait_for(40)
            time.sleep(2 * Rules().brief_s)  # a worker that is killed sooner is followed more slowly each time
            os.kill(worker_of(running), signal.SIGKILL)
            killed_s = time.monotonic()
            crowd.wait_for(20)  # of the next worker, or of the queue
            inside = [one for one in crowd.asked if one.sent_s <= killed_s < one.answered_s]
            waited += [one.answered_s - killed_s for one in inside]
            met += bool(inside)
    assert not crowd.hung and not [one for one in crowd.asked if not one.answered_s]
    assert met > times // 2  # most kills met somebody
    for one in crowd.asked:
        assert one.status in (200, 503), one
        assert one.status != 200 or one.value == float(one.id.partition("-")[2]) + 1
    return crowd.asked, max(waited)


def test_nobody_hangs_or_goes_unanswered_when_workers_are_killed(storm):
    asked, _ = killed_under_load(storm[0], 5)
    until(lambda: is_ready(storm[0].url))
    assert Counter(one.status for one in asked)[200] > 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_killed_workers_keep_nobody_waiting_for_a_second(storm):
    asked, longest_s = killed_under_load(storm[0], 100, 16)
    print(f"longest answer {longest_s:.3f} s after a kill; {Counter(one.status for one in asked)}")
    assert longest_s <= 1


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


REQUESTS = {
    "infer": spelt(BODY, headers=["traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"]),
    "the ordinary way": spelt(BODY, "/v2/models/sum/infer?x"),
    "outcomes": spelt(b'{"request_id": "half", "name": "sent", "value": 1}', "/v1/outcomes"),
    "large": spelt(tensor([[1, 2]] * 20_000)),
}


@pytest.mark.parametrize("abruptly", [False, True], ids=["politely", "abruptly"])
def test_clients_that_leave_in_any_phase_leave_nothing_behind(storm, abruptly):
    running, its = storm
    listener, worker = listener_of(running), worker_of(running)
    assert answers(running.url)
    before = open_files(listener)
    for whole in REQUESTS.values():
        for part in (0.0, 0.1, 0.5, 0.9):
            with contextlib.suppress(ConnectionError), Speaker(running.url) as speaker:
                speaker.socket.sendall(whole[: int(part * len(whole))])
                speaker.close(abruptly)
    os.kill(worker, signal.SIGSTOP)  # the next ones leave while they are inside
    for k in range(20):
        with Speaker(running.url) as speaker:
            speaker.socket.sendall(spelt(tensor([[k, 2]], id=f"left-{abruptly}-{k}")))
            speaker.close(abruptly)
    with Speaker(running.url) as speaker:  # whoever is answered now was read later
        assert speaker.say(b"", "/v2/health/live", "GET")[0] == 200
    os.kill(worker, signal.SIGCONT)
    assert answers(running.url)
    until(lambda: open_files(listener) <= before)
    with contextlib.closing(Journal.open(its)) as journal:
        assert journal.read("outcomes", request_id="half").num_rows == 0
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("packed", [False, True], ids=["the short way", "the ordinary way"])
def test_clients_that_do_not_read_cost_the_server_little_memory(storm, packed):
    running, listener = storm[0], listener_of(storm[0])
    body = json.dumps({"inputs": [{"name": "x", "shape": [300, 2], "datatype": "FP32", "data": [1] * 600}]}).encode()
    asked = spelt(gzip.compress(body), headers=["Content-Encoding: gzip"]) if packed else spelt(body)
    with contextlib.ExitStack() as stack:
        before = peak_mb([listener])
        for _ in range(6):
            speaker = stack.enter_context(Speaker(running.url, 0.3))
            speaker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            left = memoryview(asked * (30_000_000 // len(asked)))
            with contextlib.suppress(TimeoutError):  # it takes nothing more, and has not hung up either
                while left:
                    left = left[speaker.socket.send(left[: 1 << 20]) :]
            assert left
        assert answers(running.url)
        assert peak_mb([listener]) - before < 80


def test_a_body_that_does_not_come_is_refused_in_time(storm):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Speaker(storm[0].url)) for _ in REQUESTS]
        for speaker, whole in zip(slow, REQUESTS.values(), strict=True):
            speaker.socket.sendall(whole[:-5])
        for speaker in slow:
            status, _, said = speaker.answer()
            assert status == 408 and "serve.timeout_s=2" in json.loads(said)["error"]


@contextlib.contextmanager
def full_disk(pid):
    "No file takes another byte from a process."
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def recorded(its):
    "How often each answered request is on record."
    with contextlib.closing(Journal.open(its)) as journal:
        return Counter(row["request_id"] for row in journal.read("predictions").to_pylist() if row["status"] == "ok")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    "A server for each policy for full disks: policy -> (running, settings)."
    found = {}
    for policy in ("shed", "drop", "block"):
        home = tmp_path_factory.mktemp(policy)
        shelve(home, {"sum": {"1.0.0": [1.0, 1.0]}})
        found[policy] = settings_for(home, SEATRIAL_JOURNAL_WHEN_FULL=policy, SEATRIAL_SERVE_TIMEOUT_S="1")
    with ThreadPoolExecutor(3) as pool:

        def begun(its):
            return launch(settings=its, port=0, log=its.paths.artifacts / "log")

        found = {
            policy: (running, found[policy])
            for policy, running in zip(found, pool.map(begun, found.values()), strict=True)
        }
        yield found
        list(pool.map(lambda one: one[0].stop(), found.values()))


class Diary:
    "A server whose disk is full for a while, and what it answers and records."

    def __init__(self, running, its):
        self.running, self.url, self.its, self.pid = running, running.url, its, listener_of(running)
        assert self.ask("before")[0] == 200

    def ask(self, id):
        with Speaker(self.url) as speaker:
            return speaker.say(tensor([[1, 2]], id=id))

    def kept(self):
        "Who is on record, now that there is room again."
        until(lambda: self.ask("after")[0] == 200)
        assert "Traceback" not in self.running.log.read_text()
        return recorded(self.its).keys()

    def unrecorded(self):
        with Speaker(self.url) as speaker:
            lines = speaker.say(b"", "/metrics", "GET")[2].decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("seatrial_journal_unrecorded_total "))


def test_a_full_disk_sheds_what_cannot_be_recorded(fleet):
    diary = Diary(*fleet["shed"])
    with full_disk(diary.pid), Speaker(diary.url) as speaker:
        for k in range(3):
            status, headers, said = diary.ask(f"full-{k}")
            assert status == 503 and int(headers["retry-after"]) >= 1 and "journal" in json.loads(said)["error"]
        outcome = b'{"request_id": "before", "name": "n", "value": 1}'
        assert speaker.say(outcome, "/v1/outcomes")[0] == 503
    assert diary.kept() == {"before", "after"} and diary.unrecorded() == 0


def test_a_full_disk_drops_records_and_counts_them(fleet):
    diary = Diary(*fleet["drop"])
    with full_disk(diary.pid):
        assert [diary.ask(f"full-{k}")[0] for k in range(3)] == [200] * 3
        assert diary.unrecorded() == 3
    assert diary.kept() == {"before", "after"}


def test_a_full_disk_makes_answers_wait_until_there_is_room(fleet):
    diary = Diary(*fleet["block"])
    with full_disk(diary.pid):
        status, _, said = diary.ask("late")  # longer than serve.timeout_s
        assert status in (503, 504) and "error" in json.loads(said)
        patient = Speaker(diary.url)
        patient.socket.sendall(spelt(tensor([[1, 2]], id="patient")))
        with Speaker(diary.url) as other:  # whoever is answered now was read later
            assert other.say(b"", "/v2/health/live", "GET")[0] == 200
    with patient:
        assert patient.answer()[0] == 200
    assert diary.kept() - {"late"} == {"before", "patient", "after"} and diary.unrecorded() == 0


def test_champions_are_swapped_under_load_without_a_failed_request_and_a_corrupt_one_is_refused(storm):
    running, its = storm
    artifacts, shelf = its.paths.artifacts, Shelf(its.paths.artifacts)
    graph = artifacts / "models/swapped/2.0.0/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    versions, champions = [v for name in MODELS for v in shelf.versions(name)], {m: shelf.aliases(m) for m in MODELS}

    def crown(number):
        write_tables(artifacts, versions, champions | {"swapped": {"champion": number}})

    def said(path="/v2/models/swapped/infer", method="POST"):
        with Speaker(running.url) as speaker:
            return json.loads(speaker.say(BODY, path, method)[2])

    with Crowd(running.url, model="swapped") as crowd:
        crowd.wait_for(20)
        for number in ("1.1.0", "1.0.0", "1.1.0"):
            crown(number)
            until(lambda number=number: said()["model_version"] == number)
        crown("2.0.0")
        until(lambda: "model.onnx is not what was registered" in str(said("/health", "GET")))
        crowd.wait_for(50)
        assert said()["model_version"] == "1.1.0"
        crown("1.0.0")
        until(lambda: not said("/health", "GET")["reasons"])
    assert crowd.seen().keys() == {200}
    for one in crowd.asked:
        k = float(one.id.partition("-")[2])
        assert one.value == {"1.0.0": k + 1, "1.1.0": k - 1}[json.loads(one.said)["model_version"]]


def test_other_models_are_unloaded_and_loaded_without_a_failed_request(storm):
    with Crowd(storm[0].url) as crowd, Speaker(storm[0].url) as speaker:
        for _ in range(4):
            crowd.wait_for(30)
            assert speaker.say(b"{}", "/v2/repository/models/wide/unload")[0] == 200
            crowd.wait_for(30)
            assert speaker.say(b"{}", "/v2/repository/models/wide/load")[0] == 200
            assert speaker.say(BODY, "/v2/models/wide/infer")[0] == 200
    assert crowd.seen().keys() == {200}


def test_a_model_is_unloaded_under_its_own_load_and_every_request_is_answered(storm):
    with Crowd(storm[0].url, model="wide") as crowd, Speaker(storm[0].url) as speaker:
        for _ in range(3):
            crowd.wait_for(30)
            assert speaker.say(b"{}", "/v2/repository/models/wide/unload")[0] == 200
            assert speaker.say(b"{}", "/v2/repository/models/wide/load")[0] == 200
    assert not crowd.hung and crowd.seen().keys() <= {200, 400, 404, 503}
    assert all(one.status != 200 or one.value == float(one.id.partition("-")[2]) + 1 for one in crowd.asked)


def test_sigterm_under_load_answers_all_that_was_accepted_and_leaves_nobody(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path)
    running = launch(settings=its, port=0, log=tmp_path / "log")
    everybody = family(running.process.pid)
    with Crowd(running.url, 12) as crowd:
        crowd.wait_for(100)
        running.process.terminate()
        assert running.process.wait(40) == 0
        crowd.over.set()
    running.stop()
    until(lambda: not any(is_alive(pid) for pid in everybody))
    assert not crowd.hung
    good = Counter(one.id for one in crowd.asked if one.status == 200)
    assert good == recorded(its)  # who is on record was answered, and who was answered is on record
    assert "Traceback" not in running.log.read_text()


CLOCK = """
import time
real, file = time.time, {path!r}
def jumped():
    with open(file) as told:
        return real() + float(told.read() or 0)
time.time = jumped
"""


def test_a_clock_that_is_set_loses_no_record_and_stops_nothing(tmp_path, monkeypatch):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK.format(path=str(offset)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'clock'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    its, asked = settings_for(tmp_path, SEATRIAL_GUARD_RATE_PER_S="1000"), []
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        for jump in ("0", "86400", "-86400", "3000000", "0"):
            offset.write_text(jump)
            for k in range(5):
                asked.append(f"{len(asked)}:{jump}:{k}")
                assert speaker.say(tensor([[k, 2]], id=asked[-1]))[0] == 200
                outcome = json.dumps({"request_id": asked[-1], "name": "n", "value": k}).encode()
                assert speaker.say(outcome, "/v1/outcomes")[0] == 200
        assert is_ready(running.url)
    with contextlib.closing(Journal.open(its)) as journal:
        rows = {row["request_id"]: row for row in journal.read("predictions").to_pylist()}
        assert rows.keys() == {*asked} == {row["request_id"] for row in journal.read("outcomes").to_pylist()}
    assert all(row["latency_ms"] >= 0 and 0 <= row["queue_ms"] < 60_000 for row in rows.values())
    days = [rows[id]["time_s"] // 86400 for id in asked[::5]]
    assert [day - days[0] for day in days[:3]] == [0, 1, -1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_limits_and_breakers_survive_any_clock(steps):
    limiter, breakers, key = Limiter(2.0, 3), Breakers(Rule(0.5, 4, 10.0, 5.0)), ("m", "1")
    for now in itertools.accumulate(steps):
        with contextlib.suppress(Refused):
            assert 0 <= admit(limiter, "c", now).left <= 3
        if passable(breakers, key, now) is None:
            told(breakers, key, 1, 1, now, "it fails")
