"Counts against scipy and statsmodels, and rates of events that agree with their p-values."

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats.contingency import association
from statsmodels.stats.contingency_tables import Table
from statsmodels.stats.rates import test_poisson_2indep

from seatrial.stats.comparison import Comparison, NotEnough, non_inferiority
from seatrial.stats.count import (
    CountTest,
    Events,
    cochran,
    cramers_v,
    goodness,
    independence,
    misfit,
    poisson_rates,
    score_of_rates,
)

test_poisson_2indep.__test__ = False
seeds = st.integers(0, 2**32 - 1)
sides = st.sampled_from(["two-sided", "greater", "less"])
arms = st.builds(Events, st.integers(0, 60), st.floats(0.5, 50))


@given(seeds, st.integers(2, 6), st.integers(2, 6))
def test_tables_are_judged_as_by_scipy_and_statsmodels(seed, rows, columns):
    table = np.random.default_rng(seed).poisson(30, (rows, columns)) + 10
    for measure, name in (("chi2", "pearson"), ("g", "log-likelihood")):
        ours, theirs = (
            independence(table, measure=measure),
            stats.chi2_contingency(table, correction=False, lambda_=name),
        )
        expected = [theirs.statistic, theirs.pvalue, theirs.dof]
        assert np.allclose([ours.statistic, ours.p_value, ours.df], expected, rtol=1e-8)
    other = Table(table, shift_zeros=False)
    assert np.allclose(ours.residuals, other.standardized_resids) and np.allclose(ours.expected, other.fittedvalues)
    assert abs(ours.drivers[0][1]) == pytest.approx(np.abs(other.standardized_resids).max())


@given(seeds, st.integers(2, 8))
def test_lists_are_judged_as_by_scipy(seed, cells):
    rng = np.random.default_rng(seed)
    counts, shares = rng.poisson(40, cells) + 5, rng.dirichlet(np.full(cells, 20))
    if cochran(counts.sum() * shares) > 1:
        return
    for measure, name in (("chi2", "pearson"), ("g", "log-likelihood")):
        ours = goodness(counts, shares, measure=measure)
        theirs = stats.power_divergence(counts, counts.sum() * shares, lambda_=name)
        assert np.allclose([ours.statistic, ours.p_value], theirs, rtol=1e-8)
    assert ours.effect == pytest.approx(math.sqrt(stats.chisquare(counts, counts.sum() * shares).statistic / ours.n))


@given(seeds)
def test_v_without_chance_is_close_to_plain_v_in_large_samples_and_none_in_independent_ones(seed):
    rng = np.random.default_rng(seed)
    strong = rng.multinomial(200_000, [0.3, 0.1, 0.05, 0.15, 0.1, 0.3]).reshape(2, 3)
    assert independence(strong).effect == pytest.approx(association(strong, "cramer"), abs=0.003)
    independent = np.outer([30, 50], [20, 40, 60])
    assert independence(independent).effect == 0 and independence(independent).p_value == pytest.approx(1)


def test_plain_v_is_biased_and_the_corrected_one_is_not():
    rng, plain, corrected = np.random.default_rng(0), [], []
    for _ in range(400):
        table = rng.multinomial(200, np.full(24, 1 / 24)).reshape(6, 4)
        e = np.outer(table.sum(1), table.sum(0)) / 200
        chi2 = float(misfit(table.ravel(), e.ravel(), "chi2"))
        plain.append(math.sqrt(chi2 / 200 / 3))
        corrected.append(cramers_v(chi2, 200, 6, 4))
    assert np.mean(plain) > 0.14 and np.mean(corrected) < 0.06


