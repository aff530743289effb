"An outcome counts once: whichever process hears of it, however often, however late, and over restarts."

import json

import pytest

from seatrial.base.journal import Journal
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, until

OLD = 1000.0  # seconds since 1970: rolled away as soon as it is drained


def post(url, document):
    "Report outcomes on a connection of their own: the status."
    with Speaker(url) as speaker:
        return speaker.say(json.dumps(document).encode(), "/v1/outcomes")[0]


def outcome(id, value, **more):
    return {"request_id": id, "name": "rating", "value": value, **more}


def kept(its):
    "What is on record."
    with Journal.open(its) as journal:
        rows = journal.read("outcomes").to_pylist()
    return sorted((row["request_id"], row["value"]) for row in rows)


@pytest.fixture(scope="module")
def port_of_call(tmp_path_factory):
    "The settings of a server of two HTTP processes that drains often and rolls soon."
    home = tmp_path_factory.mktemp("call")
    shelve(home, {"sum": {"1.0.0": [1.0, 1.0]}})
    more = {"SEATRIAL_JOURNAL_DRAIN_INTERVAL_S": "0.05", "SEATRIAL_JOURNAL_HOT_DAYS": "1"}
    return settings_for(home, SEATRIAL_SERVE_API_PROCESSES="2", **more), home


def test_what_is_reported_again_changes_nothing_over_processes_restarts_and_archives(port_of_call):
    its, home = port_of_call
    first = [("a", 1.0), ("b", 2.0), ("old", 3.0), ("ü\n😀", 4.0)]
    for start in range(2):
        with launch(settings=its, port=0, log=home / f"log{start}") as running:
            for again in range(3):  # the same, and then other values for what is known
                for id, value in first:
                    told = {"time_s": OLD} if id == "old" else {}
                    assert post(running.url, outcome(id, value + 10 * (start + again), **told)) == 200
                doubled = [outcome("c", 5.0), outcome("c", 6.0)]
                assert post(running.url, doubled) == 200
                assert post(running.url, [outcome("d", 7.0), {"request_id": "e"}]) == 400
            until(lambda: (home / "journal" / "day=1970-01-01" / "outcomes.parquet").exists())
            assert kept(its) == sorted([*first, ("c", 5.0)])
        assert "Traceback" not in (home / f"log{start}").read_text()
