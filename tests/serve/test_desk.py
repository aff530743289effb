"What connections share does not grow with what strangers write, and nobody is left out of what is counted and logged."

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seatrial.serve.guard import keys_path
from seatrial.serve.keys import add
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, answers_in, listener_of, settings_for, shelve, spelt, tensor, until

OFFERS = {
    "curl": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"],
    "websocket": ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
    "several": ["Connection: Upgrade", "Connection: keep-alive", "Upgrade: h2c, foo/2"],
}


def resident_mb(pid):
    "What a process holds now."
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def test_long_paths_are_not_remembered(sea):
    pid = listener_of(sea[0])
    with Speaker(sea[0].url) as speaker:
        before = resident_mb(pid)
        for i in range(1000):
            status, *_ = speaker.say(tensor([[1, 2]]), f"/v2/models/{'x' * 60_000}{i}/infer")
            assert status == 404
    assert resident_mb(pid) - before < 40


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("cut", [0, 1, 40, 150, 10_000])
def test_an_offer_of_another_protocol_is_ignored(sea, offer, cut):
    asked = spelt(tensor([[1, 2]]), headers=offer)
    with Speaker(sea[0].url) as speaker:
        for piece in (asked[:cut], asked[cut:]):
            speaker.socket.sendall(piece)
        status, _, said = speaker.answer()
        assert status == 200 and json.loads(said)["outputs"][0]["data"] == [3]
        assert speaker.say(tensor([[2, 2]]))[0] == 200  # and the connection goes on


def test_offers_in_a_row_are_answered_in_order(sea):
    asked = [spelt(tensor([[i, 0]]), headers=offer) for i, offer in enumerate([*OFFERS.values()] * 3)]
    with Speaker(sea[0].url) as speaker:
        speaker.socket.sendall(b"".join(asked) + spelt(path="/health", method="GET", headers=["Connection: close"]))
        said = answers_in(speaker.rest())
    assert [status for status, *_ in said] == [200] * 10
    assert [json.loads(body)["outputs"][0]["data"] for *_, body in said[:-1]] == [[float(i)] for i in range(9)]


def test_refusals_of_strangers_and_of_the_impatient_are_counted_on_both_ways(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_GUARD_RATE_PER_S="0.001", SEATRIAL_GUARD_RATE_BURST="5")
    key, watch = (add(keys_path(its), role, role) for role in ("predict", "observe"))
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        for path in ("/v2/models/sum/infer", "/v2/models/sum/infer?the=other"):
            assert speaker.say(tensor([[1, 2]]), path)[0] == 401
            assert speaker.say(tensor([[1, 2]]), "/v2/repository/index", headers=[f"X-Api-Key: {key}"])[0] == 403
            seen = [speaker.say(tensor([[1, 2]]), path, headers=[f"X-Api-Key: {key}"])[0] for _ in range(6)]
        assert seen == [429] * 6
        page = speaker.say(path="/metrics", method="GET", headers=[f"X-Api-Key: {watch}"])[2].decode()
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert told["seatrial_unauthorized_total", "401"] == told["seatrial_unauthorized_total", "403"] == 2
    assert told["seatrial_rate_limited_total", key[3:11]] == 7 and "127.0.0.1" not in page


def test_answers_out_of_the_cache_have_an_id_in_the_access_log(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    its = settings_for(tmp_path, SEATRIAL_GUARD_ACCESS_LOG="true", SEATRIAL_CACHE_SIZE_MB="1")
    with launch(settings=its, port=0, log=tmp_path / "log") as running, Speaker(running.url) as speaker:
        asked = [(f"r{i}", speaker.say(tensor([[1, 2]], id=f"r{i}"))[0]) for i in range(3)]
        asked.append(("r3", speaker.say(tensor([[1, 2, 3]], id="r3"))[0]))

        def lines():
            found = [json.loads(row) for file in (tmp_path / "logs").iterdir() for row in file.read_text().splitlines()]
            return [line for line in found if line["method"] == "POST"]

        until(lambda: len(lines()) == 4)
        assert [(line.get("id"), line["status"]) for line in lines()] == asked
        assert all(line["ms"] > 0 for line in lines()) and asked[3][1] == 400