def test_small_tables_need_a_generator_and_then_hold_their_error_rate():
    rng, runs, alarms = np.random.default_rng(1), 300, 0
    for _ in range(runs):
        table = np.zeros((2, 4))
        while min(table.sum(0).min(), table.sum(1).min()) == 0:
            table = rng.multinomial(14, np.outer([0.5, 0.5], [0.4, 0.3, 0.2, 0.1]).ravel()).reshape(2, 4)
        assert isinstance(independence(table), NotEnough)
        alarms += independence(table, rng=rng, runs=199).significant
    assert alarms / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_shuffled_p_values_are_those_of_the_exact_multinomial():
    counts, shares = np.array([6, 1, 1]), np.array([0.4, 0.3, 0.3])
    every = [(i, j, 8 - i - j) for i in range(9) for j in range(9 - i)]
    statistic = [float(misfit(np.array(c), 8 * shares, "chi2")) for c in every]
    seen = float(misfit(counts, 8 * shares, "chi2"))
    exact = sum(stats.multinomial(8, shares).pmf(c) for c, s in zip(every, statistic, strict=True) if s >= seen - 1e-9)
    ours = goodness(counts, shares, rng=np.random.default_rng(0), runs=40_000).p_value
    assert ours == pytest.approx(exact, abs=4 * math.sqrt(exact / 40_000))


def test_not_enough_says_how_many_units_the_law_needs():
    waiting = independence([[3, 1], [2, 6]])
    assert isinstance(waiting, NotEnough) and waiting.got == 12
    grown = np.array([[3, 1], [2, 6]]) * math.ceil(waiting.needed / 12)
    assert isinstance(independence(grown), CountTest)
    assert isinstance(independence([[3, 0], [2, 0]]), NotEnough) and isinstance(goodness([0, 0]), NotEnough)


def test_far_tails_are_not_flushed_to_zero():
    assert 0 < goodness([520_000, 485_000]).p_value < 1e-250
    assert 0 < independence([[5000, 5000], [6750, 3250]]).p_value < 1e-130
    assert 0 < poisson_rates((2000, 1.0), (4700, 1.0), relative=True).p_value < 1e-200
    assert 0 < poisson_rates((2000, 1.0), (4700, 1.0)).p_value < 1e-200


@settings(max_examples=40, deadline=None)
@given(arms, arms, st.floats(0.1, 10))
def test_exact_p_values_of_a_ratio_are_those_of_statsmodels(c, t, ratio):
    if c.k:  # statsmodels divides by the control's rate
        for side, name in (("greater", "larger"), ("less", "smaller")):
            ours = poisson_rates(c, t, side=side, relative=True, null=ratio - 1).p_value
            theirs = test_poisson_2indep(
                t.k, t.exposure, c.k, c.exposure, value=ratio, method="exact-cond", alternative=name
            )
            assert ours == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)


