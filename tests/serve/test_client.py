import contextlib
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from seatrial.base.journal import Journal
from seatrial.serve.client import Client, Visit, replay
from seatrial.serve.protocol import Refused


class Busy(BaseHTTPRequestHandler):
    "Says that it is busy, names a date, and hangs up."

    def do_POST(self):
        self.send_response(503)
        self.send_header("Retry-After", formatdate(0, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def busy():
    "The URL of a server that is always busy."
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_date_to_come_back_at_is_understood(busy):
    with Client(busy) as client, pytest.raises(Refused) as refusal:
        client.outcome("id", "total", 1.0)
    assert refusal.value.status == 503 and refusal.value.retry_after_s == 0


def test_a_client_keeps_one_connection_however_often_it_must_connect(busy):
    with Client(busy, retries=0) as client:
        for _ in range(5):
            with contextlib.suppress(Refused):
                client.outcome("id", "total", 1.0)
            client.local.wire.sock and client.local.wire.sock.close()
        assert len(client.wires) == 1
        client.close()
        with contextlib.suppress(Refused):
            client.outcome("id", "total", 1.0)
        assert len(client.wires) == 1


def test_an_outcome_that_is_no_number_loses_no_other(sea):
    running, its = sea
    truths = [1.0, float("nan"), 2.0, None, 3.0]
    seen = replay(running.url, "sum", [Visit({"x": [1.0, 2.0]}, "u", "", y) for y in truths], outcome="bulk")
    with contextlib.closing(Journal.open(its)) as journal:
        assert sorted(v for v in journal.scored("bulk")["outcome"].to_pylist() if v is not None) == [1.0, 2.0, 3.0]
    assert seen.outcomes == 3 and not seen.errors
