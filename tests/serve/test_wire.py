import itertools
import json
import os
import signal
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seatrial.serve.server import is_ready, launch
from tests.serve.harbour import settings_for, shelve, until, worker_of


def body(x, **more):
    tensor = {"name": "x", "shape": [len(x), len(x[0])], "datatype": "FP32", "data": x}
    return json.dumps({"inputs": [tensor], **more}).encode()


def request(content, path="/v2/models/sum/infer", method="POST", *lines, version="1.1"):
    head = [f"{method} {path} HTTP/{version}", "Host: x", *lines, f"Content-Length: {len(content)}", "", ""]
    return "\r\n".join(head).encode() + content


class Caller:
    "One raw connection."

    def __init__(self, url):
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.stream = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def answer(self, head=False):
        "Status, headers and body of the next response; None at the end of the stream."
        first = self.stream.readline()
        if not first:
            return None
        lines = [line.decode().lower().rstrip("\r\n").partition(": ") for line in iter(self.stream.readline, b"\r\n")]
        headers = {name: value for name, _, value in lines}
        return int(first.split()[1]), headers, b"" if head else self.stream.read(int(headers.get("content-length", 0)))


def value(answer):
    return json.loads(answer[2])["outputs"][0]["data"]


def test_many_requests_on_one_connection_are_answered_in_order(sea):
    with Caller(sea[0].url) as caller:
        for i in range(50):
            caller.socket.sendall(request(body([[i, 1]])))
            assert value(caller.answer()) == [i + 1]


def test_requests_sent_before_the_last_answer_are_answered_in_order(sea):
    asked = [request(body([[i, 0]], id=f"pipe{i}")) for i in range(30)]
    asked[7] = request(b"{")
    asked[11] = request(b"", "/v2/models/sum", "GET")
    with Caller(sea[0].url) as caller:
        caller.socket.sendall(b"".join(asked))
        answers = [caller.answer() for _ in asked]
    assert [a[0] for a in answers] == [400 if i == 7 else 200 for i in range(30)]
    assert all(value(a) == [i] for i, a in enumerate(answers) if i not in (7, 11))


def test_many_large_requests_sent_at_once_are_all_answered(sea):
    rows = [[[i, j] for j in range(600)] for i in range(40)]  # every read holds the end of one and the head of the next
    with Caller(sea[0].url) as caller:
        sender = threading.Thread(target=caller.socket.sendall, args=(b"".join(request(body(x)) for x in rows),))
        sender.start()
        assert [value(caller.answer())[1] for _ in rows] == [i + 1 for i in range(40)]
        sender.join()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 400), max_size=6), st.integers(1, 4))
def test_a_request_gets_its_answer_however_the_stream_is_cut(sea, cuts, n):
    stream = b"".join(request(body([[i, 2]])) for i in range(n))
    edges = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    with Caller(sea[0].url) as caller:
        caller.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise(edges):
            caller.socket.sendall(stream[start:end])
        assert [value(caller.answer()) for _ in range(n)] == [[i + 2] for i in range(n)]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(body([[1, 2]]), version="1.0"), 200),
        (request(body([[1, 2]]), "/v2/models/sum/infer?x=1"), 200),
        (request(body([[1, 2]]), "/v2/models/s%75m/infer"), 200),
        (request(body([[1, 2]]), "/v2/models/sum/infer", "POST", "Connection: close"), 200),
        (request(b"", "/v2/models/sum/infer", "GET"), 405),
        (request(b"", "/v2/models/sum/infer", "HEAD"), 405),
        (request(body([[1, 2]]), "/v2/models/sum/infer", "POST", "Content-Encoding: br"), 415),
        (request(body([[1, 2]]), "/v2/models/nothing/infer"), 404),
        (request(body([[1, 2, 3]])), 400),
        (b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    ],
)
def test_both_ways_know_the_same_statuses(sea, asked, status):
    with Caller(sea[0].url) as caller:
        caller.socket.sendall(asked)
        code, headers, said = caller.answer(head=b"HEAD" in asked[:5])
        assert code == status and (code != 200 or value((code, headers, said)) == [3])
        if b"close" in asked or b"HTTP/1.0" in asked:
            assert headers["connection"] == "close" and caller.answer() is None


