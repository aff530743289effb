"An experiment that is broken is accused, and a sound one hardly ever."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.multivariate.manova import MANOVA

from seatrial.stats.comparison import NotEnough, welch
from seatrial.stats.joint import Joint
from seatrial.stats.moments import Moments
from seatrial.stats.soundness import (
    a_a,
    balance,
    exact_split,
    hotelling,
    mismatch,
    novelty,
    sample_ratio,
    trend,
)

HALVES = {"a": 0.5, "b": 0.5}


# ---------------------------------------------------------------- the split, watched


@settings(max_examples=50, deadline=None)
@given(theta=st.floats(0.02, 0.98), seed=st.integers(0, 10_000))
def test_exact_proportions_are_never_an_alarm(theta, seed):
    n = 1000 + seed
    k = round(theta * n)
    assert mismatch({"challenger": k, "champion": n - k}, {"challenger": theta, "champion": 1 - theta}) > 0.5


def test_the_mismatch_p_value_holds_at_every_look():
    rng, theta, ever = np.random.default_rng(2), 0.25, 0
    for _ in range(400):
        k = np.cumsum(rng.random(1500) < theta)
        looks = range(20, 1500, 20)
        ps = [
            mismatch(
                {"challenger": int(k[n]), "champion": int(n + 1 - k[n])}, {"challenger": theta, "champion": 1 - theta}
            )
            for n in looks
        ]
        ever += min(ps) < 0.05
    assert ever / 400 <= 0.05


@settings(deadline=None)
@given(shares=st.lists(st.integers(1, 20), min_size=2, max_size=4), n=st.integers(1, 6), weight=st.floats(0.5, 500))
def test_the_bet_on_the_split_is_fair_at_every_size(shares, n, weight):
    theta = np.array(shares) / sum(shares)
    names = [str(i) for i in range(len(theta))]
    expected = 0.0
    for counts in np.ndindex(*(n + 1,) * len(theta)):
        if sum(counts) == n:
            p = mismatch(dict(zip(names, counts, strict=True)), dict(zip(names, theta, strict=True)), weight)
            assert 0 < p <= 1
            log_beta = math.lgamma(weight) - math.lgamma(weight + n)
            log_beta += sum(
                math.lgamma(weight * s + k) - math.lgamma(weight * s) for s, k in zip(theta, counts, strict=True)
            )
            ways = math.factorial(n) / math.prod(math.factorial(k) for k in counts)
            likelihood = math.prod(s**k for s, k in zip(theta, counts, strict=True))
            assert p == pytest.approx(min(1.0, likelihood / math.exp(log_beta)), rel=1e-6)
            expected += ways * math.exp(log_beta)  # probability of the counts times e
    assert expected == pytest.approx(1, rel=1e-6)


def test_lost_units_are_found():
    assert mismatch({"challenger": 700, "champion": 9000}, {"challenger": 0.1, "champion": 0.9}) < 1e-6
    assert mismatch({"challenger": 0, "champion": 200}, {"challenger": 0.1, "champion": 0.9}) < 1e-3


@pytest.mark.parametrize("method", ["auto", "exact", "chi-squared", "sequential"])
def test_an_arrival_where_the_share_is_zero_is_impossible(method):
    shares = {"challenger": 0.0, "champion": 1.0}
    assert mismatch({"challenger": 1, "champion": 10_000}, shares) == 0.0
    assert sample_ratio({"challenger": 1, "champion": 10_000}, shares, method=method).verdict == "suspect"
    assert mismatch({"champion": 10_000}, shares) == 1.0


# ---------------------------------------------------------------- the split, once


@settings(deadline=None)
@given(k=st.integers(0, 300), n=st.integers(1, 300), theta=st.floats(0.01, 0.99))
def test_two_arms_are_tested_like_scipys_binomial(k, n, theta):
    k = min(k, n)
    ours = sample_ratio({"a": k, "b": n - k}, {"a": theta, "b": 1 - theta}, 0.999, method="exact")
    theirs = stats.binomtest(k, n, theta).pvalue
    assert ours.p_value == pytest.approx(theirs, rel=1e-9) or (ours.verdict == "not enough data" and theirs > 0.999)


