"Control charts: published run lengths, two ways to the same number, and delivery by simulation."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seatrial.drift.chart import CUSUM, EWMA, PageHinkley, cusum_run_length, ewma_run_length, residual, threshold_for


# Montgomery, Introduction to Statistical Quality Control: tabular CUSUM, k = 1/2, both sides
@pytest.mark.parametrize(
    ("h", "table"),
    [
        (4, {0: 168, 0.25: 74.2, 0.5: 26.6, 0.75: 13.3, 1: 8.38, 1.5: 4.75, 2: 3.34, 2.5: 2.62, 3: 2.19, 4: 1.71}),
        (5, {0: 465, 0.25: 139, 0.5: 38.0, 0.75: 17.0, 1: 10.4, 1.5: 5.75, 2: 4.01, 2.5: 3.11, 3: 2.57, 4: 2.01}),
    ],
)
def test_cusum_run_lengths_are_the_published_ones(h, table):
    for shift, run_length in table.items():
        assert cusum_run_length(h, 0.5, shift, "both") == pytest.approx(run_length, rel=0.006)


# Hawkins 1993: decision intervals for a two-sided in-control run length of 370
@pytest.mark.parametrize(("k", "h"), [(0.25, 8.01), (0.5, 4.77), (0.75, 3.34), (1.0, 2.52), (1.25, 1.99), (1.5, 1.61)])
def test_cusum_thresholds_are_the_published_ones(k, h):
    assert CUSUM(mean=0, sd=1, shift=2 * k, run_length=370).threshold == pytest.approx(h, abs=0.012)


# Lucas & Saccucci 1990, in Montgomery's table: (weight, limit) → run lengths at each shift
@pytest.mark.parametrize(
    ("weight", "limit", "table"),
    [
        (0.4, 3.054, {0: 500, 0.25: 224, 0.5: 71.2, 0.75: 28.4, 1: 14.3, 1.5: 5.9, 2: 3.5}),
        (0.25, 2.998, {0: 500, 0.25: 170, 0.5: 48.2, 0.75: 20.1, 1: 11.1, 1.5: 5.5, 2: 3.6}),
        (0.2, 2.962, {0: 500, 0.25: 150, 0.5: 41.8, 0.75: 18.2, 1: 10.5, 1.5: 5.5, 2: 3.7}),
        (0.1, 2.814, {0: 500, 0.25: 106, 0.5: 31.3, 0.75: 15.9, 1: 10.3, 1.5: 6.1, 2: 4.4}),
        (0.05, 2.615, {0: 500, 0.25: 84.1, 0.5: 28.8, 0.75: 16.4, 1: 11.4, 1.5: 7.1, 2: 5.2}),
    ],
)
def test_ewma_run_lengths_are_the_published_ones(weight, limit, table):
    for shift, run_length in table.items():
        assert ewma_run_length(limit, weight, shift) == pytest.approx(run_length, rel=0.006, abs=0.06)


def by_markov_chain(h, k, cells):
    "Brook & Evans 1972: an upward CUSUM on a grid."
    width = 2 * h / (2 * cells - 1)
    at = np.arange(cells) * width
    edge = np.append(-np.inf, (np.arange(cells) + 0.5) * width)
    moves = np.diff(stats.norm.cdf(edge - at[:, None] + k), axis=1)
    return np.linalg.solve(np.eye(cells) - moves, np.ones(cells))[0]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 6), st.floats(0.05, 1.5))
def test_quadrature_and_markov_chain_agree(h, k):
    coarse, fine = (by_markov_chain(h, k, cells) for cells in (60, 120))
    assert cusum_run_length(h, k) == pytest.approx((4 * fine - coarse) / 3, rel=2e-3)  # Richardson's extrapolation


def test_a_weight_of_one_is_shewharts_chart():
    assert ewma_run_length(3, 1.0) == pytest.approx(1 / (2 * stats.norm.sf(3)), rel=1e-6)
    assert ewma_run_length(3, 1.0, shift=1, side="up") == pytest.approx(1 / stats.norm.sf(2), rel=1e-6)


def test_a_threshold_near_zero_alarms_at_the_first_value_beyond_the_allowance():
    assert cusum_run_length(1e-9, 0.5) == pytest.approx(1 / stats.norm.sf(0.5), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.floats(5, 1e6), st.floats(0.2, 4), st.sampled_from(["up", "down", "both"]))
def test_the_threshold_delivers_what_was_asked_in_the_equation(run_length, shift, side):
    least = cusum_run_length(1e-3, shift / 2, 0, side)
    if run_length > least * 1.01:
        h = CUSUM(mean=0, sd=1, run_length=run_length, shift=shift, side=side).threshold
        assert cusum_run_length(h, shift / 2, 0, side) == pytest.approx(run_length, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.floats(60, 1e6), st.floats(0.02, 1), st.sampled_from(["up", "down", "both"]))
def test_the_limit_of_an_average_delivers_what_was_asked_in_the_equation(run_length, weight, side):
    limit = EWMA(mean=0, sd=1, run_length=run_length, weight=weight, side=side).threshold
    assert ewma_run_length(limit, weight, 0, side) == pytest.approx(run_length, rel=1e-5)


