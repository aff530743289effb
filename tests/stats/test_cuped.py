"CUPED against regressions of statsmodels, its bookkeeping, and what must not be answered."

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import Comparison, NotEnough, equivalence, non_inferiority, welch
from seatrial.stats.cuped import (
    adjusted,
    adjusted_welch,
    affected,
    contrast,
    cross_fitted,
    cuped,
    imputed,
    inverse,
    levelled,
    linearized,
)
from seatrial.stats.joint import Joint
from seatrial.stats.moments import Moments
from seatrial.stats.peeking import sequence
from seatrial.stats.ratio import ratio_of_means
from seatrial.stats.sequential import Arm, Question, always_valid

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(8, 60)
covariates = st.integers(1, 3)
few = settings(max_examples=40)


def trial(seed, n, m, p=1, effect=0.3, slope=1.5, spread=2.0):
    "Two arms as (metric, covariates (n, p)), uneven in slope and spread."
    rng = np.random.default_rng(seed)
    x, z = rng.normal(5, 2, (n, p)), rng.normal(5, 2, (m, p))
    y = 10 + x.sum(axis=1) + rng.normal(size=n)
    return (y, x), (10 + effect + slope * z.sum(axis=1) - 5 * (slope - 1) * p + spread * rng.normal(size=m), z)


def numbers(c):
    return [c.effect, c.lower, c.upper, c.p_value]


@few
@given(seeds, st.integers(6, 60), covariates, st.floats(-3, 3))
def test_arms_of_one_size_and_spread_give_the_analysis_of_covariance_of_statsmodels(seed, n, p, effect):
    (y, x), _ = trial(seed, n, n, p)
    z, w = 9 - x, 40 - y + effect  # mirrored: other covariates, the same products
    table = np.column_stack([np.repeat([0.0, 1.0], n), np.concatenate([x, z])])
    theirs = sm.OLS(np.append(y, w), sm.add_constant(table)).fit()
    ours = cuped((y, x), (w, z), alpha=0.1).comparison
    assert ours.effect == pytest.approx(theirs.params[1], abs=1e-8)
    assert np.allclose([ours.lower, ours.upper], theirs.conf_int(0.1)[1], atol=1e-7)
    assert ours.p_value == pytest.approx(theirs.pvalues[1], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4000, 4000), (9000, 1000)])
def test_large_samples_give_lins_interacted_regression_of_statsmodels(n, m):
    (y, x), (w, z) = trial(3, n, m, 2)
    both, arm = np.concatenate([x, z]), np.repeat([0.0, 1.0], [n, m])
    centred = both - both.mean(axis=0)
    table = sm.add_constant(np.column_stack([arm, centred, centred * arm[:, None]]))
    theirs = sm.OLS(np.append(y, w), table).fit(cov_type="HC2")
    tilt = theirs.params[4:]
    middle = tilt @ np.cov(both.T) @ tilt / (n + m)  # the mean of the covariates is an estimate too
    error = math.sqrt(theirs.bse[1] ** 2 + middle)
    effect, se, _ = contrast(levelled(Joint.of(y, *x.T), Joint.of(w, *z.T)))
    assert effect == pytest.approx(theirs.params[1], abs=0.03 * error) and se == pytest.approx(error, rel=0.02)


@few
@given(seeds, sizes, sizes, covariates)
def test_the_slope_is_the_best_of_all_slopes(seed, n, m, p):
    c, t = (Joint.of(y, *x.T) for y, x in trial(seed, n, m, p))
    found = levelled(c, t)

    def variance(theta):
        return sum(j.combined([1, *-theta]).variance / j.n for j in (c, t))

    rng = np.random.default_rng(seed)
    best = variance(found.theta)
    assert all(best <= variance(found.theta + rng.normal(0, s, p)) * (1 + 1e-9) for s in (0.01, 0.1, 1, 10))
    assert best <= variance(np.zeros(p)) * (1 + 1e-9)


@few
@given(seeds, sizes, sizes, covariates, st.integers(2, 9))
def test_shards_in_any_order_give_what_the_whole_gives(seed, n, m, p, shards):
    arms = trial(seed, n, m, p)
    whole = cuped(*arms, relative=True)
    rng, merged = np.random.default_rng(seed), []
    for y, x in arms:
        pieces = [Joint.of(a, *b.T) for a, b in zip(np.array_split(y, shards), np.array_split(x, shards), strict=True)]
        merged.append(sum((pieces[i] for i in rng.permutation(shards)), Joint.of(*[[]] * (p + 1))))
    ours = cuped(*merged, relative=True)
    assert np.allclose(numbers(ours.comparison), numbers(whole.comparison), rtol=1e-8, atol=1e-12)
    assert ours.saved == pytest.approx(whole.saved, abs=1e-9) and ours.suspects == whole.suspects


