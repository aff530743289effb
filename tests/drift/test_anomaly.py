"A lookout says what is wrong, once, with evidence, and survives saving, gaps and bad buckets."

import json
import math

import numpy as np
import pytest

from seatrial.drift.anomaly import KINDS, Lookout, lookout
from seatrial.drift.symptom import Bucket
from seatrial.stats.comparison import NotEnough

HOUR, WEEKS = 3600.0, 4


def service(seed, n, start=0, traffic=1.0, latency=1.0, errors=0.01, shares=(0.2, 0.5, 0.3)):
    rng, out = np.random.default_rng(seed), []
    for i in range(start, start + n):
        k = int(rng.poisson(rng.gamma(50, 1 / 50) * 300 * math.exp(math.cos(i / 24 * 2 * math.pi)) * traffic))
        wrong = int(rng.binomial(k, errors))
        ms = float(80 * latency * math.exp(rng.normal(0, 0.2))) if k else None
        out.append(Bucket(HOUR * i, k, wrong, ms, tuple(rng.multinomial(k - wrong, shares).tolist())))
    return out


REFERENCE = service(0, 168 * WEEKS)
SAVED = lookout(REFERENCE, HOUR).to_dict()
NEXT = 168 * WEEKS


def watch():
    return Lookout.from_dict(SAVED)


def said(look, buckets):
    return [alert for b in buckets for alert in look.update(b)]


@pytest.mark.parametrize(
    ("kind", "incident"),
    [
        ("silence", {"traffic": 0.0}),
        ("traffic drop", {"traffic": 0.1}),
        ("traffic surge", {"traffic": 5.0}),
        ("latency spike", {"latency": 20.0}),
        ("latency high", {"latency": 1.6}),
        ("error rate", {"errors": 0.05}),
        ("predictions", {"shares": (0.5, 0.3, 0.2)}),
    ],
)
def test_every_kind_of_incident_is_named_and_nothing_before_it(kind, incident):
    look = watch()
    assert said(look, service(1, 48, NEXT)) == []
    alerts = said(look, service(2, 12, NEXT + 48, **incident))
    assert kind in {a.kind for a in alerts} <= set(KINDS)
    assert len(alerts) == len({a.kind for a in alerts})
    assert all(a.evidence and 0 <= a.p_value <= 1 and a.at_s >= HOUR * (NEXT + 48) for a in alerts)


def test_an_alarm_that_lasts_is_one_and_the_next_incident_another():
    look, at, alerts = watch(), NEXT, []
    for _ in range(2):
        alerts += said(look, service(3, 24, at)) + said(look, service(4, 10, at + 24, errors=0.1))
        at += 34
    assert [a.kind for a in alerts] == ["error rate"] * 2 and alerts[1].at_s - alerts[0].at_s == 34 * HOUR


def test_a_skipped_bucket_was_an_empty_one():
    one, two = watch(), watch()
    gap = [Bucket(HOUR * (NEXT + i), 0, predictions=(0, 0, 0)) for i in range(5)]
    after = service(5, 10, NEXT + 5)
    assert said(one, gap + after) == said(two, after) != []
    assert one.to_dict() == two.to_dict()


def test_silence_says_it_all():
    assert [a.kind for a in said(watch(), [Bucket(HOUR * (NEXT + 6), 0, predictions=(0, 0, 0))])] == ["silence"]


@pytest.mark.parametrize("cut", [0, 3, 20, 31])
def test_saved_in_the_middle_it_goes_on_as_if_it_had_not_been(cut):
    buckets = service(6, 20, NEXT) + service(7, 20, NEXT + 20, latency=3.0, errors=0.1)
    whole, first = watch(), watch()
    expected = said(whole, buckets)
    begun = said(first, buckets[:cut])
    again = Lookout.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False)))
    assert begun + said(again, buckets[cut:]) == expected != []
    assert again == whole


def test_the_state_does_not_grow_with_the_stream():
    look = watch()
    said(look, service(8, 100, NEXT))
    size = len(json.dumps(look.to_dict()))
    said(look, service(9, 400, NEXT + 100))
    assert len(json.dumps(look.to_dict())) < 1.1 * size


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        (Bucket(HOUR * (NEXT - 1), 5, 0, 80.0, (1, 2, 2)), "at_s must follow"),
        (Bucket(HOUR * NEXT + 1, 5, 0, 80.0, (1, 2, 2)), "at_s must follow"),
        (Bucket(HOUR * (NEXT + 169), 5, 0, 80.0, (1, 2, 2)), "at_s must follow"),
        (Bucket(HOUR * NEXT, 5, 0, None, (1, 2, 2)), "latency_ms must be given"),
        (Bucket(HOUR * NEXT, 5, 0, 80.0, (5, 0)), "predictions must have the reference's 3 bins"),
        (Bucket(HOUR * NEXT, 5, 0, 80.0), "predictions must have the reference's 3 bins"),
    ],
)
def test_a_bucket_that_does_not_fit_is_refused_and_changes_nothing(bucket, words):
    look = watch()
    with pytest.raises(ValueError, match=words):
        look.update(bucket)
    assert look.to_dict() == SAVED


