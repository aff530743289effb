"Rates at every look: fair games by enumeration, bounds, and agreement of p-value and interval."

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from seatrial.stats.betting import (
    BINARY,
    always_valid_rates,
    arms_evidence,
    committee,
    conversion_ratio,
    factors,
    outermost,
    profile_evidence,
    rate_evidence,
    rate_sequence,
    scores,
)
from seatrial.stats.comparison import Comparison, NotEnough, equivalence, non_inferiority
from seatrial.stats.moments import Moments
from seatrial.stats.proportion import Count

rates = st.floats(0.001, 0.999)
shares = st.sampled_from([0.05, 0.1, 0.5, 0.9])
sides = st.sampled_from(["two-sided", "greater", "less"])


@st.composite
def trials(draw, most=3000):
    n_c, n_t = draw(st.integers(1, most)), draw(st.integers(1, most))
    return (draw(st.integers(0, n_c)), n_c), (draw(st.integers(0, n_t)), n_t)


@st.composite
def tossed_trials(draw, shares, most=6000):
    "Counts as a coin of that share could have left them, and the share; None: any counts."
    share, total = draw(shares), draw(st.integers(2, most))
    w = 0.5 if share is None else share
    n_t = round(total * w + draw(st.floats(-4.5, 4.5)) * math.sqrt(total * w * (1 - w)))
    n_t = min(max(n_t, 1), total - 1)
    return (draw(st.integers(0, total - n_t)), total - n_t), (draw(st.integers(0, n_t)), n_t), share


def binomial(n, p):
    return stats.binom.pmf(np.arange(n + 1), n, p)


@given(rates, st.integers(1, 60), st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)))
def test_the_fortune_on_one_rate_is_fair_at_the_claim_and_loses_beyond_it(m, n, prior):
    k = np.arange(n + 1)
    above, below = (np.exp(rate_evidence(k, n, m, side, prior)) for side in ("greater", "less"))
    assert binomial(n, m) @ above == pytest.approx(1, rel=1e-6)
    assert binomial(n, m) @ below == pytest.approx(1, rel=1e-6)
    assert binomial(n, m / 2) @ above <= 1 + 1e-9 and binomial(n, (1 + m) / 2) @ below <= 1 + 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=2, max_size=4), st.integers(1, 4))
def test_values_between_0_and_1_can_only_lower_the_expectation(points, n):
    values, chances = (np.array(x) for x in zip(*points, strict=True))
    chances = chances / chances.sum()
    mean = float(values @ chances)
    assume(0.001 < mean < 0.999)
    runs = list(itertools.product(range(values.size), repeat=n))
    weight = np.array([chances[list(run)].prod() for run in runs])
    total = np.array([values[list(run)].sum() for run in runs])
    for side in ("greater", "less", "two-sided"):
        assert weight @ np.exp(rate_evidence(total, n, mean, side)) <= 1 + 1e-9


@pytest.mark.parametrize(("k", "n", "m"), [(3, 10, 0.1), (0, 40, 0.02), (7, 9, 0.5), (120, 10_000, 0.01)])
def test_the_closed_form_is_the_integral(k, n, m):
    prior = stats.beta(0.5, 0.5)

    def won(q):
        return math.exp(k * math.log(q / m) + (n - k) * math.log((1 - q) / (1 - m))) * prior.pdf(q)

    middle = sorted({m, min(max(k / n, m), 1 - 1e-9), min(1 - 1e-9, 3 * m)})
    found = sum(integrate.quad(won, a, b, limit=200)[0] for a, b in itertools.pairwise([*middle, 1 - 1e-15]))
    assert math.exp(rate_evidence(k, n, m)) == pytest.approx(found / prior.sf(m), rel=1e-5)


