"Proportions against scipy and statsmodels, and intervals that agree with their p-values."

import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint, test_proportions_2indep

from seatrial.stats.comparison import Comparison, NotEnough, equivalence, non_inferiority
from seatrial.stats.moments import Moments
from seatrial.stats.proportion import (
    Count,
    clopper_pearson,
    counted,
    melded,
    on_difference,
    on_ratio,
    proportions,
    score,
    wilson,
)

test_proportions_2indep.__test__ = False
sides = st.sampled_from(["two-sided", "greater", "less"])


@st.composite
def counts(draw, most=60):
    n = draw(st.integers(1, most))
    return Count(draw(st.integers(0, n)), n)


@given(counts(300), st.sampled_from([0.01, 0.05, 0.2]))
def test_intervals_for_one_rate_are_those_of_statsmodels(c, alpha):
    for ours, name in ((wilson, "wilson"), (clopper_pearson, "beta")):
        theirs = proportion_confint(c.k, c.n, alpha, method=name)
        assert np.allclose(ours(c.k, c.n, alpha), np.clip(theirs, 0, 1), atol=1e-12)


@given(st.lists(counts(), min_size=1, max_size=9))
def test_arrays_give_what_single_counts_give(many):
    k, n = np.array([c.k for c in many]), np.array([c.n for c in many])
    for interval in (wilson, clopper_pearson):
        together = np.stack(interval(k, n), axis=1)
        assert np.array_equal(together, [interval(c.k, c.n) for c in many])


def test_wilson_keeps_its_digits_where_successes_are_one_in_a_thousand_million():
    lower, upper = wilson(1, 10**9)
    assert lower == pytest.approx(1.765e-10, rel=1e-3) and upper == pytest.approx(5.665e-9, rel=1e-3)
    assert wilson(0, 10**9).lower == 0 and wilson(5, 5).upper == 1


def test_clopper_pearson_never_falls_below_its_promise_and_wilson_keeps_it_on_average():
    p = np.linspace(0.001, 0.999, 999)
    for n in (5, 20, 80):
        k = np.arange(n + 1)[:, None]
        held = [
            (stats.binom.pmf(k, n, p) * ((i.lower <= p) & (p <= i.upper))).sum(0)
            for i in (f(k, n) for f in (clopper_pearson, wilson))
        ]
        assert held[0].min() >= 0.95 and abs(held[1].mean() - 0.95) < 0.015


def cubic(c, t, d):
    "Closed form of the control's rate under a difference d (Miettinen & Nurminen 1985, appendix)."
    n, k = c.n + t.n, c.k + t.k
    l3, l2, l1, l0 = n, (t.n + 2 * c.n) * d - n - k, (c.n * d - n - 2 * c.k) * d + k, c.k * d * (1 - d)
    q = (l2 / (3 * l3)) ** 3 - l1 * l2 / (6 * l3**2) + l0 / (2 * l3)
    p = math.copysign(math.sqrt(max(0.0, (l2 / (3 * l3)) ** 2 - l1 / (3 * l3))), q)
    angle = (math.pi + math.acos(min(1.0, max(-1.0, q / p**3)))) / 3 if p else 0.0
    return 2 * p * math.cos(angle) - l2 / (3 * l3)


@given(counts(), counts(), st.floats(-0.95, 0.95))
def test_the_most_likely_rate_is_the_root_of_the_published_cubic(c, t, delta):
    assert on_difference(c, t, delta) == pytest.approx(cubic(c, t, delta), abs=1e-6)


@given(counts(), counts())
def test_score_of_no_difference_is_that_of_statsmodels(c, t):
    if 0 < c.k < c.n and 0 < t.k < t.n:  # for other values statsmodels 0.15 has k where the cubic has n
        how = {"compare": "diff", "method": "score", "correction": True, "return_results": True}
        theirs = test_proportions_2indep(t.k, t.n, c.k, c.n, value=0, **how)
        assert score(c, t, 0.0) == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-12)


@given(counts(), counts(), st.floats(0.05, 20))
def test_score_of_a_ratio_is_that_of_statsmodels(c, t, r):
    if c.k in (0, c.n) or t.k in (0, t.n):
        return
    theirs = test_proportions_2indep(
        t.k, t.n, c.k, c.n, value=r, compare="ratio", method="score", correction=True, return_results=True
    )
    assert score(c, t, r - 1, True) == pytest.approx(theirs.statistic, rel=1e-6, abs=1e-7)


@given(counts(), counts(), st.floats(-0.95, 0.95), st.floats(0.05, 20))
def test_the_rates_under_the_null_hypothesis_are_the_most_likely_ones(c, t, delta, r):
    def likelihood(pc, pt):
        return stats.binom.logpmf(c.k, c.n, pc) + stats.binom.logpmf(t.k, t.n, pt)

    grid = np.linspace(max(0, -delta), min(1, 1 - delta), 801)
    p = on_difference(c, t, delta)
    assert likelihood(p, min(max(p + delta, 0), 1)) >= likelihood(grid, np.clip(grid + delta, 0, 1)).max() - 1e-6
    grid, p = np.linspace(0, min(1, 1 / r), 801), on_ratio(c, t, r)
    assert likelihood(p, min(1, r * p)) >= likelihood(grid, np.minimum(1, r * grid)).max() - 1e-6