@given(arms, arms, st.floats(-2, 2))
def test_scores_of_a_difference_are_those_of_statsmodels(c, t, null):
    if c.k and t.k:
        theirs = test_poisson_2indep(t.k, t.exposure, c.k, c.exposure, value=null, method="score", compare="diff")
        assert score_of_rates(c, t, null) == pytest.approx(theirs.statistic, rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(arms, arms, sides, st.booleans(), st.floats(-0.9, 3), st.sampled_from([0.05, 0.2]))
def test_a_value_lies_outside_the_interval_exactly_when_its_p_value_is_at_most_alpha(c, t, side, relative, null, alpha):
    found = poisson_rates(c, t, alpha, side=side, relative=relative, null=null)
    if isinstance(found, Comparison) and abs(found.p_value - alpha) > 1e-7:
        assert found.significant == (found.p_value < alpha)


@given(arms, arms)
def test_exchanging_the_arms_turns_the_difference_around_and_the_ratio_upside_down(c, t):
    there, back = poisson_rates(c, t), poisson_rates(t, c)
    assert np.allclose([there.lower, there.upper, there.p_value], [-back.upper, -back.lower, back.p_value], atol=1e-9)
    if c.k and t.k:
        there, back = poisson_rates(c, t, relative=True), poisson_rates(t, c, relative=True)
        assert (1 + there.lower) * (1 + back.upper) == pytest.approx(1, rel=1e-6)
        assert there.p_value == pytest.approx(back.p_value)


@given(arms, arms, st.floats(0.001, 1000))
def test_the_unit_of_exposure_does_not_matter(c, t, unit):
    other = [Events(x.k, x.exposure * unit) for x in (c, t)]
    here, there = poisson_rates(c, t), poisson_rates(*other)
    assert np.allclose([here.lower, here.upper], [unit * there.lower, unit * there.upper], rtol=1e-6, atol=1e-9)
    assert here.p_value == pytest.approx(there.p_value, rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("lift", [0.0, 1.0])
def test_the_ratio_is_covered_at_least_at_its_stated_rate(share, lift):
    means = np.geomspace(1, 12, 12)
    k = np.arange(45)
    law = [stats.poisson.pmf(k[:, None], means * s) for s in (1 - share, (1 + lift) * share)]
    p = np.ones((k.size, k.size))
    for i in k:
        for j in k[int(i == 0) :]:
            heads = (1 + lift) * share / ((1 + lift) * share + 1 - share)
            p[i, j] = 2 * min(stats.binom.sf(j - 1, i + j, heads), stats.binom.cdf(j, i + j, heads))
    missed = np.einsum("im,ij,jm->m", law[0], p <= 0.05, law[1])
    assert missed.max() <= 0.05
    ours = poisson_rates((3, 1 - share), (7, share), relative=True, null=lift).p_value
    assert ours == pytest.approx(min(1, p[3, 7]))


def test_events_of_shards_add_up_and_margins_are_judged():
    assert sum([Events(3, 10), Events(0, 5), Events(4, 2.5)], Events()) == Events(7, 17.5)
    quiet = non_inferiority(poisson_rates, (0, 2000), (1, 2000), margin=0.005, better="lower")
    assert quiet.verdict == "non-inferior"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: independence([[1, 2]]), "table must have at least two rows and two columns, got shape (1, 2)"),
        (lambda: independence([[1, -2], [3, 4]]), "table must hold whole numbers of 0 or more, got -2"),
        (lambda: independence([[1, 2.5], [3, 4]]), "table must hold whole numbers of 0 or more, got 2.5"),
        (lambda: independence([[1, 2], [3, 4]], measure="z"), "measure must be one of chi2, g"),
        (lambda: goodness([1, 2, 3], [0.5, 0.5]), "counts and shares must pair up"),
        (lambda: goodness([1, 2], [1, 0]), "shares must be positive, got 0"),
        (lambda: goodness([1, 2], alpha=2), "alpha must lie strictly between 0 and 1, got alpha=2"),
        (lambda: Events(-1, 5), "k must be a whole number of 0 or more, got k=-1"),
        (lambda: Events(2, math.nan), "exposure must be finite"),
        (lambda: Events(2, "5"), "exposure must be finite"),
        (lambda: poisson_rates((math.inf, 5), (1, 5)), "k must be a whole number, got k=inf"),
        (lambda: poisson_rates((math.nan, 5), (1, 5)), "k must be a whole number, got k=nan"),
        (lambda: goodness([5, 3], rng=np.random.default_rng(0), runs=0), "runs must be 1 or more, got runs=0"),
        (lambda: independence([[5, 3], [3, 5]], runs=-1), "runs must be 1 or more, got runs=-1"),
        (lambda: poisson_rates(5, (1, 2)), "control must be Events or a tuple (events, exposure), got 5"),
        (lambda: poisson_rates((5, 1), (1, 2), relative=True, null=-1), "null must be above -1 on the relative scale"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_small_integers_of_numpy_count_as_pythons():
    ours, plain = (poisson_rates((kind(200), 5.0), (kind(100), 5.0)) for kind in (np.uint8, int))
    assert ours == plain and ours.p_value < 1e-6
    assert Events(np.uint8(200), np.float32(2)) + Events(np.uint8(200), 1) == Events(400, 3.0)
