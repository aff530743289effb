"Performance without labels: the metrics, the intervals, the doubts, and what is refused."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as theirs

from seatrial.drift.trust import Estimate, late
from seatrial.drift.unlabelled import METRICS, by_row, measuring, performance
from seatrial.stats.comparison import NotEnough

RNG = np.random.default_rng


def world(rng, n, shift=0.0, turned=0.0):
    t = rng.normal(shift, 1.5, n)
    y = rng.random(n) < special.expit(1.5 * t - 0.5 - turned * np.maximum(t, 0))
    return np.round(special.expit(2.1 * t), 6), y.astype(int)


def told(seed, shift=0.0, turned=0.0, n=800, m=400, **how):
    rng = RNG(seed)
    (s, y), (now, later) = world(rng, n), world(rng, m, shift, turned)
    return performance(s, y, now, rng, runs=60, **how), now, later


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.integers(0, 1)), min_size=4, max_size=50))
def test_with_labels_in_place_of_chances_the_metrics_are_those_of_scikit_learn(rows):
    s, y = map(np.array, zip(*rows, strict=True))
    yes, seen = s >= 0.5, measuring(s, 0.5)(y * 1.0, np.ones(len(y)))
    known = [theirs.accuracy_score(y, yes), theirs.brier_score_loss(y, s), theirs.log_loss(y, s, labels=[0, 1])]
    assert np.allclose(seen[[0, 5, 6]], known)
    if y.any() and yes.any():
        rest = [f(y, yes, zero_division=0) for f in (theirs.precision_score, theirs.recall_score, theirs.f1_score)]
        assert np.allclose(seen[[1, 2, 3]], rest)
    if 0 < y.sum() < len(y):
        assert np.isclose(seen[4], theirs.roc_auc_score(y, s))


def test_expected_metrics_are_the_means_over_drawn_labels():
    rng = RNG(1)
    s = rng.choice([0.1, 0.2, 0.4, 0.6, 0.8], 400)
    p, measure, one = np.clip(s + 0.1, 0, 1), measuring(s, 0.5), np.ones(400)
    drawn = np.array([measure((rng.random(400) < p) * 1.0, one) for _ in range(2000)])
    assert (np.abs(drawn.mean(axis=0) - measure(p, one)) < 5 * drawn.std(axis=0) / np.sqrt(2000) + 1e-3).all()


def test_weights_count_rows():
    rng = RNG(2)
    s, p = rng.random(30), (rng.random(30) < 0.5) * 1.0
    w = rng.integers(1, 4, 30)
    again = np.repeat(np.arange(30), w)
    assert np.allclose(measuring(s, 0.5)(p, w * 1.0), measuring(s[again], 0.5)(p[again], np.ones(w.sum())))


def test_rows_add_up_to_their_metric():
    rng = RNG(3)
    s, p = rng.random(200), rng.random(200)
    whole = dict(zip(METRICS, measuring(s, 0.4)(p, np.ones(200)), strict=True))
    for metric, rows in by_row(p, s, 0.4).items():
        assert rows.mean() == pytest.approx(whole[metric])


@pytest.mark.parametrize(("shift", "target"), [(0.0, "batch"), (1.0, "batch"), (1.0, "stream")])
def test_intervals_hold_as_often_as_they_say_while_only_the_inputs_move(shift, target):
    s, y = world(RNG(9), 200_000, shift)
    truth, hits = measuring(s, 0.5)(y * 1.0, np.ones(len(y))), []
    for seed in range(60):
        e, now, later = told(seed, shift, target=target, metrics=["accuracy", "f1", "roc_auc"])
        real = measuring(now, 0.5)(later * 1.0, np.ones(len(later))) if target == "batch" else truth
        hits.append([e[k].lower <= real[METRICS.index(k)] <= e[k].upper for k in e.estimates])
    assert np.mean(hits, axis=0).min() >= 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 60)


def test_the_estimate_follows_easier_rows_and_a_larger_reference_knows_more():
    (hard, *_), (easy, *_) = told(4), told(4, shift=2.0)
    (sure, *_) = told(4, n=8000)
    assert easy["accuracy"].value > hard["accuracy"].value + 0.03
    assert sure["accuracy"].error < hard["accuracy"].error / 2 and hard.trusted


def test_concept_drift_misleads_the_estimate_and_late_labels_find_it_out():
    e, now, later = told(5, turned=1.2, n=2000, m=800)
    accuracy, right = e["accuracy"], (now >= 0.5) == later
    assert accuracy.trusted and accuracy.lower > right.mean()
    found = late(accuracy).update(accuracy.rows, right * 1.0).result
    assert found.contradicted and found.realised < found.estimated


