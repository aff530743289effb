"Traffic arrives when its course says, is measured from its plan, and a search finds a ceiling that is there."

import asyncio
import contextlib
import math
import os
import threading

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.client.ceiling import find_rate, search
from seatrial.client.load import load, percentile
from seatrial.client.replay import Summary, replay
from seatrial.client.traffic import Stretch, Visit, arrivals, course, made_up

SPEC = {"name": "toy", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}


class Shore:
    "Answers one after the other, at once or as `mood` says: a status, seconds to stall, a body, or None to hang up."

    def __init__(self):
        self.loop, self.mood, self.ids, self.outcomes = asyncio.new_event_loop(), lambda number: 200, [], []
        self.turn = asyncio.Lock()

    async def speak(self, reader, writer):
        try:
            while line := await reader.readline():
                size = 0
                while (header := await reader.readline()) != b"\r\n":
                    name, _, value = header.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                content = await reader.readexactly(size)
                status, said = 200, SPEC
                if b"outcomes" in line:
                    self.outcomes += orjson.loads(content)
                    said = {"accepted": 1}
                elif line.startswith(b"POST"):
                    id = orjson.loads(content)["id"]
                    async with self.turn:
                        self.ids.append(id)
                        status = self.mood(len(self.ids))
                        if isinstance(status, float):
                            await asyncio.sleep(status)
                            status = 200
                    said = {"model_name": "toy", "model_version": "1", "id": id, "outputs": []}
                if status is None:
                    break
                body = orjson.dumps(said if status == 200 else {"error": "not now"})
                if isinstance(status, bytes):
                    status, body = 200, status
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        writer.close()

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


@pytest.fixture
def shore():
    "A server without a model."
    its = Shore()
    server = its.loop.run_until_complete(asyncio.start_server(its.speak, "127.0.0.1", 0))
    its.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=its.run)
    thread.start()
    yield its

    async def end():
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), its.loop).result(10)
    its.loop.call_soon_threadsafe(its.loop.stop)
    thread.join()
    its.loop.close()


rates = st.floats(0, 500)
stretches = st.lists(st.builds(Stretch, st.floats(0.1, 5), rates, rates.map(lambda r: r + 1)), min_size=1, max_size=4)


@given(stretches, st.one_of(st.none(), st.integers(0, 99)))
def test_moments_rise_and_stay_within_their_course(parts, seed):
    came = list(arrivals(parts, None if seed is None else np.random.default_rng(seed)))
    assert came == sorted(came)
    assert not came or (came[0] >= 0 and came[-1] <= sum(p.seconds for p in parts) + 1e-6)
    expected = sum(part.expected for part in parts)
    if seed is None:
        assert abs(len(came) - expected) <= 1
    else:
        assert abs(len(came) - expected) <= 6 * math.sqrt(expected) + 6


@given(stretches)
def test_an_even_course_has_as_many_requests_in_each_part_as_it_says(parts):
    came, begin = np.array(list(arrivals(parts))), 0.0
    for part in parts:
        inside = ((came >= begin - 1e-9) & (came < begin + part.seconds - 1e-9)).sum()
        assert abs(inside - part.expected) <= 2
        begin += part.seconds


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "10:0", "10:-1", "1-2-3", "nan", "10:nan"])
def test_a_course_that_makes_no_sense_is_refused_with_its_text(text):
    with pytest.raises(ValueError, match="rate must be like"):
        course(text, 10)


def test_made_up_rows_fit_every_datatype():
    kinds = ["BOOL", "INT8", "UINT64", "FP16", "FP64", "BYTES"]
    specs = [{"name": kind, "datatype": kind, "shape": [-1, 3]} for kind in kinds]
    assert {value.shape for value in made_up(specs, np.random.default_rng(0), rows=4).values()} == {(4, 3)}


@given(st.integers(0, 300), st.integers(0, 30), st.floats(0.01, 0.99))
def test_a_percentile_lies_within_its_interval_and_counts_who_got_nothing(n, lost, share):
    seen = Summary(sent=n + lost)
    values = np.random.default_rng(n).exponential(size=n)
    seen.latencies_s.extend(values)
    seen.planned_s.extend(range(n))
    found = percentile(seen, share)
    if n + lost == 0:
        assert math.isnan(found.ms)
        return
    assert found.lower_ms <= found.ms <= found.upper_ms
    assert math.isinf(found.ms) == (int((n + lost) * share) >= n)


def test_every_request_is_sent_once_and_refusals_are_results(shore):
    shore.mood = lambda number: 429 if number % 10 == 0 else 200
    seen = load(shore.url, "toy", [Stretch(0.5, 400, 400)], even=True, connections=8)
    assert seen.sent == 200 == len(set(shore.ids)) and seen.errors == {"429 not now": 20}
    assert len(seen.latencies_s) == len(seen.planned_s) == 180
    assert percentile(seen, 0.5).ms < math.inf == percentile(seen, 0.95).ms


