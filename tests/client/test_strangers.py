"What listens on a port may do anything: each client gets an answer of its own, or a sentence, in time."

import asyncio
import contextlib
import gzip
import socket
import threading
import time

import numpy as np
import orjson
import pytest

from seatrial.base.settings import CannotDo
from seatrial.client.asynchronous import AsyncClient
from seatrial.client.blocking import Client
from seatrial.serve.protocol import Refused

SPEC = {"name": "sum", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}


def spelt(body, *headers, status="200 OK"):
    "A response as it travels."
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answer(id, **changed):
    "A prediction as JSON."
    output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [3.0]} | changed
    return orjson.dumps({"model_name": "sum", "model_version": "1", "id": id, "outputs": [output]})


class Stranger:
    "Describes one model, and does with each request what `act(wire, number, id)` says: bytes to send, None to hang up."

    def __init__(self, act, spec=None):
        self.act, self.spec, self.ids, self.wires = act, spelt(orjson.dumps(SPEC)) if spec is None else spec, [], []
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in (self.door, *self.wires):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                wire, _ = self.door.accept()
                self.wires.append(wire)
                threading.Thread(target=self.listen, args=(wire,), daemon=True).start()

    def listen(self, wire):
        with contextlib.suppress(OSError, ValueError), wire, wire.makefile("rb") as stream:
            while line := stream.readline():
                size = 0
                while (header := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = header.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                content = stream.read(size)
                if line.startswith(b"GET"):
                    wire.sendall(self.spec)
                    continue
                self.ids.append(orjson.loads(content)["id"])
                said = self.act(wire, len(self.ids), self.ids[-1])
                if said is None:
                    return
                wire.sendall(said)


class Blocking:
    "The client that blocks."

    def __init__(self, url, **options):
        self.client = Client(url, **options)

    def __getattr__(self, word):
        return getattr(self.client, word)


class Awaiting:
    "The client that awaits, in an event loop of its own."

    def __init__(self, url, **options):
        self.client, self.loop = AsyncClient(url, **options), asyncio.new_event_loop()

    def __getattr__(self, word):
        return lambda *args, **how: self.loop.run_until_complete(getattr(self.client, word)(*args, **how))

    def close(self):
        self.loop.run_until_complete(self.client.close())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(params=[Blocking, Awaiting])
def meet(request):
    "Makes a client that meets a stranger: (client, stranger)."
    with contextlib.ExitStack() as stack:

        def meeting(act, spec=None, **options):
            stranger = stack.enter_context(Stranger(act, spec))
            return stack.enter_context(contextlib.closing(request.param(stranger.url, **options))), stranger

        yield meeting


def drip(wire, number, id):
    "A good answer, a byte now and then."
    for byte in spelt(answer(id)):
        wire.sendall(bytes([byte]))
        time.sleep(0.02)
    return b""


def endless(wire, number, id):
    "Headers without end."
    wire.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        wire.sendall(b"x: y\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize("act", [drip, endless, lambda wire, number, id: b""], ids=["drips", "endless", "silent"])
def test_a_deadline_holds_for_the_whole_answer_and_not_for_each_byte_of_it(meet, act):
    client, stranger = meet(act)
    with pytest.raises(CannotDo, match=r"timed out after 0\.\d+ s"):
        client.predict("sum", {"x": [1, 2]}, timeout_s=0.2)
    assert len(stranger.ids) == 1


def test_a_deadline_covers_the_metadata_that_a_first_call_asks_for(meet):
    client, stranger = meet(lambda wire, number, id: spelt(answer(id)), spec=b"")
    with pytest.raises(CannotDo, match=r"timed out after 0\.\d+ s"):
        client.predict("sum", {"x": [1, 2]}, timeout_s=0.2)
    assert not stranger.ids


NONSENSE = {
    "html": b"<html>log in</html>",
    "nothing": b"",
    "a list": b"[1]",
    "null": b"null",
    "no outputs": b'{"model_name": "sum"}',
    "outputs of text": b'{"model_name": "sum", "outputs": "y"}',
    "an unknown datatype": answer("", datatype="BF16"),
    "fewer values than it says": answer("", shape=[2]),
    "no shape": answer("", shape=None),
    "a shape to be guessed": answer("", shape=[-1]),
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_what_is_no_prediction_is_refused_in_a_sentence(meet, body):
    client, _ = meet(lambda wire, number, id: spelt(body))
    with pytest.raises(Refused, match="the server's answer is no prediction") as refusal:
        client.predict("sum", {"x": [1, 2]})
    assert refusal.value.status == 502


@pytest.mark.parametrize("length", ["x", "-3", "3", "1e3"])
def test_a_length_that_is_none_is_refused_in_a_sentence(meet, length):
    client, _ = meet(lambda wire, number, id: spelt(answer(id), f"Inference-Header-Content-Length: {length}"))
    with pytest.raises(Refused, match="is no prediction"):
        client.predict("sum", {"x": [1, 2]})


ODD = [b"{}", b"<html>", b"[]", b'{"inputs": null}', b'{"inputs": [{"name": "x"}]}', b'{"inputs": [{}]}']
ODD += [orjson.dumps({"inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]}), b'{"inputs": [], "outputs": 1}']


@pytest.mark.parametrize("said", ODD)
def test_a_model_that_is_described_wrongly_is_refused_in_a_sentence(meet, said):
    client, stranger = meet(lambda wire, number, id: spelt(answer(id)), spec=spelt(said))
    with pytest.raises(Refused, match=r"the server('s answer| describes)"):
        client.predict("sum", {"x": [1, 2]})
    assert not stranger.ids


def test_the_answer_to_another_question_is_never_taken_for_ones_own(meet):
    client, _ = meet(lambda wire, number, id: spelt(answer("other")))
    with pytest.raises(Refused, match="is that of request 'other', and 'mine' was asked"):
        client.predict("sum", {"x": [1, 2]}, id="mine")


@pytest.mark.parametrize("noise", [b"noise", spelt(answer("other")), spelt(answer("other"))[:20]])
def test_what_follows_an_answer_is_not_taken_for_the_next_one(meet, noise):
    client, _ = meet(lambda wire, number, id: spelt(answer(id)) + noise)
    assert [client.predict("sum", {"x": [1, 2]}).outputs["y"].tolist() for _ in range(3)] == [[3.0]] * 3


def test_a_refusal_is_read_whatever_it_is_packed_in(meet):
    packed = gzip.compress(b'{"error": "not today"}')
    client, _ = meet(lambda wire, number, id: spelt(packed, "Content-Encoding: gzip", status="400 Bad"), compress=True)
    with pytest.raises(Refused, match="not today"):
        client.predict("sum", {"x": [1, 2]})


def test_a_refusal_without_a_word_has_at_least_its_status(meet):
    client, _ = meet(lambda wire, number, id: spelt(b"", "Location: /", status="302 Found"))
    with pytest.raises(Refused, match="status 302"):
        client.predict("sum", {"x": [1, 2]})


@pytest.mark.parametrize("coding", ["br", "GZIP", "gzip"])
def test_an_encoding_that_is_not_what_it_says_is_refused(meet, coding):
    client, _ = meet(lambda wire, number, id: spelt(answer(id), f"Content-Encoding: {coding}"))
    with pytest.raises(Refused, match=r"(packed as br|not (GZIP|gzip) as it says)"):
        client.predict("sum", {"x": [1, 2]})


def test_an_answer_without_a_length_ends_with_its_connection(meet):
    def say(wire, number, id):
        wire.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + answer(id))

    client, _ = meet(say)
    assert [client.predict("sum", {"x": [1, 2]}).outputs["y"].tolist() for _ in range(3)] == [[3.0]] * 3


@pytest.mark.parametrize(
    "said", [b"220 mail ESMTP\r\n", b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"]
)
def test_what_is_no_http_is_said_to_be_so(meet, said):
    client, _ = meet(lambda wire, number, id: said, retries=0)
    with pytest.raises(CannotDo, match="does not speak HTTP"):
        client.predict("sum", {"x": [1, 2]})


def test_a_server_that_was_restarted_between_two_calls_is_asked_once_for_each(meet):
    def once(wire, number, id):
        wire.sendall(spelt(answer(id)))  # and hangs up, without having said so

    client, stranger = meet(once, retries=0)
    for number in range(5):
        assert client.predict("sum", {"x": [1, 2]}, id=f"{number}").outputs["y"].tolist() == [3.0]
        time.sleep(0.01)
    assert stranger.ids == [*"01234"]


def test_an_answer_that_breaks_off_is_asked_for_again_within_the_budget_only(meet):
    def cut(wire, number, id):
        wire.sendall(spelt(answer(id))[: -5 if number % 2 else None])
        return None if number % 2 else b""

    client, stranger = meet(cut)
    assert client.predict("sum", {"x": [1, 2]}, id="mine").outputs["y"].tolist() == [3.0]
    assert stranger.ids == ["mine", "mine"]
    client, stranger = meet(cut, retries=0)
    with pytest.raises(CannotDo, match="hung up within its answer"):
        client.predict("sum", {"x": [1, 2]})
    assert len(stranger.ids) == 1


def test_a_large_request_that_is_refused_before_it_is_read_is_told_why():
    def refuse(door):
        wire, _ = door.accept()
        with wire:
            wire.recv(1000)
            wire.sendall(spelt(orjson.dumps(SPEC)))
            wire.recv(1000)
            wire.sendall(spelt(b'{"error": "at most 16 MB"}', "Connection: close", status="413 X"))
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(1 << 20):
                pass

    for kind in (Blocking, Awaiting):
        with socket.create_server(("127.0.0.1", 0)) as door:
            threading.Thread(target=refuse, args=(door,), daemon=True).start()
            client = kind(f"http://127.0.0.1:{door.getsockname()[1]}")
            with contextlib.closing(client), pytest.raises(Refused, match="at most 16 MB"):
                client.predict("sum", {"x": np.zeros((2_000_000, 2), np.float32)})


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_json_has_no_word_for_travel_as_bytes_or_not_at_all(meet, value):
    client, stranger = meet(lambda wire, number, id: spelt(answer(id)))
    with pytest.raises(ValueError, match="JSON has no word for"):
        client.predict("sum", {"x": [value, 1]}, binary=False)
    assert not stranger.ids


def test_many_rows_need_somebody_to_ask_for_them(meet):
    client, stranger = meet(lambda wire, number, id: spelt(answer(id)))
    with pytest.raises(ValueError, match="at_once must be at least 1, got 0"):
        client.predict_many("sum", {"x": [[1, 2]]}, at_once=0)
    assert len(client.predict_many("sum", {"x": []})) == 0 and client.predict_many("sum", []).outputs == {}
    assert not stranger.ids


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_deadline_is_a_number_of_seconds_that_will_pass(meet, timeout_s):
    client, stranger = meet(lambda wire, number, id: spelt(answer(id)))
    with pytest.raises(ValueError, match="timeout_s must be above 0 and finite"):
        client.predict("sum", {"x": [1, 2]}, timeout_s=timeout_s)
    with pytest.raises(ValueError, match="timeout_s must be above 0 and finite"):
        Client(stranger.url, timeout_s=timeout_s)


@pytest.mark.parametrize("url", ["sea:8000", "ftp://sea", "http://", "http://sea:x", "http://a:b@sea", "http://sea?x"])
def test_an_address_that_is_none_is_refused_before_anything_is_looked_up(url):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="url must be like"):
            kind(url)
