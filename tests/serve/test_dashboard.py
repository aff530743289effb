import json

import pytest

from seatrial.serve.dashboard import PANELS, Panel, dashboard, named, names, rate, unanswered
from seatrial.serve.exposition import COUNTERS, GAUGES, text
from seatrial.serve.metrics import Tally, answered, counted, refused, state


def busy_page():
    "The page of a server to which everything has happened."
    now = {name: {("x",) * len(gauge.labels): 1.0} if gauge.labels else 1.0 for name, gauge in GAUGES.items()}
    tally = Tally(lambda: now)
    answered(tally, ("m", "1", "champion"), [0.1], 1, [0.1], 0.1)
    refused(tally, 504)
    for name, counter in COUNTERS.items():
        counted(tally, name, *("x" for _ in counter.labels))
    return text([state(tally)], price_per_hour=1.0).decode()


def test_every_query_finds_what_it_asks_for_on_a_server_to_which_everything_has_happened():
    assert unanswered(dashboard(), busy_page()) == {}


def test_every_sample_of_the_page_is_a_name_that_a_query_may_use():
    told = {line.split("{")[0].split(" ")[0] for line in busy_page().splitlines() if line.startswith("seatrial_")}
    assert {name for name in told if not name.endswith("_created")} <= names()


def test_a_panel_that_no_server_can_answer_is_refused():
    with pytest.raises(ValueError, match="got seatrial_requets_total"):
        Panel("x", "short", (("", rate("requets_total")),))


def test_the_dashboard_is_json_with_panels_that_do_not_overlap():
    board = json.loads(json.dumps(dashboard()))
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len({*places}) == len(PANELS) == len({p["id"] for p in board["panels"]})
    assert all(named(target["expr"]) for p in board["panels"] for target in p["targets"])
    assert {v["name"] for v in board["templating"]["list"]} == {"source", "model", "version", "variant"}


def test_brackets_of_every_query_are_closed():
    for panel in PANELS:
        for _, query in panel.queries:
            assert all(query.count(a) == query.count(b) for a, b in ("()", "{}", "[]"))
