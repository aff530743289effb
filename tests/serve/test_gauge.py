import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.base.record import Outcome
from seatrial.serve.exposition import GAUGES
from seatrial.serve.gauge import lag, now, pooled, read


class NoWorkers:
    "A lane at whose end nobody is."

    wires = ()


def test_the_lag_is_what_was_acknowledged_and_not_drained(tmp_path):
    with Journal(tmp_path) as journal, Journal(tmp_path) as other:
        for i, each in enumerate((journal, other)):
            each.append([Outcome(f"r{i}", "y", 1.0, 1.7e9)])
        size = sum(path.stat().st_size for path in (tmp_path / "spool").glob("*.jsonl"))
        assert lag(journal, time.time())[0] == size > 0
        journal.drain()
        assert lag(journal, time.time()) == (0, 0.0)
        other.append([Outcome("r3", "y", 1.0, 1.7e9)])
        behind, age_s = lag(journal, time.time() + 7)
        assert 0 < behind < size and 6 < age_s < 9


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**9), max_size=3), max_size=4))
def test_what_several_workers_hold_adds_up(workers):
    said = [{"held": [[name, "1", size, False, 0.1] for name, size in held.items()], "limit": 10} for held in workers]
    found = pooled(said)
    assert sum(found["pool_bytes"].values()) == sum(sum(held.values()) for held in workers)
    assert found["pool_limit_bytes"] == 10 * len(workers)


def test_devices_that_do_not_say_are_left_out():
    assert read("") == {"gpu_memory_bytes": {}, "gpu_utilisation_share": {}}
    assert read("0, 1, [N/A]\n")["gpu_memory_bytes"] == {("0",): 2.0**20}


def test_all_of_it_is_declared(tmp_path):
    with Journal(tmp_path) as journal:
        assert set(asyncio.run(now(NoWorkers(), journal, time.time(), False))) <= set(GAUGES)
