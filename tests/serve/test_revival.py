"A worker that was given up: everybody is told that it stays down and why, until an operator has a model loaded."

import asyncio
import logging
import multiprocessing
import os
import socket
import time
from functools import partial

import pytest

from seatrial.serve.answers import loading, unloading
from seatrial.serve.berth import Worker, doors, serve_lane
from seatrial.serve.call import understood
from seatrial.serve.front import Front, staffed
from seatrial.serve.inquest import Rules, standings
from seatrial.serve.keeper import Keeper, keep
from seatrial.serve.lane import ask
from seatrial.serve.office import loaded
from seatrial.serve.pool import Terms
from seatrial.serve.protocol import Refused
from seatrial.serve.reception import healthy
from tests.serve.harbour import settings_for, shelve, until

KEY = ("sum", "1.0.0")
WHY = "10 workers died in a row, the last one because it ended with status 7; none is started until"


def working(api, well, bond):
    "What the keeper forks: dies at once, unless something has been mended."
    serve_lane(api, bond) if well.exists() else os._exit(7)


def kept(folder, artifacts, well):
    "A keeper that is quick to give up."
    logging.disable(logging.WARNING)
    api = Worker(str(folder), str(artifacts), Terms())
    api.door = socket.socket(socket.AF_UNIX)
    api.door.bind(doors(folder, 1)[0])
    api.door.listen()
    keep(Keeper(partial(working, api, well), folder / "worker-0.json", 60.0, Rules(pause_s=0.01, longest_s=0.05)))
    os._exit(0)


@pytest.fixture
def ailing(tmp_path):
    "A keeper that has given up its worker, and settings for a front: (folder, settings, file that mends it)."
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    folder, well = tmp_path / "private", tmp_path / "well"
    folder.mkdir()
    keeper = multiprocessing.get_context("spawn").Process(target=kept, args=(folder, tmp_path, well), daemon=True)
    keeper.start()
    until(lambda: any(one.state == "down" for one in standings(folder)))
    yield folder, settings_for(tmp_path, SEATRIAL_SERVE_TIMEOUT_S="20"), well
    keeper.terminate()
    keeper.join(10)


def call(path):
    return understood({"method": "POST", "path": path, "headers": []})


def fronted(ailing, work):
    "What comes of some work in an office that has seen that nobody is there."

    async def inside():
        folder, settings, well = ailing
        async with staffed(Front(None, settings, doors(folder, 1))) as office:
            return await work(office, well)

    return asyncio.run(inside())


def test_clients_and_health_hear_that_a_worker_stays_down_and_why(ailing):
    async def work(office, _):
        with pytest.raises(Refused) as refusal:
            await loaded(office, KEY)
        with pytest.raises(Refused) as asked:
            await ask(office.lane.links[0], {"held": True})
        return refusal.value.sentence, asked.value.sentence, healthy(office)

    *told, (status, said) = fronted(ailing, work)
    assert status == 503 and len(said["reasons"]) == 1
    for sentence in (*told, *said["reasons"]):
        assert sentence.startswith(f"no worker is running; {WHY}") and "restarted" not in sentence


def test_a_forced_load_brings_a_worker_back_that_was_given_up(ailing):
    async def work(office, well):
        well.touch()
        await loading(office, call("/v2/repository/models/sum/load"))
        return bool(office.lane.wires), office.held[KEY].trouble, healthy(office)[1]["reasons"]

    assert fronted(ailing, work) == (True, "", [])
    assert standings(ailing[0])[0].state == "up"


def test_every_load_is_counted_also_one_after_a_version_had_left(ailing):
    async def work(office, well):
        well.touch()
        await loading(office, call("/v2/repository/models/sum/load"))
        for _ in range(3):
            await ask(office.lane.links[0], {"unload": list(KEY)})
            assert "signature" in await ask(office.lane.links[0], {"load": list(KEY)})
        await unloading(office, call("/v2/repository/models/sum/unload"))
        await loaded(office, KEY)
        until_s = time.monotonic() + 10
        while standings(ailing[0])[0].loaded.get(KEY) != 5 and time.monotonic() < until_s:
            await asyncio.sleep(0.02)
        return standings(ailing[0])[0].loaded

    assert fronted(ailing, work) == {KEY: 5}
