"Whole rows: what tells them apart, how sure, and what is refused."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from seatrial.drift.vectors import area_interval, curved, domain_classifier, forward, linear, moved_most, newton
from seatrial.stats.comparison import NotEnough

RNG = np.random.default_rng


def clouds(seed, n, m, d=3, moved=0.0):
    rng = RNG(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + moved


@pytest.mark.parametrize(("n", "m", "d"), [(50, 50, 2), (400, 50, 10), (50, 50, 384)])
def test_false_alarms_come_at_their_stated_rate(n, m, d):
    rng, runs = RNG(1), 60 if d > 100 else 300
    told = [domain_classifier(rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng) for _ in range(runs)]
    assert np.mean([t.distance.p_value <= 0.05 for t in told]) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / runs)
    holds = np.mean([t.interval.lower <= 0.5 <= t.interval.upper for t in told])
    assert holds >= 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / runs)


def test_false_alarms_come_at_their_stated_rate_with_a_classifier_that_learns_by_heart():
    def nearest(x, y):
        return lambda new: y[((new[:, None] - x) ** 2).sum(axis=2).argmin(axis=1)].astype(float)

    rng = RNG(2)
    p = [domain_classifier(*clouds(i, 60, 60), rng, fit=nearest).distance.p_value for i in range(300)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 300)


def test_the_interval_covers_the_area_of_the_classifiers_at_hand():
    rng, hits = RNG(3), []
    for seed in range(200):
        told = domain_classifier(*clouds(seed, 100, 60, d=1, moved=1.0), rng, fit=lambda x, y: lambda new: new[:, 0])
        hits.append(told.interval.lower <= stats.norm.cdf(1 / np.sqrt(2)) <= told.interval.upper)
    assert np.mean(hits) >= 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 200)


def test_the_areas_are_those_of_scikit_learn():
    r, c = clouds(4, 200, 100, moved=0.5)
    (area, *_, a, b), *_ = forward(r, c, lambda x, y: lambda new: np.round(new[:, 0], 1), 2, RNG(5))
    rng = RNG(5)
    rows = [np.array_split(rng.permutation(len(x)), 2)[1] for x in (r, c)]
    scores = np.concatenate([np.round(x[i, 0], 1) for x, i in zip((r, c), rows, strict=True)])
    assert (a, b) == (100, 50) and np.isclose(area, roc_auc_score(np.repeat([0, 1], [a, b]), scores))


def test_the_logistic_regression_is_that_of_scikit_learn():
    r, c = clouds(6, 300, 150, moved=0.4)
    x, y = np.vstack([r, c]), np.repeat([0, 1], [300, 150])
    theirs = LogisticRegression(C=0.5, tol=1e-10).fit(x, y)
    assert np.allclose(newton(x, y, penalty=2.0)[:-1], theirs.coef_[0], atol=1e-4)


def test_more_columns_than_rows_have_the_same_solution_as_fewer():
    r, c = clouds(7, 15, 15, d=40, moved=0.5)
    x, y = np.vstack([r, c]), np.repeat([0, 1], [15, 15])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    assert np.allclose(linear(x, y)(x), z @ newton(z, y, penalty=4.0)[:-1], atol=1e-6)


def test_a_lost_correlation_is_seen_by_the_curved_classifier_and_not_by_the_straight_one():
    rng = RNG(8)
    both = rng.normal(size=(600, 1)) + 0.5 * rng.normal(size=(600, 2))
    none = rng.normal(size=(200, 2)) * np.sqrt(1.25)
    assert domain_classifier(both, none, RNG(0), fit=curved).distance.p_value < 1e-6
    assert domain_classifier(both, none, RNG(0), fit=linear).distance.p_value > 0.01


def test_a_perfect_separation_keeps_an_interval_with_a_width():
    told = domain_classifier(*clouds(9, 60, 60, moved=50.0), RNG(0))
    assert told.auc == told.interval.upper == 1 and 0.9 < told.interval.lower < 1 and told.distance.value == 1


@given(st.floats(0, 1), st.integers(2, 300), st.integers(2, 300), st.integers(1, 9))
def test_the_interval_contains_its_area_and_stays_inside_0_to_1(area, n, m, blocks):
    low, high = area_interval(area, [(n, m)] * blocks)
    assert 0 <= low <= area + 1e-9 and area - 1e-9 <= high <= 1 and low < high
    mirrored = area_interval(1 - area, [(n, m)] * blocks)
    assert np.isclose(mirrored.lower, 1 - high, atol=1e-6) and np.isclose(mirrored.upper, 1 - low, atol=1e-6)


