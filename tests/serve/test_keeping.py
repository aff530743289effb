"Who is to blame for a death, for how long, and what a keeper can know of its worker: each rule by itself."

import mmap
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from seatrial.serve.bond import SLATE, Bond, marked
from seatrial.serve.frames import opened
from seatrial.serve.inquest import Death, Rules, Standing, cause_of, in_a_row, pause_s, put, refusals, standings
from seatrial.serve.pool import Pool
from seatrial.serve.worker import Loop, Visitor, serve_visitors
from tests.serve.harbour import shelve

RULES, KEY, OTHER = Rules(), ("sum", "1.0.0"), ("sum", "1.1.0")


def deaths_of(*suspects, lived_s=1.0, blame=1):
    "One death a second."
    return [Death(float(i), lived_s, "it broke", blame, tuple(each)) for i, each in enumerate(suspects)]


@pytest.mark.parametrize(("strikes", "term_s"), [(2, None), (3, 20), (4, 40), (5, 80), (6, 160), (12, 600)])
def test_each_further_strike_doubles_the_time_for_which_a_version_is_refused(strikes, term_s):
    deaths = deaths_of(*[[KEY]] * strikes)
    found = refusals(deaths, strikes - 1.0, RULES)
    assert found == {} if term_s is None else found[KEY][1] == strikes - 1 + term_s
    assert term_s is None or refusals(deaths, strikes - 1.0 + term_s, RULES) == {}


def test_deaths_that_a_refused_version_explains_make_nobody_wait():
    deaths = deaths_of(*[[KEY]] * 9, [], [OTHER])
    assert in_a_row(deaths, (), RULES) == 11 and in_a_row(deaths, (KEY,), RULES) == 2
    assert pause_s(2, RULES) == 0 < pause_s(3, RULES)


def test_a_worker_that_lived_for_a_minute_ends_the_row():
    early, calm, late = deaths_of([], []), deaths_of([], lived_s=RULES.calm_s), deaths_of([], [], [])
    assert in_a_row([*early, *calm, *late], (), RULES) == 3 and in_a_row([*early, *calm], (), RULES) == 0


@pytest.mark.parametrize(
    ("status", "starved", "cause", "strikes"),
    [
        (signal.SIGKILL, False, "it was ended by SIGKILL", 0),
        (signal.SIGKILL, True, "the machine ran out of memory", 1),
        (signal.SIGSEGV, False, "it was ended by SIGSEGV", 1),
        (signal.SIGTERM, True, "it was ended by SIGTERM", 0),
        (1 << 8, False, "it ended with status 1", 1),
        (0, False, "it ended with status 0", 0),
    ],
)
def test_a_death_is_blamed_on_what_was_run_unless_somebody_outside_wanted_it(status, starved, cause, strikes):
    assert cause_of(status, starved) == (cause, strikes)


def test_refusals_that_are_over_are_told_to_nobody(tmp_path):
    now = time.monotonic()
    put(tmp_path / "worker-0.json", Standing("worker-0", 1, "up", 0, "", {KEY: ("a", now - 1), OTHER: ("b", now + 99)}))
    assert [set(one.refused) for one in standings(tmp_path)] == [{OTHER}]


def test_what_is_run_stands_on_the_slate_while_it_is_run_and_not_any_longer(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0]}})
    path, door, (lifeline, life), (heard, notes) = (
        str(tmp_path / "s"),
        socket.socket(socket.AF_UNIX),
        os.pipe(),
        os.pipe(),
    )
    door.bind(path)
    door.listen()
    bond, seen = Bond(mmap.mmap(-1, SLATE), notes, lifeline), []
    loop = Loop(door, Pool(tmp_path, told=bond.told), 64, bond)
    engine, wire = loop.pool.engine(*KEY), socket.socket(socket.AF_UNIX)

    def watched(tensors):
        seen.append(marked(bond.slate))
        return engine.call.run(tensors)

    loop.pool.engines[KEY] = replace(engine, call=replace(engine.call, run=watched))
    thread = threading.Thread(target=serve_visitors, args=(loop,))
    thread.start()
    wire.connect(path)
    visitor = Visitor(wire)
    assert opened(visitor.read())[0]["id"] == -1
    for bad in (False, True):  # also where it fails
        x = np.array([[np.nan if bad else 1, 2]], np.float32)
        visitor.say({"id": 1, "model": "sum", "version": "1.0.0", "rows": [1]}, {"x": x})
        assert bool(opened(visitor.read())[0]["failures"]) == bad and marked(bond.slate) is None
    assert seen == [KEY] and os.read(heard, 4096).decode().splitlines() == [
        '["loading", ["sum", "1.0.0"]]', '["loaded", ["sum", "1.0.0"]]',
    ]  # fmt: skip
    wire.close()
    os.close(life)  # the keeper is gone
    thread.join(20)
    assert not thread.is_alive()
    for file in (door, loop.bell, loop.ring, loop.watch, bond.slate):
        file.close()
    for file in (lifeline, heard, notes):
        os.close(file)


def test_after_a_crash_versions_are_loaded_one_at_a_time(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    free, heard = threading.Event(), []

    def told(what, key):
        heard.append((what, key))
        assert what != "loading" or len(heard) > 1 or free.wait(20)

    pool = Pool(tmp_path, told=told, careful=True)
    with ThreadPoolExecutor(2) as threads:
        loads = [threads.submit(pool.engine, *key) for key in (KEY, OTHER)]
        while len(pool.loading) < 2:
            time.sleep(0.001)
        assert len(heard) == 1  # the other one is wanted, and has not begun
        free.set()
        assert all(load.result(20) for load in loads)
    assert [what for what, _ in heard] == ["loading", "loaded"] * 2
