"While trials begin, advance and end under load, what clients hear, what is on record and what is counted agree."

import gzip
import itertools
import json
import random
import threading
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.rollout.split import assign, point
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until

GATES = (Gate("error_rate", margin=0.02),)


class Clients:
    "Clients of many units that ask by every road until told to stop; `heard` is (unit, named version, rows, answer)."

    def __init__(self, url, n=6):
        self.url, self.heard, self.wrong, self.over = url, [], [], threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(k,)) for k in range(n)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def ask(self, k):
        dice = random.Random(k)
        while not self.over.is_set():
            with Speaker(self.url) as speaker:  # a new connection now and then: the kernel chooses the process
                for _ in range(25):
                    self.exchange(speaker, dice)

    def exchange(self, speaker, dice):
        unit, named, rows = f"u{dice.randrange(80)}", dice.choice(["", "", "", "1.0.0", "1.1.0"]), dice.randint(1, 3)
        content = tensor([[1, 2]] * rows, parameters={"unit": unit, "segment": "s"})
        packed = dice.random() < 0.3
        path = f"/v2/models/sum/versions/{named}/infer" if named else "/v2/models/sum/infer"
        said = speaker.say(
            gzip.compress(content) if packed else content, path, headers=["Content-Encoding: gzip"] * packed
        )
        if said[0] == 200:
            self.heard.append((unit, named, rows, json.loads(said[2])))
        else:
            self.wrong.append(said)

    def wait_for(self, trial, propensity=None, n=60):
        "Wait until so many were answered in a trial, with a propensity."

        def told():
            seen = [answer["parameters"] for *_, answer in list(self.heard)]
            return sum(p["trial"] == trial and propensity in (None, p["propensity"]) for p in seen) >= n

        until(told, 60)


def counted(url):
    "(version, variant) to requests and rows, as /metrics tells them."
    with Speaker(url) as speaker:
        page = speaker.say(path="/metrics", method="GET")[2].decode()
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in ("seatrial_requests_total", "seatrial_rows_total"):
                key = sample.labels["version"], sample.labels["variant"]
                found.setdefault(key, {})[sample.name.split("_")[1]] = sample.value
    return {key: (one["requests"], one["rows"]) for key, one in found.items()}


@pytest.fixture(scope="module")
def voyage(tmp_path_factory):
    "What was heard, recorded and counted in the course of three trials: (clients, rows of the journal, counts)."
    home = tmp_path_factory.mktemp("voyage")
    shelve(home, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    its = settings_for(home, SEATRIAL_SERVE_API_PROCESSES="2", SEATRIAL_SERVE_WORKERS="2")
    with launch(settings=its, port=0, log=home / "log") as running, Journal.open(its) as journal:

        def decide(kind, trial, plan=None, stage=None):
            evidence = plan_to_dict(plan) if plan else {"stage": stage}
            journal.decide(Decision(kind, "sum", trial, evidence=evidence))

        with Clients(running.url) as clients:
            clients.wait_for("")
            decide("start", "canary", Plan("canary", "sum", "1.0.0", "1.1.0", GATES, stages=(0.25, 0.5, 1.0)))
            clients.wait_for("canary", 0.25, 20)
            decide("advance", "canary", stage=0)
            clients.wait_for("canary", 0.5)
            decide("rollback", "canary", stage=1)
            decide("start", "shade", Plan("shade", "sum", "1.0.0", "1.1.0", GATES, kind="shadow", stages=(0.5,)))
            clients.wait_for("shade")
            decide("abort", "shade", stage=0)
            decide("start", "halves", Plan("halves", "sum", "1.0.0", "1.1.0", GATES, kind="ab", stages=(0.5,)))
            clients.wait_for("halves", 0.5)
        copied = {
            a["id"] for u, _, _, a in clients.heard if a["parameters"]["trial"] == "shade" and point("shade", u) < 0.5
        }
        until(lambda: copied <= {*journal.read("predictions", variant="shadow")["request_id"].to_pylist()})
        yield clients, journal.read("predictions").to_pylist(), counted(running.url), copied


def test_nobody_is_refused_because_trials_change(voyage):
    assert voyage[0].wrong == []


def test_every_answer_is_of_the_version_that_it_names(voyage):
    for _, named, rows, answer in voyage[0].heard:
        version = answer["model_version"]
        assert answer["parameters"]["version"] == version and version == (named or version)
        assert answer["outputs"][0]["data"] == [3.0 if version == "1.0.0" else -1.0] * rows


def test_every_unit_gets_the_variant_that_its_trial_gives_it_from_every_process(voyage):
    seen = Counter()
    for unit, named, _, answer in voyage[0].heard:
        told = answer["parameters"]
        if told["trial"] in ("canary", "halves"):
            share = told["propensity"] if told["variant"] == "challenger" else 1 - told["propensity"]
            assert (
                not named
                and assign(unit, told["trial"], {"challenger": share, "champion": 1 - share}) == told["variant"]
            )
            assert told["version"] == {"challenger": "1.1.0", "champion": "1.0.0"}[told["variant"]]
            seen[told["trial"], share, told["variant"]] += 1
        elif told["trial"] == "shade":
            assert not named and (told["variant"], told["version"], told["propensity"]) == ("champion", "1.0.0", 1.0)
        else:
            assert told["variant"] == ("named" if named == "1.1.0" else "champion") and told["propensity"] == 1.0
    trials = [("canary", 0.25), ("canary", 0.5), ("halves", 0.5)]
    assert {*seen} == {(*trial, variant) for trial, variant in itertools.product(trials, ("challenger", "champion"))}


def test_what_was_answered_is_on_record_once_as_it_was_answered(voyage):
    clients, rows, _, _ = voyage
    kept = {row["request_id"]: row for row in rows if row["variant"] != "shadow"}
    assert len(kept) == sum(row["variant"] != "shadow" for row in rows) == len(clients.heard)
    for unit, _, _, answer in clients.heard:
        row, told = kept[answer["id"]], answer["parameters"]
        assert {name: row[name] for name in ("variant", "trial", "version", "propensity")} == {
            name: told[name] for name in ("variant", "trial", "version", "propensity")
        }
        assert (row["unit"], row["segment"], row["status"]) == (unit, "s", "ok")


def test_copies_are_made_for_the_units_of_the_shadow_and_for_nobody_else(voyage):
    _, rows, _, copied = voyage
    copies = [row for row in rows if row["variant"] == "shadow"]
    assert {row["request_id"] for row in copies} == copied and len(copies) == len(copied)
    assert {(row["version"], row["trial"]) for row in copies} == {("1.1.0", "shade")}


def test_what_is_counted_is_what_was_answered_by_version_and_role(voyage):
    clients, _, counts, copied = voyage
    requests, rows = Counter(), Counter()
    for _, _, n, answer in clients.heard:
        key = answer["model_version"], answer["parameters"]["variant"]
        requests[key], rows[key] = requests[key] + 1, rows[key] + n
        if answer["id"] in copied:
            requests["1.1.0", "shadow"], rows["1.1.0", "shadow"] = (
                requests["1.1.0", "shadow"] + 1,
                rows["1.1.0", "shadow"] + n,
            )
    assert counts == {key: (float(requests[key]), float(rows[key])) for key in requests}
