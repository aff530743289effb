"Honest scores: the fit, its check on rows it has not seen, and what is refused."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.linear_model import LogisticRegression

from seatrial.drift.bend import Bends, agreement, held_out, logistic, logits, probabilities, truths

RNG = np.random.default_rng


def made(seed, n, slope=0.7):
    rng = RNG(seed)
    z = rng.normal(0, 2, n)
    return special.expit(z), (rng.random(n) < special.expit(slope * z - 0.3)).astype(float)


def test_the_weighted_fit_is_that_of_scikit_learn():
    s, y = made(0, 800)
    x, w = np.column_stack([np.ones(800), logits(s), logits(s) ** 2 / 10]), RNG(1).exponential(size=800)
    theirs = LogisticRegression(C=10, tol=1e-12, max_iter=1000).fit(x[:, 1:], y, sample_weight=w)
    assert np.allclose(logistic(x, y, w)[1:], theirs.coef_[0], atol=1e-3)


def test_a_fit_that_begins_nearby_ends_at_the_same_place_in_four_steps():
    s, y = made(2, 500)
    x = Bends.of(s)(s)
    base, w = logistic(x, y, np.ones(500)), RNG(3).exponential(size=500)
    assert np.allclose(logistic(x, y, w, base, steps=4), logistic(x, y, w), atol=1e-3)


def test_with_many_labels_the_true_chances_are_found_whatever_monotone_map_the_score_is():
    s, y = made(4, 60_000)
    bent = s**3
    at = Bends.of(bent)
    found = special.expit(at(bent) @ logistic(at(bent), y, np.ones(len(y))))
    assert np.abs(found - special.expit(0.7 * logits(s) - 0.3)).mean() < 0.01


@given(st.lists(st.floats(0, 1), min_size=10, max_size=60), st.integers(0, 2**20))
def test_chances_stay_inside_of_nought_and_one_for_any_scores(scores, seed):
    s, y = np.array(scores), (RNG(seed).random(len(scores)) < 0.5).astype(float)
    at = Bends.of(s)
    p = special.expit(at(s) @ logistic(at(s), y, np.ones(len(s))))
    assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()


def test_true_chances_pass_the_check_at_its_level_and_boasts_do_not():
    rng, passed = RNG(5), []
    for _ in range(400):
        q = rng.uniform(0.05, 0.95, 300)
        passed.append(agreement(q, (rng.random(300) < q).astype(float)))
    assert stats.kstest(passed, "uniform").pvalue > 1e-3
    s, y = made(6, 2000)
    assert agreement(np.clip(s, 1e-6, 1 - 1e-6), y) < 1e-6 < agreement(held_out(Bends.of(s)(s), y, rng), y)


def test_no_row_is_judged_by_a_fit_that_has_seen_it():
    s, y = made(7, 100)
    x = Bends.of(s)(s)
    q = held_out(x, y, RNG(8))
    for i in (0, 17, 99):
        other = y.copy()
        other[i] = 1 - y[i]
        assert held_out(x, other, RNG(8))[i] == q[i]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.1, 1.2], "must lie from 0 to 1, got 0.1 to 1.2"),
        ([0.1, np.nan], "must be finite, got 1 NaN"),
        ([[0.5, 0.6], [0.5, 0.5]], "must sum to 1 over the classes, got a row with 1.1"),
        ([[[0.5]]], "one column of probabilities"),
        (["yes", "no"], "must hold numbers"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(scores, said):
    with pytest.raises(ValueError, match=f"scores .*{said}"):
        probabilities(scores, "scores")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 0, 0], "more than one class, got only 0"),
        ([0, 1], "one value for each of 3 scores, got 2"),
        ([0, 1, 2], "whole numbers from 0 to 1, got 2"),
        ([0, 1, 0.5], "whole numbers from 0 to 1, got 0.5"),
        ([0, 1, np.nan], "must be finite"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
    with pytest.raises(ValueError, match=f"labels .*{said}"):
        truths(labels, np.array([0.1, 0.5, 0.9]))


def test_two_columns_are_one():
    assert probabilities([[0.2, 0.8], [1.0, 0.0]], "x").tolist() == [0.8, 0.0]


def test_the_order_of_rows_with_equal_claims_does_not_matter():
    q, y = np.full(600, 0.5), np.repeat([0, 1], 300)
    assert agreement(q, y) == agreement(q, y[::-1]) > 0.9
    q, y = np.repeat([0.2, 0.8], 300), np.repeat([0, 1, 0, 1], [240, 60, 60, 240])
    assert agreement(q, y) > 0.9
