"Planning against statsmodels, printed examples and counted trials."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower, TTestIndPower, TTestPower
from statsmodels.stats.proportion import power_proportions_2indep

from seatrial.stats.group import inflation, obrien_fleming, pocock, spending
from seatrial.stats.mixture import evidence, mixture
from seatrial.stats.planning import (
    Always,
    Metric,
    Terms,
    adjusted,
    clustered,
    counts,
    detectable,
    duration,
    expected_n,
    means,
    newcomers,
    pairs,
    power,
    proportions,
    quantiles,
    ranks,
    ratios,
    required_n,
)
from seatrial.stats.sequential import Arm, standing

SIDES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}
METRICS = [
    means(2.0, baseline=10.0),
    means(1.0, 5.0, sd_treatment=3.0),
    pairs(0.7, baseline=3.0),
    proportions(0.02),
    proportions(0.7),
    counts(0.4, dispersion=2.5),
    ratios((0.3, 0.6), (2.0, 1.5), correlation=0.4),
    quantiles(0.9, density=0.05, baseline=12.0),
    adjusted(means(2.0, baseline=10.0), 0.6),
    clustered(proportions(0.1), size=8, icc=0.1, size_cv=0.5),
]


@settings(max_examples=60, deadline=None)
@given(st.floats(-1, 1), st.integers(3, 300), st.floats(0.001, 0.3), st.sampled_from(list(SIDES)))
def test_power_of_two_even_arms_is_that_of_statsmodels(effect, n, alpha, side):
    ours = power(means(1.0), effect, 2 * n, alpha=alpha, side=side)
    theirs = TTestIndPower().power(effect, n, alpha, alternative=SIDES[side])
    assert math.isnan(theirs) or ours == pytest.approx(theirs, abs=1e-6)  # scipy's far tail may be NaN there


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 1), st.integers(5, 300), st.floats(0.001, 0.3), st.sampled_from(list(SIDES)))
def test_power_of_pairs_is_that_of_statsmodels(effect, n, alpha, side):
    ours = power(pairs(1.0), effect, n, alpha=alpha, side=side)
    theirs = TTestPower().power(effect, n, alpha, alternative=SIDES[side])
    assert math.isnan(theirs) or ours == pytest.approx(theirs, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 0.3), st.integers(200, 5000), st.floats(0.05, 0.95), st.floats(0.01, 0.1))
def test_uneven_arms_are_those_of_the_normal_formula(effect, n, share, alpha):
    ours = power(ranks(), effect * 0.3, n, share=share, alpha=alpha)
    d = effect * 0.3 * math.sqrt(12)
    theirs = NormalIndPower().power(d, n * (1 - share), alpha, ratio=share / (1 - share))
    assert ours == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 0.9), st.floats(0.01, 0.09), st.integers(50, 5000), st.floats(0.2, 4))
def test_proportions_are_those_of_statsmodels_score_test(rate, effect, n, uneven):
    total, share = n * (1 + uneven), uneven / (1 + uneven)
    theirs = power_proportions_2indep(effect, rate, n, ratio=1 / uneven, alpha=0.05, return_results=False)
    # statsmodels counts the first sample, the one with the effect, in nobs1 and takes ratio = nobs2 / nobs1
    ours = power(proportions(rate), effect, n * (1 + 1 / uneven), share=uneven / (1 + uneven))
    assert total > 0 and 0 < share < 1 and ours == pytest.approx(theirs, abs=2e-3)


