"What an effect is worth: a linear map of its interval."

import math
from dataclasses import replace

import pytest

from seatrial.stats.comparison import Comparison, NotEnough
from seatrial.stats.moments import Moments
from seatrial.stats.sequential import always_valid
from seatrial.stats.value import value
from seatrial.stats.verdict import Metric, finding

COMPARED = Comparison(-0.2, -0.3, -0.1, 0.01, 0.05, 100, 100, "welch", baseline=2.0)
PRIMARY = Metric("error", "primary", "lower", threshold=0.1)
GAINED = Moments(4000, 1.0, 3999.0), Moments(4000, 0.5, 3999.0)


def test_a_saving_is_a_linear_map_of_the_interval():
    worth = value(COMPARED, 0.5, 1000, switching_cost=50, currency="EUR")
    assert (worth.annual, worth.lower, worth.upper, worth.alpha) == pytest.approx((100, 50, 150, 0.05))
    assert (
        worth.payback_years == pytest.approx((0.5, 1 / 3, 1.0))
        and "100 EUR a year [50, 150]" in worth._repr_markdown_()
    )


def test_a_metric_that_earns_is_worth_its_effect():
    worth = value(replace(COMPARED, effect=0.2, lower=-0.1, upper=0.5), 1, 1000, better="higher", switching_cost=1)
    assert (worth.annual, worth.lower, worth.upper) == pytest.approx((200, -100, 500))
    assert worth.payback_years[2] == math.inf


def test_a_relative_saving_is_a_share_of_the_baseline():
    share = replace(COMPARED, scale="relative", baseline=-2.0)
    assert value(share, 0.5, 1000).annual == pytest.approx(200)
    assert value(share, 0.5, 1000, baseline=10.0).annual == pytest.approx(1000)


def test_the_value_of_a_finding_knows_its_direction_and_its_level():
    seen = finding(PRIMARY, GAINED, 0.02, 0.005)
    worth = value(seen, 2.0, 10, better="higher")
    assert worth.annual == pytest.approx(10) and worth.alpha == pytest.approx(0.025)
    assert (worth.lower, worth.upper) == pytest.approx((-20 * seen.upper, -20 * seen.lower))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"per_unit": 0}, "per_unit must be a positive finite number"),
        ({"units_per_year": -1}, "units_per_year must be a positive finite number"),
        ({"switching_cost": -1}, "switching_cost must be at least 0"),
        ({"better": "up"}, "better must be one of lower, higher"),
    ],
)
def test_a_value_of_nothing_is_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        value(COMPARED, **{"per_unit": 1, "units_per_year": 1} | terms)


def test_nothing_can_be_worth_what_is_not_known():
    assert isinstance(value(always_valid([1.0], [2.0]), 1, 1), NotEnough)
    waiting = value(finding(PRIMARY, None), 1, 1)
    assert isinstance(waiting, NotEnough) and "error is not known: nothing arrived yet" in waiting.why


def test_a_lift_that_is_no_number_is_worth_nothing_that_could_be_told():
    unknown = Comparison(math.nan, -math.inf, math.inf, 0.3, 0.05, 9, 9, "x", scale="relative", baseline=0.0)
    assert isinstance(value(unknown, 1, 5), NotEnough)
