"Ranks against scipy and against the definition, and shifts that agree with their p-values."

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import Comparison, NotEnough, non_inferiority
from seatrial.stats.rank import Ladder, hodges_lehmann, law, mann_whitney, nth_difference, orders_needed, ties_at, wins

seeds = st.integers(0, 2**32 - 1)
sides = st.sampled_from(["two-sided", "greater", "less"])


@st.composite
def arms(draw, least=5, most=40):
    "Two samples, rounded to anything from whole numbers (many ties) to six digits (none)."
    rng, digits = np.random.default_rng(draw(seeds)), draw(st.integers(0, 6))
    n, m = draw(st.integers(least, most)), draw(st.integers(least, most))
    return np.round(rng.normal(0, 2, n), digits), np.round(rng.normal(draw(st.floats(-2, 2)), 2, m), digits)


@settings(deadline=None)
@given(arms(), sides)
def test_p_values_are_those_of_scipy(pair, side):
    c, t = pair
    ours = mann_whitney(c, t, side=side)
    if isinstance(ours, Comparison):
        method = "exact" if ours.method.endswith("exact") else "asymptotic"
        theirs = stats.mannwhitneyu(t, c, alternative=side, method=method)
        assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-8)
        assert ours.standardized == pytest.approx(2 * theirs.statistic / (len(c) * len(t)) - 1, abs=1e-12)