def test_textbook_sizes_come_out():
    assert required_n(means(1.0), 0.5) == 2 * 64  # Cohen (1988), table 2.4.1; R's power.t.test: 63.77 an arm
    assert required_n(means(1.0), 0.2) == 2 * 394 - 1  # 393.4 an arm
    assert required_n(means(1.0), 0.8, 0.9) == 2 * 34  # 33.83 an arm
    assert required_n(pairs(1.0), 0.5, 0.9) == 44  # R: 43.99552
    assert abs(required_n(proportions(0.5), 0.1) - 2 * 387.4) < 2  # Fleiss's formula without continuity correction
    assert abs(required_n(ranks(), 0.15) - (1.959964 + 0.841621) ** 2 / (12 * 0.25 * 0.15**2)) < 1  # Noether (1987)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(METRICS),
    st.floats(0.02, 0.3),
    st.floats(0.3, 0.97),
    st.floats(0.1, 0.9),
    st.sampled_from(["two-sided", "greater", "less"]),
)
def test_size_power_and_effect_invert_each_other(metric, effect, goal, share, side):
    how = {"share": share, "side": side, "relative": True}
    effect = -effect if side == "less" else effect
    n = required_n(metric, effect, goal, **how)
    reached = power(metric, effect, n, **how)
    assert reached >= goal - 1e-9
    smallest = math.ceil(2 if metric.paired else 2 / min(share, 1 - share))
    assert n == smallest or power(metric, effect, n - 1, **how) < goal
    if n > smallest:
        assert detectable(metric, n, reached, **how) == pytest.approx(effect, rel=1e-5)


@pytest.mark.parametrize("looks", [obrien_fleming(5), pocock(3), Always(500), Always(3000, every=200)])
def test_the_inversion_holds_with_looks(looks):
    n = required_n(proportions(0.1), 0.2, relative=True, looks=looks)
    once = required_n(proportions(0.1), 0.2, relative=True)
    assert once < n < 2.6 * once
    assert power(proportions(0.1), 0.2, n, relative=True, looks=looks) >= 0.8
    assert detectable(proportions(0.1), n, relative=True, looks=looks) == pytest.approx(0.2, rel=1e-3)
    assert expected_n(proportions(0.1), 0.2, n, relative=True, looks=looks) < n


def test_looks_by_timetable_cost_their_inflation():
    for design in (obrien_fleming(5), pocock(4), spending([0.3, 0.6, 1.0])):
        ratio = required_n(ranks(), 0.02, looks=design) / required_n(ranks(), 0.02)
        assert ratio == pytest.approx(inflation(design), rel=1e-3)


def test_a_covariate_saves_the_square_of_its_correlation():
    plain = required_n(proportions(0.1), 0.005)
    assert required_n(adjusted(proportions(0.1), 0.8), 0.005) / plain == pytest.approx(0.36, abs=0.001)


def test_copies_of_a_row_count_once():
    people = required_n(clustered(means(1.0), size=20, icc=1.0), 0.1)
    assert people == required_n(means(1.0), 0.1)
    assert required_n(clustered(means(1.0), size=20, icc=0.0), 0.1) < people / 19


def test_clustered_planning_is_that_of_simulated_clusters():
    rng, icc, sizes = np.random.default_rng(0), 0.2, np.array([2, 6, 10])
    draws = []
    for _ in range(4000):
        m = rng.choice(sizes, 60)
        rows = m.sum()
        y = np.repeat(rng.normal(0, math.sqrt(icc), 60), m) + rng.normal(0, math.sqrt(1 - icc), rows)
        draws.append(y.mean())
    metric = clustered(means(1.0), size=sizes.mean(), icc=icc, size_cv=sizes.std() / sizes.mean())
    assert np.var(draws) == pytest.approx(metric.factor / 60, rel=4 * math.sqrt(2 / 4000))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 3), st.floats(0, 0.9), st.integers(20, 2000))
def test_equivalence_is_two_one_sided_tests(sd, inside, n):
    ours = power(quantiles(0.5, density=1 / sd), inside * 0.5, n, margin=0.5)
    from scipy.stats import norm

    se = math.sqrt(0.25 * sd * sd * 4 / n)
    ends = [norm.cdf((0.5 - inside * 0.5) / se - norm.isf(0.05)), norm.cdf((0.5 + inside * 0.5) / se - norm.isf(0.05))]
    assert ours == pytest.approx(max(0, sum(ends) - 1), abs=1e-9)


