"Comparisons against scipy, and what must not be answered."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from seatrial.stats.comparison import (
    Comparison,
    Margin,
    NotEnough,
    equivalence,
    fieller,
    hedges,
    non_inferiority,
    paired,
    spread,
    welch,
)
from seatrial.stats.moments import Moments, finite

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 80)


def sample(seed, n, offset=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(offset, scale, n)


@given(seeds, sizes, sizes, st.floats(-5, 5), st.floats(0.01, 100))
def test_welch_is_that_of_scipy(seed, n, m, shift, scale):
    c, t = sample(seed, n), sample(seed + 1, m, shift, scale)
    theirs, ours = stats.ttest_ind(t, c, equal_var=False), welch(c, t, alpha=0.1)
    interval = theirs.confidence_interval(0.9)
    expected = [interval.low, interval.high, theirs.pvalue]
    assert np.allclose([ours.lower, ours.upper, ours.p_value], expected, rtol=1e-7, atol=1e-12)


@given(seeds, sizes, st.floats(-3, 3))
def test_paired_is_that_of_scipy(seed, n, shift):
    c = sample(seed, n, 3.0, 5.0)
    t = c + sample(seed + 1, n, shift, 0.5)
    theirs, ours = stats.ttest_rel(t, c), paired(c, t)
    interval = theirs.confidence_interval(0.95)
    expected = [interval.low, interval.high, theirs.pvalue]
    assert np.allclose([ours.lower, ours.upper, ours.p_value], expected, rtol=1e-6, atol=1e-10)


@given(seeds, sizes, sizes)
def test_swapping_the_arms_turns_the_effect_around(seed, n, m):
    c, t = sample(seed, n), sample(seed + 1, m, 1.0)
    there, back = welch(c, t), welch(t, c)
    assert np.allclose([there.effect, there.lower, there.upper], [-back.effect, -back.upper, -back.lower])
    assert there.p_value == pytest.approx(back.p_value)


@given(seeds, sizes, sizes, st.floats(1e-3, 0.5))
def test_the_interval_excludes_zero_exactly_where_p_is_below_alpha(seed, n, m, alpha):
    found = welch(sample(seed, n), sample(seed + 1, m, 0.7), alpha)
    assert found.significant == (found.p_value < alpha)


@given(seeds, sizes, sizes)
def test_degrees_of_freedom_lie_between_the_smaller_arm_and_both_together(seed, n, m):
    _, df = spread(Moments.of(sample(seed, n)), Moments.of(sample(seed + 1, m, scale=9.0)))
    assert min(n, m) - 1 <= df * (1 + 1e-12) and df <= n + m - 2 + 1e-9


def test_far_tails_stay_small_numbers():
    found = welch(sample(0, 400), sample(1, 400, 2.0))
    assert 0 < found.p_value < 1e-100


@pytest.mark.parametrize(
    ("control", "treatment", "why"),
    [
        ([], [1.0, 2.0], "at least two values"),
        ([1.0], [1.0, 2.0], "at least two values"),
        ([3.0] * 9, [3.0] * 9, "noise is unknown"),
        ([3.0] * 9, [4.0] * 9, "noise is unknown"),
    ],
)
def test_too_little_is_a_result_of_its_own(control, treatment, why):
    found = welch(control, treatment)
    assert isinstance(found, NotEnough) and why in found.why


@given(st.floats(0, 1e300), st.floats(0, 1e300), st.floats(-1e9, 1e9), sizes, sizes)
def test_any_two_summaries_have_an_answer_or_are_not_enough(m2_c, m2_t, effect, n, m):
    found = welch(Moments(n, 0.0, m2_c), Moments(m, effect, m2_t))
    assert isinstance(found, NotEnough) or 0 <= found.p_value <= 1


def test_one_constant_arm_is_still_a_comparison():
    assert isinstance(welch([0, 0, 0, 0], [0, 1, 1, 0]), Comparison)


def test_identical_pairs_have_no_noise_to_compare_with():
    assert isinstance(paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), NotEnough)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, math.nan])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie strictly between 0 and 1, got alpha="):
        welch([1.0, 2.0], [1.0, 3.0], alpha)