def test_a_server_that_hangs_up_is_counted_and_not_asked_twice_too_often(shore):
    shore.mood = lambda number: None if number > 50 else 200
    seen = load(shore.url, "toy", requests=60, connections=1)
    assert seen.sent == 60 and sum(seen.answered.values()) == 50 and sum(seen.errors.values()) == 10


def test_time_and_number_end_a_load(shore):
    assert load(shore.url, "toy", requests=7).sent == 7
    assert load(shore.url, "toy", seconds=0.1, connections=2).sent > 0


def test_outcomes_of_answers_only_come_back_and_finite_ones_only(shore):
    shore.mood = lambda number: 500 if number == 2 else 200
    visits = [Visit({"x": [k, k]}, "u", outcome=y) for k, y in enumerate((1.0, 2.0, float("inf"), None, 3.0))]
    seen = replay(shore.url, "toy", visits, concurrency=1)
    assert sorted(entry["value"] for entry in shore.outcomes) == [1.0, 3.0] and seen.outcomes == 2


def test_an_unknown_model_is_refused_before_anything_is_sent(shore):
    shore.loop.call_soon_threadsafe(lambda: None)
    with pytest.raises(ValueError, match="inputs must be x"):
        replay(shore.url, "toy", [Visit({"z": 1})])
    assert not shore.ids


@given(ceiling=st.floats(12, 900), seed=st.integers(0, 9))
def test_a_search_with_honest_probes_ends_at_the_ceiling(ceiling, seed):
    found = search(lambda rate: rate <= ceiling, 10, 1000, precision=0.05, most=200)
    assert found.lower / 1.06 <= ceiling <= found.upper * 1.06
    assert found.upper <= found.lower * 1.06


def test_a_search_forgives_wrong_answers():
    rng = np.random.default_rng(0)
    found = [
        search(lambda rate: (rate <= 100) == (rng.random() < 0.9), 10, 1000, precision=0.1, most=200)
        for _ in range(100)
    ]
    assert np.mean([c.lower <= 100 <= c.upper for c in found]) > 0.75


def test_a_limit_that_no_rate_keeps_ends_at_the_bottom(shore):
    with pytest.raises(ValueError, match="limit_ms=-1"):
        find_rate(shore.url, "toy", -1)
    found = find_rate(shore.url, "toy", 1e-6, share=0.5, seconds=0.05, most=4, connections=2)
    assert not any(kept for _, kept in found.probes)


def test_a_server_that_answers_nothing_has_no_ceiling(shore):
    shore.mood = lambda number: 503
    with pytest.raises(CannotDo, match="503 not now"):
        find_rate(shore.url, "toy", 5.0, seconds=0.05, connections=2)


def test_a_stall_is_seen_by_everybody_who_was_due_during_it(shore):
    shore.mood = lambda number: 0.5 if number == 51 else 200
    seen = load(shore.url, "toy", [Stretch(1, 200, 200)], even=True, connections=4)
    latencies = np.array(seen.latencies_s)[np.argsort(seen.planned_s)]
    truth = np.array([0.5 - (k - 50) / 200 if k >= 50 else 0.0 for k in range(200)]).clip(0)
    assert len(latencies) == 200 and (latencies >= truth - 0.002).all()
    assert percentile(seen, 0.99).ms >= 1e3 * np.sort(truth)[198] - 2


def test_nobody_is_waited_for_longer_than_a_user_would_wait(shore):
    shore.mood = lambda number: 60.0
    seen = load(shore.url, "toy", [Stretch(0.5, 200, 200)], even=True, connections=2, timeout_s=0.3)
    assert seen.sent == 100 == seen.errors.total() and not seen.latencies_s
    assert set(seen.errors) <= {"timed out after 0.3 s", "timed out before a connection was free"}
    assert seen.seconds < 100 * 0.3 / 2 and math.isinf(percentile(seen, 0.5).ms)


def test_a_connection_that_breaks_is_an_error_and_never_hidden_by_a_second_try(shore):
    shore.mood = lambda number: None if number % 10 == 0 else 200
    seen = load(shore.url, "toy", [Stretch(0.5, 400, 400)], even=True, connections=8)
    assert len(shore.ids) == len(set(shore.ids)) == seen.sent == 200
    assert seen.errors == {"the server hung up": 20}


def test_answers_that_are_no_predictions_are_counted_and_end_nothing(shore):
    said = [b"<html>", b"", b"[]", b"null", b"{}", b'{"parameters": 1}']
    shore.mood = lambda number: said[number % len(said)]
    seen = load(shore.url, "toy", requests=60, connections=3)
    assert seen.sent == 60 == seen.errors.total() and not seen.answered
    assert all("no prediction" in what for what in seen.errors)


def test_a_program_with_many_open_files_can_still_drive_load(shore):
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        assert load(shore.url, "toy", requests=20, connections=4).sent == 20