def test_miettinen_and_nurminens_interval_is_the_published_one():
    found = proportions((48, 80), (56, 70), method="score")  # Newcombe 1998, table II, method 6
    assert (round(found.lower, 4), round(found.upper, 4)) == (0.0528, 0.3382)


@settings(max_examples=40, deadline=None)
@given(counts(), counts())
def test_the_exact_p_value_of_no_effect_is_fishers_on_either_scale(c, t):
    table = [[t.k, t.n - t.k], [c.k, c.n - c.k]]
    for side in ("greater", "less"):
        fisher = stats.fisher_exact(table, alternative=side).pvalue
        for relative in (False, True) if c.k + t.k else (False,):
            ours = proportions(c, t, side=side, relative=relative, method="exact").p_value
            assert ours == pytest.approx(fisher, rel=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    counts(40), counts(40), sides, st.booleans(), st.floats(-0.8, 0.8), st.sampled_from([0.01, 0.05, 0.3]), st.data()
)
@example(Count(0, 9), Count(0, 9), "two-sided", True, 0.0, 0.05, None)
def test_a_value_lies_outside_the_interval_exactly_when_its_p_value_is_at_most_alpha(
    c, t, side, relative, null, alpha, data
):
    method = data.draw(st.sampled_from(["score", "exact", "auto"])) if data else "auto"
    found = proportions(c, t, alpha, side=side, relative=relative, null=null, method=method)
    if relative and c.k + t.k == 0:
        assert isinstance(found, NotEnough)
    elif abs(found.p_value - alpha) > 1e-7:
        assert found.significant == (found.p_value < alpha)


@settings(max_examples=40, deadline=None)
@given(counts(), counts(), st.booleans(), st.sampled_from(["score", "exact"]))
def test_one_sided_answers_are_halves_of_the_two_sided_one(c, t, relative, method):
    relative = relative and c.k + t.k > 0
    both = proportions(c, t, 0.1, relative=relative, method=method)
    up, down = (proportions(c, t, 0.05, side=side, relative=relative, method=method) for side in ("greater", "less"))
    assert (up.lower, down.upper) == pytest.approx((both.lower, both.upper), rel=1e-9, abs=1e-12)
    assert both.p_value == pytest.approx(min(1, 2 * min(up.p_value, down.p_value)))
    assert up.upper == math.inf and down.lower == -math.inf


@settings(max_examples=50, deadline=None)
@given(counts(), counts(), st.sampled_from(["score", "exact"]))
def test_exchanging_the_arms_turns_the_difference_around(c, t, method):
    there, back = (proportions(a, b, method=method) for a, b in ((c, t), (t, c)))
    expected = [-back.effect, -back.upper, -back.lower, back.p_value, -back.standardized]
    assert np.allclose([there.effect, there.lower, there.upper, there.p_value, there.standardized], expected, atol=1e-9)


def rejection_rate(p_value, nc, nt, p, q):
    "Exact chance that p_value(c, t) <= 0.05, over pairs of rates."
    rejected = np.array([[p_value(Count(i, nc), Count(j, nt)) <= 0.05 for j in range(nt + 1)] for i in range(nc + 1)])
    weights = [stats.binom.pmf(np.arange(n + 1)[:, None], n, rate) for n, rate in ((nc, p), (nt, q))]
    return np.einsum("ir,ij,jr->r", weights[0], rejected, weights[1])


@pytest.mark.parametrize(("nc", "nt"), [(8, 8), (20, 4), (5, 14)])
@pytest.mark.parametrize(("null", "relative"), [(0.0, False), (0.2, False), (-0.1, False), (1.0, True), (-0.5, True)])
def test_exact_false_alarms_never_exceed_alpha(nc, nt, null, relative):
    p = np.linspace(0.002, 0.998, 250)
    q = p * (1 + null) if relative else p + null
    p, q = p[(q >= 0) & (q <= 1)], q[(q >= 0) & (q <= 1)]

    def p_value(c, t):
        turned = -null if not relative else 1 / (1 + null) - 1
        return 2 * min(melded(c, t, null, relative), melded(t, c, turned, relative))

    assert rejection_rate(p_value, nc, nt, p, q).max() <= 0.05


@pytest.mark.parametrize(("nc", "nt"), [(25, 25), (60, 20), (90, 10)])
def test_score_false_alarms_stay_below_seven_per_cent(nc, nt):
    p = np.linspace(0.01, 0.99, 197)
    alarms = rejection_rate(lambda c, t: 2 * stats.norm.sf(abs(score(c, t, 0.0))), nc, nt, p, p)
    assert alarms.max() < 0.07


