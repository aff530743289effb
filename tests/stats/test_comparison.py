"Comparisons against scipy, and what must not be answered."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.comparison import Comparison, NotEnough, paired, spread, welch
from seatrial.stats.moments import Moments

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