def test_a_rate_is_covered_at_all_looks():
    rng, runs = np.random.default_rng(0), 400
    for p in (0.001, 0.01, 0.1, 0.5):
        k = np.cumsum(rng.random((runs, 1000)) < p, axis=1)
        missed = (rate_evidence(k, np.arange(1, 1001), p, "two-sided") >= math.log(20)).any(axis=1).mean()
        assert missed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@given(st.integers(0, 2000), st.integers(0, 2000), st.floats(0.001, 0.3), sides)
def test_the_bounds_are_where_the_evidence_refutes(k, more, alpha, side):
    n = k + more
    lower, upper = rate_sequence(k, n, alpha, side)
    assert 0 <= lower <= upper <= 1
    level = math.log((2 if side == "two-sided" else 1) / alpha)
    if lower > 0:
        assert rate_evidence(k, n, lower, "greater") == pytest.approx(level, rel=1e-3)
        assert lower < k / n and side != "less"
    if upper < 1:
        assert rate_evidence(k, n, upper, "less") == pytest.approx(level, rel=1e-3)
        assert upper > k / n and side != "greater"


@given(st.floats(0, 100), st.integers(100, 200))
def test_failures_are_successes_seen_from_the_other_side(s, n):
    lower, upper = rate_sequence(s, n)
    assert np.allclose(rate_sequence(n - s, n), (1 - upper, 1 - lower), atol=1e-9)


def test_a_sequence_is_wider_than_one_exact_look_and_narrows():
    for k, n in [(0, 50), (3, 50), (60, 1000), (5, 10_000)]:
        once = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        lower, upper = rate_sequence(k, n)
        assert lower <= once.low and once.high < upper
    widths = [np.subtract(*rate_sequence(n / 10, n)[::-1]) for n in (10, 100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)


@given(rates, rates, shares, st.sampled_from([0.2, 1.0, 3.0]))
def test_every_gambler_has_a_fair_game_at_a_true_claim(p_c, p_t, share, r):
    cells = np.array([(1 - share) * (1 - p_c), (1 - share) * p_c, share * (1 - p_t), share * p_t])
    z = scores(p_t - r * p_c, r, share, BINARY)
    assert np.allclose(z @ cells, 0, atol=1e-12)
    for sign in (1, -1):
        assert np.allclose(np.exp(factors(sign * z)) @ cells, 1, atol=1e-9)
    assert committee().sum() == pytest.approx(1)


@pytest.mark.parametrize(("p_c", "p_t", "share"), [(0.3, 0.3, 0.5), (0.02, 0.05, 0.5), (0.5, 0.4, 0.1)])
def test_the_committee_expects_one_coin_over_all_courses_of_six_units(p_c, p_t, share):
    cells = np.array([(1 - share) * (1 - p_c), (1 - share) * p_c, share * (1 - p_t), share * p_t])
    runs = np.array(list(itertools.product(range(4), repeat=6)))
    chance = cells[runs].prod(axis=1)
    count = (runs[:, :, None] == np.arange(4)).sum(axis=1)
    for d, r in ((p_t - p_c, 1.0), (0.0, p_t / p_c)):
        for side in ("greater", "less"):
            found = np.exp(arms_evidence(count[:, :2], count[:, 2:], d, r, share, side))
            assert chance @ found == pytest.approx(1, rel=1e-9)
        assert chance @ np.exp(arms_evidence(count[:, :2], count[:, 2:], d, r, share, "two-sided")) <= 1
        beyond = np.exp(arms_evidence(count[:, :2], count[:, 2:], d + 0.1, r, share, "greater"))
        assert chance @ beyond < 1  # the one-sided claim covers every smaller effect


@pytest.mark.parametrize(("n_c", "n_t"), [(6, 6), (12, 5), (1, 20)])
@pytest.mark.parametrize("p_c", [0.01, 0.3, 0.8])
@pytest.mark.parametrize(("d", "r"), [(0.0, 1.0), (0.1, 1.0), (0.0, 1.2)])
def test_the_profile_expects_at_most_one_coin_whatever_the_rates(n_c, n_t, p_c, d, r):
    k_c, k_t = np.meshgrid(np.arange(n_c + 1), np.arange(n_t + 1), indexing="ij")
    chance = np.outer(binomial(n_c, p_c), binomial(n_t, d + r * p_c))
    assert (chance * np.exp(profile_evidence((k_c, n_c), (k_t, n_t), d, r))).sum() <= 1


@given(trials(), st.floats(-0.9, 0.9))
def test_the_profile_is_the_best_likelihood_on_the_line(trial, d):
    (k_c, n_c), (k_t, n_t) = trial
    p = np.linspace(max(0, -d), min(1, 1 - d), 4001)[1:-1]
    tried = stats.binom.logpmf(k_c, n_c, p) + stats.binom.logpmf(k_t, n_t, d + p)
    marginal = stats.betabinom.logpmf(k_c, n_c, 0.5, 0.5) + stats.betabinom.logpmf(k_t, n_t, 0.5, 0.5)
    assert profile_evidence(*trial, d) <= marginal - tried.max() + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    tossed_trials(st.sampled_from([None, 0.1, 0.5])),
    st.floats(0.001, 0.3),
    sides,
    st.booleans(),
    st.floats(-0.5, 0.5),
)
def test_the_interval_excludes_the_null_exactly_where_p_is_below_alpha(tossed, alpha, side, relative, null):
    *trial, share = tossed
    assume(not relative or trial[0][0])
    found = always_valid_rates(*trial, alpha, side=side, relative=relative, null=null, share=share)
    assert found.lower <= found.effect <= found.upper and 0 <= found.p_value <= 1
    assert (found.lower == -math.inf or side != "less") and (found.upper == math.inf or side != "greater")
    if abs(math.log(max(found.p_value, 1e-300) / alpha)) > 1e-4 and (share is not None or side == "two-sided"):
        near = min(abs(found.lower - null), abs(found.upper - null)) < 1e-6
        (_, n_c), (_, n_t) = trial
        odd = share and abs(n_t - share * (n_c + n_t)) > 4 * math.sqrt((n_c + n_t) * share * (1 - share))
        hole = odd or n_c + n_t < 40  # then the claims that stand may have a hole, and the interval spans it
        assert near or found.significant == (found.p_value < alpha) or (hole and not found.significant)