def test_non_inferiority_moves_the_tested_value():
    assert power(means(1.0), 0.0, 300, side="greater", null=-0.3) == pytest.approx(
        power(means(1.0), 0.3, 300, side="greater")
    )
    relative = power(means(1.0, baseline=10.0), 0.0, 300, side="greater", null=-0.03, relative=True)
    assert 0 < relative - power(means(1.0), 0.0, 300, side="greater", null=-0.3) < 0.02  # the control weighs 0.97


def test_a_loss_of_a_rate_is_easier_to_see_than_a_gain():
    assert -detectable(proportions(0.05), 5000, down=True) < detectable(proportions(0.05), 5000)
    assert detectable(proportions(0.05), 5000, side="less") < 0


def test_many_metrics_divide_alpha():
    assert power(means(1.0), 0.3, 400, tests=20) == power(means(1.0), 0.3, 400, alpha=0.0025)


def counted(effect, n, share, tuned_for, every, rate=None, runs=1500, seed=0):
    "Share of trials that the always-valid interval finds by n units, and the mean units at which it stops."
    rng = np.random.default_rng(seed)
    treated = rng.random((runs, n)) < share
    x = rng.normal(size=(runs, n)) + effect * treated
    if rate is not None:
        x = (rng.random((runs, n)) < rate + effect * treated).astype(float)
    sides = []
    for arm in (~treated, treated):
        count, total, squares = (np.cumsum(arm * v, axis=1)[:, every - 1 :: every] for v in (1.0, x, x * x))
        count = np.maximum(count, 1.001)
        sides.append(Arm(count, total / count, np.maximum(squares - total**2 / count, 1e-12)))
    effect, se, df, units = standing(*sides)
    known = (sides[0].n >= 2) & (sides[1].n >= 2) & (sides[0].m2 + sides[1].m2 > 1e-6)
    hit = known & (evidence((effect / se) ** 2, df, units, mixture(0.05, tuned_for)) >= math.log(20))
    stop = np.where(hit.any(1), (hit.argmax(1) + 1) * every, n)
    return hit.any(1).mean(), stop.mean()


@pytest.mark.parametrize(
    ("effect", "n", "share", "tuned_for", "every", "rate"),
    [
        (0.15, 1000, 0.5, 1000, 1, None),
        (0.6, 150, 0.5, 300, 1, None),
        (0.2, 1500, 0.1, 1000, 1, None),
        (0.15, 1000, 0.5, 200, 100, None),
        (0.06, 1500, 0.5, 1000, 10, 0.1),
    ],
)
def test_always_valid_power_is_within_three_points_of_counted_trials(effect, n, share, tuned_for, every, rate):
    found, units = counted(effect, n, share, tuned_for, every, rate)
    metric, looks = means(1.0) if rate is None else proportions(rate), Always(tuned_for, every)
    chance = 2.5 * math.sqrt(found * (1 - found) / 1500)
    assert abs(power(metric, effect, n, share=share, looks=looks) - found) < 0.03 + chance
    assert expected_n(metric, effect, n, share=share, looks=looks) == pytest.approx(units, rel=0.05)


def test_looking_more_often_finds_more():
    rare, daily, always = (power(means(1.0), 0.15, 1000, looks=Always(1000, every)) for every in (1000, 100, 1))
    assert rare < daily < always < power(means(1.0), 0.15, 1000)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=80))
def test_newcomers_count_everybody_once(rows):
    units, days = zip(*rows, strict=True)
    new = newcomers(units, days)
    seen, expected = set(), []
    for day in range(min(days), max(days) + 1):
        today = {u for u, d in rows if d == day} - seen
        expected.append(len(today))
        seen |= today
    assert new.tolist() == expected and new.sum() == len(set(units))


def test_dates_are_days():
    days = np.array(["2024-01-01T09:00", "2024-01-01T23:00", "2024-01-03T01:00"], dtype="datetime64[s]")
    assert newcomers(["a", "b", "c"], days).tolist() == [2, 0, 1]


