import asyncio
import contextlib
import gc
import json
import weakref

import numpy as np
import pytest

from seatrial.serve.arrival import came_back, forgotten, lost
from seatrial.serve.batching import clear, done, draw, expire
from seatrial.serve.intake import taker
from seatrial.serve.lane import reply
from seatrial.serve.office import closed, holding, opened
from seatrial.serve.passage import begin
from seatrial.serve.protocol import Address, Refused
from tests.serve.harbour import settings_for, shelve

WIDE = {"name": "x", "shape": [200, 2], "datatype": "FP32", "data": [0.5] * 400}
KEY = ("sum", "1.0.0")


class Ear:
    "Who waits: it can be watched without being held."

    said = None

    def __call__(self, said):
        type(self).said = said.status if isinstance(said, Refused) else type(said)


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    artifacts = tmp_path_factory.mktemp("freed")
    shelve(artifacts, {"sum": {"1.0.0": [1, 1]}})
    office = opened(settings_for(artifacts, SEATRIAL_SERVE_QUEUE_MAX_ROWS="300"), "lane.sock", came_back, lost)
    signature = office.shelf.version(*KEY).signature
    office.held[KEY] = holding(office, KEY, taker(signature))
    office.lane.down_since_s = None  # as if a worker were there: the test is the worker
    yield office
    closed(office)


def asked(office):
    "A request that is on its way, and a way to see whether anything of it is still there."
    ear = Ear()
    return begin(office, Address("infer", "sum"), json.dumps({"inputs": [WIDE]}).encode(), ear), weakref.ref(ear)


def loads(office):
    return draw(office.lane.scheduler, 0.0)


def answered(office, failures=None):
    for batch in loads(office):
        done(office.lane.scheduler, batch, 0.001)
        outputs = {} if failures else {"o:y": np.zeros(batch.rows, np.float32)}
        came_back(office, reply(batch, {"failures": failures or {}, "seconds": 0.001}, outputs))


def refused_by_the_model(office):
    answered(office, {"0": [400, "x is odd"]})


def refused_by_the_queue(office):
    with pytest.raises(Refused, match="the queue is full"):
        asked(office)
    answered(office)


def late(office):
    for job in expire(office.lane.scheduler, 1e12):
        lost(office, job, Refused(504, "too late"))


def cleared(office):
    for job in clear(office.lane.scheduler):
        lost(office, job, Refused(503, "no worker"))


def abandoned(office):
    for flow in [office.held[KEY].flow]:
        for job in [*flow.line.run]:
            forgotten(office, job.ticket)
    loads(office)


ENDS = [(answered, bytes), (refused_by_the_model, 400), (refused_by_the_queue, bytes), (late, 504), (cleared, 503)]


@pytest.mark.parametrize(("end", "said"), [*ENDS, (abandoned, None)])
def test_a_request_that_is_over_is_freed_without_the_garbage_collector(office, end, said):
    async def whole():
        gc.collect()
        gc.disable()
        try:
            Ear.said = None
            job, seen = asked(office)
            assert seen() is not None
            del job
            end(office)
            assert (Ear.said, seen()) == (said, None)
        finally:
            gc.enable()

    asyncio.run(whole())


def test_a_request_that_is_refused_at_the_door_is_freed_without_the_garbage_collector(office):
    async def whole():
        gc.collect()
        gc.disable()
        try:
            first, _ = asked(office)
            ear = Ear()
            seen = weakref.ref(ear)
            with contextlib.suppress(Refused):
                begin(office, Address("infer", "sum"), json.dumps({"inputs": [WIDE]}).encode(), ear)
                raise AssertionError("two such requests do not fit into the queue")
            del ear
            assert seen() is None
            del first
            answered(office)
        finally:
            gc.enable()

    asyncio.run(whole())