def test_without_drift_late_labels_of_the_easy_rows_alone_contradict_nothing():
    e, now, later = told(6, n=2000, m=800)
    accuracy, easy = e["accuracy"], np.abs(now - 0.5) > 0.4
    right = ((now >= 0.5) == later)[easy]
    assert (
        right.mean() > accuracy.upper
        and not late(accuracy).update(accuracy.rows[easy], right * 1.0).result.contradicted
    )


def test_scores_where_the_reference_has_none_are_not_trusted():
    rng = RNG(7)
    s, y = world(rng, 2000, -1.0)
    e = performance(s[s < 0.7], y[s < 0.7], rng.uniform(0.9, 1, 300), rng, runs=20)
    assert not e.trusted and "scores" in e.reasons[0] and e["f1"].reasons == e.reasons


def test_features_where_the_reference_has_none_are_not_trusted_and_are_named():
    rng = RNG(8)
    (s, y), (now, _) = world(rng, 500), world(rng, 200)
    x, moved = rng.normal(size=(500, 2)), rng.normal((0, 9), 1, (200, 2))
    e = performance(s, y, now, rng, runs=20, features=(x, moved), names=["age", "income"])
    assert not e.trusted and "income" in e.reasons[0] and len(e.supports) == 2


def test_many_classes_have_an_accuracy_and_its_interval_holds():
    hits = []
    for seed in range(40):
        rng = RNG(seed)
        logit = rng.normal(0, 1.5, (1200, 4))
        p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
        y = (p.cumsum(axis=1) < rng.random((1200, 1))).sum(axis=1).clip(max=3)
        boast = p**2 / (p**2).sum(axis=1, keepdims=True)
        e = performance(boast[:700], y[:700], boast[700:], rng, runs=60)["accuracy"]
        hits.append(e.lower <= np.mean(boast[700:].argmax(axis=1) == y[700:]) <= e.upper)
    assert np.mean(hits) >= 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 40)


def test_the_same_seed_gives_the_same_answer():
    (a, *_), (b, *_) = told(10), told(10)
    assert a.estimates == b.estimates and "| accuracy |" in a._repr_markdown_()


def test_too_little_is_an_answer_of_its_own():
    rng = RNG(11)
    s, y = world(rng, 300)
    rare = np.zeros(300, int)
    rare[:5] = 1
    assert isinstance(performance(s, y, s[:29], rng), NotEnough)
    assert isinstance(performance(s, rare, s, rng), NotEnough)
    e = performance(s, y, s[s < 0.5], rng, runs=20)
    assert isinstance(e["precision"], NotEnough) and isinstance(e["accuracy"], Estimate)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reference": [0.5, np.nan]}, "reference must be finite"),
        ({"current": [0.5, 1.5]}, "current must lie from 0 to 1"),
        ({"labels": np.ones(50)}, "more than one class"),
        ({"labels": np.arange(49) % 2}, "one value for each of 50 scores, got 49"),
        ({"current": np.full((40, 3), 1 / 3)}, "as many classes"),
        ({"threshold": 1.0}, "threshold must lie strictly"),
        ({"alpha": 0}, "alpha must lie strictly"),
        ({"target": "future"}, "target must be one of batch, stream"),
        ({"metrics": ["auc"]}, "metrics must be one of accuracy"),
        ({"features": (np.ones((50, 2)), np.ones((39, 2)))}, "one row for each score"),
        ({"features": (np.ones((50, 2)), np.ones((40, 3)))}, "as wide, got 2 and 3"),
    ],
)
def test_bad_input_is_refused_by_name(changed, said):
    s = np.linspace(0.01, 0.99, 50)
    given = {"reference": s, "labels": (np.arange(50) % 3 > 0) * 1, "current": s[:40]} | changed
    with pytest.raises(ValueError, match=said):
        performance(rng=RNG(0), runs=5, **given)


def test_no_reference_is_not_enough_and_an_interval_takes_worlds():
    assert isinstance(performance([], [], [0.5] * 50, RNG(0)), NotEnough)
    scores, labels = world(RNG(0), 300)
    with pytest.raises(ValueError, match="runs must be"):
        performance(scores, labels, scores, RNG(0), runs=1)


def test_rows_sorted_by_label_are_no_reason_for_distrust():
    labels = np.repeat([0, 1], 300)
    found = performance(np.full(600, 0.5), labels, np.full(300, 0.5), RNG(0), runs=20)
    assert found.trusted and found.calibration > 0.05
