"Maps keep the order, survive JSON, and agree with scikit-learn; the test of calibration keeps its level and has power."

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from seatrial.stats.calibration import Calibration, isotonic, platt, reliability
from seatrial.stats.comparison import NotEnough
from seatrial.stats.proportion import wilson

both = pytest.mark.parametrize("fit", [platt, isotonic])
columns = st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(y for _, y in rows) < len(rows)
)


@both
@settings(deadline=None)
@given(rows=columns)
def test_probabilities_stay_inside_and_survive_json(fit, rows):
    s, y = np.array(rows, float).T
    found = fit(s, y)
    p = found(np.array([-1e6, *s, 1e6]))
    assert np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()
    assert (np.diff(found(np.sort(s))) >= -1e-12).all() or (fit is platt and found.slope < 0)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@settings(deadline=None)
@given(rows=columns)
def test_staircase_is_that_of_scikit_learn_at_its_steps(rows):
    s, y = np.array(rows, float).T.round()
    found, least = isotonic(s, y), 1 / (len(y) + 2)
    steps = IsotonicRegression().fit(s, y).predict(found.scores)
    assert np.allclose(found.probabilities, np.clip(steps, least, 1 - least), atol=1e-9)


def test_logistic_truth_is_found_again():
    rng = np.random.default_rng(0)
    s = rng.normal(3, 2, 40_000)
    found = platt(s, rng.random(40_000) < special.expit(1.5 * s - 4))
    assert found.slope == pytest.approx(1.5, abs=0.06) and found.intercept == pytest.approx(-4, abs=0.15)


@both
def test_scores_of_any_scale_give_the_same_probabilities(fit):
    rng = np.random.default_rng(1)
    s = rng.normal(size=300)
    y = rng.random(300) < special.expit(s)
    np.testing.assert_allclose(fit(s, y)(s), fit(1e6 * s + 1e7, y)(1e6 * s + 1e7), atol=1e-4)


def test_reliability_is_what_its_bins_say():
    rng = np.random.default_rng(2)
    p = rng.random(1000)
    y = rng.random(1000) < p
    found = reliability(p, y, bins=7)
    assert sum(b.n for b in found.bins) == found.n == 1000
    assert found.ece == pytest.approx(sum(b.n * abs(b.said - b.seen) for b in found.bins) / 1000)
    assert found.brier == pytest.approx(brier_score_loss(y, p))
    first = found.bins[0]
    assert (first.lower, first.upper) == pytest.approx(tuple(wilson(round(first.seen * first.n), first.n)))
    assert found.p_value > 1e-3 > reliability(np.sqrt(p), y).p_value


def test_certain_answers_are_right_or_refuted():
    assert reliability([0, 1, 1], [0, 1, 1]).p_value == 1
    assert reliability([0, 1, 1], [0, 1, 0]).p_value == 0


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_answers_are_not_judged(n):
    assert isinstance(reliability([0.5] * n, [1] * n), NotEnough)


@both
@pytest.mark.parametrize(
    ("scores", "outcomes", "said"),
    [
        ([0.1, np.nan], [0, 1], "scores"),
        ([0.1, 0.2], [0, 0.5], r"outcomes must be 0 or 1, got 0.5 in row 1"),
        ([0.1, 0.2], [1, 1], "both 0 and 1, got 2 ones among 2"),
        ([0.1], [0, 1], "equally many, got 1 and 2"),
        ([], [], "both 0 and 1, got 0 ones among 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(fit, scores, outcomes, said):
    with pytest.raises(ValueError, match=said):
        fit(scores, outcomes)


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_bins_are_counted(bins):
    with pytest.raises(ValueError, match="bins must be a whole number"):
        reliability([0.1, 0.9], [0, 1], bins=bins)


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"kind": "beta"}, "kind must be platt or isotonic, got 'beta'"),
        ({"kind": "platt", "slope": 1.0, "bias": 2.0}, "saved must hold a kind and its numbers"),
        ({"slope": 1.0}, "saved must hold a kind"),
        ([1.0], "saved must hold a kind"),
        ({"kind": "platt", "slope": "steep"}, "finite numbers, got 'steep' as its slope"),
        ({"kind": "platt", "intercept": float("inf")}, "finite numbers, got inf as its intercept"),
        ({"kind": "isotonic"}, "scores that rise"),
        ({"kind": "isotonic", "scores": [1.0, 2.0], "probabilities": [0.1]}, "as many"),
        ({"kind": "isotonic", "scores": [1.0, 2.0], "probabilities": [0.1, 7.0]}, r"inside \[0, 1\], got"),
    ],
)
def test_what_is_no_map_is_not_restored(saved, said):
    with pytest.raises(ValueError, match=said):
        Calibration.from_dict(saved)


def test_scores_one_rounding_apart_still_make_steps_that_rise():
    rng = np.random.default_rng(0)
    for _ in range(300):
        knots = [rng.normal()]
        while len(knots) < 4:
            knots.append(np.nextafter(knots[-1], np.inf))
        sizes = rng.integers(1, 9, 4)
        s, y = np.repeat(knots, sizes), (rng.random(sizes.sum()) < 0.5).astype(float)
        if 0 < y.sum() < len(y):
            found = isotonic(s, y)
            assert (np.diff(found.scores) > 0).all() and min(knots) <= found.scores[0] <= found.scores[-1] <= max(knots)


@both
def test_scores_beyond_all_measure_are_refused(fit):
    with pytest.raises(ValueError, match=r"scores must lie between -1e100 and 1e100, got 1e[+]308"):
        fit([1e308, -1.0, 2.0], [1, 0, 1])


def test_equal_answers_stay_in_one_bin_whatever_the_order_of_the_rows():
    found = reliability(np.full(200, 0.5), [0] * 100 + [1] * 100)
    assert found.ece == 0 and [b.n for b in found.bins] == [200]
    said, seen = np.repeat([0.2, 0.8], 300), np.repeat([0, 1, 0, 1], [240, 60, 60, 240])
    assert reliability(said, seen).ece == pytest.approx(0, abs=1e-12)
    assert reliability(said, seen).bins == reliability(said[::-1], seen[::-1]).bins