@settings(max_examples=30, deadline=None)
@given(counts=st.tuples(*[st.integers(0, 8)] * 3), shares=st.tuples(*[st.integers(1, 9)] * 3))
def test_three_arms_are_added_up_exactly(counts, shares):
    theta, n = np.array(shares) / sum(shares), sum(counts)
    every = [(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]
    p = stats.multinomial.pmf(every, n, theta)
    seen = stats.multinomial.pmf(counts, n, theta)
    assert exact_split(counts, theta) == pytest.approx(min(1.0, p[p <= seen * (1 + 1e-9)].sum()), rel=1e-9)


def test_chi_squared_agrees_with_scipy():
    counts, shares = {"a": 5210, "b": 2480, "c": 2310}, {"a": 0.5, "b": 0.25, "c": 0.25}
    ours = sample_ratio(counts, shares, method="chi-squared").p_value
    assert ours == pytest.approx(stats.chisquare(list(counts.values()), [5000, 2500, 2500]).pvalue, rel=1e-9)


def test_a_tiny_p_value_of_a_split_is_not_flushed_to_zero():
    assert 0 < sample_ratio({"a": 500_000, "b": 474_000}, HALVES).p_value < 1e-140
    assert 0 < mismatch({"a": 500_000, "b": 474_000}, HALVES) < 1e-140


@pytest.mark.parametrize("method", ["exact", "chi-squared", "sequential"])
def test_too_few_units_are_not_called_sound(method):
    few = sample_ratio({"a": 2, "b": 1}, HALVES, method=method)
    assert few.verdict == "not enough data" and math.isnan(few.p_value)
    assert sample_ratio({}, HALVES, method=method).verdict == "not enough data"
    assert sample_ratio({"a": 5000, "b": 5010}, HALVES, method=method).verdict == "sound"
    assert sample_ratio({"a": 5000, "b": 4000}, HALVES, method=method).verdict == "suspect"


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ({"a": 1, "c": 1}, HALVES, "counts must be of the variants"),
        ({"a": -1}, HALVES, "whole numbers and not negative"),
        ({"a": 1.5}, HALVES, "whole numbers and not negative"),
        ({"a": math.nan}, HALVES, "whole numbers and not negative"),
        ({"a": None}, HALVES, "whole numbers and not negative"),
        ({"a": 1}, {"a": None, "b": 1.0}, "shares must"),
        ({"a": 1}, {"a": 0.5, "b": 0.4}, "shares must"),
        ({"a": 1}, {}, "shares must"),
        ({"a": 1}, {"a": math.nan, "b": 1.0}, "shares must"),
    ],
)
def test_impossible_counts_and_shares_are_refused(counts, shares, message):
    for ask in (mismatch, sample_ratio):
        with pytest.raises(ValueError, match=message):
            ask(counts, shares)


def test_a_bad_level_weight_or_method_is_refused():
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1, got alpha=5"):
        sample_ratio({"a": 1}, HALVES, 5)
    with pytest.raises(ValueError, match="weight must be a positive number"):
        mismatch({"a": 1}, HALVES, 0)
    with pytest.raises(ValueError, match="method must be one of"):
        sample_ratio({"a": 1}, HALVES, method="g")
    with pytest.raises(ValueError, match="exact takes at most"):
        sample_ratio(dict.fromkeys("abc", 10**5), {"a": 0.4, "b": 0.3, "c": 0.3}, method="exact")


# ---------------------------------------------------------------- balance


def columns(x):
    return {str(i): x[:, i] for i in range(x.shape[1])}


@pytest.mark.parametrize("k", [1, 3, 7])
def test_hotelling_agrees_with_manova_of_statsmodels(k):
    rng = np.random.default_rng(k)
    c, t = rng.normal(size=(40, k)) @ rng.normal(size=(k, k)), rng.normal(0.3, 1, (25, k))
    arm = np.repeat([0.0, 1.0], [40, 25])
    if k == 1:
        theirs = stats.ttest_ind(c[:, 0], t[:, 0]).pvalue
    else:
        fit = MANOVA(np.vstack([c, t]), np.column_stack([np.ones(65), arm])).mv_test([("arm", np.array([[0.0, 1.0]]))])
        theirs = float(fit.results["arm"]["stat"].loc["Hotelling-Lawley trace", "Pr > F"])
    assert hotelling(Joint.of(columns(c)), Joint.of(columns(t))) == pytest.approx(theirs, rel=1e-6)


def test_a_covariate_that_repeats_others_changes_nothing():
    rng = np.random.default_rng(5)
    c, t = rng.normal(size=(50, 3)), rng.normal(0.2, 1, (50, 3))
    doubled = [np.column_stack([x, x.sum(axis=1) * 1000 + 7, np.ones(50)]) for x in (c, t)]
    plain = hotelling(*(Joint.of(columns(x)) for x in (c, t)))
    assert hotelling(*(Joint.of(columns(x)) for x in doubled)) == pytest.approx(plain, rel=1e-6)


def test_arms_drawn_by_lot_are_accused_as_seldom_as_promised():
    rng, accused, runs = np.random.default_rng(6), 0, 1500
    for _ in range(runs):
        x = np.exp(
            rng.normal(size=(120, 4)) @ np.array([[1, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]]) / 3
        )
        accused += balance(columns(x[:60]), columns(x[60:]), alpha=0.05).verdict == "suspect"
    assert accused / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_balance_of_summaries_is_that_of_the_data():
    rng = np.random.default_rng(7)
    c, t = columns(rng.normal(size=(80, 3))), columns(rng.normal(size=(90, 3)))
    shards = sum(
        (Joint.of({k: v[i::4] for k, v in c.items()}) for i in range(1, 4)), Joint.of({k: v[::4] for k, v in c.items()})
    )
    whole, merged = balance(c, t), balance(shards, Joint.of(t))
    assert merged.p_value == pytest.approx(whole.p_value, rel=1e-9)
    smd = whole.details[0]
    a, b = c[smd.covariate], t[smd.covariate]
    assert smd.standardized == pytest.approx((b.mean() - a.mean()) / math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))


