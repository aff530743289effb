import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.serve.computation import answered
from seatrial.serve.frames import frame, opened
from seatrial.serve.pool import Pool
from seatrial.serve.worker import Loop, Visitor, serve_visitors
from tests.serve.harbour import shelve


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    artifacts = tmp_path_factory.mktemp("shelf")
    shelve(artifacts, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    return artifacts


@pytest.fixture(scope="module")
def engine(shelf):
    return Pool(shelf).engine("sum", "1.0.0")


class Front:
    "One connection to a worker."

    def __init__(self, path):
        wire = socket.socket(socket.AF_UNIX)
        wire.settimeout(20)
        wire.connect(path)
        self.visitor = Visitor(wire)
        self.hello = self.hear()[0]

    def say(self, header, **arrays):
        self.visitor.say(header, arrays)

    def hear(self):
        return opened(self.visitor.read())

    def ask(self, header, **arrays):
        self.say(header, **arrays)
        return self.hear()


@pytest.fixture
def inside(shelf, tmp_path):
    "A worker in a thread: its pool, and a way to visit it."
    path, door = str(tmp_path / "lane.sock"), socket.socket(socket.AF_UNIX)
    door.bind(path)
    door.listen()
    loop, fronts = Loop(door, Pool(shelf), 64), []

    def visit():
        fronts.append(Front(path))
        return fronts[-1]

    thread = threading.Thread(target=serve_visitors, args=(loop,))
    thread.start()
    yield loop.pool, visit
    loop.leave()
    for front in fronts:
        front.visitor.wire.close()
    thread.join(20)
    assert not thread.is_alive()
    for file in (door, loop.bell, loop.ring, loop.watch):
        file.close()


BATCH = {"model": "sum", "version": "1.0.0", "rows": [1]}
X = np.array([[1, 2]], np.float32)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 40), st.integers(1, 30), st.data())
def test_padding_and_cutting_are_invisible_and_only_bad_jobs_fail(engine, rows, padding, rows_max, data):
    bad = data.draw(st.sets(st.sampled_from(range(len(rows)))))
    parts = [np.full((n, 2), k, np.float32) for k, n in enumerate(rows)]
    for k in bad:
        parts[k][-1, 0] = np.nan
    inputs = {"x": np.vstack([*parts, np.zeros((padding, 2), np.float32)])}
    header, arrays = answered(engine, rows, inputs, rows_max)
    assert {int(k): status for k, (status, _) in header["failures"].items()} == dict.fromkeys(sorted(bad), 400)
    good = [2.0 * k for k, n in enumerate(rows) if k not in bad for _ in range(n)]
    assert (arrays["o:y"].tolist() if good else []) == good


def test_a_version_that_is_not_there_is_absent_until_somebody_has_it_loaded(inside):
    pool, visit = inside
    one, other = visit(), visit()
    assert one.ask({"id": 1, **BATCH}, x=X)[0] == {"id": 1, "absent": True} and not pool.engines
    assert "signature" in other.ask({"id": 2, "load": ["sum", "1.0.0"]})[0]
    assert one.ask({"id": 3, **BATCH}, x=X)[1]["o:y"].tolist() == [3]


def test_a_load_that_takes_long_makes_no_batch_wait(inside):
    pool, visit = inside
    free, front = threading.Event(), visit()
    front.ask({"id": 0, "load": ["sum", "1.0.0"]})
    pool.told = lambda what, key: what == "loading" and free.wait(20)
    front.say({"id": 1, "load": ["sum", "1.1.0"]})
    for number in range(2, 20):
        assert front.ask({"id": number, **BATCH}, x=X)[1]["o:y"].tolist() == [3]
    free.set()
    said = front.hear()[0]
    assert said["id"] == 1 and said["signature"]["inputs"][0]["name"] == "x" and said["bytes"] > 0


def test_what_one_front_pins_another_does_not_unpin_and_who_leaves_pins_nothing(inside):
    pool, visit = inside
    one, other = visit(), visit()
    one.ask({"id": 1, "pins": [["sum", "1.0.0"]]})
    other.ask({"id": 1, "pins": [["sum", "1.1.0"]]})
    other.ask({"id": 2, "pins": []})
    one.ask({"id": 2, "load": ["sum", "1.0.0"]})
    other.ask({"id": 3, "load": ["sum", "1.1.0"]})
    held = {tuple(row[:2]): row[3] for row in other.ask({"id": 4, "held": True})[0]["held"]}
    assert held == {("sum", "1.0.0"): True, ("sum", "1.1.0"): False}
    one.visitor.wire.shutdown(socket.SHUT_RDWR)
    while pool.pins:
        other.ask({"id": 5, "held": True})
    assert not pool.pins