@settings(max_examples=100, deadline=None)
@given(tossed_trials(st.sampled_from([0.2, 0.5, 0.8]), 1000))
def test_beyond_the_bounds_of_a_lift_every_claim_is_refuted(tossed):
    (k_c, n_c), (k_t, n_t), share = tossed
    assume(k_c)
    found = always_valid_rates(*tossed[:2], relative=True, share=share)
    c, t = np.array([n_c - k_c, k_c]), np.array([n_t - k_t, k_t])
    level = math.log(40)
    if found.lower > -1:
        below = (1 + found.lower) * np.linspace(0.001, 0.999, 200)
        assert (arms_evidence(c, t, 0.0, below, share, "greater") >= level - 1e-6).all()
    if found.upper < math.inf:
        above = (1 + found.upper) * np.geomspace(1.001, 1e4, 200)
        assert (arms_evidence(c, t, 0.0, above, share, "less") >= level - 1e-6).all()


@given(trials(), st.sampled_from([0.2, 0.5]))
def test_on_the_absolute_scale_evidence_falls_as_the_claim_moves_on(trial, share):
    (k_c, n_c), (k_t, n_t) = trial
    c, t, d = np.array([n_c - k_c, k_c]), np.array([n_t - k_t, k_t]), np.linspace(-0.999, 0.999, 200)
    assert (np.diff(arms_evidence(c, t, d, 1.0, share, "greater")) <= 1e-9).all()
    assert (np.diff(arms_evidence(c, t, d, 1.0, share, "less")) >= -1e-9).all()


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize(("p", "lift"), [(0.001, 1.0), (0.01, 1.5), (0.1, 1.0), (0.5, 1.5)])
def test_no_look_refutes_the_truth_too_often(p, lift, share):
    rng, runs, units = np.random.default_rng(4), 100, 1000
    treated = rng.random((runs, units)) < share
    x = rng.random((runs, units)) < np.where(treated, lift * p, p)
    cells = [np.cumsum(one, axis=1) for one in (~treated & ~x, ~treated & x, treated & ~x, treated & x)]
    c, t = np.stack(cells[:2], -1), np.stack(cells[2:], -1)
    for d, r in (((lift - 1) * p, 1.0), (0.0, lift)):
        missed = (arms_evidence(c, t, d, r, share, "two-sided") >= math.log(20)).any(axis=1).mean()
        assert missed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_bandit_that_reacts_cannot_fool_the_profile():
    rng, runs = np.random.default_rng(1), 400
    k, n, peak, each = np.zeros((2, runs)), np.zeros((2, runs)), np.zeros(runs), np.arange(runs)
    for i in range(200):
        worse = k[1] * n[0] < k[0] * n[1]  # ever more of the arm that looks worse
        arm = np.full(runs, i % 2) if i < 20 else worse.astype(int)
        k[arm, each] += rng.random(runs) < 0.3
        n[arm, each] += 1
        peak = np.maximum(peak, profile_evidence((k[0], n[0]), (k[1], n[1])))
    assert (peak >= math.log(20)).mean() <= 0.05