def test_auto_is_exact_where_few_successes_or_failures_are_expected():
    chosen = [
        proportions(*arms).method for arms in [((3, 400), (1, 400)), ((397, 400), (390, 400)), ((30, 90), (4, 9))]
    ]
    assert chosen == ["exact", "score", "exact"]
    assert proportions((46, 10_000), (69, 10_000)).method == "score"
    assert proportions((3, 10**6), (9, 10**6)).method == "score" != proportions((3, 10**6), (5, 10**6)).method


def test_exact_answers_need_no_small_arms():
    found = proportions((2, 10**7), (9, 10**5))
    table = [[9, 10**5 - 9], [2, 10**7 - 2]]
    fisher = stats.fisher_exact(table, alternative="greater").pvalue
    assert found.method == "exact" and found.p_value == pytest.approx(2 * fisher, rel=1e-6) and found.lower > 0


def test_far_tails_are_not_flushed_to_zero():
    assert 0 < proportions((1000, 20_000), (3300, 20_000)).p_value < 1e-250
    far = proportions((1, 10_000), (130, 150), method="exact")
    assert 0 < far.p_value < 1e-200


def test_nothing_against_nothing_is_data():
    nothing = proportions((0, 50), (0, 50))
    assert isinstance(nothing, Comparison) and nothing.p_value == 1 and -0.08 < nothing.lower < 0 < nothing.upper < 0.08
    lift = proportions((0, 50), (0, 50), relative=True)
    assert isinstance(lift, NotEnough) and "the control's rate is 0" in lift.why
    some = proportions((0, 500), (9, 500), relative=True)
    assert some.effect == math.inf and 0 < some.lower < math.inf == some.upper


def test_counts_pairs_columns_and_moments_say_the_same():
    x, y = np.repeat([0, 1], [80, 20]), np.repeat([False, True], [60, 30])
    expected = proportions(Count(20, 100), Count(30, 90))
    for arms in [((20, 100), (30, 90)), (x, y), (Moments.of(x), Moments.of(y)), (x.tolist(), y.tolist())]:
        assert proportions(*arms) == expected


@given(st.lists(st.lists(st.booleans(), max_size=9), max_size=9))
def test_shards_add_up(shards):
    read = [counted(np.array(shard, bool), "x") for shard in [*shards, [v for s in shards for v in s]]]
    assert sum(read[:-1], Count()) == read[-1]


def test_a_margin_is_a_null_value_like_any_other():
    assert non_inferiority(proportions, (900, 1000), (905, 1000), margin=0.03).verdict == "non-inferior"
    assert equivalence(proportions, (9000, 18_000), (9010, 18_000), margin=0.02).verdict == "equivalent"
    assert isinstance(non_inferiority(proportions, (0, 0), (5, 9), margin=0.03), NotEnough)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Count(7, 5), "k must be between 0 and n=5, got k=7"),
        (lambda: Count(-1, 5), "k must be between 0 and n=5, got k=-1"),
        (lambda: Count(1.5, 5), "k must be a whole number, got k=1.5"),
        (lambda: Count(0, -5), "n must be 0 or more, got n=-5"),
        (lambda: Count("1", 5), "k must be a whole number, got k='1'"),
        (lambda: proportions((math.inf, 5), (1, 5)), "k must be a whole number, got k=inf"),
        (lambda: proportions((1, math.nan), (1, 5)), "n must be a whole number, got n=nan"),
        (lambda: wilson([1, 9], [5, 5]), "k must be between 0 and n=5, got k=9"),
        (lambda: wilson(1, 5, alpha=5), "alpha must lie strictly between 0 and 1, got alpha=5"),
        (lambda: proportions([0, 1, 0.5], (1, 2)), "control must hold only 0 and 1, got 1 other values of 3"),
        (lambda: proportions((1, 2, 3), (1, 2)), "control as a tuple must be (k, n), got 3 numbers"),
        (lambda: proportions((1, 2), [np.nan, 1]), "treatment must be finite, got 1 NaN"),
        (lambda: proportions((1, 2), Moments.of([1, 5])), "treatment must be the moments of zeros and ones"),
        (lambda: proportions((1, 2), (1, 2), null=1), "null must lie strictly between -1 and 1, got null=1"),
        (lambda: proportions((1, 2), (1, 2), null=-1, relative=True), "null must be above -1 on the relative scale"),
        (lambda: proportions((1, 2), (1, 2), side="both"), "side must be one of two-sided, greater, less"),
        (lambda: proportions((1, 2), (1, 2), method="z"), "method must be one of auto, score, exact"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_small_integers_of_numpy_count_as_pythons():
    assert Count(np.uint8(10), np.uint8(200)) + Count(np.uint8(10), np.uint8(200)) == Count(20, 400)
    for kind, k in ((np.int8, 1), (np.int32, 1000)):
        arms = [(kind(a * k), kind(100 * k)) for a in (60, 70)]
        assert proportions(*arms) == proportions(*(tuple(int(v) for v in arm) for arm in arms))
        assert type(Count(*arms[0]).k) is int
