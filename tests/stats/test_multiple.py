"Benjamini and Hochberg's procedure as a property."

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seatrial.stats.multiple import benjamini_hochberg

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@given(p_values)
def test_adjusted_values_are_those_of_scipy(p):
    assert np.allclose(benjamini_hochberg(p).adjusted, stats.false_discovery_control(p))


@given(p_values, st.floats(0.001, 0.5))
def test_the_rejected_are_those_of_the_step_up_rule(p, q):
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= q * np.arange(1, len(p) + 1) / len(p))
    last = ordered[passed[-1]] if passed.size else -1.0
    assert benjamini_hochberg(p, q).rejected.sum() == pytest.approx((np.array(p) <= last).sum(), abs=_ties(p, q))


def _ties(p, q):
    "Values that lie within rounding of their threshold may fall on either side."
    scaled = np.sort(p) * len(p) / np.arange(1, len(p) + 1)
    return len(p) if np.isclose(scaled, q, rtol=1e-12, atol=0).any() else 0


@given(p_values, st.floats(0.001, 0.2), st.floats(0.2, 0.9))
def test_a_more_generous_rate_never_takes_a_discovery_back(p, strict, generous):
    assert (benjamini_hochberg(p, strict).rejected <= benjamini_hochberg(p, generous).rejected).all()


@given(p_values, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    assert np.array_equal(benjamini_hochberg(np.array(p)[order]).adjusted, benjamini_hochberg(p).adjusted[order])


def test_the_published_example_has_four_discoveries():
    published = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    published += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert benjamini_hochberg(published, 0.05).rejected.sum() == 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [([0.1, math.nan], "p_values must be finite, got 1 NaN"), ([-0.1], "between 0 and 1"), ([1.1], "between 0 and 1")],
)
def test_what_is_no_p_value_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        benjamini_hochberg(bad)


@pytest.mark.parametrize("q", [0, 1, 5])
def test_a_rate_outside_its_range_is_refused(q):
    with pytest.raises(ValueError, match="q must lie strictly between 0 and 1"):
        benjamini_hochberg([0.1], q)