def test_holes_and_unequal_pairs_are_refused_by_name():
    with pytest.raises(ValueError, match="control must be finite, got 2 NaN"):
        welch([math.nan, math.nan, 1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="got 3 and 2 values"):
        paired([1.0, 2.0, 3.0], [1.0, 2.0])


def test_results_are_frozen_and_say_themselves():
    found = welch([1.0, 2.0, 3.0], [4.0, 5.0, 6.5])
    with pytest.raises(AttributeError):
        found.effect = 0.0
    assert "+3.167" in found._repr_markdown_() and "3 control" in found._repr_markdown_()


@given(seeds, sizes, sizes, st.sampled_from(["greater", "less"]), st.floats(-2, 2))
def test_one_sided_welch_is_that_of_scipy(seed, n, m, side, null):
    c, t = sample(seed, n), sample(seed + 1, m, 0.5, 3.0)
    theirs, ours = stats.ttest_ind(t - null, c, equal_var=False, alternative=side), welch(c, t, side=side, null=null)
    interval = theirs.confidence_interval(0.95)
    assert np.isclose(ours.p_value, theirs.pvalue, rtol=1e-6)
    assert np.allclose([ours.lower - null, ours.upper - null], [interval.low, interval.high], rtol=1e-6, atol=1e-9)


@given(seeds, sizes, sizes, st.sampled_from(["two-sided", "greater", "less"]), st.booleans())
def test_the_interval_excludes_null_exactly_where_p_is_below_alpha(seed, n, m, side, relative):
    c, t = sample(seed, n, 10.0), sample(seed + 1, m, 10.5)
    found = welch(c, t, 0.1, side=side, relative=relative, null=0.02)
    unbounded = relative and math.isinf(found.lower) and math.isinf(found.upper)
    assert unbounded or abs(found.p_value - 0.1) < 1e-9 or found.significant == (found.p_value < 0.1)


@given(st.floats(5, 50), st.floats(-60, 60), st.floats(0.01, 2), st.floats(0.01, 2), st.floats(-0.9, 0.9))
def test_fiellers_ends_are_where_its_test_is_at_its_limit(control, treatment, sd_c, sd_t, correlation):
    a, b, cov, q = sd_c**2, sd_t**2, correlation * sd_c * sd_t, 2.0
    for end in fieller(control, treatment, a, b, q, cov):
        r = 1 + end
        z = (treatment - r * control) / math.sqrt(b + r * r * a - 2 * r * cov)
        assert abs(z) == pytest.approx(q, rel=1e-6)


@given(seeds, sizes, sizes)
def test_no_lift_is_tested_as_no_difference(seed, n, m):
    c, t = sample(seed, n, 5.0), sample(seed + 1, m, 5.2)
    assert welch(c, t, relative=True).p_value == pytest.approx(welch(c, t).p_value, rel=1e-9)


def test_the_lift_of_a_negative_metric_has_the_sign_of_the_change():
    rng = np.random.default_rng(0)
    loss = rng.normal(-10, 1, 400)
    found = welch(loss, loss + 1, relative=True)
    assert found.effect == pytest.approx(0.1, rel=0.02) and found.lower > 0
    assert found.lift == found.effect and welch(loss, loss + 1).lift == pytest.approx(found.effect)


def test_fiellers_interval_covers_where_dividing_both_ends_does_not():
    rng, runs, held, naive = np.random.default_rng(1), 4000, 0, 0
    for _ in range(runs):
        c, t = rng.normal(1.0, 1.0, 20), rng.normal(2.0, 1.0, 20)
        found, plain = welch(c, t, relative=True), welch(c, t)
        held += found.lower <= 1.0 <= found.upper
        naive += plain.lower / plain.baseline <= 1.0 <= plain.upper / plain.baseline
    se = math.sqrt(0.05 * 0.95 / runs)
    assert abs(held / runs - 0.95) < 4 * se and naive / runs < 0.95 - 8 * se


@pytest.mark.parametrize("compare", [welch, paired])
def test_a_control_of_zero_has_no_lift(compare):
    found = compare([-1.0, 1.0, -2.0, 2.0], [30.0, 31.0, 32.0, 33.0], relative=True)
    assert isinstance(found, NotEnough) and "control's value is 0" in found.why


@given(seeds, st.integers(5, 40), st.sampled_from(["two-sided", "greater", "less"]))
def test_a_paired_lift_of_none_is_tested_as_no_difference(seed, n, side):
    c = sample(seed, n, 20.0, 3.0)
    t = c + sample(seed + 1, n, 0.2, 0.5)
    lift = paired(c, t, side=side, relative=True)
    assert lift.p_value == pytest.approx(paired(c, t, side=side).p_value, rel=1e-6)
    assert abs(lift.p_value - 0.05) < 1e-9 or lift.significant == (lift.p_value < 0.05)


def test_a_paired_lift_is_covered_at_its_rate():
    rng, runs, held = np.random.default_rng(2), 3000, 0
    for _ in range(runs):
        c = rng.normal(10, 3, 15)
        found = paired(c, 1.1 * c + rng.normal(0, 1, 15), relative=True)
        held += found.lower <= 0.1 <= found.upper
    assert abs(held / runs - 0.95) < 4 * math.sqrt(0.05 * 0.95 / runs)


def test_columns_with_dropped_values_cannot_be_paired():
    holed = finite([1.0, math.nan, 3.0], "c", "drop")
    with pytest.raises(ValueError, match="control must be whole where values are paired, got 1 dropped"):
        paired(holed, [1.0, 2.0])


@pytest.mark.parametrize("value", ["a", None, [0.05], True, 1 + 0j])
def test_what_is_no_number_is_refused_as_such(value):
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1, got alpha="):
        welch([1.0, 2.0], [1.0, 3.0], value)
    with pytest.raises(ValueError, match="null must be a finite number, got null="):
        welch([1.0, 2.0], [1.0, 3.0], null=value)


def test_equivalence_needs_an_alpha_below_a_half():
    with pytest.raises(ValueError, match=r"alpha must lie strictly between 0 and 0\.5, got alpha=0\.6"):
        equivalence(welch, [1.0, 2.0], [1.0, 3.0], 0.1, 0.6)


def test_a_control_that_may_be_zero_leaves_the_lift_open():
    found = welch([-1.0, 1.0, 0.5, -0.4], [3.0, 4.0, 3.5, 2.0], relative=True)
    assert (found.lower, found.upper) == (-math.inf, math.inf)


@pytest.mark.parametrize("null", [0.0, -1.0, 0.3])
@pytest.mark.parametrize("control", [[0, 1, 0, 1], [3.0, 4.0, 5.0]])
@pytest.mark.parametrize("treatment", [[0, 0, 0], [2, 2, 2]])
def test_the_lift_of_a_constant_treatment_has_an_answer_or_none(control, treatment, null):
    found = welch(control, treatment, relative=True, null=null)
    assert isinstance(found, NotEnough) == (treatment[0] == 0 or null == -1)


@given(seeds, sizes, st.floats(0.05, 3))
def test_equivalence_is_that_of_statsmodels(seed, n, margin):
    c, t = sample(seed, n), sample(seed + 1, n + 3, 0.2, 2.0)
    p, *_ = ttost_ind(t, c, -margin, margin, usevar="unequal")
    found = equivalence(welch, c, t, margin)
    assert found.p_value == pytest.approx(p, rel=1e-6)
    assert (found.verdict == "equivalent") == (p < 0.05)


def test_paired_equivalence_is_that_of_statsmodels():
    c = sample(3, 30, 5.0)
    t = c + sample(4, 30, 0.05, 0.2)
    p, *_ = ttost_paired(t, c, -0.2, 0.2)
    assert equivalence(paired, c, t, 0.2).p_value == pytest.approx(p)


@pytest.mark.parametrize(
    ("shift", "better", "verdict"),
    [(0.0, "higher", "non-inferior"), (-1.0, "higher", "inferior"), (1.0, "lower", "inferior"), (0.2, "lower", "open")],
)
def test_a_margin_is_held_missed_or_open(shift, better, verdict):
    c = sample(0, 1000)
    found = non_inferiority(welch, c, sample(1, 1000, shift), 0.2, better)
    assert isinstance(found, Margin) and found.verdict == verdict and verdict in found._repr_markdown_()


def test_a_loss_of_exactly_the_margin_passes_at_the_stated_rate():
    rng, runs = np.random.default_rng(5), 4000
    passed = sum(
        non_inferiority(welch, rng.normal(0, 1, 60), rng.normal(-0.5, 2, 30), 0.5).verdict == "non-inferior"
        for _ in range(runs)
    )
    assert abs(passed / runs - 0.05) < 4 * math.sqrt(0.05 * 0.95 / runs)


def test_too_little_data_for_a_margin_is_a_result_of_its_own():
    assert isinstance(non_inferiority(welch, [1.0], [1.0, 2.0], 0.1), NotEnough)
    assert isinstance(equivalence(paired, [1.0], [1.0], 0.1), NotEnough)


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        ({"side": "up"}, "side must be one of two-sided, greater, less, got side='up'"),
        ({"null": math.nan}, "null must be a finite number, got null=nan"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(how, rule):
    with pytest.raises(ValueError, match=rule):
        welch([1.0, 2.0], [1.0, 3.0], **how)


@pytest.mark.parametrize("margin", [0, -0.1, math.inf, math.nan])
def test_a_margin_that_is_no_size_is_refused(margin):
    with pytest.raises(ValueError, match="margin must be a positive finite number, got margin="):
        non_inferiority(welch, [1.0, 2.0], [1.0, 3.0], margin)


def test_hedges_g_is_that_of_its_definition():
    c, t = sample(0, 12), sample(1, 9, 1.0)
    pooled = math.sqrt((11 * c.var(ddof=1) + 8 * t.var(ddof=1)) / 19)
    assert hedges(Moments.of(c), Moments.of(t)) == pytest.approx((t.mean() - c.mean()) / pooled * (1 - 3 / 75))
