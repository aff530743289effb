"Each judge: an alarm at its threshold, the evidence with it, and no harm from a bad bucket."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.season import Season, Tail
from seatrial.drift.symptom import Alert, Bucket, Errors, Gauge, Predictions, Silence, fortune, nothing, page, strayed
from seatrial.stats.betting import rate_evidence

NOON = 1_672_660_800.0
FLAT = {"cells": [math.log(100)] * 168, "spread": [0.2] * 24, "bucket_s": 60.0}


def gauge(series):
    kinds = {"requests": ("traffic surge", "traffic drop", "traffic high", "traffic low")}
    kinds = kinds.get(series, ("latency spike", "latency high"))
    tails = {k: Tail(1000, 50, 1.6, 0.4, 0.0) for k in kinds}
    season = Season(**FLAT, counts=series == "requests")
    return Gauge(series, season, tails, {k: t.at(1e-4) for k, t in tails.items()})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"at_s": math.nan}, "at_s must be"),
        ({"requests": -1}, "requests must be"),
        ({"requests": 1.5}, "requests must be"),
        ({"requests": "3"}, "requests must be"),
        ({"errors": 11}, "errors must be at most requests=10"),
        ({"errors": -1}, "errors must be"),
        ({"latency_ms": 0.0}, "latency_ms must be"),
        ({"latency_ms": math.inf}, "latency_ms must be"),
        ({"predictions": (1, -1)}, "predictions must be"),
        ({"predictions": (1, math.nan)}, "predictions must be"),
    ],
)
def test_a_bad_bucket_is_refused_in_one_sentence(fields, said):
    with pytest.raises(ValueError, match=said) as told:
        Bucket(**({"at_s": NOON, "requests": 10} | fields))
    assert "\n" not in str(told.value)


@given(st.lists(st.floats(-30, 30), max_size=60))
def test_the_sum_is_never_negative_and_one_bucket_adds_two_at_most(z):
    total = 0.0
    for v in z:
        after = page(total, v)
        assert 0 <= after <= total + 2 + 1e-9
        total = after


@given(st.integers(0, 400))
@settings(max_examples=60)
def test_what_passes_and_what_alarms_are_told_apart_by_the_edges_in_the_alert(x):
    judge, bucket = gauge("requests"), Bucket(NOON, x)
    shares = judge.step(bucket)
    for kind in ("traffic surge", "traffic drop"):
        alert = judge.alert(kind, bucket, shares[kind])
        assert (alert.low <= x <= alert.high) == (shares[kind] <= 1)
        assert (shares[kind] < 1) == (alert.p_value > 1e-4) or shares[kind] == 1


def test_a_spike_is_told_with_value_expectation_edge_and_chance():
    judge, bucket = gauge("latency_ms"), Bucket(NOON, 5, latency_ms=900.0)
    alert = judge.alert("latency spike", bucket, judge.step(bucket)["latency spike"])
    assert isinstance(alert, Alert) and (alert.value, round(alert.expected)) == (900.0, 100)
    assert alert.low == 0 < alert.expected < alert.high < alert.value and 0 < alert.p_value < 1e-4
    assert "900 ms" in alert.evidence and "latency spike" in alert._repr_markdown_()
    with pytest.raises(AttributeError):
        alert.value = 1.0


def test_speed_wakes_nobody_and_a_bucket_without_latency_is_not_judged():
    judge = gauge("latency_ms")
    assert max(judge.step(Bucket(NOON, 5, latency_ms=1e-3)).values()) <= 0
    assert judge.step(Bucket(NOON, 0)) == {}


def test_many_buckets_that_would_pass_alone_alarm_together():
    judge = gauge("latency_ms")
    shares = [judge.step(Bucket(NOON + 60 * i, 5, latency_ms=100 * math.exp(0.4))) for i in range(10)]
    assert max(s["latency spike"] for s in shares) < 1 <= shares[-1]["latency high"]


@given(st.floats(0, 200), st.floats(0.01, 3))
def test_the_chance_of_nothing_is_that_of_the_mixture(due, phi):
    assert nothing(due, phi) == pytest.approx(stats.nbinom(1 / phi, 1 / (1 + phi * due)).pmf(0), rel=1e-6, abs=1e-300)
    assert nothing(due, phi) >= nothing(due, 0.0)


def test_a_gap_is_added_up_until_a_request_ends_it():
    judge, season = Silence(1e-6), Season(**(FLAT | {"cells": [0.0] * 168}), counts=True)
    shares = [judge.step(Bucket(NOON + 60 * i, 0), season)["silence"] for i in range(40)]
    assert shares == sorted(shares) and shares[5] < 1 <= shares[-1]
    assert judge.alert("silence", Bucket(NOON, 0), 1.0).expected == pytest.approx(40)
    assert judge.step(Bucket(NOON + 2400, 1), season)["silence"] == 0 and judge.due == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(5, 50)), min_size=1, max_size=60))
@settings(max_examples=30)
def test_all_fortunes_together_are_those_of_every_start(window):
    log_all, back = fortune([list(pair) for pair in window], 0.05)
    each = [float(rate_evidence(*np.sum(window[j:], 0), 0.05, "greater")) for j in range(len(window))]
    assert log_all == pytest.approx(np.logaddexp.reduce(each), abs=1e-9)
    assert each[len(window) - back] == pytest.approx(max(each))


def test_false_alarms_about_errors_are_no_more_frequent_than_allowed_at_the_tolerated_rate():
    rng, gaps = np.random.default_rng(0), []
    for _ in range(25):
        judge = Errors(0.02, 0.03, 1 / 100)
        steps = (judge.step(Bucket(0, 40, int(rng.binomial(40, 0.03))))["error rate"] for _ in range(600))
        gaps.append(next((i + 1 for i, share in enumerate(steps) if share >= 1), 600))
    assert np.mean(gaps) + 2 * np.std(gaps) / 5 >= 100


def test_an_outage_of_errors_is_told_with_the_bucket_in_which_it_began():
    judge = Errors(0.01, 0.015, 1e-6)
    for _ in range(30):
        judge.step(Bucket(0, 200, 2))
    shares = [judge.step(Bucket(0, 200, 40))["error rate"] for _ in range(2)]
    assert shares[-1] >= 1
    alert = judge.alert("error rate", Bucket(0, 200, 40), 1.0)
    assert alert.value == pytest.approx(0.2) and alert.p_value < 1e-6 and "in 2 buckets" in alert.evidence


def test_no_requests_are_no_evidence_about_errors():
    judge = Errors(0.01, 0.015, 1e-6)
    assert max(judge.step(Bucket(0, 0))["error rate"] for _ in range(200)) < 0.5


def test_the_window_of_predictions_is_as_short_as_it_can_be():
    judge = Predictions([100, 100], rows=50, limit=1.0)
    answers = [judge.step(Bucket(0, 20, predictions=(10, 10))) for _ in range(9)]
    assert answers[:2] == [{}, {}] and all(a["predictions"] < 0.1 for a in answers[2:])
    assert len(judge.window) == 3 and judge.step(Bucket(0, 900, predictions=(900, 0)))["predictions"] > 1
    assert len(judge.window) == 1


@given(st.lists(st.integers(0, 300), min_size=2, max_size=8))
def test_predictions_like_the_reference_have_not_strayed(counts):
    assert strayed([c + 1 for c in counts], [[c + 1 for c in counts]]) == pytest.approx(0, abs=1e-12)