def test_duration_reads_the_history_and_goes_on_from_it():
    assert duration(1000, 100, whole_weeks=False).days == 10
    assert duration(1000, 100).days == 14 and duration(1000, 100, share=0.5).days == 21
    history = [100, 50, 25, 12, 6, 3]
    assert duration(150, history, whole_weeks=False).days == 2
    days = np.arange(1, 15)
    power_law = np.diff(np.concatenate([[0], 1000 * days**0.6]))
    assert duration(1000 * 40**0.6, power_law, whole_weeks=False).days in (40, 41)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: means(0.0), "sd must be a positive finite number, got sd=0.0"),
        (lambda: proportions(0), "baseline_rate must lie strictly between 0 and 1"),
        (lambda: proportions(1.2), "baseline_rate must lie strictly between 0 and 1"),
        (lambda: counts(1, dispersion=-1), "dispersion must be a positive finite number"),
        (lambda: ratios((1, 1), (0, 1)), "denominator must be a positive finite number"),
        (lambda: ratios((1, 1), (2, 1), 1.2), "correlation must lie between -1 and 1"),
        (lambda: adjusted(means(1), 1.0), "correlation must lie strictly between -1 and 1"),
        (lambda: clustered(means(1), 0.5, 0.1), "size must be at least 1"),
        (lambda: required_n(means(1), 0), "effect must differ from null=0"),
        (lambda: required_n(means(1), math.nan), "effect must be a finite number"),
        (lambda: required_n(means(1), 0.1, side="less"), "effect must lie below null=0"),
        (lambda: required_n(means(1), 0.1, 0.05), "power must lie above alpha=0.05"),
        (lambda: required_n(means(1), 0.1, 1.0), "power must lie strictly between 0 and 1"),
        (lambda: required_n(proportions(0.9), 0.2), "effect must lead to a rate between 0 and 1"),
        (lambda: required_n(counts(0.5), -2, relative=True), "effect must lead to a rate of at least 0"),
        (lambda: required_n(means(1), 0.1, relative=True), "baseline must be known and not 0"),
        (lambda: required_n(means(1), 0.1, alpha=5), "alpha must lie strictly between 0 and 1, got alpha=5"),
        (lambda: required_n(means(1), 0.5, margin=0.2), "effect must lie within the margin 0.2"),
        (lambda: power(means(1), 0.1, 3), "n must give each arm at least 2 units, got n=3"),
        (lambda: power(means(1), 0.1, math.nan), "n must give each arm"),
        (lambda: detectable(proportions(0.99), 30), "n must be larger to show any effect"),
        (lambda: detectable(means(1), 30, side="greater", down=True), "a fall cannot be greater"),
        (lambda: Terms(margin=0.1, looks=pocock(2)), "margin is planned for one look only"),
        (lambda: power(ranks(), 0.7, 100), "effect must lead to a rate between 0 and 1, got .0.7 on 0.5"),
        (lambda: detectable(ranks(), 10, 0.99), "n must be larger to show any effect"),
        (lambda: Terms(tests=0), "tests must be a positive finite number"),
        (lambda: Always(every=0), "every must be a positive finite number"),
        (lambda: duration(0, 10), "n must be a positive finite number"),
        (lambda: duration(10, [0, 0]), "daily must be new units a day"),
        (lambda: duration(10, 5, share=1.5), "share must lie in"),
        (lambda: newcomers([1, 2], [1]), "units and days must be columns of one length"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(call, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        call()


def test_every_metric_shows_itself():
    for metric in METRICS:
        assert isinstance(metric, Metric) and metric.name in metric._repr_markdown_()


@pytest.mark.parametrize(
    ("ask", "rule"),
    [
        (lambda: duration(1000, [0, 0, 0, 10]), "daily must begin with the first day that brought units"),
        (lambda: power(means(1), 0.1, 100, looks=3), "looks must be a Design, Always or None, got looks=3"),
        (lambda: power(proportions(0.1), 0.02, 1000, relative=True, null=-2), "null must lie above -1"),
        (lambda: power(means(1), "a", 100), "effect must be"),
        (lambda: power(means("a"), 0.1, 100), "sd must be"),
    ],
)
def test_a_plan_that_means_nothing_is_refused_by_name(ask, rule):
    with pytest.raises(ValueError, match=rule):
        ask()
