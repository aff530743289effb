"""Units are split evenly, stickily and without ever being moved back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from seatrial.rollout.split import assign, checked_shares, point

names = st.text(min_size=1, max_size=40)
shares = st.floats(0, 1)


@given(salt=st.text(max_size=20), unit=names)
def test_a_point_lies_in_the_unit_interval_and_never_changes(salt, unit):
    x = point(salt, unit)
    assert 0 <= x < 1
    assert x == point(salt, unit)


def test_points_are_the_same_on_every_machine_and_in_every_release():
    assert point("ramp-1", "anna") == 0.8353360618551051
    assert point("ramp-1", "béla") == 0.6142983966747168


def test_salt_and_unit_cannot_be_shifted_into_each_other():
    assert point("ab", "c") != point("a", "bc")


@pytest.mark.parametrize("form", ["{}", "user-{:08d}", "{:x}@example.org", "2026-11-22T{:06d}Z"])
def test_points_of_regular_names_are_uniform(form):
    x = [point("s", form.format(i)) for i in range(20_000)]
    assert kstest(x, "uniform").pvalue > 1e-4
    assert chisquare(np.histogram(x, 100, (0, 1))[0]).pvalue > 1e-4


@given(unit=names, salt=names, a=shares, b=shares)
def test_raising_a_share_never_moves_a_unit_back(unit, salt, a, b):
    low, high = sorted((a, b))
    before = assign(unit, salt, {"challenger": low, "champion": 1 - low})
    after = assign(unit, salt, {"challenger": high, "champion": 1 - high})
    assert before == "champion" or after == "challenger"


@given(unit=names, salt=names, share=shares)
def test_the_order_in_which_shares_are_written_does_not_matter(unit, salt, share):
    one = assign(unit, salt, {"challenger": share, "champion": 1 - share})
    assert one == assign(unit, salt, {"champion": 1 - share, "challenger": share})


@given(unit=names)
def test_a_share_of_nothing_gets_nobody_and_a_share_of_all_everybody(unit):
    assert assign(unit, "s", {"challenger": 0.0, "champion": 1.0}) == "champion"
    assert assign(unit, "s", {"challenger": 1.0, "champion": 0.0}) == "challenger"


@pytest.mark.parametrize(
    "wrong", [{"champion": 0.5}, {}, {"champion": 1.1, "challenger": -0.1}, {"champion": float("nan"), "challenger": 1}]
)
def test_impossible_shares_are_refused(wrong):
    with pytest.raises(ValueError, match="shares must"):
        checked_shares(wrong)


def test_an_empty_unit_is_refused():
    with pytest.raises(ValueError, match="unit must not be empty"):
        point("s", "")