def test_counts_of_shards_add_up_and_every_form_of_counts_is_taken():
    x, y = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [80, 20])
    forms = [
        always_valid_rates(x, y, share=0.5),
        always_valid_rates((10, 100), (20, 100), share=0.5),
        always_valid_rates(Count(4, 60) + Count(6, 40), Count(20, 100), share=0.5),
        always_valid_rates(Moments.of(x), Moments.of(y), share=0.5),
    ]
    assert len({(f.lower, f.upper, f.p_value) for f in forms}) == 1


def test_exchanging_the_arms_exchanges_the_signs():
    found, back = (always_valid_rates(*pair, share=0.5) for pair in (((10, 90), (30, 110)), ((30, 110), (10, 90))))
    assert np.allclose([found.lower, found.upper], [-back.upper, -back.lower], atol=1e-9)
    assert found.p_value == pytest.approx(back.p_value)


def test_clear_differences_are_found_and_tiny_p_values_survive():
    for share in (0.5, None):
        found = always_valid_rates((100, 10_000), (1000, 10_000), share=share)
        assert found.significant and 0 < found.p_value < 1e-100
    assert always_valid_rates((1, 10), (9, 10), share=0.5).significant


def test_the_ratio_of_conversions_is_the_rate_of_their_labels():
    lower, upper = conversion_ratio(46, 69)
    assert np.allclose([lower / (1 + lower), upper / (1 + upper)], rate_sequence(69, 115))
    tenth = conversion_ratio(90, 10, share=0.1)
    assert tenth[0] < 1 < tenth[1] and conversion_ratio(0, 5)[1] == math.inf and conversion_ratio(5, 0)[0] == 0


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), sides, st.booleans(), st.sampled_from([None, 0.5]))
def test_arms_without_any_or_with_nothing_but_conversions_have_an_answer(n_c, n_t, side, relative, share):
    share = share if 0.2 < n_t / (n_c + n_t) < 0.8 else None
    for trial in itertools.product(((0, n_c), (n_c, n_c)), ((0, n_t), (n_t, n_t))):
        if relative and trial[0][0] == 0:
            continue
        found = always_valid_rates(*trial, 0.01, side=side, relative=relative, null=-0.01, share=share)
        assert isinstance(found, Comparison) and found.lower <= found.upper and not math.isnan(found.p_value)


