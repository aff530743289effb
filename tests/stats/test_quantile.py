"Quantiles: what their scores mean, that they cover, and that interval and p-value agree."

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import Comparison, NotEnough, equivalence
from seatrial.stats.quantile import Ordered, at, quantile_design, quantiles, rows_needed, scores

seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.1, 0.5, 0.75, 0.9])
sides = st.sampled_from(["two-sided", "greater", "less"])


def sample(seed, n, digits=6):
    return np.round(np.random.default_rng(seed).lognormal(1, 0.7, n), digits)


@given(st.integers(1, 400), st.floats(0.01, 0.99))
def test_a_score_is_the_binomial_chance_that_so_many_values_lie_below_the_quantile(n, q):
    place = np.arange(n)
    ours = scores(Ordered(place.astype(float), q), place)
    tail = stats.binom.sf(place, n, q)  # of more than `place` values below
    seen = (tail > 1e-12) & (tail < 1 - 1e-3)
    assert np.allclose(stats.norm.sf(ours[seen]), tail[seen], rtol=1e-8)


@given(seeds, st.integers(2, 60), shares, st.integers(0, 6))
def test_scores_rise_with_the_value(seed, n, q, digits):
    arm = Ordered(np.sort(sample(seed, n, digits)), q)
    grid = np.linspace(arm.x[0] - 1, arm.x[-1] + 1, 300)
    assert (
        (np.diff(at(arm, grid)) >= -1e-12).all()
        and arm.ends[0] == at(arm, grid[:1])
        and arm.ends[1] == at(arm, grid[-1:])
    )


@settings(deadline=None)
@given(seeds, st.integers(30, 200), st.integers(30, 200), shares, sides, st.booleans(), st.integers(0, 5), st.data())
def test_a_value_lies_outside_the_interval_exactly_when_its_p_value_is_at_most_alpha(
    seed, n, m, q, side, relative, digits, data
):
    alpha, null = data.draw(st.sampled_from([0.05, 0.2])), data.draw(st.sampled_from([0.0, 0.2, -0.3]))
    c, t = sample(seed, n, digits) + 0.5, 1.2 * sample(seed + 1, m, digits)
    found = quantiles(c, t, alpha, q=q, side=side, relative=relative, null=null)
    if isinstance(found, Comparison):
        assert found.significant == (found.p_value <= alpha)
        assert found.lower - 1e-9 <= found.effect <= found.upper + 1e-9


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(40, 200), shares)
def test_the_p_value_of_an_end_is_alpha(seed, n, q):
    c, t = sample(seed, n), sample(seed + 1, n)
    found = quantiles(c, t, q=q)
    if isinstance(found, Comparison):
        for end in (found.lower, found.upper):
            assert quantiles(c, t, q=q, null=end).p_value == pytest.approx(0.05, abs=0.015)


@settings(max_examples=40, deadline=None)
@given(seeds, shares)
def test_exchanging_the_arms_turns_the_difference_around(seed, q):
    c, t = sample(seed, 80), sample(seed + 1, 120)
    there, back = quantiles(c, t, q=q), quantiles(t, c, q=q)
    assert np.allclose([there.effect, there.lower, there.upper], [-back.effect, -back.upper, -back.lower], atol=1e-9)
    assert there.p_value == pytest.approx(back.p_value, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds, shares)
def test_small_values_from_above_are_large_values_from_below(seed, q):
    c, t = sample(seed, 90), sample(seed + 1, 90)
    up, down = quantiles(c, t, q=q), quantiles(-c, -t, q=1 - q)
    assert np.allclose([up.effect, up.lower, up.upper], [-down.effect, -down.upper, -down.lower], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_a_lift_does_not_know_the_unit(seed, unit):
    c, t = sample(seed, 150), sample(seed + 1, 150)
    here, there = (quantiles(k * c, k * t, relative=True) for k in (1.0, unit))
    assert np.allclose([here.effect, here.lower, here.upper], [there.effect, there.lower, there.upper], rtol=1e-6)
    assert here.p_value == pytest.approx(there.p_value, rel=1e-6)


@pytest.mark.parametrize(("q", "n", "runs"), [(0.5, 40, 400), (0.9, 120, 400), (0.99, 600, 400)])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_the_interval_covers_at_its_stated_rate(q, n, runs, step):
    rng, hits, truth = np.random.default_rng(n), 0, stats.lognorm(1).ppf(q)
    for _ in range(runs):
        c, t = rng.lognormal(0, 1, n), 1.5 * rng.lognormal(0, 1, n)
        if step:
            c, t = (np.ceil(x / step) * step for x in (c, t))
        found = quantiles(c, t, q=q)
        delta = 0.5 * truth if not step else np.ceil(1.5 * truth / step) * step - np.ceil(truth / step) * step
        hits += found.lower <= delta <= found.upper
    assert hits / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_clusters_keep_the_coverage_that_rows_lose():
    rng, runs, held = np.random.default_rng(3), 300, np.zeros(2)
    for _ in range(runs):
        arms, ids = [], []
        for _ in range(2):
            who = np.repeat(np.arange(40), rng.poisson(12, 40) + 1)
            arms.append(np.exp(0.7 * rng.normal(size=40)[who] + 0.7 * rng.normal(size=who.size)))
            ids.append(who)
        for i, clusters in enumerate((ids, None)):
            found = quantiles(*arms, q=0.9, clusters=clusters)
            held[i] += found.lower <= 0 <= found.upper
    assert held[0] / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs) and held[1] / runs < 0.85