@few
@given(seeds, sizes, sizes, covariates)
def test_the_unit_of_a_covariate_is_of_no_matter(seed, n, m, p):
    (y, x), (w, z) = trial(seed, n, m, p)
    mix = np.diag(10.0 ** np.arange(-6, 3 * p - 6, 3)[:p])
    here, there = cuped((y, x), (w, z)), cuped((y, x @ mix), (w, z @ mix))
    assert np.allclose(numbers(here.comparison), numbers(there.comparison), rtol=1e-6, atol=1e-9)
    assert np.allclose(here.theta, np.array(there.theta) * mix.diagonal(), rtol=1e-5, atol=1e-9)


@few
@given(seeds, sizes, sizes)
def test_what_is_said_twice_or_never_changes_adds_nothing(seed, n, m):
    (y, x), (w, z) = trial(seed, n, m, 2)
    plain = cuped((y, x), (w, z))
    padded = [(a, b, b @ [2.0, -1.0] + 3, np.full(len(a), 0.1)) for a, b in ((y, x), (w, z))]
    found = cuped(*padded, suspicion=1e-12)
    assert np.allclose(numbers(found.comparison), numbers(plain.comparison), rtol=1e-6, atol=1e-9)
    assert found.comparison.method == "CUPED with 2 covariates" and found.theta[-1] == 0 and not found.suspects


def test_a_constant_covariate_leaves_welch():
    (y, _), (w, _) = trial(0, 30, 20)
    found = cuped((y, np.ones(30)), (w, np.ones(20)))
    assert np.allclose(numbers(found.comparison), numbers(found.plain)) and found.saved == pytest.approx(0, abs=1e-12)
    assert found.traffic == pytest.approx(1) and isinstance(found.covariates[0], NotEnough)


@few
@given(seeds, sizes, sizes, covariates, st.sampled_from(["two-sided", "greater", "less"]))
def test_swapping_the_arms_turns_the_effect_around(seed, n, m, p, side):
    arms = trial(seed, n, m, p)
    other = {"greater": "less", "less": "greater"}.get(side, side)
    there, back = cuped(*arms, side=side).comparison, cuped(*arms[::-1], side=other).comparison
    assert np.allclose([there.effect, there.lower, there.upper], [-back.effect, -back.upper, -back.lower])
    assert there.p_value == pytest.approx(back.p_value)


@few
@given(seeds, sizes, sizes, st.floats(1e-3, 0.4), st.floats(-1, 1), st.sampled_from(["two-sided", "greater", "less"]))
def test_the_interval_excludes_null_exactly_where_p_is_below_alpha(seed, n, m, alpha, null, side):
    found = cuped(*trial(seed, n, m), alpha, side=side, null=null).comparison
    away = found.lower > null or found.upper < null
    assert away == (found.p_value < alpha) == found.significant


@few
@given(seeds, sizes, sizes, st.sampled_from(["greater", "less"]))
def test_one_side_at_alpha_is_one_end_of_two_sides_at_twice_alpha(seed, n, m, side):
    arms = trial(seed, n, m)
    for relative in (False, True):
        one = cuped(*arms, 0.05, side=side, relative=relative).comparison
        two = cuped(*arms, 0.10, relative=relative).comparison
        assert (one.lower, one.upper) == ((two.lower, math.inf) if side == "greater" else (-math.inf, two.upper))


@few
@given(seeds, st.integers(30, 60), st.integers(30, 60))
def test_the_ends_of_the_relative_interval_are_lifts_that_a_test_just_rejects(seed, n, m):
    (y, x), (w, z) = trial(seed, n, m)
    found = cuped((y, x), (w, z), relative=True).comparison
    c, t = Joint.of(y, *x.T), Joint.of(w, *z.T)
    level = levelled(c, t)
    for end in (found.lower, found.upper):
        effect, se, df = contrast(level, 1 + end)
        assert abs(effect) / se == pytest.approx(stats.t.isf(0.025, df), rel=1e-6)


@few
@given(seeds, sizes, sizes, st.floats(0.01, 100))
def test_the_relative_scale_has_no_unit_and_a_negative_control_mirrors_it(seed, n, m, k):
    (y, x), (w, z) = trial(seed, n, m)
    here, scaled = (cuped((f * y, x), (f * w, z), relative=True).comparison for f in (1.0, k))
    mirrored = cuped((-y, x), (-w, z), relative=True).comparison
    assert np.allclose(numbers(here), numbers(scaled), rtol=1e-6, atol=1e-10)
    assert np.allclose([here.lower, here.upper], [-mirrored.upper, -mirrored.lower])
    assert here.p_value == pytest.approx(cuped((y, x), (w, z)).comparison.p_value)  # no lift is no difference


