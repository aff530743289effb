"Clients against servers that are busy, slow, terse or gone; the rules of their patience for any course of events."

import asyncio
import contextlib
import gzip
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.base.settings import CannotDo
from seatrial.client.asynchronous import AsyncClient
from seatrial.client.blocking import Client
from seatrial.client.patience import Budget, Patience, Reply, persist
from seatrial.client.question import Terms, arrays, body, read
from seatrial.client.replay import replay
from seatrial.client.traffic import Visit
from seatrial.engine.bundle import DATATYPES
from seatrial.serve import binary
from seatrial.serve.protocol import NAMES, Refused

SPEC = {"name": "sum", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}


class Server(BaseHTTPRequestHandler):
    "Sums rows in any form; `moods` says what happens to a request instead, `heard` keeps what was said."

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def say(self, status, content, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.say(200, orjson.dumps(SPEC))

    def do_POST(self):
        sea = self.server
        content = self.rfile.read(int(self.headers["Content-Length"]))
        sea.heard.append(dict(self.headers))
        mood = sea.moods.pop(0) if sea.moods else 200
        if mood == "hang up":
            self.close_connection = True
            return
        if mood != 200:
            return self.say(mood, orjson.dumps({"error": f"in the mood for {mood}"}), Retry_After=formatdate(0))
        if self.path == "/v1/outcomes":
            return self.say(200, orjson.dumps({"accepted": len(orjson.loads(content))}))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        length = self.headers.get("Inference-Header-Content-Length")
        asked = binary.asked(content, int(length) if length else None)
        sea.ids.append(asked.request.id)
        head = {"model_name": "sum", "model_version": "1.0.0", "id": asked.request.id}
        said, length = binary.answer(head, {"y": asked.request.tensors[0][2].sum(1)}, asked)
        headers = {"Inference_Header_Content_Length": length} if length else {}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            said, headers = gzip.compress(said), headers | {"Content_Encoding": "gzip"}
        self.say(200, said, **headers)

    def log_message(self, *_):
        pass


class Sea(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 64

    def __init__(self, door=("127.0.0.1", 0)):
        super().__init__(door, Server)
        self.moods, self.heard, self.ids, self.url = [], [], [], f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def toy():
    "A server that sums rows."
    with Sea() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_date_to_come_back_at_is_understood(toy):
    toy.moods = [503] * 9
    with Client(toy.url) as client, pytest.raises(Refused) as refusal:
        client.outcome("id", "total", 1.0)
    assert refusal.value.status == 503 and refusal.value.retry_after_s == 0


def test_a_client_keeps_one_connection_however_often_it_must_connect(toy):
    with Client(toy.url, retries=0) as client:
        for _ in range(5):
            client.outcome("id", "total", 1.0)
            [wire] = client.wires.idle
            wire.close()
        client.close()
        client.outcome("id", "total", 1.0)
        assert len(client.wires.idle) == 1


def test_processes_that_were_forked_never_read_each_others_answers(toy):
    code = """if True:
        import os, sys
        from seatrial import Client
        client = Client(sys.argv[1])
        ask = lambda k: client.predict("sum", {"x": [k, 1]}).outputs["y"][0]
        ask(0)
        children = [os.fork() for _ in range(2)]
        right = all(ask(k) == k + 1 for k in range(100))
        if 0 in children:
            os._exit(not right)
        sys.exit(not right or any(os.waitpid(child, 0)[1] for child in children))
        """
    done = subprocess.run([sys.executable, "-c", code, toy.url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_server_that_hangs_up_is_asked_again_with_the_same_id(toy):
    toy.moods = ["hang up", 503, 200]
    with Client(toy.url) as client:
        assert client.predict("sum", {"x": [1, 2]}, id="mine").outputs["y"].tolist() == [3]
    assert toy.ids == ["mine"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500, 502])
def test_what_would_be_wrong_again_is_not_asked_again(toy, status):
    toy.moods = [status, 200]
    with Client(toy.url) as client, pytest.raises(Refused, match=f"mood for {status}"):
        client.predict("sum", {"x": [1, 2]})
    assert toy.moods == [200]


def test_threads_share_a_client_and_each_gets_its_own_answer(toy):
    with Client(toy.url, connections=4) as client, ThreadPoolExecutor(8) as crew:
        found = crew.map(lambda k: client.predict("sum", {"x": [k, 1]}).outputs["y"][0], range(200))
        assert list(found) == [k + 1 for k in range(200)]
        assert len(client.wires.idle) <= 4


@pytest.mark.parametrize("how", [{}, {"binary": True}, {"binary": False}])
@pytest.mark.parametrize("compress", [False, True])
def test_both_clients_get_the_same_in_every_form(toy, how, compress):
    x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    with Client(toy.url, compress=compress) as client:
        ours = client.predict_many("sum", {"x": x}, rows_per_request=600, **how)

    async def asking():
        async with AsyncClient(toy.url, compress=compress) as client:
            return await client.predict_many("sum", {"x": x}, rows_per_request=600, **how)

    theirs = asyncio.run(asking())
    for answers in (ours, theirs):
        np.testing.assert_array_equal(answers.outputs["y"], x.sum(1))
        assert len(answers.parts) == 4
    large = [h for h in toy.heard if h["Content-Length"] != "0"]
    assert all(("Content-Encoding" in h) == compress for h in large)


def test_the_first_refusal_ends_many_rows(toy):
    toy.moods = [200, 400]
    with Client(toy.url) as client, pytest.raises(Refused):
        client.predict_many("sum", {"x": np.ones((500, 2))}, rows_per_request=1, at_once=2)
    assert len(toy.heard) < 500
    toy.heard.clear()
    toy.moods = [200, 400]

    async def asking():
        async with AsyncClient(toy.url) as client:
            await client.predict_many("sum", {"x": np.ones((500, 2))}, rows_per_request=1, at_once=2)

    with pytest.raises(Refused):
        asyncio.run(asking())
    assert len(toy.heard) < 500


def test_a_client_that_awaits_may_be_used_in_one_event_loop_after_the_other(toy):
    client = AsyncClient(toy.url)

    async def asking():
        async with client:
            answer = await client.predict("sum", {"x": [1, 2]})
            return answer.outputs["y"].tolist()

    assert asyncio.run(asking()) == asyncio.run(asking()) == [3]


def test_a_key_travels_and_never_shows(toy, monkeypatch):
    monkeypatch.setenv("SEATRIAL_KEY", "st_environment")
    for key, told in ((None, "st_environment"), ("st_argument", "st_argument")):
        with Client(toy.url, key=key) as client:
            client.outcome("id", "total", 1.0)
            assert told not in repr(client) + repr(client.place)
        assert toy.heard[-1]["Authorization"] == f"Bearer {told}"
    with pytest.raises(ValueError, match="key must be printable") as refused:
        Client(toy.url, key="st_x\r\nHost: evil")
    assert "evil" not in str(refused.value)


def test_whoever_does_not_wait_hangs_up():
    gone = []

    async def deaf(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(1)
        gone.append(True)
        writer.close()

    async def meeting():
        async with await asyncio.start_server(deaf, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with AsyncClient(url) as client:
                asking = asyncio.create_task(client.metadata("sum"))
                while not server.sockets or not client or asking.done():
                    await asyncio.sleep(0)
                await asyncio.sleep(0.05)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking
                while not gone:
                    await asyncio.sleep(0.01)
                with pytest.raises(CannotDo, match="timed out"):
                    await AsyncClient(url, timeout_s=0.05).metadata("sum")

    asyncio.run(asyncio.wait_for(meeting(), 10))


@given(
    share=st.floats(0, 1),
    burst=st.floats(0, 20),
    events=st.lists(st.booleans(), max_size=300),  # a call, or a wish to try again
)
def test_retries_are_never_more_than_the_budget(share, burst, events):
    budget, calls, retries = Budget(share, burst), 0, 0
    for call in events:
        if call:
            budget.earn()
            calls += 1
        else:
            retries += budget.spend()
    assert retries <= burst + share * calls + 1e-9


statuses = st.sampled_from([0, 200, 400, 429, 503, 504])
wishes = st.sampled_from(["", "0", "1", "30", "soon", formatdate(0)])


@given(
    replies=st.lists(st.tuples(statuses, wishes, st.floats(0, 3)), min_size=10, max_size=10),
    retries=st.integers(0, 5),
    timeout_s=st.floats(0.01, 20),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_call_ends_in_time_whatever_the_server_does(replies, retries, timeout_s, draw):
    now, sent, left, last = [0.0], [], iter(replies), None
    steps = persist(lambda s: s, Patience(retries, draw=lambda: draw, clock=lambda: now[0]), timeout_s)
    try:
        step = next(steps)
        while True:
            if len(sent) == steps.gi_frame.f_locals.get("retry"):  # a pause follows each request
                now[0] += step
                assert now[0] < timeout_s, "no pause goes beyond the deadline"
                step = steps.send(None)
                continue
            assert 0 < step <= timeout_s - now[0] + 1e-9
            status, wish, takes = next(left)
            sent.append(status)
            now[0] += min(takes, step)
            step = steps.send(Reply(status, {"retry-after": wish}, b""))
    except StopIteration as end:
        last = end.value.status
    assert last == sent[-1]
    assert 1 <= len(sent) <= retries + 1
    assert all(status in (0, 429, 503, 504) for status in sent[:-1])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(data=st.data(), datatype=st.sampled_from(sorted(DATATYPES)), raw=st.booleans(), rows=st.integers(1, 5))
def test_every_datatype_survives_both_forms_both_ways(data, datatype, raw, rows):
    kind = np.dtype(DATATYPES[datatype])
    if kind.kind == "O":
        values = data.draw(st.lists(texts, min_size=2 * rows, max_size=2 * rows))
    elif kind.kind == "b":
        values = data.draw(st.lists(st.booleans(), min_size=2 * rows, max_size=2 * rows))
    elif kind.kind == "f":
        width = kind.itemsize * 8
        values = data.draw(
            st.lists(
                st.floats(allow_nan=False, allow_infinity=False, width=width), min_size=2 * rows, max_size=2 * rows
            )
        )
    else:
        info = np.iinfo(kind)
        whole = st.integers(int(info.min), int(info.max))
        values = data.draw(st.lists(whole, min_size=2 * rows, max_size=2 * rows))
    array = np.array(values, dtype=kind).reshape(rows, 2)
    specs = [{"name": "x", "datatype": datatype, "shape": [-1, 2]}]
    content, length = body(Terms("id"), arrays({"x": array}, specs), specs, raw)
    asked = binary.asked(content, length)
    np.testing.assert_array_equal(asked.request.tensors[0][2], array)
    said, length = binary.answer({"model_name": "m", "model_version": "1", "id": "id"}, {"x": array}, asked)
    back = read(said, length).outputs["x"]
    np.testing.assert_array_equal(back, array)
    assert NAMES[back.dtype] == datatype


def test_an_outcome_that_is_no_number_loses_no_other(sea):
    running, its = sea
    truths = [1.0, float("nan"), 2.0, None, 3.0]
    seen = replay(running.url, "sum", [Visit({"x": [1.0, 2.0]}, "u", "", y) for y in truths], outcome="bulk")
    with contextlib.closing(Journal.open(its)) as journal:
        assert sorted(v for v in journal.scored("bulk")["outcome"].to_pylist() if v is not None) == [1.0, 2.0, 3.0]
    assert seen.outcomes == 3 and not seen.errors


def test_both_clients_speak_with_the_real_server(sea):
    running, _ = sea
    x = np.arange(400, dtype=np.float32).reshape(-1, 2)
    with Client(running.url) as client:
        ours = client.predict_many("sum", {"x": x}, "1.0.0", unit="reader")
        assert client.ready() and client.ready("sum") and not client.ready("absent")
        assert client.health()

    async def asking():
        async with AsyncClient(running.url) as client:
            return await client.predict_many("sum", {"x": x}, "1.0.0", unit="reader", at_once=16)

    for answers in (ours, asyncio.run(asking())):
        np.testing.assert_array_equal(answers.outputs["y"], x.sum(1))


def test_a_retry_of_what_reached_nobody_costs_no_token():
    now, budget = [0.0], Budget(burst=0)
    steps = persist(lambda s: s, Patience(9, budget=budget, draw=lambda: 0.5, clock=lambda: now[0]), 60)
    next(steps)
    for _ in range(5):
        assert steps.send(Reply(0, {}, b"Connection refused", asked=False)) > 0, "a pause"
        steps.send(None)
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(0, {}, b"the server hung up"))
    assert end.value.value.content == b"the server hung up"


def test_many_rows_outlive_a_server_that_is_away_for_a_while(toy):
    door = (toy.server_address[0], toy.server_port)
    toy.shutdown()
    toy.server_close()

    def come_back():
        with Sea(door) as again:
            thread = threading.Thread(target=again.serve_forever, args=(0.01,))
            thread.start()
            over.wait()
            again.shutdown()
            thread.join()

    over, back = threading.Event(), threading.Timer(0.3, come_back)
    back.start()
    try:
        with Client(toy.url, retries=50) as client:
            assert len(client.predict_many("sum", {"x": np.ones((500, 2))}, at_once=16)) == 500
    finally:
        over.set()
        back.join()


def test_a_client_that_is_used_in_passing_leaves_nothing_behind(toy):
    code = (
        "import sys; from seatrial import Client; print(Client(sys.argv[1]).predict('sum', {'x': [1, 2]}).outputs['y'])"
    )
    command = [sys.executable, "-W", "error", "-c", code, toy.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[3.]\n", "")
