"The pure bets: where evidence meets alpha, against closed forms."

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.stats.comparison import SIDES
from seatrial.stats.mixture import BLEND, ONE, ceiling, evidence, half_width, level, mixture, reach, units_needed


@given(st.floats(4, 1e6), st.floats(0.5, 1e6), st.floats(1e-8, 0.9))
def test_five_bets_are_never_worse_than_the_share_that_each_has(units, df, alpha):
    for factor, share in BLEND:
        alone = reach(df, units, factor * 0.01, alpha * share, ONE)
        assert reach(df, units, 0.01, alpha) <= alone * (1 + 1e-9)


@given(st.floats(1, 1e5), st.floats(0.001, 1e5), st.floats(1e-6, 0.5), st.sampled_from([ONE, BLEND]))
def test_the_reach_is_where_the_evidence_meets_alpha(df, units, alpha, bets):
    r = float(reach(df, units, 1.0, alpha, bets))
    if math.isinf(r):
        assert ceiling(df, units, 1.0, bets) <= -math.log(alpha) * (1 + 1e-9)
    elif r < 1e6:
        assert evidence(r * r, df, units, 1.0, bets) == pytest.approx(-math.log(alpha), rel=1e-6, abs=1e-6)


@given(st.floats(0.001, 1e5), st.floats(1e-4, 0.5), st.floats(1, 1e4), st.floats(1.01, 10))
def test_fewer_degrees_of_freedom_only_widen(units, alpha, df, factor):
    assert reach(df, units, 1.0, alpha) >= reach(df * factor, units, 1.0, alpha) * (1 - 1e-9)


@pytest.mark.parametrize(("n", "g", "coefficients"), [(20, 50.0, 2), (400, 126.0, 2), (5000, 126.0, 3)])
def test_one_bet_reaches_as_far_as_that_of_lindon_et_al(n, g, coefficients):
    share, df = g / (g + n), n - coefficients  # in their letters, precision g of the mixture
    power = (share * 0.05**2) ** (1 / (df + 1))
    expected = math.sqrt(df * (1 - power) / (power - share))
    assert reach(df, n, 1 / g, 0.05, ONE) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("units", [50, 1000, 100_000])
@pytest.mark.parametrize("df", [1e10, math.inf])
def test_one_bet_with_many_degrees_of_freedom_is_equation_9(units, df):
    rho2 = mixture(0.05, 1000)
    g = units * rho2 + 1
    expected = math.sqrt(2 * g / (units * rho2) * math.log(math.sqrt(g) / 0.05))
    assert half_width(units, df, bets=ONE) == pytest.approx(expected, rel=1e-6)


@given(st.floats(1e-6, 0.5), st.sampled_from(SIDES), st.floats(10, 1e6), st.floats(1, 1e5))
def test_one_side_reaches_less_far_and_never_less_than_at_twice_the_level(alpha, side, units, tuned_for):
    rho2 = mixture(alpha, tuned_for)
    at, twice, both = (reach(1e6, units, rho2, a) for a in (level(alpha, side), 2 * alpha * 0.999999, alpha))
    assert twice <= at * (1 + 1e-9) and at <= both * (1 + 1e-9)


@given(st.floats(1e-4, 0.5), st.floats(1, 1e5))
def test_the_units_needed_are_the_first_that_can_say_anything(alpha, tuned_for):
    rho2 = mixture(alpha, tuned_for)
    n = units_needed(rho2, alpha)
    assert math.isfinite(reach(n - 2.0, float(n), rho2, alpha))
    assert n == 4 or math.isinf(reach(n - 3.0, n - 1.0, rho2, alpha))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: half_width(100, alpha=0), "alpha must lie strictly between 0 and 1, got alpha=0"),
        (lambda: half_width(100, tuned_for=0), "tuned_for must be a positive number of units, got tuned_for=0"),
        (lambda: half_width(100, tuned_for="a"), "tuned_for must be a positive number of units, got tuned_for='a'"),
        (lambda: half_width(100, side="up"), "side must be one of"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