@few
@given(seeds, sizes, sizes, covariates)
def test_adjusted_moments_carry_the_effect_and_its_error(seed, n, m, p):
    (y, x), (w, z) = trial(seed, n, m, p)
    c, t = Joint.of(y, *x.T), Joint.of(w, *z.T)
    mine, theirs = adjusted(c, t)
    effect, se, _ = contrast(levelled(c, t))
    assert theirs.mean - mine.mean == pytest.approx(effect, abs=1e-9)
    assert mine.variance / mine.n + theirs.variance / theirs.n == pytest.approx(se**2)
    assert (mine.n * mine.mean + theirs.n * theirs.mean) == pytest.approx(y.sum() + w.sum())  # nothing is added
    assert isinstance(always_valid(mine, theirs), Comparison | NotEnough)


def test_looking_again_and_again_at_adjusted_moments_keeps_the_promise():
    rng, runs, rule = np.random.default_rng(12), 150, sequence(Question())
    looks, alarms = np.unique(np.geomspace(2, 600, 30).astype(int)), 0
    for _ in range(runs):
        x = rng.normal(size=(2, 600))
        y = x + 0.7 * rng.normal(size=x.shape)
        seen = [adjusted((y[0, :n], x[0, :n]), (y[1, :n], x[1, :n])) for n in looks]
        arms = [Arm(*np.array([(m.n, m.mean, m.m2) for m in side]).T[:, None]) for side in zip(*seen, strict=True)]
        alarms += rule(*arms).any()
    assert alarms / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_too_few_units_for_a_slope_are_not_adjusted():
    (y, x), (w, z) = trial(1, 9, 4, 3)
    assert isinstance(cuped((y, x), (w, z)), NotEnough)
    assert adjusted((y, x), (w, z)) == (Moments.of(y), Moments.of(w))


def test_a_ratio_is_that_of_its_unit_values_and_needs_no_denominator_that_varies():
    rng = np.random.default_rng(0)
    arms = []
    for lift in (1.0, 1.1):
        d = rng.poisson(9, 300) + 1.0
        x = rng.gamma(3, 1, 300)
        arms.append((lift * d * x + rng.normal(size=300), d, x))
    found = cuped(*arms, ratio=True)
    by_hand = []
    for y, d, x in arms:
        r = y.sum() / d.sum()
        by_hand.append((r + (y - r * d) / d.mean(), x))
    assert np.allclose(numbers(found.comparison), numbers(cuped(*by_hand).comparison))
    assert found.plain == ratio_of_means(*((y, d) for y, d, _ in arms))
    assert found.plain.baseline == pytest.approx(arms[0][0].sum() / arms[0][1].sum())
    ones = [(y, np.ones(300), x) for y, _, x in arms]
    means = [(y, x) for y, _, x in arms]
    assert np.allclose(numbers(cuped(*ones, ratio=True).comparison), numbers(cuped(*means).comparison))
    assert linearized(Joint.of(*arms[0], names=("a", "b", "x"))).names == ("b", "x")


def test_a_touched_covariate_is_told_wherever_the_answer_is_shown():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 500)) + np.array([[0.0], [1.0]])
    fine = rng.normal(size=(2, 500))
    y = x + fine + rng.normal(size=(2, 500))
    arms = [{"spent": y[i], "age": fine[i], "pages": x[i]} for i in (0, 1)]
    found = cuped(*arms)
    assert found.suspects == ("pages",) and "NOT TO BE BELIEVED" in found._repr_markdown_()
    assert "covariate pages" in adjusted_welch(*arms).method
    assert cuped(*arms, suspicion=1e-300).suspects == ()


def test_covariates_that_are_rigid_in_each_arm_but_differ_are_suspects():
    (y, x), (w, z) = trial(5, 40, 40)
    assert cuped((y, x, np.zeros(40)), (w, z, np.ones(40))).suspects == (2,)


def test_honest_covariates_are_suspected_at_the_stated_rate():
    rng, alarms, runs = np.random.default_rng(6), 0, 1500
    for _ in range(runs):
        x = rng.gamma(1, 1, (2, 3, 40))
        arms = [Joint.of(x[i, 0], *x[i]) for i in (0, 1)]
        alarms += any(isinstance(f, Comparison) and f.significant for f in affected(*arms, alpha=0.1))
    assert alarms / runs < 0.1 + 4 * math.sqrt(0.1 * 0.9 / runs)


@few
@given(seeds, st.floats(-1e3, 1e3))
def test_what_is_written_for_the_unknown_is_of_no_matter(seed, fill):
    rng = np.random.default_rng(seed)
    (y, x), (w, z) = trial(seed, 50, 40)
    holes = [np.where(rng.random(len(v)) < 0.3, np.nan, v[:, 0]) for v in (x, z)]
    zero, other = (cuped((y, *imputed(holes[0], f)), (w, *imputed(holes[1], f))) for f in (0.0, fill))
    assert np.allclose(numbers(zero.comparison), numbers(other.comparison), rtol=1e-4, atol=1e-6)