def simulated(chart, rng, runs=6000, most=20_000):
    "Mean time to the first alarm and its standard error: the recursions for thousands of runs at once."
    live, times, t = np.arange(runs), np.full(runs, float(most)), 0
    high = low = average = centre = spread = np.zeros(runs)
    while live.size and t < most:
        t += 1
        x = rng.standard_normal(live.size)
        z = x
        if chart.mean is None:
            d, z = x - centre, np.zeros(live.size)
            if t > 2 and not chart.sd:
                s = np.sqrt(spread / (t - 2))
                z = stats.norm.ppf(stats.t.cdf(-np.abs(d) * math.sqrt((t - 1) / t) / s, t - 2)) * -np.sign(d)
            elif t > 1 and chart.sd:
                z = d * math.sqrt((t - 1) / t) / chart.sd
            centre = centre + d / t
            spread = spread + d * (x - centre)
        if isinstance(chart, EWMA):
            average = average + chart.weight * (z - average)
            out = np.abs(average) >= chart.threshold * math.sqrt(chart.weight / (2 - chart.weight))
        else:
            k = chart.shift / 2
            high = np.maximum(0, high + z - k) if chart.side != "down" else high
            low = np.maximum(0, low - z - k) if chart.side != "up" else low
            out = np.maximum(high, low) >= chart.threshold
        times[live[out]] = t
        live, high, low, average, centre, spread = (
            (v if v.size == 0 else v[~out]) for v in (live, high, low, average, centre, spread)
        )
    return times.mean(), times.std() / math.sqrt(runs)


@pytest.mark.parametrize(
    "chart",
    [
        CUSUM(mean=0, sd=1, run_length=500),
        CUSUM(mean=0, sd=1, run_length=500, side="up", shift=0.5),
        EWMA(mean=0, sd=1, run_length=500, weight=0.2),
        EWMA(mean=0, sd=1, run_length=500, weight=0.05),
        PageHinkley(sd=1.0, run_length=500),
        CUSUM(mean=None, sd=1.0, run_length=500),
    ],
    ids=["cusum", "cusum up", "ewma", "ewma slow", "page-hinkley", "cusum, mean learnt"],
)
def test_the_run_length_asked_for_is_the_one_delivered(chart):
    mean, se = simulated(chart, np.random.default_rng(5))
    assert abs(mean / 500 - 1) < 0.1 and abs(mean - 500) < 4 * se


@pytest.mark.parametrize("chart", [PageHinkley(run_length=60), EWMA(mean=None, sd=None, run_length=60)])
def test_learnt_mean_and_spread_deliver_it_too(chart):
    mean, se = simulated(chart, np.random.default_rng(6), runs=4000, most=2000)
    assert abs(mean - 60) < 4 * se


def test_the_detector_is_the_recursion_that_was_simulated():
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_normal(300), rng.standard_normal(30) + 1])
    chart, high, low, found = CUSUM(mean=0, sd=1), 0.0, 0.0, []
    for t, v in enumerate(x):
        high, low = max(0, high + v - 0.5), max(0, low - v - 0.5)
        if max(high, low) >= chart.threshold:
            found.append(t)
            high = low = 0.0
    assert [t for t, v in enumerate(x) if chart.update(v).alarm] == found != []


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_learnt_charts_do_not_care_for_the_unit_of_measurement(offset, scale):
    x = np.random.default_rng(8).standard_normal(60)
    x[40:] += 3
    plain, other = CUSUM(mean=None, sd=None, threshold=4.0), CUSUM(mean=None, sd=None, threshold=4.0)
    for v in x:
        assert plain.update(v).alarm == other.update(offset + scale * v).alarm
        assert plain.evidence == pytest.approx(other.evidence, abs=1e-3)


def test_residuals_are_independent_standard_normal_from_the_third_value_on():
    rng = np.random.default_rng(9)
    x = rng.normal(5, 3, (3000, 8))
    z = np.array([[residual(row[t], t + 1, row[:t].mean(), row[:t].var() * t, None) for t in range(2, 8)] for row in x])
    assert all(stats.kstest(z[:, i], "norm").pvalue > 1e-3 for i in range(6))
    assert np.abs(np.corrcoef(z.T) - np.eye(6)).max() < 4 / math.sqrt(3000)


def test_a_constant_that_jumps_is_found_at_once_and_a_constant_is_not():
    chart = PageHinkley(side="both")
    assert not any(chart.update(7.0).alarm for _ in range(1000))
    assert chart.update(7.5).alarm


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: CUSUM(mean=0, sd=0), "sd must be one number inside"),
        (lambda: CUSUM(mean=0, sd=None), "a known mean must come with a known sd"),
        (lambda: CUSUM(mean=math.nan, sd=1), "mean must be one number inside"),
        (lambda: CUSUM(mean=0, sd=1, run_length=math.nan), "run_length must be one number inside"),
        (lambda: CUSUM(mean=0, sd=1, run_length=1.2), "run_length must lie between"),
        (lambda: CUSUM(mean=0, sd=1, side="left"), "side must be one of"),
        (lambda: CUSUM(mean=0, sd=1, shift=-1), "shift must be one number inside"),
        (lambda: CUSUM(mean=0, sd=1, shift=0.01, run_length=1e9), "run_length must be shorter"),
        (lambda: CUSUM(mean=0, sd=1, threshold=-1), "threshold must be one number inside"),
        (lambda: EWMA(mean=0, sd=1, weight=0), "weight must be one number inside"),
        (lambda: PageHinkley(mean=0), "mean must be None"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_search_that_cannot_succeed_says_what_is_possible():
    with pytest.raises(ValueError, match=r"run_length must lie between 3\.24 and 1e\+12"):
        threshold_for(2, lambda h: cusum_run_length(h, 0.5))