@settings(deadline=None)
@given(arms(), sides, st.floats(-3, 3), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_shift_lies_outside_the_interval_exactly_when_its_p_value_is_at_most_alpha(pair, side, null, alpha):
    for value in (null, 0.0, round(null)):
        found = mann_whitney(*pair, alpha, side=side, null=value)
        if isinstance(found, Comparison):
            assert found.significant == (found.p_value <= alpha)
            assert found.lower <= found.upper


@given(arms(2, 60))
def test_the_estimate_is_the_median_of_all_differences(pair):
    c, t = pair
    every = np.sort((t[:, None] - c).ravel())
    ladders = Ladder.of(c), Ladder.of(t)
    assert hodges_lehmann(*ladders) == pytest.approx(np.median(every), abs=1e-12)
    for k in (1, len(every) // 3 + 1, len(every)):
        assert nth_difference(*ladders, k) == every[k - 1]


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "whole", "zeros", "decimals"])
def test_large_samples_find_the_same_order_statistics_without_listing_all_differences(draw):
    rng = np.random.default_rng(5)
    samples = []
    for n in (1500, 1900):
        x = rng.standard_cauchy(n) if draw == "standard_cauchy" else rng.normal(0, 3, n)
        x = {"whole": lambda x: np.round(100 * x), "zeros": lambda x: np.maximum(x, 0)}.get(draw, lambda x: x)(x)
        samples.append(np.round(x, 3) if draw == "decimals" else x)
    c, t = samples
    every = np.sort((t[:, None] - c).ravel())
    for k in (1, 977, len(every) // 2, len(every) - 40):
        assert nth_difference(Ladder.of(c), Ladder.of(t), k) == pytest.approx(every[k - 1], abs=1e-12)


def test_a_hundred_thousand_units_an_arm_are_compared():
    rng = np.random.default_rng(0)
    c, t = rng.normal(size=100_000), rng.normal(0.02, 1, 100_000)
    found = mann_whitney(c, t)
    assert found.lower < 0.02 < found.upper and abs(found.effect - 0.02) < 0.02
    share = (wins(Ladder.of(c), Ladder.of(t), found.lower) / 1e10 - 0.5) / math.sqrt(2e5 / 12 / 1e10)
    assert share == pytest.approx(1.96, abs=0.01)


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_law_of_u_is_that_of_counted_orders(n, m):
    p = law(n, m)
    assert p.sum() == pytest.approx(1) and np.allclose(p, p[::-1])
    assert p[0] == pytest.approx(1 / math.comb(n + m, n)) and p @ np.arange(n * m + 1) == pytest.approx(n * m / 2)


@given(arms(1, 20), st.integers(-2, 2))
def test_ties_are_counted_as_scipy_counts_them(pair, shift):
    c, t = pair
    g = np.unique(np.concatenate([c, t - shift]), return_counts=True)[1]
    assert ties_at(Ladder.of(c), Ladder.of(t), shift) == (g**3 - g).sum()


@given(arms())
def test_exchanging_the_arms_turns_the_shift_around(pair):
    there, back = mann_whitney(*pair), mann_whitney(*pair[::-1])
    if isinstance(there, Comparison):
        expected = [-back.effect, -back.upper, -back.lower, back.p_value, -back.standardized]
        got = [there.effect, there.lower, there.upper, there.p_value, there.standardized]
        assert np.allclose(got, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_the_relative_shift_is_a_factor_and_does_not_know_the_unit(seed, unit):
    rng = np.random.default_rng(seed)
    c, t = rng.lognormal(0, 1, 25), 1.5 * rng.lognormal(0, 1, 30)
    here, there = (mann_whitney(k * c, k * t, relative=True) for k in (1.0, unit))
    assert np.allclose([here.effect, here.lower, here.upper], [there.effect, there.lower, there.upper], rtol=1e-9)
    assert here.p_value == pytest.approx(mann_whitney(c, t).p_value)
    logs = mann_whitney(np.log(c), np.log(t))
    assert here.lower == pytest.approx(math.expm1(logs.lower)) and here.scale == "relative"


@pytest.mark.parametrize(("n", "m", "draw"), [(6, 8, "normal"), (15, 25, "exponential"), (60, 60, "poisson")])
def test_the_interval_covers_the_shift_at_its_stated_rate(n, m, draw):
    rng, runs, hits = np.random.default_rng(n), 1500, 0
    for _ in range(runs):
        c, t = (getattr(rng, draw)(size=k) if draw != "poisson" else rng.poisson(9, k) for k in (n, m))
        found = mann_whitney(c, np.asarray(t) + 2.0, null=2.0)
        hits += not found.significant
    assert hits / runs > 0.95 - 4 * math.sqrt(0.05 * 0.95 / runs)


def test_a_shift_is_judged_against_a_margin_like_a_mean():
    rng = np.random.default_rng(1)
    c, t = rng.standard_t(2, 400), rng.standard_t(2, 400) + 0.02
    assert non_inferiority(mann_whitney, c, t, margin=0.4, better="lower").verdict == "non-inferior"


def test_far_tails_are_not_flushed_to_zero():
    c, t = np.arange(900.0), np.arange(900.0) + 880
    assert 0 < mann_whitney(c, t).p_value < 1e-250


@pytest.mark.parametrize(
    ("pair", "needed"),
    [(([1, 2, 3], [4, 5, 6]), 4), (([], [1.0]), 4), (([2] * 9, [2] * 9), 2), (([1], range(2, 30)), 4)],
)
def test_too_little_is_an_answer_of_its_own_type(pair, needed):
    found = mann_whitney(*pair)
    assert isinstance(found, NotEnough) and found.needed == needed


def test_one_against_forty_is_enough_where_the_order_is_rare():
    found = mann_whitney(np.arange(40.0), [100.0])
    assert found.p_value == pytest.approx(2 / 41) and found.lower > 0 and orders_needed(0.025) == 4


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"control": [1, np.nan, 2]}, "control must be finite, got 1 NaN"),
        ({"relative": True, "control": [-1.0, 2, 3]}, "control must be positive on the relative scale"),
        ({"relative": True, "null": -1.0}, "null must be above -1 on the relative scale, got null=-1"),
        ({"null": math.inf}, "null must be a finite number"),
        ({"alpha": 0}, "alpha must lie strictly between 0 and 1, got alpha=0"),
        ({"side": "up"}, "side must be one of"),
    ],
)
def test_bad_input_is_named(how, words):
    call = {"control": [1.0, 2, 3, 4], "treatment": [2.0, 5, 6, 7]} | how
    with pytest.raises(ValueError, match=re.escape(words)):
        mann_whitney(**call)