def test_constant_columns_and_constant_tables_say_nothing():
    rng = RNG(10)
    flat = domain_classifier(np.ones((50, 3)), np.ones((50, 3)), rng)
    assert flat.distance.value == 0 and flat.distance.p_value == 1 and flat.auc == 0.5
    r, c = clouds(11, 100, 100, moved=1.0)
    assert domain_classifier(np.c_[r, np.ones(100)], np.c_[c, np.ones(100)], rng).distance.p_value < 1e-6


def test_a_column_that_was_constant_and_changes_is_seen_and_named():
    r, c = clouds(12, 100, 100)
    told = domain_classifier(np.c_[r, np.zeros(100)], np.c_[c, np.ones(100)], RNG(0))
    assert told.distance.value > 0.9 and told.words.startswith("column 3")


def test_units_and_one_outlier_do_not_matter():
    r, c = clouds(13, 200, 100, moved=0.8)
    spoiled = c.copy()
    spoiled[0, 0] = 1e9
    base = domain_classifier(r, c, RNG(0)).auc
    assert abs(domain_classifier(r * [1e6, 1, 1e-6], c * [1e6, 1, 1e-6], RNG(0)).auc - base) < 0.01
    assert abs(domain_classifier(r, spoiled, RNG(0)).auc - base) < 0.05


def test_what_moved_by_chance_is_not_named():
    named = [moved_most(*clouds(seed, 200, 100, d=50)) for seed in range(60)]
    assert sum(w != "no column's mean stands out" for w in named) <= 2


def test_the_answer_depends_on_the_generator_and_on_nothing_else():
    r, c = clouds(14, 80, 60, moved=0.3)
    assert domain_classifier(r, c, RNG(3)) == domain_classifier(r, c, RNG(3))


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_too_few_rows_are_not_health(rows):
    r, c = clouds(15, 50, rows)
    found = domain_classifier(r, c, RNG(0))
    assert isinstance(found, NotEnough) and (found.needed, found.got) == (10, rows)


@pytest.mark.parametrize(
    ("reference", "current", "message"),
    [
        (np.zeros((20, 2)), np.zeros((20, 3)), "must be as wide, got 2 and 3 columns"),
        (np.zeros((20, 2)), np.zeros(20), r"current must be a table of rows and columns, got shape \(20,\)"),
        (np.zeros((20, 0)), np.zeros((20, 0)), "reference must be a table of rows and columns"),
        (np.full((20, 2), np.nan), np.zeros((20, 2)), "reference must be finite, got 40 NaN"),
        (np.zeros((20, 2)), np.full((20, 2), np.inf), "current must be finite, got 0 NaN and 40 infinite"),
        (np.zeros((20, 2)), np.full((20, 2), "a"), "current must hold numbers"),
    ],
)
def test_what_is_not_a_table_of_numbers_is_refused_by_name(reference, current, message):
    with pytest.raises(ValueError, match=message):
        domain_classifier(reference, current, RNG(0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"blocks": 1}, "got blocks=1"), ({"alpha": 0.0}, "alpha"), ({"names": ["a"]}, "got 1 for 3 columns")],
)
def test_settings_outside_their_range_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        domain_classifier(*clouds(16, 50, 50), RNG(0), **bad)


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-40, 2.0**520, 2.0**1000])
@pytest.mark.parametrize("fit", [curved, linear])
def test_no_area_depends_on_the_unit(scale, fit):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(1, 1, size=(60, 3))
    plain, scaled = (domain_classifier(x * s, y * s, np.random.default_rng(1), fit=fit) for s in (1.0, scale))
    assert scaled.auc == pytest.approx(plain.auc) and plain.auc > 0.8 and scaled.words == plain.words


def test_a_constant_column_has_not_moved_by_rounding():
    assert moved_most(np.full((1000, 1), 0.1), np.full((77, 1), 0.1)) == "no column's mean stands out"
    assert moved_most(np.full((1000, 1), 0.1), np.full((77, 1), 0.2)) == "column 0 +inf sd"