def test_a_constant_that_differs_is_accused_and_one_that_agrees_is_not():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert balance({"x": x, "new": np.zeros(50)}, {"x": y, "new": np.ones(50)}).verdict == "suspect"
    assert balance({"x": x, "new": np.zeros(50)}, {"x": y, "new": np.zeros(50)}).verdict == "sound"


def test_more_covariates_than_units_leave_the_single_ones():
    rng = np.random.default_rng(9)
    c, t = columns(rng.normal(size=(5, 12))), columns(rng.normal(size=(5, 12)))
    assert balance(c, t).verdict == "sound"
    assert balance({"x": [1.0]}, {"x": [2.0, 3.0]}).verdict == "not enough data"


def test_covariates_with_holes_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        balance({"x": [1.0, np.nan, 3.0]}, {"x": [1.0, 2.0, 3.0]})


# ---------------------------------------------------------------- novelty


def test_the_trend_is_the_weighted_regression_of_numpy():
    rng = np.random.default_rng(10)
    days, errors = np.arange(9.0), rng.uniform(0.5, 2, 9)
    effects = 0.4 * days + rng.normal(0, errors)
    line = trend(days, effects, errors, 0.05)
    slope, intercept = np.polyfit(days, effects, 1, w=1 / errors)
    assert line.slope == pytest.approx(slope) and line.first == pytest.approx(intercept)
    assert line.last == pytest.approx(intercept + 8 * slope)


def test_a_steady_effect_is_accused_as_seldom_as_promised_even_with_weekdays():
    rng, accused, runs = np.random.default_rng(11), 0, 2000
    week = np.tile([0, 0, 0, 0, 0, 3.0, 3.0], 2)
    for _ in range(runs):
        errors = rng.uniform(0.5, 1.5, 14)
        shift = rng.permutation(week)  # days differ by more than their errors
        accused += trend(np.arange(14.0), rng.normal(0.3 + shift, errors), errors, 0.05).p_value <= 0.05
    assert accused / runs <= 0.05 + 5 * math.sqrt(0.05 * 0.95 / runs)


def test_days_without_units_are_skipped_and_the_others_keep_their_place():
    rng = np.random.default_rng(12)
    c, t = [rng.normal(size=200) for _ in range(6)], [rng.normal(2 - 0.3 * j, 1, 200) for j in range(6)]
    c[2] = np.array([])
    worn = novelty(c, t)
    assert worn.verdict == "suspect" and worn.details.days.tolist() == [0, 1, 3, 4, 5]
    assert worn.details.slope == pytest.approx(-0.3, abs=0.1)
    assert novelty([Moments.of(x) for x in c], t).p_value == pytest.approx(worn.p_value)


# ---------------------------------------------------------------- A/A


def test_a_fair_comparison_passes_and_an_overconfident_one_does_not():
    x = np.random.default_rng(13).lognormal(size=600)

    def boastful(c, t, alpha):
        return welch(np.tile(c, 2), np.tile(t, 2), alpha)

    assert a_a(x, welch, 400).verdict == "sound"
    assert a_a(x, boastful, 400).verdict == "suspect"


def test_the_same_seed_draws_the_same_lots():
    x = np.random.default_rng(14).normal(size=100)
    one, two = (a_a(x, welch, 100, np.random.default_rng(3)) for _ in range(2))
    assert (one.details == two.details).all() and one.words == two.words


def test_lots_by_unit_find_rows_that_belong_together():
    rng = np.random.default_rng(15)
    units = np.repeat(np.arange(100), 8)
    x = rng.normal(size=100)[units] + rng.normal(size=800)
    assert a_a(x, welch, 300, units=units).verdict == "suspect"
    assert a_a(x, welch, 300).verdict == "sound"


def test_comparisons_without_an_answer_are_no_answer():
    assert a_a(np.zeros(50), welch, 100).verdict == "not enough data"
    assert isinstance(welch(np.zeros(5), np.zeros(5)), NotEnough)
    with pytest.raises(ValueError, match="runs must be at least 100"):
        a_a(np.zeros(50), welch, 10)
    with pytest.raises(ValueError, match="one unit for each of the 50 rows"):
        a_a(np.zeros(50), welch, units=[1, 2])


@pytest.mark.parametrize("unit", [2.0**-664, 2.0**600])
def test_balance_does_not_depend_on_how_small_a_unit_is(unit):
    arms = np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 4.0])
    tiny, plain = (balance(*({"x": x * k} for x in arms)) for k in (unit, 1.0))
    assert math.isclose(tiny.p_value, plain.p_value) and tiny.verdict == "sound"