def test_margins_can_be_watched():
    arms = (500, 5000), (505, 5000)
    assert non_inferiority(always_valid_rates, *arms, margin=0.04, share=0.5).verdict == "non-inferior"
    assert equivalence(always_valid_rates, *arms, margin=0.05, share=0.5).verdict == "equivalent"
    assert equivalence(always_valid_rates, (5, 50), (5, 50), margin=0.05, share=0.5).verdict == "open"


def test_the_search_returns_the_refuted_end():
    assert outermost(lambda x: np.where(x < 0.3, 0.0, 9.0), 0.0, 1.0, 1.0) == pytest.approx(0.3, abs=1e-9)
    assert outermost(lambda x: np.where(x < 0.3, 0.0, 9.0), 0.0, 1.0, 1.0) >= 0.3
    assert outermost(lambda x: 0 * x, 0.0, 1.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: always_valid_rates((7, 5), (1, 5)), "k must be between 0 and n=5, got k=7"),
        (lambda: always_valid_rates((-1, 5), (1, 5)), "k must be between 0 and n=5, got k=-1"),
        (lambda: always_valid_rates((1, 5), (1, 5), 5), "alpha must lie strictly between 0 and 1, got alpha=5"),
        (lambda: always_valid_rates((1, 5), (1, 5), share=0), "share must lie strictly between 0 and 1, got share=0"),
        (lambda: always_valid_rates((1, 5), (1, 5), side="up"), "side must be one of"),
        (lambda: always_valid_rates((1, 5), (1, 5), null=math.nan), "null must be a finite number, got null=nan"),
        (lambda: always_valid_rates((1, 5), (1, 5), relative=True, null=-1.5), "null must be above -1"),
        (lambda: always_valid_rates((1, 5), (1, 5), null=5), "null must lie strictly between -1 and 1, got null=5"),
        (lambda: always_valid_rates((1, 5), (1, 5), null=-1), "null must lie strictly between -1 and 1, got null=-1"),
        (lambda: always_valid_rates((5, 50), (9, 5000), share=0.5), "got share=0.5 with 50 control, 5000 treatment"),
        (lambda: rate_evidence(7, 5, 0.5), "s must lie between 0 and the number n of units, got s=7 and n=5"),
        (lambda: rate_evidence(np.array([1, math.nan]), 5, 0.5), "got s=nan and n=5"),
        (lambda: rate_evidence(2, 5, 1.5), "m must lie between 0 and 1, got 1.5"),
        (lambda: rate_evidence(2, 5, 0.5, prior=(0, 1)), "prior must be"),
        (lambda: rate_sequence(2, 5, prior=(-1, 1)), "prior must be"),
        (lambda: rate_sequence(6, 5), "got s=6 and n=5"),
        (lambda: rate_sequence(1, 5.5), "got s=1 and n=5.5"),
        (lambda: rate_sequence(math.nan, 5), "s must be a finite number, got s=nan"),
        (lambda: rate_sequence("a", 5), "s must be a finite number"),
        (lambda: rate_sequence(1, math.inf), "n=inf"),
        (lambda: conversion_ratio(1, 5, share=1), "share must lie strictly"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("k", [0, 3])
def test_a_control_without_a_conversion_has_no_lift(share, k):
    assert isinstance(always_valid_rates((0, 50), (k, 50), relative=True, share=share), NotEnough)
    assert isinstance(always_valid_rates((0, 50), (k, 50), share=share), Comparison)


def test_a_coin_that_falls_as_it_was_said_is_never_refused():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 0.9):
        for n in (2, 10, 1000, 100_000):
            n_t = min(max(rng.binomial(n, share), 1), n - 1)
            assert always_valid_rates((1, n - n_t), (1, n_t), share=share).p_value <= 1


def test_an_arm_without_units_is_not_enough():
    assert isinstance(always_valid_rates((0, 0), (1, 5)), NotEnough) and rate_sequence(0, 0) == (0.0, 1.0)