def test_each_prediction_comes_from_a_model_that_has_not_seen_its_unit():
    y = np.arange(20.0)

    def recall(features, target):
        seen = dict(zip(features[:, 0], target, strict=True))
        return lambda rows: np.array([seen.get(v, -1.0) for v in rows[:, 0]])

    assert (cross_fitted(y[:, None], y, recall, np.random.default_rng(0), folds=4) == -1).all()
    with pytest.raises(ValueError, match=r"got folds=1, 20 rows, n=20"):
        cross_fitted(y[:, None], y, recall, np.random.default_rng(0), folds=1)


@pytest.mark.parametrize(("n", "m", "p", "allowed"), [(5, 5, 1, 0.05), (12, 12, 4, 0.05), (30, 10, 2, 0.058)])
def test_small_samples_keep_their_rate_with_slopes_paid_for(n, m, p, allowed):
    rng, missed, runs = np.random.default_rng(8), 0, 1500
    for _ in range(runs):
        x = rng.normal(size=(n + m, p))
        y = x.sum(axis=1) + rng.normal(size=n + m)
        effect, se, df = contrast(levelled(Joint.of(y[:n], *x[:n].T), Joint.of(y[n:], *x[n:].T)))
        missed += abs(effect) > stats.t.isf(0.025, df) * se
    assert missed / runs < allowed + 4 * math.sqrt(0.05 * 0.95 / runs)


def test_margins_take_the_adjusted_comparison():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2, 400))
    y = 3 * x + rng.normal(size=x.shape)
    arms = [(y[i], x[i]) for i in (0, 1)]
    assert non_inferiority(adjusted_welch, *arms, margin=0.3).verdict == "non-inferior"
    assert equivalence(adjusted_welch, *arms, margin=0.3).verdict == "equivalent"
    assert equivalence(welch, arms[0][0], arms[1][0], margin=0.3).verdict == "open"


def test_far_tails_stay_small_numbers():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(2, 400))
    y = x + 0.1 * rng.normal(size=x.shape) + [[0.0], [0.3]]
    assert 0 < cuped((y[0], x[0]), (y[1], x[1])).comparison.p_value < 1e-150


def test_the_inverse_is_that_of_numpy_and_knows_its_rank():
    v = np.cov(np.random.default_rng(11).normal(size=(4, 50)))
    assert np.allclose(inverse(v, np.ones(4))[0], np.linalg.inv(v)) and inverse(v, np.ones(4))[1] == 4
    assert inverse(np.zeros((2, 2)), np.ones(2))[1] == 0


@pytest.mark.parametrize(
    ("control", "treatment", "words"),
    [
        ([1.0, 2.0], ([1.0, 2.0], [1.0, 2.0]), "control's places must hold columns, got a single number"),
        (([1.0, 2.0],), ([1.0, 2.0], [1.0, 2.0]), "control must have at least 2 columns, metric and covariate, got 1"),
        ((), ([1.0, 2.0], [1.0, 2.0]), "control must have at least 2 columns"),
        (np.ones(4), ([1.0, 2.0], [1.0, 2.0]), "control must be a Joint or a tuple"),
        (([1.0, 2.0], [1.0]), ([1.0, 2.0], [1.0, 2.0]), "control's columns must be of one length, got 1, 2"),
        (([1.0, 2.0], [1.0, 2.0]), ([1.0, math.nan], [1.0, 2.0]), "treatment's column 0 must be finite, got 1 NaN"),
        (([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0], ["a", "b"]), "treatment's column 1 must hold numbers"),
        (([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 2.0], [3.0, 4.0]), "the same columns"),
    ],
)
def test_bad_arms_are_refused_by_name(control, treatment, words):
    with pytest.raises(ValueError, match=words):
        cuped(control, treatment)


@pytest.mark.parametrize("how", [{"alpha": 0}, {"side": "left"}, {"null": math.nan}, {"suspicion": 1}])
def test_bad_questions_are_refused_by_name(how):
    with pytest.raises(ValueError, match=r"must (lie|be)"):
        cuped(*trial(0, 9, 9), **how)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_little_is_a_result_of_its_own(n):
    (y, x), (w, z) = trial(0, 9, 9)
    assert isinstance(cuped((y[:n], x[:n]), (w, z)), NotEnough)
    assert isinstance(cuped((np.ones(9), x), (np.ones(9), z)), NotEnough)
    assert isinstance(adjusted((y[:n], x[:n]), (w, z))[0], Moments)