NONSENSE = {
    "no HTTP": (b"NONSENSE\r\n\r\n", 400),
    "no number": (b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
    "a broken chunk": (b"POST /v2/models/sum/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "no end": (b"POST /v2/models/sum/infer HTTP/1.1\r\nx: " + b"a" * 90_000, 431),
}


@pytest.mark.parametrize(("wrong", "status"), NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("before", [0, 1, 2, 200])
def test_what_was_accepted_before_nonsense_is_answered_before_it(sea, before, wrong, status):
    with Caller(sea[0].url) as caller:
        caller.socket.sendall(b"".join(request(body([[i, 1]])) for i in range(before)) + wrong)
        assert [value(caller.answer()) for _ in range(before)] == [[i + 1] for i in range(before)]
        code, headers, said = caller.answer()
        assert (code, headers["connection"]) == (status, "close") and json.loads(said)["error"]
        assert caller.answer() is None


def test_who_waits_in_our_line_is_not_called_slow(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_SERVE_TIMEOUT_S="1")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Caller(running.url) as caller:
        until(lambda: is_ready(running.url))
        last = request(body([[3, 4]]))
        os.kill(worker_of(running), signal.SIGSTOP)
        caller.socket.sendall(request(body([[1, 2]])) + request(body([[2, 3]])) + last[:20])  # its head has begun
        assert caller.answer()[0] == 504  # a second has passed, in which nobody read
        caller.socket.sendall(last[20:])
        os.kill(worker_of(running), signal.SIGCONT)
        assert caller.answer()[0] in (200, 504)
        assert value(caller.answer()) == [7]


def test_thousands_of_requests_sent_at_once_are_answered_in_order(sea):
    with Caller(sea[0].url) as caller:
        sent = b"".join(request(body([[i, 1]], id=f"{i}")) for i in range(4_000))
        sender = threading.Thread(target=caller.socket.sendall, args=(sent,))
        sender.start()
        assert [json.loads(caller.answer()[2])["id"] for _ in range(4_000)] == [f"{i}" for i in range(4_000)]
        sender.join()


def test_a_large_body_between_requests_sent_at_once_arrives_whole(sea):
    many = [[k, 1] for k in range(40_000)]
    with Caller(sea[0].url) as caller:
        asked = [request(body([[1, 1]])), request(body(many)), request(body([[2, 1]]))]
        sender = threading.Thread(target=caller.socket.sendall, args=(b"".join(asked * 3),))
        sender.start()
        for _ in range(3):
            assert value(caller.answer()) == [2]
            assert caller.answer()[0] == 413  # more rows than may wait
            assert value(caller.answer()) == [3]
        sender.join()


def test_a_body_in_chunks_is_a_body(sea):
    content = body([[1, 2]])
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (content[:9], content[9:])) + b"0\r\n\r\n"
    head = b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Caller(sea[0].url) as caller:
        for _ in range(2):
            caller.socket.sendall(head + pieces)
            assert value(caller.answer()) == [3]


def test_who_asks_for_leave_to_send_gets_it(sea):
    content = body([[1, 2]])
    with Caller(sea[0].url) as caller:
        asked = request(content, "/v2/models/sum/infer", "POST", "Expect: 100-continue")
        caller.socket.sendall(asked[: -len(content)])
        assert caller.answer()[0] == 100
        caller.socket.sendall(content)
        assert value(caller.answer()) == [3]


def test_a_response_says_when_and_what_it_is_on_both_ways(sea):
    with Caller(sea[0].url) as caller:
        caller.socket.sendall(request(body([[1, 2]])))
        quick = caller.answer()[1]
        caller.socket.sendall(request(body([[1, 2]]), "/v2/models/sum/infer?x=1"))
        assert quick.keys() == caller.answer()[1].keys() == {"date", "content-type", "content-length"}


def test_what_was_accepted_is_answered_before_the_server_goes(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    with launch(settings=settings_for(tmp_path), port=0, log=tmp_path / "log") as running, Caller(running.url) as one:
        one.socket.sendall(request(body([[1, 2]])))
        assert value(one.answer()) == [3]
        worker = worker_of(running)
        os.kill(worker, signal.SIGSTOP)
        one.socket.sendall(request(body([[3, 4]])))
        with Caller(running.url) as other:  # whoever is answered now was read later
            other.socket.sendall(request(b"", "/v2/health/live", "GET"))
            assert other.answer()[0] == 200
        half, rest = request(body([[5, 6]]))[:-9], request(body([[5, 6]]))[-9:]
        with Caller(running.url) as late, Caller(running.url) as other:
            late.socket.sendall(half)
            other.socket.sendall(request(b"", "/v2/health/live", "GET"))
            assert other.answer()[0] == 200
            running.process.terminate()
            threading.Timer(0.5, os.kill, (worker, signal.SIGCONT)).start()
            code, headers, said = one.answer()
            assert (code, value((code, headers, said)), headers["connection"]) == (200, [7], "close")
            assert one.answer() is None
            late.socket.sendall(rest)
            assert value(late.answer()) == [11] and late.answer() is None
        until(lambda: running.process.poll() is not None)


def test_a_connection_that_is_idle_for_long_stays_and_one_that_is_lost_is_forgotten(sea):
    with Caller(sea[0].url) as idle:
        idle.socket.sendall(request(body([[1, 2]])))
        assert value(idle.answer()) == [3]
        for _ in range(20):
            with Caller(sea[0].url) as brief:
                brief.socket.sendall(request(body([[1, 2]], id="left")))
        idle.socket.sendall(request(body([[5, 2]])))
        assert value(idle.answer()) == [7]


def test_what_is_not_http_is_refused_in_a_sentence_for_programs(sea):
    with Caller(sea[0].url) as caller:
        caller.socket.sendall(b"GARBAGE\r\n\r\n")
        code, headers, said = caller.answer()
        assert code == 400 and "HTTP" in json.loads(said)["error"] and headers["connection"] == "close"
        assert caller.answer() is None


@pytest.mark.parametrize("line", [b"x: " + b"a" * 70_000, b"a: b\r\n" * 12_000], ids=["one header", "many"])
def test_headers_without_an_end_are_refused(sea, line):
    with Caller(sea[0].url) as caller:
        caller.socket.sendall(b"POST /v2/models/sum/infer HTTP/1.1\r\n" + line)
        code, _, said = caller.answer()
        assert code == 431 and "65536 bytes" in json.loads(said)["error"]


def test_who_does_not_finish_a_request_is_not_waited_for_and_who_finishes_slowly_is(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_SERVE_TIMEOUT_S="0.5")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Caller(running.url) as used:
        until(lambda: is_ready(running.url))
        used.socket.sendall(request(body([[1, 2]])))
        used.answer()
        with Caller(running.url) as silent, Caller(running.url) as slow, Caller(running.url) as half:
            slow.socket.sendall(b"POST /v2/models/sum/infer HTTP/1.1\r\nHost")
            half.socket.sendall(request(body([[1, 2]]))[:-5])
            assert slow.answer()[0] == half.answer()[0] == 408
            assert silent.answer() is None and slow.answer() is None
        used.socket.sendall(request(body([[1, 2]])))
        assert value(used.answer()) == [3]