@given(seeds)
def test_rows_that_are_their_own_clusters_have_hardly_any_design_effect(seed):
    x = sample(seed, 400)
    design, many = quantile_design(x, 0.9, np.arange(400))
    assert many == 400 and design == pytest.approx(1, abs=0.01)
    assert quantile_design(np.repeat(x, 5), 0.9, np.repeat(np.arange(400), 5))[0] == pytest.approx(5, rel=0.01)


def test_as_many_rows_are_needed_as_the_textbook_says():
    assert [rows_needed(q, 0.025) for q in (0.5, 0.9, 0.99)] == [6, 36, 368]
    c = np.arange(368.0)
    assert isinstance(quantiles(c, c, q=0.99), Comparison)
    short = quantiles(c[:367], c, q=0.99)
    assert isinstance(short, NotEnough) and (short.needed, short.got) == (368, 367)


def test_the_rows_that_were_asked_for_suffice_with_clusters_of_the_same_kind():
    rng = np.random.default_rng(8)
    who = np.repeat(np.arange(12), 10)
    x = np.exp(rng.normal(size=12)[who] + 0.3 * rng.normal(size=120))
    short = quantiles(x, x, q=0.95, clusters=(who, who))
    assert isinstance(short, NotEnough) and short.needed > 120
    assert isinstance(quantiles(x[:5], x, q=0.5, clusters=(np.zeros(5), who)), NotEnough)


def test_far_tails_are_not_flushed_to_zero():
    c, t = sample(1, 900), sample(2, 900) + 50
    assert 0 < quantiles(c, t, q=0.5).p_value < 1e-200


def test_no_data_however_clear_say_more_of_a_quantile_than_their_number_allows():
    c, t = sample(1, 900), sample(2, 900) + 50
    assert quantiles(c, t, q=0.99).p_value == pytest.approx(2 * 0.99**900, rel=0.02)


def test_a_hundred_thousand_rows_give_the_answer_of_their_order_statistics():
    rng = np.random.default_rng(4)
    c, t = rng.lognormal(0, 1, 100_000), 1.02 * rng.lognormal(0, 1, 100_000)
    found = quantiles(c, t, q=0.99, relative=True)
    assert found.lower < 0.02 < found.upper and found.upper - found.lower < 0.1
    assert found.significant == (found.p_value <= 0.05)


def test_constant_arms_are_an_answer_and_equal():
    found = quantiles(np.full(50, 7.0), np.full(60, 7.0), q=0.5)
    assert (found.effect, found.lower, found.upper, found.p_value) == (0, 0, 0, 1)
    assert quantiles(np.full(50, 7.0), np.full(60, 8.0), q=0.5).lower == 1


def test_a_control_that_may_be_zero_has_no_bounded_lift():
    c = np.concatenate([np.zeros(45), np.ones(55)])
    found = quantiles(c, np.full(100, 5.0), q=0.5, relative=True)
    assert (found.lower, found.upper) == (-math.inf, math.inf) and found.p_value > 0.05 and not found.significant


def test_quantiles_are_judged_for_equivalence_like_means():
    x = sample(9, 4000)
    assert equivalence(quantiles, x, sample(10, 4000), margin=0.25, q=0.5, relative=True).verdict == "equivalent"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"q": 99}, "q must lie strictly between 0 and 1, got q=99"),
        ({"control": [1, math.inf]}, "control must be finite, got 0 NaN and 1 infinite of 2"),
        ({"relative": True, "null": -1}, "null must be above -1 on the relative scale"),
        ({"relative": True, "control": np.full(99, -1.0)}, "control whose quantile is positive, got -1"),
        ({"clusters": [[1, 2]]}, "clusters must be two columns, of control and of treatment, got 1"),
        ({"clusters": [[1, 2], [3]]}, "clusters of control must name one cluster for each value, got 2 for 99 values"),
        ({"side": "two"}, "side must be one of"),
        (
            {"clusters": [[math.nan] * 10 + list(range(89)), range(88)]},
            "clusters of control must name a cluster for every row, got 10 NaN of 99",
        ),
        (
            {"clusters": [range(99), np.array([None] * 3 + ["a"] * 85, dtype=object)]},
            "clusters of treatment must name a cluster for every row, got 3 NaN of 88",
        ),
    ],
)
def test_bad_input_is_named(how, words):
    call = {"control": np.arange(1.0, 100), "treatment": np.arange(2.0, 90)} | how
    with pytest.raises(ValueError, match=re.escape(words)):
        quantiles(**call)