def test_a_service_without_latency_or_predictions_is_watched_too():
    plain = [Bucket(b.at_s, b.requests, b.errors) for b in REFERENCE]
    look = lookout(plain, HOUR)
    assert look.latency is None and look.predictions is None
    with pytest.raises(ValueError, match="latency_ms must be given where"):
        look.update(Bucket(HOUR * NEXT, 5, latency_ms=3.0))
    assert Lookout.from_dict(json.loads(json.dumps(look.to_dict()))) == look


def test_a_short_reference_is_not_enough():
    assert isinstance(lookout(REFERENCE[:399], HOUR), NotEnough)
    assert isinstance(lookout([], HOUR), NotEnough)
    sparse = [Bucket(b.at_s, b.requests, predictions=(0, 0)) for b in REFERENCE]
    assert isinstance(lookout(sparse, HOUR), NotEnough)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"false_alarms_per_week": 0}, "false_alarms_per_week must be"),
        ({"false_alarms_per_week": math.nan}, "false_alarms_per_week must be"),
        ({"error_tolerance": 0.9}, "error_tolerance must be"),
        ({"cycle": "year"}, "cycle must be one of"),
        ({"bucket_s": 7200}, "bucket_s must be"),
        ({"rows": 0}, "rows must be"),
        ({"psi_floor": -1}, "psi_floor must be"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        lookout(REFERENCE, **({"bucket_s": HOUR} | settings))


def test_references_that_go_back_in_time_or_change_their_form_are_refused():
    with pytest.raises(ValueError, match="reference must"):
        lookout(REFERENCE[::-1], HOUR)
    with pytest.raises(ValueError, match="reference must"):
        lookout([*REFERENCE, REFERENCE[-1]], HOUR)
    with pytest.raises(ValueError, match="reference must"):
        lookout([*REFERENCE, Bucket(HOUR * NEXT, 5, 0, 80.0, (1, 4))], HOUR)


def test_a_reference_without_errors_tolerates_what_it_cannot_exclude():
    clean = [Bucket(b.at_s, b.requests) for b in REFERENCE]
    judge = lookout(clean, HOUR).errors
    assert judge.ordinary < 1e-4 and judge.tolerated > 0


@pytest.mark.parametrize("part", ["silence", "traffic", "errors", "latency", "predictions"])
def test_a_damaged_file_is_refused(part):
    with pytest.raises(ValueError, match="must hold its own fields"):
        Lookout.from_dict({k: v for k, v in SAVED.items() if k != part})
    with pytest.raises(ValueError, match="must hold its own fields"):
        Lookout.from_dict(SAVED | {part: {"extra": 1}})


def test_quiet_weeks_are_quiet():
    look = watch()
    assert len(said(look, service(11, 168 * 8, NEXT))) <= 8 * 0.25 + 3 * (8 * 0.25) ** 0.5


def test_a_silence_beyond_all_floats_is_one_alarm():
    hours = [Bucket(HOUR * i, 100 + i % 3) for i in range(480)]
    look = lookout(hours, HOUR)
    alerts = said(look, [Bucket(HOUR * i, 0) for i in range(480, 540)])
    assert [a.kind for a in alerts].count("silence") == 1 and look.silence.due > 800


def test_nights_without_a_request_wake_nobody():
    rng = np.random.default_rng(0)
    hours = [Bucket(HOUR * i, int(rng.poisson(80)) if i % 24 >= 6 else 0) for i in range(168 * 9)]
    look = lookout(hours[: 168 * 5], HOUR)
    assert len(said(look, hours[168 * 5 :])) <= 2 and abs(look.traffic.season.level) < 0.2


def test_a_regular_gap_is_ordinary_and_a_single_one_is_not():
    rng = np.random.default_rng(1)
    n = rng.poisson(50, 168 * 4).tolist()
    once = [Bucket(HOUR * i, 0 if 500 <= i < 510 else k) for i, k in enumerate(n)]
    often = [Bucket(HOUR * i, 0 if i % 60 < 4 else k) for i, k in enumerate(n)]
    usual = lookout([Bucket(HOUR * i, k) for i, k in enumerate(n)], HOUR).silence.rarest
    assert lookout(once, HOUR).silence.rarest == usual > 1e9 * lookout(often, HOUR).silence.rarest


def test_a_reference_with_bursts_still_gives_edges():
    rng = np.random.default_rng(0)
    hours = [Bucket(HOUR * i, int(rng.poisson(1000 if rng.random() < 0.05 else 100))) for i in range(900)]
    alerts = said(lookout(hours, HOUR), [Bucket(HOUR * i, 400) for i in range(900, 950)])
    assert {a.kind for a in alerts} == {"traffic high"} and alerts[0].high > 400


def test_numbers_of_arrays_are_saved_as_json():
    rng = np.random.default_rng(0)
    k, at = rng.poisson(100, 450), np.arange(450, dtype="int64") * 3600
    look = lookout([Bucket(t, n, predictions=tuple(np.array([n, 1]))) for t, n in zip(at, k, strict=True)], HOUR)
    look.update(Bucket(at[-1] + 3600, k[0], k[1] * 0, predictions=tuple(np.array([90, 1]))))
    assert Lookout.from_dict(json.loads(json.dumps(look.to_dict()))) == look