def test_unloading_again_and_again_under_batches_fails_none_of_them(inside):
    _, visit = inside
    operator, fronts = visit(), [visit() for _ in range(3)]
    over, answers = threading.Event(), []

    def ask(front):
        front.say({"pins": []})
        while not over.is_set():
            header, arrays = front.ask({"id": 7, **BATCH}, x=X)
            if header.get("absent"):
                assert "signature" in front.ask({"id": -2, "load": ["sum", "1.0.0"]})[0]
            else:
                assert arrays["o:y"].tolist() == [3] and not header["failures"]
                answers.append(header["id"])

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask, front) for front in fronts]
        gone = 0
        while not (gone >= 20 and len(answers) >= 20) and not any(one.done() for one in asking):
            gone += operator.ask({"id": 9, "unload": ["sum", "1.0.0"]})[0]["unloaded"]
        over.set()
        for one in asking:
            one.result(20)
    assert gone >= 20 and len(answers) >= 20


def test_nonsense_about_versions_is_answered_in_a_sentence(inside):
    _, visit = inside
    front = visit()
    assert "no version '9.9.9'" in front.ask({"id": 1, "load": ["sum", "9.9.9"]})[0]["error"]
    assert "no model named 'nobody'" in front.ask({"id": 2, "load": ["nobody", "1.0.0"]})[0]["error"]
    assert front.ask({"id": 3, "unload": ["nobody", "1.0.0"]})[0] == {"id": 3, "unloaded": False}
    assert front.ask({"id": 4, **BATCH, "version": "9.9.9"}, x=X)[0] == {"id": 4, "absent": True}


def test_half_a_message_at_the_end_disturbs_nobody(inside):
    _, visit = inside
    broken, sound = visit(), visit()
    sound.ask({"id": 0, "load": ["sum", "1.0.0"]})
    broken.visitor.wire.sendall(frame({"id": 1, **BATCH}, {"x": X})[:-3])
    broken.visitor.wire.shutdown(socket.SHUT_RDWR)
    assert sound.ask({"id": 1, **BATCH}, x=X)[1]["o:y"].tolist() == [3]


@pytest.mark.parametrize("cut", [2, 30, -3])
def test_who_sends_half_a_message_makes_nobody_else_wait_and_is_answered_when_the_rest_has_come(inside, cut):
    _, visit = inside
    slow, sound = visit(), visit()
    sound.ask({"id": 0, "load": ["sum", "1.0.0"]})
    message = frame({"id": 1, **BATCH}, {"x": X})
    slow.visitor.wire.sendall(message[:cut])
    assert sound.ask({"id": 1, **BATCH}, x=X)[1]["o:y"].tolist() == [3]
    slow.visitor.wire.sendall(message[cut:])
    assert slow.hear()[1]["o:y"].tolist() == [3]


def test_messages_that_arrive_together_are_answered_one_by_one(inside):
    _, visit = inside
    front, large = visit(), np.ones((20_000, 2), np.float32)
    front.ask({"id": 0, "load": ["sum", "1.0.0"]})
    batches = [frame({"id": i, **BATCH}, {"x": X + i}) for i in range(1, 6)]
    batches.insert(3, frame({"id": 6, **BATCH, "rows": [len(large)]}, {"x": large}))
    front.visitor.wire.sendall(b"".join(batches))
    answers = [front.hear() for _ in batches]
    assert [header["id"] for header, _ in answers] == [1, 2, 3, 6, 4, 5]
    assert [arrays["o:y"].sum() for _, arrays in answers] == [5, 7, 9, 40_000, 11, 13]


def test_a_front_that_does_not_read_holds_up_nobody_and_finds_all_its_replies_when_it_does(inside):
    _, visit = inside
    stopped, sound, large = visit(), visit(), np.ones((100_000, 2), np.float32)  # more than a socket's buffer
    sound.ask({"id": 0, "load": ["sum", "1.0.0"]})
    for i in range(1, 4):
        stopped.say({"id": i, **BATCH, "rows": [len(large)]}, x=large * i)
        assert select.select([stopped.visitor.wire], [], [], 20)[0]  # it is being answered
        assert sound.ask({"id": i, **BATCH}, x=X)[1]["o:y"].tolist() == [3]
    assert [stopped.hear()[1]["o:y"].sum() for _ in range(3)] == [200_000, 400_000, 600_000]
    assert stopped.ask({"id": 4, **BATCH}, x=X)[1]["o:y"].tolist() == [3]
    gone = visit()
    gone.say({"id": 5, **BATCH, "rows": [len(large)]}, x=large)
    assert select.select([gone.visitor.wire], [], [], 20)[0]
    gone.visitor.wire.close()  # with half of its reply unread
    assert sound.ask({"id": 6, **BATCH}, x=X)[1]["o:y"].tolist() == [3]
